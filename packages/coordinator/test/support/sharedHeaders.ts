/** Headers that several processes share: made-up ones on a disk in memory, all in this process. */
import { assert } from "@effect/vitest"
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import * as Format from "@tidemark/coordinator/SharedHeaderFormat"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { type ProcessIdentity, ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { makeSharedRegions, regionOf, SharedMemory, type SharedRegion } from "@tidemark/platform/SharedMemory"
import { Context, Effect, Exit, Layer, Logger, Scope } from "effect"
import { pageSize } from "./headerStates.ts"

export const database = "/app.db"
export const headerPath = "/app.db.fsqlite-shm"

/** What a header says, read from its memory. */
export const contentsOf = (region: SharedRegion): Format.SharedHeaderContents => {
  const decoded = Format.decode(region.copy(0, Format.sharedHeaderBytes))
  if (decoded._tag === "Failure") return assert.fail(decoded.failure.message)
  return decoded.success
}

/** A process that has the header open. */
export interface HeaderProcess {
  readonly header: SharedHeader.SharedHeader["Service"]
  readonly identity: ProcessIdentity
  /** As by SIGKILL: no finalizer runs. */
  readonly kill: Effect.Effect<void>
  readonly close: Effect.Effect<void>
}

/** A machine whose processes share files, locks and memory. */
export const makeMachine = () => {
  const disk = MemoryDisk.make()
  const regions = makeSharedRegions()
  const memory = SharedMemory.layerMemory({ regions })

  /** Starts a process, or answers why its header cannot be opened. */
  const start = Effect.fnUntraced(function*(options: Partial<SharedHeader.SharedHeaderOptions> = {}) {
    const outer = yield* Effect.scope
    const scope = yield* Scope.fork(outer)
    const build = SharedHeader.layer({ database, pageSize, ...options }).pipe(
      Layer.provideMerge(memory),
      Layer.provideMerge(MemoryVfs.layerDisk(disk)),
      Layer.provideMerge(Logger.layer([]))
    )
    const context = yield* Layer.buildWithMemoMap(build, yield* Layer.makeMemoMap, scope).pipe(
      Effect.onError(() => Scope.close(scope, Exit.void))
    )
    const identity = Context.get(context, ProcessLiveness).self
    const process: HeaderProcess = {
      header: Context.get(context, SharedHeader.SharedHeader),
      identity,
      kill: Effect.sync(() => disk.kill(identity)),
      close: Scope.close(scope, Exit.void)
    }
    return process
  })

  /** The memory that has the name now, seen from outside. */
  const region = (): SharedRegion => {
    const block = regions.blocks.get(headerPath)
    return block === undefined ? assert.fail("nothing has the name") : regionOf(headerPath, block.buffer)
  }

  /** Gives the name to a memory with these bytes. */
  const put = (bytes: Uint8Array, length: number = 65_536) => {
    const buffer = new SharedArrayBuffer(length)
    new Uint8Array(buffer).set(bytes)
    regions.blocks.set(headerPath, { buffer })
    return regionOf(headerPath, buffer)
  }

  const remove = () => {
    regions.blocks.delete(headerPath)
  }

  return { disk, start, region, put, remove }
}

/** Becomes the publisher in a scope of its own. */
export const publishIn = Effect.fnUntraced(function*(
  header: SharedHeader.SharedHeader["Service"],
  durable: SharedHeader.DurableState
) {
  const scope = yield* Scope.make()
  const publisher = yield* header.becomePublisher(durable).pipe(Scope.provide(scope))
  return { publisher, end: Scope.close(scope, Exit.void) }
})

/** A region in memory with a header that nobody has published in. */
export const freshRegion = (): SharedRegion => {
  const buffer = new SharedArrayBuffer(Format.mappedBytes(Format.defaultSlots))
  new Uint8Array(buffer).set(Format.encode(Format.freshHeader({ pageSize })))
  return regionOf("memory", buffer)
}

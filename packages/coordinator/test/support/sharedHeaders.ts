/** Headers that several processes share: made-up ones on a disk in memory, and regions that can be watched and stopped. */
import { assert } from "@effect/vitest"
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import * as Format from "@tidemark/coordinator/SharedHeaderFormat"
import { CommitSeq, PageSize, SchemaEpoch } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { type ProcessIdentity, ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { makeSharedRegions, regionOf, SharedMemory, type SharedRegion } from "@tidemark/platform/SharedMemory"
import { Context, Effect, Exit, Layer, Logger, Scope } from "effect"

export const database = "/app.db"
export const headerPath = "/app.db.fsqlite-shm"
export const pageSize = PageSize.make(4096)

/** A state whose three numbers show whether they belong together. */
export const stateAt = (commit: number | bigint): SharedHeader.HeaderSnapshot => ({
  commitSeq: CommitSeq.make(BigInt(commit)),
  schemaEpoch: SchemaEpoch.make(BigInt(commit) * 3n),
  ecsEpoch: BigInt(commit) * 7n
})

export const durableAt = (commit: number | bigint, nextTxnId: number | bigint = 1): SharedHeader.DurableState => ({
  ...stateAt(commit),
  nextTxnId: BigInt(nextTxnId)
})

/** Whether the three were published together by {@link stateAt}. */
export const isWhole = ({ commitSeq, ecsEpoch, schemaEpoch }: SharedHeader.HeaderSnapshot): boolean =>
  schemaEpoch === commitSeq * 3n && ecsEpoch === commitSeq * 7n

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

/** A region that calls `onStore` before each store and `onLoad` before each load of the one behind it. */
export const watched = (
  region: SharedRegion,
  hooks: {
    readonly onStore?: (offset: number, value: bigint) => void
    readonly onLoad?: (offset: number) => void
  }
): SharedRegion => ({
  name: region.name,
  bytes: region.bytes,
  medium: region.medium,
  identity: region.identity,
  buffer: region.buffer,
  load: (offset) => {
    hooks.onLoad?.(offset)
    return region.load(offset)
  },
  store: (offset, value) => {
    hooks.onStore?.(offset, value)
    region.store(offset, value)
  },
  compareExchange: (offset, expected, replacement) => region.compareExchange(offset, expected, replacement),
  add: (offset, delta) => region.add(offset, delta),
  copy: (offset, length) => region.copy(offset, length),
  notify: (offset, count) => region.notify(offset, count),
  wait: (offset, expected, timeout) => region.wait(offset, expected, timeout)
})

/** A region in memory with a header that nobody has published in. */
export const freshRegion = (): SharedRegion => {
  const buffer = new SharedArrayBuffer(Format.mappedBytes(Format.defaultSlots))
  new Uint8Array(buffer).set(Format.encode(Format.freshHeader({ pageSize })))
  return regionOf("memory", buffer)
}

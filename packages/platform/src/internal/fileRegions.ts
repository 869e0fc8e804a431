/**
 * Shared memory as files that are mapped.
 *
 * Invariants:
 * 1. A file gets its name when it is whole: zeros are written to a temporary file, not left out, synced, and mapped before
 *    the rename. Until then whatever had the name keeps it, and after that those who have it mapped keep it.
 * 2. No file under a name of somebody else is written, cut or extended; the stores through a mapping are all that changes it.
 * 3. A mapping lives as long as its buffer, not as long as the scope: the end of the scope only closes the region.
 *
 * The sync before the rename is not for durability (nothing of this survives a power loss in an order that means
 * anything) but for the blocks: after it the disk has really given one for each byte, so that no store can meet a full disk.
 *
 * @internal
 */
import { invariant } from "@tidemark/core/Invariant"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as NodeFs from "node:fs"
import type { NativeBackend } from "../FileLock.ts"
import type { SharedMemory } from "../SharedMemory.ts"
import { SharedMemoryUnavailable, SharedMemoryUnmappable } from "../SharedMemoryErrors.ts"
import type { Vfs } from "../Vfs.ts"
import type { VfsError } from "../VfsError.ts"
import { mapDescriptor, proveMapping, unmappable } from "./mapping.ts"
import { scoped } from "./memoryRegions.ts"
import { loadNative, type Native } from "./native.ts"
import { nodeCall, toVfsError } from "./nodeCalls.ts"
import { regionBytes, regionGrainBytes } from "./regionSize.ts"
import { WordRegion } from "./wordRegion.ts"

/** Devices on which the trick was tried and worked, in this process, with the backend in front. */
const provenDevices = new Set<string>()

/** Zeros are written in pieces of at most this size. */
const zeroBytes = 1_048_576

/** How often another random name is tried for a temporary file; a collision is the leftover of a crash. */
const maxNameAttempts = 8

/** An inode is not given to another file while a mapping of this one lives. It may be longer than a double is exact. */
const identityOf = (stats: NodeFs.BigIntStats): string => `${stats.dev}:${stats.ino}`

/** Nothing is under that name: not to be confused with a temporary file beside it that somebody swept away. */
const isMissing = (name: string) => (error: SharedMemoryUnavailable | SharedMemoryUnmappable | VfsError): boolean =>
  error._tag === "VfsError" && error.path === name && (error.code === "ENOENT" || error.code === "ENOTDIR")

const withDescriptor = <A, E>(path: string, use: (descriptor: number) => Effect.Effect<A, E>) =>
  Effect.acquireUseRelease(
    nodeCall<number>("open", path, (callback) => NodeFs.open(path, NodeFs.constants.O_RDWR, callback)),
    use,
    (descriptor) =>
      Effect.catch(
        nodeCall<void>("open", path, (callback) => NodeFs.close(descriptor, (cause) => callback(cause ?? null))),
        (error) => Effect.logWarning(`cannot close ${path}: ${error.code}`)
      )
  )

/** A synced file beside `path`, as long as asked for, without a hole. Nothing is left of it when that fails. */
const writeTemporary = Effect.fnUntraced(
  function*(
    vfs: Vfs["Service"],
    path: string,
    content: Uint8Array,
    bytes: number
  ): Effect.fn.Return<string, VfsError, Scope.Scope> {
    const name = path.lastIndexOf("/") + 1
    const file = yield* Random.nextIntBetween(0, 2 ** 32, { halfOpen: true }).pipe(
      Effect.map((random) => `${path.slice(0, name)}.tmp-${path.slice(name)}-${random.toString(16).padStart(8, "0")}`),
      Effect.flatMap((temporary) => vfs.open(temporary, { access: "readWrite", create: "exclusive" })),
      Effect.retry({ times: maxNameAttempts, while: (error) => error.code === "EEXIST" })
    )
    const zeros = new Uint8Array(Math.min(bytes, zeroBytes))
    yield* Effect.gen(function*() {
      if (content.length > 0) yield* file.write([content], 0)
      for (let position = content.length; position < bytes; position += zeros.length) {
        yield* file.write([zeros.subarray(0, Math.min(zeros.length, bytes - position))], position)
      }
      yield* file.syncFull
    }).pipe(Effect.onError(() => Effect.ignore(vfs.remove(file.path))))
    return file.path
  },
  Effect.scoped
)

/**
 * Shared memory whose names are paths. Everything that reads, writes or names a file goes through `vfs`, which is that
 * of the operating system; only the descriptor that is mapped is opened beside it, without creating anything.
 */
export const makeFileRegions = (
  vfs: Vfs["Service"],
  backends: ReadonlyArray<NativeBackend>,
  proven: Set<string> = provenDevices
): SharedMemory["Service"] => {
  let loaded: ReturnType<typeof loadNative> | undefined
  const nativeFor = (path: string) =>
    Effect.suspend((): Effect.Effect<Native, SharedMemoryUnavailable> => {
      loaded ??= loadNative(backends)
      return Result.isSuccess(loaded)
        ? Effect.succeed(loaded.success)
        : Effect.fail(new SharedMemoryUnavailable({ path, reason: loaded.failure }))
    })

  /** Tries the trick beside `path`, once in this process for each device. */
  const prove = Effect.fnUntraced(function*(native: Native, path: string, device: bigint) {
    const key = `${native.backend}:${device}`
    if (proven.has(key)) return
    const temporary = yield* writeTemporary(vfs, path, new Uint8Array(0), regionGrainBytes)
    const reason = yield* withDescriptor(
      temporary,
      (descriptor) =>
        Effect.try({
          try: () => proveMapping(native, descriptor),
          catch: (cause) => toVfsError("read", temporary, cause)
        })
    ).pipe(Effect.ensuring(Effect.ignore(vfs.remove(temporary))))
    if (reason !== undefined) return yield* new SharedMemoryUnavailable({ path, reason })
    proven.add(key)
  })

  /** Maps the file at `place` as the region `name`. */
  const map = (native: Native, place: string, name: string) =>
    withDescriptor(
      place,
      Effect.fnUntraced(function*(descriptor) {
        const stats = yield* nodeCall<NodeFs.BigIntStats>(
          "open",
          place,
          (callback) => NodeFs.fstat(descriptor, { bigint: true }, callback)
        )
        const danger = unmappable(native, descriptor, stats)
        if (danger !== undefined) return yield* new SharedMemoryUnmappable({ path: name, reason: danger })
        yield* prove(native, name, stats.dev)
        const mapped = mapDescriptor(native, descriptor, Number(stats.size))
        return Result.isSuccess(mapped)
          ? new WordRegion(name, mapped.success, { medium: "file", identity: identityOf(stats) })
          : yield* new SharedMemoryUnavailable({ path: name, reason: mapped.failure })
      })
    )

  return {
    medium: "file",
    peek: Effect.fnUntraced(
      function*(name, length) {
        invariant(Number.isSafeInteger(length) && length >= 0, "a length is an integer, not negative")
        const file = yield* vfs.open(name, { access: "read" })
        const bytes = new Uint8Array(Math.min(length, yield* file.size))
        return bytes.subarray(0, yield* file.read(bytes, 0))
      },
      Effect.scoped,
      (effect, name) => Effect.catchIf(effect, isMissing(name), () => Effect.succeed(undefined))
    ),
    identify: (name) =>
      nodeCall<NodeFs.BigIntStats>("identify", name, (callback) => NodeFs.stat(name, { bigint: true }, callback)).pipe(
        Effect.map(identityOf),
        Effect.catchIf(isMissing(name), () => Effect.succeed(undefined))
      ),
    open: Effect.fnUntraced(
      function*(name) {
        const native = yield* nativeFor(name)
        return yield* Effect.flatMap(map(native, name, name), scoped)
      },
      (effect, name) => Effect.catchIf(effect, isMissing(name), () => Effect.succeed(undefined)),
      Effect.uninterruptible
    ),
    create: Effect.fnUntraced(
      function*(name, options) {
        const bytes = regionBytes(options)
        const native = yield* nativeFor(name)
        const temporary = yield* writeTemporary(vfs, name, options.content, bytes)
        const region = yield* map(native, temporary, name).pipe(
          Effect.catchTag(
            "SharedMemoryUnmappable",
            ({ path, reason }) =>
              new SharedMemoryUnavailable({
                path,
                reason: `the file system does not keep zeros that are written: ${reason}`
              })
          ),
          Effect.tap(() => vfs.rename(temporary, name)),
          Effect.onError(() => Effect.ignore(vfs.remove(temporary)))
        )
        return yield* scoped(region)
      },
      Effect.uninterruptible
    )
  }
}

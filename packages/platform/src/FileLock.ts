/**
 * Locks on byte ranges of files that the kernel takes back when their holder dies.
 *
 * **Details**
 *
 * These are open-file-description locks: every acquisition opens the file anew, so two acquisitions conflict also
 * within one process, and closing some other descriptor of the same file takes nothing away (which it does with plain
 * record locks). They conflict with the record locks that SQLite takes on the same bytes.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as NodeFs from "node:fs"
import { loadNative } from "./internal/native.ts"
import { nodeCall, toVfsError } from "./internal/nodeCalls.ts"
import { askRangeLock, isConflict, probeLocks, setRangeLock } from "./internal/rangeLock.ts"
import type { VfsError } from "./VfsError.ts"

/**
 * A run of bytes. They need not exist in the file.
 *
 * @category models
 * @since 0.1.0
 */
export interface LockRange {
  readonly start: number
  readonly length: number
}

/**
 * Somebody else holds a lock on these bytes that excludes the one asked for.
 *
 * @category errors
 * @since 0.1.0
 */
export class RangeLocked extends TidemarkError("RangeLocked", { isRetryable: true, sqliteCode: SqliteCode.busy })<{
  readonly path: string
  readonly start: number
  readonly length: number
  readonly mode: "shared" | "exclusive"
}> {
  override get message() {
    return `bytes ${this.start} ... ${this.start + this.length - 1} of ${this.path} are locked by somebody else`
  }
}

/**
 * This platform has no kernel locks to offer (no native access). Nothing is shared without a lock: callers refuse, or
 * use their documented fallback.
 *
 * @category errors
 * @since 0.1.0
 */
export class FileLockUnavailable
  extends TidemarkError("FileLockUnavailable", { isRetryable: false, sqliteCode: SqliteCode.cannotOpen })<{
    readonly path: string
    readonly reason: string
  }>
{
  override get message() {
    return `no kernel lock can be taken on ${this.path}: ${this.reason}`
  }
}

/**
 * A way to the functions of the operating system that Node does not offer: the package `koffi`, or Node's own `node:ffi`
 * (Node 26.1 and newer).
 *
 * @category models
 * @since 0.1.0
 */
export type NativeBackend = "koffi" | "node:ffi"

/**
 * What an acquisition asks for.
 *
 * @category models
 * @since 0.1.0
 */
export interface AcquireOptions {
  readonly range: LockRange
  readonly mode: "shared" | "exclusive"
  readonly create?: boolean | undefined
}

/**
 * What a question asks about.
 *
 * @category models
 * @since 0.1.0
 */
export type HeldOptions = Pick<AcquireOptions, "range" | "mode">

/**
 * Kernel locks on files.
 *
 * **Gotchas**
 *
 * The lock is on the file that had this name when it was opened. Who removes or replaces a lock file lets two holders
 * in: lock files stay where they are. Every call opens and closes the file, and by that this
 * process loses plain record locks of its own on the same file, such as those of a SQLite inside it.
 *
 * **Example** (Excluding the writers of a SQLite database)
 *
 * ```ts
 * import { FileLock } from "@tidemark/platform/FileLock"
 * import * as Effect from "effect/Effect"
 *
 * export const whileNobodyReadsOrWrites = <A, E, R>(database: string, work: Effect.Effect<A, E, R>) =>
 *   Effect.scoped(Effect.gen(function*() {
 *     const locks = yield* FileLock
 *     // The bytes on which every connection of SQLite holds a shared lock while it is in a transaction.
 *     yield* locks.acquire(database, { range: { start: 0x40000002, length: 510 }, mode: "exclusive" })
 *     return yield* work
 *   }))
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class FileLock extends Context.Service<FileLock, {
  /**
   * Takes a lock now or fails with {@link RangeLocked}; it is held until the scope closes or the process dies. The
   * file is created (empty, mode 0o644) when `create` is set and it does not exist. An exclusive lock needs write
   * access to the file, a shared one read access.
   */
  readonly acquire: (
    path: string,
    options: AcquireOptions
  ) => Effect.Effect<void, RangeLocked | FileLockUnavailable | VfsError, Scope.Scope>

  /**
   * Whether somebody holds a lock because of which `acquire` would be refused now: for a reader who wants
   * to know whether the holder still lives. It takes no lock on the bytes, so it disturbs nobody and needs read access
   * only. `false` when the file does not exist. The answer may be out of date when it arrives.
   */
  readonly isHeld: (path: string, options: HeldOptions) => Effect.Effect<boolean, FileLockUnavailable | VfsError>
}>()("@tidemark/platform/FileLock") {
  /**
   * The locks of this machine, through the first of the given ways that loads. With none of them every acquisition
   * fails with {@link FileLockUnavailable}.
   */
  static readonly layerBackends = (backends: ReadonlyArray<NativeBackend>): Layer.Layer<FileLock> =>
    Layer.sync(FileLock, () => make(backends))

  /**
   * The locks of this machine: through `koffi`, through `node:ffi` where koffi is missing. Linux only; elsewhere every
   * acquisition fails with {@link FileLockUnavailable}.
   */
  static readonly layer: Layer.Layer<FileLock> = this.layerBackends(["koffi", "node:ffi"])
}

const checkRange = (range: LockRange) => {
  invariant(Number.isSafeInteger(range.start) && range.start >= 0, "a lock starts at a safe integer, not negative")
  invariant(range.length >= 1 && Number.isSafeInteger(range.start + range.length), "a lock has at least one byte")
}

const isMissing = (error: FileLockUnavailable | VfsError): boolean =>
  error._tag === "VfsError" && (error.code === "ENOENT" || error.code === "ENOTDIR")

const make = (backends: ReadonlyArray<NativeBackend>): FileLock["Service"] => {
  let loaded: ReturnType<typeof loadNative> | undefined
  // Devices whose locks passed the self-test. A network file system may fail it where the local disk passes.
  const provenDevices = new Set<number>()

  const open = (path: string, flags: number) =>
    Effect.acquireRelease(
      nodeCall<number>("open", path, (callback) => NodeFs.open(path, flags, 0o644, callback)),
      (descriptor) =>
        Effect.catch(
          nodeCall<void>("open", path, (callback) => NodeFs.close(descriptor, (cause) => callback(cause ?? null))),
          (error) => Effect.logWarning(`cannot close ${path}: ${error.code}`)
        )
    )

  /** A descriptor of the file, closed with the scope, on a device that is known to keep locks. */
  const openProven = Effect.fnUntraced(function*(path: string, flags: number) {
    const native = Result.getOrElse(loaded ??= loadNative(backends), (reason) => reason)
    if (typeof native === "string") return yield* new FileLockUnavailable({ path, reason: native })

    const descriptor = yield* open(path, flags)
    const stats = yield* nodeCall<NodeFs.Stats>("open", path, (callback) => NodeFs.fstat(descriptor, callback))
    if (stats.isDirectory()) {
      const cause = Object.assign(new Error("a directory cannot be locked"), { code: "EISDIR" })
      return yield* Effect.fail(toVfsError("open", path, cause))
    }
    if (!provenDevices.has(stats.dev)) {
      const problem = yield* Effect.scoped(
        Effect.map(open(path, NodeFs.constants.O_RDONLY), (second) => probeLocks(native, descriptor, second))
      )
      if (problem !== undefined) return yield* new FileLockUnavailable({ path, reason: problem })
      provenDevices.add(stats.dev)
    }
    return { native, descriptor }
  })

  const unexpected = (path: string, errno: number) =>
    new FileLockUnavailable({ path, reason: `the system answers errno ${errno}` })

  const acquire = Effect.fnUntraced(function*(path: string, { create, mode, range }: AcquireOptions) {
    checkRange(range)
    const { O_CREAT, O_RDONLY, O_RDWR } = NodeFs.constants
    const access = mode === "exclusive" ? O_RDWR : O_RDONLY
    const { descriptor, native } = yield* openProven(path, create === true ? access | O_CREAT : access)
    const errno = setRangeLock(native, descriptor, mode, range)
    if (isConflict(errno)) return yield* new RangeLocked({ path, mode, ...range })
    if (errno !== 0) return yield* unexpected(path, errno)
    // Unlocked by name and not only by closing: a child process that is just being spawned shares the open file until
    // it executes its program, and would keep the lock alive for that long.
    yield* Effect.addFinalizer(() => Effect.sync(() => setRangeLock(native, descriptor, "none", range)))
  })

  const isHeld = Effect.fnUntraced(
    function*(path: string, { mode, range }: HeldOptions) {
      checkRange(range)
      const { descriptor, native } = yield* openProven(path, NodeFs.constants.O_RDONLY)
      const answer = askRangeLock(native, descriptor, mode, range)
      return typeof answer === "boolean" ? answer : yield* unexpected(path, answer)
    },
    Effect.scoped,
    Effect.uninterruptible,
    Effect.catchIf(isMissing, () => Effect.succeed(false))
  )

  return FileLock.of({
    isHeld,
    acquire: (path, options) =>
      Effect.uninterruptible(Effect.flatMap(Effect.scope, (parent) =>
        // In a scope of its own: the descriptor of a failed acquisition is closed at once, not with the caller's scope.
        Effect.flatMap(
          Scope.fork(parent),
          (scope) =>
            Scope.provide(acquire(path, options), scope).pipe(Effect.onError(() => Scope.close(scope, Exit.void)))
        )))
  })
}

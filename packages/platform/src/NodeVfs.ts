/**
 * The platform over Node: files of the operating system, kernel locks, processes.
 *
 * **Details**
 *
 * `NodeVfs.layer` is the whole platform; replacing it by `MemoryVfs.layer` replaces the platform in one line.
 *
 * Linux and macOS. Every call runs to its end when its fiber is interrupted, and a descriptor is closed only when no
 * call is under way on it. A call on a file whose scope is closed fails with `EBADF`. A write loops until all bytes are
 * taken, a read until the buffer is full or the file ends. Descriptors are not inherited by child processes.
 *
 * **Example** (A durable write)
 *
 * ```ts
 * import * as NodeVfs from "@tidemark/platform/NodeVfs"
 * import { Vfs } from "@tidemark/platform/Vfs"
 * import * as Effect from "effect/Effect"
 *
 * export const program = Effect.scoped(Effect.gen(function*() {
 *   const vfs = yield* Vfs
 *   const file = yield* vfs.open("journal", { access: "readWrite", create: "ifMissing" })
 *   yield* file.writeAndSyncData([new TextEncoder().encode("hello")], 0)
 *   yield* vfs.syncDirectory(".")
 * })).pipe(Effect.provide(NodeVfs.layer))
 * ```
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as NodeFs from "node:fs"
import { FileLock } from "./FileLock.ts"
import { codeOf, nodeCall, toVfsError } from "./internal/nodeCalls.ts"
import { checkPosition, type DescriptorCalls, makeNodeFile, type OpenOnceMore } from "./internal/nodeFile.ts"
import { makeSyncRoute, type SyncRoute, type SyncRouteLimits } from "./internal/syncRoute.ts"
import { readFullySync } from "./internal/transfer.ts"
import { WriteThread } from "./internal/writeThread.ts"
import { ProcessLiveness } from "./ProcessLiveness.ts"
import * as TailMemory from "./TailMemory.ts"
import { Vfs, type VfsIdentity, type VfsOpenOptions } from "./Vfs.ts"
import type { VfsError } from "./VfsError.ts"

/**
 * The knobs of the layer, with their defaults in {@link defaults}.
 *
 * @category models
 * @since 0.1.0
 */
export interface NodeVfsOptions {
  /**
   * `writeAndSyncData` is done on the calling thread as long as its recent average on this device is below so many
   * microseconds, else in the thread pool. It is thereby about the longest that the event loop stands still; a device
   * that becomes slow is noticed only by being slow once or twice. 0 means always the pool.
   */
  readonly inlineSyncMaxMicros?: number | undefined
  /** Batches (with what is still to be synced from earlier writes) above so many bytes always take the pool. */
  readonly inlineSyncMaxBytes?: number | undefined
  /**
   * Whether writes that say `tail` go past the page cache, on Linux and where the file system has a way (decision 0017).
   * Not with `calls` of one's own.
   */
  readonly directTails?: boolean | undefined
  /**
   * Whether a file whose writes past the page cache are often done in the background gets a thread for them, which is
   * given the next one while the one before is under way (decision 0019). Else they go through the pool.
   */
  readonly writeThreads?: boolean | undefined
  /**
   * The calls that read, write and sync a descriptor, in place of those of `node:fs`: a test makes them short, slow or
   * failing.
   */
  readonly calls?: NodeFileCalls | undefined
}

/**
 * The part of `node:fs` that an open file is made of.
 *
 * @category models
 * @since 0.1.0
 */
export type NodeFileCalls = DescriptorCalls

/**
 * The defaults of {@link NodeVfsOptions}.
 *
 * @category configuration
 * @since 0.1.0
 */
export const defaults = {
  inlineSyncMaxMicros: 500,
  inlineSyncMaxBytes: 524_288,
  directTails: true,
  writeThreads: true
} as const

const flagsOf = ({ access, create }: VfsOpenOptions): number => {
  const { O_CREAT, O_EXCL, O_RDONLY, O_RDWR } = NodeFs.constants
  const flags = access === "read" ? O_RDONLY : O_RDWR
  switch (create) {
    case "exclusive":
      return flags | O_CREAT | O_EXCL
    case "ifMissing":
      return flags | O_CREAT
    default:
      return flags
  }
}

const codeError = (code: string, sentence: string) => Object.assign(new Error(sentence), { code })

/**
 * Closes a descriptor that never became a file or was only needed for a moment.
 */
const closeQuietly = (descriptor: number, path: string) =>
  Effect.catch(
    nodeCall<void>("open", path, (callback) => NodeFs.close(descriptor, (cause) => callback(cause ?? null))),
    (error) => Effect.logWarning(`cannot close ${path}: ${error.code}`)
  )

/**
 * Opens the file behind a descriptor once more, whatever its name is by now, with `O_DSYNC`. Linux has a path for it.
 */
const openSynchronous = (descriptor: number) => (done: (cause: unknown, opened: number) => void): void => {
  const { O_DSYNC, O_RDWR } = NodeFs.constants
  NodeFs.open(`/proc/self/fd/${descriptor}`, O_RDWR | O_DSYNC, done)
}

/** What reads that find out about a file system go to. Nobody looks at it. */
let probe: Uint8Array | undefined

/**
 * The same with `O_DIRECT`, for file systems that have it. One that says so and then wants other blocks is found out by a
 * read, which is refused in the same way; where the file is empty yet, by the first write.
 */
const openDirect = (descriptor: number): OpenOnceMore | undefined => {
  const { O_DIRECT, O_DSYNC, O_RDWR } = NodeFs.constants
  // Linux alone has it.
  if (O_DIRECT === undefined) return undefined
  return (done) => {
    const memory = probe ??= TailMemory.make(TailMemory.blockBytes)
    if (!TailMemory.isTailMemory(memory.buffer)) return done(codeError("ENOTSUP", "there is no memory for it"), -1)
    NodeFs.open(`/proc/self/fd/${descriptor}`, O_RDWR | O_DSYNC | O_DIRECT, (refused, opened) => {
      if (refused !== null) return done(refused, opened)
      NodeFs.read(opened, memory, 0, TailMemory.blockBytes, 0, (cause) => {
        if (cause === null) return done(null, opened)
        NodeFs.close(opened, () => done(cause, opened))
      })
    })
  }
}

/** Where the process may not have threads there is none. */
const startThread = (): WriteThread | undefined => {
  try {
    return new WriteThread()
  } catch {
    return undefined
  }
}

const makeVfs = (options: NodeVfsOptions = {}): Vfs["Service"] => {
  const limits: SyncRouteLimits = {
    maxMicros: options.inlineSyncMaxMicros ?? defaults.inlineSyncMaxMicros,
    maxBytes: options.inlineSyncMaxBytes ?? defaults.inlineSyncMaxBytes
  }
  invariant(limits.maxMicros >= 0, "inlineSyncMaxMicros is not negative")
  invariant(limits.maxBytes >= 0, "inlineSyncMaxBytes is not negative")

  const calls = options.calls ?? NodeFs
  const directTails = options.directTails ?? defaults.directTails
  const writeThreads = options.writeThreads ?? defaults.writeThreads

  // As many entries as there are devices with open files.
  const routes = new Map<number, SyncRoute>()
  const routeOf = (device: number): SyncRoute => {
    const route = routes.get(device) ?? makeSyncRoute()
    routes.set(device, route)
    return route
  }

  const openDescriptor = (path: string, flags: number, mode: number) =>
    nodeCall<number>("open", path, (callback) => NodeFs.open(path, flags, mode, callback))

  const openFile = Effect.fnUntraced(function*(path: string, options: VfsOpenOptions) {
    const descriptor = yield* openDescriptor(path, flagsOf(options), options.mode ?? 0o644)
    return yield* nodeCall<NodeFs.Stats>("open", path, (callback) => NodeFs.fstat(descriptor, callback)).pipe(
      Effect.flatMap((stats) =>
        stats.isDirectory()
          ? Effect.fail(toVfsError("open", path, codeError("EISDIR", "a directory cannot be opened as a file")))
          : Effect.succeed(makeNodeFile({
            descriptor,
            path,
            route: routeOf(stats.dev),
            limits,
            calls,
            // With calls of their own tests see every sync.
            openSynchronous: options.access === "readWrite" && calls === NodeFs
              ? openSynchronous(descriptor)
              : undefined,
            openDirect: directTails && options.access === "readWrite" && calls === NodeFs
              ? openDirect(descriptor)
              : undefined,
            startThread: writeThreads ? startThread : undefined
          }))
      ),
      Effect.onError(() => closeQuietly(descriptor, path))
    )
  })

  const identify = (path: string): Effect.Effect<VfsIdentity | undefined, VfsError> =>
    Effect.uninterruptible(Effect.callback((resume) =>
      NodeFs.stat(path, { bigint: true }, (cause, stats) => {
        if (cause === null) {
          return resume(Effect.succeed({
            kind: stats.isFile() ? "file" : stats.isDirectory() ? "directory" : "other",
            size: Number(stats.size),
            // A file system hands the inode of a removed file to the next one: the time of birth tells them apart.
            inode: `${stats.dev}:${stats.ino}:${stats.birthtimeNs}`
          }))
        }
        const code = codeOf(cause)
        resume(
          code === "ENOENT" || code === "ENOTDIR"
            ? Effect.succeed(undefined)
            : Effect.fail(toVfsError("identify", path, cause))
        )
      })
    ))

  return Vfs.of({
    open: (path, options) =>
      Effect.map(Effect.acquireRelease(openFile(path, options), ({ close }) => close), ({ file }) => file),
    readSync: (path, buffer, position) => {
      checkPosition(position)
      let descriptor: number | undefined
      try {
        const opened = NodeFs.openSync(path, NodeFs.constants.O_RDONLY)
        descriptor = opened
        const readSome = (part: Uint8Array, from: number) => calls.readSync(opened, part, 0, part.length, from)
        return readFullySync(readSome, buffer, position)
      } catch (cause) {
        throw toVfsError(descriptor === undefined ? "open" : "read", path, cause)
      } finally {
        if (descriptor !== undefined) NodeFs.closeSync(descriptor)
      }
    },
    remove: (path) => nodeCall("remove", path, (callback) => NodeFs.unlink(path, (cause) => callback(cause))),
    rename: (from, to) => nodeCall("rename", from, (callback) => NodeFs.rename(from, to, (cause) => callback(cause))),
    list: (directory) =>
      Effect.map(
        nodeCall<Array<string>>("list", directory, (callback) => NodeFs.readdir(directory, callback)),
        (names) => names.sort()
      ),
    makeDirectory: (path, options) =>
      nodeCall(
        "makeDirectory",
        path,
        (callback) => NodeFs.mkdir(path, { recursive: true, mode: options?.mode ?? 0o777 }, (cause) => callback(cause))
      ),
    syncDirectory: (directory) =>
      Effect.acquireUseRelease(
        Effect.mapError(
          openDescriptor(directory, NodeFs.constants.O_RDONLY | NodeFs.constants.O_DIRECTORY, 0),
          (error) => toVfsError("syncDirectory", directory, error.cause)
        ),
        (descriptor) =>
          nodeCall<void>(
            "syncDirectory",
            directory,
            (callback) => NodeFs.fsync(descriptor, (cause) => callback(cause))
          ),
        (descriptor) => closeQuietly(descriptor, directory)
      ),
    identify
  })
}

/**
 * The file system alone, with the given knobs.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerVfsOptions = (options: NodeVfsOptions): Layer.Layer<Vfs> => Layer.sync(Vfs, () => makeVfs(options))

/**
 * The file system alone, with the defaults.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerVfs: Layer.Layer<Vfs> = layerVfsOptions({})

/**
 * The whole platform with the given knobs.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerOptions = (options: NodeVfsOptions): Layer.Layer<Vfs | FileLock | ProcessLiveness> =>
  Layer.mergeAll(layerVfsOptions(options), FileLock.layer, ProcessLiveness.layer)

/**
 * The whole platform: `Vfs`, `FileLock` and `ProcessLiveness` of this machine.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Vfs | FileLock | ProcessLiveness> = layerOptions({})

const notNegative = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/**
 * The knobs as configuration: `TIDEMARK_VFS_INLINE_SYNC_MAX_MICROS` and `TIDEMARK_VFS_INLINE_SYNC_MAX_BYTES`, integers,
 * not negative, and `TIDEMARK_VFS_DIRECT_TAILS` and `TIDEMARK_VFS_WRITE_THREADS`, true or false.
 *
 * @category configuration
 * @since 0.1.0
 */
export const config: Config.Config<Required<Omit<NodeVfsOptions, "calls">>> = Config.all({
  inlineSyncMaxMicros: Config.schema(notNegative, "TIDEMARK_VFS_INLINE_SYNC_MAX_MICROS").pipe(
    Config.withDefault(defaults.inlineSyncMaxMicros)
  ),
  inlineSyncMaxBytes: Config.schema(notNegative, "TIDEMARK_VFS_INLINE_SYNC_MAX_BYTES").pipe(
    Config.withDefault(defaults.inlineSyncMaxBytes)
  ),
  directTails: Config.Boolean("TIDEMARK_VFS_DIRECT_TAILS").pipe(Config.withDefault(defaults.directTails)),
  writeThreads: Config.Boolean("TIDEMARK_VFS_WRITE_THREADS").pipe(Config.withDefault(defaults.writeThreads))
})

/**
 * The whole platform with the knobs of {@link config}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<Vfs | FileLock | ProcessLiveness, Config.ConfigError> = Layer.unwrap(
  Effect.map(config, layerOptions)
)

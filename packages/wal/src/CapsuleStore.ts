/**
 * Commit capsules as files: putting them under their names, making them durable, reading, listing and removing them.
 *
 * **Details**
 *
 * 1. A capsule counts for nothing before a marker names it (RC-16), and a marker is written only when
 *    {@link CapsuleStore} has synced its capsule (CO-10). So a capsule gets its name at once, unsynced: whoever finds a
 *    half of one finds no marker for it.
 * 2. When `sync` succeeds every capsule that it was given, its name, and the directories on the way to it survive a power
 *    loss, whoever wrote the file, through whatever descriptor: a sync is about a file, not about a descriptor.
 * 3. What was put once is never cut off, and never removed by a `put`: the bytes of an id are always the same, so that
 *    writing them again over a durable capsule changes nothing of it at any moment. A `put` that fails removes only a
 *    file that it has made itself.
 * 4. After a failed sync nothing is put or synced through this store any more. A second sync of such a file could succeed
 *    without the writes that were lost.
 * 5. A file that was given up (`recycle`) may serve for another capsule; `internal/capsuleFiles.ts` says when and how.
 *
 * @since 0.1.0
 */
import { FormatIssue } from "@tidemark/core/BinaryFormat"
import { invariant } from "@tidemark/core/Invariant"
import type { ObjectId } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import {
  allocateCapsule,
  type Capsule,
  capsuleHeaderBytes,
  capsulePath,
  capsulesDirectory,
  decode,
  decodeHeader,
  type EncodedCapsule,
  idOfCapsuleName,
  lengthIssue
} from "./CapsuleFormat.ts"
import { makeCapsuleFiles } from "./internal/capsuleFiles.ts"

// -- errors -----------------------------------------------------------------------------------------------------------

/**
 * A file with the name of a capsule is none, is damaged, or is another one. Nothing was changed.
 *
 * **Details**
 *
 * Whether anything is lost depends on the markers: a capsule without one was never acknowledged (RC-16), one that a
 * marker above the checkpoint mark names holds a commit that was (RC-15).
 *
 * @category errors
 * @since 0.1.0
 */
export class CapsuleUnreadable
  extends TidemarkError("CapsuleUnreadable", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly path: string
    /** As the name of the file says. */
    readonly id: ObjectId
    /** The first thing that is wrong. */
    readonly issue: FormatIssue
    /** Size of the file. */
    readonly bytes: number
  }>
{
  override get message() {
    return `${this.path} cannot be read (${this.issue.message}); nothing was changed: if a marker names it its commit is ` +
      "lost, so restore the file from a copy; look at it with `tidemark inspect --records`"
  }
}

// -- reading ----------------------------------------------------------------------------------------------------------

/**
 * Reads a capsule and checks all of it, its id included.
 *
 * **Details**
 *
 * The memory for the file is not taken before its header has been found to fit its size. Fails with a `VfsError` of code
 * `ENOENT` when there is no such file.
 *
 * @category reading
 * @since 0.1.0
 */
export const readCapsule = Effect.fnUntraced(
  function*(
    vfs: Vfs["Service"],
    database: string,
    id: ObjectId
  ): Effect.fn.Return<Capsule, VfsError | CapsuleUnreadable, Scope.Scope> {
    const path = capsulePath(database, id)
    const file = yield* vfs.open(path, { access: "read" })
    const fileBytes = yield* file.size
    const head = new Uint8Array(Math.min(capsuleHeaderBytes, fileBytes))
    const header = decodeHeader(head.subarray(0, yield* file.read(head, 0)))
    const early = Result.isFailure(header) ? header.failure : lengthIssue(header.success, fileBytes)
    const buffer = early === undefined ? allocate(fileBytes) : early
    if (buffer instanceof FormatIssue) {
      return yield* new CapsuleUnreadable({ path, id, issue: buffer, bytes: fileBytes })
    }
    const bytes = yield* file.read(buffer, 0)
    const decoded = decode(buffer.subarray(0, bytes), id)
    if (Result.isFailure(decoded)) return yield* new CapsuleUnreadable({ path, id, issue: decoded.failure, bytes })
    return decoded.success
  },
  Effect.scoped
)

/** Memory for a file whose header has been found to fit its size, unless this machine has not so much. */
const allocate = (bytes: number): Uint8Array | FormatIssue => {
  try {
    return allocateCapsule(bytes)
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause
    return new FormatIssue({
      format: "commit capsule",
      code: "TooLarge",
      field: "length",
      offset: 0,
      found: `${bytes} bytes`,
      expected: "no more than this machine can hold in memory"
    })
  }
}

/**
 * The capsules of a database by id, whole or not; other files of their directory are none. Without the directory there
 * are none.
 *
 * @category reading
 * @since 0.1.0
 */
export const listCapsules = (
  vfs: Vfs["Service"],
  database: string
): Effect.Effect<ReadonlyArray<ObjectId>, VfsError> =>
  vfs.list(capsulesDirectory(database)).pipe(
    Effect.map((names) => {
      const ids: Array<ObjectId> = []
      for (const name of names) {
        const id = idOfCapsuleName(name)
        if (id !== undefined) ids.push(id)
      }
      return ids
    }),
    Effect.catchIf((error) => error.code === "ENOENT", () => Effect.succeed([]))
  )

// -- the store --------------------------------------------------------------------------------------------------------

/**
 * The capsules of one database.
 *
 * @category services
 * @since 0.1.0
 */
export class CapsuleStore extends Context.Service<CapsuleStore, {
  readonly database: string
  /** Where the files are: `capsulesDirectory(database)`. It is made by the first `put`. */
  readonly directory: string

  /**
   * Writes the file of a capsule under its name, unsynced. Putting it again, also at the same time, does no harm. The
   * bytes must not change until it is done.
   *
   * Waits, interruptibly, while many others are being put; once it writes, it runs to its end. When it fails
   * (`ENOSPC`, `EMFILE`, ...) the file is not there, unless it was there before or could not be removed: without a
   * marker it counts for nothing, and another `put` writes all of it.
   */
  readonly put: (encoded: Pick<EncodedCapsule, "bytes" | "id">) => Effect.Effect<void, VfsError>

  /**
   * Makes the capsules and their names durable: the files at the same time, then their directory once. When it succeeds,
   * markers that name them may be written (CO-10).
   *
   * **Gotchas**
   *
   * A failure leaves it open which of them are durable. When a sync failed, nothing can be put or synced through this
   * store any more: every later call answers the first failure, without touching a file. What the caller may do is to
   * close the store, and to put and sync the commits anew through another one, after recovery has removed the capsules
   * that no marker names. A capsule that is not there (`ENOENT` of the operation `"open"`), and too many open files
   * (`EMFILE`), are no failure of a sync: the same call may be made again.
   */
  readonly sync: (ids: ReadonlyArray<ObjectId>) => Effect.Effect<void, VfsError>

  /** {@link readCapsule}. */
  readonly read: (id: ObjectId) => Effect.Effect<Capsule, CapsuleUnreadable | VfsError>

  /**
   * Removes the file of a capsule, synced or not, durably after the next `sync`. Fine when there is none. The caller
   * knows that no marker above the checkpoint mark names it, and that nobody syncs it now.
   */
  readonly remove: (id: ObjectId) => Effect.Effect<void, VfsError>

  /**
   * `remove` for a file of `bytes` bytes that may serve for another capsule of the same length: it stays
   * under its name until it is used, up to `maxSpareBytes` of them. The caller also knows that nobody reads it any more,
   * and that no marker above a checkpoint mark that is durable names it.
   */
  readonly recycle: (id: ObjectId, bytes: number) => Effect.Effect<void, VfsError>

  /** Removes the files that `recycle` has kept. */
  readonly removeSpares: Effect.Effect<void, VfsError>

  /** {@link listCapsules}. Those that were kept as spares are among them. */
  readonly list: Effect.Effect<ReadonlyArray<ObjectId>, VfsError>
}>()("@tidemark/wal/CapsuleStore") {}

/**
 * The knobs of the store, with their defaults in {@link defaults}.
 *
 * @category models
 * @since 0.1.0
 */
export interface CapsuleStoreOptions {
  /** Path of the database. */
  readonly database: string
  /**
   * How many files are handed to the platform at the same time to be synced, 1 or more. Above the number of threads that
   * Node has for files (`UV_THREADPOOL_SIZE`, four by default) it keeps them busy.
   */
  readonly syncConcurrency?: number | undefined
  /**
   * How many files stay open from their `put` to their `sync`, which saves opening them again; the oldest is closed for
   * the next. 0 or more.
   */
  readonly maxKeptFiles?: number | undefined
  /** Bytes of the files that `recycle` keeps, at the most. 0: none. */
  readonly maxSpareBytes?: number | undefined
}

/**
 * The defaults of {@link CapsuleStoreOptions}.
 *
 * @category configuration
 * @since 0.1.0
 */
export const defaults = {
  syncConcurrency: 16,
  maxKeptFiles: 64,
  maxSpareBytes: 16 * 1024 * 1024
} as const

/**
 * Makes the store of a database. Nothing is touched on the disk before the first `put`. The files it keeps open are
 * closed with the scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeCapsuleStore = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  options: CapsuleStoreOptions
): Effect.fn.Return<CapsuleStore["Service"], never, Scope.Scope> {
  const { database } = options
  const syncConcurrency = options.syncConcurrency ?? defaults.syncConcurrency
  const maxKeptFiles = options.maxKeptFiles ?? defaults.maxKeptFiles
  const maxSpareBytes = options.maxSpareBytes ?? defaults.maxSpareBytes
  invariant(Number.isSafeInteger(syncConcurrency) && syncConcurrency >= 1, "syncConcurrency is a count from 1 on")
  invariant(Number.isSafeInteger(maxKeptFiles) && maxKeptFiles >= 0, "maxKeptFiles is a count")
  invariant(maxSpareBytes >= 0, "maxSpareBytes is not negative")
  return CapsuleStore.of({
    ...(yield* makeCapsuleFiles(vfs, { database, syncConcurrency, maxKeptFiles, maxSpareBytes })),
    database,
    directory: capsulesDirectory(database),
    read: (id) => readCapsule(vfs, database, id),
    list: listCapsules(vfs, database)
  })
})

/**
 * The capsules of a database.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: CapsuleStoreOptions): Layer.Layer<CapsuleStore, never, Vfs> =>
  Layer.effect(CapsuleStore, Effect.flatMap(Vfs, (vfs) => makeCapsuleStore(vfs, options)))

const count = (minimum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum: Number.MAX_SAFE_INTEGER }))

/**
 * The store with its options from the environment: `TIDEMARK_DATABASE` (required),
 * `TIDEMARK_CAPSULE_SYNC_CONCURRENCY`, `TIDEMARK_CAPSULE_MAX_KEPT_FILES`, `TIDEMARK_CAPSULE_MAX_SPARE_BYTES`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<CapsuleStore, Config.ConfigError, Vfs> = Layer.unwrap(Effect.gen(function*() {
  return layer({
    database: yield* Config.String("TIDEMARK_DATABASE"),
    syncConcurrency: yield* Config.schema(count(1), "TIDEMARK_CAPSULE_SYNC_CONCURRENCY").pipe(
      Config.withDefault(defaults.syncConcurrency)
    ),
    maxKeptFiles: yield* Config.schema(count(0), "TIDEMARK_CAPSULE_MAX_KEPT_FILES").pipe(
      Config.withDefault(defaults.maxKeptFiles)
    ),
    maxSpareBytes: yield* Config.schema(count(0), "TIDEMARK_CAPSULE_MAX_SPARE_BYTES").pipe(
      Config.withDefault(defaults.maxSpareBytes)
    )
  })
}))

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
 * 5. A file that was given up for another capsule (`recycle`) gets that one's name before its first byte is written over,
 *    and only where nothing has that name: so a name that a marker needs never stands on bytes that are being changed. A
 *    power loss may leave the old name on some of the new bytes, or the new name on the old ones; no marker that counts
 *    names either.
 * 6. The files that are open at a time are bounded: those that wait for their sync by `maxKeptFiles`, those that are
 *    being put by a constant, those that are being synced by `syncConcurrency`.
 *
 * @since 0.1.0
 */
import { FormatIssue } from "@tidemark/core/BinaryFormat"
import { invariant } from "@tidemark/core/Invariant"
import type { ObjectId } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import { Vfs, type VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { directoryOf, replaceFile } from "./AtomicFile.ts"
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
import { SpareFiles } from "./internal/spareFiles.ts"
import { sideDirectory } from "./WalBaseFormat.ts"

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

/** Files that are being put at the same time: enough that no thread of Node's pool, four by default, waits for the next. */
const maxConcurrentPuts = 16

/** A file between its `put` and its `sync`. */
interface KeptFile {
  readonly file: VfsFile
  readonly close: Effect.Effect<void>
}

/** Who uses an id just now, one after another. */
interface Turn {
  readonly semaphore: Semaphore.Semaphore
  users: number
}

const isOutOfDescriptors = (error: VfsError) => error.code === "EMFILE" || error.code === "ENFILE"

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
  const directory = capsulesDirectory(database)

  /** By path, in the order in which they were put. */
  const kept = new Map<string, KeptFile>()
  const spares = new SpareFiles(maxSpareBytes)
  /** Of the files that were put here, by path, until they are given up. What is another's is looked up. */
  const lengths = new Map<string, number>()
  const turns = new Map<string, Turn>()
  const putPermits = Semaphore.makeUnsafe(maxConcurrentPuts)
  let hasDirectory = false
  let hasDurableDirectory = false
  let isClosed = false
  let failure: VfsError | undefined

  const closeKept = Effect.suspend(() => {
    const closing = Array.from(kept.values(), ({ close }) => close)
    kept.clear()
    return Effect.all(closing, { discard: true })
  })

  yield* Effect.addFinalizer(() => {
    isClosed = true
    return closeKept
  })

  const takeKept = (path: string): KeptFile | undefined => {
    const found = kept.get(path)
    kept.delete(path)
    return found
  }

  /** Keeps a file for its sync, and closes the oldest, or the one put before under this name, in its place. */
  const keep = (path: string, opened: KeptFile): Effect.Effect<void> => {
    if (isClosed || maxKeptFiles === 0) return opened.close
    const [oldest] = kept.keys()
    const replaced = takeKept(path) ?? (kept.size < maxKeptFiles || oldest === undefined ? undefined : takeKept(oldest))
    kept.set(path, opened)
    return replaced?.close ?? Effect.void
  }

  /** Files are kept open for speed only: where descriptors are short they are given back. */
  const withDescriptors = <A>(effect: Effect.Effect<A, VfsError>) =>
    Effect.catchIf(
      effect,
      (error) => isOutOfDescriptors(error) && kept.size > 0,
      () => Effect.andThen(closeKept, effect)
    )

  const open = (path: string, how: Parameters<typeof vfs.open>[1]): Effect.Effect<KeptFile, VfsError> =>
    Effect.suspend(() => {
      const scope = Scope.makeUnsafe()
      return Effect.map(
        withDescriptors(Scope.provide(vfs.open(path, how), scope)),
        (file) => ({ file, close: Scope.close(scope, Exit.void) })
      )
    })

  /** One after another for each file: a `put` that fails must not remove what another has written meanwhile. */
  const inTurn = <A, E>(path: string, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.suspend(() => {
      const turn = turns.get(path) ?? { semaphore: Semaphore.makeUnsafe(1), users: 0 }
      turns.set(path, turn)
      turn.users++
      return Effect.ensuring(
        turn.semaphore.withPermit(effect),
        Effect.sync(() => {
          turn.users--
          if (turn.users === 0) turns.delete(path)
        })
      )
    })

  const makeDirectory = Effect.suspend(() =>
    hasDirectory ? Effect.void : Effect.map(vfs.makeDirectory(directory), () => {
      hasDirectory = true
    })
  )

  const removeFile = (path: string) =>
    Effect.catchIf(vfs.remove(path), (error) => error.code === "ENOENT", () => Effect.void)

  /**
   * Uses a spare in its turn, and only when it still is one then: so who puts or syncs the capsule that it once was has
   * it, or waits until its file is gone. `otherwise` also while somebody else has a turn: he may be putting it.
   */
  const takeSpare = <A, E>(spare: string, use: Effect.Effect<A, E>, otherwise: Effect.Effect<A>): Effect.Effect<A, E> =>
    turns.has(spare)
      ? otherwise
      : inTurn(spare, Effect.suspend((): Effect.Effect<A, E> => spares.forget(spare) ? use : otherwise))

  const removeSpares: CapsuleStore["Service"]["removeSpares"] = Effect.suspend(() =>
    Effect.forEach(spares.all(), (spare) => takeSpare(spare, removeFile(spare), Effect.void), {
      concurrency: maxConcurrentPuts,
      discard: true
    })
  )

  const noSpare = Effect.succeed(false)

  /** Gives a spare of this length the name, where nothing has it. What goes wrong costs the spare only. */
  const renameSpare = (path: string, length: number): Effect.Effect<boolean> =>
    Effect.suspend(() => {
      const spare = spares.find(length)
      if (spare === undefined) return noSpare
      const rename = Effect.flatMap(vfs.identify(path), (found) => {
        if (found === undefined) return Effect.as(vfs.rename(spare, path), true)
        spares.add(spare, length)
        return noSpare
      })
      return takeSpare(
        spare,
        Effect.catch(rename, () => Effect.as(Effect.ignore(removeFile(spare)), false)),
        noSpare
      )
    })

  const writeNew = (path: string, bytes: Uint8Array, create: "never" | "exclusive") => {
    const opening = open(path, { access: "readWrite", create })
    const discard = Effect.ignore(removeFile(path))
    // A file that was renamed is there already, with what it held before.
    return Effect.flatMap(
      create === "never" ? Effect.onError(opening, () => discard) : opening,
      (opened) =>
        opened.file.write([bytes], 0).pipe(
          Effect.onError(() => Effect.andThen(opened.close, discard)),
          Effect.andThen(Effect.suspend(() => keep(path, opened)))
        )
    )
  }

  const writeAgain = Effect.fnUntraced(function*(path: string, bytes: Uint8Array) {
    const found = yield* open(path, { access: "readWrite", create: "ifMissing" })
    const fileBytes = yield* found.file.size.pipe(Effect.onError(() => found.close))
    if (fileBytes > bytes.length) {
      // No capsule of this id can be longer, so this is none, and writing over its beginning would not make it one.
      return yield* Effect.andThen(found.close, replaceFile(vfs, path, bytes))
    }
    yield* found.file.write([bytes], 0).pipe(Effect.onError(() => found.close))
    yield* keep(path, found)
  })

  const writeOnce = (path: string, bytes: Uint8Array): Effect.Effect<void, VfsError> =>
    Effect.suspend(() => {
      // A spare of this name is this capsule itself.
      spares.forget(path)
      return Effect.andThen(makeDirectory, renameSpare(path, bytes.length))
    }).pipe(
      Effect.flatMap((isRenamed) => writeNew(path, bytes, isRenamed ? "never" : "exclusive")),
      Effect.catchIf(
        ({ code, operation }) => operation === "open" && code === "EEXIST",
        () => writeAgain(path, bytes)
      )
    )

  /** What is kept for speed makes room for what is needed. */
  const write = (path: string, bytes: Uint8Array): Effect.Effect<void, VfsError> =>
    Effect.catchIf(
      writeOnce(path, bytes),
      ({ code }) => code === "ENOSPC" && !spares.isEmpty,
      () => Effect.andThen(removeSpares, writeOnce(path, bytes))
    )

  const put: CapsuleStore["Service"]["put"] = ({ bytes, id }) => {
    const path = capsulePath(database, id)
    return inTurn(
      path,
      putPermits.withPermit(
        Effect.uninterruptible(
          Effect.suspend(() => failure === undefined ? write(path, bytes) : Effect.fail(failure)).pipe(
            Effect.tap(() => Effect.sync(() => lengths.set(path, bytes.length)))
          )
        )
      )
    )
  }

  /** What fails here leaves unknown what the disk has (4), unless it was only that nothing could be opened. */
  const finalFailure = (effect: Effect.Effect<void, VfsError>) =>
    Effect.tapError(effect, (error) =>
      Effect.sync(() => {
        if (!isOutOfDescriptors(error)) failure ??= error
      }))

  const unlessFailed = Effect.suspend(() => failure === undefined ? Effect.void : Effect.fail(failure))

  /** In its turn, and no spare any more: what is synced is needed, though nobody has put it again. */
  const syncFile = (id: ObjectId): Effect.Effect<void, VfsError> => {
    const path = capsulePath(database, id)
    return inTurn(
      path,
      Effect.uninterruptible(Effect.suspend(() => {
        if (failure !== undefined) return Effect.fail(failure)
        spares.forget(path)
        const found = takeKept(path)
        const opened = found === undefined
          ? open(path, { access: "read" })
          : Effect.succeed(found)
        return Effect.flatMap(opened, ({ close, file }) => Effect.ensuring(finalFailure(file.syncData), close))
      }))
    )
  }

  const syncFiles = (ids: ReadonlyArray<ObjectId>): Effect.Effect<void, VfsError> => {
    const rest = ids.values()
    // As many fibers as files are synced at a time, whatever the number of files.
    const syncRest = Effect.gen(function*() {
      for (const id of rest) yield* syncFile(id)
    })
    const workers = Math.min(syncConcurrency, ids.length)
    return workers === 1
      ? syncRest
      : Effect.all(Array.from({ length: workers }, () => syncRest), { concurrency: workers, discard: true })
  }

  const syncNames = Effect.gen(function*() {
    if (!hasDurableDirectory) {
      // Whoever made these directories may have been killed before their names were durable.
      yield* vfs.syncDirectory(directoryOf(database))
      yield* vfs.syncDirectory(sideDirectory(database))
      hasDurableDirectory = true
    }
    yield* vfs.syncDirectory(directory)
  })

  const sync: CapsuleStore["Service"]["sync"] = (ids) =>
    Effect.gen(function*() {
      yield* unlessFailed
      if (ids.length === 0) return
      yield* syncFiles(ids)
      yield* unlessFailed
      yield* Effect.uninterruptible(withDescriptors(finalFailure(syncNames)))
      // The failure of a sync is told to one caller only. If it was another one, this sync may have succeeded without
      // what was lost.
      yield* unlessFailed
    })

  // A file that is open lives on without its name: the next sync has to notice that the name is gone.
  const closeKeptOf = (path: string): Effect.Effect<void> => takeKept(path)?.close ?? Effect.void

  const remove: CapsuleStore["Service"]["remove"] = (id) => {
    const path = capsulePath(database, id)
    return inTurn(
      path,
      Effect.uninterruptible(Effect.suspend(() => {
        spares.forget(path)
        lengths.delete(path)
        return Effect.andThen(closeKeptOf(path), removeFile(path))
      }))
    )
  }

  const takeLength = (path: string): number | undefined => {
    const length = lengths.get(path)
    lengths.delete(path)
    return length
  }

  const recycle: CapsuleStore["Service"]["recycle"] = (id, bytes) => {
    const path = capsulePath(database, id)
    // Who has put it may have said something else of it to the log: what is written over it must end where it ends.
    const length = Effect.suspend(() => {
      const known = takeLength(path)
      return known === undefined ? Effect.map(vfs.identify(path), (found) => found?.size) : Effect.succeed(known)
    })
    return inTurn(
      path,
      Effect.uninterruptible(
        Effect.suspend(() => closeKeptOf(path)).pipe(
          Effect.andThen(length),
          Effect.flatMap((found) =>
            // A store that is closed, or has failed, writes no other capsule.
            !isClosed && failure === undefined && found === bytes && spares.add(path, bytes)
              ? Effect.void
              : removeFile(path)
          )
        )
      )
    )
  }

  return CapsuleStore.of({
    database,
    directory,
    put,
    sync,
    read: (id) => readCapsule(vfs, database, id),
    remove,
    recycle,
    removeSpares,
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

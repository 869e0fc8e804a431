/**
 * A standard SQLite write-ahead log, written by group commit.
 *
 * What is committed here any SQLite tool reads afterwards, after a crash too: the file is SQLite's own format, nothing
 * of ours is put into it. Beside it, in `<db>.fsqlite/`, lies `wal-base`, which keeps commit sequences from ever going
 * back.
 *
 * **Details**
 *
 * Opening takes SQLite's lock bytes, so that no SQLite connection and no second Tidemark process is in; examines what
 * is there (section 10 of `formats.md`) and refuses with a typed error, having changed nothing, what cannot be opened
 * safely; syncs what recovery found; and goes on behind the last valid commit.
 *
 * A checkpoint copies committed pages into the database file. The automatic one is PASSIVE: it holds up nobody and
 * respects the oldest reader. When every frame is in the database file and no reader needs the log, the next commit
 * starts a new generation at the beginning of the file.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, PageNumber, PageSize } from "@tidemark/core/Scalars"
import { defaultPageSize, toCommitSeq, toLsn, toPageNumber } from "@tidemark/core/Scalars"
import type { FileLockUnavailable } from "@tidemark/platform/FileLock"
import { FileLock } from "@tidemark/platform/FileLock"
import type { VfsFile } from "@tidemark/platform/Vfs"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { directoryOf } from "./AtomicFile.ts"
import { CommitLog } from "./CommitLog.ts"
import * as DatabaseHeaderFormat from "./DatabaseHeaderFormat.ts"
import { lockDatabase, lockSharedMemory } from "./DatabaseLock.ts"
import type { GroupCommitOptions, LogEnded, Watermarks } from "./GroupCommit.ts"
import * as GroupCommit from "./GroupCommit.ts"
import { copyPages } from "./internal/checkpoint.ts"
import { WalState, writeWalBase } from "./internal/walState.ts"
import type { Busy, DatabaseTruncated, LogLocked } from "./LogErrors.ts"
import { CheckpointFailed } from "./LogErrors.ts"
import * as Format from "./SqliteWalFormat.ts"
import type { DatabaseExamination } from "./StartUp.ts"
import { examineDatabase } from "./StartUp.ts"
import type { StartUpRefusal } from "./StartUpErrors.ts"
import { NotWalMode } from "./StartUpErrors.ts"
import { WalIndex } from "./WalIndex.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface SqliteWalOptions {
  /** Path of the database file. */
  readonly database: string
  /**
   * Make the database when there is none: an empty one in WAL mode with pages of this size. Default: it must exist.
   */
  readonly create?: { readonly pageSize?: PageSize | undefined } | undefined
  /** Turn a database in rollback-journal mode into WAL mode instead of refusing it. Default false. */
  readonly convert?: boolean | undefined
  /** Keep the prefix of a damaged log instead of refusing it (RC-03, RC-04). What is lost is reported. Default false. */
  readonly acceptLoss?: boolean | undefined
  /** A checkpoint starts in the background when so many frames are not in the database file. 0: never. Default 1000. */
  readonly autoCheckpointFrames?: number | undefined
  /**
   * From so many frames on, commits are held up for a moment to start the log over, even while it is busy. Default
   * 16,000. Below it the log starts over when it happens to be idle.
   */
  readonly restartFrames?: number | undefined
  /** The file grows by so many zeros at a time, so that syncs change no metadata. 0: it does not. Default 1 MiB. */
  readonly preallocateBytes?: number | undefined
  /** Frames that one generation holds at the most; above it commits are refused. Default 2^32 - 1. */
  readonly maxFrames?: number | undefined
  /** Bounds and delays of the group commit. */
  readonly groupCommit?:
    | Pick<GroupCommitOptions, "maxBatchBytes" | "maxQueuedBytes" | "commitDelay" | "commitSiblings">
    | undefined
}

/**
 * The defaults of {@link SqliteWalOptions}.
 *
 * @category models
 * @since 0.1.0
 */
export const defaults = {
  autoCheckpointFrames: 1000,
  restartFrames: 16_000,
  preallocateBytes: 1024 * 1024,
  maxFrames: Format.maxFrames,
  busyTimeout: Duration.seconds(5)
} as const

/**
 * How much a checkpoint insists (with SQLite's meaning):
 *
 * - `passive` copies what it can without waiting for anybody;
 * - `full` waits for the readers of older snapshots and copies everything;
 * - `restart` also waits until no reader needs the log, so that the next commit starts it over;
 * - `truncate` also cuts the log file to nothing.
 *
 * @category models
 * @since 0.1.0
 */
export type CheckpointMode = "passive" | "full" | "restart" | "truncate"

/**
 * @category models
 * @since 0.1.0
 */
export interface CheckpointReport {
  readonly mode: CheckpointMode
  /** Frames in the log when the checkpoint had done its waiting. */
  readonly framesBefore: number
  /** Frames of the log that are in the database file now. */
  readonly framesCopied: number
  /** Readers stood in the way of what the mode asks for until the time was over. */
  readonly blocked: boolean
}

/**
 * Why a database could not be opened. Nothing was changed on the disk.
 *
 * @category errors
 * @since 0.1.0
 */
export type OpenError = StartUpRefusal | LogLocked | Busy | DatabaseTruncated | FileLockUnavailable | VfsError

/**
 * The log of one database.
 *
 * @category services
 * @since 0.1.0
 */
export class SqliteWal extends Context.Service<SqliteWal, {
  readonly database: string
  readonly pageSize: PageSize
  /** What was found when the database was opened. */
  readonly startUp: DatabaseExamination
  readonly watermarks: () => Watermarks
  /** Frames in the current generation, and how many of them are in the database file. */
  readonly frames: () => { readonly inLog: number; readonly copied: number }
  /**
   * Copies committed pages into the database file. Waits up to `busyTimeout` (default 5 s) for readers that are in the
   * way, and says so in the report when they still were.
   */
  readonly checkpoint: (
    mode: CheckpointMode,
    options?: { readonly busyTimeout?: Duration.Input | undefined }
  ) => Effect.Effect<CheckpointReport, CheckpointFailed | LogEnded>
}>()("@tidemark/wal/SqliteWal") {}

/**
 * Opens the log of a database: `SqliteWal`, and the `CommitLog` that coordinators and pagers use.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: SqliteWalOptions
): Layer.Layer<SqliteWal | CommitLog, OpenError, Vfs | FileLock> => Layer.effectContext(make(options))

/**
 * {@link layer} with options from the configuration: `TIDEMARK_DATABASE`, `TIDEMARK_AUTO_CHECKPOINT_FRAMES`,
 * `TIDEMARK_RESTART_FRAMES`, `TIDEMARK_WAL_PREALLOCATE_BYTES`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<SqliteWal | CommitLog, OpenError | Config.ConfigError, Vfs | FileLock> = Layer
  .unwrap(Effect.gen(function*() {
    const notNegative = (name: string, byDefault: number) =>
      Config.schema(NotNegative, name).pipe(Config.withDefault(byDefault))
    return layer({
      database: yield* Config.String("TIDEMARK_DATABASE"),
      autoCheckpointFrames: yield* notNegative("TIDEMARK_AUTO_CHECKPOINT_FRAMES", defaults.autoCheckpointFrames),
      restartFrames: yield* notNegative("TIDEMARK_RESTART_FRAMES", defaults.restartFrames),
      preallocateBytes: yield* notNegative("TIDEMARK_WAL_PREALLOCATE_BYTES", defaults.preallocateBytes)
    })
  }))

const NotNegative = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))

const make = Effect.fnUntraced(function*(
  options: SqliteWalOptions
): Effect.fn.Return<Context.Context<SqliteWal | CommitLog>, OpenError, Vfs | FileLock | Scope.Scope> {
  const opened = yield* openDatabase(options)
  const { databaseFile, examination, pageSize, state, walFile } = opened
  const sink = state.sink()
  const engine = yield* GroupCommit.make(sink, {
    ...options.groupCommit,
    initialLsn: toLsn(state.index.frames * state.frameBytes),
    // The size of a commit is bounded by its number of pages, above.
    maxRecordBytes: Number.MAX_SAFE_INTEGER
  })
  state.engine = engine
  const checkpointer = makeCheckpointer({
    state,
    engine,
    databaseFile,
    walFile,
    pageSize,
    restartFrames: options.restartFrames ?? defaults.restartFrames
  })
  yield* forkAutoCheckpoint(options.autoCheckpointFrames ?? defaults.autoCheckpointFrames, state, checkpointer)
  const recoveredIndex = state.index
  return Context.make(SqliteWal, {
    database: options.database,
    pageSize,
    startUp: examination,
    watermarks: engine.watermarks,
    frames: () => ({ inLog: state.index.frames, copied: checkpointer.copiedFrames() }),
    checkpoint: checkpointer.checkpoint
  }).pipe(Context.add(CommitLog, {
    database: options.database,
    pageSize,
    published: () => state.published,
    recovered: {
      base: recoveredIndex.base,
      tip: recoveredIndex.tip,
      pages: () => recoveredIndex.newestVersions()
    },
    ended: engine.ended,
    commitBytes: (pageCount) => pageCount * state.frameBytes,
    refuse: (pageCount) => state.refuse(pageCount),
    restore: (tip, walOffset) => state.restore(tip, walOffset),
    admit: engine.admit,
    appendUnsafe: (commit, waiter) => state.append(commit, waiter),
    poison: engine.poison,
    openReader: () => state.openReader(),
    onRestart: (listener) => {
      state.restartListeners.push(listener)
    }
  }))
})

// ---------------------------------------------------------------------------------------------------------------------
// Opening
// ---------------------------------------------------------------------------------------------------------------------

const openDatabase = Effect.fnUntraced(function*(options: SqliteWalOptions) {
  const vfs = yield* Vfs
  const fileLock = yield* FileLock
  const { acceptLoss, create, database } = options
  const databaseFile = yield* vfs.open(database, {
    access: "readWrite",
    create: create === undefined ? "never" : "ifMissing"
  })
  yield* lockDatabase(vfs, fileLock, database)
  const examine = examineDatabase(vfs, database, { acceptLoss: acceptLoss ?? false })
  let examination = yield* examine
  if (create !== undefined && examination.databaseFileBytes === 0 && examination.commits === 0) {
    yield* writeFirstPage(vfs, databaseFile, create.pageSize ?? defaultPageSize)
    examination = yield* examine
  }
  const { refusal } = examination
  const isToBeConverted = options.convert === true && refusal instanceof NotWalMode
  if (refusal !== undefined && !isToBeConverted) return yield* refusal
  yield* lockSharedMemory(fileLock, database)
  // From here on nobody else is in, nothing stands against it, and the disk may change.
  if (isToBeConverted) yield* convertToWal(databaseFile)
  for (const path of examination.sweepable) yield* vfs.remove(path)
  const walFile = yield* vfs.open(Format.walPath(database), { access: "readWrite", create: "ifMissing" })
  // What recovery found counts as durable from here on, so it has to be (GC-01).
  yield* walFile.syncData
  yield* databaseFile.syncData
  const pageSize = examination.pageSize
  invariant(pageSize !== undefined, "a database that was not refused has a page size")
  const state = yield* recoverState(options, examination, pageSize, databaseFile, walFile)
  if (examination.databaseFileBytes === 0) {
    // An empty file beside a log: stock SQLite would delete the log. Page 1 has to be in the file first (SWAL-09).
    const { commitSeq, databasePages } = state.published
    yield* copyPages({
      walFile,
      databaseFile,
      pageSize,
      index: state.index,
      fromFrame: 0,
      bound: commitSeq,
      isComplete: true,
      databasePages
    })
    yield* vfs.syncDirectory(directoryOf(database))
  }
  return { databaseFile, examination, pageSize, state, walFile }
})

/** Makes page 1 of a new database, synced with its name, so that no log ever lies beside an empty file (SWAL-09). */
const writeFirstPage = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  databaseFile: VfsFile,
  pageSize: PageSize
): Effect.fn.Return<void, VfsError> {
  yield* databaseFile.write([DatabaseHeaderFormat.emptyDatabasePage1(pageSize)], 0)
  yield* databaseFile.syncFull
  yield* vfs.syncDirectory(directoryOf(databaseFile.path))
})

const convertToWal = Effect.fnUntraced(function*(databaseFile: VfsFile): Effect.fn.Return<void, VfsError> {
  const page1 = new Uint8Array(DatabaseHeaderFormat.databaseHeaderBytes)
  yield* databaseFile.read(page1, 0)
  DatabaseHeaderFormat.setVersions(page1, 2)
  yield* databaseFile.write([page1], 0)
  yield* databaseFile.syncData
})

const randomU32 = Random.nextIntBetween(0, 0xffffffff)

/** Turns what was found into the state to go on from. */
const recoverState = Effect.fnUntraced(function*(
  options: SqliteWalOptions,
  found: DatabaseExamination,
  pageSize: PageSize,
  databaseFile: VfsFile,
  walFile: VfsFile
): Effect.fn.Return<WalState, VfsError, Vfs> {
  const vfs = yield* Vfs
  const { database } = options
  const base = toCommitSeq(found.tip - BigInt(found.commits))
  // The frames of the generation before are all in the database file: the crash came between wal-base and the header.
  const goesOn = found.walHeader !== undefined && found.tipSource !== "previous-generation"
  const onDisk = found.walHeader
  const previousSalts = { salt1: onDisk?.salt1 ?? 0, salt2: onDisk?.salt2 ?? 0 }
  const header: Format.WalHeader = goesOn && onDisk !== undefined ? onDisk : {
    checksumWords: "littleEndian",
    pageSize,
    checkpointSeq: onDisk === undefined ? 0 : (onDisk.checkpointSeq + 1) >>> 0,
    salt1: onDisk === undefined ? yield* randomU32 : (onDisk.salt1 + 1) >>> 0,
    salt2: yield* randomU32
  }
  const index = new WalIndex(goesOn ? base : found.tip)
  if (goesOn) {
    const commits: Array<Array<PageNumber>> = Array.from({ length: found.commits }, () => [])
    found.framePages.forEach((page, frame) => {
      commits[(found.frameCommit[frame] ?? 0) - 1]?.push(toPageNumber(page))
    })
    // Only the size after the last commit can be asked for: no reader is older than this process.
    for (const pages of commits) index.addCommit(pages, found.databasePages)
    if (found.tipSource === "no-wal-base" || found.tipSource === "foreign") {
      // The generation was begun by somebody else: from now on its sequences are written down. It has no generation of
      // ours before it, so both pairs of salts are its own.
      yield* writeWalBase(vfs, database, { sealed: false, header, previousSalts, base: index.base })
    }
  }
  return new WalState({
    vfs,
    database,
    pageSize,
    databaseFile,
    walFile,
    preallocateBytes: options.preallocateBytes ?? defaults.preallocateBytes,
    maxFrames: options.maxFrames ?? defaults.maxFrames,
    header,
    headerIsOnDisk: goesOn,
    chain: goesOn && found.chain !== undefined
      ? { ...found.chain }
      : Format.chainFromHeader(Format.encodeHeader(header)),
    previousSalts,
    index,
    databasePages: found.databasePages,
    walFileBytes: yield* walFile.size
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Checkpoints
// ---------------------------------------------------------------------------------------------------------------------

interface Checkpointer {
  readonly checkpoint: SqliteWal["Service"]["checkpoint"]
  readonly copiedFrames: () => number
  /** One round of the automatic checkpoint. */
  readonly automatic: Effect.Effect<void, CheckpointFailed | LogEnded>
}

const makeCheckpointer = (parts: {
  readonly state: WalState
  readonly engine: GroupCommit.GroupCommit
  readonly databaseFile: VfsFile
  readonly walFile: VfsFile
  readonly pageSize: PageSize
  readonly restartFrames: number
}): Checkpointer => {
  const { databaseFile, engine, pageSize, state, walFile } = parts
  // One checkpoint at a time: only a checkpoint starts the log over, so while one copies the index stays what it is.
  const oneAtATime = Semaphore.makeUnsafe(1)
  let copiedFrames = 0
  let failure: CheckpointFailed | undefined

  /** A failed write or sync leaves the database file unknown: no later sync of it could be trusted. */
  const orFailForGood = <A>(copy: Effect.Effect<A, VfsError | DatabaseTruncated>): Effect.Effect<A, CheckpointFailed> =>
    Effect.suspend((): Effect.Effect<A, CheckpointFailed> =>
      failure !== undefined ? Effect.fail(failure) : Effect.mapError(copy, (cause) => {
        failure = new CheckpointFailed({ path: databaseFile.path, cause })
        return failure
      })
    )

  /** Copies everything up to the oldest snapshot in use. */
  const copy = Effect.suspend(() => {
    const { commitSeq, databasePages } = state.published
    const bound = oldestOf(state.readers.oldest, commitSeq)
    return orFailForGood(copyPages({
      walFile,
      databaseFile,
      pageSize,
      index: state.index,
      fromFrame: copiedFrames,
      bound,
      isComplete: bound === commitSeq,
      databasePages: state.index.databasePagesAt(bound) ?? databasePages
    }))
  }).pipe(Effect.map((frames) => {
    copiedFrames = frames
  }))

  /** Everything is in the database file, and nobody reads what the log alone has. */
  const isDispensable = () => copiedFrames === state.index.frames && state.readers.isAtLeast(state.index.tip)
  const canStartOver = () => state.index.frames > 0 && isDispensable()

  /** Only while the log is quiet. Everything after the reset is one synchronous step. */
  const startOver = Effect.flatMap(randomU32, (salt2) =>
    engine.reset(toLsn(0)).pipe(
      Effect.catchTag("ResetWhileBusy", Effect.die),
      Effect.map(() => {
        state.startOver(salt2)
        copiedFrames = 0
      })
    ))

  /** Waits for the readers of older snapshots, and answers whether they went. */
  const waitForReaders = (busyTimeout: Duration.Input) =>
    Effect.suspend(() => state.readers.awaitAtLeast(state.index.tip)).pipe(
      Effect.timeoutOption(busyTimeout),
      Effect.map(Option.isSome)
    )

  const report = (mode: CheckpointMode, framesBefore: number, framesCopied: number, blocked: boolean) => ({
    mode,
    framesBefore,
    framesCopied,
    blocked
  })

  const passive = Effect.gen(function*() {
    const framesBefore = state.index.frames
    yield* copy
    return report("passive", framesBefore, copiedFrames, false)
  })

  const waiting = (mode: Exclude<CheckpointMode, "passive">, busyTimeout: Duration.Input) =>
    // The bulk is copied while commits go on; only the rest is copied while they wait.
    Effect.andThen(
      copy,
      engine.quiesce(Effect.gen(function*() {
        const isFree = yield* waitForReaders(busyTimeout)
        const framesBefore = state.index.frames
        yield* copy
        const framesCopied = copiedFrames
        if (mode === "restart" && canStartOver()) yield* startOver
        if (mode === "truncate" && isDispensable()) {
          if (state.index.frames > 0 || state.headerIsOnDisk) yield* startOver
          yield* truncate
        }
        return report(mode, framesBefore, framesCopied, !isFree)
      }))
    )

  const truncate = Effect.suspend(() => state.truncate()).pipe(
    Effect.catch((cause) => {
      // The log file itself could not be written or synced.
      engine.poison(Cause.fail(cause))
      return Effect.fail(new CheckpointFailed({ path: walFile.path, cause }))
    })
  )

  return {
    copiedFrames: () => copiedFrames,
    checkpoint: (mode, options) =>
      Effect.suspend((): Effect.Effect<CheckpointReport, CheckpointFailed | LogEnded> => {
        const ended = engine.ended()
        if (ended !== undefined) return Effect.fail(ended)
        return mode === "passive" ? passive : waiting(mode, options?.busyTimeout ?? defaults.busyTimeout)
      }).pipe(
        oneAtATime.withPermit,
        Effect.withSpan("tidemark.checkpoint", { attributes: { mode } })
      ),
    automatic: Effect.gen(function*() {
      yield* copy
      const { durable, reserved } = engine.watermarks()
      const isIdle = durable === reserved
      if (canStartOver() && isIdle) {
        yield* engine.quiesce(Effect.suspend(() => canStartOver() ? startOver : Effect.void))
      } else if (state.index.frames >= parts.restartFrames) {
        yield* engine.quiesce(Effect.gen(function*() {
          if (!state.readers.isAtLeast(state.index.tip)) return
          yield* copy
          if (canStartOver()) yield* startOver
        }))
      }
    }).pipe(oneAtATime.withPermit)
  }
}

const oldestOf = (oldest: CommitSeq | undefined, published: CommitSeq): CommitSeq =>
  oldest === undefined || oldest > published ? published : oldest

/** Runs a passive checkpoint whenever enough frames have gathered since the last attempt. Never fails a commit. */
const forkAutoCheckpoint = Effect.fnUntraced(function*(
  threshold: number,
  state: WalState,
  checkpointer: Checkpointer
): Effect.fn.Return<void, never, Scope.Scope> {
  if (threshold === 0) return
  let attemptedAt = { generation: state.generation, frames: 0 }
  const isDue = () => {
    const since = attemptedAt.generation === state.generation ? attemptedAt.frames : 0
    return state.index.frames - since >= threshold
  }
  const awaitDue = Effect.callback<void>((resume) => {
    if (isDue()) return resume(Exit.void)
    state.onPublished = () => {
      if (!isDue()) return
      state.onPublished = () => {}
      resume(Exit.void)
    }
  })
  yield* Effect.gen(function*() {
    while (true) {
      yield* awaitDue
      attemptedAt = { generation: state.generation, frames: state.index.frames }
      yield* checkpointer.automatic
    }
  }).pipe(
    Effect.catch((error) =>
      error._tag === "CheckpointFailed"
        ? Effect.logWarning("automatic checkpoints stop until the database is opened again", error)
        : Effect.void
    ),
    Effect.forkScoped
  )
})

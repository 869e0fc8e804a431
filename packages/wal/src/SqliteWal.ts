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
import type { CommitSeq, PageSize } from "@tidemark/core/Scalars"
import { toLsn } from "@tidemark/core/Scalars"
import type { FileLock, FileLockUnavailable } from "@tidemark/platform/FileLock"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { CommitLog } from "./CommitLog.ts"
import type { GroupCommitOptions, LogEnded, Watermarks } from "./GroupCommit.ts"
import * as GroupCommit from "./GroupCommit.ts"
import { forkAutoCheckpoint } from "./internal/autoCheckpoint.ts"
import { CopyBuffer, copyPages } from "./internal/checkpoint.ts"
import { openDatabase, randomU32 } from "./internal/openDatabase.ts"
import type { WalState } from "./internal/walState.ts"
import type { Busy, DatabaseTruncated, LogLocked } from "./LogErrors.ts"
import { CheckpointFailed } from "./LogErrors.ts"
import { maxFrames } from "./SqliteWalFormat.ts"
import type { DatabaseExamination } from "./StartUp.ts"
import type { StartUpRefusal } from "./StartUpErrors.ts"

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
   * 64,000, but no more than make 256 MiB of pages. Below it the log starts over when it happens to be idle.
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
  restartFrames: 64_000,
  preallocateBytes: 1024 * 1024,
  maxFrames,
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
      restartFrames: Option.getOrUndefined(
        yield* Config.option(Config.schema(NotNegative, "TIDEMARK_RESTART_FRAMES"))
      ),
      preallocateBytes: yield* notNegative("TIDEMARK_WAL_PREALLOCATE_BYTES", defaults.preallocateBytes)
    })
  }))

const NotNegative = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))

const make = Effect.fnUntraced(function*(
  options: SqliteWalOptions
): Effect.fn.Return<Context.Context<SqliteWal | CommitLog>, OpenError, Vfs | FileLock | Scope.Scope> {
  const maxFrames = options.maxFrames ?? defaults.maxFrames
  const opened = yield* openDatabase({
    ...options,
    preallocateBytes: options.preallocateBytes ?? defaults.preallocateBytes,
    maxFrames
  })
  const { databaseFile, examination, pageSize, state, walFile } = opened
  const sink = state.sink()
  const engine = yield* GroupCommit.make(sink, {
    ...options.groupCommit,
    initialLsn: toLsn(state.index.frames * state.frameBytes),
    // The size of a commit is bounded by its number of pages, above.
    maxRecordBytes: Number.MAX_SAFE_INTEGER,
    // A page transaction is microseconds of work for its writer, and more for its coordinator: two groups are faster than
    // one early where the next batch does not have to wait for this thread (decision 0020).
    overlapWaiters: () => walFile.hasWriteQueue() ? 48 : 80
  })
  state.engine = engine
  const restartFrames = options.restartFrames ?? Math.min(defaults.restartFrames, restartBytes / pageSize)
  const checkpointer = makeCheckpointer({
    state,
    engine,
    databaseFile,
    walFile,
    pageSize,
    restartFrames
  })
  let attemptedAt = { generation: state.generation, frames: 0 }
  yield* forkAutoCheckpoint({
    threshold: options.autoCheckpointFrames ?? defaults.autoCheckpointFrames,
    sinceLastRound: () => state.index.frames - (attemptedAt.generation === state.generation ? attemptedAt.frames : 0),
    onPublished: (listener) => {
      state.onPublished = listener
    },
    // Well before commits are refused for want of frames.
    isUrgent: () => state.index.frames >= Math.min(restartFrames, maxFrames / 2),
    round: Effect.suspend(() => {
      attemptedAt = { generation: state.generation, frames: state.index.frames }
      return checkpointer.automatic
    })
  })
  const recoveredIndex = state.index
  const recoveredTip = recoveredIndex.tip
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
      tip: recoveredTip,
      pages: () => recoveredIndex.versionsAt(recoveredTip)
    },
    ended: engine.ended,
    commitBytes: (pageCount) => pageCount * state.frameBytes,
    refuse: (pageCount) => state.refuse(pageCount),
    restore: (tip, walOffset) => state.restore(tip, walOffset),
    admit: engine.admit,
    appendUnsafe: (commit, waiter) => state.append(commit, waiter),
    poison: engine.poison,
    // A failure is told to those who wait.
    settle: Effect.ignore(engine.flushNow),
    openReader: () => state.openReader(),
    isSeenByReaders: (commit) => state.readers.isAtLeast(commit),
    onRestart: (listener) => {
      state.restartListeners.push(listener)
    },
    onPublished: (listener) => {
      state.publishedListeners.push(listener)
    }
  }))
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
  const buffer = new CopyBuffer()
  let copiedFrames = 0
  /** The tip when the last automatic round began. */
  let roundAt = state.index.tip
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
      databasePages: state.index.databasePagesAt(bound) ?? databasePages,
      buffer
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

  const truncate = state.announce.pipe(
    // The base that is there goes with the log as it is: nothing has happened yet.
    Effect.mapError((cause) => new CheckpointFailed({ path: cause.path, cause })),
    Effect.andThen(Effect.catch(state.cutOff, (cause) => {
      // The log file itself could not be cut or synced: what is in it is unknown.
      engine.poison(Cause.fail(cause))
      return Effect.fail(new CheckpointFailed({ path: walFile.path, cause }))
    }))
  )

  return {
    copiedFrames: () => copiedFrames,
    checkpoint: (mode, options) =>
      Effect.suspend((): Effect.Effect<CheckpointReport, CheckpointFailed | LogEnded> => {
        const ended = engine.ended()
        if (ended !== undefined) return Effect.fail(ended)
        return mode === "passive" ? passive : waiting(mode, options?.busyTimeout ?? defaults.busyTimeout)
      }).pipe(
        (checkpoint) => oneAtATime.withPermit(checkpoint),
        Effect.withSpan("tidemark.checkpoint", { attributes: { mode } })
      ),
    automatic: Effect.gen(function*() {
      const previousRoundAt = roundAt
      roundAt = state.published.commitSeq
      yield* copy
      const { durable, reserved } = engine.watermarks()
      const isIdle = durable === reserved
      if (canStartOver() && isIdle) {
        yield* engine.quiesce(Effect.suspend(() => canStartOver() ? startOver : Effect.void))
      } else if (state.index.frames >= parts.restartFrames && state.readers.isAtLeast(previousRoundAt)) {
        // Whoever reads has begun after the round before this one: transactions that come and go, worth a moment's wait.
        // For a reader that stays nobody is held up.
        yield* engine.quiesce(Effect.gen(function*() {
          if (!(yield* waitForReaders(restartPatience))) return
          yield* copy
          if (canStartOver()) yield* startOver
        }))
      }
    }).pipe((round) => oneAtATime.withPermit(round))
  }
}

/** Pages that a log holds before it starts over under load, unless its options say otherwise: 256 MiB of them. */
const restartBytes = 256 * 1024 * 1024

/** How long commits are held up at the most for readers that are in the way of a log that starts over under load. */
const restartPatience = Duration.millis(50)

const oldestOf = (oldest: CommitSeq | undefined, published: CommitSeq): CommitSeq =>
  oldest === undefined || oldest > published ? published : oldest

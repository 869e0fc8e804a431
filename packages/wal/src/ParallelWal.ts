/**
 * A parallel write-ahead log: writers fill lanes without meeting each other, a ticker closes an epoch about every 10 ms,
 * one segment per epoch is written and synced, and a certificate makes its commits count.
 *
 * **Details**
 *
 * What is committed here lies in files that stock SQLite does not know, so it refuses the database until a checkpoint
 * has brought everything into the database file (`formats.md` 2.2). Closing the layer does that, unless told otherwise or
 * somebody still reads.
 *
 * Only three steps are ordered: the commit sequences of an epoch are assigned, its certificate becomes durable, its
 * commits are published. A segment that cannot be written (a full disk) poisons nothing: it is written again, to another
 * file, until it is there; commits wait meanwhile. A certificate that cannot be written poisons the log.
 *
 * @since 0.1.0
 */
import type { CommitSeq, LaneId, PageNumber, PageSize, TxnToken, WalEpoch } from "@tidemark/core/Scalars"
import type { FileLock, FileLockUnavailable } from "@tidemark/platform/FileLock"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { CommitLog } from "./CommitLog.ts"
import type { LogEnded } from "./GroupCommit.ts"
import { parallelDefaults } from "./internal/parallelDefaults.ts"
import { makeParallelWal } from "./internal/parallelWal.ts"
import type { Busy, CheckpointFailed, DatabaseTruncated, LogLocked } from "./LogErrors.ts"
import type { ParallelExamination } from "./ParallelStartUp.ts"
import { controlFromConfig, type ControlSurface } from "./ParallelWalControl.ts"
import type { Decision } from "./ParallelWalController.ts"
import type { AlreadyRunning, DurabilityTimeout, EpochBusy, LaneFull } from "./ParallelWalErrors.ts"
import type { FallbackReason, noFallback } from "./ParallelWalTrace.ts"
import type { SyncPolicy } from "./SegmentStore.ts"
import type { CheckpointMode, CheckpointReport } from "./SqliteWal.ts"
import type { StartUpRefusal } from "./StartUpErrors.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface ParallelWalOptions {
  /** Path of the database file. */
  readonly database: string
  /** Make the database when there is none: an empty one with pages of this size. Default: it must exist. */
  readonly create?: { readonly pageSize?: PageSize | undefined } | undefined
  /** Modes and bounds; what is left out is as in `controlDefaults`. */
  readonly control?: Partial<ControlSurface> | undefined
  /** How long an epoch lasts. Default 10 ms. */
  readonly epochInterval?: Duration.Input | undefined
  /** Whether the ticker begins with the layer. Default true. */
  readonly ticker?: boolean | undefined
  /** Whether the controller closes epochs before their time (PW-33). Default true. */
  readonly controller?: boolean | undefined
  /** Lanes that can be in use at a time. Default 128. */
  readonly slots?: number | undefined
  /** Accounted bytes (48 and both images per record) that a lane holds. Default 4 MiB. */
  readonly laneCapacityBytes?: number | undefined
  /** What becomes of a batch that does not fit into its lane. Default `"overflow"`. */
  readonly overflowPolicy?: "block" | "overflow" | undefined
  /** Accounted bytes beside the lanes above which the log falls back to conservative mode. Default 8 MiB. */
  readonly overflowLimitBytes?: number | undefined
  /** The most bytes that are handed over and not durable; committers above it wait in line. Default 64 MiB. */
  readonly maxQueuedBytes?: number | undefined
  /** What is synced before an epoch counts as durable (PW-23). Default `"full"`. */
  readonly syncPolicy?: SyncPolicy | undefined
  /** A checkpoint starts in the background when so many records are not in the database file. 0: never. Default 1000. */
  readonly autoCheckpointFrames?: number | undefined
  /** Whether closing copies everything into the database file, so that stock SQLite may open it. Default true. */
  readonly checkpointOnClose?: boolean | undefined
  /** Keep what stands before a certified segment that is lost or damaged, instead of refusing (RC-08). Default false. */
  readonly stopAtCorrupt?: boolean | undefined
  /** Replay segments without any certificate, by epoch (RC-11). Default false. */
  readonly trustSegments?: boolean | undefined
  /** Ignore segments without any certificate (RC-11). Default false. */
  readonly discardSegments?: boolean | undefined
}

/**
 * The defaults of {@link ParallelWalOptions}.
 *
 * @category models
 * @since 0.1.0
 */
export const defaults = parallelDefaults

/**
 * Why a database could not be opened. Nothing was changed on the disk.
 *
 * @category errors
 * @since 0.1.0
 */
export type OpenParallelError =
  | StartUpRefusal
  | LogLocked
  | Busy
  | DatabaseTruncated
  | FileLockUnavailable
  | VfsError

/**
 * A page as a transaction leaves it.
 *
 * @category models
 * @since 0.1.0
 */
export interface PageRecord {
  readonly page: PageNumber
  /** Exactly one page of bytes; copied. */
  readonly after: Uint8Array
  /** A record without an end: it is not flushed (PW-13). */
  readonly isAborted?: boolean | undefined
}

/**
 * A transaction for {@link ParallelWal.submitBatch}.
 *
 * @category models
 * @since 0.1.0
 */
export interface PageBatch {
  readonly token: TxnToken
  /** In any order, each page once. */
  readonly records: ReadonlyArray<PageRecord>
  /** Database size in pages after it. Default: as before, or up to its last page. */
  readonly databasePages?: number | undefined
}

/**
 * Where a batch is: in this epoch. It counts when the epoch is durable.
 *
 * @category models
 * @since 0.1.0
 */
export interface SubmittedBatch {
  readonly epoch: WalEpoch
  /** `undefined` when nothing of the batch is flushed. */
  readonly commitSeq: CommitSeq | undefined
}

/**
 * A writer with a lane of its own for as long as its scope is open (PW-01).
 *
 * @category models
 * @since 0.1.0
 */
export interface LaneWriter {
  readonly lane: LaneId
  /**
   * Stores a transaction as a whole in the open epoch and answers without waiting for its durability. Fails with
   * `LaneFull` under the overflow policy `"block"`.
   */
  readonly submitBatch: (batch: PageBatch) => Effect.Effect<SubmittedBatch, LaneFull | LogEnded>
  /**
   * Batches that are submitted inside belong to one epoch, as far as those who advance are told to wait for this writer
   * ({@link ParallelWal.advanceAndFlush}).
   */
  readonly section: <A, E, R>(use: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

/**
 * The parallel log of one database.
 *
 * @category services
 * @since 0.1.0
 */
export class ParallelWal extends Context.Service<ParallelWal, {
  readonly database: string
  readonly pageSize: PageSize
  /** What was found when the database was opened. */
  readonly startUp: ParallelExamination
  readonly control: ControlSurface
  /** Lanes that writers are given at the moment. */
  readonly laneCount: () => number
  /** The epoch that takes what is submitted now. */
  readonly epoch: () => WalEpoch
  /** Everything up to this epoch is durable; `undefined` before the first. */
  readonly durableEpoch: () => WalEpoch | undefined
  /** The last commit that is durable and visible. */
  readonly published: () => CommitSeq
  /** Records and segments that are not in the database file. */
  readonly inLog: () => { readonly records: number; readonly segments: number }
  /** Why the log works conservatively although it was not told to (PW-31). */
  readonly fallback: () => FallbackReason | typeof noFallback
  /** Ends every fallback but that of a lane that overflowed, which ends by itself. */
  readonly resumeParallel: Effect.Effect<void>
  /** Works conservatively until it is told to resume. */
  readonly forceConservative: Effect.Effect<void>
  /** A writer without a coordinator. A log that a coordinator uses has no others: a defect. */
  readonly writer: Effect.Effect<LaneWriter, never, Scope.Scope>
  /** Waits until an epoch is durable. What times out is undecided (PW-15). */
  readonly awaitDurable: (
    epoch: WalEpoch,
    timeout: Duration.Input
  ) => Effect.Effect<void, DurabilityTimeout | LogEnded>
  /**
   * One cycle by hand (PW-16): closes the open epoch and makes it durable, or tries again what could not be written.
   * Answers whether it is durable. Waits for the writers named to leave their sections, ten intervals at the most
   * (PW-10); then the epoch stays open, and nothing is sealed.
   */
  readonly advanceAndFlush: (
    options?: { readonly waitFor?: ReadonlyArray<LaneWriter> | undefined }
  ) => Effect.Effect<boolean, EpochBusy | LogEnded>
  /** Starts the ticker for as long as the scope is open (PW-14). */
  readonly startTicker: Effect.Effect<void, AlreadyRunning, Scope.Scope>
  /** Stops it, whoever started it, after the cycle that runs. Nothing is drained. */
  readonly stopTicker: Effect.Effect<void>
  /** What the controller decided last, oldest first. */
  readonly decisions: () => ReadonlyArray<Decision>
  /**
   * Copies certified pages into the database file, writes the checkpoint mark, removes the segments. `passive` goes as
   * far as the oldest reader and waits for nobody; the others wait for readers up to `busyTimeout` (default 5 s) and let
   * stock SQLite in again; `restart` and `truncate` also empty the certificate log.
   */
  readonly checkpoint: (
    mode: CheckpointMode,
    options?: { readonly busyTimeout?: Duration.Input | undefined }
  ) => Effect.Effect<CheckpointReport, CheckpointFailed | LogEnded>
}>()("@tidemark/wal/ParallelWal") {}

/**
 * Opens the log of a database: `ParallelWal`, and the `CommitLog` that coordinators and pagers use.
 *
 * **Example** (The same engine over the other log)
 *
 * ```ts
 * import { CompatCoordinator, Pager } from "@tidemark/coordinator"
 * import { NodeVfs } from "@tidemark/platform"
 * import { ParallelWal } from "@tidemark/wal"
 * import { Layer } from "effect"
 *
 * const Engine = Pager.layer.pipe(
 *   Layer.provideMerge(CompatCoordinator.layer),
 *   Layer.provideMerge(ParallelWal.layer({ database: "app.db", create: {} })),
 *   Layer.provideMerge(NodeVfs.layer)
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: ParallelWalOptions
): Layer.Layer<ParallelWal | CommitLog, OpenParallelError, Vfs | FileLock> => Layer.effectContext(make(options))

/**
 * {@link layer} with options from the configuration: `TIDEMARK_DATABASE`, `TIDEMARK_AUTO_CHECKPOINT_FRAMES`,
 * `TIDEMARK_EPOCH_INTERVAL_MS`, `TIDEMARK_PARALLEL_CONTROLLER`, and the control surface from `FSQLITE_PARALLEL_WAL_*`,
 * whose default mode is conservative.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<ParallelWal | CommitLog, OpenParallelError | Config.ConfigError, Vfs | FileLock> =
  Layer.unwrap(Effect.gen(function*() {
    return layer({
      database: yield* Config.String("TIDEMARK_DATABASE"),
      control: yield* controlFromConfig,
      autoCheckpointFrames: yield* Config.schema(NotNegative, "TIDEMARK_AUTO_CHECKPOINT_FRAMES").pipe(
        Config.withDefault(defaults.autoCheckpointFrames)
      ),
      epochInterval: Duration.millis(
        yield* Config.schema(Positive, "TIDEMARK_EPOCH_INTERVAL_MS").pipe(
          Config.withDefault(Duration.toMillis(defaults.epochInterval))
        )
      ),
      controller: yield* Config.Boolean("TIDEMARK_PARALLEL_CONTROLLER").pipe(Config.withDefault(true))
    })
  }))

const NotNegative = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))
const Positive = Schema.Finite.check(Schema.isGreaterThan(0))

const make = (
  options: ParallelWalOptions
): Effect.Effect<Context.Context<ParallelWal | CommitLog>, OpenParallelError, Vfs | FileLock | Scope.Scope> =>
  Effect.map(
    makeParallelWal(options),
    ({ commitLog, parallelWal }) => Context.make(ParallelWal, parallelWal).pipe(Context.add(CommitLog, commitLog))
  )

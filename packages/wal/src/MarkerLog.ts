/**
 * A dense, chained, durable sequence of commit markers: each says that something, named by the hash of its contents, was
 * committed, when, and after what.
 *
 * **When to use**
 *
 * Use as the spine of a content-addressed store: objects are put wherever they belong, and become part of the history in
 * the moment in which a marker names them. The native log of this package is such a store; this service is its marker
 * stream alone, for others.
 *
 * **Details**
 *
 * 1. A marker takes 88 bytes (section 6 of `formats.md`). Sequences have no gaps, except where a part of the stream
 *    begins anew, with a genesis record.
 * 2. Whatever a marker names has to be durable before it is appended: the log does not look at it.
 * 3. Many writers share one sync: see `GroupCommit`. An append answers when its marker is durable.
 * 4. Each marker names the one before it by a hash, so that two streams with the same last id are the same stream.
 *
 * **Gotchas**
 *
 * An `append` that is interrupted while it waits may be in the stream all the same. A database with a native log keeps
 * its own stream in the same place: it is opened by that log, not by this service.
 *
 * @since 0.1.0
 */
import type { CommitSeq, ObjectId } from "@tidemark/core/Scalars"
import type { FileLock, FileLockUnavailable } from "@tidemark/platform/FileLock"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { GroupCommitOptions, LogEnded } from "./GroupCommit.ts"
import * as GroupCommit from "./GroupCommit.ts"
import { openMarkerLog } from "./internal/markerLogOpen.ts"
import type { LogLocked } from "./LogErrors.ts"
import type { MarkersDamaged } from "./MarkerErrors.ts"
import type { Marker } from "./MarkerFormat.ts"
import { markersPerSegment } from "./MarkerFormat.ts"
import type { MarkerDamage, MarkerReader } from "./MarkerStore.ts"

/**
 * What is committed.
 *
 * @category models
 * @since 0.1.0
 */
export interface MarkerCommit {
  /** The id of what is committed. Zeros are a defect: they mean that nothing is. */
  readonly capsule: ObjectId
  /** The id of an object that proves something about it, where there is one. */
  readonly proof?: ObjectId | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface MarkerLogOptions
  extends Pick<GroupCommitOptions, "maxBatchBytes" | "maxQueuedBytes" | "commitDelay" | "commitSiblings">
{
  /** Path of the database; the stream is in `<database>.fsqlite/markers`, which is made when it does not exist. */
  readonly database: string
  /**
   * How much is checked when the log is opened. `"newest"`, the default: what one batch can hold, and so what a crash can
   * have hit, whatever the length of the stream. `"all"`: every record.
   */
  readonly verify?: "newest" | "all" | undefined
  /**
   * `true`: where the stream is damaged (RC-26) what stands before the damage is kept, and the rest is cut off; it goes on
   * with sequences above all of it. Default: it is refused.
   */
  readonly acceptLoss?: boolean | undefined
  /** The highest sequence that was used for the database by something else. Default: none. */
  readonly tip?: CommitSeq | undefined
}

/**
 * What was found when the log was opened.
 *
 * @category models
 * @since 0.1.0
 */
export interface MarkerLogRecovery {
  /** The rows of the start-up table that applied: a torn end, swept files, accepted damage. */
  readonly cases: ReadonlyArray<"RC-14" | "RC-25" | "RC-26">
  /** There was no stream; one was begun. */
  readonly isNew: boolean
  /** Bytes of the torn end. Nothing of it was ever acknowledged. */
  readonly droppedBytes: number
  /** What was accepted. */
  readonly damage: MarkerDamage | undefined
  /** Records before this sequence were not checked. */
  readonly verifiedFrom: CommitSeq
  /** The last record that counted; `undefined` when there was none. */
  readonly last: CommitSeq | undefined
  /** The sequence of the first commit of this opening. */
  readonly next: CommitSeq
}

/**
 * Why a marker log could not be opened. Nothing of the stream was changed.
 *
 * @category errors
 * @since 0.1.0
 */
export type OpenMarkerLogError = LogLocked | MarkersDamaged | FileLockUnavailable | VfsError

/**
 * An open marker stream.
 *
 * **Example** (Committing what was stored elsewhere)
 *
 * ```ts
 * import { toObjectId } from "@tidemark/core/Scalars"
 * import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
 * import { MarkerLog } from "@tidemark/wal/MarkerLog"
 * import { Effect, Layer } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const log = yield* MarkerLog
 *   const capsule = toObjectId(new Uint8Array(16).fill(7))
 *   const { seq } = yield* log.append({ capsule })
 *   const marker = yield* log.read(seq)
 *   return [seq, marker?.capsule[0]]
 * })
 * const log = MarkerLog.layer({ database: "/app.db" }).pipe(Layer.provide(MemoryVfs.layer))
 *
 * await Effect.runPromise(program.pipe(Effect.provide(log))) // => [1n, 7]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class MarkerLog extends Context.Service<
  MarkerLog,
  MarkerReader & {
    readonly database: string
    /** Where the files are. */
    readonly directory: string
    /** What was found when the log was opened. */
    readonly recovery: MarkerLogRecovery
    /**
     * Appends the next marker and waits until it is durable. Sequences are given in the order of calls; while the queue is
     * full (GC-11) a writer waits in line, having got none.
     */
    readonly append: (commit: MarkerCommit) => Effect.Effect<Marker, LogEnded>
    /** The last sequence that is durable, that of a genesis record where there is no commit. What can be read ends here. */
    readonly tip: () => CommitSeq
    /** Makes everything durable that was handed over. */
    readonly flush: Effect.Effect<void, LogEnded>
    /** Why the log takes nothing any more, or `undefined` while it lives. */
    readonly ended: () => LogEnded | undefined
  }
>()("@tidemark/wal/MarkerLog") {
  /** Opens a marker log until the scope closes. */
  static readonly open = (
    options: MarkerLogOptions
  ): Effect.Effect<MarkerLog["Service"], OpenMarkerLogError, Vfs | FileLock | ProcessLiveness | Scope.Scope> =>
    openMarkerLog({ ...options, perSegment: markersPerSegment })

  /** Opens a marker log as a service. */
  static readonly layer = (
    options: MarkerLogOptions
  ): Layer.Layer<MarkerLog, OpenMarkerLogError, Vfs | FileLock | ProcessLiveness> =>
    Layer.effect(MarkerLog, this.open(options))

  /**
   * {@link layer} with options from the configuration: `TIDEMARK_DATABASE`, `TIDEMARK_MARKER_LOG_VERIFY`,
   * `TIDEMARK_MARKER_LOG_ACCEPT_LOSS`, `TIDEMARK_MARKER_LOG_MAX_BATCH_BYTES`, `TIDEMARK_MARKER_LOG_MAX_QUEUED_BYTES`,
   * `TIDEMARK_MARKER_LOG_COMMIT_DELAY`, `TIDEMARK_MARKER_LOG_COMMIT_SIBLINGS`.
   */
  static readonly layerConfig: Layer.Layer<
    MarkerLog,
    OpenMarkerLogError | Config.ConfigError,
    Vfs | FileLock | ProcessLiveness
  > = Layer.unwrap(Effect.gen(function*() {
    const integer = (name: string, minimum: number, byDefault: number) =>
      Config.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum: Number.MAX_SAFE_INTEGER })), name).pipe(
        Config.withDefault(byDefault)
      )
    return MarkerLog.layer({
      database: yield* Config.String("TIDEMARK_DATABASE"),
      verify: yield* Config.Literals(["newest", "all"], "TIDEMARK_MARKER_LOG_VERIFY").pipe(
        Config.withDefault("newest")
      ),
      acceptLoss: yield* Config.Boolean("TIDEMARK_MARKER_LOG_ACCEPT_LOSS").pipe(Config.withDefault(false)),
      maxBatchBytes: yield* integer("TIDEMARK_MARKER_LOG_MAX_BATCH_BYTES", 1, GroupCommit.defaults.maxBatchBytes),
      maxQueuedBytes: yield* integer("TIDEMARK_MARKER_LOG_MAX_QUEUED_BYTES", 1, GroupCommit.defaults.maxQueuedBytes),
      commitDelay: yield* Config.Duration("TIDEMARK_MARKER_LOG_COMMIT_DELAY").pipe(Config.withDefault(Duration.zero)),
      commitSiblings: yield* integer(
        "TIDEMARK_MARKER_LOG_COMMIT_SIBLINGS",
        0,
        GroupCommit.defaults.commitSiblings
      )
    })
  }))
}

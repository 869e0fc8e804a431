/**
 * A durable, segmented, append-only log: append from any number of fibers, wait, stream, truncate from the front.
 *
 * **When to use**
 *
 * Use as the storage of event stores, queues, state machines and audit trails: whatever has to know, in order, what
 * happened, and must not forget it when the power fails.
 *
 * **Details**
 *
 * A log is a directory of segment files (section 5 of `formats.md`). A position in it is an LSN, which is never used
 * again. Writers hand records over in one synchronous step each; one leader fiber writes what has gathered, syncs once
 * and wakes those who waited: see `GroupCommit`.
 *
 * Opening takes a kernel lock on `<directory>/lock`, scans every segment, refuses damage with {@link LogCorrupt} having
 * changed nothing, clears the torn tail that a power loss may have left, and goes on behind the last valid batch.
 *
 * **Gotchas**
 *
 * An `append` that is interrupted while it waits may be in the log all the same.
 *
 * @since 0.1.0
 */
import type { Lsn } from "@tidemark/core/Scalars"
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
import type * as Stream from "effect/Stream"
import type { LogCorrupt, LsnNotAFrame, LsnTruncated } from "./AppendLogErrors.ts"
import { maxPayloadBytes } from "./AppendLogFormat.ts"
import type { CommitMode, GroupCommitOptions, LogEnded } from "./GroupCommit.ts"
import * as GroupCommit from "./GroupCommit.ts"
import { openLog } from "./internal/appendLogOpen.ts"
import type { EmptyRecord, LogLocked, LsnNotReserved, RecordTooLarge } from "./LogErrors.ts"
import type { TransactionRecord } from "./TransactionRecordFormat.ts"

/**
 * What an append is promised before its writer goes on: `"appended"`, in order and in memory; `"written"` to the
 * operating system; `"durable"`, covered by a completed sync.
 *
 * @category models
 * @since 0.1.0
 */
export type AppendUntil = "appended" | CommitMode

/**
 * @category models
 * @since 0.1.0
 */
export interface AppendOptions {
  /** Default `"durable"`. */
  readonly until?: AppendUntil | undefined
}

/**
 * Where a record lies.
 *
 * @category models
 * @since 0.1.0
 */
export interface Appended {
  /** The start of its frame, for reading. */
  readonly start: Lsn
  /** The position behind its frame, for waiting and for going on with reading. */
  readonly end: Lsn
}

/**
 * A record as it was read.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogRecord {
  readonly start: Lsn
  readonly end: Lsn
  /**
   * A view into memory that holds neighbouring records as well and is never written again. Who keeps few records of
   * many for long copies them (`payload.slice()`).
   */
  readonly payload: Uint8Array
}

/**
 * A range of the log that was handed out and is filled later. Whoever waits behind it waits for it.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogReservation extends Appended {
  /** Copies the payload in. Once, and exactly as many bytes as were reserved: anything else is a defect. */
  readonly fill: (payload: Uint8Array) => Effect.Effect<void, LogEnded>
}

/**
 * How far the log has come: `firstKept <= durable <= written <= reserved`, and each only grows.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogWatermarks extends GroupCommit.Watermarks {
  /** Where the first segment starts that has not been truncated away. */
  readonly firstKept: Lsn
}

/**
 * What was found when the log was opened.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogRecovery {
  /** The rows of the start-up table that applied: a torn tail (RC-12), temporary files that were swept (RC-25). */
  readonly cases: ReadonlyArray<"RC-12" | "RC-25">
  /** There was no log in the directory; one was made. */
  readonly isNew: boolean
  /** Bytes of the torn tail, up to the last that was not zero. Nothing of it was ever acknowledged as durable. */
  readonly droppedBytes: number
  readonly segments: number
  readonly firstKept: Lsn
  /** Where the log went on. */
  readonly end: Lsn
  /** Names of the temporary files that were removed. */
  readonly swept: ReadonlyArray<string>
  /** Names of files that are none of the log's. They are left alone. */
  readonly foreign: ReadonlyArray<string>
}

/**
 * @category models
 * @since 0.1.0
 */
export interface AppendLogOptions extends
  Pick<
    GroupCommitOptions,
    "maxBatchBytes" | "maxQueuedBytes" | "commitDelay" | "commitSiblings"
  >
{
  /** Path of the log's directory, which is the log's alone. It is made when it does not exist. */
  readonly directory: string
  /** A segment that has reached so many bytes is followed by the next one. Default 64 MiB. */
  readonly segmentBytes?: number | undefined
  /**
   * The largest payload of a record, bytes. The records of one `appendAll` take together no more room in the log than
   * one record of this size. Default 16 MiB.
   */
  readonly maxRecordBytes?: number | undefined
  /**
   * Segments are filled with zeros ahead of their records, at least so many bytes at a time, so that a sync changes no
   * metadata. A small log takes so many bytes on the disk. 0: they are not. Default 1 MiB.
   */
  readonly preallocateBytes?: number | undefined
}

/**
 * The defaults of {@link AppendLogOptions}; those of the group commit are `GroupCommit.defaults`.
 *
 * @category configuration
 * @since 0.1.0
 */
export const defaults = {
  segmentBytes: 64 * 1024 * 1024,
  maxRecordBytes: GroupCommit.defaults.maxRecordBytes,
  preallocateBytes: 1024 * 1024
} as const

/**
 * Why a log could not be opened. Nothing was changed on the disk.
 *
 * @category errors
 * @since 0.1.0
 */
export type OpenError = LogLocked | LogCorrupt | FileLockUnavailable | VfsError

/**
 * Why a hand-over was refused, or will never be durable.
 *
 * @category errors
 * @since 0.1.0
 */
export type AppendError = EmptyRecord | RecordTooLarge | LogEnded

/**
 * Why a record cannot be read.
 *
 * @category errors
 * @since 0.1.0
 */
export type ReadError = LsnTruncated | LsnNotAFrame | LsnNotReserved | LogCorrupt | LogEnded | VfsError

/**
 * An open log.
 *
 * **Example** (Following a log)
 *
 * ```ts
 * import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
 * import { AppendLog } from "@tidemark/wal/AppendLog"
 * import { Effect, Fiber, Layer, Stream } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const log = yield* AppendLog
 *   const follower = yield* log.stream({ follow: true }).pipe(
 *     Stream.map(({ payload }) => new TextDecoder().decode(payload)),
 *     Stream.take(3),
 *     Stream.runCollect,
 *     Effect.forkChild
 *   )
 *   yield* Effect.forEach(["one", "two", "three"], (text) => log.append(new TextEncoder().encode(text)))
 *   return yield* Fiber.join(follower)
 * })
 * const log = AppendLog.layer({ directory: "/audit" }).pipe(Layer.provide(MemoryVfs.layer))
 *
 * await Effect.runPromise(program.pipe(Effect.provide(log))) // => ["one", "two", "three"]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class AppendLog extends Context.Service<AppendLog, {
  readonly directory: string
  /** 16 bytes, drawn when the log was made, in every segment. */
  readonly logId: Uint8Array
  /** What was found when the log was opened. */
  readonly recovery: LogRecovery

  /**
   * Hands one record over and waits for what `until` says. The payload is copied in the step in which it is handed
   * over; while the queue is full (GC-11) the writer waits in line, and the payload must not change.
   */
  readonly append: (payload: Uint8Array, options?: AppendOptions) => Effect.Effect<Appended, AppendError>

  /**
   * Hands several records over as one: they are neighbours, in one batch, and after a crash all of them are there or
   * none. Refused when there is none, when one is empty, or when together they are larger than one record may be.
   */
  readonly appendAll: (
    payloads: ReadonlyArray<Uint8Array>,
    options?: AppendOptions
  ) => Effect.Effect<ReadonlyArray<Appended>, AppendError>

  /** {@link appendAll} of typed payloads (LOG-13). What cannot be encoded is a defect. */
  readonly appendTransaction: (
    transaction: ReadonlyArray<TransactionRecord>,
    options?: AppendOptions
  ) => Effect.Effect<ReadonlyArray<Appended>, AppendError>

  /**
   * Reserves room for a record that has to be read or compressed first (GC-04 ... GC-06). When the scope closes before
   * it was filled, the room is left empty.
   */
  readonly reserve: (payloadBytes: number) => Effect.Effect<LogReservation, AppendError, Scope.Scope>

  /** Waits until everything before `lsn` is written or durable (default). At once, without a hop, when it is (GC-03). */
  readonly commitAtLeast: (lsn: Lsn, until?: CommitMode) => Effect.Effect<void, LsnNotReserved | LogEnded>

  /** Makes everything durable that was handed over. */
  readonly flush: Effect.Effect<void, LogEnded>

  readonly watermarks: () => LogWatermarks

  /** Why the log takes nothing any more, or `undefined` while it lives. */
  readonly ended: () => LogEnded | undefined

  /**
   * The watermarks as they are, and again whenever the log has been written, synced or truncated since. A consumer that
   * is slow sees the newest and holds nothing back. Fails when the log ends.
   */
  readonly watermarkChanges: Stream.Stream<LogWatermarks, LogEnded>

  /** Reads the record whose frame starts at `start`. Waits until it is durable. */
  readonly read: (start: Lsn) => Effect.Effect<LogRecord, ReadError>

  /**
   * The durable records from `from` on (default: the first that is kept), in order. `from` is the start or the end of
   * any record, or a watermark. At the end of what is durable it ends; with `follow` it waits for more, and fails when
   * the log ends.
   *
   * Reads from the files, a bounded number of bytes at a time, and checks them: a batch is handed out when its checksum
   * is right. A reader that is overtaken by `truncateBefore` fails with `LsnTruncated`.
   */
  readonly stream: (
    options?: { readonly from?: Lsn | undefined; readonly follow?: boolean | undefined }
  ) => Stream.Stream<LogRecord, ReadError>

  /**
   * Deletes the segments that hold nothing at or behind `lsn`, and answers where the first kept one starts (LOG-08).
   * Waits until everything before `lsn` is durable.
   *
   * With `lsn` behind the last record everything goes: the log rotates and is empty, and goes on at the same LSN.
   *
   * When a file cannot be removed it fails with `VfsError`; the records are out of reach all the same, and the next call
   * tries again. So it does when it cannot rotate; the rest has been deleted.
   */
  readonly truncateBefore: (lsn: Lsn) => Effect.Effect<Lsn, LsnNotReserved | LogEnded | VfsError>

  /**
   * Makes everything durable and begins a segment, unless the current one is empty. Appends wait meanwhile, and open
   * reservations are waited for: not to be called by a fiber that holds one. Fails with `VfsError`, the log being what
   * it was, when no file for the segment could be made.
   */
  readonly rotate: Effect.Effect<void, LogEnded | VfsError>
}>()("@tidemark/wal/AppendLog") {
  /**
   * Opens a log until the scope closes: for adapters, and for logs that come and go (see `AppendLogMap`).
   */
  static readonly open = (
    options: AppendLogOptions
  ): Effect.Effect<AppendLog["Service"], OpenError, Vfs | FileLock | ProcessLiveness | Scope.Scope> =>
    openLog({
      ...options,
      segmentBytes: options.segmentBytes ?? defaults.segmentBytes,
      maxRecordBytes: options.maxRecordBytes ?? defaults.maxRecordBytes,
      preallocateBytes: options.preallocateBytes ?? defaults.preallocateBytes
    })

  /** Opens a log as a service. */
  static readonly layer = (
    options: AppendLogOptions
  ): Layer.Layer<AppendLog, OpenError, Vfs | FileLock | ProcessLiveness> => Layer.effect(AppendLog, this.open(options))

  /**
   * {@link layer} with options from the configuration: `TIDEMARK_LOG_DIRECTORY`, `TIDEMARK_LOG_SEGMENT_BYTES`,
   * `TIDEMARK_LOG_MAX_RECORD_BYTES`, `TIDEMARK_LOG_PREALLOCATE_BYTES`, `TIDEMARK_LOG_MAX_BATCH_BYTES`,
   * `TIDEMARK_LOG_MAX_QUEUED_BYTES`, `TIDEMARK_LOG_COMMIT_DELAY`, `TIDEMARK_LOG_COMMIT_SIBLINGS`.
   */
  static readonly layerConfig: Layer.Layer<
    AppendLog,
    OpenError | Config.ConfigError,
    Vfs | FileLock | ProcessLiveness
  > = Layer.unwrap(Effect.gen(function*() {
    const integer = (name: string, minimum: number, maximum: number, byDefault: number) =>
      Config.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })), name).pipe(Config.withDefault(byDefault))
    const bytes = (name: string, byDefault: number) => integer(name, 1, Number.MAX_SAFE_INTEGER, byDefault)
    return AppendLog.layer({
      directory: yield* Config.String("TIDEMARK_LOG_DIRECTORY"),
      segmentBytes: yield* integer(
        "TIDEMARK_LOG_SEGMENT_BYTES",
        minSegmentBytes,
        Number.MAX_SAFE_INTEGER,
        defaults.segmentBytes
      ),
      maxRecordBytes: yield* integer("TIDEMARK_LOG_MAX_RECORD_BYTES", 1, maxPayloadBytes, defaults.maxRecordBytes),
      preallocateBytes: yield* integer(
        "TIDEMARK_LOG_PREALLOCATE_BYTES",
        0,
        Number.MAX_SAFE_INTEGER,
        defaults.preallocateBytes
      ),
      maxBatchBytes: yield* bytes("TIDEMARK_LOG_MAX_BATCH_BYTES", GroupCommit.defaults.maxBatchBytes),
      maxQueuedBytes: yield* bytes("TIDEMARK_LOG_MAX_QUEUED_BYTES", GroupCommit.defaults.maxQueuedBytes),
      commitDelay: yield* Config.Duration("TIDEMARK_LOG_COMMIT_DELAY").pipe(Config.withDefault(Duration.zero)),
      commitSiblings: yield* integer(
        "TIDEMARK_LOG_COMMIT_SIBLINGS",
        0,
        Number.MAX_SAFE_INTEGER,
        GroupCommit.defaults.commitSiblings
      )
    })
  }))
}

/** A header and a frame. */
const minSegmentBytes = 128

/**
 * The group commit engine: many writers, one sync.
 *
 * Writers hand over bytes, each in one synchronous step that reserves a range of LSNs and copies the bytes into the
 * queue. One leader fiber takes the contiguous filled prefix of the queue, writes it, syncs once, raises `durable` and
 * wakes exactly those whose target is covered. While a sync runs, the next batch gathers by itself.
 *
 * Three watermarks, each of which only grows (except at a reset): `durable <= written <= reserved`.
 *
 * Invariants
 * 1. Reserving and handing over are one synchronous step, so the queue has no hole but an open scoped reservation.
 * 2. A batch is written where the one before it ended, and only after it was written; the sink may have it before.
 * 3. Nobody is woken before the state that they will look at is in place: waiters run inline, inside `succeed`, and may
 *    hand over again.
 * 4. Poison is set before anybody is woken. After it the sink is not called again, not even by `close`.
 * 5. The leader ends in one of two ways: drained after `close`, or poisoned. Either way nobody is left waiting.
 *
 * @since 0.1.0
 */
import type { Lsn } from "@tidemark/core/Scalars"
import { toLsn } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import type * as Scope from "effect/Scope"
import { CommitEngine } from "./internal/commitEngine.ts"
import type { Fill } from "./internal/runQueue.ts"
import type {
  EmptyRecord,
  LogClosed,
  LsnNotReserved,
  RecordTooLarge,
  ResetWhileBusy,
  WalPoisoned
} from "./LogErrors.ts"

/**
 * What a hand-over is promised before its writer goes on: `"written"` to the operating system, or `"durable"`, covered
 * by a completed sync. `"durable"` covers everything before it.
 *
 * @category models
 * @since 0.1.0
 */
export type CommitMode = "written" | "durable"

/**
 * The three watermarks, in bytes.
 *
 * @category models
 * @since 0.1.0
 */
export interface Watermarks {
  readonly reserved: Lsn
  readonly written: Lsn
  readonly durable: Lsn
}

/**
 * Where the bytes go. The engine calls one of these at a time, in the order of positions, uninterruptibly, and never
 * again after one of them failed; but while a batch is written in the background it may hand over the next one.
 *
 * @category models
 * @since 0.1.0
 */
export interface GroupCommitSink {
  /** The log's name in errors and metrics; its path. */
  readonly name: string
  readonly write: (buffers: ReadonlyArray<Uint8Array>, lsn: Lsn) => Effect.Effect<void, VfsError>
  readonly sync: Effect.Effect<void, VfsError>
  /** Both, in one hop where the platform has one. */
  readonly writeAndSync: (
    buffers: ReadonlyArray<Uint8Array>,
    lsn: Lsn,
    /**
     * The engine wakes writers meanwhile: the calling thread is better left alone. One more call with `background` may come
     * while this one is under way: its bytes are written when those of this one are durable, and not at all when this one
     * fails; then it fails, too. Never for the first batch of a log, nor for the first one after a reset. The calls come
     * in the order of positions; a sink takes the place of a call in that order before it waits for anything.
     */
    background: boolean
  ) => Effect.Effect<void, VfsError>
  /**
   * Fills bytes that carry nothing. A sink without it cannot have holes: it offers no {@link GroupCommit.reserve}
   * (GC-04).
   */
  readonly pad?: ((target: Uint8Array, view: DataView, offset: number, length: number) => void) | undefined
  /**
   * The sink's mark at the end of a batch: its size, and how it is written into the last bytes of the last buffer once
   * the batch is known. `earlierIsDurable` says whether everything before `lsn` was durable at that moment.
   */
  readonly seal?: {
    readonly bytes: number
    readonly write: (buffers: ReadonlyArray<Uint8Array>, lsn: Lsn, earlierIsDurable: boolean) => void
  } | undefined
  /**
   * Where the bytes of a batch are put together, for files that can take them from there without a copy. In memory that it
   * makes, the byte for `lsn` lies at an offset that leaves the same rest by `blockBytes` as `firstOffset(lsn)`, which is
   * below. Not for sinks with a seal.
   */
  readonly memory?: {
    readonly blockBytes: number
    readonly make: (length: number) => Uint8Array
    readonly firstOffset: (lsn: Lsn) => number
  } | undefined
  /** Called synchronously when `durable` has grown, before anybody is woken: the place to publish. */
  readonly onDurable?: ((durable: Lsn) => void) | undefined
  /** Called synchronously when the log is poisoned, before anybody is woken: the place to take reservations back. */
  readonly onPoisoned?: ((failure: WalPoisoned) => void) | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface GroupCommitOptions {
  /** Where the log ends now; everything before it is durable (GC-01). Bytes. Default 0. */
  readonly initialLsn?: Lsn | undefined
  /** The largest hand-over, bytes. Default 16 MiB. */
  readonly maxRecordBytes?: number | undefined
  /** The largest batch, bytes; one hand-over may be larger. Default 8 MiB. */
  readonly maxBatchBytes?: number | undefined
  /** The most bytes that are handed over and not yet written; writers above it wait in line. Default 64 MiB. */
  readonly maxQueuedBytes?: number | undefined
  /** How long the leader lets a batch gather. Default 0: it gathers while the sync before it runs. */
  readonly commitDelay?: Duration.Input | undefined
  /** The delay is taken only when at least so many other hand-overs wait for durability. Default 5. */
  readonly commitSiblings?: number | undefined
  /**
   * From so many writers on who wait for batches, the next one is written while they are woken, in two groups that take
   * turns (decision 0007): for logs whose writers do so much between two hand-overs that it is worth another sync. It is
   * asked for before each batch. Default: never.
   */
  readonly overlapWaiters?: (() => number) | undefined
}

/**
 * The defaults of {@link GroupCommitOptions}.
 *
 * @category models
 * @since 0.1.0
 */
export const defaults = {
  maxRecordBytes: 16 * 1024 * 1024,
  maxBatchBytes: 8 * 1024 * 1024,
  maxQueuedBytes: 64 * 1024 * 1024,
  commitSiblings: 5
} as const

/**
 * Why a log takes nothing any more.
 *
 * @category errors
 * @since 0.1.0
 */
export type LogEnded = WalPoisoned | LogClosed

/**
 * A range of the log that was handed out and is filled later. Whoever waits behind it waits for it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reservation {
  readonly start: Lsn
  readonly end: Lsn
  /** Copies the bytes in. Once, and exactly as many as were reserved: anything else is a defect. */
  readonly fill: (bytes: Uint8Array) => Effect.Effect<void, LogEnded>
}

/**
 * A hand-over that the engine calls back: see {@link GroupCommit.admit}. Its functions are called as its methods, so an
 * object of a class will do.
 *
 * @category models
 * @since 0.1.0
 */
export interface Admission {
  /** Bytes that {@link Admission.enter} will enqueue at the most. */
  readonly length: number
  /** Called once, synchronously, when there is room. Calls `enqueueUnsafe`, or lets it be. */
  enter(): void
  /** Called once instead, synchronously, when the log ended first. */
  refuse(ended: LogEnded): void
}

/**
 * Who is called back when a hand-over has reached `mode`, as a method and without a fiber of its own.
 *
 * @category models
 * @since 0.1.0
 */
export interface HandOverWaiter {
  readonly mode: CommitMode
  /** Called once, synchronously, in the order of hand-overs. May hand over again. */
  succeed(): void
  /** Called once instead, synchronously, when the log ended first. */
  fail(failure: LogEnded): void
}

/**
 * A running engine.
 *
 * @category models
 * @since 0.1.0
 */
export interface GroupCommit {
  readonly watermarks: () => Watermarks

  /** Why nothing is taken any more, or `undefined` while the log lives. */
  readonly ended: () => LogEnded | undefined

  /**
   * Hands bytes over and answers the position behind them, for {@link GroupCommit.commitAtLeast}. The bytes are copied.
   * Waits, interruptibly and having reserved nothing, while the queue is full (GC-11).
   */
  readonly reserveAndEnqueue: (
    bytes: Uint8Array
  ) => Effect.Effect<Lsn, LogEnded | EmptyRecord | RecordTooLarge>

  /**
   * Reserves a range for a writer that has to read or compress first. When the scope closes before it was filled, it
   * is padded (GC-04). Only for sinks that can pad: a defect otherwise.
   */
  readonly reserve: (
    length: number
  ) => Effect.Effect<Reservation, LogEnded | EmptyRecord | RecordTooLarge, Scope.Scope>

  /** Waits until everything before `lsn` is written or durable. At once, without a hop, when it is (GC-03). */
  readonly commitAtLeast: (lsn: Lsn, mode: CommitMode) => Effect.Effect<void, LogEnded | LsnNotReserved>

  /** Makes everything that was handed over durable. */
  readonly flushNow: Effect.Effect<void, LogEnded>

  /**
   * Runs `use` while nothing is queued, in flight or not yet durable; hand-overs that come meanwhile wait as when the
   * queue is full (GC-09). Open reservations are waited for.
   *
   * **Gotchas**
   *
   * `use` itself must not hand over: it would wait for its own end. Two calls may overlap or nest, they do not exclude
   * each other. A log that closes before `use` began fails with `LogClosed`.
   */
  readonly quiesce: <A, E, R>(use: Effect.Effect<A, E, R>) => Effect.Effect<A, E | LogEnded, R>

  /**
   * Moves all watermarks to `lsn`. Refused unless the log is idle. Positions from before it mean nothing behind it, so
   * a log that is reset gives `enqueueUnsafe` its waiters instead of asking for positions later.
   */
  readonly reset: (lsn: Lsn) => Effect.Effect<void, ResetWhileBusy | LogEnded>

  /**
   * Poisons the log from outside, for a log on top of the engine that finds its own state broken in the middle of a
   * hand-over. What is in flight is not acknowledged.
   */
  readonly poison: (cause: Cause.Cause<unknown>) => void

  /** Refuses new work, pads open reservations, drains, syncs. Leaving the scope does the same (GC-14). */
  readonly close: Effect.Effect<void, WalPoisoned>

  /**
   * The door for logs built on the engine: asks for room, in arrival order. `enter` runs now when there is room, else
   * when there is. Answers how to step back before that.
   */
  readonly admit: (admission: Admission) => () => void

  /**
   * Reserves `length` bytes and lets `fill` write them at the given offset, now. Only from inside
   * {@link Admission.enter}.
   */
  readonly enqueueUnsafe: (length: number, fill: Fill, waiter?: HandOverWaiter) => Lsn
}

const never = () => Infinity

/**
 * Starts an engine over a sink. Its leader is a fiber of the scope; when the scope closes the engine is closed first
 * and a failure to do so is logged.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(
  sink: GroupCommitSink,
  options: GroupCommitOptions = {}
): Effect.fn.Return<GroupCommit, never, Scope.Scope> {
  const clock = yield* Clock.Clock
  const context = yield* Effect.context<never>()
  const engine = new CommitEngine(
    sink,
    {
      initialLsn: options.initialLsn ?? toLsn(0),
      maxRecordBytes: options.maxRecordBytes ?? defaults.maxRecordBytes,
      maxBatchBytes: options.maxBatchBytes ?? defaults.maxBatchBytes,
      maxQueuedBytes: options.maxQueuedBytes ?? defaults.maxQueuedBytes,
      commitDelay: options.commitDelay ?? 0,
      commitSiblings: options.commitSiblings ?? defaults.commitSiblings,
      overlapWaiters: options.overlapWaiters ?? never
    },
    clock,
    Context.add(context, Metric.CurrentMetricAttributes, { log: sink.name })
  )
  yield* engine.startIn(yield* Effect.scope)
  yield* Effect.addFinalizer(() =>
    Effect.catch(engine.close, (poisoned) => Effect.logError("the log was poisoned before it was closed", poisoned))
  )
  return engine
  // In one piece: a leader that nobody closes would never end.
}, Effect.uninterruptible)

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
 * 2. A batch is written where the one before it ended, and only after it was written.
 * 3. Nobody is woken before the state that they will look at is in place: waiters run inline, inside `succeed`, and may
 *    hand over again.
 * 4. Poison is set before anybody is woken. After it the sink is not called again, not even by `close`.
 * 5. The leader ends in one of two ways: drained after `close`, or poisoned. Either way nobody is left waiting.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import type { Lsn } from "@tidemark/core/Scalars"
import { toLsn } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import type * as Scope from "effect/Scope"
import type { Batch, Fill, OpenReservation } from "./internal/runQueue.ts"
import { RunQueue } from "./internal/runQueue.ts"
import type { Waiter } from "./internal/waiterQueue.ts"
import { WaiterQueue } from "./internal/waiterQueue.ts"
import { EmptyRecord, LogClosed, LsnNotReserved, RecordTooLarge, ResetWhileBusy, WalPoisoned } from "./LogErrors.ts"
import * as LogMetrics from "./LogMetrics.ts"

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
 * again after one of them failed.
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
  readonly writeAndSync: (buffers: ReadonlyArray<Uint8Array>, lsn: Lsn) => Effect.Effect<void, VfsError>
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
 * A hand-over that the engine calls back: see {@link GroupCommit.admit}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Admission {
  /** Bytes that {@link Admission.enter} will enqueue at the most. */
  readonly length: number
  /** Called once, synchronously, when there is room. Calls `enqueueUnsafe`, or lets it be. */
  readonly enter: () => void
  /** Called once instead, synchronously, when the log ended first. */
  readonly refuse: (ended: LogEnded) => void
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
   * queue is full (GC-09).
   */
  readonly quiesce: <A, E, R>(use: Effect.Effect<A, E, R>) => Effect.Effect<A, E | LogEnded, R>

  /** Moves all watermarks to `lsn`. Refused unless the log is idle. */
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
   * {@link Admission.enter}. `waiter` is called back when `mode` is reached, without a fiber of its own.
   */
  readonly enqueueUnsafe: (
    length: number,
    fill: Fill,
    waiter?: {
      readonly mode: CommitMode
      readonly succeed: () => void
      readonly fail: (failure: LogEnded) => void
    }
  ) => Lsn
}

class Engine implements GroupCommit {
  private readonly sink: GroupCommitSink
  private readonly maxRecordBytes: number
  private readonly maxQueuedBytes: number
  private readonly commitDelay: Duration.Duration
  private readonly commitSiblings: number
  private readonly queue: RunQueue
  private readonly durableWaiters = new WaiterQueue<LogEnded>()
  private readonly writtenWaiters = new WaiterQueue<LogEnded>()
  private readonly admissions: Array<Admission> = []
  private written: number
  private durable: number
  private quiescing = 0
  private state: "open" | "closing" | "closed" = "open"
  private poisoned: WalPoisoned | undefined
  /** Resumes the leader; set only while it is parked. */
  private unpark: (() => void) | undefined
  leader: Fiber.Fiber<void> | undefined
  private readonly clock: Clock.Clock
  private readonly context: Context.Context<never>

  constructor(
    sink: GroupCommitSink,
    options: GroupCommitOptions,
    clock: Clock.Clock,
    context: Context.Context<never>
  ) {
    this.sink = sink
    this.clock = clock
    this.context = context
    this.maxRecordBytes = options.maxRecordBytes ?? defaults.maxRecordBytes
    this.maxQueuedBytes = options.maxQueuedBytes ?? defaults.maxQueuedBytes
    this.commitDelay = Duration.fromInputUnsafe(options.commitDelay ?? 0)
    this.commitSiblings = options.commitSiblings ?? defaults.commitSiblings
    const initial = options.initialLsn ?? 0
    this.written = initial
    this.durable = initial
    this.queue = new RunQueue({
      initial,
      maxBatchBytes: options.maxBatchBytes ?? defaults.maxBatchBytes,
      cutPointBytes: sink.seal?.bytes ?? 0,
      pad: (target, view, offset, length) => {
        invariant(sink.pad !== undefined, "a sink with a seal can pad")
        sink.pad(target, view, offset, length)
      }
    })
  }

  readonly watermarks = (): Watermarks => ({
    reserved: toLsn(this.queue.reserved),
    written: toLsn(this.written),
    durable: toLsn(this.durable)
  })

  readonly ended = (): LogEnded | undefined =>
    this.poisoned ?? (this.state === "open" ? undefined : new LogClosed({ log: this.sink.name }))

  // ---------------------------------------------------------------------------------------------------------------
  // Handing over
  // ---------------------------------------------------------------------------------------------------------------

  readonly admit = (admission: Admission): () => void => {
    const ended = this.ended()
    if (ended !== undefined) {
      admission.refuse(ended)
      return () => {}
    }
    if (this.admissions.length === 0 && this.hasRoom(admission.length)) {
      admission.enter()
      return () => {}
    }
    this.admissions.push(admission)
    return () => {
      const at = this.admissions.indexOf(admission)
      if (at >= 0) this.admissions.splice(at, 1)
      // Whoever stood behind may fit now.
      if (at === 0) this.admitWaiting()
    }
  }

  readonly enqueueUnsafe: GroupCommit["enqueueUnsafe"] = (length, fill, waiter) => {
    invariant(this.ended() === undefined, "bytes are handed over to an open log only")
    invariant(length > 0 && length <= this.maxRecordBytes, "a hand-over has 1 ... maxRecordBytes bytes")
    const end = this.queue.append(length, fill)
    if (waiter !== undefined) {
      const queue = waiter.mode === "durable" ? this.durableWaiters : this.writtenWaiters
      queue.add({ target: end, succeed: waiter.succeed, fail: waiter.fail })
    }
    this.wakeLeader()
    return toLsn(end)
  }

  readonly reserveAndEnqueue: GroupCommit["reserveAndEnqueue"] = (bytes) => {
    const refusal = this.refuseLength(bytes.length)
    if (refusal !== undefined) return refusal
    return this.admitted(
      bytes.length,
      () => this.enqueueUnsafe(bytes.length, (target, _view, offset) => target.set(bytes, offset))
    )
  }

  readonly reserve: GroupCommit["reserve"] = (length) => {
    invariant(this.sink.pad !== undefined, "only a sink that can pad hands out reservations")
    const { pad } = this.sink
    const refusal = this.refuseLength(length)
    if (refusal !== undefined) return refusal
    const give = (open: OpenReservation) => {
      this.queue.settle(open)
      this.wakeLeader()
    }
    return Effect.suspend(() => {
      const holder: { open: OpenReservation | undefined } = { open: undefined }
      // The finalizer stands before the reservation does, so no interruption can fall between the two.
      const padUnfilled = Effect.sync(() => {
        const { open } = holder
        // Closing pads what is open itself; a poisoned log is not written any more.
        if (open === undefined || !this.queue.openReservations.includes(open)) return
        pad(open.bytes, open.view, 0, length)
        give(open)
      })
      const take = this.admitted(length, () => {
        const open = this.queue.reserve(length)
        holder.open = open
        const reservation: Reservation = {
          start: toLsn(open.start),
          end: toLsn(open.start + length),
          fill: (bytes) =>
            Effect.suspend(() => {
              invariant(bytes.length === length, "a reservation is filled with exactly the bytes reserved")
              const ended = this.ended()
              if (ended !== undefined) return Effect.fail(ended)
              invariant(this.queue.openReservations.includes(open), "a reservation is filled once, inside its scope")
              open.bytes.set(bytes)
              give(open)
              return Effect.void
            })
        }
        return reservation
      })
      return Effect.andThen(Effect.addFinalizer(() => padUnfilled), take)
    })
  }

  private refuseLength(length: number): Exit.Exit<never, EmptyRecord | RecordTooLarge> | undefined {
    if (length === 0) return Exit.fail(new EmptyRecord({ log: this.sink.name }))
    if (length <= this.maxRecordBytes) return undefined
    return Exit.fail(
      new RecordTooLarge({ log: this.sink.name, bytes: length, maxRecordBytes: this.maxRecordBytes })
    )
  }

  /** Runs `step` when there is room for `length` bytes. */
  private admitted<A>(length: number, step: () => A): Effect.Effect<A, LogEnded> {
    return Effect.callback<A, LogEnded>((resume) => {
      const stepBack = this.admit({
        length,
        enter: () => resume(Exit.succeed(step())),
        refuse: (ended) => resume(Exit.fail(ended))
      })
      return Effect.sync(stepBack)
    })
  }

  /** A hand-over above the bound is let in alone, when the queue is empty. */
  private hasRoom(length: number): boolean {
    if (this.quiescing > 0) return false
    const queued = this.queue.reserved - this.written
    return queued === 0 || queued + length <= this.maxQueuedBytes
  }

  private admitWaiting(): void {
    for (let next = this.admissions[0]; next !== undefined; next = this.admissions[0]) {
      if (this.ended() !== undefined || !this.hasRoom(next.length)) return
      this.admissions.shift()
      next.enter()
    }
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Waiting
  // ---------------------------------------------------------------------------------------------------------------

  readonly commitAtLeast: GroupCommit["commitAtLeast"] = (lsn, mode) => {
    if (this.poisoned !== undefined) return Exit.fail(this.poisoned)
    if (lsn > this.queue.reserved) {
      return Exit.fail(
        new LsnNotReserved({ log: this.sink.name, lsn, reserved: toLsn(this.queue.reserved) })
      )
    }
    if (lsn <= (mode === "durable" ? this.durable : this.written)) return Exit.void
    const ended = this.state === "closed" ? this.ended() : undefined
    if (ended !== undefined) return Exit.fail(ended)
    return Effect.callback<void, LogEnded>((resume) => {
      // The state may have moved between the call and its evaluation.
      if (this.poisoned !== undefined) return resume(Exit.fail(this.poisoned))
      if (lsn <= (mode === "durable" ? this.durable : this.written)) return resume(Exit.void)
      const queue = mode === "durable" ? this.durableWaiters : this.writtenWaiters
      const waiter: Waiter<LogEnded> = {
        target: lsn,
        succeed: () => resume(Exit.void),
        fail: (failure) => resume(Exit.fail(failure))
      }
      queue.add(waiter)
      this.wakeLeader()
      return Effect.sync(() => queue.remove(waiter))
    })
  }

  readonly flushNow: GroupCommit["flushNow"] = Effect.suspend(() =>
    Effect.catchTag(
      this.commitAtLeast(toLsn(this.queue.reserved), "durable"),
      "LsnNotReserved",
      Effect.die
    )
  )

  readonly quiesce: GroupCommit["quiesce"] = (use) =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        this.quiescing++
      }),
      () => Effect.andThen(this.flushNow, use),
      () =>
        Effect.sync(() => {
          this.quiescing--
          this.admitWaiting()
        })
    )

  readonly reset: GroupCommit["reset"] = (lsn) =>
    Effect.suspend((): Effect.Effect<void, ResetWhileBusy | LogEnded> => {
      const ended = this.ended()
      if (ended !== undefined) return Effect.fail(ended)
      const { durable, reserved } = this.watermarks()
      if (durable !== reserved || this.durableWaiters.size + this.writtenWaiters.size > 0) {
        return Effect.fail(new ResetWhileBusy({ log: this.sink.name, reserved, durable }))
      }
      invariant(this.queue.isEmpty, "a log whose reserved bytes are all durable has nothing queued")
      this.queue.reserved = lsn
      this.written = lsn
      this.durable = lsn
      return Effect.void
    })

  readonly close: GroupCommit["close"] = Effect.suspend(() => {
    if (this.state === "open") {
      this.state = "closing"
      const { pad } = this.sink
      for (const open of this.queue.openReservations) {
        invariant(pad !== undefined, "only a sink that can pad has reservations")
        pad(open.bytes, open.view, 0, open.bytes.length)
        this.queue.settle(open)
      }
      const closed = new LogClosed({ log: this.sink.name })
      for (const admission of this.admissions.splice(0)) admission.refuse(closed)
      this.wakeLeader()
    }
    invariant(this.leader !== undefined, "the leader runs from the start")
    return Effect.andThen(
      Fiber.await(this.leader),
      Effect.suspend(() => this.poisoned === undefined ? Effect.void : Effect.fail(this.poisoned))
    )
  })

  // ---------------------------------------------------------------------------------------------------------------
  // Leading
  // ---------------------------------------------------------------------------------------------------------------

  private wakeLeader(): void {
    const { unpark } = this
    if (unpark === undefined) return
    this.unpark = undefined
    unpark()
  }

  private readonly park = Effect.callback<void>((resume) => {
    this.unpark = () => resume(Exit.void)
    return Effect.sync(() => {
      this.unpark = undefined
    })
  })

  /** The leader's life. Never fails: what goes wrong becomes poison. */
  readonly lead: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    while (this.poisoned === undefined) {
      // Whoever was woken, and the event loop, has his turn before the next batch is cut: this is where it gathers.
      yield* Effect.yieldNow
      const siblings = this.durableWaiters.size - 1
      if (siblings >= this.commitSiblings && Duration.isPositive(this.commitDelay)) {
        yield* Effect.sleep(this.commitDelay)
      }
      // Somebody may have poisoned the log meanwhile; parked, the leader would never see it.
      if (this.poisoned !== undefined) break
      const batch = this.queue.take()
      if (batch !== undefined) yield* this.writeBatch(batch)
      else if (this.durable < this.written && this.mustSyncWritten()) yield* this.syncWritten()
      else if (this.state === "closing" && this.queue.isEmpty) break
      else yield* this.park
    }
    this.state = "closed"
  }).pipe(
    Effect.onExit((exit) =>
      Effect.sync(() => {
        if (Exit.isFailure(exit)) this.poison(exit.cause)
        else if (this.poisoned === undefined) this.failWaiters(new LogClosed({ log: this.sink.name }))
      })
    ),
    Effect.ignoreCause
  )

  /** Whether bytes that were only written have to be synced: somebody waits for them, or the log is closing. */
  private mustSyncWritten(): boolean {
    return this.state === "closing" || this.durableWaiters.firstTarget <= this.written
  }

  private *writeBatch(batch: Batch) {
    const start = toLsn(batch.start)
    invariant(batch.start === this.written, "a batch is written where the one before it ended")
    this.sink.seal?.write(batch.buffers, start, this.durable === batch.start)
    // The strictest mode wins: one that waits for durability makes the whole batch synced (GC-12).
    const sync = this.state === "closing" || this.durableWaiters.firstTarget <= batch.end
    const startedNanos = this.clock.monotonicTimeNanosUnsafe()
    const exit = yield* Effect.exit(
      sync ? this.sink.writeAndSync(batch.buffers, start) : this.sink.write(batch.buffers, start)
    )
    if (Exit.isFailure(exit)) return this.poison(exit.cause)
    // Somebody may have poisoned the log while the batch was in flight: then it is not acknowledged.
    if (this.poisoned !== undefined) return
    this.queue.recycle(batch)
    this.written = batch.end
    if (sync) this.recordSync(startedNanos)
    LogMetrics.commits.updateUnsafe(batch.commits, this.context)
    LogMetrics.batchCommits.updateUnsafe(batch.commits, this.context)
    LogMetrics.batchBytes.updateUnsafe(batch.end - batch.start, this.context)
    this.advance(sync ? batch.end : this.durable)
  }

  private *syncWritten() {
    const { written } = this
    const startedNanos = this.clock.monotonicTimeNanosUnsafe()
    const exit = yield* Effect.exit(this.sink.sync)
    if (Exit.isFailure(exit)) return this.poison(exit.cause)
    if (this.poisoned !== undefined) return
    this.recordSync(startedNanos)
    this.advance(written)
  }

  private recordSync(startedNanos: bigint): void {
    const nanos = Number(this.clock.monotonicTimeNanosUnsafe() - startedNanos)
    LogMetrics.syncDurationSeconds.updateUnsafe(nanos / 1e9, this.context)
    LogMetrics.syncs.updateUnsafe(1, this.context)
  }

  /** Raises `durable`, publishes, then lets in who waited for room, then wakes who waited for the watermarks. */
  private advance(durable: number): void {
    invariant(this.durable <= durable && durable <= this.written, "durable grows and never passes written")
    const hasGrown = durable > this.durable
    this.durable = durable
    if (hasGrown) this.sink.onDurable?.(toLsn(durable))
    LogMetrics.queueBytes.updateUnsafe(this.queue.reserved - this.written, this.context)
    LogMetrics.durableLagBytes.updateUnsafe(this.queue.reserved - durable, this.context)
    this.admitWaiting()
    for (const waiter of this.durableWaiters.takeUpTo(durable)) waiter.succeed()
    for (const waiter of this.writtenWaiters.takeUpTo(this.written)) waiter.succeed()
  }

  readonly poison = (cause: Cause.Cause<unknown>): void => {
    if (this.poisoned !== undefined) return
    this.poisoned = new WalPoisoned({ log: this.sink.name, lsn: toLsn(this.durable), cause })
    this.state = "closed"
    this.queue.clear()
    this.sink.onPoisoned?.(this.poisoned)
    this.failWaiters(this.poisoned)
    this.wakeLeader()
  }

  private failWaiters(failure: LogEnded): void {
    const waiters = [...this.durableWaiters.takeAll(), ...this.writtenWaiters.takeAll()]
    for (const admission of this.admissions.splice(0)) admission.refuse(failure)
    for (const waiter of waiters) waiter.fail(failure)
  }
}

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
  const engine = new Engine(
    sink,
    options,
    clock,
    Context.add(context, Metric.CurrentMetricAttributes, { log: sink.name })
  )
  const scope = yield* Effect.scope
  engine.leader = yield* Effect.forkIn(engine.lead, scope, { startImmediately: true })
  yield* Effect.addFinalizer(() =>
    Effect.catch(engine.close, (poisoned) => Effect.logError("the log was poisoned before it was closed", poisoned))
  )
  return engine
})

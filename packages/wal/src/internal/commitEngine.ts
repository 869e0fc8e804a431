/**
 * The engine behind `GroupCommit`: three queues (bytes, waiters, writers that wait for room) and the leader.
 *
 * The concurrency argument: everything but the leader's calls of the sink is one synchronous step of JavaScript, so it
 * sees and leaves a consistent state. The leader alone takes from the byte queue and raises `written` and `durable`,
 * and its fiber cannot be interrupted; so between the moment when it takes a batch and the moment when it answers for
 * it, the others can only append. Fibers are resumed inline: whoever calls `succeed`, `fail`, `enter` or `refuse` has
 * put the state in place before, and holds no iterator over a queue that the callee may change.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { Lsn } from "@tidemark/core/Scalars"
import { toLsn } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { PreventSchedulerYield } from "effect/Scheduler"
import type {
  Admission,
  CommitMode,
  GroupCommit,
  GroupCommitSink,
  LogEnded,
  Reservation,
  Watermarks
} from "../GroupCommit.ts"
import { EmptyRecord, LogClosed, LsnNotReserved, RecordTooLarge, ResetWhileBusy, WalPoisoned } from "../LogErrors.ts"
import * as LogMetrics from "../LogMetrics.ts"
import type { Batch, OpenReservation } from "./runQueue.ts"
import { RunQueue } from "./runQueue.ts"
import type { Waiter } from "./waiterQueue.ts"
import { WaiterQueue } from "./waiterQueue.ts"

/** @internal */
export interface EngineOptions {
  readonly initialLsn: Lsn
  readonly maxRecordBytes: number
  readonly maxBatchBytes: number
  readonly maxQueuedBytes: number
  readonly commitDelay: Duration.Input
  readonly commitSiblings: number
  readonly overlapWaiters: () => number
}

/** A batch that was taken from the queue to be written. */
interface StartedBatch {
  readonly batch: Batch
  readonly isSynced: boolean
  readonly startedNanos: bigint
}

/** A batch that is written while the leader does something else. */
interface BackgroundBatch extends StartedBatch {
  readonly writing: Fiber.Fiber<void, VfsError>
}

/** Whether it is known already, before it is the batch's turn to be settled. */
const hasFailed = ({ writing }: BackgroundBatch): boolean => {
  const exit = writing.pollUnsafe()
  return exit !== undefined && Exit.isFailure(exit)
}

const nothingToUndo = () => {}

/** @internal */
export class CommitEngine implements GroupCommit {
  private readonly sink: GroupCommitSink
  private readonly maxRecordBytes: number
  private readonly maxQueuedBytes: number
  private readonly commitSiblings: number
  private readonly overlapWaiters: () => number
  private readonly queue: RunQueue
  private readonly durableWaiters = new WaiterQueue<LogEnded>()
  private readonly writtenWaiters = new WaiterQueue<LogEnded>()
  private readonly admissions: Array<Admission> = []
  /** Nothing was written since the log was opened or reset: what comes first is on its way alone. */
  private isFresh = true
  /** When the last sync was done. */
  private settledNanos = 0n
  private written: number
  private durable: number
  private quiescing = 0
  private state: "open" | "closing" | "closed" = "open"
  private poisoned: WalPoisoned | undefined
  /** What was thrown by those who were told about the poison; the leader logs it. */
  private readonly defectsAfterPoison: Array<Cause.Cause<never>> = []
  /** Whether anything happened since the leader looked last. */
  private hasNews = false
  /** Resumes the leader; set only while it is parked. */
  private unpark: (() => void) | undefined
  /** Ends the leader's commit delay early; set only while it lasts. */
  private cutDelay: (() => void) | undefined
  private readonly delay: Effect.Effect<void> | undefined
  private leader: Fiber.Fiber<void> | undefined
  private readonly clock: Clock.Clock
  private readonly context: Context.Context<never>

  constructor(sink: GroupCommitSink, options: EngineOptions, clock: Clock.Clock, context: Context.Context<never>) {
    invariant(sink.seal === undefined || sink.pad !== undefined, "a sink with a seal can pad")
    invariant(sink.seal === undefined || sink.memory === undefined, "a sink with a seal has no memory of its own")
    this.sink = sink
    this.clock = clock
    this.context = context
    this.maxRecordBytes = options.maxRecordBytes
    this.maxQueuedBytes = options.maxQueuedBytes
    this.commitSiblings = options.commitSiblings
    this.overlapWaiters = options.overlapWaiters
    const commitDelay = Duration.fromInputUnsafe(options.commitDelay)
    const cut = Effect.callback<void>((resume) => {
      if (this.state !== "open") return resume(Exit.void)
      this.cutDelay = () => resume(Exit.void)
    })
    this.delay = Duration.isPositive(commitDelay) ? Effect.raceFirst(Effect.sleep(commitDelay), cut) : undefined
    this.written = options.initialLsn
    this.durable = options.initialLsn
    this.queue = new RunQueue({
      initial: options.initialLsn,
      maxBatchBytes: options.maxBatchBytes,
      cutPointBytes: sink.seal?.bytes ?? 0,
      memory: sink.memory,
      pad: (target, view, offset, length) => {
        invariant(sink.pad !== undefined, "only a sink that can pad has holes")
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
      return nothingToUndo
    }
    if (this.admissions.length === 0 && this.hasRoom(admission.length)) {
      admission.enter()
      return nothingToUndo
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
      this.waitersOf(waiter.mode).add(end, waiter)
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

  readonly reserve: GroupCommit["reserve"] = (length) =>
    Effect.suspend((): ReturnType<GroupCommit["reserve"]> => {
      invariant(this.sink.pad !== undefined, "only a sink that can pad hands out reservations")
      const refusal = this.refuseLength(length)
      if (refusal !== undefined) return refusal
      let open: OpenReservation | undefined
      let isScopeOpen = true
      // The finalizer stands before the reservation does, so no interruption can fall between the two.
      const padUnfilled = Effect.sync(() => {
        isScopeOpen = false
        if (open !== undefined) this.giveUp(open)
      })
      const take = this.admitted(length, () => {
        invariant(isScopeOpen, "a reservation is made in a scope that is still open")
        open = this.queue.reserve(length)
        return this.toReservation(open, length)
      })
      return Effect.andThen(Effect.addFinalizer(() => padUnfilled), take)
    })

  private toReservation(open: OpenReservation, length: number): Reservation {
    return {
      start: toLsn(open.start),
      end: toLsn(open.start + length),
      fill: (bytes) =>
        Effect.suspend(() => {
          invariant(bytes.length === length, "a reservation is filled with exactly the bytes reserved")
          const ended = this.ended()
          if (ended !== undefined) return Effect.fail(ended)
          invariant(open.isOpen, "a reservation is filled once, inside its scope")
          open.bytes.set(bytes)
          this.queue.settle(open)
          this.wakeLeader()
          return Effect.void
        })
    }
  }

  /** Pads a reservation, unless it was filled, or the log that it belonged to is poisoned. */
  private giveUp(open: OpenReservation): void {
    if (!open.isOpen) return
    const { pad } = this.sink
    invariant(pad !== undefined, "only a sink that can pad has reservations")
    try {
      pad(open.bytes, open.view, 0, open.bytes.length)
    } catch (defect) {
      return this.poison(Cause.die(defect))
    }
    this.queue.settle(open)
    this.wakeLeader()
  }

  private refuseLength(length: number): Exit.Exit<never, EmptyRecord | RecordTooLarge> | undefined {
    if (length === 0) return Exit.fail(new EmptyRecord({ log: this.sink.name }))
    if (length <= this.maxRecordBytes) return undefined
    return Exit.fail(
      new RecordTooLarge({ log: this.sink.name, bytes: length, maxRecordBytes: this.maxRecordBytes })
    )
  }

  /** Runs `step` when there is room for `length` bytes. What it throws is the caller's defect, nobody else's. */
  private admitted<A>(length: number, step: () => A): Effect.Effect<A, LogEnded> {
    return Effect.callback<A, LogEnded>((resume) => {
      const stepBack = this.admit({
        length,
        enter: () => {
          let exit: Exit.Exit<A>
          try {
            exit = Exit.succeed(step())
          } catch (defect) {
            exit = Exit.die(defect)
          }
          resume(exit)
        },
        refuse: (ended) => resume(Exit.fail(ended))
      })
      return Effect.sync(stepBack)
    })
  }

  /** A hand-over above the bound is let in alone, when the queue is empty. */
  private hasRoom(length: number): boolean {
    if (this.quiescing > 0) return false
    const queued = this.queue.reserved - this.written
    return queued === 0 || queued + length + this.queue.futureCutBytes <= this.maxQueuedBytes
  }

  private admitWaiting(): void {
    for (let next = this.admissions[0]; next !== undefined; next = this.admissions[0]) {
      if (this.state !== "open" || !this.hasRoom(next.length)) return
      this.admissions.shift()
      try {
        next.enter()
      } catch (defect) {
        this.poison(Cause.die(defect))
        // It is in no queue any more, so the poison has not told it.
        return this.tell(() => next.refuse(this.poisoned ?? new LogClosed({ log: this.sink.name })))
      }
    }
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Waiting
  // ---------------------------------------------------------------------------------------------------------------

  readonly commitAtLeast: GroupCommit["commitAtLeast"] = (lsn, mode) => {
    if (this.poisoned !== undefined) return Exit.fail(this.poisoned)
    if (this.isReached(lsn, mode)) return Exit.void
    return Effect.callback<void, LogEnded | LsnNotReserved>((resume) => {
      // The state may have moved between the call and its evaluation.
      if (this.poisoned !== undefined) return resume(Exit.fail(this.poisoned))
      if (this.isReached(lsn, mode)) return resume(Exit.void)
      if (lsn > this.queue.reserved) {
        return resume(
          Exit.fail(new LsnNotReserved({ log: this.sink.name, lsn, reserved: toLsn(this.queue.reserved) }))
        )
      }
      invariant(this.state !== "closed", "a log that closed without poison made everything reserved durable")
      const queue = this.waitersOf(mode)
      const waiter: Waiter<LogEnded> = {
        succeed: () => resume(Exit.void),
        fail: (failure) => resume(Exit.fail(failure))
      }
      queue.add(lsn, waiter)
      this.wakeLeader()
      return Effect.sync(() => queue.remove(waiter))
    })
  }

  private isReached(lsn: Lsn, mode: CommitMode): boolean {
    return lsn <= (mode === "durable" ? this.durable : this.written)
  }

  private waitersOf(mode: CommitMode): WaiterQueue<LogEnded> {
    return mode === "durable" ? this.durableWaiters : this.writtenWaiters
  }

  readonly flushNow: GroupCommit["flushNow"] = Effect.suspend(() =>
    Effect.catchTag(
      this.commitAtLeast(toLsn(this.queue.reserved), "durable"),
      "LsnNotReserved",
      Effect.die
    )
  )

  private readonly failWhenEnded: Effect.Effect<void, LogEnded> = Effect.suspend(() => {
    const ended = this.ended()
    return ended === undefined ? Effect.void : Effect.fail(ended)
  })

  readonly quiesce: GroupCommit["quiesce"] = (use) =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        this.quiescing++
      }),
      // Closing drains as well: without the second look `use` would run beside it or behind it.
      () =>
        this.failWhenEnded.pipe(Effect.andThen(this.flushNow), Effect.andThen(this.failWhenEnded), Effect.andThen(use)),
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
      this.isFresh = true
      return Effect.void
    })

  readonly close: GroupCommit["close"] = Effect.suspend(() => {
    if (this.state === "open") {
      this.state = "closing"
      for (const open of this.queue.openReservations) this.giveUp(open)
      this.refuseWaiting(new LogClosed({ log: this.sink.name }))
      this.cutDelay?.()
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
    this.hasNews = true
    const { unpark } = this
    if (unpark === undefined) return
    this.unpark = undefined
    unpark()
  }

  private readonly park = Effect.callback<void>((resume) => {
    // A scheduler may let others run between the leader's look at the queue and this step.
    if (this.hasNews) return resume(Exit.void)
    this.unpark = () => resume(Exit.void)
  })

  /**
   * Forks the leader. It cannot be interrupted: it ends when the log is closed or poisoned, so that a scope whose
   * finalizers run side by side does not take it away from `close`.
   */
  readonly startIn = (scope: Parameters<typeof Effect.forkIn>[1]): Effect.Effect<void> =>
    Effect.map(Effect.forkIn(this.lead, scope, { startImmediately: true, uninterruptible: true }), (leader) => {
      this.leader = leader
    })

  /** The leader's life. Never fails: what goes wrong becomes poison. */
  private readonly lead: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    for (;;) {
      // Whoever was woken, and the event loop, has his turn before the next batch is cut: this is where it gathers.
      yield* Effect.yieldNow
      if (this.delay !== undefined && this.durableWaiters.size > this.commitSiblings) {
        yield* this.delay
        this.cutDelay = undefined
      }
      // The one who poisoned the log while this fiber was waiting for its turn has found nobody to wake.
      if (this.poisoned !== undefined) break
      this.hasNews = false
      const batch = this.queue.take()
      if (batch !== undefined) yield* this.writeBatches(batch)
      else if (this.durable < this.written && this.mustSyncWritten()) yield* this.syncWritten()
      else if (this.state === "closing" && this.queue.isEmpty) break
      else yield* this.park
    }
    this.state = "closed"
  }).pipe(
    Effect.catchCause((cause) => Effect.sync(() => this.poison(cause))),
    Effect.andThen(Effect.suspend(() =>
      Effect.forEach(
        this.defectsAfterPoison,
        (defect) => Effect.logError(`${this.sink.name}: somebody threw when told that the log is poisoned`, defect),
        { discard: true }
      )
    ))
  )

  /** Whether bytes that were only written have to be synced: somebody waits for them, or the log is closing. */
  private mustSyncWritten(): boolean {
    return this.state === "closing" || this.durableWaiters.firstTarget <= this.written
  }

  /**
   * Writes a batch, and further ones as long as it pays to write one while those are woken who waited for the one
   * before: their work, and the hand-overs it ends in, then runs beside the sync instead of before it. So many writers
   * in a closed loop fall into two groups, one of which works while the other one's batch is synced. A batch is handed to
   * the sink while the one before is still on its way, so that the device does not wait for the leader in between.
   */
  private *writeBatches(first: Batch) {
    /** What is on its way behind the batch that is written or settled now, in the background. */
    const behind: Array<BackgroundBatch> = []
    try {
      yield* this.writeInTurn(first, behind)
    } catch (defect) {
      this.poison(Cause.die(defect))
    }
    // The leader ends behind everything that it has begun.
    for (const { writing } of behind) yield* Fiber.await(writing)
  }

  /** Leaves in `behind` what is on its way when the log is poisoned. */
  private *writeInTurn(first: Batch, behind: Array<BackgroundBatch>) {
    let current: StartedBatch = this.start(first, undefined)
    let exit = yield* Effect.exit(this.write(current, false))
    for (;;) {
      if (Exit.isFailure(exit)) this.poison(exit.cause)
      // Somebody may have poisoned the log while the batch was in flight: then it is not acknowledged.
      if (this.poisoned !== undefined) return
      const due = this.settleBatch(current)
      const isOverlapping = this.delay === undefined &&
        due.length + (behind[0]?.batch.commits ?? 0) + this.queue.commits >= this.overlapWaiters()
      if (isOverlapping) {
        // Enough has come in meanwhile.
        if (behind.length === 0 && this.queue.commits * 2 >= due.length) yield* this.startBehind(behind)
        // The groups become equal: who is one too many in this one is woken to go with the other.
        const woken = Math.min(due.length, (due.length + (behind[0]?.batch.commits ?? 0) + 1) >> 1)
        this.succeedAll(due.slice(0, woken))
        yield* this.startBehind(behind)
        this.succeedAll(due.slice(woken))
        yield* this.startBehind(behind)
      } else {
        this.succeedAll(due)
      }
      const next = behind.shift()
      if (next === undefined) return
      // Also beside a sink that is done at once the event loop has its turn.
      yield* Effect.yieldNow
      exit = yield* Fiber.await(next.writing)
      current = next
    }
  }

  /** Starts writing what is queued, if anything is and the sink may have one more. */
  private *startBehind(behind: Array<BackgroundBatch>) {
    const last = behind.at(-1)
    if (last !== undefined && (behind.length > 1 || this.isFresh || !last.isSynced)) return
    const started = this.startQueued(last)
    if (started === undefined) return
    const fork = Effect.forkChild(this.write(started, true, last), { startImmediately: true, uninterruptible: true })
    // Its steps are one up to where the sink waits, or the batch behind could come to the sink first; and one from the
    // sink's failure to the end of the fiber, or the batch behind would not see it.
    const writing = yield* Effect.provideService(fork, PreventSchedulerYield, true)
    behind.push({ ...started, writing })
  }

  /** For the middle of a wake-up, which must go on whatever happens here. */
  private startQueued(before: StartedBatch | undefined): StartedBatch | undefined {
    try {
      const batch = this.poisoned === undefined ? this.queue.take() : undefined
      return batch === undefined ? undefined : this.start(batch, before)
    } catch (defect) {
      this.poison(Cause.die(defect))
      return undefined
    }
  }

  private start(batch: Batch, before: StartedBatch | undefined): StartedBatch {
    invariant(batch.start === (before?.batch.end ?? this.written), "a batch is written where the one before it ends")
    return {
      batch,
      // The strictest mode wins: one that waits for durability makes the whole batch synced (GC-12).
      isSynced: before !== undefined || this.state === "closing" || this.durableWaiters.firstTarget <= batch.end,
      startedNanos: this.clock.monotonicTimeNanosUnsafe()
    }
  }

  private write(
    { batch, isSynced }: StartedBatch,
    background: boolean,
    before?: BackgroundBatch
  ): Effect.Effect<void, VfsError> {
    return Effect.suspend(() => {
      // There may have been a turn since it was taken, and a poisoned log is not written. Nor is one that will be as soon
      // as the batch before this one is looked at.
      if (this.poisoned !== undefined || (before !== undefined && hasFailed(before))) return Effect.void
      const start = toLsn(batch.start)
      this.sink.seal?.write(batch.buffers, start, this.durable === batch.start)
      return isSynced
        ? this.sink.writeAndSync(batch.buffers, start, background)
        : this.sink.write(batch.buffers, start)
    })
  }

  /** The batch is written: raises the watermarks, publishes, lets in who waited for room, answers who is to be woken. */
  private settleBatch({ batch, isSynced, startedNanos }: StartedBatch): ReadonlyArray<Waiter<LogEnded>> {
    this.queue.recycle(batch)
    this.written = batch.end
    this.isFresh = false
    if (isSynced) this.recordSync(startedNanos)
    LogMetrics.commits.updateUnsafe(batch.commits, this.context)
    LogMetrics.batchCommits.updateUnsafe(batch.commits, this.context)
    LogMetrics.batchBytes.updateUnsafe(batch.end - batch.start, this.context)
    return this.advance(isSynced ? batch.end : this.durable)
  }

  private *syncWritten() {
    const { written } = this
    const startedNanos = this.clock.monotonicTimeNanosUnsafe()
    const exit = yield* Effect.exit(Effect.suspend(() => this.poisoned === undefined ? this.sink.sync : Effect.void))
    if (Exit.isFailure(exit)) return this.poison(exit.cause)
    if (this.poisoned !== undefined) return
    this.recordSync(startedNanos)
    this.succeedAll(this.advance(written))
  }

  /** A sync that began behind another one took the time since that one was done. */
  private recordSync(startedNanos: bigint): void {
    const now = this.clock.monotonicTimeNanosUnsafe()
    const nanos = Number(now - (startedNanos > this.settledNanos ? startedNanos : this.settledNanos))
    this.settledNanos = now
    LogMetrics.syncDurationSeconds.updateUnsafe(nanos / 1e9, this.context)
    LogMetrics.syncs.updateUnsafe(1, this.context)
  }

  /** Raises `durable`, publishes, lets in who waited for room, and takes out who waited for the watermarks. */
  private advance(durable: number): ReadonlyArray<Waiter<LogEnded>> {
    invariant(this.durable <= durable && durable <= this.written, "durable grows and never passes written")
    const hasGrown = durable > this.durable
    this.durable = durable
    if (hasGrown) this.sink.onDurable?.(toLsn(durable))
    LogMetrics.queueBytes.updateUnsafe(this.queue.reserved - this.written, this.context)
    LogMetrics.durableLagBytes.updateUnsafe(this.queue.reserved - durable, this.context)
    this.admitWaiting()
    const due = this.durableWaiters.takeUpTo(durable)
    const written = this.writtenWaiters.takeUpTo(this.written)
    return written.length === 0 ? due : [...due, ...written]
  }

  /** Wakes waiters that are out of their queue already, all of them, also when one of them throws. */
  private succeedAll(waiters: ReadonlyArray<Waiter<LogEnded>>): void {
    for (const waiter of waiters) {
      try {
        waiter.succeed()
      } catch (defect) {
        this.poison(Cause.die(defect))
      }
    }
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Ending
  // ---------------------------------------------------------------------------------------------------------------

  readonly poison = (cause: Cause.Cause<unknown>): void => {
    if (this.poisoned !== undefined) return
    const poisoned = new WalPoisoned({ log: this.sink.name, lsn: toLsn(this.durable), cause })
    this.poisoned = poisoned
    this.state = "closed"
    this.queue.clear()
    this.tell(() => this.sink.onPoisoned?.(poisoned))
    const waiters = [...this.durableWaiters.takeAll(), ...this.writtenWaiters.takeAll()]
    this.refuseWaiting(poisoned)
    for (const waiter of waiters) this.tell(() => waiter.fail(poisoned))
    this.cutDelay?.()
    this.wakeLeader()
  }

  private refuseWaiting(ended: LogEnded): void {
    for (const admission of this.admissions.splice(0)) this.tell(() => admission.refuse(ended))
  }

  /** Tells one of many: what it throws does not keep the others from being told. */
  private tell(call: () => void): void {
    try {
      call()
    } catch (defect) {
      if (this.poisoned === undefined) this.poison(Cause.die(defect))
      else this.defectsAfterPoison.push(Cause.die(defect))
    }
  }
}

/**
 * The engine behind `GroupCommit`: three queues (bytes, waiters, writers that wait for room), the watermarks, and how a log
 * ends. Its leader (`batchLeader.ts`) takes from the first queue.
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
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
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
import { BatchLeader, type LedLog } from "./batchLeader.ts"
import type { OpenReservation } from "./runQueue.ts"
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

const nothingToUndo = () => {}

/** @internal */
export class CommitEngine implements GroupCommit, LedLog {
  readonly sink: GroupCommitSink
  readonly queue: RunQueue
  readonly durableWaiters = new WaiterQueue<LogEnded>()
  written: number
  durable: number
  private readonly maxRecordBytes: number
  private readonly maxQueuedBytes: number
  private readonly writtenWaiters = new WaiterQueue<LogEnded>()
  private readonly admissions: Array<Admission> = []
  private quiescing = 0
  private state: "open" | "closing" | "closed" = "open"
  private poisoned: WalPoisoned | undefined
  /** What was thrown by those who were told about the poison; logged when the leader has ended. */
  private readonly defectsAfterPoison: Array<Cause.Cause<never>> = []
  private readonly leader: BatchLeader
  private leading: Fiber.Fiber<void> | undefined
  private readonly context: Context.Context<never>

  constructor(sink: GroupCommitSink, options: EngineOptions, clock: Clock.Clock, context: Context.Context<never>) {
    invariant(sink.seal === undefined || sink.pad !== undefined, "a sink with a seal can pad")
    invariant(sink.seal === undefined || sink.memory === undefined, "a sink with a seal has no memory of its own")
    this.sink = sink
    this.context = context
    this.maxRecordBytes = options.maxRecordBytes
    this.maxQueuedBytes = options.maxQueuedBytes
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
    this.leader = new BatchLeader(this, options, clock, context)
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
    this.leader.wake()
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
          this.leader.wake()
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
    this.leader.wake()
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
      this.leader.wake()
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
      this.leader.startAfresh()
      return Effect.void
    })

  readonly close: GroupCommit["close"] = Effect.suspend(() => {
    if (this.state === "open") {
      this.state = "closing"
      for (const open of this.queue.openReservations) this.giveUp(open)
      this.refuseWaiting(new LogClosed({ log: this.sink.name }))
      this.leader.hurry()
    }
    invariant(this.leading !== undefined, "the leader runs from the start")
    return Effect.andThen(
      Fiber.await(this.leading),
      Effect.suspend(() => this.poisoned === undefined ? Effect.void : Effect.fail(this.poisoned))
    )
  })

  // ---------------------------------------------------------------------------------------------------------------
  // Being led
  // ---------------------------------------------------------------------------------------------------------------

  get isPoisoned(): boolean {
    return this.poisoned !== undefined
  }

  get isOpen(): boolean {
    return this.state === "open"
  }

  get isClosing(): boolean {
    return this.state === "closing"
  }

  /**
   * Forks the leader. It cannot be interrupted: it ends when the log is closed or poisoned, so that a scope whose
   * finalizers run side by side does not take it away from `close`.
   */
  readonly startIn = (scope: Parameters<typeof Effect.forkIn>[1]): Effect.Effect<void> => {
    const life = this.leader.lead.pipe(
      Effect.catchCause((cause) => Effect.sync(() => this.poison(cause))),
      Effect.andThen(Effect.suspend(() => {
        this.state = "closed"
        return Effect.forEach(
          this.defectsAfterPoison,
          (defect) => Effect.logError(`${this.sink.name}: somebody threw when told that the log is poisoned`, defect),
          { discard: true }
        )
      }))
    )
    return Effect.map(Effect.forkIn(life, scope, { startImmediately: true, uninterruptible: true }), (fiber) => {
      this.leading = fiber
    })
  }

  advance(written: number, durable: number): ReadonlyArray<Waiter<LogEnded>> {
    invariant(this.durable <= durable && durable <= written, "durable grows and never passes written")
    const hasGrown = durable > this.durable
    this.written = written
    this.durable = durable
    if (hasGrown) this.sink.onDurable?.(toLsn(durable))
    LogMetrics.queueBytes.updateUnsafe(this.queue.reserved - this.written, this.context)
    LogMetrics.durableLagBytes.updateUnsafe(this.queue.reserved - durable, this.context)
    this.admitWaiting()
    const due = this.durableWaiters.takeUpTo(durable)
    const others = this.writtenWaiters.takeUpTo(written)
    return others.length === 0 ? due : [...due, ...others]
  }

  succeedAll(waiters: ReadonlyArray<Waiter<LogEnded>>): void {
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
    this.leader.hurry()
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

/**
 * The leader of a log: the fiber that takes what is queued, writes it, and has those woken who waited for it.
 *
 * It is the only one that takes from the queue and raises the watermarks, so what it has seen of them stays true while the
 * sink is at work; whatever else it asks of the log may have changed by then, and is asked again.
 */
import { invariant } from "@tidemark/core/Invariant"
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
import type { GroupCommitSink, LogEnded } from "../GroupCommit.ts"
import * as LogMetrics from "../LogMetrics.ts"
import type { Batch, RunQueue } from "./runQueue.ts"
import type { Waiter, WaiterQueue } from "./waiterQueue.ts"

/** What a leader knows and asks of its log. */
export interface LedLog {
  readonly sink: GroupCommitSink
  readonly queue: RunQueue
  readonly durableWaiters: WaiterQueue<LogEnded>
  readonly written: number
  readonly durable: number
  readonly isPoisoned: boolean
  readonly isOpen: boolean
  readonly isClosing: boolean
  readonly poison: (cause: Cause.Cause<unknown>) => void
  /** Raises the watermarks, publishes, lets in who waited for room, and takes out who waited for the watermarks. */
  advance(written: number, durable: number): ReadonlyArray<Waiter<LogEnded>>
  /** Wakes waiters that are out of their queue already, all of them, also when one of them throws. */
  succeedAll(waiters: ReadonlyArray<Waiter<LogEnded>>): void
}

export interface LeaderOptions {
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

export class BatchLeader {
  private readonly log: LedLog
  private readonly commitSiblings: number
  private readonly overlapWaiters: () => number
  private readonly delay: Effect.Effect<void> | undefined
  private readonly clock: Clock.Clock
  private readonly context: Context.Context<never>
  /** Nothing was written since the log was opened or reset: what comes first is on its way alone. */
  private isFresh = true
  /** When the last sync was done. */
  private settledNanos = 0n
  /** Whether anything happened since it looked last. */
  private hasNews = false
  /** Resumes it; set only while it is parked. */
  private unpark: (() => void) | undefined
  /** Ends its commit delay early; set only while that lasts. */
  private cutDelay: (() => void) | undefined

  constructor(log: LedLog, options: LeaderOptions, clock: Clock.Clock, context: Context.Context<never>) {
    this.log = log
    this.clock = clock
    this.context = context
    this.commitSiblings = options.commitSiblings
    this.overlapWaiters = options.overlapWaiters
    const commitDelay = Duration.fromInputUnsafe(options.commitDelay)
    const cut = Effect.callback<void>((resume) => {
      if (!log.isOpen) return resume(Exit.void)
      this.cutDelay = () => resume(Exit.void)
    })
    this.delay = Duration.isPositive(commitDelay) ? Effect.raceFirst(Effect.sleep(commitDelay), cut) : undefined
  }

  /** Something has happened that it may have to do something about. */
  wake(): void {
    this.hasNews = true
    const { unpark } = this
    if (unpark === undefined) return
    this.unpark = undefined
    unpark()
  }

  /** The log is ending: it waits for nothing more. */
  hurry(): void {
    this.cutDelay?.()
    this.wake()
  }

  /** Positions were moved: what comes first behind them is on its way alone. */
  startAfresh(): void {
    this.isFresh = true
  }

  private readonly park = Effect.callback<void>((resume) => {
    // A scheduler may let others run between the leader's look at the queue and this step.
    if (this.hasNews) return resume(Exit.void)
    this.unpark = () => resume(Exit.void)
  })

  /** Its life. What it dies of is the end of the log. */
  readonly lead: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    for (;;) {
      // Whoever was woken, and the event loop, has his turn before the next batch is cut: this is where it gathers.
      yield* Effect.yieldNow
      if (this.delay !== undefined && this.log.durableWaiters.size > this.commitSiblings) {
        yield* this.delay
        this.cutDelay = undefined
      }
      // The one who poisoned the log while this fiber was waiting for its turn has found nobody to wake.
      if (this.log.isPoisoned) break
      this.hasNews = false
      const batch = this.log.queue.take()
      if (batch !== undefined) yield* this.writeBatches(batch)
      else if (this.log.durable < this.log.written && this.mustSyncWritten()) yield* this.syncWritten()
      else if (this.log.isClosing && this.log.queue.isEmpty) break
      else yield* this.park
    }
  })

  /** Whether bytes that were only written have to be synced: somebody waits for them, or the log is closing. */
  private mustSyncWritten(): boolean {
    return this.log.isClosing || this.log.durableWaiters.firstTarget <= this.log.written
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
      this.log.poison(Cause.die(defect))
    }
    // The leader ends behind everything that it has begun.
    for (const { writing } of behind) yield* Fiber.await(writing)
  }

  /** Leaves in `behind` what is on its way when the log is poisoned. */
  private *writeInTurn(first: Batch, behind: Array<BackgroundBatch>) {
    let current: StartedBatch = this.start(first, undefined)
    let exit = yield* Effect.exit(this.write(current, false))
    for (;;) {
      if (Exit.isFailure(exit)) this.log.poison(exit.cause)
      // Somebody may have poisoned the log while the batch was in flight: then it is not acknowledged.
      if (this.log.isPoisoned) return
      const due = this.settleBatch(current)
      const isOverlapping = this.delay === undefined &&
        due.length + (behind[0]?.batch.commits ?? 0) + this.log.queue.commits >= this.overlapWaiters()
      if (isOverlapping) {
        // Enough has come in meanwhile.
        if (behind.length === 0 && this.log.queue.commits * 2 >= due.length) yield* this.startBehind(behind)
        // The groups become equal: who is one too many in this one is woken to go with the other.
        const woken = Math.min(due.length, (due.length + (behind[0]?.batch.commits ?? 0) + 1) >> 1)
        this.log.succeedAll(due.slice(0, woken))
        yield* this.startBehind(behind)
        this.log.succeedAll(due.slice(woken))
        yield* this.startBehind(behind)
      } else {
        this.log.succeedAll(due)
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
      const batch = this.log.isPoisoned ? undefined : this.log.queue.take()
      return batch === undefined ? undefined : this.start(batch, before)
    } catch (defect) {
      this.log.poison(Cause.die(defect))
      return undefined
    }
  }

  private start(batch: Batch, before: StartedBatch | undefined): StartedBatch {
    invariant(
      batch.start === (before?.batch.end ?? this.log.written),
      "a batch is written where the one before it ends"
    )
    return {
      batch,
      // The strictest mode wins: one that waits for durability makes the whole batch synced (GC-12).
      isSynced: before !== undefined || this.log.isClosing || this.log.durableWaiters.firstTarget <= batch.end,
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
      if (this.log.isPoisoned || (before !== undefined && hasFailed(before))) return Effect.void
      const start = toLsn(batch.start)
      this.log.sink.seal?.write(batch.buffers, start, this.log.durable === batch.start)
      return isSynced
        ? this.log.sink.writeAndSync(batch.buffers, start, background)
        : this.log.sink.write(batch.buffers, start)
    })
  }

  /** The batch is written: raises the watermarks, publishes, lets in who waited for room, answers who is to be woken. */
  private settleBatch({ batch, isSynced, startedNanos }: StartedBatch): ReadonlyArray<Waiter<LogEnded>> {
    this.log.queue.recycle(batch)
    this.isFresh = false
    if (isSynced) this.recordSync(startedNanos)
    LogMetrics.commits.updateUnsafe(batch.commits, this.context)
    LogMetrics.batchCommits.updateUnsafe(batch.commits, this.context)
    LogMetrics.batchBytes.updateUnsafe(batch.end - batch.start, this.context)
    return this.log.advance(batch.end, isSynced ? batch.end : this.log.durable)
  }

  private *syncWritten() {
    const { written } = this.log
    const startedNanos = this.clock.monotonicTimeNanosUnsafe()
    const exit = yield* Effect.exit(Effect.suspend(() => this.log.isPoisoned ? Effect.void : this.log.sink.sync))
    if (Exit.isFailure(exit)) return this.log.poison(exit.cause)
    if (this.log.isPoisoned) return
    this.recordSync(startedNanos)
    this.log.succeedAll(this.log.advance(this.log.written, written))
  }

  /** A sync that began behind another one took the time since that one was done. */
  private recordSync(startedNanos: bigint): void {
    const now = this.clock.monotonicTimeNanosUnsafe()
    const nanos = Number(now - (startedNanos > this.settledNanos ? startedNanos : this.settledNanos))
    this.settledNanos = now
    LogMetrics.syncDurationSeconds.updateUnsafe(nanos / 1e9, this.context)
    LogMetrics.syncs.updateUnsafe(1, this.context)
  }
}

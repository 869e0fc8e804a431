/**
 * The fiber that closes epochs (PW-14): one cycle every interval, earlier when the open epoch has grown large enough, or
 * when the controller says so.
 *
 * Without a controller an epoch lasts its interval, whatever waits. With one the epoch is closed as soon as the writers
 * that are expected have come, and batches gather while a cycle runs.
 */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import type { Controller, Observation } from "../ParallelWalController.ts"
import { AlreadyRunning } from "../ParallelWalErrors.ts"
import { noFallback } from "../ParallelWalTrace.ts"
import type { EpochLog } from "./epochLog.ts"
import type { LaneAssignment } from "./laneAssignment.ts"

export interface EpochTickerOptions {
  readonly log: EpochLog
  readonly clock: Clock.Clock
  /** How long an epoch lasts, milliseconds. */
  readonly intervalMillis: number
  /** A batch waits at the most so long before its epoch is closed, a flush that is under way not counted; 0: not at all. */
  readonly maxDelayMillis: number
  /** Encoded bytes in the open epoch from which on it is closed at once. */
  readonly maxBatchBytes: number
  readonly controller: Controller | undefined
  readonly lanes: LaneAssignment
  /** The most lanes that the controller may use; `undefined`: how many there are is not its business. */
  readonly maxLanes: number | undefined
}

export class EpochTicker {
  private readonly options: EpochTickerOptions
  private fiber: Fiber.Fiber<void> | undefined
  /** Ends the waiting for the next cycle. */
  private wake: (() => void) | undefined
  /** When the oldest batch of the open epoch was stored. */
  private oldestAt = 0
  /** When lanes were thought about last, and the batches stored until then. */
  private window = { endedAt: 0, batches: 0 }
  private batches = 0

  constructor(options: EpochTickerOptions) {
    this.options = options
    const { controller, intervalMillis, log, maxDelayMillis } = options
    const isDelayShort = maxDelayMillis < intervalMillis
    log.onStored = () => {
      this.batches++
      const isFirst = log.openBatches === 1
      if (isFirst) this.oldestAt = this.nowMillis
      if (controller !== undefined) controller.arrived(this.nowMicros)
      const { wake } = this
      if (wake !== undefined && (controller !== undefined || (isFirst && isDelayShort) || this.isLarge)) wake()
    }
    log.onFlushed = (flush) => controller?.flushed(this.nowMicros, flush)
  }

  /** Runs until {@link stop}, until the scope closes, or until the log has ended. */
  readonly start: Effect.Effect<void, AlreadyRunning, Scope.Scope> = Effect.acquireRelease(
    Effect.suspend(() => {
      if (this.fiber !== undefined) {
        return Effect.fail(new AlreadyRunning({ log: this.options.log.options.database }))
      }
      return Effect.map(Effect.forkDetach(this.run), (fiber) => {
        this.fiber = fiber
        // Not before its last cycle is over: who stops it meanwhile waits for that too.
        fiber.addObserver(() => {
          this.fiber = undefined
        })
        return fiber
      })
    }),
    (fiber) => this.fiber === fiber ? this.stop : Effect.void
  ).pipe(Effect.asVoid)

  /** Waits for the cycle that runs. Nothing is drained. */
  readonly stop: Effect.Effect<void> = Effect.suspend(() =>
    this.fiber === undefined ? Effect.void : Fiber.interrupt(this.fiber)
  )

  private readonly run: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    const { intervalMillis, log } = this.options
    let tick = this.nowMillis + intervalMillis
    while (!log.isOver) {
      yield* this.awaitTurn(tick)
      const isDurable = yield* log.cycle
      this.thinkAboutLanes()
      tick = this.nowMillis + intervalMillis
      // What could not be written is not tried again before the next tick, however much waits behind it.
      if (!isDurable) yield* Effect.sleep(intervalMillis)
    }
  })

  // The clock on the wall may be set back, and then nobody would be served for an hour.
  private get nowMillis(): number {
    return this.nowMicros / 1000
  }

  private get nowMicros(): number {
    return Number(this.options.clock.monotonicTimeNanosUnsafe() / 1000n)
  }

  private get isLarge(): boolean {
    const { log, maxBatchBytes } = this.options
    return log.options.lanes.backlogBytes >= maxBatchBytes
  }

  /** Waits until the open epoch is to be closed: at `tick`, or before. */
  private awaitTurn(tick: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { controller, log, maxDelayMillis } = this.options
      if (log.openBatches === 0) return this.awaitBatchOr(tick, tick)
      const due = Math.min(tick, this.oldestAt + maxDelayMillis)
      // Never inside the step that stores a batch. Those who were woken by the cycle before have their turn first, too.
      if (this.isLarge || this.nowMillis >= due) return Effect.yieldNow
      return controller === undefined
        ? this.awaitBatchOr(due, tick)
        : Effect.andThen(Effect.yieldNow, this.askController(controller, due))
    })
  }

  /** Until then, or until a batch is stored that ends the waiting. */
  private awaitBatchOr(until: number, tick: number): Effect.Effect<void> {
    const left = until - this.nowMillis
    if (left <= 0) return Effect.yieldNow
    const woken = Effect.callback<void>((resume) => {
      this.wake = () => {
        this.wake = undefined
        resume(Exit.void)
      }
      return Effect.sync(() => {
        this.wake = undefined
      })
    })
    return Effect.flatMap(
      Effect.raceFirst(Effect.as(Effect.sleep(left), true), Effect.as(woken, false)),
      (isOver) => isOver ? Effect.void : this.awaitTurn(tick)
    )
  }

  private askController(controller: Controller, due: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { log } = this.options
      const { action, askAgainMicros, fallback, id } = controller.ask(this.nowMicros, this.observe(false))
      if (action === "seal_now") {
        log.decisionId = id
        return Effect.void
      }
      if (this.isLarge || this.nowMillis >= due) return Effect.void
      if (fallback !== noFallback) log.options.encoder.fallBack(fallback)
      return askAgainMicros === undefined
        ? Effect.sleep(due - this.nowMillis)
        : Effect.andThen(
          this.pass(this.nowMicros + askAgainMicros),
          Effect.suspend(() => this.askController(controller, due))
        )
    })
  }

  /** Lets others run until then: timers are no finer than a millisecond. */
  private pass(untilMicros: number): Effect.Effect<void> {
    return Effect.andThen(
      Effect.yieldNow,
      Effect.suspend(() => this.nowMicros >= untilMicros || this.isLarge ? Effect.void : this.pass(untilMicros))
    )
  }

  /** Once in an interval; one in which nothing came says nothing about lanes. */
  private thinkAboutLanes(): void {
    const { controller, intervalMillis, lanes, log, maxLanes } = this.options
    if (controller === undefined || maxLanes === undefined || this.batches === this.window.batches) return
    if (this.nowMillis < this.window.endedAt + intervalMillis) return
    const { action, fallback } = controller.ask(this.nowMicros, this.observe(true))
    this.window = { endedAt: this.nowMillis, batches: this.batches }
    if (fallback !== noFallback) log.options.encoder.fallBack(fallback)
    if (action === "more_lanes") lanes.laneCount = Math.min(maxLanes, lanes.laneCount + 1)
    if (action === "fewer_lanes") lanes.laneCount = Math.max(1, lanes.laneCount - 1)
  }

  private observe(isFlushing: boolean): Observation {
    const { intervalMillis, lanes, log } = this.options
    const { backlogFrames, occupancy } = log.options.lanes
    return {
      isFlushing,
      occupancy,
      lagMillis: log.openBatches === 0 ? 0 : this.nowMillis - this.oldestAt,
      backlogFrames,
      waiters: log.waiters,
      epochMillis: intervalMillis,
      lanes: lanes.laneCount,
      batchesInWindow: this.batches - this.window.batches
    }
  }
}

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
  /** Encoded bytes in the open epoch from which on it is closed at once. */
  readonly maxBatchBytes: number
  readonly controller: Controller | undefined
  readonly lanes: LaneAssignment
  /** The most lanes that there can be. */
  readonly maxLanes: number
}

export class EpochTicker {
  private readonly options: EpochTickerOptions
  private fiber: Fiber.Fiber<void> | undefined
  /** Ends the waiting for the next cycle. */
  private wake: (() => void) | undefined
  /** When lanes were thought about last, and the batches stored until then. */
  private window = { endedAt: 0, batches: 0 }
  private batches = 0

  constructor(options: EpochTickerOptions) {
    this.options = options
    const { controller, log } = options
    log.onStored = () => {
      this.batches++
      if (controller !== undefined) controller.arrived(this.nowMicros)
      if (this.wake !== undefined && (controller !== undefined || this.isLarge)) this.wake()
    }
    log.onFlushed = (flush) => controller?.flushed(this.nowMicros, flush)
  }

  /** Runs until {@link stop}, or until the scope closes. */
  readonly start: Effect.Effect<void, AlreadyRunning, Scope.Scope> = Effect.acquireRelease(
    Effect.suspend(() => {
      if (this.fiber !== undefined) {
        return Effect.fail(new AlreadyRunning({ log: this.options.log.options.database }))
      }
      return Effect.map(Effect.forkDetach(this.run), (fiber) => {
        this.fiber = fiber
        return fiber
      })
    }),
    (fiber) => this.fiber === fiber ? this.stop : Effect.void
  ).pipe(Effect.asVoid)

  /** Waits for the cycle that runs. Nothing is drained. */
  readonly stop: Effect.Effect<void> = Effect.suspend(() => {
    const { fiber } = this
    if (fiber === undefined) return Effect.void
    this.fiber = undefined
    return Fiber.interrupt(fiber)
  })

  private readonly run: Effect.Effect<void> = Effect.suspend(() => {
    const { intervalMillis, log } = this.options
    let deadline = this.nowMillis + intervalMillis
    return Effect.forever(
      Effect.suspend(() => Effect.andThen(this.awaitTurn(deadline), log.cycle)).pipe(
        Effect.flatMap((isDurable) => {
          this.thinkAboutLanes()
          deadline = this.nowMillis + intervalMillis
          // What could not be written is not tried again before the next tick, however much waits behind it.
          return isDurable ? Effect.void : Effect.sleep(intervalMillis)
        })
      ),
      { disableYield: true }
    )
  })

  private get nowMillis(): number {
    return this.options.clock.currentTimeMillisUnsafe()
  }

  private get nowMicros(): number {
    return Number(this.options.clock.currentTimeNanosUnsafe() / 1000n)
  }

  private get isLarge(): boolean {
    const { log, maxBatchBytes } = this.options
    return log.options.lanes.backlogBytes >= maxBatchBytes
  }

  /** Waits until the open epoch is to be closed: at `deadline`, or before. */
  private awaitTurn(deadline: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.isLarge) return Effect.void
      const { controller, log } = this.options
      // Those who were woken by the cycle before have their turn first.
      if (controller !== undefined && log.hasBatches) {
        return Effect.andThen(Effect.yieldNow, this.askController(controller, deadline))
      }
      return this.awaitBatchOr(deadline)
    })
  }

  /** Until the deadline, or until a batch is stored that ends the waiting. */
  private awaitBatchOr(deadline: number): Effect.Effect<void> {
    const left = deadline - this.nowMillis
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
      (isOver) => isOver ? Effect.void : this.awaitTurn(deadline)
    )
  }

  private askController(controller: Controller, deadline: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { action, askAgainMicros, fallback } = controller.ask(this.nowMicros, this.observe(false))
      if (action === "seal_now" || this.nowMillis >= deadline) return Effect.void
      if (fallback !== noFallback) this.options.log.fallBack(fallback)
      return askAgainMicros === undefined
        ? Effect.sleep(deadline - this.nowMillis)
        : Effect.andThen(
          this.pass(this.nowMicros + askAgainMicros),
          Effect.suspend(() => this.askController(controller, deadline))
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

  /** Once in an interval. */
  private thinkAboutLanes(): void {
    const { controller, intervalMillis, lanes, log, maxLanes } = this.options
    if (controller === undefined || this.nowMillis < this.window.endedAt + intervalMillis) return
    const { action, fallback } = controller.ask(this.nowMicros, this.observe(true))
    this.window = { endedAt: this.nowMillis, batches: this.batches }
    if (fallback !== noFallback) log.fallBack(fallback)
    if (action === "more_lanes") lanes.laneCount = Math.min(maxLanes, lanes.laneCount + 1)
    if (action === "fewer_lanes") lanes.laneCount = Math.max(1, lanes.laneCount - 1)
  }

  private observe(isFlushing: boolean): Observation {
    const { intervalMillis, lanes, log } = this.options
    const { backlogFrames, occupancy, oldestStagedAt } = log.options.lanes
    return {
      isFlushing,
      occupancy,
      lagMillis: oldestStagedAt === undefined ? 0 : Math.max(0, this.nowMillis - oldestStagedAt),
      backlogFrames,
      waiters: log.waiters,
      epochMillis: intervalMillis,
      lanes: lanes.laneCount,
      batchesInWindow: this.batches - this.window.batches
    }
  }
}

/**
 * When to close an epoch before its tick, and how many lanes to use (PW-33). It changes when work is done, never what:
 * without it every epoch waits for its tick, and the results are the same.
 *
 * The question. While the log is idle and batches wait, closing the epoch now makes everybody who comes a moment later
 * wait for the whole flush; waiting for them makes everybody who is there wait a moment longer. Whoever closes at once
 * splits writers that come back together into groups that take turns; whoever waits a fixed time wastes most of it.
 *
 * The answer, as a loss in microseconds of waiting, summed over writers:
 *
 * - *closing now* costs, for each writer that is expected to come back within a time t, most of the fixed part of a
 *   flush (what it would have shared);
 * - *waiting for t* costs t for everybody who waits, and for each who comes what is left of t.
 *
 * When for any t the first is above the second, the epoch stays open, and the question is asked again after the best t,
 * or when the next batch comes. When writers come back is learned (`internal/writerReturns.ts`), and so is the fixed part
 * of a flush (`internal/flushCost.ts`).
 *
 * 1. {@link decide} is a pure function: equal evidence, equal decision.
 * 2. Evidence that is no number is never used: the decision is `force_conservative`, the reason
 *    `controller_evidence_lost` (PW-31).
 * 3. Every decision is recorded with what it rested on and what the next best one would have cost; the last
 *    `maxDecisions` are kept.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import { FlushCost } from "./internal/flushCost.ts"
import { WriterReturns } from "./internal/writerReturns.ts"
import { type FallbackReason, noFallback } from "./ParallelWalTrace.ts"

/**
 * What the controller can ask for.
 *
 * **Details**
 *
 * - `keep_current`: leave the epoch open.
 * - `seal_now`: close it at once, not at the next tick.
 * - `more_lanes`, `fewer_lanes`: one more or one less, for writers that come later.
 * - `force_conservative`: enter the fallback.
 *
 * @category models
 * @since 0.1.0
 */
export type ControllerAction = "keep_current" | "seal_now" | "more_lanes" | "fewer_lanes" | "force_conservative"

/**
 * What the engine sees when it asks.
 *
 * @category models
 * @since 0.1.0
 */
export interface Observation {
  /** A flush is under way, so that nothing can be closed. */
  readonly isFlushing: boolean
  /** How full the fullest lane is, 0 ... 1, or more when it has overflowed. */
  readonly occupancy: number
  /** Age of the oldest batch that waits; 0 when none does. */
  readonly lagMillis: number
  /** Records that wait. */
  readonly backlogFrames: number
  /** Batches that wait. */
  readonly waiters: number
  /** The epoch interval: when the tick would come. */
  readonly epochMillis: number
  readonly lanes: number
  /** Batches since the last flush began. */
  readonly batchesInWindow: number
}

/**
 * An observation together with what the controller has learned: all that a decision rests on.
 *
 * @category models
 * @since 0.1.0
 */
export interface WindowEvidence extends Observation {
  /** Median of the recent flushes; 0 before the first. */
  readonly flushMicros: number
  /** The part of a flush that does not depend on the number of its records. */
  readonly flushFixedMicros: number
  /** How many writers are expected to have come back, at growing distances from now. */
  readonly returns: ReadonlyArray<{ readonly afterMicros: number; readonly writers: number }>
}

/**
 * The constants of {@link decide}.
 *
 * @category models
 * @since 0.1.0
 */
export interface ControllerPolicy {
  readonly id: string
  readonly version: number
  /**
   * How much of the fixed part of a flush a writer loses that comes too late. Not all of it: a flush that it does not
   * join is shorter for the others. Simulated writers can hardly tell 0.75 from 0.9; with 0.5 too few are waited for,
   * and with 1 and above writers are that had better take turns.
   */
  readonly missedShare: number
  /** For how many flushes (their fixed part) it is worth looking ahead. */
  readonly horizonFlushes: number
  /** A batch waits at most so long. */
  readonly maxFlushDelayMillis: number
  /** Above this the epoch is closed whoever may still come, so that no lane overflows. */
  readonly highOccupancy: number
  /** Below this there may be more lanes than are of use. */
  readonly lowOccupancy: number
  readonly minLanes: number
  readonly maxLanes: number
  /** What one lane costs a flush. */
  readonly laneMicros: number
}

/**
 * The policy that is used unless another one is given.
 *
 * @category defaults
 * @since 0.1.0
 */
export const defaultPolicy: ControllerPolicy = {
  id: "expected_returns",
  version: 1,
  missedShare: 0.8,
  horizonFlushes: 2,
  maxFlushDelayMillis: 10,
  highOccupancy: 0.75,
  lowOccupancy: 0.05,
  minLanes: 1,
  maxLanes: 128,
  laneMicros: 1
}

/**
 * What {@link decide} answers.
 *
 * @category models
 * @since 0.1.0
 */
export interface Verdict {
  readonly action: ControllerAction
  /** How much better it is than the next best action: 5000 = not at all, 10000 = beyond doubt. */
  readonly confidenceBasisPoints: number
  /** Microseconds of waiting that it costs, summed over writers. */
  readonly expectedLossMicros: number
  /** The number that decided. */
  readonly topEvidence: { readonly name: string; readonly value: number }
  /** The next best action. */
  readonly counterfactualAction: ControllerAction
  /** What the next best action would cost above this one; never negative. */
  readonly regretMicros: number
  /** Why conservative mode is forced, if it is. */
  readonly fallback: FallbackReason | typeof noFallback
  /** With `keep_current`: when to ask again although nothing has happened. `undefined` = only when something does. */
  readonly askAgainMicros: number | undefined
}

/**
 * A verdict as it is recorded.
 *
 * @category models
 * @since 0.1.0
 */
export interface Decision extends Verdict {
  /** From 1 on. */
  readonly id: number
  readonly policyId: string
  readonly policyVersion: number
  /** When it was made, on the clock of the caller. */
  readonly atMicros: number
}

interface Choice {
  readonly action: ControllerAction
  readonly lossMicros: number
}

const confidenceOf = (chosen: number, other: number): number =>
  chosen + other === 0 ? 5000 : Math.round(10_000 * other / (chosen + other))

const verdict = (
  chosen: Choice,
  other: Choice,
  topEvidence: Verdict["topEvidence"],
  more: Partial<Pick<Verdict, "confidenceBasisPoints" | "fallback" | "askAgainMicros">> = {}
): Verdict => ({
  action: chosen.action,
  confidenceBasisPoints: confidenceOf(chosen.lossMicros, other.lossMicros),
  expectedLossMicros: chosen.lossMicros,
  topEvidence,
  counterfactualAction: other.action,
  regretMicros: Math.max(0, other.lossMicros - chosen.lossMicros),
  fallback: noFallback,
  askAgainMicros: undefined,
  ...more
})

/**
 * Decides, from nothing but its arguments.
 *
 * **Details**
 *
 * While batches wait and no flush runs, the answer is `seal_now` or `keep_current`; otherwise it is about lanes.
 *
 * **Example** (Closing when nobody else is expected)
 *
 * ```ts
 * import { decide, defaultPolicy } from "@tidemark/wal/ParallelWalController"
 *
 * const evidence = {
 *   isFlushing: false, occupancy: 0.1, lagMillis: 0, backlogFrames: 3, waiters: 3, epochMillis: 10, lanes: 2,
 *   batchesInWindow: 3, flushMicros: 900, flushFixedMicros: 800
 * }
 * decide({ ...evidence, returns: [] }, defaultPolicy).action // => "seal_now"
 * decide({ ...evidence, returns: [{ afterMicros: 20, writers: 5 }] }, defaultPolicy).action // => "keep_current"
 * ```
 *
 * @category deciding
 * @since 0.1.0
 */
export const decide = (evidence: WindowEvidence, policy: ControllerPolicy): Verdict => {
  const lost = lostEvidence(evidence)
  if (lost !== undefined) {
    return verdict(
      { action: "force_conservative", lossMicros: 0 },
      { action: "keep_current", lossMicros: 0 },
      lost,
      { confidenceBasisPoints: 10_000, fallback: "controller_evidence_lost" }
    )
  }
  return evidence.waiters > 0 && !evidence.isFlushing ? decideSealing(evidence, policy) : decideLanes(evidence, policy)
}

/** The first number that is none, or that cannot be. */
const lostEvidence = (evidence: WindowEvidence): Verdict["topEvidence"] | undefined => {
  const { returns, ...observed } = evidence
  for (const [name, value] of Object.entries(observed)) {
    if (typeof value === "number" && !(value >= 0 && Number.isFinite(value))) return { name, value }
  }
  let previous = 0
  for (const { afterMicros, writers } of returns) {
    if (!(afterMicros > previous && Number.isFinite(afterMicros))) return { name: "returns", value: afterMicros }
    if (!(writers >= 0 && Number.isFinite(writers))) return { name: "returns", value: writers }
    previous = afterMicros
  }
  return undefined
}

const decideSealing = (evidence: WindowEvidence, policy: ControllerPolicy): Verdict => {
  const { epochMillis, flushFixedMicros, lagMillis, occupancy, returns, waiters } = evidence
  const untilTick: Choice = {
    action: "keep_current",
    lossMicros: waiters * Math.max(0, epochMillis - lagMillis) * 1000
  }
  const sealed: Choice = { action: "seal_now", lossMicros: 0 }
  const certain = { confidenceBasisPoints: 10_000 }
  if (lagMillis >= policy.maxFlushDelayMillis) {
    return verdict(sealed, untilTick, { name: "lagMillis", value: lagMillis }, certain)
  }
  if (occupancy >= policy.highOccupancy) {
    return verdict(sealed, untilTick, { name: "occupancy", value: occupancy }, certain)
  }
  const latestMicros = (policy.maxFlushDelayMillis - lagMillis) * 1000
  let best: { afterMicros: number; writers: number; missed: number; waited: number } | undefined
  let waited = 0
  let before = { afterMicros: 0, writers: 0 }
  for (const point of returns) {
    if (point.afterMicros > latestMicros) break
    waited += (waiters + (before.writers + point.writers) / 2) * (point.afterMicros - before.afterMicros)
    const missed = point.writers * flushFixedMicros * policy.missedShare
    if (best === undefined || missed - waited > best.missed - best.waited) best = { ...point, missed, waited }
    before = point
  }
  if (best === undefined) return verdict(sealed, untilTick, { name: "waiters", value: waiters })
  const sealedNow: Choice = { action: "seal_now", lossMicros: best.missed }
  const keptOpen: Choice = { action: "keep_current", lossMicros: best.waited }
  const topEvidence = { name: "returns", value: best.writers }
  return best.missed > best.waited
    ? verdict(keptOpen, sealedNow, topEvidence, { askAgainMicros: best.afterMicros })
    : verdict(sealedNow, keptOpen, topEvidence)
}

const decideLanes = (evidence: WindowEvidence, policy: ControllerPolicy): Verdict => {
  const { batchesInWindow, flushMicros, lanes, occupancy, waiters } = evidence
  // Who finds no room in a lane waits for a whole flush.
  const withoutRoomMicros = Math.max(1, waiters) * flushMicros
  if (occupancy >= policy.highOccupancy && lanes < policy.maxLanes && withoutRoomMicros > policy.laneMicros) {
    const kept: Choice = { action: "keep_current", lossMicros: withoutRoomMicros }
    return verdict({ action: "more_lanes", lossMicros: policy.laneMicros }, kept, {
      name: "occupancy",
      value: occupancy
    })
  }
  // Half of the lanes could not have been used.
  if (occupancy < policy.lowOccupancy && lanes > policy.minLanes && batchesInWindow * 2 <= lanes) {
    const kept: Choice = { action: "keep_current", lossMicros: policy.laneMicros }
    return verdict({ action: "fewer_lanes", lossMicros: 0 }, kept, { name: "batchesInWindow", value: batchesInWindow })
  }
  return verdict(
    { action: "keep_current", lossMicros: 0 },
    { action: "more_lanes", lossMicros: policy.laneMicros },
    { name: "occupancy", value: occupancy }
  )
}

/**
 * Learns, asks {@link decide}, and records. All its methods are synchronous; times are microseconds of one clock that
 * is never set back.
 *
 * @category deciding
 * @since 0.1.0
 */
export class Controller {
  readonly policy: ControllerPolicy
  private readonly maxDecisions: number
  private readonly returns = new WriterReturns()
  private readonly cost = new FlushCost()
  private readonly ring: Array<Decision> = []
  private decided = 0

  /** Keeps the last `maxDecisions` decisions (256 unless it is said otherwise). */
  constructor(options: { readonly policy?: Partial<ControllerPolicy>; readonly maxDecisions?: number } = {}) {
    this.policy = { ...defaultPolicy, ...options.policy }
    this.maxDecisions = options.maxDecisions ?? 256
    invariant(this.maxDecisions >= 1, "at least one decision is kept")
  }

  /** A batch was stored. Cheap enough for every commit. */
  arrived(nowMicros: number): void {
    this.returns.arrived(nowMicros)
  }

  /**
   * A flush is over. To be called **before** its writers are woken: their next batches would otherwise seem to be those
   * of other writers.
   */
  flushed(nowMicros: number, flush: { writers: number; frames: number; flushMicros: number }): void {
    this.cost.note(flush.frames, flush.flushMicros)
    this.returns.woken(nowMicros, flush.writers)
  }

  /** Asks. Not before the writers that were just woken have run: one turn of the event loop after a flush. */
  ask(nowMicros: number, observation: Observation): Decision {
    const flushFixedMicros = this.cost.fixedMicros
    const isSealing = observation.waiters > 0 && !observation.isFlushing
    const evidence: WindowEvidence = {
      ...observation,
      // The clock that batches are stamped with may be set back.
      lagMillis: Math.max(0, observation.lagMillis),
      flushMicros: this.cost.medianMicros,
      flushFixedMicros,
      returns: isSealing ? this.returns.forecast(nowMicros, this.policy.horizonFlushes * flushFixedMicros) : []
    }
    this.decided += 1
    const decision: Decision = {
      ...decide(evidence, this.policy),
      id: this.decided,
      policyId: this.policy.id,
      policyVersion: this.policy.version,
      atMicros: nowMicros
    }
    this.ring[(this.decided - 1) % this.maxDecisions] = decision
    return decision
  }

  /** The decisions that are kept, the oldest first. */
  get decisions(): ReadonlyArray<Decision> {
    const oldest = this.decided % this.maxDecisions
    return this.decided <= this.maxDecisions
      ? [...this.ring]
      : [...this.ring.slice(oldest), ...this.ring.slice(0, oldest)]
  }

  /** How many decisions were made. */
  get decisionCount(): number {
    return this.decided
  }
}

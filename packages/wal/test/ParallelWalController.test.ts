import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import {
  Controller,
  decide,
  defaultPolicy,
  type Observation,
  type Verdict,
  type WindowEvidence
} from "../src/ParallelWalController.ts"

const observation: Observation = {
  isFlushing: false,
  occupancy: 0.2,
  lagMillis: 0.5,
  backlogFrames: 4,
  waiters: 4,
  epochMillis: 10,
  lanes: 2,
  batchesInWindow: 4
}
const evidence: WindowEvidence = { ...observation, flushMicros: 1000, flushFixedMicros: 1000, returns: [] }
const verdictOf = (change: Partial<WindowEvidence>, policy = {}): Verdict =>
  decide({ ...evidence, ...change }, { ...defaultPolicy, ...policy })

describe("ParallelWalController", () => {
  it("PW-33 closes the epoch when nobody else is expected", () => {
    const verdict = verdictOf({})
    assert.deepStrictEqual(verdict, {
      action: "seal_now",
      confidenceBasisPoints: 10_000,
      expectedLossMicros: 0,
      topEvidence: { name: "waiters", value: 4 },
      counterfactualAction: "keep_current",
      // Four writers until the tick, 9.5 ms away.
      regretMicros: 38_000,
      fallback: "none",
      askAgainMicros: undefined
    })
  })

  it("PW-33 waits for writers that cost less to wait for than to miss, and says how long", () => {
    const verdict = verdictOf({
      returns: [{ afterMicros: 10, writers: 1 }, { afterMicros: 30, writers: 8 }, { afterMicros: 2000, writers: 8.1 }]
    })
    assert.strictEqual(verdict.action, "keep_current")
    assert.strictEqual(verdict.askAgainMicros, 30)
    // 10 us for 4 and on average half of one, 20 us for 4 and on average 4.5.
    assert.approximately(verdict.expectedLossMicros, 10 * 4.5 + 20 * 8.5, 1e-6)
    assert.strictEqual(verdict.counterfactualAction, "seal_now")
    assert.approximately(verdict.regretMicros, 8 * 1000 * defaultPolicy.missedShare - (45 + 170), 1e-6)
    assert.deepStrictEqual(verdict.topEvidence, { name: "returns", value: 8 })
  })

  it("PW-33 does not wait for few by many, nor for what comes too late", () => {
    assert.strictEqual(verdictOf({ waiters: 100, returns: [{ afterMicros: 100, writers: 2 }] }).action, "seal_now")
    assert.strictEqual(verdictOf({ waiters: 1, returns: [{ afterMicros: 100, writers: 2 }] }).action, "keep_current")
    const late = { flushFixedMicros: 1e6, returns: [{ afterMicros: 5000, writers: 50 }] }
    assert.strictEqual(verdictOf({ ...late, lagMillis: 4 }).action, "keep_current")
    assert.strictEqual(verdictOf({ ...late, lagMillis: 6 }).action, "seal_now", "11 ms are above the limit of 10")
  })

  it("PW-33 closes at once what has waited for too long, or fills its lane", () => {
    const returns = [{ afterMicros: 1, writers: 1000 }]
    assert.strictEqual(verdictOf({ returns }).action, "keep_current")
    const lag = verdictOf({ returns, lagMillis: 10 })
    assert.strictEqual(lag.action, "seal_now")
    assert.deepStrictEqual(lag.topEvidence, { name: "lagMillis", value: 10 })
    assert.strictEqual(verdictOf({ returns, lagMillis: 3 }, { maxFlushDelayMillis: 3 }).action, "seal_now")
    const full = verdictOf({ returns, occupancy: 0.75 })
    assert.strictEqual(full.action, "seal_now")
    assert.deepStrictEqual(full.topEvidence, { name: "occupancy", value: 0.75 })
    assert.strictEqual(full.confidenceBasisPoints, 10_000)
  })

  it("PW-33 closes nothing while a flush runs or nothing waits", () => {
    assert.strictEqual(verdictOf({ isFlushing: true, lagMillis: 50 }).action, "keep_current")
    assert.strictEqual(verdictOf({ waiters: 0 }).action, "keep_current")
    assert.strictEqual(verdictOf({ waiters: 0 }).askAgainMicros, undefined)
  })

  it("PW-33 asks for more lanes while they are full, and for fewer while most are idle, within their limits", () => {
    const busy = { isFlushing: true, occupancy: 0.9 }
    assert.strictEqual(verdictOf(busy).action, "more_lanes")
    assert.strictEqual(verdictOf({ ...busy, lanes: 128 }).action, "keep_current")
    assert.strictEqual(verdictOf({ ...busy, lanes: 8 }, { maxLanes: 8 }).action, "keep_current")
    const idle = { waiters: 0, occupancy: 0, lanes: 8, batchesInWindow: 4 }
    assert.strictEqual(verdictOf(idle).action, "fewer_lanes")
    assert.strictEqual(verdictOf({ ...idle, batchesInWindow: 5 }).action, "keep_current")
    assert.strictEqual(verdictOf({ ...idle, occupancy: 0.05 }).action, "keep_current")
    assert.strictEqual(verdictOf({ ...idle, lanes: 1, batchesInWindow: 0 }).action, "keep_current")
  })

  it("PW-33 evidence that is no number forces conservative mode", () => {
    const numbers = [
      "occupancy",
      "lagMillis",
      "backlogFrames",
      "waiters",
      "epochMillis",
      "lanes",
      "batchesInWindow",
      "flushMicros",
      "flushFixedMicros"
    ] as const
    for (const name of numbers) {
      for (const value of [Number.NaN, Infinity, -1]) {
        for (const isFlushing of [true, false]) {
          const verdict = verdictOf({ [name]: value, isFlushing })
          assert.strictEqual(verdict.action, "force_conservative", `${name} = ${value}`)
          assert.strictEqual(verdict.fallback, "controller_evidence_lost")
          assert.deepStrictEqual(verdict.topEvidence, { name, value })
        }
      }
    }
    for (
      const returns of [
        [{ afterMicros: Number.NaN, writers: 1 }],
        [{ afterMicros: 1, writers: Number.NaN }],
        [{ afterMicros: 1, writers: -1 }],
        [{ afterMicros: 2, writers: 1 }, { afterMicros: 2, writers: 1 }]
      ]
    ) assert.strictEqual(verdictOf({ returns }).fallback, "controller_evidence_lost")
  })

  it("PW-33 a verdict is never worse than the one it was preferred to, and is the same for the same evidence", () => {
    const amount = fc.double({ min: 0, max: 1e6, noNaN: true })
    const anyEvidence = fc.record({
      isFlushing: fc.boolean(),
      occupancy: fc.double({ min: 0, max: 1.5, noNaN: true }),
      lagMillis: fc.double({ min: 0, max: 15, noNaN: true }),
      backlogFrames: fc.nat(1000),
      waiters: fc.nat(300),
      epochMillis: fc.constant(10),
      lanes: fc.integer({ min: 1, max: 128 }),
      batchesInWindow: fc.nat(300),
      flushMicros: amount,
      flushFixedMicros: amount,
      returns: fc.array(amount, { maxLength: 10 }).map((gains) =>
        gains.map((writers, index) => ({ afterMicros: (index + 1) * 50, writers }))
      )
    })
    fc.assert(fc.property(anyEvidence, (evidence) => {
      const verdict = decide(evidence, defaultPolicy)
      assert.deepStrictEqual(decide(evidence, defaultPolicy), verdict)
      assert.notStrictEqual(verdict.action, verdict.counterfactualAction)
      assert.isAtLeast(verdict.regretMicros, 0)
      assert.isAtLeast(verdict.confidenceBasisPoints, 5000)
      assert.isAtMost(verdict.confidenceBasisPoints, 10_000)
      const isSealing = evidence.waiters > 0 && !evidence.isFlushing
      assert.include(
        isSealing ? ["seal_now", "keep_current"] : ["keep_current", "more_lanes", "fewer_lanes"],
        verdict.action
      )
      // Whoever leaves batches waiting says until when.
      if (isSealing && verdict.action === "keep_current") {
        assert.isAtMost((verdict.askAgainMicros ?? Infinity) / 1000 + evidence.lagMillis, 10 + 1e-9)
      }
    }))
  })

  it("PW-33 records every decision and keeps the last ones", () => {
    const controller = new Controller({ maxDecisions: 3, policy: { id: "trial", version: 7 } })
    assert.deepStrictEqual(controller.decisions, [])
    const made = [10, 20, 30, 40, 50].map((now) => controller.ask(now, { ...observation, waiters: now }))
    assert.deepStrictEqual(controller.decisions, made.slice(2))
    assert.deepStrictEqual(made.map(({ id }) => id), [1, 2, 3, 4, 5])
    assert.deepStrictEqual(made.map(({ atMicros }) => atMicros), [10, 20, 30, 40, 50])
    assert.isTrue(made.every(({ policyId, policyVersion }) => policyId === "trial" && policyVersion === 7))
    assert.strictEqual(controller.decisionCount, 5)
    const fewer = new Controller({ maxDecisions: 3 })
    const first = fewer.ask(1, observation)
    assert.deepStrictEqual(fewer.decisions, [first])
  })

  it("PW-33 learns to wait for writers that come back at once", () => {
    const controller = new Controller()
    const cycle = (at: number) => {
      controller.flushed(at, { writers: 8, frames: 8, flushMicros: 1000 })
      for (let writer = 0; writer < 8; writer++) controller.arrived(at + 15)
    }
    controller.arrived(0)
    assert.strictEqual(controller.ask(1, { ...observation, waiters: 1 }).action, "seal_now", "nothing is known yet")
    for (let at = 2000; at < 40_000; at += 2000) cycle(at)
    controller.flushed(40_000, { writers: 8, frames: 8, flushMicros: 1000 })
    controller.arrived(40_014)
    const first = controller.ask(40_014, { ...observation, waiters: 1, lagMillis: 0 })
    assert.strictEqual(first.action, "keep_current")
    for (let writer = 1; writer < 8; writer++) controller.arrived(40_015)
    assert.strictEqual(controller.ask(40_016, { ...observation, waiters: 8, lagMillis: 0 }).action, "seal_now")
  })

  it("PW-33 a clock of batches that was set back is no lost evidence", () => {
    assert.strictEqual(new Controller().ask(0, { ...observation, lagMillis: -3 }).action, "seal_now")
    assert.strictEqual(new Controller().ask(0, { ...observation, lagMillis: Number.NaN }).action, "force_conservative")
  })
})

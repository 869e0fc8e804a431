import { assert, describe, it } from "@effect/vitest"
import { CommitSeq, LaneId, WalEpoch } from "@tidemark/core/Scalars"
import { Effect, Logger, References, Tracer } from "effect"
import {
  annotate,
  attributes,
  compatibilitySelector,
  fallbackReasons,
  lanePolicy,
  noFallback,
  scenarios,
  type TraceFields
} from "../src/ParallelWalTrace.ts"

const full: TraceFields = {
  traceId: "a.db/7",
  decisionId: 12,
  mode: "auto",
  lane: LaneId.make(3),
  epoch: WalEpoch.make(7n),
  interval: { low: CommitSeq.make(40n), high: CommitSeq.make(45n) },
  checkpointEpoch: WalEpoch.make(5n),
  recoveryEpoch: WalEpoch.make(2n ** 64n - 1n),
  fallback: "publication_mismatch",
  policyId: "group_commit",
  policyVersion: 2
}

const expected = {
  component: "parallel_wal",
  trace_id: "a.db/7",
  decision_id: 12,
  mode: "auto",
  lane: 3,
  epoch: "7",
  commit_seq_low: "40",
  commit_seq_high: "45",
  checkpoint_epoch: "5",
  recovery_epoch: "18446744073709551615",
  fallback_active: true,
  fallback_reason: "publication_mismatch",
  policy_id: "group_commit",
  policy_version: 2
}

describe("ParallelWalTrace", () => {
  it("PW-32 the names that programs match on", () => {
    assert.strictEqual(lanePolicy.id, "thread_slot_v1")
    assert.strictEqual(scenarios.laneStage, "parallel_wal_lane_stage")
    assert.strictEqual(scenarios.laneFlush, "parallel_wal_lane_flush")
    assert.strictEqual(compatibilitySelector, "wal_invariant,integrity_check,row_level")
    assert.strictEqual(noFallback, "none")
    assert.deepStrictEqual([...fallbackReasons], [
      "operator_forced",
      "lane_overflow",
      "certificate_gap",
      "certificate_checksum_mismatch",
      "publication_mismatch",
      "recovery_gap",
      "checkpoint_conflict",
      "controller_evidence_lost"
    ])
  })

  it("PW-32 a record has every field, and leaves out what does not apply", () => {
    assert.deepStrictEqual(attributes(full), expected)
    assert.deepStrictEqual(attributes({ traceId: "x", mode: "conservative", fallback: "none" }), {
      component: "parallel_wal",
      trace_id: "x",
      mode: "conservative",
      fallback_active: false,
      fallback_reason: "none",
      policy_id: "thread_slot_v1",
      policy_version: 1
    })
  })

  it.effect("PW-32 the fields stand on log lines and on spans", () =>
    Effect.gen(function*() {
      const lines: Array<Record<string, unknown>> = []
      const logger = Logger.make(({ fiber }) => {
        lines.push({ ...fiber.getRef(References.CurrentLogAnnotations) })
      })
      const spans: Array<Tracer.NativeSpan> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      yield* Effect.log("flushed").pipe(
        Effect.withSpan(scenarios.laneFlush),
        annotate(full),
        Effect.provide(Logger.layer([logger])),
        Effect.withTracer(tracer)
      )
      assert.deepStrictEqual(lines, [expected])
      assert.deepStrictEqual(spans.map((span) => span.name), ["parallel_wal_lane_flush"])
      assert.deepStrictEqual(spans.map((span) => Object.fromEntries(span.attributes)), [expected])
    }))
})

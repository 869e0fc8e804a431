/**
 * What the parallel WAL writes into spans and log lines (PW-32): the names of the fields, the names of the scenarios
 * and policies, and the reasons of a fallback. Programs that read traces match on these names, so they never change.
 *
 * @since 0.1.0
 */
import type { CommitSeq, LaneId, WalEpoch } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import type { ParallelWalMode } from "./ParallelWalControl.ts"

/**
 * Why the parallel WAL works conservatively although it was not told to (PW-31).
 *
 * @category models
 * @since 0.1.0
 */
export type FallbackReason = (typeof fallbackReasons)[number]

/**
 * Every {@link FallbackReason}, as it is named in traces. No reason at all is named {@link noFallback}.
 *
 * @category constants
 * @since 0.1.0
 */
export const fallbackReasons = [
  "operator_forced",
  "lane_overflow",
  "certificate_gap",
  "certificate_checksum_mismatch",
  "publication_mismatch",
  "recovery_gap",
  "checkpoint_conflict",
  "controller_evidence_lost"
] as const

/**
 * Stands where a {@link FallbackReason} stands while there is none.
 *
 * @category constants
 * @since 0.1.0
 */
export const noFallback = "none"

/**
 * How writers are given their lanes (PW-01): each keeps one for its scope, the lowest free one.
 *
 * @category constants
 * @since 0.1.0
 */
export const lanePolicy = { id: "thread_slot_v1", version: 1 } as const

/**
 * The names of the spans: a batch is stored in its lane, an epoch is flushed.
 *
 * @category constants
 * @since 0.1.0
 */
export const scenarios = { laneStage: "parallel_wal_lane_stage", laneFlush: "parallel_wal_lane_flush" } as const

/**
 * Which properties of a database have to be the same whichever path wrote it.
 *
 * @category constants
 * @since 0.1.0
 */
export const compatibilitySelector = "wal_invariant,integrity_check,row_level"

/**
 * What a trace record says. A field that does not apply is left out.
 *
 * @category models
 * @since 0.1.0
 */
export interface TraceFields {
  /** The part that speaks: `"parallel_wal"` unless it is said otherwise. */
  readonly component?: string | undefined
  /** The same for everything that belongs to one flush. */
  readonly traceId: string
  /** The decision of the controller that led here (PW-33). */
  readonly decisionId?: number | undefined
  readonly mode: ParallelWalMode
  readonly lane?: LaneId | undefined
  readonly epoch?: WalEpoch | undefined
  /** The closed interval of commit sequences. */
  readonly interval?: { readonly low: CommitSeq; readonly high: CommitSeq } | undefined
  /** The segment epoch of the checkpoint mark. */
  readonly checkpointEpoch?: WalEpoch | undefined
  /** The highest epoch that recovery found. */
  readonly recoveryEpoch?: WalEpoch | undefined
  readonly fallback: FallbackReason | typeof noFallback
  readonly policyId?: string | undefined
  readonly policyVersion?: number | undefined
}

/**
 * The trace record as attributes: snake case, epochs and sequences as decimal strings, because they are 64 bits wide
 * and the exporters of traces have no such number.
 *
 * **Example** (Naming the fields of a flush)
 *
 * ```ts
 * import { attributes } from "@tidemark/wal/ParallelWalTrace"
 *
 * const fields = attributes({ traceId: "a.db/7", mode: "auto", fallback: "none" })
 * fields["component"] // => "parallel_wal"
 * fields["policy_id"] // => "thread_slot_v1"
 * ```
 *
 * @category conversions
 * @since 0.1.0
 */
export const attributes = (fields: TraceFields): Record<string, string | number | boolean> => {
  const optional = {
    decision_id: fields.decisionId,
    lane: fields.lane,
    epoch: fields.epoch?.toString(),
    commit_seq_low: fields.interval?.low.toString(),
    commit_seq_high: fields.interval?.high.toString(),
    checkpoint_epoch: fields.checkpointEpoch?.toString(),
    recovery_epoch: fields.recoveryEpoch?.toString()
  }
  const record: Record<string, string | number | boolean> = {
    component: fields.component ?? "parallel_wal",
    trace_id: fields.traceId,
    mode: fields.mode,
    fallback_active: fields.fallback !== noFallback,
    fallback_reason: fields.fallback,
    policy_id: fields.policyId ?? lanePolicy.id,
    policy_version: fields.policyVersion ?? lanePolicy.version
  }
  for (const [name, value] of Object.entries(optional)) if (value !== undefined) record[name] = value
  return record
}

/**
 * Puts the trace record on every log line and every span that the effect makes. Not for the path of a commit: once per
 * flush, checkpoint or recovery.
 *
 * @category combinators
 * @since 0.1.0
 */
export const annotate = (fields: TraceFields) => <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
  const record = attributes(fields)
  return self.pipe(Effect.annotateLogs(record), Effect.annotateSpans(record))
}

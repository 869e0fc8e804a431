/**
 * The spans of a flush (PW-32): one per epoch, and one for each batch that was sampled; none for the others, because a
 * span costs as much as a commit.
 */
import type { WalEpoch } from "@tidemark/core/Scalars"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Tracer from "effect/Tracer"
import { attributes, scenarios, type TraceFields } from "../ParallelWalTrace.ts"
import type { EpochImage } from "./epochEncoder.ts"

/** The trace that all records of an epoch's flush belong to. @internal */
export const traceIdOf = (database: string, epoch: WalEpoch): string => `${database}/${epoch}`

/** Begins the span of an epoch, and makes those of its batches that were sampled, which end with its closing. @internal */
export const flushSpan = (
  fields: TraceFields,
  compared: EpochImage["compared"],
  closedAtNanos: bigint
): Effect.Effect<Tracer.Span> =>
  Effect.gen(function*() {
    // Whoever has started the ticker, or the layer, has nothing to do with the flushes that come of it.
    const span = yield* Effect.makeSpan(scenarios.laneFlush, { root: true, attributes: attributes(fields) })
    if (compared.length === 0 || Context.get(span.annotations, Tracer.DisablePropagation)) return span
    const tracer = yield* Effect.tracer
    for (const { batch: { lane, seq, stagedAt }, verdict } of compared) {
      const stage = tracer.span({
        name: scenarios.laneStage,
        parent: Option.some(span),
        annotations: span.annotations,
        links: [],
        // Made afterwards, because staging is one synchronous step.
        startTime: BigInt(stagedAt) * 1_000_000n,
        kind: "internal",
        root: false,
        sampled: span.sampled
      })
      const staged = attributes({ ...fields, lane, interval: { low: seq, high: seq } })
      for (const [name, value] of Object.entries(staged)) stage.attribute(name, value)
      stage.attribute("shadow_verdict", verdict)
      stage.end(closedAtNanos, Exit.void)
    }
    return span
  })

/**
 * The metrics of commits. The README lists them.
 *
 * @since 0.1.0
 */
import * as Metric from "effect/Metric"

/** @since 0.1.0 */
export const conflicts = Metric.counter("tidemark_commit_conflicts_total", {
  description: "Commits that were refused because another one came first, by `reason`",
  incremental: true
})

/** @since 0.1.0 */
export const retries = Metric.counter("tidemark_transaction_retries_total", {
  description: "Transactions that were run again on a fresh snapshot",
  incremental: true
})

/** @since 0.1.0 */
export const rememberedPages = Metric.gauge("tidemark_conflict_index_pages", {
  description: "Pages whose last commit the coordinator remembers"
})

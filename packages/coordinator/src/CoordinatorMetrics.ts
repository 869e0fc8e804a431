/**
 * The metrics of commits and row ids. The README lists them.
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

/** @since 0.1.0 */
export const rowIdReservations = Metric.counter("tidemark_row_id_reservations_total", {
  description: "Ranges of row ids that were handed out",
  incremental: true
})

/** @since 0.1.0 */
export const rowIdsReserved = Metric.counter("tidemark_row_ids_reserved_total", {
  description: "Row ids in the ranges that were handed out, whether they are used or not",
  incremental: true
})

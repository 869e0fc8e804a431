/**
 * The metrics of the logs. Each carries the attribute `log` with the log's name; the README lists them.
 *
 * @since 0.1.0
 */
import * as Metric from "effect/Metric"

/** @since 0.1.0 */
export const syncDurationSeconds = Metric.histogram("tidemark_wal_sync_duration_seconds", {
  description: "Seconds that one write and sync of a batch took",
  boundaries: Metric.exponentialBoundaries({ start: 50e-6, factor: 2, count: 18 })
})

/** @since 0.1.0 */
export const batchCommits = Metric.histogram("tidemark_wal_batch_commits", {
  description: "Hand-overs that one batch held",
  boundaries: Metric.exponentialBoundaries({ start: 1, factor: 2, count: 14 })
})

/** @since 0.1.0 */
export const batchBytes = Metric.histogram("tidemark_wal_batch_bytes", {
  description: "Bytes that one batch held",
  boundaries: Metric.exponentialBoundaries({ start: 512, factor: 4, count: 10 })
})

/** @since 0.1.0 */
export const queueBytes = Metric.gauge("tidemark_wal_queue_bytes", {
  description: "Bytes handed over and not yet written, seen when a batch ended"
})

/** @since 0.1.0 */
export const durableLagBytes = Metric.gauge("tidemark_wal_durable_lag_bytes", {
  description: "Bytes handed over and not yet durable, seen when a batch ended"
})

/** @since 0.1.0 */
export const syncs = Metric.counter("tidemark_wal_syncs_total", {
  description: "Completed syncs",
  incremental: true
})

/** @since 0.1.0 */
export const commits = Metric.counter("tidemark_wal_commits_total", {
  description: "Hand-overs that were written",
  incremental: true
})

/** @since 0.1.0 */
export const segments = Metric.gauge("tidemark_wal_log_segments", {
  description: "Segment files that an append log keeps"
})

/** @since 0.1.0 */
export const rotations = Metric.counter("tidemark_wal_log_rotations_total", {
  description: "Segments that an append log has begun behind another one",
  incremental: true
})

/** @since 0.1.0 */
export const unpreparedRotations = Metric.counter("tidemark_wal_log_unprepared_rotations_total", {
  description: "Rotations that came before the next segment was filled with zeros",
  incremental: true
})

/** @since 0.1.0 */
export const epochsFlushed = Metric.counter("tidemark_wal_parallel_epochs_flushed_total", {
  description: "Epochs of a parallel WAL that became durable as a segment",
  incremental: true
})

/** @since 0.1.0 */
export const emptyEpochs = Metric.counter("tidemark_wal_parallel_empty_epochs_total", {
  description: "Epochs of a parallel WAL that nothing was committed in, so that they needed no segment",
  incremental: true
})

/** @since 0.1.0 */
export const epochFlushSeconds = Metric.histogram("tidemark_wal_parallel_epoch_flush_seconds", {
  description: "Seconds from closing an epoch of a parallel WAL until it was durable",
  boundaries: Metric.exponentialBoundaries({ start: 50e-6, factor: 2, count: 18 })
})

/** @since 0.1.0 */
export const segmentWriteFailures = Metric.counter("tidemark_wal_parallel_segment_write_failures_total", {
  description: "Attempts to write a segment that failed; the next one writes the same epoch again",
  incremental: true
})

/** @since 0.1.0 */
export const overflowedBatches = Metric.counter("tidemark_wal_parallel_overflowed_batches_total", {
  description: "Batches that did not fit into their lane and were queued beside it",
  incremental: true
})

/** @since 0.1.0 */
export const fallbackActive = Metric.gauge("tidemark_wal_parallel_fallback_active", {
  description: "1 while a parallel WAL works conservatively although it was not told to, else 0"
})

/** @since 0.1.0 */
export const shadowCompares = Metric.counter("tidemark_wal_parallel_shadow_compares_total", {
  description: "Batches that were encoded a second time and compared",
  incremental: true
})

/** @since 0.1.0 */
export const shadowDifferences = Metric.counter("tidemark_wal_parallel_shadow_differences_total", {
  description: "Batches in which the comparison found a difference, so that nothing of the parallel path was published",
  incremental: true
})

/** @since 0.1.0 */
export const capsulesSynced = Metric.counter("tidemark_wal_native_capsules_total", {
  description: "Commit capsules of a native log that became durable",
  incremental: true
})

/** @since 0.1.0 */
export const capsuleBarrierSeconds = Metric.histogram("tidemark_wal_native_capsule_barrier_seconds", {
  description:
    "Seconds until the capsules of a batch and their directory were durable, before its markers were written",
  boundaries: Metric.exponentialBoundaries({ start: 50e-6, factor: 2, count: 18 })
})

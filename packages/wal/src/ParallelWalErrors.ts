/**
 * The typed errors of the parallel WAL (section PW of `behaviour.md`), beside those that every log shares.
 *
 * @since 0.1.0
 */
import type { LaneId, WalEpoch } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import type { VfsError } from "@tidemark/platform/VfsError"

/**
 * A batch does not fit into what is left of its lane, and the overflow policy is `block` (PW-07). The batch was refused
 * as a whole: nothing of it was stored and no commit sequence was assigned.
 *
 * @category errors
 * @since 0.1.0
 */
export class LaneFull extends TidemarkError("LaneFull", { isRetryable: true, sqliteCode: SqliteCode.busy })<{
  readonly lane: LaneId
  /** What the batch counts for: 48 bytes and both images for each of its records. */
  readonly neededBytes: number
  /** What the lane still had room for. */
  readonly freeBytes: number
  /** What an empty lane has room for. A batch above it never fits. */
  readonly capacityBytes: number
}> {
  override get message() {
    const what = `a batch of ${this.neededBytes} bytes does not fit into lane ${this.lane} ` +
      `(${this.freeBytes} of ${this.capacityBytes} bytes free)`
    return this.neededBytes > this.capacityBytes
      ? `${what} and never will; nothing was stored: raise the lane capacity or commit less at once`
      : `${what}; nothing was stored: try again when the epoch is flushed`
  }
}

/**
 * An epoch did not become durable in the time given (PW-12, PW-15). Whether it will is **undecided**: its records stay
 * in memory, its commit sequences stay reserved, and the next cycle tries again.
 *
 * **Gotchas**
 *
 * Not retryable, because the same transaction committed again could be there twice. Wait for the same epoch again, or
 * ask for the outcome by the transaction's token.
 *
 * @category errors
 * @since 0.1.0
 */
export class DurabilityTimeout
  extends TidemarkError("DurabilityTimeout", { isRetryable: false, sqliteCode: SqliteCode.ioError })<{
    readonly epoch: WalEpoch
    readonly timeoutMillis: number
    /** Why the last attempt to write the segment failed; `undefined` when none did, and the log is only slow. */
    readonly cause: VfsError | undefined
  }>
{
  override get message() {
    const why = this.cause === undefined ? "no attempt has failed" : this.cause.message
    return `epoch ${this.epoch} was not durable after ${this.timeoutMillis} ms (${why}); its commits are undecided: ` +
      "wait for the epoch again, or ask for the outcome by the transaction's token"
  }
}

/**
 * The ticker of this parallel WAL runs already (PW-14). Nothing was changed.
 *
 * @category errors
 * @since 0.1.0
 */
export class AlreadyRunning
  extends TidemarkError("AlreadyRunning", { isRetryable: false, sqliteCode: SqliteCode.misuse })<{
    readonly log: string
  }>
{
  override get message() {
    return `the ticker of ${this.log} runs already; nothing was changed: stop it before it is started again`
  }
}

/**
 * The writers that advancing was told to wait for did not finish in time (PW-10). The epoch is what it was, nothing was
 * sealed, and a later attempt takes every record.
 *
 * @category errors
 * @since 0.1.0
 */
export class EpochBusy extends TidemarkError("EpochBusy", { isRetryable: true, sqliteCode: SqliteCode.busy })<{
  /** The epoch that is still open. */
  readonly epoch: WalEpoch
  readonly timeoutMillis: number
  /** How many of the writers had not finished. */
  readonly pendingWriters: number
}> {
  override get message() {
    return `epoch ${this.epoch} could not be closed within ${this.timeoutMillis} ms, because ${this.pendingWriters} ` +
      `${this.pendingWriters === 1 ? "writer has" : "writers have"} not finished; nothing was sealed: try again`
  }
}

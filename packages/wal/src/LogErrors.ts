/**
 * The typed errors that every log shares.
 *
 * @since 0.1.0
 */
import type { Lsn } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import * as Cause from "effect/Cause"

/**
 * A write or sync of the log failed, so what is on the disk behind `lsn` is unknown. Everything that was acknowledged
 * before is safe. Nothing more is written to this file: close the log, open it again and let recovery decide.
 *
 * @category errors
 * @since 0.1.0
 */
export class WalPoisoned extends TidemarkError("WalPoisoned", { isRetryable: false, sqliteCode: SqliteCode.ioError })<{
  /** The log that is poisoned. */
  readonly log: string
  /** Everything before this position is durable. */
  readonly lsn: Lsn
  /** The first failure: what happened first, not what followed from it. */
  readonly cause: Cause.Cause<unknown>
}> {
  override get message() {
    const first = Cause.squash(this.cause)
    return `${this.log} is poisoned behind position ${this.lsn} (${
      first instanceof Error ? first.message : String(first)
    }); what was acknowledged is safe: close it, open it again and let recovery decide about the rest`
  }
}

/**
 * The log is closed or closing; nothing was reserved.
 *
 * @category errors
 * @since 0.1.0
 */
export class LogClosed extends TidemarkError("LogClosed", { isRetryable: false, sqliteCode: SqliteCode.misuse })<{
  readonly log: string
}> {
  override get message() {
    return `${this.log} is closed; nothing was written`
  }
}

/**
 * Somebody waits for a position that was never handed out.
 *
 * @category errors
 * @since 0.1.0
 */
export class LsnNotReserved
  extends TidemarkError("LsnNotReserved", { isRetryable: false, sqliteCode: SqliteCode.misuse })<{
    readonly log: string
    readonly lsn: Lsn
    readonly reserved: Lsn
  }>
{
  override get message() {
    return `position ${this.lsn} of ${this.log} was never reserved; the log ends at ${this.reserved}`
  }
}

/**
 * A record of no bytes, which no log can hold. Nothing was reserved.
 *
 * @category errors
 * @since 0.1.0
 */
export class EmptyRecord extends TidemarkError("EmptyRecord", { isRetryable: false, sqliteCode: SqliteCode.misuse })<{
  readonly log: string
}> {
  override get message() {
    return `an empty record was handed to ${this.log}; nothing was written`
  }
}

/**
 * A record above the log's limit. Nothing was reserved.
 *
 * @category errors
 * @since 0.1.0
 */
export class RecordTooLarge
  extends TidemarkError("RecordTooLarge", { isRetryable: false, sqliteCode: SqliteCode.full })<{
    readonly log: string
    readonly bytes: number
    readonly maxRecordBytes: number
  }>
{
  override get message() {
    return `a record of ${this.bytes} bytes is above the limit of ${this.log}, ${this.maxRecordBytes} bytes; nothing was written`
  }
}

/**
 * A reset was asked for while bytes are queued, in flight, not yet durable or waited for.
 *
 * @category errors
 * @since 0.1.0
 */
export class ResetWhileBusy
  extends TidemarkError("ResetWhileBusy", { isRetryable: true, sqliteCode: SqliteCode.busy })<{
    readonly log: string
    readonly reserved: Lsn
    readonly durable: Lsn
  }>
{
  override get message() {
    return `${this.log} cannot be reset while it is busy (reserved ${this.reserved}, durable ${this.durable})`
  }
}

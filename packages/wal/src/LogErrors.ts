/**
 * The typed errors that every log shares.
 *
 * @since 0.1.0
 */
import type { Lsn, PageNumber } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import * as Cause from "effect/Cause"
import * as Inspectable from "effect/Inspectable"

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
      first instanceof Error ? first.message : Inspectable.toStringUnknown(first, 0)
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

/**
 * Somebody else is in the way at the moment. Nothing was changed.
 *
 * @category errors
 * @since 0.1.0
 */
export class Busy extends TidemarkError("Busy", { isRetryable: true, sqliteCode: SqliteCode.busy })<{
  /** Who is in the way, as the beginning of a sentence: `"a serialized writer is active"`. */
  readonly reason: string
  /** When trying again makes sense. */
  readonly retryAfterMillis: number
}> {
  override get message() {
    return `${this.reason}; nothing was changed: try again in ${this.retryAfterMillis} ms`
  }
}

/**
 * Another process, or another layer of this one, has the log open for writing. Nothing was changed.
 *
 * @category errors
 * @since 0.1.0
 */
export class LogLocked extends TidemarkError("LogLocked", { isRetryable: true, sqliteCode: SqliteCode.busy })<{
  readonly path: string
  /** Who holds it as far as the lease file tells; the kernel lock alone decides. */
  readonly holderPid: number | undefined
}> {
  override get message() {
    const holder = this.holderPid === undefined ? "another Tidemark process" : `Tidemark process ${this.holderPid}`
    return `${this.path} is open in ${holder}; nothing was changed: wait until it closes or dies`
  }
}

/**
 * The database file ends before a page that belongs to the database: somebody cut it off. Nothing was changed.
 *
 * @category errors
 * @since 0.1.0
 */
export class DatabaseTruncated
  extends TidemarkError("DatabaseTruncated", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly path: string
    readonly page: PageNumber
    readonly offset: number
  }>
{
  override get message() {
    return `page ${this.page} should be at byte ${this.offset} of ${this.path}, but the file ends before it: the database is damaged`
  }
}

/**
 * A checkpoint could not write or sync the database file, so its pages are unknown until recovery copies them again.
 * Commits go on and are safe in the log; there is no further checkpoint until the database is opened again.
 *
 * @category errors
 * @since 0.1.0
 */
export class CheckpointFailed
  extends TidemarkError("CheckpointFailed", { isRetryable: false, sqliteCode: SqliteCode.ioError })<{
    readonly path: string
    readonly cause: unknown
  }>
{
  override get message() {
    return `the checkpoint of ${this.path} failed (${
      this.cause instanceof Error ? this.cause.message : String(this.cause)
    }); every commit is safe in the log: open the database again to checkpoint it`
  }
}

/**
 * A number has come to its end. Nothing was changed.
 *
 * @category errors
 * @since 0.1.0
 */
export class Exhausted extends TidemarkError("Exhausted", { isRetryable: false, sqliteCode: SqliteCode.full })<{
  /** What ran out: `"frames of the log"`, `"row ids"`, ... */
  readonly what: string
  readonly limit: bigint
}> {
  override get message() {
    return `there are no ${this.what} left (limit ${this.limit}); nothing was changed`
  }
}

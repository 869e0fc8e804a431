/**
 * Why a log cannot serve as the storage of an adapter. Nothing was changed on the disk.
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import type { Lsn } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"

/**
 * The log holds a state of another kind, or records that are none of an adapter's.
 *
 * @category errors
 * @since 0.1.0
 */
export class WrongStateKind
  extends TidemarkError("WrongStateKind", { isRetryable: false, sqliteCode: SqliteCode.misuse })<{
    readonly log: string
    /** The kind that is there, or `undefined` when the first record is no adapter's. */
    readonly found: string | undefined
    readonly expected: string
  }>
{
  override get message() {
    const found = this.found === undefined ? "records of something else" : `a state of kind ${this.found}`
    return `${this.log} holds ${found}, not one of kind ${this.expected}; nothing was changed: give each adapter a log of its own`
  }
}

/**
 * A record of the log is whole, as its checksum says, and still not what an adapter writes: it is of a newer version,
 * or somebody else writes to this log.
 *
 * @category errors
 * @since 0.1.0
 */
export class StateRecordInvalid
  extends TidemarkError("StateRecordInvalid", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly log: string
    readonly lsn: Lsn
    readonly issue: FormatIssue
  }>
{
  override get message() {
    return `the record at position ${this.lsn} of ${this.log} is not one of the adapter's (${this.issue.message}); nothing was changed`
  }
}

/**
 * The log has commands but no snapshot that they start from: somebody truncated it.
 *
 * @category errors
 * @since 0.1.0
 */
export class SnapshotMissing
  extends TidemarkError("SnapshotMissing", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly log: string
    readonly firstKept: Lsn
  }>
{
  override get message() {
    return `${this.log} starts at position ${this.firstKept} and has no complete snapshot; nothing was changed: only the adapter may truncate its log`
  }
}

/**
 * Another adapter uses this open log: the two would not see each other's changes.
 *
 * @category errors
 * @since 0.1.0
 */
export class LogInUse extends TidemarkError("LogInUse", { isRetryable: false, sqliteCode: SqliteCode.misuse })<{
  readonly log: string
}> {
  override get message() {
    return `${this.log} is in use by another adapter; nothing was changed: share one layer, or give each a log of its own`
  }
}

/**
 * What can go wrong with an append log, beside what every log shares (`LogErrors.ts`).
 *
 * @since 0.1.0
 */
import type { Lsn } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"

/**
 * The files of an append log cannot be what a crash left behind: records that were durable are damaged or missing
 * (RC-13). Nothing was changed on the disk.
 *
 * @category errors
 * @since 0.1.0
 */
export class LogCorrupt extends TidemarkError("LogCorrupt", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
  /** Everything the log has before this position is whole; what stands from here on is damaged or gone. */
  readonly lsn: Lsn
  readonly path: string
  /** Where in the file, bytes. */
  readonly offset: number
  /** What was found, as the end of a sentence that begins with the path. */
  readonly what: string
}> {
  override get message() {
    return `${this.path} ${this.what} (LSN ${this.lsn}, byte ${this.offset}); nothing was changed: ` +
      "look at the log with `tidemark verify` and restore the file from a copy"
  }
}

/**
 * The position was truncated away (LOG-09). What is kept starts at `firstKept`.
 *
 * @category errors
 * @since 0.1.0
 */
export class LsnTruncated extends TidemarkError("LsnTruncated", { isRetryable: false, sqliteCode: SqliteCode.misuse })<{
  readonly log: string
  readonly lsn: Lsn
  readonly firstKept: Lsn
}> {
  override get message() {
    return `position ${this.lsn} of ${this.log} was truncated away; the log begins at ${this.firstKept}`
  }
}

/**
 * The position is none at which a record could be read: it lies inside of one (LOG-09), or nothing but marks of the log
 * itself stands there.
 *
 * @category errors
 * @since 0.1.0
 */
export class LsnNotAFrame extends TidemarkError("LsnNotAFrame", { isRetryable: false, sqliteCode: SqliteCode.misuse })<{
  readonly log: string
  readonly lsn: Lsn
}> {
  override get message() {
    return `no record of ${this.log} starts at position ${this.lsn}; nothing was read`
  }
}

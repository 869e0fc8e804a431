/**
 * Why a database is not opened: the refusals of the start-up table (section 10 of `formats.md`). When one of these is
 * answered nothing on disk has been changed.
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"

/**
 * The file is not empty and is no SQLite database.
 *
 * @category errors
 * @since 0.1.0
 */
export class NotADatabase
  extends TidemarkError("NotADatabase", { isRetryable: false, sqliteCode: SqliteCode.notADatabase })<{
    readonly path: string
    readonly issue: FormatIssue
  }>
{
  override get message() {
    return `${this.path} is not a SQLite database (${this.issue.message}); nothing was changed: check the path, or restore the file`
  }
}

/**
 * The header of the database does not say WAL mode (SWAL-09).
 *
 * @category errors
 * @since 0.1.0
 */
export class NotWalMode extends TidemarkError("NotWalMode", { isRetryable: false, sqliteCode: SqliteCode.cannotOpen })<{
  readonly path: string
  /** Byte 18 of the database. */
  readonly writeVersion: number
  /** Byte 19 of the database. */
  readonly readVersion: number
}> {
  override get message() {
    return `${this.path} is not in WAL mode (bytes 18 and 19 are ${this.writeVersion} and ${this.readVersion}, not 2); ` +
      "its data is untouched: ask for the conversion, or run PRAGMA journal_mode=WAL on it"
  }
}

/**
 * The WAL was written for another page size than the database has (RC-05).
 *
 * @category errors
 * @since 0.1.0
 */
export class PageSizeMismatch
  extends TidemarkError("PageSizeMismatch", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly path: string
    readonly walPageSize: number
    readonly databasePageSize: number
  }>
{
  override get message() {
    return `${this.path} holds pages of ${this.walPageSize} bytes (byte 8) but its database has pages of ` +
      `${this.databasePageSize}: the log belongs to another database; put the right one beside it, or move this one away`
  }
}

/**
 * A frame is bad and commits stand behind it, so it is no torn end: acknowledged commits are damaged (RC-03).
 *
 * **Gotchas**
 *
 * A power loss that kept a later sector of the last, never acknowledged batch but lost an earlier one in the middle of a
 * page looks the same. `lostBytes` says how far the evidence reaches: who knows that batches are never longer than some
 * bound knows that a longer reach cannot come from that.
 *
 * @category errors
 * @since 0.1.0
 */
export class WalDamaged extends TidemarkError("WalDamaged", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
  readonly path: string
  /** The bad frame, counted from 0. */
  readonly frame: number
  /** Where it starts in the file. */
  readonly offset: number
  /** Commits that would be kept. */
  readonly keptCommits: number
  /** Commits found behind the bad frame, all of which would be lost; a further one may end in the bad frame. */
  readonly lostCommits: number
  /** Bytes from the bad frame to the end of the last of them. */
  readonly lostBytes: number
}> {
  override get message() {
    return `frame ${this.frame} of ${this.path} at byte ${this.offset} is damaged and at least ${this.lostCommits} ` +
      `commits stand behind it, which cannot be read; ${this.keptCommits} commits before it are whole: ` +
      "restore the file, or open with acceptLoss to keep only those"
  }
}

/**
 * The header of the WAL is unreadable although frames of the current generation stand behind it (RC-04).
 *
 * @category errors
 * @since 0.1.0
 */
export class WalHeaderLost
  extends TidemarkError("WalHeaderLost", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly path: string
    readonly issue: FormatIssue
  }>
{
  override get message() {
    return `the header of ${this.path} is unreadable (${this.issue.message}) but frames of the current generation stand ` +
      "behind it: every commit since the last checkpoint would be lost; restore the file, or open with acceptLoss to go on without them"
  }
}

/**
 * The WAL has a whole header of a format version that is not known here. SQLite refuses it as well.
 *
 * @category errors
 * @since 0.1.0
 */
export class WalVersionUnknown
  extends TidemarkError("WalVersionUnknown", { isRetryable: false, sqliteCode: SqliteCode.cannotOpen })<{
    readonly path: string
    readonly issue: FormatIssue
  }>
{
  override get message() {
    return `${this.path} was written by something newer (${this.issue.message}); its commits are untouched: ` +
      "checkpoint it with the program that wrote it"
  }
}

/**
 * The file that says where the sequences of commits start does not check, so that a sequence could be given out twice.
 *
 * @category errors
 * @since 0.1.0
 */
export class WalBaseDamaged
  extends TidemarkError("WalBaseDamaged", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly path: string
    readonly issue: FormatIssue
  }>
{
  override get message() {
    return `${this.path} does not check (${this.issue.message}); the data is whole but the sequence of the last commit is ` +
      "not known: restore the file, or open with acceptLoss to start counting from the log alone"
  }
}

/**
 * The database file is empty or gone, and its WAL does not hold all of its pages.
 *
 * @category errors
 * @since 0.1.0
 */
export class DatabasePagesLost
  extends TidemarkError("DatabasePagesLost", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly path: string
    readonly databasePages: number
    readonly missingPages: number
    readonly firstMissingPage: number
  }>
{
  override get message() {
    return `${this.path} is empty or missing and its WAL holds only a part of the database: ${this.missingPages} of ` +
      `${this.databasePages} pages, page ${this.firstMissingPage} first, are nowhere; put the database file back beside its WAL`
  }
}

/**
 * An unfinished transaction in a rollback journal has to be rolled back first (RC-24).
 *
 * @category errors
 * @since 0.1.0
 */
export class HotJournal extends TidemarkError("HotJournal", { isRetryable: false, sqliteCode: SqliteCode.cannotOpen })<{
  readonly path: string
}> {
  override get message() {
    return `${this.path} holds an unfinished transaction of SQLite's (a valid header at byte 0) and the database beside it ` +
      "is in the middle of it: open the database once with SQLite, which rolls it back"
  }
}

/**
 * The kinds of log of Tidemark's own that a database can have instead of a `-wal`.
 *
 * @category models
 * @since 0.1.0
 */
export type OtherLogKind = "parallel" | "native" | "unknown"

/**
 * The newest commits of the database are in a log of another kind (RC-23).
 *
 * @category errors
 * @since 0.1.0
 */
export class WrongLogKind
  extends TidemarkError("WrongLogKind", { isRetryable: false, sqliteCode: SqliteCode.cannotOpen })<{
    readonly path: string
    /** `"unknown"` when the database says so but no file of such a log is there. */
    readonly found: OtherLogKind
  }>
{
  override get message() {
    return `${this.path} (bytes 18 and 19 are 3) has its newest commits in ${
      this.found === "unknown" ? "a log that is not there" : `a ${this.found} log`
    }, which is not read here; nothing was changed: ${
      this.found === "unknown" ? "put the files of the log back" : "run `tidemark recover` on it"
    }, after which any kind of log may start`
  }
}

/**
 * Both a `-wal` and a log of another kind hold commits (RC-20).
 *
 * @category errors
 * @since 0.1.0
 */
export class MixedLogs extends TidemarkError("MixedLogs", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
  readonly path: string
  readonly found: OtherLogKind
  /** Commits in the `-wal`. */
  readonly walCommits: number
}> {
  override get message() {
    return `${this.path} has ${this.walCommits} commits in its -wal and more in a log of another kind (${this.found}; bytes ` +
      "18 and 19 are 3), whose order is not known; nothing was changed: move away the log that does not belong to it"
  }
}

/**
 * Every refusal that `examineDatabase` of `StartUp.ts` answers.
 *
 * @category models
 * @since 0.1.0
 */
export type StartUpRefusal =
  | NotADatabase
  | NotWalMode
  | PageSizeMismatch
  | WalDamaged
  | WalHeaderLost
  | WalVersionUnknown
  | WalBaseDamaged
  | DatabasePagesLost
  | HotJournal
  | WrongLogKind
  | MixedLogs

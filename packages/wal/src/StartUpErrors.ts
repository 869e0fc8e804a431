/**
 * Why a database is not opened: the refusals of the start-up table (section 10 of `formats.md`). When one of these is
 * answered nothing on disk has been changed.
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { type CommitSeq, type ObjectId, objectIdToHex, type WalEpoch } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import type { SegmentUnreadable } from "./SegmentStore.ts"

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
      "its data is untouched: run PRAGMA journal_mode=WAL on it"
  }
}

/**
 * The WAL, a segment or a capsule was written for another page size than the database has (RC-05).
 *
 * @category errors
 * @since 0.1.0
 */
export class PageSizeMismatch
  extends TidemarkError("PageSizeMismatch", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly path: string
    readonly walPageSize: number
    readonly databasePageSize: number
    /**
     * Where the first such image starts, when it is in a segment or a capsule. The header of a `-wal` says the size in
     * byte 8.
     */
    readonly imageOffset?: number
  }>
{
  override get message() {
    return `${this.path} holds pages of ${this.walPageSize} bytes (byte ${
      this.imageOffset ?? 8
    }) but its database has pages of ` +
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
 * The database file is empty or gone, and its log does not hold all of its pages.
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
    return `${this.path} is empty or missing and its log holds only a part of the database: ${this.missingPages} of ` +
      `${this.databasePages} pages, page ${this.firstMissingPage} first, are nowhere; put the database file back beside its log`
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
 * The file that says which commits of the parallel or native log are in the database file does not check.
 *
 * @category errors
 * @since 0.1.0
 */
export class CheckpointMarkDamaged
  extends TidemarkError("CheckpointMarkDamaged", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly path: string
    readonly issue: FormatIssue
  }>
{
  override get message() {
    return `${this.path} does not check (${this.issue.message}), so that it is not known which commits are in the database ` +
      "file nor which sequences are used; nothing was changed: restore the file, or, when the -wal is the only log that " +
      "has commits, open that with acceptLoss"
  }
}

/**
 * The kinds of log that a database can have besides the one that was asked for.
 *
 * @category models
 * @since 0.1.0
 */
export type OtherLogKind = "sqlite" | "parallel" | "native" | "unknown"

const logNames: Record<OtherLogKind, string> = {
  sqlite: "its -wal",
  parallel: "a parallel log",
  native: "a native log",
  unknown: "a log that is not there"
}

/**
 * The newest commits of the database are in a log of another kind (RC-23).
 *
 * @category errors
 * @since 0.1.0
 */
export class WrongLogKind
  extends TidemarkError("WrongLogKind", { isRetryable: false, sqliteCode: SqliteCode.cannotOpen })<{
    readonly path: string
    /** `"unknown"` when the database says so (bytes 18 and 19 are 3) but no file of such a log is there. */
    readonly found: OtherLogKind
  }>
{
  override get message() {
    return `${this.path} has its newest commits in ${
      logNames[this.found]
    }, which is not read here; nothing was changed: ${
      this.found === "unknown"
        ? "put the files of the log back (bytes 18 and 19 of the database say that there is one)"
        : "run `tidemark recover` on it"
    }, after which any kind of log may start`
  }
}

/**
 * Two logs of different kinds hold commits (RC-20), or the `-wal` holds commits that are older than the last checkpoint of
 * another log.
 *
 * @category errors
 * @since 0.1.0
 */
export class MixedLogs extends TidemarkError("MixedLogs", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
  readonly path: string
  /** The kind of the log beside the `-wal`; when that has no commits, of the log that was not asked for. */
  readonly found: OtherLogKind
  /**
   * Commits in the `-wal`. 0: a parallel log and a native one both have some, or (`found` is `"sqlite"`) a native log has
   * some that are older than what has come into the database file by way of the `-wal`.
   */
  readonly walCommits: number
  /** The checkpoint of the other log that the `-wal` is older than; `undefined` when the other log itself has commits. */
  readonly checkpointedThrough: CommitSeq | undefined
}> {
  override get message() {
    if (this.walCommits === 0) {
      return `${this.path} has commits in ${
        this.found === "sqlite"
          ? "a native log that are older than what a -wal has put into the database file, over which they must not be copied"
          : "a parallel log and in a native one, whose order is not known"
      }; nothing was changed: move away the log that does not belong to it`
    }
    const other = this.checkpointedThrough === undefined
      ? `more in a log of another kind (${this.found}), whose order is not known`
      : `is older than what the checkpoint of a ${this.found} log has put into the database file ` +
        `(through commit ${this.checkpointedThrough}), over which they must not be copied`
    return `${this.path} has ${this.walCommits} commits in its -wal and ${other}; nothing was changed: ` +
      "move away the log that does not belong to it"
  }
}

/**
 * The parallel log was written, but the file that says which of it is acknowledged is gone (RC-11).
 *
 * @category errors
 * @since 0.1.0
 */
export class CertificatesLost
  extends TidemarkError("CertificatesLost", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    /** The certificate log that should be there. */
    readonly path: string
    /** Segments above the checkpoint mark. 0: the database says (bytes 18 and 19 are 3) that there are some. */
    readonly segments: number
    /** The epochs of the first and the last of them. */
    readonly firstEpoch: WalEpoch | undefined
    readonly lastEpoch: WalEpoch | undefined
  }>
{
  override get message() {
    return `${this.path} is missing although ${
      this.segments === 0
        ? "the database says that its newest commits are in a log (bytes 18 and 19 are 3), of which nothing is there"
        : `${this.segments} segments (epochs ${this.firstEpoch} to ${this.lastEpoch}) stand beside it, and nothing says ` +
          "which of them were acknowledged"
    }; nothing was changed: put it back, or open with trustSegments to replay every segment (files of FrankenSQLite), or ` +
      "with discardSegments to go on without them"
  }
}

/**
 * What is wrong with a segment whose commits were acknowledged.
 *
 * @category models
 * @since 0.1.0
 */
export type SegmentLoss = "missing" | "unreadable" | "checksum" | "records" | "sequences"

const lossNames: Record<SegmentLoss, string> = {
  missing: "the file",
  unreadable: "the contents",
  checksum: "the CRC-32C of the file",
  records: "the number of records",
  sequences: "the sequence of a record"
}

/**
 * A segment with acknowledged commits that are not in the database file is missing or is not what was certified
 * (RC-08).
 *
 * @category errors
 * @since 0.1.0
 */
export class CertifiedSegmentLost
  extends TidemarkError("CertifiedSegmentLost", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    /** Of the segment. */
    readonly path: string
    readonly epoch: WalEpoch
    /** Where its certificate starts in the certificate log. */
    readonly certificateOffset: number
    readonly loss: SegmentLoss
    readonly found: string
    readonly expected: string
    /** Every commit up to here is whole. */
    readonly keptThrough: CommitSeq
    /** The last commit that was acknowledged: those in between would be lost. */
    readonly lostThrough: CommitSeq
  }>
{
  override get message() {
    return `${this.path} (epoch ${this.epoch}, certificate at byte ${this.certificateOffset}) holds acknowledged commits, ` +
      `but ${
        lossNames[this.loss]
      } is ${this.found}, expected ${this.expected}; nothing was changed: restore the file, or ` +
      `open with stopAtCorrupt to keep what is whole through commit ${this.keptThrough} and lose those through ` +
      `${this.lostThrough}`
  }
}

const insteadOfCertificates = "nothing was changed: restore the file, or move it away and open with trustSegments to " +
  "replay every segment, acknowledged or not, or with discardSegments to go on without them"

/**
 * The certificates do not follow one another, so that acknowledged commits may be missing between them (RC-10).
 *
 * @category errors
 * @since 0.1.0
 */
export class CertificateGap
  extends TidemarkError("CertificateGap", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    /** Of the certificate log. */
    readonly path: string
    /** Where the certificate that does not follow starts. */
    readonly offset: number
    readonly found: string
    readonly expected: string
    readonly issue: FormatIssue
  }>
{
  override get message() {
    return `the certificate at byte ${this.offset} of ${this.path} does not follow what is before it ` +
      `(${this.issue.message}), so that acknowledged commits may be missing; ${insteadOfCertificates}`
  }
}

/**
 * The certificate log is damaged elsewhere than at its torn end (RC-10).
 *
 * @category errors
 * @since 0.1.0
 */
export class CertificateChecksumMismatch
  extends TidemarkError("CertificateChecksumMismatch", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    /** Of the certificate log. */
    readonly path: string
    /** Where the damaged certificate starts; 0 for the header. */
    readonly offset: number
    readonly found: string
    readonly expected: string
    readonly issue: FormatIssue
  }>
{
  override get message() {
    return `${this.path} is damaged at byte ${this.offset} (${this.issue.message}), which is not the torn end of an append, ` +
      `so that acknowledged commits would be lost; ${insteadOfCertificates}`
  }
}

/**
 * What is wrong with a capsule that a marker names.
 *
 * @category models
 * @since 0.1.0
 */
export type CapsuleLoss = "missing" | "contents"

/**
 * A commit that is not in the database file was acknowledged, but the capsule that holds its pages is missing or is not
 * what its marker names (RC-15).
 *
 * @category errors
 * @since 0.1.0
 */
export class CapsuleLost extends TidemarkError("CapsuleLost", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
  /** Of the capsule. */
  readonly path: string
  readonly capsule: ObjectId
  /** Of the commit. */
  readonly seq: CommitSeq
  readonly loss: CapsuleLoss
  readonly found: string
  readonly expected: string
  /** Every commit up to here is whole. */
  readonly keptThrough: CommitSeq
  /** The last commit that was acknowledged. */
  readonly lostThrough: CommitSeq
}> {
  override get message() {
    const wrong = this.loss === "missing"
      ? "it is not there"
      : `its contents are damaged: ${this.found}, expected ${this.expected}`
    return `${this.path} holds the pages of commit ${this.seq}, which was acknowledged, but ${wrong} (capsule ${
      objectIdToHex(this.capsule)
    }); nothing was changed: restore the file under this name, for without it the ` +
      `commits through ${this.lostThrough} cannot be told from that one on, and only those through ${this.keptThrough} are whole`
  }
}

/**
 * Every refusal of the start-up table: those that `examineDatabase` of `StartUp.ts` answers for the SQLite WAL, those
 * that `examineParallel` of `ParallelStartUp.ts` answers for the parallel log, and those that `examineNative` of
 * `NativeStartUp.ts` answers for the native one.
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
  | CheckpointMarkDamaged
  | WrongLogKind
  | MixedLogs
  | CertificatesLost
  | CertifiedSegmentLost
  | SegmentUnreadable
  | CertificateGap
  | CertificateChecksumMismatch
  | CapsuleLost

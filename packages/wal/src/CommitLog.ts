/**
 * What a write coordinator and a pager need of a log of page commits, whichever log it is.
 *
 * The coordinator decides, the log makes durable and visible. A commit is handed down once, in one synchronous step,
 * and what comes back up is that it is durable. Every log of a database provides this service beside its own.
 *
 * @since 0.1.0
 */
import type { CommitSeq, PageNumber, PageSize, TxnToken } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { Admission, HandOverWaiter, LogEnded } from "./GroupCommit.ts"
import type { DatabaseTruncated, Exhausted } from "./LogErrors.ts"

/**
 * The pages of a commit, ascending, each with a way to its image at the moment it is copied into the log.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogCommit {
  readonly token: TxnToken
  readonly seq: CommitSeq
  readonly pages: ReadonlyArray<PageNumber>
  /** The image of a page: exactly one page of bytes, valid until the next call. */
  image(page: PageNumber): Uint8Array
  /** Database size in pages after this commit. */
  readonly databasePages: number
}

/**
 * What new snapshots see.
 *
 * @category models
 * @since 0.1.0
 */
export interface Published {
  readonly commitSeq: CommitSeq
  readonly databasePages: number
}

/**
 * A reader's hold on a snapshot: while it is open the log keeps every version that the snapshot sees.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogReader {
  readonly high: CommitSeq
  /** Database size in pages at the snapshot. */
  readonly databasePages: number
  /**
   * The sequence that wrote the page as the snapshot sees it, or 0 when it is the one in the database file. A page and
   * its version name its bytes until the log says otherwise through {@link SequencedLog.onRestart}.
   */
  versionOf(page: PageNumber): CommitSeq
  /** The page as the snapshot sees it, in memory of its own; zeros beyond the end of the database. */
  read(page: PageNumber): Effect.Effect<Uint8Array, VfsError | DatabaseTruncated>
  /** The same, now; throws what {@link LogReader.read} would fail with. */
  readSync(page: PageNumber): Uint8Array
  /** Ends the hold. Once. */
  release(): void
}

/**
 * A log of commits over one database, given out in the order of their sequences. `Commit` is what it is handed for each.
 *
 * @category models
 * @since 0.1.0
 */
export interface SequencedLog<in Commit> {
  /** Path of the database file. */
  readonly database: string
  readonly pageSize: PageSize

  /** What new snapshots see: everything up to here is durable. */
  readonly published: () => Published

  /**
   * The commits that recovery found in the log, oldest first, for a coordinator that rebuilds what it knows of recent
   * changes (CO-15): the sequence before the first of them, and each page with the sequence of its newest version.
   */
  readonly recovered: {
    readonly base: CommitSeq
    readonly tip: CommitSeq
    readonly pages: () => Iterable<readonly [PageNumber, CommitSeq]>
  }

  /** Why the log takes nothing any more, or `undefined` while it lives. */
  readonly ended: () => LogEnded | undefined

  /** Bytes that a commit of so many pages takes in the log. */
  readonly commitBytes: (pageCount: number) => number

  /** Why a commit of so many pages does not fit into the log, or `undefined` when it does. */
  readonly refuse: (pageCount: number) => Exhausted | undefined

  /**
   * For a coordinator that continues from a state given to it: asserts that the next commit has the sequence after
   * `tip` and starts at `walOffset`.
   */
  readonly restore: (tip: CommitSeq, walOffset: number) => void

  /** Asks for room, in arrival order: `GroupCommit.admit`. */
  readonly admit: (admission: Admission) => () => void

  /**
   * Hands a commit over, now; only from inside `Admission.enter`. Its sequence is the one after the last handed over
   * (a defect otherwise). The waiter, which waits for `"durable"`, succeeds when the commit is durable and visible, and
   * fails when it never will be, in the order of sequences. Answers where the commit starts in the log, in bytes, or 0
   * when the log is not a SQLite WAL.
   */
  readonly appendUnsafe: (commit: Commit, waiter: HandOverWaiter) => number

  /** Takes no more commits: the state that the coordinator shares with the log is broken. */
  readonly poison: (cause: Cause.Cause<unknown>) => void

  /**
   * Decides what was handed over: when it returns each of those commits is durable or has failed. A log that tries again
   * what it could not write gives up after one more attempt, and has ended then. For a coordinator that closes; the log
   * stays open.
   */
  readonly settle: Effect.Effect<void>

  /** Opens a hold on what is published now. */
  readonly openReader: () => LogReader

  /** Whether no reader is open on a snapshot from before this commit: nobody sees what it replaced any more. */
  readonly isSeenByReaders: (commit: CommitSeq) => boolean

  /**
   * Registers a listener for the moment when the log starts over: the database file now holds the newest version of
   * each page, so what was named by the sequence is named by 0.
   */
  readonly onRestart: (listener: (versions: Iterable<readonly [PageNumber, CommitSeq]>) => void) => void

  /**
   * Registers a listener for the moment when {@link SequencedLog.published} has grown. It is called before anybody is
   * told that his commit is durable, in the same synchronous step; what it throws is a defect that ends the log.
   */
  readonly onPublished: (listener: (published: Published) => void) => void
}

/**
 * A log of page commits over one database.
 *
 * @category services
 * @since 0.1.0
 */
export class CommitLog extends Context.Service<CommitLog, SequencedLog<LogCommit>>()("@tidemark/wal/CommitLog") {}

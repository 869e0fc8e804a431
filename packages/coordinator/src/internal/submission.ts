/**
 * A commit on its way through the log. One object that the log calls back: as the one who waits for room, as what is
 * appended, and as the one who waits for durability. Every transaction makes one, so it is a class, not closures.
 */
import type { CommitSeq, PageNumber, TxnToken } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import type { Admission, HandOverWaiter, LogEnded } from "@tidemark/wal/GroupCommit"
import * as Exit from "effect/Exit"
import type { CommitProposal, CommitRefusal, CommitWaiter } from "../Coordination.ts"

/** What happens to a submission. */
export interface SubmissionOwner<Request extends CommitProposal, Answer, Extra> {
  enter(submission: Submission<Request, Answer, Extra>): void
  settle(submission: Submission<Request, Answer, Extra>): void
  giveUp(submission: Submission<Request, Answer, Extra>, ended: LogEnded): void
}

/** `Extra`: what a commit can fail with beside what either coordinator refuses. */
export abstract class Submission<Request extends CommitProposal, Answer, Extra> implements Admission, HandOverWaiter {
  readonly mode = "durable"
  readonly request: Request
  /** Ascending, at least one. */
  readonly pages: ReadonlyArray<PageNumber>
  /** Bytes in the log. */
  readonly length: number
  readonly waiter: CommitWaiter<Answer, CommitRefusal | Extra>
  /** Of the outcomes, when this token was not among them. */
  readonly changes: number
  /** What was looked at when it was submitted may have changed since then. */
  isStale = false
  /** It was accepted, refused, or answered by an earlier submission. */
  isDecided = false
  // Assigned when it is accepted.
  seq: CommitSeq = noCommit
  databasePages = 0
  private readonly owner: SubmissionOwner<Request, Answer, Extra>

  constructor(
    owner: SubmissionOwner<Request, Answer, Extra>,
    request: Request,
    pages: ReadonlyArray<PageNumber>,
    length: number,
    changes: number,
    waiter: CommitWaiter<Answer, CommitRefusal | Extra>
  ) {
    this.owner = owner
    this.request = request
    this.pages = pages
    this.length = length
    this.changes = changes
    this.waiter = waiter
  }

  /** Hands itself over to its log, when it was accepted. */
  abstract append(): void

  /** What the committer is answered when the commit is durable and visible. */
  abstract answer(): Answer

  /** Whether the writes are not those any more that were submitted, which their owner must not do. */
  abstract hasChanged(): boolean

  get token(): TxnToken {
    return this.request.token
  }

  enter(): void {
    this.owner.enter(this)
  }

  refuse(ended: LogEnded): void {
    this.isDecided = true
    this.waiter.resume(Exit.fail(ended))
  }

  succeed(): void {
    this.owner.settle(this)
  }

  fail(ended: LogEnded): void {
    this.owner.giveUp(this, ended)
  }
}

const noCommit = toCommitSeq(0n)

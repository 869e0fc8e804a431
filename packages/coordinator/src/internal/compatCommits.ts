/**
 * Commits whose pages go into the log themselves: from the write set of the transaction into its frames or records.
 */
import type { PageNumber } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import type { CommitLog, LogCommit } from "@tidemark/wal/CommitLog"
import type { DatabaseTruncated } from "@tidemark/wal/LogErrors"
import type * as Effect from "effect/Effect"
import type { CommitAnswer, CommitRequest } from "../CompatCoordinator.ts"
import type { SpillCorrupt } from "../CoordinatorErrors.ts"
import { Coordinator, type CoordinatorAuthority } from "./coordinator.ts"
import type { AnswerStore } from "./outcomeCache.ts"
import { Submission, type SubmissionOwner } from "./submission.ts"

/** What a commit can fail with because its bytes are looked at. */
export type CompatExtra = SpillCorrupt | DatabaseTruncated | VfsError

/**
 * Pages in a commit at the most: what a frame of the wire protocol can name beside its ids (section 9 of `formats.md`).
 *
 * @category constants
 * @since 0.1.0
 */
export const maxCommitPages = 98_301

export class CompatCommits extends Coordinator<CommitRequest, CommitAnswer, CompatExtra> {
  private readonly pageLog: CommitLog["Service"]

  constructor(log: CommitLog["Service"], parts: CoordinatorAuthority) {
    super({ ...parts, log, answers: makeOffsets, maxPages: maxCommitPages })
    this.pageLog = log
  }

  protected pageCountOf({ writes }: CommitRequest): number {
    return writes.size
  }

  protected answerNothing({ snapshot }: CommitRequest): CommitAnswer {
    return { commitSeq: snapshot.high, walOffset: 0 }
  }

  protected verify({ writes }: CommitRequest): Effect.Effect<void, CompatExtra> | undefined {
    return writes.isSpilled ? writes.verify : undefined
  }

  protected submissionOf(
    request: CommitRequest,
    changes: number,
    waiter: CompatSubmission["waiter"]
  ): CompatSubmission {
    return new CompatSubmission(this, this.pageLog, request, changes, waiter)
  }
}

class CompatSubmission extends Submission<CommitRequest, CommitAnswer, CompatExtra> implements LogCommit {
  private readonly log: CommitLog["Service"]
  private walOffset = 0

  constructor(
    owner: SubmissionOwner<CommitRequest, CommitAnswer, CompatExtra>,
    log: CommitLog["Service"],
    request: CommitRequest,
    changes: number,
    waiter: CompatSubmission["waiter"]
  ) {
    const pages = request.writes.pagesAscending()
    super(owner, request, pages, log.commitBytes(pages.length), changes, waiter)
    this.log = log
  }

  append(): void {
    this.walOffset = this.log.appendUnsafe(this, this)
  }

  answer(): CommitAnswer {
    return { commitSeq: this.seq, walOffset: this.walOffset }
  }

  hasChanged(): boolean {
    return this.request.writes.size !== this.pages.length
  }

  image(page: PageNumber): Uint8Array {
    return this.request.writes.image(page)
  }
}

/** Flat memory for what an answer says beside its sequence. */
export const makeOffsets = (slots: number): AnswerStore<CommitAnswer> => {
  const offsets = new Float64Array(slots)
  return {
    put: (slot, { walOffset }) => {
      offsets[slot] = walOffset
    },
    get: (slot, commitSeq) => ({ commitSeq, walOffset: offsets[slot] ?? 0 })
  }
}

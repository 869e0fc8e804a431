/**
 * Commits whose pages are in a capsule: only a marker goes through the log (CO-09).
 */
import { invariant } from "@tidemark/core/Invariant"
import type { ObjectId, PageNumber } from "@tidemark/core/Scalars"
import { toObjectId } from "@tidemark/core/Scalars"
import type { NativeCommit, NativeLog } from "@tidemark/wal/NativeLog"
import type { PublishAnswer, PublishRequest } from "../NativeCoordinator.ts"
import { Coordinator, type CoordinatorAuthority } from "./coordinator.ts"
import type { AnswerStore } from "./outcomeCache.ts"
import { Submission, type SubmissionOwner } from "./submission.ts"

/**
 * Pages in a commit at the most (section 9 of `formats.md`).
 *
 * @category constants
 * @since 0.1.0
 */
export const maxPublishPages = 262_144

type Log = NativeLog["Service"]["commits"]

export class NativeCommits extends Coordinator<PublishRequest, PublishAnswer, never> {
  private readonly markers: Log

  constructor(log: Log, parts: CoordinatorAuthority) {
    super({ ...parts, log, answers: makeIds, maxPages: maxPublishPages })
    this.markers = log
  }

  protected pageCountOf({ pages }: PublishRequest): number {
    return pages.length
  }

  protected answerNothing({ snapshot }: PublishRequest): PublishAnswer {
    return { commitSeq: snapshot.high, markerId: noMarker }
  }

  protected verify(): undefined {
    return undefined
  }

  protected submissionOf(
    request: PublishRequest,
    changes: number,
    waiter: NativeSubmission["waiter"]
  ): NativeSubmission {
    return new NativeSubmission(this, this.markers, request, changes, waiter)
  }
}

class NativeSubmission extends Submission<PublishRequest, PublishAnswer, never> implements NativeCommit {
  private readonly log: Log
  markerId: ObjectId | undefined

  constructor(
    owner: SubmissionOwner<PublishRequest, PublishAnswer, never>,
    log: Log,
    request: PublishRequest,
    changes: number,
    waiter: NativeSubmission["waiter"]
  ) {
    // A copy, so that what was validated is what is recorded.
    const pages: ReadonlyArray<PageNumber> = Array.from(request.pages)
    for (let i = 1; i < pages.length; i++) {
      invariant(Number(pages[i]) > Number(pages[i - 1]), "the pages of a capsule are ascending, each once")
    }
    super(owner, request, pages, log.commitBytes(pages.length), changes, waiter)
    this.log = log
  }

  get capsule(): ObjectId {
    return this.request.capsule
  }

  append(): void {
    this.log.appendUnsafe(this, this)
  }

  answer(): PublishAnswer {
    return { commitSeq: this.seq, markerId: this.markerId ?? noMarker }
  }

  hasChanged(): boolean {
    return false
  }
}

const idBytes = 16
const noMarker = toObjectId(new Uint8Array(idBytes))

const makeIds = (slots: number): AnswerStore<PublishAnswer> => {
  const ids = new Uint8Array(slots * idBytes)
  return {
    put: (slot, { markerId }) => ids.set(markerId, slot * idBytes),
    get: (slot, commitSeq) => ({ commitSeq, markerId: toObjectId(ids.slice(slot * idBytes, (slot + 1) * idBytes)) })
  }
}

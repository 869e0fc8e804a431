/**
 * What a pager needs of the coordinator under it, whichever it is: transactions that begin, and commits of pages.
 */
import type { CommitSeq, PageNumber, PageSize } from "@tidemark/core/Scalars"
import type { CommitLog } from "@tidemark/wal/CommitLog"
import type { CompatCoordinator } from "../CompatCoordinator.ts"
import type { Coordination } from "../Coordination.ts"
import { maxCommitPages } from "./compatCommits.ts"

export interface PageCommits
  extends Pick<Coordination, "awaitConcurrent" | "awaitVisible" | "begin" | "beginSerialized">
{
  readonly database: string
  readonly pageSize: PageSize
  /** Pages that a commit writes at the most, those that a growth adds among them. */
  readonly maxPages: number
  /** `CompatCoordinator.submitUnsafe`, whichever coordinator it is. */
  readonly submit: CompatCoordinator["Service"]["submitUnsafe"]
  /** `SequencedLog.onRestart` of the log below. */
  readonly onRestart: (listener: (versions: Iterable<readonly [PageNumber, CommitSeq]>) => void) => void
  /** `SequencedLog.isSeenByReaders` of the log below. */
  readonly isSeenByReaders: (commit: CommitSeq) => boolean
}

export const compatPageCommits = (
  coordinator: CompatCoordinator["Service"],
  { isSeenByReaders, onRestart }: CommitLog["Service"]
): PageCommits => ({
  ...coordinator,
  submit: coordinator.submitUnsafe,
  maxPages: maxCommitPages,
  onRestart,
  isSeenByReaders
})

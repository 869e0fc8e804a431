/** What a log was given, kept apart from it: the model that recoveries and readers are compared with. */
import { assert } from "@effect/vitest"
import type { CommitSeq, PageSize } from "@tidemark/core/Scalars"
import { toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import type { LogReader, SequencedLog } from "../../src/CommitLog.ts"
import type { LogEnded } from "../../src/GroupCommit.ts"
import { emptyVersion, firstDifference, nextVersion, type Version } from "./pages.ts"
import { commit, type Opened, readTip } from "./sqliteWal.ts"

/** Pages that a commit writes, and the size of the database after it. */
export interface Change {
  readonly pages: ReadonlyArray<number>
  readonly databasePages: number
}

export class Ledger {
  /** The version after each commit, by sequence. The commits of a log need not be dense: a foreign one jumps. */
  readonly versions = new Map<CommitSeq, Version>()
  readonly pageSize: PageSize
  lastSeq: CommitSeq
  acknowledged: CommitSeq
  /** Called when a commit was acknowledged, in the same synchronous step. */
  onAcknowledged: (seq: CommitSeq) => void = () => {}

  constructor(pageSize: PageSize, tip: CommitSeq = toCommitSeq(0n), version: Version = emptyVersion(pageSize)) {
    this.pageSize = pageSize
    this.lastSeq = tip
    this.acknowledged = tip
    this.versions.set(tip, version)
  }

  version(seq: CommitSeq): Version {
    const version = this.versions.get(seq)
    if (version === undefined) throw new Error(`there is no commit ${seq}`)
    return version
  }

  /** Commits a change to the log; what the ledger says moves when it is handed over. */
  commit(opened: Pick<Opened, "log">, change: Change): Effect.Effect<CommitSeq, LogEnded> {
    return commit(opened.log, (seq) => {
      const { after, written } = nextVersion(
        this.version(this.lastSeq),
        this.pageSize,
        Number(seq % 0xffffffn) + 1,
        change.pages,
        change.databasePages
      )
      this.versions.set(seq, after)
      this.lastSeq = seq
      return { written, databasePages: after.databasePages }
    }, {
      lastSeq: () => this.lastSeq,
      acknowledged: (seq) => {
        this.acknowledged = seq
        this.onAcknowledged(seq)
      }
    })
  }

  /** After a recovery: commits behind the tip never happened. */
  rewindTo(tip: CommitSeq): void {
    for (const seq of this.versions.keys()) if (seq > tip) this.versions.delete(seq)
    this.lastSeq = tip
    this.acknowledged = tip
  }

  /** Compares a snapshot with what the ledger says about it. */
  differenceOf(reader: LogReader): string | undefined {
    return firstDifference(
      this.version(reader.high),
      reader.databasePages,
      (page) => reader.readSync(toPageNumber(page))
    )
  }

  /** Asserts that what is visible now is what the ledger says about the tip. */
  checkTip(opened: { readonly log: Pick<SequencedLog<never>, "openReader" | "published"> }, label: string) {
    return Effect.map(readTip(opened.log), (found) => {
      const { commitSeq } = opened.log.published()
      assert.isUndefined(
        firstDifference(this.version(commitSeq), found.databasePages, (page) => found.pages.get(page)),
        `${label}: the pages of commit ${commitSeq}`
      )
    })
  }
}

/**
 * How the size of the database changed above the GC horizon.
 *
 * Cutting pages off changes each of them, and the conflict index would have to remember every one. Instead the cut is
 * remembered, and a request that touches a page beyond it with an older snapshot conflicts with it (PG-11). A request
 * that cuts conflicts with every change of the size after its snapshot: the pages that it means to drop may be new ones.
 */
import type { CommitSeq, PageNumber } from "@tidemark/core/Scalars"
import { toPageNumber } from "@tidemark/core/Scalars"
import type { IndexConflict } from "../ConflictIndex.ts"

interface Resize {
  readonly seq: CommitSeq
  /** The smaller one of the sizes before and after: pages above it were cut off or added. */
  readonly kept: number
  readonly isCut: boolean
}

/** @internal */
export class ResizeHistory {
  private cuts: Array<Resize> = []
  private newest: Resize | undefined

  record(seq: CommitSeq, from: number, to: number): void {
    const resize: Resize = { seq, kept: Math.min(from, to), isCut: to < from }
    this.newest = resize
    if (resize.isCut) this.cuts.push(resize)
  }

  validate(pages: ReadonlyArray<PageNumber>, high: CommitSeq, isShrinking: boolean): IndexConflict | undefined {
    const { newest } = this
    if (newest === undefined || newest.seq <= high) return undefined
    if (isShrinking) return { conflictingSeq: newest.seq, pages: [toPageNumber(1)], belowFloor: false }
    if (this.cuts.length === 0) return undefined
    for (const cut of this.cuts.toReversed()) {
      if (cut.seq <= high) break
      const beyond = pages.filter((page) => page > cut.kept)
      if (beyond.length > 0) return { conflictingSeq: cut.seq, pages: beyond, belowFloor: false }
    }
    return undefined
  }

  /** Takes back everything from `seq` on. The newest one may be forgotten by that: nothing follows on a poisoned log. */
  retract(seq: CommitSeq): void {
    this.cuts = this.cuts.filter((cut) => cut.seq < seq)
    if (this.newest !== undefined && this.newest.seq >= seq) this.newest = undefined
  }

  forget(horizon: CommitSeq): void {
    if (this.cuts.length > 0) this.cuts = this.cuts.filter((cut) => cut.seq > horizon)
    if (this.newest !== undefined && this.newest.seq <= horizon) this.newest = undefined
  }
}

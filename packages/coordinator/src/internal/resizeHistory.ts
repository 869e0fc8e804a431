/**
 * How the size of the database changed above the GC horizon.
 *
 * Cutting pages off changes each of them, and the conflict index would have to remember every one. Instead the cut is
 * remembered, and a request that touches a page beyond it with an older snapshot conflicts with it (PG-11). A request
 * that chooses a size conflicts with every change of the size after its snapshot: the pages that it means to drop may be
 * new ones, and those that it means to keep may be gone.
 */
import type { CommitSeq, PageNumber } from "@tidemark/core/Scalars"
import { toPageNumber } from "@tidemark/core/Scalars"
import type { IndexConflict } from "../ConflictIndex.ts"

interface Cut {
  readonly seq: CommitSeq
  /** Size after it: pages above it were cut off. */
  readonly kept: number
}

/** @internal */
export class ResizeHistory {
  /**
   * The oldest first, and the later the higher: an older cut that kept as much as a later one, or more, says nothing
   * that the later one does not say, so there are no more of them than there are pages.
   */
  private cuts: Array<Cut> = []
  private newest: CommitSeq | undefined

  /** Cuts that are remembered. */
  get size(): number {
    return this.cuts.length
  }

  record(seq: CommitSeq, from: number, to: number): void {
    this.newest = seq
    if (to > from) return
    let last = this.cuts.at(-1)
    while (last !== undefined && last.kept >= to) {
      this.cuts.pop()
      last = this.cuts.at(-1)
    }
    this.cuts.push({ seq, kept: to })
  }

  /** How the size came to be what it was at `tip` is not known: any page beyond may have been cut off (CO-15). */
  forgetAllBefore(tip: CommitSeq, databasePages: number): void {
    this.newest = tip
    this.cuts = [{ seq: tip, kept: databasePages }]
  }

  /** `isChosen`: the request does not only grow the database by what it writes, it says how large it is to be. */
  validate(pages: ReadonlyArray<PageNumber>, high: CommitSeq, isChosen: boolean): IndexConflict | undefined {
    const { newest } = this
    if (newest === undefined || newest <= high) return undefined
    if (isChosen) return { conflictingSeq: newest, pages: [toPageNumber(1)], belowFloor: false }
    // The first cut above the snapshot keeps the least of all of them, the last one keeps the most.
    const first = this.cuts.find((cut) => cut.seq > high)
    if (first === undefined) return undefined
    const beyond = pages.filter((page) => page > first.kept)
    const highest = beyond.reduce((most, page) => Math.max(most, page), 0)
    const last = this.cuts.findLast((cut) => cut.seq > high && highest > cut.kept)
    if (last === undefined) return undefined
    return { conflictingSeq: last.seq, pages: beyond, belowFloor: false }
  }

  /**
   * Takes back everything from `seq` on. Cuts that it had made superfluous and growth before it do not come back:
   * nothing follows on a poisoned log.
   */
  retract(seq: CommitSeq): void {
    this.cuts = this.cuts.filter((cut) => cut.seq < seq)
    if (this.newest !== undefined && this.newest >= seq) this.newest = this.cuts.at(-1)?.seq
  }

  forget(horizon: CommitSeq): void {
    if (this.cuts.length > 0) this.cuts = this.cuts.filter((cut) => cut.seq > horizon)
    if (this.newest !== undefined && this.newest <= horizon) this.newest = undefined
  }
}

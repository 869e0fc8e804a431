/**
 * Where the versions of a page are in one generation of the WAL.
 *
 * A frame remembers the frame before it that held the same page, so the versions of a page are a chain from the newest
 * to the oldest, and looking one up at a snapshot walks from the newest. Everything is kept in growing arrays of
 * numbers: 12 bytes a frame and 8 a commit beside the map entry of each page.
 *
 * Invariants
 * 1. Commits are dense: the n-th commit of the generation (from 1) has sequence `base + n`.
 * 2. Only durable commits are in the index.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, PageNumber } from "@tidemark/core/Scalars"
import { toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"

const none = -1

/** Memory for more frames than that, or commits, is not kept for the next generation: 2.5 MiB are, at the most. */
const maxKept = 131_072

/**
 * @category models
 * @since 0.1.0
 */
export class WalIndex {
  /** The tip when the generation began. */
  readonly base: CommitSeq
  private readonly newestFrame = new Map<number, number>()
  /** By frame: its page, the frame before it of the same page, and the commit it belongs to. */
  private pages = new Uint32Array(1024)
  private previous = new Int32Array(1024)
  private commitOf = new Uint32Array(1024)
  private frameCount = 0
  /** By commit, from 0: the database size after it in pages, and the frames up to and with it. */
  private sizes = new Uint32Array(256)
  private ends = new Uint32Array(256)
  private commitCount = 0

  constructor(base: CommitSeq) {
    this.base = base
  }

  /**
   * The empty index of the generation that follows. It takes over the memory of this one, which is empty then, too: under
   * load there are several generations in a second, and megabytes that come and go at that rate keep the garbage collector
   * busy.
   */
  next(): WalIndex {
    const next = new WalIndex(this.tip)
    this.newestFrame.clear()
    this.frameCount = 0
    this.commitCount = 0
    if (this.pages.length <= maxKept && this.sizes.length <= maxKept) {
      ;[next.pages, this.pages] = [this.pages, next.pages]
      ;[next.previous, this.previous] = [this.previous, next.previous]
      ;[next.commitOf, this.commitOf] = [this.commitOf, next.commitOf]
      ;[next.sizes, this.sizes] = [this.sizes, next.sizes]
      ;[next.ends, this.ends] = [this.ends, next.ends]
    }
    return next
  }

  get frames(): number {
    return this.frameCount
  }

  get tip(): CommitSeq {
    return toCommitSeq(this.base + BigInt(this.commitCount))
  }

  /** Adds the next commit; its frames are the next ones of the file, in the order of `pages`. */
  addCommit(pages: Iterable<PageNumber>, databasePages: number): void {
    const ordinal = this.commitCount + 1
    for (const page of pages) {
      const frame = this.frameCount
      if (frame === this.pages.length) this.growFrames()
      this.pages[frame] = page
      this.previous[frame] = this.newestFrame.get(page) ?? none
      this.commitOf[frame] = ordinal
      this.newestFrame.set(page, frame)
      this.frameCount++
    }
    if (this.commitCount === this.sizes.length) this.growCommits()
    this.sizes[this.commitCount] = databasePages
    this.ends[this.commitCount] = this.frameCount
    this.commitCount = ordinal
  }

  /** The frame that holds the page as a snapshot at `high` sees it, or -1: it is in the database file. */
  find(page: PageNumber, high: CommitSeq): number {
    let frame = this.newestFrame.get(page) ?? none
    if (frame === none) return none
    const limit = this.ordinalOf(high)
    while (frame !== none && (this.commitOf[frame] ?? 0) > limit) frame = this.previous[frame] ?? none
    return frame
  }

  /** The commit that wrote a frame. */
  seqOf(frame: number): CommitSeq {
    const ordinal = this.commitOf[frame]
    invariant(ordinal !== undefined && frame < this.frameCount, "the frame is in the index")
    return toCommitSeq(this.base + BigInt(ordinal))
  }

  /** Database size in pages at a snapshot; `undefined` when no commit of this generation is visible to it. */
  databasePagesAt(high: CommitSeq): number | undefined {
    const ordinal = this.ordinalOf(high)
    return ordinal <= 0 ? undefined : this.sizes[ordinal - 1]
  }

  /** How many frames belong to the commits that a snapshot at `high` sees. */
  framesAt(high: CommitSeq): number {
    const ordinal = this.ordinalOf(high)
    return ordinal <= 0 ? 0 : this.ends[ordinal - 1] ?? 0
  }

  /** The newest frame of each page among the frames `from` (included) to `to` (not included). */
  newestBetween(from: number, to: number): Map<PageNumber, number> {
    invariant(to <= this.frameCount, "the frames are in the index")
    const newest = new Map<PageNumber, number>()
    for (let frame = from; frame < to; frame++) newest.set(toPageNumber(this.pages[frame] ?? 0), frame)
    return newest
  }

  /** Each page of the generation with the sequence of its newest version. */
  *newestVersions(): Iterable<readonly [PageNumber, CommitSeq]> {
    for (const [page, frame] of this.newestFrame) yield [toPageNumber(page), this.seqOf(frame)] as const
  }

  /** Each page with the sequence of the version that a snapshot at `high` sees, where the generation has one. */
  *versionsAt(high: CommitSeq): Iterable<readonly [PageNumber, CommitSeq]> {
    for (const number of this.newestFrame.keys()) {
      const page = toPageNumber(number)
      const frame = this.find(page, high)
      if (frame !== none) yield [page, this.seqOf(frame)] as const
    }
  }

  /** How many commits of this generation a snapshot at `high` sees; at most all. */
  private ordinalOf(high: CommitSeq): number {
    const distance = Number(high - this.base)
    return distance > this.commitCount ? this.commitCount : distance
  }

  private growFrames(): void {
    const length = this.pages.length * 2
    this.pages = grown(this.pages, new Uint32Array(length))
    this.previous = grown(this.previous, new Int32Array(length))
    this.commitOf = grown(this.commitOf, new Uint32Array(length))
  }

  private growCommits(): void {
    const length = this.sizes.length * 2
    this.sizes = grown(this.sizes, new Uint32Array(length))
    this.ends = grown(this.ends, new Uint32Array(length))
  }
}

const grown = <A extends Uint32Array | Int32Array>(from: A, to: A): A => {
  to.set(from)
  return to
}

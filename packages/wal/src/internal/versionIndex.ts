/**
 * Where the versions of pages are in a log that is made of files with page images: the certified segments of a parallel
 * WAL, the capsules of a native log. A file that holds the commits of an interval is a segment here; a capsule is one
 * with a single commit.
 *
 * The versions of a page are a list from the newest to the oldest, and looking one up at a snapshot walks from the
 * newest. Checkpoints drop whole segments from the old end.
 *
 * Invariants
 * 1. Only durable commits (certified, or with a durable marker) are in the index, in the order of their sequences.
 * 2. Segments are dropped oldest first, and with a segment all its versions.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, PageNumber } from "@tidemark/core/Scalars"

/** A file with commits that are not all in the database file yet. */
export interface SegmentInLog {
  readonly path: string
  readonly low: CommitSeq
  readonly high: CommitSeq
  /** Database size in pages after it. */
  readonly databasePages: number
  /** The page of each of its images. */
  readonly pages: ReadonlyArray<PageNumber>
}

export interface PageVersion<Segment extends SegmentInLog = SegmentInLog> {
  readonly seq: CommitSeq
  readonly segment: Segment
  /** Where the image starts in the file of the segment. */
  readonly offset: number
  older: PageVersion<Segment> | undefined
}

export class VersionIndex<Segment extends SegmentInLog = SegmentInLog> {
  private readonly newest = new Map<PageNumber, PageVersion<Segment>>()
  private readonly inLog: Array<Segment> = []
  /** Images of all segments. */
  records = 0

  /** Oldest first. */
  get segments(): ReadonlyArray<Segment> {
    return this.inLog
  }

  addSegment(segment: Segment): void {
    const last = this.inLog.at(-1)
    invariant(last === undefined || segment.low > last.high, "segments come in the order of their intervals")
    this.inLog.push(segment)
    this.records += segment.pages.length
  }

  /** Adds the newest version of a page; its segment was added before. */
  addVersion(page: PageNumber, seq: CommitSeq, segment: Segment, offset: number): void {
    this.newest.set(page, { seq, segment, offset, older: this.newest.get(page) })
  }

  /** The version of a page that a snapshot at `high` sees; `undefined` when it is the one in the database file. */
  find(page: PageNumber, high: CommitSeq): PageVersion<Segment> | undefined {
    let version = this.newest.get(page)
    while (version !== undefined && version.seq > high) version = version.older
    return version
  }

  /** Every page in the log with the sequence of its newest version. */
  *newestVersions(): IterableIterator<readonly [PageNumber, CommitSeq]> {
    for (const [page, { seq }] of this.newest) yield [page, seq]
  }

  /** The newest versions at `bound` of the pages of these segments, by segment. */
  newestOf(segments: ReadonlyArray<Segment>, bound: CommitSeq): Map<Segment, Map<PageNumber, PageVersion<Segment>>> {
    const bySegment = new Map<Segment, Map<PageNumber, PageVersion<Segment>>>()
    const pages = new Set<PageNumber>()
    for (const segment of segments) for (const page of segment.pages) pages.add(page)
    for (const page of pages) {
      const version = this.find(page, bound)
      invariant(version !== undefined, "a page of a segment in the log has a version in it")
      const known = bySegment.get(version.segment)
      if (known === undefined) bySegment.set(version.segment, new Map([[page, version]]))
      else known.set(page, version)
    }
    return bySegment
  }

  /** Forgets the oldest `count` segments; answers the newest version of each of their pages that went. */
  drop(count: number): Map<PageNumber, CommitSeq> {
    const dropped = this.inLog.splice(0, count)
    const bound = dropped.at(-1)?.high
    const gone = new Map<PageNumber, CommitSeq>()
    if (bound === undefined) return gone
    for (const { pages } of dropped) {
      this.records -= pages.length
      for (const page of pages) if (!gone.has(page)) this.dropVersions(page, bound, gone)
    }
    return gone
  }

  private dropVersions(page: PageNumber, bound: CommitSeq, gone: Map<PageNumber, CommitSeq>): void {
    let kept: PageVersion<Segment> | undefined
    let version = this.newest.get(page)
    while (version !== undefined && version.seq > bound) {
      kept = version
      version = version.older
    }
    invariant(version !== undefined, "a page of a segment in the log has a version in it")
    gone.set(page, version.seq)
    if (kept === undefined) this.newest.delete(page)
    else kept.older = undefined
  }
}

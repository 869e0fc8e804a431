/**
 * The memory of the write coordinator: which commit changed a page last. First committer wins is decided here
 * (CO-01, CO-04).
 *
 * **Details**
 *
 * A plain synchronous structure without effects: validating a write set and recording it are two calls of one
 * synchronous step, so nothing can come between them (CO-02).
 *
 * Invariants:
 *
 * 1. A page that was changed by a commit above a snapshot is refused to that snapshot, or the snapshot is below the
 *    floor and everything is refused to it. Nothing else is refused.
 * 2. `floor <= settled <= last`: only what is durable is forgotten, and only what is not yet durable is taken back.
 * 3. Recorded sequences grow. After `retract(s)` the index is as if no sequence from `s` on had ever been recorded.
 * 4. Entries are bounded: at most one per page that changed above the floor, plus as many again (and a constant) that
 *    later commits made stale, plus those that are not yet settled; `maxPages` bounds the pages.
 *
 * Why a ring beside the map: every entry stands in the order of its commit, so forgetting pops from the front,
 * retracting pops from the back, and neither ever scans the map. Sequences are kept as distances from the first floor,
 * because a small integer is cheaper to store and to compare than a `bigint`.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import { type CommitSeq, type PageNumber, toCommitSeq } from "@tidemark/core/Scalars"

/**
 * Why a request cannot commit.
 *
 * @category models
 * @since 0.1.0
 */
export interface IndexConflict {
  /** The highest sequence that stands against the request: of a page of it, or the floor. */
  readonly conflictingSeq: CommitSeq
  /** Ascending, without duplicates. All pages of the request when `belowFloor`: none of them can be cleared. */
  readonly pages: ReadonlyArray<PageNumber>
  /** The snapshot is older than what the index remembers (CO-14). */
  readonly belowFloor: boolean
}

/**
 * Page -> sequence of its last commit, reserved or durable, above a floor.
 *
 * @category models
 * @since 0.1.0
 */
export interface ConflictIndex {
  /** Pages that are remembered. */
  readonly size: number
  /** Ring entries that are held for them: bounded by invariant 4. */
  readonly entries: number
  /** Bytes of the ring that holds them: at most four times what the entries take, 24 bytes each, and 24 KiB at least. */
  readonly ringBytes: number
  /** Snapshots below it are refused. */
  readonly floor: CommitSeq
  /** The highest sequence that was recorded or settled and not taken back. */
  readonly last: CommitSeq
  /** Everything up to here is durable. */
  readonly settled: CommitSeq

  /** The last commit of a page, `undefined` when the index remembers none. */
  readonly lastCommit: (page: PageNumber) => CommitSeq | undefined

  /**
   * Whether a request on these pages that was made at `snapshotHigh` may commit: `undefined` when it may. No pages
   * never conflict.
   */
  readonly validate: (pages: ReadonlyArray<PageNumber>, snapshotHigh: CommitSeq) => IndexConflict | undefined

  /**
   * Which pages above `page` were changed by commits above `snapshotHigh`: what a request conflicts with that cuts the
   * database off behind `page` (PG-11). A snapshot below the floor is for `validate` to refuse. Looks at what was
   * committed after the snapshot, not at what is cut off.
   */
  readonly validateBeyond: (page: number, snapshotHigh: CommitSeq) => IndexConflict | undefined

  /** Reserves pages for the commit `seq`, which is above every sequence so far (a defect otherwise). */
  readonly record: (pages: ReadonlyArray<PageNumber>, seq: CommitSeq) => void

  /** Says that everything up to `seq` is durable, so that it cannot be taken back any more. Lower values are no-ops. */
  readonly settle: (seq: CommitSeq) => void

  /**
   * Takes back every reservation from `fromSeq` on, after a failed append: the pages have the sequences again that
   * they had before (CO-05). Taking back what is settled is a defect.
   */
  readonly retract: (fromSeq: CommitSeq) => void

  /**
   * Drops everything at or below `horizon`, which becomes the floor: the oldest snapshot in use, so no request in use
   * is refused by it (CO-14). A horizon above what is settled is a defect; one below the floor is a no-op.
   */
  readonly forget: (horizon: CommitSeq) => void
}

/**
 * Most pages that an index remembers by default: with 4 KiB pages 16 GiB that changed while one snapshot was held,
 * in about 300 MB of memory.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultMaxPages = 4 * 1024 * 1024

/** Ring entry: distance of the commit f64 @0, distance of the page's commit before it f64 @8, page f64 @16. */
const entryBytes = 24
const previousAt = 8
const pageAt = 16
/** The page had no remembered commit before. */
const none = -1
const smallestCapacity = 1024

const ascending = (a: number, b: number) => a - b

/**
 * Makes an empty index.
 *
 * **Details**
 *
 * `floor` (default 0) is the tip that the log began with: after a take-over, the base of the log, above which its
 * commits are recorded and settled again before the first request is validated (CO-15).
 *
 * `maxPages` (default {@link defaultMaxPages}) bounds the memory when one snapshot is held forever: above it the oldest
 * durable commits are forgotten and the floor rises, which is always correct and may refuse that snapshot its commit.
 *
 * **Example** (First committer wins)
 *
 * ```ts
 * import * as ConflictIndex from "@tidemark/coordinator/ConflictIndex"
 * import { toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
 *
 * const index = ConflictIndex.make()
 * const snapshot = toCommitSeq(0n)
 * index.record([toPageNumber(7)], toCommitSeq(1n))
 *
 * index.validate([toPageNumber(7)], snapshot)?.conflictingSeq // => 1n
 * index.validate([toPageNumber(8)], snapshot) // => undefined
 * index.validate([toPageNumber(7)], toCommitSeq(1n)) // => undefined
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: {
  readonly floor?: CommitSeq | undefined
  readonly maxPages?: number | undefined
}): ConflictIndex => {
  const origin = options?.floor ?? toCommitSeq(0n)
  const maxPages = options?.maxPages ?? defaultMaxPages
  invariant(Number.isSafeInteger(maxPages) && maxPages > 0, "an index has room for at least one page")

  const lastCommits = new Map<PageNumber, number>()
  let floor = 0
  let settled = 0
  let last = 0

  let capacity = smallestCapacity
  let ring = new DataView(new ArrayBuffer(capacity * entryBytes))
  let head = 0
  let count = 0
  /** How many entries, counted from the head, are settled. */
  let settledCount = 0

  const toDistance = (seq: CommitSeq): number => {
    const distance = Number(seq - origin)
    invariant(Number.isSafeInteger(distance), "no index lives through 2^53 sequences")
    return distance
  }
  /** Of the snapshot that was asked about last: many transactions have the same. */
  let snapshotSeq: CommitSeq = origin
  let snapshotDistance = 0
  const toSnapshotDistance = (seq: CommitSeq): number => {
    if (seq !== snapshotSeq) {
      snapshotSeq = seq
      // A snapshot of any distance will do: rounding sets in far below the floor and far above the last commit only.
      snapshotDistance = Number(seq - origin)
    }
    return snapshotDistance
  }
  const toSeq = (distance: number): CommitSeq => toCommitSeq(origin + BigInt(distance))
  // `capacity` is a power of two.
  const offsetOf = (position: number): number => ((head + position) & (capacity - 1)) * entryBytes
  const readPage = (offset: number): PageNumber =>
    // Only `push` writes this field, from a `PageNumber`.
    ring.getFloat64(offset + pageAt, true) as PageNumber

  const push = (distance: number, previous: number, page: PageNumber): void => {
    if (count === capacity) resize(capacity * 2)
    const offset = offsetOf(count)
    ring.setFloat64(offset, distance, true)
    ring.setFloat64(offset + previousAt, previous, true)
    ring.setFloat64(offset + pageAt, page, true)
    count += 1
  }

  const resize = (newCapacity: number): void => {
    const target = new Uint8Array(newCapacity * entryBytes)
    const source = new Uint8Array(ring.buffer)
    const untilEnd = Math.min(count, capacity - head)
    target.set(source.subarray(head * entryBytes, (head + untilEnd) * entryBytes), 0)
    target.set(source.subarray(0, (count - untilEnd) * entryBytes), untilEnd * entryBytes)
    ring = new DataView(target.buffer)
    capacity = newCapacity
    head = 0
  }

  const shrink = (): void => {
    let wanted = capacity
    while (wanted > smallestCapacity && count * 4 < wanted) wanted /= 2
    if (wanted < capacity) resize(wanted)
  }

  /**
   * Drops the settled entries that a later settled commit of the same page made stale. An entry that only unsettled
   * commits cover stays: retracting them brings it back.
   */
  const compact = (): void => {
    const lastSettled = new Map<PageNumber, number>()
    for (let position = settledCount; position < count; position++) {
      const offset = offsetOf(position)
      const page = readPage(offset)
      if (!lastSettled.has(page)) lastSettled.set(page, ring.getFloat64(offset + previousAt, true))
    }
    const bytes = new Uint8Array(ring.buffer)
    let kept = 0
    let keptSettled = 0
    for (let position = 0; position < count; position++) {
      const offset = offsetOf(position)
      const page = readPage(offset)
      const isSettled = position < settledCount
      const isStale = isSettled
        && ring.getFloat64(offset, true) !== (lastSettled.get(page) ?? lastCommits.get(page))
      if (isStale) continue
      if (kept !== position) bytes.copyWithin(offsetOf(kept), offset, offset + entryBytes)
      kept += 1
      if (isSettled) keptSettled += 1
    }
    count = kept
    settledCount = keptSettled
    shrink()
  }

  const dropThrough = (newFloor: number): void => {
    floor = newFloor
    while (settledCount > 0) {
      const offset = offsetOf(0)
      const distance = ring.getFloat64(offset, true)
      if (distance > newFloor) break
      const page = readPage(offset)
      if (lastCommits.get(page) === distance) lastCommits.delete(page)
      head = (head + 1) & (capacity - 1)
      count -= 1
      settledCount -= 1
    }
    shrink()
  }

  const collectConflicts = (pages: ReadonlyArray<PageNumber>, snapshot: number): IndexConflict => {
    const belowFloor = snapshot < floor
    const conflicting = new Set<PageNumber>()
    let highest = belowFloor ? floor : none
    for (const page of pages) {
      const distance = lastCommits.get(page)
      if (distance !== undefined && distance > snapshot) {
        conflicting.add(page)
        if (distance > highest) highest = distance
      } else if (belowFloor) conflicting.add(page)
    }
    return { conflictingSeq: toSeq(highest), pages: Array.from(conflicting).sort(ascending), belowFloor }
  }

  return {
    get size() {
      return lastCommits.size
    },
    get entries() {
      return count
    },
    get ringBytes() {
      return capacity * entryBytes
    },
    get floor() {
      return toSeq(floor)
    },
    get last() {
      return toSeq(last)
    },
    get settled() {
      return toSeq(settled)
    },

    lastCommit(page) {
      const distance = lastCommits.get(page)
      return distance === undefined ? undefined : toSeq(distance)
    },

    validate(pages, snapshotHigh) {
      if (pages.length === 0) return undefined
      const snapshot = toSnapshotDistance(snapshotHigh)
      if (snapshot < floor) return collectConflicts(pages, snapshot)
      for (const page of pages) {
        const distance = lastCommits.get(page)
        if (distance !== undefined && distance > snapshot) return collectConflicts(pages, snapshot)
      }
      return undefined
    },

    validateBeyond(lastPage, snapshotHigh) {
      const snapshot = toSnapshotDistance(snapshotHigh)
      const changed = new Set<PageNumber>()
      let highest = none
      for (let position = count - 1; position >= 0; position--) {
        const offset = offsetOf(position)
        const distance = ring.getFloat64(offset, true)
        if (distance <= snapshot) break
        const page = readPage(offset)
        if (page <= lastPage) continue
        changed.add(page)
        if (distance > highest) highest = distance
      }
      if (changed.size === 0) return undefined
      return { conflictingSeq: toSeq(highest), pages: Array.from(changed).sort(ascending), belowFloor: false }
    },

    record(pages, seq) {
      const distance = toDistance(seq)
      invariant(distance > last, "sequences are recorded in growing order")
      last = distance
      for (const page of pages) {
        push(distance, lastCommits.get(page) ?? none, page)
        lastCommits.set(page, distance)
      }
      if (count >= 2 * (lastCommits.size + count - settledCount) + smallestCapacity) compact()
      while (lastCommits.size > maxPages && settledCount > 0) dropThrough(ring.getFloat64(offsetOf(0), true))
    },

    settle(seq) {
      const distance = toDistance(seq)
      if (distance <= settled) return
      settled = distance
      if (last < distance) last = distance
      while (settledCount < count && ring.getFloat64(offsetOf(settledCount), true) <= distance) settledCount += 1
    },

    retract(fromSeq) {
      const from = toDistance(fromSeq)
      invariant(from > settled, "what is durable is never taken back")
      while (count > settledCount) {
        const offset = offsetOf(count - 1)
        if (ring.getFloat64(offset, true) < from) break
        const page = readPage(offset)
        const previous = ring.getFloat64(offset + previousAt, true)
        // A commit at or below the floor has been forgotten in the meantime and must not come back.
        if (previous > floor) lastCommits.set(page, previous)
        else lastCommits.delete(page)
        count -= 1
      }
      if (last >= from) last = from - 1
      shrink()
    },

    forget(horizon) {
      const distance = toDistance(horizon)
      if (distance <= floor) return
      invariant(distance <= settled, "the horizon is a snapshot in use, and snapshots see only what is durable")
      dropThrough(distance)
    }
  }
}

/**
 * Makes an index from the commits that recovery found in the log, before the first request is validated (CO-15).
 *
 * **Details**
 *
 * `base` is the sequence before the first of them and becomes the floor; `tip` is the last one; `pages` has each page
 * with the sequence of its newest version, in any order. What is recovered is durable.
 *
 * @category constructors
 * @since 0.1.0
 */
export const recovered = (options: {
  readonly base: CommitSeq
  readonly tip: CommitSeq
  readonly pages: Iterable<readonly [PageNumber, CommitSeq]>
  readonly maxPages?: number | undefined
}): ConflictIndex => {
  const index = make({ floor: options.base, maxPages: options.maxPages })
  const pagesOf = new Map<CommitSeq, Array<PageNumber>>()
  for (const [page, seq] of options.pages) {
    invariant(seq > options.base && seq <= options.tip, "recovered commits lie between the log's base and its tip")
    const pages = pagesOf.get(seq)
    if (pages === undefined) pagesOf.set(seq, [page])
    else pages.push(page)
  }
  const seqs = Array.from(pagesOf.keys()).sort((a, b) => (a < b ? -1 : 1))
  for (const seq of seqs) index.record(pagesOf.get(seq) ?? [], seq)
  index.settle(options.tip)
  return index
}

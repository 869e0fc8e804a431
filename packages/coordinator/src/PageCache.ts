/**
 * Recently used versions of pages, in bounded memory (PG-06).
 *
 * **Details**
 *
 * A version is named by its page and by the sequence of the commit that wrote it. Which version a snapshot sees is
 * not decided here: the reader asks the index of the log first, and then the cache for exactly that version. Sequence 0
 * names what the database file holds; when the log starts over, the newest version of each of its pages gets that name
 * (`rebase`).
 *
 * Invariants:
 *
 * 1. `bytes` is the cost of what is held, and never above `maxBytes`.
 * 2. A version that is found is the one that was put last under its name: invalidating and replacing leave no copy.
 * 3. The version that was used longest ago goes first. Every operation takes constant time, but for a page of which many
 *    versions are held.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import { type CommitSeq, type PageNumber, toCommitSeq } from "@tidemark/core/Scalars"
import { copyPage, giveBack } from "./internal/pagePool.ts"

/**
 * A bounded cache of page versions.
 *
 * **Gotchas**
 *
 * What comes out of `get` is the cache's own memory: it is to be copied before the next call, and nobody may write into
 * it. Memory of versions that were let go is used again, for any page that is written.
 *
 * @category models
 * @since 0.1.0
 */
export interface PageCache {
  readonly maxBytes: number
  /** What is held costs this much: its pages, and {@link versionOverheadBytes} for each. */
  readonly bytes: number
  /** Versions that are held. */
  readonly size: number
  /** Calls of `get` so far that found their version, and that did not. */
  readonly hits: number
  readonly misses: number

  /** That version of the page, which is now the one used last; `undefined` when it is not here. Valid until the next call. */
  readonly get: (page: PageNumber, version: CommitSeq) => Uint8Array | undefined

  /**
   * Keeps a copy of a version, in place of what had its name, and lets go of those used longest ago as far as it takes.
   * A page that alone is above `maxBytes` is not kept.
   */
  readonly put: (page: PageNumber, version: CommitSeq, bytes: Uint8Array) => void

  /** {@link PageCache.put} without a copy: the bytes belong to the cache from here on. */
  readonly adopt: (page: PageNumber, version: CommitSeq, bytes: Uint8Array) => void

  /** {@link PageCache.adopt} of a version behind which nobody sees an older one any more: those are dropped. */
  readonly supersede: (page: PageNumber, version: CommitSeq, bytes: Uint8Array) => void

  /**
   * The database file now holds this version of the page, and nobody sees an older one any more: it is named 0 from
   * now on, if it is here, and all others are dropped.
   */
  readonly rebase: (page: PageNumber, version: CommitSeq) => void

  /** Drops all versions of a page. */
  readonly invalidate: (page: PageNumber) => void

  /** Drops everything. */
  readonly clear: () => void
}

/**
 * Bytes that a cache holds by default: 64 MiB.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultMaxBytes = 64 * 1024 * 1024

/**
 * Bytes that a version is counted with beside its page: its entry, its place in the map, and the two objects that a
 * `Uint8Array` is.
 *
 * @category constants
 * @since 0.1.0
 */
export const versionOverheadBytes = 256

/** The name of what the database file holds. */
const base = toCommitSeq(0n)

/**
 * Versions of one page that are held at the most while somebody may see them; the oldest goes first, for any other: the
 * newest, and two before it for transactions that are under way.
 *
 * @category constants
 * @since 0.1.0
 */
export const maxVersionsPerPage = 3

interface Version {
  readonly page: PageNumber
  version: CommitSeq
  bytes: Uint8Array
  /** Towards those used later and earlier; the ring begins and ends in `ends`. */
  later: Version
  earlier: Version
  /** The next older version of the same page that is held. */
  next: Version | undefined
}

const makeEnds = (): Version => {
  // It stands for no page, and it refers to itself, for which it has to be there first: complete two lines down.
  const ends = { page: 0, version: base, bytes: new Uint8Array(0), next: undefined } as Partial<Version> as Version
  ends.later = ends
  ends.earlier = ends
  return ends
}

/**
 * Makes an empty cache of `maxBytes` (default {@link defaultMaxBytes}).
 *
 * **Example** (Keeping a version)
 *
 * ```ts
 * import * as PageCache from "@tidemark/coordinator/PageCache"
 * import { toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
 *
 * const cache = PageCache.make({ maxBytes: 1024 * 1024 })
 * cache.put(toPageNumber(1), toCommitSeq(7n), new Uint8Array(4096).fill(1))
 *
 * cache.get(toPageNumber(1), toCommitSeq(7n))?.[0] // => 1
 * cache.get(toPageNumber(1), toCommitSeq(0n)) // => undefined
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: { readonly maxBytes?: number | undefined }): PageCache => {
  const maxBytes = options?.maxBytes ?? defaultMaxBytes
  invariant(Number.isSafeInteger(maxBytes) && maxBytes >= 0, "the size of a cache is a number of bytes")

  const pages = new Map<PageNumber, Version>()
  const ends = makeEnds()
  let bytes = 0
  let size = 0
  let hits = 0
  let misses = 0

  const costOf = (page: Uint8Array): number => page.byteLength + versionOverheadBytes

  const find = (page: PageNumber, version: CommitSeq): Version | undefined => {
    let found = pages.get(page)
    while (found !== undefined && found.version !== version) found = found.next
    return found
  }

  const unlink = (entry: Version): void => {
    entry.earlier.later = entry.later
    entry.later.earlier = entry.earlier
  }

  const linkAsLatest = (entry: Version): void => {
    const latest = ends.earlier
    entry.earlier = latest
    entry.later = ends
    latest.later = entry
    ends.earlier = entry
  }

  const letGo = (entry: Version): void => {
    unlink(entry)
    bytes -= costOf(entry.bytes)
    size -= 1
    giveBack(entry.bytes)
  }

  const removeFromPage = (entry: Version): void => {
    let before = pages.get(entry.page)
    if (before === entry) {
      if (entry.next === undefined) pages.delete(entry.page)
      else pages.set(entry.page, entry.next)
      return
    }
    while (before !== undefined && before.next !== entry) before = before.next
    invariant(before !== undefined, "a version that is held is in the list of its page")
    before.next = entry.next
  }

  const makeRoom = (): void => {
    while (bytes > maxBytes) {
      const oldest = ends.later
      invariant(oldest !== ends, "an empty cache costs nothing")
      letGo(oldest)
      removeFromPage(oldest)
    }
  }

  /**
   * Takes the oldest version out of the list of a page that has as many as it may, for the next one: versions are found
   * by walking the list, which therefore stays short.
   */
  const takeSurplus = (newest: Version): Version | undefined => {
    let before = newest
    for (let kept = 2; kept < maxVersionsPerPage; kept++) {
      if (before.next === undefined) return undefined
      before = before.next
    }
    const surplus = before.next
    if (surplus === undefined) return undefined
    invariant(surplus.next === undefined, "a page has no more versions than it may")
    before.next = undefined
    letGo(surplus)
    return surplus
  }

  /** Lets go of a version that is in no list any more, and of all behind it. */
  const dropFrom = (first: Version | undefined): void => {
    for (let entry = first; entry !== undefined; entry = entry.next) letGo(entry)
  }

  const dropPage = (page: PageNumber): void => {
    const newest = pages.get(page)
    pages.delete(page)
    dropFrom(newest)
  }

  /** Puts an entry into the list of its page, which stays in order. */
  const insert = (entry: Version, newest: Version | undefined): void => {
    if (newest === undefined || newest.version < entry.version) {
      entry.next = newest
      pages.set(entry.page, entry)
      return
    }
    let before = newest
    while (before.next !== undefined && before.next.version > entry.version) before = before.next
    entry.next = before.next
    before.next = entry
  }

  const add = (page: PageNumber, version: CommitSeq, own: Uint8Array, newest: Version | undefined): void => {
    let entry = newest === undefined ? undefined : takeSurplus(newest)
    if (entry === undefined) entry = { page, version, bytes: own, later: ends, earlier: ends, next: undefined }
    else {
      entry.version = version
      entry.bytes = own
    }
    insert(entry, newest)
    linkAsLatest(entry)
    size += 1
  }

  const renew = (entry: Version, own: Uint8Array): void => {
    bytes -= costOf(entry.bytes)
    giveBack(entry.bytes)
    entry.bytes = own
    unlink(entry)
    linkAsLatest(entry)
  }

  const adopt = (page: PageNumber, version: CommitSeq, own: Uint8Array): void => {
    const newest = pages.get(page)
    // Nearly always it is newer than all that are here.
    const known = newest === undefined || newest.version < version ? undefined : find(page, version)
    if (known === undefined) add(page, version, own, newest)
    else renew(known, own)
    bytes += costOf(own)
    makeRoom()
  }

  const supersede = (page: PageNumber, version: CommitSeq, own: Uint8Array): void => {
    const newest = pages.get(page)
    // One of a later commit is here already.
    if (newest === undefined || newest.version > version) return adopt(page, version, own)
    dropFrom(newest.next)
    newest.next = undefined
    newest.version = version
    renew(newest, own)
    bytes += costOf(own)
    makeRoom()
  }

  return {
    maxBytes,
    get bytes() {
      return bytes
    },
    get size() {
      return size
    },
    get hits() {
      return hits
    },
    get misses() {
      return misses
    },

    get(page, version) {
      const found = find(page, version)
      if (found === undefined) {
        misses += 1
        return undefined
      }
      hits += 1
      if (found.later !== ends) {
        unlink(found)
        linkAsLatest(found)
      }
      return found.bytes
    },

    put(page, version, given) {
      adopt(page, version, copyPage(given))
    },

    adopt,

    supersede,

    rebase(page, version) {
      const kept = find(page, version)
      if (kept === undefined) return dropPage(page)
      for (let entry = pages.get(page); entry !== undefined; entry = entry.next) if (entry !== kept) letGo(entry)
      kept.next = undefined
      kept.version = base
      pages.set(page, kept)
    },

    invalidate: dropPage,

    clear() {
      pages.clear()
      ends.later = ends
      ends.earlier = ends
      bytes = 0
      size = 0
    }
  }
}

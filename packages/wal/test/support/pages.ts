/**
 * Databases that a test can check by eye and that stock SQLite opens: page 1 is that of an empty database, which says
 * how many pages there are, and every other page is filled from its number and the commit that wrote it.
 */
import type { PageSize } from "@tidemark/core/Scalars"
import * as DatabaseHeaderFormat from "../../src/DatabaseHeaderFormat.ts"

/** What a commit leaves: the bytes of each page, by number, and no page behind `databasePages`. */
export interface Version {
  readonly databasePages: number
  readonly pages: ReadonlyMap<number, Uint8Array>
}

/** Page 1 of a database of so many pages, stamped so that each commit's is another one. */
export const page1 = (pageSize: PageSize, databasePages: number, stamp: number): Uint8Array => {
  const bytes = DatabaseHeaderFormat.emptyDatabasePage1(pageSize)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const counter = view.getUint32(24) + stamp
  view.setUint32(24, counter)
  view.setUint32(28, databasePages)
  view.setUint32(92, counter)
  // The user version: SQLite tells it without looking at anything else.
  view.setUint32(60, stamp)
  // Between the header of the empty leaf and its end nothing is used.
  scatter(view, 128, stamp)
  return bytes
}

/** A page that tells who wrote it, and whose every word does, so that a mixture of two versions never looks like one. */
export const filledPage = (pageSize: number, page: number, stamp: number): Uint8Array => {
  const bytes = new Uint8Array(pageSize)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, page)
  view.setUint32(4, stamp)
  scatter(view, 8, page * 0x10001 + stamp)
  return bytes
}

/**
 * Words without a pattern. SQLite's checksum is a sum: 1536 bytes of one repeated word, 0x04000000 for example, can be
 * lost to zeros without changing it.
 */
const scatter = (view: DataView, from: number, seed: number): void => {
  let word = Math.imul(seed + 1, 0x9e3779b1) | 1
  for (let at = from; at < view.byteLength; at += 4) {
    word ^= word << 13
    word ^= word >>> 17
    word ^= word << 5
    view.setInt32(at, word)
  }
}

/**
 * The version that follows when these pages are written and the database has `databasePages` pages afterwards. Page 1
 * and every page that the database grows by are written too, as SQLite does it.
 */
export const nextVersion = (
  before: Version,
  pageSize: PageSize,
  stamp: number,
  touched: Iterable<number>,
  databasePages: number
): { readonly written: ReadonlyMap<number, Uint8Array>; readonly after: Version } => {
  const numbers = new Set<number>()
  for (const page of touched) if (page > 1 && page <= databasePages) numbers.add(page)
  for (let page = before.databasePages + 1; page <= databasePages; page++) numbers.add(page)
  const written = new Map<number, Uint8Array>([[1, page1(pageSize, databasePages, stamp)]])
  for (const page of Array.from(numbers).sort((a, b) => a - b)) written.set(page, filledPage(pageSize, page, stamp))
  const pages = new Map<number, Uint8Array>()
  for (const [page, bytes] of [...before.pages, ...written]) if (page <= databasePages) pages.set(page, bytes)
  return { written, after: { databasePages, pages } }
}

/** What a new database holds. */
export const emptyVersion = (pageSize: PageSize): Version => ({
  databasePages: 1,
  pages: new Map([[1, DatabaseHeaderFormat.emptyDatabasePage1(pageSize)]])
})

export const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0

/** The first page in which a version differs from what is there, or `undefined` when they agree. */
export const firstDifference = (
  version: Version,
  databasePages: number,
  read: (page: number) => Uint8Array | undefined
): string | undefined => {
  if (version.databasePages !== databasePages) {
    return `${databasePages} pages instead of ${version.databasePages}`
  }
  for (const [page, bytes] of version.pages) {
    const found = read(page)
    if (found === undefined || !sameBytes(bytes, found)) {
      return `page ${page} is ${describePage(found)} instead of ${describePage(bytes)}`
    }
  }
  return undefined
}

const describePage = (bytes: Uint8Array | undefined): string =>
  bytes === undefined ? "missing" : Buffer.from(bytes.subarray(0, 12)).toString("hex")

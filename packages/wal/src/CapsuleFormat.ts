/**
 * A commit capsule, byte for byte (section 6.1 of `formats.md`): the pages of one commit in native mode, as a file that
 * is named by the hash of its bytes. All fields are little-endian.
 *
 * **Details**
 *
 * 1. Nobody else knows an offset, a magic number, the name of a file
 *    (`internal/capsuleNames.ts`), or what a hash covers.
 * 2. Header (48 bytes), table (8 bytes a page, page numbers strictly ascending), images in the order of the table,
 *    BLAKE3-256 of everything before (32 bytes). The header alone says how long the file is.
 * 3. Every count is held against its maximum, and against the bytes that are there, before anything rests on it:
 *    {@link decodeHeader} and {@link lengthIssue} decide about a file before memory is taken for it. Reading copies
 *    nothing: images are views of the bytes that were read.
 * 4. A capsule does not say which commit it is: the sequence is assigned after it was written, and stands in the marker
 *    that names the capsule. So equal contents are equal bytes, one id and one file, however often they are written.
 * 5. The digest inside of the file finds damage without knowing the id. The id covers the digest too, and comes from a
 *    marker, so that a whole capsule does not pass for another one.
 *
 * @since 0.1.0
 */
import { FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import { invariant } from "@tidemark/core/Invariant"
import {
  CommitSeq,
  objectIdToHex,
  PageNumber,
  PageSize,
  pageSizes,
  toCommitSeq,
  toObjectId,
  toPageNumber,
  toTxnId,
  TxnToken
} from "@tidemark/core/Scalars"
import type { ObjectId, TxnEpoch } from "@tidemark/core/Scalars"
import { blake3 } from "@tidemark/platform/Checksum"
import * as Hex from "effect/encoding/Hex"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

export { capsulePath, capsulesDirectory, idOfCapsuleName } from "./internal/capsuleNames.ts"

/**
 * Bytes of the header. The table of pages stands behind it.
 *
 * @category constants
 * @since 0.1.0
 */
export const capsuleHeaderBytes = 48

/**
 * The most pages of one capsule (section 9 of the format description: the limit of a native publish).
 *
 * @category constants
 * @since 0.1.0
 */
export const maxCapsulePages = 262_144

/**
 * Bytes of the digest that a publish request carries, BLAKE3-256 of the whole file.
 *
 * @category constants
 * @since 0.1.0
 */
export const capsuleDigestBytes = 32

// Its text "TDMKCAPS", read as a little-endian u64.
const magic = 0x53504143_4b4d4454n
const magicText = "TDMKCAPS"
const version = 1

const offsets = {
  magic: 0,
  version: 8,
  zero: 10,
  pageSize: 12,
  txnId: 16,
  txnEpoch: 24,
  pageCount: 28,
  beginSeq: 32,
  databasePages: 40,
  lastZero: 44
} as const

const tableEntryBytes = 8
const tableEntryOffsets = { page: 0, zero: 4 } as const

/** What the hash that names a capsule begins with, so that no hash of another kind of thing can be one. */
const idDomain = new TextEncoder().encode("fsqlite:ecs:v1")

const maxU64 = 2n ** 64n - 1n

// -- models -----------------------------------------------------------------------------------------------------------

/**
 * What a capsule says beside the images.
 *
 * @category models
 * @since 0.1.0
 */
export interface CapsuleContent {
  readonly token: TxnToken
  /** The sequence of the snapshot that the transaction worked on; its own sequence is above. At most 2^64 - 2. */
  readonly beginSeq: CommitSeq
  /**
   * Size of the database in pages after the commit, when the commit chooses it: no page of the capsule is above it. 0:
   * the larger of the size before and the highest page of the capsule, which a committer cannot know before its turn.
   */
  readonly databasePages: number
  readonly pageSize: PageSize
  /** Strictly ascending, at most {@link maxCapsulePages}. */
  readonly pages: ReadonlyArray<PageNumber>
}

/**
 * A capsule that was read, and found to be whole.
 *
 * @category models
 * @since 0.1.0
 */
export interface Capsule extends CapsuleContent {
  readonly id: ObjectId
  /** BLAKE3-256 of the file: what a publish request carries. */
  readonly digest: Uint8Array
  /** The image of `pages[index]`, a view of the bytes that were decoded. */
  readonly image: (index: number) => Uint8Array
}

/**
 * A capsule as bytes. The parts share memory with nobody.
 *
 * @category models
 * @since 0.1.0
 */
export interface EncodedCapsule {
  /** The whole file. */
  readonly bytes: Uint8Array
  readonly id: ObjectId
  /** BLAKE3-256 of the file: what a publish request carries. */
  readonly digest: Uint8Array
}

// -- sizes ------------------------------------------------------------------------------------------------------------

/**
 * Where the image of the page at `index` of the table starts in the file.
 *
 * @category sizes
 * @since 0.1.0
 */
export const imageOffset = (pageSize: PageSize, pageCount: number, index: number): number =>
  capsuleHeaderBytes + tableEntryBytes * pageCount + pageSize * index

/**
 * Bytes of the file of a capsule.
 *
 * @category sizes
 * @since 0.1.0
 */
export const capsuleBytes = (pageSize: PageSize, pageCount: number): number =>
  imageOffset(pageSize, pageCount, pageCount) + capsuleDigestBytes

/** The highest page that a capsule may hold which says this of the size of the database. */
const highestPage = (databasePages: number): number => databasePages === 0 ? 0xfffffffe : databasePages

// -- writing ----------------------------------------------------------------------------------------------------------

/**
 * The bytes of a capsule, its id and its digest. `image` is asked once for each page, in order; what it answers is copied
 * before it is asked again.
 *
 * **Details**
 *
 * One allocation for the file, one copy of each page, three passes of BLAKE3 (the digest in the file, that of the file,
 * the id). Contents that could not be read again are a defect: the caller has checked them.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (content: CapsuleContent, image: (page: PageNumber) => Uint8Array): EncodedCapsule => {
  const { beginSeq, databasePages, pageSize, pages, token } = content
  const pageCount = pages.length
  invariant(pageCount <= maxCapsulePages, "a capsule has at most 262,144 pages")
  invariant(
    Number.isInteger(databasePages) && databasePages >= 0 && databasePages <= 0xffffffff,
    "the size of a database in pages is a u32"
  )
  invariant(beginSeq < maxU64, "a commit has a sequence above the one it began at")
  const bytes = allocateCapsule(capsuleBytes(pageSize, pageCount))
  const view = viewOf(bytes)
  view.setBigUint64(offsets.magic, magic, true)
  view.setUint16(offsets.version, version, true)
  view.setUint32(offsets.pageSize, pageSize, true)
  view.setBigUint64(offsets.txnId, token.id, true)
  view.setUint32(offsets.txnEpoch, token.epoch, true)
  view.setUint32(offsets.pageCount, pageCount, true)
  view.setBigUint64(offsets.beginSeq, beginSeq, true)
  view.setUint32(offsets.databasePages, databasePages, true)
  let entryAt = capsuleHeaderBytes
  let imageAt = imageOffset(pageSize, pageCount, 0)
  let previous = 0
  for (const page of pages) {
    invariant(
      page > previous && page <= highestPage(databasePages),
      "the pages of a capsule ascend and lie inside of the database"
    )
    const bytesOfPage = image(page)
    invariant(bytesOfPage.length === pageSize, "an image is one page long")
    view.setUint32(entryAt, page, true)
    bytes.set(bytesOfPage, imageAt)
    entryAt += tableEntryBytes
    imageAt += pageSize
    previous = page
  }
  bytes.set(blake3(bytes.subarray(0, imageAt)), imageAt)
  return { bytes, id: capsuleId(bytes), digest: digestOf(bytes) }
}

/**
 * Memory for the file of a capsule, zeros. What is hashed before the file to name it stands in front of this memory, so
 * that {@link capsuleId} and {@link decode} need no second copy of the file for that.
 *
 * @category encoding
 * @since 0.1.0
 */
export const allocateCapsule = (fileBytes: number): Uint8Array => {
  const named = new Uint8Array(idDomain.length + fileBytes)
  named.set(idDomain)
  return named.subarray(idDomain.length)
}

/**
 * The id that the bytes of a file have, whether or not they are a capsule.
 *
 * @category encoding
 * @since 0.1.0
 */
export const capsuleId = (bytes: Uint8Array): ObjectId => toObjectId(firstBytes(blake3(withDomain(bytes)), 16))

/** The bytes with what is hashed before them: in place where it stands there already, wherever they came from. */
const withDomain = (bytes: Uint8Array): Uint8Array => {
  const start = bytes.byteOffset - idDomain.length
  if (start >= 0) {
    const named = new Uint8Array(bytes.buffer, start, idDomain.length + bytes.length)
    if (idDomain.every((byte, index) => named[index] === byte)) return named
  }
  const copied = allocateCapsule(bytes.length)
  copied.set(bytes)
  return withDomain(copied)
}

const digestOf = (bytes: Uint8Array): Uint8Array => firstBytes(blake3(bytes), capsuleDigestBytes)

/** In memory of their own: a hash comes as a `Buffer`, which is more than sixteen bytes of it should hold. */
const firstBytes = (hash: Uint8Array, length: number): Uint8Array => {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = hash[i] ?? 0
  return bytes
}

// -- reading ----------------------------------------------------------------------------------------------------------

/**
 * What the header of a capsule says.
 *
 * @category models
 * @since 0.1.0
 */
export interface CapsuleHeader {
  readonly pageSize: PageSize
  readonly token: TxnToken
  readonly pageCount: number
  readonly beginSeq: CommitSeq
  readonly databasePages: number
}

/**
 * A row of the table, for those who list the pages of a capsule one by one. Either `page` or `issue` is there.
 *
 * @category models
 * @since 0.1.0
 */
export interface CapsuleEntry {
  /** From 0 on. */
  readonly index: number
  /** Where the row stands in the file. */
  readonly offset: number
  /** Where the image starts. */
  readonly imageOffset: number
  readonly page: PageNumber | undefined
  readonly issue: FormatIssue | undefined
}

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const issueOf = (code: string, field: string, offset: number, found: string, expected: string) =>
  new FormatIssue({ format: "commit capsule", code, field, offset, found, expected })

const refuse = (...issue: Parameters<typeof issueOf>) => Result.fail(issueOf(...issue))

const isPageSize = (value: number): value is PageSize => pageSizes.some((size) => size === value)

/** Checked by its type on disk: an epoch of a transaction is any u32. */
const toTxnEpoch = (value: number) => value as TxnEpoch

/**
 * Reads the header from the first 48 bytes (what follows them is ignored).
 *
 * **Details**
 *
 * Codes, in the order of the checks: `TooShort`, `BadMagic`, `UnsupportedVersion`, `NotZero`, `BadPageSize`,
 * `BadTxnId`, `TooManyPages`, `BadBeginSeq` (2^64 - 1, above which no commit can be), `NotZero` (the field at the end).
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeHeader = (bytes: Uint8Array): Result.Result<CapsuleHeader, FormatIssue> => {
  if (bytes.length < capsuleHeaderBytes) {
    return refuse("TooShort", "header", 0, `${bytes.length} bytes`, `${capsuleHeaderBytes} bytes`)
  }
  const view = viewOf(bytes)
  const foundMagic = view.getBigUint64(offsets.magic, true)
  if (foundMagic !== magic) {
    const expected = `0x${magic.toString(16)} (${magicText})`
    return refuse("BadMagic", "magic", offsets.magic, `0x${foundMagic.toString(16)}`, expected)
  }
  const foundVersion = view.getUint16(offsets.version, true)
  if (foundVersion !== version) {
    return refuse("UnsupportedVersion", "version", offsets.version, `${foundVersion}`, `${version}`)
  }
  const zero = view.getUint16(offsets.zero, true)
  if (zero !== 0) return refuse("NotZero", "zero field", offsets.zero, `${zero}`, "0")
  const pageSize = view.getUint32(offsets.pageSize, true)
  if (!isPageSize(pageSize)) {
    return refuse("BadPageSize", "page size", offsets.pageSize, `${pageSize}`, "a power of two, 512 ... 65536")
  }
  const txnId = view.getBigUint64(offsets.txnId, true)
  if (txnId === 0n || txnId >= 2n ** 62n) {
    return refuse("BadTxnId", "transaction id", offsets.txnId, `${txnId}`, "1 ... 2^62 - 1")
  }
  const pageCount = view.getUint32(offsets.pageCount, true)
  if (pageCount > maxCapsulePages) {
    return refuse("TooManyPages", "page count", offsets.pageCount, `${pageCount}`, `at most ${maxCapsulePages}`)
  }
  const beginSeq = view.getBigUint64(offsets.beginSeq, true)
  if (beginSeq === maxU64) {
    return refuse("BadBeginSeq", "begin sequence", offsets.beginSeq, `${beginSeq}`, "at most 2^64 - 2")
  }
  const lastZero = view.getUint32(offsets.lastZero, true)
  if (lastZero !== 0) return refuse("NotZero", "last zero field", offsets.lastZero, `${lastZero}`, "0")
  return Result.succeed({
    pageSize,
    token: { id: toTxnId(txnId), epoch: toTxnEpoch(view.getUint32(offsets.txnEpoch, true)) },
    pageCount,
    beginSeq: toCommitSeq(beginSeq),
    databasePages: view.getUint32(offsets.databasePages, true)
  })
}

/**
 * Why a file of so many bytes is not the one that its header describes, or undefined: code `Truncated` or
 * `BytesBehindDigest`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const lengthIssue = ({ pageCount, pageSize }: CapsuleHeader, fileBytes: number): FormatIssue | undefined => {
  const expected = capsuleBytes(pageSize, pageCount)
  if (fileBytes < expected) {
    return issueOf("Truncated", "end of the file", fileBytes, `${fileBytes} bytes`, `${expected} bytes`)
  }
  if (fileBytes > expected) {
    return issueOf("BytesBehindDigest", "end of the file", expected, `${fileBytes - expected} more bytes`, "none")
  }
  return undefined
}

/**
 * The table of a capsule row by row, as far as it is there. Codes of its issues: `Truncated` (the last row), `NotZero`,
 * `BadPageNumber` (0 or 0xFFFFFFFF), `PageBeyondDatabase`, `PagesNotAscending`. Neither the length of the file nor its
 * digest is looked at ({@link decode} does both).
 *
 * @category decoding
 * @since 0.1.0
 */
export function* entries(bytes: Uint8Array, header: CapsuleHeader): Generator<CapsuleEntry, void> {
  const { databasePages, pageCount, pageSize } = header
  const view = viewOf(bytes)
  let previous = 0
  for (let index = 0; index < pageCount; index++) {
    const offset = capsuleHeaderBytes + tableEntryBytes * index
    const at = { index, offset, imageOffset: imageOffset(pageSize, pageCount, index) }
    if (bytes.length - offset < tableEntryBytes) {
      const found = `${Math.max(0, bytes.length - offset)} bytes`
      const issue = issueOf("Truncated", `row ${index} of the table`, offset, found, `${tableEntryBytes} bytes`)
      yield { ...at, page: undefined, issue }
      return
    }
    const page = view.getUint32(offset + tableEntryOffsets.page, true)
    const zero = view.getUint32(offset + tableEntryOffsets.zero, true)
    const issue = rowIssue(index, offset, page, zero, previous, databasePages)
    yield issue === undefined ? { ...at, page: toPageNumber(page), issue } : { ...at, page: undefined, issue }
    previous = page
  }
}

const rowIssue = (
  index: number,
  offset: number,
  page: number,
  zero: number,
  previous: number,
  databasePages: number
): FormatIssue | undefined => {
  const field = `page number ${index}`
  const at = offset + tableEntryOffsets.page
  if (page === 0 || page === 0xffffffff) return issueOf("BadPageNumber", field, at, `${page}`, "1 ... 0xFFFFFFFE")
  if (page > highestPage(databasePages)) {
    const expected = `at most ${databasePages}, the size of the database`
    return issueOf("PageBeyondDatabase", field, at, `${page}`, expected)
  }
  if (page <= previous) return issueOf("PagesNotAscending", field, at, `${page}`, `more than ${previous}`)
  if (zero === 0) return undefined
  return issueOf("NotZero", `zero field of page ${index}`, offset + tableEntryOffsets.zero, `${zero}`, "0")
}

/**
 * Reads a whole capsule. `idOfName` is the id by which it is known: from a marker, or the name of its file.
 *
 * **Details**
 *
 * Codes, in the order of the checks: those of {@link decodeHeader} and {@link lengthIssue}, `DigestMismatch`, those of
 * {@link entries}, `IdMismatch`. The digest comes before the table, because what stands in damaged bytes means nothing.
 *
 * **Gotchas**
 *
 * The images are views of `bytes`, which must not change as long as they are used.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array, idOfName?: ObjectId): Result.Result<Capsule, FormatIssue> => {
  const decoded = decodeHeader(bytes)
  if (Result.isFailure(decoded)) return Result.fail(decoded.failure)
  const header = decoded.success
  const issue = lengthIssue(header, bytes.length)
  if (issue !== undefined) return Result.fail(issue)
  const digestAt = bytes.length - capsuleDigestBytes
  const stored = Hex.encode(bytes.subarray(digestAt))
  const computed = Hex.encode(blake3(bytes.subarray(0, digestAt)))
  if (stored !== computed) return refuse("DigestMismatch", "BLAKE3", digestAt, stored, computed)

  const pages: Array<PageNumber> = []
  for (const entry of entries(bytes, header)) {
    if (entry.issue !== undefined) return Result.fail(entry.issue)
    invariant(entry.page !== undefined, "a row without an issue has a page")
    pages.push(entry.page)
  }
  const id = capsuleId(bytes)
  if (idOfName !== undefined && objectIdToHex(id) !== objectIdToHex(idOfName)) {
    const expected = `${objectIdToHex(idOfName)}, by which it is known`
    return refuse("IdMismatch", "object id", 0, objectIdToHex(id), expected)
  }
  const { beginSeq, databasePages, pageSize, token } = header
  return Result.succeed({
    token,
    beginSeq,
    databasePages,
    pageSize,
    pages,
    id,
    digest: digestOf(bytes),
    image: (index) => {
      invariant(
        Number.isInteger(index) && index >= 0 && index < pages.length,
        "an image belongs to a page of the table"
      )
      const at = imageOffset(pageSize, pages.length, index)
      return bytes.subarray(at, at + pageSize)
    }
  })
}

// -- schema -----------------------------------------------------------------------------------------------------------

const CapsulePage = Schema.Struct({ page: Schema.toType(PageNumber), image: Schema.Uint8Array })

const isWritable = ({ databasePages, pages, pageSize }: {
  readonly databasePages: number
  readonly pageSize: number
  readonly pages: ReadonlyArray<typeof CapsulePage.Type>
}) => {
  if (pages.length > maxCapsulePages) return false
  let previous = 0
  for (const { image, page } of pages) {
    if (page <= previous || page > highestPage(databasePages) || image.length !== pageSize) return false
    previous = page
  }
  return true
}

/**
 * A capsule as a value without functions: what the codec reads and writes.
 *
 * @category schemas
 * @since 0.1.0
 */
export const CapsuleFields = Schema.Struct({
  token: Schema.toType(TxnToken),
  beginSeq: Schema.toType(CommitSeq).check(Schema.isBetweenBigInt({ minimum: 0n, maximum: maxU64 - 1n })),
  databasePages: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff })),
  pageSize: Schema.toType(PageSize),
  pages: Schema.Array(CapsulePage)
}).check(Schema.makeFilter(isWritable, {
  expected: `at most ${maxCapsulePages} images of one page each, of ascending pages inside of the database`
}))
export type CapsuleFields = typeof CapsuleFields.Type

/**
 * A capsule as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const CapsuleFromBytes: Schema.Codec<CapsuleFields, Uint8Array> = toCodec<CapsuleFields>(CapsuleFields, {
  decode: (bytes) =>
    Result.map(decode(bytes), ({ beginSeq, databasePages, image, pageSize, pages, token }) => ({
      token,
      beginSeq,
      databasePages,
      pageSize,
      pages: pages.map((page, index) => ({ page, image: image(index) }))
    })),
  encode: ({ pages, ...rest }) => {
    const images = new Map(pages.map(({ image, page }) => [page, image]))
    return encode({ ...rest, pages: pages.map(({ page }) => page) }, (page) => {
      const image = images.get(page)
      invariant(image !== undefined, "only the pages of the capsule are asked for")
      return image
    }).bytes
  }
})

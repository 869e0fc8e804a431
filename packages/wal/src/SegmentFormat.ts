/**
 * A segment of the parallel WAL, byte for byte (section 3 of `formats.md`): a header of 24 bytes, then the records of
 * one epoch. All fields are little-endian. Version 2 is written, versions 1 and 2 are read.
 *
 * **Details**
 *
 * 1. Nobody else knows an offset, a magic number, the name of a file (`internal/segmentNames.ts`), or what a checksum
 *    covers.
 * 2. Every length and count is held against the bytes that are there, and against its maximum, before anything rests on
 *    it. Reading copies nothing: images are views of the bytes that were read.
 * 3. Records are written, and handed out, in {@link recoveryOrder}, so that two encoders of the same records make the
 *    same bytes, and the last image of a page is the last one in the file.
 * 4. Every record of a segment carries the epoch of its header, and the name of the file says it a third time: bytes of
 *    another segment never pass for this one's.
 * 5. {@link writeRecord} overwrites every byte of its record.
 * 6. A record of version 1 has no checksum. What is read of one is only as good as the certificate, or the trust, that
 *    stands behind the whole file.
 *
 * @since 0.1.0
 */
import { FormatIssue } from "@tidemark/core/BinaryFormat"
import { invariant } from "@tidemark/core/Invariant"
import { CommitSeq, PageNumber, toCommitSeq, toPageNumber, toTxnId, TxnToken, WalEpoch } from "@tidemark/core/Scalars"
import type { TxnEpoch } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import * as Effect from "effect/Effect"
import type * as Order from "effect/Order"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"
import { crc32cOfRange } from "./internal/segmentChecksum.ts"

export {
  epochOfSegmentName,
  isTemporarySegmentName,
  segmentPath,
  temporarySegmentPath
} from "./internal/segmentNames.ts"

/**
 * Bytes of the header. The first record stands behind it.
 *
 * @category constants
 * @since 0.1.0
 */
export const segmentHeaderBytes = 24

/**
 * The most bytes that an image can have: the largest page.
 *
 * @category constants
 * @since 0.1.0
 */
export const maxImageBytes = 65_536

/**
 * The version that is written.
 *
 * @category constants
 * @since 0.1.0
 */
export const segmentVersion = 2

// Its text "LAWP", read as a little-endian u32.
const magic = 0x5057414c
const headerOffsets = { magic: 0, version: 4, zero: 6, epoch: 8, recordCount: 16, checksum: 20 } as const

const lengthPrefixBytes = 4
const checksumBytes = 4
/** Inside of a record, behind its length prefix. What follows the end flag has no fixed place. */
const recordOffsets = { txnId: 0, txnEpoch: 8, walEpoch: 12, page: 20, begin: 24, endFlag: 32, behindFlag: 33 } as const
const endBytes = 8
const imageLengthBytes = 4
/** 33 + 2 x 4: neither end sequence nor images nor checksum. */
const smallestRecordBytes = recordOffsets.behindFlag + 2 * imageLengthBytes
const largestRecordBytes = smallestRecordBytes + endBytes + 2 * maxImageBytes

const checksumBytesOf = (version: 1 | 2) => version === 1 ? 0 : checksumBytes

// -- models -----------------------------------------------------------------------------------------------------------

const Image = Schema.Uint8Array.check(
  Schema.makeFilter((bytes: Uint8Array) => bytes.length <= maxImageBytes, {
    expected: `at most ${maxImageBytes} bytes`
  })
)

/**
 * One page that a transaction changed.
 *
 * **Details**
 *
 * Records of Tidemark's own have `begin` = `end` = the sequence of the commit and an empty `before`.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentRecord {
  readonly token: TxnToken
  /** The epoch of the segment. */
  readonly walEpoch: WalEpoch
  readonly page: PageNumber
  readonly begin: CommitSeq
  /** Without one the transaction was aborted: the record is listed and never applied. */
  readonly end: CommitSeq | undefined
  /** The page as it was, or nothing. */
  readonly before: Uint8Array
  /** The page as it is from now on. Empty: the record changes nothing. */
  readonly after: Uint8Array
}

/**
 * A segment with its records in {@link recoveryOrder}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Segment {
  readonly version: 1 | 2
  readonly epoch: WalEpoch
  readonly records: ReadonlyArray<SegmentRecord>
}

/**
 * The order of recovery: by epoch, then begin sequence, then transaction id, then page. Records that are equal in all
 * four keep the order in which they were appended.
 *
 * @category ordering
 * @since 0.1.0
 */
export const recoveryOrder: Order.Order<SegmentRecord> = (self, that) => {
  if (self.walEpoch !== that.walEpoch) return self.walEpoch < that.walEpoch ? -1 : 1
  if (self.begin !== that.begin) return self.begin < that.begin ? -1 : 1
  if (self.token.id !== that.token.id) return self.token.id < that.token.id ? -1 : 1
  if (self.page !== that.page) return self.page < that.page ? -1 : 1
  return 0
}

// -- sizes ------------------------------------------------------------------------------------------------------------

/**
 * Bytes of a record of version 2 in the file, its length prefix and its checksum included.
 *
 * @category sizes
 * @since 0.1.0
 */
export const recordBytes = (beforeBytes: number, afterBytes: number, hasEnd: boolean): number =>
  lengthPrefixBytes + smallestRecordBytes + (hasEnd ? endBytes : 0) + beforeBytes + afterBytes + checksumBytes

/**
 * Where the after image starts, from the offset of the record's length prefix on, in either version.
 *
 * @category sizes
 * @since 0.1.0
 */
export const afterImageOffset = (recordOffset: number, beforeBytes: number, hasEnd: boolean): number =>
  recordOffset + lengthPrefixBytes + smallestRecordBytes + (hasEnd ? endBytes : 0) + beforeBytes

/**
 * Bytes of memory that a record counts for in a lane: 48 and both images (section PW of `behaviour.md`).
 *
 * @category sizes
 * @since 0.1.0
 */
export const accountedBytes = (beforeBytes: number, afterBytes: number): number => 48 + beforeBytes + afterBytes

// -- writing ----------------------------------------------------------------------------------------------------------

/**
 * The 24 bytes of the header of a segment, checksum included.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeHeader = (epoch: WalEpoch, recordCount: number): Uint8Array => {
  invariant(
    Number.isInteger(recordCount) && recordCount >= 0 && recordCount <= 0xffffffff,
    "the records of a segment are counted by a u32"
  )
  const bytes = new Uint8Array(segmentHeaderBytes)
  const view = new DataView(bytes.buffer)
  view.setUint32(headerOffsets.magic, magic, true)
  view.setUint16(headerOffsets.version, segmentVersion, true)
  view.setBigUint64(headerOffsets.epoch, epoch, true)
  view.setUint32(headerOffsets.recordCount, recordCount, true)
  view.setUint32(headerOffsets.checksum, crc32c(bytes.subarray(0, headerOffsets.checksum)), true)
  return bytes
}

/**
 * Writes a record of version 2, length prefix included, at `offset`, and answers the offset behind it. `view` must show
 * the same bytes as `target`.
 *
 * **Details**
 *
 * Takes {@link recordBytes} bytes and, below 512 of them, allocates nothing.
 *
 * @category encoding
 * @since 0.1.0
 */
export const writeRecord = (target: Uint8Array, view: DataView, offset: number, record: SegmentRecord): number => {
  const { after, before, end } = record
  invariant(before.length <= maxImageBytes && after.length <= maxImageBytes, "an image has at most 65,536 bytes")
  const start = offset + lengthPrefixBytes
  view.setBigUint64(start + recordOffsets.txnId, record.token.id, true)
  view.setUint32(start + recordOffsets.txnEpoch, record.token.epoch, true)
  view.setBigUint64(start + recordOffsets.walEpoch, record.walEpoch, true)
  view.setUint32(start + recordOffsets.page, record.page, true)
  view.setBigUint64(start + recordOffsets.begin, record.begin, true)
  let at = start + recordOffsets.behindFlag
  if (end === undefined) {
    view.setUint8(start + recordOffsets.endFlag, 0)
  } else {
    view.setUint8(start + recordOffsets.endFlag, 1)
    view.setBigUint64(at, end, true)
    at += endBytes
  }
  at = writeImage(target, view, at, before)
  at = writeImage(target, view, at, after)
  view.setUint32(at, crc32cOfRange(target, view, start, at), true)
  at += checksumBytes
  view.setUint32(offset, at - start, true)
  return at
}

const writeImage = (target: Uint8Array, view: DataView, offset: number, image: Uint8Array): number => {
  view.setUint32(offset, image.length, true)
  if (image.length > 0) target.set(image, offset + imageLengthBytes)
  return offset + imageLengthBytes + image.length
}

/**
 * What the certificate of a segment keeps of its bytes: the CRC-32C of all the checksums stored in it, the header's
 * first, in the order of the file (decision 0011).
 *
 * **Details**
 *
 * Not that of the whole file, which for version 2 would depend on nothing but the lengths of the records: bytes that are
 * followed by their own CRC-32C add nothing to a CRC-32C over both. The records of version 1 have no checksums, so there
 * it is that of the whole file.
 *
 * The buffers, one after the other, are a segment that can be decoded, and each of them begins with the header or with a
 * record.
 *
 * @category encoding
 * @since 0.1.0
 */
export const certifiedChecksum = (buffers: ReadonlyArray<Uint8Array>): number => {
  const [first] = buffers
  invariant(first !== undefined && first.length >= segmentHeaderBytes, "a segment begins with its header")
  const header = viewOf(first)
  if (header.getUint16(headerOffsets.version, true) === 1) {
    return buffers.reduce((checksum, buffer) => crc32c(buffer, checksum), 0)
  }
  const stored = new Uint8Array(checksumBytes * (1 + header.getUint32(headerOffsets.recordCount, true)))
  const target = viewOf(stored)
  target.setUint32(0, header.getUint32(headerOffsets.checksum, true), true)
  let record = 1
  for (const buffer of buffers) {
    const view = viewOf(buffer)
    for (let at = buffer === first ? segmentHeaderBytes : 0; at < buffer.length; record++) {
      at += lengthPrefixBytes + view.getUint32(at, true)
      target.setUint32(checksumBytes * record, view.getUint32(at - checksumBytes, true), true)
    }
  }
  return crc32c(stored)
}

/**
 * The bytes of a whole segment: header, and the records in {@link recoveryOrder}, whatever order they come in.
 *
 * **Details**
 *
 * Refuses what could not be read again (PW-21), with codes `EpochMismatch` (a record of another epoch) and
 * `ImageTooLarge`; `offset` is where the field would have stood.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (
  epoch: WalEpoch,
  records: ReadonlyArray<SegmentRecord>
): Result.Result<Uint8Array, FormatIssue> => {
  const sorted = records.toSorted(recoveryOrder)
  let bytes = segmentHeaderBytes
  for (const [index, record] of sorted.entries()) {
    const refusal = refusalToWrite(record, index, epoch, bytes)
    if (refusal !== undefined) return Result.fail(refusal)
    bytes += recordBytes(record.before.length, record.after.length, record.end !== undefined)
  }
  const target = new Uint8Array(bytes)
  const view = viewOf(target)
  target.set(encodeHeader(epoch, sorted.length))
  let offset = segmentHeaderBytes
  for (const record of sorted) offset = writeRecord(target, view, offset, record)
  invariant(offset === bytes, "a segment is as long as its records")
  return Result.succeed(target)
}

const refusalToWrite = (
  { after, before, end, walEpoch }: SegmentRecord,
  index: number,
  epoch: WalEpoch,
  offset: number
): FormatIssue | undefined => {
  if (walEpoch !== epoch) {
    const at = offset + lengthPrefixBytes + recordOffsets.walEpoch
    return issueOf("EpochMismatch", `WAL epoch of record ${index}`, at, `${walEpoch}`, `${epoch}`)
  }
  const beforeAt = afterImageOffset(offset, 0, end !== undefined) - 2 * imageLengthBytes
  if (before.length > maxImageBytes) return imageTooLarge("before", index, beforeAt, before.length)
  if (after.length > maxImageBytes) {
    return imageTooLarge("after", index, beforeAt + imageLengthBytes + before.length, after.length)
  }
  return undefined
}

// -- reading ----------------------------------------------------------------------------------------------------------

/**
 * What the header of a segment says.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentHeader {
  readonly version: 1 | 2
  readonly epoch: WalEpoch
  readonly recordCount: number
}

/**
 * A record as it stands in the file, for those who list the records of a segment one by one. Either `record` or `issue`
 * is there.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentEntry {
  /** In the order of the file, from 0 on. */
  readonly index: number
  /** Of its length prefix, from the start of the file. */
  readonly offset: number
  /** Where the next one starts. */
  readonly end: number
  readonly record: SegmentRecord | undefined
  readonly issue: FormatIssue | undefined
}

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const hex = (value: number) => `0x${value.toString(16).padStart(8, "0")}`

const issueOf = (code: string, field: string, offset: number, found: string, expected: string) =>
  new FormatIssue({ format: "WAL segment", code, field, offset, found, expected })

const imageTooLarge = (which: "before" | "after", index: number, offset: number, bytes: number) =>
  issueOf(
    "ImageTooLarge",
    `length of the ${which} image of record ${index}`,
    offset,
    `${bytes} bytes`,
    `at most ${maxImageBytes} bytes`
  )

/**
 * Reads the header from the first 24 bytes (what follows them is ignored). `epochOfName` is the epoch that the name of
 * the file says.
 *
 * **Details**
 *
 * Codes, in the order of the checks: `TooShort`, `BadMagic`, `UnsupportedVersion`, `HeaderChecksumMismatch`,
 * `EpochNotOfName`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeHeader = (
  bytes: Uint8Array,
  epochOfName?: WalEpoch
): Result.Result<SegmentHeader, FormatIssue> => {
  if (bytes.length < segmentHeaderBytes) {
    return Result.fail(issueOf("TooShort", "header", 0, `${bytes.length} bytes`, `${segmentHeaderBytes} bytes`))
  }
  const view = viewOf(bytes)
  const foundMagic = view.getUint32(headerOffsets.magic, true)
  if (foundMagic !== magic) {
    return Result.fail(issueOf("BadMagic", "magic", headerOffsets.magic, hex(foundMagic), hex(magic)))
  }
  const version = view.getUint16(headerOffsets.version, true)
  if (version !== 1 && version !== 2) {
    return Result.fail(issueOf("UnsupportedVersion", "version", headerOffsets.version, `${version}`, "1 or 2"))
  }
  const stored = view.getUint32(headerOffsets.checksum, true)
  const computed = crc32c(bytes.subarray(0, headerOffsets.checksum))
  if (stored !== computed) {
    return Result.fail(
      issueOf("HeaderChecksumMismatch", "header CRC-32C", headerOffsets.checksum, hex(stored), hex(computed))
    )
  }
  const epoch = WalEpoch.make(view.getBigUint64(headerOffsets.epoch, true))
  if (epochOfName !== undefined && epoch !== epochOfName) {
    const expected = `${epochOfName}, as the name of the file says`
    return Result.fail(issueOf("EpochNotOfName", "epoch", headerOffsets.epoch, `${epoch}`, expected))
  }
  return Result.succeed({ version, epoch, recordCount: view.getUint32(headerOffsets.recordCount, true) })
}

/**
 * Why a file of so many bytes cannot hold the records that its header counts, or undefined: code `TooManyRecords`, or
 * `BytesBehindRecords` when not even the largest records could fill it.
 *
 * @category decoding
 * @since 0.1.0
 */
export const recordCountIssue = (
  { recordCount, version }: SegmentHeader,
  fileBytes: number
): FormatIssue | undefined => {
  const room = fileBytes - segmentHeaderBytes
  const smallest = lengthPrefixBytes + smallestRecordBytes + checksumBytesOf(version)
  const most = Math.floor(room / smallest)
  if (recordCount > most) {
    const expected = `at most ${most} in ${fileBytes} bytes`
    return issueOf("TooManyRecords", "record count", headerOffsets.recordCount, `${recordCount}`, expected)
  }
  const largest = recordCount * (lengthPrefixBytes + largestRecordBytes + checksumBytesOf(version))
  return room > largest ? bytesBehind(segmentHeaderBytes + largest, fileBytes) : undefined
}

const bytesBehind = (offset: number, fileBytes: number) =>
  issueOf("BytesBehindRecords", "end of the records", offset, `${fileBytes - offset} more bytes`, "the end of the file")

/** Where the record whose length prefix stands at `offset` ends. */
const endOfRecord = (
  view: DataView,
  { version }: SegmentHeader,
  index: number,
  offset: number
): Result.Result<number, FormatIssue> => {
  const field = `length of record ${index}`
  const left = view.byteLength - offset - lengthPrefixBytes
  if (left < 0) {
    const found = `${view.byteLength - offset} bytes`
    return Result.fail(issueOf("Truncated", field, offset, found, `${lengthPrefixBytes} bytes`))
  }
  const length = view.getUint32(offset, true)
  const largest = largestRecordBytes + checksumBytesOf(version)
  if (length > largest) {
    return Result.fail(issueOf("RecordTooLong", field, offset, `${length} bytes`, `at most ${largest} bytes`))
  }
  if (length > left) {
    return Result.fail(issueOf("Truncated", field, offset, `${length} bytes`, `at most the ${left} bytes left`))
  }
  return Result.succeed(offset + lengthPrefixBytes + length)
}

/** Reads the record between its length prefix and `end`, which lies inside of the bytes. */
const readRecord = (
  bytes: Uint8Array,
  view: DataView,
  header: SegmentHeader,
  index: number,
  start: number,
  end: number
): Result.Result<SegmentRecord, FormatIssue> => {
  const refuse = (code: string, field: string, at: number, found: string, expected: string) =>
    Result.fail(issueOf(code, `${field} of record ${index}`, at, found, expected))
  const truncated = (field: string, at: number, expected: number) =>
    refuse("Truncated", field, at, `${Math.max(0, limit - at)} bytes`, `${expected} bytes`)

  const limit = end - checksumBytesOf(header.version)
  if (limit - start < recordOffsets.behindFlag) return truncated("fixed part", start, recordOffsets.behindFlag)
  if (header.version === 2) {
    // First of all: the fields of a record that is damaged mean nothing.
    const stored = view.getUint32(limit, true)
    const computed = crc32cOfRange(bytes, view, start, limit)
    if (stored !== computed) return refuse("RecordChecksumMismatch", "CRC-32C", limit, hex(stored), hex(computed))
  }
  const txnId = view.getBigUint64(start + recordOffsets.txnId, true)
  if (txnId === 0n || txnId >= 2n ** 62n) {
    return refuse("BadTxnId", "transaction id", start + recordOffsets.txnId, `${txnId}`, "1 ... 2^62 - 1")
  }
  const walEpoch = view.getBigUint64(start + recordOffsets.walEpoch, true)
  if (walEpoch !== header.epoch) {
    return refuse("EpochMismatch", "WAL epoch", start + recordOffsets.walEpoch, `${walEpoch}`, `${header.epoch}`)
  }
  const page = view.getUint32(start + recordOffsets.page, true)
  if (page === 0 || page === 0xffffffff) {
    return refuse("BadPageNumber", "page number", start + recordOffsets.page, `${page}`, "1 ... 0xFFFFFFFE")
  }
  const endFlag = view.getUint8(start + recordOffsets.endFlag)
  if (endFlag > 1) return refuse("BadEndFlag", "end flag", start + recordOffsets.endFlag, `${endFlag}`, "0 or 1")

  let at: number = start + recordOffsets.behindFlag
  let endSeq: CommitSeq | undefined
  if (endFlag === 1) {
    if (limit - at < endBytes) return truncated("end sequence", at, endBytes)
    endSeq = toCommitSeq(view.getBigUint64(at, true))
    at += endBytes
  }
  const images: Array<Uint8Array> = []
  for (const which of ["before", "after"] as const) {
    if (limit - at < imageLengthBytes) return truncated(`length of the ${which} image`, at, imageLengthBytes)
    const length = view.getUint32(at, true)
    if (length > maxImageBytes) return Result.fail(imageTooLarge(which, index, at, length))
    at += imageLengthBytes
    if (length > limit - at) return truncated(`${which} image`, at, length)
    images.push(bytes.subarray(at, at + length))
    at += length
  }
  const [before, after] = images
  invariant(before !== undefined && after !== undefined, "a record has two images")
  if (at !== limit) return refuse("BytesInsideRecord", "end", at, `${limit - at} more bytes`, "the end of the record")
  return Result.succeed({
    token: { id: toTxnId(txnId), epoch: toTxnEpoch(view.getUint32(start + recordOffsets.txnEpoch, true)) },
    walEpoch: header.epoch,
    page: toPageNumber(page),
    begin: toCommitSeq(view.getBigUint64(start + recordOffsets.begin, true)),
    end: endSeq,
    before,
    after
  })
}

/** Checked by its type on disk: an epoch of a transaction is any u32. */
const toTxnEpoch = (value: number) => value as TxnEpoch

/**
 * The records of a segment one by one in the order of the file, as far as they can be found: one that is damaged is
 * listed with its issue, and the list goes on behind it as long as its length leads there. Neither what the header says
 * of the whole file is checked, nor bytes behind the last record ({@link decode} does both).
 *
 * @category decoding
 * @since 0.1.0
 */
export function* entries(bytes: Uint8Array, header: SegmentHeader): Generator<SegmentEntry, void> {
  const view = viewOf(bytes)
  let offset = segmentHeaderBytes
  for (let index = 0; index < header.recordCount; index++) {
    const found = endOfRecord(view, header, index, offset)
    if (Result.isFailure(found)) {
      yield { index, offset, end: bytes.length, record: undefined, issue: found.failure }
      return
    }
    const end = found.success
    const read = readRecord(bytes, view, header, index, offset + lengthPrefixBytes, end)
    yield Result.isFailure(read)
      ? { index, offset, end, record: undefined, issue: read.failure }
      : { index, offset, end, record: read.success, issue: undefined }
    offset = end
  }
}

/**
 * The checksum that stands at the end of a record of {@link entries} which could be read, or undefined in version 1,
 * which has none.
 *
 * @category decoding
 * @since 0.1.0
 */
export const storedChecksum = (bytes: Uint8Array, { version }: SegmentHeader, { end }: SegmentEntry) =>
  version === 1 ? undefined : viewOf(bytes).getUint32(end - checksumBytes, true)

/**
 * Reads a whole segment. `epochOfName` is the epoch that the name of the file says. Images are views of `bytes`.
 *
 * **Details**
 *
 * Codes, in the order of the checks: those of {@link decodeHeader} and {@link recordCountIssue}; for each record
 * `Truncated` or `RecordTooLong` (its length), `RecordChecksumMismatch` (version 2), `BadTxnId`, `EpochMismatch`,
 * `BadPageNumber`, `BadEndFlag`, `Truncated` or `ImageTooLarge` (an image), `BytesInsideRecord`; at last
 * `BytesBehindRecords`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array, epochOfName?: WalEpoch): Result.Result<Segment, FormatIssue> => {
  const decoded = decodeHeader(bytes, epochOfName)
  if (Result.isFailure(decoded)) return Result.fail(decoded.failure)
  const header = decoded.success
  const countIssue = recordCountIssue(header, bytes.length)
  if (countIssue !== undefined) return Result.fail(countIssue)

  const records: Array<SegmentRecord> = []
  let isSorted = true
  let last: SegmentRecord | undefined
  let end = segmentHeaderBytes
  for (const entry of entries(bytes, header)) {
    if (entry.issue !== undefined) return Result.fail(entry.issue)
    const { record } = entry
    invariant(record !== undefined, "an entry without an issue has a record")
    isSorted &&= last === undefined || recoveryOrder(last, record) <= 0
    records.push(record)
    last = record
    end = entry.end
  }
  if (end !== bytes.length) return Result.fail(bytesBehind(end, bytes.length))
  const { epoch, version } = header
  return Result.succeed({ version, epoch, records: isSorted ? records : records.toSorted(recoveryOrder) })
}

// -- schema -----------------------------------------------------------------------------------------------------------

const SegmentSchema = Schema.Struct({
  version: Schema.Literals([1, 2]),
  epoch: Schema.toType(WalEpoch),
  records: Schema.Array(Schema.Struct({
    token: Schema.toType(TxnToken),
    walEpoch: Schema.toType(WalEpoch),
    page: Schema.toType(PageNumber),
    begin: Schema.toType(CommitSeq),
    end: Schema.UndefinedOr(Schema.toType(CommitSeq)),
    before: Image,
    after: Image
  }))
})

const encodeSegment = ({ epoch, records, version }: Segment): Result.Result<Uint8Array, FormatIssue> =>
  version === segmentVersion
    ? encode(epoch, records)
    : Result.fail(issueOf("UnsupportedVersion", "version", headerOffsets.version, `${version}`, `${segmentVersion}`))

/**
 * A segment as a codec. Version 1 can be decoded, not encoded; neither can records of different epochs.
 *
 * @category schemas
 * @since 0.1.0
 */
export const SegmentFromBytes: Schema.Codec<Segment, Uint8Array> = Schema.Uint8Array.pipe(Schema.decodeTo(
  SegmentSchema,
  SchemaTransformation.transformEffect<Segment, Uint8Array>({
    decode: (bytes, options) =>
      Effect.mapError(
        Effect.fromResult(decode(bytes)),
        ({ message }) => new SchemaIssue.InvalidValue({ message }, bytes, options)
      ),
    encode: (segment, options) =>
      Effect.mapError(
        Effect.fromResult(encodeSegment(segment)),
        ({ message }) => new SchemaIssue.InvalidValue({ message }, segment, options)
      )
  })
))

/**
 * Shadow compare (PW-30): what the parallel path has made of a batch is held against what a second, simpler path makes
 * of the same records, before anything of it is published.
 *
 * 1. The second path shares no code with `SegmentFormat.ts`. It spells section 3 of `formats.md` once more, one field
 *    behind the other, so that a mistake of one of the two is a difference and not an agreement. That is why offsets
 *    stand here although the format has a module of its own.
 * 2. Two things have to be equal: the bytes of the whole segment, and the last image of each page, as a reader finds
 *    it in the bytes of the parallel path and as it follows from the records alone.
 * 3. Nothing that is found in the bytes is trusted: a length that leads out of them is a difference, not an exception.
 *
 * It runs for a sample of the batches only, so the clearest code was taken, not the fastest.
 */
import { FormatIssue } from "@tidemark/core/BinaryFormat"
import { invariant } from "@tidemark/core/Invariant"
import type { WalEpoch } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import type { ParallelWalMode } from "../ParallelWalControl.ts"
import type { SegmentRecord } from "../SegmentFormat.ts"

/** Batches after which the sample of mode `auto` starts again. */
const samplePeriod = 1000

/**
 * Whether batch `batchOrdinal` (from 1) is checked. `mode` is the one that the interval works in, the fallback counted.
 *
 * @internal
 */
export const isSampled = (mode: ParallelWalMode, batchOrdinal: number, perMille: number): boolean => {
  invariant(batchOrdinal >= 1, "batches are counted from 1")
  switch (mode) {
    case "shadow_compare":
      return true
    case "conservative":
      return false
    case "auto":
      return (batchOrdinal - 1) % samplePeriod < perMille
  }
}

/** In the order of recovery: by begin sequence, transaction id, page; what is equal stays as it came. */
const inCommitOrder = (records: ReadonlyArray<SegmentRecord>): ReadonlyArray<SegmentRecord> =>
  records.map((record, index) => ({ record, index })).sort((a, b) => {
    const [left, right] = [a.record, b.record]
    if (left.begin !== right.begin) return left.begin < right.begin ? -1 : 1
    if (left.token.id !== right.token.id) return left.token.id < right.token.id ? -1 : 1
    return left.page - right.page || a.index - b.index
  }).map(({ record }) => record)

/**
 * The bytes of a version 2 segment, made in one straight line.
 *
 * @internal
 */
export const encodeConservatively = (epoch: WalEpoch, records: ReadonlyArray<SegmentRecord>): Uint8Array => {
  const ordered = inCommitOrder(records)
  let size = 24
  for (const record of ordered) {
    size += 4 + 8 + 4 + 8 + 4 + 8 + 1 + (record.end === undefined ? 0 : 8) + 4 + record.before.length + 4 +
      record.after.length + 4
  }
  const bytes = new Uint8Array(size)
  const view = new DataView(bytes.buffer)
  let at = 0
  const u8 = (value: number) => {
    view.setUint8(at, value)
    at += 1
  }
  const u16 = (value: number) => {
    view.setUint16(at, value, true)
    at += 2
  }
  const u32 = (value: number) => {
    view.setUint32(at, value, true)
    at += 4
  }
  const u64 = (value: bigint) => {
    view.setBigUint64(at, value, true)
    at += 8
  }
  const image = (value: Uint8Array) => {
    u32(value.length)
    bytes.set(value, at)
    at += value.length
  }

  u32(0x5057414c)
  u16(2)
  u16(0)
  u64(epoch)
  u32(ordered.length)
  u32(crc32c(bytes.subarray(0, at)))
  for (const record of ordered) {
    const lengthAt = at
    u32(0)
    const start = at
    u64(record.token.id)
    u32(record.token.epoch)
    u64(record.walEpoch)
    u32(record.page)
    u64(record.begin)
    u8(record.end === undefined ? 0 : 1)
    if (record.end !== undefined) u64(record.end)
    image(record.before)
    image(record.after)
    u32(crc32c(bytes.subarray(start, at)))
    view.setUint32(lengthAt, at - start, true)
  }
  invariant(at === size, "a segment is as long as its fields")
  return bytes
}

/** The last image of each page as it follows from the records: a later commit wins the page. */
const lastImagesOfRecords = (records: ReadonlyArray<SegmentRecord>): Map<number, Uint8Array> => {
  const images = new Map<number, Uint8Array>()
  for (const { after, end, page } of inCommitOrder(records)) {
    if (end !== undefined && after.length > 0) images.set(page, after)
  }
  return images
}

/** The last image of each page as a reader finds it, or the byte at which reading cannot go on. */
const lastImagesOfBytes = (bytes: Uint8Array): Map<number, Uint8Array> | number => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const images = new Map<number, Uint8Array>()
  if (bytes.length < 24) return bytes.length
  const recordCount = view.getUint32(16, true)
  let at = 24
  for (let index = 0; index < recordCount; index++) {
    if (at + 4 > bytes.length) return at
    const end = at + 4 + view.getUint32(at, true)
    // Up to the end flag a record has 33 bytes; behind it come at least two lengths and the checksum.
    if (end > bytes.length || end - at - 4 < 45) return at
    const page = view.getUint32(at + 4 + 20, true)
    const hasEnd = view.getUint8(at + 4 + 32) === 1
    let imageAt = at + 4 + 33 + (hasEnd ? 8 : 0)
    imageAt += 4 + view.getUint32(imageAt, true)
    if (imageAt + 4 > end) return at
    const length = view.getUint32(imageAt, true)
    if (imageAt + 4 + length + 4 !== end) return at
    if (hasEnd && length > 0) images.set(page, bytes.subarray(imageAt + 4, imageAt + 4 + length))
    at = end
  }
  return at === bytes.length ? images : at
}

/** The first byte in which the two differ, or undefined when they are equal. */
const firstDifference = (left: Uint8Array, right: Uint8Array): number | undefined => {
  const common = Math.min(left.length, right.length)
  for (let at = 0; at < common; at++) if (left[at] !== right[at]) return at
  return left.length === right.length ? undefined : common
}

const joined = (parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

const byteAt = (bytes: Uint8Array, at: number): string => {
  const byte = bytes[at]
  return byte === undefined ? `the end (${bytes.length} bytes)` : `0x${byte.toString(16).padStart(2, "0")}`
}

const difference = (code: string, field: string, offset: number, found: string, expected: string) => ({
  difference: new FormatIssue({ format: "shadow compare", code, field, offset, found, expected })
})

/**
 * Holds the buffers of a whole segment, header included, in the order in which they would be written, against the
 * records of its batches. `found` in the difference is what the parallel path has.
 *
 * **Details**
 *
 * The codes are `BytesDiffer`, `Unreadable`, `PageMissing`, `PageInvented` and `ImageDiffers`; `offset` is a byte of
 * the segment, or of the image where a page is named.
 *
 * @internal
 */
export const compare = (
  parallelBytes: ReadonlyArray<Uint8Array>,
  records: ReadonlyArray<SegmentRecord>,
  epoch: WalEpoch
): "clean" | { readonly difference: FormatIssue } => {
  const parallel = joined(parallelBytes)
  const conservative = encodeConservatively(epoch, records)
  const at = firstDifference(parallel, conservative)
  if (at !== undefined) {
    return difference("BytesDiffer", "segment", at, byteAt(parallel, at), byteAt(conservative, at))
  }
  return compareImages(parallel, records)
}

/**
 * The second half of {@link compare}: only the last image of each page.
 *
 * @internal
 */
export const compareImages = (
  parallel: Uint8Array,
  records: ReadonlyArray<SegmentRecord>
): "clean" | { readonly difference: FormatIssue } => {
  const found = lastImagesOfBytes(parallel)
  if (typeof found === "number") return difference("Unreadable", "record", found, "no record", "a record")
  const expected = lastImagesOfRecords(records)
  for (const [page, image] of expected) {
    const actual = found.get(page)
    if (actual === undefined) return difference("PageMissing", `page ${page}`, 0, "no image", "an image")
    const at = firstDifference(actual, image)
    if (at !== undefined) {
      return difference("ImageDiffers", `page ${page}`, at, byteAt(actual, at), byteAt(image, at))
    }
  }
  for (const page of found.keys()) {
    if (!expected.has(page)) return difference("PageInvented", `page ${page}`, 0, "an image", "no image")
  }
  return "clean"
}

/**
 * The commit marker stream (section 6 of `formats.md`): one record of 88 bytes for each commit of a native database, in
 * segment files of a million records each, all little-endian. A segment begins with a header of 36 bytes.
 *
 * **Details**
 *
 * 1. Slot i of a segment holds the sequence start + i, so that a sequence is found without searching.
 * 2. Each record names the one before it by its id, the first 16 bytes of a BLAKE3 hash: the stream is a chain, and who
 *    knows the last id knows that nothing before it was changed.
 * 3. A record is checked in three steps: alone (`RecordTooShort`, `RecordChecksumMismatch`, `MarkerIdMismatch`), as the
 *    successor of the one before it (`ChainBroken`), in its slot (`CommitSeqMismatch`).
 * 4. The commit time never falls. A record whose time does is no successor of the one before it (`ChainBroken`).
 * 5. The first record of a stream is a genesis record, which is no commit: its capsule and its proof are zeros. So is the
 *    first record of a segment that does not go on where the one before it ended, because a log of another kind has
 *    used the sequences in between. A genesis record stands in slot 0 only.
 *
 * What a stream of several files amounts to, and which part of it counts after a crash, is the business of
 * `MarkerStore.ts`.
 *
 * @since 0.1.0
 */
import { FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import { invariant } from "@tidemark/core/Invariant"
import type { ObjectId } from "@tidemark/core/Scalars"
import * as Scalars from "@tidemark/core/Scalars"
import { CommitSeq, toCommitSeq, toObjectId } from "@tidemark/core/Scalars"
import { xxh3 } from "@tidemark/platform/Checksum"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { blake3Short } from "./internal/blake3Short.ts"
import { markerBytes, markerSegmentHeaderBytes, markersPerSegment } from "./internal/markerNames.ts"

export * from "./internal/markerNames.ts"

const headerFormat = "marker segment header"
const recordFormat = "commit marker"

/** The text "FSMK", read as a little-endian u32. */
const magic = 0x4b4d5346
const version = 1
const idBytes = 16

const headerOffsets = { magic: 0, version: 4, segmentId: 8, start: 16, recordBytes: 24, checksum: 28 } as const
const offsets = { seq: 0, time: 8, capsule: 16, proof: 32, previous: 48, id: 64, checksum: 80 } as const

const maxU64 = 2n ** 64n - 1n
const U64 = Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 0n, maximum: maxU64 }))
const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
const hex64 = (value: bigint) => `0x${value.toString(16).padStart(16, "0")}`
const hexOf = (bytes: Uint8Array) => Scalars.objectIdToHex(toObjectId(bytes))

// -- the header -------------------------------------------------------------------------------------------------------

/**
 * What the header of a segment says.
 *
 * @category models
 * @since 0.1.0
 */
export const MarkerSegmentHeader = Schema.Struct({
  /** The number in the name of the file. */
  segmentId: U64,
  /** The sequence of slot 0. */
  start: Schema.toType(CommitSeq)
})
export type MarkerSegmentHeader = typeof MarkerSegmentHeader.Type

/**
 * Reads the header of a segment from the front of its file.
 *
 * **Details**
 *
 * Codes, in the order of the checks: `HeaderTooShort`, `BadMagic`, `UnsupportedVersion`, `RecordSizeMismatch`,
 * `HeaderChecksumMismatch`. Whether it is the header of that very file is for {@link headerPlaceIssue}.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeHeader = (bytes: Uint8Array): Result.Result<MarkerSegmentHeader, FormatIssue> => {
  const refuse = (code: string, field: string, offset: number, found: string, expected: string) =>
    Result.fail(new FormatIssue({ format: headerFormat, code, field, offset, found, expected }))
  if (bytes.length < markerSegmentHeaderBytes) {
    return refuse("HeaderTooShort", "length", 0, `${bytes.length} bytes`, `${markerSegmentHeaderBytes} bytes`)
  }
  const view = viewOf(bytes)
  const foundMagic = view.getUint32(headerOffsets.magic, true)
  if (foundMagic !== magic) {
    const expected = `0x${magic.toString(16)} (FSMK)`
    return refuse("BadMagic", "magic", headerOffsets.magic, `0x${foundMagic.toString(16).padStart(8, "0")}`, expected)
  }
  const foundVersion = view.getUint32(headerOffsets.version, true)
  if (foundVersion !== version) {
    return refuse("UnsupportedVersion", "version", headerOffsets.version, `${foundVersion}`, `${version}`)
  }
  const recordBytes = view.getUint32(headerOffsets.recordBytes, true)
  if (recordBytes !== markerBytes) {
    return refuse("RecordSizeMismatch", "record size", headerOffsets.recordBytes, `${recordBytes}`, `${markerBytes}`)
  }
  const stored = view.getBigUint64(headerOffsets.checksum, true)
  const computed = xxh3(bytes.subarray(0, headerOffsets.checksum))
  if (stored !== computed) {
    return refuse("HeaderChecksumMismatch", "XXH3-64", headerOffsets.checksum, hex64(stored), hex64(computed))
  }
  return Result.succeed({
    segmentId: view.getBigUint64(headerOffsets.segmentId, true),
    start: toCommitSeq(view.getBigUint64(headerOffsets.start, true))
  })
}

/**
 * What is wrong with a header in the file of segment `id` (`CommitSeqMismatch`): it says another id, or a start that is
 * not the one of its id.
 *
 * @category decoding
 * @since 0.1.0
 */
export const headerPlaceIssue = (
  header: MarkerSegmentHeader,
  id: bigint,
  perSegment: number = markersPerSegment
): FormatIssue | undefined => {
  const refuse = (field: string, offset: number, found: bigint, expected: bigint) =>
    new FormatIssue({
      format: headerFormat,
      code: "CommitSeqMismatch",
      field,
      offset,
      found: `${found}`,
      expected: `${expected}`
    })
  if (header.segmentId !== id) return refuse("segment id", headerOffsets.segmentId, header.segmentId, id)
  const start = id * BigInt(perSegment)
  return header.start === start ? undefined : refuse("start", headerOffsets.start, header.start, start)
}

/**
 * The 36 bytes of a header, checksum included.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeHeader = (header: MarkerSegmentHeader): Uint8Array => {
  const bytes = new Uint8Array(markerSegmentHeaderBytes)
  const view = viewOf(bytes)
  view.setUint32(headerOffsets.magic, magic, true)
  view.setUint32(headerOffsets.version, version, true)
  view.setBigUint64(headerOffsets.segmentId, header.segmentId, true)
  view.setBigUint64(headerOffsets.start, header.start, true)
  view.setUint32(headerOffsets.recordBytes, markerBytes, true)
  view.setBigUint64(headerOffsets.checksum, xxh3(bytes.subarray(0, headerOffsets.checksum)), true)
  return bytes
}

const decodeHeaderAlone = (bytes: Uint8Array): Result.Result<MarkerSegmentHeader, FormatIssue> =>
  bytes.length > markerSegmentHeaderBytes
    ? Result.fail(tooLong(headerFormat, bytes.length, markerSegmentHeaderBytes))
    : decodeHeader(bytes)

const tooLong = (format: string, found: number, expected: number) =>
  new FormatIssue({
    format,
    code: "TooLong",
    field: "length",
    offset: expected,
    found: `${found} bytes`,
    expected: `${expected} bytes`
  })

/**
 * The header of a segment as a codec of its bytes alone.
 *
 * @category schemas
 * @since 0.1.0
 */
export const MarkerSegmentHeaderFromBytes: Schema.Codec<MarkerSegmentHeader, Uint8Array> = toCodec<
  MarkerSegmentHeader
>(MarkerSegmentHeader, { decode: decodeHeaderAlone, encode: encodeHeader })

// -- records ----------------------------------------------------------------------------------------------------------

/**
 * A record of the stream.
 *
 * @category models
 * @since 0.1.0
 */
export const Marker = Schema.Struct({
  seq: Schema.toType(CommitSeq),
  /** When it was committed, nanoseconds since 1970. Commits of one batch may have the same time. */
  timeUnixNanos: U64,
  /** What was committed. Zeros: nothing, see {@link isGenesis}. */
  capsule: Schema.toType(Scalars.ObjectId),
  /** Zeros: there is no proof object. */
  proof: Schema.toType(Scalars.ObjectId),
  /** The id of the record before it. Zeros: there is none. */
  previous: Schema.toType(Scalars.ObjectId),
  id: Schema.toType(Scalars.ObjectId)
})
export type Marker = typeof Marker.Type

/**
 * Zeros where an object id is meant: no object.
 *
 * @category constants
 * @since 0.1.0
 */
export const noObject: ObjectId = toObjectId(new Uint8Array(idBytes))

/**
 * Whether an object id is {@link noObject}.
 *
 * @category predicates
 * @since 0.1.0
 */
export const isNoObject = (id: ObjectId): boolean => id.every((byte) => byte === 0)

/**
 * Whether a record is no commit but begins a stream, or a part of it that does not go on where the one before it ended:
 * it names no capsule.
 *
 * @category predicates
 * @since 0.1.0
 */
export const isGenesis = (marker: Marker): boolean => isNoObject(marker.capsule)

const idPrefix = new TextEncoder().encode("fsqlite:marker:v1")
/** What is hashed: used within one step. */
const idInput = new Uint8Array(idPrefix.length + offsets.id)
idInput.set(idPrefix)

/**
 * The id of the record whose first 64 bytes stand at `offset`: the first 16 bytes of BLAKE3 of `fsqlite:marker:v1` and
 * those bytes.
 *
 * @category checksums
 * @since 0.1.0
 */
export const markerId = (bytes: Uint8Array, offset: number = 0): ObjectId => {
  idInput.set(bytes.subarray(offset, offset + offsets.id), idPrefix.length)
  const id = new Uint8Array(idBytes)
  blake3Short(idInput, id)
  return toObjectId(id)
}

/**
 * What is wrong with the record at `offset`, looked at alone: `RecordTooShort`, `RecordChecksumMismatch`,
 * `MarkerIdMismatch`, in the order of the checks. `undefined`: nothing. `view` is over the same bytes; offsets in issues
 * count from `base`, which is where `bytes` stand in their file.
 *
 * @category decoding
 * @since 0.1.0
 */
export const recordIssue = (
  bytes: Uint8Array,
  view: DataView,
  offset: number,
  base: number = 0
): FormatIssue | undefined => {
  const refuse = (code: string, field: string, at: number, found: string, expected: string) =>
    new FormatIssue({ format: recordFormat, code, field, offset: base + offset + at, found, expected })
  if (bytes.length - offset < markerBytes) {
    return refuse("RecordTooShort", "length", 0, `${bytes.length - offset} bytes`, `${markerBytes} bytes`)
  }
  const stored = view.getBigUint64(offset + offsets.checksum, true)
  const computed = xxh3(bytes.subarray(offset, offset + offsets.checksum))
  if (stored !== computed) {
    return refuse("RecordChecksumMismatch", "XXH3-64", offsets.checksum, hex64(stored), hex64(computed))
  }
  const id = markerId(bytes, offset)
  for (let i = 0; i < idBytes; i++) {
    if (id[i] !== view.getUint8(offset + offsets.id + i)) {
      const found = bytes.subarray(offset + offsets.id, offset + offsets.id + idBytes)
      return refuse("MarkerIdMismatch", "marker id", offsets.id, hexOf(found), hexOf(id))
    }
  }
  return undefined
}

/**
 * What a record has to be, where it stands.
 *
 * @category models
 * @since 0.1.0
 */
export interface MarkerPlace {
  /** The sequence of its slot. */
  readonly seq: CommitSeq
  /**
   * The record before it in the stream: its id and its time. `"none"`: there is none. `"unknown"`: there is one that was
   * not read.
   */
  readonly before: Pick<Marker, "id" | "timeUnixNanos"> | "none" | "unknown"
  /** Whether it has to be a genesis record, must not be one, or may be one. */
  readonly genesis: "required" | "forbidden" | "allowed"
}

/**
 * What is wrong with a record where it stands: `ChainBroken` (the id of another record before it, a time before that
 * record's, a genesis record where none belongs, or none where one belongs), `CommitSeqMismatch` (the sequence of another
 * slot). `offset` is where the record begins, for the issue.
 *
 * @category decoding
 * @since 0.1.0
 */
export const placeIssue = (marker: Marker, place: MarkerPlace, offset: number): FormatIssue | undefined => {
  const refuse = (code: string, field: string, at: number, found: string, expected: string) =>
    new FormatIssue({ format: recordFormat, code, field, offset: offset + at, found, expected })
  const { before, genesis, seq } = place
  if (before !== "unknown") {
    const previous = before === "none" ? noObject : before.id
    if (Scalars.ObjectIdOrder(marker.previous, previous) !== 0) {
      return refuse("ChainBroken", "previous marker id", offsets.previous, hexOf(marker.previous), hexOf(previous))
    }
    if (before !== "none" && marker.timeUnixNanos < before.timeUnixNanos) {
      const expected = `at least ${before.timeUnixNanos}`
      return refuse("ChainBroken", "commit time", offsets.time, `${marker.timeUnixNanos}`, expected)
    }
  }
  if (isGenesis(marker)) {
    if (genesis === "forbidden") {
      return refuse(
        "ChainBroken",
        "capsule object id",
        offsets.capsule,
        "zeros",
        "a capsule: a genesis record has slot 0"
      )
    }
    if (!isNoObject(marker.proof)) {
      return refuse("ChainBroken", "proof object id", offsets.proof, hexOf(marker.proof), "zeros in a genesis record")
    }
  } else if (genesis === "required") {
    const expected = "zeros: a genesis record begins the stream"
    return refuse("ChainBroken", "capsule object id", offsets.capsule, hexOf(marker.capsule), expected)
  }
  return marker.seq === seq
    ? undefined
    : refuse("CommitSeqMismatch", "commit sequence", offsets.seq, `${marker.seq}`, `${seq}`)
}

/**
 * The fields of the record at `offset`, unchecked and copied: for bytes that {@link recordIssue} has found right. Offsets
 * must lie inside of the bytes.
 *
 * @category decoding
 * @since 0.1.0
 */
export const markerAt = (bytes: Uint8Array, view: DataView, offset: number): Marker => {
  const ids = new Uint8Array(4 * idBytes)
  ids.set(bytes.subarray(offset + offsets.capsule, offset + offsets.capsule + ids.length))
  const idAt = (at: number) => toObjectId(ids.subarray(at - offsets.capsule, at - offsets.capsule + idBytes))
  return {
    seq: toCommitSeq(view.getBigUint64(offset + offsets.seq, true)),
    timeUnixNanos: view.getBigUint64(offset + offsets.time, true),
    capsule: idAt(offsets.capsule),
    proof: idAt(offsets.proof),
    previous: idAt(offsets.previous),
    id: idAt(offsets.id)
  }
}

/**
 * Whether the record at `offset` is a commit that follows the record at `beforeOffset` of `before`, and has the sequence
 * `seq`: for walks over many records, without making a {@link Marker} of each. Where it says no {@link placeIssue} tells
 * why, and what of a genesis record.
 *
 * @category decoding
 * @since 0.1.0
 */
export const isPlainSuccessor = (
  view: DataView,
  offset: number,
  before: DataView,
  beforeOffset: number,
  seq: CommitSeq
): boolean => {
  let capsule = 0
  for (let i = 0; i < idBytes; i += 4) {
    const previous = view.getUint32(offset + offsets.previous + i)
    if (previous !== before.getUint32(beforeOffset + offsets.id + i)) return false
    capsule |= view.getUint32(offset + offsets.capsule + i)
  }
  return capsule !== 0 &&
    view.getBigUint64(offset + offsets.time, true) >= before.getBigUint64(beforeOffset + offsets.time, true) &&
    view.getBigUint64(offset + offsets.seq, true) === seq
}

/**
 * Reads the record at `offset`, looked at alone: {@link recordIssue}.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeMarker = (bytes: Uint8Array, offset: number = 0): Result.Result<Marker, FormatIssue> => {
  const view = viewOf(bytes)
  const issue = recordIssue(bytes, view, offset)
  return issue === undefined ? Result.succeed(markerAt(bytes, view, offset)) : Result.fail(issue)
}

/**
 * Writes a record into `target` at `offset` and answers its id. `view` is over the same bytes. Makes nothing but the id.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeMarkerInto = (
  target: Uint8Array,
  view: DataView,
  offset: number,
  marker: Omit<Marker, "id">
): ObjectId => {
  view.setBigUint64(offset + offsets.seq, marker.seq, true)
  view.setBigUint64(offset + offsets.time, marker.timeUnixNanos, true)
  target.set(marker.capsule, offset + offsets.capsule)
  target.set(marker.proof, offset + offsets.proof)
  target.set(marker.previous, offset + offsets.previous)
  const id = markerId(target, offset)
  target.set(id, offset + offsets.id)
  view.setBigUint64(offset + offsets.checksum, xxh3(target.subarray(offset, offset + offsets.checksum)), true)
  return id
}

/**
 * The 88 bytes of a record. A marker whose id is not that of its bytes is a defect.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeMarker = (marker: Marker): Uint8Array => {
  const bytes = new Uint8Array(markerBytes)
  const id = encodeMarkerInto(bytes, viewOf(bytes), 0, marker)
  invariant(Scalars.ObjectIdOrder(id, marker.id) === 0, "a marker carries the id of its own bytes")
  return bytes
}

/**
 * A record as a codec of its bytes alone.
 *
 * @category schemas
 * @since 0.1.0
 */
export const MarkerFromBytes: Schema.Codec<Marker, Uint8Array> = toCodec<Marker>(Marker, {
  decode: (bytes) =>
    bytes.length > markerBytes
      ? Result.fail(tooLong(recordFormat, bytes.length, markerBytes))
      : decodeMarker(bytes),
  encode: encodeMarker
})

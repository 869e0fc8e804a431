/**
 * The files of an append log, byte for byte (section 5 of `formats.md`): a segment is a header of 64 bytes, then frames.
 * All fields are little-endian.
 *
 * **Details**
 *
 * 1. Nobody else knows an offset, a magic number, a name of a file, or what a checksum covers.
 * 2. Every frame starts at a multiple of 8 and is a multiple of 8 bytes long, in the file and in LSNs alike: the offset
 *    of an LSN is {@link offsetOf}, nothing else (LOG-02).
 * 3. The checksum of a batch starts with the log id and the LSN of the batch, so that bytes of another log, or of
 *    another place of this one (a recycled file), never check.
 * 4. The flag of a commit frame stands outside of its checksum. It says nothing about its own batch, only that whatever
 *    lies before the batch was on the disk before the batch was written.
 * 5. The writers ({@link writeRecordFrame} and its like) allocate nothing and overwrite every byte of their frame.
 *
 * @since 0.1.0
 */
import { FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import { invariant } from "@tidemark/core/Invariant"
import { Lsn, toLsn } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { FixedRecord } from "./internal/fixedRecord.ts"
import { encodeFixed, fixedIssue, openFixed } from "./internal/fixedRecord.ts"
import { firstNonZero } from "./internal/zeros.ts"

/**
 * Bytes of the header of a segment. The first frame stands behind it.
 *
 * @category constants
 * @since 0.1.0
 */
export const segmentHeaderBytes = 64

/**
 * Bytes of the head of a frame, in front of its body.
 *
 * @category constants
 * @since 0.1.0
 */
export const frameHeadBytes = 8

/**
 * Bytes of a commit frame, head and body.
 *
 * @category constants
 * @since 0.1.0
 */
export const commitFrameBytes = 16

/**
 * Every frame starts at a multiple of so many bytes.
 *
 * @category constants
 * @since 0.1.0
 */
export const frameAlignment = 8

/**
 * Bytes of a log id.
 *
 * @category constants
 * @since 0.1.0
 */
export const logIdBytes = 16

/**
 * The most bytes that a record can have: its length is a u32.
 *
 * @category constants
 * @since 0.1.0
 */
export const maxPayloadBytes = 0xffffffff

const headerRecord: FixedRecord = {
  format: "append log segment header",
  bytes: segmentHeaderBytes,
  // Its text and NUL, read as a little-endian u64.
  magic: 0x00474f4c_45444954n,
  magicText: "TIDELOG",
  version: 1
}

const headerOffsets = {
  zero1: 10,
  headerLength: 12,
  logId: 16,
  startLsn: 32,
  segmentIndex: 40,
  created: 48,
  zero2: 56
} as const

/** The first four bytes of a head (type, flag, two zeros) as one u32. */
const headWords = { end: 0, record: 1, pad: 2, commit: 3, flaggedCommit: 0x103 } as const
const headOffsets = { word: 0, flag: 1, value: 4 } as const
const commitOffsets = { batchStart: 8 } as const

const twoTo32 = 2 ** 32

// -- names of files ---------------------------------------------------------------------------------------------------

const nameDigits = 16
const nameSuffix = ".tlog"
const namePattern = /^[0-9a-f]{16}\.tlog$/

/**
 * The name of the file that the holder of a log's directory keeps locked.
 *
 * @category names
 * @since 0.1.0
 */
export const lockFileName = "lock"

/**
 * The name of the segment that starts at an LSN: 16 lower-case hexadecimal digits and `.tlog`, so that the order of
 * names is the order of segments.
 *
 * **Example** (Naming a segment)
 *
 * ```ts
 * import { toLsn } from "@tidemark/core/Scalars"
 * import { segmentFileName } from "@tidemark/wal/AppendLogFormat"
 *
 * segmentFileName(toLsn(4096)) // => "0000000000001000.tlog"
 * ```
 *
 * @category names
 * @since 0.1.0
 */
export const segmentFileName = (startLsn: Lsn): string =>
  `${startLsn.toString(16).padStart(nameDigits, "0")}${nameSuffix}`

/**
 * The start LSN that the name of a segment says, or `undefined` when it is not the name of one.
 *
 * @category names
 * @since 0.1.0
 */
export const parseSegmentFileName = (name: string): Lsn | undefined => {
  if (!namePattern.test(name)) return undefined
  // From 2^53 on a number is not exact, but never below 2^53 either, so that the check refuses it.
  const lsn = Number.parseInt(name.slice(0, nameDigits), 16)
  return Number.isSafeInteger(lsn) && lsn % frameAlignment === 0 ? toLsn(lsn) : undefined
}

/**
 * Whether a name claims to be that of a segment, whether or not {@link parseSegmentFileName} can read it. A file with
 * such a name that is none may be a segment that was renamed by mistake.
 *
 * @category names
 * @since 0.1.0
 */
export const looksLikeSegmentName = (name: string): boolean =>
  !name.startsWith(".") && name.toLowerCase().endsWith(nameSuffix)

/**
 * The name under which the segment with this index is made, before it is renamed to its {@link segmentFileName}. It is
 * a temporary name (`isAnyTemporaryName` of `AtomicFile.ts`), so that the next start sweeps what a crash leaves (RC-25).
 *
 * @category names
 * @since 0.1.0
 */
export const preparedSegmentName = (segmentIndex: bigint): string =>
  `.tmp-segment-${segmentIndex.toString(16).padStart(nameDigits, "0")}`

// -- segment header ---------------------------------------------------------------------------------------------------

const U64 = Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 0n, maximum: 2n ** 64n - 1n }))
const LogId = Schema.Uint8Array.check(
  Schema.makeFilter((bytes: Uint8Array) => bytes.length === logIdBytes, { expected: `${logIdBytes} bytes` })
)
const FrameLsn = Schema.toType(Lsn).check(Schema.isMultipleOf(frameAlignment))

/**
 * What the header of a segment says.
 *
 * @category models
 * @since 0.1.0
 */
export const SegmentHeader = Schema.Struct({
  /** 16 random bytes, the same in every segment of a log. */
  logId: LogId,
  /** LSN of the first frame; the name of the file says the same. A multiple of 8. */
  startLsn: FrameLsn,
  /** Grows by one from segment to segment; the first one that is kept may have any. */
  segmentIndex: U64,
  createdUnixNanos: U64
})
export type SegmentHeader = typeof SegmentHeader.Type

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/**
 * Reads the header of a segment from its first 64 bytes (what follows them is ignored).
 *
 * **Details**
 *
 * Codes, in the order of the checks: `TooShort`, `BadMagic`, `UnsupportedVersion`, `ChecksumMismatch`, `NotZero` (a
 * field that has to be zero), `BadHeaderLength`, `OutOfRange` (a start LSN above 2^53 - 1), `Misaligned` (one that is
 * not a multiple of 8).
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeSegmentHeader = (bytes: Uint8Array): Result.Result<SegmentHeader, FormatIssue> => {
  const opened = openFixed(headerRecord, bytes.subarray(0, segmentHeaderBytes))
  if (Result.isFailure(opened)) return Result.fail(opened.failure)
  const view = opened.success
  const zero1 = view.getUint16(headerOffsets.zero1, true)
  if (zero1 !== 0) return fixedIssue(headerRecord, "NotZero", "zero field", headerOffsets.zero1, `${zero1}`, "0")
  const zero2 = view.getUint32(headerOffsets.zero2, true)
  if (zero2 !== 0) return fixedIssue(headerRecord, "NotZero", "zero field", headerOffsets.zero2, `${zero2}`, "0")
  const length = view.getUint32(headerOffsets.headerLength, true)
  if (length !== segmentHeaderBytes) {
    return fixedIssue(headerRecord, "BadHeaderLength", "header length", headerOffsets.headerLength, `${length}`, "64")
  }
  const startLsn = readU64(view, headerOffsets.startLsn)
  if (startLsn < 0) {
    const found = `${view.getBigUint64(headerOffsets.startLsn, true)}`
    return fixedIssue(headerRecord, "OutOfRange", "start LSN", headerOffsets.startLsn, found, "at most 2^53 - 1")
  }
  if (startLsn % frameAlignment !== 0) {
    return fixedIssue(headerRecord, "Misaligned", "start LSN", headerOffsets.startLsn, `${startLsn}`, "a multiple of 8")
  }
  return Result.succeed({
    logId: bytes.slice(headerOffsets.logId, headerOffsets.logId + logIdBytes),
    startLsn: toLsn(startLsn),
    segmentIndex: view.getBigUint64(headerOffsets.segmentIndex, true),
    createdUnixNanos: view.getBigUint64(headerOffsets.created, true)
  })
}

/**
 * The 64 bytes of a segment header, checksum included.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeSegmentHeader = (header: SegmentHeader): Uint8Array => {
  invariant(header.logId.length === logIdBytes, "a log id has 16 bytes")
  invariant(header.startLsn % frameAlignment === 0, "a segment starts at a multiple of 8")
  return encodeFixed(headerRecord, (view, bytes) => {
    view.setUint32(headerOffsets.headerLength, segmentHeaderBytes, true)
    bytes.set(header.logId, headerOffsets.logId)
    writeU64(view, headerOffsets.startLsn, header.startLsn)
    view.setBigUint64(headerOffsets.segmentIndex, header.segmentIndex, true)
    view.setBigUint64(headerOffsets.created, header.createdUnixNanos, true)
  })
}

/**
 * The header of a segment as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const SegmentHeaderCodec: Schema.Codec<SegmentHeader, Uint8Array> = toCodec<SegmentHeader>(SegmentHeader, {
  decode: decodeSegmentHeader,
  encode: encodeSegmentHeader
})

// -- sizes and positions ----------------------------------------------------------------------------------------------

/**
 * The offset in its file of an LSN of the segment that starts at `startLsn`.
 *
 * @category sizes
 * @since 0.1.0
 */
export const offsetOf = (lsn: Lsn, startLsn: Lsn): number => segmentHeaderBytes + (lsn - startLsn)

/**
 * The LSN that stands at an offset (64 or more) of the segment that starts at `startLsn`.
 *
 * @category sizes
 * @since 0.1.0
 */
export const lsnAt = (offset: number, startLsn: Lsn): Lsn => toLsn(startLsn + (offset - segmentHeaderBytes))

/**
 * Bytes of the frame of a record: its head, and the payload padded to a multiple of 8.
 *
 * @category sizes
 * @since 0.1.0
 */
export const recordFrameBytes = (payloadBytes: number): number =>
  // `-n & 7` is what n lacks to a multiple of 8; the sum is no bit operation, for it may pass 2^32.
  frameHeadBytes + payloadBytes + (-payloadBytes & (frameAlignment - 1))

// -- writing frames ---------------------------------------------------------------------------------------------------

/**
 * Writes the frame of a record, {@link recordFrameBytes} long, at `offset`. `view` must show the same bytes as `target`.
 *
 * @category encoding
 * @since 0.1.0
 */
export const writeRecordFrame = (target: Uint8Array, view: DataView, offset: number, payload: Uint8Array): void => {
  const payloadBytes = payload.length
  invariant(payloadBytes >= 1 && payloadBytes <= maxPayloadBytes, "a record has at least one byte, at most 2^32 - 1")
  // The last word first: what the payload does not cover of it is the padding.
  const lastWord = offset + recordFrameBytes(payloadBytes) - frameAlignment
  view.setUint32(lastWord, 0)
  view.setUint32(lastWord + 4, 0)
  view.setUint32(offset + headOffsets.word, headWords.record, true)
  view.setUint32(offset + headOffsets.value, payloadBytes, true)
  target.set(payload, offset + frameHeadBytes)
}

/**
 * Fills `length` bytes (a multiple of 8, at least 8) at `offset` with a frame that carries nothing.
 *
 * @category encoding
 * @since 0.1.0
 */
export const writePadFrame = (target: Uint8Array, view: DataView, offset: number, length: number): void => {
  invariant(length >= frameHeadBytes && length % frameAlignment === 0, "a pad frame is a multiple of 8 bytes long")
  view.setUint32(offset + headOffsets.word, headWords.pad, true)
  view.setUint32(offset + headOffsets.value, length - frameHeadBytes, true)
  target.fill(0, offset + frameHeadBytes, offset + length)
}

/**
 * Writes the commit frame that ends the batch which started at `batchStart`, 16 bytes at `offset`.
 *
 * **Details**
 *
 * `earlierIsDurable` says that every byte of the log before `batchStart` was durable before the batch was written
 * (RC-13 rests on it). `checksum` is {@link batchChecksum}.
 *
 * @category encoding
 * @since 0.1.0
 */
export const writeCommitFrame = (
  view: DataView,
  offset: number,
  batchStart: Lsn,
  earlierIsDurable: boolean,
  checksum: number
): void => {
  view.setUint32(offset + headOffsets.word, earlierIsDurable ? headWords.flaggedCommit : headWords.commit, true)
  view.setUint32(offset + headOffsets.value, checksum, true)
  writeU64(view, offset + commitOffsets.batchStart, batchStart)
}

const checksumHead = new Uint8Array(logIdBytes + 8)
const checksumHeadView = viewOf(checksumHead)

/**
 * CRC-32C of a batch: of the log id, the LSN of its start as u64, and the first `bytes` bytes of `parts` one after
 * another, which are all of the batch but its commit frame.
 *
 * @category checksums
 * @since 0.1.0
 */
export const batchChecksum = (
  logId: Uint8Array,
  batchStart: Lsn,
  parts: ReadonlyArray<Uint8Array>,
  bytes: number
): number => {
  // One buffer for all calls: nothing comes between its filling and its reading.
  checksumHead.set(logId)
  writeU64(checksumHeadView, logIdBytes, batchStart)
  let checksum = crc32c(checksumHead)
  let left = bytes
  for (const part of parts) {
    if (left === 0) break
    const taken = part.length <= left ? part : part.subarray(0, left)
    checksum = crc32c(taken, checksum)
    left -= taken.length
  }
  invariant(left === 0, "the parts hold the bytes of their batch")
  return checksum
}

// -- reading frames ---------------------------------------------------------------------------------------------------

/**
 * A frame. `frameBytes` is its whole length, head and padding included.
 *
 * @category models
 * @since 0.1.0
 */
export const Frame = Schema.Union([
  Schema.Struct({ type: Schema.Literal("record"), frameBytes: Schema.Int, payload: Schema.Uint8Array }),
  Schema.Struct({ type: Schema.Literal("pad"), frameBytes: Schema.Int }),
  Schema.Struct({
    type: Schema.Literal("commit"),
    frameBytes: Schema.Literal(commitFrameBytes),
    batchStart: FrameLsn,
    earlierIsDurable: Schema.Boolean,
    checksum: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff }))
  }),
  /** Zeros: nothing was written here. */
  Schema.Struct({ type: Schema.Literal("end"), frameBytes: Schema.Literal(frameHeadBytes) })
])
export type Frame = typeof Frame.Type

const frameIssue = (code: string, field: string, offset: number, found: string, expected: string) =>
  Result.fail(new FormatIssue({ format: "append log frame", code, field, offset, found, expected }))

/**
 * Reads the frame at `offset` of `bytes`, which `view` shows too. A payload is a view of `bytes`, not a copy.
 *
 * **Details**
 *
 * Says whether the frame is well formed, not whether its batch checks. Codes: `Truncated` (the bytes end inside the
 * frame), `UnknownType`, `BadFlag` (neither 0 nor 1, or set in a frame that has none), `NotZero` (a byte that has to be
 * zero, padding and the body of a pad included), `EmptyRecord`, `BadLength` (of a pad, not a multiple of 8),
 * `OutOfRange` and `Misaligned` (the batch start of a commit frame).
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeFrame = (
  bytes: Uint8Array,
  view: DataView,
  offset: number
): Result.Result<Frame, FormatIssue> => {
  const left = bytes.length - offset
  if (left < frameHeadBytes) {
    return frameIssue("Truncated", "head", offset, `${Math.max(0, left)} bytes`, `${frameHeadBytes} bytes`)
  }
  const frameBytes = frameBytesAt(view, offset)
  if (frameBytes < 0) return malformedHead(view, offset)
  if (frameBytes === 0) return Result.succeed({ type: "end", frameBytes: frameHeadBytes })
  if (frameBytes > left) return frameIssue("Truncated", "frame", offset, `${left} bytes`, `${frameBytes} bytes`)
  const value = view.getUint32(offset + headOffsets.value, true)
  const word = view.getUint32(offset + headOffsets.word, true)
  const bodyBytes = word === headWords.record ? value : word === headWords.pad ? 0 : commitFrameBytes - frameHeadBytes
  const nonZero = firstNonZero(view, offset + frameHeadBytes + bodyBytes, offset + frameBytes)
  if (nonZero >= 0) return frameIssue("NotZero", "padding", nonZero, `${view.getUint8(nonZero)}`, "0")
  switch (word) {
    case headWords.record: {
      const start = offset + frameHeadBytes
      return Result.succeed({ type: "record", frameBytes, payload: bytes.subarray(start, start + value) })
    }
    case headWords.pad:
      return Result.succeed({ type: "pad", frameBytes })
    default: {
      const at = offset + commitOffsets.batchStart
      const batchStart = readU64(view, at)
      if (batchStart < 0) {
        return frameIssue("OutOfRange", "batch start", at, `${view.getBigUint64(at, true)}`, "at most 2^53 - 1")
      }
      if (batchStart % frameAlignment !== 0) {
        return frameIssue("Misaligned", "batch start", at, `${batchStart}`, "a multiple of 8")
      }
      return Result.succeed({
        type: "commit",
        frameBytes: commitFrameBytes,
        batchStart: toLsn(batchStart),
        earlierIsDurable: isFlaggedAt(view, offset),
        checksum: value
      })
    }
  }
}

const malformedHead = (view: DataView, offset: number) => {
  const type = view.getUint8(offset)
  const value = view.getUint32(offset + headOffsets.value, true)
  const flag = view.getUint8(offset + headOffsets.flag)
  if (type > 3) return frameIssue("UnknownType", "type", offset, `${type}`, "0, 1, 2 or 3")
  const maxFlag = type === headWords.commit ? 1 : 0
  if (flag > maxFlag) {
    return frameIssue("BadFlag", "flag", offset + headOffsets.flag, `${flag}`, maxFlag === 1 ? "0 or 1" : "0")
  }
  const zero = view.getUint16(offset + 2, true)
  if (zero !== 0) return frameIssue("NotZero", "zero field", offset + 2, `${zero}`, "0")
  const at = offset + headOffsets.value
  if (type === headWords.record) return frameIssue("EmptyRecord", "payload length", at, "0", "at least 1")
  if (type === headWords.pad) return frameIssue("BadLength", "pad length", at, `${value}`, "a multiple of 8")
  return frameIssue("NotZero", "value", at, `${value}`, "0")
}

/** Encodes a frame by itself, for tools and tests: logs write into their buffers with the functions above. */
const encodeFrame = (frame: Frame): Uint8Array => {
  const bytes = new Uint8Array(frame.frameBytes)
  const view = viewOf(bytes)
  switch (frame.type) {
    case "record":
      invariant(frame.frameBytes === recordFrameBytes(frame.payload.length), "a frame is as long as its record needs")
      writeRecordFrame(bytes, view, 0, frame.payload)
      break
    case "pad":
      writePadFrame(bytes, view, 0, frame.frameBytes)
      break
    case "commit":
      writeCommitFrame(view, 0, frame.batchStart, frame.earlierIsDurable, frame.checksum)
      break
    case "end":
  }
  return bytes
}

/**
 * A single frame as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const FrameCodec: Schema.Codec<Frame, Uint8Array> = toCodec<Frame>(Frame, {
  decode: (bytes) =>
    Result.flatMap(decodeFrame(bytes, viewOf(bytes), 0), (frame) =>
      frame.frameBytes === bytes.length
        ? Result.succeed(frame)
        : frameIssue("TooLong", "length", 0, `${bytes.length} bytes`, `${frame.frameBytes} bytes`)),
  encode: encodeFrame
})

// -- reading frames on hot paths --------------------------------------------------------------------------------------

/**
 * The whole length of the frame whose head stands at `offset`: 0 for the end of the log, -1 for a head that is none.
 * The body need not be there.
 *
 * @category scanning
 * @since 0.1.0
 */
export const frameBytesAt = (view: DataView, offset: number): number => {
  const value = view.getUint32(offset + headOffsets.value, true)
  switch (view.getUint32(offset + headOffsets.word, true)) {
    case headWords.record:
      return value === 0 ? -1 : recordFrameBytes(value)
    case headWords.commit:
    case headWords.flaggedCommit:
      return commitFrameBytes
    case headWords.pad:
      return value % frameAlignment === 0 ? frameHeadBytes + value : -1
    case headWords.end:
      return value === 0 ? 0 : -1
    default:
      return -1
  }
}

/**
 * Whether a commit frame stands at `offset`, where a frame does.
 *
 * @category scanning
 * @since 0.1.0
 */
export const isCommitAt = (view: DataView, offset: number): boolean => view.getUint8(offset) === headWords.commit

/**
 * Whether a record stands at `offset`, where a frame does.
 *
 * @category scanning
 * @since 0.1.0
 */
export const isRecordAt = (view: DataView, offset: number): boolean => view.getUint8(offset) === headWords.record

/**
 * Whether the head of a commit frame stands at `offset` whose flag says that everything before its batch was durable,
 * wherever `offset` is.
 *
 * @category scanning
 * @since 0.1.0
 */
export const isFlaggedAt = (view: DataView, offset: number): boolean =>
  view.getUint32(offset + headOffsets.word, true) === headWords.flaggedCommit

/**
 * The bytes of the payload of the record whose head stands at `offset`.
 *
 * @category scanning
 * @since 0.1.0
 */
export const payloadBytesAt = (view: DataView, offset: number): number =>
  view.getUint32(offset + headOffsets.value, true)

/**
 * The checksum in the commit frame whose head stands at `offset`.
 *
 * @category scanning
 * @since 0.1.0
 */
export const checksumAt = (view: DataView, offset: number): number => view.getUint32(offset + headOffsets.value, true)

/**
 * The start of the batch that ends with the commit frame at `offset`, as the frame says: -1 when it is above 2^53 - 1.
 *
 * @category scanning
 * @since 0.1.0
 */
export const batchStartAt = (view: DataView, offset: number): number => readU64(view, offset + commitOffsets.batchStart)

// -- numbers ----------------------------------------------------------------------------------------------------------

/** A u64 as a number, -1 above 2^53 - 1: without a bigint, which would be an allocation. */
const readU64 = (view: DataView, offset: number): number => {
  const high = view.getUint32(offset + 4, true)
  return high > 0x1fffff ? -1 : high * twoTo32 + view.getUint32(offset, true)
}

const writeU64 = (view: DataView, offset: number, value: number): void => {
  view.setUint32(offset, value >>> 0, true)
  view.setUint32(offset + 4, Math.floor(value / twoTo32), true)
}

/**
 * The frames of a segment of an append log one by one, as far as their heads can be read, in bounded memory.
 *
 * Whether a frame counts is not decided here: that is the scan's business, which says where the part of a file ends that
 * checks.
 *
 * @since 0.1.0
 */
import type { Lsn } from "@tidemark/core/Scalars"
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import {
  commitFrameBytes,
  decodeFrame,
  type Frame,
  frameBytesAt,
  frameHeadBytes,
  isCommitAt,
  isRecordAt,
  lsnAt,
  payloadBytesAt,
  segmentHeaderBytes
} from "@tidemark/wal/AppendLogFormat"
import * as TransactionRecordFormat from "@tidemark/wal/TransactionRecordFormat"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import type { Fields, InspectedRecord, RecordRange } from "./Inspection.ts"

/**
 * A segment whose header can be read.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentFrames {
  readonly file: VfsFile
  readonly bytes: number
  readonly startLsn: Lsn
  /** The offset behind the last batch that checks, with all before it. */
  readonly validEnd: number
}

/** A larger payload is none of the typed ones: those hold a page of 64 KiB at the most. */
const maxTypedPayloadBytes = 65 * 1024

/** More than any frame that is looked into; little, because each of its frames becomes a row. */
const blockBytes = 128 * 1024

/** A frame's head, with as much of its body as is looked into behind it. */
interface SeenFrame {
  readonly block: Uint8Array
  readonly view: DataView
  /** Where in the block. */
  readonly at: number
  /** Where in the file. */
  readonly offset: number
  /** Of the whole frame; -1 when the head is none. */
  readonly frameBytes: number
}

/**
 * Shows the frames that begin in the block at `offset` to `visit`, until it answers false. Answers where the next block
 * begins, or `undefined` when there is no further frame: at zeros, behind a head that is none, at the end of the file.
 */
const visitBlock = Effect.fnUntraced(function*(
  { bytes, file }: { readonly file: VfsFile; readonly bytes: number },
  buffer: Uint8Array,
  offset: number,
  visit: (frame: SeenFrame) => boolean
): Effect.fn.Return<number | undefined, VfsError> {
  const block = buffer.subarray(0, Math.min(buffer.length, bytes - offset))
  const length = yield* file.read(block, offset)
  const view = new DataView(block.buffer, block.byteOffset, length)
  const isLast = offset + length >= bytes || length < block.length
  let at = 0
  while (at + frameHeadBytes <= length) {
    const frameBytes = frameBytesAt(view, at)
    if (frameBytes === 0) return undefined
    if (!isLast && at > 0 && at + bytesLookedAt(view, at) > length) return offset + at
    if (!visit({ block: block.subarray(0, length), view, at, offset: offset + at, frameBytes })) return undefined
    if (frameBytes < 0) return undefined
    at += frameBytes
  }
  return isLast && at <= length ? undefined : offset + at
})

const bytesLookedAt = (view: DataView, at: number): number =>
  isCommitAt(view, at)
    ? commitFrameBytes
    : isRecordAt(view, at) && payloadBytesAt(view, at) <= maxTypedPayloadBytes
    ? frameHeadBytes + payloadBytesAt(view, at)
    : frameHeadBytes

/**
 * How many frames of each kind are in the part of a segment that checks.
 *
 * @category models
 * @since 0.1.0
 */
export interface FrameCounts {
  readonly batches: number
  readonly records: number
  readonly pads: number
  /** Where the frame of the last record starts. */
  readonly lastRecordLsn: Lsn | undefined
}

/**
 * Counts the frames in the part of a segment that checks.
 *
 * @category inspection
 * @since 0.1.0
 */
export const countFrames = Effect.fnUntraced(function*(
  { file, startLsn, validEnd }: SegmentFrames
): Effect.fn.Return<FrameCounts, VfsError> {
  const counts = { batches: 0, records: 0, pads: 0 }
  let lastRecordOffset: number | undefined
  const buffer = new Uint8Array(blockBytes)
  let next: number | undefined = segmentHeaderBytes
  while (next !== undefined && next < validEnd) {
    next = yield* visitBlock({ file, bytes: validEnd }, buffer, next, ({ at, offset, view }) => {
      if (isCommitAt(view, at)) counts.batches++
      else if (isRecordAt(view, at)) {
        counts.records++
        lastRecordOffset = offset
      } else counts.pads++
      return true
    })
  }
  return {
    ...counts,
    lastRecordLsn: lastRecordOffset === undefined ? undefined : lsnAt(lastRecordOffset, startLsn)
  }
})

/**
 * The names of the fields of a listed frame.
 *
 * @category inspection
 * @since 0.1.0
 */
export const frameFieldNames: ReadonlyArray<string> = ["lsn", "type", "payloadLength", "transaction", "batch"]

/**
 * The frames whose LSNs lie in a range, the ones behind the valid part included as far as there are heads. `index`
 * counts all frames of the segment from its first one on. The fields begin with the `leading` ones.
 *
 * @category inspection
 * @since 0.1.0
 */
export const listFrames = (
  segment: SegmentFrames,
  { from, to }: RecordRange,
  leading: Fields = {}
): Stream.Stream<InspectedRecord, VfsError> =>
  Stream.suspend(() => {
    const buffer = new Uint8Array(blockBytes)
    let index = 0
    return Stream.paginate(
      segmentHeaderBytes,
      Effect.fnUntraced(function*(offset: number) {
        const listed: Array<InspectedRecord> = []
        const next = yield* visitBlock(segment, buffer, offset, (frame) => {
          const lsn = lsnAt(frame.offset, segment.startLsn)
          if (lsn > to) return false
          if (lsn >= from) listed.push(inspectedOf(segment, frame, lsn, index, leading))
          index++
          return true
        })
        return [listed, Option.fromUndefinedOr(next)] as const
      })
    )
  })

const inspectedOf = (
  { bytes, validEnd }: SegmentFrames,
  frame: SeenFrame,
  lsn: Lsn,
  index: number,
  leading: Fields
): InspectedRecord => ({
  index,
  offset: frame.offset,
  valid: frame.frameBytes > 0 && frame.offset + frame.frameBytes <= Math.min(validEnd, bytes),
  fields: { ...leading, lsn: BigInt(lsn), ...fieldsOf(frame) }
})

const fieldsOf = ({ at, block, frameBytes, view }: SeenFrame): Fields => {
  const none = { type: null, payloadLength: null, transaction: null, batch: null }
  if (frameBytes < 0) return none
  if (isCommitAt(view, at)) {
    const batch = Result.getOrUndefined(decodeFrame(block, view, at))
    return { ...none, type: "commit", batch: batch?.type === "commit" ? batchOf(batch) : null }
  }
  if (!isRecordAt(view, at)) return { ...none, type: "pad", payloadLength: frameBytes - frameHeadBytes }
  const payloadLength = payloadBytesAt(view, at)
  return {
    ...none,
    type: "record",
    payloadLength,
    transaction: transactionOf(block, at + frameHeadBytes, payloadLength)
  }
}

/** `null` for a payload that is opaque, as any may be. */
const transactionOf = (block: Uint8Array, start: number, length: number): Fields | null => {
  // What was not read whole is longer than any typed payload.
  if (length > maxTypedPayloadBytes || start + length > block.length) return null
  const decoded = TransactionRecordFormat.decode(block.subarray(start, start + length))
  if (Result.isFailure(decoded)) return null
  const record = decoded.success
  switch (record._tag) {
    case "PageWrite":
      return { tag: record._tag, txnId: record.txnId, page: record.page, length: record.bytes.length }
    case "Checkpoint":
      return { tag: record._tag, lsn: BigInt(record.lsn) }
    default:
      return { tag: record._tag, txnId: record.txnId }
  }
}

const batchOf = ({ batchStart, checksum, earlierIsDurable }: Extract<Frame, { type: "commit" }>): Fields => ({
  startLsn: BigInt(batchStart),
  checksum,
  earlierIsDurable
})

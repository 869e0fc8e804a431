/**
 * Append logs as files, made with the encoders of the format, as a writer or a crash would leave them.
 */
import { toLsn } from "@tidemark/core/Scalars"
import * as Format from "@tidemark/wal/AppendLogFormat"
import { mkdirSync, writeFileSync } from "node:fs"

/** A frame of a batch: a payload, or the length of a pad, head included. */
export type MadeFrame = Uint8Array | number

export interface MadeBatch {
  readonly start: number
  /** Behind its commit frame. */
  readonly end: number
  /** Of its frames, the commit frame last. */
  readonly lsns: ReadonlyArray<number>
}

export interface MadeSegment {
  readonly path: string
  readonly start: number
  /** Behind its last commit frame. */
  readonly end: number
  readonly batches: ReadonlyArray<MadeBatch>
}

export const logId = Uint8Array.from({ length: Format.logIdBytes }, (_, index) => 0xa0 + index)

const encodeBatch = (frames: ReadonlyArray<MadeFrame>, start: number, earlierIsDurable: boolean) => {
  const lengths = frames.map((frame) => typeof frame === "number" ? frame : Format.recordFrameBytes(frame.length))
  const bytes = new Uint8Array(lengths.reduce((sum, length) => sum + length, Format.commitFrameBytes))
  const view = new DataView(bytes.buffer)
  const lsns: Array<number> = []
  let offset = 0
  frames.forEach((frame, index) => {
    lsns.push(start + offset)
    if (typeof frame === "number") Format.writePadFrame(bytes, view, offset, frame)
    else Format.writeRecordFrame(bytes, view, offset, frame)
    offset += lengths[index] ?? 0
  })
  lsns.push(start + offset)
  const checksum = Format.batchChecksum(logId, toLsn(start), [bytes], offset)
  Format.writeCommitFrame(view, offset, toLsn(start), earlierIsDurable, checksum)
  return { bytes, batch: { start, end: start + bytes.length, lsns } }
}

/**
 * Makes the log `directory`, one file for each list of batches. Every commit frame says that all before it was durable,
 * as it does where each batch is synced by itself.
 */
export const makeLog = (
  directory: string,
  segments: ReadonlyArray<ReadonlyArray<ReadonlyArray<MadeFrame>>>,
  options: {
    readonly start?: number
    readonly firstIndex?: bigint
    /** Zeros behind the last frame of the last segment, as the writer fills them ahead. */
    readonly zerosAhead?: number
    readonly earlierIsDurable?: boolean
  } = {}
): ReadonlyArray<MadeSegment> => {
  const { earlierIsDurable = true, firstIndex = 0n, start = 0, zerosAhead = 0 } = options
  mkdirSync(directory, { recursive: true })
  let lsn = start
  return segments.map((batches, index) => {
    const segmentStart = lsn
    const header = Format.encodeSegmentHeader({
      logId,
      startLsn: toLsn(segmentStart),
      segmentIndex: firstIndex + BigInt(index),
      createdUnixNanos: 1_700_000_000_123_456_789n
    })
    const parts: Array<Uint8Array> = [header]
    const made = batches.map((frames) => {
      const { batch, bytes } = encodeBatch(frames, lsn, earlierIsDurable)
      parts.push(bytes)
      lsn = batch.end
      return batch
    })
    if (index === segments.length - 1) parts.push(new Uint8Array(zerosAhead))
    const path = `${directory}/${Format.segmentFileName(toLsn(segmentStart))}`
    writeFileSync(path, Buffer.concat(parts))
    return { path, start: segmentStart, end: lsn, batches: made }
  })
}

export const text = (words: string): Uint8Array => new TextEncoder().encode(words)

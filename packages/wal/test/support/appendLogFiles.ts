/**
 * Segments of append logs as bytes, made by the encoders of this package, and a second reader of them: one that shares
 * no code with the scan, asks for whole files in memory and takes the time it takes.
 */
import { type Lsn, toLsn } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect } from "effect"
import {
  batchChecksum,
  commitFrameBytes,
  encodeSegmentHeader,
  recordFrameBytes,
  segmentFileName,
  segmentHeaderBytes,
  writeCommitFrame,
  writePadFrame,
  writeRecordFrame
} from "../../src/AppendLogFormat.ts"
import { examineDirectory, type ScanReport } from "../../src/AppendLogScan.ts"

export const logId = Uint8Array.from({ length: 16 }, (_, index) => 0xa0 + index)

export const directory = "/log"

/** A payload of so many bytes, or a pad whose frame has so many. */
export type Piece = number | { readonly pad: number } | { readonly payload: Uint8Array }

export interface Batch {
  readonly pieces: ReadonlyArray<Piece>
  /** Whether everything before it was durable. Default true. */
  readonly flagged?: boolean
}

export interface SegmentOptions {
  readonly logId?: Uint8Array
  readonly startLsn?: number
  readonly index?: number
  /** Size of the file; zeros follow the batches. Default: nothing follows them. */
  readonly bytes?: number
}

export interface BuiltSegment {
  readonly name: string
  readonly bytes: Uint8Array
  readonly startLsn: Lsn
  readonly endLsn: Lsn
  /** Where each batch starts in the file, and where the last one ends. */
  readonly cuts: ReadonlyArray<number>
}

/** Different for every byte of every record: no two places look alike. */
export const payload = (bytes: number, seed: number): Uint8Array =>
  Uint8Array.from({ length: bytes }, (_, index) => (seed * 37 + index * 11 + (index >> 8) * 5 + 1) & 0xff)

const pieceBytes = (piece: Piece) => {
  if (typeof piece === "number") return recordFrameBytes(piece)
  return "pad" in piece ? piece.pad : recordFrameBytes(piece.payload.length)
}

export const buildSegment = (batches: ReadonlyArray<Batch>, options: SegmentOptions = {}): BuiltSegment => {
  const startLsn = toLsn(options.startLsn ?? 0)
  const id = options.logId ?? logId
  const used = batches.reduce(
    (sum, { pieces }) => sum + commitFrameBytes + pieces.reduce((bytes: number, piece) => bytes + pieceBytes(piece), 0),
    segmentHeaderBytes
  )
  const bytes = new Uint8Array(Math.max(used, options.bytes ?? 0))
  const view = new DataView(bytes.buffer)
  const segmentIndex = BigInt(options.index ?? 0)
  bytes.set(encodeSegmentHeader({ logId: id, startLsn, segmentIndex, createdUnixNanos: 7n }))
  const cuts = [segmentHeaderBytes]
  let at: number = segmentHeaderBytes
  for (const { flagged, pieces } of batches) {
    const start = at
    for (const piece of pieces) {
      if (typeof piece === "number") writeRecordFrame(bytes, view, at, payload(piece, at))
      else if ("pad" in piece) writePadFrame(bytes, view, at, piece.pad)
      else writeRecordFrame(bytes, view, at, piece.payload)
      at += pieceBytes(piece)
    }
    const lsn = toLsn(startLsn + start - segmentHeaderBytes)
    const checksum = batchChecksum(id, lsn, [bytes.subarray(start, at)], at - start)
    writeCommitFrame(view, at, lsn, flagged ?? true, checksum)
    at += commitFrameBytes
    cuts.push(at)
  }
  return { name: segmentFileName(startLsn), bytes, startLsn, endLsn: toLsn(startLsn + at - segmentHeaderBytes), cuts }
}

/** Several segments of one log, one behind the other. */
export const buildLog = (
  segments: ReadonlyArray<ReadonlyArray<Batch>>,
  options: SegmentOptions = {}
): ReadonlyArray<BuiltSegment> => {
  const built: Array<BuiltSegment> = []
  for (const batches of segments) {
    const index = (options.index ?? 0) + built.length
    built.push(buildSegment(batches, { ...options, startLsn: built.at(-1)?.endLsn ?? options.startLsn ?? 0, index }))
  }
  return built
}

/** A disk that holds these files in the directory of a log. */
export const diskWith = (files: Readonly<Record<string, Uint8Array>>): MemoryDisk => {
  const disk = MemoryDisk.make({ async: false })
  disk.writeFile(`${directory}/lock`, new Uint8Array(0))
  for (const [name, bytes] of Object.entries(files)) disk.writeFile(`${directory}/${name}`, bytes)
  return disk
}

export const examine = (disk: MemoryDisk): Promise<ScanReport> =>
  Effect.runPromise(
    Effect.flatMap(Vfs, (vfs) => examineDirectory(vfs, directory)).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
  )

export const examineFiles = (files: Readonly<Record<string, Uint8Array>>): Promise<ScanReport> =>
  examine(diskWith(files))

// -- the second reader ------------------------------------------------------------------------------------------------

/** The first `length` bytes of a frame at `at`, or why there is none. */
const referenceFrame = (bytes: Uint8Array, at: number): number | undefined => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (at + 8 > bytes.length) return undefined
  const [type, flag, zero1, zero2] = bytes.subarray(at, at + 4)
  const value = view.getUint32(at + 4, true)
  if (zero1 !== 0 || zero2 !== 0) return undefined
  let length: number
  let from: number
  if (type === 1 && flag === 0 && value > 0) {
    length = 8 + 8 * Math.ceil(value / 8)
    from = at + 8 + value
  } else if (type === 2 && flag === 0 && value % 8 === 0) {
    length = 8 + value
    from = at + 8
  } else if (type === 3 && (flag === 0 || flag === 1)) {
    length = 16
    from = at + 16
  } else return undefined
  if (at + length > bytes.length) return undefined
  return bytes.subarray(from, at + length).every((byte) => byte === 0) ? length : undefined
}

/** Whether the commit frame at `commit` fits the batch that starts at offset `start`. */
const referenceChecks = (bytes: Uint8Array, startLsn: number, start: number, commit: number): boolean => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const head = new Uint8Array(24)
  head.set(logId)
  const lsn = BigInt(startLsn + start - 64)
  new DataView(head.buffer).setBigUint64(16, lsn, true)
  return view.getBigUint64(commit + 8, true) === lsn &&
    view.getUint32(commit + 4, true) === crc32c(bytes.subarray(start, commit), crc32c(head))
}

export interface ReferenceScan {
  /** Ends of the valid batches, as offsets. */
  readonly ends: ReadonlyArray<number>
  readonly isDamaged: boolean
  /** Behind the valid batches, up to the last byte that is not zero. */
  readonly trailingBytes: number
}

/** What the format description says about a last segment whose header is valid. */
export const referenceScan = (bytes: Uint8Array, startLsn: number): ReferenceScan => {
  const ends: Array<number> = []
  let start = 64
  for (let at = start;;) {
    const length = referenceFrame(bytes, at)
    if (length === undefined) break
    if (bytes[at] === 3) {
      if (!referenceChecks(bytes, startLsn, start, at)) break
      start = at + length
      ends.push(start)
    }
    at += length
  }
  let isDamaged = false
  for (let commit = start; commit + 16 <= bytes.length; commit += 8) {
    if (bytes[commit] !== 3 || bytes[commit + 1] !== 1 || bytes[commit + 2] !== 0 || bytes[commit + 3] !== 0) continue
    for (let from = start + 8; from <= commit; from += 8) {
      if (referenceChecks(bytes, startLsn, from, commit)) isDamaged = true
    }
  }
  return { ends, isDamaged, trailingBytes: Math.max(0, bytes.findLastIndex((byte) => byte !== 0) + 1 - start) }
}

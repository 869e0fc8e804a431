/**
 * Checking records of a marker stream one behind another, a piece of a file at a time, without making anything of those
 * that are as they should be.
 *
 * Invariant: what was found good follows, without a gap, what was found good before, as `MarkerFormat.ts` says.
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import type { CommitSeq } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { MarkerPlace } from "../MarkerFormat.ts"
import {
  decodeHeader,
  headerPlaceIssue,
  isPlainSuccessor,
  type Marker,
  markerAt,
  markerBytes,
  markerSegmentHeaderBytes,
  placeIssue,
  recordIssue
} from "../MarkerFormat.ts"
import type { MarkerSegmentFile } from "../MarkerStore.ts"

/** Bytes that are read at a time: a bit less than a mebibyte, in whole records. */
const chunkBytes = Math.floor(1024 * 1024 / markerBytes) * markerBytes

/**
 * A buffer to read so many records with, a piece at a time.
 *
 * @internal
 */
export const bufferFor = (records: number): Uint8Array =>
  new Uint8Array(Math.min(chunkBytes, Math.max(1, records) * markerBytes))

/** @internal */
export const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** @internal */
export const offsetInSegment = (start: CommitSeq, seq: CommitSeq): number =>
  markerSegmentHeaderBytes + Number(seq - start) * markerBytes

/**
 * Whether slot 0 of a segment holds a genesis record: it must where the segment does not go on where the one before it
 * ended.
 *
 * @internal
 */
export const genesisIn = (
  before: Pick<MarkerSegmentFile, "id" | "records"> | undefined,
  id: bigint,
  perSegment: number
): MarkerPlace["genesis"] =>
  before !== undefined && before.records === perSegment && before.id + 1n === id ? "allowed" : "required"

/**
 * What is wrong with the header of a segment file.
 *
 * @internal
 */
export const headerIssue = (
  file: VfsFile,
  id: bigint,
  perSegment: number
): Effect.Effect<FormatIssue | undefined, VfsError> => {
  const buffer = new Uint8Array(markerSegmentHeaderBytes)
  return Effect.map(file.read(buffer, 0), (length) => {
    const decoded = decodeHeader(buffer.subarray(0, length))
    return Result.isFailure(decoded) ? decoded.failure : headerPlaceIssue(decoded.success, id, perSegment)
  })
}

/** @internal */
export interface CheckedRecords {
  /** How many of them are good, from the first one on. */
  readonly good: number
  /** What is wrong with the one behind them; `undefined` when all are good. */
  readonly issue: FormatIssue | undefined
}

/** @internal */
export class MarkerWalk {
  /** What is known of the record before, while it is not known itself. */
  private before: "none" | "unknown" | undefined
  private readonly record = new Uint8Array(markerBytes)
  private readonly recordView = viewOf(this.record)

  constructor(before: "none" | "unknown") {
    this.before = before
  }

  /** The last record that was found good; `undefined` before the first. */
  get last(): Marker | undefined {
    return this.before === undefined ? markerAt(this.record, this.recordView, 0) : undefined
  }

  /**
   * Checks `count` records that stand at `base` in their file, the first of which has the slot of `seq`. `genesis` is the
   * rule for that first one; behind it none may be one. Bytes that are missing are an issue.
   */
  check(
    bytes: Uint8Array,
    count: number,
    at: { readonly base: number; readonly seq: CommitSeq; readonly genesis: MarkerPlace["genesis"] }
  ): CheckedRecords {
    const view = viewOf(bytes)
    let before = this.recordView
    let beforeOffset = 0
    let issue: FormatIssue | undefined
    let good = 0
    for (; good < count; good++) {
      const offset = good * markerBytes
      issue = recordIssue(bytes, view, offset, at.base)
      if (issue !== undefined) break
      const seq = toCommitSeq(at.seq + BigInt(good))
      const isSpecial = this.before !== undefined || (good === 0 && at.genesis === "required")
      if (isSpecial || !isPlainSuccessor(view, offset, before, beforeOffset, seq)) {
        const place: MarkerPlace = {
          seq,
          before: this.before ?? markerAt(viewBytes(before), before, beforeOffset),
          genesis: good === 0 ? at.genesis : "forbidden"
        }
        issue = placeIssue(markerAt(bytes, view, offset), place, at.base + offset)
        if (issue !== undefined) break
        this.before = undefined
      }
      before = view
      beforeOffset = offset
    }
    if (good > 0) this.record.set(bytes.subarray(beforeOffset, beforeOffset + markerBytes))
    return { good, issue }
  }
}

const viewBytes = (view: DataView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength)

/**
 * Reads and checks the records of a segment from slot `from` to slot `to` (not included), and answers the first slot
 * that is not good.
 *
 * @internal
 */
export const walkSlots = Effect.fnUntraced(function*(
  file: VfsFile,
  walk: MarkerWalk,
  options: {
    readonly start: CommitSeq
    readonly from: number
    readonly to: number
    readonly genesis: MarkerPlace["genesis"]
    readonly buffer: Uint8Array
  }
): Effect.fn.Return<{ readonly slot: number; readonly issue: FormatIssue | undefined }, VfsError> {
  const { buffer, genesis, start, to } = options
  for (let slot = options.from; slot < to;) {
    const count = Math.min(to - slot, buffer.length / markerBytes)
    const base = markerSegmentHeaderBytes + slot * markerBytes
    const length = yield* file.read(buffer.subarray(0, count * markerBytes), base)
    const { good, issue } = walk.check(buffer.subarray(0, length), count, {
      base,
      seq: toCommitSeq(start + BigInt(slot)),
      genesis: slot === 0 ? genesis : "forbidden"
    })
    slot += good
    if (issue !== undefined) return { slot, issue }
  }
  return { slot: to, issue: undefined }
})

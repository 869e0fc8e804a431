/**
 * What stands behind the first record of a marker stream that does not check: the torn end of a batch that was never
 * acknowledged, or damage.
 *
 * A power loss in the middle of an append leaves the sectors that were not written as zeros, because files are not longer
 * than their records: behind the old end there was nothing. So the first bad record of a torn batch looks like this: of
 * one of the sectors that it lies in, everything that it and those behind it have there is zeros. What reads otherwise
 * was there once and has changed.
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { toCommitSeq } from "@tidemark/core/Scalars"
import { xxh3 } from "@tidemark/platform/Checksum"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import { markerAt, markerBytes, markerSegmentHeaderBytes, recordIssue, slotsOf } from "../MarkerFormat.ts"
import type { MarkerSegmentFile } from "../MarkerStore.ts"
import { bufferFor, viewOf } from "./markerWalk.ts"
import { firstNonZero } from "./zeros.ts"

const sectorBytes = 512
const checksumBytes = 8

/**
 * Whether the record at `offset` of its file looks as if a power loss had left out a part of it. `bytes` begin with the
 * record and go on to the end of its last sector, or of the file.
 *
 * @internal
 */
export const looksUnwritten = (bytes: Uint8Array, offset: number): boolean => {
  const view = viewOf(bytes)
  const areZeros = (from: number, to: number) => firstNonZero(view, from, Math.min(to, bytes.length)) < 0
  for (let at = 0; at < markerBytes;) {
    const sectorEnd = at + sectorBytes - (offset + at) % sectorBytes
    if (areZeros(at, sectorEnd)) return true
    at = sectorEnd
  }
  // A sector of which only the front was written: the record ends in zeros, in the middle of its checksum at the latest.
  if (!areZeros(markerBytes, bytes.length)) return false
  const checksumAt = markerBytes - checksumBytes
  const stored = view.getBigUint64(checksumAt, true)
  if (stored === 0n) return true
  const computed = xxh3(bytes.subarray(0, checksumAt))
  for (let kept = 1; kept < checksumBytes; kept++) {
    if (stored === BigInt.asUintN(8 * kept, computed)) return true
  }
  return false
}

/** @internal */
export interface TailExamination {
  /** Records behind the bad one that check alone and in their slots. */
  readonly recordsBehind: number
  /** Whether a power loss during one append could have left all of it. */
  readonly couldBeTorn: boolean
}

/**
 * Looks at what stands behind a bad record in slot `slot` of the first of `segments`, from slot `from` on, and in the
 * others.
 *
 * @internal
 */
export const examineTail = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  segments: ReadonlyArray<MarkerSegmentFile>,
  bad: { readonly slot: number; readonly from: number; readonly issue: FormatIssue },
  perSegment: number
): Effect.fn.Return<TailExamination, VfsError> {
  const buffer = bufferFor(segments.reduce((most, { bytes }) => Math.max(most, slotsOf(bytes).completeRecords), 0))
  let recordsBehind = 0
  let time: bigint | undefined
  let isOneBatch = true
  let isUnwritten = false
  for (const [index, segment] of segments.entries()) {
    yield* Effect.scoped(Effect.gen(function*() {
      const file = yield* vfs.open(segment.path, { access: "read" })
      if (index === 0) isUnwritten = yield* isRecordUnwritten(file, bad)
      for (let slot = index === 0 ? bad.from : 0; slot < perSegment;) {
        const base = markerSegmentHeaderBytes + slot * markerBytes
        const length = yield* file.read(buffer, base)
        const count = Math.min(Math.floor(length / markerBytes), perSegment - slot)
        if (count <= 0) break
        const bytes = buffer.subarray(0, count * markerBytes)
        const view = viewOf(bytes)
        for (let i = 0; i < count; i++) {
          const offset = i * markerBytes
          if (recordIssue(bytes, view, offset) !== undefined) continue
          const { seq, timeUnixNanos } = markerAt(bytes, view, offset)
          if (seq !== toCommitSeq(segment.start + BigInt(slot + i))) continue
          recordsBehind++
          time ??= timeUnixNanos
          if (time !== timeUnixNanos) isOneBatch = false
        }
        slot += count
      }
    }))
  }
  // A segment has its name when everything before it is durable: in front of another one nothing is torn.
  return { recordsBehind, couldBeTorn: segments.length === 1 && isUnwritten && isOneBatch }
})

/** A record whose checksum is right was written like that. */
const isRecordUnwritten = (
  file: VfsFile,
  { issue, slot }: { readonly slot: number; readonly issue: FormatIssue }
): Effect.Effect<boolean, VfsError> => {
  if (issue.code !== "RecordChecksumMismatch") return Effect.succeed(false)
  const offset = markerSegmentHeaderBytes + slot * markerBytes
  const end = Math.ceil((offset + markerBytes) / sectorBytes) * sectorBytes
  const bytes = new Uint8Array(end - offset)
  return Effect.map(file.read(bytes, offset), (length) => looksUnwritten(bytes.subarray(0, length), offset))
}

/**
 * What lies behind the valid batches of a segment: nothing, the tail that a power loss may leave, or damage.
 *
 * The first bad batch may have been durable, or not. If it was not, the crash may have kept any of its blocks, and any
 * blocks of batches behind it that were written without a sync in between (mode `"written"`); none of those has the flag
 * in its commit frame, because the bad one was not durable when they were written (RC-12). If it was durable, the next
 * batch has the flag. So a commit frame with the flag, whose batch checks and starts behind the bad one, proves that the
 * bad one was whole once (RC-13). Where frames begin behind a bad one is not known, hence every multiple of 8 is looked
 * at; a head that names a batch start in range is a candidate, and its checksum decides. Bytes of a recycled file name
 * starts below the segment; bytes of payloads that imitate a commit frame fail the checksum, which starts with a log id
 * that their author did not know when it was random.
 *
 * Candidates can be many (payloads full of imitations) and the batches they name long, so their checksums are not
 * computed one by one: one more pass takes the checksum of the tail at every start and end of a candidate, from which
 * the one between them follows. Time is linear in the tail for every `maxCandidates` of them, memory in `maxCandidates`.
 *
 * @internal
 */
import type { Lsn } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import { batchStartAt, checksumAt, commitFrameBytes, isFlaggedAt, segmentHeaderBytes } from "../AppendLogFormat.ts"
import { logIdChecksum } from "./appendLogWalk.ts"
import { crc32cOfU64, shiftCrc32c } from "./crc32cShort.ts"
import { endOfNonZero } from "./zeros.ts"

/** A commit frame that may be what it looks like, and where its batch would start. All offsets. */
interface Candidate {
  readonly commit: number
  readonly batchStart: number
  readonly checksum: number
}

export interface Tail {
  /** The offset behind the last byte that is not zero; where the tail begins when all are. */
  readonly end: number
  /** Where a commit frame ends which proves that everything before its batch was durable. */
  readonly provenBy: number | undefined
}

/** An open segment. */
export interface OpenSegment {
  readonly file: VfsFile
  readonly fileBytes: number
  readonly logId: Uint8Array
  readonly startLsn: Lsn
  /** Nothing is proven in another one: it has its successor because it was durable as a whole. */
  readonly isLast: boolean
}

/** How many candidates are gathered before their checksums are looked at. */
const maxCandidates = 65_536

/** What a block repeats of the one before it, so that every head of a commit frame is seen with its body. */
const overlapBytes = commitFrameBytes - 8

/** Looks at the bytes of a segment from `from`, the end of its valid batches. The length of `buffer` is a multiple of 8. */
export const examineTail = Effect.fnUntraced(function*(
  segment: OpenSegment,
  from: number,
  buffer: Uint8Array
): Effect.fn.Return<Tail, VfsError> {
  const { file, fileBytes } = segment
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength)
  const lsnOfZero = segment.startLsn - segmentHeaderBytes
  let candidates: Array<Candidate> = []
  let end = from
  let position = from
  while (position < fileBytes) {
    const length = yield* file.read(buffer.subarray(0, Math.min(buffer.length, fileBytes - position)), position)
    if (length === 0) break
    const nonZero = endOfNonZero(view, 0, length)
    if (nonZero > 0) end = position + nonZero
    let at = segment.isLast ? 0 : nonZero
    for (; at + commitFrameBytes <= length && at < nonZero && candidates.length < maxCandidates; at += 8) {
      if (!isFlaggedAt(view, at)) continue
      const batchStart = batchStartAt(view, at) - lsnOfZero
      if (batchStart <= from || batchStart > position + at || batchStart % 8 !== 0) continue
      candidates.push({ commit: position + at, batchStart, checksum: checksumAt(view, at) })
    }
    if (candidates.length === maxCandidates) {
      const provenBy = yield* firstProof(segment, from, candidates, buffer)
      if (provenBy !== undefined) return { end, provenBy }
      candidates = []
      position += at
    } else {
      position += position + length < fileBytes && length > commitFrameBytes ? length - overlapBytes : length
    }
  }
  return { end, provenBy: candidates.length === 0 ? undefined : yield* firstProof(segment, from, candidates, buffer) }
})

const firstProof = Effect.fnUntraced(function*(
  segment: OpenSegment,
  from: number,
  candidates: ReadonlyArray<Candidate>,
  buffer: Uint8Array
): Effect.fn.Return<number | undefined, VfsError> {
  const checksums = yield* checksumsAt(segment.file, from, candidates, buffer)
  const idChecksum = logIdChecksum(segment.logId)
  const lsnOfZero = segment.startLsn - segmentHeaderBytes
  const proof = candidates.find(({ batchStart, checksum, commit }) => {
    const before = checksums.get(batchStart)
    const until = checksums.get(commit)
    if (before === undefined || until === undefined) return false
    const seed = crc32cOfU64(batchStart + lsnOfZero, idChecksum)
    return ((until ^ shiftCrc32c(seed ^ before, commit - batchStart)) >>> 0) === checksum
  })
  return proof === undefined ? undefined : proof.commit + commitFrameBytes
})

/** The CRC-32C of the bytes from `from` to each offset that a candidate names. */
const checksumsAt = Effect.fnUntraced(function*(
  file: VfsFile,
  from: number,
  candidates: ReadonlyArray<Candidate>,
  buffer: Uint8Array
): Effect.fn.Return<ReadonlyMap<number, number>, VfsError> {
  const offsets = [...new Set(candidates.flatMap(({ batchStart, commit }) => [batchStart, commit]))]
    .sort((a, b) => a - b)
  const found = new Map<number, number>()
  const last = offsets.at(-1) ?? from
  let checksum = 0
  let next = 0
  for (let position = from; position < last;) {
    const length = yield* file.read(buffer.subarray(0, Math.min(buffer.length, last - position)), position)
    if (length === 0) break
    let taken = 0
    for (; next < offsets.length; next++) {
      const at = (offsets[next] ?? last) - position
      if (at > length) break
      if (at > taken) checksum = crc32c(buffer.subarray(taken, at), checksum)
      taken = Math.max(taken, at)
      found.set(position + at, checksum)
    }
    if (taken < length) checksum = crc32c(buffer.subarray(taken, length), checksum)
    position += length
  }
  return found
})

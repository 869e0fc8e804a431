/**
 * One segment of an append log by itself: its header, its valid batches, and what lies behind them.
 *
 * @internal
 */
import type { Lsn } from "@tidemark/core/Scalars"
import { toLsn } from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import {
  decodeSegmentHeader,
  lsnAt,
  offsetOf,
  parseSegmentFileName,
  type SegmentHeader,
  segmentHeaderBytes
} from "../AppendLogFormat.ts"
import type { SegmentScan } from "../AppendLogScan.ts"
import { nameOf } from "../AtomicFile.ts"
import { examineTail } from "./appendLogTail.ts"
import { BatchWalker } from "./appendLogWalk.ts"

export interface SegmentScanOptions {
  /** Whether damage is looked for behind the valid batches: in a segment that is not the last, anything there is stale. */
  readonly isLast: boolean
  /** What the file is read into. A multiple of 8 bytes, at least the header. */
  readonly buffer: Uint8Array
  readonly onProgress: (bytes: number) => void
}

export const scanSegmentFile = Effect.fnUntraced(
  function*(
    vfs: Vfs["Service"],
    path: string,
    options: SegmentScanOptions
  ): Effect.fn.Return<SegmentScan, VfsError, Scope.Scope> {
    const file = yield* vfs.open(path, { access: "read" })
    const bytes = yield* file.size
    const headerBytes = yield* file.read(options.buffer.subarray(0, segmentHeaderBytes), 0)
    const decoded = decodeSegmentHeader(options.buffer.subarray(0, headerBytes))
    const name = nameOf(path)
    if (Result.isSuccess(decoded)) return yield* scanFrames(file, { name, path, bytes }, decoded.success, options)
    const startLsn = parseSegmentFileName(name) ?? toLsn(0)
    options.onProgress(bytes)
    return {
      name,
      path,
      bytes,
      startLsn,
      header: undefined,
      issue: decoded.failure,
      endLsn: startLsn,
      durableLsn: startLsn,
      batches: 0,
      records: 0,
      payloadBytes: 0,
      trailingBytes: 0,
      stop: undefined,
      damage: undefined
    }
  },
  Effect.scoped
)

const scanFrames = Effect.fnUntraced(function*(
  file: VfsFile,
  { bytes, name, path }: { readonly name: string; readonly path: string; readonly bytes: number },
  header: SegmentHeader,
  { buffer, isLast, onProgress }: SegmentScanOptions
): Effect.fn.Return<SegmentScan, VfsError> {
  const { logId, startLsn } = header
  // No LSN is above 2^53 - 1, whatever a header and the size of its file say together.
  const limit = Math.min(bytes, offsetOf(toLsn(Number.MAX_SAFE_INTEGER - 7), startLsn))
  const walker = new BatchWalker({ logId, startLsn, from: segmentHeaderBytes, limit })
  const walkedTo = yield* walkFile(file, walker, segmentHeaderBytes, limit, buffer, onProgress)
  const tail = yield* examineTail({ file, fileBytes: limit, logId, startLsn, isLast }, walker.validEnd, buffer)
  if (tail.provenBy !== undefined) {
    // Somebody may be writing the log: what was bad a moment ago was not written yet, if it is good now.
    yield* walkFile(file, walker, walker.restart(), limit, buffer, () => {})
  }
  onProgress(bytes - (walkedTo - segmentHeaderBytes))
  const lsn = (offset: number): Lsn => lsnAt(offset, startLsn)
  const isDamaged = tail.provenBy !== undefined && walker.validEnd < tail.provenBy
  return {
    name,
    path,
    bytes,
    startLsn,
    header,
    issue: undefined,
    endLsn: lsn(walker.validEnd),
    durableLsn: lsn(walker.durableEnd),
    batches: walker.batches,
    records: walker.records,
    payloadBytes: walker.payloadBytes,
    trailingBytes: Math.max(0, tail.end - walker.validEnd),
    stop: walker.reason,
    damage: isDamaged ? { provenBy: lsn(tail.provenBy) } : undefined
  }
})

/** Feeds the walk until it stops or the file ends; answers how far it came. */
const walkFile = Effect.fnUntraced(function*(
  file: VfsFile,
  walker: BatchWalker,
  from: number,
  limit: number,
  buffer: Uint8Array,
  onProgress: (bytes: number) => void
): Effect.fn.Return<number, VfsError> {
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength)
  let position = from
  while (walker.stop === undefined && position < limit) {
    const length = yield* file.read(buffer.subarray(0, Math.min(buffer.length, limit - position)), position)
    const next = walker.take(buffer.subarray(0, length), view)
    // Nothing was taken: the file ends inside a frame, or has become shorter.
    if (next === position) break
    onProgress(next - position)
    position = next
  }
  return position
})

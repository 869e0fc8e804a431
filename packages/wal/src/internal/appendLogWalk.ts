/**
 * The walk over the batches of a segment: the one decoder behind recovery, streams, inspection and verification. Purely
 * in memory, fed with blocks of the file in their order.
 *
 * Invariants
 * 1. `validEnd` is the offset behind the last batch of the longest run of valid ones. A batch is valid when its frames
 *    are well formed, it ends with a commit frame that names its start, and the checksum of that frame fits. It depends
 *    on nothing that lies behind it.
 * 2. Frames are not looked at again behind the first one that is not valid.
 * 3. Memory does not depend on what the file claims: a body that goes on behind its block is skipped, not gathered.
 *
 * @internal
 */
import { invariant } from "@tidemark/core/Invariant"
import type { Lsn } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import {
  batchStartAt,
  checksumAt,
  frameBytesAt,
  frameHeadBytes,
  isCommitAt,
  isFlaggedAt,
  isRecordAt,
  payloadBytesAt,
  segmentHeaderBytes
} from "../AppendLogFormat.ts"
import { crc32cOfRun, crc32cOfU64 } from "./crc32cShort.ts"
import { firstNonZero } from "./zeros.ts"

/** Why a walk stopped before its limit. */
export interface WalkStop {
  /** Of the frame that is not valid. */
  readonly offset: number
  /** A phrase with the batch at `validEnd` as its subject. */
  readonly reason: string
}

export interface WalkOptions {
  /** From the header of the segment. */
  readonly logId: Uint8Array
  readonly startLsn: Lsn
  /** Where in the file the walk begins: at a batch. */
  readonly from: number
  /** Where it ends, the size of the file at most. No frame reaches behind it. */
  readonly limit: number
}

/** The checksum of a batch over nothing but the log id: what the LSN of its start continues. */
export const logIdChecksum = (logId: Uint8Array): number => crc32c(logId)

/** @internal */
export class BatchWalker {
  /** Offset behind the last valid batch. */
  validEnd: number
  /** Of the valid batches: how many, and the records and bytes of payload in them. */
  batches = 0
  records = 0
  payloadBytes = 0
  /** The start, as an offset, of the last valid batch whose flag says that everything before it was durable. */
  durableEnd: number
  stop: WalkStop | undefined

  private readonly limit: number
  private readonly idChecksum: number
  /** LSN of offset 0, had the file frames there. */
  private readonly lsnOfZero: number
  /** Where the next block begins. */
  private position: number
  /** Where the next head stands; behind `position` while a body is skipped. */
  private next: number
  /** Between this offset and `next` everything has to be zero: the padding of a frame whose body is skipped. */
  private zeroFrom: number
  /** The checksum of the batch that is under way, over its bytes before `position`. */
  private checksum: number
  private batchRecords = 0
  private batchPayloadBytes = 0

  constructor(options: WalkOptions) {
    invariant(options.from % 8 === 0 && options.from >= segmentHeaderBytes, "a batch starts at a frame")
    this.limit = options.limit
    this.idChecksum = logIdChecksum(options.logId)
    this.lsnOfZero = options.startLsn - segmentHeaderBytes
    this.validEnd = options.from
    this.durableEnd = options.from
    this.position = options.from
    this.next = options.from
    this.zeroFrom = options.from
    this.checksum = this.seed(options.from)
  }

  /**
   * Takes the block of the file that begins where the last call said, or at the beginning of the walk, and answers
   * where the next one has to begin. That is in front of this block's end when a commit frame is cut off by it, so a
   * block has at least 16 bytes unless the file ends. Blocks are a multiple of 8 bytes long, but for the last one.
   */
  take(bytes: Uint8Array, view: DataView): number {
    const { position } = this
    const end = Math.min(bytes.length, this.limit - position)
    const limit = this.limit - position
    let at = this.next - position
    if (at > 0 && !this.checkSkipped(view, Math.min(at, end))) return position
    // Where the bytes begin that the checksum does not cover yet, and everything about the batch under way: locals,
    // because the compiler keeps those in registers.
    let checkedTo = 0
    let { batchPayloadBytes, batchRecords, checksum } = this
    while (at + frameHeadBytes <= end) {
      const frameBytes = frameBytesAt(view, at)
      if (frameBytes <= 0) {
        this.stopAt(at, frameBytes === 0 ? "is cut off by zeros" : "has a frame that is none")
        break
      }
      const frameEnd = at + frameBytes
      if (frameEnd > limit) {
        this.stopAt(at, "goes on behind the end of the file")
        break
      }
      if (isCommitAt(view, at)) {
        if (frameEnd > end) break
        const start = this.validEnd
        if (batchStartAt(view, at) !== start + this.lsnOfZero) {
          this.stopAt(at, "ends with the commit frame of another one")
          break
        }
        if (checksumAt(view, at) !== crc32cOfRun(bytes, view, checkedTo, at, checksum)) {
          this.stopAt(at, "does not have the checksum in its commit frame")
          break
        }
        this.batches++
        this.records += batchRecords
        this.payloadBytes += batchPayloadBytes
        batchRecords = 0
        batchPayloadBytes = 0
        if (isFlaggedAt(view, at)) this.durableEnd = start
        this.validEnd = position + frameEnd
        checkedTo = frameEnd
        checksum = this.seed(position + frameEnd)
      } else {
        let zeroFrom = at + frameHeadBytes
        if (isRecordAt(view, at)) {
          const payloadBytes = payloadBytesAt(view, at)
          zeroFrom += payloadBytes
          batchRecords++
          batchPayloadBytes += payloadBytes
        }
        if (zeroFrom < frameEnd && firstNonZero(view, zeroFrom, Math.min(frameEnd, end)) >= 0) {
          this.stopAt(at, "has a frame whose padding is not zero")
          break
        }
        this.zeroFrom = position + zeroFrom
      }
      at = frameEnd
    }
    const taken = Math.min(at, end)
    if (this.stop === undefined && taken > checkedTo) {
      checksum = crc32cOfRun(bytes, view, checkedTo, taken - (taken % 8), checksum)
    }
    this.checksum = checksum
    this.batchRecords = batchRecords
    this.batchPayloadBytes = batchPayloadBytes
    this.next = position + at
    this.position = position + taken
    return this.position
  }

  /** Why what stands at `validEnd` is no batch, as a phrase with the batch as its subject; `undefined` at the limit. */
  get reason(): string | undefined {
    if (this.stop !== undefined) return this.stop.reason
    return this.validEnd < this.limit ? "is cut off by the end of the file" : undefined
  }

  /** Begins again behind the last valid batch, for a file that somebody writes meanwhile; answers where the next block begins. */
  restart(): number {
    this.stop = undefined
    this.batchRecords = 0
    this.batchPayloadBytes = 0
    this.next = this.validEnd
    this.position = this.validEnd
    this.checksum = this.seed(this.validEnd)
    return this.position
  }

  /** The bytes of a frame that began in an earlier block: whether the padding among the first `to` of this one is zero. */
  private checkSkipped(view: DataView, to: number): boolean {
    const from = Math.max(0, this.zeroFrom - this.position)
    if (from >= to || firstNonZero(view, from, to) < 0) return true
    this.stopAt(from, "has a frame whose padding is not zero")
    return false
  }

  private seed(offset: number): number {
    return crc32cOfU64(offset + this.lsnOfZero, this.idChecksum)
  }

  private stopAt(at: number, reason: string): void {
    this.stop = { offset: this.position + at, reason }
  }
}

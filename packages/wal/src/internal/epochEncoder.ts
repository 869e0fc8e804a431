/**
 * From batches to the bytes of a segment, along two paths: the records are encoded into the lanes as they come (the
 * parallel path), or kept as values and encoded one after the other when their epoch is closed (the conservative path,
 * `shadowCompare.ts`). Both give the same bytes; a sample of the batches goes both ways and is compared before anything
 * of its epoch is written (PW-30).
 *
 * Invariants
 * 1. A batch goes the way that the mode says when it is stored. An epoch is written conservatively when one of its
 *    batches was stored so, or when a comparison found a difference.
 * 2. Where an image stands in the segment does not depend on the way.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, LaneId, PageNumber, WalEpoch } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import type * as Context from "effect/Context"
import * as Result from "effect/Result"
import type { HandOverWaiter } from "../GroupCommit.ts"
import * as LogMetrics from "../LogMetrics.ts"
import type { ControlSurface, ParallelWalMode } from "../ParallelWalControl.ts"
import { LaneFull } from "../ParallelWalErrors.ts"
import * as Format from "../SegmentFormat.ts"
import type { Batch } from "./epochLog.ts"
import type { Fallback } from "./fallback.ts"
import type { LaneBatch, Placed } from "./laneMemory.ts"
import type { Lanes, TakenEpoch } from "./lanes.ts"
import { compare, encodeConservatively, isSampled } from "./shadowCompare.ts"

const noImage = new Uint8Array(0)
const lane0 = 0 as LaneId // the lane that there always is

/** What a batch is given in the step that stores it. */
export interface HandedOver {
  readonly seq: CommitSeq
  readonly epoch: WalEpoch
  /** Milliseconds of the `Clock`. */
  readonly stagedAt: number
  readonly waiter: HandOverWaiter
}

/** A batch in the epoch that it was accepted in. */
export class BatchInEpoch implements LaneBatch {
  readonly _tag = "BatchInEpoch"
  readonly batch: Batch
  readonly seq: CommitSeq
  readonly epoch: WalEpoch
  readonly lane: LaneId
  readonly stagedAt: number
  readonly waiter: HandOverWaiter
  readonly frames: number
  readonly accountedBytes: number
  readonly encodedBytes: number
  /** It goes the conservative path. */
  readonly isConservative: boolean
  /** For the conservative path and for comparing with it, with images of their own. */
  readonly records: ReadonlyArray<Format.SegmentRecord> | undefined
  private readonly pageSize: number

  constructor(
    batch: Batch,
    pageSize: number,
    lane: LaneId,
    at: HandedOver,
    how: { readonly isConservative: boolean; readonly isSampled: boolean }
  ) {
    this.batch = batch
    this.pageSize = pageSize
    this.lane = lane
    this.seq = at.seq
    this.epoch = at.epoch
    this.stagedAt = at.stagedAt
    this.waiter = at.waiter
    this.frames = batch.pages.length
    this.accountedBytes = this.frames * Format.accountedBytes(0, pageSize)
    this.encodedBytes = this.frames * Format.recordBytes(0, pageSize, true)
    this.isConservative = how.isConservative
    this.records = how.isConservative || how.isSampled
      ? batch.pages.map((page) => this.recordOf(page, true))
      : undefined
  }

  fill(target: Uint8Array, view: DataView, offset: number): number {
    let at = offset
    for (const page of this.batch.pages) at = Format.writeRecord(target, view, at, this.recordOf(page, false))
    return at
  }

  private recordOf(page: PageNumber, isCopied: boolean): Format.SegmentRecord {
    const image = this.batch.image(page)
    invariant(image.length === this.pageSize, "the image of a page has the size of a page")
    return {
      token: this.batch.token,
      walEpoch: this.epoch,
      page,
      begin: this.seq,
      end: this.seq,
      before: noImage,
      after: isCopied ? image.slice() : image
    }
  }
}

/** What is written for an epoch, and what is certified about it. */
export interface EpochImage {
  readonly buffers: ReadonlyArray<Uint8Array>
  /** CRC-32C of all of them. */
  readonly crc: number
  /** By record: its page, and where its image starts in the file. */
  readonly pages: ReadonlyArray<PageNumber>
  readonly offsets: Float64Array
  /** Distinct pages. */
  readonly pageSetSize: number
  readonly laneRecords: ReadonlyArray<number>
  readonly isFallback: boolean
}

export class EpochEncoder {
  control: ControlSurface
  readonly fallback: Fallback
  private readonly pageSize: number
  private readonly context: Context.Context<never>
  private stored = 0

  constructor(options: {
    readonly control: ControlSurface
    readonly fallback: Fallback
    readonly pageSize: number
    readonly context: Context.Context<never>
  }) {
    this.control = options.control
    this.fallback = options.fallback
    this.pageSize = options.pageSize
    this.context = options.context
  }

  /** The mode in which batches are stored now. */
  get mode(): ParallelWalMode {
    return this.fallback.modeOf(this.control.mode)
  }

  /** The lane that a writer's batch goes to now: there is only one in conservative mode. */
  laneFor(lane: LaneId): LaneId {
    return this.mode === "conservative" ? lane0 : lane
  }

  /** Stores a batch as a whole, or answers why its lane does not take it. */
  store(lanes: Lanes<BatchInEpoch>, lane: LaneId, batch: Batch, at: HandedOver): BatchInEpoch | LaneFull {
    const { mode } = this
    const ordinal = this.stored + 1
    const isConservative = mode === "conservative"
    const entry = new BatchInEpoch(batch, this.pageSize, this.laneFor(lane), at, {
      isConservative,
      isSampled: isSampled(mode, ordinal, this.control.shadowComparePerMille)
    })
    const outcome = lanes.append(entry.lane, entry)
    if (lanes.isLatched) this.fallback.enter("lane_overflow")
    if (outcome instanceof LaneFull) return outcome
    if (outcome === "overflowed") LogMetrics.overflowedBatches.updateUnsafe(1, this.context)
    this.stored = ordinal
    return entry
  }

  /** What is to be written for a closed epoch. */
  gather(taken: TakenEpoch<BatchInEpoch>): EpochImage {
    const header = Format.encodeHeader(taken.epoch, taken.frames)
    const isParallel = this.agrees(taken) && !taken.batches.some(({ payload: { batch } }) => batch.isConservative)
    const buffers = isParallel
      ? [header, ...taken.buffers]
      : [encodeConservatively(taken.epoch, taken.batches.flatMap(({ payload }) => recordsOf(payload)))]
    const pages: Array<PageNumber> = []
    const offsets = new Float64Array(taken.frames)
    const recordBytes = Format.recordBytes(0, this.pageSize, true)
    for (const { payload: { batch } } of taken.batches) for (const page of batch.batch.pages) pages.push(page)
    for (let record = 0; record < taken.frames; record++) {
      offsets[record] = Format.afterImageOffset(Format.segmentHeaderBytes + record * recordBytes, 0, true)
    }
    let crc = 0
    for (const buffer of buffers) crc = crc32c(buffer, crc)
    return {
      buffers,
      crc,
      pages,
      offsets,
      pageSetSize: new Set(pages).size,
      laneRecords: lanesInUse(taken.laneFrames),
      isFallback: this.fallback.active
    }
  }

  /** Compares the batches that were sampled (PW-30). */
  private agrees({ batches, epoch }: TakenEpoch<BatchInEpoch>): boolean {
    let agrees = true
    for (const staged of batches) {
      const { batch, memory, offset } = staged.payload
      if (batch.records === undefined || batch.isConservative) continue
      const written = [
        Format.encodeHeader(epoch, batch.frames),
        memory.subarray(offset, offset + batch.encodedBytes)
      ]
      LogMetrics.shadowCompares.updateUnsafe(1, this.context)
      if (compare(written, batch.records, epoch) === "clean") {
        staged.shadow = "clean"
        continue
      }
      staged.shadow = "diverged"
      LogMetrics.shadowDifferences.updateUnsafe(1, this.context)
      this.fallback.enter("publication_mismatch")
      agrees = false
    }
    return agrees
  }

  /** An epoch was certified and published, and its memory released. */
  flushed(lanes: Lanes<BatchInEpoch>): void {
    const { fallback } = this
    fallback.noteCleanCertificate()
    if (!lanes.isLatched && lanes.overflowedBytes === 0) fallback.noteDrained()
    LogMetrics.fallbackActive.updateUnsafe(fallback.active ? 1 : 0, this.context)
  }
}

/** Up to the last lane that has records: every lane takes room in the certificate. */
const lanesInUse = (laneFrames: ReadonlyArray<number>): ReadonlyArray<number> =>
  laneFrames.slice(0, laneFrames.findLastIndex((frames) => frames > 0) + 1)

/** The records of a batch: those that were kept, else what was encoded, which has a checksum. */
const recordsOf = ({ batch, memory, offset }: Placed<BatchInEpoch>): ReadonlyArray<Format.SegmentRecord> => {
  if (batch.records !== undefined) return batch.records
  const header = Format.encodeHeader(batch.epoch, batch.frames)
  const bytes = new Uint8Array(header.length + batch.encodedBytes)
  bytes.set(header)
  bytes.set(memory.subarray(offset, offset + batch.encodedBytes), header.length)
  const decoded = Format.decode(bytes, batch.epoch)
  invariant(Result.isSuccess(decoded), "what was encoded into a lane can be read again")
  return decoded.success.records
}

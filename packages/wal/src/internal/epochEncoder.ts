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
import type * as Context from "effect/Context"
import * as Result from "effect/Result"
import type { HandOverWaiter } from "../GroupCommit.ts"
import * as LogMetrics from "../LogMetrics.ts"
import type { ControlSurface, ParallelWalMode } from "../ParallelWalControl.ts"
import { LaneFull } from "../ParallelWalErrors.ts"
import type { FallbackReason } from "../ParallelWalTrace.ts"
import * as Format from "../SegmentFormat.ts"
import type { Batch } from "./epochLog.ts"
import type { Fallback } from "./fallback.ts"
import type { LaneBatch, Placed } from "./laneMemory.ts"
import type { Lanes, TakenEpoch } from "./lanes.ts"
import type { ShadowVerdict } from "./laneStager.ts"
import type { LaterLog } from "./laterLog.ts"
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
  /** What the certificate keeps of them: `SegmentFormat.certifiedChecksum`. */
  readonly crc: number
  /** By record: its page, and where its image starts in the file. */
  readonly pages: ReadonlyArray<PageNumber>
  readonly offsets: Float64Array
  /** Distinct pages. */
  readonly pageSetSize: number
  readonly laneRecords: ReadonlyArray<number>
  readonly isFallback: boolean
  /** The batches that went both ways, and what comparing them has shown. */
  readonly compared: ReadonlyArray<{ readonly batch: BatchInEpoch; readonly verdict: ShadowVerdict }>
}

export class EpochEncoder {
  control: ControlSurface
  readonly fallback: Fallback
  private readonly laterLog: LaterLog
  private readonly pageSize: number
  private readonly context: Context.Context<never>
  private stored = 0

  constructor(options: {
    readonly control: ControlSurface
    readonly fallback: Fallback
    readonly laterLog: LaterLog
    readonly pageSize: number
    readonly context: Context.Context<never>
  }) {
    this.control = options.control
    this.fallback = options.fallback
    this.laterLog = options.laterLog
    this.pageSize = options.pageSize
    this.context = options.context
  }

  /** The mode in which batches are stored now. */
  get mode(): ParallelWalMode {
    return this.fallback.modeOf(this.control.mode)
  }

  /** Works conservatively from now on, until the reason is gone (PW-31). */
  fallBack(reason: FallbackReason): void {
    if (!this.fallback.enter(reason)) return
    this.noteFallback()
    this.laterLog.warn(`the parallel WAL works conservatively: ${reason}`)
  }

  /** Ends every fallback but that of an overflow. */
  resume(): void {
    const cleared = this.fallback.resume()
    this.noteFallback()
    if (cleared.length > 0) this.laterLog.warn(`the parallel WAL was told to resume after ${cleared.join(", ")}`)
  }

  private noteFallback(): void {
    LogMetrics.fallbackActive.updateUnsafe(this.fallback.active ? 1 : 0, this.context)
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
    if (lanes.isLatched) this.fallBack("lane_overflow")
    if (outcome instanceof LaneFull) return outcome
    if (outcome === "overflowed") LogMetrics.overflowedBatches.updateUnsafe(1, this.context)
    this.stored = ordinal
    return entry
  }

  /** What is to be written for a closed epoch. */
  gather(taken: TakenEpoch<BatchInEpoch>): EpochImage {
    const header = Format.encodeHeader(taken.epoch, taken.frames)
    const compared = this.compareSampled(taken)
    const isParallel = compared.every(({ verdict }) => verdict === "clean") &&
      !taken.batches.some(({ payload: { batch } }) => batch.isConservative)
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
    return {
      buffers,
      crc: Format.certifiedChecksum(buffers),
      pages,
      offsets,
      pageSetSize: new Set(pages).size,
      laneRecords: lanesInUse(taken.laneFrames),
      isFallback: this.fallback.active,
      compared
    }
  }

  /** Compares the batches that were sampled (PW-30). */
  private compareSampled({ batches, epoch }: TakenEpoch<BatchInEpoch>): EpochImage["compared"] {
    const compared: Array<EpochImage["compared"][number]> = []
    for (const staged of batches) {
      const { batch, memory, offset } = staged.payload
      if (batch.records === undefined || batch.isConservative) continue
      const written = [
        Format.encodeHeader(epoch, batch.frames),
        memory.subarray(offset, offset + batch.encodedBytes)
      ]
      LogMetrics.shadowCompares.updateUnsafe(1, this.context)
      const found = compare(written, batch.records, epoch)
      staged.shadow = found === "clean" ? "clean" : "diverged"
      compared.push({ batch, verdict: staged.shadow })
      if (found === "clean") continue
      LogMetrics.shadowDifferences.updateUnsafe(1, this.context)
      this.fallBack("publication_mismatch")
      this.laterLog.error(
        `commit ${batch.seq} was encoded in two ways that differ, and is written the conservative way`,
        found.difference
      )
    }
    return compared
  }

  /** An epoch was certified and published, and its memory released. */
  flushed(lanes: Lanes<BatchInEpoch>): void {
    const { fallback } = this
    fallback.noteCleanCertificate()
    if (!lanes.isLatched && lanes.overflowedBytes === 0) fallback.noteDrained()
    this.noteFallback()
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

/**
 * All lanes of a parallel WAL: where batches gather until their epoch is closed, and stay until it is durable.
 *
 * An append is one synchronous step. The engine assigns the commit sequence and knows the open epoch in the same step
 * (PW-08), and what that rule rests on here is: `append` never suspends, calls `fill` before it answers, and what it
 * accepted belongs to the epoch that the next `seal` names. So no batch falls between two epochs, the batches of an epoch
 * have the sequences of an interval, and their order is the order of these.
 *
 * Two epochs can be here at a time: the one that gathers, and one that is sealed or flushed. A flush that fails changes
 * nothing; its epoch is taken again, and until it is released no other is sealed.
 *
 * Invariants
 * 1. Batches leave in the order in which they were accepted, whichever lane they came through.
 * 2. A batch that overflowed its lane is in the flush of the epoch that it was accepted in (PW-07).
 * 3. Epochs grow; all lanes are in the same state.
 * 4. A batch is stored as a whole or not at all; what `fill` throws leaves no trace.
 * 5. The latch is set while overflowed bytes are above their limit.
 */
import { invariant } from "@tidemark/core/Invariant"
import { LaneId, type WalEpoch } from "@tidemark/core/Scalars"
import { LaneFull } from "../ParallelWalErrors.ts"
import { LaneBuffer } from "./laneBuffer.ts"
import { type EpochMemory, type LaneBatch, LaneMemory, type Placed } from "./laneMemory.ts"
import { LaneStager, type StagedBatch } from "./laneStager.ts"

/** What becomes of a batch that does not fit into its lane: it is refused, or stored beside the lane. @internal */
export type OverflowPolicy = "block" | "overflow"

/** @internal */
export interface LanesOptions {
  readonly laneCount: number
  readonly laneCapacityBytes: number
  readonly overflowPolicy: OverflowPolicy
  /** Accounted bytes beside the lanes above which the latch is set. */
  readonly overflowLimitBytes: number
  /** Memory is taken in so many bytes; the default is right but for tests. */
  readonly chunkBytes?: number
}

/** A closed epoch, as the segment wants it. @internal */
export interface TakenEpoch<Batch = LaneBatch> {
  readonly epoch: WalEpoch
  /** The encoded records of all batches in append order; valid until the epoch is released. */
  readonly buffers: ReadonlyArray<Uint8Array>
  /** Length of the buffers together. */
  readonly bytes: number
  /** Records of all batches together, and by lane. */
  readonly frames: number
  readonly laneFrames: ReadonlyArray<number>
  /** In append order; their places are in `payload`. */
  readonly batches: ReadonlyArray<StagedBatch<Placed<Batch>>>
}

/** What has been accepted since the last epoch was sealed. */
interface Gathering<Batch> {
  readonly batches: Array<StagedBatch<Placed<Batch>>>
  overflowedBytes: number
}

/** The epoch that is sealed or flushed. */
interface Closed<Batch> {
  readonly epoch: WalEpoch
  readonly batches: ReadonlyArray<StagedBatch<Placed<Batch>>>
  readonly overflowedBytes: number
  readonly memory: EpochMemory
  /** From the first time that it was taken. */
  taken: TakenEpoch<Batch> | undefined
}

const makeGathering = <Batch>(): Gathering<Batch> => ({ batches: [], overflowedBytes: 0 })

/** @internal */
export class Lanes<Batch extends LaneBatch = LaneBatch> {
  /**
   * Whether the lanes were not enough: more overflowed than the limit, or somebody came with a batch that is larger than
   * a lane. Cleared by the release after which nothing overflowed is left.
   */
  isLatched = false
  private readonly options: LanesOptions
  private readonly memory: LaneMemory<Batch>
  private readonly lanes: ReadonlyArray<LaneBuffer<Batch>>
  private readonly laneIds: ReadonlyArray<LaneId>
  private readonly stager: LaneStager<Placed<Batch>>
  private gathering: Gathering<Batch> = makeGathering()
  private closed: Closed<Batch> | undefined = undefined
  private lastEpoch: WalEpoch | undefined = undefined

  constructor(options: LanesOptions) {
    this.options = options
    this.memory = new LaneMemory(options.chunkBytes)
    this.lanes = Array.from(
      { length: options.laneCount },
      () => new LaneBuffer(options.laneCapacityBytes, this.memory)
    )
    this.laneIds = this.lanes.map((_, lane) => LaneId.make(lane))
    this.stager = new LaneStager(options.laneCount)
  }

  /** Nothing gathers, is sealed or being flushed. */
  get isEmpty(): boolean {
    return this.gathering.batches.length === 0 && (this.closed?.batches.length ?? 0) === 0
  }

  /** Whether an epoch can be sealed: none is closed and not released. */
  get canSeal(): boolean {
    return this.closed === undefined
  }

  /** Frames that were accepted and not yet taken for a flush. */
  get backlogFrames(): number {
    return this.stager.backlogFrames
  }

  /** Encoded bytes of the same batches. */
  get backlogBytes(): number {
    const { closed, memory } = this
    return memory.placedBytes + (closed !== undefined && closed.taken === undefined ? closed.memory.bytes : 0)
  }

  /** Accounted bytes that were stored beside the lanes and are not released. */
  get overflowedBytes(): number {
    return this.gathering.overflowedBytes + (this.closed?.overflowedBytes ?? 0)
  }

  /** When the oldest of the batches that gather was staged. */
  get oldestStagedAt(): number | undefined {
    return this.gathering.batches[0]?.stagedAt
  }

  /** How full the fullest lane is that gathers, 0 ... 1. */
  get occupancy(): number {
    let usedBytes = 0
    for (const lane of this.lanes) usedBytes = Math.max(usedBytes, lane.usedBytes)
    return usedBytes / this.options.laneCapacityBytes
  }

  /** Bytes of memory that are kept for the epochs to come. */
  get keptBytes(): number {
    return this.memory.keptBytes
  }

  /** Whether a batch that counts for so many bytes goes into its lane now. */
  fits(lane: LaneId, accountedBytes: number): boolean {
    return accountedBytes <= (this.lanes[lane]?.freeBytes ?? 0)
  }

  /** Stores a batch in its lane, or beside it when it does not fit and the policy allows that. */
  append(lane: LaneId, batch: Batch): "stored" | "overflowed" | LaneFull {
    const buffer = this.lanes[lane]
    invariant(buffer !== undefined, "a batch is appended to a lane that there is")
    const stored = buffer.tryAppend(batch)
    if (stored !== undefined) {
      this.stage(lane, stored)
      return "stored"
    }
    const { laneCapacityBytes: capacityBytes, overflowLimitBytes, overflowPolicy } = this.options
    const neededBytes = batch.accountedBytes
    if (overflowPolicy === "overflow") {
      this.stage(lane, this.memory.place(batch))
      this.gathering.overflowedBytes += neededBytes
    }
    if (neededBytes > capacityBytes || this.overflowedBytes > overflowLimitBytes) this.isLatched = true
    if (overflowPolicy === "overflow") return "overflowed"
    return new LaneFull({ lane, neededBytes, freeBytes: buffer.freeBytes, capacityBytes })
  }

  /** Closes the epoch that gathers. What is appended from now on belongs to a later one. */
  seal(epoch: WalEpoch): void {
    invariant(this.canSeal, "an epoch is sealed when the one before it is released")
    invariant(this.lastEpoch === undefined || epoch > this.lastEpoch, "epochs grow")
    for (const lane of this.lanes) lane.seal(epoch)
    const { batches, overflowedBytes } = this.gathering
    this.closed = { epoch, batches, overflowedBytes, memory: this.memory.take(), taken: undefined }
    this.gathering = makeGathering()
    this.lastEpoch = epoch
  }

  /** What is to be written for a sealed epoch; the same again for as long as its flush is tried. */
  takeSealed(epoch: WalEpoch): TakenEpoch<Batch> {
    const { closed } = this
    invariant(closed?.epoch === epoch, "the epoch that is taken was sealed and is not released")
    if (closed.taken !== undefined) return closed.taken
    for (const lane of this.lanes) lane.startFlush(epoch)
    const laneFrames = this.takeFromStager(closed.batches)
    closed.taken = {
      epoch,
      buffers: closed.memory.buffers,
      bytes: closed.memory.bytes,
      frames: laneFrames.reduce((sum, frames) => sum + frames, 0),
      laneFrames,
      batches: closed.batches
    }
    return closed.taken
  }

  /** The epoch is durable: its memory is used again, and nobody may look at it any more. */
  release(epoch: WalEpoch): void {
    const { closed } = this
    invariant(closed?.epoch === epoch, "the epoch that is released was sealed and is not released")
    for (const lane of this.lanes) lane.release(epoch)
    this.memory.giveBack(closed.memory)
    this.closed = undefined
    if (this.overflowedBytes === 0) this.isLatched = false
  }

  /** Gives up what is not released, at the end of a log that could not be written, and answers it in append order. */
  abandon(): ReadonlyArray<StagedBatch<Placed<Batch>>> {
    const lost = [...this.closed?.batches ?? [], ...this.gathering.batches]
    this.stager.discard(lost.map(({ id }) => id))
    for (const lane of this.lanes) lane.abandon()
    this.memory.clear()
    this.closed = undefined
    this.gathering = makeGathering()
    this.isLatched = false
    return lost
  }

  private stage(lane: LaneId, placed: Placed<Batch>): void {
    const { frames, stagedAt } = placed.batch
    this.gathering.batches.push(this.stager.stage(lane, frames, stagedAt, placed))
  }

  /** Takes the batches of an epoch, which are the front of each lane's queue, and answers the frames by lane. */
  private takeFromStager(batches: ReadonlyArray<StagedBatch<Placed<Batch>>>): ReadonlyArray<number> {
    const laneFrames = this.lanes.map(() => 0)
    const idsByLane = this.lanes.map((): Array<number> => [])
    for (const { frames, id, lane } of batches) {
      laneFrames[lane] = (laneFrames[lane] ?? 0) + frames
      idsByLane[lane]?.push(id)
    }
    for (const lane of this.laneIds) {
      const taken = this.stager.takeForFlush(lane, idsByLane[lane] ?? [])
      invariant(taken !== undefined, "the batches of an epoch are the front of their lanes")
    }
    return laneFrames
  }
}

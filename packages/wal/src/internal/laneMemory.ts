/**
 * The memory of an epoch: the encoded records of its batches, in the order in which they were accepted.
 *
 * All lanes of a parallel WAL share it, which costs them nothing: an append is one synchronous step of one thread. In
 * return the bytes lie as the segment wants them. A segment is written in recovery order, which is the order of commit
 * sequences, which is the order of appends (PW-08); memory of each lane's own would have to be merged batch by batch, and
 * a thousand batches of one record would be a thousand buffers to write.
 *
 * Invariants
 * 1. The buffers of an epoch, one after the other, are its batches in append order, without a gap.
 * 2. A batch lies in one chunk.
 * 3. A chunk is in one place: with the epoch that gathers, with an epoch that was taken, or kept for the next.
 * 4. When `fill` throws, nothing has been placed.
 */
import { invariant } from "@tidemark/core/Invariant"

/**
 * What a writer appends: all records of one transaction.
 *
 * It is an object of the caller's, because it has one for each commit in any case.
 *
 * @internal
 */
export interface LaneBatch {
  /** What it counts for in its lane: `SegmentFormat.accountedBytes` of each record. */
  readonly accountedBytes: number
  /** What it takes in the segment: `SegmentFormat.recordBytes` of each record. */
  readonly encodedBytes: number
  /** Records, each a page. */
  readonly frames: number
  /** Milliseconds of the `Clock`. */
  readonly stagedAt: number
  /** Writes exactly `encodedBytes` bytes at `offset` and answers the offset behind them. `view` shows what `target` does. */
  fill(target: Uint8Array, view: DataView, offset: number): number
}

/** Where a batch lies, until its epoch is released. @internal */
export interface Placed<Batch> {
  readonly batch: Batch
  /** The chunk, of which it has `encodedBytes` bytes from `offset`. */
  readonly memory: Uint8Array
  readonly offset: number
  /** Bytes of the same epoch before it: its records begin so far behind the header of the segment. */
  readonly position: number
}

interface Chunk {
  readonly bytes: Uint8Array
  readonly view: DataView
  used: number
}

/** What {@link LaneMemory.take} took. @internal */
export interface EpochMemory {
  readonly bytes: number
  /** Views of the chunks, as far as they are used. */
  readonly buffers: ReadonlyArray<Uint8Array>
  readonly chunks: ReadonlyArray<Chunk>
}

/**
 * Chunks are so large, or a multiple of it for a batch that is larger: then what one epoch took fits another. A batch
 * that does not fit behind the last one begins a chunk, so at most half of the memory is lost to ends.
 */
const defaultChunkBytes = 256 * 1024

/** Of the memory that earlier epochs took and the last one did not, one part in so many goes with each epoch. */
const surplusParts = 8

/** @internal */
export class LaneMemory<Batch extends LaneBatch> {
  /** Bytes that were placed since the last {@link LaneMemory.take}. */
  placedBytes = 0
  /** Bytes of the chunks that wait for the next epoch. */
  keptBytes = 0
  private readonly chunkBytes: number
  private chunks: Array<Chunk> = []
  /** Kept for the next epoch: chunks of the usual size, and larger ones. */
  private readonly usual: Array<Chunk> = []
  private readonly large: Array<Chunk> = []
  private mostKeptBytes = 0

  constructor(chunkBytes = defaultChunkBytes) {
    this.chunkBytes = chunkBytes
  }

  place(batch: Batch): Placed<Batch> {
    const { encodedBytes } = batch
    const last = this.chunks.at(-1)
    const isLast = last !== undefined && last.used + encodedBytes <= last.bytes.length
    const chunk = isLast ? last : this.takeChunk(encodedBytes)
    const offset = chunk.used
    try {
      const end = batch.fill(chunk.bytes, chunk.view, offset)
      invariant(end === offset + encodedBytes, "a batch is filled with exactly the bytes that it announced")
    } catch (defect) {
      if (!isLast) this.keep(chunk)
      throw defect
    }
    if (!isLast) this.chunks.push(chunk)
    chunk.used = offset + encodedBytes
    const placed = { batch, memory: chunk.bytes, offset, position: this.placedBytes }
    this.placedBytes += encodedBytes
    return placed
  }

  /** Takes what was placed; what is placed from now on belongs to the next epoch. */
  take(): EpochMemory {
    const { chunks, placedBytes } = this
    this.chunks = []
    this.placedBytes = 0
    const buffers: Array<Uint8Array> = []
    for (const { bytes, used } of chunks) {
      // Only batches without records leave a chunk empty.
      if (used > 0) buffers.push(used === bytes.length ? bytes : bytes.subarray(0, used))
    }
    return { bytes: placedBytes, buffers, chunks }
  }

  /**
   * Gives the memory of an epoch back, of which nobody may hold a view now.
   *
   * As much is kept as the epoch took, so that the next one of its size allocates nothing, and of what larger ones
   * before it took a share that shrinks with each epoch: a burst does not hold its memory for ever.
   */
  giveBack({ chunks }: EpochMemory): void {
    let bytes = 0
    for (const chunk of chunks) {
      bytes += chunk.bytes.length
      chunk.used = 0
      this.keep(chunk)
    }
    const surplus = Math.max(0, this.mostKeptBytes - bytes)
    this.mostKeptBytes = bytes + surplus - Math.ceil(surplus / surplusParts)
    this.trim()
  }

  /** Lets go of all memory that was not taken. */
  clear(): void {
    this.chunks = []
    this.placedBytes = 0
    this.mostKeptBytes = 0
    this.trim()
  }

  private trim(): void {
    while (this.keptBytes > this.mostKeptBytes) {
      const chunk = this.large.shift() ?? this.usual.pop()
      invariant(chunk !== undefined, "what is kept is counted")
      this.keptBytes -= chunk.bytes.length
    }
  }

  private keep(chunk: Chunk): void {
    if (chunk.bytes.length === this.chunkBytes) this.usual.push(chunk)
    else this.large.push(chunk)
    this.keptBytes += chunk.bytes.length
  }

  /** A chunk that `length` bytes fit into; it is the epoch's only when it is pushed. */
  private takeChunk(length: number): Chunk {
    const { chunkBytes } = this
    const kept = length <= chunkBytes ? this.usual.pop() : this.takeLarge(length)
    if (kept === undefined) {
      const bytes = new Uint8Array(Math.max(1, Math.ceil(length / chunkBytes)) * chunkBytes)
      return { bytes, view: new DataView(bytes.buffer), used: 0 }
    }
    this.keptBytes -= kept.bytes.length
    return kept
  }

  /** The smallest of the large chunks that are large enough. */
  private takeLarge(length: number): Chunk | undefined {
    let best = -1
    let bestBytes = Infinity
    for (const [at, { bytes }] of this.large.entries()) {
      if (bytes.length < length || bytes.length >= bestBytes) continue
      best = at
      bestBytes = bytes.length
    }
    return best < 0 ? undefined : this.large.splice(best, 1)[0]
  }
}

/**
 * The bytes that wait to be written: runs, in the order of their positions.
 *
 * A *run* is what lies between two cut points: hand-overs next to each other, copied into chunks of memory, and at its
 * end the cut point itself where the log has any. A scoped reservation always starts a run, so that everything before
 * it can be written while it is open. A batch is a number of whole runs from the front.
 *
 * Invariants
 * 1. Runs are contiguous: a run starts where the one before it ended.
 * 2. Only the first bytes of a run can be an open reservation.
 * 3. `reserved` = end of the last run.
 */
import { invariant } from "@tidemark/core/Invariant"
import { toLsn } from "@tidemark/core/Scalars"
import type { GroupCommitSink } from "../GroupCommit.ts"

/** Memory for hand-overs. Small ones share a chunk; a large one gets a chunk of its own. */
interface Chunk {
  readonly bytes: Uint8Array
  readonly view: DataView
  /** The bytes of the batch are those from `first` to `used`. */
  first: number
  used: number
  /** Whether the queue uses it again. */
  readonly isPooled: boolean
}

interface Run {
  start: number
  length: number
  commits: number
  readonly chunks: Array<Chunk>
  /** What this run begins with, if it is a scoped reservation. */
  readonly reservation: OpenReservation | undefined
}

/** @internal */
export interface OpenReservation {
  readonly start: number
  readonly bytes: Uint8Array
  readonly view: DataView
  /** Until it is settled, or the queue is cleared. */
  isOpen: boolean
}

/** @internal */
export interface Batch {
  readonly start: number
  readonly end: number
  readonly commits: number
  /** What is to be written at `start`, in order. */
  readonly buffers: ReadonlyArray<Uint8Array>
  readonly chunks: ReadonlyArray<Chunk>
}

/** @internal */
export type Fill = (target: Uint8Array, view: DataView, offset: number) => void

/** @internal */
export interface RunQueueOptions {
  readonly initial: number
  readonly maxBatchBytes: number
  readonly cutPointBytes: number
  /** `GroupCommitSink.memory`. */
  readonly memory?: GroupCommitSink["memory"]
  /** Writes a cut point that is not used, or a reservation that was given up. */
  readonly pad: (target: Uint8Array, view: DataView, offset: number, length: number) => void
}

/** Memory is taken in chunks of so many bytes at the most, and at the least. */
const maxChunkBytes = 256 * 1024
const minChunkBytes = 256
/** Memory that the sink makes is not copied, as long as a batch lies in one chunk of it: 508 frames of 4 KiB. */
const sinkChunkBytes = 2 * 1024 * 1024

/** @internal */
export class RunQueue {
  reserved: number
  private readonly options: RunQueueOptions
  private readonly runs: Array<Run> = []
  private readonly pool: Array<Chunk> = []
  private readonly chunkBytes: number
  private readonly maxPooledChunks: number

  constructor(options: RunQueueOptions) {
    this.options = options
    this.reserved = options.initial
    // Every run has a chunk, and holds no more than a batch.
    this.chunkBytes = options.memory === undefined
      ? Math.min(maxChunkBytes, Math.max(minChunkBytes, options.maxBatchBytes))
      : sinkChunkBytes
    this.maxPooledChunks = Math.max(2, Math.ceil(options.maxBatchBytes / this.chunkBytes))
  }

  /** Hand-overs that are queued. */
  get commits(): number {
    let commits = 0
    for (const run of this.runs) commits += run.commits
    return commits
  }

  get isEmpty(): boolean {
    return this.runs.length === 0
  }

  get openReservations(): ReadonlyArray<OpenReservation> {
    return this.runs.flatMap(({ reservation }) => reservation?.isOpen === true ? [reservation] : [])
  }

  /** The most bytes of cut points that the next hand-over brings with it: of the last run, and of its own. */
  get futureCutBytes(): number {
    return this.runs.length === 0 ? this.options.cutPointBytes : 2 * this.options.cutPointBytes
  }

  /**
   * Reserves `length` bytes, lets `fill` write them, and answers the position behind them. When `fill` throws, nothing
   * has changed.
   */
  append(length: number, fill: Fill): number {
    const { cutPointBytes, maxBatchBytes } = this.options
    const last = this.runs.at(-1)
    const isFull = last !== undefined && last.length + length + cutPointBytes > maxBatchBytes
    const run = last === undefined || isFull ? makeRun() : last
    const chunk = this.chunkFor(run, length)
    fill(chunk.bytes, chunk.view, chunk.used)
    if (run !== last) {
      if (last !== undefined) this.closeRun(last)
      run.start = this.reserved
      this.runs.push(run)
    }
    this.extend(run, chunk, length)
    run.commits++
    return this.reserved
  }

  /** Reserves `length` bytes that are filled later. */
  reserve(length: number): OpenReservation {
    const last = this.runs.at(-1)
    if (last !== undefined) this.closeRun(last)
    const chunk = makeChunk(length + this.options.cutPointBytes)
    const reservation = {
      start: this.reserved,
      bytes: chunk.bytes.subarray(0, length),
      view: chunk.view,
      isOpen: true
    }
    const run = makeRun(reservation)
    run.start = this.reserved
    run.commits = 1
    this.runs.push(run)
    this.extend(run, chunk, length)
    return reservation
  }

  /** The bytes of the reservation are there now. */
  settle(reservation: OpenReservation): void {
    invariant(reservation.isOpen, "a reservation is settled once, while its run is queued")
    reservation.isOpen = false
  }

  /** Takes the contiguous prefix that is filled: at least one run, more only up to `maxBatchBytes`. */
  take(): Batch | undefined {
    const { cutPointBytes, maxBatchBytes } = this.options
    const first = this.runs[0]
    if (first === undefined) return undefined
    const taken: Array<Run> = []
    let length = 0
    for (const run of this.runs) {
      if (run.reservation?.isOpen === true) break
      // The last run of the queue has no cut point yet: the draining step makes it.
      const bytes = taken.length + 1 === this.runs.length ? run.length + cutPointBytes : run.length
      if (taken.length > 0 && length + bytes > maxBatchBytes) break
      taken.push(run)
      length += bytes
    }
    const last = taken.at(-1)
    if (last === undefined) return undefined
    if (taken.length === this.runs.length) this.closeRun(last)
    this.runs.splice(0, taken.length)
    const chunks = taken.flatMap((run) => run.chunks)
    if (cutPointBytes > 0) {
      for (const run of taken) {
        if (run === last) continue
        const chunk = run.chunks.at(-1)
        invariant(chunk !== undefined, "a run has bytes")
        this.options.pad(chunk.bytes, chunk.view, chunk.used - cutPointBytes, cutPointBytes)
      }
    }
    return {
      start: first.start,
      end: first.start + length,
      commits: taken.reduce((sum, run) => sum + run.commits, 0),
      buffers: chunks.map((chunk) =>
        chunk.used === chunk.bytes.length && chunk.first === 0
          ? chunk.bytes
          : chunk.bytes.subarray(chunk.first, chunk.used)
      ),
      chunks
    }
  }

  /** Gives the memory of a written batch back. */
  recycle(batch: Batch): void {
    for (const chunk of batch.chunks) {
      if (chunk.isPooled && this.pool.length < this.maxPooledChunks) this.pool.push(chunk)
    }
  }

  /** Forgets everything that is queued. */
  clear(): void {
    for (const { reservation } of this.runs) if (reservation !== undefined) reservation.isOpen = false
    this.runs.length = 0
    this.pool.length = 0
  }

  private closeRun(run: Run): void {
    const { cutPointBytes } = this.options
    if (cutPointBytes > 0) this.extend(run, this.chunkFor(run, cutPointBytes), cutPointBytes)
  }

  /** Appends bytes that were written to `chunk`, which {@link RunQueue.chunkFor} gave. */
  private extend(run: Run, chunk: Chunk, length: number): void {
    if (run.chunks.at(-1) !== chunk) run.chunks.push(chunk)
    chunk.used += length
    run.length += length
    this.reserved += length
  }

  /** Memory for the next `length` bytes of a run; it is the run's only when it is extended by it. */
  private chunkFor(run: Run, length: number): Chunk {
    const last = run.chunks.at(-1)
    if (last !== undefined && last.used + length <= last.bytes.length) return last
    // Every reservation starts a run: behind it memory grows with the run, lest many small ones take a chunk each.
    const { chunkBytes } = this
    const bytes = run.reservation === undefined
      ? chunkBytes
      : Math.min(chunkBytes, Math.max(minChunkBytes, 2 * run.length))
    const { cutPointBytes, memory } = this.options
    // A block is left over for where the first byte lies.
    if (length + (memory?.blockBytes ?? 0) > bytes) return makeChunk(length + cutPointBytes)
    if (bytes < chunkBytes) return makeChunk(bytes)
    const chunk = this.pool.pop() ?? makeChunk(chunkBytes, true, memory?.make(chunkBytes))
    chunk.first = memory === undefined ? 0 : memory.firstOffset(toLsn(this.reserved)) % memory.blockBytes
    chunk.used = chunk.first
    return chunk
  }
}

const makeRun = (reservation?: OpenReservation): Run => ({
  start: 0,
  length: 0,
  commits: 0,
  chunks: [],
  reservation
})

const makeChunk = (length: number, isPooled = false, bytes: Uint8Array = new Uint8Array(length)): Chunk => ({
  bytes,
  view: new DataView(bytes.buffer),
  first: 0,
  used: 0,
  isPooled
})

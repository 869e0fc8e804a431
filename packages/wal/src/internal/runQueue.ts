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

/** Memory for hand-overs. Small ones share a chunk; a large one gets a chunk of its own. */
interface Chunk {
  readonly bytes: Uint8Array
  readonly view: DataView
  used: number
}

interface Run {
  readonly start: number
  length: number
  commits: number
  readonly chunks: Array<Chunk>
  /** The reservation this run begins with, while it is not filled. */
  open: OpenReservation | undefined
}

/** @internal */
export interface OpenReservation {
  readonly start: number
  readonly bytes: Uint8Array
  readonly view: DataView
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
  /** Writes a cut point that is not used, or a reservation that was given up. */
  readonly pad: (target: Uint8Array, view: DataView, offset: number, length: number) => void
}

const chunkBytes = 256 * 1024

/** @internal */
export class RunQueue {
  reserved: number
  private readonly options: RunQueueOptions
  private readonly runs: Array<Run> = []
  private readonly pool: Array<Chunk> = []
  private readonly maxPooledChunks: number

  constructor(options: RunQueueOptions) {
    this.options = options
    this.reserved = options.initial
    this.maxPooledChunks = Math.max(2, Math.ceil(options.maxBatchBytes / chunkBytes))
  }

  get isEmpty(): boolean {
    return this.runs.length === 0
  }

  get openReservations(): ReadonlyArray<OpenReservation> {
    return this.runs.flatMap((run) => run.open === undefined ? [] : [run.open])
  }

  /** Reserves `length` bytes, lets `fill` write them, and answers the position behind them. */
  append(length: number, fill: Fill): number {
    const { cutPointBytes, maxBatchBytes } = this.options
    let run = this.runs.at(-1)
    if (run !== undefined && run.length + length + cutPointBytes > maxBatchBytes) {
      this.closeRun(run)
      run = undefined
    }
    if (run === undefined) run = this.openRun()
    const chunk = this.chunkFor(run, length)
    fill(chunk.bytes, chunk.view, chunk.used)
    chunk.used += length
    run.length += length
    run.commits++
    this.reserved += length
    return this.reserved
  }

  /** Reserves `length` bytes that are filled later. */
  reserve(length: number): OpenReservation {
    const last = this.runs.at(-1)
    if (last !== undefined) this.closeRun(last)
    const run = this.openRun()
    const chunk = makeChunk(length)
    chunk.used = length
    const reservation = { start: run.start, bytes: chunk.bytes, view: chunk.view }
    run.chunks.push(chunk)
    run.length = length
    run.commits = 1
    run.open = reservation
    this.reserved += length
    return reservation
  }

  /** The bytes of the reservation are there now. */
  settle(reservation: OpenReservation): void {
    const run = this.runs.find((candidate) => candidate.open === reservation)
    invariant(run !== undefined, "a reservation is settled once, while its run is queued")
    run.open = undefined
  }

  /** Takes the contiguous prefix that is filled, at least one run, at most `maxBatchBytes` beyond the first run. */
  take(): Batch | undefined {
    const first = this.runs[0]
    if (first === undefined || first.open !== undefined) return undefined
    const taken: Array<Run> = []
    let length = 0
    for (const run of this.runs) {
      if (run.open !== undefined) break
      if (taken.length > 0 && length + run.length > this.options.maxBatchBytes) break
      taken.push(run)
      length += run.length
    }
    const last = taken.at(-1)
    invariant(last !== undefined, "a batch holds at least one run")
    // The last run of the queue has no cut point yet: the draining step makes it.
    if (taken.length === this.runs.length) {
      length -= last.length
      this.closeRun(last)
      length += last.length
    }
    this.runs.splice(0, taken.length)
    const { cutPointBytes } = this.options
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
        chunk.used === chunk.bytes.length ? chunk.bytes : chunk.bytes.subarray(0, chunk.used)
      ),
      chunks
    }
  }

  /** Gives the memory of a written batch back. */
  recycle(batch: Batch): void {
    for (const chunk of batch.chunks) {
      if (chunk.bytes.length === chunkBytes && this.pool.length < this.maxPooledChunks) {
        chunk.used = 0
        this.pool.push(chunk)
      }
    }
  }

  /** Forgets everything that is queued. */
  clear(): void {
    this.runs.length = 0
    this.pool.length = 0
  }

  private openRun(): Run {
    const run: Run = { start: this.reserved, length: 0, commits: 0, chunks: [], open: undefined }
    this.runs.push(run)
    return run
  }

  private closeRun(run: Run): void {
    const { cutPointBytes } = this.options
    if (cutPointBytes === 0) return
    const chunk = this.chunkFor(run, cutPointBytes)
    chunk.used += cutPointBytes
    run.length += cutPointBytes
    this.reserved += cutPointBytes
  }

  private chunkFor(run: Run, length: number): Chunk {
    const last = run.chunks.at(-1)
    if (last !== undefined && last.used + length <= last.bytes.length) return last
    const chunk = length > chunkBytes ? makeChunk(length) : this.pool.pop() ?? makeChunk(chunkBytes)
    run.chunks.push(chunk)
    return chunk
  }
}

const makeChunk = (length: number): Chunk => {
  const bytes = new Uint8Array(length)
  return { bytes, view: new DataView(bytes.buffer), used: 0 }
}

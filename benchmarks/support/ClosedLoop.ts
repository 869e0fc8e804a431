/**
 * A slice of time in which N writers work in a closed loop: each asks for its next commit when its last one is durable.
 *
 * The latency of a commit is the time from the end of the same writer's commit before to its own end. So a writer that
 * stands in line behind 255 others, on a thread that commits one by one, is charged for standing there, and the rate is
 * always N divided by the mean latency.
 */
import { quantileOfSorted } from "./statistics.ts"

/** What became of one slice. */
export interface Measurement {
  readonly commits: number
  readonly perSecond: number
  readonly p50Micros: number
  readonly p99Micros: number
  /** Processor time of all threads of the process, user and system; what a busy neighbour disturbs least. */
  readonly cpuMicrosPerCommit: number
}

/** What writers ask and tell while they work. */
export interface Loop {
  /** Whether a writer shall begin another commit. */
  readonly goesOn: () => boolean
  /** A commit of this writer is durable. */
  readonly ended: (writer: number) => void
}

/**
 * Of the loop that is under way, of which there is one at a time. Megabytes of its own for each would be garbage that is
 * collected in the time of the next one.
 */
let latencies = new Float64Array(16_384)

export class ClosedLoop implements Loop {
  readonly writers: number
  private readonly deadline: number
  private readonly started: number
  private readonly startedCpu = process.cpuUsage()
  private now: number
  private readonly lastEnd: Float64Array
  private count = 0

  constructor(writers: number, seconds: number) {
    this.writers = writers
    this.started = performance.now()
    this.now = this.started
    this.deadline = this.started + seconds * 1000
    this.lastEnd = new Float64Array(writers).fill(this.started)
  }

  readonly goesOn = (): boolean => this.now < this.deadline

  readonly ended = (writer: number): void => {
    const now = performance.now()
    if (this.count === latencies.length) {
      const longer = new Float64Array(this.count * 2)
      longer.set(latencies)
      latencies = longer
    }
    latencies[this.count++] = now - (this.lastEnd[writer] ?? now)
    this.lastEnd[writer] = now
    this.now = now
  }

  /** When it has ended, before the next one begins. */
  measurement(): Measurement {
    const sorted = latencies.subarray(0, this.count).sort()
    const { system, user } = process.cpuUsage(this.startedCpu)
    return {
      commits: this.count,
      perSecond: this.count / ((this.now - this.started) / 1000),
      p50Micros: quantileOfSorted(sorted, 0.5) * 1000,
      p99Micros: quantileOfSorted(sorted, 0.99) * 1000,
      cpuMicrosPerCommit: (user + system) / this.count
    }
  }
}

/**
 * A slice of time in which N writers work in a closed loop: each asks for its next commit when its last one is durable.
 *
 * The latency of a commit is the time from the end of the same writer's commit before to its own end, so that the rate
 * is always N divided by the mean latency.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"

/**
 * What became of one slice, or of several that were added up.
 *
 * @category models
 * @since 0.1.0
 */
export interface Measurement {
  readonly commits: number
  readonly commitsPerSecond: number
  readonly p50Micros: number
  readonly p99Micros: number
}

/** Neighbouring buckets of latencies differ by one percent; a run of hours needs no more of them than one of seconds. */
const bucketFactor = 1.01
/** From 0.1 microseconds to about 100 seconds. */
const buckets = 2100
const leastMicros = 0.1

/**
 * Counts commits and their latencies, in bounded memory.
 *
 * @category models
 * @since 0.1.0
 */
export class Latencies {
  private readonly counts = new Float64Array(buckets)
  private commits = 0
  private micros = 0

  add(micros: number): void {
    const bucket = Math.round(Math.log(Math.max(micros, leastMicros) / leastMicros) / Math.log(bucketFactor))
    const index = Math.min(bucket, buckets - 1)
    this.counts[index] = (this.counts[index] ?? 0) + 1
    this.commits++
  }

  /** Adds to the time in which the commits were made. */
  addTime(micros: number): void {
    this.micros += micros
  }

  measurement(): Measurement {
    return {
      commits: this.commits,
      commitsPerSecond: this.micros === 0 ? 0 : this.commits / (this.micros / 1e6),
      p50Micros: this.quantile(0.5),
      p99Micros: this.quantile(0.99)
    }
  }

  /** By nearest rank, to one percent; 0 of nothing. */
  private quantile(q: number): number {
    const rank = Math.floor(this.commits * q)
    let seen = 0
    for (let index = 0; index < buckets; index++) {
      seen += this.counts[index] ?? 0
      if (seen > rank) return leastMicros * bucketFactor ** index
    }
    return 0
  }
}

const nanosPerMicro = 1000

/**
 * Lets writers commit for so many seconds, one fiber each, and adds what they did to `latencies`. `commit` is called
 * with the number of the writer, from 0 on.
 *
 * @category running
 * @since 0.1.0
 */
export const runClosedLoop = Effect.fnUntraced(function*<E, R>(
  latencies: Latencies,
  options: { readonly writers: number; readonly seconds: number },
  commit: (writer: number) => Effect.Effect<unknown, E, R>
): Effect.fn.Return<void, E, R> {
  const clock = yield* Clock.Clock
  const nowMicros = () => Number(clock.monotonicTimeNanosUnsafe()) / nanosPerMicro
  const startedAt = nowMicros()
  const endsAt = startedAt + options.seconds * 1e6
  let lastEnd = startedAt
  const writer = (index: number) => {
    let before = startedAt
    return Effect.whileLoop({
      while: () => before < endsAt,
      body: () => commit(index),
      step: () => {
        lastEnd = nowMicros()
        latencies.add(lastEnd - before)
        before = lastEnd
      }
    })
  }
  yield* Effect.all(Array.from({ length: options.writers }, (_, index) => writer(index)), {
    concurrency: "unbounded",
    discard: true
  })
  latencies.addTime(lastEnd - startedAt)
})

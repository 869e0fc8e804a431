/**
 * A world with one log and N writers, each of which thinks, hands over a batch of one record, waits until it is durable,
 * and thinks again. A flush takes a fixed time and a time for each record. Nothing in it but arithmetic and a seed.
 */
import type { Controller, Decision } from "../../src/ParallelWalController.ts"

/** Microseconds that a writer thinks. */
export type Thinking = (random: () => number) => number

export interface World {
  readonly writers: number
  readonly thinking: Thinking
  readonly fixedMicros: number
  readonly microsPerRecord: number
  /** Until so many commits are durable; the first fifth is not counted. */
  readonly commits: number
  readonly seed: number
  /** So long after something happened the engine looks at it: a turn of the event loop. */
  readonly turnMicros: number
}

/** Says when an epoch is closed. */
export interface Closing {
  arrived(now: number): void
  flushed(now: number, flush: { readonly writers: number; readonly flushMicros: number }): void
  /** Asked while batches wait and nothing is flushed: `now` (or before) to close, else when to ask again. */
  closeAt(now: number, waiters: number, oldestAt: number): number
  /** It is asked on time, and not a turn later. */
  readonly isClockwork: boolean
}

const randomOf = (seed: number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** The times at which writers will be done thinking, the earliest first. */
class Arrivals {
  private readonly heap: Array<number> = []

  get next(): number {
    return this.heap[0] ?? Infinity
  }

  push(time: number): void {
    const { heap } = this
    let at = heap.length
    heap.push(time)
    for (let up = (at - 1) >> 1; at > 0 && (heap[up] ?? 0) > time; up = (at - 1) >> 1) {
      heap[at] = heap[up] ?? 0
      heap[up] = time
      at = up
    }
  }

  pop(): void {
    const { heap } = this
    const last = heap.pop()
    if (last === undefined || heap.length === 0) return
    let at = 0
    for (;;) {
      const left = 2 * at + 1
      const child = (heap[left + 1] ?? Infinity) < (heap[left] ?? Infinity) ? left + 1 : left
      const time = heap[child] ?? Infinity
      if (time >= last) break
      heap[at] = time
      at = child
    }
    heap[at] = last
  }
}

/** Durable commits a second. */
export const throughput = (world: World, closing: Closing): number => {
  const random = randomOf(world.seed)
  const arrivals = new Arrivals()
  for (let writer = 0; writer < world.writers; writer++) arrivals.push(world.thinking(random))
  let now = 0
  let waiters = 0
  let oldestAt = 0
  let flushing = 0
  let flushMicros = 0
  let flushEnds = Infinity
  let askAt = Infinity
  let durable = 0
  let counted: { readonly from: number; readonly at: number } | undefined
  while (durable < world.commits) {
    now = Math.min(arrivals.next, flushEnds, askAt)
    if (now === flushEnds) {
      durable += flushing
      if (counted === undefined && durable >= world.commits / 5) counted = { from: durable, at: now }
      closing.flushed(now, { writers: flushing, flushMicros })
      for (; flushing > 0; flushing--) arrivals.push(now + world.thinking(random))
      flushEnds = Infinity
      askAt = closing.isClockwork ? now : now + world.turnMicros
    } else if (now === arrivals.next) {
      for (; arrivals.next <= now; arrivals.pop()) {
        if (waiters === 0) oldestAt = now
        waiters += 1
        closing.arrived(now)
      }
      if (flushing === 0) askAt = Math.min(askAt, now + world.turnMicros)
    } else {
      askAt = Infinity
      if (flushing > 0 || waiters === 0) continue
      const closeAt = closing.closeAt(now, waiters, oldestAt)
      if (closeAt > now) {
        askAt = closing.isClockwork ? closeAt : Math.max(closeAt, now + world.turnMicros)
        continue
      }
      flushing = waiters
      waiters = 0
      // No disk takes the same time twice.
      flushMicros = (world.fixedMicros + world.microsPerRecord * flushing) * (0.9 + 0.2 * random())
      flushEnds = now + flushMicros
    }
  }
  return (durable - (counted?.from ?? 0)) / (now - (counted?.at ?? 0)) * 1e6
}

/**
 * The ways to keep to a fixed epoch length: at its multiples and not while a flush runs; as long after the last flush;
 * at its multiples, and what was missed during a flush right after it.
 */
export const fixedLengths: ReadonlyArray<(lengthMicros: number) => Closing> = [
  (length) => ({
    isClockwork: true,
    arrived: () => {},
    flushed: () => {},
    closeAt: (now) => {
      const tick = Math.ceil(now / length) * length
      return tick - now < 1e-6 ? now : tick
    }
  }),
  (length) => {
    let flushedAt = 0
    return {
      isClockwork: true,
      arrived: () => {},
      flushed: (now) => {
        flushedAt = now
      },
      closeAt: (now) => now >= flushedAt + length - 1e-6 ? now : flushedAt + length
    }
  },
  (length) => {
    let tick = 0
    return {
      isClockwork: true,
      arrived: () => {},
      flushed: () => {},
      closeAt: (now) => {
        if (now < tick + length - 1e-6) return tick + length
        tick = Math.floor(now / length + 1e-9) * length
        return now
      }
    }
  }
]

/** The controller, asked as the engine asks it. */
export const controlled = (
  controller: Controller,
  onDecision: (decision: Decision) => void = () => {}
): Closing => ({
  isClockwork: false,
  arrived: (now) => controller.arrived(now),
  flushed: (now, { flushMicros, writers }) => controller.flushed(now, { writers, frames: writers, flushMicros }),
  closeAt: (now, waiters, oldestAt) => {
    const decision = controller.ask(now, {
      isFlushing: false,
      occupancy: 0,
      lagMillis: (now - oldestAt) / 1000,
      backlogFrames: waiters,
      waiters,
      epochMillis: 10,
      lanes: 2,
      batchesInWindow: waiters
    })
    onDecision(decision)
    return decision.action === "seal_now" ? now : now + (decision.askAgainMicros ?? Infinity)
  }
})

/**
 * A scheduler that lets a fiber go on or makes it wait for its turn as a seed says, at every step it takes. Code that
 * believes two of its steps to be one is found out by it.
 *
 * The rate has to stay below a half: a step that waits for its turn is one more step, and from there on they come as
 * fast as they go.
 */
import * as Scheduler from "effect/Scheduler"

/** A small generator of numbers in 0 ... 1, the same for the same seed. */
export const makeRandom = (seed: number): () => number => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97)
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32
  }
}

export class SeededScheduler extends Scheduler.MixedScheduler {
  private readonly random: () => number
  private readonly yieldRate: number

  constructor(seed: number, yieldRate: number) {
    super()
    this.random = makeRandom(seed)
    this.yieldRate = yieldRate
  }

  override shouldYield(): boolean {
    return this.random() < this.yieldRate
  }
}

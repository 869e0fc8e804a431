/**
 * The ways to decide what a power loss keeps: nothing, everything, by a seed, by predicates, or every combination in
 * turn.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CrashSelection } from "../MemoryDisk.ts"
import { countUnsettled, type CrashChooser } from "./crashModel.ts"
import type { DiskWorld } from "./diskWorld.ts"

/**
 * A small generator of pseudo-random numbers: a counter whose bits are mixed. The same seed gives the same numbers on
 * every machine.
 *
 * @internal
 */
export const makeSeeded = (seed: number) => {
  let counter = seed | 0
  const next = (): number => {
    counter = (counter + 0x9e3779b9) | 0
    let mixed = counter
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b)
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
    return (mixed ^ (mixed >>> 16)) >>> 0
  }
  return {
    /** 0 ... count - 1 */
    below: (count: number): number => next() % count,
    chance: (probability: number): boolean => next() < probability * 2 ** 32,
    shuffled: (count: number): ReadonlyArray<number> => {
      const order = Array.from({ length: count }, (_, index) => ({ index, key: next() }))
      return order.toSorted((a, b) => a.key - b.key || a.index - b.index).map(({ index }) => index)
    }
  }
}

/**
 * One seed out of several numbers.
 *
 * @internal
 */
export const mixSeeds = (seed: number, ...more: ReadonlyArray<number>): number => {
  let mixed = seed | 0
  for (const part of more) mixed = makeSeeded(mixed ^ Math.imul(part + 1, 0x27d4eb2f)).below(2 ** 32)
  return mixed >>> 0
}

/** @internal */
export const chooseBy = (selection: CrashSelection): CrashChooser => {
  const { contents = "lost", names = "lost", sizes = "lost" } = selection
  return {
    keepName: typeof names === "function" ? names : () => names === "kept",
    beginFile: (path) => ({
      blockBytes: selection.blockBytes ?? 512,
      keptResizes: (changes) => {
        if (typeof sizes !== "function") return sizes === "kept" ? changes : 0
        const kept = sizes({ path, changes })
        invariant(Number.isInteger(kept) && kept >= 0 && kept <= changes, "a crash keeps 0 ... all changes of the size")
        return kept
      },
      keepBlock: typeof contents === "function" ? contents : () => contents === "kept",
      landingOrder: (count) => selection.isReversed === true ? Array.from(Array(count).keys()).toReversed() : undefined,
      keptOfLastBlock: (length) => Math.min(length, selection.tornAt ?? length)
    })
  }
}

/**
 * Half of the files (and of the names as a whole) go through the extremes, all or nothing, because most of the bugs
 * live there; the rest goes block by block. A quarter lands out of order, a quarter is torn.
 *
 * @internal
 */
export const chooseBySeed = (seed: number): CrashChooser => {
  const random = makeSeeded(seed)
  const probability = () => [0, 0.1, 0.5, 0.9, 1][random.below(5)] ?? 1
  const nameProbability = probability()
  return {
    keepName: () => random.chance(nameProbability),
    beginFile: () => {
      const blockProbability = probability()
      const isReordered = random.chance(0.25)
      const isTorn = random.chance(0.25)
      return {
        blockBytes: random.chance(0.5) ? 512 : 4096,
        keptResizes: (changes) => random.chance(0.25) ? changes : random.below(changes + 1),
        keepBlock: () => random.chance(blockProbability),
        landingOrder: (count) => isReordered && count > 1 ? random.shuffled(count) : undefined,
        keptOfLastBlock: (length) => isTorn ? random.below(length + 1) : length
      }
    }
  }
}

/**
 * Every combination of kept and dropped, in turn, when there are at most `limit`: by blocks of 512 bytes if these are
 * few, else by whole writes, else `undefined`. Nothing is torn and nothing reordered in them.
 *
 * @internal
 */
export const everyChoice = (world: DiskWorld, limit: number): Iterable<CrashChooser> | undefined => {
  const counts = countUnsettled(world, 512)
  const rest = counts.resizes.reduce((product, changes) => product * (changes + 1), 2 ** counts.names)
  if (rest * 2 ** counts.blocks <= limit) return enumerate(512)
  if (rest * 2 ** counts.writes <= limit) return enumerate(Number.POSITIVE_INFINITY)
  return undefined
}

function* enumerate(blockBytes: number): Generator<CrashChooser> {
  // The answers of one round, like the wheels of a counter: each round repeats those of the last one up to the last
  // wheel that could still be turned.
  const wheels: Array<{ value: number; readonly count: number }> = []
  while (true) {
    let asked = 0
    const pick = (count: number): number => {
      const wheel = wheels[asked] ?? { value: 0, count }
      wheels[asked++] = wheel
      invariant(wheel.count === count, "the same answers lead to the same questions")
      return wheel.value
    }
    yield {
      keepName: () => pick(2) === 1,
      beginFile: () => ({
        blockBytes,
        keptResizes: (changes) => pick(changes + 1),
        keepBlock: () => pick(2) === 1,
        landingOrder: () => undefined,
        keptOfLastBlock: (length) => length
      })
    }
    while (wheels.length > 0) {
      const wheel = wheels.at(-1)
      if (wheel !== undefined && wheel.value + 1 < wheel.count) {
        wheel.value++
        break
      }
      wheels.pop()
    }
    if (wheels.length === 0) return
  }
}

/** What the programs that live many lives of a database share: how many, and numbers from a seed. */

/** TIDEMARK_CRASH_STATES=n lives n times as many lives. */
export const thoroughness = Number(process.env["TIDEMARK_CRASH_STATES"] ?? "1")

/** Mulberry32: a number below `bound` each time. */
export const seeded = (seed: number) => {
  let state = seed
  return (bound: number): number => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % bound
  }
}

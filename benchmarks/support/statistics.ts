/** The few statistics that the benchmarks speak in. */

/** The value below which a share `q` of the numbers lies, by nearest rank; NaN of nothing. */
export const quantile = (numbers: ArrayLike<number>, q: number): number =>
  quantileOfSorted(Float64Array.from(numbers).sort(), q)

/** The same of numbers that ascend. */
export const quantileOfSorted = (sorted: Float64Array, q: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN

/** The middle value; of an even number of them the mean of the two in the middle. */
export const median = (numbers: ArrayLike<number>): number => {
  const sorted = Float64Array.from(numbers).sort()
  const upper = sorted[sorted.length >> 1] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[(sorted.length >> 1) - 1] ?? Number.NaN) + upper) / 2
}

/** A median with what it was taken from. */
export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

export const spreadOf = (numbers: ReadonlyArray<number>): Spread => ({
  median: median(numbers),
  min: Math.min(...numbers),
  max: Math.max(...numbers)
})

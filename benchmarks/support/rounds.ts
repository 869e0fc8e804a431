/**
 * Alternating rounds: the only comparison that survives a machine whose speed drifts.
 *
 * In each round every contestant is set up in an empty directory, warmed up there and measured, one after the other, in
 * an order that turns round from round to round (and may begin with another one each time). Figures are compared within
 * their round only; what is reported is the median of the rounds' ratios, with the smallest and the largest.
 */
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import type { Measurement } from "./ClosedLoop.ts"
import { ClosedLoop } from "./ClosedLoop.ts"
import { type Spread, spreadOf } from "./statistics.ts"

/** Where a contestant works, and how many writers it has. */
export interface Place {
  readonly directory: string
  readonly writers: number
}

/** A contestant that is set up. */
export interface Session {
  /** Lets all writers work until the slice is over, and returns when the last of their commits is durable. */
  readonly run: (loop: ClosedLoop) => void | Promise<void>
  /** Checks what can be checked about the result, and lets go of it. */
  readonly close: () => void | Promise<void>
}

export interface Contestant {
  readonly name: string
  readonly open: (place: Place) => Session | Promise<Session>
}

export interface RoundsOptions {
  readonly contestants: ReadonlyArray<Contestant>
  readonly writers: number
  readonly rounds: number
  /** Length of the slice that is measured. */
  readonly seconds: number
  /** Length of the slice before it, which is not. */
  readonly warmUpSeconds: number
  /** Whether each round begins one contestant later than the round before, so that nobody always comes first or last. */
  readonly rotates?: boolean
  /** Under which every setup gets a directory of its own. */
  readonly directory: string
}

/** By contestant, one measurement per round. */
export type Results = ReadonlyMap<string, ReadonlyArray<Measurement>>

/** Collects garbage now, so that nobody pays for that of the contestant before. */
export const collectGarbage: () => void = (() => {
  setFlagsFromString("--expose-gc")
  const gc: unknown = runInNewContext("gc")
  // The flag makes it a function without parameters.
  return typeof gc === "function" ? (gc as () => void) : () => {}
})()

export const runRounds = async (options: RoundsOptions): Promise<Results> => {
  const { contestants, rounds, seconds, warmUpSeconds, writers } = options
  const results = new Map<string, Array<Measurement>>(contestants.map(({ name }) => [name, []]))
  for (let round = 0; round < rounds; round++) {
    const first = options.rotates === true ? round % contestants.length : 0
    const order = [...contestants.slice(first), ...contestants.slice(0, first)]
    for (const contestant of round % 2 === 0 ? order : order.reverse()) {
      const directory = NodeFs.mkdtempSync(NodePath.join(options.directory, "round-"))
      try {
        const session = await contestant.open({ directory, writers })
        try {
          // Not between the slices: after a forced collection the process is slower for a while, and the slice would
          // measure that (256 writers in a loop of their own: 160 against 184 thousand commits a second).
          collectGarbage()
          await session.run(new ClosedLoop(writers, warmUpSeconds))
          const loop = new ClosedLoop(writers, seconds)
          await session.run(loop)
          results.get(contestant.name)?.push(loop.measurement())
        } finally {
          await session.close()
        }
      } finally {
        NodeFs.rmSync(directory, { recursive: true })
      }
    }
  }
  return results
}

/** A contestant over all rounds, and against others of the same rounds. */
export interface Summary {
  readonly name: string
  readonly commitsPerSecond: Spread
  readonly p50Micros: Spread
  readonly p99Micros: Spread
  readonly cpuMicrosPerCommit: Spread
  /** By the name of the other contestant: this one's rate divided by the other's. */
  readonly rateRatios: Readonly<Record<string, Spread>>
  /** By the name of the other contestant: this one's median latency divided by the other's. */
  readonly latencyRatios: Readonly<Record<string, Spread>>
}

export const summarize = (results: Results, baselines: ReadonlyArray<string>): ReadonlyArray<Summary> =>
  Array.from(results, ([name, measurements]) => {
    const ratiosOf = (figure: (measurement: Measurement) => number) =>
      Object.fromEntries(baselines.flatMap((baseline) => {
        const others = results.get(baseline)
        if (others === undefined) return []
        const ratios = measurements.map((own, round) => {
          const other = others[round]
          return other === undefined ? Number.NaN : figure(own) / figure(other)
        })
        return [[baseline, spreadOf(ratios)]]
      }))
    return {
      name,
      commitsPerSecond: spreadOf(measurements.map(({ perSecond }) => perSecond)),
      p50Micros: spreadOf(measurements.map(({ p50Micros }) => p50Micros)),
      p99Micros: spreadOf(measurements.map(({ p99Micros }) => p99Micros)),
      cpuMicrosPerCommit: spreadOf(measurements.map(({ cpuMicrosPerCommit }) => cpuMicrosPerCommit)),
      rateRatios: ratiosOf(({ perSecond }) => perSecond),
      latencyRatios: ratiosOf(({ p50Micros }) => p50Micros)
    }
  })

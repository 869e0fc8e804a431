/**
 * Durable commits of one page (4 KiB) through the coordinator, by N writers at once: over the SQLite WAL, and over the
 * parallel WAL with its controller and with fixed epochs.
 *
 *     node benchmarks/parallel.ts [--writers 1,8,64,256] [--rounds 5] [--seconds 1] [--json] [--help]
 *
 * Every writer has a page of its own, so nobody conflicts; all contestants begin a checkpoint at the same number of
 * frames or records, and SQLite counts every acknowledged commit at the end of each turn. Without the controller an
 * epoch lasts as long as it is told to, whoever waits; a commit then waits for half an epoch and a flush on average, and
 * N writers in a closed loop make at the most N commits in an epoch.
 *
 * What is compared within the same round only: the ratio of two contestants is the median of the rounds' ratios, with
 * the smallest and the largest in brackets. The best fixed setting is the one against which the controller has the
 * lowest of these medians; it is not chosen anew in each round, which would take the luckiest of five for the best.
 */
import * as ParallelWal from "@tidemark/wal/ParallelWal"
import { controlDefaults } from "@tidemark/wal/ParallelWalControl"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import * as Duration from "effect/Duration"
import { floor } from "./support/floor.ts"
import { parseOptions } from "./support/options.ts"
import { type Contestant, runRounds, summarize, type Summary } from "./support/rounds.ts"
import type { Spread } from "./support/statistics.ts"
import { figure, spreadCell, table } from "./support/table.ts"
import { coordinatorOver } from "./support/tidemark.ts"

const options = parseOptions()
const autoCheckpointFrames = options.checkpointFrames
const fixedEpochMillis = [1, 2, 5, 10, 20]

const sqliteWal = coordinatorOver(
  "SQLite WAL",
  (database) => SqliteWal.layer({ database, autoCheckpointFrames })
)
const controlled = coordinatorOver(
  "parallel, controller",
  (database) => ParallelWal.layer({ database, autoCheckpointFrames })
)
const fixed = fixedEpochMillis.map((millis): Contestant =>
  coordinatorOver(`parallel, ${millis} ms`, (database) =>
    ParallelWal.layer({
      database,
      autoCheckpointFrames,
      controller: false,
      epochInterval: Duration.millis(millis),
      // The other bound on how long an epoch lasts must not be the lower one.
      control: { maxFlushDelayMillis: Math.max(millis, controlDefaults.maxFlushDelayMillis) }
    }))
)
const contestants = [floor, sqliteWal, controlled, ...fixed].filter(({ name }) =>
  options.only.length === 0 || options.only.some((part) => name.toLowerCase().includes(part.toLowerCase()))
)
const baselines = [floor, sqliteWal, ...fixed].map(({ name }) => name)

/** At least so many times the rate of the best fixed setting. */
const leastRatio = 0.95

interface Target {
  readonly what: string
  readonly wanted: number
  readonly measured: Spread
  readonly met: boolean
}

/** There is none when the controller, or every fixed setting, was left out. */
const targetOf = (summaries: ReadonlyArray<Summary>): Target | undefined => {
  const own = summaries.find(({ name }) => name === controlled.name)
  let best: { readonly name: string; readonly ratio: Spread } | undefined
  for (const { name } of fixed) {
    const ratio = own?.rateRatios[name]
    if (ratio !== undefined && (best === undefined || ratio.median < best.ratio.median)) best = { name, ratio }
  }
  return best === undefined ? undefined : {
    what: `rate at least x the best fixed setting (${best.name})`,
    wanted: leastRatio,
    measured: best.ratio,
    met: best.ratio.median >= leastRatio
  }
}

const results = []
for (const writers of options.writers) {
  const { directory, rounds, seconds, warmUpSeconds } = options
  const measured = await runRounds({
    contestants,
    writers,
    rounds,
    seconds,
    warmUpSeconds,
    rotates: true,
    directory
  })
  const summaries = summarize(measured, baselines)
  const target = targetOf(summaries)
  results.push({ writers, contestants: summaries, target })
  if (options.json) continue
  const headings = ["contestant", "commits/s", "p50 us", "p99 us", "CPU us", "x SQLite WAL", "p50 / floor"]
  const rows = summaries.map((summary) => {
    const ratio = summary.rateRatios[sqliteWal.name]
    return [
      summary.name,
      spreadCell(summary.commitsPerSecond),
      figure(summary.p50Micros.median),
      figure(summary.p99Micros.median),
      figure(summary.cpuMicrosPerCommit.median),
      ratio === undefined ? "" : spreadCell(ratio),
      figure(summary.latencyRatios[floor.name]?.median ?? Number.NaN)
    ]
  })
  console.log(`\n${writers} ${writers === 1 ? "writer" : "writers"}, ${rounds} rounds of ${seconds} s\n`)
  console.log(table(headings, rows))
  if (target === undefined) continue
  const { met, wanted, what } = target
  console.log(
    `${met ? "met" : "MISSED"}: ${controlled.name}, ${what}: ${spreadCell(target.measured)} (wanted ${wanted})`
  )
}
if (options.json) {
  const { checkpointFrames, rounds, seconds, warmUpSeconds } = options
  console.log(JSON.stringify({ benchmark: "parallel", rounds, seconds, warmUpSeconds, checkpointFrames, results }))
}

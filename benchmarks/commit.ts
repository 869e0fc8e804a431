/**
 * Durable commits of one page (4 KiB), by N writers at once: Tidemark in compatibility mode against SQLite.
 *
 *     node benchmarks/commit.ts [--writers 1,8,64,256] [--rounds 5] [--seconds 1] [--json] [--help]
 *
 * README.md says how to read it.
 */
import { floor } from "./support/floor.ts"
import { parseOptions } from "./support/options.ts"
import { plainGroupCommit } from "./support/plainGroupCommit.ts"
import { runRounds, summarize, type Summary } from "./support/rounds.ts"
import { sqliteGrouped, sqliteOneByOne } from "./support/sqlite.ts"
import { figure, spreadCell, table } from "./support/table.ts"
import { tidemarkCoordinator, tidemarkPager } from "./support/tidemark.ts"

const options = parseOptions()
const pager = tidemarkPager(options.checkpointFrames)
const sqlite = sqliteOneByOne(options.checkpointFrames)
// Those that are compared with each other run next to each other: what drifts, drifts between them least.
const contestants = [
  floor,
  pager,
  sqlite,
  tidemarkCoordinator(options.checkpointFrames),
  plainGroupCommit,
  sqliteGrouped(options.checkpointFrames)
].filter(({ name }) =>
  options.only.length === 0 || options.only.some((part) => name.toLowerCase().includes(part.toLowerCase()))
)
const baselines = [floor.name, sqlite.name, plainGroupCommit.name]

/** At least so many times the rate of SQLite one by one, by the number of writers. */
const leastRateRatio: ReadonlyMap<number, number> = new Map([[1, 1], [8, 4], [64, 15], [256, 24]])
/** A single writer waits at the most so many times as long as the disk takes. */
const mostLatencyRatio = 1.5

interface Target {
  readonly what: string
  readonly wanted: number
  readonly measured: number
  readonly met: boolean
}

const targetsOf = (writers: number, summaries: ReadonlyArray<Summary>): ReadonlyArray<Target> => {
  const own = summaries.find(({ name }) => name === pager.name)
  const rate = own?.rateRatios[sqlite.name]?.median
  const least = leastRateRatio.get(writers)
  const latency = own?.latencyRatios[floor.name]?.median
  return [
    ...rate === undefined || least === undefined
      ? []
      : [{ what: `rate at least x ${sqlite.name}`, wanted: least, measured: rate, met: rate >= least }],
    ...latency === undefined || writers !== 1
      ? []
      : [{
        what: `latency at most x ${floor.name}`,
        wanted: mostLatencyRatio,
        measured: latency,
        met: latency <= mostLatencyRatio
      }]
  ]
}

const results = []
for (const writers of options.writers) {
  const { directory, rounds, seconds, warmUpSeconds } = options
  const summaries = summarize(
    await runRounds({ contestants, writers, rounds, seconds, warmUpSeconds, directory }),
    baselines
  )
  const targets = targetsOf(writers, summaries)
  results.push({ writers, contestants: summaries, targets })
  if (options.json) continue
  const ratio = (summary: Summary, baseline: string) => {
    const spread = summary.rateRatios[baseline]
    return spread === undefined ? "" : spreadCell(spread)
  }
  const headings = ["contestant", "commits/s", "p50 us", "p99 us", "CPU us", "x SQLite", "x plain", "p50 / floor"]
  const rows = summaries.map((summary) => [
    summary.name,
    spreadCell(summary.commitsPerSecond),
    figure(summary.p50Micros.median),
    figure(summary.p99Micros.median),
    figure(summary.cpuMicrosPerCommit.median),
    ratio(summary, sqlite.name),
    ratio(summary, plainGroupCommit.name),
    figure(summary.latencyRatios[floor.name]?.median ?? Number.NaN)
  ])
  console.log(`\n${writers} ${writers === 1 ? "writer" : "writers"}, ${rounds} rounds of ${seconds} s\n`)
  console.log(table(headings, rows))
  for (const { measured, met, wanted, what } of targets) {
    console.log(`${met ? "met" : "MISSED"}: ${pager.name}, ${what}: ${figure(measured)} (wanted ${wanted})`)
  }
}
if (options.json) {
  const { checkpointFrames, rounds, seconds, warmUpSeconds } = options
  console.log(JSON.stringify({ benchmark: "commit", rounds, seconds, warmUpSeconds, checkpointFrames, results }))
}

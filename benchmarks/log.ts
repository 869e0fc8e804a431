/**
 * Durable appends of 100-byte records by N writers at once: Tidemark's append log against LMDB, LevelDB, SQLite, a group
 * commit without Tidemark, and the disk itself.
 *
 *     node benchmarks/log.ts [--writers 1,8,64,256,1024] [--rounds 5] [--seconds 1] [--json FILE] [--plot FILE.svg] [--help]
 *
 * README.md says how to read it.
 */
import * as NodeFs from "node:fs"
import * as NodeOs from "node:os"
import { tidemarkLog } from "./support/appendLog.ts"
import { classicLevelGrouped, classicLevelOneByOne } from "./support/classicLevel.ts"
import type { Measurement } from "./support/ClosedLoop.ts"
import { floor } from "./support/floor.ts"
import { lmdbDefault, lmdbNotOverlapping } from "./support/lmdb.ts"
import { parseLogOptions } from "./support/logOptions.ts"
import { plainLog, plainLogOfFibers } from "./support/plainLog.ts"
import { renderPlot } from "./support/plot.ts"
import { recordBytes } from "./support/records.ts"
import { type Results, runRounds, summarize, type Summary } from "./support/rounds.ts"
import { sqliteRecordsGrouped, sqliteRecordsOneByOne } from "./support/sqliteRecords.ts"
import { figure, spreadCell, table } from "./support/table.ts"

const options = parseLogOptions()
// Those that are compared most run next to each other: what drifts, drifts between them least.
const contestants = [
  plainLogOfFibers,
  plainLog,
  tidemarkLog,
  lmdbDefault,
  lmdbNotOverlapping,
  classicLevelOneByOne,
  classicLevelGrouped,
  sqliteRecordsGrouped,
  sqliteRecordsOneByOne,
  floor
].filter(({ name }) =>
  options.only.length === 0 || options.only.some((part) => name.toLowerCase().includes(part.toLowerCase()))
)

/** The faster mode of LMDB in each round, as a baseline of its own. */
const betterLmdb = "the better LMDB"

const withBetterLmdb = (results: Results): Results => {
  const others = results.get(lmdbNotOverlapping.name)
  const better = results.get(lmdbDefault.name)?.flatMap((one, round): ReadonlyArray<Measurement> => {
    const other = others?.[round]
    return other === undefined ? [] : [one.perSecond >= other.perSecond ? one : other]
  })
  return better === undefined || better.length === 0 ? results : new Map([...results, [betterLmdb, better]])
}

/** The rate of the append log is at least so many times that of another one, by the number of writers. */
const leastRateRatios = [
  { baseline: betterLmdb, least: new Map([[1, 2], [8, 2], [64, 2.2], [256, 2.5], [1024, 2.5]]) },
  { baseline: plainLog.name, least: new Map([[1, 0.95], [8, 0.85], [64, 0.9], [256, 0.85], [1024, 0.8]]) }
]

interface Target {
  readonly baseline: string
  readonly wanted: number
  readonly measured: number
  readonly met: boolean
}

const targetsOf = (writers: number, summaries: ReadonlyArray<Summary>): ReadonlyArray<Target> => {
  const own = summaries.find(({ name }) => name === tidemarkLog.name)
  return leastRateRatios.flatMap(({ baseline, least }) => {
    const measured = own?.rateRatios[baseline]?.median
    const wanted = least.get(writers)
    return measured === undefined || wanted === undefined
      ? []
      : [{ baseline, wanted, measured, met: measured >= wanted }]
  })
}

const headings = ["contestant", "records/s", "p50 us", "p99 us", "CPU us", "x LMDB", "x plain", "x one per sync"]
const rowOf = (summary: Summary) => {
  const ratio = (baseline: string) => {
    const spread = summary.rateRatios[baseline]
    return spread === undefined ? "" : spreadCell(spread)
  }
  return [
    summary.name,
    spreadCell(summary.commitsPerSecond),
    figure(summary.p50Micros.median),
    figure(summary.p99Micros.median),
    figure(summary.cpuMicrosPerCommit.median),
    ratio(betterLmdb),
    ratio(plainLog.name),
    figure(summary.rateRatios[floor.name]?.median ?? Number.NaN)
  ]
}

const { directory, rounds, seconds, warmUpSeconds } = options
const results: Array<{
  readonly writers: number
  readonly contestants: ReadonlyArray<Summary>
  readonly targets: ReadonlyArray<Target>
}> = []
for (const writers of options.writers) {
  const measured = await runRounds({ contestants, writers, rounds, seconds, warmUpSeconds, rotates: true, directory })
  const summaries = summarize(withBetterLmdb(measured), [betterLmdb, plainLog.name, floor.name])
    .filter(({ name }) => name !== betterLmdb)
  const targets = targetsOf(writers, summaries)
  results.push({ writers, contestants: summaries, targets })
  console.log(`\n${writers} ${writers === 1 ? "writer" : "writers"}, ${rounds} rounds of ${seconds} s\n`)
  console.log(table(headings, summaries.map(rowOf)))
  for (const { baseline, measured, met, wanted } of targets) {
    console.log(
      `${met ? "met" : "MISSED"}: ${tidemarkLog.name}, at least x ${baseline}: ${figure(measured)} (wanted ${wanted})`
    )
  }
}

if (options.json !== undefined) {
  const machine = { node: process.version, platform: process.platform, arch: process.arch, cpus: NodeOs.cpus().length }
  const document = { benchmark: "log", recordBytes, rounds, seconds, warmUpSeconds, machine, results }
  NodeFs.writeFileSync(options.json, `${JSON.stringify(document, undefined, 2)}\n`)
}
if (options.plot !== undefined) {
  const lines = contestants.map(({ name }) => ({
    name: name === floor.name ? "one record per sync (floor)" : name,
    isReference: name === floor.name,
    values: results.flatMap((result) =>
      result.contestants.flatMap((summary) => summary.name === name ? [summary.commitsPerSecond] : [])
    )
  }))
  // The first colour and the thickest line are for the one that this is about.
  const plotted = lines.sort((one, other) =>
    Number(other.name === tidemarkLog.name) - Number(one.name === tidemarkLog.name)
  )
  const svg = renderPlot({
    title: `Durable ${recordBytes}-byte records per second`,
    xLabel: "writers, each waiting for its own durability",
    yLabel: "records per second",
    xs: options.writers,
    lines: plotted
  })
  NodeFs.writeFileSync(options.plot, svg)
}

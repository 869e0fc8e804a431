/**
 * Durable transactions of one page (4 KiB) through the pager, by N writers at once: native mode against compatibility
 * mode.
 *
 *     node benchmarks/native.ts [--writers 1,8,64,256] [--rounds 5] [--seconds 1] [--json] [--help]
 *
 * Every writer has a page of its own, so nobody conflicts; both begin a checkpoint at the same number of pages, and SQLite
 * finds every acknowledged commit at the end of each turn. Beside them what native mode asks of the disk, without
 * Tidemark: files of one capsule's size that are made, N at a time, and synced with their directory.
 */
import { floor } from "./support/floor.ts"
import { newFiles } from "./support/newFiles.ts"
import { parseOptions } from "./support/options.ts"
import { type Contestant, runRounds, summarize, type Summary } from "./support/rounds.ts"
import { figure, spreadCell, table } from "./support/table.ts"
import { tidemarkNativePager, tidemarkPager } from "./support/tidemark.ts"

const options = parseOptions()
const native = tidemarkNativePager(options.checkpointFrames)
const compat = tidemarkPager(options.checkpointFrames)
const contestants = [floor, compat, native, newFiles].filter(({ name }) =>
  options.only.length === 0 || options.only.some((part) => name.toLowerCase().includes(part.toLowerCase()))
)
const baselines = [floor.name, compat.name, newFiles.name]

const results = []
for (const writers of options.writers) {
  const { directory, rounds, seconds, warmUpSeconds } = options
  const summaries = summarize(
    await runRounds({ contestants, writers, rounds, seconds, warmUpSeconds, rotates: true, directory }),
    baselines
  )
  results.push({ writers, contestants: summaries })
  if (options.json) continue
  const headings = ["contestant", "commits/s", "p50 us", "p99 us", "CPU us", "x compat", "x new files", "p50 / floor"]
  const against = ({ rateRatios }: Summary, { name }: Contestant) => {
    const ratio = rateRatios[name]
    return ratio === undefined ? "" : spreadCell(ratio)
  }
  const rows = summaries.map((summary) => [
    summary.name,
    spreadCell(summary.commitsPerSecond),
    figure(summary.p50Micros.median),
    figure(summary.p99Micros.median),
    figure(summary.cpuMicrosPerCommit.median),
    against(summary, compat),
    against(summary, newFiles),
    figure(summary.latencyRatios[floor.name]?.median ?? Number.NaN)
  ])
  console.log(`\n${writers} ${writers === 1 ? "writer" : "writers"}, ${rounds} rounds of ${seconds} s\n`)
  console.log(table(headings, rows))
}
if (options.json) {
  const { checkpointFrames, rounds, seconds, warmUpSeconds } = options
  console.log(JSON.stringify({ benchmark: "native", rounds, seconds, warmUpSeconds, checkpointFrames, results }))
}

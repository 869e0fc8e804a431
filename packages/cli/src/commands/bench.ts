/**
 * `tidemark bench`: how many durable commits this machine makes, with the floor of its disk beside the result.
 *
 * @since 0.1.0
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { benchCommit, benchNative, benchParallel } from "../bench/benchCommit.ts"
import { benchLog } from "../bench/benchLog.ts"
import { benchRowId } from "../bench/benchRowId.ts"
import type { Measurement } from "../bench/ClosedLoop.ts"
import { type Bench, type BenchOptions, type BenchResult, runBench } from "../bench/runBench.ts"
import { ExitCode, WrongUsage } from "../ExitCode.ts"
import { json, maxWriters } from "../flags.ts"
import { withProgress } from "../Progress.ts"
import { emit, type Report } from "../Report.ts"
import { count, counted, table } from "../Style.ts"

const benches: ReadonlyArray<Bench> = [benchLog, benchCommit, benchParallel, benchNative, benchRowId]
const benchNames = benches.map(({ name }) => name).join(",")

const maxSeconds = 3600

/** The parts of a comma-separated list, none of them twice. */
const listOf = (text: string): ReadonlyArray<string> => [...new Set(text.split(",").map((part) => part.trim()))]

/** What the command line says, once it has been looked at. */
const optionsOf = Effect.fnUntraced(function*(flags: {
  readonly what: string
  readonly writers: string
  readonly seconds: string
  readonly dir: Option.Option<string>
}): Effect.fn.Return<BenchOptions, WrongUsage> {
  const chosen: Array<Bench> = []
  for (const name of listOf(flags.what)) {
    const bench = benches.find((candidate) => candidate.name === name)
    if (bench === undefined) {
      return yield* new WrongUsage({ sentence: `there is no bench "${name}" in this version; it has: ${benchNames}` })
    }
    chosen.push(bench)
  }
  const writers: Array<number> = []
  for (const text of listOf(flags.writers)) {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < 1 || value > maxWriters) {
      return yield* new WrongUsage({
        sentence: `--writers ${flags.writers} is no list of numbers in 1 ... ${maxWriters}, like 1,8,64,256`
      })
    }
    writers.push(value)
  }
  const seconds = Number(flags.seconds)
  if (flags.seconds.trim() === "" || !(seconds > 0 && seconds <= maxSeconds)) {
    return yield* new WrongUsage({
      sentence: `--seconds ${flags.seconds} is no number above 0 and up to ${maxSeconds}`
    })
  }
  return { directory: Option.getOrUndefined(flags.dir), benches: chosen, writers, seconds }
})

const bench = Effect.fnUntraced(function*(flags: Parameters<typeof optionsOf>[0]) {
  const options = yield* optionsOf(flags)
  const total = options.benches.length * options.writers.length
  let begun = 0
  let describe = () => "making the files"
  const result = yield* runBench(options, (name, writers) => {
    const row = ++begun
    describe = () => `measuring ${name} with ${counted(writers, "writer")}, row ${row} of ${total}`
  }).pipe(Effect.scoped, withProgress(() => describe()))
  return reportOf(options, result)
})

/** To a microsecond where there are many of them, to a nanosecond where a microsecond is all there is. */
const roundedMicros = (micros: number): number => micros < 10 ? Number(micros.toFixed(3)) : Math.round(micros)

const rounded = ({ commitsPerSecond, p50Micros, p99Micros }: Measurement) => ({
  commitsPerSecond: Math.round(commitsPerSecond),
  p50Micros: roundedMicros(p50Micros),
  p99Micros: roundedMicros(p99Micros)
})

const reportOf = ({ seconds }: BenchOptions, { floor, isInMemory, rows }: BenchResult): Report => ({
  exitCode: ExitCode.fine,
  json: {
    floor: { ...rounded(floor), syncs: floor.commits },
    rows: rows.map((row) => ({
      name: row.name,
      writers: row.writers,
      ...rounded(row),
      commits: row.commits,
      syncs: row.syncs
    })),
    seconds,
    isInMemory
  },
  text: (style) =>
    [
      isInMemory
        ? `${style.bad("The files lie in memory, where a sync costs nothing")}; choose a disk with --dir\n\n`
        : "",
      table(
        ["", "writers", "commits/s", "x floor", "p50 us", "p99 us", "syncs", "commits/sync"],
        [
          cellsOf("one sync", 1, floor, floor.commits, floor),
          ...rows.map((row) => cellsOf(row.name, row.writers, row, row.syncs, floor))
        ],
        style
      ),
      "\nOne sync is 4 KiB overwritten and synced by one writer, the floor of this disk, measured between the rows.\n",
      rows.some(({ name }) => name === benchRowId.name)
        ? "A commit of rowid is a row id from the local range of its writer, and waits for no disk.\n"
        : ""
    ].join("")
})

const cellsOf = (
  name: string,
  writers: number,
  measured: Measurement,
  syncs: number,
  floor: Measurement
): ReadonlyArray<string> => {
  const { commitsPerSecond, p50Micros, p99Micros } = rounded(measured)
  return [
    name,
    count(writers),
    count(commitsPerSecond),
    floor.commitsPerSecond === 0 ? "-" : (measured.commitsPerSecond / floor.commitsPerSecond).toFixed(2),
    count(p50Micros),
    count(p99Micros),
    count(syncs),
    syncs === 0 ? "-" : (measured.commits / syncs).toFixed(1)
  ]
}

/**
 * @category commands
 * @since 0.1.0
 */
export const benchCommand = Command.make("bench", {
  what: Argument.String("WHAT").pipe(
    Argument.withDescription(`What commits, comma-separated: ${benchNames} (default: all of them)`),
    Argument.withDefault(benchNames)
  ),
  writers: Flag.String("writers").pipe(
    Flag.withDescription("Numbers of writers, comma-separated, a row for each (default 1,8,64,256)"),
    Flag.withDefault("1,8,64,256")
  ),
  seconds: Flag.String("seconds").pipe(
    Flag.withDescription("How long each row is measured (default 2)"),
    Flag.withDefault("2")
  ),
  dir: Flag.String("dir").pipe(
    Flag.withDescription("Directory for the files, on the disk to be measured (default: that for temporary files)"),
    Flag.optional
  ),
  json
}, ({ json, ...flags }) => emit({ json }, bench(flags))).pipe(
  Command.withDescription("Measure durable commits per second, with the single-sync floor of this disk beside them.")
)

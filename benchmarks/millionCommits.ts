/**
 * A million commits of one page by 64 writers, with automatic checkpoints: does anything grow that should not?
 *
 *     node benchmarks/millionCommits.ts [--log sqlite|native] [--commits 1000000] [--writers 64] [--directory DIR] [--json]
 *
 * Sixteen times on the way, and after a garbage collection each time, it samples the memory of the process and the size
 * of the log. At the end SQLite counts the commits. Exit code 1 when one of the bounds below was passed.
 *
 * A commit of the native log is a file of its own, so a million take long where making a file does; its markers, which
 * stay, are what its log file is here.
 */
import { markerBytes, markersDirectory, markerSegmentHeaderBytes } from "@tidemark/wal/MarkerFormat"
import * as NativeLog from "@tidemark/wal/NativeLog"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import * as Effect from "effect/Effect"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import { parseArgs } from "node:util"
import { temporaryDirectory, wholeNumber } from "./support/options.ts"
import { collectGarbage } from "./support/rounds.ts"
import { makeRowPages, pageBytes, verifyRowPages } from "./support/rowPages.ts"
import { figure, table } from "./support/table.ts"
import { engine, nativeEngine, throughPager } from "./support/tidemark.ts"
import { writeInFibers } from "./support/writers.ts"

const { values } = parseArgs({
  options: {
    log: { type: "string", default: "sqlite" },
    commits: { type: "string", default: "1000000" },
    writers: { type: "string", default: "64" },
    directory: { type: "string" },
    json: { type: "boolean", default: false }
  }
})
// Not a number at which samples fall on the same point of the ups and downs below.
const samplesWanted = 16
// The second sample, after an eighth, comes when the tables are full: 32,768 commits at the most.
const commits = wholeNumber("commits", values.commits, 400_000)
const writers = wholeNumber("writers", values.writers, 1)

const mebibyte = 1024 * 1024
const frameBytes = 24 + pageBytes
const walHeaderBytes = 32

/**
 * A checkpoint looks at the log each 1,000 frames and starts it over from 64,000 on. The frames that come while it copies
 * come on top: another 15,000 are half a second of copying at 30,000 commits a second.
 */
const maxWalFrames = SqliteWal.defaults.restartFrames + SqliteWal.defaults.autoCheckpointFrames + 15_000
/** These frames, and the zeros that are written ahead of them. */
const maxWalBytes = walHeaderBytes + maxWalFrames * frameBytes + SqliteWal.defaults.preallocateBytes
/** The native log is emptied each 1,000 pages; those that come while it copies come on top. */
const maxCapsulePages = NativeLog.defaults.autoCheckpointFrames + 15_000
/**
 * By the second sample (an eighth of the commits) every cache and table is full. One goes up and down: the index of the
 * log, up to 80,000 frames of 20 bytes in arrays that double (2.6 MB). The rest is for what the compiler keeps. A leak of one object, 16 bytes or
 * more, in each of 875,000 commits is 14 MB.
 */
const maxHeapGrowth = 8 * mebibyte
/**
 * Pages and batches lie outside of the heap, in buffers of which a changing part is in use at the moment of a sample: the
 * queue keeps up to 8 MiB of chunks for use again, a checkpoint reads and writes in groups of 4 MiB. A leak of one page
 * in a hundred commits is 34 MiB.
 */
const maxBufferGrowth = 16 * mebibyte
/**
 * The peak of the whole process: about 100 MiB of Node and modules, the buffers above, and garbage that was not collected
 * yet, in which V8 lets pages pile up to some 10 MiB before it looks. Twice that, as none of it is exact.
 */
const maxRssBytes = 512 * mebibyte

interface Sample {
  readonly commits: number
  readonly seconds: number
  readonly heapUsed: number
  readonly arrayBuffers: number
  readonly rss: number
  readonly logFileBytes: number
  readonly framesInLog: number
}

const directory = temporaryDirectory(values.directory)
const database = NodePath.join(directory, "million.db")
const rows = makeRowPages(database, writers)

const onSqliteWal = async () => {
  const runtime = ManagedRuntime.make(engine({ database }))
  const { commit, wal } = await runtime.runPromise(Effect.all({ commit: throughPager, wal: SqliteWal.SqliteWal }))
  return {
    commit,
    framesInLog: () => wal.frames().inLog,
    logFileBytes: () => NodeFs.statSync(`${database}-wal`).size,
    maxFrames: maxWalFrames,
    maxLogFileBytes: maxWalBytes,
    dispose: () => runtime.dispose()
  }
}

const onNativeLog = async () => {
  const runtime = ManagedRuntime.make(nativeEngine({ database }))
  const { commit, log } = await runtime.runPromise(Effect.all({ commit: throughPager, log: NativeLog.NativeLog }))
  const markers = markersDirectory(database)
  return {
    commit,
    framesInLog: () => log.inLog().records,
    logFileBytes: () =>
      NodeFs.readdirSync(markers).reduce((sum, name) => sum + NodeFs.statSync(NodePath.join(markers, name)).size, 0),
    maxFrames: maxCapsulePages,
    // A marker for each commit and one with which the stream begins.
    maxLogFileBytes: 2 * markerSegmentHeaderBytes + (commits + 1) * markerBytes,
    dispose: () => runtime.dispose()
  }
}

const logs = new Map([["sqlite", onSqliteWal], ["native", onNativeLog]])
const open = logs.get(values.log)
if (open === undefined) throw new Error(`--log is one of ${Array.from(logs.keys()).join(", ")}`)
const { commit, dispose, framesInLog, logFileBytes, maxFrames, maxLogFileBytes } = await open()

const started = performance.now()
const samples: Array<Sample> = []
let begun = 0
let ended = 0
let mostFrames = 0

const takeSample = () => {
  collectGarbage()
  const { arrayBuffers, heapUsed, rss } = process.memoryUsage()
  samples.push({
    commits: ended,
    seconds: (performance.now() - started) / 1000,
    heapUsed,
    arrayBuffers,
    rss,
    logFileBytes: logFileBytes(),
    framesInLog: framesInLog()
  })
}

const megabytes = (bytes: number) => `${figure(bytes / 1e6)} MB`
const headings = ["commits", "seconds", "heap", "buffers", "rss", "log file", "frames in log"]
const cellsOf = (sample: Sample) => [
  sample.commits.toLocaleString("en-US"),
  sample.seconds.toFixed(1),
  megabytes(sample.heapUsed),
  megabytes(sample.arrayBuffers),
  megabytes(sample.rss),
  megabytes(sample.logFileBytes),
  sample.framesInLog.toLocaleString("en-US")
]

const sampleEvery = Math.floor(commits / samplesWanted)
await Effect.runPromise(
  writeInFibers(
    {
      goesOn: () => begun < commits && ++begun > 0,
      ended: () => {
        ended++
        mostFrames = Math.max(mostFrames, framesInLog())
        if (ended % sampleEvery === 0) takeSample()
      }
    },
    rows,
    commit
  )
)
const seconds = (performance.now() - started) / 1000
const endLogFileBytes = logFileBytes()
const maxRss = process.resourceUsage().maxRSS * 1024
await dispose()
verifyRowPages(database, rows)

const [, second] = samples
const last = samples.at(-1)
if (second === undefined || last === undefined) throw new Error("a run has two samples at least")
const bounds = [
  { what: "frames in the log, most", measured: mostFrames, bound: maxFrames, unit: "frames" },
  { what: "log file", measured: endLogFileBytes, bound: maxLogFileBytes, unit: "bytes" },
  { what: "growth of the heap", measured: last.heapUsed - second.heapUsed, bound: maxHeapGrowth, unit: "bytes" },
  {
    what: "growth of buffers",
    measured: last.arrayBuffers - second.arrayBuffers,
    bound: maxBufferGrowth,
    unit: "bytes"
  },
  { what: "resident memory, most", measured: maxRss, bound: maxRssBytes, unit: "bytes" }
]
const isKept = ({ bound, measured }: { readonly bound: number; readonly measured: number }) => measured <= bound

if (values.json) {
  console.log(
    JSON.stringify({ benchmark: "millionCommits", log: values.log, commits: ended, writers, seconds, samples, bounds })
  )
} else {
  console.log(table(headings, samples.map(cellsOf)))
  console.log(`\n${ended.toLocaleString("en-US")} commits in ${figure(seconds)} s, all of them found by SQLite\n`)
  for (const { bound, measured, unit, what } of bounds) {
    const text = (value: number) => unit === "bytes" ? megabytes(value) : `${figure(value)} ${unit}`
    const verdict = isKept({ bound, measured }) ? "kept" : "PASSED"
    console.log(`${verdict}: ${what}: ${text(measured)} (bound ${text(bound)})`)
  }
}
if (!bounds.every(isKept)) process.exitCode = 1

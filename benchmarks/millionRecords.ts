/**
 * Ten million records of 100 bytes by 64 writers who run ahead of the disk, with two followers that stop reading: does
 * anything grow that should not, and does a follower hold anything back?
 *
 *     node benchmarks/millionRecords.ts [--records 10000000] [--writers 64] [--max-queued-mebibytes 8]
 *       [--directory DIR] [--json FILE] [--help]
 *
 * A writer waits for durability at each 4,096th of its records only, so the queue is full most of the time. Both
 * followers read a little and stand still while everything is written. Then the first one reads on, and has to find
 * every record in order; the log is truncated to nothing under the second one, which has to be told so. Sixteen times on
 * the way, after a garbage collection each time, the memory of the process is sampled. At last the log is scanned as
 * recovery scans it. Exit code 1 when one of the bounds below was passed.
 */
import { Vfs } from "@tidemark/platform/Vfs"
import * as AppendLog from "@tidemark/wal/AppendLog"
import { parseSegmentFileName, recordFrameBytes } from "@tidemark/wal/AppendLogFormat"
import { scanDirectory } from "@tidemark/wal/AppendLogScan"
import { defaults as commitDefaults } from "@tidemark/wal/GroupCommit"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import { openLog } from "./support/appendLog.ts"
import { parseArguments, temporaryDirectory, wholeNumber } from "./support/options.ts"
import { makeRecords, recordBytes, RecordCheck } from "./support/records.ts"
import { collectGarbage } from "./support/rounds.ts"
import { figure, table } from "./support/table.ts"
import { writeInFibers } from "./support/writers.ts"

const mebibyte = 1024 * 1024
const samplesWanted = 16
/** With 64 writers up to 262,144 records, 28 MiB, are not waited for: more than the queue takes. */
const recordsPerWait = 4096
const queueLooksEvery = 16

const usage = `options:
  --records 10000000        how many records are written
  --writers 64              by so many fibers
  --max-queued-mebibytes 8  the bound of the queue (${
  commitDefaults.maxQueuedBytes / mebibyte
} by default in an application)
  --directory DIR           where the log goes; default: tmp of the repository
  --json FILE               the results as a JSON document`

const { values } = parseArguments(usage, {
  options: {
    records: { type: "string", default: "10000000" },
    writers: { type: "string", default: "64" },
    "max-queued-mebibytes": { type: "string", default: "8" },
    directory: { type: "string" },
    json: { type: "string" },
    help: { type: "boolean", default: false }
  }
})
if (values.help) {
  console.log(usage)
  process.exit(0)
}
const recordsWanted = wholeNumber("records", values.records, 1000)
const writers = wholeNumber("writers", values.writers, 1)
const maxQueuedBytes = wholeNumber("max-queued-mebibytes", values["max-queued-mebibytes"], 1) * mebibyte

const followers = 2
/**
 * A follower that stands still keeps the block that it was reading: a whole batch, 8 MiB at the most, in a buffer of up to
 * twice that size, and 74,898 records of 112 bytes in it, each an object and a view of about 200 bytes.
 */
const followerBufferBytes = 2 * commitDefaults.maxBatchBytes
const followerHeapBytes = 200 * Math.ceil(commitDefaults.maxBatchBytes / recordFrameBytes(recordBytes))
/**
 * Between the middle and the end nothing new is kept but by the compiler. A leak of one object, 16 bytes or more, in each
 * of five million records is 76 MiB.
 */
const maxHeapGrowth = 8 * mebibyte
/** 24 MiB of modules and code, and what the followers keep. */
const maxHeapBytes = 32 * mebibyte + followers * followerHeapBytes
/** The bytes that are queued, the batch under way and chunks that are kept for use again, and the followers' blocks. */
const maxBufferBytes = maxQueuedBytes + 2 * commitDefaults.maxBatchBytes + followers * followerBufferBytes
/**
 * The peak of the whole process, when the follower reads on: 100 MiB of Node, heap and buffers as above, and the garbage
 * of reading, a block for each batch, that V8 lets pile up to some hundred MiB. Not exact, so the sum is rounded up.
 */
const maxRssBytes = 512 * mebibyte

const directory = NodePath.join(temporaryDirectory(values.directory), "log")
const records = makeRecords(writers)
const runtime = openLog({ directory, maxQueuedBytes })
const { log, vfs } = await runtime.runPromise(Effect.all({ log: AppendLog.AppendLog, vfs: Vfs }))

interface Sample {
  readonly records: number
  readonly seconds: number
  readonly heapUsed: number
  readonly arrayBuffers: number
  readonly rss: number
  readonly segments: number
  readonly followerLagBytes: number
}

const secondsSince = (started: number) => (performance.now() - started) / 1000
const segmentFiles = () => NodeFs.readdirSync(directory).filter((name) => parseSegmentFileName(name) !== undefined)

/** Reads until it has `stopAt` records, waits for the gate, and reads on until it has all. */
const follow = (stopAt: number, gate: Deferred.Deferred<void>) => {
  const check = new RecordCheck(records)
  const progress = { records: 0, end: 0 }
  const read = log.stream({ follow: true }).pipe(
    Stream.mapArrayEffect((found) =>
      Effect.suspend(() => {
        for (const { end, payload } of found) {
          check.see(payload)
          progress.end = end
        }
        progress.records = check.seen
        return progress.records < stopAt ? Effect.succeed(found) : Effect.as(Deferred.await(gate), found)
      })
    ),
    Stream.take(recordsWanted),
    Stream.runDrain,
    Effect.map(() => check.end(records))
  )
  return { progress, read }
}

const gates = { first: Deferred.makeUnsafe<void>(), second: Deferred.makeUnsafe<void>() }
const first = follow(1000, gates.first)
const second = follow(1000, gates.second)
const firstFiber = runtime.runFork(first.read)
const secondFiber = runtime.runFork(Effect.result(second.read))

const samples: Array<Sample> = []
const sampleEvery = Math.floor(recordsWanted / samplesWanted)
let begun = 0
let ended = 0
let mostQueuedBytes = 0
const started = performance.now()

const takeSample = () => {
  collectGarbage()
  const { arrayBuffers, heapUsed, rss } = process.memoryUsage()
  const followerLagBytes = log.watermarks().durable - first.progress.end
  const seconds = secondsSince(started)
  samples.push({
    records: ended,
    seconds,
    heapUsed,
    arrayBuffers,
    rss,
    segments: segmentFiles().length,
    followerLagBytes
  })
}

const appended = { until: "appended" } as const
const durable = { until: "durable" } as const
await runtime.runPromise(writeInFibers(
  {
    goesOn: () => begun < recordsWanted && ++begun > 0,
    ended: () => {
      ended++
      if (ended % queueLooksEvery === 0) {
        const { reserved, written } = log.watermarks()
        mostQueuedBytes = Math.max(mostQueuedBytes, reserved - written)
      }
      if (ended % sampleEvery === 0) takeSample()
    }
  },
  records,
  ({ bytes, commits }) => log.append(bytes, commits() % recordsPerWait === 0 ? durable : appended)
))
await runtime.runPromise(log.flush)
const writeSeconds = secondsSince(started)
const behind = { first: first.progress.records, second: second.progress.records }
const segmentsWritten = segmentFiles().length
const logBytes = log.watermarks().durable - log.watermarks().firstKept

const readStarted = performance.now()
await runtime.runPromise(Effect.andThen(Deferred.succeed(gates.first, undefined), Fiber.join(firstFiber)))
const readSeconds = secondsSince(readStarted)

const scanStarted = performance.now()
const scan = await runtime.runPromise(scanDirectory(vfs, directory))
const scanSeconds = secondsSince(scanStarted)
if (scan.records !== recordsWanted) throw new Error(`the scan has found ${scan.records} records of ${recordsWanted}`)

await runtime.runPromise(log.truncateBefore(log.watermarks().durable))
const segmentsTruncated = segmentFiles().length
const overtaken = await runtime.runPromise(
  Effect.andThen(Deferred.succeed(gates.second, undefined), Fiber.join(secondFiber))
)
const verdict = Result.isFailure(overtaken) ? overtaken.failure._tag : "has read everything"
const maxRss = process.resourceUsage().maxRSS * 1024
await runtime.dispose()

const middle = samples[samples.length >> 1]
const last = samples.at(-1)
if (middle === undefined || last === undefined) throw new Error("a run has samples")
const most = (figureOf: (sample: Sample) => number) => Math.max(...samples.map(figureOf))
const bounds = [
  { what: "queued bytes, most", measured: mostQueuedBytes, bound: maxQueuedBytes },
  { what: "growth of the heap, second half", measured: last.heapUsed - middle.heapUsed, bound: maxHeapGrowth },
  { what: "heap, most", measured: most(({ heapUsed }) => heapUsed), bound: maxHeapBytes },
  { what: "buffers, most", measured: most(({ arrayBuffers }) => arrayBuffers), bound: maxBufferBytes },
  { what: "resident memory, most", measured: maxRss, bound: maxRssBytes }
]
const isKept = ({ bound, measured }: { readonly bound: number; readonly measured: number }) => measured <= bound
const isTold = verdict === "LsnTruncated"

const grouped = (count: number) => count.toLocaleString("en-US")
const megabytes = (bytes: number) => `${figure(bytes / 1e6)} MB`
const headings = ["records", "seconds", "heap", "buffers", "rss", "segments", "followers behind"]
const cellsOf = (sample: Sample) => [
  grouped(sample.records),
  sample.seconds.toFixed(1),
  megabytes(sample.heapUsed),
  megabytes(sample.arrayBuffers),
  megabytes(sample.rss),
  String(sample.segments),
  megabytes(sample.followerLagBytes)
]
console.log(table(headings, samples.map(cellsOf)))
console.log(`
${grouped(ended)} records written in ${figure(writeSeconds)} s: ${megabytes(logBytes)} in ${segmentsWritten} segments
the followers stood still at records ${grouped(behind.first)} and ${grouped(behind.second)}
the first one then read all ${grouped(first.progress.records)}, in order, in ${figure(readSeconds)} s
the second one, with the log truncated to ${segmentsTruncated} segment: ${verdict}
a scan of all segments took ${figure(scanSeconds)} s: ${figure(logBytes / 1e9 / scanSeconds)} GB/s
`)
for (const { bound, measured, what } of bounds) {
  console.log(
    `${isKept({ bound, measured }) ? "kept" : "PASSED"}: ${what}: ${megabytes(measured)} (bound ${megabytes(bound)})`
  )
}
if (values.json !== undefined) {
  const figures = { writeSeconds, readSeconds, scanSeconds, logBytes, segmentsWritten, segmentsTruncated, verdict }
  const document = { benchmark: "millionRecords", records: ended, recordBytes, writers, ...figures, samples, bounds }
  NodeFs.writeFileSync(values.json, `${JSON.stringify(document, undefined, 2)}\n`)
}
if (!bounds.every(isKept) || !isTold) process.exitCode = 1

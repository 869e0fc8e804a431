/**
 * Kills publishers in the middle of their windows, and looks after each kill whether anybody sees what was never
 * published, is kept waiting, or finds a header that the next owner has not repaired (SHM-04, SHM-06).
 *
 *     node headerKillLoop.ts RUNNING SEED [--stopped N] [--headers K] [--threads T]
 *
 * RUNNING processes that publish in T headers (a thread each, default 4) are killed at random moments. N processes
 * (default 0) that have stopped inside of the windows of K headers (default 60), after 1 ... 5 of the six stores in turn,
 * are killed too. A thread of this program reads all headers all the time.
 *
 * Prints one line of JSON. `windows...` counts headers whose sequence was odd when their publisher was dead. The exit
 * code is 1 when anything was seen that must not be.
 */
import type * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import { offsets } from "@tidemark/coordinator/SharedHeaderFormat"
import type { SharedRegion } from "@tidemark/platform/SharedMemory"
import { Effect } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { databaseAt, machine, openHeader, startProgram } from "../support/headerFiles.ts"
import { durableAt, isWhole } from "../support/headerStates.ts"
import { startReadingThread } from "../support/readingThread.ts"

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    stopped: { type: "string", default: "0" },
    headers: { type: "string", default: "60" },
    threads: { type: "string", default: "4" }
  }
})
const [running = "10", seed = "1"] = positionals

/** How long an answer may take. Patience is one millisecond; the rest is for a machine that does other work. */
const boundMillis = 1000

/** Small numbers from a seed (mulberry32). */
const makeRandom = (seed: number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** How far the open windows had come, as their words tell: after 1 store and after 5 they look the same. */
type Stores = "1 or 5" | "2" | "3" | "4"

interface Counts {
  kills: number
  /** Headers whose publisher was killed. */
  publishers: number
  /** Of these, with an open window. */
  windowsInterrupted: number
  readonly byStores: Record<Stores, number>
}

const makeCounts = (): Counts => ({
  kills: 0,
  publishers: 0,
  windowsInterrupted: 0,
  byStores: { "1 or 5": 0, "2": 0, "3": 0, "4": 0 }
})

const storesIn = (region: SharedRegion): Stores => {
  const commit = region.load(offsets.commitSeq)
  if (region.load(offsets.schemaEpoch) !== commit * 3n) return "2"
  if (region.load(offsets.ecsEpoch) !== commit * 7n) return "3"
  return region.load(offsets.nextCommitSeq) === commit + 1n ? "1 or 5" : "4"
}

const violations: Array<string> = []
let slowestAnswerMillis = 0

/** What somebody sees of a header whose publisher is dead, and of its next owner's. */
const examine = Effect.fnUntraced(function*(
  header: SharedHeader.SharedHeader["Service"],
  counts: Counts,
  random: () => number
) {
  const region = header.region()
  const sequence = region.load(offsets.snapshotSequence)
  const isInterrupted = sequence % 2n === 1n
  const commit = region.load(offsets.commitSeq)
  counts.publishers++
  if (isInterrupted) {
    counts.windowsInterrupted++
    counts.byStores[storesIn(region)]++
  }
  const started = performance.now()
  const answer = yield* Effect.result(header.snapshot)
  const millis = performance.now() - started
  slowestAnswerMillis = Math.max(slowestAnswerMillis, millis)
  if (millis > boundMillis) violations.push(`an answer took ${millis} ms`)
  if (answer._tag === "Success") {
    if (isInterrupted) violations.push(`an open window was answered with commit ${answer.success.commitSeq}`)
    if (!isWhole(answer.success)) violations.push(`a mixture was answered at sequence ${sequence}`)
  } else {
    if (!isInterrupted) violations.push(`a closed window was answered with ${answer.failure.reason}`)
    if (!answer.failure.reason.includes("died while it published")) violations.push(answer.failure.reason)
  }
  // Ahead of what is published, behind it, or the same: the log decides.
  const durable = durableAt(commit + BigInt(Math.floor(random() * 11) - 5))
  yield* Effect.scoped(Effect.gen(function*() {
    yield* header.becomePublisher(durable)
    const repaired = yield* header.snapshot
    if (repaired.commitSeq !== durable.commitSeq || !isWhole(repaired)) {
      violations.push(`the next owner left commit ${repaired.commitSeq} instead of ${durable.commitSeq}`)
    }
  }))
})

const program = Effect.gen(function*() {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-header-kills-"))),
    (path) => Effect.sync(() => rmSync(path, { recursive: true }))
  )
  const random = makeRandom(Number(seed))
  const threads = Number(values.threads)
  const stoppedHeaders = Number(values.stopped) > 0 ? Number(values.headers) : 0
  const headers = yield* Effect.forEach(
    Array.from({ length: Math.max(threads, stoppedHeaders) }, (_, index) => databaseAt(directory, index)),
    openHeader
  )
  const thread = yield* startReadingThread(headers.map((header) => header.region().buffer), { pauseMillis: 1 })

  const killOne = Effect.fnUntraced(function*(mode: "running" | "stopped", round: number, counts: Counts) {
    const count = mode === "running" ? threads : stoppedHeaders
    const child = yield* startProgram("headerPublisher.ts", [mode, directory, `${count}`, `${round}`])
    yield* child.line
    if (mode === "running") yield* Effect.sleep(random() * 20)
    yield* child.kill
    counts.kills++
    for (const header of headers.slice(0, count)) yield* examine(header, counts, random)
  }, Effect.scoped)

  const atRandom = makeCounts()
  for (let round = 1; round <= Number(running); round++) yield* killOne("running", round, atRandom)
  const atEachStore = makeCounts()
  for (let round = 1; round <= Number(values.stopped); round++) yield* killOne("stopped", round, atEachStore)

  const reads = (yield* thread.stop).reduce(
    (sum, { changes, mixed, mixedWithoutLock, open, reads }) => ({
      reads: sum.reads + reads,
      mixed: sum.mixed + mixed,
      open: sum.open + open,
      changes: sum.changes + changes,
      mixedWithoutLock: sum.mixedWithoutLock + mixedWithoutLock
    }),
    { reads: 0, mixed: 0, open: 0, changes: 0, mixedWithoutLock: 0 }
  )
  if (reads.mixed > 0) violations.push(`the reading thread was answered with ${reads.mixed} mixtures`)
  console.log(JSON.stringify({
    seed: Number(seed),
    killedWhileRunning: atRandom,
    killedWhileStopped: atEachStore,
    windowsInterrupted: atRandom.windowsInterrupted + atEachStore.windowsInterrupted,
    readingThread: reads,
    slowestAnswerMillis: Number(slowestAnswerMillis.toFixed(1)),
    violations
  }))
})

await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(machine)))
process.exit(violations.length === 0 ? 0 : 1)

/**
 * Kills publishers in the middle of their windows, and looks after each kill whether anybody sees what was never
 * published, is kept waiting, or finds a header that the next owner has not repaired (SHM-04, SHM-06).
 *
 *     node headerKillLoop.ts RUNNING SEED [--stopped N] [--headers K] [--threads T] [--forked F]
 *
 * RUNNING processes that publish in T headers (a thread each, default 4) are killed at random moments. N processes
 * (default 0) that have stopped inside of the windows of K headers (default 60), after 1 ... 5 of the six stores in turn,
 * are killed too. F processes (default 0) that were forked (`headerForks.ts`) and publish in one of the T headers each
 * are killed after 0 ... 2 ms: some hundred in a second. One in eight of these is halted first (SIGSTOP), and has to keep
 * its right and its window for as long. A thread of this program reads all headers all the time.
 *
 * Prints one line of JSON. `windows...` counts headers whose sequence was odd when their publisher was dead. Of forked
 * ones it is known to the store where they died, and which state has to be found. The exit code is 1 when anything was
 * seen that must not be.
 */
import type * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import { offsets } from "@tidemark/coordinator/SharedHeaderFormat"
import type { SharedRegion } from "@tidemark/platform/SharedMemory"
import { Effect } from "effect"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { databaseAt, machine, openHeader, type Program, startProgram } from "../support/headerFiles.ts"
import { durableAt, isWhole } from "../support/headerStates.ts"
import { startReadingThread } from "../support/readingThread.ts"

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    stopped: { type: "string", default: "0" },
    headers: { type: "string", default: "60" },
    threads: { type: "string", default: "4" },
    forked: { type: "string", default: "0" }
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

interface ForkedCounts {
  /** By SIGKILL, after at least one window. */
  kills: number
  /** Forks that ended in another way, because they missed some memory: no kills. */
  lost: number
  windowsInterrupted: number
  /** Of these, by the number of stores that were made: 1, 2, 3, 4, 5. */
  readonly byStores: Array<number>
  /** How many were halted before they were killed, and how many of those in a window. */
  halted: number
  haltedInWindow: number
}

/** In the order of the stores, as a commit has them. */
const wordsAt = (commit: bigint) =>
  [
    [offsets.schemaEpoch, commit * 3n],
    [offsets.commitSeq, commit],
    [offsets.ecsEpoch, commit * 7n],
    [offsets.nextCommitSeq, commit + 1n]
  ] as const

/**
 * How many stores of its last window a publisher has made that began behind `commit` at the sequence `sequence`, both
 * known; 0 for a closed window. The words have to be those of that window up to there, and those of the one before behind.
 */
const storesSince = (region: SharedRegion, sequence: bigint, commit: bigint): number => {
  const found = region.load(offsets.snapshotSequence)
  const isInterrupted = found % 2n === 1n
  const newest = commit + (found - sequence + 1n) / 2n
  let stores = 1
  for (const [offset, value] of wordsAt(newest)) {
    if (region.load(offset) !== value) break
    stores++
  }
  const expected = [...wordsAt(newest).slice(0, stores - 1), ...wordsAt(newest - 1n).slice(stores - 1)]
  if (expected.some(([offset, value]) => region.load(offset) !== value) || (!isInterrupted && stores !== 5)) {
    violations.push(`the words at sequence ${found} are not those of commit ${newest}`)
  }
  return isInterrupted ? stores : 0
}

/** Nobody has waited for it yet: a dead one is a zombie. */
const stateOf = (pid: string) => readFileSync(`/proc/${pid}/stat`, "latin1").replace(/^.*\) /, "").charAt(0)
const isAlive = (pid: string) => stateOf(pid) !== "Z"

/** A publisher that lives and does nothing keeps everything. */
const examineHalted = Effect.fnUntraced(function*(header: SharedHeader.SharedHeader["Service"], pid: string) {
  process.kill(Number(pid), "SIGSTOP")
  while (stateOf(pid) !== "T" && isAlive(pid)) yield* Effect.yieldNow
  if (!isAlive(pid)) return false
  const sequence = header.region().load(offsets.snapshotSequence)
  const isOpen = sequence % 2n === 1n
  const answer = yield* Effect.result(header.snapshot)
  const expected = `process ${pid} is in the middle of publishing`
  if (isOpen ? answer._tag === "Success" || !answer.failure.reason.includes(expected) : answer._tag === "Failure") {
    violations.push(`a halted publisher, ${isOpen ? "in" : "out of"} its window: ${JSON.stringify(answer)}`)
  }
  const owner = yield* Effect.scoped(Effect.result(header.becomePublisher(durableAt(1))))
  if (owner._tag === "Success" || owner.failure._tag !== "Busy" || !owner.failure.reason.includes(`process ${pid} `)) {
    violations.push(`the right of a halted publisher was given away: ${owner._tag}`)
  }
  if (header.region().load(offsets.snapshotSequence) !== sequence) {
    violations.push("a live publisher's window was stolen")
  }
  return isOpen
})

const killForked = Effect.fnUntraced(function*(
  forks: Program,
  headers: ReadonlyArray<SharedHeader.SharedHeader["Service"]>,
  round: number,
  counts: ForkedCounts,
  random: () => number
) {
  const index = round % Number(values.threads)
  const header = headers[index]
  if (header === undefined) return
  const region = header.region()
  if (round < Number(values.threads)) yield* Effect.scoped(header.becomePublisher(durableAt(10)))
  const sequence = region.load(offsets.snapshotSequence)
  const commit = region.load(offsets.commitSeq)
  forks.tell(`fork ${index} ${commit}`)
  const pid = yield* forks.line
  const hasBegun = () => region.load(offsets.snapshotSequence) !== sequence
  for (const start = performance.now(); !hasBegun() && performance.now() < start + 500;) yield* Effect.yieldNow
  yield* Effect.sleep(random() * 2)
  if (isAlive(pid) && round % 8 === 0) {
    counts.halted++
    if (yield* examineHalted(header, pid)) counts.haltedInWindow++
  }
  process.kill(Number(pid), "SIGKILL")
  forks.tell("reap")
  if ((yield* forks.line) === "9" && hasBegun()) counts.kills++
  else counts.lost++
  const stores = storesSince(region, sequence, commit)
  if (stores > 0) {
    counts.windowsInterrupted++
    counts.byStores[stores - 1] = (counts.byStores[stores - 1] ?? 0) + 1
  }
  yield* examine(header, makeCounts(), random)
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

  const forked: ForkedCounts = {
    kills: 0,
    lost: 0,
    windowsInterrupted: 0,
    byStores: [0, 0, 0, 0, 0],
    halted: 0,
    haltedInWindow: 0
  }
  const started = performance.now()
  if (Number(values.forked) > 0) {
    const flags = ["--single-threaded", "--v8-pool-size=0"]
    const forks = yield* startProgram("headerForks.ts", [directory, `${threads}`], flags)
    yield* forks.line
    for (let round = 0; forked.kills < Number(values.forked); round++) {
      yield* killForked(forks, headers, round, forked, random)
    }
  }
  const forkedPerSecond = Math.round(forked.kills / (performance.now() - started) * 1000)
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
    killedForked: { ...forked, perSecond: forkedPerSecond },
    killedWhileRunning: atRandom,
    killedWhileStopped: atEachStore,
    windowsInterrupted: forked.windowsInterrupted + atRandom.windowsInterrupted + atEachStore.windowsInterrupted,
    readingThread: reads,
    slowestAnswerMillis: Number(slowestAnswerMillis.toFixed(1)),
    violations
  }))
})

await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(machine)))
process.exit(violations.length === 0 ? 0 : 1)

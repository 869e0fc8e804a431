/**
 * Every disk that a power loss or a kill can leave behind an append log is recovered and judged: everything
 * acknowledged is there, what is there is a prefix without a gap, no hand-over is there in part, and recovering again,
 * or going on and recovering again, gives the same.
 */
import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import type { Trace } from "@tidemark/platform/MemoryDisk"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type { AppendLogOptions, AppendUntil } from "../src/AppendLog.ts"
import { type Log, openMemory, payloadOf } from "./support/appendLog.ts"
import type { Allowed, Found, LogMark } from "./support/logLedger.ts"
import { allowedBy, contentsOf, LogLedger } from "./support/logLedger.ts"
import { makeRandom } from "./support/seededScheduler.ts"

interface Workload {
  readonly seed: number
  readonly writers: number
  readonly rounds: number
  readonly maxPayloadBytes: number
  readonly options: Partial<AppendLogOptions>
}

/** Writers of every kind side by side, with truncations and rotations in between, as the seed says. */
const work = (log: Log, ledger: LogLedger, { maxPayloadBytes, rounds, seed, writers }: Workload) => {
  const random = makeRandom(seed)
  const below = (count: number) => Math.floor(random() * count)
  let number = 0
  const payload = () => payloadOf(number++, 1 + below(maxPayloadBytes))
  const until = (): AppendUntil => (["appended", "written", "durable", "durable"] as const)[below(4)] ?? "durable"

  const appendOne = Effect.suspend(() => {
    const bytes = payload()
    const promise = until()
    const intended = ledger.intend([bytes])
    return Effect.map(log.append(bytes, { until: promise }), (appended) => intended.add([appended], promise))
  })
  const appendAll = Effect.suspend(() => {
    const all = Array.from({ length: 1 + below(6) }, payload)
    const promise = until()
    const intended = ledger.intend(all)
    return Effect.map(log.appendAll(all, { until: promise }), (appended) => intended.add(appended, promise))
  })
  const reserve = Effect.scoped(Effect.gen(function*() {
    const bytes = payload()
    const isAbandoned = below(3) === 0
    const { end, fill, start } = yield* log.reserve(bytes.length)
    yield* Effect.repeat(Effect.yieldNow, { times: below(4) })
    if (isAbandoned) return
    ledger.intend([bytes]).add([{ start, end }], "appended")
    yield* fill(bytes)
    yield* log.commitAtLeast(end)
    ledger.mark({ kind: "durable", lsn: end })
  }))
  const truncate = Effect.suspend(() => {
    const { durable, firstKept, reserved } = log.watermarks()
    const isEverything = below(3) === 0
    const lsn = isEverything ? reserved : toLsn(firstKept + Math.floor((durable - firstKept) * random()))
    ledger.mark({ kind: "truncating", lsn })
    return Effect.map(log.truncateBefore(lsn), (kept) => ledger.mark({ kind: "truncated", lsn: kept }))
  })
  const flush = Effect.suspend(() => {
    const { reserved } = log.watermarks()
    return Effect.map(log.flush, () => ledger.mark({ kind: "durable", lsn: reserved }))
  })
  const actions = [appendOne, appendOne, appendOne, appendAll, appendAll, reserve, truncate, flush, log.rotate]
  const writer = Effect.gen(function*() {
    for (let round = 0; round < rounds; round++) yield* actions[below(actions.length)] ?? appendOne
  })
  return Effect.all(Array.from({ length: writers }, () => writer), { concurrency: "unbounded" })
}

const record = Effect.fnUntraced(function*(workload: Workload) {
  const disk = MemoryDisk.make({ async: { seed: workload.seed, maxTurns: 2 } })
  const trace = disk.record<LogMark>()
  const ledger = new LogLedger()
  ledger.mark = trace.mark
  yield* Effect.scoped(Effect.gen(function*() {
    const { log } = yield* openMemory(disk, workload.options)
    yield* work(log, ledger, workload)
  }))
  trace.stop()
  return { ledger, trace }
})

/** Recovers, judges, and answers what was found. */
const recover = (disk: MemoryDisk, ledger: LogLedger, allowed: Allowed, label: string, options = {}) =>
  Effect.scoped(Effect.gen(function*() {
    const { log } = yield* openMemory(disk, options)
    const found = yield* contentsOf(log)
    ledger.check(found, allowed, label)
    return found
  })).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${label}: ${Cause.pretty(cause)}`))))

const withoutDropped = ({ end, firstKept, records }: Found) => ({ end, firstKept, records })

/** The power fails again, right behind the recovery; then a process goes on, and it fails once more. */
const recoverAgain = (
  disk: MemoryDisk,
  ledger: LogLedger,
  allowed: Allowed,
  found: Found,
  label: string,
  { options, seed }: { readonly options: Partial<AppendLogOptions>; readonly seed: number }
) =>
  Effect.gen(function*() {
    disk.crash(seed)
    const again = yield* recover(disk, ledger, allowed, `${label}, again`)
    assert.deepStrictEqual(withoutDropped(again), withoutDropped(found), `${label}: a second recovery`)
    assert.strictEqual(again.droppedBytes, 0, `${label}: the tail was cleared, durably`)
    const continued = LogLedger.continuing(found.records)
    const marks: Array<LogMark> = []
    continued.mark = (mark) => marks.push(mark)
    const trace = disk.record()
    let number = 1_000_000
    yield* Effect.scoped(
      Effect.gen(function*() {
        const { log } = yield* openMemory(disk, options)
        for (const until of ["written", "durable", "written", "appended"] as const) {
          const payloads = [payloadOf(number++, 40), payloadOf(number++, 700)]
          const intended = continued.intend(payloads)
          intended.add(yield* log.appendAll(payloads, { until }), until)
        }
      }).pipe(Effect.onExit(() => Effect.sync(() => trace.stop())))
    )
    const { durable } = allowedBy(marks)
    // Somewhere on the way to the close, which makes everything durable.
    const state = trace.crashAfter(Math.floor(trace.steps.length * 0.7), seed + 1)
    yield* recover(state.disk, continued, { durable: found.end, mayTruncate: 0, mustTruncate: found.firstKept }, label)
    disk.crash(seed + 2)
    const after = yield* recover(
      disk,
      continued,
      { durable, mayTruncate: found.firstKept, mustTruncate: found.firstKept },
      `${label}, continued`
    )
    assert.strictEqual(after.records.length, found.records.length + 8, `${label}: all of what was appended behind it`)
  })

const judgeStates = (
  trace: Trace<LogMark>,
  ledger: LogLedger,
  workload: Workload,
  settings: {
    readonly perStep: number
    readonly exhaustiveUpTo: number
    readonly againEvery: number
    readonly steps?: (step: number) => boolean
  }
) =>
  Effect.gen(function*() {
    const total = { states: 0, torn: 0, again: 0 }
    for (const state of trace.crashStates({ seed: workload.seed, ...settings })) {
      total.states++
      const allowed = allowedBy(state.marks)
      const found = yield* recover(state.disk, ledger, allowed, state.label)
      if (found.droppedBytes > 0) total.torn++
      if (total.states % settings.againEvery !== 0) continue
      total.again++
      const again = { options: workload.options, seed: total.states }
      yield* recoverAgain(state.disk, ledger, allowed, found, state.label, again)
    }
    return total
  })

describe("AppendLog, power losses", () => {
  const workloads: ReadonlyArray<Workload> = [
    {
      seed: 1,
      writers: 4,
      rounds: 12,
      maxPayloadBytes: 300,
      options: { segmentBytes: 3000, maxBatchBytes: 1500, preallocateBytes: 256 }
    },
    {
      seed: 2,
      writers: 3,
      rounds: 14,
      maxPayloadBytes: 2500,
      options: { segmentBytes: 12_000, maxBatchBytes: 9000, preallocateBytes: 1000 }
    },
    {
      seed: 3,
      writers: 8,
      rounds: 4,
      maxPayloadBytes: 60,
      options: { segmentBytes: 500, maxBatchBytes: 200, preallocateBytes: 64 }
    },
    {
      seed: 4,
      writers: 6,
      rounds: 8,
      maxPayloadBytes: 5000,
      options: { segmentBytes: 30_000, maxQueuedBytes: 8000, maxBatchBytes: 6000, preallocateBytes: 0 }
    }
  ]

  it.effect.each(workloads)(
    "LOG-03 LOG-06 RC-12 every kind of append, rotation and truncation (seed $seed)",
    (workload) =>
      Effect.gen(function*() {
        const { ledger, trace } = yield* record(workload)
        const total = yield* judgeStates(trace, ledger, workload, { perStep: 3, exhaustiveUpTo: 4, againEvery: 7 })
        assert.isTrue(total.states > 300 && total.torn > 5 && total.again > 40, JSON.stringify(total))
      })
  )

  it.effect("LOG-03 LOG-07 LOG-08 every point of a small workload, every combination of what a crash keeps", () =>
    Effect.gen(function*() {
      const options = { segmentBytes: 400, maxBatchBytes: 300 }
      const workload = { seed: 11, writers: 1, rounds: 0, maxPayloadBytes: 1, options }
      const disk = MemoryDisk.make({ async: false })
      const trace = disk.record<LogMark>()
      const ledger = new LogLedger()
      ledger.mark = trace.mark
      yield* Effect.scoped(Effect.gen(function*() {
        const { log } = yield* openMemory(disk, options)
        const append = (number: number, until: AppendUntil) => {
          const intended = ledger.intend([payloadOf(number, 90)])
          return Effect.map(log.append(payloadOf(number, 90), { until }), (appended) => intended.add([appended], until))
        }
        for (const number of [0, 1, 2, 3]) yield* append(number, "durable")
        yield* append(4, "written")
        const pair = [payloadOf(5, 60), payloadOf(6, 300)]
        ledger.intend(pair).add(yield* log.appendAll(pair), "durable")
        yield* append(7, "durable")
        const { reserved } = log.watermarks()
        ledger.mark({ kind: "truncating", lsn: reserved })
        ledger.mark({ kind: "truncated", lsn: yield* log.truncateBefore(reserved) })
        yield* append(8, "durable")
        yield* append(9, "appended")
      }))
      trace.stop()
      const total = yield* judgeStates(trace, ledger, workload, { perStep: 2, exhaustiveUpTo: 512, againEvery: 11 })
      assert.isTrue(total.states > 300, JSON.stringify(total))
    }))

  it.effect("LOG-06 a power loss during the recovery", () =>
    Effect.gen(function*() {
      const workload = {
        seed: 21,
        writers: 4,
        rounds: 8,
        maxPayloadBytes: 800,
        options: { segmentBytes: 3000, maxBatchBytes: 2000 }
      }
      const { ledger, trace } = yield* record(workload)
      let nth = 0
      let states = 0
      for (const outer of trace.crashStates({ seed: 21, perStep: 2, exhaustiveUpTo: 4 })) {
        if (nth++ % 6 !== 0) continue
        const allowed = allowedBy(outer.marks)
        const expected = yield* recover(outer.disk.afterCrash("kept"), ledger, allowed, outer.label)
        const recovery = outer.disk.record()
        yield* Effect.scoped(openMemory(outer.disk, workload.options))
        recovery.stop()
        for (const inner of recovery.crashStates({ seed: nth, perStep: 3, exhaustiveUpTo: 16 })) {
          states++
          const label = `${outer.label}; then ${inner.label}`
          const found = yield* recover(inner.disk, ledger, allowed, label)
          assert.deepStrictEqual(withoutDropped(found), withoutDropped(expected), label)
        }
      }
      assert.isTrue(states > 200, `${states} states`)
    }))

  it.effect("GC-01 LOG-03 what a killed process left is durable before anything is appended behind it", () =>
    Effect.gen(function*() {
      const workload = {
        seed: 31,
        writers: 4,
        rounds: 8,
        maxPayloadBytes: 400,
        options: { segmentBytes: 2000, maxBatchBytes: 1000 }
      }
      const { ledger, trace } = yield* record(workload)
      assert.isAbove(trace.steps.length, 30)
      for (let step = 0; step <= trace.steps.length; step++) {
        const { marks } = trace.crashAfter(step, "kept")
        const label = `killed after step ${step}`
        const disk = trace.diskAfter(step)
        // Nothing is lost that was written: the oracle of the power loss with everything kept.
        const found = yield* recover(disk, ledger, allowedBy(marks), label)
        yield* recoverAgain(disk, ledger, allowedBy(marks), found, label, { options: workload.options, seed: step })
      }
    }))

  it.effect("LOG-03 the power fails while writers run, thousands of times", () =>
    Effect.gen(function*() {
      const crashes = 500
      let torn = 0
      for (let seed = 0; seed < crashes; seed++) {
        const random = makeRandom(seed)
        const disk = MemoryDisk.make({ async: seed % 3 === 0 ? false : { seed, maxTurns: 2 } })
        const ledger = new LogLedger()
        const marks: Array<LogMark> = []
        ledger.mark = (mark) => marks.push(mark)
        const options = {
          segmentBytes: 300 + Math.floor(random() * 3000),
          maxBatchBytes: 100 + Math.floor(random() * 2000),
          preallocateBytes: [0, 40, 500, 1_000_000][seed % 4]
        }
        const workload = { seed, writers: 1 + seed % 7, rounds: 30, maxPayloadBytes: 20 + (seed % 5) * 150, options }
        yield* Effect.scoped(Effect.gen(function*() {
          const { log } = yield* openMemory(disk, options)
          const working = yield* Effect.forkChild(work(log, ledger, workload))
          yield* Effect.repeat(Effect.yieldNow, { times: Math.floor(random() * 150) })
          const allowed = allowedBy(marks)
          disk.crash(seed)
          // Whoever is still at work finds a dead disk.
          const exit = yield* Fiber.await(working)
          if (Exit.isFailure(exit)) assert.isFalse(Cause.hasDies(exit.cause), Cause.pretty(exit.cause))
          const found = yield* recover(disk, ledger, allowed, `seed ${seed}`)
          if (found.droppedBytes > 0) torn++
        }))
      }
      assert.isTrue(torn > crashes / 40, `${torn} torn tails`)
    }))
})

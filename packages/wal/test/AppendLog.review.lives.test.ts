/**
 * One directory over many lives of its log. Each life opens it with other options, works with every kind of call, and
 * ends by closing, by a kill, by a failing disk or by a power loss; some end while they open. What one life found or
 * acknowledged the next one finds again, what was gone does not come back, and whatever happened the log opens.
 */
import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import type { CrashChoices, DiskMatch, Fault } from "@tidemark/platform/MemoryDisk"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import type { VfsOperation } from "@tidemark/platform/VfsError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import * as Scheduler from "effect/Scheduler"
import * as Stream from "effect/Stream"
import type { Appended, AppendUntil, LogRecord } from "../src/AppendLog.ts"
import { type Log, numberOf, openMemory, payloadOf, readAll } from "./support/appendLog.ts"
import { makeRandom, SeededScheduler } from "./support/seededScheduler.ts"

/** A record that was handed over, or was to be. `at` is known once the log has said so or it was read. */
interface Handed {
  readonly payload: Uint8Array
  readonly handOver: number
  readonly life: number
  at: Appended | undefined
}

/** What all lives have handed over, and what the last opening has found. */
class Chronicle {
  life = 0
  mayTruncate = 0
  mustTruncate = 0
  readonly handed = new Map<number, Handed>()
  private handOvers = 0
  /** Numbers of this life that were acknowledged as durable, or handed out by a stream. */
  private readonly safe = new Set<number>()
  /** What the last opening found, and where. */
  private found = new Map<number, number>()

  /** Records that are handed over together. */
  intend(lengths: ReadonlyArray<number>): ReadonlyArray<readonly [number, Uint8Array]> {
    const handOver = this.handOvers++
    return lengths.map((length) => {
      const number = this.handed.size
      const payload = payloadOf(number, length)
      this.handed.set(number, { payload, handOver, life: this.life, at: undefined })
      return [number, payload]
    })
  }

  place(number: number | undefined, at: Appended | undefined, isDurable: boolean): void {
    const record = number === undefined ? undefined : this.handed.get(number)
    if (number === undefined || record === undefined || at === undefined) return assert.fail("it was handed over")
    record.at = { start: at.start, end: at.end }
    if (isDurable) this.safe.add(number)
  }

  /** Everything of this life that ends at or before `lsn` is acknowledged. */
  durableUpTo(lsn: number): void {
    for (const [number, { at, life }] of this.handed) {
      if (life === this.life && at !== undefined && at.end <= lsn) this.safe.add(number)
    }
  }

  /** Judges what an opening has found, and begins the next life. */
  judge(records: ReadonlyArray<LogRecord>, firstKept: number, label: string): void {
    assert.isTrue(firstKept >= this.mustTruncate, `${label}: begins at ${firstKept}, cut at ${this.mustTruncate}`)
    const now = new Map<number, number>()
    let last = -1
    for (const { end, payload, start } of records) {
      const number = numberOf(payload)
      const handed = this.handed.get(number)
      assert.deepStrictEqual(payload, handed?.payload, `${label}: record ${number}`)
      assert.isTrue(start > last && !now.has(number), `${label}: record ${number} once, and in order`)
      if (handed?.life !== this.life) {
        assert.strictEqual(this.found.get(number), start, `${label}: record ${number} was gone and has come back`)
      } else if (handed.at !== undefined) assert.deepStrictEqual({ start, end }, handed.at, label)
      now.set(number, start)
      last = start
    }
    const isCut = (start: number) => start < firstKept && start < this.mayTruncate
    for (const [number, start] of this.found) {
      assert.isTrue(now.has(number) || isCut(start), `${label}: record ${number}, found before, is gone`)
    }
    const isThere = new Map<number, boolean>()
    let firstMissing = Infinity
    for (const [number, { at, handOver, life }] of this.handed) {
      if (life !== this.life || at !== undefined && isCut(at.start)) continue
      const before = isThere.get(handOver) ?? now.has(number)
      assert.strictEqual(now.has(number), before, `${label}: hand-over ${handOver} is there in part`)
      isThere.set(handOver, before)
      if (now.has(number)) continue
      assert.isFalse(this.safe.has(number), `${label}: record ${number} was acknowledged and is gone`)
      firstMissing = Math.min(firstMissing, at?.start ?? Infinity)
    }
    for (const [number, start] of now) {
      if (this.handed.get(number)?.life === this.life) {
        assert.isTrue(start < firstMissing, `${label}: record ${number} stands behind one that is missing`)
      }
    }
    this.found = now
    this.safe.clear()
    this.life++
  }

  /** What a stream handed out is without a gap, as far as this life knows what lies where. */
  judgeStream(seen: ReadonlyArray<LogRecord>, label: string): void {
    const starts = new Set<number>(seen.map(({ start }) => start))
    assert.strictEqual(starts.size, seen.length, `${label}: each record once`)
    const first = seen[0]?.start ?? Infinity
    const last = seen.at(-1)?.start ?? -1
    for (const { at, life } of this.handed.values()) {
      if (life !== this.life || at === undefined || at.start < first || at.start > last) continue
      assert.isTrue(starts.has(at.start) || at.start < this.mayTruncate, `${label}: ${at.start} was not streamed`)
    }
  }
}

/** Chance, from one seed. */
class Dice {
  private readonly random: () => number

  constructor(seed: number) {
    this.random = makeRandom(seed)
  }

  readonly below = (count: number): number => Math.floor(this.random() * count)

  pick<A>(values: ReadonlyArray<A>): A {
    const value = values[this.below(values.length)]
    return value ?? assert.fail("there is something to choose from")
  }
}

interface Habits {
  readonly rounds: number
  readonly maxPayloadBytes: number
  /** Nobody waits for durability, so that a power loss has something to take. */
  readonly isCareless: boolean
  /** Records of one length: what a later life writes takes the places of what was lost, byte for byte. */
  readonly isUniform: boolean
}

/** One of the fibers that work with a log. */
const work = (log: Log, chronicle: Chronicle, dice: Dice, habits: Habits): Effect.Effect<void, unknown> => {
  const { below } = dice
  const { isCareless, isUniform, maxPayloadBytes, rounds } = habits
  const length = () => isUniform ? 96 : 1 + below(maxPayloadBytes)
  const modes: ReadonlyArray<AppendUntil> = isCareless ? ["appended", "written"] : ["appended", "written", "durable"]
  const append = Effect.suspend(() => {
    const until = dice.pick(modes)
    const records = chronicle.intend([length()])
    return Effect.map(
      log.append(records[0]?.[1] ?? new Uint8Array(0), { until }),
      (at) => chronicle.place(records[0]?.[0], at, until === "durable")
    )
  })
  const appendAll = Effect.suspend(() => {
    const until = dice.pick(modes)
    const records = chronicle.intend(Array.from({ length: 1 + below(5) }, length))
    return Effect.map(log.appendAll(records.map(([, payload]) => payload), { until }), (places) => {
      for (const [index, [number]] of records.entries()) chronicle.place(number, places[index], until === "durable")
    })
  })
  const reserve = Effect.scoped(Effect.gen(function*() {
    const bytes = length()
    const [record] = below(3) === 0 ? [] : chronicle.intend([bytes])
    const { end, fill, start } = yield* log.reserve(record?.[1].length ?? bytes)
    yield* Effect.repeat(Effect.yieldNow, { times: below(4) })
    if (record === undefined) return
    yield* fill(record[1])
    chronicle.place(record[0], { start, end }, false)
    if (below(2) === 0) return
    yield* log.commitAtLeast(end)
    chronicle.place(record[0], { start, end }, true)
  }))
  const truncate = Effect.suspend(() => {
    const { durable, firstKept, reserved } = log.watermarks()
    const part = Math.floor(Math.max(0, durable - firstKept) * below(1000) / 1000)
    const lsn = below(3) === 0 ? reserved : toLsn(firstKept + part)
    chronicle.mayTruncate = Math.max(chronicle.mayTruncate, lsn)
    return Effect.map(log.truncateBefore(lsn), (kept) => {
      chronicle.mustTruncate = Math.max(chronicle.mustTruncate, kept)
    })
  })
  const flush = Effect.suspend(() => {
    const { reserved } = log.watermarks()
    return Effect.map(log.flush, () => chronicle.durableUpTo(reserved))
  })
  const calls: ReadonlyArray<Effect.Effect<unknown, unknown>> = isCareless
    ? [append, append, appendAll]
    : [append, append, append, appendAll, appendAll, reserve, truncate, flush, log.rotate]
  const interrupted = Effect.gen(function*() {
    const call = yield* Effect.forkChild(dice.pick(calls), { startImmediately: below(2) === 0 })
    yield* Effect.repeat(Effect.yieldNow, { times: below(6) })
    yield* Fiber.interrupt(call)
  })
  return Effect.repeat(
    Effect.suspend(() => below(5) === 0 ? interrupted : dice.pick(calls)),
    { times: rounds }
  )
}

const operations: ReadonlyArray<VfsOperation> = [
  "write",
  "write",
  "syncData",
  "syncFull",
  "rename",
  "syncDirectory",
  "remove",
  "open",
  "truncate",
  "read",
  "list",
  "size",
  "identify"
]

/** Contents, sizes, names and removals lost alone; old bytes over new ones; large and small blocks. */
const losses: ReadonlyArray<CrashChoices> = [
  "lost",
  "kept",
  { contents: "kept", sizes: "lost", names: "kept" },
  { contents: "lost", sizes: "kept", names: "kept" },
  { contents: "lost", sizes: "lost", names: "kept" },
  { contents: "kept", sizes: "kept", names: "lost" },
  { contents: "kept", sizes: "kept", names: ({ kind }) => kind !== "remove" },
  { contents: "kept", sizes: "kept", names: ({ kind }) => kind === "remove" },
  { contents: "kept", sizes: "kept", names: ({ kind }) => kind !== "rename" },
  { contents: "kept", sizes: "kept", names: "kept", blockBytes: 4096, isReversed: true },
  { contents: ({ position }) => position % 1024 < 512, sizes: "kept", names: "kept" },
  { contents: ({ position }) => position % 8192 >= 4096, sizes: "kept", names: "kept", blockBytes: 4096 },
  { contents: ({ write }) => write % 2 === 1, sizes: "kept", names: "kept" }
]

interface Dangers {
  readonly isFailing: boolean
  readonly losesSyncs: boolean
  readonly yieldRate: number
}

const faultOf = (dice: Dice, { losesSyncs }: Dangers): DiskMatch & { readonly fault: Fault } => {
  const skip = dice.below(40)
  if (losesSyncs && dice.below(2) === 0) {
    return { operation: dice.pick<VfsOperation>(["syncData", "syncFull"]), skip, fault: { kind: "lostSync" } }
  }
  if (dice.below(3) === 0) return { operation: "write", skip, fault: { kind: "shortWrite", bytes: dice.below(60) } }
  return { operation: dice.pick(operations), skip, fault: { kind: "error", code: dice.pick(["EIO", "ENOSPC"]) } }
}

const livesOf = (seed: number, dangers: Dangers) =>
  Effect.gen(function*() {
    const dice = new Dice(seed)
    const { below } = dice
    const disk = MemoryDisk.make({ async: below(3) === 0 ? false : { seed, maxTurns: 1 + below(3) } })
    const chronicle = new Chronicle()
    const isUniform = below(3) === 0
    const counts = { crashes: 0, poisoned: 0, torn: 0, found: 0, streamed: 0 }
    const crash = () => disk.crash(below(3) === 0 ? dice.pick(losses) : below(1e9))

    for (let life = 0; life < 8; life++) {
      const label = `seed ${seed}, life ${life}`
      const options = {
        segmentBytes: dice.pick([300, 3000, 20_000, 200_000]),
        maxBatchBytes: isUniform ? 100 : dice.pick([100, 1000, 9000, 8_000_000]),
        maxQueuedBytes: dice.pick([100, 5000, 64_000_000]),
        preallocateBytes: dice.pick([0, 40, 500, 5000, 1_000_000])
      }
      if (below(3) === 0) {
        // Something comes in between while it opens.
        const isFault = dangers.isFailing && below(2) === 0
        const fault = disk.inject({
          operation: dice.pick(operations),
          skip: isFault ? below(6) : Infinity,
          fault: { kind: "error", code: "EIO" }
        })
        const opening = yield* Effect.forkChild(Effect.exit(Effect.scoped(openMemory(disk, options))), {
          startImmediately: true
        })
        yield* Effect.repeat(Effect.yieldNow, { times: below(60) })
        if (!isFault) {
          const how = below(6)
          if (how < 4) crash()
          else if (how === 4) disk.kill()
          else yield* Fiber.interrupt(opening)
        }
        yield* Fiber.await(opening)
        fault.remove()
      }

      yield* Effect.scoped(Effect.gen(function*() {
        const { close, log } = yield* openMemory(disk, options).pipe(
          Effect.mapError((error) => new Error(`${label}: not opened: ${error.message}`))
        )
        if (log.recovery.droppedBytes > 0) counts.torn++
        const found = yield* readAll(log)
        chronicle.judge(found, log.watermarks().firstKept, label)
        counts.found += found.length

        const fault = dangers.isFailing && below(2) === 0 ? disk.inject(faultOf(dice, dangers)) : undefined
        const seen: Array<LogRecord> = []
        const follower = yield* log.stream({ follow: true }).pipe(
          Stream.runForEach((record) =>
            Effect.sync(() => {
              seen.push(record)
              chronicle.place(numberOf(record.payload), record, true)
            })
          ),
          Effect.result,
          Effect.forkChild({ startImmediately: true })
        )
        const habits = {
          rounds: 3 + below(12),
          maxPayloadBytes: dice.pick([30, 200, 1500, 6000]),
          isCareless: below(2) === 0,
          isUniform
        }
        const worker = Effect.exit(work(log, chronicle, dice, habits))
        const working = yield* Effect.replicateEffect(
          Effect.forkChild(worker, { startImmediately: true }),
          1 + below(6)
        )
        if (below(3) === 0) yield* Effect.forEach(working, Fiber.await)
        else yield* Effect.repeat(Effect.yieldNow, { times: below(150) })
        if (log.ended() !== undefined) counts.poisoned++
        const how = below(5)
        if (how === 0) disk.kill()
        else if (how < 3) {
          counts.crashes++
          crash()
        }
        if (how >= 3) yield* close
        for (const fiber of working) {
          const exit = yield* Fiber.join(fiber)
          if (Exit.isFailure(exit)) assert.isFalse(Cause.hasDies(exit.cause), `${label}: ${Cause.pretty(exit.cause)}`)
        }
        yield* close
        const end = yield* Fiber.join(follower)
        if (Result.isFailure(end)) assert.notStrictEqual(end.failure._tag, "LogCorrupt", label)
        chronicle.judgeStream(seen, label)
        counts.streamed += seen.length
        fault?.remove()
      }))
    }
    return counts
  }).pipe(
    Effect.provideService(Scheduler.Scheduler, new SeededScheduler(seed, dangers.yieldRate)),
    Effect.timeoutOrElse({
      duration: "30 seconds",
      orElse: () => Effect.die(new Error(`seed ${seed}: somebody waits for ever`))
    }),
    Effect.catchCause((cause) => Effect.die(new Error(`seed ${seed}: ${Cause.pretty(cause)}`)))
  )

describe("AppendLog, many lives", () => {
  const dangers: ReadonlyArray<readonly [string, Dangers, number]> = [
    ["power losses and kills", { isFailing: false, losesSyncs: false, yieldRate: 0 }, 14],
    ["whoever goes on first", { isFailing: false, losesSyncs: false, yieldRate: 0.2 }, 12],
    ["failing operations", { isFailing: true, losesSyncs: false, yieldRate: 0 }, 14],
    ["syncs that fail and lose", { isFailing: true, losesSyncs: true, yieldRate: 0 }, 14],
    ["all of it at once", { isFailing: true, losesSyncs: true, yieldRate: 0.25 }, 12]
  ]

  it.live.each(dangers)(
    "LOG-03 LOG-06 LOG-07 LOG-08 RC-12 RC-13 GC-07 %s",
    ([, danger, seeds]) =>
      Effect.gen(function*() {
        const total = { crashes: 0, poisoned: 0, torn: 0, found: 0, streamed: 0 }
        for (let seed = 0; seed < seeds; seed++) {
          const { crashes, found, poisoned, streamed, torn } = yield* livesOf(seed, danger)
          total.crashes += crashes
          total.poisoned += poisoned
          total.torn += torn
          total.found += found
          total.streamed += streamed
        }
        const said = JSON.stringify(total)
        assert.isTrue(total.crashes > 20 && total.torn > 0 && total.found > 1000 && total.streamed > 1000, said)
        assert.strictEqual(total.poisoned > 0, danger.isFailing, said)
      })
  )
})

/**
 * Random histories of many fibers, looked through for anomalies; the same with power losses, with a log that fails, and
 * twice over under one seed.
 */
import { assert, describe, it } from "@effect/vitest"
import { toCommitSeq } from "@tidemark/core/Scalars"
import type { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import { Cause, Effect, Fiber, Random, References } from "effect"
import { TestClock } from "effect/testing"
import fc from "fast-check"
import { createHash } from "node:crypto"
import {
  type Database,
  forkNow,
  grow,
  makeDisk,
  makeRequest,
  openMemory,
  outcomeOf,
  page,
  published
} from "./support/database.ts"
import { findAnomalies, type TransactionRecord, versionOf } from "./support/history.ts"
import { type LogKind, test } from "./support/logs.ts"
import {
  type Counter,
  type Ledger,
  openOptions,
  type Plan,
  planOf,
  recordInto,
  resolveOutcomes,
  runPlan,
  stateAt,
  workPages
} from "./support/workload.ts"

const readState = (database: Pick<Database, "pager">) =>
  Effect.scoped(Effect.gen(function*() {
    const tx = yield* database.pager.begin()
    const state = new Map<number, number>()
    for (const number of workPages) state.set(number, versionOf(yield* tx.read(page(number))))
    return state
  }))

const makeDiskOf = (plan: Plan) => makeDisk({ async: { seed: plan.diskSeed, maxTurns: 3 } })

/** Everything that is handed to the log is decided. */
const awaitAll = (database: Database, ledger: Ledger) =>
  Effect.forEach(Array.from(ledger.keys()), (seq) => database.coordinator.awaitVisible(seq), { discard: true })

const quietly = Effect.provideService(References.MinimumLogLevel, "None")

/** So many of them over the SQLite WAL, two thirds of it over the other: its files take more steps. */
const runsOf = (runs: number, log: LogKind): number => log.name === "SQLite WAL" ? runs : Math.ceil(runs * 2 / 3)

const check = <A>(arbitrary: fc.Arbitrary<A>, run: (value: A) => Effect.Effect<void, unknown>, numRuns: number) =>
  // In the context of the test: with its log, and on its clock, so that a run depends on nothing but its value.
  Effect.flatMap(Effect.context<never>(), (context) =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(arbitrary, (value) => Effect.runPromiseWith(context)(quietly(run(value)))),
        {
          numRuns,
          seed: 20_260_417
        }
      )
    ))

describe("the checker of histories", () => {
  const transaction = (
    id: number,
    snapshot: bigint,
    committed: bigint | undefined,
    reads: ReadonlyArray<readonly [page: number, version: number]>,
    writes: ReadonlyArray<readonly [page: number, version: number]>
  ): TransactionRecord => ({
    id,
    snapshot,
    committed,
    reads: reads.map(([number, version]) => ({ page: number, version })),
    writes: writes.map(([number, version]) => ({ page: number, version }))
  })
  const kindsOf = (history: ReadonlyArray<TransactionRecord>, isolation: "snapshot" | "serializable" = "snapshot") =>
    Array.from(new Set(findAnomalies(history, isolation).map(({ kind }) => kind)))

  it("finds nothing in a history without anomalies", () => {
    const history = [
      transaction(1, 0n, 1n, [[2, 0]], [[2, 10]]),
      transaction(2, 1n, 2n, [[2, 10], [2, 10]], [[3, 20], [3, 21]]),
      transaction(3, 1n, 1n, [[3, 0], [2, 10]], []),
      transaction(4, 2n, undefined, [[3, 21]], [[3, 30]])
    ]
    assert.deepStrictEqual(kindsOf(history, "serializable"), [])
  })

  it("finds each anomaly", () => {
    const write = transaction(1, 0n, 1n, [], [[2, 10]])
    assert.include(
      kindsOf([transaction(1, 0n, undefined, [], [[2, 10]]), transaction(2, 1n, 1n, [[2, 10]], [])]),
      "G1a"
    )
    assert.include(
      kindsOf([transaction(1, 0n, 1n, [], [[2, 10], [2, 11]]), transaction(2, 1n, 1n, [[2, 10]], [])]),
      "G1b"
    )
    assert.include(kindsOf([write, transaction(2, 1n, 1n, [[2, 0]], [])]), "not of the snapshot")
    assert.include(kindsOf([write, transaction(2, 0n, 0n, [[2, 10]], [])]), "not of the snapshot")
    assert.include(kindsOf([write, transaction(2, 1n, 1n, [[2, 0], [2, 10]], [])]), "non-repeatable read")
    assert.include(kindsOf([write, transaction(2, 0n, 2n, [[2, 0]], [[2, 20]])]), "lost update")
    assert.include(kindsOf([write, transaction(2, 0n, 1n, [], [[3, 20]])]), "sequences")
    const circle = [transaction(1, 0n, 1n, [[3, 20]], [[2, 10]]), transaction(2, 0n, 2n, [[2, 10]], [[3, 20]])]
    assert.include(kindsOf(circle), "G1c")
    const skew = [
      transaction(1, 0n, 1n, [[2, 0], [3, 0]], [[2, 10]]),
      transaction(2, 0n, 2n, [[2, 0], [3, 0]], [[3, 20]])
    ]
    assert.deepStrictEqual(kindsOf(skew), [])
    assert.deepStrictEqual(kindsOf(skew, "serializable"), ["not serializable"])
  })
})

/** Runs a plan on a disk of its own; the history with every outcome, and the state at the end. */
const runAlone = Effect.fnUntraced(function*(plan: Plan) {
  const ledger: Ledger = new Map()
  const disk = makeDiskOf(plan)
  const database = yield* openMemory(disk, { ...openOptions(plan), wrapLog: recordInto(ledger) })
  yield* grow(database, 5)
  const beginning = published(database)
  const run = yield* runPlan(database, plan, { version: 0, transaction: 0 })
  yield* awaitAll(database, ledger)
  yield* resolveOutcomes(database, run.history)
  return { ...run, beginning, database, disk, ledger, state: yield* readState(database) }
})

describe("isolation", () => {
  for (const isolation of ["snapshot", "serializable"] as const) {
    test.overLogs(`PG-05 random histories under ${isolation} isolation have none of its anomalies`, (log) =>
      Effect.gen(function*() {
        const counts = { transactions: 0, committed: 0, refused: 0, interrupted: 0, plans: 0 }
        yield* check(planOf(isolation), (plan) =>
          Effect.scoped(Effect.gen(function*() {
            const run = yield* runAlone(plan)
            assert.deepStrictEqual(findAnomalies(run.history, isolation), [])
            // What the committers were told is what the log was handed, and nothing else was.
            const writers = run.history.filter(({ committed, writes }) => committed !== undefined && writes.length > 0)
            for (const { committed, writes } of writers) {
              assert.deepStrictEqual(
                new Map(run.ledger.get(toCommitSeq(committed ?? 0n))),
                new Map(writes.map(({ page: number, version }) => [number, version] as const))
              )
            }
            assert.strictEqual(BigInt(writers.length), published(run.database) - run.beginning)
            assert.deepStrictEqual(run.state, stateAt(run.ledger, published(run.database)))
            for (const failure of run.failures) assert.include(["Conflict", "SerializationFailure"], failure)
            counts.plans++
            counts.transactions += run.history.length
            counts.committed += writers.length
            counts.refused += run.failures.length
          })), runsOf(120, log))
        // The plans are such that the interesting things do happen.
        assert.isAbove(counts.committed, counts.plans)
        assert.isAbove(counts.refused, counts.plans / 2)
      }))
  }

  test.overLogs("PG-04 random histories under snapshot isolation do show write skew", (log) =>
    Effect.gen(function*() {
      let skewed = 0
      yield* check(planOf("snapshot"), (plan) =>
        Effect.scoped(Effect.gen(function*() {
          const { history } = yield* runAlone(plan)
          if (findAnomalies(history, "serializable").length > 0) skewed++
        })), runsOf(60, log))
      assert.isAbove(skewed, 3)
    }))
})

describe("isolation, with power losses", () => {
  /** After so many turns of the event loop, or at the next step of the disk that matches. */
  type Moment =
    | { readonly kind: "turns"; readonly turns: number }
    | { readonly kind: "step" | "sync"; readonly skip: number; readonly when: "before" | "after" }
  interface CrashPlan {
    readonly plans: ReadonlyArray<Plan>
    readonly crashes: ReadonlyArray<{ readonly moment: Moment; readonly choice: number }>
  }
  const when = fc.constantFrom("before" as const, "after" as const)
  const moment: fc.Arbitrary<Moment> = fc.oneof(
    fc.record({ kind: fc.constant("turns" as const), turns: fc.nat(120) }),
    fc.record({ kind: fc.constant("step" as const), skip: fc.nat(60), when }),
    fc.record({ kind: fc.constant("sync" as const), skip: fc.nat(5), when })
  )
  const crashPlan: fc.Arbitrary<CrashPlan> = fc.record({
    plans: fc.array(planOf("serializable"), { minLength: 3, maxLength: 3 }),
    crashes: fc.array(fc.record({ moment, choice: fc.nat(1_000_000) }), { minLength: 3, maxLength: 3 })
  })

  const crashAt = (
    disk: MemoryDisk,
    log: LogKind,
    at: Moment,
    running: Fiber.Fiber<unknown, unknown>,
    crash: Effect.Effect<void>
  ) => {
    if (at.kind === "turns") return Effect.andThen(Effect.repeat(Effect.yieldNow, { times: at.turns }), crash)
    const step = at.kind === "sync" ? log.batchSync : { operation: "any" } as const
    const hold = disk.hold({ ...step, skip: at.skip, when: at.when })
    return Effect.raceFirst(hold.reached, Fiber.await(running)).pipe(
      Effect.andThen(crash),
      Effect.andThen(hold.release)
    )
  }

  test.overLogs("CO-05 CO-18 after a power loss every acknowledged commit is there, and a prefix of the others", (log) =>
    Effect.gen(function*() {
      const counts = { acknowledged: 0, kept: 0, lost: 0 }

      /** What is there after a loss is what was acknowledged up to `tip`, and a prefix of what was on its way. */
      const checkRecovered = Effect.fnUntraced(function*(database: Database, ledger: Ledger, tip: bigint) {
        const { recoveredTip, wasRecovered } = database.control
        assert.isTrue(recoveredTip >= tip, `${recoveredTip} is not below ${tip}, which was acknowledged`)
        for (const seq of ledger.keys()) {
          if (seq > tip && wasRecovered(seq)) counts.kept++
          if (wasRecovered(seq)) continue
          assert.isTrue(seq > tip, `${seq} was acknowledged`)
          counts.lost++
          ledger.delete(seq)
        }
        const seqs = Array.from(ledger.keys()).sort((a, b) => a < b ? -1 : 1)
        // Where a lost commit keeps its sequence, those that were recovered need not be next to each other.
        if (!log.isSequenceKept && seqs.length > 0) assert.strictEqual(seqs.at(-1), recoveredTip)
        assert.deepStrictEqual(yield* readState(database), stateAt(ledger, recoveredTip))
        return recoveredTip
      })

      yield* check(crashPlan, ({ crashes, plans }) =>
        Effect.gen(function*() {
          const first = plans[0]
          if (first === undefined) return
          const disk = makeDiskOf(first)
          const ledger: Ledger = new Map()
          const counter: Counter = { version: 0, transaction: 0 }
          yield* Effect.scoped(Effect.flatMap(openMemory(disk), (database) => grow(database, 5)))
          let tip = 0n
          let highest = 0n
          for (const [round, plan] of plans.entries()) {
            const crash = crashes[round]
            if (crash === undefined) return
            yield* Effect.scoped(Effect.gen(function*() {
              const options = openOptions(plan)
              const database = yield* openMemory(disk, {
                ...options,
                sqlite: { ...options.sqlite, acceptLoss: true },
                wrapLog: recordInto(ledger)
              })
              tip = yield* checkRecovered(database, ledger, tip)
              const opened = published(database)
              assert.isTrue(opened >= highest, `sequences do not go back below ${highest}`)

              const running = yield* forkNow(runPlan(database, plan, counter))
              yield* crashAt(
                disk,
                log,
                crash.moment,
                running,
                Effect.sync(() => {
                  // What is published has been acknowledged, or is about to be: it must never be lost.
                  highest = published(database)
                  if (highest > opened) tip = highest
                  disk.crash(crash.choice)
                  // Nobody lives to try again.
                  if (log.writesAgain) database.log.poison(Cause.fail("the power is gone"))
                })
              )
              const run = yield* Fiber.join(running)
              for (const seq of run.acknowledged) {
                assert.isTrue(seq <= tip, `${seq} was acknowledged after the power was gone at ${tip}`)
              }
              counts.acknowledged += run.acknowledged.length
              assert.deepStrictEqual(findAnomalies(run.history, "snapshot").filter(({ kind }) => kind === "G1b"), [])
              for (const failure of run.failures) {
                assert.include(
                  ["Conflict", "SerializationFailure", "WalPoisoned", "VfsError", "SpillCorrupt"],
                  failure
                )
              }
            }))
          }
          const recovered = openMemory(disk, { sqlite: { acceptLoss: true } })
          yield* Effect.scoped(Effect.flatMap(recovered, (database) => checkRecovered(database, ledger, tip)))
        }), 60)
      assert.isAbove(counts.acknowledged, 100)
      assert.isAbove(counts.kept, 20, "some commits were on the disk before they were acknowledged")
      assert.isAbove(counts.lost, 20)
    }))
})

describe("isolation, with a log that fails", () => {
  test.overLogs("CO-05 the k-th sync fails under load: every fiber ends with a typed error, and reading goes on", (log) =>
    Effect.gen(function*() {
      const kinds = new Map<string, number>()
      yield* check(
        fc.record({ plan: planOf("snapshot"), skip: fc.nat(12) }),
        ({ plan, skip }) =>
          Effect.scoped(Effect.gen(function*() {
            const ledger: Ledger = new Map()
            const disk = makeDiskOf(plan)
            const database = yield* openMemory(disk, { ...openOptions(plan), wrapLog: recordInto(ledger) })
            yield* grow(database, 5)
            disk.inject({ ...log.batchSync, skip, fault: { kind: "lostSync" } })
            const run = yield* runPlan(database, plan, { version: 0, transaction: 0 })
            yield* awaitAll(database, ledger)
            const ended = database.log.ended()
            const tip = published(database)
            yield* resolveOutcomes(database, run.history)
            for (const { committed, writes } of run.history) {
              if (committed !== undefined && writes.length > 0) assert.isTrue(committed <= tip)
            }
            // Nothing conflicts with what never was: histories stay explicable by what committed.
            assert.deepStrictEqual(findAnomalies(run.history, "snapshot"), [])
            assert.deepStrictEqual(yield* readState(database), stateAt(ledger, tip))
            for (const failure of run.failures) kinds.set(failure, (kinds.get(failure) ?? 0) + 1)
            if (ended !== undefined) {
              assert.strictEqual(
                yield* outcomeOf(database.pager.withTransaction((tx) => tx.read(page(2)))),
                "success"
              )
              const write = database.pager.withTransaction((tx) => Effect.sync(() => tx.allocate()))
              assert.strictEqual(yield* outcomeOf(write), "WalPoisoned")
            }
            yield* database.close
            disk.crash("lost")
            const again = yield* openMemory(disk, { sqlite: { acceptLoss: true } })
            assert.strictEqual(again.control.recoveredTip, tip, "what was acknowledged is there, and nothing else")
            assert.deepStrictEqual(yield* readState(again), stateAt(ledger, tip))
          })),
        runsOf(80, log)
      )
      assert.isAbove(kinds.get("WalPoisoned") ?? 0, 20)
      assert.sameMembers(Array.from(kinds.keys()), ["Conflict", "WalPoisoned"])
    }))

  test.overLogs("CO-05 after poison nothing is refused as a conflict with a commit that failed", (log) =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const database = yield* openMemory(disk)
      yield* grow(database, 5)
      const hold = disk.hold(log.batchSync)
      disk.inject({ ...log.batchSync, fault: { kind: "error", code: "EIO" } })
      const commits = yield* Effect.forEach(
        [2, 3, 4],
        (number) =>
          Effect.flatMap(
            makeRequest(database, [number]),
            (request) => forkNow(outcomeOf(database.coordinator.commit(request)))
          )
      )
      yield* hold.reached
      const late = yield* makeRequest(database, [3])
      yield* hold.release
      for (const fiber of commits) assert.strictEqual(yield* Fiber.join(fiber), "WalPoisoned")
      assert.strictEqual(yield* outcomeOf(database.coordinator.commit(late)), "WalPoisoned")
    }))

  test.overLogs("closing under load: what was accepted finishes, the rest is told that the log is closed, nobody hangs", (log) =>
    Effect.gen(function*() {
      const closed = new Map<string, number>()
      yield* check(
        fc.record({ plan: planOf("snapshot"), turns: fc.nat(60) }),
        ({ plan, turns }) =>
          Effect.scoped(Effect.gen(function*() {
            const ledger: Ledger = new Map()
            const disk = makeDiskOf(plan)
            const database = yield* openMemory(disk, { ...openOptions(plan), wrapLog: recordInto(ledger) })
            yield* grow(database, 5)
            const running = yield* forkNow(runPlan(database, plan, { version: 0, transaction: 0 }))
            yield* Effect.repeat(Effect.yieldNow, { times: turns })
            yield* database.close
            const tip = published(database)
            assert.strictEqual(database.log.ended()?._tag, "LogClosed")
            const run = yield* Fiber.join(running)
            for (const failure of run.failures) closed.set(failure, (closed.get(failure) ?? 0) + 1)
            for (const seq of run.acknowledged) assert.isTrue(seq <= tip)
            yield* resolveOutcomes(database, run.history)
            const again = yield* openMemory(disk)
            assert.strictEqual(published(again), tip)
            assert.strictEqual(tip, Array.from(ledger.keys()).reduce((most, seq) => seq > most ? seq : most, tip))
            assert.deepStrictEqual(yield* readState(again), stateAt(ledger, tip))
            const decided = run.history.filter(({ committed, writes }) => committed !== undefined && writes.length > 0)
            for (const seq of ledger.keys()) {
              if (ledger.get(seq)?.size === 0) continue
              assert.isTrue(
                decided.some(({ committed }) => committed === seq) || seq <= 1n,
                `somebody knows of ${seq}`
              )
            }
          })),
        runsOf(80, log)
      )
      assert.isAbove(closed.get("LogClosed") ?? 0, 20)
    }))
})

describe("determinism", () => {
  const hashOf = (plan: Plan, seed: string) =>
    Effect.scoped(Effect.gen(function*() {
      const disk = makeDiskOf(plan)
      const trace = disk.record()
      const database = yield* openMemory(disk, openOptions(plan))
      yield* grow(database, 5)
      const run = yield* runPlan(database, plan, { version: 0, transaction: 0 })
      yield* database.close
      trace.stop()
      const hash = createHash("sha256")
      for (const event of run.events) hash.update(`${event}\n`)
      for (const { kind, path, ...rest } of trace.steps) {
        hash.update(`${kind} ${path} ${"position" in rest ? rest.position : ""}\n`)
        if ("bytes" in rest) hash.update(rest.bytes)
      }
      return { hash: hash.digest("hex"), events: run.events.length, steps: trace.steps.length }
    })).pipe(Random.withSeed(seed), quietly)

  test.overLogs("one seed run twice has the same events, and leaves the same bytes in the same order", () =>
    Effect.gen(function*() {
      const plans = fc.sample(planOf("serializable"), { numRuns: 12, seed: 7 })
      const hashes = new Set<string>()
      for (const [index, plan] of plans.entries()) {
        const first = yield* hashOf(plan, `seed ${index}`)
        yield* TestClock.setTime(0)
        const second = yield* hashOf(plan, `seed ${index}`)
        yield* TestClock.setTime(0)
        assert.deepStrictEqual(second, first)
        assert.isAbove(first.steps, 10)
        hashes.add(first.hash)
        hashes.add((yield* hashOf(plan, "another seed")).hash)
        yield* TestClock.setTime(0)
      }
      assert.strictEqual(hashes.size, 2 * plans.length, "other seeds have other events")
    }))
})

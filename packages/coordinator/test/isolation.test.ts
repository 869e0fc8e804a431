/**
 * Random histories of many fibers, looked through for anomalies; the same with power losses, with a log that fails, and
 * twice over under one seed.
 */
import { assert, describe, it } from "@effect/vitest"
import { toCommitSeq } from "@tidemark/core/Scalars"
import { Effect, Fiber, Random, References } from "effect"
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
  published,
  walPath
} from "./support/database.ts"
import { findAnomalies, type TransactionRecord, versionOf } from "./support/history.ts"
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

const check = <A>(arbitrary: fc.Arbitrary<A>, run: (value: A) => Effect.Effect<void, unknown>, numRuns: number) =>
  Effect.promise(() =>
    fc.assert(fc.asyncProperty(arbitrary, (value) => Effect.runPromise(quietly(run(value)))), {
      numRuns,
      seed: 20_260_417
    })
  )

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
    it.effect(`PG-05 random histories under ${isolation} isolation have none of its anomalies`, () =>
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
          })), 120)
        // The plans are such that the interesting things do happen.
        assert.isAbove(counts.committed, counts.plans)
        assert.isAbove(counts.refused, counts.plans / 2)
      }))
  }

  it.effect("PG-04 random histories under snapshot isolation do show write skew", () =>
    Effect.gen(function*() {
      let skewed = 0
      yield* check(planOf("snapshot"), (plan) =>
        Effect.scoped(Effect.gen(function*() {
          const { history } = yield* runAlone(plan)
          if (findAnomalies(history, "serializable").length > 0) skewed++
        })), 60)
      assert.isAbove(skewed, 3)
    }))
})

describe("isolation, with power losses", () => {
  interface CrashPlan {
    readonly plans: ReadonlyArray<Plan>
    readonly crashes: ReadonlyArray<{ readonly afterTurns: number; readonly choice: number }>
  }
  const crashPlan: fc.Arbitrary<CrashPlan> = fc.record({
    plans: fc.array(planOf("serializable"), { minLength: 3, maxLength: 3 }),
    crashes: fc.array(fc.record({ afterTurns: fc.nat(120), choice: fc.nat(1_000_000) }), { minLength: 3, maxLength: 3 })
  })

  it.effect("CO-05 CO-18 after a power loss every acknowledged commit is there, and a prefix of the others", () =>
    Effect.gen(function*() {
      const counts = { crashes: 0, acknowledged: 0, kept: 0, lost: 0 }
      yield* check(crashPlan, ({ crashes, plans }) =>
        Effect.gen(function*() {
          const first = plans[0]
          if (first === undefined) return
          const disk = makeDiskOf(first)
          const ledger: Ledger = new Map()
          const counter: Counter = { version: 0, transaction: 0 }
          yield* Effect.scoped(Effect.flatMap(openMemory(disk), (database) => grow(database, 5)))
          let tip = 0n
          for (const [round, plan] of plans.entries()) {
            const crash = crashes[round]
            if (crash === undefined) return
            yield* Effect.scoped(Effect.gen(function*() {
              const database = yield* openMemory(disk, {
                ...openOptions(plan),
                wal: { ...openOptions(plan).wal, acceptLoss: true },
                wrapLog: recordInto(ledger)
              })
              const reached = published(database)
              assert.isTrue(reached >= tip, `${reached} is not below ${tip}, which was acknowledged`)
              for (const seq of ledger.keys()) if (seq > reached) ledger.delete(seq)
              counts.kept += Number(reached - tip)
              const seqs = Array.from(ledger.keys()).sort((a, b) => a < b ? -1 : 1)
              assert.deepStrictEqual(
                yield* readState(database),
                stateAt(ledger, reached),
                "a prefix of what was handed over"
              )
              if (seqs.length > 0) assert.strictEqual(seqs.at(-1), reached)
              tip = reached

              const running = yield* forkNow(runPlan(database, plan, counter))
              const acknowledgedBefore = () => database.log.published().commitSeq
              yield* Effect.repeat(Effect.yieldNow, { times: crash.afterTurns })
              // What is published has been acknowledged, or is about to be: it must never be lost.
              tip = acknowledgedBefore()
              disk.crash(crash.choice)
              counts.crashes++
              const run = yield* Fiber.join(running)
              for (const seq of run.acknowledged) {
                assert.isTrue(seq <= tip, `${seq} was acknowledged after the power was gone at ${tip}`)
              }
              counts.acknowledged += run.acknowledged.length
              assert.deepStrictEqual(findAnomalies(run.history, "snapshot").filter(({ kind }) => kind === "G1b"), [])
              for (const failure of run.failures) {
                assert.include(["Conflict", "SerializationFailure", "WalPoisoned", "VfsError", "SpillCorrupt"], failure)
              }
            }))
          }
          yield* Effect.scoped(Effect.gen(function*() {
            const database = yield* openMemory(disk, { wal: { acceptLoss: true } })
            assert.isTrue(published(database) >= tip)
            assert.deepStrictEqual(yield* readState(database), stateAt(ledger, published(database)))
          }))
        }), 60)
      assert.isAbove(counts.acknowledged, 100)
      assert.isAbove(counts.kept, 5, "some commits were on the disk before they were acknowledged")
    }))
})

describe("isolation, with a log that fails", () => {
  it.effect("CO-05 the k-th sync fails under load: every fiber ends with a typed error, and reading goes on", () =>
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
            disk.inject({ operation: "syncData", path: walPath, skip, fault: { kind: "lostSync" } })
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
              assert.strictEqual(yield* outcomeOf(database.pager.withTransaction((tx) => tx.read(page(2)))), "success")
              const write = database.pager.withTransaction((tx) => Effect.sync(() => tx.allocate()))
              assert.strictEqual(yield* outcomeOf(write), "WalPoisoned")
            }
            yield* database.close
            disk.crash("lost")
            const again = yield* openMemory(disk, { wal: { acceptLoss: true } })
            assert.strictEqual(published(again), tip, "what was acknowledged is there, and nothing else")
            assert.deepStrictEqual(yield* readState(again), stateAt(ledger, tip))
          })),
        80
      )
      assert.isAbove(kinds.get("WalPoisoned") ?? 0, 20)
      assert.sameMembers(Array.from(kinds.keys()), ["Conflict", "WalPoisoned"])
    }))

  it.effect("CO-05 after poison nothing is refused as a conflict with a commit that failed", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const database = yield* openMemory(disk)
      yield* grow(database, 5)
      const hold = disk.hold({ operation: "syncData", path: walPath })
      disk.inject({ operation: "syncData", path: walPath, fault: { kind: "error", code: "EIO" } })
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

  it.effect("closing under load: what was accepted finishes, the rest is told that the log is closed, nobody hangs", () =>
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
              assert.isTrue(decided.some(({ committed }) => committed === seq) || seq <= 1n, `somebody knows of ${seq}`)
            }
          })),
        80
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

  it.effect("one seed run twice has the same events, and leaves the same bytes in the same order", () =>
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

/**
 * PG-11 in random histories: transactions that grow and cut the database beside others that read and write it.
 *
 * The oracle is replay on a plain model. What each committed transaction changed, one after another in the order of
 * their sequences, gives the state after each of them. Every transaction must have seen what it would have seen alone on
 * the state of its snapshot; under serializable isolation the committed ones must have seen the same on the state before
 * their own commit, and have left what they would have left there.
 */
import { assert, describe } from "@effect/vitest"
import type * as Pager from "@tidemark/coordinator/Pager"
import type { CheckpointMode } from "@tidemark/wal/SqliteWal"
import { Effect, References } from "effect"
import fc from "fast-check"
import { type Database, grow, makeDisk, openMemory, page, pageSize, published } from "./support/database.ts"
import { pageOf, versionOf } from "./support/history.ts"
import { test } from "./support/logs.ts"

type Step =
  | { readonly kind: "read" | "write"; readonly page: number }
  | { readonly kind: "truncate"; readonly size: number }
  | { readonly kind: "allocate" }
  | { readonly kind: "size" }
  | { readonly kind: "pause"; readonly turns: number }

const maxPages = 12
const anyPage = fc.integer({ min: 2, max: maxPages })
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ kind: fc.constantFrom("read" as const, "write" as const), page: anyPage }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("truncate" as const), size: anyPage }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom("allocate" as const, "size" as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("pause" as const), turns: fc.nat(5) }) }
)

interface Plan {
  readonly isolation: Pager.Isolation
  readonly fibers: ReadonlyArray<ReadonlyArray<ReadonlyArray<Step>>>
  readonly checkpoints: ReadonlyArray<{ readonly mode: CheckpointMode; readonly turns: number }>
  readonly diskSeed: number
  readonly cachePages: number
  readonly isSpilling: boolean
}

const planOf = (isolation: Pager.Isolation): fc.Arbitrary<Plan> =>
  fc.record({
    isolation: fc.constant(isolation),
    fibers: fc.array(fc.array(fc.array(step, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 6 }), {
      minLength: 2,
      maxLength: 4
    }),
    checkpoints: fc.array(
      fc.record({ mode: fc.constantFrom<CheckpointMode>("passive", "restart", "truncate"), turns: fc.nat(20) }),
      { maxLength: 4 }
    ),
    diskSeed: fc.nat(1_000_000),
    cachePages: fc.constantFrom(0, 3, 100),
    isSpilling: fc.boolean()
  })

/** The database as it should be: its size, and the version of each page; a page without one is zeros. */
class Model {
  size: number
  readonly versions: Map<number, number>

  constructor(size: number, versions: Iterable<readonly [number, number]> = []) {
    this.size = size
    this.versions = new Map(versions)
  }

  copy(): Model {
    return new Model(this.size, this.versions)
  }

  /** Does a step and answers what its transaction should have been answered; `version` is what it writes. */
  apply(done: Step, version: number): number | undefined {
    switch (done.kind) {
      case "pause":
        return undefined
      case "size":
        return this.size
      case "read":
        return this.versions.get(done.page) ?? 0
      case "allocate":
        return ++this.size
      case "write":
        this.versions.set(done.page, version)
        this.size = Math.max(this.size, done.page)
        return undefined
      case "truncate":
        if (done.size > this.size) return -1
        this.size = done.size
        for (const number of this.versions.keys()) if (number > done.size) this.versions.delete(number)
        return undefined
    }
  }
}

interface Record {
  readonly id: number
  readonly snapshot: bigint
  readonly steps: Array<{ readonly step: Step; readonly version: number; readonly answer: number | undefined }>
  committed: bigint | undefined
}

const runPlan = Effect.fnUntraced(function*(database: Database, plan: Plan) {
  const history: Array<Record> = []
  const failures: Array<string> = []
  let versions = 0

  const runStep = Effect.fnUntraced(function*(tx: Pager.Transaction, planned: Step, version: number) {
    switch (planned.kind) {
      case "pause":
        yield* Effect.repeat(Effect.yieldNow, { times: planned.turns })
        return undefined
      case "size":
        return tx.databasePages()
      case "read":
        return versionOf(version % 2 === 0 ? yield* tx.read(page(planned.page)) : tx.readSync(page(planned.page)))
      case "allocate":
        return tx.allocate()
      case "write":
        yield* tx.write(page(planned.page), pageOf(version))
        return undefined
      case "truncate":
        return yield* Effect.match(tx.truncateTo(planned.size), { onSuccess: () => undefined, onFailure: () => -1 })
    }
  })

  const runTransaction = Effect.fnUntraced(function*(steps: ReadonlyArray<Step>) {
    const tx = yield* database.pager.begin({ isolation: plan.isolation })
    const record: Record = { id: history.length + 1, snapshot: tx.snapshot.high, steps: [], committed: undefined }
    history.push(record)
    for (const planned of steps) {
      const version = ++versions
      record.steps.push({ step: planned, version, answer: yield* runStep(tx, planned, version) })
    }
    const { commitSeq } = yield* tx.commit
    record.committed = commitSeq
  }, Effect.scoped)

  const runFiber = (transactions: ReadonlyArray<ReadonlyArray<Step>>) =>
    Effect.forEach(transactions, (steps) =>
      Effect.catch(runTransaction(steps), (error) =>
        Effect.sync(() => {
          failures.push(error._tag)
        })), { discard: true })
  const checkpointer = Effect.forEach(plan.checkpoints, ({ mode, turns }) =>
    Effect.andThen(
      Effect.repeat(Effect.yieldNow, { times: turns }),
      database.control.checkpoint(mode, { busyTimeout: 0 })
    ), { discard: true })
  yield* Effect.all([...plan.fibers.map(runFiber), checkpointer], { concurrency: "unbounded", discard: true })
  return { history, failures }
})

/** What a transaction was answered beside what it should have been answered on a state. */
const replay = (record: Record, state: Model) => {
  const expected = record.steps.map(({ step: done, version }) => state.apply(done, version))
  return { expected, found: record.steps.map(({ answer }) => answer) }
}

/**
 * The state that a transaction leaves behind `before`: its own writes, and its cut when it has cut off pages of its
 * snapshot. A cut of its own growth alone is none, nor is one to the size that it saw.
 */
const changedBy = (record: Record, snapshot: Model, before: Model): Model => {
  const local = snapshot.copy()
  let kept = snapshot.size
  const own = new Set<number>()
  for (const { step: done, version } of record.steps) {
    local.apply(done, version)
    own.add(version)
    kept = Math.min(kept, local.size)
  }
  const after = before.copy()
  if (kept < snapshot.size) {
    assert.strictEqual(before.size, snapshot.size, `${record.id} cut what it saw, and nobody else changed the size`)
    for (const number of after.versions.keys()) if (number > kept) after.versions.delete(number)
    after.size = local.size
  } else if (local.size > snapshot.size) {
    after.size = Math.max(before.size, local.size)
  }
  for (const [number, version] of local.versions) if (own.has(version)) after.versions.set(number, version)
  return after
}

const initialPages = 6

const checkPlan = Effect.fnUntraced(
  function*(plan: Plan, counts: { committed: number; refused: number; resized: number }) {
    const disk = makeDisk({ async: { seed: plan.diskSeed, maxTurns: 3 } })
    const options = {
      autoCheckpointFrames: 10,
      sqlite: { restartFrames: 60 },
      pager: {
        cacheBytes: plan.cachePages * (pageSize + 256),
        spillThresholdBytes: plan.isSpilling ? pageSize : undefined
      }
    }
    const database = yield* openMemory(disk, options)
    yield* grow(database, initialPages)
    const beginning = published(database)
    const { failures, history } = yield* runPlan(database, plan)
    const tip = published(database)

    const bySeq = new Map<bigint, Record>()
    for (const record of history) {
      // Who wrote nothing is answered his snapshot, which somebody else committed.
      const { committed } = record
      if (committed !== undefined && committed > record.snapshot) bySeq.set(committed, record)
    }
    const states = new Map<bigint, Model>([[beginning, new Model(initialPages)]])
    for (let seq = beginning + 1n; seq <= tip; seq++) {
      const record = bySeq.get(seq)
      const before = states.get(seq - 1n)
      if (record === undefined || before === undefined) throw new Error(`nobody committed ${seq}`)
      const snapshot = states.get(record.snapshot)
      if (snapshot === undefined) throw new Error(`there is no state ${record.snapshot}`)
      const after = changedBy(record, snapshot, before)
      if (plan.isolation === "serializable") {
        const alone = before.copy()
        const { expected, found } = replay(record, alone)
        assert.deepStrictEqual(found, expected, `${record.id} in the order of commits, at ${seq}`)
        assert.deepStrictEqual(after, alone, `what ${record.id} left at ${seq}`)
      }
      if (after.size !== before.size) counts.resized++
      states.set(seq, after)
    }
    for (const record of history) {
      const state = states.get(record.snapshot)
      if (state === undefined) throw new Error(`there is no state ${record.snapshot}`)
      const { expected, found } = replay(record, state.copy())
      assert.deepStrictEqual(found, expected, `${record.id} at its snapshot ${record.snapshot}`)
    }
    const last = states.get(tip)
    const checkState = Effect.fnUntraced(function*(opened: Database, label: string) {
      const tx = yield* opened.pager.begin()
      assert.strictEqual(tx.databasePages(), last?.size, `${label}: the size`)
      for (let number = 2; number <= maxPages + 8; number++) {
        assert.strictEqual(
          versionOf(yield* tx.read(page(number))),
          last?.versions.get(number) ?? 0,
          `${label}: ${number}`
        )
      }
    }, Effect.scoped)
    yield* checkState(database, "at the end")
    // The same when the log is gone, and only the database file and its header are left.
    yield* database.control.checkpoint(plan.diskSeed % 2 === 0 ? "truncate" : "passive")
    yield* database.close
    yield* checkState(yield* openMemory(disk, options), "opened again")
    counts.committed += bySeq.size
    counts.refused += failures.length
    for (const failure of failures) assert.include(["Conflict", "SerializationFailure"], failure)
  },
  Effect.scoped
)

describe("isolation of transactions that change the size", () => {
  for (const isolation of ["snapshot", "serializable"] as const) {
    test.overEveryLog(`PG-05 PG-11 random growth and cuts under ${isolation} isolation`, (log) =>
      Effect.gen(function*() {
        const numRuns = log.name === "SQLite WAL" ? 120 : 80
        const counts = { committed: 0, refused: 0, resized: 0 }
        const context = yield* Effect.context<never>()
        yield* Effect.promise(() =>
          fc.assert(
            fc.asyncProperty(planOf(isolation), (plan) =>
              Effect.runPromiseWith(context)(
                checkPlan(plan, counts).pipe(Effect.provideService(References.MinimumLogLevel, "None"))
              )),
            { numRuns, seed: 20_260_418 }
          )
        )
        assert.isAbove(counts.committed, 2.5 * numRuns)
        assert.isAbove(counts.resized, 1.25 * numRuns)
        assert.isAbove(counts.refused, 1.25 * numRuns)
      }))
  }
})

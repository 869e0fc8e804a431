/** Random transactions of several fibers over a few pages, as a value: run it, and a history comes out. */
import type * as Pager from "@tidemark/coordinator/Pager"
import type { CommitSeq, PageNumber } from "@tidemark/core/Scalars"
import { VfsError } from "@tidemark/platform/VfsError"
import type { CommitLog } from "@tidemark/wal/CommitLog"
import type { CheckpointMode } from "@tidemark/wal/SqliteWal"
import { Effect, Exit, Fiber } from "effect"
import fc from "fast-check"
import { type Database, type OpenOptions, page, pageSize } from "./database.ts"
import { pageOf, type TransactionRecord, versionOf } from "./history.ts"

/** The pages that the transactions use; page 1 is SQLite's. */
export const workPages = [2, 3, 4, 5] as const

export type Step =
  | { readonly kind: "read" | "readSync" | "write"; readonly page: number }
  | { readonly kind: "pause"; readonly turns: number }

export interface PlannedTransaction {
  readonly steps: ReadonlyArray<Step>
  /** How it ends. `"interrupt"`: its commit is interrupted after so many turns. */
  readonly end:
    | { readonly kind: "commit" }
    | { readonly kind: "rollback" }
    | { readonly kind: "interrupt"; readonly turns: number }
}

export interface Plan {
  readonly isolation: Pager.Isolation
  readonly fibers: ReadonlyArray<ReadonlyArray<PlannedTransaction>>
  readonly checkpoints: ReadonlyArray<{ readonly mode: CheckpointMode; readonly turns: number }>
  readonly diskSeed: number
  readonly cachePages: number
  readonly isSpilling: boolean
}

const turns = fc.nat(6)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("read" as const), page: fc.constantFrom(...workPages) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("readSync" as const), page: fc.constantFrom(...workPages) }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("write" as const), page: fc.constantFrom(...workPages) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("pause" as const), turns }) }
)
const end: fc.Arbitrary<PlannedTransaction["end"]> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: fc.constant("commit" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("rollback" as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("interrupt" as const), turns }) }
)
const transaction: fc.Arbitrary<PlannedTransaction> = fc.record({
  steps: fc.array(step, { minLength: 1, maxLength: 6 }),
  end
})

export const planOf = (isolation: Pager.Isolation): fc.Arbitrary<Plan> =>
  fc.record({
    isolation: fc.constant(isolation),
    fibers: fc.array(fc.array(transaction, { minLength: 1, maxLength: 6 }), { minLength: 2, maxLength: 5 }),
    checkpoints: fc.array(
      fc.record({ mode: fc.constantFrom<CheckpointMode>("passive", "full", "restart", "truncate"), turns: fc.nat(20) }),
      { maxLength: 3 }
    ),
    diskSeed: fc.nat(1_000_000),
    cachePages: fc.constantFrom(0, 2, 100),
    isSpilling: fc.boolean()
  })

/** What the log was handed, by sequence: for each page its version. */
export type Ledger = Map<CommitSeq, ReadonlyMap<number, number>>

/** Writes down what goes from the coordinator to the log. */
export const recordInto = (ledger: Ledger) => (log: CommitLog["Service"]): CommitLog["Service"] => ({
  ...log,
  appendUnsafe: (commit, waiter) => {
    const versions = new Map<number, number>()
    for (const number of commit.pages) if (number > 1) versions.set(number, versionOf(commit.image(number)))
    ledger.set(commit.seq, versions)
    return log.appendUnsafe(commit, waiter)
  }
})

/** The version of each page after a commit. */
export const stateAt = (ledger: Ledger, seq: bigint): Map<number, number> => {
  const state = new Map<number, number>(workPages.map((number) => [number, 0]))
  const seqs = Array.from(ledger.keys()).filter((candidate) => candidate <= seq).sort((a, b) => a < b ? -1 : 1)
  for (const at of seqs) for (const [number, version] of ledger.get(at) ?? []) state.set(number, version)
  return state
}

/**
 * How the parallel log may be set up; its answers are the same. `lanePages`: as many as the largest transaction, so that
 * two of them do not fit into a lane.
 */
export const parallelSettingOf = (seed: number, lanePages: number): OpenOptions["parallel"] => {
  const pageBytes = 48 + pageSize
  const settings: ReadonlyArray<OpenOptions["parallel"]> = [
    {},
    { control: { mode: "conservative" } },
    { control: { mode: "shadow_compare" } },
    { laneCapacityBytes: pageBytes, overflowPolicy: "overflow", overflowLimitBytes: lanePages * pageBytes },
    { laneCapacityBytes: lanePages * pageBytes, overflowPolicy: "block" }
  ]
  return settings[seed % settings.length]
}

export const openOptions = (plan: Plan) => ({
  autoCheckpointFrames: 8,
  sqlite: { restartFrames: 40, preallocateBytes: 1000 },
  parallel: parallelSettingOf(plan.diskSeed, workPages.length + 1),
  pager: {
    cacheBytes: plan.cachePages * (pageSize + 256),
    spillThresholdBytes: plan.isSpilling ? pageSize : undefined
  }
})

export interface Run {
  readonly history: ReadonlyArray<TransactionRecord>
  /** The sequences that were answered, as their committers got them. */
  readonly acknowledged: ReadonlyArray<CommitSeq>
  /** The tags of errors and the word "defect", in the order in which they came. */
  readonly failures: ReadonlyArray<string>
  /** What happened, in order, one line each. */
  readonly events: ReadonlyArray<string>
}

/** Numbers versions and transactions over several runs on one disk. */
export interface Counter {
  version: number
  transaction: number
}

/** What was thrown, as the failure of an effect; anything but a failure of the disk stays a defect. */
const readSync = (tx: Pager.Transaction, number: PageNumber): Effect.Effect<Uint8Array, VfsError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(tx.readSync(number))
    } catch (error) {
      if (error instanceof VfsError) return Effect.fail(error)
      throw error
    }
  })

/** Runs a plan to its end. Fibers go on after failures: a typed error is an answer. */
export const runPlan = Effect.fnUntraced(function*(database: Database, plan: Plan, counter: Counter) {
  const history: Array<TransactionRecord & { readonly token: Pager.Transaction["token"] }> = []
  const acknowledged: Array<CommitSeq> = []
  const failures: Array<string> = []
  const events: Array<string> = []

  const runSteps = Effect.fnUntraced(function*(
    tx: Pager.Transaction,
    record: TransactionRecord,
    steps: ReadonlyArray<Step>
  ) {
    const own = new Map<number, number>()
    for (const planned of steps) {
      if (planned.kind === "pause") {
        yield* Effect.repeat(Effect.yieldNow, { times: planned.turns })
        continue
      }
      const number = page(planned.page)
      if (planned.kind === "write") {
        const version = ++counter.version
        yield* tx.write(number, pageOf(version))
        own.set(planned.page, version)
        record.writes.push({ page: planned.page, version })
        continue
      }
      const version = versionOf(planned.kind === "read" ? yield* tx.read(number) : yield* readSync(tx, number))
      const expected = own.get(planned.page)
      if (expected === undefined) record.reads.push({ page: planned.page, version })
      else if (expected !== version) return yield* Effect.die(new Error(`own write ${expected} is read as ${version}`))
      events.push(`${record.id} ${planned.kind} ${planned.page}=${version}`)
    }
  })

  const runTransaction = Effect.fnUntraced(function*(planned: PlannedTransaction) {
    const tx = yield* database.pager.begin({ isolation: plan.isolation })
    const record = {
      id: ++counter.transaction,
      token: tx.token,
      snapshot: tx.snapshot.high,
      reads: [],
      writes: [],
      committed: undefined
    } as TransactionRecord & { readonly token: Pager.Transaction["token"] }
    history.push(record)
    yield* runSteps(tx, record, planned.steps)
    const { end: ending } = planned
    if (ending.kind === "rollback") return yield* tx.rollback
    const commit = Effect.map(tx.commit, ({ commitSeq }) => {
      record.committed = commitSeq
      if (record.writes.length > 0) acknowledged.push(commitSeq)
      events.push(`${record.id} committed ${commitSeq}`)
    })
    if (ending.kind === "commit") return yield* commit
    const fiber = yield* Effect.forkChild(Effect.exit(commit), { startImmediately: true })
    yield* Effect.repeat(Effect.yieldNow, { times: ending.turns })
    yield* Fiber.interrupt(fiber)
    const exit = yield* Fiber.await(fiber)
    if (Exit.isSuccess(exit)) yield* exit.value
  }, Effect.scoped)

  const runFiber = (transactions: ReadonlyArray<PlannedTransaction>) =>
    Effect.forEach(transactions, (planned) =>
      Effect.catch(runTransaction(planned), (error) =>
        Effect.sync(() => {
          failures.push(error._tag)
          events.push(`failed: ${error._tag}`)
        })), { discard: true })

  const checkpointer = Effect.forEach(plan.checkpoints, ({ mode, turns: pause }) =>
    Effect.andThen(
      Effect.repeat(Effect.yieldNow, { times: pause }),
      // An open transaction may stand in its way for ever.
      Effect.match(database.control.checkpoint(mode, { busyTimeout: 0 }), {
        onSuccess: ({ framesCopied }) => {
          events.push(`${mode} copied ${framesCopied}`)
        },
        onFailure: (error) => {
          events.push(`${mode} failed: ${error._tag}`)
        }
      })
    ), { discard: true })

  yield* Effect.all([...plan.fibers.map(runFiber), checkpointer], { concurrency: "unbounded", discard: true })
  return { history, acknowledged, failures, events }
})

/** After a run, when everything that was accepted is decided: asks what became of who was interrupted. */
export const resolveOutcomes = Effect.fnUntraced(function*(
  database: Database,
  history: ReadonlyArray<TransactionRecord & { readonly token: Pager.Transaction["token"] }>
) {
  for (const record of history) {
    if (record.committed !== undefined || record.writes.length === 0) continue
    let outcome = yield* database.coordinator.outcome(record.token)
    // A batch is published as one, and its commits are answered one by one after that. Who never got so far as to be
    // accepted stays undecided.
    for (let turn = 0; turn < 100 && outcome._tag === "undecided"; turn++) {
      yield* Effect.yieldNow
      outcome = yield* database.coordinator.outcome(record.token)
    }
    if (outcome._tag === "committed") record.committed = outcome.commitSeq
  }
})

/**
 * One schedule of transactions over both logs: the same answers, the same sequences, the same database file.
 *
 * A schedule says what is done in which order, down to what is done while a batch is being written, so that nothing in it
 * depends on how long a log takes.
 */
import { assert, describe, it } from "@effect/vitest"
import type { CommitAnswer, CommitError } from "@tidemark/coordinator/CompatCoordinator"
import { Conflict, SerializationFailure } from "@tidemark/coordinator/CoordinatorErrors"
import type * as Pager from "@tidemark/coordinator/Pager"
import { databaseHeaderBytes, hasMagic } from "@tidemark/wal/DatabaseHeaderFormat"
import type { CheckpointMode } from "@tidemark/wal/SqliteWal"
import { Effect, Exit, Fiber, References, Scope } from "effect"
import fc from "fast-check"
import {
  type Database,
  forkNow,
  isWaiting,
  makeDisk,
  memoryPath,
  openMemory,
  type OpenOptions,
  page,
  pageSize,
  published
} from "./support/database.ts"
import { pageOf, versionOf } from "./support/history.ts"
import { type LogKind, LogUnderTest, parallelWal, sqliteWal } from "./support/logs.ts"
import { parallelSettingOf } from "./support/workload.ts"

const slots = 4
const maxPages = 12
/** No transaction of these schedules is larger. */
const lanePages = 32

/** What one of a few transactions does. One that is not open begins with it; nothing begins with its end. */
type Action =
  | { readonly kind: "begin"; readonly slot: number; readonly isolation: Pager.Isolation }
  | { readonly kind: "read" | "readSync" | "write"; readonly slot: number; readonly page: number }
  | { readonly kind: "truncate"; readonly slot: number; readonly pages: number }
  | { readonly kind: "allocate" | "size" | "rollback" | "commit"; readonly slot: number }

type Step =
  | Action
  /** These commit in one batch; while it is being written the actions are done, and their commits are in the next one. */
  | { readonly kind: "together"; readonly slots: ReadonlyArray<number>; readonly meanwhile: ReadonlyArray<Action> }
  | { readonly kind: "checkpoint"; readonly mode: CheckpointMode }
  /** `"kill"`: what is in the log is recovered. */
  | { readonly kind: "reopen"; readonly by: "close" | "kill" }

interface Schedule {
  readonly steps: ReadonlyArray<Step>
  readonly seed: number
  readonly cachePages: number
  readonly isSpilling: boolean
  readonly autoCheckpointFrames: number
}

const slot = fc.nat(slots - 1)
// Few of them most of the time, so that transactions meet.
const anyPage = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 2, max: 4 }) },
  { weight: 1, arbitrary: fc.integer({ min: 2, max: maxPages }) }
)
const isolation = fc.constantFrom<Pager.Isolation>("snapshot", "serializable")
const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("begin" as const), slot, isolation }) },
  {
    weight: 10,
    arbitrary: fc.record({
      kind: fc.constantFrom("read" as const, "readSync" as const),
      slot,
      page: fc.oneof({ weight: 8, arbitrary: anyPage }, { weight: 1, arbitrary: fc.constant(1) })
    })
  },
  { weight: 14, arbitrary: fc.record({ kind: fc.constant("write" as const), slot, page: anyPage }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("truncate" as const), slot, pages: anyPage }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom("allocate" as const, "size" as const), slot }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("rollback" as const), slot }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("commit" as const), slot }) }
)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 30, arbitrary: action },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("together" as const),
      slots: fc.uniqueArray(slot, { minLength: 1, maxLength: slots }),
      meanwhile: fc.array(action, { maxLength: 6 })
    })
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("checkpoint" as const),
      mode: fc.constantFrom<CheckpointMode>("passive", "full", "restart", "truncate")
    })
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("reopen" as const),
      by: fc.constantFrom("close" as const, "kill" as const)
    })
  }
)
const schedule: fc.Arbitrary<Schedule> = fc.record({
  steps: fc.array(step, { minLength: 20, maxLength: 120, size: "max" }),
  seed: fc.nat(1_000_000),
  cachePages: fc.constantFrom(0, 3, 100),
  isSpilling: fc.boolean(),
  autoCheckpointFrames: fc.constantFrom(0, 7)
})

/** An answer as it is compared. */
const describeExit = (exit: Exit.Exit<CommitAnswer, CommitError>): string =>
  Exit.match(exit, {
    // Where a commit stands in the log is a matter of the log.
    onSuccess: ({ commitSeq }) => `committed ${commitSeq}`,
    onFailure: (cause) => {
      const [reason] = cause.reasons
      if (reason?._tag !== "Fail") return String(cause)
      const { error } = reason
      return error instanceof Conflict || error instanceof SerializationFailure
        ? `${error._tag} (${error.reason}) with ${error.conflictingSeq} on ${error.pages.join(", ")}`
        : error._tag
    }
  })

/** Page 1 is SQLite's: its header. Every other page is full of its version. */
const contentOf = (bytes: Uint8Array): string =>
  hasMagic(bytes) ? Buffer.from(bytes.subarray(0, databaseHeaderBytes)).toString("hex") : String(versionOf(bytes))

interface Outcome {
  /** One for each step that asked something. */
  readonly answers: ReadonlyArray<string>
  /** The database file after everything was copied into it. */
  readonly file: Uint8Array | undefined
  readonly copiedFrames: number
}

const run = Effect.fnUntraced(function*(log: LogKind, { steps, ...settings }: Schedule) {
  const disk = makeDisk({ async: { seed: settings.seed, maxTurns: 2 } })
  let submitted = 0
  const options: OpenOptions = {
    // Counts the commits that have come as far as the log.
    wrapLog: (wrapped) => ({
      ...wrapped,
      admit: (admission) => {
        submitted++
        return wrapped.admit(admission)
      }
    }),
    autoCheckpointFrames: settings.autoCheckpointFrames,
    parallel: parallelSettingOf(settings.seed, lanePages),
    pager: {
      cacheBytes: settings.cachePages * (pageSize + 256),
      spillThresholdBytes: settings.isSpilling ? pageSize : undefined
    }
  }
  const answers: Array<string> = []
  let database: Database = yield* openMemory(disk, options)
  let transactions = new Map<number, { readonly tx: Pager.Transaction; readonly scope: Scope.Closeable }>()
  let versions = 0
  let copiedFrames = 0

  /** The one that is open, or a new one. */
  const transactionOf = Effect.fnUntraced(function*(of: number, isolation: Pager.Isolation) {
    const open = transactions.get(of)
    if (open !== undefined) return open.tx
    const scope = yield* Scope.fork(yield* Effect.scope)
    const tx = yield* Scope.provide(database.pager.begin({ isolation }), scope)
    transactions.set(of, { tx, scope })
    answers.push(`${of} begins at ${tx.snapshot.high}, ${tx.token.epoch}/${tx.token.id}`)
    return tx
  })
  const end = Effect.fnUntraced(function*(of: number) {
    const open = transactions.get(of)
    transactions.delete(of)
    if (open !== undefined) yield* Scope.close(open.scope, Exit.void)
  })
  /**
   * Starts a commit, and lets it get in line: before that it may have to read a page, which takes its time. Its answer
   * comes to where it was asked for.
   */
  const startCommit = Effect.fnUntraced(function*(of: number, label: string) {
    const open = transactions.get(of)
    if (open === undefined) return undefined
    transactions.delete(of)
    const at = answers.push(label) - 1
    const commit = Effect.onExit(Effect.exit(open.tx.commit), () => Scope.close(open.scope, Exit.void))
    const before = submitted
    const fiber = yield* forkNow(Effect.map(commit, (exit) => {
      answers[at] = `${label}: ${describeExit(exit)}`
    }))
    while (submitted === before && isWaiting(fiber)) yield* Effect.yieldNow
    return fiber
  })

  const act = Effect.fnUntraced(function*(planned: Action) {
    const { kind } = planned
    const label = `${kind} ${planned.slot}`
    if (kind === "begin") {
      yield* transactionOf(planned.slot, planned.isolation)
      return undefined
    }
    if (kind === "commit") return yield* startCommit(planned.slot, label)
    if (kind === "rollback") {
      yield* end(planned.slot)
      return undefined
    }
    const tx = yield* transactionOf(planned.slot, planned.slot % 2 === 0 ? "serializable" : "snapshot")
    switch (kind) {
      case "read":
        answers.push(`${label}: page ${planned.page} = ${contentOf(yield* tx.read(page(planned.page)))}`)
        break
      case "readSync":
        answers.push(`${label}: page ${planned.page} = ${contentOf(tx.readSync(page(planned.page)))}`)
        break
      case "write":
        yield* tx.write(page(planned.page), pageOf(++versions))
        break
      case "truncate":
        yield* Effect.match(tx.truncateTo(planned.pages), {
          onSuccess: () => answers.push(`${label} to ${planned.pages}`),
          onFailure: ({ _tag }) => answers.push(`${label}: ${_tag}`)
        })
        break
      case "allocate":
        answers.push(`${label}: ${tx.allocate()}`)
        break
      case "size":
        answers.push(`${label}: ${tx.databasePages()}`)
        break
    }
    return undefined
  })

  const together = Effect.fnUntraced(function*(of: ReadonlyArray<number>, meanwhile: ReadonlyArray<Action>) {
    const hold = disk.hold(log.batchWrite)
    const running: Array<Fiber.Fiber<void>> = []
    const wait = (fiber: Fiber.Fiber<void> | undefined) => {
      if (fiber !== undefined) running.push(fiber)
    }
    for (const each of of) wait(yield* startCommit(each, `commit ${each} in a batch`))
    // When all of them are refused there is no batch.
    yield* Effect.raceFirst(hold.reached, Effect.forEach(running, Fiber.await, { discard: true }))
    for (const each of meanwhile) wait(yield* act(each))
    yield* hold.release
    yield* Effect.forEach(running, Fiber.join, { discard: true })
  })

  for (const planned of steps) {
    switch (planned.kind) {
      case "together":
        yield* together(planned.slots, planned.meanwhile)
        break
      case "checkpoint": {
        const { blocked, framesCopied } = yield* database.control.checkpoint(planned.mode, { busyTimeout: 0 })
        copiedFrames += framesCopied
        answers.push(`${planned.mode}: ${blocked ? "blocked" : "done"}`)
        break
      }
      case "reopen":
        for (const open of Array.from(transactions.keys())) yield* end(open)
        if (planned.by === "kill") disk.kill()
        yield* database.close
        database = yield* openMemory(disk, options)
        answers.push(`opened at ${published(database)}, ${database.log.published().databasePages} pages`)
        break
      default: {
        const commit = yield* act(planned)
        if (commit !== undefined) yield* Fiber.join(commit)
      }
    }
  }

  for (const open of Array.from(transactions.keys())) yield* end(open)
  transactions = new Map()
  yield* act({ kind: "begin", slot: 0, isolation: "snapshot" })
  yield* act({ kind: "size", slot: 0 })
  for (let number = 1; number <= maxPages + 4; number++) yield* act({ kind: "read", slot: 0, page: number })
  yield* end(0)
  yield* database.control.checkpoint("truncate")
  yield* database.close
  const outcome: Outcome = { answers, file: disk.readFile(memoryPath), copiedFrames }
  return outcome
}, Effect.scoped)

describe("both logs", () => {
  it.effect("PG-08 one schedule has the same answers, and leaves the same database file", () =>
    Effect.gen(function*() {
      const counts = { committed: 0, conflicts: 0, serialization: 0, inBatches: 0, opened: 0, blocked: 0, copied: 0 }
      const context = yield* Effect.context<never>()
      const compare = Effect.fnUntraced(function*(planned: Schedule) {
        const [one, other] = yield* Effect.forEach([sqliteWal, parallelWal], (log) =>
          Effect.provideService(run(log, planned), LogUnderTest, log))
        if (one === undefined || other === undefined) {
          return assert.fail("both logs have run")
        }
        assert.deepStrictEqual(other.answers, one.answers)
        assert.deepStrictEqual(other.file, one.file)
        const count = (what: RegExp) =>
          one.answers.filter((answer) => what.test(answer)).length
        counts.committed += count(/: committed/)
        counts.conflicts += count(/: Conflict/)
        counts.serialization += count(/: SerializationFailure/)
        counts.inBatches += count(/in a batch: committed/)
        counts.opened += count(/^opened/)
        counts.blocked += count(/: blocked/)
        counts.copied += other.copiedFrames
      }, Effect.provideService(References.MinimumLogLevel, "None"))
      yield* Effect.promise(() =>
        fc.assert(fc.asyncProperty(schedule, (planned) => Effect.runPromiseWith(context)(compare(planned))), {
          numRuns: 50,
          seed: 20_261_121
        })
      )
      // The schedules are such that the interesting things do happen.
      assert.isAbove(counts.committed, 400)
      assert.isAbove(counts.inBatches, 200)
      assert.isAbove(counts.conflicts, 150)
      assert.isAbove(counts.serialization, 4)
      assert.isAbove(counts.blocked, 10)
      assert.isAbove(counts.opened, 60)
      assert.isAbove(counts.copied, 150)
    }))
})

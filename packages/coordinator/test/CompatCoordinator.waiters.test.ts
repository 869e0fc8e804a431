/** Who waits for a commit in an effect of his own is told what became of it, once. */
import { assert, describe, it } from "@effect/vitest"
import type { CommitAnswer, CommitError, CommitRequest } from "@tidemark/coordinator/CompatCoordinator"
import type { CommitWaiter } from "@tidemark/coordinator/Coordination"
import { SchemaEpoch, toCommitSeq } from "@tidemark/core/Scalars"
import { Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import {
  commitPages,
  type Database,
  forkNow,
  grow,
  makeDisk,
  makeRequest,
  openMemory,
  outcomeOf,
  published,
  readNow,
  settle,
  valueOf
} from "./support/database.ts"
import { test } from "./support/logs.ts"
import { openRecording, RecordingLog } from "./support/recordingLog.ts"

/** Keeps what it is told. */
class Waiter implements CommitWaiter<CommitAnswer, CommitError> {
  readonly answers: Array<CommitAnswer> = []
  readonly outcomes: Array<Effect.Effect<CommitAnswer, CommitError>> = []

  get told(): number {
    return this.answers.length + this.outcomes.length
  }

  committed(answer: CommitAnswer): void {
    this.answers.push(answer)
  }

  resume(outcome: Effect.Effect<CommitAnswer, CommitError>): void {
    this.outcomes.push(outcome)
  }

  /** Runs what is still to be run, as the one does who waits. */
  get result(): Effect.Effect<CommitAnswer, CommitError> {
    const [answer] = this.answers
    const [outcome] = this.outcomes
    assert.strictEqual(this.told, 1, "told once")
    return answer === undefined ? outcome ?? Effect.never : Effect.succeed(answer)
  }
}

const submit = (database: Pick<Database, "coordinator">, request: CommitRequest, waiter = new Waiter()) => {
  const stepBack = database.coordinator.submitUnsafe(request, waiter)
  return { waiter, stepBack }
}

/** What is told at once, without anything to be run. */
const tagNow = (waiter: Waiter): string => {
  const [outcome] = waiter.outcomes
  assert.isTrue(outcome !== undefined && Exit.isExit(outcome))
  return Effect.runSync(outcomeOf(waiter.result))
}

const answerOf = (seq: bigint, walOffset: number): CommitAnswer => ({ commitSeq: toCommitSeq(seq), walOffset })

const open = Effect.gen(function*() {
  const log = new RecordingLog()
  return { log, ...yield* openRecording(log) }
})

describe("CompatCoordinator: a waiter of one's own", () => {
  it.effect("CO-16 a commit: told when it is durable and visible, with its answer", () =>
    Effect.gen(function*() {
      const { log, ...opened } = yield* open
      const first = submit(opened, yield* makeRequest(opened, [1]))
      const second = submit(opened, yield* makeRequest(opened, [2]))
      assert.deepStrictEqual([first.stepBack, second.stepBack], [undefined, undefined])
      yield* settle
      assert.deepStrictEqual([first.waiter.told, second.waiter.told], [0, 0])
      log.complete(1)
      assert.deepStrictEqual([first.waiter.answers, second.waiter.told], [[answerOf(1n, 0)], 0])
      log.complete()
      assert.deepStrictEqual(second.waiter.answers, [answerOf(2n, 536)])
      log.poison()
      yield* settle
      assert.deepStrictEqual([first.waiter.told, second.waiter.told], [1, 1])
    }))

  it.effect("CO-01 CO-05 what stands against it is told before it returns", () =>
    Effect.gen(function*() {
      const { log, ...opened } = yield* open
      const request = yield* makeRequest(opened, [1])
      const other = submit(opened, yield* makeRequest(opened, [1]))
      const conflicting = submit(opened, request)
      assert.isUndefined(conflicting.stepBack)
      assert.strictEqual(tagNow(conflicting.waiter), "Conflict")
      const old = yield* makeRequest(opened, [2])
      yield* opened.coordinator.setSchemaEpoch(SchemaEpoch.make(3n))
      const mismatched = submit(opened, old)
      assert.strictEqual(tagNow(mismatched.waiter), "SchemaMismatch")
      log.complete()
      log.poison()
      assert.strictEqual(tagNow(submit(opened, yield* makeRequest(opened, [3])).waiter), "WalPoisoned")
      assert.deepStrictEqual([conflicting, mismatched, other].map(({ waiter }) => waiter.told), [1, 1, 1])
    }))

  it.effect("CO-05 the log ends while it is on its way, or while it waits for room", () =>
    Effect.gen(function*() {
      const { log, ...opened } = yield* open
      const onItsWay = submit(opened, yield* makeRequest(opened, [1]))
      log.isFull = true
      const waiting = submit(opened, yield* makeRequest(opened, [2]))
      assert.isDefined(waiting.stepBack)
      log.poison()
      assert.strictEqual(tagNow(onItsWay.waiter), "WalPoisoned")
      assert.strictEqual(tagNow(waiting.waiter), "WalPoisoned")
      // Too late.
      yield* waiting.stepBack ?? Effect.void
      log.poison()
      yield* settle
      assert.deepStrictEqual([onItsWay, waiting].map(({ waiter }) => waiter.told), [1, 1])
    }))

  it.effect("CO-18 the same token again: on its way, committed, and while both wait for room", () =>
    Effect.gen(function*() {
      const { log, ...opened } = yield* open
      const request = yield* makeRequest(opened, [1])
      const first = submit(opened, request)
      const second = submit(opened, request)
      // He is told that he has to wait for the other one.
      const waiting = yield* forkNow(second.waiter.result)
      assert.strictEqual(first.waiter.told, 0)
      log.complete()
      assert.deepStrictEqual(first.waiter.answers, [answerOf(1n, 0)])
      assert.deepStrictEqual(yield* Fiber.join(waiting), answerOf(1n, 0))
      const third = submit(opened, request)
      assert.deepStrictEqual(yield* third.waiter.result, answerOf(1n, 0))
      log.isFull = true
      const next = yield* makeRequest(opened, [2])
      const twice = [submit(opened, next), submit(opened, next)]
      log.letIn()
      log.letIn()
      log.complete()
      for (const { waiter } of twice) assert.deepStrictEqual(yield* waiter.result, answerOf(2n, 536))
      assert.strictEqual(log.commits.length, 2)
      assert.deepStrictEqual([first, second, third].map(({ waiter }) => waiter.told), [1, 1, 1])
    }))

  it.effect("CO-18 the step back: of who waits, and of who does not any more", () =>
    Effect.gen(function*() {
      const { log, ...opened } = yield* open
      log.isFull = true
      const leaving = submit(opened, yield* makeRequest(opened, [1]))
      const staying = submit(opened, yield* makeRequest(opened, [1]))
      assert.strictEqual(log.waiting.length, 2)
      yield* leaving.stepBack ?? Effect.die("there is somewhere to step back from")
      assert.strictEqual(log.waiting.length, 1)
      log.letIn()
      yield* staying.stepBack ?? Effect.die("there was somewhere to step back from")
      yield* leaving.stepBack ?? Effect.void
      log.complete()
      yield* settle
      assert.deepStrictEqual(staying.waiter.answers, [answerOf(1n, 0)])
      assert.deepStrictEqual([leaving.waiter.told, staying.waiter.told], [0, 1])
    }))

  it.effect("CO-11 pages that have spilled are looked at by the one who waits", () =>
    Effect.gen(function*() {
      const { log, ...opened } = yield* open
      const { stepBack, waiter } = submit(opened, yield* makeRequest(opened, [1, 2], { spillThresholdBytes: 0 }))
      assert.isUndefined(stepBack)
      assert.strictEqual(waiter.told, 1)
      assert.strictEqual(log.commits.length, 0)
      const waiting = yield* forkNow(waiter.result)
      yield* settle
      assert.strictEqual(log.commits.length, 1)
      log.complete()
      assert.deepStrictEqual(yield* Fiber.join(waiting), answerOf(1n, 0))
      assert.strictEqual(waiter.told, 1)
    }))

  it.effect("PG-01 who writes nothing is answered his snapshot, also of a log that has failed", () =>
    Effect.gen(function*() {
      const { log, ...opened } = yield* open
      for (let time = 0; time < 2; time++) {
        const { stepBack, waiter } = submit(opened, yield* makeRequest(opened, []))
        assert.isUndefined(stepBack)
        assert.deepStrictEqual(waiter.outcomes, [Exit.succeed(answerOf(0n, 0))])
        assert.strictEqual(waiter.told, 1)
        log.poison()
      }
    }))

  test.overLogs("CO-05 one who throws when he is told keeps nobody else from being told", () =>
    Effect.gen(function*() {
      const database = yield* openMemory(makeDisk())
      yield* grow(database, 5)
      yield* settle
      const tip = published(database)
      const waiters = [new Waiter(), new Waiter(), new Waiter()]
      const thrower: CommitWaiter<CommitAnswer, CommitError> = {
        committed: () => {
          throw new Error("thrown")
        },
        resume: () => {
          throw new Error("nobody resumes who has thrown")
        }
      }
      const requests = yield* Effect.forEach([2, 3, 4, 5], (number) => makeRequest(database, [number], { value: 7 }))
      requests.forEach((request, at) => {
        const waiter = at === 1 ? thrower : waiters[at > 1 ? at - 1 : at]
        if (waiter !== undefined) database.coordinator.submitUnsafe(request, waiter)
      })
      yield* settle
      yield* TestClock.adjust("100 millis")
      yield* settle
      assert.deepStrictEqual(waiters.map(({ answers }) => answers.map(({ commitSeq }) => commitSeq)), [
        [toCommitSeq(tip + 1n)],
        [toCommitSeq(tip + 3n)],
        [toCommitSeq(tip + 4n)]
      ])
      assert.deepStrictEqual(waiters.map(({ told }) => told), [1, 1, 1])
      for (const number of [2, 3, 4, 5]) assert.strictEqual(valueOf(yield* readNow(database, number)), 7)
      assert.strictEqual(yield* outcomeOf(commitPages(database, [2])), "WalPoisoned")
    }))
})

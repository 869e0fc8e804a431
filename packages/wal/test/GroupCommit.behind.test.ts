/** Two batches on their way at once, the second one behind the first: what is promised to whom when something happens. */
import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import { Cause, Clock, Deferred, Effect, Fiber, Metric } from "effect"
import { TestClock } from "effect/testing"
import type { CommitMode, GroupCommit } from "../src/GroupCommit.ts"
import * as LogMetrics from "../src/LogMetrics.ts"
import { commit, isWaiting, outcomeOf, type Recorded, settle, start } from "./support/engine.ts"
import { diskError, type RecordingSink } from "./support/recordingSink.ts"
import { parse, record } from "./support/testFrames.ts"

const recordBytes = 24
const four = [0, 1, 2, 3]

/** Commits until it fails, `rounds` times at the most, and answers what became of each commit. */
const loop = (log: GroupCommit, writer: number, rounds: number, modes: ReadonlyArray<CommitMode> = []) =>
  Effect.gen(function*() {
    const outcomes: Array<string> = []
    for (let index = 0; index < rounds && (outcomes.at(-1) ?? "success") === "success"; index++) {
      outcomes.push(yield* outcomeOf(commit(log, record(writer, index, recordBytes), modes[index])))
    }
    return outcomes
  })

/** Holds the calls with these indexes until they are let go, well or with an error. */
const holdCalls = (disk: RecordingSink, ...indexes: ReadonlyArray<number>) =>
  Effect.gen(function*() {
    const gates = new Map(indexes.map((index) => [index, Deferred.makeUnsafe<void, VfsError>()]))
    const { before } = disk
    disk.before = (call, index) => {
      const gate = gates.get(index)
      return gate === undefined ? before(call, index) : Deferred.await(gate)
    }
    const letGo = (index: number, outcome: Effect.Effect<void, VfsError> = Effect.void) =>
      Effect.suspend(() => {
        const gate = gates.get(index)
        return gate === undefined ? Effect.die(`call ${index} is not held`) : Deferred.complete(gate, outcome)
      })
    yield* Effect.addFinalizer(() => Effect.forEach(indexes, (index) => letGo(index), { discard: true }))
    return (index: number, outcome?: Effect.Effect<void, VfsError>) => Effect.andThen(letGo(index, outcome), settle)
  })

/**
 * The first commits of four writers are durable; those of two are on their way, held in the sink, and those of the other
 * two behind them.
 */
const twoUnderWay = Effect.fnUntraced(function*(
  { disk, log }: Recorded,
  rounds: number,
  modes: (writer: number) => ReadonlyArray<CommitMode> = () => []
) {
  const letGo = yield* holdCalls(disk, 1, 2)
  const writers = yield* Effect.forEach(
    four,
    (writer) => Effect.forkChild(loop(log, writer, rounds, modes(writer)), { startImmediately: true })
  )
  yield* settle
  assert.deepStrictEqual(disk.calls.map(({ background, length, lsn }) => [lsn, length, background]), [
    [0, 96, false],
    [96, 48, true],
    [144, 48, true]
  ])
  assert.strictEqual(log.watermarks().written, 96)
  return { writers, letGo }
})

const overlapped = (sink: Parameters<typeof start>[0] = {}) => start(sink, { overlapWaiters: () => 4 })

describe("GroupCommit: a batch behind another one", () => {
  it.effect("GC-02 GC-13 two are under way at once, and each is answered when it is durable", () =>
    Effect.gen(function*() {
      const recorded = yield* overlapped()
      const { disk, log } = recorded
      const { letGo, writers } = yield* twoUnderWay(recorded, 2)
      assert.strictEqual(disk.mostUnderWay, 2)
      assert.strictEqual(disk.image.length, 96)
      yield* letGo(1)
      assert.deepStrictEqual(writers.map(isWaiting), [false, false, true, true])
      assert.strictEqual(log.watermarks().durable, 144)
      yield* letGo(2)
      for (const writer of writers) assert.deepStrictEqual(yield* Fiber.join(writer), ["success", "success"])
      assert.deepStrictEqual(log.watermarks(), { reserved: toLsn(192), written: toLsn(192), durable: toLsn(192) })
    }))

  it.effect("GC-07 the first one fails: the writers of both are told, and the sink is left alone", () =>
    Effect.gen(function*() {
      const recorded = yield* overlapped()
      const { disk, log } = recorded
      const { letGo, writers } = yield* twoUnderWay(recorded, 3)
      yield* letGo(1, Effect.fail(diskError()))
      for (const writer of writers) assert.deepStrictEqual(yield* Fiber.join(writer), ["success", "WalPoisoned"])
      const ended = log.ended()
      assert.deepInclude(ended, { _tag: "WalPoisoned", lsn: toLsn(96), cause: Cause.fail(diskError()) })
      assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
      assert.lengthOf(disk.calls, 3)
    }))

  it.effect("GC-07 the second one fails: the writers of the first one are durable", () =>
    Effect.gen(function*() {
      const recorded = yield* overlapped()
      const { disk, log } = recorded
      const { letGo, writers } = yield* twoUnderWay(recorded, 2)
      yield* letGo(1)
      yield* letGo(2, Effect.fail(diskError()))
      const outcomes = yield* Effect.forEach(writers, Fiber.join)
      assert.deepStrictEqual(outcomes.map(([, second]) => second), ["success", "success", "WalPoisoned", "WalPoisoned"])
      assert.deepInclude(log.ended(), { _tag: "WalPoisoned", lsn: toLsn(144) })
      assert.lengthOf(disk.calls, 3)
    }))

  for (const [what, failure] of [["fails", Effect.fail(diskError())], ["dies", Effect.die("dead")]] as const) {
    it.effect(`GC-07 the second one ${what} before the first one is settled: nothing is given to the sink behind it`, () =>
      Effect.gen(function*() {
        const recorded = yield* overlapped()
        const { disk, log } = recorded
        const { letGo, writers } = yield* twoUnderWay(recorded, 3)
        // It waits for the first one in the sink, and then fails in the same turn.
        const { before } = disk
        disk.before = (call, index) => index === 2 ? failure : before(call, index)
        yield* letGo(2, failure)
        yield* letGo(1)
        const outcomes = yield* Effect.forEach(writers, Fiber.join)
        assert.deepStrictEqual(outcomes, [
          ["success", "success", "WalPoisoned"],
          ["success", "success", "WalPoisoned"],
          ["success", "WalPoisoned"],
          ["success", "WalPoisoned"]
        ])
        assert.strictEqual(log.watermarks().durable, 144)
        assert.lengthOf(disk.calls, 3)
      }))
  }

  it.effect("GC-07 poison from outside: nobody is acknowledged, and the log ends behind both", () =>
    Effect.gen(function*() {
      const recorded = yield* overlapped()
      const { disk, log } = recorded
      const { letGo, writers } = yield* twoUnderWay(recorded, 2)
      log.poison(Cause.die("outside"))
      for (const writer of writers) assert.deepStrictEqual(yield* Fiber.join(writer), ["success", "WalPoisoned"])
      const closing = yield* Effect.forkChild(outcomeOf(log.close), { startImmediately: true })
      yield* settle
      assert.isTrue(isWaiting(closing))
      yield* letGo(1)
      assert.isTrue(isWaiting(closing))
      yield* letGo(2)
      assert.strictEqual(yield* Fiber.join(closing), "WalPoisoned")
      assert.strictEqual(log.watermarks().durable, 96)
      assert.lengthOf(disk.calls, 3)
    }))

  it.effect("GC-07 a defect between the two poisons at once, and the log ends behind the other one", () =>
    Effect.gen(function*() {
      const recorded = yield* overlapped({
        onDurable: (durable) => {
          if (durable === 144) throw new Error("onDurable is broken")
        }
      })
      const { log } = recorded
      const { letGo, writers } = yield* twoUnderWay(recorded, 2)
      yield* letGo(1)
      for (const writer of writers) assert.deepStrictEqual(yield* Fiber.join(writer), ["success", "WalPoisoned"])
      const closing = yield* Effect.forkChild(outcomeOf(log.close), { startImmediately: true })
      yield* settle
      assert.isTrue(isWaiting(closing))
      yield* letGo(2)
      assert.strictEqual(yield* Fiber.join(closing), "WalPoisoned")
    }))

  it.effect("GC-07 a defect while a batch is begun in the middle of a wake-up: the others are woken all the same", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      let isBroken = false
      const breaking = Clock.Clock.of({
        currentTimeMillis: clock.currentTimeMillis,
        currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe(),
        currentTimeNanos: clock.currentTimeNanos,
        currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
        monotonicTimeNanos: clock.monotonicTimeNanos,
        monotonicTimeNanosUnsafe: () => {
          if (isBroken) throw new Error("the clock is broken")
          return clock.monotonicTimeNanosUnsafe()
        },
        sleep: (duration) => clock.sleep(duration)
      })
      const { disk, log } = yield* Effect.provideService(overlapped(), Clock.Clock, breaking)
      const outcomes = yield* Effect.forEach(four, (writer) =>
        Effect.gen(function*() {
          const [first] = yield* loop(log, writer, 1)
          isBroken = true
          return [first, ...(yield* loop(log, writer, 1))]
        }), { concurrency: "unbounded" })
      for (const outcome of outcomes) assert.deepStrictEqual(outcome, ["success", "WalPoisoned"])
      assert.lengthOf(disk.calls, 1)
    }))

  it.effect("GC-14 closing: both are written, then the log ends", () =>
    Effect.gen(function*() {
      const recorded = yield* overlapped()
      const { disk, log } = recorded
      const { letGo, writers } = yield* twoUnderWay(recorded, 3)
      const closing = yield* Effect.forkChild(outcomeOf(log.close), { startImmediately: true })
      yield* letGo(1)
      assert.isTrue(isWaiting(closing))
      yield* letGo(2)
      assert.strictEqual(yield* Fiber.join(closing), "success")
      for (const writer of writers) {
        assert.deepStrictEqual(yield* Fiber.join(writer), ["success", "success", "LogClosed"])
      }
      assert.strictEqual(disk.syncedEnd, 192)
      assert.lengthOf(disk.calls, 3)
    }))

  it.effect("GC-12 behind a batch in the background everything is synced, also for those who want it written", () =>
    Effect.gen(function*() {
      const recorded = yield* overlapped()
      const { letGo, writers } = yield* twoUnderWay(recorded, 2, (writer) => writer < 2 ? [] : ["durable", "written"])
      assert.deepStrictEqual(recorded.disk.operations, ["writeAndSync", "writeAndSync", "writeAndSync"])
      yield* letGo(1)
      yield* letGo(2)
      for (const writer of writers) assert.deepStrictEqual(yield* Fiber.join(writer), ["success", "success"])
    }))

  it.effect("GC-12 also when nobody waits for durability any more, the one before included", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* overlapped()
      const letGo = yield* holdCalls(disk, 1, 2)
      const first = yield* Effect.forEach(
        [0, 1],
        (writer) => Effect.forkChild(loop(log, writer, 2), { startImmediately: true })
      )
      const second = yield* Effect.forEach([2, 3], (writer) =>
        Effect.forkChild(
          Effect.gen(function*() {
            yield* loop(log, writer, 1)
            // Inside the wake-up: the batch of the other two is on its way.
            assert.lengthOf(disk.calls, 2)
            for (const fiber of first) fiber.interruptUnsafe()
            return yield* outcomeOf(commit(log, record(writer, 1, recordBytes), "written"))
          }),
          { startImmediately: true }
        ))
      yield* settle
      assert.deepStrictEqual(disk.operations, ["writeAndSync", "writeAndSync", "writeAndSync"])
      yield* letGo(1)
      yield* letGo(2)
      for (const fiber of second) assert.strictEqual(yield* Fiber.join(fiber), "success")
      assert.strictEqual(log.watermarks().durable, 192)
    }))

  it.effect("GC-12 nothing goes behind a plain write", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* overlapped()
      const letGo = yield* holdCalls(disk, 1, 2)
      const writers = yield* Effect.forEach(four, (writer) =>
        Effect.forkChild(loop(log, writer, 2, writer < 2 ? ["durable", "written"] : []), { startImmediately: true }))
      yield* settle
      assert.deepStrictEqual(disk.operations, ["writeAndSync", "write"])
      yield* letGo(1)
      assert.deepStrictEqual(disk.operations, ["writeAndSync", "write", "writeAndSync"])
      yield* letGo(2)
      for (const writer of writers) {
        assert.deepStrictEqual(yield* Fiber.join(writer), ["success", "success"])
      }
      assert.strictEqual(log.watermarks().durable, 192)
    }))

  it.effect("GC-09 a reset in the middle of a wake-up: the first batch behind it is on its way alone", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* overlapped()
      const letGo = yield* holdCalls(disk, 0, 1, 2)
      for (const writer of four) yield* log.reserveAndEnqueue(record(writer, 0, recordBytes))
      const wait = (writer: number) =>
        Effect.forkChild(
          Effect.andThen(log.commitAtLeast(toLsn(96), "durable"), loop(log, writer, 2)),
          { startImmediately: true }
        )
      const early = yield* Effect.forEach([0, 1], wait)
      const reset = yield* Effect.forkChild(
        log.quiesce(Effect.andThen(log.reset(toLsn(0)), Effect.sync(() => disk.moveTo(0)))),
        { startImmediately: true }
      )
      const late = yield* Effect.forEach([2, 3], wait)
      yield* letGo(0)
      yield* Fiber.join(reset)
      assert.deepStrictEqual(disk.calls.map(({ background, length, lsn }) => [lsn, length, background]), [
        [0, 96, false],
        [0, 48, true]
      ])
      assert.strictEqual(log.watermarks().reserved, 96)
      yield* letGo(1)
      // Later ones are behind one another again.
      assert.lengthOf(disk.calls, 4)
      assert.strictEqual(disk.mostUnderWay, 2)
      yield* letGo(2)
      for (const writer of [...early, ...late]) {
        assert.deepStrictEqual(yield* Fiber.join(writer), ["success", "success"])
      }
    }))

  it.effect("GC-13 groups of 4 and 60 writers become equal, and nobody falls out of them", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({}, { overlapWaiters: () => 48 })
      const opening = yield* holdCalls(disk, 0)
      const { before } = disk
      disk.before = (call, index) => Effect.andThen(settle, before(call, index))
      const begin = (writer: number) => Effect.forkChild(loop(log, writer, 20), { startImmediately: true })
      const few = yield* Effect.forEach(four, begin)
      yield* settle
      const many = yield* Effect.forEach(Array.from({ length: 60 }, (_, index) => index + 4), begin)
      yield* opening(0)
      yield* Fiber.joinAll([...few, ...many])
      const sizes = disk.calls.map(({ length }) => length / recordBytes)
      assert.deepStrictEqual(sizes.slice(0, 3), [4, 60, 4])
      // Up to the last round, in which they leave.
      const later = sizes.slice(8, -4)
      assert.isAbove(later.length, 16)
      for (const size of later) assert.isTrue(size >= 28 && size <= 36, `batches of ${sizes.join(", ")}`)
      assert.lengthOf(parse(disk.image).filter((frame) => frame.kind === "record"), 64 * 20)
    }))

  it.effect("GC-13 with a commit delay nothing is written in the background", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({}, { overlapWaiters: () => 4, commitDelay: "1 millis" })
      disk.before = () => settle
      yield* Effect.forEach(four, (writer) => loop(log, writer, 5), { concurrency: "unbounded", discard: true })
      assert.isTrue(disk.calls.every((call) => !call.background))
      assert.strictEqual(disk.mostUnderWay, 1)
    }))

  it.effect("GC-15 the time that a sync spent behind another one is counted once", () =>
    Effect.gen(function*() {
      const recorded = yield* overlapped()
      const { letGo } = yield* twoUnderWay(recorded, 2)
      yield* TestClock.adjust("100 micros")
      yield* letGo(1)
      yield* TestClock.adjust("70 micros")
      yield* letGo(2)
      const durations = yield* Metric.value(
        Metric.withAttributes(LogMetrics.syncDurationSeconds, { log: "recording" })
      )
      assert.strictEqual(durations.count, 3)
      assert.closeTo(durations.sum, 170e-6, 1e-9)
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))
})

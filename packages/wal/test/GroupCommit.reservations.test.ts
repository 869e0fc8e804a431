import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import { Deferred, Effect, Exit, Fiber, Scheduler, Scope } from "effect"
import { make } from "../src/GroupCommit.ts"
import { commit, isWaiting, outcomeOf, settle, start } from "./support/engine.ts"
import { SeededScheduler } from "./support/seededScheduler.ts"
import { describeFrames, parse, record, seal } from "./support/testFrames.ts"

describe("GroupCommit: reservations and cut points", () => {
  it.effect("GC-04 a reservation that was never filled becomes a pad when its scope closes", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" })
      const scope = yield* Scope.make()
      yield* log.reserve(24).pipe(Scope.provide(scope))
      const behind = yield* Effect.forkChild(commit(log, record(1, 0)), { startImmediately: true })
      yield* settle
      assert.isTrue(isWaiting(behind))
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* Fiber.join(behind), 32)
      assert.deepStrictEqual(describeFrames(disk.image), ["pad@0+24", "w1.0@24", "seal@32"])
    }))

  it.effect("GC-04 a reserver that is interrupted or dies leaves a pad", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" })
      const holding = yield* Deferred.make<void>()
      const interrupted = yield* Effect.forkChild(Effect.scoped(
        Effect.andThen(log.reserve(8), Effect.andThen(Deferred.succeed(holding, undefined), Effect.never))
      ))
      yield* Deferred.await(holding)
      yield* Fiber.interrupt(interrupted)
      yield* Effect.exit(Effect.scoped(Effect.andThen(log.reserve(16), Effect.die("lost"))))
      const end = yield* commit(log, record(0, 0))
      assert.isAtLeast(log.watermarks().durable, end)
      assert.deepStrictEqual(
        parse(disk.image).map((frame) => `${frame.kind} ${frame.length}`),
        ["pad 8", "pad 16", "pad 16", "record 8", "seal 16"]
      )
    }))

  it.effect("GC-04 a filled reservation keeps its bytes when its scope closes", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "pads" })
      yield* Effect.scoped(Effect.gen(function*() {
        const reservation = yield* log.reserve(16)
        assert.deepInclude(reservation, { start: toLsn(0), end: toLsn(16) })
        yield* reservation.fill(record(5, 1, 16))
      }))
      yield* log.flushNow
      assert.deepStrictEqual(describeFrames(disk.image), ["w5.1@0"])
    }))

  it.effect("GC-04 a reservation is filled once, exactly, and inside its scope; anything else is a defect", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "pads" })
      const late = yield* Effect.scoped(log.reserve(8))
      assert.strictEqual(yield* outcomeOf(late.fill(record(0, 0))), "defect")
      const reservation = yield* log.reserve(16)
      assert.strictEqual(yield* outcomeOf(reservation.fill(record(0, 0, 8))), "defect")
      yield* reservation.fill(record(0, 1, 16))
      assert.strictEqual(yield* outcomeOf(reservation.fill(record(0, 2, 16))), "defect")
      yield* log.flushNow
      assert.strictEqual(yield* outcomeOf(reservation.fill(record(0, 3, 16))), "defect")
      assert.deepStrictEqual(describeFrames(disk.image), ["pad@0+8", "w0.1@8"])
    }))

  it.effect("GC-04 a sink that cannot pad offers no reservations and no cut points", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "none" })
      assert.strictEqual(yield* outcomeOf(log.reserve(8)), "defect")
      assert.strictEqual(log.watermarks().reserved, 0)
      assert.lengthOf(disk.calls, 0)
    }))

  it.effect("GC-04 who waits for room with a scope that has closed meanwhile gets no reservation", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "pads" }, { maxQueuedBytes: 16 })
      const hold = disk.holdNext()
      yield* log.reserveAndEnqueue(record(0, 0, 16))
      yield* hold.entered
      const scope = yield* Scope.make()
      const reserver = yield* Effect.forkChild(log.reserve(8).pipe(Scope.provide(scope)), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      const behind = yield* Effect.forkChild(commit(log, record(1, 0)), { startImmediately: true })
      yield* hold.release
      yield* Fiber.await(reserver)
      yield* Fiber.join(behind)
      assert.strictEqual(log.watermarks().durable, log.watermarks().reserved)
    }))

  it.effect("GC-05 durable never passes an open reservation, and nothing behind it is written", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" })
      const before = yield* log.reserveAndEnqueue(record(0, 0))
      const reservation = yield* log.reserve(24)
      const behind = yield* Effect.forkChild(commit(log, record(2, 0)), { startImmediately: true })
      yield* log.commitAtLeast(before, "durable")
      yield* settle
      assert.isTrue(isWaiting(behind))
      assert.strictEqual(log.watermarks().durable, reservation.start)
      assert.deepStrictEqual(describeFrames(disk.image), ["w0.0@0", "seal@8"])
      yield* reservation.fill(record(1, 0, 24))
      yield* Fiber.join(behind)
      assert.deepStrictEqual(describeFrames(disk.image), ["w0.0@0", "seal@8", "w1.0@24", "w2.0@48", "seal@56"])
    }))

  it.effect("GC-05 of two open reservations the second may be filled first", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" })
      const one = yield* log.reserve(8)
      const two = yield* log.reserve(8)
      const flushed = yield* Effect.forkChild(log.flushNow, { startImmediately: true })
      yield* two.fill(record(2, 0))
      yield* settle
      assert.lengthOf(disk.calls, 0)
      yield* one.fill(record(1, 0))
      yield* Fiber.join(flushed)
      // Both runs are filled, so one batch takes them and the cut point between them is a pad.
      assert.deepStrictEqual(describeFrames(disk.image), ["w1.0@0", "pad@8+16", "w2.0@24", "seal@32"])
    }))

  it.effect("GC-06 at a hole the leader writes what precedes it, sleeps without polling, and the fill wakes it", () =>
    Effect.gen(function*() {
      let tasks = 0
      class CountingScheduler extends Scheduler.MixedScheduler {
        override makeDispatcher() {
          const dispatcher = super.makeDispatcher()
          const scheduleTask = dispatcher.scheduleTask.bind(dispatcher)
          dispatcher.scheduleTask = (task, priority) => {
            tasks++
            scheduleTask(task, priority)
          }
          return dispatcher
        }
      }
      const { disk, log } = yield* start({ padding: "sealed" }).pipe(
        Effect.provideService(Scheduler.Scheduler, new CountingScheduler())
      )
      const before = yield* log.reserveAndEnqueue(record(0, 0))
      const reservation = yield* log.reserve(8)
      const hold = disk.holdNext()
      const first = yield* Effect.forkChild(log.commitAtLeast(before, "durable"), { startImmediately: true })
      yield* hold.entered
      yield* hold.release
      yield* Fiber.join(first)
      yield* settle
      const parked = tasks
      yield* settle
      assert.strictEqual(tasks, parked)
      const second = yield* Effect.forkChild(log.commitAtLeast(reservation.end, "durable"), { startImmediately: true })
      yield* reservation.fill(record(1, 0))
      yield* Fiber.join(second)
      assert.isAbove(tasks, parked)
      assert.deepStrictEqual(disk.operations, ["writeAndSync", "writeAndSync"])
    }))

  it.effect("GC-06 a hand-over that falls between the leader's look and its sleep is not lost", () =>
    Effect.gen(function*() {
      for (let seed = 0; seed < 100; seed++) {
        yield* Effect.gen(function*() {
          const { log } = yield* start()
          yield* Effect.repeat(Effect.yieldNow, { times: seed % 20 })
          yield* commit(log, record(0, 0))
        }).pipe(Effect.scoped, Effect.provideService(Scheduler.Scheduler, new SeededScheduler(seed, 0.3)))
      }
    }))

  it.effect("GC-01 the mark of a batch says where it began, how long it is, and what was durable before", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" })
      yield* commit(log, record(0, 0), "written")
      yield* commit(log, record(0, 1, 24), "written")
      yield* commit(log, record(0, 2))
      yield* commit(log, record(0, 3))
      assert.deepStrictEqual(
        parse(disk.image).filter((frame) => frame.kind === "seal"),
        [
          { kind: "seal", lsn: 8, length: 16, earlierIsDurable: true, batchStart: 0, batchBytes: 24 },
          { kind: "seal", lsn: 48, length: 16, earlierIsDurable: false, batchStart: 24, batchBytes: 40 },
          { kind: "seal", lsn: 72, length: 16, earlierIsDurable: false, batchStart: 64, batchBytes: 24 },
          { kind: "seal", lsn: 96, length: 16, earlierIsDurable: true, batchStart: 88, batchBytes: 24 }
        ]
      )
    }))

  it.effect("GC-01 a cut point in memory that was used before carries nothing old", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" })
      // Fills a chunk with bytes, which goes back into the pool.
      yield* commit(log, record(0xfe, 0, 200 * 1024))
      const hold = disk.holdNext()
      const first = yield* Effect.forkChild(commit(log, record(0, 0)))
      yield* hold.entered
      yield* log.reserveAndEnqueue(record(1, 0))
      const reservation = yield* log.reserve(8)
      yield* reservation.fill(record(2, 0))
      yield* log.reserveAndEnqueue(record(3, 0))
      yield* hold.release
      yield* Fiber.join(first)
      yield* log.flushNow
      const kinds = parse(disk.image).map((frame) => frame.kind)
      assert.strictEqual(kinds.join(" "), "record seal record seal record pad record record seal")
    }))

  it.effect("GC-01 a hand-over whose copying throws leaves no trace", () =>
    Effect.gen(function*() {
      for (const first of [undefined, record(0, 0), record(0, 0, 128)]) {
        const { disk, log } = yield* start({ padding: "sealed" }, { maxBatchBytes: 128 })
        if (first !== undefined) yield* log.reserveAndEnqueue(first)
        const { reserved } = log.watermarks()
        assert.throws(() =>
          log.admit({
            length: 64,
            refuse: () => assert.fail("refused"),
            enter: () =>
              log.enqueueUnsafe(64, () => {
                throw new Error("no bytes")
              })
          }), "no bytes")
        assert.strictEqual(log.watermarks().reserved, reserved)
        yield* commit(log, record(0, 1))
        yield* log.close
        const records = parse(disk.image).filter((frame) => frame.kind === "record")
        assert.deepStrictEqual(records.map((frame) => frame.index), first === undefined ? [1] : [0, 1])
        assert.isTrue(disk.calls.every((call) => call.length > 16))
      }
    }))

  it.effect("a sink with a mark has to be able to pad", () =>
    Effect.gen(function*() {
      const sink = {
        name: "half",
        write: () => Effect.void,
        sync: Effect.void,
        writeAndSync: () => Effect.void,
        seal: { bytes: 16, write: seal }
      }
      assert.strictEqual(yield* outcomeOf(Effect.scoped(make(sink))), "defect")
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { commit, isWaiting, outcomeOf, settle, start } from "./support/engine.ts"
import { describeFrames, parse, record } from "./support/testFrames.ts"

/** An engine with room for 64 bytes, 16 of which are taken by a write that is held. */
const nearlyFull = Effect.gen(function*() {
  const recorded = yield* start({ padding: "pads" }, { maxQueuedBytes: 64 })
  const hold = recorded.disk.holdNext()
  yield* recorded.log.reserveAndEnqueue(record(0, 0, 16))
  yield* hold.entered
  return { ...recorded, hold }
})

describe("GroupCommit: back-pressure", () => {
  it.effect("GC-11 a writer above the bound waits, having reserved nothing, and goes on when there is room", () =>
    Effect.gen(function*() {
      const { hold, log } = yield* nearlyFull
      yield* log.reserveAndEnqueue(record(0, 1, 48))
      const writer = yield* Effect.forkChild(log.reserveAndEnqueue(record(1, 0)), { startImmediately: true })
      yield* settle
      assert.isTrue(isWaiting(writer))
      assert.strictEqual(log.watermarks().reserved, 64)
      yield* hold.release
      assert.strictEqual(yield* Fiber.join(writer), 72)
    }))

  it.effect("GC-11 arrival order holds, also when a small one behind would fit", () =>
    Effect.gen(function*() {
      const { disk, hold, log } = yield* nearlyFull
      const big = yield* Effect.forkChild(commit(log, record(1, 0, 56)), { startImmediately: true })
      const small = yield* Effect.forkChild(commit(log, record(2, 0)), { startImmediately: true })
      const reserver = yield* Effect.forkChild(
        Effect.scoped(Effect.flatMap(log.reserve(8), (reservation) => reservation.fill(record(3, 0)))),
        { startImmediately: true }
      )
      yield* settle
      assert.strictEqual(log.watermarks().reserved, 16)
      yield* hold.release
      yield* Fiber.join(big)
      yield* Fiber.join(small)
      yield* Fiber.join(reserver)
      yield* log.flushNow
      assert.deepStrictEqual(describeFrames(disk.image), ["w0.0@0", "w1.0@16", "w2.0@72", "w3.0@80"])
    }))

  it.effect("GC-11 one larger than the bound is let in alone, when the queue is empty", () =>
    Effect.gen(function*() {
      const { disk, hold, log } = yield* nearlyFull
      const huge = yield* Effect.forkChild(commit(log, record(1, 0, 128)), { startImmediately: true })
      const behind = yield* Effect.forkChild(commit(log, record(2, 0)), { startImmediately: true })
      yield* settle
      assert.strictEqual(log.watermarks().reserved, 16)
      const second = disk.holdNext()
      yield* hold.release
      yield* second.entered
      assert.strictEqual(log.watermarks().reserved, 144)
      assert.isTrue(isWaiting(behind))
      yield* second.release
      yield* Fiber.join(huge)
      yield* Fiber.join(behind)
      assert.deepStrictEqual(disk.calls.map((call) => call.length), [16, 128, 8])
    }))

  for (const who of ["writer", "reserver"] as const) {
    it.effect(`GC-11 a ${who} that is interrupted while it waits has reserved nothing and lets the next one in`, () =>
      Effect.gen(function*() {
        const { disk, hold, log } = yield* nearlyFull
        const wait: Effect.Effect<unknown, unknown> = who === "writer"
          ? log.reserveAndEnqueue(record(1, 0, 56))
          : Effect.scoped(log.reserve(56))
        const first = yield* Effect.forkChild(wait, { startImmediately: true })
        const next = yield* Effect.forkChild(log.reserveAndEnqueue(record(2, 0)), { startImmediately: true })
        const last = yield* Effect.forkChild(log.reserveAndEnqueue(record(3, 0)), { startImmediately: true })
        assert.isTrue(isWaiting(next))
        yield* Fiber.interrupt(first)
        assert.strictEqual(yield* Fiber.join(next), 24)
        assert.strictEqual(yield* Fiber.join(last), 32)
        yield* hold.release
        yield* log.flushNow
        assert.deepStrictEqual(describeFrames(disk.image), ["w0.0@0", "w2.0@16", "w3.0@24"])
      }))
  }

  it.effect("GC-11 stepping back from the middle keeps the order; stepping back twice does nothing", () =>
    Effect.gen(function*() {
      const { hold, log } = yield* nearlyFull
      const order: Array<string> = []
      const ask = (name: string, length: number) =>
        log.admit({
          length,
          refuse: () => order.push(`${name} refused`),
          enter: () => {
            order.push(name)
            log.enqueueUnsafe(length, (target, _view, offset) => target.set(record(1, 0, length), offset))
          }
        })
      ask("one", 56)
      const stepBack = ask("two", 8)
      ask("three", 8)
      // This one lets its turn be.
      log.admit({ length: 8, refuse: () => assert.fail("refused"), enter: () => order.push("four") })
      ask("five", 56)
      stepBack()
      stepBack()
      assert.deepStrictEqual(order, [])
      yield* hold.release
      yield* log.flushNow
      yield* log.flushNow
      assert.deepStrictEqual(order, ["one", "three", "four", "five"])
      stepBack()
    }))

  it.effect("GC-11 cut points count against the bound", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" }, { maxQueuedBytes: 128 })
      const hold = disk.holdNext()
      yield* log.reserveAndEnqueue(record(0, 0))
      yield* hold.entered
      const writers = yield* Effect.forEach(Array.from({ length: 16 }), () =>
        Effect.forkChild(Effect.scoped(log.reserve(8)), { startImmediately: true }))
      yield* settle
      // The next batch closes the last run with a cut point of its own.
      assert.isAtMost(log.watermarks().reserved + 16, 128)
      assert.isTrue(writers.some(isWaiting))
      yield* hold.release
      yield* Fiber.joinAll(writers)
    }))

  it.effect("GC-13 a batch is bounded by bytes and holds at least one hand-over", () =>
    Effect.gen(function*() {
      for (const padding of ["none", "sealed"] as const) {
        const { disk, log } = yield* start({ padding }, { maxBatchBytes: 128 })
        const hold = disk.holdNext()
        yield* log.reserveAndEnqueue(record(0, 0))
        yield* hold.entered
        for (const [index, length] of [48, 48, 48, 200, 8, 96, 24, 120].entries()) {
          yield* log.reserveAndEnqueue(record(1, index, length))
        }
        const reservation = padding === "none" ? undefined : yield* log.reserve(40)
        yield* reservation?.fill(record(2, 0, 40)) ?? Effect.void
        yield* hold.release
        yield* log.flushNow
        for (const call of disk.calls) {
          const inside = parse(disk.image.subarray(0, call.lsn + call.length), call.lsn)
          const count = inside.filter((frame) => frame.kind === "record").length
          assert.isAtLeast(count, 1)
          assert.isTrue(count === 1 || call.length <= 128, `${count} records in ${call.length} bytes`)
        }
        assert.isBelow(disk.calls.length, 9)
      }
    }))

  it.effect("GC-13 no count bounds a batch: 20,000 hand-overs share one sync", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const hold = disk.holdNext()
      const first = yield* Effect.forkChild(commit(log, record(0, 0)), { startImmediately: true })
      yield* hold.entered
      for (let index = 0; index < 20_000; index++) yield* log.reserveAndEnqueue(record(1, index))
      const flushing = yield* Effect.forkChild(log.flushNow, { startImmediately: true })
      yield* hold.release
      yield* Fiber.join(first)
      yield* Fiber.join(flushing)
      assert.deepStrictEqual(disk.calls.map((call) => call.length), [8, 160_000])
    }))

  it.effect("GC-13 GC-16 with enough siblings the leader lets a batch gather, in virtual time", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({}, { commitDelay: "10 millis", commitSiblings: 2 })
      const fibers = yield* Effect.forEach(
        [0, 1, 2],
        (writer) => Effect.forkChild(commit(log, record(writer, 0)), { startImmediately: true })
      )
      yield* settle
      assert.lengthOf(disk.calls, 0)
      yield* TestClock.adjust("9 millis")
      const late = yield* Effect.forkChild(commit(log, record(3, 0)), { startImmediately: true })
      yield* settle
      assert.lengthOf(disk.calls, 0)
      yield* TestClock.adjust("1 millis")
      yield* Fiber.joinAll([...fibers, late])
      assert.deepStrictEqual(disk.calls.map((call) => call.length), [32])
    }))

  it.effect("GC-13 with too few siblings, or without waiters for durability, there is no delay", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({}, { commitDelay: "1 hour", commitSiblings: 2 })
      yield* Effect.forEach([0, 1], (writer) => commit(log, record(writer, 0)), { concurrency: "unbounded" })
      yield* Effect.forEach([0, 1, 2, 3, 4], (writer) => commit(log, record(writer, 1), "written"), {
        concurrency: "unbounded"
      })
      assert.isAtLeast(disk.calls.length, 2)
    }))

  it.effect("GC-13 the default takes no delay, and five siblings when there is one", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({}, { commitDelay: "1 second" })
      const commitAll = (count: number) =>
        Effect.forEach(
          Array.from({ length: count }, (_, writer) => writer),
          (writer) => commit(log, record(writer, 0)),
          {
            concurrency: "unbounded"
          }
        )
      yield* commitAll(5)
      const { length } = disk.calls
      const six = yield* Effect.forkChild(commitAll(6))
      yield* settle
      assert.lengthOf(disk.calls, length)
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(six)
    }))

  for (const how of ["close", "poison"] as const) {
    it.effect(`GC-16 ${how} does not wait for the commit delay`, () =>
      Effect.gen(function*() {
        const { disk, log } = yield* start({}, { commitDelay: "1 hour", commitSiblings: 0 })
        const waiter = yield* Effect.forkChild(commit(log, record(0, 0)), { startImmediately: true })
        yield* settle
        assert.lengthOf(disk.calls, 0)
        if (how === "poison") log.poison(yield* Effect.sandbox(Effect.die("broken")).pipe(Effect.flip))
        yield* Effect.exit(log.close)
        assert.strictEqual(yield* outcomeOf(Fiber.join(waiter)), how === "close" ? "success" : "WalPoisoned")
        assert.lengthOf(disk.calls, how === "close" ? 1 : 0)
      }))
  }
})

describe("GroupCommit: re-entrancy", () => {
  it.effect("GC-02 a waiter that hands over again inline, 50,000 times, without a stack and without a fiber", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const done = yield* Deferred.make<void>()
      const bytes = record(0, 0)
      let left = 50_000
      let woken = 0
      const next = (): void => {
        if (left === 0) return
        left--
        log.admit({
          length: 8,
          refuse: () => assert.fail("refused"),
          enter: () => {
            log.enqueueUnsafe(8, (target, _view, offset) => target.set(bytes, offset), {
              mode: "durable",
              succeed: () => {
                if (++woken === 50_000) Deferred.doneUnsafe(done, Exit.void)
                next()
              },
              fail: () => assert.fail("failed")
            })
          }
        })
      }
      // Ten at a time, so that wake-ups come in one loop.
      for (let index = 0; index < 10; index++) next()
      yield* Deferred.await(done)
      yield* log.close
      assert.strictEqual(log.watermarks().durable, 400_000)
      assert.isAbove(disk.calls.length, 4999)
    }))

  it.effect("GC-11 a chain of thousands of waiting hand-overs is let in by one loop", () =>
    Effect.gen(function*() {
      const { hold, log } = yield* nearlyFull
      yield* log.reserveAndEnqueue(record(0, 1, 48))
      const fibers = yield* Effect.forEach(Array.from({ length: 5000 }), () =>
        Effect.forkChild(log.reserveAndEnqueue(record(1, 0)), { startImmediately: true }))
      yield* hold.release
      yield* Fiber.joinAll(fibers)
      assert.strictEqual(log.watermarks().reserved, 64 + 40_000)
    }))

  it.live("GC-02 a sink that is always synchronous does not starve timers and other fibers", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      let isOver = false
      let commits = 0
      const limit = 200_000
      const writers = yield* Effect.forEach(
        Array.from({ length: 8 }, (_, writer) => writer),
        (writer) =>
          Effect.forkChild(Effect.gen(function*() {
            while (!isOver && commits < limit) {
              yield* commit(log, record(writer, 0))
              commits++
            }
          }))
      )
      const timer = yield* Deferred.make<void>()
      setTimeout(() => Deferred.doneUnsafe(timer, Exit.void), 1)
      yield* Deferred.await(timer)
      for (let turn = 0; turn < 10; turn++) yield* Effect.yieldNow
      isOver = true
      yield* Fiber.joinAll(writers)
      assert.isBelow(commits, limit, "the timer came before the writers gave up")
      assert.isAbove(disk.calls.length, 0)
    }))
})

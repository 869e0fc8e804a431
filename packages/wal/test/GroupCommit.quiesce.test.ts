import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import { Deferred, Effect, Exit, Fiber, Scope } from "effect"
import { commit, isWaiting, outcomeOf, settle, start } from "./support/engine.ts"
import { describeFrames, record } from "./support/testFrames.ts"

describe("GroupCommit: reset and quiesce", () => {
  it.effect("GC-09 an idle log is reset: all watermarks move together, forward or back", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" }, { initialLsn: toLsn(64) })
      yield* commit(log, record(0, 0))
      for (const lsn of [4096, 0]) {
        yield* log.reset(toLsn(lsn))
        disk.moveTo(lsn)
        assert.deepStrictEqual(log.watermarks(), { reserved: toLsn(lsn), written: toLsn(lsn), durable: toLsn(lsn) })
        assert.strictEqual(yield* commit(log, record(0, 1)), lsn + 8)
        assert.deepInclude(disk.calls.at(-1), { lsn, length: 24 })
      }
    }))

  it.effect("GC-09 reset is refused while bytes are queued", () =>
    Effect.gen(function*() {
      const { log } = yield* start()
      yield* log.reserveAndEnqueue(record(0, 0))
      const error = yield* Effect.flip(log.reset(toLsn(0)))
      assert.strictEqual(error._tag, "ResetWhileBusy")
      assert.deepInclude(error, { log: "recording", reserved: toLsn(8), durable: toLsn(0) })
      assert.deepStrictEqual(log.watermarks(), { reserved: toLsn(8), written: toLsn(0), durable: toLsn(0) })
    }))

  it.effect("GC-09 reset is refused while bytes are in flight", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const hold = disk.holdNext()
      const waiter = yield* Effect.forkChild(commit(log, record(0, 0)), { startImmediately: true })
      yield* hold.entered
      assert.strictEqual(yield* outcomeOf(log.reset(toLsn(0))), "ResetWhileBusy")
      yield* hold.release
      yield* Fiber.join(waiter)
      assert.strictEqual(yield* outcomeOf(log.reset(toLsn(0))), "success")
    }))

  it.effect("GC-09 reset is refused while bytes are written and not durable", () =>
    Effect.gen(function*() {
      const { log } = yield* start()
      yield* commit(log, record(0, 0), "written")
      assert.strictEqual(yield* outcomeOf(log.reset(toLsn(0))), "ResetWhileBusy")
      yield* log.flushNow
      assert.strictEqual(yield* outcomeOf(log.reset(toLsn(0))), "success")
    }))

  it.effect("GC-09 reset is refused while a reservation is open", () =>
    Effect.gen(function*() {
      const { log } = yield* start({ padding: "sealed" })
      const reservation = yield* log.reserve(8)
      assert.strictEqual(yield* outcomeOf(log.reset(toLsn(0))), "ResetWhileBusy")
      yield* reservation.fill(record(0, 0))
      assert.strictEqual(yield* outcomeOf(log.reset(toLsn(0))), "ResetWhileBusy")
      yield* log.flushNow
      assert.strictEqual(yield* outcomeOf(log.reset(toLsn(0))), "success")
    }))

  it.effect("GC-09 reset and quiesce on a closed log are refused", () =>
    Effect.gen(function*() {
      const { log } = yield* start()
      yield* commit(log, record(0, 0))
      yield* log.close
      assert.strictEqual(yield* outcomeOf(log.reset(toLsn(0))), "LogClosed")
      assert.strictEqual(yield* outcomeOf(log.quiesce(Effect.die("ran on a closed log"))), "LogClosed")
    }))

  it.effect("GC-09 64 writers in a loop: quiesce gets its turn, and the log is reset under them", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" })
      let isOver = false
      let acknowledged = 0
      const tooMany = 20_000
      // The waiter goes with the bytes: no position outlives a reset.
      const commitOnce = (writer: number) =>
        Effect.callback<void, { readonly _tag: string }>((resume) => {
          const stepBack = log.admit({
            length: 16,
            refuse: (ended) => resume(Exit.fail(ended)),
            enter: () => {
              const bytes = record(writer, 0, 16)
              log.enqueueUnsafe(16, (target, _view, offset) => target.set(bytes, offset), {
                mode: "durable",
                succeed: () => resume(Exit.void),
                fail: (failure) => resume(Exit.fail(failure))
              })
            }
          })
          return Effect.sync(stepBack)
        })
      const writer = (number: number) =>
        Effect.gen(function*() {
          while (!isOver) {
            yield* commitOnce(number)
            if (++acknowledged > tooMany) yield* Effect.die("the writers never made way")
          }
        })
      const writers = yield* Effect.forEach(
        Array.from({ length: 64 }, (_, number) => number),
        (number) => Effect.forkChild(writer(number))
      )
      for (let round = 0; round < 5; round++) {
        const before = acknowledged
        while (acknowledged < before + 200) yield* Effect.yieldNow
        yield* log.quiesce(Effect.gen(function*() {
          const { calls } = disk
          const { length } = calls
          yield* settle
          assert.lengthOf(calls, length)
          yield* log.reset(toLsn(0))
          disk.moveTo(0)
        }))
      }
      isOver = true
      yield* Fiber.joinAll(writers)
      assert.isAtLeast(acknowledged, 1000)
      assert.strictEqual(describeFrames(disk.image)[0]?.endsWith("@0"), true)
    }))

  it.effect("GC-09 quiesce lets nothing in while it runs, and everybody after it, in order", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      yield* commit(log, record(0, 0), "written")
      const running = yield* Deferred.make<void>()
      const finish = yield* Deferred.make<void>()
      const quiescing = yield* Effect.forkChild(log.quiesce(
        Effect.andThen(Deferred.succeed(running, undefined), Deferred.await(finish))
      ))
      yield* Deferred.await(running)
      assert.strictEqual(log.watermarks().durable, 8)
      const fibers = yield* Effect.forEach(
        [1, 2, 3],
        (index) => Effect.forkChild(commit(log, record(index, 0)), { startImmediately: true })
      )
      yield* settle
      assert.strictEqual(log.watermarks().reserved, 8)
      assert.isTrue(fibers.every(isWaiting))
      yield* Deferred.succeed(finish, undefined)
      yield* Fiber.join(quiescing)
      yield* Fiber.joinAll(fibers)
      assert.deepStrictEqual(describeFrames(disk.image), ["w0.0@0", "w1.0@8", "w2.0@16", "w3.0@24"])
    }))

  it.effect("GC-09 quiesce nests and overlaps: the last one out lets the writers in", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const finish = yield* Deferred.make<void>()
      const other = yield* Effect.forkChild(log.quiesce(Deferred.await(finish)), { startImmediately: true })
      const value = yield* log.quiesce(log.quiesce(Effect.as(log.reset(toLsn(512)), "inside")))
      disk.moveTo(512)
      assert.strictEqual(value, "inside")
      const writer = yield* Effect.forkChild(log.reserveAndEnqueue(record(0, 0)), { startImmediately: true })
      yield* settle
      assert.isTrue(isWaiting(writer))
      yield* Deferred.succeed(finish, undefined)
      yield* Fiber.join(other)
      assert.strictEqual(yield* Fiber.join(writer), 520)
    }))

  it.effect("GC-09 quiesce waits for an open reservation", () =>
    Effect.gen(function*() {
      const { log } = yield* start({ padding: "sealed" })
      const reservation = yield* log.reserve(8)
      const quiescing = yield* Effect.forkChild(log.quiesce(Effect.sync(() => log.watermarks())))
      yield* settle
      assert.isTrue(isWaiting(quiescing))
      yield* reservation.fill(record(0, 0))
      const { durable, reserved } = yield* Fiber.join(quiescing)
      assert.strictEqual(durable, reserved)
    }))

  for (const when of ["while it drains", "inside"] as const) {
    it.effect(`GC-09 quiesce, interrupted ${when}, lets the writers in again`, () =>
      Effect.gen(function*() {
        const { disk, log } = yield* start()
        const inside = yield* Deferred.make<void>()
        const hold = disk.holdNext()
        yield* log.reserveAndEnqueue(record(0, 0))
        yield* hold.entered
        const quiescing = yield* Effect.forkChild(
          log.quiesce(Effect.andThen(Deferred.succeed(inside, undefined), Effect.never)),
          { startImmediately: true }
        )
        if (when === "inside") {
          yield* hold.release
          yield* Deferred.await(inside)
        }
        const writer = yield* Effect.forkChild(log.reserveAndEnqueue(record(1, 0)), { startImmediately: true })
        assert.isTrue(isWaiting(writer))
        yield* Fiber.interrupt(quiescing)
        assert.strictEqual(yield* Fiber.join(writer), 16)
        yield* hold.release
        yield* log.flushNow
      }))
  }

  it.effect("GC-09 quiesce gives back what its effect fails or dies with", () =>
    Effect.gen(function*() {
      const { log } = yield* start()
      assert.strictEqual(yield* outcomeOf(log.quiesce(Effect.fail({ _tag: "Mine" as const }))), "Mine")
      assert.strictEqual(yield* outcomeOf(log.quiesce(Effect.die("mine"))), "defect")
      yield* commit(log, record(0, 0))
    }))

  it.effect("GC-09 closing while quiesce drains: what it was to run does not run", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const hold = disk.holdNext()
      yield* log.reserveAndEnqueue(record(0, 0))
      yield* hold.entered
      const quiescing = yield* Effect.forkChild(log.quiesce(Effect.die("ran while the log was closing")), {
        startImmediately: true
      })
      const closing = yield* Effect.forkChild(log.close, { startImmediately: true })
      yield* hold.release
      yield* Fiber.join(closing)
      assert.strictEqual(yield* outcomeOf(Fiber.join(quiescing)), "LogClosed")
    }))
})

describe("GroupCommit: closing", () => {
  for (const how of ["close", "leaving the scope", "leaving a scope whose finalizers run side by side"] as const) {
    it.effect(`GC-14 ${how} pads open reservations, drains, syncs`, () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make(how.endsWith("by side") ? "parallel" : "sequential")
        const { disk, log } = yield* start({ padding: "sealed" }).pipe(Scope.provide(scope))
        const outside = yield* Scope.make()
        yield* commit(log, record(0, 0), "written")
        const reservation = yield* log.reserve(16).pipe(Scope.provide(outside))
        yield* log.reserve(8).pipe(Scope.provide(outside))
        const behind = yield* Effect.forkChild(commit(log, record(1, 0)), { startImmediately: true })
        yield* settle
        assert.isTrue(isWaiting(behind))
        yield* how === "close" ? log.close : Scope.close(scope, Exit.void)
        yield* Fiber.join(behind)
        assert.deepStrictEqual(describeFrames(disk.image), [
          "w0.0@0",
          "seal@8",
          "pad@24+16",
          "pad@40+16",
          "pad@56+8",
          "w1.0@64",
          "seal@72"
        ])
        assert.deepStrictEqual(log.watermarks(), { reserved: toLsn(88), written: toLsn(88), durable: toLsn(88) })
        assert.strictEqual(disk.syncedEnd, 88)
        assert.strictEqual(yield* outcomeOf(reservation.fill(record(9, 9, 16))), "LogClosed")
        const { length } = disk.calls
        yield* Scope.close(outside, Exit.void)
        yield* settle
        assert.lengthOf(disk.calls, length)
      }))
  }

  it.effect("GC-14 close syncs what was only written, once, and nothing when there is nothing", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      yield* commit(log, record(0, 0), "written")
      yield* log.close
      yield* log.close
      assert.deepStrictEqual(disk.operations, ["write", "sync"])
      const idle = yield* start()
      yield* idle.log.close
      assert.lengthOf(idle.disk.calls, 0)
    }))

  it.effect("GC-14 a closing log refuses new work and keeps its promises to those inside", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" }, { maxQueuedBytes: 64 })
      const hold = disk.holdNext()
      const inside = yield* Effect.forkChild(commit(log, record(0, 0)), { startImmediately: true })
      yield* hold.entered
      const room = yield* Effect.forkChild(log.reserveAndEnqueue(record(1, 0, 64)), { startImmediately: true })
      const reserver = yield* Effect.forkChild(Effect.scoped(log.reserve(64)), { startImmediately: true })
      const closers = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(log.close, { startImmediately: true }))
      assert.strictEqual(log.ended()?._tag, "LogClosed")
      assert.strictEqual(yield* outcomeOf(Fiber.join(room)), "LogClosed")
      assert.strictEqual(yield* outcomeOf(Fiber.join(reserver)), "LogClosed")
      assert.strictEqual(yield* outcomeOf(log.reserveAndEnqueue(record(2, 0))), "LogClosed")
      assert.strictEqual(yield* outcomeOf(Effect.scoped(log.reserve(8))), "LogClosed")
      assert.strictEqual(yield* outcomeOf(log.reset(toLsn(0))), "LogClosed")
      assert.strictEqual(yield* outcomeOf(log.quiesce(Effect.void)), "LogClosed")
      assert.throws(() => log.enqueueUnsafe(8, () => {}), "open log only")
      const refused: Array<string> = []
      log.admit({ length: 8, enter: () => assert.fail("entered"), refuse: (ended) => refused.push(ended._tag) })
      assert.deepStrictEqual(refused, ["LogClosed"])
      const late = yield* Effect.forkChild(log.commitAtLeast(toLsn(8), "durable"), { startImmediately: true })
      assert.isTrue(closers.every(isWaiting))
      yield* hold.release
      yield* Fiber.joinAll(closers)
      yield* Fiber.join(inside)
      yield* Fiber.join(late)
      yield* log.flushNow
      assert.strictEqual(yield* outcomeOf(log.commitAtLeast(toLsn(1000), "durable")), "LsnNotReserved")
    }))

  it.effect("GC-14 an interrupted close goes on by itself; the next one waits for its end", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const hold = disk.holdNext()
      yield* log.reserveAndEnqueue(record(0, 0))
      yield* hold.entered
      const closing = yield* Effect.forkChild(log.close, { startImmediately: true })
      yield* Fiber.interrupt(closing)
      yield* hold.release
      yield* log.close
      assert.deepStrictEqual(disk.operations, ["write", "sync"])
    }))

  it.effect("GC-14 a failure while closing is told to whoever closes, and to those inside", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const end = yield* commit(log, record(0, 0), "written")
      disk.failAt(1)
      const inside = yield* Effect.forkChild(log.commitAtLeast(end, "durable"), { startImmediately: true })
      assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
      assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
      assert.strictEqual(yield* outcomeOf(Fiber.join(inside)), "WalPoisoned")
      assert.deepStrictEqual(disk.operations, ["write", "sync"])
    }))

  it.effect("GC-14 a waiter that closes the log when it is woken", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      yield* Effect.forEach(
        [0, 1],
        (writer) => Effect.andThen(commit(log, record(writer, 0)), log.close),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(disk.operations, ["writeAndSync"])
    }))
})

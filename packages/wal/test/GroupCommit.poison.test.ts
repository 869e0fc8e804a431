import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import { Cause, Deferred, Effect, Exit, Fiber, Scheduler, Scope } from "effect"
import { make } from "../src/GroupCommit.ts"
import type { WalPoisoned } from "../src/LogErrors.ts"
import { commit, immediate, isWaiting, outcomeOf, settle, start } from "./support/engine.ts"
import { diskError, RecordingSink } from "./support/recordingSink.ts"
import { SeededScheduler } from "./support/seededScheduler.ts"
import { describeFrames, record, sealBytes } from "./support/testFrames.ts"

const isPoisoned = (exit: Exit.Exit<unknown, unknown> | undefined): boolean =>
  exit !== undefined && Exit.isFailure(exit) && exit.cause.reasons.length === 1 &&
  exit.cause.reasons.every((reason) =>
    Cause.isFailReason(reason) && (reason.error as { readonly _tag?: string })._tag === "WalPoisoned"
  )

/** An engine with 8 durable bytes, poisoned by its second call. */
const poisoned = Effect.gen(function*() {
  const recorded = yield* start({ padding: "sealed" })
  const { disk, log } = recorded
  yield* commit(log, record(0, 0))
  disk.failAt(1, Effect.fail(diskError("ENOSPC")))
  const failure = yield* Effect.flip(commit(log, record(0, 1)))
  if (failure._tag !== "WalPoisoned") return yield* Effect.die(failure)
  return { ...recorded, failure, calls: disk.calls.length }
})

describe("GroupCommit: poison", () => {
  for (const [what, mode, index] of [["write", "written", 0], ["write and sync", "durable", 0]] as const) {
    it.effect(`GC-07 a failed ${what} is terminal and carries the cause and the durable position`, () =>
      Effect.gen(function*() {
        const { disk, log } = yield* start({}, { initialLsn: toLsn(512) })
        disk.failAt(index, Effect.fail(diskError("ENOSPC")))
        const failure = yield* Effect.flip(commit(log, record(0, 0), mode))
        assert.strictEqual(failure._tag, "WalPoisoned")
        if (failure._tag !== "WalPoisoned") return
        assert.strictEqual(failure.lsn, 512)
        assert.strictEqual(failure.log, "recording")
        assert.deepStrictEqual(failure.cause, Cause.fail(diskError("ENOSPC")))
        assert.include(failure.message, "ENOSPC")
        assert.strictEqual(log.ended(), failure)
        // Half of the bytes are in the file, none of them is acknowledged.
        assert.deepStrictEqual(log.watermarks(), { reserved: toLsn(520), written: toLsn(512), durable: toLsn(512) })
      }))
  }

  it.effect("GC-07 a failed sync of written bytes is terminal; they stay unacknowledged", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const end = yield* commit(log, record(0, 0), "written")
      disk.failAt(1)
      assert.strictEqual(yield* outcomeOf(log.commitAtLeast(end, "durable")), "WalPoisoned")
      assert.deepStrictEqual(disk.operations, ["write", "sync"])
      assert.strictEqual(log.watermarks().durable, 0)
      assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
      assert.deepStrictEqual(disk.operations, ["write", "sync"])
    }))

  it.effect("GC-08 reserveAndEnqueue, poisoned", () =>
    Effect.gen(function*() {
      const { calls, disk, failure, log } = yield* poisoned
      assert.strictEqual(yield* Effect.flip(log.reserveAndEnqueue(record(0, 2))), failure)
      yield* settle
      assert.lengthOf(disk.calls, calls)
    }))

  it.effect("GC-08 reserve, poisoned", () =>
    Effect.gen(function*() {
      const { calls, disk, failure, log } = yield* poisoned
      const { reserved } = log.watermarks()
      assert.strictEqual(yield* Effect.flip(Effect.scoped(log.reserve(8))), failure)
      assert.strictEqual(log.watermarks().reserved, reserved)
      assert.lengthOf(disk.calls, calls)
    }))

  it.effect("GC-08 commitAtLeast, poisoned: at once, whatever the position and the mode", () =>
    Effect.gen(function*() {
      const { calls, disk, failure, log } = yield* poisoned
      for (const mode of ["written", "durable"] as const) {
        for (const lsn of [0, 8, 40, 1000]) {
          assert.deepStrictEqual(immediate(log.commitAtLeast(toLsn(lsn), mode)), Exit.fail(failure))
        }
      }
      assert.lengthOf(disk.calls, calls)
    }))

  it.effect("GC-08 flushNow, poisoned", () =>
    Effect.gen(function*() {
      const { calls, disk, failure, log } = yield* poisoned
      assert.strictEqual(yield* Effect.flip(log.flushNow), failure)
      assert.lengthOf(disk.calls, calls)
    }))

  it.effect("GC-08 quiesce, poisoned: what it was to run does not run", () =>
    Effect.gen(function*() {
      const { calls, disk, failure, log } = yield* poisoned
      let hasRun = false
      const use = Effect.sync(() => {
        hasRun = true
      })
      assert.strictEqual(yield* Effect.flip(log.quiesce(use)), failure)
      assert.isFalse(hasRun)
      assert.lengthOf(disk.calls, calls)
    }))

  it.effect("GC-08 reset, poisoned", () =>
    Effect.gen(function*() {
      const { failure, log } = yield* poisoned
      const before = log.watermarks()
      assert.strictEqual(yield* Effect.flip(log.reset(toLsn(0))), failure)
      assert.deepStrictEqual(log.watermarks(), before)
    }))

  it.effect("GC-08 close, poisoned: it ends, says so every time, and touches nothing", () =>
    Effect.gen(function*() {
      const { calls, disk, failure, log } = yield* poisoned
      assert.strictEqual(yield* Effect.flip(log.close), failure)
      assert.strictEqual(yield* Effect.flip(log.close), failure)
      assert.strictEqual(log.ended(), failure)
      assert.lengthOf(disk.calls, calls)
    }))

  it.effect("GC-08 admit and enqueueUnsafe, poisoned", () =>
    Effect.gen(function*() {
      const { calls, disk, failure, log } = yield* poisoned
      const refused: Array<unknown> = []
      log.admit({ length: 8, enter: () => assert.fail("entered"), refuse: (ended) => refused.push(ended) })()
      assert.deepStrictEqual(refused, [failure])
      assert.throws(() => log.enqueueUnsafe(8, () => {}), "open log only")
      assert.lengthOf(disk.calls, calls)
    }))

  it.effect("GC-08 poison, poisoned: the first cause is kept", () =>
    Effect.gen(function*() {
      const { failure, log } = yield* poisoned
      log.poison(Cause.die("second"))
      assert.strictEqual(log.ended(), failure)
      assert.strictEqual(yield* Effect.flip(log.close), failure)
    }))

  it.effect("GC-08 an open reservation, poisoned: fill says so, its scope's end changes nothing", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" })
      const scope = yield* Scope.make()
      const end = yield* log.reserveAndEnqueue(record(0, 0))
      const reservation = yield* log.reserve(8).pipe(Scope.provide(scope))
      disk.failAt(0)
      assert.strictEqual(yield* outcomeOf(log.commitAtLeast(end, "durable")), "WalPoisoned")
      assert.strictEqual(yield* outcomeOf(reservation.fill(record(0, 1))), "WalPoisoned")
      yield* Scope.close(scope, Exit.void)
      yield* settle
      assert.lengthOf(disk.calls, 1)
    }))

  it.effect("GC-08 leaving the scope, poisoned: the file is not touched again", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { disk, log } = yield* start({ padding: "sealed" }).pipe(Scope.provide(scope))
      const hold = disk.holdNext()
      yield* log.reserveAndEnqueue(record(0, 0))
      yield* hold.entered
      disk.before = () => Effect.fail(diskError())
      yield* log.reserveAndEnqueue(record(0, 1))
      yield* hold.release
      yield* Scope.close(scope, Exit.void)
      yield* settle
      assert.lengthOf(disk.calls, 2)
    }))

  for (
    const [how, outcome] of [
      ["fails", Effect.fail(diskError())],
      ["dies", Effect.die(new Error("defect in the sink"))],
      [
        "throws",
        Effect.sync(() => {
          throw new Error("thrown in the sink")
        })
      ],
      ["is interrupted", Effect.interrupt]
    ] as const
  ) {
    it.effect(`GC-08 nobody is left waiting when the sink ${how}`, () =>
      Effect.gen(function*() {
        const { disk, log } = yield* start({ padding: "sealed" }, { maxQueuedBytes: 128 })
        const hold = disk.holdNext()
        const first = yield* Effect.forkChild(commit(log, record(0, 0)), { startImmediately: true })
        yield* hold.entered
        const written = yield* Effect.forkChild(commit(log, record(1, 0), "written"), { startImmediately: true })
        const reservation = yield* log.reserve(8)
        const behind = yield* Effect.forkChild(log.commitAtLeast(reservation.end, "durable"), {
          startImmediately: true
        })
        const flushing = yield* Effect.forkChild(log.flushNow, { startImmediately: true })
        const quiescing = yield* Effect.forkChild(log.quiesce(Effect.void), { startImmediately: true })
        const waitingForRoom = yield* Effect.forkChild(log.reserveAndEnqueue(record(2, 0, 96)), {
          startImmediately: true
        })
        const reservingRoom = yield* Effect.forkChild(Effect.scoped(log.reserve(96)), { startImmediately: true })
        const closing = yield* Effect.forkChild(
          Effect.andThen(Deferred.await(Deferred.makeUnsafe<void>()), log.close),
          { startImmediately: true }
        )
        yield* settle
        const waiting = [first, written, behind, flushing, quiescing, waitingForRoom, reservingRoom]
        assert.isTrue(waiting.every(isWaiting))
        disk.before = () => outcome
        yield* hold.release
        const exits = yield* Effect.forEach(waiting, (fiber) => Fiber.await<unknown, unknown>(fiber))
        // The first batch was written before the failure came.
        assert.deepStrictEqual(exits.map(isPoisoned), [false, true, true, true, true, true, true])
        assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
        yield* Fiber.interrupt(closing)
        assert.lengthOf(disk.calls, 2)
      }))
  }

  it.effect("GC-08 the sink that throws instead of answering an effect poisons as well", () =>
    Effect.gen(function*() {
      const explode = (): never => {
        throw new Error("no effect")
      }
      const log = yield* make({ name: "thrower", write: explode, sync: Effect.void, writeAndSync: explode })
      assert.strictEqual(yield* outcomeOf(commit(log, record(0, 0))), "WalPoisoned")
      assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
    }))

  it.effect("GC-08 poison is in place when the first waiter wakes, and told to the log before", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const { disk, log } = yield* start({ onPoisoned: (failure) => seen.push(`told ${failure._tag}`) })
      disk.failAt(0)
      const enqueue = (name: string) =>
        log.admit({
          length: 8,
          refuse: (ended) => seen.push(`${name} refused ${ended._tag}`),
          enter: () => {
            log.enqueueUnsafe(8, (target, _view, offset) => target.set(record(0, 0), offset), {
              mode: "durable",
              succeed: () => seen.push(`${name} woken`),
              fail: (failure) => {
                seen.push(`${name} failed ${failure._tag}, ended ${log.ended()?._tag}`)
                const again = immediate(log.commitAtLeast(toLsn(8), "durable"))
                seen.push(`${name} asks again: ${isPoisoned(again)}`)
                if (name === "one") enqueue("one again")
              }
            })
          }
        })
      enqueue("one")
      enqueue("two")
      yield* Effect.ignore(log.flushNow)
      assert.deepStrictEqual(seen, [
        "told WalPoisoned",
        "one failed WalPoisoned, ended WalPoisoned",
        "one asks again: true",
        "one again refused WalPoisoned",
        "two failed WalPoisoned, ended WalPoisoned",
        "two asks again: true"
      ])
    }))

  it.effect("GC-08 poison from outside during a write: the write ends, nothing of it is acknowledged", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const hold = disk.holdNext()
      const waiter = yield* Effect.forkChild(commit(log, record(0, 0)), { startImmediately: true })
      yield* hold.entered
      log.poison(Cause.die(new Error("the log above is broken")))
      assert.isTrue(isPoisoned(yield* Fiber.await(waiter)))
      yield* hold.release
      assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
      assert.deepInclude(log.watermarks(), { written: toLsn(0), durable: toLsn(0) })
      assert.deepStrictEqual(disk.durables, [])
    }))

  it.effect("GC-08 poison from outside while the leader sleeps, at a hole and with nothing to do", () =>
    Effect.gen(function*() {
      for (const hasHole of [true, false]) {
        const { disk, log } = yield* start({ padding: "pads" })
        if (hasHole) yield* log.reserve(8)
        yield* settle
        log.poison(Cause.die("broken"))
        assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
        assert.lengthOf(disk.calls, 0)
      }
    }))

  it.effect("GC-08 poison from outside while the leader waits for its turn", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      yield* log.reserveAndEnqueue(record(0, 0))
      log.poison(Cause.die("broken"))
      assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
      assert.lengthOf(disk.calls, 0)
    }))

  it.effect("GC-08 poison from outside between the leader's taking a batch and its writing it", () =>
    Effect.gen(function*() {
      for (let seed = 0; seed < 200; seed++) {
        yield* Effect.gen(function*() {
          const { log } = yield* start()
          yield* log.reserveAndEnqueue(record(0, 0))
          yield* Effect.repeat(Effect.yieldNow, { times: seed % 8 })
          log.poison(Cause.die("broken"))
          assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
        }).pipe(Effect.scoped, Effect.provideService(Scheduler.Scheduler, new SeededScheduler(seed, 0.4)))
      }
    }))

  it.effect("GC-08 a hand-over that throws when the leader lets it in is refused like everybody else", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "pads" }, { maxQueuedBytes: 16 })
      const hold = disk.holdNext()
      yield* log.reserveAndEnqueue(record(0, 0, 16))
      yield* hold.entered
      const refused: Array<string> = []
      const throwing = () => {
        throw new Error("a bug of the log on top")
      }
      log.admit({ length: 8, enter: throwing, refuse: (ended) => refused.push(`throwing ${ended._tag}`) })
      log.admit({ length: 8, enter: () => refused.push("entered"), refuse: ({ _tag }) => refused.push(`next ${_tag}`) })
      yield* hold.release
      yield* settle
      assert.sameMembers(refused, ["throwing WalPoisoned", "next WalPoisoned"])
    }))

  it.effect("GC-08 poison from inside a hand-over that the leader lets in", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({}, { maxQueuedBytes: 8 })
      const hold = disk.holdNext()
      const first = yield* Effect.forkChild(commit(log, record(0, 0)), { startImmediately: true })
      yield* hold.entered
      log.admit({ length: 8, refuse: () => {}, enter: () => log.poison(Cause.die("broken")) })
      const behind = yield* Effect.forkChild(commit(log, record(1, 0)), { startImmediately: true })
      yield* hold.release
      yield* Fiber.await(first)
      assert.isTrue(isPoisoned(yield* Fiber.await(behind)))
      assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
      assert.lengthOf(disk.calls, 1)
    }))

  for (const hook of ["onDurable", "seal", "pad", "onPoisoned", "succeed", "fail", "enter", "refuse"] as const) {
    it.effect(`GC-08 a throwing ${hook} poisons and leaves nobody waiting`, () =>
      Effect.gen(function*() {
        const explode = (): never => {
          throw new Error(`thrown in ${hook}`)
        }
        const disk = new RecordingSink({ padding: "sealed" })
        const log = yield* make({
          ...disk.sink,
          ...(hook === "onDurable" || hook === "onPoisoned" || hook === "pad" ? { [hook]: explode } : {}),
          ...(hook === "seal"
            ? { seal: { bytes: sealBytes, write: (_buffers, lsn) => lsn === 0 ? undefined : explode() } }
            : {})
        }, { maxQueuedBytes: 256 })
        const isFailing = hook === "onPoisoned" || hook === "fail" || hook === "refuse"
        const hold = disk.holdNext()
        const written = yield* Effect.forkChild(commit(log, record(0, 0), "written"), { startImmediately: true })
        yield* hold.entered
        if (isFailing) disk.before = () => Effect.fail(diskError())
        const failed: Array<string> = []
        log.admit({
          length: 8,
          refuse: () => assert.fail("refused"),
          enter: () => {
            log.enqueueUnsafe(8, (target, _view, offset) => target.set(record(1, 0), offset), {
              mode: "durable",
              succeed: hook === "succeed" ? explode : () => {},
              fail: (failure) => {
                failed.push(failure._tag)
                if (hook === "fail") explode()
              }
            })
          }
        })
        // A reservation, filled: the cut point before it is padded in the batch.
        const reservation = yield* log.reserve(8)
        yield* reservation.fill(record(2, 0))
        const durable = yield* Effect.forkChild(log.flushNow, { startImmediately: true })
        const second = yield* Effect.forkChild(log.commitAtLeast(reservation.end, "written"), {
          startImmediately: true
        })
        log.admit({
          length: 256,
          enter: hook === "enter" ? explode : () => {},
          refuse: hook === "refuse" ? explode : () => {}
        })
        const room = yield* Effect.forkChild(commit(log, record(3, 0)), { startImmediately: true })
        yield* hold.release
        const exits = yield* Fiber.awaitAll([written, durable, second, room])
        assert.strictEqual(log.ended()?._tag, "WalPoisoned")
        assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
        const failure = yield* Effect.flip(log.close)
        // The hooks that run after a failure of the disk do not take its place.
        assert.include(failure.message, isFailing ? "EIO" : `thrown in ${hook}`)
        const [, , , last] = exits
        assert.isTrue(isPoisoned(last))
        if (hook === "fail") assert.deepStrictEqual(failed, ["WalPoisoned"])
        assert.isFalse(disk.violations.some((what) => what.includes("after a failure")))
      }))
  }

  for (const when of ["its scope closes", "the log closes"] as const) {
    it.effect(`GC-08 a pad that throws when ${when} poisons and leaves nobody behind the hole`, () =>
      Effect.gen(function*() {
        const log = yield* make({
          name: "thrower",
          write: () => Effect.void,
          sync: Effect.void,
          writeAndSync: () => Effect.void,
          pad: () => {
            throw new Error("thrown in pad")
          }
        })
        const scope = yield* Scope.make()
        yield* log.reserve(8).pipe(Scope.provide(scope))
        const behind = yield* Effect.forkChild(commit(log, record(1, 0)), { startImmediately: true })
        yield* Effect.exit(when === "the log closes" ? log.close : Scope.close(scope, Exit.void))
        assert.isTrue(isPoisoned(yield* Fiber.await(behind)))
        assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
      }))
  }

  it.effect("GC-08 interrupting the leader during a write neither tears the write nor strands anybody", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const entered = yield* Deferred.make<Fiber.Fiber<unknown, unknown>>()
      const released = yield* Deferred.make<void>()
      disk.before = (_call, index) =>
        index > 0 ?
          Effect.void :
          Effect.withFiber((leader) => Effect.andThen(Deferred.succeed(entered, leader), Deferred.await(released)))
      const one = yield* Effect.forkChild(commit(log, record(0, 0)), { startImmediately: true })
      const leader = yield* Deferred.await(entered)
      const two = yield* Effect.forkChild(commit(log, record(1, 0)), { startImmediately: true })
      const interrupting = yield* Effect.forkChild(Fiber.interrupt(leader), { startImmediately: true })
      yield* settle
      assert.isTrue(isWaiting(one))
      yield* Deferred.succeed(released, undefined)
      const exits = yield* Fiber.awaitAll([one, two])
      yield* Effect.exit(log.close)
      yield* Fiber.await(interrupting)
      // The write that was in flight ended, and who was told so found it in the file.
      assert.isAtLeast(describeFrames(disk.image).length, 1)
      for (const exit of exits) assert.isTrue(Exit.isSuccess(exit) || isPoisoned(exit))
    }))

  it.effect("GC-07 poison has a message whatever the cause was", () =>
    Effect.gen(function*() {
      for (const [defect, text] of [["text", "text"], [Object.create(null), "{}"], [undefined, "undefined"]]) {
        const { log } = yield* start()
        log.poison(Cause.die(defect))
        const failure = yield* Effect.flip(log.close)
        assert.include(failure.message, `(${text})`)
      }
    }))

  it.effect("GC-07 what was acknowledged before stays where it is", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* poisoned
      assert.strictEqual(log.watermarks().durable, 24)
      assert.deepStrictEqual(describeFrames(disk.image), ["w0.0@0", "seal@8"])
      const failure: WalPoisoned = yield* Effect.flip(log.close)
      assert.isFalse(failure.isRetryable)
      assert.strictEqual(failure.sqliteCode, 10)
    }))
})

/** The state machine over a log: order, visibility, interruption, limits, endings. Snapshots are in a file of their own. */
import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import { Cause, Effect, Exit, Fiber, Scheduler } from "effect"
import { openStateLog } from "../src/internal/openStateLog.ts"
import { LogClosed, RecordTooLarge, WalPoisoned } from "../src/LogErrors.ts"
import { LogInUse } from "../src/LogStateErrors.ts"
import { makeRandom, SeededScheduler } from "./support/seededScheduler.ts"
import { defaultOptions, openWords, segments, words, wordsOn } from "./support/words.ts"

const othersGoOn = Effect.forEach(Array.from({ length: 50 }), () => Effect.yieldNow, { discard: true })

const numbers = (count: number, prefix = "") => Array.from({ length: count }, (_, i) => `${prefix}${i}`)

describe("StateLog", () => {
  it.effect("shows and answers nothing before it is durable", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { add, state } = yield* openWords(disk)
      const sync = disk.hold({ operation: "syncData", path: segments })
      const adding = yield* Effect.forkChild(add("one"), { startImmediately: true })
      yield* sync.reached
      yield* othersGoOn
      assert.deepStrictEqual(state.words, [])
      assert.isUndefined(adding.pollUnsafe())
      assert.deepStrictEqual(yield* wordsOn(disk.afterCrash("lost")), [])
      yield* sync.release
      assert.strictEqual(yield* Fiber.join(adding), 1)
      assert.deepStrictEqual(state.words, ["one"])
      assert.deepStrictEqual(yield* wordsOn(disk.afterCrash("lost")), ["one"])
    }))

  it.effect("GC-03 lets everything that comes during a sync share the next one", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { add, state } = yield* openWords(disk)
      const trace = disk.record()
      const sync = disk.hold({ operation: "syncData", path: segments })
      const first = yield* Effect.forkChild(add("first"), { startImmediately: true })
      yield* sync.reached
      const others = yield* Effect.forEach(
        numbers(200),
        (word) => Effect.forkChild(add(word), { startImmediately: true })
      )
      yield* sync.release
      yield* Fiber.join(first)
      yield* Effect.forEach(others, Fiber.join)
      trace.stop()
      assert.deepStrictEqual(state.words, ["first", ...numbers(200)])
      const syncs = trace.steps.filter(({ kind, path }) => kind === "syncData" && segments.test(path))
      assert.strictEqual(syncs.length, 2)
    }))

  it.effect("applies in the order of the log, whatever the scheduler does", () =>
    Effect.gen(function*() {
      for (let seed = 1; seed <= 150; seed++) {
        const disk = MemoryDisk.make({ async: { seed, maxTurns: 3 } })
        const decided: Array<string> = []
        const applied: Array<string> = []
        const answered: Array<string> = []
        const random = makeRandom(seed)
        yield* Effect.scoped(Effect.gen(function*() {
          const { state, stateLog } = yield* openWords(disk, {
            state: { maxQueuedBytes: 60 },
            log: { segmentBytes: 700 }
          })
          state.onApply = (word) => {
            applied.push(word)
          }
          const writer = Effect.fnUntraced(function*(number: number) {
            for (let i = 0; i < 6; i++) {
              const word = `${number}.${i}`
              yield* stateLog.transact(() => {
                decided.push(word)
                return { type: "commit", commands: [word], answer: () => void answered.push(word) }
              })
              assert.include(state.words, word)
              if (random() < 0.3) yield* Effect.yieldNow
            }
          })
          yield* Effect.forEach(numbers(8), (number) => writer(Number(number)), { concurrency: "unbounded" })
          assert.deepStrictEqual(state.words, decided, `seed ${seed}`)
        }))
        assert.strictEqual(decided.length, 48)
        assert.deepStrictEqual(applied, decided, `seed ${seed}`)
        assert.deepStrictEqual(answered, decided, `seed ${seed}`)
        disk.crash(seed)
        assert.deepStrictEqual(yield* wordsOn(disk), decided, `seed ${seed}, opened again`)
      }
    }).pipe(Effect.provideServiceEffect(Scheduler.Scheduler, Effect.sync(() => new SeededScheduler(7, 0.2)))))

  it.effect("answers what rests on commands on their way only when they are durable", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { add, stateLog } = yield* openWords(disk)
      assert.strictEqual(yield* stateLog.transact(() => ({ type: "answerWhenDurable", answer: "at once" })), "at once")
      const sync = disk.hold({ operation: "syncData", path: segments })
      yield* Effect.forkChild(add("one"), { startImmediately: true })
      yield* sync.reached
      const waiting = yield* Effect.forkChild(
        stateLog.transact(() => ({ type: "answerWhenDurable", answer: "durable" })),
        { startImmediately: true }
      )
      assert.strictEqual(yield* stateLog.transact(() => ({ type: "answer", answer: "now" })), "now")
      yield* othersGoOn
      assert.isUndefined(waiting.pollUnsafe())
      yield* sync.release
      assert.strictEqual(yield* Fiber.join(waiting), "durable")
    }))

  it.effect("finishes what an interrupted caller has submitted, though nobody waits for it", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { add, state } = yield* openWords(disk)
      const sync = disk.hold({ operation: "syncData", path: segments })
      const adding = yield* Effect.forkChild(add("one"), { startImmediately: true })
      yield* sync.reached
      yield* Fiber.interrupt(adding)
      assert.deepStrictEqual(state.words, [])
      yield* sync.release
      while (state.words.length === 0) yield* Effect.yieldNow
      assert.deepStrictEqual(state.words, ["one"])
      assert.strictEqual(yield* add("two"), 2)
    }))

  it.effect("GC-11 lets callers wait in line while too much is queued, having decided nothing", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { state, stateLog } = yield* openWords(disk, {
        state: { maxQueuedBytes: 100 },
        log: { maxQueuedBytes: 200, maxBatchBytes: 100 }
      })
      const decided: Array<string> = []
      const add = (word: string) =>
        stateLog.transact(() => {
          decided.push(word)
          return { type: "commit", commands: [word], answer: () => {} }
        })
      const sync = disk.hold({ operation: "syncData", path: segments })
      const first = yield* Effect.forkChild(add("first"), { startImmediately: true })
      yield* sync.reached
      const adding = yield* Effect.forEach(
        numbers(40),
        (word) => Effect.forkChild(add(word), { startImmediately: true })
      )
      yield* othersGoOn
      const decidedEarly = decided.length
      assert.isBelow(decidedEarly, 25)
      const interrupted = adding[30]
      assert.isDefined(interrupted)
      if (interrupted !== undefined) yield* Fiber.interrupt(interrupted)
      yield* sync.release
      yield* Effect.forEach([first, ...adding.filter((_, i) => i !== 30)], Fiber.join)
      assert.deepStrictEqual(decided, ["first", ...numbers(40).filter((word) => word !== "30")])
      assert.deepStrictEqual(state.words, decided)
    }))

  it.effect("GC-11 lets nobody overtake those in line", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { add, state, stateLog } = yield* openWords(disk, {
        state: { maxQueuedBytes: 20 },
        log: { maxQueuedBytes: 1 }
      })
      const sync = disk.hold({ operation: "syncData", path: segments })
      const start = <A, E>(effect: Effect.Effect<A, E>) => Effect.forkChild(effect, { startImmediately: true })
      const first = yield* start(add("first"))
      yield* sync.reached
      // The log has no room for the second, so a queue forms in front of it, and a line in front of that.
      const inQueue = [yield* start(add("second")), yield* start(add("third"))]
      const inLine = [
        yield* start(
          Effect.andThen(stateLog.transact(() => ({ type: "answer", answer: undefined })), add("came back"))
        ),
        yield* start(add("fourth")),
        yield* start(add("fifth"))
      ]
      yield* sync.release
      yield* Effect.forEach([first, ...inQueue, ...inLine], Fiber.join)
      assert.deepStrictEqual(state.words, ["first", "second", "third", "fourth", "fifth", "came back"])
    }))

  it.effect("leaves everybody else alone when a decision throws", () =>
    Effect.gen(function*() {
      const { add, state, stateLog } = yield* openWords(MemoryDisk.make())
      const exit = yield* Effect.exit(stateLog.transact((): never => {
        throw new Error("no")
      }))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      yield* add("one")
      assert.deepStrictEqual(state.words, ["one"])
    }))

  it.effect("GC-10 refuses a command that fits into no record, before anything is staged", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { add, stateLog } = yield* openWords(disk, { log: { maxRecordBytes: 100 } })
      const largest = "x".repeat(stateLog.maxItemBytes)
      let isStaged = false
      const refused = yield* Effect.flip(stateLog.transact(() => ({
        type: "commit",
        commands: ["fits", `${largest}x`],
        stage: () => {
          isStaged = true
        },
        answer: () => {}
      })))
      assert.isTrue(refused instanceof RecordTooLarge)
      assert.isFalse(isStaged)
      yield* add(largest, "small", largest, largest)
      yield* add("after")
      disk.crash("lost")
      assert.deepStrictEqual(yield* wordsOn(disk, { log: { maxRecordBytes: 100 } }), [
        largest,
        "small",
        largest,
        largest,
        "after"
      ])
    }))

  it.effect("keeps commands together that do not fit into one record", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const batch = numbers(40).map((word) => word.padEnd(10_000, "."))
      yield* Effect.scoped(Effect.gen(function*() {
        const { add } = yield* openWords(disk, { log: { maxBatchBytes: 100_000 } })
        yield* add("before")
        const trace = disk.record<"done">()
        yield* add(...batch)
        trace.mark("done")
        trace.stop()
        const seen = new Set<number>()
        for (const state of trace.crashStates({ perStep: 12 })) {
          const found = yield* wordsOn(state.disk)
          seen.add(found.length)
          assert.deepStrictEqual(found, found.length === 1 ? ["before"] : ["before", ...batch], state.label)
          if (state.marks.length > 0) assert.strictEqual(found.length, 41, state.label)
        }
        assert.deepStrictEqual(seen, new Set([1, 41]))
      }))
    }))

  describe("ending", () => {
    it.effect("GC-07 tells everybody why, keeps what is durable, and is whole when it is opened again", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        yield* Effect.scoped(Effect.gen(function*() {
          const { add, state, stateLog } = yield* openWords(disk)
          let ended = 0
          stateLog.onEnded = () => {
            ended++
          }
          yield* add("one")
          disk.inject({ operation: "syncData", path: segments, fault: { kind: "lostSync" } })
          const lost = yield* Effect.forEach(numbers(3), (word) => Effect.flip(add(word)), { concurrency: "unbounded" })
          for (const error of lost) assert.isTrue(error instanceof WalPoisoned)
          assert.deepStrictEqual(state.words, ["one"])
          assert.strictEqual(ended, 1)
          assert.isTrue((yield* Effect.flip(add("later"))) instanceof WalPoisoned)
          const barrier = stateLog.transact(() => ({ type: "answerWhenDurable", answer: 1 }))
          assert.isTrue((yield* Effect.flip(barrier)) instanceof WalPoisoned)
          assert.deepStrictEqual(state.words, ["one"])
        }))
        disk.crash("lost")
        yield* Effect.scoped(Effect.gen(function*() {
          const { add, state } = yield* openWords(disk)
          assert.deepStrictEqual(state.words, ["one"])
          yield* add("two")
        }))
        assert.deepStrictEqual(yield* wordsOn(disk), ["one", "two"])
      }))

    it.effect("GC-08 leaves nobody waiting: neither those in the log, nor those in front of it, nor those in line", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { add } = yield* openWords(disk, {
          state: { maxQueuedBytes: 100 },
          log: { maxQueuedBytes: 200, maxBatchBytes: 100 }
        })
        const sync = disk.hold({ operation: "syncData", path: segments })
        disk.inject({ operation: "syncData", path: segments, fault: { kind: "error", code: "EIO" } })
        const adding = yield* Effect.forEach(
          numbers(60),
          (word) => Effect.forkChild(add(word), { startImmediately: true })
        )
        yield* sync.reached
        yield* othersGoOn
        yield* sync.release
        for (const fiber of adding) assert.isTrue((yield* Effect.flip(Fiber.join(fiber))) instanceof WalPoisoned)
      }))

    it.effect("acknowledges what was durable before the log was poisoned", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { add, state } = yield* openWords(disk, { log: { maxBatchBytes: 64 } })
        const sync = disk.hold({ operation: "syncData", path: segments, when: "after" })
        const first = yield* Effect.forkChild(add("first"), { startImmediately: true })
        yield* sync.reached
        disk.inject({ operation: "write", path: segments, fault: { kind: "error", code: "ENOSPC" } })
        const second = yield* Effect.forkChild(add("second"), { startImmediately: true })
        yield* sync.release
        assert.strictEqual(yield* Fiber.join(first), 1)
        assert.isTrue((yield* Effect.flip(Fiber.join(second))) instanceof WalPoisoned)
        assert.deepStrictEqual(state.words, ["first"])
      }))

    it.effect("GC-14 makes everything durable that was submitted, and then refuses", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { add, close } = yield* openWords(disk, { state: { maxQueuedBytes: 100_000 } })
        const adding = yield* Effect.forEach(
          numbers(100),
          (word) => Effect.forkChild(add(word), { startImmediately: true })
        )
        yield* close
        yield* Effect.forEach(adding, Fiber.join)
        assert.isTrue((yield* Effect.flip(add("late"))) instanceof LogClosed)
        disk.crash("lost")
        assert.deepStrictEqual(yield* wordsOn(disk), numbers(100))
      }))

    it.effect("refuses those who still stand in line when it closes", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { add, close } = yield* openWords(disk, {
          state: { maxQueuedBytes: 30 },
          log: { maxQueuedBytes: 100, maxBatchBytes: 50 }
        })
        const sync = disk.hold({ operation: "syncData", path: segments })
        const adding = yield* Effect.forEach(
          numbers(40),
          (word) => Effect.forkChild(add(word), { startImmediately: true })
        )
        yield* sync.reached
        const closing = yield* Effect.forkChild(close, { startImmediately: true })
        yield* sync.release
        yield* Fiber.join(closing)
        const exits = yield* Effect.forEach(adding, (fiber) => Effect.exit(Fiber.join(fiber)))
        const done = exits.findIndex(Exit.isFailure)
        assert.isAbove(done, 0)
        for (const exit of exits.slice(done)) {
          assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof LogClosed)
        }
        assert.deepStrictEqual(yield* wordsOn(disk), numbers(done))
      }))

    it.effect("applies nothing more once applying has failed", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        yield* Effect.scoped(Effect.gen(function*() {
          const { add, state } = yield* openWords(disk)
          state.onApply = (word) => {
            if (word === "bad") throw new Error("a broken invariant")
          }
          const exits = yield* Effect.forEach(
            ["good", "bad", "next"],
            (word) => Effect.exit(add(word)),
            { concurrency: "unbounded" }
          )
          assert.deepStrictEqual(exits.map(({ _tag }) => _tag), ["Success", "Failure", "Failure"])
          for (const exit of exits.slice(1)) assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
          const later = yield* Effect.exit(add("later"))
          assert.isTrue(Exit.isFailure(later) && Cause.hasDies(later.cause))
          assert.deepStrictEqual(state.words, ["good"])
        }))
        assert.deepStrictEqual(yield* wordsOn(disk), ["good", "bad", "next"])
      }))
  })

  it.effect("has an open log for itself, until its scope closes", () =>
    Effect.gen(function*() {
      const { log } = yield* openWords(MemoryDisk.make())
      const error = yield* Effect.flip(Effect.scoped(openStateLog(log, words, defaultOptions)))
      assert.isTrue(error instanceof LogInUse)
    }))

  it.effect("writes nothing by being opened", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      yield* Effect.scoped(Effect.flatMap(openWords(disk), ({ add }) => add("one")))
      const ends: Array<number> = []
      for (let i = 0; i < 3; i++) {
        yield* Effect.scoped(Effect.map(openWords(disk), ({ log, state }) => {
          assert.deepStrictEqual(state.words, ["one"])
          ends.push(log.watermarks().reserved)
        }))
      }
      assert.strictEqual(new Set(ends).size, 1)
    }))
})

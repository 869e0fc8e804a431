/** What queues in a log promise beyond the contract of the interface. */
import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Schedule, Scheduler, Schema } from "effect"
import { PersistedQueue } from "effect/persistence"
import { TestClock } from "effect/testing"
import { LogClosed, RecordTooLarge, WalPoisoned } from "../src/LogErrors.ts"
import { openQueues, type Options, othersGoOn, segments, tooLong } from "./support/adapters.ts"
import { SeededScheduler } from "./support/seededScheduler.ts"

const numbers = (count: number) => Array.from({ length: count }, (_, i) => i)
const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

type Opened = Effect.Success<ReturnType<typeof openQueues>>

const queueOf = ({ factory }: Opened, options: { readonly name?: string; readonly maxAttempts?: number } = {}) =>
  factory.make({ name: "q", schema: Schema.String, retrySchedule: Schedule.spaced("10 seconds"), ...options })

const openQueue = (disk: MemoryDisk, options: Options & { readonly maxAttempts?: number } = {}) =>
  Effect.flatMap(
    openQueues(disk, options),
    (opened) => Effect.map(queueOf(opened, options), (queue) => ({ ...opened, queue }))
  )

type Queue = PersistedQueue.PersistedQueue<string>

const take = (queue: Queue) => queue.take((value, { attempts, id }) => Effect.succeed({ value, attempts, id }))

/** Everything that can be taken now. */
const drain = Effect.fnUntraced(function*(queue: Queue) {
  const taken: Array<{ readonly value: string; readonly attempts: number; readonly id: string }> = []
  while (true) {
    const taking = yield* start(take(queue))
    yield* othersGoOn
    if (taking.pollUnsafe() === undefined) {
      yield* Fiber.interrupt(taking)
      return taken
    }
    taken.push(yield* Fiber.join(taking))
  }
})

const drainOn = (disk: MemoryDisk, options: Options & { readonly maxAttempts?: number } = {}) =>
  Effect.scoped(Effect.flatMap(openQueue(disk, options), ({ queue }) => drain(queue)))

describe("LogPersistedQueue", () => {
  describe("durability", () => {
    it.effect("delivers nothing, and answers nothing, before the offer is durable", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { queue } = yield* openQueue(disk)
        const sync = disk.hold({ operation: "syncData", path: segments })
        const taking = yield* start(take(queue))
        const offering = yield* start(queue.offer("one", { id: "a" }))
        yield* sync.reached
        const again = yield* start(queue.offer("two", { id: "a" }))
        yield* othersGoOn
        for (const fiber of [taking, offering, again]) assert.isUndefined(fiber.pollUnsafe())
        assert.deepStrictEqual(yield* drainOn(disk.afterCrash("lost")), [])
        yield* sync.release
        assert.strictEqual(yield* Fiber.join(offering), "a")
        assert.strictEqual(yield* Fiber.join(again), "a")
        assert.deepStrictEqual(yield* Fiber.join(taking), { value: "one", attempts: 1, id: "a" })
      }))

    it.effect("runs a handler only when its claim is durable, and gives the element to nobody else meanwhile", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { queue } = yield* openQueue(disk)
        yield* queue.offer("one", { id: "a" })
        const sync = disk.hold({ operation: "syncData", path: segments })
        const handled: Array<string> = []
        const handle = queue.take((value) => Effect.sync(() => handled.push(value)))
        const first = yield* start(handle)
        yield* sync.reached
        const second = yield* start(handle)
        yield* othersGoOn
        assert.deepStrictEqual(handled, [])
        yield* sync.release
        yield* Fiber.join(first)
        yield* othersGoOn
        assert.deepStrictEqual(handled, ["one"])
        assert.isUndefined(second.pollUnsafe())
        yield* Fiber.interrupt(second)
      }))

    it.effect("answers a take only when its outcome is durable", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { queue } = yield* openQueue(disk)
        yield* queue.offer("one", { id: "a" })
        const held: Array<ReturnType<typeof disk.hold>> = []
        const taking = yield* start(queue.take(() =>
          Effect.sync(() => {
            held.push(disk.hold({ operation: "syncData", path: segments }))
          })
        ))
        while (held[0] === undefined) yield* Effect.yieldNow
        yield* held[0].reached
        yield* othersGoOn
        assert.isUndefined(taking.pollUnsafe())
        assert.deepStrictEqual(yield* drainOn(disk.afterCrash("lost")), [{ value: "one", attempts: 2, id: "a" }])
        yield* held[0].release
        yield* Fiber.join(taking)
        assert.deepStrictEqual(yield* drainOn(disk.afterCrash("lost")), [])
      }))

    it.effect("finishes a claim that is interrupted on its way, and releases it", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { queue } = yield* openQueue(disk)
        yield* queue.offer("one", { id: "a" })
        const sync = disk.hold({ operation: "syncData", path: segments })
        const taking = yield* start(queue.take(() => Effect.die("it runs")))
        yield* sync.reached
        const interrupting = yield* start(Fiber.interrupt(taking))
        yield* sync.release
        yield* Fiber.join(interrupting)
        assert.deepStrictEqual(yield* drain(queue), [{ value: "one", attempts: 1, id: "a" }])
      }))
  })

  it.effect("delivers everything, whatever the scheduler does", () =>
    Effect.gen(function*() {
      for (let seed = 1; seed <= 40; seed++) {
        yield* Effect.scoped(Effect.gen(function*() {
          const { queue } = yield* openQueue(MemoryDisk.make({ async: { seed, maxTurns: 2 } }))
          const takers = yield* Effect.forEach(numbers(12), () => start(take(queue)))
          yield* Effect.forEach(numbers(12), (i) => queue.offer(`${i}`), { concurrency: 4, discard: true })
          const taken = yield* Effect.forEach(takers, (taker) => Fiber.join(taker))
          assert.strictEqual(new Set(taken.map(({ value }) => value)).size, 12, `seed ${seed}`)
        }))
      }
    }).pipe(Effect.provideServiceEffect(Scheduler.Scheduler, Effect.sync(() => new SeededScheduler(5, 0.3)))))

  it.effect("does nothing while takers wait", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      let looks = 0
      const counting: Clock.Clock = Object.assign(Object.create(clock) as Clock.Clock, {
        currentTimeMillisUnsafe: () => {
          looks++
          return clock.currentTimeMillisUnsafe()
        }
      })
      const { queue } = yield* Effect.provideService(openQueue(MemoryDisk.make()), Clock.Clock, counting)
      yield* queue.offer("later", { delay: "1 hour" })
      const takers = yield* Effect.forEach(numbers(3), () => start(take(queue)))
      yield* othersGoOn
      const before = looks
      yield* othersGoOn
      assert.strictEqual(looks, before)
      yield* Effect.forEach(takers, Fiber.interrupt, { discard: true })
    }))

  describe("after a crash", () => {
    /** A process takes elements and dies while it has them. */
    const dieWith = (disk: MemoryDisk, count: number, options: Options & { readonly maxAttempts?: number } = {}) =>
      Effect.scoped(Effect.gen(function*() {
        const { queue } = yield* openQueue(disk, options)
        let taken = 0
        for (const _ of numbers(count)) {
          yield* start(queue.take(() => Effect.andThen(Effect.sync(() => taken++), Effect.never)))
        }
        while (taken < count) yield* Effect.yieldNow
        disk.crash("lost")
      }))

    it.effect("delivers again what was being processed, where it stood, with the attempt counted", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        yield* Effect.scoped(
          Effect.flatMap(
            openQueue(disk),
            ({ queue }) => Effect.forEach(["a", "b", "c", "d"], (id) => queue.offer(id, { id }))
          )
        )
        yield* dieWith(disk, 2)
        yield* dieWith(disk, 1)
        assert.deepStrictEqual((yield* drainOn(disk)).map(({ attempts, id }) => [id, attempts]), [
          ["a", 3],
          ["b", 2],
          ["c", 1],
          ["d", 1]
        ])
        assert.deepStrictEqual(yield* drainOn(disk), [])
      }))

    it.effect("marks as failed what had no attempt left, for good", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const options = { maxAttempts: 2 }
        yield* Effect.scoped(Effect.flatMap(openQueue(disk), ({ queue }) => queue.offer("bad", { id: "a" })))
        yield* dieWith(disk, 1, options)
        yield* dieWith(disk, 1, options)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* drainOn(disk, options), [])
        yield* TestClock.adjust("1 hour")
        yield* Effect.scoped(Effect.gen(function*() {
          const { queue, store } = yield* openQueue(disk, { maxAttempts: 10 })
          yield* queue.offer("again", { id: "a" })
          assert.deepStrictEqual(yield* drain(queue), [], "a failed id is remembered")
          // It failed when it was found, an hour ago.
          yield* store.cleanup({ timeToLive: Duration.days(1), failedTimeToLive: Duration.hours(1) })
          yield* queue.offer("again", { id: "a" })
          assert.deepStrictEqual(yield* drain(queue), [{ value: "again", attempts: 1, id: "a" }])
        }))
      }))

    it.effect("keeps delays, attempts, ids, and what is done", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        yield* Effect.scoped(Effect.gen(function*() {
          const { queue } = yield* openQueue(disk, tooLong)
          yield* queue.offer("done", { id: "done" })
          yield* take(queue)
          yield* queue.offer("retried", { id: "retried" })
          yield* Effect.flip(queue.take(() => Effect.fail("no")))
          yield* queue.offer("delayed", { id: "delayed", delay: "20 seconds" })
          yield* queue.offer("ready", { id: "ready" })
          yield* othersGoOn
          disk.crash("lost")
        }))
        const { queue } = yield* openQueue(disk)
        yield* queue.offer("done again", { id: "done" })
        assert.deepStrictEqual((yield* drain(queue)).map(({ id }) => id), ["ready"])
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(yield* drain(queue), [{ value: "retried", attempts: 2, id: "retried" }])
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(yield* drain(queue), [{ value: "delayed", attempts: 1, id: "delayed" }])
      }))

    it.effect("has lost nothing that was offered, and repeats nothing that was done, wherever it came", () =>
      Effect.gen(function*() {
        let states = 0
        let repeated = 0
        for (const seed of [1, 2]) {
          const disk = MemoryDisk.make({ async: { seed, maxTurns: 2 } })
          yield* Effect.scoped(openQueue(disk))
          const trace = disk.record<{ readonly kind: "offered" | "handled" | "done"; readonly id: string }>()
          yield* Effect.scoped(Effect.gen(function*() {
            const { queue } = yield* openQueue(disk, { ...tooLong, maxBatchBytes: 150 })
            const offered = yield* start(Effect.forEach(
              numbers(14),
              (i) =>
                Effect.tap(
                  queue.offer(`${i}`.repeat(1 + i * 3), { id: `${i}` }),
                  (id) => Effect.sync(() => trace.mark({ kind: "offered", id }))
                ),
              { concurrency: 3, discard: true }
            ))
            const worker = queue.take((_, { id }) =>
              Effect.sync(() => trace.mark({ kind: "handled", id })).pipe(
                Effect.andThen(Effect.yieldNow),
                Effect.as(id)
              )
            ).pipe(
              Effect.tap((id) => Effect.sync(() => trace.mark({ kind: "done", id })))
            )
            yield* Effect.forEach(numbers(14), () => worker, { concurrency: 2, discard: true })
            yield* Fiber.join(offered)
          }))
          trace.stop()
          for (const state of trace.crashStates({ seed, perStep: 1, steps: (step) => step % 9 === 0 })) {
            states++
            const marked = (kind: string) =>
              new Set(state.marks.filter((mark) => mark.kind === kind).map(({ id }) => id))
            const [offered, handled, done] = [marked("offered"), marked("handled"), marked("done")]
            const found = yield* drainOn(state.disk).pipe(
              Effect.catchCause((cause) => Effect.die(new Error(`${state.label}: ${Cause.pretty(cause)}`)))
            )
            const ids = found.map(({ id }) => id)
            assert.strictEqual(new Set(ids).size, ids.length, `${state.label}: each once`)
            for (const { attempts, id, value } of found) {
              assert.isFalse(done.has(id), `${state.label}: ${id} was done`)
              assert.strictEqual(value, id.repeat(1 + Number(id) * 3), state.label)
              // A handler has run at most once, and only with a claim that counts.
              assert.include(handled.has(id) ? [2] : [1, 2], attempts, `${state.label}: ${id}`)
              if (attempts === 2) repeated++
            }
            const lost = [...offered].filter((id) => !ids.includes(id) && !handled.has(id))
            assert.deepStrictEqual(lost, [], state.label)
            state.disk.crash("lost")
            assert.deepStrictEqual(yield* drainOn(state.disk), [], `${state.label}: drained`)
          }
        }
        assert.isAbove(states, 300)
        assert.isAbove(repeated, 50)
      }))
  })

  describe("limits and endings", () => {
    it.effect("GC-10 refuses an element that fits into no record, or is not JSON", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { queue, store } = yield* openQueue(disk, { ...tooLong, maxRecordBytes: 400 })
        const refused = yield* Effect.flip(queue.offer("x".repeat(400), { id: "a" }))
        assert.isTrue(refused._tag === "PersistedQueueError" && refused.cause instanceof RecordTooLarge)
        const cyclic: Record<string, unknown> = {}
        cyclic["self"] = cyclic
        const bad = yield* Effect.flip(store.offer({ name: "q", id: "a", element: cyclic, isCustomId: true }))
        assert.strictEqual(bad._tag, "PersistedQueueError")
        yield* queue.offer("fits", { id: "a" })
        assert.deepStrictEqual((yield* drain(queue)).map(({ value }) => value), ["fits"])
      }))

    it.effect("lets the largest element that was offered go through its whole life", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const options: Options = { ...tooLong, maxRecordBytes: 300 }
        const { close, queue } = yield* openQueue(disk, options)
        let length = 300
        const offer = (length: number) => Effect.exit(queue.offer("x".repeat(length), { id: "a" }))
        while (Exit.isFailure(yield* offer(length))) length--
        assert.isAbove(length, 200)
        yield* Effect.flip(queue.take(() => Effect.fail("no")))
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.interrupt(
          yield* Effect.gen(function*() {
            const taking = yield* start(queue.take(() => Effect.never))
            yield* othersGoOn
            return taking
          })
        )
        yield* othersGoOn
        yield* close
        const found = yield* drainOn(disk, options)
        assert.deepStrictEqual(found.map(({ attempts, value }) => [attempts, value.length]), [[2, length]])
      }))

    const poison = (disk: MemoryDisk) =>
      disk.inject({ operation: "syncData", path: segments, fault: { kind: "lostSync" } })

    it.effect("GC-07 fails everybody with the reason when the log is poisoned, those who wait for an element too", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { queue, store } = yield* openQueue(disk)
        const waiting = [yield* start(take(queue)), yield* start(take(queue))]
        yield* othersGoOn
        poison(disk)
        const cleanup = store.cleanup({ timeToLive: Duration.zero, failedTimeToLive: undefined })
        const errors = [
          yield* Effect.flip(queue.offer("one")),
          ...(yield* Effect.forEach(waiting, (fiber) => Effect.flip(Fiber.join(fiber)))),
          yield* Effect.flip(take(queue)),
          yield* Effect.flip(cleanup),
          yield* Effect.flip(queue.offer("two"))
        ]
        for (const error of errors) {
          assert.isTrue(error._tag === "PersistedQueueError" && error.cause instanceof WalPoisoned)
        }
        disk.crash("lost")
        assert.deepStrictEqual(yield* drainOn(disk), [])
      }))

    it.effect("does not let a handler's success count that could not be written", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { close, queue } = yield* openQueue(disk)
        yield* queue.offer("one", { id: "a" })
        const exit = yield* Effect.exit(queue.take(() => Effect.sync(() => void poison(disk))))
        const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.isTrue(defect instanceof PersistedQueue.PersistedQueueError && defect.cause instanceof WalPoisoned)
        yield* close
        disk.crash("lost")
        assert.deepStrictEqual(yield* drainOn(disk), [{ value: "one", attempts: 2, id: "a" }])
      }))

    it.effect("lets a handler's own failure through that could not be written", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { queue } = yield* openQueue(disk)
        yield* queue.offer("one", { id: "a" })
        const failure = yield* Effect.flip(queue.take(() =>
          Effect.suspend(() => {
            poison(disk)
            return Effect.fail("its own")
          })
        ))
        assert.strictEqual(failure, "its own")
      }))

    it.effect("GC-14 tells those who wait that it closes", () =>
      Effect.gen(function*() {
        const { close, queue } = yield* openQueue(MemoryDisk.make())
        const waiting = yield* start(take(queue))
        yield* othersGoOn
        yield* close
        const error = yield* Effect.flip(Fiber.join(waiting))
        assert.isTrue(error._tag === "PersistedQueueError" && error.cause instanceof LogClosed)
      }))
  })
})

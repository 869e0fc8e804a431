/**
 * What Effect's `PersistedQueue` promises over any store: from the documentation of the interface, and from what
 * `layerStoreMemory` does where that is silent. Every test runs under the test clock.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Fiber, Layer, Schedule, Schema } from "effect"
import { PersistedQueue } from "effect/persistence"
import { TestClock } from "effect/testing"

type Services = PersistedQueue.PersistedQueueFactory | PersistedQueue.PersistedQueueStore
type StoreLayer = Layer.Layer<PersistedQueue.PersistedQueueStore, unknown>

/** Lets everybody else go as far as they can get without the clock. */
const othersGoOn = Effect.forEach(Array.from({ length: 100 }), () => Effect.yieldNow, { discard: true })

const makeQueue = (name: string, options?: { readonly maxAttempts?: number }) =>
  PersistedQueue.make({ name, schema: Schema.String, ...options })

const takeValue = <A, R>(queue: PersistedQueue.PersistedQueue<A, R>) => queue.take((value) => Effect.succeed(value))
const takeAll = <A, R>(queue: PersistedQueue.PersistedQueue<A, R>) =>
  queue.take((value, { attempts, id }) => Effect.succeed({ value, attempts, id }))
const failing = <A, R>(queue: PersistedQueue.PersistedQueue<A, R>) => Effect.flip(queue.take(() => Effect.fail("no")))

/** Asserts that nothing is delivered as things stand. */
const assertNothingToTake = <A, R>(queue: PersistedQueue.PersistedQueue<A, R>, label?: string) =>
  Effect.gen(function*() {
    const waiting = yield* Effect.forkChild(takeAll(queue), { startImmediately: true })
    yield* othersGoOn
    assert.isUndefined(waiting.pollUnsafe(), label)
    yield* Fiber.interrupt(waiting)
  })

/** Runs the suite against a layer. `layer` is called for each test and gives an empty store each time. */
export const persistedQueueContract = (name: string, layer: () => StoreLayer): void => {
  const test = <E>(title: string, body: Effect.Effect<void, E, Services>) =>
    it.effect(title, () => Effect.provide(body, Layer.provideMerge(PersistedQueue.layer, layer()), { local: true }))

  describe(`PersistedQueue contract: ${name}`, () => {
    test(
      "delivers what was offered, with its id and attempt 1",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        assert.strictEqual(yield* queue.offer("one", { id: "a" }), "a")
        assert.deepStrictEqual(yield* takeAll(queue), { value: "one", attempts: 1, id: "a" })
        yield* assertNothingToTake(queue)
      })
    )

    test(
      "makes ids that differ",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        const ids = yield* Effect.all([queue.offer("one"), queue.offer("one")])
        assert.notStrictEqual(ids[0], ids[1])
        const taken = yield* Effect.all([takeAll(queue), takeAll(queue)])
        assert.deepStrictEqual(taken.map(({ id }) => id), ids)
      })
    )

    test(
      "delivers in the order of the offers",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        const values = Array.from({ length: 30 }, (_, i) => `${i}`)
        for (const value of values) yield* queue.offer(value)
        const taken: Array<string> = []
        for (const _ of values) taken.push(yield* takeValue(queue))
        assert.deepStrictEqual(taken, values)
      })
    )

    test(
      "lets a taker wait for an offer",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        const taking = yield* Effect.forkChild(takeValue(queue), { startImmediately: true })
        yield* othersGoOn
        assert.isUndefined(taking.pollUnsafe())
        yield* queue.offer("one")
        assert.strictEqual(yield* Fiber.join(taking), "one")
      })
    )

    test(
      "wakes as many takers as there are elements",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        const taking = yield* Effect.forEach(
          [1, 2, 3],
          () => Effect.forkChild(takeValue(queue), { startImmediately: true })
        )
        yield* othersGoOn
        yield* Effect.forEach(["one", "two", "three"], (value) => queue.offer(value), { concurrency: "unbounded" })
        const taken = yield* Effect.forEach(taking, Fiber.join)
        assert.deepStrictEqual(taken.toSorted(), ["one", "three", "two"])
      })
    )

    test(
      "keeps queues of different names apart, and is the same queue for the same name",
      Effect.gen(function*() {
        const [one, two, sameAsOne] = yield* Effect.all([makeQueue("one"), makeQueue("two"), makeQueue("one")])
        yield* one.offer("1", { id: "a" })
        yield* two.offer("2", { id: "a" })
        assert.strictEqual(yield* takeValue(two), "2")
        yield* assertNothingToTake(two)
        assert.strictEqual(yield* takeValue(sameAsOne), "1")
        yield* assertNothingToTake(one)
      })
    )

    test(
      "answers what the handler answers, and fails or dies as it does",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        for (const value of ["one", "two", "three"]) yield* queue.offer(value)
        assert.strictEqual(yield* queue.take((value) => Effect.succeed(value.length)), 3)
        assert.strictEqual(yield* Effect.flip(queue.take((value) => Effect.fail(`no ${value}`))), "no two")
        const exit = yield* Effect.exit(queue.take((value) => Effect.die(value)))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      })
    )

    test(
      "does not add an id that is there, whatever its state",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q", { maxAttempts: 1 })
        assert.strictEqual(yield* queue.offer("first", { id: "a" }), "a")
        assert.strictEqual(yield* queue.offer("second", { id: "a" }), "a")
        yield* queue.take((value) =>
          Effect.gen(function*() {
            assert.strictEqual(value, "first")
            yield* queue.offer("while it is processed", { id: "a" })
          })
        )
        yield* queue.offer("when it is done", { id: "a" })
        yield* assertNothingToTake(queue)
        yield* queue.offer("bad", { id: "b" })
        yield* failing(queue)
        yield* queue.offer("when it has failed", { id: "b" })
        yield* assertNothingToTake(queue)
      })
    )

    test(
      "adds one element when one id is offered many times at once",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        yield* Effect.forEach(Array.from({ length: 20 }), () => queue.offer("one", { id: "a" }), {
          concurrency: "unbounded"
        })
        assert.strictEqual(yield* takeValue(queue), "one")
        yield* assertNothingToTake(queue)
      })
    )

    test(
      "ignores the delay of an offer that is not added",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        yield* queue.offer("first", { id: "a" })
        yield* queue.offer("second", { id: "a", delay: "1 hour" })
        assert.strictEqual(yield* takeValue(queue), "first")
      })
    )

    test(
      "delivers a failed element again when its delay is over, and counts",
      Effect.gen(function*() {
        const queue = yield* PersistedQueue.make({
          name: "q",
          schema: Schema.String,
          retrySchedule: Schedule.spaced("10 seconds")
        })
        yield* queue.offer("one", { id: "a" })
        assert.strictEqual(yield* failing(queue), "no")
        yield* assertNothingToTake(queue, "at once")
        yield* TestClock.adjust("9 seconds")
        yield* assertNothingToTake(queue, "too early")
        const taking = yield* Effect.forkChild(takeAll(queue), { startImmediately: true })
        yield* othersGoOn
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* Fiber.join(taking), { value: "one", attempts: 2, id: "a" })
        yield* TestClock.adjust("1 hour")
        yield* assertNothingToTake(queue, "done")
      })
    )

    test(
      "waits longer from attempt to attempt by default",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        yield* queue.offer("one")
        for (const seconds of [1, 2, 4]) {
          yield* failing(queue)
          yield* TestClock.adjust(`${seconds * 1000 - 1} millis`)
          yield* assertNothingToTake(queue, `${seconds} s`)
          yield* TestClock.adjust("1 millis")
        }
        assert.strictEqual((yield* takeAll(queue)).attempts, 4)
      })
    )

    test(
      "gives up after the attempts that are allowed",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q", { maxAttempts: 3 })
        yield* queue.offer("one")
        for (let attempt = 1; attempt <= 3; attempt++) {
          const attempts = yield* Effect.flip(queue.take((_, { attempts }) => Effect.fail(attempts)))
          assert.strictEqual(attempts, attempt)
          yield* TestClock.adjust("1 hour")
        }
        yield* assertNothingToTake(queue)
      })
    )

    test(
      "leaves to others an element that has no attempt left for this taker",
      Effect.gen(function*() {
        const [once, often] = yield* Effect.all([makeQueue("q", { maxAttempts: 1 }), makeQueue("q")])
        yield* often.offer("one")
        yield* failing(often)
        yield* TestClock.adjust("1 second")
        yield* assertNothingToTake(once)
        yield* once.offer("two")
        assert.strictEqual(yield* takeValue(once), "two")
        assert.deepStrictEqual((yield* takeAll(often)).attempts, 2)
      })
    )

    test(
      "counts a handler that dies as one that fails",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        yield* queue.offer("one")
        yield* Effect.exit(queue.take(() => Effect.die("oh")))
        yield* assertNothingToTake(queue)
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* takeAll(queue)).attempts, 2)
      })
    )

    test(
      "lets others go on while an element waits for its next attempt",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        yield* queue.offer("bad")
        yield* queue.offer("good")
        assert.strictEqual(yield* failing(queue), "no")
        assert.strictEqual(yield* takeValue(queue), "good")
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* takeValue(queue), "bad")
      })
    )

    test(
      "releases the element of an interrupted handler at once, without counting",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q", { maxAttempts: 1 })
        yield* queue.offer("one", { id: "a" })
        for (let i = 0; i < 3; i++) {
          const handling = yield* Effect.forkChild(queue.take(() => Effect.never), { startImmediately: true })
          yield* othersGoOn
          yield* Fiber.interrupt(handling)
        }
        assert.deepStrictEqual(yield* takeAll(queue), { value: "one", attempts: 1, id: "a" })
      })
    )

    test(
      "loses nothing when a waiting taker is interrupted",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        const waiting = yield* Effect.forkChild(takeValue(queue), { startImmediately: true })
        yield* othersGoOn
        yield* Fiber.interrupt(waiting)
        yield* queue.offer("one")
        assert.strictEqual((yield* takeAll(queue)).attempts, 1)
      })
    )

    test(
      "gives an element to one taker at a time",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        yield* queue.offer("one")
        yield* queue.take(() => assertNothingToTake(queue, "while it is processed"))
        yield* assertNothingToTake(queue, "done")
      })
    )

    test(
      "gives every element to one of many takers",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        const values = Array.from({ length: 60 }, (_, i) => `${i}`)
        const taking = yield* Effect.forkChild(
          Effect.forEach(values, () => takeValue(queue), { concurrency: 10 }),
          { startImmediately: true }
        )
        yield* Effect.forEach(values, (value) => queue.offer(value), { concurrency: 7, discard: true })
        const taken = yield* Fiber.join(taking)
        assert.deepStrictEqual(taken.toSorted(), values.toSorted())
        yield* assertNothingToTake(queue)
      })
    )

    test(
      "does not deliver before the delay is over",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        yield* queue.offer("later", { delay: "10 seconds", id: "a" })
        yield* queue.offer("now")
        assert.strictEqual(yield* takeValue(queue), "now")
        yield* TestClock.adjust("9999 millis")
        yield* assertNothingToTake(queue)
        const taking = yield* Effect.forkChild(takeAll(queue), { startImmediately: true })
        yield* othersGoOn
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(yield* Fiber.join(taking), { value: "later", attempts: 1, id: "a" })
      })
    )

    test(
      "does not let a short delay wait for a long one",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        yield* queue.offer("long", { delay: "1 hour" })
        const taking = yield* Effect.forkChild(takeValue(queue), { startImmediately: true })
        yield* othersGoOn
        yield* queue.offer("short", { delay: "1 second" })
        yield* othersGoOn
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(taking), "short")
      })
    )

    test(
      "waits for a delay of months",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        yield* queue.offer("one", { delay: "60 days" })
        const taking = yield* Effect.forkChild(takeValue(queue), { startImmediately: true })
        yield* othersGoOn
        yield* TestClock.adjust("59 days")
        yield* othersGoOn
        assert.isUndefined(taking.pollUnsafe())
        yield* TestClock.adjust("1 day")
        assert.strictEqual(yield* Fiber.join(taking), "one")
      })
    )

    test(
      "takes no delay and a negative one for none, and does nothing with an infinite one",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        yield* queue.offer("one", { delay: 0 })
        yield* queue.offer("two", { delay: -5 })
        assert.strictEqual(yield* takeValue(queue), "one")
        assert.strictEqual(yield* takeValue(queue), "two")
        assert.strictEqual(yield* queue.offer("never", { id: "a", delay: Number.POSITIVE_INFINITY }), "a")
        yield* assertNothingToTake(queue)
        yield* queue.offer("now", { id: "a" })
        assert.strictEqual(yield* takeValue(queue), "now")
      })
    )

    test(
      "marks what does not fit the schema as failed, and takes the next",
      Effect.gen(function*() {
        const texts = yield* makeQueue("q")
        const numbers = yield* PersistedQueue.make({ name: "q", schema: Schema.Int })
        yield* texts.offer("not a number", { id: "a" })
        yield* numbers.offer(5)
        assert.deepStrictEqual((yield* takeAll(numbers)).value, 5)
        yield* TestClock.adjust("1 hour")
        yield* assertNothingToTake(texts)
        yield* texts.offer("again", { id: "a" })
        yield* assertNothingToTake(texts, "a failed id is remembered")
      })
    )

    test(
      "refuses to offer what the schema does not encode",
      Effect.gen(function*() {
        const queue = yield* PersistedQueue.make({ name: "q", schema: Schema.Int })
        const error = yield* Effect.flip(queue.offer(1.5))
        assert.strictEqual(error._tag, "SchemaError")
        const taking = yield* Effect.forkChild(takeValue(queue), { startImmediately: true })
        yield* queue.offer(2)
        assert.strictEqual(yield* Fiber.join(taking), 2)
      })
    )

    test(
      "carries values of any shape, under ids and names of any text",
      Effect.gen(function*() {
        const schema = Schema.Struct({
          text: Schema.String,
          at: Schema.Date,
          bytes: Schema.Uint8Array,
          list: Schema.Array(Schema.NullOr(Schema.Number)),
          nothing: Schema.Undefined
        })
        const value = {
          text: "é€😀\ud83d\u0000\ufeff",
          at: new Date(1_700_000_000_000),
          bytes: new Uint8Array([0, 255]),
          list: [1.5, null, -0.25],
          nothing: undefined
        }
        for (const text of ["", "__proto__", "a:b/c", "\ud83d", "é".repeat(100)]) {
          const queue = yield* PersistedQueue.make({ name: `name ${text}`, schema })
          assert.strictEqual(yield* queue.offer(value, { id: text }), text)
          assert.deepStrictEqual(yield* takeAll(queue), { value, attempts: 1, id: text })
        }
        const nulls = yield* PersistedQueue.make({ name: "nulls", schema: Schema.NullOr(Schema.String) })
        yield* nulls.offer(null)
        assert.isNull(yield* takeValue(nulls))
      })
    )

    test(
      "forgets the completed when they are old enough, and then takes their ids again",
      Effect.gen(function*() {
        const store = yield* PersistedQueue.PersistedQueueStore
        const queue = yield* makeQueue("q")
        yield* queue.offer("one", { id: "a" })
        yield* takeValue(queue)
        yield* TestClock.adjust("10 seconds")
        yield* cleanup(store, "10001 millis")
        yield* queue.offer("again", { id: "a" })
        yield* assertNothingToTake(queue, "too young")
        yield* cleanup(store, "10 seconds")
        yield* queue.offer("again", { id: "a" })
        assert.strictEqual(yield* takeValue(queue), "again")
      })
    )

    test(
      "forgets the failed only when it is told to",
      Effect.gen(function*() {
        const store = yield* PersistedQueue.PersistedQueueStore
        const queue = yield* makeQueue("q", { maxAttempts: 1 })
        yield* queue.offer("bad", { id: "a" })
        yield* failing(queue)
        yield* TestClock.adjust("1 day")
        yield* cleanup(store, 0)
        yield* queue.offer("again", { id: "a" })
        yield* assertNothingToTake(queue, "kept")
        yield* cleanup(store, "2 days", "2 days")
        yield* queue.offer("again", { id: "a" })
        yield* assertNothingToTake(queue, "too young")
        yield* cleanup(store, "2 days", "1 day")
        yield* queue.offer("again", { id: "a" })
        assert.strictEqual(yield* takeValue(queue), "again")
      })
    )

    test(
      "never forgets what is still to be done",
      Effect.gen(function*() {
        const store = yield* PersistedQueue.PersistedQueueStore
        const queue = yield* makeQueue("q")
        yield* queue.offer("processed")
        yield* queue.offer("pending")
        yield* queue.offer("delayed", { delay: "1 hour" })
        yield* queue.take(() => cleanup(store, 0, 0))
        assert.strictEqual(yield* takeValue(queue), "pending")
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(yield* takeValue(queue), "delayed")
      })
    )

    test(
      "is cleaned up by the layer that does so on a schedule",
      Effect.gen(function*() {
        const queue = yield* makeQueue("q")
        yield* queue.offer("one", { id: "a" })
        yield* takeValue(queue)
        yield* Effect.scoped(Effect.gen(function*() {
          yield* Layer.build(PersistedQueue.layerCleanup({ interval: "1 minute", timeToLive: "5 minutes" }))
          yield* othersGoOn
          yield* queue.offer("again", { id: "a" })
          yield* assertNothingToTake(queue)
          yield* TestClock.adjust("5 minutes")
          yield* othersGoOn
          yield* queue.offer("again", { id: "a" })
          assert.strictEqual(yield* takeValue(queue), "again")
        }))
      })
    )

    test(
      "settles an element when the scope of its taking closes",
      Effect.gen(function*() {
        const store = yield* PersistedQueue.PersistedQueueStore
        const take = store.take({ name: "q", maxAttempts: 2, retryDelay: () => Effect.succeed(Duration.zero) }).pipe(
          Effect.map(({ attempts, element, id }) => ({ attempts, element, id }))
        )
        yield* store.offer({ name: "q", id: "a", element: { deep: [1] }, isCustomId: true })
        const expected = { id: "a", element: { deep: [1] } }
        const interrupted = yield* Effect.exit(Effect.scoped(Effect.andThen(take, Effect.interrupt)))
        assert.isTrue(Exit.isFailure(interrupted))
        assert.deepStrictEqual(yield* Effect.scoped(take), { ...expected, attempts: 1 })
        yield* store.offer({ name: "q", id: "b", element: 1, isCustomId: true })
        for (const attempts of [1, 2]) {
          const failed = yield* Effect.flip(Effect.scoped(Effect.flatMap(take, Effect.fail)))
          assert.deepStrictEqual(failed, { id: "b", element: 1, attempts })
        }
        yield* assertNothingToTake(yield* makeQueue("q"))
      })
    )
  })
}

const cleanup = (
  store: PersistedQueue.PersistedQueueStore["Service"],
  timeToLive: Duration.Input,
  failedTimeToLive?: Duration.Input
) =>
  store.cleanup({
    timeToLive: Duration.fromInputUnsafe(timeToLive),
    failedTimeToLive: failedTimeToLive === undefined ? undefined : Duration.fromInputUnsafe(failedTimeToLive)
  })

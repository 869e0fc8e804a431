import { assert, describe, it } from "@effect/vitest"
import { toPageNumber } from "@tidemark/core/Scalars"
import { Effect, Fiber } from "effect"
import fc from "fast-check"
import * as CommitOrder from "../src/replay/CommitOrder.ts"

const transaction = (pages: ReadonlyArray<number>, databasePages = 10) => ({
  pages: pages.map(toPageNumber),
  databasePages
})
const nothingDone = () => false

/** Takes what can be taken without completing anything. */
const takeWhileReady = Effect.fnUntraced(function*(order: CommitOrder.CommitOrder) {
  const taken: Array<number> = []
  while (true) {
    const fiber = yield* Effect.forkChild(order.take, { startImmediately: true })
    const exit = fiber.pollUnsafe()
    if (exit === undefined) {
      yield* Fiber.interrupt(fiber)
      return taken
    }
    const index = yield* Fiber.join(fiber)
    if (index === undefined) return taken
    taken.push(index)
  }
})

describe("CommitOrder", () => {
  it.effect("hands out what shares no page at once, and the rest page by page in its order", () =>
    Effect.gen(function*() {
      const order = CommitOrder.make(
        [transaction([1, 2]), transaction([2, 3]), transaction([4]), transaction([3, 4])],
        10,
        nothingDone
      )
      assert.deepStrictEqual(yield* takeWhileReady(order), [0, 2])
      order.complete(2)
      assert.deepStrictEqual(yield* takeWhileReady(order), [])
      order.complete(0)
      assert.deepStrictEqual(yield* takeWhileReady(order), [1])
      order.complete(1)
      assert.deepStrictEqual(yield* takeWhileReady(order), [3])
      assert.isUndefined(yield* order.take)
    }))

  it.effect("puts a change that makes the database smaller between all before it and all after it", () =>
    Effect.gen(function*() {
      const order = CommitOrder.make(
        [transaction([1]), transaction([2]), transaction([3], 8), transaction([4], 8)],
        10,
        nothingDone
      )
      assert.deepStrictEqual(yield* takeWhileReady(order), [0, 1])
      order.complete(1)
      assert.deepStrictEqual(yield* takeWhileReady(order), [])
      order.complete(0)
      assert.deepStrictEqual(yield* takeWhileReady(order), [2])
      order.complete(2)
      assert.deepStrictEqual(yield* takeWhileReady(order), [3])
    }))

  it.effect("keeps changes that make the database larger in their order, beside others", () =>
    Effect.gen(function*() {
      const order = CommitOrder.make(
        [transaction([11], 11), transaction([12], 12), transaction([3], 12)],
        10,
        nothingDone
      )
      assert.deepStrictEqual(yield* takeWhileReady(order), [0, 2])
      order.complete(0)
      assert.deepStrictEqual(yield* takeWhileReady(order), [1])
    }))

  it.effect("leaves out what is done, which holds up nobody", () =>
    Effect.gen(function*() {
      const order = CommitOrder.make(
        [transaction([1]), transaction([1]), transaction([1])],
        10,
        (index) => index === 0
      )
      assert.deepStrictEqual(yield* takeWhileReady(order), [1])
      order.complete(1)
      assert.deepStrictEqual(yield* takeWhileReady(order), [2])
    }))

  it.effect("wakes those who wait, and ends them all when nothing is left", () =>
    Effect.gen(function*() {
      const order = CommitOrder.make([transaction([1]), transaction([1])], 10, nothingDone)
      assert.strictEqual(yield* order.take, 0)
      const waiting = yield* Effect.all(
        Array.from({ length: 3 }, () => Effect.forkChild(order.take, { startImmediately: true }))
      )
      order.complete(0)
      order.complete(1)
      const taken = yield* Effect.all(waiting.map(Fiber.join))
      assert.sameMembers(taken, [1, undefined, undefined])
    }))

  it.effect("any schedule commits the writers of each page in the order in which they were recorded", () =>
    Effect.promise(() =>
      fc.assert(fc.asyncProperty(
        fc.array(fc.uniqueArray(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 3 }), { maxLength: 30 }),
        fc.infiniteStream(fc.nat()),
        (pagesOf, choices) =>
          Effect.runPromise(Effect.gen(function*() {
            const order = CommitOrder.make(pagesOf.map((pages) => transaction(pages)), 10, nothingDone)
            const committed: Array<number> = []
            const open: Array<number> = []
            do {
              open.push(...(yield* takeWhileReady(order)))
              const [choice = 0] = choices.take(1)
              const [index] = open.splice(choice % Math.max(1, open.length), 1)
              if (index === undefined) break
              committed.push(index)
              order.complete(index)
            } while (committed.length < pagesOf.length)
            assert.sameMembers(committed, pagesOf.map((_, index) => index))
            for (let page = 1; page <= 6; page++) {
              const writers = committed.filter((index) => pagesOf[index]?.includes(page))
              assert.deepStrictEqual(writers, [...writers].sort((left, right) => left - right))
            }
          }))
      ))
    ))
})

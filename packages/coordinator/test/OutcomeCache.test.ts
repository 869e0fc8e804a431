import { assert, describe, it } from "@effect/vitest"
import type { CommitAnswer, CommitError } from "@tidemark/coordinator/CompatCoordinator"
import { toCommitSeq, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import { LogClosed } from "@tidemark/wal/LogErrors"
import { Effect, Exit, Fiber } from "effect"
import fc from "fast-check"
import { makeOffsets } from "../src/internal/compatCommits.ts"
import { OutcomeCache } from "../src/internal/outcomeCache.ts"
import { forkNow, isWaiting } from "./support/database.ts"

type Cache = OutcomeCache<CommitAnswer, CommitError>
const makeCache = (): Cache => new OutcomeCache(makeOffsets)
const token = (id: number, epoch = 1) => ({ id: toTxnId(BigInt(id)), epoch: TxnEpoch.make(epoch) })
const answer = (seq: number): CommitAnswer => ({ commitSeq: toCommitSeq(BigInt(seq)), walOffset: seq * 10 })
const failure = Exit.fail(new LogClosed({ log: "test" }))
const find = (cache: Cache, of: ReturnType<typeof token>): Effect.Effect<CommitAnswer, CommitError> =>
  cache.find(of, submittedAgain) ?? Effect.die("nothing is known of it")
const submittedAgain = Effect.die("nothing is to be submitted again")

const remember = (cache: Cache, id: number) => {
  cache.begin(token(id))
  cache.commit(token(id), answer(id))
}

describe("OutcomeCache", () => {
  it.effect("CO-17 CO-18 a commit is on its way, then committed; who asks meanwhile is answered with it", () =>
    Effect.gen(function*() {
      const cache = makeCache()
      assert.isUndefined(cache.find(token(1), submittedAgain))
      cache.begin(token(1))
      assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "undecided" })
      const waiters = [yield* forkNow(find(cache, token(1))), yield* forkNow(find(cache, token(1)))] as const
      const interrupted = yield* forkNow(find(cache, token(1)))
      yield* Fiber.interrupt(interrupted)
      assert.deepStrictEqual(waiters.map(isWaiting), [true, true])
      cache.commit(token(1), answer(7))
      for (const waiter of waiters) assert.deepStrictEqual(yield* Fiber.join(waiter), answer(7))
      assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "committed", commitSeq: answer(7).commitSeq })
      assert.deepStrictEqual(yield* find(cache, token(1)), answer(7))
    }))

  it.effect("CO-05 a commit that failed with its log is undecided, and may be submitted again", () =>
    Effect.gen(function*() {
      const cache = makeCache()
      cache.begin(token(1))
      const waiter = yield* forkNow(Effect.flip(find(cache, token(1))))
      cache.fail(token(1), failure)
      assert.strictEqual((yield* Fiber.join(waiter))._tag, "LogClosed")
      assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "undecided" })
      assert.isUndefined(cache.find(token(1), submittedAgain))
    }))

  it("CO-18 a refusal is remembered, and does not stand against another submission", () => {
    const cache = makeCache()
    cache.abort(token(1))
    assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "aborted" })
    assert.isUndefined(cache.find(token(1), submittedAgain))
    cache.begin(token(1))
    cache.commit(token(1), answer(3))
    assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "committed", commitSeq: answer(3).commitSeq })
  })

  it("CO-18 tokens of different epochs are different, also where their ids are the same", () => {
    const cache = makeCache()
    cache.begin(token(1, 1))
    cache.commit(token(1, 1), answer(3))
    assert.deepStrictEqual(cache.outcome(token(1, 2)), { _tag: "undecided" })
    assert.isUndefined(cache.find(token(1, 2), submittedAgain))
    cache.abort(token(1, 2))
    assert.deepStrictEqual(cache.outcome(token(1, 2)), { _tag: "aborted" })
    assert.notDeepEqual(cache.outcome(token(1, 1)), { _tag: "aborted" })
  })

  it("CO-18 ids that are no longer exact as numbers are not mixed up", () => {
    const cache = makeCache()
    const large = (id: bigint) => ({ id: toTxnId(id), epoch: TxnEpoch.make(0) })
    cache.begin(large(2n ** 60n))
    cache.commit(large(2n ** 60n), answer(3))
    assert.deepStrictEqual(cache.outcome(large(2n ** 60n + 1n)), { _tag: "undecided" })
  })

  it("CO-17 at least the newest 16,384 are remembered, and no more than twice as many", () => {
    const cache = makeCache()
    const count = 100_000
    for (let id = 1; id <= count; id++) remember(cache, id)
    let remembered = 0
    for (let id = 1; id <= count; id++) if (cache.outcome(token(id))._tag === "committed") remembered++
    for (let id = count - 16_383; id <= count; id++) {
      assert.strictEqual(cache.outcome(token(id))._tag, "committed", `token ${id}`)
    }
    assert.isAtMost(remembered, 2 * 16_384)
  })

  it("CO-17 ids of transactions that only read push no outcome out", () => {
    const cache = makeCache()
    // One commit in ten transactions: the slots of the newest 16,384 outcomes meet five times over.
    const ids = Array.from({ length: 40_000 }, (_, i) => 1 + i * 10)
    for (const id of ids) remember(cache, id)
    for (const id of ids.slice(-16_384)) {
      assert.deepStrictEqual(cache.outcome(token(id)), { _tag: "committed", commitSeq: answer(id).commitSeq })
    }
    const remembered = ids.filter((id) => cache.outcome(token(id))._tag === "committed").length
    assert.isAtMost(remembered, 4 * 16_384)
  })

  it("CO-17 an outcome that left its slot is replaced by a later one of the same token", () => {
    const cache = makeCache()
    cache.abort(token(1))
    remember(cache, 1 + 32_768)
    assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "aborted" })
    remember(cache, 1)
    assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "committed", commitSeq: answer(1).commitSeq })
    assert.strictEqual(cache.outcome(token(1 + 32_768))._tag, "committed")
  })

  it("CO-05 a commit that left its slot on its way and failed is undecided", () => {
    const cache = makeCache()
    cache.begin(token(1))
    remember(cache, 1 + 32_768)
    cache.fail(token(1), failure)
    assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "undecided" })
    assert.isUndefined(cache.find(token(1), submittedAgain))
  })

  it("CO-17 outcomes whose ids share slots are those of a plain model", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.constantFrom("begin", "abort", "commit", "fail"), fc.nat(5))), (steps) => {
        const cache = makeCache()
        const model = new Map<number, string>()
        for (const [step, n] of steps) {
          const of = token(1 + (n % 3) * 32_768 + Math.floor(n / 3))
          const known = model.get(n)
          if (step === "begin" && known !== "pending" && known !== "committed") {
            cache.begin(of)
            model.set(n, "pending")
          } else if (step === "abort" && known === undefined) {
            cache.abort(of)
            model.set(n, "aborted")
          } else if (step === "commit" && known === "pending") {
            cache.commit(of, answer(n + 1))
            model.set(n, "committed")
          } else if (step === "fail" && known === "pending") {
            cache.fail(of, failure)
            model.delete(n)
          }
          for (let id = 0; id <= 5; id++) {
            const { _tag } = cache.outcome(token(1 + (id % 3) * 32_768 + Math.floor(id / 3)))
            const expected = model.get(id) ?? "undecided"
            assert.strictEqual(_tag, expected === "pending" ? "undecided" : expected)
          }
        }
      })
    )
  })

  it.effect("CO-18 what is on its way is never forgotten", () =>
    Effect.gen(function*() {
      const cache = makeCache()
      cache.begin(token(1))
      for (let id = 2; id <= 100_000; id++) remember(cache, id)
      const waiter = yield* forkNow(find(cache, token(1)))
      cache.commit(token(1), answer(1))
      assert.deepStrictEqual(yield* Fiber.join(waiter), answer(1))
      assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "committed", commitSeq: answer(1).commitSeq })
    }))
})

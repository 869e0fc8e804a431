import { assert, describe, it } from "@effect/vitest"
import type { CommitAnswer, CommitError } from "@tidemark/coordinator/CompatCoordinator"
import { toCommitSeq, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import { LogClosed } from "@tidemark/wal/LogErrors"
import { Effect, Exit, Fiber } from "effect"
import { OutcomeCache } from "../src/internal/outcomeCache.ts"
import { forkNow, isWaiting } from "./support/database.ts"

const token = (id: number, epoch = 1) => ({ id: toTxnId(BigInt(id)), epoch: TxnEpoch.make(epoch) })
const answer = (seq: number): CommitAnswer => ({ commitSeq: toCommitSeq(BigInt(seq)), walOffset: seq * 10 })
const failure = Exit.fail(new LogClosed({ log: "test" }))
const find = (cache: OutcomeCache, of: ReturnType<typeof token>): Effect.Effect<CommitAnswer, CommitError> =>
  cache.find(of) ?? Effect.die("nothing is known of it")

describe("OutcomeCache", () => {
  it.effect("CO-17 CO-18 a commit is on its way, then committed; who asks meanwhile is answered with it", () =>
    Effect.gen(function*() {
      const cache = new OutcomeCache()
      assert.isUndefined(cache.find(token(1)))
      const pending = cache.begin(token(1))
      assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "undecided" })
      const waiters = [yield* forkNow(find(cache, token(1))), yield* forkNow(find(cache, token(1)))] as const
      const interrupted = yield* forkNow(find(cache, token(1)))
      yield* Fiber.interrupt(interrupted)
      assert.deepStrictEqual(waiters.map(isWaiting), [true, true])
      pending.settle(Exit.succeed(answer(7)))
      for (const waiter of waiters) assert.deepStrictEqual(yield* Fiber.join(waiter), answer(7))
      assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "committed", commitSeq: answer(7).commitSeq })
      assert.deepStrictEqual(yield* find(cache, token(1)), answer(7))
    }))

  it.effect("CO-05 a commit that failed with its log is undecided, and may be submitted again", () =>
    Effect.gen(function*() {
      const cache = new OutcomeCache()
      const pending = cache.begin(token(1))
      const waiter = yield* forkNow(Effect.flip(find(cache, token(1))))
      pending.settle(failure)
      assert.strictEqual((yield* Fiber.join(waiter))._tag, "LogClosed")
      assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "undecided" })
      assert.isUndefined(cache.find(token(1)))
    }))

  it("CO-18 a refusal is remembered, and does not stand against another submission", () => {
    const cache = new OutcomeCache()
    cache.abort(token(1))
    assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "aborted" })
    assert.isUndefined(cache.find(token(1)))
    cache.begin(token(1)).settle(Exit.succeed(answer(3)))
    assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "committed", commitSeq: answer(3).commitSeq })
  })

  it("CO-18 tokens of different epochs are different, also where their ids are the same", () => {
    const cache = new OutcomeCache()
    cache.begin(token(1, 1)).settle(Exit.succeed(answer(3)))
    assert.deepStrictEqual(cache.outcome(token(1, 2)), { _tag: "undecided" })
    assert.isUndefined(cache.find(token(1, 2)))
    cache.abort(token(1, 2))
    assert.deepStrictEqual(cache.outcome(token(1, 2)), { _tag: "aborted" })
    assert.notDeepEqual(cache.outcome(token(1, 1)), { _tag: "aborted" })
  })

  it("CO-18 ids that are no longer exact as numbers are not mixed up", () => {
    const cache = new OutcomeCache()
    const large = (id: bigint) => ({ id: toTxnId(id), epoch: TxnEpoch.make(0) })
    cache.begin(large(2n ** 60n)).settle(Exit.succeed(answer(3)))
    assert.deepStrictEqual(cache.outcome(large(2n ** 60n + 1n)), { _tag: "undecided" })
  })

  it("CO-17 at least the newest 16,384 are remembered, and no more than twice as many", () => {
    const cache = new OutcomeCache()
    const count = 100_000
    for (let id = 1; id <= count; id++) cache.begin(token(id)).settle(Exit.succeed(answer(id)))
    let remembered = 0
    for (let id = 1; id <= count; id++) if (cache.outcome(token(id))._tag === "committed") remembered++
    for (let id = count - 16_383; id <= count; id++) {
      assert.strictEqual(cache.outcome(token(id))._tag, "committed", `token ${id}`)
    }
    assert.isAtMost(remembered, 2 * 16_384)
  })

  it.effect("CO-18 what is on its way is never forgotten", () =>
    Effect.gen(function*() {
      const cache = new OutcomeCache()
      const pending = cache.begin(token(1))
      for (let id = 2; id <= 100_000; id++) cache.begin(token(id)).settle(Exit.succeed(answer(id)))
      const waiter = yield* forkNow(find(cache, token(1)))
      pending.settle(Exit.succeed(answer(1)))
      assert.deepStrictEqual(yield* Fiber.join(waiter), answer(1))
      assert.deepStrictEqual(cache.outcome(token(1)), { _tag: "committed", commitSeq: answer(1).commitSeq })
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { maxTxnId, offsets } from "@tidemark/coordinator/SharedHeaderFormat"
import { toTxnId } from "@tidemark/core/Scalars"
import { Effect } from "effect"
import { once } from "node:events"
import { join } from "node:path"
import { Worker } from "node:worker_threads"
import { allocateTxnId, whyNoTxnId } from "../src/internal/txnIds.ts"
import { watched } from "./support/headerStates.ts"
import { freshRegion } from "./support/sharedHeaders.ts"

describe("transaction ids", () => {
  it("SHM-10 1, 2, ... and by compare-and-swap only", () => {
    const region = freshRegion()
    const swaps: Array<readonly [bigint, bigint]> = []
    const strict = {
      ...watched(region, { onStore: () => assert.fail("a store") }),
      add: () => assert.fail("an addition"),
      compareExchange: (offset: number, expected: bigint, replacement: bigint) => {
        assert.strictEqual(offset, offsets.nextTxnId)
        swaps.push([expected, replacement])
        return region.compareExchange(offset, expected, replacement)
      }
    }
    assert.deepStrictEqual([1, 2, 3].map(() => allocateTxnId(strict)), [1n, 2n, 3n].map(toTxnId))
    assert.deepStrictEqual(swaps, [[1n, 2n], [2n, 3n], [3n, 4n]])
  })

  it("SHM-10 somebody who comes between takes the id, and the next one is given", () => {
    const region = freshRegion()
    let others = 3
    const contended = {
      ...watched(region, {}),
      compareExchange: (offset: number, expected: bigint, replacement: bigint) => {
        if (others-- > 0) region.add(offset, 1n)
        return region.compareExchange(offset, expected, replacement)
      }
    }
    assert.strictEqual(allocateTxnId(contended), 4n)
  })

  it("SHM-10 the last one is 2^62 - 1; beyond there is none, and the word stays where it is", () => {
    const region = freshRegion()
    region.store(offsets.nextTxnId, maxTxnId)
    assert.strictEqual(allocateTxnId(region), 2n ** 62n - 1n)
    for (const beyond of [2n ** 62n, 2n ** 62n + 1n, 2n ** 64n - 1n]) {
      region.store(offsets.nextTxnId, beyond)
      assert.isUndefined(allocateTxnId(region))
      assert.strictEqual(region.load(offsets.nextTxnId), beyond)
      const why = whyNoTxnId(region)
      assert.strictEqual(why._tag, "TxnIdExhausted")
      assert.deepInclude(why, { limit: 2n ** 62n - 1n, isRetryable: false })
    }
    region.store(offsets.nextTxnId, 0n)
    assert.isUndefined(allocateTxnId(region))
    assert.strictEqual(whyNoTxnId(region)._tag, "Busy", "nobody has said yet what is in the log")
  })

  it.live("SHM-10 4 threads x 100 are 400 distinct ids, 1 ... 400", () =>
    Effect.gen(function*() {
      const { buffer } = freshRegion()
      const program = join(import.meta.dirname, "programs", "txnIdsThread.ts")
      const workers = yield* Effect.forEach([1, 2, 3, 4], () =>
        Effect.acquireRelease(
          Effect.promise(async () => {
            const worker = new Worker(program, { workerData: { buffer, count: 100 } })
            await once(worker, "message")
            return worker
          }),
          (worker) => Effect.promise(() => worker.terminate())
        ), { concurrency: 4 })
      const answers = yield* Effect.promise(() =>
        Promise.all(workers.map((worker) => {
          const answer = once(worker, "message")
          worker.postMessage("go")
          return answer
        }))
      )
      const ids = answers.flatMap(([found]) => found as ReadonlyArray<bigint>)
      assert.deepStrictEqual(
        ids.toSorted((a, b) => Number(a - b)),
        Array.from({ length: 400 }, (_, index) => BigInt(index + 1))
      )
    }))
})

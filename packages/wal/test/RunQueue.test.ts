import { assert, describe, it } from "@effect/vitest"
import { RunQueue } from "../src/internal/runQueue.ts"
import { pad } from "./support/testFrames.ts"

const makeQueue = () => new RunQueue({ initial: 0, maxBatchBytes: 8 * 1024 * 1024, cutPointBytes: 16, pad })

const takeAll = (queue: RunQueue) => {
  const batch = queue.take()
  assert.isDefined(batch)
  return batch
}

describe("RunQueue", () => {
  it("GC-11 many small reservations take memory in proportion to their bytes, not a chunk each", () => {
    const queue = makeQueue()
    const count = 500
    for (let index = 0; index < count; index++) {
      queue.settle(queue.reserve(8))
      queue.append(8, () => {})
    }
    const bytes = takeAll(queue).chunks.reduce((sum, chunk) => sum + chunk.bytes.length, 0)
    assert.isAtMost(bytes, count * 8 * 1024)
  })

  it("GC-11 behind a reservation memory grows with the run: a long one has few buffers", () => {
    const queue = makeQueue()
    const open = queue.reserve(8)
    for (let index = 0; index < 4096; index++) queue.append(1024, () => {})
    queue.settle(open)
    const { buffers } = takeAll(queue)
    assert.isBelow(buffers.length, 40)
    assert.strictEqual(buffers.reduce((sum, buffer) => sum + buffer.length, 0), 8 + 4096 * 1024 + 16)
  })

  it("GC-13 a hand-over larger than a chunk and its cut point share one buffer", () => {
    const queue = makeQueue()
    queue.append(1024 * 1024, () => {})
    assert.deepStrictEqual(takeAll(queue).buffers.map((buffer) => buffer.length), [1024 * 1024 + 16])
  })
})

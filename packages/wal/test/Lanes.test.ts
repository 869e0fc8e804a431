import { assert, describe, it } from "@effect/vitest"
import { Lanes, type LanesOptions } from "../src/internal/lanes.ts"
import { LaneFull } from "../src/ParallelWalErrors.ts"
import { bytesOf, concatenated, epoch, lane, type TestBatch, testBatch } from "./support/laneBatches.ts"

const makeLanes = (options: Partial<LanesOptions> = {}) =>
  new Lanes<TestBatch>({
    laneCount: 2,
    laneCapacityBytes: 1000,
    overflowPolicy: "overflow",
    overflowLimitBytes: 500,
    ...options
  })

const flush = (lanes: Lanes<TestBatch>, number: number) => {
  lanes.seal(epoch(number))
  const taken = lanes.takeSealed(epoch(number))
  const seeds = taken.batches.map(({ payload }) => payload.batch.seed)
  lanes.release(epoch(number))
  return seeds
}

describe("Lanes", () => {
  it("PW-06 batches of several lanes leave in append order, with lane, place and frames", () => {
    const lanes = makeLanes({ laneCount: 3 })
    const batches = [2, 0, 0, 1, 2].map((id, index) => ({
      id,
      batch: testBatch({ seed: index, encodedBytes: 10 * (index + 1), frames: index + 1, stagedAt: 100 + index })
    }))
    for (const { batch, id } of batches) assert.strictEqual(lanes.append(lane(id), batch), "stored")
    assert.deepStrictEqual([lanes.backlogFrames, lanes.backlogBytes, lanes.oldestStagedAt], [15, 150, 100])
    lanes.seal(epoch(7))
    const taken = lanes.takeSealed(epoch(7))
    assert.deepStrictEqual(taken.batches.map(({ id }) => id), [1, 2, 3, 4, 5])
    assert.deepStrictEqual(taken.batches.map((staged) => staged.lane), [2, 0, 0, 1, 2].map(lane))
    assert.deepStrictEqual(taken.batches.map(({ payload }) => payload.position), [0, 10, 30, 60, 100])
    assert.deepStrictEqual([taken.epoch, taken.frames, taken.bytes], [epoch(7), 15, 150])
    assert.deepStrictEqual(taken.laneFrames, [5, 4, 6])
    assert.strictEqual(taken.buffers.length, 1)
    assert.deepStrictEqual(
      concatenated(taken.buffers),
      concatenated(batches.map(({ batch }) => bytesOf(batch)))
    )
    for (const { payload: { batch, memory, offset } } of taken.batches) {
      assert.deepStrictEqual(memory.slice(offset, offset + batch.encodedBytes), bytesOf(batch))
    }
  })

  it("PW-07 block refuses the whole batch, says what was needed, and goes on with the next that fits", () => {
    const lanes = makeLanes({ overflowPolicy: "block" })
    lanes.append(lane(1), testBatch({ seed: 0, accountedBytes: 700 }))
    const refused = lanes.append(lane(1), testBatch({ seed: 1, accountedBytes: 301 }))
    assert.deepStrictEqual(
      refused,
      new LaneFull({ lane: lane(1), neededBytes: 301, freeBytes: 300, capacityBytes: 1000 })
    )
    assert.deepStrictEqual([lanes.backlogFrames, lanes.backlogBytes, lanes.overflowedBytes], [1, 100, 0])
    assert.isFalse(lanes.isLatched)
    assert.strictEqual(lanes.append(lane(1), testBatch({ seed: 2, accountedBytes: 300 })), "stored")
    assert.strictEqual(lanes.append(lane(0), testBatch({ seed: 3, accountedBytes: 301 })), "stored")
    assert.deepStrictEqual(flush(lanes, 1), [0, 2, 3])
    assert.strictEqual(lanes.append(lane(1), testBatch({ seed: 4, accountedBytes: 301 })), "stored")
  })

  it("PW-07 whether a batch fits can be asked before it is appended", () => {
    const lanes = makeLanes({ overflowPolicy: "block" })
    lanes.append(lane(1), testBatch({ seed: 0, accountedBytes: 700 }))
    assert.deepStrictEqual([300, 301].map((bytes) => lanes.fits(lane(1), bytes)), [true, false])
    assert.deepStrictEqual([1000, 1001].map((bytes) => lanes.fits(lane(0), bytes)), [true, false])
    lanes.seal(epoch(1))
    assert.isTrue(lanes.fits(lane(1), 1000))
  })

  it("PW-07 overflow stores the batch beside its lane and counts it", () => {
    const lanes = makeLanes()
    lanes.append(lane(0), testBatch({ seed: 0, accountedBytes: 900 }))
    assert.strictEqual(lanes.append(lane(0), testBatch({ seed: 1, accountedBytes: 200, frames: 3 })), "overflowed")
    assert.deepStrictEqual([lanes.overflowedBytes, lanes.backlogFrames, lanes.isLatched], [200, 4, false])
    assert.strictEqual(lanes.occupancy, 0.9)
  })

  it("PW-07 what overflowed is part of the flush of the epoch it was accepted in, at its place in append order", () => {
    const lanes = makeLanes()
    lanes.append(lane(0), testBatch({ seed: 0, accountedBytes: 900 }))
    lanes.append(lane(0), testBatch({ seed: 1, accountedBytes: 200 }))
    lanes.append(lane(0), testBatch({ seed: 2, accountedBytes: 100 }))
    lanes.append(lane(1), testBatch({ seed: 3 }))
    lanes.seal(epoch(1))
    lanes.append(lane(0), testBatch({ seed: 4 }))
    const taken = lanes.takeSealed(epoch(1))
    assert.deepStrictEqual(taken.batches.map(({ payload }) => payload.batch.seed), [0, 1, 2, 3])
    assert.deepStrictEqual(taken.laneFrames, [3, 1])
    const bytes = [0, 1, 2, 3].map((seed) => bytesOf({ seed, encodedBytes: 100 }))
    assert.deepStrictEqual(concatenated(taken.buffers), concatenated(bytes))
    lanes.release(epoch(1))
    assert.deepStrictEqual(flush(lanes, 2), [4])
  })

  it("PW-07 above its limit overflow latches until it is drained; at the limit it does not", () => {
    const lanes = makeLanes()
    lanes.append(lane(0), testBatch({ seed: 0, accountedBytes: 1000 }))
    lanes.append(lane(0), testBatch({ seed: 1, accountedBytes: 500 }))
    assert.isFalse(lanes.isLatched)
    lanes.append(lane(0), testBatch({ seed: 2, accountedBytes: 1 }))
    assert.isTrue(lanes.isLatched)
    lanes.seal(epoch(1))
    lanes.append(lane(1), testBatch({ seed: 3 }))
    lanes.takeSealed(epoch(1))
    assert.deepStrictEqual([lanes.isLatched, lanes.overflowedBytes], [true, 501])
    lanes.release(epoch(1))
    assert.deepStrictEqual([lanes.isLatched, lanes.overflowedBytes, lanes.isEmpty], [false, 0, false])
  })

  it("PW-07 the limit counts what is being flushed too, and the latch stays while anything overflowed is left", () => {
    const lanes = makeLanes()
    lanes.append(lane(0), testBatch({ seed: 0, accountedBytes: 1000 }))
    lanes.append(lane(0), testBatch({ seed: 1, accountedBytes: 400 }))
    lanes.seal(epoch(1))
    lanes.takeSealed(epoch(1))
    lanes.append(lane(0), testBatch({ seed: 2, accountedBytes: 1000 }))
    assert.isFalse(lanes.isLatched)
    lanes.append(lane(0), testBatch({ seed: 3, accountedBytes: 101 }))
    assert.isTrue(lanes.isLatched)
    lanes.release(epoch(1))
    assert.deepStrictEqual([lanes.isLatched, lanes.overflowedBytes], [true, 101])
    assert.deepStrictEqual(flush(lanes, 2), [2, 3])
    assert.deepStrictEqual([lanes.isLatched, lanes.isEmpty], [false, true])
  })

  it("PW-07 a batch larger than a lane latches at once: stored with overflow, refused with block", () => {
    const overflowing = makeLanes({ overflowLimitBytes: 1_000_000 })
    assert.strictEqual(overflowing.append(lane(0), testBatch({ seed: 0, accountedBytes: 1001 })), "overflowed")
    assert.isTrue(overflowing.isLatched)
    assert.deepStrictEqual(flush(overflowing, 1), [0])
    assert.isFalse(overflowing.isLatched)

    const blocking = makeLanes({ overflowPolicy: "block" })
    assert.instanceOf(blocking.append(lane(0), testBatch({ seed: 0, accountedBytes: 1001 })), LaneFull)
    assert.deepStrictEqual([blocking.isLatched, blocking.isEmpty], [true, true])
    blocking.append(lane(0), testBatch({ seed: 1 }))
    assert.deepStrictEqual(flush(blocking, 1), [1])
    assert.isFalse(blocking.isLatched)
  })

  it("PW-15 a flush that failed is tried again with the same bytes, and no later epoch is sealed meanwhile", () => {
    const lanes = makeLanes()
    lanes.append(lane(0), testBatch({ seed: 0 }))
    lanes.append(lane(1), testBatch({ seed: 1 }))
    lanes.seal(epoch(1))
    const first = lanes.takeSealed(epoch(1))
    const bytes = concatenated(first.buffers)
    for (let seed = 2; seed < 20; seed++) lanes.append(lane(seed % 2), testBatch({ seed }))
    assert.throws(() => lanes.seal(epoch(2)), /the one before it is released/)
    assert.isFalse(lanes.canSeal)
    const again = lanes.takeSealed(epoch(1))
    assert.deepStrictEqual(concatenated(again.buffers), bytes)
    assert.deepStrictEqual(again.batches, first.batches)
    lanes.release(epoch(1))
    assert.isTrue(lanes.canSeal)
    assert.strictEqual(flush(lanes, 2).length, 18)
  })

  it("PW-06 an epoch that was not sealed, or was released, cannot be taken or released; epochs grow", () => {
    const lanes = makeLanes()
    assert.throws(() => lanes.takeSealed(epoch(1)))
    assert.throws(() => lanes.release(epoch(1)))
    lanes.seal(epoch(1))
    assert.throws(() => lanes.takeSealed(epoch(2)))
    assert.throws(() => lanes.release(epoch(1)), /only a half that is flushed/)
    lanes.takeSealed(epoch(1))
    assert.throws(() => lanes.release(epoch(2)))
    lanes.release(epoch(1))
    assert.throws(() => lanes.release(epoch(1)))
    assert.throws(() => lanes.takeSealed(epoch(1)))
    assert.throws(() => lanes.seal(epoch(1)), /epochs grow/)
    lanes.seal(epoch(3))
  })

  it("PW-07 a batch that throws while it is stored, or writes another number of bytes, leaves no trace", () => {
    for (const [written, accountedBytes] of [[undefined, 100], [99, 100], [101, 100], [99, 950], [99, 1001]] as const) {
      const lanes = makeLanes()
      lanes.append(lane(0), testBatch({ seed: 0 }))
      const faulty: TestBatch = {
        ...testBatch({ seed: 1, accountedBytes }),
        fill: (target, _view, offset) => {
          if (written === undefined) throw new Error("no such image")
          target.fill(0xff, offset, offset + written)
          return offset + written
        }
      }
      assert.throws(() => lanes.append(lane(0), faulty))
      assert.deepStrictEqual(
        [lanes.backlogFrames, lanes.backlogBytes, lanes.overflowedBytes, lanes.occupancy, lanes.isLatched],
        [1, 100, 0, 0.1, false]
      )
      lanes.append(lane(0), testBatch({ seed: 2 }))
      lanes.seal(epoch(1))
      const bytes = [0, 2].map((seed) => bytesOf({ seed, encodedBytes: 100 }))
      assert.deepStrictEqual(concatenated(lanes.takeSealed(epoch(1)).buffers), concatenated(bytes))
    }
  })

  it("PW-12 an epoch without batches has no bytes", () => {
    const lanes = makeLanes()
    lanes.seal(epoch(1))
    const taken = lanes.takeSealed(epoch(1))
    assert.deepStrictEqual(taken, {
      epoch: epoch(1),
      buffers: [],
      bytes: 0,
      frames: 0,
      laneFrames: [0, 0],
      batches: []
    })
    assert.isTrue(lanes.isEmpty)
    lanes.release(epoch(1))
  })

  it("PW-13 a batch without records is in its epoch and adds no bytes", () => {
    const lanes = makeLanes()
    lanes.append(lane(0), testBatch({ seed: 0, accountedBytes: 0, encodedBytes: 0, frames: 0 }))
    lanes.seal(epoch(1))
    const taken = lanes.takeSealed(epoch(1))
    assert.deepStrictEqual([taken.buffers, taken.frames, taken.batches.length], [[], 0, 1])
  })

  it("PW-15 giving up answers everybody who was waiting, in append order, and leaves nothing behind", () => {
    const lanes = makeLanes()
    lanes.append(lane(0), testBatch({ seed: 0, accountedBytes: 1001 }))
    lanes.append(lane(1), testBatch({ seed: 1 }))
    lanes.seal(epoch(1))
    lanes.append(lane(1), testBatch({ seed: 2 }))
    assert.deepStrictEqual(lanes.abandon().map(({ payload }) => payload.batch.seed), [0, 1, 2])
    assert.deepStrictEqual(
      [lanes.isEmpty, lanes.isLatched, lanes.backlogFrames, lanes.backlogBytes, lanes.overflowedBytes, lanes.keptBytes],
      [true, false, 0, 0, 0, 0]
    )
    assert.deepStrictEqual(lanes.abandon(), [])
    assert.strictEqual(lanes.append(lane(0), testBatch({ seed: 3, accountedBytes: 1000 })), "stored")
    assert.deepStrictEqual(flush(lanes, 2), [3])
  })
})

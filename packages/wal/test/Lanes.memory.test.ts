/** What lanes do with memory: as much as the epochs need, used again and again, and given up after a burst. */
import { assert, describe, it } from "@effect/vitest"
import { Lanes } from "../src/internal/lanes.ts"
import { epoch, lane, type TestBatch, testBatch } from "./support/laneBatches.ts"

const chunkBytes = 1024

const makeLanes = () =>
  new Lanes<TestBatch>({
    laneCount: 4,
    laneCapacityBytes: 1_000_000,
    overflowPolicy: "overflow",
    overflowLimitBytes: 1_000_000,
    chunkBytes
  })

/** Appends batches of these sizes, in turn to each lane. */
const gather = (lanes: Lanes<TestBatch>, sizes: ReadonlyArray<number>) => {
  for (const [seed, encodedBytes] of sizes.entries()) {
    lanes.append(lane(seed % 4), testBatch({ seed, encodedBytes, accountedBytes: encodedBytes }))
  }
}

const flush = (lanes: Lanes<TestBatch>, number: number) => {
  lanes.seal(epoch(number))
  const { buffers } = lanes.takeSealed(epoch(number))
  lanes.release(epoch(number))
  return new Set(buffers.map(({ buffer }) => buffer))
}

const repeated = (count: number, size: number) => Array.from({ length: count }, () => size)

describe("memory of Lanes", () => {
  const mixtures: ReadonlyArray<[string, ReadonlyArray<number>]> = [
    ["small batches", repeated(100, 90)],
    ["batches larger than a chunk", repeated(5, 3000)],
    ["both", [100, 3000, 700, 5000, 20, 5000, 1024, 1025]]
  ]
  for (const [name, sizes] of mixtures) {
    it(`PW-06 an epoch of the size of the one before allocates nothing: ${name}`, () => {
      const lanes = makeLanes()
      gather(lanes, sizes)
      const first = flush(lanes, 1)
      for (let number = 2; number < 20; number++) {
        gather(lanes, sizes)
        for (const buffer of flush(lanes, number)) assert.isTrue(first.has(buffer))
      }
    })

    it(`PW-06 nor do epochs of one size that gather while the one before is flushed: ${name}`, () => {
      const lanes = makeLanes()
      const seen = new Set<ArrayBufferLike>()
      let seenAfterTwo = 0
      gather(lanes, sizes)
      for (let number = 1; number < 20; number++) {
        lanes.seal(epoch(number))
        const { buffers } = lanes.takeSealed(epoch(number))
        gather(lanes, sizes)
        for (const { buffer } of buffers) seen.add(buffer)
        lanes.release(epoch(number))
        if (number === 2) seenAfterTwo = seen.size
      }
      assert.strictEqual(seen.size, seenAfterTwo)
    })
  }

  it("PW-06 memory of an epoch that is being flushed is not written until it is released", () => {
    const lanes = makeLanes()
    gather(lanes, repeated(30, 100))
    lanes.seal(epoch(1))
    const { buffers } = lanes.takeSealed(epoch(1))
    const flushed = new Set(buffers.map(({ buffer }) => buffer))
    gather(lanes, repeated(30, 100))
    lanes.release(epoch(1))
    lanes.seal(epoch(2))
    for (const { buffer } of lanes.takeSealed(epoch(2)).buffers) assert.isFalse(flushed.has(buffer))
  })

  it("PW-07 the memory of a burst is given up, a part with each epoch that needs less", () => {
    const lanes = makeLanes()
    const burst = 64 * chunkBytes
    gather(lanes, repeated(64, chunkBytes))
    flush(lanes, 1)
    assert.strictEqual(lanes.keptBytes, burst)
    let last = burst
    for (let number = 2; number < 60; number++) {
      gather(lanes, [100])
      flush(lanes, number)
      assert.isAtMost(lanes.keptBytes, last)
      assert.isAtLeast(lanes.keptBytes, chunkBytes)
      if (number === 2) assert.isAtLeast(lanes.keptBytes, burst / 2)
      last = lanes.keptBytes
    }
    assert.strictEqual(last, chunkBytes)
  })

  it("PW-06 what is adjacent in memory is one buffer, whichever lanes it came through", () => {
    const lanes = makeLanes()
    gather(lanes, repeated(1000, 16))
    lanes.seal(epoch(1))
    const { buffers } = lanes.takeSealed(epoch(1))
    assert.deepStrictEqual(buffers.map(({ length }) => length), [...repeated(15, chunkBytes), 16_000 - 15 * chunkBytes])
  })
})

import { assert, describe, it } from "@effect/vitest"
import { LaneBuffer } from "../src/internal/laneBuffer.ts"
import { type LaneBatch, LaneMemory } from "../src/internal/laneMemory.ts"
import { epoch, testBatch } from "./support/laneBatches.ts"

const makeBuffer = (capacityBytes = 1000) => new LaneBuffer(capacityBytes, new LaneMemory())

const batchOf = (accountedBytes: number) => testBatch({ seed: 1, accountedBytes })

const sealed = () => {
  const buffer = makeBuffer()
  buffer.seal(epoch(5))
  return buffer
}

const flushing = () => {
  const buffer = sealed()
  buffer.startFlush(epoch(5))
  return buffer
}

describe("LaneBuffer", () => {
  it("PW-06 a half goes from writable over sealed and flushing back to writable", () => {
    const buffer = makeBuffer()
    buffer.tryAppend(batchOf(300))
    assert.deepStrictEqual([buffer.usedBytes, buffer.other.state], [300, "writable"])
    buffer.seal(epoch(5))
    assert.deepStrictEqual(buffer.other, { state: "sealed", epoch: epoch(5), usedBytes: 300 })
    buffer.startFlush(epoch(5))
    assert.deepStrictEqual(buffer.other, { state: "flushing", epoch: epoch(5), usedBytes: 300 })
    buffer.release(epoch(5))
    assert.deepStrictEqual(buffer.other, { state: "writable" })
  })

  it("PW-06 appending works while the old half is sealed and flushed, into the room of an empty half", () => {
    const buffer = makeBuffer()
    buffer.tryAppend(batchOf(1000))
    assert.strictEqual(buffer.freeBytes, 0)
    buffer.seal(epoch(5))
    assert.isDefined(buffer.tryAppend(batchOf(600)))
    buffer.startFlush(epoch(5))
    assert.isDefined(buffer.tryAppend(batchOf(400)))
    assert.isUndefined(buffer.tryAppend(batchOf(1)))
    buffer.release(epoch(5))
    assert.strictEqual(buffer.usedBytes, 1000)
    buffer.seal(epoch(6))
    assert.deepStrictEqual(buffer.other, { state: "sealed", epoch: epoch(6), usedBytes: 1000 })
  })

  it("PW-06 equality fits, one byte more does not, and what does not fit leaves no trace", () => {
    const memory = new LaneMemory()
    const buffer = new LaneBuffer(1000, memory)
    assert.isDefined(buffer.tryAppend(batchOf(400)))
    const placedBytes = memory.placedBytes
    assert.isUndefined(buffer.tryAppend(batchOf(601)))
    assert.deepStrictEqual([buffer.usedBytes, memory.placedBytes], [400, placedBytes])
    assert.isDefined(buffer.tryAppend(batchOf(600)))
    assert.deepStrictEqual([buffer.usedBytes, buffer.freeBytes], [1000, 0])
  })

  it("PW-06 every other transition is a defect and changes nothing", () => {
    const wrong: ReadonlyArray<[string, () => LaneBuffer<LaneBatch>, (buffer: LaneBuffer<LaneBatch>) => void]> = [
      ["writable -> flushing", makeBuffer, (buffer) => buffer.startFlush(epoch(5))],
      ["writable -> released", makeBuffer, (buffer) => buffer.release(epoch(5))],
      ["sealed -> sealed", sealed, (buffer) => buffer.seal(epoch(6))],
      ["sealed -> released", sealed, (buffer) => buffer.release(epoch(5))],
      ["sealed(5) -> flushing(6)", sealed, (buffer) => buffer.startFlush(epoch(6))],
      ["flushing -> sealed", flushing, (buffer) => buffer.seal(epoch(6))],
      ["flushing -> flushing", flushing, (buffer) => buffer.startFlush(epoch(5))],
      ["flushing(5) -> released(6)", flushing, (buffer) => buffer.release(epoch(6))]
    ]
    for (const [name, make, step] of wrong) {
      const buffer = make()
      const before = buffer.other
      assert.throws(() => step(buffer), undefined, undefined, name)
      assert.strictEqual(buffer.other, before, name)
    }
  })

  it("PW-06 a batch whose filling throws takes no room", () => {
    const buffer = makeBuffer()
    const failing = {
      ...batchOf(300),
      fill: () => {
        throw new Error("no such image")
      }
    }
    assert.throws(() => buffer.tryAppend(failing), /no such image/)
    assert.strictEqual(buffer.usedBytes, 0)
  })
})

import { assert, describe, it, vi } from "@effect/vitest"
import { InvariantViolation } from "@tidemark/core/Invariant"
import * as TailMemory from "@tidemark/platform/TailMemory"
import fc from "fast-check"
import { DirectTail, widenedRead } from "../src/internal/directTail.ts"

const { blockBytes } = TailMemory

/** As a file does it: what lies between its end and the position becomes zeros. */
const patched = (file: Uint8Array, bytes: Uint8Array, position: number) => {
  const result = new Uint8Array(Math.max(file.length, position + bytes.length))
  result.set(file)
  result.set(bytes, position)
  return result
}

const upToBlock = (position: number) => Math.ceil(position / blockBytes) * blockBytes

/** What `tail` promises: the bytes, zeros up to the next block, and nothing else. */
const expectedAfter = (file: Uint8Array, bytes: Uint8Array, position: number) => {
  const end = position + bytes.length
  return patched(patched(file, bytes, position), new Uint8Array(upToBlock(end) - end), end)
}

const readFrom = (file: Uint8Array) => (into: Uint8Array, position: number) => {
  const found = file.subarray(position, position + into.length)
  into.set(found)
  return found.length
}

const noFront = () => assert.fail("the file is asked for what is known")

/** Two writes of 4 blocks at most, with room for one that lies at another place of its block. */
const memoryBytes = 65_536

const placements = ["in place", "elsewhere in its block", "plain memory", "several"] as const
type Placement = typeof placements[number]

/** The bytes, placed in memory full of others, so that what is taken from it by mistake shows. */
const place = (bytes: Uint8Array, position: number, placement: Placement): ReadonlyArray<Uint8Array> => {
  const offset = blockBytes + position % blockBytes
  const memory = (placement === "plain memory" ? new Uint8Array(memoryBytes) : TailMemory.make(memoryBytes)).fill(0xee)
  const first = placement === "elsewhere in its block" ? offset + 1 : offset
  memory.set(bytes, first)
  const third = Math.floor(bytes.length / 3)
  return placement === "several"
    ? [
      memory.subarray(first, first + third),
      new Uint8Array(0),
      memory.subarray(first + third, first + bytes.length)
    ]
    : [memory.subarray(first, first + bytes.length)]
}

const length = fc.oneof(
  fc.integer({ min: 1, max: 3 * blockBytes }),
  fc.integer({ min: 1, max: 40 }),
  fc.constantFrom(blockBytes - 1, blockBytes, blockBytes + 1, 2 * blockBytes)
)

const step = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant("tail" as const),
      length,
      placement: fc.constantFrom(...placements),
      where: fc.oneof(
        { weight: 4, arbitrary: fc.constant("end" as const) },
        { weight: 1, arbitrary: fc.constantFrom("gap" as const, "back" as const) }
      ),
      distance: length,
      /** How much of the widened write is in the file when it fails, in percent. Undefined: it succeeds. */
      failsAfter: fc.option(fc.integer({ min: 0, max: 100 }), { nil: undefined, freq: 6 })
    })
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("other" as const), length, distance: length }) }
)

describe("DirectTail", () => {
  it("whatever is written, the file holds what it held, the bytes, and zeros up to the next block", () => {
    let asked = 0
    let inPlace = 0
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 25 }), (steps) => {
        const tail = new DirectTail()
        let file: Uint8Array = new Uint8Array(0)
        /** The end of what was written, and the one of the last write that is remembered. */
        let end = 0
        let known = -1
        let value = 0
        for (const step of steps) {
          value = value % 200 + 1
          const bytes = Uint8Array.from({ length: step.length }, (_, index) => value + index % 50)
          if (step.kind === "other") {
            const position = Math.max(0, end - step.distance)
            tail.forget()
            known = -1
            file = patched(file, bytes, position)
            end = Math.max(end, position + bytes.length)
            continue
          }
          const position = step.where === "end"
            ? end
            : step.where === "gap"
            ? end + step.distance
            : Math.max(0, end - step.distance)
          const front = position % blockBytes
          const buffers = place(bytes, position, step.placement)
          let fronts = 0
          const widened = tail.begin(buffers, position, (into, at) => {
            fronts++
            assert.deepStrictEqual([at, into.length], [position - front, front])
            return readFrom(file)(into, at)
          })
          assert.strictEqual(fronts, front > 0 && position !== known ? 1 : 0)
          asked += fronts
          assert.strictEqual(widened.position, position - front)
          assert.strictEqual(widened.bytes.length, upToBlock(position + bytes.length) - widened.position)
          assert.strictEqual(widened.bytes.byteOffset % blockBytes, 0)
          assert.isTrue(TailMemory.isTailMemory(widened.bytes.buffer))
          assert.strictEqual(widened.bytes.buffer === buffers[0]?.buffer, step.placement === "in place")
          if (step.placement === "in place") inPlace++
          if (step.failsAfter === undefined) {
            const expected = expectedAfter(file, bytes, position)
            file = patched(file, widened.bytes, widened.position)
            assert.isTrue(Buffer.from(file.buffer).equals(expected))
            tail.finish(true)
            end = position + bytes.length
            known = end
          } else {
            const written = Math.floor(widened.bytes.length * step.failsAfter / 100)
            file = patched(file, widened.bytes.subarray(0, written), widened.position)
            tail.finish(false)
            known = -1
          }
          // What is remembered lies nowhere else.
          for (const buffer of buffers) new Uint8Array(buffer.buffer).fill(0xdd)
        }
      }),
      { numRuns: 150 }
    )
    assert.isAbove(asked, 50)
    assert.isAbove(inPlace, 50)
  })

  it("what lies behind the end of the file and in front of the bytes is zeros, in memory that held others", () => {
    const tail = new DirectTail()
    const [only] = place(Uint8Array.of(7), 10, "in place")
    const { bytes } = tail.begin(only === undefined ? [] : [only], 10, readFrom(Uint8Array.of(1, 2, 3)))
    assert.deepStrictEqual([...bytes.subarray(0, 12)], [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 7, 0])
    assert.isTrue(bytes.subarray(11).every((byte) => byte === 0))
  })

  const refusesOthers = (tail: DirectTail) => {
    assert.throws(() => tail.begin([Uint8Array.of(1)], 0, noFront), InvariantViolation)
    assert.throws(() => {
      tail.forget()
    }, InvariantViolation)
    tail.finish(true)
    tail.forget()
  }

  it("a second write, or another one, before the end of the first is a defect", () => {
    const tail = new DirectTail()
    tail.begin([Uint8Array.of(1)], 0, noFront)
    refusesOthers(tail)
    tail.begin([Uint8Array.of(1)], blockBytes, noFront)
    refusesOthers(tail)
  })

  it("begins behind what is under way, in place and where that ends, and at no other place", () => {
    const tail = new DirectTail()
    const held = (value: number, length: number, position: number, placement: Placement = "in place") =>
      place(new Uint8Array(length).fill(value), position, placement)
    let file: Uint8Array = new Uint8Array(0)
    const first = tail.begin(held(1, 5000, 0), 0, noFront)
    assert.isTrue(tail.continues(held(2, 100, 5000), 5000))
    assert.isFalse(tail.continues(held(2, 100, 5001), 5001))
    assert.isFalse(tail.continues(held(2, 100, 4999), 4999))
    for (const other of placements.slice(1)) {
      const buffers = held(2, 100, 5000, other)
      assert.isFalse(tail.continues(buffers, 5000))
      assert.throws(() => tail.begin(buffers, 5000, noFront), InvariantViolation)
    }
    assert.throws(() => tail.begin(held(2, 1, 9000), 9000, noFront), InvariantViolation)
    const second = tail.begin(held(2, 4000, 5000), 5000, noFront)
    const third = tail.begin(held(3, 10, 9000), 9000, noFront)
    for (const { bytes, position } of [first, second, third]) {
      assert.throws(() => {
        tail.forget()
      }, InvariantViolation)
      file = patched(file, bytes, position)
      tail.finish(true)
    }
    const expected = [new Uint8Array(5000).fill(1), new Uint8Array(4000).fill(2), new Uint8Array(10).fill(3)]
    assert.isTrue(Buffer.concat(expected).equals(file.subarray(0, 9010)))
    assert.isTrue(file.subarray(9010).every((byte) => byte === 0))
    // Nothing is under way: any place will do.
    assert.isTrue(tail.continues(held(4, 1, 77), 77))
    tail.forget()
  })

  it("one that fails among others is the end of what is remembered, and nothing continues it", () => {
    const tail = new DirectTail()
    const [one] = place(Uint8Array.of(1), 0, "in place")
    const [two] = place(Uint8Array.of(2), 1, "in place")
    const [three] = place(Uint8Array.of(3), 2, "in place")
    if (one === undefined || two === undefined || three === undefined) return assert.fail("there is nothing")
    tail.begin([one], 0, noFront)
    tail.begin([two], 1, noFront)
    tail.finish(false)
    assert.isFalse(tail.continues([three], 2))
    tail.finish(false)
    let fronts = 0
    tail.begin([three], 2, () => {
      fronts++
      return 0
    })
    assert.strictEqual(fronts, 1)
  })

  it("when what stands in front cannot be read nothing has begun", () => {
    const tail = new DirectTail()
    const cause = new Error("cannot read")
    assert.throws(() =>
      tail.begin([Uint8Array.of(1)], 5, () => {
        throw cause
      }), cause)
    tail.forget()
    tail.begin([Uint8Array.of(1)], 0, noFront)
    refusesOthers(tail)
  })
})

describe("widenedRead", () => {
  const leastBytes = 65_536
  const arbitrary = fc.record({
    position: fc.integer({ min: 0, max: 2 ** 40 }),
    length: fc.integer({ min: leastBytes - 2, max: 3 * leastBytes }),
    shift: fc.constantFrom(0, 0, 1, 512),
    isTailMemory: fc.boolean()
  })

  it("a long read whose bytes lie as in the file becomes one of the blocks around them, and no other", () => {
    let widenedReads = 0
    fc.assert(
      fc.property(arbitrary, ({ isTailMemory, length, position, shift }) => {
        const memory = isTailMemory ? TailMemory.make(5 * leastBytes) : new Uint8Array(5 * leastBytes)
        const first = blockBytes + (position + shift) % blockBytes
        const buffer = memory.subarray(first, first + length)
        const widened = widenedRead(buffer, position)
        assert.strictEqual(widened !== undefined, isTailMemory && shift === 0 && length >= leastBytes)
        if (widened === undefined) return
        widenedReads++
        const front = position - widened.position
        assert.strictEqual(widened.bytes.buffer, buffer.buffer)
        assert.strictEqual(widened.bytes.byteOffset + front, buffer.byteOffset)
        for (const number of [widened.position, widened.bytes.byteOffset, widened.bytes.length]) {
          assert.strictEqual(number % blockBytes, 0)
        }
        assert.isTrue(front >= 0 && front < blockBytes)
        const behind = widened.bytes.length - front - length
        assert.isTrue(behind >= 0 && behind < blockBytes)
      })
    )
    assert.isAbove(widenedReads, 5)
  })
})

describe("TailMemory", () => {
  it("is zeros in whole blocks, and known as what it is", () => {
    for (const length of [1, blockBytes, 65_536, 65_537]) {
      const memory = TailMemory.make(length)
      assert.isAtLeast(memory.length, length)
      assert.deepStrictEqual([memory.byteOffset, memory.buffer.byteLength % blockBytes], [0, 0])
      assert.isTrue(memory.every((byte) => byte === 0))
      assert.isTrue(TailMemory.isTailMemory(memory.buffer))
    }
    assert.isFalse(TailMemory.isTailMemory(new ArrayBuffer(blockBytes)))
    for (const length of [0, -1, 0.5, Number.NaN]) assert.throws(() => TailMemory.make(length), InvariantViolation)
  })

  it("copyTo is set, into memory of its own and any other, and refuses what has no room", () => {
    const source = Uint8Array.from({ length: 300 }, (_, index) => index % 251)
    for (const target of [TailMemory.make(1000), new Uint8Array(1000)]) {
      for (
        const [from, to, offset] of [[0, 300, 0], [5, 5, 1000], [7, 107, 13], [0, 300, target.length - 300]] as const
      ) {
        target.fill(9)
        const expected = new Uint8Array(target.length).fill(9)
        expected.set(source.subarray(from, to), offset)
        TailMemory.copyTo(target, source.subarray(from, to), offset)
        assert.isTrue(Buffer.from(target).equals(expected))
        // And where the target is a part of its memory.
        target.fill(9)
        TailMemory.copyTo(target.subarray(1), source.subarray(from, Math.min(to, from + 50)), 3)
        assert.deepStrictEqual([...target.subarray(0, 4)], [9, 9, 9, 9])
      }
      for (const offset of [-1, target.length - 299, Number.NaN]) {
        target.fill(9)
        assert.throws(() => TailMemory.copyTo(target, source, offset), InvariantViolation)
        assert.isTrue(target.every((byte) => byte === 9))
      }
    }
  })

  it("is plain memory where WebAssembly is missing, or has none left", () => {
    const full = {
      Memory: class {
        constructor() {
          throw new RangeError("no memory")
        }
      }
    }
    for (const global of [undefined, full]) {
      vi.stubGlobal("WebAssembly", global)
      try {
        const memory = TailMemory.make(5000)
        assert.isAtLeast(memory.length, 5000)
        assert.isFalse(TailMemory.isTailMemory(memory.buffer))
        const tail = new DirectTail()
        const bytes = memory.subarray(5, 10).fill(1)
        const widened = tail.begin([bytes], 5, () => 0)
        assert.notStrictEqual(widened.bytes.buffer, memory.buffer)
        assert.deepStrictEqual([...widened.bytes.subarray(0, 12)], [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0])
      } finally {
        vi.unstubAllGlobals()
      }
    }
  })
})

import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
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

describe("RunQueue with memory of its sink", () => {
  const blockBytes = 4096
  /** A position in the log and its place in the file lie a header apart. */
  const header = 32
  const mebibyte = 1024 * 1024

  /** A queue as the SQLite WAL has it, and the memory that was made for it. */
  const makeOnMemory = (initial = 0) => {
    const made = new Set<ArrayBufferLike>()
    const queue = new RunQueue({
      initial,
      maxBatchBytes: 8 * mebibyte,
      cutPointBytes: 0,
      pad,
      memory: {
        blockBytes,
        make: (length) => {
          const bytes = new Uint8Array(length)
          made.add(bytes.buffer)
          return bytes
        },
        firstOffset: (lsn) => header + lsn
      }
    })
    return { queue, made }
  }

  /** Bytes that differ from those before and behind them, and from what else lies at their offset in any block. */
  const byteAt = (position: number): number => (position * 31 + (position >> 8) * 17) & 0xff

  const append = (queue: RunQueue, length: number): void => {
    const start = queue.reserved
    queue.append(length, (target, view, offset) => {
      assert.strictEqual(view.buffer, target.buffer)
      for (let at = 0; at < length; at++) target[offset + at] = byteAt(start + at)
    })
  }

  /** Every byte is there, and in memory that the sink made at the place that its position in the file has in its block. */
  const check = (batch: ReturnType<typeof takeAll>, made: ReadonlySet<ArrayBufferLike>) => {
    let position = batch.start
    let inPlace = 0
    for (const buffer of batch.buffers) {
      assert.isAbove(buffer.length, 0)
      if (made.has(buffer.buffer)) {
        assert.strictEqual(buffer.byteOffset % blockBytes, (header + position) % blockBytes)
        inPlace += buffer.length
      }
      let isSame = true
      for (let at = 0; at < buffer.length; at++) isSame &&= buffer[at] === byteAt(position + at)
      assert.isTrue(isSame, `from ${position} on`)
      position += buffer.length
    }
    assert.strictEqual(position, batch.end)
    return inPlace
  }

  it("GC-11 every byte lies as in its block, whatever came before: batches, memory used again, large hand-overs", () => {
    const anyLength = fc.oneof(
      { weight: 8, arbitrary: fc.integer({ min: 1, max: 9000 }) },
      { weight: 1, arbitrary: fc.integer({ min: 2 * mebibyte - 2 * blockBytes, max: 2 * mebibyte + blockBytes }) }
    )
    const anyStep = fc.oneof(
      { weight: 3, arbitrary: fc.record({ kind: fc.constant("append" as const), length: anyLength }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom("take" as const, "takeAndKeep" as const) }) }
    )
    const anySteps = fc.array(anyStep, { maxLength: 16 })
    fc.assert(
      fc.property(fc.nat(3 * blockBytes), anySteps, (initial, steps) => {
        const { made, queue } = makeOnMemory(initial)
        let reached = initial
        for (const step of [...steps, { kind: "take" as const }]) {
          if (step.kind === "append") {
            append(queue, step.length)
            continue
          }
          const batch = queue.take()
          if (batch === undefined) continue
          assert.strictEqual(batch.start, reached)
          reached = batch.end
          check(batch, made)
          // What the file does with the memory of a batch that it was given is no business of the next one.
          for (const { bytes } of batch.chunks) bytes.fill(0xee)
          if (step.kind === "take") queue.recycle(batch)
        }
      }),
      { numRuns: 40 }
    )
  })

  it("GC-11 batches of one chunk use the same memory again, wherever in a block they begin", () => {
    const { made, queue } = makeOnMemory()
    for (let round = 0; round < 50; round++) {
      append(queue, 4120)
      append(queue, 24 + 512 * (round % 3))
      const batch = takeAll(queue)
      assert.lengthOf(batch.buffers, 1)
      assert.strictEqual(check(batch, made), batch.end - batch.start)
      queue.recycle(batch)
    }
    assert.strictEqual(made.size, 1)
  })

  it("GC-11 so many frames of 4 KiB lie in one buffer, and none of a batch above it is lost", () => {
    for (const [frames, buffers] of [[508, 1], [509, 2], [1100, 3]] as const) {
      const { made, queue } = makeOnMemory()
      // The worst beginning: at the end of a block.
      append(queue, blockBytes - header - 1)
      queue.recycle(takeAll(queue))
      for (let frame = 0; frame < frames; frame++) append(queue, 4120)
      const batch = takeAll(queue)
      assert.lengthOf(batch.buffers, buffers)
      assert.strictEqual(check(batch, made), frames * 4120)
    }
  })

  it("GC-11 a chunk that is full to its last byte begins where it begins", () => {
    const { made, queue } = makeOnMemory()
    append(queue, 2 * mebibyte - blockBytes)
    append(queue, blockBytes - header)
    const batch = takeAll(queue)
    assert.deepStrictEqual(batch.buffers.map((buffer) => buffer.length), [2 * mebibyte - header])
    assert.strictEqual(check(batch, made), 2 * mebibyte - header)
  })

  it("GC-13 a hand-over larger than a chunk has memory of its own, which is not used for others", () => {
    const { made, queue } = makeOnMemory()
    append(queue, 100)
    append(queue, 3 * mebibyte)
    append(queue, 100)
    const batch = takeAll(queue)
    assert.strictEqual(check(batch, made), 200)
    assert.deepStrictEqual(batch.buffers.map((buffer) => buffer.length), [100, 3 * mebibyte, 100])
    queue.recycle(batch)
    append(queue, 5000)
    assert.strictEqual(check(takeAll(queue), made), 5000)
  })

  it("GC-11 behind a reservation, too, everything lies as in its block", () => {
    const { made, queue } = makeOnMemory(77)
    append(queue, 50)
    const open = queue.reserve(3 * mebibyte)
    for (let at = 0; at < open.bytes.length; at++) open.bytes[at] = byteAt(open.start + at)
    append(queue, 4120)
    queue.settle(open)
    const first = takeAll(queue)
    assert.isAbove(check(first, made), 4120)
    assert.strictEqual(first.end, queue.reserved)
  })

  it("GC-11 a hand-over whose writer throws leaves the place to the next one", () => {
    const { made, queue } = makeOnMemory()
    append(queue, 4120)
    queue.recycle(takeAll(queue))
    assert.throws(() =>
      queue.append(4120, () => {
        throw new Error("thrown")
      }), /thrown/)
    assert.strictEqual(queue.reserved, 4120)
    append(queue, 4120)
    assert.strictEqual(check(takeAll(queue), made), 4120)
  })

  it("GC-11 memory of a hand-over that happens to be as large as a chunk is not used again", () => {
    const { made, queue } = makeOnMemory()
    append(queue, 2 * mebibyte)
    queue.recycle(takeAll(queue))
    append(queue, 4120)
    assert.strictEqual(check(takeAll(queue), made), 4120)
  })
})

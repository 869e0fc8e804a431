/** A disk that is full of segments gets room again by a checkpoint, which the log asks for itself. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { settle } from "./support/engine.ts"
import { batchOf, emptyDisk, openByHand } from "./support/parallelWal.ts"

describe("ParallelWal on a full disk", () => {
  it.effect("PW-15, PG-07 an epoch that does not fit is written when a checkpoint has let segments go", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const { wal } = yield* openByHand(disk, { autoCheckpointFrames: 1000 })
      const { submitBatch } = yield* wal.writer
      for (let id = 1; id <= 3; id++) {
        yield* submitBatch(batchOf(id, { 2: id, 3: id, 4: id }))
        assert.isTrue(yield* wal.advanceAndFlush())
      }
      assert.strictEqual(wal.inLog().segments, 3)
      // Segments do not fit any more, a checkpoint does.
      const fault = disk.inject({
        operation: "write",
        path: /-wal-seg-/,
        fault: { kind: "error", code: "ENOSPC" },
        times: Infinity
      })
      yield* submitBatch(batchOf(4, { 2: 4 }))
      assert.isFalse(yield* wal.advanceAndFlush())
      yield* settle
      assert.strictEqual(wal.inLog().segments, 0)
      fault.remove()
      assert.isTrue(yield* wal.advanceAndFlush())
      assert.strictEqual(wal.published(), 4n)
      assert.strictEqual(wal.inLog().segments, 1)
    }))

  it.effect("PG-07 an automatic checkpoint that found no room is tried again", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const { wal } = yield* openByHand(disk, { autoCheckpointFrames: 2 })
      const { submitBatch } = yield* wal.writer
      const fault = disk.inject({
        operation: "write",
        path: /\.fsqlite\//,
        fault: { kind: "error", code: "ENOSPC" },
        times: Infinity
      })
      yield* submitBatch(batchOf(1, { 2: 1, 3: 1 }))
      assert.isTrue(yield* wal.advanceAndFlush())
      yield* settle
      assert.isAbove(fault.hits, 0)
      assert.strictEqual(wal.inLog().segments, 1)
      fault.remove()
      yield* submitBatch(batchOf(2, { 2: 2, 3: 2 }))
      assert.isTrue(yield* wal.advanceAndFlush())
      yield* TestClock.adjust("1 second")
      yield* settle
      assert.strictEqual(wal.inLog().segments, 0)
    }))

  it.effect("PW-15, PG-07 a checkpoint that a reader keeps from making room is tried once per attempt, not in a circle", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const { log, wal } = yield* openByHand(disk, { autoCheckpointFrames: 1000 })
      const { submitBatch } = yield* wal.writer
      const error = (operation: "remove" | "write") =>
        disk.inject({ operation, path: /-wal-seg-/, fault: { kind: "error", code: "EIO" }, times: Infinity })
      yield* submitBatch(batchOf(1, { 2: 1 }))
      assert.isTrue(yield* wal.advanceAndFlush())
      // Each round tries to remove what could not be removed.
      const rounds = error("remove")
      yield* wal.checkpoint("passive")
      assert.strictEqual(rounds.hits, 1)
      const reader = log.openReader()
      yield* submitBatch(batchOf(2, { 2: 2 }))
      assert.isTrue(yield* wal.advanceAndFlush())
      rounds.remove()
      const counted = error("remove")
      error("write")
      yield* submitBatch(batchOf(3, { 2: 3 }))
      for (let attempt = 1; attempt <= 3; attempt++) {
        assert.isFalse(yield* wal.advanceAndFlush())
        yield* Effect.repeat(settle, { times: 5 })
        // One for the temporary file of the attempt, one for the round.
        assert.isAtMost(counted.hits, 2 * attempt)
      }
      reader.release()
    }))
})

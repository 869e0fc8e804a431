/** What a power loss, a failure and an interruption leave of a segment that is being written (PW-15, PW-23). */
import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Exit, Fiber, Result } from "effect"
import { nameOf } from "../src/AtomicFile.ts"
import { encode, isTemporarySegmentName, segmentPath, temporarySegmentPath } from "../src/SegmentFormat.ts"
import { readSegment, type SegmentAttempt, writeSegment } from "../src/SegmentStore.ts"
import { epochOf, recordOf } from "./support/segmentBytes.ts"

const database = "/data/app.db"
const epoch = epochOf(7n)
const path = segmentPath(database, epoch)
const temporary = (attempt: number) => temporarySegmentPath(database, epoch, attempt)

const records = [1n, 2n, 3n].map((begin) =>
  recordOf({ begin, page: Number(begin), after: new Uint8Array(700).fill(Number(begin)) })
)
const whole = Result.getOrThrow(encode(epoch, records))
/** As a flush hands them over: the header, then what each lane gathered. */
const buffers = [whole.subarray(0, 24), whole.subarray(24, 1000), whole.subarray(1000)]

const newDisk = () => {
  const disk = MemoryDisk.make({ async: false })
  disk.writeFile(database, new Uint8Array(512))
  return disk
}

const write = (
  disk: MemoryDisk,
  options: Partial<Pick<SegmentAttempt, "attempt" | "policy" | "background">> = {}
) =>
  Effect.flatMap(Vfs, (vfs) => writeSegment(vfs, { database, epoch, attempt: 1, policy: "full", buffers, ...options }))
    .pipe(
      Effect.provide(MemoryVfs.layerDisk(disk))
    )

/** What stands under the name of the segment: nothing, all of it, or something that reading refuses. */
const found = (disk: MemoryDisk) =>
  Effect.gen(function*() {
    const bytes = disk.readFile(path)
    if (bytes === undefined) return "nothing"
    const vfs = yield* Vfs
    const read = yield* Effect.result(readSegment(vfs, path, epoch))
    if (Result.isFailure(read)) return "refused"
    assert.deepStrictEqual(bytes, whole)
    return "whole"
  }).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))

const synced = ["full", "normal"] as const

describe("SegmentStore, crashing", () => {
  for (const policy of synced) {
    for (const background of [false, true]) {
      it.effect(`PW-23 ${policy}: once it is written no power loss takes it${background ? ", in the background" : ""}`, () =>
        Effect.gen(function*() {
          const disk = newDisk()
          yield* write(disk, { policy, background })
          assert.deepStrictEqual(disk.unsynced, [])
          assert.strictEqual(yield* found(disk.afterCrash("lost")), "whole")
          assert.deepStrictEqual(disk.files, [database, path])
        }))
    }

    it.effect(`PW-23 ${policy}: a power loss at any moment leaves nothing under the name, or all of it`, () =>
      Effect.gen(function*() {
        const disk = newDisk()
        const trace = disk.record()
        yield* write(disk, { policy })
        trace.stop()
        const seen = new Map<string, number>()
        for (const state of trace.crashStates()) {
          const what = yield* found(state.disk)
          assert.notStrictEqual(what, "refused", state.label)
          seen.set(what, (seen.get(what) ?? 0) + 1)
          for (const file of state.disk.files) {
            const isKnown = file === database || file === path || isTemporarySegmentName("app.db", nameOf(file))
            assert.isTrue(isKnown, `${file} ${state.label}`)
          }
        }
        assert.isAbove(seen.get("nothing") ?? 0, 10)
        assert.isAbove(seen.get("whole") ?? 0, 0)
      }))
  }

  it.effect("PW-23 off: nothing is synced; a kill takes nothing", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      const trace = disk.record()
      yield* write(disk, { policy: "off" })
      trace.stop()
      assert.deepStrictEqual(trace.steps.map(({ kind }) => kind).filter((kind) => kind.includes("ync")), [])
      disk.kill()
      assert.strictEqual(yield* found(disk), "whole")
    }))

  it.effect("PW-23 off: a power loss may take the segment, or its bytes alone, which reading notices", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* write(disk, { policy: "off" })
      const after = (choices: Parameters<MemoryDisk["afterCrash"]>[0]) => found(disk.afterCrash(choices))
      assert.strictEqual(yield* after("kept"), "whole")
      assert.strictEqual(yield* after("lost"), "nothing")
      assert.strictEqual(yield* after({ names: "kept", sizes: "kept", contents: "lost" }), "refused")
      assert.strictEqual(yield* after({ names: "kept", sizes: "lost", contents: "kept" }), "refused")
      assert.strictEqual(yield* after({ names: "lost", sizes: "kept", contents: "kept" }), "nothing")
      const hasFirstBlocks = ({ position }: { readonly position: number }) => position < 1024
      assert.strictEqual(yield* after({ names: "kept", sizes: "kept", contents: hasFirstBlocks }), "refused")
    }))

  const failing = ["open", "write", "syncData", "rename", "syncDirectory"] as const

  for (const operation of failing) {
    for (const background of [false, true]) {
      const how = background ? ", in the background" : ""
      it.effect(`PW-15 when ${operation} fails nothing is under the name, and the next attempt writes it whole${how}`, () =>
        Effect.gen(function*() {
          const disk = newDisk()
          const fault = disk.inject({ operation, fault: { kind: "error", code: "EIO" } })
          const error = yield* Effect.flip(write(disk, { background }))
          assert.strictEqual(fault.hits, 1)
          assert.deepStrictEqual([error.operation, error.code], [operation, "EIO"])
          assert.deepStrictEqual(disk.files, [database])
          const trace = disk.record()
          yield* write(disk, { attempt: 2, background })
          trace.stop()
          assert.isFalse(trace.steps.some((step) => step.path === temporary(1)), "the file that failed is left alone")
          assert.strictEqual(yield* found(disk.afterCrash("lost")), "whole")
          assert.deepStrictEqual(disk.files, [database, path])
        }))
    }
  }

  it.effect("PW-15 a failed sync that took the pages for written costs nothing: the next attempt is another file", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      disk.inject({ operation: "syncData", fault: { kind: "lostSync" } })
      // Not even the failed file can be removed: it is there with pages that no sync writes any more.
      disk.inject({ operation: "remove", fault: { kind: "error", code: "EACCES" } })
      const error = yield* Effect.flip(write(disk))
      assert.deepStrictEqual([error.operation, error.code], ["syncData", "EIO"])
      assert.deepStrictEqual(disk.files, [database, temporary(1)])
      const trace = disk.record()
      yield* write(disk, { attempt: 2 })
      trace.stop()
      assert.isFalse(trace.steps.some((step) => step.path === temporary(1)))
      assert.strictEqual(yield* found(disk.afterCrash("lost")), "whole")
      assert.isTrue(isTemporarySegmentName("app.db", nameOf(temporary(1))))
    }))

  it.effect("PW-15 a full disk: what was begun is removed, and with room again the next attempt succeeds", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      disk.capacityBytes = 1500
      const error = yield* Effect.flip(write(disk))
      assert.deepStrictEqual([error.operation, error.code], ["write", "ENOSPC"])
      assert.deepStrictEqual(disk.files, [database])
      disk.capacityBytes = 10_000
      yield* write(disk, { attempt: 2 })
      assert.strictEqual(yield* found(disk), "whole")
    }))

  it.effect("PW-15 a power loss at any moment of a failed attempt and its successor leaves nothing, or all of it", () =>
    Effect.gen(function*() {
      for (const operation of failing) {
        const disk = newDisk()
        disk.inject({ operation, fault: { kind: "error", code: "EIO" } })
        const trace = disk.record()
        yield* Effect.flip(write(disk))
        yield* write(disk, { attempt: 2 })
        trace.stop()
        for (const state of trace.crashStates({ perStep: 2 })) {
          assert.notStrictEqual(yield* found(state.disk), "refused", `${operation} ${state.label}`)
        }
      }
    }))

  it.effect("PW-15 the name that a failed attempt could not take back is replaced by the next", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      disk.inject({ operation: "syncDirectory", fault: { kind: "error", code: "EIO" } })
      disk.inject({ operation: "remove", path, fault: { kind: "error", code: "EIO" } })
      assert.strictEqual((yield* Effect.flip(write(disk))).operation, "syncDirectory")
      assert.deepStrictEqual(disk.files, [database, path])
      yield* write(disk, { attempt: 2 })
      assert.strictEqual(yield* found(disk.afterCrash("lost")), "whole")
      assert.deepStrictEqual(disk.files, [database, path])
    }))

  it.effect("PW-15 a file that has the name of an attempt already is neither written nor removed", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      disk.writeFile(temporary(1), new Uint8Array([1, 2, 3]))
      const error = yield* Effect.flip(write(disk))
      assert.deepStrictEqual([error.operation, error.code], ["open", "EEXIST"])
      assert.deepStrictEqual(disk.readFile(temporary(1)), new Uint8Array([1, 2, 3]))
      yield* write(disk, { attempt: 2 })
      assert.strictEqual(yield* found(disk), "whole")
    }))

  it.effect("an interruption waits until the segment is written", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      const hold = disk.hold({ operation: "syncData" })
      const fiber = yield* Effect.forkChild(write(disk), { startImmediately: true })
      yield* hold.reached
      const interruption = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
      yield* hold.release
      yield* Fiber.join(interruption)
      assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
      assert.strictEqual(yield* found(disk.afterCrash("lost")), "whole")
    }))

  it.effect("attempts are counted from 1 on", () =>
    Effect.gen(function*() {
      for (const attempt of [0, -1, 1.5]) {
        const exit = yield* Effect.exit(write(newDisk(), { attempt }))
        assert.isTrue(Exit.hasDies(exit), `${attempt}`)
      }
    }))
})

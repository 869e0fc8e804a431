/** The engine over files: what counts is what lies in their raw bytes. */
import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Fiber } from "effect"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { GroupCommitOptions } from "../src/GroupCommit.ts"
import { commit, isWaiting, outcomeOf, settle, start } from "./support/engine.ts"
import { describeFrames, parse, record } from "./support/testFrames.ts"

/** An engine over a file that begins at `path`, with cut points; what recovery would have found is in it already. */
const startOver = (path: string, options: GroupCommitOptions = {}) =>
  Effect.gen(function*() {
    const vfs = yield* Vfs
    const file = yield* vfs.open(path, { access: "readWrite", create: "ifMissing" })
    yield* vfs.syncDirectory(path.slice(0, path.lastIndexOf("/")) || "/")
    return yield* start({ padding: "sealed", file, name: path }, options)
  })

const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "group-commit-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
)

const platforms = [
  {
    name: "MemoryVfs",
    open: Effect.sync(() => {
      const disk = MemoryDisk.make()
      return { path: "/log", layer: MemoryVfs.layerDisk(disk), read: () => disk.readFile("/log") ?? new Uint8Array(0) }
    })
  },
  {
    name: "NodeVfs",
    open: Effect.map(temporaryDirectory, (directory) => {
      const path = join(directory, "log")
      return { path, layer: NodeVfs.layer, read: () => new Uint8Array(readFileSync(path)) }
    })
  }
] as const

for (const platform of platforms) {
  describe(`GroupCommit: over ${platform.name}`, () => {
    it.live("GC-01 GC-02 16 writers x 50 commits: every record is where its position says, without a gap", () =>
      Effect.gen(function*() {
        const { layer, path, read } = yield* platform.open
        yield* Effect.gen(function*() {
          const { log } = yield* startOver(path)
          const ends = new Map<string, number>()
          const writer = (number: number) =>
            Effect.forEach(
              Array.from({ length: 50 }, (_, index) => index),
              (index) =>
                Effect.map(commit(log, record(number, index, 8 + 8 * (index % 5))), (end) => {
                  ends.set(`${number}.${index}`, end)
                })
            )
          yield* Effect.forEach(Array.from({ length: 16 }, (_, number) => number), writer, { concurrency: "unbounded" })
          const records = parse(read()).filter((frame) => frame.kind === "record")
          const found = new Map(records.map((frame) => [`${frame.writer}.${frame.index}`, frame.lsn + frame.length]))
          assert.lengthOf(records, 800)
          assert.deepStrictEqual(Array.from(found), Array.from(ends).toSorted((one, other) => one[1] - other[1]))
        }).pipe(Effect.scoped, Effect.provide(layer))
      }))

    it.live("GC-05 while a reservation is open the file ends where it begins", () =>
      Effect.gen(function*() {
        const { layer, path, read } = yield* platform.open
        yield* Effect.gen(function*() {
          const { log } = yield* startOver(path)
          const before = yield* log.reserveAndEnqueue(record(0, 0))
          const reservation = yield* log.reserve(32)
          const behind = yield* Effect.forkChild(commit(log, record(2, 0)), { startImmediately: true })
          yield* log.commitAtLeast(before, "durable")
          yield* settle
          assert.isTrue(isWaiting(behind))
          assert.deepStrictEqual(read().subarray(reservation.start).filter((byte) => byte !== 0), new Uint8Array(0))
          assert.deepStrictEqual(describeFrames(read().subarray(0, reservation.start)), ["w0.0@0", "seal@8"])
          yield* reservation.fill(record(1, 0, 32))
          yield* Fiber.join(behind)
          assert.deepStrictEqual(describeFrames(read()), ["w0.0@0", "seal@8", "w1.0@24", "w2.0@56", "seal@64"])
        }).pipe(Effect.scoped, Effect.provide(layer))
      }))

    it.live("GC-01 a log that is continued begins where it ended", () =>
      Effect.gen(function*() {
        const { layer, path, read } = yield* platform.open
        const session = (initialLsn: number, index: number) =>
          Effect.gen(function*() {
            const { log } = yield* startOver(path, { initialLsn: toLsn(initialLsn) })
            yield* log.reserveAndEnqueue(record(0, index))
          }).pipe(Effect.scoped, Effect.provide(layer))
        yield* session(0, 0)
        yield* session(24, 1)
        assert.deepStrictEqual(describeFrames(read()), ["w0.0@0", "seal@8", "w0.1@24", "seal@32"])
      }))
  })
}

describe("GroupCommit: over a disk that breaks", () => {
  const path = "/log"

  for (
    const [what, fault] of [
      ["a write without space", { operation: "write", fault: { kind: "error", code: "ENOSPC" } }],
      ["a write that stops half-way", { operation: "write", fault: { kind: "shortWrite", bytes: 20, code: "EIO" } }],
      ["a sync that fails and loses the pages", { operation: "syncData", fault: { kind: "lostSync", code: "EIO" } }]
    ] as const
  ) {
    it.live(`GC-07 ${what}: acknowledged bytes survive the power loss, the failed batch is not acknowledged`, () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        yield* Effect.gen(function*() {
          const { log } = yield* startOver(path)
          const end = yield* commit(log, record(0, 0, 64))
          const handle = disk.inject({ path, times: 1, ...fault })
          const outcomes = yield* Effect.forEach(
            [1, 2, 3],
            (index) => outcomeOf(commit(log, record(0, index, 64))),
            { concurrency: "unbounded" }
          )
          assert.deepStrictEqual(outcomes, ["WalPoisoned", "WalPoisoned", "WalPoisoned"])
          assert.strictEqual(handle.hits, 1)
          const { durable } = log.watermarks()
          assert.isAtLeast(durable, end)
          assert.strictEqual(yield* outcomeOf(log.close), "WalPoisoned")
          const survived = disk.afterCrash("lost").readFile(path) ?? new Uint8Array(0)
          assert.deepStrictEqual(describeFrames(survived.subarray(0, durable)), ["w0.0@0", "seal@64"])
        }).pipe(Effect.scoped, Effect.provide(MemoryVfs.layerDisk(disk)))
      }))
  }

  it.live("GC-07 GC-12 a power loss at any step keeps what was acknowledged as durable", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      disk.writeFile(path, new Uint8Array(0))
      const trace = disk.record<{ readonly frame: string; readonly end: number }>()
      yield* Effect.gen(function*() {
        const { log } = yield* startOver(path)
        const writer = (number: number) =>
          Effect.forEach([0, 1, 2, 3, 4], (index) =>
            Effect.gen(function*() {
              const mode = (number + index) % 3 === 0 ? "written" : "durable"
              const length = 8 + 104 * number
              const end = yield* commit(log, record(number, index, length), mode)
              if (mode === "durable") trace.mark({ frame: `w${number}.${index}@${end - length}`, end })
            }))
        yield* Effect.forEach([0, 1, 2, 3], writer, { concurrency: "unbounded" })
      }).pipe(Effect.scoped, Effect.provide(MemoryVfs.layerDisk(disk)))
      trace.stop()
      let states = 0
      let acknowledged = 0
      for (const state of trace.crashStates({ perStep: 2, exhaustiveUpTo: 4 })) {
        states++
        // Everything before the last acknowledged position is whole.
        const end = Math.max(0, ...state.marks.map((mark) => mark.end))
        const bytes = state.disk.readFile(path) ?? new Uint8Array(0)
        const whole = end === 0 ? [] : describeFrames(bytes.subarray(0, end))
        for (const { frame } of state.marks) {
          acknowledged++
          assert.include(whole, frame, state.label)
        }
      }
      assert.isAbove(states, 20)
      assert.isAbove(acknowledged, 100)
    }))
})

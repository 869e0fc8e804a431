/** The segments of an append log: how the next one begins, how the first ones go. */
import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import type { TraceEvent } from "@tidemark/platform/MemoryDisk"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import * as Scheduler from "effect/Scheduler"
import { preparedSegmentName, segmentFileName } from "../src/AppendLogFormat.ts"
import * as LogMetrics from "../src/LogMetrics.ts"
import {
  bytesOf,
  type Log,
  memoryDirectory,
  numberOf,
  openMemory,
  payloadOf,
  readAll,
  textsOf
} from "./support/appendLog.ts"
import { isWaiting, outcomeOf, settle } from "./support/engine.ts"
import { SeededScheduler } from "./support/seededScheduler.ts"

const segmentsOn = (disk: MemoryDisk) => disk.files.filter((path) => path.endsWith(".tlog"))
const startOf = (path: string) => Number.parseInt(path.slice(-21, -5), 16)
const isSegment = (path: string) => path.endsWith(".tlog")

const appendNumbers = (log: Log, count: number, from = 0, length = 30) =>
  Effect.forEach(
    Array.from({ length: count }, (_, at) => from + at),
    (number) => log.append(payloadOf(number, length))
  )

const numbers = (log: Log) => Effect.map(readAll(log), (records) => records.map(({ payload }) => numberOf(payload)))

/** A counter of the log of these tests, which nobody else counts in. */
const counted = (metric: Metric.Counter<number>) =>
  Effect.map(Metric.value(Metric.withAttributes(metric, { log: memoryDirectory })), ({ count }) => count)

const withOwnMetrics = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => Effect.provideService(effect, Metric.MetricRegistry, new Map()))

describe("AppendLog segments", () => {
  it.effect("LOG-07 a segment has its header, its name and everything before it, durably, before its first frame", () =>
    Effect.gen(function*() {
      for (const until of ["durable", "written"] as const) {
        const disk = MemoryDisk.make({ async: { seed: 3, maxTurns: 2 } })
        const trace = disk.record()
        const { log } = yield* openMemory(disk, { segmentBytes: 500 })
        yield* Effect.forEach([...Array(60).keys()], (number) => log.append(payloadOf(number, 30), { until }))
        trace.stop()
        const begun = checkOrder(trace.steps)
        assert.isTrue(begun > 5, `${begun} segments`)
        assert.strictEqual((yield* Effect.andThen(log.flush, numbers(log))).length, 60)
      }
    }))

  /** Asserts the order of the steps of every rotation in a trace, and answers how many segments began. */
  const checkOrder = (steps: ReadonlyArray<TraceEvent>): number => {
    const isDirty = new Map<number, boolean>()
    const pathOf = new Map<number, string>()
    const hasDurableName = new Map<string, boolean>()
    let begun = 0
    for (const step of steps) {
      if (step.kind === "create") pathOf.set(step.inode, step.path)
      if (step.kind === "write") {
        if (isSegment(step.path)) {
          assert.isTrue(hasDurableName.get(step.path), `${step.path} has its name before it has frames`)
          assert.isTrue(step.position >= 64, "a header is not written twice")
        }
        isDirty.set(step.inode, true)
      }
      if (step.kind === "syncData" || step.kind === "syncFull") isDirty.set(step.inode, false)
      if (step.kind === "syncDirectory") { for (const path of hasDurableName.keys()) hasDurableName.set(path, true) }
      if (step.kind === "rename" && isSegment(step.toPath)) {
        begun++
        for (const [inode, path] of pathOf) {
          if (path === step.path) {
            assert.isFalse(isDirty.get(inode), "the header is durable before it has a name")
            pathOf.set(inode, step.toPath)
          } else if (isSegment(path)) assert.isNotTrue(isDirty.get(inode), "the segment before it is durable")
        }
        hasDurableName.set(step.toPath, false)
      }
    }
    return begun
  }

  it.effect("LOG-07 the next segment is there, filled with zeros, before it is needed: a sync changes no size", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: false })
      const { log } = yield* openMemory(disk, { segmentBytes: 1000 })
      const sizes = () => segmentsOn(disk).map((path) => disk.readFile(path)?.length)
      yield* log.append(payloadOf(0, 100))
      assert.deepStrictEqual(sizes(), [1000], "also the first one is filled ahead of its frames")
      yield* appendNumbers(log, 200)
      assert.isTrue(segmentsOn(disk).length > 10)
      // One batch fits, or does not: the last one of a segment may pass its end.
      for (const size of sizes()) assert.isTrue(size !== undefined && size >= 1000 && size < 1100, `${size}`)
      assert.strictEqual(yield* counted(LogMetrics.rotations), segmentsOn(disk).length - 1)
      assert.strictEqual(yield* counted(LogMetrics.unpreparedRotations), 0)
      const { value } = yield* Metric.value(Metric.withAttributes(LogMetrics.segments, { log: memoryDirectory }))
      assert.strictEqual(value, segmentsOn(disk).length)
    }).pipe(withOwnMetrics))

  it.effect("LOG-07 a segment that was not prepared is filled ahead of its records while they are written", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 100_000, preallocateBytes: 1000 })
      const size = () => disk.readFile(segmentsOn(disk)[0] ?? "")?.length ?? 0
      const trace = disk.record()
      let furthest = 0
      for (let number = 0; number < 300; number++) {
        const { end } = yield* log.append(payloadOf(number, 100))
        furthest = Math.max(furthest, size() - end)
        assert.isTrue(size() >= 64 + end + 16)
        // As far ahead as it has come, but 16 pieces at the most; half a piece is left when the next one is begun.
        assert.isTrue(size() <= 64 + 2 * end + 3000 && size() <= end + 19_000, `${end}: ${size()}`)
      }
      trace.stop()
      assert.isTrue(furthest > 10_000, `${furthest}`)
      // Each record is one write; the rest are zeros, in pieces.
      const zeros = trace.steps.filter((step) => step.kind === "write" && step.bytes.every((byte) => byte === 0))
      assert.isTrue(zeros.length > 30 && zeros.length < 70, `${zeros.length}`)
      assert.strictEqual((yield* readAll(log)).length, 300)
    }))

  it.effect("LOG-07 zeros never land on records, whoever is faster (100 seeds)", () =>
    Effect.gen(function*() {
      for (let seed = 0; seed < 100; seed++) {
        const disk = MemoryDisk.make({ async: { seed, maxTurns: 4 } })
        yield* Effect.scoped(Effect.gen(function*() {
          const { log } = yield* openMemory(disk, {
            segmentBytes: 3000,
            preallocateBytes: 100 + seed,
            maxBatchBytes: 400
          })
          yield* Effect.forEach([...Array(80).keys()], (number) => log.append(payloadOf(number, 20 + seed)), {
            concurrency: 1 + seed % 5
          })
          assert.deepStrictEqual((yield* numbers(log)).toSorted((a, b) => a - b), [...Array(80).keys()])
        }))
      }
    }))

  it.effect("LOG-07 without preallocation a file is as long as its records", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 2000, preallocateBytes: 0 })
      yield* appendNumbers(log, 60)
      const starts = segmentsOn(disk).map(startOf)
      assert.deepStrictEqual(
        segmentsOn(disk).map((path) => disk.readFile(path)?.length),
        starts.map((start, at) => 64 + (starts[at + 1] ?? log.watermarks().reserved) - start)
      )
      assert.isFalse(disk.files.some((path) => path.includes(".tmp")))
    }))

  it.effect("LOG-07 a rotation does not wait for zeros: it takes the file as far as it is", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 4_000_000, maxBatchBytes: 300_000 })
      const big = new Uint8Array(300_000).fill(1)
      const hold = disk.hold({ operation: "write", path: /\.tmp-segment/ })
      yield* Effect.repeat(log.append(big), { times: 7 })
      yield* hold.reached
      const writer = yield* Effect.forkChild(Effect.repeat(log.append(big), { times: 7 }), { startImmediately: true })
      yield* Effect.repeat(Effect.yieldNow, { until: () => log.watermarks().written >= 4_000_000 })
      yield* settle
      assert.isTrue(isWaiting(writer), "not while zeros are on their way into the file")
      assert.strictEqual(segmentsOn(disk).length, 1)
      yield* hold.release
      yield* Fiber.join(writer)
      assert.strictEqual(segmentsOn(disk).length, 2)
      assert.strictEqual(yield* counted(LogMetrics.unpreparedRotations), 1)
      assert.strictEqual((yield* readAll(log)).filter(({ payload }) => payload.every((byte) => byte === 1)).length, 16)
    }).pipe(withOwnMetrics))

  it.effect("LOG-07, LOG-11 a rotation does not lose its file to the removal of one that could not be prepared", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 1000 })
      disk.inject({ operation: "write", path: /\.tmp-segment/, fault: { kind: "error", code: "ENOSPC" } })
      const hold = disk.hold({ operation: "remove", path: /\.tmp-segment/ })
      const rename = disk.hold({ operation: "rename", path: /\.tmp-segment/ })
      const writer = yield* Effect.forkChild(appendNumbers(log, 30), { startImmediately: true })
      yield* hold.reached
      // Unless it waits for the removal the rotation has its file now, under the name that is to be removed.
      yield* Effect.repeat(settle, { times: 20 })
      yield* hold.release
      yield* Effect.repeat(settle, { times: 5 })
      yield* rename.release
      yield* Fiber.join(writer)
      assert.strictEqual((yield* numbers(log)).length, 30)
    }))

  it.effect("LOG-07 what cannot be prepared ahead harms nobody before it is needed", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 1000 })
      const fault = disk.inject({
        operation: "write",
        path: /\.tmp-segment/,
        fault: { kind: "shortWrite", bytes: 100 }
      })
      yield* appendNumbers(log, 100)
      assert.strictEqual(fault.hits, 1)
      assert.isTrue(segmentsOn(disk).length > 3)
      assert.strictEqual(yield* counted(LogMetrics.unpreparedRotations), 1)
      assert.deepStrictEqual(yield* numbers(log), [...Array(100).keys()])
      // When it is needed and cannot be had, the log has nowhere to go.
      disk.inject({ operation: "open", path: /\.tmp-segment/, times: 2, fault: { kind: "error", code: "EMFILE" } })
      assert.strictEqual(yield* outcomeOf(appendNumbers(log, 100)), "WalPoisoned")
    }).pipe(withOwnMetrics))

  it.effect("GC-13 a batch is never split over segments; the log rotates when it has reached the bound", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 500 })
      yield* log.append(new Uint8Array(5000).fill(1))
      yield* log.append(bytesOf("next"))
      assert.deepStrictEqual(segmentsOn(disk).map(startOf), [0, 5024])
      yield* log.appendAll(Array.from({ length: 30 }, (_, number) => payloadOf(number, 100)))
      yield* log.append(bytesOf("last"))
      assert.deepStrictEqual(segmentsOn(disk).map(startOf), [0, 5024, 5024 + 32 + 30 * 112 + 16])
      yield* log.rotate
      yield* log.rotate
      assert.strictEqual(segmentsOn(disk).length, 4, "an empty segment is not followed by another one")
      assert.strictEqual((yield* readAll(log)).length, 33)
    }))

  it.effect("LOG-08 truncation deletes whole segments, moves nothing, and is there after a reopening", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: false })
      const { close, log } = yield* openMemory(disk, { segmentBytes: 400 })
      const appended = yield* appendNumbers(log, 60)
      const starts = segmentsOn(disk).map(startOf)
      assert.isTrue(starts.length > 6)
      let kept = 0
      for (const [number, { end, start }] of appended.entries()) {
        const expected = starts.findLast((segment) => segment <= start) ?? 0
        assert.strictEqual(yield* log.truncateBefore(start), expected, `before record ${number}`)
        assert.strictEqual(log.watermarks().firstKept, expected)
        assert.deepStrictEqual(segmentsOn(disk).map(startOf), starts.filter((segment) => segment >= expected))
        assert.isFalse(disk.unsynced.some((what) => what.includes("tlog")), disk.unsynced.join())
        if (number < 59) {
          // Behind a record there is the mark of its batch: if only that is left of a segment, the segment goes.
          const next = starts.findLast((segment) => segment <= end + 16) ?? 0
          assert.strictEqual(yield* log.truncateBefore(end), next, `behind record ${number}`)
        }
        kept = log.watermarks().firstKept
      }
      assert.strictEqual(yield* log.truncateBefore(toLsn(0)), kept, "never back")
      assert.strictEqual((yield* log.read(appended[59]?.start ?? toLsn(0))).start, appended[59]?.start)
      yield* close
      const again = yield* openMemory(disk, { segmentBytes: 400 })
      assert.strictEqual(again.log.watermarks().firstKept, kept)
      assert.strictEqual((yield* numbers(again.log)).at(-1), 59)
    }))

  it.effect("LOG-08 truncating everything leaves an empty log that goes on at the same LSN", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const first = yield* openMemory(disk, { segmentBytes: 400 })
      const appended = yield* appendNumbers(first.log, 20)
      const { reserved } = first.log.watermarks()
      // The end of the last record is as good as the end of the log.
      assert.strictEqual(yield* first.log.truncateBefore(appended.at(-1)?.end ?? toLsn(0)), reserved)
      assert.deepStrictEqual(segmentsOn(disk).map(startOf), [reserved])
      assert.deepStrictEqual(yield* numbers(first.log), [])
      assert.strictEqual(yield* first.log.truncateBefore(reserved), reserved, "once more changes nothing")
      assert.deepStrictEqual(segmentsOn(disk).map(startOf), [reserved])
      yield* first.close

      const second = yield* openMemory(disk, { segmentBytes: 400 })
      assert.deepInclude(second.log.recovery, { firstKept: reserved, end: reserved, droppedBytes: 0, isNew: false })
      assert.deepStrictEqual(yield* numbers(second.log), [])
      assert.strictEqual((yield* second.log.append(payloadOf(20))).start, reserved)
      const { end } = yield* second.log.append(payloadOf(21), { until: "appended" })
      yield* second.log.truncateBefore(end)
      assert.deepStrictEqual(yield* numbers(second.log), [])
      yield* second.log.append(payloadOf(22))
      yield* second.close

      // After a reopening the end of the last record is known as well.
      const third = yield* openMemory(disk, { segmentBytes: 400 })
      const [record] = yield* readAll(third.log)
      assert.strictEqual(
        yield* third.log.truncateBefore(record?.end ?? toLsn(0)),
        third.log.watermarks().reserved
      )
      assert.deepStrictEqual(yield* numbers(third.log), [])
    }))

  it.effect("LOG-08 what was only written is durable before it is let go of", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 400 })
      const appended = yield* Effect.forEach(
        [...Array(30).keys()],
        (number) => log.append(payloadOf(number, 30), { until: "written" })
      )
      assert.strictEqual(log.watermarks().durable, 0)
      yield* log.truncateBefore(appended[20]?.start ?? toLsn(0))
      const { durable, firstKept, reserved, written } = log.watermarks()
      assert.isTrue(0 < firstKept && firstKept <= durable && durable <= written && written <= reserved)
      assert.include(yield* numbers(log), 20)
    }))

  it.effect("LOG-08 what is appended while everything is truncated stays", () =>
    Effect.gen(function*() {
      for (let seed = 0; seed < 60; seed++) {
        const disk = MemoryDisk.make({ async: { seed, maxTurns: 3 } })
        yield* Effect.scoped(Effect.gen(function*() {
          const { log } = yield* openMemory(disk, { segmentBytes: 300 })
          const kept: Array<number> = []
          let cut = toLsn(0)
          const truncating = Effect.gen(function*() {
            for (let round = 0; round < 6; round++) {
              cut = log.watermarks().reserved
              yield* log.truncateBefore(cut)
            }
          })
          const appending = Effect.forEach(
            [...Array(40).keys()],
            (number) =>
              Effect.map(log.append(payloadOf(number)), ({ start }) => {
                kept.push(start)
              }),
            { concurrency: 3 }
          )
          yield* Effect.all([truncating, appending], { concurrency: "unbounded" })
          const { firstKept } = log.watermarks()
          assert.isTrue(firstKept <= cut)
          assert.deepStrictEqual(
            (yield* readAll(log)).map(({ start }) => start as number),
            kept.filter((start) => start >= firstKept).toSorted((a, b) => a - b)
          )
        }))
      }
    }))

  it.effect("LOG-08 a reservation that is just being made is not truncated away (100 seeds)", () =>
    Effect.gen(function*() {
      for (let seed = 0; seed < 100; seed++) {
        yield* Effect.provideService(
          Effect.scoped(Effect.gen(function*() {
            const { log } = yield* openMemory(MemoryDisk.make({ async: false }))
            yield* log.append(payloadOf(1))
            const { reserved } = log.watermarks()
            const reserving = yield* Effect.forkChild(
              Effect.scoped(Effect.gen(function*() {
                const { end, fill } = yield* log.reserve(2)
                yield* fill(payloadOf(2))
                yield* log.commitAtLeast(end)
              }))
            )
            yield* log.truncateBefore(reserved)
            yield* Fiber.join(reserving)
            assert.include(yield* numbers(log), 2, `seed ${seed}`)
          })),
          Scheduler.Scheduler,
          new SeededScheduler(seed, 0.4)
        )
      }
    }))

  it.effect("LOG-08 a file that cannot be removed is tried again, and a failed sync of the directory is final", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 300 })
      const appended = yield* appendNumbers(log, 30)
      const cut = appended[20]?.start ?? toLsn(0)
      const before = segmentsOn(disk)
      disk.inject({ operation: "remove", skip: 1, fault: { kind: "error", code: "EBUSY" } })
      const error = yield* Effect.flip(log.truncateBefore(cut))
      assert.deepInclude(error, { _tag: "VfsError", operation: "remove", path: before[1] ?? "" })
      assert.deepStrictEqual(segmentsOn(disk), before.slice(1), "nothing behind it goes before it")
      assert.isTrue(log.watermarks().firstKept > startOf(before[2] ?? ""))
      assert.strictEqual(yield* outcomeOf(readAll(log, toLsn(startOf(before[1] ?? "")))), "LsnTruncated")
      const firstKept = yield* log.truncateBefore(toLsn(0))
      assert.deepStrictEqual(segmentsOn(disk).map(startOf), before.map(startOf).filter((start) => start >= firstKept))

      disk.inject({ operation: "syncDirectory", fault: { kind: "error", code: "EIO" } })
      assert.strictEqual(yield* outcomeOf(log.truncateBefore(appended[25]?.start ?? toLsn(0))), "WalPoisoned")
      assert.strictEqual(yield* outcomeOf(log.append(bytesOf("x"))), "WalPoisoned")
    }))

  it.effect("LOG-08 a rotation that was asked for and finds no room changes nothing; truncation frees room before it needs any", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 1000 })
      yield* appendNumbers(log, 40)
      const before = segmentsOn(disk)
      assert.isTrue(before.length > 2)
      // Also what was prepared ahead has no room for its header.
      const full = { path: /\.tmp-segment/, fault: { kind: "error", code: "ENOSPC" } } as const
      disk.inject({ ...full, operation: "syncFull" })
      assert.strictEqual(yield* outcomeOf(log.rotate), "VfsError")
      assert.deepStrictEqual(segmentsOn(disk), before)
      disk.inject({ ...full, operation: "open" })
      const { reserved } = log.watermarks()
      assert.strictEqual(yield* outcomeOf(log.truncateBefore(reserved)), "VfsError")
      assert.deepStrictEqual(segmentsOn(disk), before.slice(-1))
      yield* appendNumbers(log, 1, 40)
      assert.strictEqual((yield* numbers(log)).at(-1), 40)
      const end = log.watermarks().reserved
      assert.strictEqual(yield* log.truncateBefore(end), end)
      yield* appendNumbers(log, 1, 41)
      assert.deepStrictEqual(yield* numbers(log), [41])
      // Half done is another matter.
      disk.inject({ operation: "rename", fault: { kind: "error", code: "EIO" } })
      assert.strictEqual(yield* outcomeOf(log.rotate), "WalPoisoned")
    }))

  it.effect("RC-25 what was prepared goes when the log closes, and what a crash leaves goes at the next start", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { close, log } = yield* openMemory(disk, { segmentBytes: 400 })
      const prepared = `${memoryDirectory}/${preparedSegmentName(1n)}`
      yield* appendNumbers(log, 6)
      yield* settle
      assert.isDefined(disk.readFile(prepared))
      yield* close
      assert.isUndefined(disk.readFile(prepared))

      disk.writeFile(prepared, new Uint8Array(1000).fill(9))
      disk.writeFile(`${memoryDirectory}/.tmp-something`, new Uint8Array(3))
      disk.writeFile(`${memoryDirectory}/notes.txt`, bytesOf("mine"))
      const again = yield* openMemory(disk, { segmentBytes: 400 })
      assert.deepInclude(again.log.recovery, { cases: ["RC-25"], foreign: ["notes.txt"] })
      assert.deepStrictEqual(again.log.recovery.swept, [preparedSegmentName(1n), ".tmp-something"])
      assert.deepStrictEqual(disk.files.map((path) => path.slice(memoryDirectory.length + 1)), [
        segmentFileName(toLsn(0)),
        "lock",
        "notes.txt"
      ])
      assert.deepStrictEqual(yield* numbers(again.log), [0, 1, 2, 3, 4, 5])
    }))

  it.effect("LOG-12 rotating and truncating go on under thousands of appends", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: false })
      const { log } = yield* openMemory(disk, { segmentBytes: 20_000, maxQueuedBytes: 30_000 })
      const total = 3000
      yield* Effect.all([
        Effect.forEach([...Array(total).keys()], (number) => log.append(payloadOf(number, 40)), {
          concurrency: 500,
          discard: true
        }),
        Effect.repeat(Effect.andThen(log.rotate, Effect.yieldNow), { times: 20 }),
        Effect.repeat(
          Effect.andThen(Effect.suspend(() => log.truncateBefore(log.watermarks().durable)), Effect.yieldNow),
          { times: 10 }
        )
      ], { concurrency: "unbounded" })
      const { firstKept } = log.watermarks()
      const left = yield* numbers(log)
      assert.isTrue(firstKept > 0 && left.length < total)
      assert.deepStrictEqual(new Set(left).size, left.length)
      assert.isTrue(left.includes(total - 1) || left.length === 0)
      assert.strictEqual(textsOf(yield* readAll(log, log.watermarks().durable)).length, 0)
    }))
})

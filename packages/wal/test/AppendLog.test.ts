/** The append log as its writers see it: append, wait, reserve, reopen. */
import { assert, describe, it } from "@effect/vitest"
import { toLsn, toTxnId } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import fc from "fast-check"
import { segmentFileName, segmentHeaderBytes } from "../src/AppendLogFormat.ts"
import * as TransactionRecordFormat from "../src/TransactionRecordFormat.ts"
import {
  bytesOf,
  memoryDirectory,
  numberOf,
  openMemory,
  payloadOf,
  readAll,
  textOf,
  textsOf
} from "./support/appendLog.ts"
import { immediate, isWaiting, outcomeOf, settle } from "./support/engine.ts"

/** The bytes of the first segment of a log. */
const firstSegment = (disk: MemoryDisk): Uint8Array =>
  disk.readFile(`${memoryDirectory}/${segmentFileName(toLsn(0))}`) ?? new Uint8Array(0)

describe("AppendLog", () => {
  it.effect("LOG-01 one writer, round trip, reopened", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const first = yield* openMemory(disk)
      assert.isTrue(first.log.recovery.isNew)
      const one = yield* first.log.append(bytesOf("one"))
      const two = yield* first.log.append(bytesOf("two, which is longer"))
      assert.strictEqual(one.start, 0)
      // Head 8, payload padded to 8, mark of the batch 16.
      assert.deepStrictEqual([one.end, two.start, two.end], [16, 32, 64])
      const before = yield* readAll(first.log)
      assert.deepStrictEqual(textsOf(before), ["one", "two, which is longer"])
      yield* first.close

      const second = yield* openMemory(disk)
      assert.isFalse(second.log.recovery.isNew)
      assert.strictEqual(second.log.recovery.droppedBytes, 0)
      assert.deepStrictEqual(second.log.logId, first.log.logId)
      assert.deepStrictEqual(yield* readAll(second.log), before)
      assert.deepStrictEqual(before.map(({ end, start }) => ({ end, start })), [one, two])
      assert.strictEqual(textOf((yield* second.log.read(two.start)).payload), "two, which is longer")
      const three = yield* second.log.append(bytesOf("three"))
      assert.strictEqual(three.start, two.end + 16)
      assert.deepStrictEqual(textsOf(yield* readAll(second.log, two.end)), ["three"])
    }))

  it.effect("LOG-02 a record lies where its LSN and the start of its segment say", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 512 })
      const appended = yield* Effect.forEach(
        Array.from({ length: 40 }, (_, number) => number),
        (number) => Effect.map(log.append(payloadOf(number, 20 + number)), (at) => ({ number, ...at }))
      )
      const segments = disk.files.filter((path) => path.endsWith(".tlog"))
      assert.isTrue(segments.length > 4, segments.join(", "))
      for (const { number, start } of appended) {
        const path = segments.findLast((path) => Number.parseInt(path.slice(-21, -5), 16) <= start) ?? ""
        const startLsn = Number.parseInt(path.slice(-21, -5), 16)
        const bytes = disk.readFile(path) ?? new Uint8Array(0)
        const offset = 64 + (start - startLsn)
        const view = new DataView(bytes.buffer, bytes.byteOffset)
        assert.deepStrictEqual([view.getUint32(offset, true), view.getUint32(offset + 4, true)], [1, 20 + number])
        assert.strictEqual(numberOf(bytes.subarray(offset + 8, offset + 28 + number)), number)
      }
    }))

  it.effect("GC-02 16 writers x 50 commits: every record once, LSNs grow, those of one hand-over are neighbours", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 4096 })
      const results = yield* Effect.forEach(
        Array.from({ length: 16 }, (_, writer) => writer),
        (writer) =>
          Effect.forEach(
            Array.from({ length: 50 }, (_, round) => writer * 100 + round),
            (number) =>
              Effect.map(log.appendAll([payloadOf(number, 10), payloadOf(number + 50, 30)]), (pair) => ({
                number,
                pair
              }))
          ),
        { concurrency: "unbounded" }
      )
      const records = yield* readAll(log)
      assert.strictEqual(records.length, 16 * 50 * 2)
      const at = new Map(records.map((record) => [record.start, record]))
      for (const { number, pair } of results.flat()) {
        const [first, second] = pair
        assert.strictEqual(pair.length, 2)
        assert.strictEqual(first?.end, second?.start)
        assert.deepStrictEqual(
          pair.map(({ start }) => at.get(start)).map((record) => record && numberOf(record.payload)),
          [number, number + 50]
        )
        assert.deepStrictEqual(pair.map(({ start }) => at.get(start)?.end), pair.map(({ end }) => end))
      }
      assert.deepStrictEqual(
        records.map(({ start }) => start),
        records.map(({ start }) => start).toSorted((a, b) => a - b)
      )
    }))

  it.effect("GC-12 appended, written and durable are three promises", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk)
      const hold = disk.hold({ operation: "write", path: /\.tlog$/ })
      const appended = yield* log.append(bytesOf("a"), { until: "appended" })
      assert.deepStrictEqual(appended, { start: toLsn(0), end: toLsn(16) })
      const writer = yield* Effect.forkChild(log.append(bytesOf("w"), { until: "written" }), { startImmediately: true })
      yield* hold.reached
      assert.isTrue(isWaiting(writer))
      assert.strictEqual(log.watermarks().written, 0)
      yield* hold.release
      yield* Fiber.join(writer)
      assert.deepStrictEqual(log.watermarks(), {
        firstKept: toLsn(0),
        durable: toLsn(0),
        written: toLsn(48),
        reserved: toLsn(48)
      })
      assert.isTrue(disk.unsynced.some((what) => what.includes(".tlog")), "nobody has asked for a sync")
      assert.deepStrictEqual(textsOf(yield* readAll(log)), [], "what is not durable is not read")
      yield* log.append(bytesOf("d"))
      assert.deepStrictEqual(textsOf(yield* readAll(log)), ["a", "w", "d"])
      assert.isFalse(disk.unsynced.some((what) => what.includes(".tlog")))
    }))

  it.effect("GC-03 GC-12 commitAtLeast answers at once what is so, and makes durable what was only written", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk)
      const { end } = yield* log.append(bytesOf("a"), { until: "written" })
      assert.deepStrictEqual(immediate(log.commitAtLeast(end, "written")), Exit.void)
      assert.strictEqual(log.watermarks().durable, 0)
      yield* log.commitAtLeast(end)
      assert.strictEqual(log.watermarks().durable, 32)
      yield* log.append(bytesOf("b"), { until: "appended" })
      yield* log.flush
      assert.strictEqual(log.watermarks().durable, log.watermarks().reserved)
    }))

  it.effect("GC-10 what no log can hold is refused before anything is reserved", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { maxRecordBytes: 100 })
      const nothing = new Uint8Array(0)
      assert.strictEqual(yield* outcomeOf(log.append(nothing)), "EmptyRecord")
      assert.strictEqual(yield* outcomeOf(log.append(new Uint8Array(101))), "RecordTooLarge")
      assert.strictEqual(yield* outcomeOf(Effect.scoped(log.reserve(0))), "EmptyRecord")
      assert.strictEqual(yield* outcomeOf(Effect.scoped(log.reserve(101))), "RecordTooLarge")
      assert.strictEqual(yield* outcomeOf(log.appendAll([])), "EmptyRecord")
      assert.strictEqual(yield* outcomeOf(log.appendAll([bytesOf("a"), nothing])), "EmptyRecord")
      // Together at most what a record of 100 bytes takes: 8 + 104. 48 + 64 is that, 48 + 72 is not.
      assert.strictEqual(yield* outcomeOf(log.appendAll([new Uint8Array(40), new Uint8Array(57)])), "RecordTooLarge")
      assert.strictEqual(log.watermarks().reserved, 0)
      assert.strictEqual(yield* outcomeOf(log.commitAtLeast(toLsn(8))), "LsnNotReserved")
      assert.strictEqual(yield* outcomeOf(log.commitAtLeast(toLsn(8), "written")), "LsnNotReserved")
      assert.strictEqual(yield* outcomeOf(log.truncateBefore(toLsn(8))), "LsnNotReserved")
      assert.strictEqual(yield* outcomeOf(readAll(log, toLsn(8))), "LsnNotReserved")
      assert.strictEqual(yield* outcomeOf(log.read(toLsn(8))), "LsnNotReserved")
      assert.strictEqual(yield* outcomeOf(log.read(toLsn(0))), "LsnNotReserved")
      yield* log.append(new Uint8Array(100).fill(1))
      yield* log.appendAll([new Uint8Array(40).fill(2), new Uint8Array(56).fill(3)])
      assert.deepStrictEqual((yield* readAll(log)).map(({ payload }) => payload.length), [100, 40, 56])
    }))

  it.effect("GC-04 GC-05 GC-06 an open reservation holds back what stands behind it, and is filled or padded", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk)
      const scope = yield* Scope.make()
      yield* log.append(bytesOf("before"))
      const filled = yield* Scope.provide(log.reserve(6), scope)
      const abandoned = yield* Scope.provide(log.reserve(300), scope)
      const behind = yield* Effect.forkChild(log.append(bytesOf("behind")), { startImmediately: true })
      yield* settle
      assert.isTrue(isWaiting(behind))
      assert.isTrue(log.watermarks().durable <= filled.start)
      assert.isTrue(firstSegment(disk).subarray(segmentHeaderBytes + filled.start).every((byte) => byte === 0))
      yield* filled.fill(bytesOf("filled"))
      yield* log.commitAtLeast(filled.end)
      assert.isTrue(isWaiting(behind))
      assert.isTrue(firstSegment(disk).subarray(segmentHeaderBytes + abandoned.start).every((byte) => byte === 0))
      yield* Scope.close(scope, Exit.void)
      const { start } = yield* Fiber.join(behind)
      assert.isTrue(start >= abandoned.end)
      assert.deepStrictEqual(textsOf(yield* readAll(log)), ["before", "filled", "behind"])
      assert.strictEqual(textOf((yield* log.read(filled.start)).payload), "filled")
      assert.strictEqual(yield* outcomeOf(log.read(abandoned.start)), "LsnNotAFrame")
      assert.strictEqual(yield* outcomeOf(filled.fill(bytesOf("filled"))), "defect")
    }))

  it.effect("GC-11 a writer that finds the queue full waits in line, having reserved nothing; who leaves it lets the next one in", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { maxQueuedBytes: 200 })
      const hold = disk.hold({ operation: "write", path: /\.tlog$/ })
      const fork = (text: string) => Effect.forkChild(log.append(bytesOf(text)), { startImmediately: true })
      const first = yield* fork("first".padEnd(100))
      yield* hold.reached
      const full = log.watermarks().reserved
      const second = yield* fork("second".padEnd(100))
      const third = yield* fork("third")
      const fourth = yield* Effect.forkChild(log.appendAll([bytesOf("fourth"), bytesOf("fifth")]), {
        startImmediately: true
      })
      yield* settle
      assert.deepStrictEqual([second, third, fourth].map(isWaiting), [true, true, true])
      assert.strictEqual(log.watermarks().reserved, full, "nothing was reserved")
      yield* Fiber.interrupt(second)
      // There was room for the small ones all the time, but not out of turn.
      assert.isTrue(log.watermarks().reserved > full)
      yield* hold.release
      yield* Effect.all([Fiber.join(first), Fiber.join(third), Fiber.join(fourth)])
      assert.deepStrictEqual(textsOf(yield* readAll(log)).map((text) => text.trim()), [
        "first",
        "third",
        "fourth",
        "fifth"
      ])
    }))

  it.effect("GC-11 a writer whose payload shrank while it stood in line is told so, and nobody else", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { maxQueuedBytes: 100 })
      const hold = disk.hold({ operation: "write", path: /\.tlog$/ })
      const first = yield* Effect.forkChild(log.append(new Uint8Array(80).fill(1)), { startImmediately: true })
      yield* hold.reached
      const buffer = new ArrayBuffer(80, { maxByteLength: 80 })
      const shrinking = new Uint8Array(buffer).fill(2)
      const second = yield* Effect.forkChild(log.append(shrinking), { startImmediately: true })
      const third = yield* Effect.forkChild(log.append(new Uint8Array(80).fill(3)), { startImmediately: true })
      buffer.resize(3)
      yield* hold.release
      assert.strictEqual(yield* outcomeOf(Fiber.join(second)), "defect")
      yield* Effect.all([Fiber.join(first), Fiber.join(third)])
      assert.deepStrictEqual((yield* readAll(log)).map(({ payload }) => payload[0]), [1, 3])
    }))

  it.effect("GC-13 an appendAll is one batch, whatever bounds batches", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { maxBatchBytes: 128, segmentBytes: 256 })
      const payloads = Array.from({ length: 50 }, (_, number) => payloadOf(number, 20))
      yield* Effect.all([
        log.append(payloadOf(100), { until: "appended" }),
        log.appendAll(payloads, { until: "appended" }),
        log.append(payloadOf(101))
      ], { concurrency: "unbounded" })
      const numbers = (yield* readAll(log)).map(({ payload }) => numberOf(payload))
      assert.deepStrictEqual(numbers, [100, ...payloads.keys(), 101])
      // One by one the batches that the files hold: the fifty are in one.
      const files = disk.files.filter((path) => path.endsWith(".tlog"))
      assert.isTrue(files.length > 1)
    }))

  it.effect("LOG-13 a transaction is its records, as one batch", () =>
    Effect.gen(function*() {
      const { log } = yield* openMemory(MemoryDisk.make())
      const txnId = toTxnId(7n)
      const transaction = [
        { _tag: "Begin", txnId },
        { _tag: "Checkpoint", lsn: toLsn(0) },
        { _tag: "Commit", txnId }
      ] as const
      const appended = yield* log.appendTransaction(transaction)
      assert.strictEqual(appended.length, 3)
      const records = yield* readAll(log)
      assert.deepStrictEqual(
        records.map(({ payload }) => Result.getOrUndefined(TransactionRecordFormat.decode(payload))),
        [...transaction]
      )
      assert.strictEqual(yield* outcomeOf(log.appendTransaction([])), "EmptyRecord")
    }))

  it.effect("GC-14 closing drains what was handed over and refuses what comes", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { close, log } = yield* openMemory(disk)
      const hold = disk.hold({ operation: "write", path: /\.tlog$/ })
      const waiting = yield* Effect.forkChild(log.append(bytesOf("waiting")), { startImmediately: true })
      yield* hold.reached
      yield* log.append(bytesOf("appended"), { until: "appended" })
      const closing = yield* Effect.forkChild(close, { startImmediately: true })
      yield* settle
      assert.strictEqual(yield* outcomeOf(log.append(bytesOf("late"))), "LogClosed")
      yield* hold.release
      yield* Fiber.join(closing)
      yield* Fiber.join(waiting)
      assert.isFalse(disk.unsynced.some((what) => what.includes(".tlog")), "everything is durable")
      assert.strictEqual(log.ended()?._tag, "LogClosed")
      for (
        const call of [
          log.append(bytesOf("x")),
          log.appendAll([bytesOf("x")]),
          Effect.scoped(log.reserve(1)),
          log.rotate,
          log.truncateBefore(toLsn(0)),
          log.read(toLsn(0)),
          readAll(log)
        ]
      ) assert.strictEqual(yield* outcomeOf<unknown, { readonly _tag: string }, Scope.Scope>(call), "LogClosed")
      const again = yield* openMemory(disk)
      assert.deepStrictEqual(textsOf(yield* readAll(again.log)), ["waiting", "appended"])
    }))

  it.effect("LOG-01 any payloads come back as they were, whatever the sizes of batches and segments", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.array(fc.array(fc.uint8Array({ minLength: 1, maxLength: 90 }), { minLength: 1, maxLength: 3 }), {
            maxLength: 30
          }),
          fc.record({
            segmentBytes: fc.integer({ min: 72, max: 700 }),
            maxBatchBytes: fc.integer({ min: 16, max: 400 }),
            maxQueuedBytes: fc.integer({ min: 16, max: 600 })
          }),
          (handOvers, options) =>
            Effect.runPromise(Effect.scoped(Effect.gen(function*() {
              const disk = MemoryDisk.make({ async: false })
              const { close, log } = yield* openMemory(disk, options)
              const appended = yield* Effect.forEach(
                handOvers,
                (payloads) => log.appendAll(payloads),
                { concurrency: 4 }
              )
              const expected = handOvers.flatMap((payloads, index) =>
                payloads.map((payload, at) => ({ ...appended[index]?.[at], payload }))
              ).toSorted((a, b) => (a.start ?? 0) - (b.start ?? 0))
              assert.deepStrictEqual<unknown>(yield* readAll(log), expected)
              yield* close
              const again = yield* openMemory(disk)
              assert.deepStrictEqual<unknown>(yield* readAll(again.log), expected)
              for (const { payload, start } of expected) {
                if (start !== undefined) assert.deepStrictEqual((yield* again.log.read(start)).payload, payload)
              }
            })))
        ),
        { numRuns: 60 }
      )
    ))
})

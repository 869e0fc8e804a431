/** Reading an append log while it is written: from any position, to the end or on and on. */
import { assert, describe, it } from "@effect/vitest"
import type { Lsn } from "@tidemark/core/Scalars"
import { toLsn } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import * as Scheduler from "effect/Scheduler"
import * as Stream from "effect/Stream"
import type { LogRecord } from "../src/AppendLog.ts"
import { decodeFrame, parseSegmentFileName, segmentHeaderBytes, writeCommitFrame } from "../src/AppendLogFormat.ts"
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

const numbersOf = (records: ReadonlyArray<LogRecord>) => records.map(({ payload }) => numberOf(payload))

const appendNumbers = (log: Log, count: number, from = 0, length = 30) =>
  Effect.forEach(
    Array.from({ length: count }, (_, at) => from + at),
    (number) => log.append(payloadOf(number, length), { until: "appended" })
  )

/** The positions of all frames, of the marks of the log too, and where the last one ends. */
const framesOn = (disk: MemoryDisk): ReadonlySet<number> => {
  const frames = new Set<number>()
  for (const path of disk.files) {
    const startLsn = parseSegmentFileName(path.slice(memoryDirectory.length + 1))
    const bytes = disk.readFile(path)
    if (startLsn === undefined || bytes === undefined) continue
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    for (let at = segmentHeaderBytes;;) {
      frames.add(startLsn + at - segmentHeaderBytes)
      const frame = at < bytes.length ? Result.getOrThrow(decodeFrame(bytes, view, at)) : undefined
      if (frame === undefined || frame.type === "end") break
      at += frame.frameBytes
    }
  }
  return frames
}

describe("AppendLog streams", () => {
  it.effect("LOG-09 from every position: a frame gives what follows, anything else is refused", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: false })
      const { log } = yield* openMemory(disk, { segmentBytes: 400 })
      for (let number = 0; number < 8; number++) {
        yield* log.appendAll([payloadOf(number * 2, 3 + number * 5), payloadOf(number * 2 + 1, 20)])
        if (number % 4 === 0) {
          // Room that was left empty is a frame too, and no record.
          yield* Effect.scoped(log.reserve(40))
          yield* log.flush
        }
      }
      const records = yield* readAll(log)
      assert.strictEqual(records.length, 16)
      const frames = framesOn(disk)
      const { reserved } = log.watermarks()
      assert.isTrue(frames.has(reserved) && frames.size > 25)
      for (let at = 0; at <= reserved; at += 4) {
        const following = yield* Effect.result(readAll(log, toLsn(at)))
        if (Result.isSuccess(following)) {
          assert.isTrue(frames.has(at), `${at} is no frame`)
          assert.deepStrictEqual(following.success, records.filter(({ start }) => start >= at))
        } else {
          assert.isFalse(frames.has(at), `${at} is a frame`)
          assert.deepInclude(following.failure, { _tag: "LsnNotAFrame", lsn: toLsn(at) })
        }
        const record = records.find(({ start }) => start === at)
        const read = yield* Effect.result(log.read(toLsn(at)))
        if (Result.isSuccess(read)) assert.deepStrictEqual(read.success, record)
        else {
          assert.isUndefined(record)
          assert.strictEqual(read.failure._tag, at === reserved ? "LsnNotReserved" : "LsnNotAFrame")
        }
      }
    }))

  it.effect("LOG-09 nothing behind the durable watermark is read, though a rotation has synced it", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 400 })
      yield* log.append(payloadOf(0))
      yield* Effect.forEach(
        [...Array(20).keys()],
        (number) => log.append(payloadOf(1 + number, 40), { until: "written" })
      )
      const { durable, written } = log.watermarks()
      assert.isTrue(durable === 32 && written > 1000)
      assert.deepStrictEqual(numbersOf(yield* readAll(log)), [0])
      yield* log.flush
      assert.strictEqual((yield* readAll(log)).length, 21)
    }))

  it.effect("LOG-09 following: what becomes durable comes, in order and once, until the log ends", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { close, log } = yield* openMemory(disk, { segmentBytes: 1000 })
      yield* appendNumbers(log, 20)
      yield* log.flush
      const seen: Array<number> = []
      const reached = new Map<number, Deferred.Deferred<void>>([20, 60, 200].map((n) => [n, Deferred.makeUnsafe()]))
      const follower = yield* log.stream({ follow: true }).pipe(
        Stream.runForEach(({ payload }) =>
          Effect.suspend(() => {
            seen.push(numberOf(payload))
            const deferred = reached.get(seen.length)
            return deferred === undefined ? Effect.void : Deferred.succeed(deferred, undefined)
          })
        ),
        Effect.forkChild({ startImmediately: true })
      )
      const until = (count: number) => {
        const deferred = reached.get(count)
        return deferred === undefined ? Effect.die("no such count") : Deferred.await(deferred)
      }
      yield* until(20)
      yield* appendNumbers(log, 40, 20)
      yield* log.flush
      yield* until(60)
      // What is handed over but not durable does not come.
      const hold = disk.hold({ operation: "syncData", path: /\.tlog$/ })
      yield* appendNumbers(log, 140, 60)
      const flush = yield* Effect.forkChild(log.flush, { startImmediately: true })
      yield* hold.reached
      yield* settle
      assert.strictEqual(seen.length, 60)
      yield* hold.release
      yield* Fiber.join(flush)
      yield* until(200)
      assert.deepStrictEqual(seen, [...Array(200).keys()])
      yield* close
      assert.strictEqual(yield* outcomeOf(Fiber.join(follower)), "LogClosed")
    }))

  it.effect("LOG-09 a reader that is overtaken by a truncation is told; one behind it is not", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 600, maxBatchBytes: 300 })
      const appended = yield* appendNumbers(log, 400, 0, 200)
      yield* log.flush
      const cut = appended[300]?.start ?? toLsn(0)
      const gate = Deferred.makeUnsafe<void>()
      const slow = yield* log.stream().pipe(
        Stream.mapEffect((record) => Effect.as(Deferred.await(gate), record)),
        Stream.runCollect,
        Effect.result,
        Effect.forkChild({ startImmediately: true })
      )
      yield* settle
      const firstKept = yield* log.truncateBefore(cut)
      assert.isTrue(firstKept > 0 && firstKept <= cut)
      yield* Deferred.succeed(gate, undefined)
      const outcome = yield* Fiber.join(slow)
      assert.strictEqual(outcome._tag === "Failure" ? outcome.failure._tag : "success", "LsnTruncated")
      for (const from of [toLsn(0), toLsn(24), toLsn(firstKept - 8)]) {
        const error = yield* Effect.flip(readAll(log, from))
        assert.deepInclude(error, { _tag: "LsnTruncated", lsn: from, firstKept })
      }
      assert.strictEqual(yield* outcomeOf(log.read(toLsn(0))), "LsnTruncated")
      const kept = yield* readAll(log)
      assert.strictEqual(kept[0]?.start, firstKept)
      assert.deepStrictEqual(numbersOf(kept).at(-1), 399)
      // Who has read everything before the cut goes on without a loss.
      assert.deepStrictEqual(yield* readAll(log, toLsn(firstKept - 16)), kept)
    }))

  it.effect("LOG-09 a file that is removed under a reader is read to the end of what was asked for", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 400, maxBatchBytes: 100 })
      const appended = yield* appendNumbers(log, 60)
      yield* log.flush
      const firstFile = () => disk.files.find((path) => path.endsWith(".tlog")) ?? ""
      const first = firstFile()
      // The file is open and about to be read when it goes.
      const hold = disk.hold({ operation: "read", path: first })
      const reading = yield* Effect.forkChild(log.read(toLsn(0)), { startImmediately: true })
      yield* hold.reached
      yield* log.truncateBefore(appended[30]?.start ?? toLsn(0))
      assert.isUndefined(disk.readFile(first))
      yield* hold.release
      assert.strictEqual(numberOf((yield* Fiber.join(reading)).payload), 0)
      // Between being looked up and being opened it can go as well.
      const opening = disk.hold({ operation: "open", path: firstFile() })
      const late = yield* Effect.forkChild(Effect.flip(readAll(log)), { startImmediately: true })
      yield* opening.reached
      yield* log.truncateBefore(log.watermarks().reserved)
      yield* opening.release
      assert.strictEqual((yield* Fiber.join(late))._tag, "LsnTruncated")
    }))

  it.effect("LOG-12 many readers while writing: nothing torn, nothing missed, the writer is not held back", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: { seed: 5, maxTurns: 3 } })
      const { log } = yield* openMemory(disk, { segmentBytes: 2000, maxBatchBytes: 500 })
      const total = 400
      const readers = yield* Effect.forEach(
        Array.from({ length: 12 }, (_, reader) => reader),
        (reader) =>
          log.stream({ follow: true }).pipe(
            // Some are slow, each at other places.
            Stream.tap(({ payload }) => numberOf(payload) % 7 === reader ? Effect.yieldNow : Effect.void),
            Stream.take(total),
            Stream.runCollect,
            Effect.forkChild({ startImmediately: true })
          )
      )
      // One that never reads on.
      const stuck = yield* log.stream({ follow: true }).pipe(
        Stream.mapEffect(() => Effect.never),
        Stream.runDrain,
        Effect.forkChild({ startImmediately: true })
      )
      yield* Effect.forEach(
        Array.from({ length: total }, (_, number) => number),
        (number) => log.append(payloadOf(number, number % 90)),
        { concurrency: 16, discard: true }
      )
      const expected = yield* readAll(log)
      for (const reader of readers) assert.deepStrictEqual(yield* Fiber.join(reader), expected)
      assert.deepStrictEqual(numbersOf(expected).toSorted((a, b) => a - b), [...Array(total).keys()])
      assert.isTrue(isWaiting(stuck))
    }))

  it.effect("LOG-09 a batch larger than a block is read whole", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: false })
      const { log } = yield* openMemory(disk)
      const large = new Uint8Array(1_300_000).fill(7)
      yield* log.append(bytesOf("small"))
      const [first, second] = yield* log.appendAll([large, bytesOf("behind")])
      yield* log.append(bytesOf("small again"))
      const records = yield* readAll(log)
      assert.deepStrictEqual(records.map(({ payload }) => payload.length), [5, 1_300_000, 6, 11])
      assert.deepStrictEqual(textsOf(yield* readAll(log, first?.end)), ["behind", "small again"])
      assert.deepStrictEqual(textsOf([yield* log.read(second?.start ?? toLsn(0))]), ["behind"])
      assert.deepStrictEqual((yield* log.read(first?.start ?? toLsn(0))).payload, large)
      assert.strictEqual(yield* outcomeOf(readAll(log, toLsn((first?.start ?? 0) + 8))), "LsnNotAFrame")
    }))

  it.effect("LOG-09 a payload that looks like frames is none", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: false })
      const { log } = yield* openMemory(disk)
      yield* log.append(bytesOf("first"))
      yield* log.append(bytesOf("second"))
      yield* log.flush
      // The log's own bytes as a payload: records, marks and all.
      const image = disk.readFile(`${memoryDirectory}/0000000000000000.tlog`)?.slice(64, 64 + 64 + 32) ??
        new Uint8Array(0)
      // And a mark that names a start which is none.
      const view = new DataView(image.buffer)
      writeCommitFrame(view, 80, toLsn(24), true, 0)
      const { end, start } = yield* log.append(image)
      yield* log.append(bytesOf("last"))
      for (let at = start + 8; at < end; at += 8) {
        assert.strictEqual(yield* outcomeOf(readAll(log, toLsn(at))), "LsnNotAFrame", `${at}`)
        assert.strictEqual(yield* outcomeOf(log.read(toLsn(at))), "LsnNotAFrame", `${at}`)
      }
    }))

  it.effect("RC-13 damage that comes while the log is open is found by readers, never handed out", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: false })
      const { log } = yield* openMemory(disk, { segmentBytes: 500 })
      const appended = yield* Effect.forEach([...Array(30).keys()], (number) => log.append(payloadOf(number, 40)))
      const path = `${memoryDirectory}/0000000000000000.tlog`
      const whole = disk.readFile(path) ?? new Uint8Array(0)
      const end = appended.findLast(({ end }) => end < 500 - 64)?.end ?? 0
      for (let offset = 64; offset < 64 + end; offset += 5) {
        const bytes = whole.slice()
        bytes[offset] = (bytes[offset] ?? 0) ^ 0x10
        disk.writeFile(path, bytes)
        const read: Array<number> = []
        const error = yield* log.stream().pipe(
          Stream.runForEachArray((records) =>
            Effect.sync(() => {
              read.push(...numbersOf(records))
            })
          ),
          Effect.flip
        )
        assert.strictEqual(error._tag, "LogCorrupt", `byte ${offset}`)
        assert.deepStrictEqual(read, [...Array(read.length).keys()])
        const reached: Lsn | undefined = appended[read.length]?.start
        assert.isTrue(reached !== undefined && 64 + reached <= offset, `byte ${offset}: ${read.length} records`)
      }
      disk.writeFile(path, whole)
      assert.strictEqual((yield* readAll(log)).length, 30)
    }))

  it.effect("watermarkChanges tells the newest when the log was written, synced or truncated, and holds nothing back", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { close, log } = yield* openMemory(disk, { segmentBytes: 300 })
      const told: Array<readonly [number, number, number]> = []
      const until = (isMet: () => boolean) =>
        Effect.gen(function*() {
          for (let turns = 0; !isMet(); turns++) {
            if (turns > 1000) return assert.fail(JSON.stringify(told))
            yield* Effect.yieldNow
          }
        })
      const watcher = yield* log.watermarkChanges.pipe(
        Stream.runForEach(({ durable, firstKept, written }) =>
          Effect.sync(() => {
            told.push([firstKept, durable, written])
          })
        ),
        Effect.forkChild({ startImmediately: true })
      )
      const stuck = yield* log.watermarkChanges.pipe(
        Stream.runForEach(() => Effect.never),
        Effect.forkChild({ startImmediately: true })
      )
      yield* until(() => told.length === 1)
      yield* log.append(payloadOf(1), { until: "written" })
      yield* until(() => told.at(-1)?.[2] === 32)
      assert.deepStrictEqual(told, [[0, 0, 0], [0, 0, 32]])
      yield* log.flush
      yield* until(() => told.at(-1)?.[1] === 32)
      // Many changes, and in the end the newest.
      yield* appendNumbers(log, 100)
      yield* log.flush
      const { reserved } = log.watermarks()
      yield* until(() => told.at(-1)?.[1] === reserved)
      yield* log.truncateBefore(reserved)
      yield* until(() => told.at(-1)?.[0] === reserved)
      for (const [at, [firstKept, durable, written]] of told.entries()) {
        const [firstBefore, durableBefore, writtenBefore] = told[at - 1] ?? [0, 0, 0]
        assert.isTrue(firstBefore <= firstKept && durableBefore <= durable && writtenBefore <= written)
        assert.isTrue(firstKept <= durable && durable <= written)
      }
      yield* close
      assert.strictEqual(yield* outcomeOf(Fiber.join(watcher)), "LogClosed")
      assert.isTrue(isWaiting(stuck))
    }))

  it.effect("no change and no record is missed, whoever goes on first (200 seeds)", () =>
    Effect.gen(function*() {
      for (let seed = 0; seed < 200; seed++) {
        const disk = MemoryDisk.make({ async: { seed, maxTurns: 2 } })
        yield* Effect.provideService(
          Effect.scoped(Effect.gen(function*() {
            const { log } = yield* openMemory(disk, { segmentBytes: 400 })
            const total = 24
            const follower = yield* log.stream({ follow: true }).pipe(
              Stream.take(total),
              Stream.runCollect,
              Effect.forkChild
            )
            const watcher = yield* log.watermarkChanges.pipe(
              Stream.takeUntil(({ durable, written }) => written >= total * 16 && durable === written),
              Stream.runLast,
              Effect.forkChild
            )
            yield* Effect.forEach(
              Array.from({ length: total }, (_, number) => number),
              (number) => log.append(payloadOf(number), { until: number % 3 === 0 ? "durable" : "written" }),
              { concurrency: 3, discard: true }
            )
            yield* log.flush
            assert.strictEqual((yield* Fiber.join(follower)).length, total)
            yield* Fiber.join(watcher)
          })),
          Scheduler.Scheduler,
          new SeededScheduler(seed, 0.3)
        )
      }
    }))
})

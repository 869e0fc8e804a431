import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import { Deferred, Effect, Exit, Fiber } from "effect"
import { commit, immediate, isWaiting, outcomeOf, settle, start } from "./support/engine.ts"
import { describeFrames, parse, record } from "./support/testFrames.ts"

describe("GroupCommit: order and positions", () => {
  it.effect("GC-01 a position is the initial LSN plus what was handed over, and the bytes lie there", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({}, { initialLsn: toLsn(4096) })
      assert.deepStrictEqual(log.watermarks(), { reserved: toLsn(4096), written: toLsn(4096), durable: toLsn(4096) })
      assert.strictEqual(yield* log.reserveAndEnqueue(record(0, 0, 24)), 4120)
      assert.strictEqual(yield* log.reserveAndEnqueue(record(0, 1, 8)), 4128)
      yield* log.flushNow
      assert.deepStrictEqual(describeFrames(disk.image, 4096), ["w0.0@4096", "w0.1@4120"])
      assert.deepStrictEqual(log.watermarks(), { reserved: toLsn(4128), written: toLsn(4128), durable: toLsn(4128) })
    }))

  it.effect("GC-01 cut points are counted in positions", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" }, { initialLsn: toLsn(64) })
      assert.strictEqual(yield* commit(log, record(0, 0, 24)), 88)
      assert.strictEqual(log.watermarks().durable, 104)
      assert.strictEqual(yield* commit(log, record(0, 1, 8)), 112)
      assert.deepStrictEqual(describeFrames(disk.image, 64), ["w0.0@64", "seal@88", "w0.1@104", "seal@112"])
    }))

  it.effect("GC-01 bytes are copied when they are handed over", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const bytes = record(3, 7, 32)
      yield* log.reserveAndEnqueue(bytes)
      bytes.fill(0xff)
      yield* log.flushNow
      assert.deepStrictEqual(describeFrames(disk.image), ["w3.7@0"])
    }))

  it.effect("GC-01 hand-overs of every size around the memory chunk keep their bytes", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "sealed" })
      const chunk = 256 * 1024
      for (const [index, length] of [8, chunk - 8, chunk, chunk + 8, 16, chunk - 16, 3 * chunk, 8].entries()) {
        yield* log.reserveAndEnqueue(record(1, index, length))
      }
      // A second round runs in the memory that the first gave back.
      yield* log.flushNow
      for (let index = 8; index < 40; index++) yield* log.reserveAndEnqueue(record(2, index, 8 * (index + 1)))
      yield* log.flushNow
      const records = parse(disk.image).filter((frame) => frame.kind === "record")
      assert.deepStrictEqual(records.map((frame) => frame.index), Array.from({ length: 40 }, (_, index) => index))
    }))

  for (const padding of ["none", "sealed"] as const) {
    it.effect(`GC-02 16 writers x 50 commits, ${padding === "none" ? "plain" : "with cut points"}`, () =>
      Effect.gen(function*() {
        const { disk, log } = yield* start({ padding })
        const claimed = new Map<string, number>()
        const writer = (number: number) =>
          Effect.gen(function*() {
            let before = -1
            for (let index = 0; index < 50; index += 2) {
              // A pair, handed over in one step.
              const pair = new Uint8Array([
                ...record(number, index, 8 + 8 * (number % 3)),
                ...record(number, index + 1)
              ])
              const end = yield* commit(log, pair)
              assert.isAbove(end, before)
              before = end
              claimed.set(`${number}.${index}`, end - pair.length)
              claimed.set(`${number}.${index + 1}`, end - 8)
              if (index % 8 === number % 8) yield* Effect.yieldNow
            }
          })
        yield* Effect.forEach(Array.from({ length: 16 }, (_, number) => number), writer, { concurrency: "unbounded" })
        // Parsing the whole image shows that there is no gap.
        const records = parse(disk.image).filter((frame) => frame.kind === "record")
        assert.lengthOf(records, 800)
        assert.deepStrictEqual(
          new Map(records.map((frame) => [`${frame.writer}.${frame.index}`, frame.lsn])),
          new Map([...claimed].sort((one, other) => one[1] - other[1]))
        )
        for (const [at, frame] of records.entries()) {
          if (frame.index % 2 === 0) assert.strictEqual(records[at + 1]?.lsn, frame.lsn + frame.length)
        }
        assert.isBelow(disk.calls.length, 400, "commits share their syncs")
      }))
  }

  it.effect("GC-03 what is durable already is answered at once, without a fiber and without I/O", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({}, { initialLsn: toLsn(100) })
      assert.deepStrictEqual(immediate(log.commitAtLeast(toLsn(100), "durable")), Exit.void)
      const end = yield* commit(log, record(0, 0))
      const calls = disk.calls.length
      for (const mode of ["written", "durable"] as const) {
        assert.deepStrictEqual(immediate(log.commitAtLeast(end, mode)), Exit.void)
        assert.deepStrictEqual(immediate(log.commitAtLeast(toLsn(3), mode)), Exit.void)
      }
      yield* settle
      assert.lengthOf(disk.calls, calls)
    }))

  it.effect("GC-03 a commit value that became durable before it runs succeeds in its first step", () =>
    Effect.gen(function*() {
      const { log } = yield* start()
      const end = yield* log.reserveAndEnqueue(record(0, 0))
      const later = log.commitAtLeast(end, "durable")
      assert.isUndefined(immediate(later))
      yield* log.flushNow
      const fiber = yield* Effect.forkChild(later, { startImmediately: true })
      assert.deepStrictEqual(fiber.pollUnsafe(), Exit.void)
    }))

  it.effect("GC-10 a target beyond what is reserved is refused, and only while it is", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const wait = log.commitAtLeast(toLsn(8), "durable")
      const error = yield* Effect.flip(wait)
      assert.strictEqual(error._tag, "LsnNotReserved")
      assert.deepInclude(error, { log: "recording", lsn: 8, reserved: 0 })
      yield* log.reserveAndEnqueue(record(0, 0))
      yield* wait
      assert.strictEqual(disk.calls.length, 1)
    }))

  it.effect("GC-10 empty and too large hand-overs are refused before anything is reserved", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({ padding: "pads" }, { maxRecordBytes: 64 })
      assert.strictEqual(yield* outcomeOf(log.reserveAndEnqueue(new Uint8Array(0))), "EmptyRecord")
      assert.strictEqual(yield* outcomeOf(log.reserveAndEnqueue(record(0, 0, 72))), "RecordTooLarge")
      assert.strictEqual(yield* outcomeOf(log.reserve(0)), "EmptyRecord")
      assert.strictEqual(yield* outcomeOf(log.reserve(65)), "RecordTooLarge")
      assert.strictEqual(log.watermarks().reserved, 0)
      yield* commit(log, record(0, 0, 64))
      assert.deepStrictEqual(describeFrames(disk.image), ["w0.0@0"])
    }))

  it.effect("GC-12 a batch that is only waited for as written is not synced", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      yield* commit(log, record(0, 0), "written")
      yield* log.reserveAndEnqueue(record(0, 1))
      yield* settle
      assert.deepStrictEqual(disk.operations, ["write", "write"])
      assert.deepStrictEqual(log.watermarks(), { reserved: toLsn(16), written: toLsn(16), durable: toLsn(0) })
      assert.deepStrictEqual(disk.durables, [])
    }))

  it.effect("GC-12 one waiter for durability makes the whole batch synced", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const hold = disk.holdNext()
      const first = yield* Effect.forkChild(commit(log, record(0, 0), "written"))
      yield* hold.entered
      const rest = yield* Effect.forEach([1, 2, 3], (index) =>
        Effect.forkChild(commit(log, record(0, index), index === 2 ? "durable" : "written"), {
          startImmediately: true
        }))
      yield* hold.release
      yield* Fiber.join(first)
      yield* Fiber.joinAll(rest)
      assert.deepStrictEqual(disk.operations, ["write", "writeAndSync"])
      assert.strictEqual(log.watermarks().durable, 32)
    }))

  it.effect("GC-12 a later wait for durability syncs what was only written, all of it, without writing again", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const first = yield* commit(log, record(0, 0), "written")
      yield* commit(log, record(0, 1), "written")
      yield* log.commitAtLeast(first, "durable")
      assert.deepStrictEqual(disk.operations, ["write", "write", "sync"])
      assert.strictEqual(log.watermarks().durable, 16)
      assert.deepStrictEqual(disk.durables, [16])
    }))

  it.effect("GC-12 who asks for durability while his bytes are being written only gets the next sync", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const hold = disk.holdNext()
      const end = yield* log.reserveAndEnqueue(record(0, 0))
      yield* hold.entered
      const waiter = yield* Effect.forkChild(log.commitAtLeast(end, "durable"), { startImmediately: true })
      yield* hold.release
      yield* Fiber.join(waiter)
      assert.deepStrictEqual(disk.operations, ["write", "sync"])
    }))

  it.effect("GC-12 a target inside a batch is woken with the batch, an interrupted waiter asks for nothing", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const hold = disk.holdNext()
      const first = yield* Effect.forkChild(commit(log, record(0, 0), "written"))
      yield* hold.entered
      const gone = yield* Effect.forkChild(commit(log, record(0, 1)), { startImmediately: true })
      const order: Array<string> = []
      const inside = yield* Effect.forkChild(
        Effect.tap(log.commitAtLeast(toLsn(9), "written"), () => Effect.sync(() => order.push("inside"))),
        { startImmediately: true }
      )
      yield* Fiber.interrupt(gone)
      yield* hold.release
      yield* Fiber.join(first)
      yield* Fiber.join(inside)
      yield* settle
      assert.deepStrictEqual(order, ["inside"])
      assert.deepStrictEqual(disk.operations, ["write", "write"])
    }))

  it.effect("GC-02 waiters are woken in the order of their targets, whatever order they came in", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const hold = disk.holdNext()
      const first = yield* Effect.forkChild(commit(log, record(0, 0)))
      yield* hold.entered
      for (let index = 1; index < 6; index++) yield* log.reserveAndEnqueue(record(0, index))
      const woken: Array<number> = []
      const waiters = yield* Effect.forEach([40, 16, 48, 24, 24, 9], (target) =>
        Effect.forkChild(
          Effect.tap(log.commitAtLeast(toLsn(target), "durable"), () => Effect.sync(() => woken.push(target))),
          { startImmediately: true }
        ))
      yield* hold.release
      yield* Fiber.join(first)
      yield* Fiber.joinAll(waiters)
      assert.deepStrictEqual(woken, [9, 16, 24, 24, 40, 48])
    }))

  it.effect("GC-02 an interrupted waiter leaves; its bytes and its neighbours stay", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start()
      const hold = disk.holdNext()
      const fibers = yield* Effect.forEach([0, 1, 2], (index) =>
        Effect.forkChild(commit(log, record(index, 0)), { startImmediately: true }))
      yield* hold.entered
      const [, second] = fibers
      assert.isDefined(second)
      yield* Fiber.interrupt(second)
      assert.isTrue(fibers.every((fiber) =>
        fiber === second || isWaiting(fiber)
      ))
      yield* hold.release
      yield* Fiber.awaitAll(fibers)
      assert.deepStrictEqual(describeFrames(disk.image), ["w0.0@0", "w1.0@8", "w2.0@16"])
    }))

  it.effect("GC-02 durable is published before anybody is woken, and what a waiter sees is in place", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const { log } = yield* start({ onDurable: (durable) => seen.push(`published ${durable}`) })
      const done = yield* Deferred.make<void>()
      log.admit({
        length: 8,
        refuse: () => seen.push("refused"),
        enter: () => {
          log.enqueueUnsafe(8, (target, _view, offset) => target.set(record(0, 0), offset), {
            mode: "durable",
            succeed: () => {
              seen.push(`woken at ${log.watermarks().durable}`)
              Deferred.doneUnsafe(done, Exit.void)
            },
            fail: () => seen.push("failed")
          })
        }
      })
      yield* Deferred.await(done)
      assert.deepStrictEqual(seen, ["published 8", "woken at 8"])
    }))
})

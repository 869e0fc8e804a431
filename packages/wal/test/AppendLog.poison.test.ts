/** A write or sync that fails ends the log, not what was acknowledged (GC-07, GC-08, LOG-11), and how to go on. */
import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import type { DiskMatch, Fault } from "@tidemark/platform/MemoryDisk"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Log } from "./support/appendLog.ts"
import { bytesOf, numberOf, openMemory, payloadOf, readAll } from "./support/appendLog.ts"
import { isWaiting, outcomeOf, settle } from "./support/engine.ts"

const isSegment = /\.tlog$/

const numbers = (log: Log) => Effect.map(readAll(log), (records) => records.map(({ payload }) => numberOf(payload)))

/** Every call of the log that can wait or write. */
const everyCall = (
  log: Log
): ReadonlyArray<readonly [string, Effect.Effect<unknown, { readonly _tag: string }, Scope.Scope>]> => [
  ["append", log.append(bytesOf("x"))],
  ["append until written", log.append(bytesOf("x"), { until: "written" })],
  ["append until appended", log.append(bytesOf("x"), { until: "appended" })],
  ["appendAll", log.appendAll([bytesOf("x")])],
  ["appendTransaction", log.appendTransaction([{ _tag: "Checkpoint", lsn: toLsn(0) }])],
  ["reserve", log.reserve(3)],
  ["commitAtLeast", Effect.suspend(() => log.commitAtLeast(log.watermarks().reserved))],
  ["commitAtLeast of what is durable", log.commitAtLeast(toLsn(0))],
  ["flush", log.flush],
  ["rotate", log.rotate],
  ["truncateBefore", log.truncateBefore(toLsn(0))],
  ["truncateBefore everything", Effect.suspend(() => log.truncateBefore(log.watermarks().reserved))],
  ["a following stream", Stream.runDrain(log.stream({ follow: true }))],
  ["watermarkChanges", Stream.runDrain(log.watermarkChanges)]
]

describe("AppendLog, failing operations", () => {
  const faults: ReadonlyArray<readonly [string, DiskMatch & { readonly fault: Fault }]> = [
    ["a write without space", { operation: "write", path: isSegment, fault: { kind: "error", code: "ENOSPC" } }],
    ["a short write", { operation: "write", path: isSegment, fault: { kind: "shortWrite", bytes: 40 } }],
    ["a failed sync", { operation: "syncData", path: isSegment, fault: { kind: "error", code: "EIO" } }],
    ["a sync that loses what it should keep", { operation: "syncData", path: isSegment, fault: { kind: "lostSync" } }],
    ["a rename", { operation: "rename", fault: { kind: "error", code: "EIO" } }],
    ["a header", { operation: "syncFull", path: /\.tmp-segment/, fault: { kind: "error", code: "EIO" } }],
    ["the sync of the directory", { operation: "syncDirectory", fault: { kind: "error", code: "EIO" } }]
  ]

  it.effect.each(faults)(
    "GC-07 GC-08 LOG-11 %s poisons: nobody is acknowledged wrongly, nothing is written again",
    ([, plan]) =>
      Effect.gen(function*() {
        let struck = 0
        for (let skip = 0; skip < 8; skip++) {
          const disk = MemoryDisk.make({ async: { seed: skip, maxTurns: 2 } })
          const { close, log } = yield* openMemory(disk, { segmentBytes: 300 })
          yield* log.append(payloadOf(1000))
          const follower = yield* Effect.forkChild(Stream.runCollect(log.stream({ follow: true })))
          const handle = disk.inject({ ...plan, skip })
          const acknowledged = [1000]
          const writers = yield* Effect.forEach([...Array(40).keys()], (number) =>
            log.append(payloadOf(number, 20)).pipe(
              Effect.tap(() =>
                Effect.sync(() => {
                  acknowledged.push(number)
                })
              ),
              outcomeOf
            ), { concurrency: 2 })
          if (handle.hits === 0) continue
          struck++
          assert.strictEqual(writers.at(-1), "WalPoisoned")
          const ended = log.ended()
          assert.strictEqual(ended?._tag, "WalPoisoned")
          if (ended?._tag !== "WalPoisoned") continue
          // The first cause, which names the operation; and where the durable part ends.
          const cause = Cause.squash(ended.cause)
          assert.deepInclude(cause, { _tag: "VfsError" })
          assert.strictEqual(ended.lsn, log.watermarks().durable)
          assert.strictEqual(yield* outcomeOf(Fiber.join(follower)), "WalPoisoned")
          yield* settle
          const trace = disk.record()
          for (const [name, call] of everyCall(log)) {
            assert.strictEqual(yield* outcomeOf(Effect.scoped(call)), "WalPoisoned", name)
          }
          const durable = yield* numbers(log)
          assert.includeMembers(durable, acknowledged)
          yield* close
          trace.stop()
          assert.deepStrictEqual(trace.steps, [], "the poisoned log is not touched, by closing neither")
          assert.strictEqual(yield* outcomeOf(numbers(log)), "WalPoisoned")
          for (const choice of ["lost", "kept", skip] as const) {
            const again = yield* openMemory(disk.afterCrash(choice), { segmentBytes: 300 })
            const found = yield* numbers(again.log)
            assert.includeMembers(found, acknowledged, `${choice}`)
            assert.strictEqual(new Set(found).size, found.length)
            yield* again.log.append(payloadOf(2000))
            assert.deepStrictEqual(yield* numbers(again.log), [...found, 2000])
            yield* again.close
          }
          // Without a power loss in between, what a failed sync has lost can still be read, and nobody knows.
          const second = yield* openMemory(disk, { segmentBytes: 300 })
          const before = yield* numbers(second.log)
          yield* second.log.append(payloadOf(3000))
          const third = yield* openMemory(disk.afterCrash("lost"), { segmentBytes: 300 })
          assert.deepStrictEqual(yield* numbers(third.log), [...before, 3000])
          yield* third.close
          yield* second.close
        }
        assert.isTrue(struck > 0)
      })
  )

  it.effect("LOG-11 a full disk: what was acknowledged is readable, and the log goes on when there is room again", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ capacityBytes: 20_000 })
      const first = yield* openMemory(disk, { segmentBytes: 3000 })
      const acknowledged: Array<number> = []
      const error = yield* Effect.flip(
        Effect.forEach([...Array(1000).keys()], (number) =>
          Effect.map(first.log.append(payloadOf(number, 100)), () => {
            acknowledged.push(number)
          }))
      )
      assert.strictEqual(error._tag, "WalPoisoned")
      assert.include(error.message, "ENOSPC")
      assert.isTrue(acknowledged.length > 50)
      assert.deepStrictEqual(yield* numbers(first.log), acknowledged)
      yield* first.close

      // Nothing to write: reading it works on the full disk.
      const second = yield* openMemory(disk, { segmentBytes: 3000 })
      assert.deepStrictEqual(yield* numbers(second.log), acknowledged)
      // Room can be made by truncating, for which the disk need not have any.
      yield* second.log.truncateBefore(toLsn(second.log.watermarks().durable / 2))
      const kept = yield* numbers(second.log)
      yield* second.log.append(payloadOf(5000, 100))
      assert.deepStrictEqual(yield* numbers(second.log), [...kept, 5000])
    }))

  it.effect("LOG-11 the last of a full disk is for records, not for zeros", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ capacityBytes: 20_000 })
      const { log } = yield* openMemory(disk)
      const total = { acknowledged: 0 }
      const error = yield* Effect.flip(Effect.forever(Effect.map(log.append(payloadOf(1, 100)), ({ end }) => {
        total.acknowledged = end
      })))
      assert.strictEqual(error._tag, "WalPoisoned")
      assert.isTrue(total.acknowledged > 19_500, `${total.acknowledged}`)
    }))

  /** A log whose filling with zeros has opened the file and waits. */
  const aboutToFill = Effect.gen(function*() {
    const disk = MemoryDisk.make()
    const { log } = yield* openMemory(disk, { segmentBytes: 100_000, preallocateBytes: 1000 })
    const hold = disk.hold({ operation: "open", path: isSegment })
    yield* log.append(payloadOf(1))
    yield* log.append(payloadOf(2, 600))
    yield* hold.reached
    return { disk, hold, log }
  })

  it.effect.each(["EIO", "ENOSPC"])(
    "GC-07 zeros that cannot be written ahead (%s) are no failure of the log",
    (code) =>
      Effect.gen(function*() {
        const { disk, hold, log } = yield* aboutToFill
        const fault = disk.inject({
          operation: "write",
          path: isSegment,
          fault: { kind: "shortWrite", bytes: 70, code }
        })
        yield* hold.release
        yield* settle
        assert.strictEqual(fault.hits, 1)
        const trace = disk.record()
        yield* Effect.forEach([...Array(50).keys()], (number) => log.append(payloadOf(10 + number, 100)))
        trace.stop()
        assert.strictEqual(trace.steps.filter(({ kind }) => kind === "write").length, 50, "it is not tried again")
        assert.deepStrictEqual(yield* numbers(log), [1, 2, ...Array.from(Array(50).keys(), (number) => 10 + number)])
      })
  )

  it.effect("LOG-07 a batch that reaches into what is being filled waits for the piece that is under way", () =>
    Effect.gen(function*() {
      const { disk, hold, log } = yield* aboutToFill
      // The second piece: bytes 2096 ... 2816 of the file.
      const piece = disk.hold({ operation: "write", path: isSegment, skip: 1 })
      yield* hold.release
      yield* piece.reached
      // Comes near to it, where a further piece would be begun if none were.
      yield* log.append(payloadOf(9, 950))
      const appending = yield* Effect.forEach(
        [...Array(20).keys()],
        (number) => log.append(payloadOf(10 + number, 100))
      )
        .pipe(Effect.forkChild({ startImmediately: true }))
      yield* Effect.repeat(Effect.yieldNow, { until: () => log.watermarks().reserved > 2096 - 64 })
      // Turns enough for all of them, were they not held up.
      yield* Effect.repeat(settle, { times: 30 })
      assert.isTrue(isWaiting(appending))
      assert.isTrue(log.watermarks().written <= 2096 - 64)
      yield* piece.release
      yield* Fiber.join(appending)
      assert.strictEqual((yield* numbers(log)).length, 23)
    }))

  it.effect.each(["error", "lostSync"] as const)(
    "GC-07 a sync of zeros that fails (%s) is one of the log",
    (kind) =>
      Effect.gen(function*() {
        const { disk, hold, log } = yield* aboutToFill
        // Written, and not yet synced: the failed sync may have marked it clean.
        yield* log.append(payloadOf(3), { until: "written" })
        const fault = disk.inject({
          operation: "syncData",
          path: isSegment,
          fault: kind === "error" ? { kind, code: "EIO" } : { kind }
        })
        yield* hold.release
        yield* settle
        assert.strictEqual(fault.hits, 1)
        assert.strictEqual(yield* outcomeOf(log.flush), "WalPoisoned")
        assert.deepStrictEqual(yield* numbers(log), [1, 2])
      })
  )

  it.effect("GC-08 what is being prepared ahead stops as well", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 4_000_000 })
      const hold = disk.hold({ operation: "write", path: /\.tmp-segment/ })
      yield* log.append(new Uint8Array(2_100_000))
      yield* hold.reached
      disk.inject({ operation: "write", path: isSegment, fault: { kind: "error", code: "EIO" } })
      assert.strictEqual(yield* outcomeOf(log.append(payloadOf(1))), "WalPoisoned")
      const trace = disk.record()
      yield* hold.release
      yield* Effect.repeat(settle, { times: 5 })
      assert.deepStrictEqual(
        trace.steps.map(({ kind }) => kind),
        ["write", "syncData"],
        "the one under way, and no more"
      )
      trace.stop()
    }))

  it.effect("GC-08 a writer in line and an open reservation are told as well", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { maxQueuedBytes: 100 })
      const scope = yield* Scope.make()
      const hold = disk.hold({ operation: "write", path: isSegment })
      disk.inject({ operation: "write", path: isSegment, fault: { kind: "error", code: "EIO" } })
      const first = yield* Effect.forkChild(log.append(payloadOf(1)), { startImmediately: true })
      yield* hold.reached
      const reservation = yield* Scope.provide(log.reserve(10), scope)
      const inLine = yield* Effect.forkChild(log.append(payloadOf(2, 90)), { startImmediately: true })
      const behind = yield* Effect.forkChild(log.appendAll([payloadOf(3)]), { startImmediately: true })
      yield* hold.release
      for (const outcome of [Fiber.join(first), Fiber.join(inLine), Effect.asVoid(Fiber.join(behind))]) {
        assert.strictEqual(yield* outcomeOf<unknown, { readonly _tag: string }, never>(outcome), "WalPoisoned")
      }
      const tenBytes = payloadOf(4, 10)
      assert.strictEqual(yield* outcomeOf(reservation.fill(tenBytes)), "WalPoisoned")
      yield* Scope.close(scope, Exit.void)
    }))
})

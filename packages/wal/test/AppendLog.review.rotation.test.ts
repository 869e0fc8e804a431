/** Rotations, fillings and truncations of an append log that fail, are interrupted, or find no room. */
import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import type { Fault } from "@tidemark/platform/MemoryDisk"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import type { VfsOperation } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import { type Log, memoryDirectory, numberOf, openMemory, payloadOf, readAll } from "./support/appendLog.ts"
import { buildSegment } from "./support/appendLogFiles.ts"
import { isWaiting, outcomeOf, settle } from "./support/engine.ts"

const isSegment = /\.tlog$/
const isPrepared = /\.tmp-segment/

const numbers = (log: Log) => Effect.map(readAll(log), (records) => records.map(({ payload }) => numberOf(payload)))

const appendNumbers = (log: Log, count: number, from = 0, length = 30) =>
  Effect.forEach(Array.from({ length: count }, (_, at) => from + at), (number) => log.append(payloadOf(number, length)))

describe("AppendLog rotation, in trouble", () => {
  /** What fails, and whether the log can go on all the same. */
  const failures: ReadonlyArray<readonly [VfsOperation, RegExp, Fault, boolean]> = [
    ["syncData", isSegment, { kind: "lostSync" }, false],
    ["open", isPrepared, { kind: "error", code: "EMFILE" }, true],
    ["write", isPrepared, { kind: "shortWrite", bytes: 20 }, true],
    ["syncFull", isPrepared, { kind: "lostSync" }, true],
    ["rename", isPrepared, { kind: "error", code: "EIO" }, false],
    ["syncDirectory", /./, { kind: "error", code: "EIO" }, false],
    ["open", isSegment, { kind: "error", code: "EMFILE" }, false]
  ]

  for (const call of ["rotate", "truncateBefore"] as const) {
    it.effect.each(failures)(
      `GC-07 GC-08 LOG-07 an interrupted ${call} that fails at %s of %s`,
      ([operation, path, fault, isHarmless]) =>
        Effect.gen(function*() {
          const disk = MemoryDisk.make()
          const first = yield* openMemory(disk, { preallocateBytes: 0 })
          yield* appendNumbers(first.log, 3)
          const plan = disk.inject({ operation, path, fault })
          const hold = disk.hold({ operation, path })
          const { reserved } = first.log.watermarks()
          const rotating = yield* Effect.forkChild(
            call === "rotate" ? first.log.rotate : first.log.truncateBefore(reserved),
            { startImmediately: true }
          )
          yield* hold.reached
          const interrupting = yield* Effect.forkChild(Fiber.interrupt(rotating), { startImmediately: true })
          yield* hold.release
          yield* Fiber.join(interrupting)
          assert.strictEqual(plan.hits, 1)
          // Nobody is left who could be told; the log itself knows.
          const outcome = yield* outcomeOf(appendNumbers(first.log, 3, 100))
          assert.strictEqual(outcome, isHarmless ? "success" : "WalPoisoned")
          if (isHarmless) yield* first.log.rotate
          if (isHarmless) yield* appendNumbers(first.log, 3, 200)
          yield* first.close
          const expected = [0, 1, 2, ...isHarmless ? [100, 101, 102, 200, 201, 202] : []]
          for (const choice of ["lost", "kept", 1, 2, 3] as const) {
            yield* Effect.scoped(Effect.gen(function*() {
              const { log } = yield* openMemory(disk.afterCrash(choice))
              assert.deepStrictEqual(yield* numbers(log), expected, `${choice}`)
            }))
          }
        })
    )
  }

  it.effect("LOG-11 a disk that is full at any byte: poisoned, nothing acknowledged is lost, and with room it goes on", () =>
    Effect.gen(function*() {
      let poisoned = 0
      for (let capacityBytes = 2000; capacityBytes < 9000; capacityBytes += 131) {
        const disk = MemoryDisk.make({ capacityBytes })
        const options = { segmentBytes: 2000, preallocateBytes: 300 }
        const acknowledged: Array<number> = []
        yield* Effect.scoped(Effect.gen(function*() {
          const { log } = yield* openMemory(disk, options)
          yield* Effect.exit(
            Effect.forEach([...Array(200).keys()], (number) =>
              Effect.map(log.append(payloadOf(number, 60)), () => {
                acknowledged.push(number)
              }))
          )
          assert.strictEqual(log.ended()?._tag, "WalPoisoned")
          poisoned++
        }))
        for (const choice of ["lost", "kept", capacityBytes] as const) {
          const roomy = disk.afterCrash(choice)
          roomy.capacityBytes = Infinity
          yield* Effect.scoped(Effect.gen(function*() {
            const { log } = yield* openMemory(roomy, options)
            const found = yield* numbers(log)
            assert.deepStrictEqual(found.slice(0, acknowledged.length), acknowledged, `${capacityBytes}, ${choice}`)
            yield* log.append(payloadOf(999))
            assert.deepStrictEqual(yield* numbers(log), [...found, 999])
          }))
        }
      }
      assert.isTrue(poisoned > 40)
    }))

  it.effect("RC-25 closing in the middle of a filling warns of nothing and leaves nothing", () =>
    Effect.gen(function*() {
      const said: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => {
        if (logLevel === "Warn" || logLevel === "Error") said.push(String(message))
      })
      for (const path of [isPrepared, isSegment]) {
        const disk = MemoryDisk.make()
        yield* Effect.gen(function*() {
          const { close, log } = yield* openMemory(disk, { segmentBytes: 10_000, preallocateBytes: 500 })
          yield* appendNumbers(log, 40, 0, 100)
          const hold = disk.hold({ operation: "syncData", path })
          const writing = yield* Effect.forkChild(Effect.exit(appendNumbers(log, 40, 100, 100)), {
            startImmediately: true
          })
          yield* hold.reached
          const closing = yield* Effect.forkChild(close, { startImmediately: true })
          yield* settle
          yield* hold.release
          yield* Fiber.join(closing)
          yield* Fiber.join(writing)
        }).pipe(Effect.provide(Logger.layer([logger])))
        assert.deepStrictEqual(said, [])
        assert.deepStrictEqual(disk.files.filter((file) => isPrepared.test(file)), [])
        const { log } = yield* openMemory(disk)
        assert.deepStrictEqual((yield* numbers(log)).slice(0, 40), [...Array(40).keys()])
      }
    }))

  it.effect("LOG-02 the last positions there are: nobody waits for ever, and what was acknowledged stays", () =>
    Effect.gen(function*() {
      const last = Number.MAX_SAFE_INTEGER - 7
      const disk = MemoryDisk.make()
      const { bytes, name } = buildSegment([{ pieces: [20] }], { startLsn: last - 1000 })
      disk.writeFile(`${memoryDirectory}/${name}`, bytes)
      const acknowledged: Array<number> = []
      yield* Effect.scoped(Effect.gen(function*() {
        const { close, log } = yield* openMemory(disk, { segmentBytes: 300 })
        for (let number = 0; number < 30; number++) {
          const appending = yield* Effect.forkChild(Effect.exit(log.append(payloadOf(number, 30))))
          yield* Effect.repeat(Effect.yieldNow, { until: () => !isWaiting(appending), times: 200 })
          assert.isFalse(isWaiting(appending), `record ${number}`)
          const exit = yield* Fiber.join(appending)
          if (Exit.isFailure(exit)) break
          acknowledged.push(number)
          assert.deepStrictEqual((yield* log.read(exit.value.start)).payload, payloadOf(number, 30))
        }
        yield* close
      }))
      assert.isTrue(acknowledged.length > 10 && acknowledged.length < 30, `${acknowledged.length}`)
      const { log } = yield* openMemory(disk, { segmentBytes: 300 })
      const found = (yield* readAll(log, toLsn(last - 1000))).slice(1).map(({ payload }) => numberOf(payload))
      assert.deepStrictEqual(found.slice(0, acknowledged.length), acknowledged)
    }))
})

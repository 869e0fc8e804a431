/** Reading from the end of a log that was truncated as a whole. */
import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { type Log, numberOf, openMemory, payloadOf, readAll } from "./support/appendLog.ts"
import { outcomeOf, settle } from "./support/engine.ts"

const appendNumbers = (log: Log, count: number, from = 0) =>
  Effect.forEach(Array.from({ length: count }, (_, at) => from + at), (number) => log.append(payloadOf(number, 30)))

describe("AppendLog, readers", () => {
  it.effect("LOG-08 LOG-09 who has read everything goes on behind it when everything was truncated", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { close, log } = yield* openMemory(disk)
      const end = (yield* appendNumbers(log, 3)).at(-1)?.end ?? toLsn(0)
      assert.deepStrictEqual(yield* readAll(log, end), [])
      yield* log.truncateBefore(end)
      assert.deepStrictEqual(yield* Effect.result(readAll(log, end)), yield* Effect.result(Effect.succeed([])))
      yield* close
      const again = yield* openMemory(disk)
      assert.deepStrictEqual(yield* readAll(again.log, end), [])
    }))

  it.effect("LOG-08 LOG-09 a follower that begins at the end of an emptied log gets what comes", () =>
    Effect.gen(function*() {
      const { log } = yield* openMemory(MemoryDisk.make())
      const end = (yield* appendNumbers(log, 3)).at(-1)?.end ?? toLsn(0)
      yield* log.truncateBefore(end)
      const follower = yield* log.stream({ from: end, follow: true }).pipe(
        Stream.take(1),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
      yield* settle
      yield* log.append(payloadOf(4))
      assert.deepStrictEqual((yield* Fiber.join(follower)).map(({ payload }) => numberOf(payload)), [4])
    }))

  it.effect("LOG-09 no record is read at the end of what was truncated, and nothing is called corrupt", () =>
    Effect.gen(function*() {
      const { log } = yield* openMemory(MemoryDisk.make())
      const end = (yield* appendNumbers(log, 3)).at(-1)?.end ?? toLsn(0)
      yield* log.truncateBefore(end)
      assert.include(["LsnTruncated", "LsnNotAFrame"], yield* outcomeOf(log.read(end)))
    }))
})

/** A coordinator that closes over a log whose files cannot be written. */
import { assert, describe } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { commitPages, forkNow, grow, isWaiting, makeDisk, openMemory, outcomeOf, settle } from "./support/database.ts"
import { test } from "./support/logs.ts"

describe("closing", () => {
  test.overEveryLog("PW-15 CO-05 closing ends when the disk takes nothing, and who waits is told", (log) =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const database = yield* openMemory(disk)
      yield* grow(database, 10)
      const fault = disk.inject({ ...log.batchWrite, fault: { kind: "error", code: "ENOSPC" }, times: Infinity })
      const commit = yield* forkNow(outcomeOf(commitPages(database, [2])))
      yield* settle
      assert.strictEqual(isWaiting(commit), log.writesAgain)
      const closing = yield* forkNow(database.close)
      yield* settle
      for (let tick = 0; tick < 5; tick++) yield* Effect.andThen(TestClock.adjust("10 millis"), settle)
      const isHanging = isWaiting(closing)
      // So that the test itself ends.
      fault.remove()
      for (let tick = 0; tick < 5; tick++) yield* Effect.andThen(TestClock.adjust("10 millis"), settle)
      yield* Fiber.join(closing)
      assert.isFalse(isHanging, "closing has ended")
      assert.include(["WalPoisoned", "LogClosed"], yield* Fiber.join(commit))
    }))
})

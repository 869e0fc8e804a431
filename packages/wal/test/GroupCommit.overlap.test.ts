import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { commit, outcomeOf, settle, start } from "./support/engine.ts"
import { parse, record } from "./support/testFrames.ts"

const writers = Array.from({ length: 64 }, (_, writer) => writer)

describe("GroupCommit: work beside the sync", () => {
  it.effect("GC-02 GC-13 64 writers in a loop: one half of them works while the batch of the other is synced", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({}, { overlapWaiters: () => 32 })
      let inFlight = 0
      let workedBesideSync = 0
      disk.before = () =>
        Effect.acquireUseRelease(
          Effect.sync(() => {
            inFlight++
          }),
          () => settle,
          () =>
            Effect.sync(() => {
              inFlight--
            })
        )
      yield* Effect.forEach(writers, (writer) =>
        Effect.gen(function*() {
          for (let index = 0; index < 20; index++) {
            yield* commit(log, record(writer, index, 24))
            if (inFlight > 0) workedBesideSync++
          }
        }), { concurrency: "unbounded", discard: true })
      const records = parse(disk.image).filter((frame) => frame.kind === "record")
      assert.strictEqual(records.length, 64 * 20)
      // All but the first and the last round: half of the writers are woken into a sync that is under way.
      assert.isAbove(workedBesideSync, 64 * 20 / 3)
    }))

  it.effect("GC-07 a batch that fails beside the wake-up takes nothing from those who were durable before it", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({}, { overlapWaiters: () => 32 })
      disk.failAt(1)
      const outcomes = yield* Effect.forEach(writers, (writer) =>
        Effect.gen(function*() {
          const first = yield* outcomeOf(commit(log, record(writer, 0, 24)))
          const second = yield* outcomeOf(commit(log, record(writer, 1, 24)))
          return [first, second] as const
        }), { concurrency: "unbounded" })
      for (const [first, second] of outcomes) {
        assert.strictEqual(first, "success")
        assert.strictEqual(second, "WalPoisoned")
      }
      // The other half of the second commits was not given to a sink that had failed already.
      assert.deepStrictEqual(disk.calls.map(({ length }) => length / 24), [64, 32])
    }))

  it.effect("GC-14 closing in the middle of it leaves nobody waiting", () =>
    Effect.gen(function*() {
      const { disk, log } = yield* start({}, { overlapWaiters: () => 32 })
      disk.before = () => settle
      const fibers = yield* Effect.forEach(writers, (writer) =>
        Effect.forkChild(outcomeOf(Effect.gen(function*() {
          for (let index = 0; index < 1000; index++) yield* commit(log, record(writer, index, 24))
        }))))
      yield* Effect.repeat(settle, { times: 8 })
      yield* log.close
      for (const fiber of fibers) assert.strictEqual(yield* Fiber.join(fiber), "LogClosed")
      assert.strictEqual(disk.syncedEnd, log.watermarks().reserved)
    }))
})

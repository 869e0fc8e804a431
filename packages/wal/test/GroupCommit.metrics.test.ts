import { assert, describe, it } from "@effect/vitest"
import { Effect, Metric } from "effect"
import { TestClock } from "effect/testing"
import * as LogMetrics from "../src/LogMetrics.ts"
import { commit, start } from "./support/engine.ts"
import { record } from "./support/testFrames.ts"

const ofLog = <Input, State>(metric: Metric.Metric<Input, State>, log = "recording") =>
  Metric.value(Metric.withAttributes(metric, { log }))

const isolated = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.provideService(effect, Metric.MetricRegistry, new Map())

describe("GroupCommit: metrics", () => {
  it.effect("GC-15 a known run is counted: syncs, commits, batches, lag, durations", () =>
    isolated(Effect.gen(function*() {
      const { disk, log } = yield* start()
      // A sync that takes 70 microseconds, to land in the second bucket; writes alone are not timed.
      disk.before = (call) => call.operation === "write" ? Effect.void : TestClock.adjust("70 micros")
      yield* commit(log, record(0, 0, 512), "written")
      yield* log.reserveAndEnqueue(record(0, 1, 1024))
      yield* commit(log, record(0, 2, 2048), "written")
      assert.strictEqual((yield* ofLog(LogMetrics.durableLagBytes)).value, 3584)
      assert.strictEqual((yield* ofLog(LogMetrics.queueBytes)).value, 0)
      yield* log.flushNow
      yield* commit(log, record(0, 3))
      assert.strictEqual((yield* ofLog(LogMetrics.durableLagBytes)).value, 0)
      assert.strictEqual((yield* ofLog(LogMetrics.syncs)).count, 2)
      assert.strictEqual((yield* ofLog(LogMetrics.commits)).count, 4)
      const commits = yield* ofLog(LogMetrics.batchCommits)
      assert.deepInclude(commits, { count: 3, min: 1, max: 2, sum: 4 })
      const bytes = yield* ofLog(LogMetrics.batchBytes)
      assert.deepInclude(bytes, { count: 3, min: 8, max: 3072, sum: 3592 })
      const durations = yield* ofLog(LogMetrics.syncDurationSeconds)
      assert.strictEqual(durations.count, 2)
      assert.closeTo(durations.sum, 140e-6, 1e-9)
      assert.deepStrictEqual(durations.buckets.slice(0, 2).map(([, count]) => count), [0, 2])
    })))

  it.effect("GC-15 the first bucket of the sync duration ends at 50 microseconds, and they double", () =>
    isolated(Effect.gen(function*() {
      const { buckets } = yield* ofLog(LogMetrics.syncDurationSeconds)
      const ends = buckets.map(([end]) => end).filter(Number.isFinite)
      assert.strictEqual(ends[0], 50e-6)
      for (const [at, end] of ends.entries()) assert.closeTo(end, 50e-6 * 2 ** at, 1e-9)
      assert.isAbove(ends.at(-1) ?? 0, 1, "a sync of a second has a bucket")
    })))

  it.effect("GC-15 two logs are counted apart, by name; a failed batch is not counted", () =>
    isolated(Effect.gen(function*() {
      const one = yield* start({ name: "one" })
      const two = yield* start({ name: "two" })
      yield* commit(one.log, record(0, 0))
      two.disk.failAt(1)
      yield* commit(two.log, record(0, 0))
      yield* Effect.ignore(commit(two.log, record(0, 1)))
      assert.strictEqual((yield* ofLog(LogMetrics.commits, "one")).count, 1)
      assert.strictEqual((yield* ofLog(LogMetrics.commits, "two")).count, 1)
      assert.strictEqual((yield* ofLog(LogMetrics.syncs, "two")).count, 1)
    })))

  it.effect("GC-15 the queue is seen with what gathered while the batch was written", () =>
    isolated(Effect.gen(function*() {
      const { disk, log } = yield* start()
      const hold = disk.holdNext()
      yield* log.reserveAndEnqueue(record(0, 0))
      yield* hold.entered
      yield* log.reserveAndEnqueue(record(0, 1, 24))
      const next = disk.holdNext()
      yield* hold.release
      yield* next.entered
      assert.strictEqual((yield* ofLog(LogMetrics.queueBytes)).value, 24)
      yield* next.release
      yield* log.flushNow
    })))
})

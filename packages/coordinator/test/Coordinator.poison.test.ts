/** What goes wrong between a batch that became durable and its committers, who are told all the same. */
import { assert, describe, it } from "@effect/vitest"
import { SchemaEpoch } from "@tidemark/core/Scalars"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import {
  commitPages,
  filled,
  forkNow,
  grow,
  isWaiting,
  makeDisk,
  makeRequest,
  openMemory,
  outcomeOf,
  page,
  settle
} from "./support/database.ts"
import { test } from "./support/logs.ts"
import { openRecording, RecordingLog } from "./support/recordingLog.ts"

/** Everything that waits for a clock, too. */
const finish = Effect.andThen(settle, Effect.andThen(TestClock.adjust("100 millis"), settle))

describe("Coordinator: poison between a batch and its committers", () => {
  test.overEveryLog("CO-05 a listener that throws when commits are published keeps no committer waiting", () =>
    Effect.gen(function*() {
      const database = yield* openMemory(makeDisk())
      yield* grow(database, 5)
      yield* settle
      database.log.onPublished(() => {
        throw new Error("thrown")
      })
      const commit = yield* forkNow(
        outcomeOf(database.pager.withTransaction((tx) => tx.write(page(2), filled(1))))
      )
      yield* finish
      assert.isFalse(isWaiting(commit), "he is told")
    }))

  test.overLogs("CO-05 CO-11 a spilled page that cannot be read when there is room keeps no earlier committer waiting", (log) =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const database = yield* openMemory(disk, { maxQueuedBytes: 600 })
      yield* grow(database, 5)
      yield* settle
      const held = disk.hold(log.batchSync)
      const first = yield* forkNow(outcomeOf(commitPages(database, [2])))
      yield* held.reached
      const request = yield* makeRequest(database, [3, 4], { spillThresholdBytes: 0 })
      const path = disk.files.find((file) => file.endsWith(".spill")) ?? ""
      const second = yield* forkNow(outcomeOf(database.coordinator.commit(request)))
      yield* settle
      assert.isTrue(isWaiting(second), "there is no room")
      disk.inject({ operation: "read", path, fault: { kind: "error", code: "EIO" } })
      yield* held.release
      yield* finish
      assert.deepStrictEqual([isWaiting(first), isWaiting(second)], [false, false])
    }))
})

describe("Coordinator: after its end", () => {
  it.effect("CO-06 a transaction begins under the schema epoch that was set last", () =>
    Effect.gen(function*() {
      const opened = yield* openRecording(new RecordingLog())
      yield* opened.close
      yield* opened.coordinator.setSchemaEpoch(SchemaEpoch.make(4n))
      assert.strictEqual(opened.coordinator.begin().snapshot.schemaEpoch, SchemaEpoch.make(4n))
    }))
})

/** Long readers, checkpoints of every mode, and the automatic one. */
import { assert, describe } from "@effect/vitest"
import type { CheckpointMode } from "@tidemark/wal/SqliteWal"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import {
  commitPages,
  type Database,
  filled,
  forkNow,
  isWaiting,
  makeDisk,
  memoryPath,
  openMemory,
  type OpenOptions,
  outcomeOf,
  page,
  pageSize,
  published,
  readNow,
  settle,
  valueOf
} from "./support/database.ts"
import { test } from "./support/logs.ts"

const open = (options?: OpenOptions) =>
  Effect.gen(function*() {
    const disk = makeDisk()
    const database = yield* openMemory(disk, options)
    return { ...database, disk }
  })

const write = (database: Pick<Database, "pager">, number: number, value: number) =>
  database.pager.withTransaction((tx) => tx.write(page(number), filled(value)))

const inFile = (disk: { readonly readFile: (path: string) => Uint8Array | undefined }, number: number) =>
  disk.readFile(memoryPath)?.[(number - 1) * pageSize]

describe("Pager: long readers", () => {
  test.overEveryLog("PG-03 a long reader keeps its versions, with and without a cache, while everything else goes on", () =>
    Effect.gen(function*() {
      for (const cacheBytes of [undefined, 0]) {
        const database = yield* open({ pager: { cacheBytes } })
        for (const number of [2, 3, 4]) yield* write(database, number, number)
        const old = yield* database.pager.begin()
        const check = Effect.fnUntraced(function*() {
          for (const number of [2, 3, 4]) {
            assert.strictEqual(valueOf(yield* old.read(page(number))), number)
            assert.strictEqual(valueOf(old.readSync(page(number))), number)
          }
        })
        for (let round = 1; round <= 20; round++) {
          for (const number of [2, 3]) yield* write(database, number, 100 + round)
          const report = yield* database.control.checkpoint("passive")
          assert.isBelow(report.framesCopied, report.framesBefore)
          yield* check()
          assert.strictEqual(valueOf(yield* readNow(database, 2)), 100 + round)
        }
        yield* old.rollback
        const report = yield* database.control.checkpoint("passive")
        assert.strictEqual(report.framesCopied, report.framesBefore)
        assert.strictEqual(valueOf(yield* readNow(database, 3)), 120)
        yield* database.close
      }
    }))

  test.overEveryLog("PG-03 modes that wait for readers are blocked by one, say so, and leave its snapshot alone", () =>
    Effect.gen(function*() {
      for (const mode of ["full", "restart", "truncate"] satisfies ReadonlyArray<CheckpointMode>) {
        const database = yield* open()
        yield* write(database, 2, 2)
        const old = yield* database.pager.begin()
        yield* write(database, 2, 20)
        const checkpoint = yield* forkNow(database.control.checkpoint(mode, { busyTimeout: "1 second" }))
        yield* settle
        assert.isTrue(isWaiting(checkpoint))
        // Reading is not held up; what is committed waits until the checkpoint gives up.
        assert.strictEqual(valueOf(yield* old.read(page(2))), 2)
        const commit = yield* forkNow(write(database, 3, 3))
        yield* settle
        assert.isTrue(isWaiting(commit))
        yield* TestClock.adjust("1 second")
        assert.isTrue((yield* Fiber.join(checkpoint)).blocked, mode)
        yield* Fiber.join(commit)
        assert.strictEqual(valueOf(yield* old.read(page(2))), 2)
        assert.isAbove(database.control.pending(), 0)
      }
    }))

  test.overEveryLog("PG-03 a committer does not stand in the way of the checkpoint that holds it up", () =>
    Effect.gen(function*() {
      const database = yield* open()
      for (const number of [2, 3]) yield* write(database, number, 2)
      const tx = yield* database.pager.begin()
      yield* tx.write(page(3), filled(3))
      yield* write(database, 2, 20)
      const old = yield* database.pager.begin()
      yield* write(database, 2, 21)
      const checkpoint = yield* forkNow(database.control.checkpoint("restart", { busyTimeout: "1 hour" }))
      yield* settle
      const commit = yield* forkNow(tx.commit)
      yield* settle
      assert.isTrue(isWaiting(commit))
      yield* old.rollback
      assert.isFalse(
        (yield* Fiber.join(checkpoint)).blocked,
        "the committer's snapshot is as old, and does not count"
      )
      yield* Fiber.join(commit)
      assert.strictEqual(database.control.pending(), 1)
      assert.strictEqual(valueOf(yield* readNow(database, 3)), 3)
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 21)
    }))

  test.overEveryLog("PG-03 a snapshot of the tip sees the same through a restart and what is committed after it", () =>
    Effect.gen(function*() {
      for (const cacheBytes of [undefined, 0]) {
        const database = yield* open({ pager: { cacheBytes } })
        for (const number of [2, 3]) yield* write(database, number, number)
        const tip = yield* database.pager.begin()
        assert.strictEqual(valueOf(yield* tip.read(page(2))), 2)
        for (let generation = 1; generation <= 3; generation++) {
          yield* database.control.checkpoint("restart", { busyTimeout: 0 })
          if (generation === 1) assert.strictEqual(database.control.pending(), 0)
          for (const number of [2, 3]) yield* write(database, number, 10 * generation + number)
          for (const number of [2, 3]) {
            assert.strictEqual(valueOf(yield* tip.read(page(number))), number)
            assert.strictEqual(valueOf(tip.readSync(page(number))), number)
            assert.strictEqual(valueOf(yield* readNow(database, number)), 10 * generation + number)
          }
        }
        yield* tip.rollback
        yield* database.control.checkpoint("truncate")
        for (const number of [2, 3]) {
          assert.strictEqual(inFile(database.disk, number), 30 + number)
          assert.strictEqual(valueOf(yield* readNow(database, number)), 30 + number)
        }
        yield* database.close
      }
    }))

  test.overEveryLog("PG-03 a read that is under way when the log starts over answers the page of its snapshot", (log) =>
    Effect.gen(function*() {
      const database = yield* open({ pager: { cacheBytes: 10_000_000 } })
      for (const number of [2, 3]) yield* write(database, number, number)
      yield* database.close
      const again = yield* openMemory(database.disk)
      const tx = yield* again.pager.begin()
      const hold = database.disk.hold(log.pageRead)
      const reading = yield* forkNow(tx.read(page(2)))
      yield* hold.reached
      yield* again.control.checkpoint("restart")
      yield* write(again, 4, 44)
      yield* hold.release
      assert.strictEqual(valueOf(yield* Fiber.join(reading)), 2)
      assert.strictEqual(valueOf(yield* tx.read(page(2))), 2)
      yield* write(again, 2, 22)
      assert.strictEqual(valueOf(yield* tx.read(page(2))), 2)
      assert.strictEqual(valueOf(yield* readNow(again, 2)), 22)
    }))

  test.overEveryLog("PG-03 a read that ends after its transaction leaves nothing wrong in the cache", (log) =>
    Effect.gen(function*() {
      const database = yield* open()
      yield* write(database, 2, 2)
      yield* database.close
      const again = yield* openMemory(database.disk)
      const tx = yield* again.pager.begin()
      const hold = database.disk.hold({ ...log.pageRead, when: "after" })
      const reading = yield* forkNow(Effect.exit(tx.read(page(2))))
      yield* hold.reached
      yield* tx.rollback
      yield* commitPages(again, [2], { value: 7 })
      yield* again.control.checkpoint("restart")
      yield* hold.release
      yield* Fiber.join(reading)
      assert.strictEqual(valueOf(yield* readNow(again, 2)), 7)
      yield* write(again, 3, 3)
      assert.strictEqual(valueOf(yield* readNow(again, 2)), 7)
    }))
})

describe("Pager: automatic checkpoints", () => {
  test.overEveryLog("PG-07 after 1000 frames, not after 999, and in the background", () =>
    Effect.gen(function*() {
      const database = yield* open({ autoCheckpointFrames: undefined })
      for (let at = 1; at < 1000; at++) yield* write(database, 1, 1)
      yield* settle
      assert.strictEqual(database.control.pending(), 999)
      const hold = database.disk.hold({ operation: "write", path: memoryPath })
      yield* write(database, 1, 2)
      yield* hold.reached
      yield* write(database, 1, 3)
      assert.strictEqual(database.control.pending(), 1001, "a commit went by while it was at work")
      yield* hold.release
      yield* Effect.repeat(Effect.yieldNow, { until: () => database.control.pending() <= 1, times: 500 })
      assert.isAtMost(database.control.pending(), 1)
      assert.strictEqual(inFile(database.disk, 1), 2)
    }))

  test.overEveryLog("PG-07 it goes up to the oldest reader, and on when that is gone", () =>
    Effect.gen(function*() {
      const database = yield* open({ autoCheckpointFrames: 10 })
      yield* write(database, 2, 1)
      const old = yield* database.pager.begin()
      for (let at = 2; at <= 40; at++) yield* write(database, 2, at)
      yield* settle
      assert.isAtLeast(database.control.pending(), 38)
      assert.strictEqual(valueOf(yield* old.read(page(2))), 1)
      yield* old.rollback
      for (let at = 41; at <= 60; at++) yield* write(database, 2, at)
      yield* settle
      assert.isBelow(database.control.pending(), 19, "what was committed under the old reader is copied")
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 60)
    }))

  test.overEveryLog("PG-07 one that fails never fails a commit, and a later one is not tried on that file", () =>
    Effect.gen(function*() {
      const database = yield* open({ autoCheckpointFrames: 10 })
      yield* write(database, 2, 0)
      const fault = database.disk.inject({
        operation: ["write", "syncData", "syncFull"],
        path: memoryPath,
        fault: { kind: "error", code: "EIO" },
        times: Infinity
      })
      for (let at = 1; at <= 25; at++) yield* write(database, 2, at)
      yield* settle
      // The pages of several files are copied side by side.
      const { hits } = fault
      assert.isAbove(hits, 0)
      for (let at = 26; at <= 50; at++) yield* write(database, 2, at)
      yield* settle
      assert.strictEqual(fault.hits, hits)
      fault.remove()
      for (let at = 51; at <= 100; at++) yield* write(database, 2, at)
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 100)
      assert.strictEqual(yield* outcomeOf(database.control.checkpoint("passive")), "CheckpointFailed")
      const tip = published(database)
      yield* database.close
      const again = yield* openMemory(database.disk)
      assert.strictEqual(published(again), tip)
      yield* again.control.checkpoint("restart")
      assert.strictEqual(inFile(database.disk, 2), 100)
    }))

  test.overEveryLog("PG-07 commits, readers and checkpoints side by side over many generations", () =>
    Effect.gen(function*() {
      const database = yield* open({
        autoCheckpointFrames: 20,
        sqlite: { restartFrames: 100 },
        pager: { cacheBytes: 4 * (pageSize + 256) }
      })
      const numbers = [2, 3, 4, 5, 6, 7]
      yield* Effect.forEach(numbers, (number) => write(database, number, 1))
      let isOver = false
      // All pages always have one value, in every snapshot.
      const writer = Effect.gen(function*() {
        for (let round = 0; round < 60; round++) {
          yield* database.pager.withTransaction(Effect.fnUntraced(function*(tx) {
            const value = (valueOf(yield* tx.read(page(2))) + 1) % 256
            for (const number of numbers) yield* tx.write(page(number), filled(value))
          }))
        }
      })
      const reader = Effect.gen(function*() {
        let snapshots = 0
        while (!isOver) {
          yield* Effect.scoped(Effect.gen(function*() {
            const tx = yield* database.pager.begin()
            const value = valueOf(yield* tx.read(page(2)))
            for (const number of numbers) {
              assert.strictEqual(
                valueOf(number % 2 === 0 ? yield* tx.read(page(number)) : tx.readSync(page(number))),
                value
              )
              yield* Effect.yieldNow
            }
          }))
          snapshots++
        }
        return snapshots
      })
      const readers = yield* Effect.forEach([1, 2, 3], () => forkNow(reader))
      yield* Effect.all([writer, writer, writer], { concurrency: "unbounded" })
      isOver = true
      for (const fiber of readers) assert.isAbove(yield* Fiber.join(fiber), 5)
      assert.strictEqual(valueOf(yield* readNow(database, 7)), 181)
      assert.isBelow(database.control.pending(), 1086, "it was copied on the way")
    }))
})

/** Who gives up, at whatever moment, and what is lost under somebody's feet: over every log. */
import { assert, describe, it } from "@effect/vitest"
import * as CoordinatorLease from "@tidemark/coordinator/CoordinatorLease"
import { sharedHeaderPath } from "@tidemark/coordinator/SharedHeaderFormat"
import { toTxnId } from "@tidemark/core/Scalars"
import type { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { makeSharedRegions, SharedMemory } from "@tidemark/platform/SharedMemory"
import { Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import {
  commitPages,
  filled,
  forkNow,
  grow,
  isWaiting,
  makeDisk,
  makeRequest,
  memoryPath,
  openMemory,
  outcomeOf,
  page,
  published,
  readNow,
  settle,
  valueOf
} from "./support/database.ts"
import { test } from "./support/logs.ts"
import { openRecording, RecordingLog } from "./support/recordingLog.ts"
import { openReader, openShared } from "./support/sharedWorlds.ts"

/** So many turns of the event loop after its beginning, in turn; more than anything here takes. */
const moments = 40

const capsulesOf = ({ files }: MemoryDisk) => Array.from(files).filter((path) => path.includes("/capsules/"))

/** Everything that waits for a clock, too. */
const finish = Effect.andThen(settle, Effect.andThen(TestClock.adjust("100 millis"), settle))

describe("interruption", () => {
  test.overEveryLog("CO-18 CO-11 a commit that is interrupted at any moment is there wholly or not at all", (log) =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const database = yield* openMemory(disk, { pager: { spillThresholdBytes: 512 } })
      yield* grow(database, 8)
      let value = 0
      let commits = 0
      for (let moment = 0; moment < moments; moment++) {
        const before = published(database)
        // Two of its three pages are in the spill file.
        const fiber = yield* forkNow(
          database.pager.withTransaction((tx) =>
            Effect.forEach([2, 3, 4], (number) => tx.write(page(number), filled(moment + 1)), { discard: true })
          )
        )
        for (let turn = 0; turn < moment; turn++) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        yield* finish
        const isThere = published(database) > before
        if (isThere) {
          value = moment + 1
          commits++
        }
        for (const number of [2, 3, 4]) assert.strictEqual(valueOf(yield* readNow(database, number)), value)
        assert.isEmpty(Array.from(disk.files).filter((path) => path.endsWith(".spill")))
        // Nothing is checkpointed here: a file for each commit, where the log makes any, and none for who gave up.
        if (log.name === "native log") assert.strictEqual(capsulesOf(disk).length, Number(published(database)))
      }
      assert.isAbove(commits, 0, log.name)
      assert.isBelow(commits, moments, log.name)
      // Nobody is kept waiting, and what is opened again agrees.
      yield* commitPages(database, [5], { value: 9 })
      const tip = published(database)
      disk.crash("lost")
      const again = yield* openMemory(disk)
      assert.strictEqual(published(again), tip)
      for (const number of [2, 3, 4]) assert.strictEqual(valueOf(yield* readNow(again, number)), value)
    }))

  test.overEveryLog("CO-18 who gives up while the log lets nobody in has committed nothing, and leaves nothing", (log) =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const database = yield* openMemory(disk)
      yield* grow(database, 3)
      const reader = yield* database.pager.begin()
      yield* commitPages(database, [2], { value: 1 })
      // It has the log quiet until the reader is gone.
      const checkpoint = yield* forkNow(database.control.checkpoint("full"))
      yield* settle
      const left = capsulesOf(disk).length
      const waiting = yield* forkNow(commitPages(database, [3], { value: 2 }))
      yield* settle
      if (log.name === "native log") {
        assert.strictEqual(capsulesOf(disk).length, left + 1, "it has its capsule, and waits")
      }
      yield* Fiber.interrupt(waiting)
      yield* settle
      assert.strictEqual(capsulesOf(disk).length, left)
      yield* reader.rollback
      yield* Fiber.join(checkpoint)
      assert.strictEqual(valueOf(yield* readNow(database, 3)), 0)
      yield* commitPages(database, [3], { value: 3 })
      assert.strictEqual(valueOf(yield* readNow(database, 3)), 3)
    }).pipe(Effect.scoped))

  test.overEveryLog("CO-12 who is interrupted at any moment of his serialized entry leaves the turn and the header free", () =>
    Effect.gen(function*() {
      const regions = makeSharedRegions()
      const disk = makeDisk()
      const world = {
        database: memoryPath,
        platform: MemoryVfs.layerDisk(disk),
        memory: SharedMemory.layerMemory({ regions })
      }
      const database = yield* openShared(world)
      const elsewhere = yield* openReader(world)
      yield* grow(database, 3)
      for (let moment = 0; moment < moments; moment++) {
        // In the way: a commit that is on its way, or a writer of another process, for as long as half of the moments.
        const other = toTxnId(BigInt(1_000_000 + moment))
        const isElsewhere = moment % 2 === 0
        if (isElsewhere) yield* elsewhere.serialized.acquire(other)
        const commit = isElsewhere ? undefined : yield* forkNow(commitPages(database, [2]))
        const entering = yield* forkNow(Effect.scoped(database.pager.beginSerialized()))
        for (let turn = 0; turn < moment; turn++) {
          yield* Effect.yieldNow
          if (isElsewhere && turn === moment >> 1) assert.isTrue(elsewhere.serialized.release(other))
          if (turn % 4 === 3) yield* TestClock.adjust("1 millis")
        }
        yield* Fiber.interrupt(entering)
        if (isElsewhere && moment < 2) assert.isTrue(elsewhere.serialized.release(other))
        yield* finish
        if (commit !== undefined) yield* Fiber.join(commit)
        assert.isUndefined(elsewhere.serialized.holder(), String(moment))
        assert.strictEqual(yield* outcomeOf(commitPages(database, [2])), "success", String(moment))
      }
    }))
})

describe("a serialized transaction whose ground goes", () => {
  it.effect("CO-12 CO-05 of a poisoned log: the others are told so, not that they have to wait", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const { coordinator, header, vfs } = yield* openRecording(log)
      const serialized = yield* coordinator.beginSerialized()
      const own = yield* forkNow(outcomeOf(commitPages({ coordinator, vfs }, [1], { token: serialized.token })))
      const next = yield* forkNow(coordinator.beginSerialized())
      const concurrent = yield* forkNow(coordinator.awaitConcurrent)
      log.poison()
      assert.strictEqual(yield* Fiber.join(own), "WalPoisoned")
      assert.strictEqual(yield* outcomeOf(commitPages({ coordinator, vfs }, [2])), "WalPoisoned")
      assert.isTrue(isWaiting(next) && isWaiting(concurrent))
      serialized.end()
      const hold = yield* Fiber.join(next)
      const token = { token: hold.token }
      assert.strictEqual(yield* outcomeOf(commitPages({ coordinator, vfs }, [1], token)), "WalPoisoned")
      hold.end()
      yield* Fiber.join(concurrent)
      assert.isUndefined(header.serialized.holder())
    }))

  it.effect("CO-12 CO-07 of a lost lease: it commits nothing, and its turn ends with it", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const { coordinator, header, lease, vfs } = yield* openRecording(
        log,
        CoordinatorLease.layerMemory({ name: "a", registry: CoordinatorLease.makeLeaseRegistry() })
      )
      const serialized = yield* coordinator.beginSerialized()
      const request = yield* makeRequest({ coordinator, vfs }, [1], { token: serialized.token })
      yield* lease.forceRelease
      assert.strictEqual(yield* outcomeOf(coordinator.commit(request)), "LeaseNotHeld")
      assert.strictEqual(yield* outcomeOf(commitPages({ coordinator, vfs }, [2])), "LeaseNotHeld")
      serialized.end()
      assert.isUndefined(header.serialized.holder())
      assert.lengthOf(log.commits, 0)
    }))
})

describe("a header that is lost", () => {
  test.overEveryLog("RC-18 SHM-10 commits go on where it was; the next coordinator makes it anew, with ids of its own", () =>
    Effect.gen(function*() {
      const regions = makeSharedRegions()
      const disk = makeDisk()
      const world = {
        database: memoryPath,
        platform: MemoryVfs.layerDisk(disk),
        memory: SharedMemory.layerMemory({ regions })
      }
      const database = yield* openShared(world)
      yield* grow(database, 3)
      const old = yield* openReader(world)
      // Somebody removes the file, and another process makes one.
      regions.blocks.delete(sharedHeaderPath(memoryPath))
      yield* commitPages(database, [2], { value: 5 })
      assert.strictEqual((yield* old.snapshot).commitSeq, published(database))
      const { token } = database.coordinator.begin()
      const tip = published(database)
      yield* database.close
      const again = yield* openShared(world)
      assert.strictEqual(published(again), tip)
      assert.strictEqual(valueOf(yield* readNow(again, 2)), 5)
      // Another generation of the lease: an id that comes again is another transaction's.
      const other = again.coordinator.begin().token
      assert.isAbove(other.epoch, token.epoch)
      assert.isTrue(yield* old.refresh)
      yield* commitPages(again, [2], { value: 6 })
      assert.strictEqual((yield* old.snapshot).commitSeq, published(again))
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(again.close)))
    }))
})

/**
 * Several layers over one database in one process: who may commit, and what the others see of it. All of it over every
 * log, with a header that other processes map too.
 */
import { assert, describe, it } from "@effect/vitest"
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import * as CoordinatorLease from "@tidemark/coordinator/CoordinatorLease"
import * as Pager from "@tidemark/coordinator/Pager"
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import { Vfs } from "@tidemark/platform/Vfs"
import { CommitLog } from "@tidemark/wal/CommitLog"
import { Context, Effect, Exit, Fiber, Layer, Scope } from "effect"
import {
  commitPages,
  filled,
  forkNow,
  grow,
  isWaiting,
  openMemory,
  outcomeOf,
  page,
  published,
  readNow,
  settle,
  valueOf
} from "./support/database.ts"
import { LogUnderTest, nativeLog, parallelWal, sqliteWal, test } from "./support/logs.ts"
import { fileWorld, memoryWorld, openReader, openShared, type World } from "./support/sharedWorlds.ts"

/** Another pager, with a cache of its own, over the coordinator and the log of an open database. */
const anotherPager = (database: Effect.Success<ReturnType<typeof openShared>>) =>
  Effect.map(
    Layer.build(
      Pager.layer.pipe(Layer.provide(Layer.mergeAll(
        Layer.succeed(CompatCoordinator.CompatCoordinator, database.coordinator),
        Layer.succeed(CommitLog, database.log),
        Layer.succeed(Vfs, database.vfs)
      )))
    ),
    (context) => Context.get(context, Pager.Pager)
  )

const write = (value: number) => (tx: Pager.Transaction) => tx.write(page(2), filled(value))
const value = (tx: Pager.Transaction) => Effect.map(tx.read(page(2)), valueOf)

/** What one layer commits is what the others see next, and never less. */
const seeEachOther = Effect.fnUntraced(function*(world: World) {
  const database = yield* openShared(world)
  const reader = yield* openReader(world)
  const one = database.pager
  const two = yield* anotherPager(database)
  yield* grow(database, 4)
  let before = (yield* reader.snapshot).commitSeq
  assert.strictEqual(before, published(database))
  for (let round = 1; round <= 12; round++) {
    const [writing, reading] = round % 2 === 0 ? [one, two] : [two, one]
    const old = yield* Effect.scoped(Effect.gen(function*() {
      const tx = yield* reading.begin()
      yield* writing.withTransaction(write(round))
      // Read after the commit, at the snapshot from before it.
      return yield* value(tx)
    }))
    assert.strictEqual(old, round - 1)
    assert.strictEqual(yield* Effect.scoped(Effect.flatMap(reading.begin(), value)), round)
    const { commitSeq } = yield* reader.snapshot
    assert.strictEqual(commitSeq, before + 1n)
    before = commitSeq
    // A log that starts over renames what both caches hold.
    if (round % 4 === 0) yield* database.control.checkpoint("restart")
  }
  // Of two that write one page through different pagers the first committer wins.
  const lost = Effect.scoped(Effect.gen(function*() {
    const tx = yield* one.begin()
    yield* two.withTransaction(write(50))
    yield* tx.write(page(2), filled(51))
    return yield* tx.commit
  }))
  assert.strictEqual(yield* outcomeOf(lost), "Conflict")
  const adding = (pager: Pager.Pager["Service"]) =>
    pager.withTransaction((tx) => Effect.flatMap(value(tx), (found) => tx.write(page(2), filled(found + 1))))
  yield* Effect.forEach(Array.from({ length: 20 }, (_, i) => i % 2 === 0 ? one : two), adding, {
    concurrency: "unbounded"
  })
  assert.strictEqual(yield* Effect.scoped(Effect.flatMap(two.begin(), value)), 70)
  assert.strictEqual((yield* reader.snapshot).commitSeq, published(database))
})

describe("Pager: layers that share a header", () => {
  test.overEveryLog("PG-05 PG-08 SHM-04 a commit of one pager is in the next snapshot of the other, and in the header", () =>
    seeEachOther(memoryWorld().world))

  for (const log of [sqliteWal, parallelWal, nativeLog]) {
    it.live(`PG-05 PG-08 SHM-04 the same over real files (${log.name})`, () =>
      Effect.scoped(Effect.flatMap(fileWorld, seeEachOther)).pipe(Effect.provideService(LogUnderTest, log)))
  }

  test.overEveryLog("CO-08 SHM-06 a second coordinator of the database is refused, and the first one goes on", (log) =>
    Effect.gen(function*() {
      const { world } = memoryWorld()
      const database = yield* openShared(world)
      yield* grow(database, 3)
      // Another process, or another layer here: it does not get as far as the lease.
      assert.strictEqual(yield* outcomeOf(Effect.scoped(openShared(world))), "LogLocked")
      // A layer over the log that is open: the lease is the first one's.
      const reader = yield* openReader(world)
      const second = Layer.build(
        Layer.fresh(CompatCoordinator.layerNoDeps).pipe(
          Layer.provide(Layer.succeed(SharedHeader.SharedHeader, reader)),
          Layer.provide(CoordinatorLease.layerFile({ database: world.database })),
          Layer.provide(Layer.succeed(CommitLog, database.log)),
          Layer.provide(world.platform)
        )
      )
      assert.strictEqual(yield* outcomeOf(Effect.scoped(second)), "LeaseHeld", log.name)
      yield* commitPages(database, [2], { value: 9 })
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 9)
      assert.strictEqual((yield* reader.snapshot).commitSeq, published(database))
    }))

  test.overEveryLog("CO-16 nobody who maps the header sees a commit before its last sync, nor after one that failed", (log) =>
    Effect.gen(function*() {
      const { disk, world } = memoryWorld()
      const database = yield* openShared(world)
      const reader = yield* openReader(world)
      yield* grow(database, 5)
      const before = published(database)
      for (const path of log.batchSyncs) {
        const held = disk.hold({ operation: "syncData", path })
        const commit = yield* forkNow(commitPages(database, [2], { value: 3 }))
        yield* held.reached
        yield* settle
        assert.isTrue(isWaiting(commit))
        const during = (yield* reader.snapshot).commitSeq
        assert.strictEqual(during, published(database))
        // What the header says survives a power loss at this moment.
        const lost = disk.afterCrash("lost")
        const kept = yield* Effect.scoped(Effect.map(openMemory(lost), published))
        assert.isAtLeast(Number(kept), Number(during))
        yield* held.release
        assert.strictEqual((yield* Fiber.join(commit)).commitSeq, during + 1n)
        assert.strictEqual((yield* reader.snapshot).commitSeq, during + 1n)
      }
      const tip = published(database)
      assert.strictEqual(tip, before + BigInt(log.batchSyncs.length))
      disk.inject({ ...log.batchSync, fault: { kind: "error", code: "EIO" } })
      assert.strictEqual(yield* outcomeOf(commitPages(database, [2])), "WalPoisoned")
      assert.strictEqual((yield* reader.snapshot).commitSeq, tip)
    }))

  test.overEveryLog("SHM-07 RC-17 SHM-10 after a close the header says what the log says, and no transaction id comes twice", () =>
    Effect.gen(function*() {
      const { world } = memoryWorld()
      const reader = yield* openReader(world)
      assert.isUndefined(reader.snapshotUnsafe())
      const ids = new Set<bigint>()
      let last = 0n
      for (let life = 0; life < 3; life++) {
        const database = yield* openShared(world)
        assert.strictEqual((yield* reader.snapshot).commitSeq, published(database))
        assert.isAtLeast(Number(published(database)), Number(last))
        if (life === 0) yield* grow(database, 3)
        for (let i = 0; i < 5; i++) {
          const tx = yield* Effect.scoped(database.pager.begin())
          assert.isFalse(ids.has(tx.token.id))
          ids.add(tx.token.id)
        }
        yield* commitPages(database, [2], { value: life })
        last = published(database)
        yield* database.close
        assert.strictEqual((yield* reader.snapshot).commitSeq, last)
      }
    }))

  test.overEveryLog("PG-01 PG-02 who is in a transaction when the database closes is told so, without a defect", () =>
    Effect.gen(function*() {
      const { world } = memoryWorld()
      const database = yield* openShared(world)
      yield* grow(database, 4)
      const scope = yield* Scope.make()
      const begin = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) => Scope.provide(effect, scope)
      const serialized = yield* begin(database.pager.beginSerialized())
      const concurrent = yield* begin(database.pager.begin())
      yield* concurrent.write(page(2), filled(1))
      yield* serialized.write(page(2), filled(2))
      // These run again for as long as the serialized one is open.
      const others = yield* Effect.forEach(
        [1, 2, 3],
        (number) => forkNow(outcomeOf(database.pager.withTransaction(write(number))))
      )
      const turns = yield* Effect.forEach(
        [1, 2],
        (number) => forkNow(outcomeOf(database.pager.withTransaction(write(number), { mode: "serialized" })))
      )
      yield* settle
      assert.isTrue(others.every(isWaiting) && turns.every(isWaiting))
      yield* database.close
      assert.strictEqual(yield* outcomeOf(concurrent.commit), "LogClosed")
      assert.strictEqual(yield* outcomeOf(serialized.commit), "LogClosed")
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(Scope.close(scope, Exit.void))))
      for (const fiber of [...others, ...turns]) assert.strictEqual(yield* Fiber.join(fiber), "LogClosed")
      // Nobody is kept out by what was open.
      const again = yield* openShared(world)
      yield* commitPages(again, [2], { value: 9 })
      assert.strictEqual(valueOf(yield* readNow(again, 2)), 9)
    }))
})

/**
 * What `withTransaction` promises, whether the function that it is given has done its work when it returns, and is
 * committed in the step that began it, or does it later: over every log.
 */
import { assert, describe } from "@effect/vitest"
import type { Transaction, WithTransactionOptions } from "@tidemark/coordinator/Pager"
import { offsets } from "@tidemark/coordinator/SharedHeaderFormat"
import { Cause, Deferred, Effect, Exit, Fiber, Schedule, type Scope } from "effect"
import { TestClock } from "effect/testing"
import {
  commitPages,
  type Database,
  filled,
  forkNow,
  grow,
  isWaiting,
  makeDisk,
  openMemory,
  type OpenOptions,
  outcomeOf,
  page,
  published,
  readNow,
  settle,
  valueOf
} from "./support/database.ts"
import { type LogKind, test as tests } from "./support/logs.ts"
import { memoryWorld, openReader, openShared } from "./support/sharedWorlds.ts"

/** When a function answers what its work has come to. */
interface Kind {
  readonly name: string
  readonly ending: <A, E>(exit: Exit.Exit<A, E>) => Effect.Effect<A, E>
}

const kinds: ReadonlyArray<Kind> = [
  { name: "done when it returns", ending: (exit) => exit },
  { name: "done later", ending: (exit) => Effect.andThen(Effect.yieldNow, exit) }
]

const never: WithTransactionOptions["schedule"] = Schedule.recurs(0)

/** The exit of a write that moves nothing into a spill file. */
const write = (tx: Transaction, number: number, value: number): void => {
  assert.isTrue(Exit.isExit(tx.write(page(number), filled(value))))
}

const test = (
  title: string,
  body: (kind: Kind, log: LogKind) => Effect.Effect<void, unknown, Scope.Scope>
) => {
  for (const kind of kinds) {
    tests.overEveryLog(`${title}; ${kind.name}`, (log) => Effect.orDie(body(kind, log)))
  }
}

const open5 = Effect.fnUntraced(function*(options?: OpenOptions) {
  const disk = makeDisk()
  const database = yield* openMemory(disk, options)
  yield* grow(database, 5)
  yield* settle
  return { ...database, disk, tip: published(database) }
})

const assertOver = (transactions: ReadonlyArray<Transaction>): void => {
  for (const tx of transactions) assert.throws(() => tx.readSync(page(2)), /not used after/)
}

/** Nobody reads any more: the log starts over. */
const assertFree = Effect.fnUntraced(function*(database: Pick<Database, "control">) {
  const report = yield* database.control.checkpoint("truncate", { busyTimeout: 0 })
  assert.isFalse(report.blocked, "every snapshot is let go")
  assert.strictEqual(database.control.pending(), 0)
})

describe("TransactionRun", () => {
  test(
    "PG-01 CO-16 it is answered what the function was, when its commit is durable and visible",
    (kind, log) =>
      Effect.gen(function*() {
        const database = yield* open5()
        const hold = database.disk.hold(log.batchSync)
        const fiber = yield* forkNow(database.pager.withTransaction((tx) => {
          write(tx, 2, 7)
          return kind.ending(Exit.succeed("seven"))
        }))
        yield* hold.reached
        yield* settle
        assert.isTrue(isWaiting(fiber))
        assert.strictEqual(published(database), database.tip)
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 0)
        yield* hold.release
        assert.strictEqual(yield* Fiber.join(fiber), "seven")
        assert.strictEqual(published(database), database.tip + 1n)
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 7)
        yield* assertFree(database)
        database.disk.crash("lost")
        assert.strictEqual(valueOf(yield* readNow(yield* openMemory(database.disk), 2)), 7)
      })
  )

  test("PG-01 what writes nothing commits nothing", (kind) =>
    Effect.gen(function*() {
      const database = yield* open5()
      const value = yield* database.pager.withTransaction((tx) => kind.ending(Exit.succeed(tx.databasePages())))
      assert.strictEqual(value, 5)
      assert.strictEqual(published(database), database.tip)
      yield* assertFree(database)
    }))

  test(
    "PG-02 CO-01 a conflict is run again, when the commit that was in the way is visible",
    (kind, log) =>
      Effect.gen(function*() {
        const database = yield* open5()
        const serializable = { isolation: "serializable" } as const
        for (const options of [{}, serializable, { schedule: Schedule.recurs(3) }]) {
          const { commitSeq } = database.log.published()
          const before = valueOf(yield* readNow(database, 2))
          const hold = database.disk.hold(log.batchSync)
          const other = yield* forkNow(commitPages(database, [2], { value: before + 1 }))
          yield* hold.reached
          const snapshots: Array<bigint> = []
          const fiber = yield* forkNow(database.pager.withTransaction((tx) => {
            snapshots.push(tx.snapshot.high)
            write(tx, 2, valueOf(tx.readSync(page(2))) + 1)
            return kind.ending(Exit.succeed(snapshots.length))
          }, options))
          yield* settle
          assert.deepStrictEqual(snapshots, [commitSeq], "it waits")
          yield* hold.release
          yield* Fiber.join(other)
          assert.strictEqual(yield* Fiber.join(fiber), 2)
          assert.deepStrictEqual(snapshots, [commitSeq, commitSeq + 1n])
          assert.strictEqual(valueOf(yield* readNow(database, 2)), before + 2)
          yield* settle
          yield* assertFree(database)
        }
      })
  )

  test(
    "PG-02 a schedule that is over leaves the conflict; nothing is committed",
    (kind, log) =>
      Effect.gen(function*() {
        const database = yield* open5()
        const hold = database.disk.hold(log.batchSync)
        const other = yield* forkNow(commitPages(database, [2], { value: 1 }))
        yield* hold.reached
        const fiber = yield* forkNow(outcomeOf(database.pager.withTransaction((tx) => {
          write(tx, 2, 9)
          return kind.ending(Exit.void)
        }, { schedule: never })))
        yield* settle
        yield* hold.release
        yield* Fiber.join(other)
        assert.strictEqual(yield* Fiber.join(fiber), "Conflict")
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 1)
        yield* assertFree(database)
      })
  )

  test("PG-04 CO-13 a page that was read and has changed is run again, or told", (kind, log) =>
    Effect.gen(function*() {
      const database = yield* open5()
      for (const schedule of [undefined, never]) {
        const hold = database.disk.hold(log.batchSync)
        const other = yield* forkNow(commitPages(database, [3], { value: 4 }))
        yield* hold.reached
        let runs = 0
        const fiber = yield* forkNow(outcomeOf(database.pager.withTransaction((tx) => {
          runs++
          write(tx, 2, 1 + valueOf(tx.readSync(page(3))))
          return kind.ending(Exit.void)
        }, { isolation: "serializable", schedule })))
        yield* settle
        yield* hold.release
        yield* Fiber.join(other)
        assert.strictEqual(yield* Fiber.join(fiber), schedule === undefined ? "success" : "SerializationFailure")
        assert.strictEqual(runs, schedule === undefined ? 2 : 1)
        yield* settle
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 5)
        yield* assertFree(database)
      }
    }))

  test(
    "CO-12 a serialized one waits for who is on his way, and leaves its turn",
    (kind, log) =>
      Effect.gen(function*() {
        const database = yield* open5()
        const hold = database.disk.hold(log.batchSync)
        const other = yield* forkNow(commitPages(database, [2], { value: 1 }))
        yield* hold.reached
        let runs = 0
        const serialized = database.pager.withTransaction((tx) => {
          runs++
          write(tx, 2, valueOf(tx.readSync(page(2))) + 1)
          return kind.ending(Exit.succeed(runs))
        }, { mode: "serialized" })
        const fiber = yield* forkNow(serialized)
        yield* settle
        assert.strictEqual(runs, 0)
        yield* hold.release
        yield* Fiber.join(other)
        assert.strictEqual(yield* Fiber.join(fiber), 1)
        const refused = yield* Effect.exit(
          database.pager.withTransaction(() => kind.ending(Exit.fail("no")), { mode: "serialized" })
        )
        assert.deepStrictEqual(refused, Exit.fail("no"))
        assert.strictEqual(yield* serialized, 2)
        yield* commitPages(database, [3], { value: 1 })
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 3)
        yield* assertFree(database)
      })
  )

  test("PG-01 who fails, throws or is interrupted has committed nothing, and is over", (kind) =>
    Effect.gen(function*() {
      const database = yield* open5()
      const thrown = new Error("thrown")
      const uses: ReadonlyArray<readonly [() => Effect.Effect<void, string>, Exit.Exit<void, string>]> = [
        [() => kind.ending(Exit.fail("no")), Exit.fail("no")],
        [() => kind.ending(Exit.die(thrown)), Exit.die(thrown)],
        [() => {
          throw thrown
        }, Exit.die(thrown)]
      ]
      for (const mode of ["concurrent", "serialized"] as const) {
        for (const [use, expected] of uses) {
          const seen: Array<Transaction> = []
          const exit = yield* Effect.exit(database.pager.withTransaction((tx) => {
            seen.push(tx)
            write(tx, 2, 9)
            return use()
          }, { mode }))
          assert.deepStrictEqual(exit, expected)
          assert.lengthOf(seen, 1)
          assertOver(seen)
          yield* assertFree(database)
        }
        const interrupted = yield* Effect.exit(database.pager.withTransaction((tx) => {
          write(tx, 2, 9)
          return kind.ending(Exit.interrupt())
        }, { mode }))
        assert.isTrue(Exit.isFailure(interrupted) && Cause.hasInterruptsOnly(interrupted.cause))
        yield* assertFree(database)
      }
      assert.strictEqual(published(database), database.tip)
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 0)
    }))

  test("CO-18 who gives up while his commit waits in the line has committed nothing", (kind) =>
    Effect.gen(function*() {
      const database = yield* open5()
      yield* commitPages(database, [2], { value: 1 })
      const reader = yield* database.pager.begin()
      yield* commitPages(database, [2], { value: 2 })
      // It has the log quiet until the reader is gone, and waits for nobody in the line.
      const checkpoint = yield* forkNow(database.control.checkpoint("restart"))
      yield* settle
      const tip = published(database)
      const line = [3, 4].map((number) =>
        database.pager.withTransaction((tx) => {
          write(tx, number, 5)
          return kind.ending(Exit.succeed(number))
        })
      )
      const [givingUp, staying] = yield* Effect.forEach(line, forkNow)
      yield* settle
      assert.isTrue(givingUp !== undefined && staying !== undefined && isWaiting(givingUp) && isWaiting(staying))
      if (givingUp === undefined || staying === undefined) return
      yield* Fiber.interrupt(givingUp)
      yield* reader.rollback
      assert.isFalse((yield* Fiber.join(checkpoint)).blocked)
      assert.strictEqual(yield* Fiber.join(staying), 4)
      assert.strictEqual(published(database), tip + 1n)
      assert.strictEqual(valueOf(yield* readNow(database, 3)), 0)
      assert.strictEqual(valueOf(yield* readNow(database, 4)), 5)
      yield* assertFree(database)
    }))

  test(
    "CO-18 who gives up when his commit was accepted is committed, and is over at once",
    (kind, log) =>
      Effect.gen(function*() {
        const database = yield* open5()
        const hold = database.disk.hold(log.batchSync)
        const seen: Array<Transaction> = []
        const fiber = yield* forkNow(database.pager.withTransaction((tx) => {
          seen.push(tx)
          write(tx, 2, 6)
          return kind.ending(Exit.void)
        }))
        yield* hold.reached
        yield* Fiber.interrupt(fiber)
        assertOver(seen)
        // The memory of its pages belongs to others now.
        const others = yield* Effect.forEach(
          [3, 4, 5],
          (number) => forkNow(commitPages(database, [number], { value: 1 }))
        )
        assert.strictEqual(published(database), database.tip)
        yield* hold.release
        yield* Effect.forEach(others, Fiber.join)
        assert.strictEqual(published(database), database.tip + 4n)
        for (const { token } of seen) {
          assert.strictEqual((yield* database.coordinator.outcome(token))._tag, "committed")
        }
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 6)
        yield* settle
        yield* assertFree(database)
      })
  )

  test("PG-11 one that grows or cuts the database commits its size", (kind) =>
    Effect.gen(function*() {
      const database = yield* open5()
      const grown = yield* database.pager.withTransaction((tx) => {
        const number = tx.allocate()
        write(tx, number, 3)
        return kind.ending(Exit.succeed(number))
      })
      assert.strictEqual(grown, page(6))
      assert.strictEqual(database.log.published().databasePages, 6)
      const failed = yield* Effect.exit(database.pager.withTransaction((tx) => {
        tx.allocate()
        return kind.ending(Exit.fail("no"))
      }))
      assert.deepStrictEqual(failed, Exit.fail("no"))
      const sparse = yield* database.pager.withTransaction((tx) => {
        write(tx, 9, 4)
        return kind.ending(Exit.succeed(tx.databasePages()))
      })
      assert.strictEqual(sparse, 9)
      assert.strictEqual(database.log.published().databasePages, 9)
      for (const [number, value] of [[6, 3], [8, 0], [9, 4]] as const) {
        assert.strictEqual(valueOf(yield* readNow(database, number)), value)
      }
      yield* database.pager.withTransaction((tx) => Effect.flatMap(tx.truncateTo(4), () => kind.ending(Exit.void)))
      assert.strictEqual(database.log.published().databasePages, 4)
      yield* assertFree(database)
    }))

  test("CO-11 one that has spilled commits, and leaves no file", (kind) =>
    Effect.gen(function*() {
      const database = yield* open5({ pager: { spillThresholdBytes: 512 } })
      const spilled = () => Array.from(database.disk.files).filter((path) => path.endsWith(".spill"))
      const value = yield* database.pager.withTransaction((tx) => {
        const written = [2, 3, 4].map((number) => tx.write(page(number), filled(number)))
        return Effect.andThen(
          Effect.all(written, { discard: true }),
          Effect.suspend(() => kind.ending(Exit.succeed(spilled().length)))
        )
      })
      assert.strictEqual(value, 1)
      assert.isEmpty(spilled())
      for (const number of [2, 3, 4]) assert.strictEqual(valueOf(yield* readNow(database, number)), number)
      yield* assertFree(database)
    }))

  test("PG-05 one effect runs as often as it is run, one after the other and at once", (kind) =>
    Effect.gen(function*() {
      const database = yield* open5()
      const seen = new Set<Transaction>()
      const add = database.pager.withTransaction((tx) => {
        seen.add(tx)
        const value = valueOf(tx.readSync(page(2))) + 1
        write(tx, 2, value)
        return kind.ending(Exit.succeed(value))
      })
      assert.strictEqual(yield* add, 1)
      assert.strictEqual(yield* add, 2)
      assert.sameMembers(Array.from(yield* Effect.all([add, add, add], { concurrency: "unbounded" })), [3, 4, 5])
      assert.strictEqual(yield* add, 6)
      assert.isAtLeast(seen.size, 6)
      assert.strictEqual(published(database), database.tip + 6n)
      yield* assertFree(database)
    }))

  test("CO-05 of a log that fails: it is told so, and what it had is let go", (kind, log) =>
    Effect.gen(function*() {
      const database = yield* open5()
      database.disk.inject({ ...log.batchSync, fault: { kind: "error", code: "EIO" } })
      const seen: Array<Transaction> = []
      const fiber = yield* forkNow(outcomeOf(database.pager.withTransaction((tx) => {
        seen.push(tx)
        write(tx, 2, 6)
        return kind.ending(Exit.void)
      })))
      yield* settle
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "WalPoisoned")
      assertOver(seen)
      assert.strictEqual(published(database), database.tip)
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 0, "it can be read")
    }))

  test("CO-14 none holds the horizon back when it is over, however it ended", (kind, log) =>
    Effect.gen(function*() {
      const { disk, world } = memoryWorld()
      const database = yield* openShared(world)
      const header = yield* openReader(world)
      yield* grow(database, 5)
      yield* settle
      const use = <E>(exit: Exit.Exit<void, E>) =>
        database.pager.withTransaction((tx) => {
          write(tx, 2, 1)
          return kind.ending(exit)
        })
      yield* use(Exit.void)
      yield* Effect.exit(use(Exit.fail("no")))
      yield* Effect.exit(database.pager.withTransaction((): Effect.Effect<void> => {
        throw new Error("thrown")
      }))
      yield* settle
      const hold = disk.hold(log.batchSync)
      const first = yield* forkNow(use(Exit.void))
      yield* hold.reached
      const conflicting = yield* forkNow(use(Exit.void))
      yield* settle
      const waiting = yield* Deferred.make<void>()
      const interrupted = yield* forkNow(
        database.pager.withTransaction(() => Effect.andThen(Deferred.succeed(waiting, undefined), Effect.never))
      )
      yield* Deferred.await(waiting)
      yield* Fiber.interrupt(interrupted)
      yield* hold.release
      yield* Fiber.join(first)
      yield* Fiber.join(conflicting)
      const over = published(database)
      // It is looked at every 256 commits.
      for (let commits = 0; commits < 256; commits++) yield* use(Exit.void)
      assert.isAbove(Number(header.region().load(offsets.gcHorizon)), Number(over))
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { CompatCoordinator } from "@tidemark/coordinator/CompatCoordinator"
import { Conflict } from "@tidemark/coordinator/CoordinatorErrors"
import * as CoordinatorMetrics from "@tidemark/coordinator/CoordinatorMetrics"
import * as Pager from "@tidemark/coordinator/Pager"
import { PageOutOfRange, WrongPageSize } from "@tidemark/coordinator/PagerErrors"
import type { PageNumber } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import { Vfs } from "@tidemark/platform/Vfs"
import { VfsError } from "@tidemark/platform/VfsError"
import { CommitLog } from "@tidemark/wal/CommitLog"
import { Cause, ConfigProvider, Context, Data, Effect, Exit, Fiber, Layer, Metric, Schedule } from "effect"
import { TestClock } from "effect/testing"
import {
  commitPages,
  filled,
  forkNow,
  grow,
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

const open10 = (options?: OpenOptions) =>
  Effect.gen(function*() {
    const disk = makeDisk()
    const database = yield* openMemory(disk, options)
    yield* grow(database, 10)
    return { ...database, disk, tip: published(database) }
  })

/** What a synchronous call throws, or answers. */
const attempt = <A>(call: () => A): unknown => {
  try {
    return call()
  } catch (error) {
    return error
  }
}

const isDefect = (exit: Exit.Exit<unknown, unknown>, sentence: RegExp): void => {
  assert.isTrue(Exit.hasDies(exit), "a defect")
  if (Exit.isFailure(exit)) assert.match(Cause.pretty(exit.cause), sentence)
}

describe("Pager: transactions", () => {
  test.overEveryLog("PG-01 what goes in and what comes out are copies", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      const bytes = filled(1)
      const own = yield* Effect.scoped(Effect.gen(function*() {
        const tx = yield* database.pager.begin()
        yield* tx.write(page(2), bytes)
        bytes.fill(9)
        const read = yield* tx.read(page(2))
        read.fill(8)
        tx.readSync(page(2)).fill(7)
        yield* tx.commit
        return read
      }))
      assert.strictEqual(own[0], 8)
      for (let time = 0; time < 3; time++) {
        const read = yield* readNow(database, 2)
        assert.strictEqual(valueOf(read), 1)
        read.fill(6)
        yield* Effect.scoped(Effect.gen(function*() {
          const tx = yield* database.pager.begin()
          tx.readSync(page(2)).fill(5)
        }))
      }
    }))

  test.overEveryLog("PG-01 PG-10 nor do bytes that are Node buffers lead into the cache", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      yield* database.pager.withTransaction((tx) =>
        Effect.gen(function*() {
          yield* tx.adoptWriteSet(new Map([[page(3), Buffer.alloc(pageSize, 4)]]))
          yield* tx.write(page(4), Buffer.alloc(pageSize, 5))
          for (const number of [3, 4]) {
            const read = yield* tx.read(page(number))
            read.slice(0).fill(1)
            read.fill(1)
          }
        })
      )
      for (let time = 0; time < 2; time++) {
        const read = yield* readNow(database, 3)
        assert.strictEqual(valueOf(read), 4)
        read.slice(0).fill(9)
        assert.strictEqual(valueOf(yield* readNow(database, 4)), 5)
      }
    }))

  test.overEveryLog("PG-01 memory that a transaction gave back is never seen through another one", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      const numbers = Array.from({ length: 8 }, (_, at) => at + 2)
      const writer = (number: number) =>
        Effect.gen(function*() {
          for (let round = 1; round <= 30; round++) {
            const before = yield* Effect.scoped(Effect.gen(function*() {
              const tx = yield* database.pager.begin()
              const seen = yield* tx.read(page(number))
              yield* tx.write(page(number), filled(number * 16 + round % 16))
              if (round % 3 === 0) yield* tx.rollback
              else yield* tx.commit
              return seen
            }))
            assert.strictEqual(valueOf(before) >> 4, round <= 1 ? 0 : number)
          }
        })
      yield* Effect.forEach(numbers, writer, { concurrency: "unbounded" })
      for (const number of numbers) assert.strictEqual(valueOf(yield* readNow(database, number)) >> 4, number)
    }))

  test.overEveryLog("PG-01 committing reads alone takes no sequence and answers the snapshot", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      const answer = yield* Effect.scoped(Effect.gen(function*() {
        const tx = yield* database.pager.begin({ isolation: "serializable" })
        yield* tx.read(page(2))
        yield* database.pager.withTransaction((other) => other.write(page(2), filled(1)))
        return yield* tx.commit
      }))
      assert.deepStrictEqual(answer, { commitSeq: database.tip, walOffset: 0 })
    }))

  test.overEveryLog("a transaction is not used after its end: that is a defect, whatever is called", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      const ends = [(tx: Pager.Transaction) => Effect.asVoid(tx.commit), (tx: Pager.Transaction) => tx.rollback]
      for (const end of ends) {
        const tx = yield* database.pager.begin()
        yield* tx.write(page(2), filled(1))
        yield* end(tx)
        const uses: ReadonlyArray<() => Effect.Effect<unknown, unknown>> = [
          () => tx.read(page(2)),
          () => tx.write(page(2), filled(2)),
          () => tx.truncateTo(1),
          () => tx.takeWriteSet,
          () => tx.adoptWriteSet(new Map()),
          () => tx.commit,
          () => Effect.sync(() => tx.readSync(page(2))),
          () => Effect.sync(() => tx.allocate())
        ]
        for (const use of uses) {
          isDefect(yield* Effect.exit(Effect.suspend(use)), /not used after its commit or rollback/)
        }
        yield* tx.rollback
      }
      assert.strictEqual(published(database), toCommitSeq(database.tip + 1n))
    }))

  test.overEveryLog("PG-01 a rollback, or the end of the scope, while the commit is on its way does not disturb it", (log) =>
    Effect.gen(function*() {
      const database = yield* open10({ maxQueuedBytes: 600 })
      const hold = database.disk.hold(log.batchWrite)
      const first = yield* forkNow(database.pager.withTransaction((tx) => tx.write(page(2), filled(2))))
      yield* hold.reached
      // These wait for room.
      const [second, third] = yield* Effect.scoped(Effect.gen(function*() {
        const rolledBack = yield* database.pager.begin()
        const left = yield* database.pager.begin()
        yield* rolledBack.write(page(3), filled(3))
        yield* left.write(page(4), filled(4))
        const commits = [
          yield* Effect.forkDetach(rolledBack.commit, { startImmediately: true }),
          yield* Effect.forkDetach(left.commit, { startImmediately: true })
        ] as const
        yield* rolledBack.rollback
        return commits
      }))
      assert.deepStrictEqual([isWaiting(second), isWaiting(third)], [true, true])
      yield* hold.release
      yield* Fiber.join(first)
      yield* Fiber.join(second)
      yield* Fiber.join(third)
      for (const number of [2, 3, 4]) assert.strictEqual(valueOf(yield* readNow(database, number)), number)
    }))

  test.overEveryLog("a transaction that was refused is over", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      const tx = yield* database.pager.begin()
      yield* tx.write(page(2), filled(1))
      yield* commitPages(database, [2], { value: 7 })
      assert.strictEqual(yield* outcomeOf(tx.commit), "Conflict")
      isDefect(yield* Effect.exit(tx.commit), /not used after/)
      assert.deepStrictEqual(yield* database.coordinator.outcome(tx.token), { _tag: "aborted" })
    }))

  test.overEveryLog("pages that are none, and bytes that are not a page, are refused; the transaction goes on", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      const tx = yield* database.pager.begin()
      // What an untyped caller can pass: page numbers are branded.
      const numbers = [0, -1, 1.5, Number.NaN, Infinity, 2 ** 32 - 1, 2 ** 53] as unknown as ReadonlyArray<PageNumber>
      for (const number of numbers) {
        const error = yield* Effect.flip(tx.read(number))
        assert.instanceOf(error, PageOutOfRange)
        assert.deepInclude(error, { isRetryable: false, sqliteCode: 21, maxPage: 0xfffffffe })
        assert.instanceOf(yield* Effect.flip(tx.write(number, filled(1))), PageOutOfRange)
        assert.instanceOf(yield* Effect.flip(tx.adoptWriteSet(new Map([[number, filled(1)]]))), PageOutOfRange)
        assert.instanceOf(attempt(() => tx.readSync(number)), PageOutOfRange)
      }
      for (const length of [0, 1, pageSize - 1, pageSize + 1, 2 * pageSize]) {
        const error = yield* Effect.flip(tx.write(page(3), new Uint8Array(length)))
        assert.instanceOf(error, WrongPageSize)
        assert.deepInclude(error, { page: page(3), bytes: length, pageSize, isRetryable: false, sqliteCode: 21 })
        // Nothing of a set is taken when a page of it is wrong.
        const set = new Map([[page(4), filled(9)], [page(3), new Uint8Array(length)]])
        assert.instanceOf(yield* Effect.flip(tx.adoptWriteSet(set)), WrongPageSize)
      }
      for (const size of [0, -1, 11, 1.5, Number.NaN]) {
        assert.instanceOf(yield* Effect.flip(tx.truncateTo(size)), PageOutOfRange)
      }
      assert.strictEqual(valueOf(yield* tx.read(page(4))), 0)
      yield* tx.write(page(2), filled(1))
      yield* tx.commit
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 1)
      assert.strictEqual(database.log.published().databasePages, 10)
    }))

  test.overEveryLog("write acts when it is called; the effect only moves pages out of memory", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      const tx = yield* database.pager.begin()
      const bytes = filled(3)
      const write = tx.write(page(2), bytes)
      bytes.fill(9)
      assert.strictEqual(valueOf(tx.readSync(page(2))), 3)
      yield* write
      yield* write
      assert.strictEqual(valueOf(tx.readSync(page(2))), 3)
    }))
})

class UserError extends Data.TaggedError("UserError")<{}> {}

describe("Pager: retries", () => {
  test.overEveryLog("PG-02 a conflict is run again on a fresh snapshot, and each attempt is counted", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      const snapshots: Array<bigint> = []
      yield* database.pager.withTransaction(Effect.fnUntraced(function*(tx) {
        snapshots.push(tx.snapshot.high)
        const seen = valueOf(yield* tx.read(page(2)))
        if (snapshots.length <= 3) yield* commitPages(database, [2], { value: 10 * snapshots.length })
        yield* tx.write(page(2), filled(seen + 1))
      }))
      assert.deepStrictEqual(snapshots, [0n, 1n, 2n, 3n].map((more) => database.tip + more))
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 31)
      assert.strictEqual((yield* Metric.value(CoordinatorMetrics.retries)).count, 3)
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))

  test.overEveryLog("PG-02 a serialization failure is run again too", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      let attempts = 0
      yield* database.pager.withTransaction(
        Effect.fnUntraced(function*(tx) {
          attempts++
          const seen = valueOf(yield* tx.read(page(2)))
          if (attempts === 1) yield* commitPages(database, [2], { value: 20 })
          yield* tx.write(page(3), filled(seen + 1))
        }),
        { isolation: "serializable" }
      )
      assert.strictEqual(attempts, 2)
      assert.strictEqual(valueOf(yield* readNow(database, 3)), 21)
    }))

  test.overEveryLog("PG-02 a retry does not begin before the commit that was in the way is visible", (log) =>
    Effect.gen(function*() {
      for (const schedule of [undefined, Schedule.recurs(3)]) {
        const database = yield* open10()
        const hold = database.disk.hold(log.batchSync)
        const other = yield* forkNow(commitPages(database, [2], { value: 40 }))
        yield* hold.reached
        const snapshots: Array<bigint> = []
        const retried = yield* forkNow(database.pager.withTransaction(
          Effect.fnUntraced(function*(tx) {
            snapshots.push(tx.snapshot.high)
            yield* tx.write(page(2), filled(valueOf(yield* tx.read(page(2))) + 1))
          }),
          { schedule }
        ))
        yield* settle
        assert.deepStrictEqual(snapshots, [database.tip])
        assert.isTrue(isWaiting(retried))
        yield* hold.release
        yield* Fiber.join(other)
        yield* Fiber.join(retried)
        assert.deepStrictEqual(snapshots, [database.tip, toCommitSeq(database.tip + 1n)], "and so it needs one only")
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 41)
      }
    }))

  test.overEveryLog("PG-02 a retry that waits ends with the log when that fails", (log) =>
    Effect.gen(function*() {
      const database = yield* open10()
      const hold = database.disk.hold(log.batchSync)
      database.disk.inject({ ...log.batchSync, fault: { kind: "error", code: "EIO" } })
      const other = yield* forkNow(outcomeOf(commitPages(database, [2])))
      yield* hold.reached
      const retried = yield* forkNow(outcomeOf(database.pager.withTransaction((tx) => tx.write(page(2), filled(1)))))
      yield* settle
      assert.isTrue(isWaiting(retried))
      yield* hold.release
      assert.strictEqual(yield* Fiber.join(other), "WalPoisoned")
      assert.strictEqual(yield* Fiber.join(retried), "WalPoisoned")
    }))

  test.overEveryLog("PG-02 a schedule says when and how often; the last conflict is the answer", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      let attempts = 0
      const alwaysLate = database.pager.withTransaction(
        Effect.fnUntraced(function*(tx) {
          attempts++
          yield* tx.write(page(2), filled(1))
          yield* commitPages(database, [2])
        }),
        { schedule: Schedule.upTo(Schedule.spaced("1 second"), { times: 2 }) }
      )
      const fiber = yield* forkNow(Effect.flip(alwaysLate))
      yield* settle
      assert.strictEqual(attempts, 1)
      yield* TestClock.adjust("999 millis")
      yield* settle
      assert.strictEqual(attempts, 1)
      yield* TestClock.adjust("1 millis")
      yield* settle
      assert.strictEqual(attempts, 2)
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(fiber)
      assert.instanceOf(error, Conflict)
      assert.strictEqual(attempts, 3)
      assert.strictEqual((yield* Metric.value(CoordinatorMetrics.retries)).count, 2, "two were run again")
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))

  test.overEveryLog("PG-02 an error of the user is not retried, nor is a defect; nothing is committed", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      for (const schedule of [undefined, Schedule.recurs(5)]) {
        let attempts = 0
        const failing = database.pager.withTransaction(
          Effect.fnUntraced(function*(tx) {
            attempts++
            yield* tx.write(page(2), filled(1))
            yield* commitPages(database, [2], { value: 9 })
            return yield* new UserError()
          }),
          { schedule }
        )
        assert.strictEqual(yield* outcomeOf(failing), "UserError")
        assert.strictEqual(attempts, 1)
        const dying = database.pager.withTransaction(
          (tx) => Effect.andThen(tx.write(page(2), filled(1)), Effect.die("no")),
          {
            schedule
          }
        )
        assert.strictEqual(yield* outcomeOf(dying), "defect")
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 9)
      }
    }))

  test.overEveryLog("PG-02 a committed value is answered once; who is interrupted while waiting leaves nothing", (log) =>
    Effect.gen(function*() {
      const database = yield* open10()
      const hold = database.disk.hold(log.batchSync)
      const other = yield* forkNow(commitPages(database, [2], { value: 40 }))
      yield* hold.reached
      let attempts = 0
      const waiting = yield* forkNow(database.pager.withTransaction((tx) => {
        attempts++
        return tx.write(page(2), filled(1))
      }))
      yield* settle
      yield* Fiber.interrupt(waiting)
      yield* hold.release
      yield* Fiber.join(other)
      yield* settle
      assert.strictEqual(attempts, 1)
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 40)
    }))
})

describe("Pager: reading", () => {
  test.overEveryLog("PG-05 no dirty read, no non-repeatable read, no phantom page", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      const reader = yield* database.pager.begin()
      const writer = yield* database.pager.begin()
      yield* writer.write(page(2), filled(1))
      yield* writer.write(page(14), filled(1))
      assert.strictEqual(valueOf(yield* reader.read(page(2))), 0)
      assert.strictEqual(reader.databasePages(), 10)
      yield* writer.commit
      assert.strictEqual(valueOf(yield* reader.read(page(2))), 0)
      assert.strictEqual(valueOf(yield* reader.read(page(14))), 0)
      assert.strictEqual(reader.databasePages(), 10)
      assert.strictEqual(valueOf(yield* readNow(database, 14)), 1)
    }))

  test.overEveryLog("PG-05 a page that was cut off is not found in the cache", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      yield* database.pager.withTransaction((tx) => tx.write(page(9), filled(9)))
      const old = yield* database.pager.begin()
      assert.strictEqual(valueOf(yield* readNow(database, 9)), 9)
      yield* database.pager.withTransaction((tx) => tx.truncateTo(5))
      assert.strictEqual(valueOf(yield* readNow(database, 9)), 0)
      const now = yield* database.pager.begin()
      assert.strictEqual(valueOf(now.readSync(page(9))), 0)
      assert.strictEqual(valueOf(yield* old.read(page(9))), 9)
      yield* database.pager.withTransaction((tx) => tx.write(page(10), filled(1)))
      assert.strictEqual(valueOf(yield* readNow(database, 9)), 0)
      assert.strictEqual(valueOf(yield* now.read(page(9))), 0)
    }))

  test.overEveryLog("PG-06 what is read again comes from the cache, in bounded memory; the rest from the disk", () =>
    Effect.gen(function*() {
      const reads = { count: 0 }
      const run = Effect.fnUntraced(function*(cachedPages: number) {
        const database = yield* open10({ pager: { cacheBytes: cachedPages * (pageSize + 256) } })
        yield* Effect.forEach([2, 3, 4, 5, 6, 7], (number) => readNow(database, number))
        const fault = database.disk.inject({
          operation: "read",
          fault: { kind: "error", code: "EIO" },
          times: Infinity
        })
        const outcomes = yield* Effect.forEach([7, 6, 5, 4, 3, 2], (number) => outcomeOf(readNow(database, number)))
        reads.count += fault.hits
        fault.remove()
        return outcomes.filter((outcome) => outcome === "success").length
      })
      assert.strictEqual(yield* run(100), 6)
      assert.strictEqual(reads.count, 0)
      assert.strictEqual(yield* run(3), 3)
      assert.strictEqual(yield* run(0), 0)
      assert.strictEqual(reads.count, 9)
    }))

  test.overEveryLog("PG-06 a committed page is in the cache for whoever reads it next", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      yield* database.pager.withTransaction((tx) => tx.write(page(5), filled(5)))
      database.disk.inject({ operation: "read", fault: { kind: "error", code: "EIO" }, times: Infinity })
      assert.strictEqual(valueOf(yield* readNow(database, 5)), 5)
    }))

  test.overEveryLog("PG-06 a page that is committed again and again pushes nothing else out", () =>
    Effect.gen(function*() {
      const database = yield* open10({ pager: { cacheBytes: 3 * (pageSize + 256) } })
      for (const number of [2, 3]) yield* readNow(database, number)
      for (const value of [5, 6, 7, 8]) {
        yield* database.pager.withTransaction((tx) => tx.write(page(5), filled(value)))
      }
      database.disk.inject({ operation: "read", fault: { kind: "error", code: "EIO" }, times: Infinity })
      for (const [number, value] of [[2, 0], [3, 0], [5, 8]] as const) {
        assert.strictEqual(valueOf(yield* readNow(database, number)), value)
      }
    }))

  test.overEveryLog("PG-06 what an open transaction sees stays in the cache while its pages are committed anew", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      const commit = (value: number) => database.pager.withTransaction((tx) => tx.write(page(5), filled(value)))
      yield* commit(5)
      const old = yield* database.pager.begin()
      yield* commit(6)
      yield* commit(7)
      database.disk.inject({ operation: "read", fault: { kind: "error", code: "EIO" }, times: Infinity })
      assert.strictEqual(valueOf(old.readSync(page(5))), 5)
      assert.strictEqual(valueOf(yield* readNow(database, 5)), 7)
    }))

  test.overEveryLog("PG-09 readSync answers what read answers: own writes, snapshot, zeros beyond the end", () =>
    Effect.gen(function*() {
      const database = yield* open10({ pager: { spillThresholdBytes: 2 * pageSize } })
      yield* database.pager.withTransaction((tx) => tx.write(page(3), filled(3)))
      const tx = yield* database.pager.begin()
      for (const number of [4, 5, 6, 7]) yield* tx.write(page(number), filled(number))
      yield* commitPages(database, [3], { value: 33 })
      for (const number of [1, 2, 3, 4, 5, 6, 7, 10, 11, 4000]) {
        assert.deepStrictEqual(tx.readSync(page(number)), yield* tx.read(page(number)), `page ${number}`)
      }
    }))

  test.overEveryLog("PG-09 readSync throws what read fails with, as the same values", () =>
    Effect.gen(function*() {
      const database = yield* open10({ pager: { cacheBytes: 0, spillThresholdBytes: 0 } })
      const tx = yield* database.pager.begin()
      yield* tx.write(page(3), filled(3))
      const both = Effect.fnUntraced(function*(number: number) {
        const failed = yield* Effect.flip(tx.read(page(number)))
        const thrown = attempt(() => tx.readSync(page(number)))
        const fieldsOf = (error: unknown) =>
          Object.entries(error instanceof Error ? error : {}).filter(([name]) => name !== "cause")
        assert.deepStrictEqual(fieldsOf(thrown), fieldsOf(failed))
        assert.strictEqual(Object.getPrototypeOf(thrown), Object.getPrototypeOf(failed))
        return failed
      })
      const fault = database.disk.inject({ operation: "read", fault: { kind: "error", code: "EIO" }, times: Infinity })
      assert.instanceOf(yield* both(2), VfsError)
      assert.instanceOf(yield* both(3), VfsError)
      fault.remove()
      const spill = database.disk.files.find((path) => path.endsWith(".spill")) ?? ""
      database.disk.writeFile(spill, filled(4))
      assert.deepInclude(yield* both(3), { _tag: "SpillCorrupt", path: spill, page: page(3) })
      yield* database.control.checkpoint("passive")
      yield* tx.rollback
    }))

  test.overEveryLog("PG-09 a database file that ends too early is the same typed error for both", () =>
    Effect.gen(function*() {
      const database = yield* open10({ pager: { cacheBytes: 0 } })
      yield* database.control.checkpoint("restart")
      const bytes = database.disk.readFile(memoryPath) ?? new Uint8Array(0)
      database.disk.writeFile(memoryPath, bytes.subarray(0, 4 * pageSize))
      const tx = yield* database.pager.begin()
      const failed = yield* Effect.flip(tx.read(page(6)))
      assert.deepInclude(failed, { _tag: "DatabaseTruncated", path: memoryPath, page: page(6), offset: 5 * pageSize })
      assert.deepInclude(attempt(() => tx.readSync(page(6))), { _tag: "DatabaseTruncated", offset: 5 * pageSize })
      assert.strictEqual(valueOf(yield* tx.read(page(4))), 0)
    }))
})

describe("Pager: write sets", () => {
  test.overEveryLog("PG-10 a write set is taken out, handed to another transaction, and to a third after a conflict", () =>
    Effect.gen(function*() {
      for (const spillThresholdBytes of [undefined, 0]) {
        const database = yield* open10({ pager: { spillThresholdBytes } })
        const first = yield* database.pager.begin()
        yield* first.write(page(2), filled(2))
        yield* first.write(page(3), filled(3))
        const taken = yield* first.takeWriteSet
        assert.deepStrictEqual(Array.from(taken.keys()).sort((a, b) => a - b), [page(2), page(3)])
        assert.strictEqual(valueOf(yield* first.read(page(2))), 0, "it sees its snapshot again")
        assert.deepStrictEqual(yield* first.commit, { commitSeq: database.tip, walOffset: 0 })

        const second = yield* database.pager.begin()
        yield* second.adoptWriteSet(taken)
        assert.strictEqual(valueOf(yield* second.read(page(3))), 3)
        yield* commitPages(database, [3], { value: 30 })
        assert.strictEqual(yield* outcomeOf(second.commit), "Conflict")

        const third = yield* database.pager.begin()
        yield* third.adoptWriteSet(taken)
        yield* third.commit
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 2)
        assert.strictEqual(valueOf(yield* readNow(database, 3)), 3)
      }
    }))

  test.overEveryLog("PG-10 pages that were taken are the taker's: no later transaction uses their memory", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      const taken = yield* Effect.scoped(Effect.gen(function*() {
        const tx = yield* database.pager.begin()
        yield* tx.write(page(2), filled(2))
        return yield* tx.takeWriteSet
      }))
      yield* Effect.scoped(Effect.gen(function*() {
        const tx = yield* database.pager.begin()
        yield* tx.adoptWriteSet(taken)
        yield* tx.write(page(3), filled(3))
      }))
      for (let at = 0; at < 20; at++) {
        yield* database.pager.withTransaction((tx) => tx.write(page(4), filled(100 + at)))
      }
      assert.strictEqual(valueOf(taken.get(page(2)) ?? new Uint8Array(1)), 2)
    }))

  test.overEveryLog("PG-10 growth and cuts go with the write set that is taken out", () =>
    Effect.gen(function*() {
      const database = yield* open10()
      const grown = yield* database.pager.begin()
      yield* grown.write(page(15), filled(15))
      const taken = yield* grown.takeWriteSet
      assert.strictEqual(grown.databasePages(), 10)
      yield* grown.commit
      assert.strictEqual(published(database), database.tip)

      const cut = yield* database.pager.begin()
      yield* cut.truncateTo(4)
      yield* cut.takeWriteSet
      assert.strictEqual(cut.databasePages(), 10)
      yield* cut.commit
      assert.strictEqual(database.log.published().databasePages, 10)

      yield* database.pager.withTransaction((tx) => tx.adoptWriteSet(taken))
      assert.strictEqual(database.log.published().databasePages, 15)
      assert.strictEqual(valueOf(yield* readNow(database, 15)), 15)
      assert.strictEqual(valueOf(yield* readNow(database, 12)), 0)
    }))
})

describe("Pager: configuration", () => {
  const build = (env: Record<string, string>) =>
    Effect.gen(function*() {
      const { coordinator, log, vfs } = yield* openMemory(makeDisk())
      const context = yield* Layer.build(Layer.fresh(Pager.layerConfig)).pipe(
        Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnvRecord(env)),
        Effect.provideService(CompatCoordinator, coordinator),
        Effect.provideService(CommitLog, log),
        Effect.provideService(Vfs, vfs)
      )
      return Context.get(context, Pager.Pager)
    })

  it.effect("reads TIDEMARK_CACHE_BYTES and TIDEMARK_SPILL_THRESHOLD_BYTES", () =>
    Effect.gen(function*() {
      const pager = yield* build({ TIDEMARK_CACHE_BYTES: "0", TIDEMARK_SPILL_THRESHOLD_BYTES: "1024" })
      yield* pager.withTransaction(Effect.fnUntraced(function*(tx) {
        for (const number of [2, 3, 4]) yield* tx.write(page(number), filled(number))
        assert.strictEqual(valueOf(yield* tx.read(page(4))), 4)
      }))
      yield* build({})
    }))

  it.effect("refuses what is no number of bytes, with the name of the key", () =>
    Effect.gen(function*() {
      for (const key of ["TIDEMARK_CACHE_BYTES", "TIDEMARK_SPILL_THRESHOLD_BYTES"]) {
        for (const value of ["-1", "1.5", "many"]) {
          const error = yield* Effect.flip(build({ [key]: value }))
          assert.include(String(error), key)
        }
      }
    }))
})

/** PG-11: growing, cutting, what others see of it, and what SQLite makes of it. */
import { assert, describe } from "@effect/vitest"
import { maxCommitPages } from "@tidemark/coordinator/CompatCoordinator"
import { maxPublishPages } from "@tidemark/coordinator/NativeCoordinator"
import type * as Pager from "@tidemark/coordinator/Pager"
import { PageOutOfRange } from "@tidemark/coordinator/PagerErrors"
import { PageSize, toCommitSeq } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { emptyDatabasePage1, setDatabasePages } from "@tidemark/wal/DatabaseHeaderFormat"
import { Effect } from "effect"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import {
  type Database,
  filled,
  grow,
  makeDisk,
  memoryPath,
  openMemory,
  openOn,
  outcomeOf,
  page,
  pages,
  published,
  readNow,
  valueOf
} from "./support/database.ts"
import { test } from "./support/logs.ts"
import { temporaryDirectory } from "./support/temporaryDirectory.ts"

const open10 = Effect.gen(function*() {
  const disk = makeDisk()
  const database = yield* openMemory(disk)
  yield* database.pager.withTransaction((tx) =>
    Effect.forEach([2, 3, 4, 5, 6, 7, 8, 9, 10], (number) => tx.write(page(number), filled(number)), { discard: true })
  )
  return { ...database, disk, tip: published(database) }
})

const sizeOf = (database: Pick<Database, "log">) => database.log.published().databasePages

/** Every page from 2 on, as a new snapshot sees it. */
const valuesOf = (database: Pick<Database, "pager">, upTo: number) =>
  Effect.scoped(Effect.gen(function*() {
    const tx = yield* database.pager.begin()
    const values: Array<number> = []
    for (let number = 2; number <= upTo; number++) values.push(valueOf(yield* tx.read(page(number))))
    return values
  }))

describe("Pager: growing", () => {
  test.overEveryLog("PG-11 pages between the end and what was written are zeros, and belong to the database", () =>
    Effect.gen(function*() {
      const database = yield* open10
      yield* database.pager.withTransaction((tx) => tx.write(page(14), filled(14)))
      assert.strictEqual(sizeOf(database), 14)
      assert.deepStrictEqual(yield* valuesOf(database, 16), [2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0, 0, 14, 0, 0])
      yield* database.control.checkpoint("truncate")
      assert.deepStrictEqual(yield* valuesOf(database, 14), [2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0, 0, 14])
    }))

  test.overEveryLog("PG-11 pages that were allocated and never written are zeros, and are there", () =>
    Effect.gen(function*() {
      const database = yield* open10
      const allocated = yield* database.pager.withTransaction((tx) =>
        Effect.sync(() => [tx.allocate(), tx.allocate(), tx.databasePages()])
      )
      assert.deepStrictEqual(allocated, [11, 12, 12])
      assert.strictEqual(sizeOf(database), 12)
      assert.deepStrictEqual((yield* valuesOf(database, 12)).slice(-2), [0, 0])
    }))

  test.overEveryLog("PG-11 two that grow the database at once get the same page, and one of them is refused", () =>
    Effect.gen(function*() {
      const database = yield* open10
      const first = yield* database.pager.begin()
      const second = yield* database.pager.begin()
      assert.strictEqual(first.allocate(), second.allocate())
      yield* first.commit
      assert.strictEqual(yield* outcomeOf(second.commit), "Conflict")
      assert.strictEqual(sizeOf(database), 11)
    }))

  test.overEveryLog("PG-11 fibers that each allocate a page get one each", () =>
    Effect.gen(function*() {
      const database = yield* open10
      const allocated = yield* Effect.forEach(
        Array.from({ length: 20 }, (_, at) => at),
        (fiber) =>
          database.pager.withTransaction((tx) => {
            const number = tx.allocate()
            return Effect.as(tx.write(number, filled(100 + fiber)), number)
          }),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual([...allocated].sort((a, b) => a - b), Array.from({ length: 20 }, (_, at) => page(11 + at)))
      for (const [fiber, number] of allocated.entries()) {
        assert.strictEqual(valueOf(yield* readNow(database, number)), 100 + fiber)
      }
    }))

  test.overEveryLog("PG-11 growth beyond what a commit can carry is refused, however far it goes", (log) =>
    Effect.gen(function*() {
      const database = yield* open10
      const maxPages = log.name === "native log" ? maxPublishPages : maxCommitPages
      for (const number of [maxPages + 12, 4_000_000_000]) {
        const tx = yield* database.pager.begin()
        yield* tx.write(page(number), filled(1))
        const refused = yield* Effect.flip(tx.commit)
        assert(refused._tag === "WriteSetTooLarge")
        assert.strictEqual(refused.maxPages, maxPages)
      }
      assert.strictEqual(published(database), database.tip)
      yield* database.pager.withTransaction((tx) => tx.write(page(11), filled(11)))
    }))

  test.overEveryLog("PG-11 who has seen the size and is serializable is refused when it changed", () =>
    Effect.gen(function*() {
      const database = yield* open10
      const looking: ReadonlyArray<(tx: Pager.Transaction) => Effect.Effect<unknown, PageOutOfRange>> = [
        (tx) => Effect.sync(() => tx.databasePages()),
        (tx) => Effect.andThen(Effect.sync(() => tx.allocate()), tx.truncateTo(10)),
        (tx) => tx.truncateTo(10)
      ]
      for (const look of looking) {
        for (const resize of [11, 9] as const) {
          const size = sizeOf(database)
          yield* database.pager.withTransaction((tx) => size > 10 ? tx.truncateTo(10) : Effect.void)
          yield* grow(database, 10)
          const tx = yield* database.pager.begin({ isolation: "serializable" })
          yield* look(tx)
          yield* tx.write(page(3), filled(3))
          yield* database.pager.withTransaction((other) =>
            resize === 11 ? other.write(page(11), filled(1)) : other.truncateTo(9)
          )
          assert.strictEqual(yield* outcomeOf(tx.commit), "SerializationFailure", `${looking.indexOf(look)} ${resize}`)
        }
      }
    }))
})

describe("Pager: cutting", () => {
  test.overEveryLog("PG-11 a cut database ends there, its pages behind the end are zeros, also when they come back", () =>
    Effect.gen(function*() {
      const database = yield* open10
      yield* database.pager.withTransaction((tx) => tx.truncateTo(4))
      assert.strictEqual(sizeOf(database), 4)
      assert.deepStrictEqual(yield* valuesOf(database, 10), [2, 3, 4, 0, 0, 0, 0, 0, 0])
      yield* grow(database, 8)
      assert.deepStrictEqual(yield* valuesOf(database, 10), [2, 3, 4, 0, 0, 0, 0, 0, 0])
      yield* database.control.checkpoint("restart")
      assert.strictEqual(database.disk.readFile(memoryPath)?.length, 8 * 512)
      assert.deepStrictEqual(yield* valuesOf(database, 10), [2, 3, 4, 0, 0, 0, 0, 0, 0])
    }))

  test.overEveryLog("PG-11 a transaction sees its own cut, and what it writes behind it again", () =>
    Effect.gen(function*() {
      const database = yield* open10
      yield* database.pager.withTransaction(Effect.fnUntraced(function*(tx) {
        yield* tx.write(page(9), filled(90))
        yield* tx.truncateTo(6)
        assert.strictEqual(tx.databasePages(), 6)
        assert.strictEqual(valueOf(yield* tx.read(page(7))), 0)
        assert.strictEqual(valueOf(yield* tx.read(page(9))), 0)
        assert.strictEqual(valueOf(tx.readSync(page(6))), 6)
        assert.strictEqual(tx.allocate(), 7)
        yield* tx.write(page(9), filled(91))
        assert.strictEqual(tx.databasePages(), 9)
        for (const number of [7, 8, 10]) assert.strictEqual(valueOf(tx.readSync(page(number))), 0)
        yield* tx.truncateTo(8)
      }))
      assert.strictEqual(sizeOf(database), 8)
      assert.deepStrictEqual(yield* valuesOf(database, 10), [2, 3, 4, 5, 6, 0, 0, 0, 0])
    }))

  test.overEveryLog("PG-11 a cut of the transaction's own growth leaves no hole", () =>
    Effect.gen(function*() {
      const database = yield* open10
      yield* database.pager.withTransaction(Effect.fnUntraced(function*(tx) {
        yield* tx.write(page(15), filled(15))
        yield* tx.truncateTo(12)
        yield* tx.write(page(14), filled(14))
      }))
      assert.strictEqual(sizeOf(database), 14)
      assert.deepStrictEqual(yield* valuesOf(database, 15), [2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0, 0, 14, 0])
      yield* database.pager.withTransaction(Effect.fnUntraced(function*(tx) {
        yield* tx.write(page(20), filled(20))
        yield* tx.truncateTo(16)
      }))
      assert.strictEqual(sizeOf(database), 16)
      assert.deepStrictEqual((yield* valuesOf(database, 16)).slice(-3), [14, 0, 0])
    }))

  test.overEveryLog("PG-11 cutting to the size that it has, and back to it, commits nothing or the zeros alone", () =>
    Effect.gen(function*() {
      const database = yield* open10
      yield* database.pager.withTransaction((tx) => tx.truncateTo(10))
      assert.strictEqual(published(database), database.tip)
      yield* database.pager.withTransaction((tx) =>
        Effect.andThen(
          tx.truncateTo(8),
          Effect.sync(() => [tx.allocate(), tx.allocate()])
        )
      )
      assert.strictEqual(sizeOf(database), 10)
      assert.deepStrictEqual((yield* valuesOf(database, 10)).slice(-3), [8, 0, 0])
    }))

  test.overEveryLog("PG-11 a cut conflicts with whoever changed what it cuts off, and with every change of the size", () =>
    Effect.gen(function*() {
      const others: ReadonlyArray<readonly [string, (tx: Pager.Transaction) => Effect.Effect<unknown, unknown>]> = [
        ["a page that is cut off", (tx) => tx.write(page(9), filled(1))],
        ["page 1", (tx) => Effect.flatMap(tx.read(page(1)), (bytes) => tx.write(page(1), bytes))],
        ["growth", (tx) => tx.write(page(11), filled(1))],
        ["a deeper cut", (tx) => tx.truncateTo(3)],
        ["a lesser cut", (tx) => tx.truncateTo(9)]
      ]
      for (const [what, change] of others) {
        const database = yield* open10
        const cut = yield* database.pager.begin()
        yield* cut.truncateTo(6)
        yield* database.pager.withTransaction(change)
        const size = sizeOf(database)
        assert.strictEqual(yield* outcomeOf(cut.commit), "Conflict", what)
        assert.strictEqual(sizeOf(database), size, what)
      }
      const database = yield* open10
      const cut = yield* database.pager.begin()
      yield* cut.truncateTo(6)
      yield* database.pager.withTransaction((tx) => tx.write(page(6), filled(60)))
      yield* cut.commit
      assert.deepStrictEqual(
        yield* valuesOf(database, 7),
        [2, 3, 4, 5, 60, 0],
        "a page that stays is nobody's business"
      )
    }))

  test.overEveryLog("PG-11 who wrote or read beyond a cut conflicts with it", () =>
    Effect.gen(function*() {
      const database = yield* open10
      const writer = yield* database.pager.begin()
      yield* writer.write(page(3), filled(30))
      yield* writer.write(page(8), filled(80))
      const reader = yield* database.pager.begin({ isolation: "serializable" })
      assert.strictEqual(valueOf(yield* reader.read(page(8))), 8)
      yield* reader.write(page(4), filled(40))
      const untouched = yield* database.pager.begin()
      yield* untouched.write(page(5), filled(50))
      yield* database.pager.withTransaction((tx) => tx.truncateTo(6))
      const conflict = yield* Effect.flip(writer.commit)
      assert.deepInclude(conflict, {
        _tag: "Conflict",
        pages: pages(8),
        conflictingSeq: toCommitSeq(database.tip + 1n)
      })
      assert.strictEqual(yield* outcomeOf(reader.commit), "SerializationFailure")
      yield* untouched.commit
      assert.strictEqual(sizeOf(database), 6)
      assert.deepStrictEqual(yield* valuesOf(database, 8), [2, 3, 4, 50, 6, 0, 0])
    }))

  test.overEveryLog("PG-11 a cut and a regrowth that come to the old size conflict with growth by another", () =>
    Effect.gen(function*() {
      const database = yield* open10
      const tx = yield* database.pager.begin()
      yield* tx.truncateTo(8)
      tx.allocate()
      tx.allocate()
      yield* database.pager.withTransaction((other) => other.write(page(12), filled(12)))
      assert.strictEqual(yield* outcomeOf(tx.commit), "Conflict")
      assert.strictEqual(sizeOf(database), 12)
    }))

  test.overEveryLog("PG-11 PG-03 an older snapshot keeps what was cut off, through a checkpoint", () =>
    Effect.gen(function*() {
      const database = yield* open10
      const old = yield* database.pager.begin()
      yield* database.pager.withTransaction((tx) => tx.truncateTo(4))
      yield* database.control.checkpoint("passive")
      assert.strictEqual(old.databasePages(), 10)
      assert.strictEqual(valueOf(yield* old.read(page(9))), 9)
      assert.strictEqual(valueOf(old.readSync(page(10))), 10)
      yield* old.rollback
      yield* database.control.checkpoint("restart")
      assert.strictEqual(database.disk.readFile(memoryPath)?.length, 4 * 512)
    }))
})

describe("Pager: the header of page 1", () => {
  test.overEveryLog("PG-11 says the size after every growth and cut, so that it survives a log that is gone", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      for (const [size, value] of [[7, 1], [12, 2], [5, 3], [6, 4]] as const) {
        const database = yield* openMemory(disk)
        yield* database.pager.withTransaction((tx) =>
          size < tx.databasePages() ? tx.truncateTo(size) : tx.write(page(size), filled(value))
        )
        yield* database.pager.withTransaction((tx) => tx.write(page(size), filled(value)))
        yield* database.control.checkpoint("truncate")
        yield* database.close
        const again = yield* openMemory(disk)
        assert.strictEqual(sizeOf(again), size)
        assert.strictEqual(valueOf(yield* readNow(again, size)), value)
        yield* again.close
      }
    }))

  test.overEveryLog("PG-11 SQLite believes the size, with the log that it can read and without one", (log) =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      for (const end of ["truncate", "close", "close without a checkpoint"] as const) {
        const path = join(directory, `${end}.db`)
        const parallel = { checkpointOnClose: end !== "close without a checkpoint" }
        const database = yield* openOn(NodeVfs.layer, { database: path, parallel })
        yield* grow(database, 9)
        yield* database.pager.withTransaction((tx) => tx.truncateTo(4))
        yield* grow(database, 6)
        if (end === "truncate") yield* database.control.checkpoint("truncate")
        yield* database.close
        const sqlite = new DatabaseSync(path)
        const countPages = () => ({ ...sqlite.prepare("PRAGMA page_count").get() })
        if (end === "close without a checkpoint" && !log.isReadBySqlite) {
          assert.throws(countPages, /file is not a database/)
          sqlite.close()
          continue
        }
        assert.deepStrictEqual(countPages(), { page_count: 6 }, end)
        // It goes on behind them, not on top of them.
        sqlite.exec("CREATE TABLE t (a)")
        assert.strictEqual(Number(sqlite.prepare("SELECT rootpage FROM sqlite_schema").get()?.["rootpage"]), 7)
        sqlite.close()
      }
    }))

  test.overEveryLog("PG-11 a page 1 that was written by the transaction keeps its bytes but for the size", () =>
    Effect.gen(function*() {
      const database = yield* open10
      yield* database.pager.withTransaction(Effect.fnUntraced(function*(tx) {
        const first = yield* tx.read(page(1))
        first.fill(77, 200)
        yield* tx.write(page(1), first)
        yield* tx.write(page(12), filled(12))
      }))
      const expected = emptyDatabasePage1(PageSize.make(512))
      setDatabasePages(expected, 12)
      expected.fill(77, 200)
      assert.deepStrictEqual(yield* readNow(database, 1), expected)
    }))

  test.overEveryLog("PG-11 a page 1 that is no header is left alone", () =>
    Effect.gen(function*() {
      const database = yield* open10
      yield* database.pager.withTransaction((tx) => tx.write(page(1), filled(5)))
      yield* database.pager.withTransaction((tx) => tx.write(page(12), filled(12)))
      assert.strictEqual(valueOf(yield* readNow(database, 1)), 5)
    }))
})

describe("Pager: SQLite's lock-byte page", () => {
  const large = PageSize.make(65_536)
  const lockPage = 2 ** 30 / large + 1

  /** A database of so many pages of 65,536 bytes: nothing but its first page takes room on the disk. */
  const openLarge = Effect.fnUntraced(function*(databasePages: number) {
    const disk = makeDisk()
    const first = emptyDatabasePage1(large)
    setDatabasePages(first, databasePages)
    disk.writeFile(memoryPath, first)
    yield* Effect.scoped(Effect.gen(function*() {
      const { close, vfs } = yield* openMemory(disk, { database: "/data/other.db" })
      yield* Effect.scoped(Effect.flatMap(
        vfs.open(memoryPath, { access: "readWrite" }),
        (file) => file.truncate(databasePages * large)
      ))
      yield* close
    }))
    return yield* openMemory(disk, { pageSize: large })
  })

  test.overEveryLog("PG-11 it is never handed out, and the page behind it is", () =>
    Effect.gen(function*() {
      const database = yield* openLarge(lockPage - 1)
      assert.strictEqual(sizeOf(database), 16_384)
      const allocated = yield* database.pager.withTransaction((tx) => Effect.sync(() => [tx.allocate(), tx.allocate()]))
      assert.deepStrictEqual(allocated, [lockPage + 1, lockPage + 2])
      assert.strictEqual(sizeOf(database), lockPage + 2)
      const frames = Array.from(database.log.recovered.pages())
      assert.deepStrictEqual(frames, [])
      assert.strictEqual(valueOf(yield* readNow(database, lockPage + 1)), 0)
      assert.strictEqual(database.control.pending(), 3, "two new pages and page 1, not the one between")
    }))

  test.overEveryLog("PG-11 it is not accepted, whether to read, to write, to adopt or to end with", () =>
    Effect.gen(function*() {
      const database = yield* openLarge(lockPage + 3)
      const tx = yield* database.pager.begin()
      const bytes = filled(1, large)
      for (
        const refused of [
          Effect.asVoid(tx.read(page(lockPage))),
          tx.write(page(lockPage), bytes),
          tx.adoptWriteSet(new Map([[page(2), bytes], [page(lockPage), bytes]])),
          tx.truncateTo(lockPage)
        ]
      ) {
        const error = yield* Effect.flip<void, unknown, never>(refused)
        assert.instanceOf(error, PageOutOfRange)
        assert.strictEqual(error.page, lockPage)
      }
      assert.throws(() => tx.readSync(page(lockPage)), PageOutOfRange)
      assert.strictEqual(valueOf(tx.readSync(page(2))), 0)
      yield* tx.truncateTo(lockPage - 1)
      assert.strictEqual(tx.allocate(), lockPage + 1)
    }))

  test.overEveryLog("PG-11 a hole that goes over it is filled around it", () =>
    Effect.gen(function*() {
      const database = yield* openLarge(lockPage - 2)
      yield* database.pager.withTransaction((tx) => tx.write(page(lockPage + 2), filled(3, large)))
      assert.strictEqual(database.control.pending(), 4, "one before it, two behind it, page 1")
      assert.strictEqual(valueOf(yield* readNow(database, lockPage - 1)), 0)
      assert.strictEqual(valueOf(yield* readNow(database, lockPage + 2)), 3)
    }))

  test.overEveryLog("PG-11 who has seen that the database ends before it notices that it grew over it", () =>
    Effect.gen(function*() {
      const database = yield* openLarge(lockPage - 1)
      const tx = yield* database.pager.begin({ isolation: "serializable" })
      assert.strictEqual(tx.databasePages(), lockPage - 1)
      yield* tx.write(page(2), filled(1, large))
      yield* database.pager.withTransaction((other) => Effect.sync(() => other.allocate()))
      assert.strictEqual(yield* outcomeOf(tx.commit), "SerializationFailure")
    }))
})

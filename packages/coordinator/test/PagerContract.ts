/**
 * What a pager does on any platform (PG-08) and over any log: the same program over memory and over files.
 *
 * The layer is a platform (`Vfs`, `FileLock`, `ProcessLiveness`); `directory` is where the databases may lie.
 */
import { assert, describe } from "@effect/vitest"
import { PageSize } from "@tidemark/core/Scalars"
import type { FileLock } from "@tidemark/platform/FileLock"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { Vfs } from "@tidemark/platform/Vfs"
import { Deferred, Effect, Exit, Fiber, Layer, type Scope } from "effect"
import {
  type Database,
  filled,
  forkNow,
  grow,
  openOn,
  type OpenOptions,
  outcomeOf,
  page,
  published,
  readNow,
  valueOf
} from "./support/database.ts"
import { test as tests } from "./support/logs.ts"

type Platform = Vfs | FileLock | ProcessLiveness

export interface PagerContractOptions {
  /** A directory that exists, for one test. */
  readonly directory: Effect.Effect<string, never, Scope.Scope>
}

/** Adds to the number in the first bytes of a page. */
const addTo = (database: Pick<Database, "pager">, number: number, amount: number) =>
  database.pager.withTransaction(Effect.fnUntraced(function*(tx) {
    const bytes = yield* tx.read(page(number))
    const view = new DataView(bytes.buffer, bytes.byteOffset)
    view.setUint32(0, view.getUint32(0) + amount)
    yield* tx.write(page(number), bytes)
    return view.getUint32(0)
  }))

const numberIn = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset).getUint32(0)

export const pagerContract = <E>(
  name: string,
  layer: Layer.Layer<Platform, E>,
  options: PagerContractOptions
): void => {
  /** A test on a platform of its own, with a way to open its database and to open it again. */
  const test = (
    title: string,
    body: (
      open: (options?: OpenOptions) => ReturnType<typeof openOn<never>>
    ) => Effect.Effect<void, unknown, Scope.Scope>
  ) =>
    tests.overEveryLog(title, () =>
      Effect.gen(function*() {
        const directory = yield* options.directory
        // One process, which opens its database more than once.
        const platform = yield* Layer.build(Layer.fresh(layer))
        yield* body((openOptions) =>
          openOn(Layer.succeedContext(platform), { database: `${directory}/pager.db`, ...openOptions })
        )
      }).pipe(Effect.orDie))

  describe(`pagerContract: ${name}`, () => {
    test("PG-01 reads see the snapshot and their own writes", (open) =>
      Effect.gen(function*() {
        const database = yield* open()
        yield* grow(database, 5)
        const tx = yield* database.pager.begin()
        yield* tx.write(page(2), filled(2))
        yield* database.pager.withTransaction((other) => other.write(page(3), filled(3)))
        assert.strictEqual(valueOf(yield* tx.read(page(2))), 2)
        assert.strictEqual(valueOf(yield* tx.read(page(3))), 0)
        assert.strictEqual(valueOf(tx.readSync(page(2))), 2)
        assert.strictEqual(valueOf(tx.readSync(page(3))), 0)
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 0)
        yield* tx.commit
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 2)
        assert.strictEqual(valueOf(yield* readNow(database, 3)), 3)
      }))

    test("PG-01 leaving the scope without a commit rolls back", (open) =>
      Effect.gen(function*() {
        const database = yield* open()
        yield* grow(database, 3)
        const tip = published(database)
        yield* Effect.scoped(Effect.flatMap(database.pager.begin(), (tx) => tx.write(page(2), filled(9))))
        yield* Effect.exit(Effect.scoped(Effect.gen(function*() {
          const tx = yield* database.pager.begin()
          yield* tx.write(page(2), filled(9))
          yield* Effect.fail("changed my mind")
        })))
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 0)
        assert.strictEqual(published(database), tip)
      }))

    test("PG-02 PG-05 32 fibers that add to one page lose nothing", (open) =>
      Effect.gen(function*() {
        const database = yield* open()
        yield* grow(database, 2)
        yield* Effect.forEach(Array.from({ length: 32 }, (_, at) => at), () => addTo(database, 2, 1), {
          concurrency: "unbounded"
        })
        assert.strictEqual(numberIn(yield* readNow(database, 2)), 32)
      }))

    test("PG-03 a snapshot stays what it was through checkpoints, restarts of the log and other commits", (open) =>
      Effect.gen(function*() {
        const database = yield* open({ pager: { cacheBytes: 0 } })
        yield* grow(database, 4)
        yield* addTo(database, 2, 10)
        yield* Effect.scoped(Effect.gen(function*() {
          const old = yield* database.pager.begin()
          yield* addTo(database, 2, 100)
          yield* database.control.checkpoint("passive")
          yield* addTo(database, 2, 1000)
          const partial = yield* database.control.checkpoint("passive")
          assert.isBelow(partial.framesCopied, partial.framesBefore)
          assert.isAbove(database.control.pending(), 0)
          assert.strictEqual(numberIn(yield* old.read(page(2))), 10)
          assert.strictEqual(numberIn(old.readSync(page(2))), 10)
        }))
        yield* database.control.checkpoint("restart")
        assert.strictEqual(database.control.pending(), 0)
        assert.strictEqual(numberIn(yield* readNow(database, 2)), 1110)
        yield* addTo(database, 2, 1)
        yield* database.control.checkpoint("truncate")
        assert.strictEqual(numberIn(yield* readNow(database, 2)), 1111)
      }))

    test("PG-04 write skew happens under snapshot isolation, and is refused under serializable", (open) =>
      Effect.gen(function*() {
        const database = yield* open()
        yield* grow(database, 3)
        for (const isolation of ["snapshot", "serializable"] as const) {
          // At least one of two doctors stays on call: each looks at both, and leaves when the other one stays.
          yield* database.pager.withTransaction((tx) =>
            Effect.andThen(tx.write(page(2), filled(1)), tx.write(page(3), filled(1)))
          )
          const bothHaveRead = yield* Deferred.make<void>()
          let readers = 0
          const leave = (own: number) =>
            Effect.scoped(Effect.gen(function*() {
              const tx = yield* database.pager.begin({ isolation })
              const onCall = valueOf(yield* tx.read(page(2))) + valueOf(yield* tx.read(page(3)))
              if (++readers === 2) yield* Deferred.succeed(bothHaveRead, undefined)
              yield* Deferred.await(bothHaveRead)
              if (onCall === 2) yield* tx.write(page(own), filled(0))
              yield* tx.commit
            }))
          const outcomes = yield* Effect.all([outcomeOf(leave(2)), outcomeOf(leave(3))], { concurrency: "unbounded" })
          const left = valueOf(yield* readNow(database, 2)) + valueOf(yield* readNow(database, 3))
          if (isolation === "snapshot") {
            assert.deepStrictEqual(outcomes, ["success", "success"])
            assert.strictEqual(left, 0, "nobody is on call")
          } else {
            assert.deepStrictEqual([...outcomes].sort(), ["SerializationFailure", "success"])
            assert.strictEqual(left, 1)
          }
        }
      }))

    test("PG-06 without a cache, and with one that holds two pages, everything reads the same", (open) =>
      Effect.gen(function*() {
        for (const cacheBytes of [0, 2 * (512 + 256)]) {
          const database = yield* open({ pager: { cacheBytes } })
          yield* database.pager.withTransaction((tx) =>
            Effect.forEach([2, 3, 4, 5, 6], (number) => tx.write(page(number), filled(number)), { discard: true })
          )
          yield* Effect.scoped(Effect.gen(function*() {
            const old = yield* database.pager.begin()
            yield* database.pager.withTransaction((tx) => tx.write(page(4), filled(44)))
            for (const number of [2, 3, 4, 5, 6, 4, 2]) {
              assert.strictEqual(valueOf(yield* old.read(page(number))), number)
              assert.strictEqual(valueOf(old.readSync(page(number))), number)
              const now = number === 4 ? 44 : number
              assert.strictEqual(valueOf(yield* readNow(database, number)), now)
            }
          }))
          yield* database.close
        }
      }))

    test("PG-08 what is committed is there when the database is opened again, with the sequences behind it", (open) =>
      Effect.gen(function*() {
        let tip = 0n
        for (let round = 1; round <= 3; round++) {
          const database = yield* open()
          assert.strictEqual(published(database), tip)
          if (round > 1) assert.strictEqual(valueOf(yield* readNow(database, 7)), round - 1)
          yield* database.pager.withTransaction((tx) => tx.write(page(7), filled(round)))
          if (round === 2) yield* database.control.checkpoint("truncate")
          tip = published(database)
          yield* database.close
        }
        assert.strictEqual(tip, 3n)
      }))

    test("PG-08 CO-11 a transaction larger than its memory spills, reads its own writes, and commits", (open) =>
      Effect.gen(function*() {
        const database = yield* open({ pager: { spillThresholdBytes: 4 * 512 } })
        const numbers = Array.from({ length: 60 }, (_, at) => at + 2)
        yield* database.pager.withTransaction(Effect.fnUntraced(function*(tx) {
          for (const number of numbers) yield* tx.write(page(number), filled(1))
          for (const number of numbers) yield* tx.write(page(number), filled(number))
          for (const number of numbers) {
            assert.strictEqual(valueOf(yield* tx.read(page(number))), number)
            assert.strictEqual(valueOf(tx.readSync(page(number))), number)
          }
        }))
        for (const number of numbers) assert.strictEqual(valueOf(yield* readNow(database, number)), number)
      }))

    test("PG-08 every page size", (open) =>
      Effect.gen(function*() {
        for (const bytes of [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] as const) {
          const size = PageSize.make(bytes)
          const directory = yield* options.directory
          const database = yield* open({ database: `${directory}/of-${bytes}.db`, pageSize: size })
          yield* database.pager.withTransaction((tx) => tx.write(page(3), filled(7, bytes)))
          yield* database.control.checkpoint("restart")
          yield* database.pager.withTransaction((tx) => tx.write(page(2), filled(8, bytes)))
          const found = yield* Effect.scoped(Effect.gen(function*() {
            const tx = yield* database.pager.begin()
            return [valueOf(yield* tx.read(page(2))), valueOf(tx.readSync(page(3)))]
          }))
          assert.deepStrictEqual(found, [8, 7])
          yield* database.close
        }
      }))

    test("PG-11 the database grows and shrinks; what was cut off is zeros when it comes back", (open) =>
      Effect.gen(function*() {
        const database = yield* open()
        yield* database.pager.withTransaction((tx) => tx.write(page(9), filled(9)))
        assert.strictEqual(valueOf(yield* readNow(database, 5)), 0)
        yield* database.control.checkpoint("passive")
        yield* database.pager.withTransaction((tx) => tx.truncateTo(4))
        assert.strictEqual(database.log.published().databasePages, 4)
        assert.strictEqual(valueOf(yield* readNow(database, 9)), 0)
        yield* database.control.checkpoint("truncate")
        yield* database.pager.withTransaction((tx) => tx.write(page(12), filled(12)))
        assert.strictEqual(valueOf(yield* readNow(database, 9)), 0)
        assert.strictEqual(valueOf(yield* readNow(database, 12)), 12)
      }))

    test("PG-08 interrupted transactions leave nothing behind", (open) =>
      Effect.gen(function*() {
        const database = yield* open({ pager: { spillThresholdBytes: 512 } })
        const vfs = database.vfs
        const started = yield* Deferred.make<void>()
        const fiber = yield* forkNow(database.pager.withTransaction(Effect.fnUntraced(function*(tx) {
          for (const number of [2, 3, 4, 5]) yield* tx.write(page(number), filled(1))
          yield* Deferred.succeed(started, undefined)
          yield* Effect.never
        })))
        yield* Deferred.await(started)
        const spilled = `${database.pager.database}.fsqlite-tmp`
        assert.strictEqual((yield* vfs.list(spilled)).length, 1)
        yield* Fiber.interrupt(fiber)
        assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
        assert.deepStrictEqual(yield* vfs.list(spilled), [])
        assert.strictEqual(published(database), 0n)
        assert.strictEqual((yield* database.control.checkpoint("restart")).blocked, false, "its snapshot is let go")
      }))
  })
}

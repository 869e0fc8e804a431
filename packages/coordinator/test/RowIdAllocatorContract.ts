/**
 * What every layer of `RowIdAllocator` does, sentence by sentence of section RID of `behaviour.md`.
 *
 * `RowIdOwner` is that of the process that owns the ids: for a layer that asks across a socket, the other side's.
 */
import { assert, describe, it } from "@effect/vitest"
import { RowIdAllocator, RowIdOwner, type RowIdState, type RowIdTip } from "@tidemark/coordinator/RowIdAllocator"
import * as RowIdCache from "@tidemark/coordinator/RowIdCache"
import type { RowIdError } from "@tidemark/coordinator/RowIdErrors"
import { maxRowId, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import { Effect, Fiber, type Layer, References, type Scope } from "effect"
import fc from "fast-check"
import {
  autoincrement,
  bounds,
  checkProperty,
  epoch,
  forkNow,
  idsOf,
  normal,
  rowId,
  singles,
  tableId
} from "./support/rowIds.ts"

interface Subject {
  readonly rowIds: RowIdAllocator["Service"]
  readonly owner: RowIdOwner["Service"]
}

/** What a table is asked for when it does not matter which, under the schema of the beginning. */
const table = { schemaEpoch: epoch(0), table: tableId(7) }

/** Refusals are logged, and here most of them are asked for. */
const quietly = Effect.provideService(References.MinimumLogLevel, "None")

/** What is refused with `tag`, and the code that SQLite has for it. */
const refuses = <A>(call: Effect.Effect<A, RowIdError>, tag: RowIdError["_tag"], code: number) =>
  Effect.gen(function*() {
    const error = yield* Effect.flip(
      Effect.map(call, (answer) => assert.fail(`${tag} expected, not ${String(answer)}`))
    )
    assert.deepStrictEqual([error._tag, error.sqliteCode], [tag, code])
    assert.isFalse(error.isRetryable)
    return error
  })

/** One table, as plainly as can be: what is next, as long as there is one. */
class Model {
  next: bigint | undefined
  isAutoincrement = false
  highWater = 0n

  initialize(tip: RowIdTip): void {
    this.isAutoincrement = tip.mode === "autoincrement"
    this.highWater = tip.maxCommitted
    if (tip.mode === "autoincrement" && tip.sequence > this.highWater) this.highWater = tip.sequence
    this.next = this.highWater === maxRowId ? undefined : this.highWater + 1n
    if (tip.mode === "normal" && this.next !== undefined && this.next < 1n) this.next = 1n
  }

  /** The ids, or nothing. */
  reserve(count: number): ReadonlyArray<bigint> | undefined {
    const ids: Array<bigint> = []
    for (let id = this.next; ids.length < count && id !== undefined && id <= maxRowId; id++) ids.push(id)
    if (ids.length < count) return undefined
    for (const id of ids) this.bump(id)
    return ids
  }

  /** Whether it was there to be bumped. */
  bump(id: bigint): boolean {
    if (this.next === undefined) return false
    if (id >= this.next) this.next = id === maxRowId ? undefined : id + 1n
    if (id > this.highWater) this.highWater = id
    return true
  }

  state(): RowIdState {
    return {
      isInitialized: true,
      nextRowId: this.next === undefined ? undefined : rowId(this.next),
      highWater: this.isAutoincrement ? rowId(this.highWater) : undefined
    }
  }
}

type Step =
  | { readonly what: "initialize"; readonly tip: RowIdTip }
  | { readonly what: "reserve"; readonly count: number }
  | { readonly what: "bump"; readonly id: bigint }

/** Near both ends and the middle of what an i64 can say, where counting goes wrong if it does. */
const someId = fc.oneof(
  fc.bigInt({ min: -3n, max: 120n }),
  fc.bigInt({ min: maxRowId - 120n, max: maxRowId }),
  fc.bigInt({ min: 2n ** 53n - 40n, max: 2n ** 53n + 40n }),
  fc.bigInt({ min: -(2n ** 63n), max: -(2n ** 63n) + 3n })
)

const someTip: fc.Arbitrary<RowIdTip> = fc.oneof(
  someId.map(normal),
  fc.tuple(someId, someId).map(([max, sequence]) => autoincrement(max, sequence))
)

const someSteps: fc.Arbitrary<ReadonlyArray<Step>> = fc.array(
  fc.oneof(
    { weight: 1, arbitrary: someTip.map((tip): Step => ({ what: "initialize", tip })) },
    { weight: 6, arbitrary: fc.nat(70).map((count): Step => ({ what: "reserve", count })) },
    { weight: 3, arbitrary: someId.map((id): Step => ({ what: "bump", id })) }
  ),
  { maxLength: 40 }
)

/** The suite for a layer of `RowIdAllocator`, as tests of Vitest. */
export const rowIdAllocatorContract = <E>(name: string, layer: Layer.Layer<RowIdAllocator | RowIdOwner, E>): void => {
  const test = (
    title: string,
    body: (subject: Subject) => Effect.Effect<void, unknown, Scope.Scope | RowIdAllocator>
  ) =>
    it.live(title, () =>
      Effect.gen(function*() {
        yield* body({ rowIds: yield* RowIdAllocator, owner: yield* RowIdOwner })
      }).pipe(Effect.provide(layer, { local: true }), quietly))

  describe(`RowIdAllocator over ${name}`, () => {
    test("RID-01 RID-03 a normal table goes on above its largest id, from 1 at least", ({ rowIds }) =>
      Effect.gen(function*() {
        for (
          const [max, first] of [[0n, 1n], [5n, 6n], [-1n, 1n], [-(2n ** 63n), 1n], [
            2n ** 53n,
            2n ** 53n + 1n
          ]] as const
        ) {
          yield* rowIds.initialize({ ...table, ...normal(max) })
          assert.deepStrictEqual(yield* rowIds.state(table), {
            isInitialized: true,
            nextRowId: rowId(first),
            highWater: undefined
          })
        }
        yield* rowIds.initialize({ ...table, ...normal(5n) })
        assert.deepStrictEqual(yield* singles(rowIds, table, 10), [6n, 7n, 8n, 9n, 10n, 11n, 12n, 13n, 14n, 15n])
      }))

    test("RID-01 RID-07 an autoincrement table goes on above what was ever used", ({ rowIds }) =>
      Effect.gen(function*() {
        const table3 = { ...table, table: tableId(3) }
        for (const [max, sequence, first] of [[5n, 90n, 91n], [90n, 5n, 91n], [0n, 0n, 1n], [-9n, 0n, 1n]] as const) {
          yield* rowIds.initialize({ ...table3, ...autoincrement(max, sequence) })
          assert.deepStrictEqual(yield* rowIds.state(table3), {
            isInitialized: true,
            nextRowId: rowId(first),
            highWater: rowId(first - 1n)
          })
        }
        yield* rowIds.reserve({ ...table3, count: 10 })
        yield* rowIds.reserve({ ...table3, count: 20 })
        assert.strictEqual((yield* rowIds.state(table3)).highWater, rowId(30n))
        yield* rowIds.bump({ ...table3, rowId: rowId(77n) })
        assert.strictEqual((yield* rowIds.state(table3)).highWater, rowId(77n))
        yield* rowIds.bump({ ...table3, rowId: rowId(12n) })
        assert.strictEqual((yield* rowIds.state(table3)).highWater, rowId(77n))
        yield* rowIds.bump({ ...table3, rowId: maxRowId })
        assert.deepStrictEqual(yield* rowIds.state(table3), {
          isInitialized: true,
          nextRowId: undefined,
          highWater: maxRowId
        })
      }))

    test("RID-02 a table that has the largest id starts exhausted", ({ rowIds }) =>
      Effect.gen(function*() {
        for (const tip of [normal(maxRowId), autoincrement(maxRowId, 0n), autoincrement(0n, maxRowId)]) {
          yield* rowIds.initialize({ ...table, ...tip })
          yield* refuses(rowIds.reserve({ ...table, count: 1 }), "Exhausted", 13)
          assert.isUndefined((yield* rowIds.state(table)).nextRowId)
        }
      }))

    test("RID-04 no two of many fibers are given the same id", ({ rowIds }) =>
      Effect.gen(function*() {
        yield* rowIds.initialize({ ...table, ...normal(0n) })
        const two = yield* Effect.all([singles(rowIds, table, 100), singles(rowIds, table, 100)], {
          concurrency: "unbounded"
        })
        assert.strictEqual(new Set(two.flat()).size, 200)
        const many = yield* Effect.forEach(
          Array.from({ length: 50 }, (_, fiber) => fiber),
          (fiber) =>
            Effect.forEach([1, 2, 64, fiber], (count) =>
              Effect.andThen(Effect.yieldNow, Effect.map(rowIds.reserve({ ...table, count }), idsOf))),
          { concurrency: "unbounded" }
        )
        const ids = many.flat(2)
        assert.strictEqual(ids.length, 50 * 67 + 49 * 25)
        assert.strictEqual(new Set([...two.flat(), ...ids]).size, 200 + ids.length)
      }))

    test("RID-05 the ids of a transaction that was interrupted are not handed out again", ({ rowIds }) =>
      Effect.gen(function*() {
        yield* rowIds.initialize({ ...table, ...normal(0n) })
        const token = { id: toTxnId(9n), epoch: TxnEpoch.make(1) }
        const aborted = yield* forkNow(
          Effect.andThen(rowIds.reserve({ ...table, token, count: 3 }), Effect.never)
        )
        // Behind it, whichever way a request takes.
        const next = yield* rowIds.reserve({ ...table, count: 1 })
        yield* Fiber.interrupt(aborted)
        assert.deepStrictEqual(bounds(next), [4n, 4n])
        assert.deepStrictEqual(bounds(yield* rowIds.reserve({ ...table, count: 1 })), [5n, 5n])
      }))

    test("RID-06 what is handed out is above an id that somebody chose", ({ rowIds }) =>
      Effect.gen(function*() {
        yield* rowIds.initialize({ ...table, ...normal(10n) })
        const next = Effect.map(rowIds.state(table), (state) => state.nextRowId)
        yield* rowIds.bump({ ...table, rowId: rowId(10n) })
        assert.strictEqual(yield* next, rowId(11n))
        yield* rowIds.bump({ ...table, rowId: rowId(11n) })
        assert.strictEqual(yield* next, rowId(12n))
        yield* rowIds.bump({ ...table, rowId: rowId(500n) })
        assert.strictEqual(yield* next, rowId(501n))
        yield* rowIds.bump({ ...table, rowId: rowId(-500n) })
        assert.deepStrictEqual(yield* singles(rowIds, table, 2), [501n, 502n])
        yield* rowIds.bump({ ...table, rowId: maxRowId })
        assert.isUndefined(yield* next)
        yield* refuses(rowIds.reserve({ ...table, count: 1 }), "Exhausted", 13)
        yield* refuses(rowIds.bump({ ...table, rowId: maxRowId }), "Exhausted", 13)
        yield* refuses(rowIds.bump({ ...table, rowId: rowId(1n) }), "Exhausted", 13)
      }))

    test("RID-08 a range fits wholly, or none of it is handed out", ({ rowIds }) =>
      Effect.gen(function*() {
        yield* rowIds.initialize({ ...table, ...normal(100n) })
        assert.deepStrictEqual(bounds(yield* rowIds.reserve({ ...table, count: 64 })), [101n, 164n])
        assert.strictEqual((yield* rowIds.reserve({ ...table, count: 0 })).count, 0)
        assert.deepStrictEqual(bounds(yield* rowIds.reserve({ ...table, count: 64 })), [165n, 228n])
        assert.deepStrictEqual(bounds(yield* rowIds.reserve({ ...table, count: 2 ** 32 - 1 })), [
          229n,
          228n + 2n ** 32n - 1n
        ])

        yield* rowIds.initialize({ ...table, ...normal(maxRowId - 10n) })
        yield* refuses(rowIds.reserve({ ...table, count: 20 }), "Exhausted", 13)
        yield* refuses(rowIds.reserve({ ...table, count: 11 }), "Exhausted", 13)
        assert.deepStrictEqual(bounds(yield* rowIds.reserve({ ...table, count: 10 })), [maxRowId - 9n, maxRowId])
        assert.strictEqual((yield* rowIds.reserve({ ...table, count: 0 })).count, 0)
        yield* refuses(rowIds.reserve({ ...table, count: 1 }), "Exhausted", 13)
      }))

    test("RID-08 RID-11 nothing of an unknown table is reserved, and the two refusals can be told apart", ({ rowIds }) =>
      Effect.gen(function*() {
        const unknown = { ...table, table: tableId(8) }
        yield* rowIds.initialize({ ...table, ...normal(0n) })
        for (const count of [0, 1]) {
          const error = yield* refuses(rowIds.reserve({ ...unknown, count }), "TableNotInitialized", 13)
          assert.deepInclude(error, unknown)
        }
        yield* refuses(rowIds.bump({ ...unknown, rowId: rowId(5n) }), "TableNotInitialized", 13)
        assert.deepStrictEqual(yield* rowIds.state(unknown), {
          isInitialized: false,
          nextRowId: undefined,
          highWater: undefined
        })
      }))

    test("RID-09 the cache over it takes a range of 64, and one of its own for each connection", ({ rowIds }) =>
      Effect.gen(function*() {
        yield* rowIds.initialize({ ...table, ...normal(100n) })
        const mine = (yield* RowIdCache.make()).table(table.table)
        const yours = (yield* RowIdCache.make()).table(table.table)
        assert.isUndefined(mine.nextUnsafe(table.schemaEpoch))
        assert.strictEqual(yield* mine.next(table.schemaEpoch), rowId(101n))
        assert.strictEqual(yield* yours.next(table.schemaEpoch), rowId(165n))
        for (let id = 102n; id <= 164n; id++) assert.strictEqual(mine.nextUnsafe(table.schemaEpoch), rowId(id))
        assert.isUndefined(mine.nextUnsafe(table.schemaEpoch))
        assert.strictEqual(yield* mine.next(table.schemaEpoch), rowId(229n))
      }))

    test("RID-04 RID-09 no two fibers of several connections are given the same id", ({ rowIds }) =>
      Effect.gen(function*() {
        yield* rowIds.initialize({ ...table, ...normal(0n) })
        const caches = yield* Effect.all([
          RowIdCache.make(),
          RowIdCache.make({ rangeSize: 5 }),
          RowIdCache.make({ rangeSize: 1 })
        ])
        const ids = yield* Effect.forEach(
          Array.from({ length: 90 }, (_, fiber) => fiber),
          (fiber) => {
            const cache = caches[fiber % 3]?.table(table.table)
            return Effect.forEach(
              Array.from({ length: 20 }),
              () => cache === undefined ? Effect.die("no cache") : cache.next(table.schemaEpoch)
            )
          },
          { concurrency: "unbounded" }
        )
        assert.strictEqual(new Set(ids.flat()).size, 1800)
      }))

    test("RID-10 five ids below the largest are handed out, then none, also through a cache", ({ rowIds }) =>
      Effect.gen(function*() {
        const last = [4n, 3n, 2n, 1n, 0n].map((below) => rowId(maxRowId - below))
        yield* rowIds.initialize({ ...table, ...normal(maxRowId - 5n) })
        assert.deepStrictEqual(yield* singles(rowIds, table, 5), last)
        yield* refuses(rowIds.reserve({ ...table, count: 1 }), "Exhausted", 13)

        const other = tableId(9)
        yield* rowIds.initialize({ ...table, table: other, ...normal(maxRowId - 5n) })
        const cache = (yield* RowIdCache.make()).table(other)
        for (const id of last) assert.strictEqual(yield* cache.next(table.schemaEpoch), id)
        yield* refuses(cache.next(table.schemaEpoch), "Exhausted", 13)
      }))

    test("RID-11 who asks under another schema epoch is refused, whatever he asks", ({ owner, rowIds }) =>
      Effect.gen(function*() {
        const of = (value: number) => ({ ...table, schemaEpoch: epoch(value) })
        yield* rowIds.initialize({ ...of(0), ...normal(100n) })
        yield* owner.setSchemaEpoch(epoch(0))
        assert.isTrue((yield* rowIds.state(of(0))).isInitialized)
        yield* owner.setSchemaEpoch(epoch(5))
        assert.strictEqual(owner.schemaEpoch(), epoch(5))
        // Only equality means something: it is neither later nor earlier.
        for (const stale of [of(0), of(4), of(6)]) {
          const error = yield* refuses(rowIds.reserve({ ...stale, count: 1 }), "SchemaMismatch", 17)
          assert.deepInclude(error, { current: epoch(5), found: stale.schemaEpoch })
          yield* refuses(rowIds.reserve({ ...stale, count: 0 }), "SchemaMismatch", 17)
          yield* refuses(rowIds.bump({ ...stale, rowId: rowId(1n) }), "SchemaMismatch", 17)
          yield* refuses(rowIds.initialize({ ...stale, ...normal(1n) }), "SchemaMismatch", 17)
          yield* refuses(owner.initializeMissing({ ...stale, ...normal(1n) }), "SchemaMismatch", 17)
          yield* refuses(rowIds.state(stale), "SchemaMismatch", 17)
        }
        yield* refuses(rowIds.reserve({ ...of(5), count: 1 }), "TableNotInitialized", 13)
        // The number of an old schema again is not the old schema again.
        yield* owner.setSchemaEpoch(epoch(0))
        yield* refuses(rowIds.reserve({ ...of(0), count: 1 }), "TableNotInitialized", 13)
      }))

    test("RID-09 RID-11 a cache forgets its range when the schema epoch changes", ({ owner, rowIds }) =>
      Effect.gen(function*() {
        yield* rowIds.initialize({ ...table, ...normal(100n) })
        const cache = (yield* RowIdCache.make()).table(table.table)
        yield* cache.next(epoch(0))
        yield* owner.setSchemaEpoch(epoch(1))
        assert.isUndefined(cache.nextUnsafe(epoch(1)))
        yield* refuses(cache.next(epoch(1)), "TableNotInitialized", 13)
        yield* refuses(cache.next(epoch(0)), "SchemaMismatch", 17)
        yield* rowIds.initialize({ ...table, schemaEpoch: epoch(1), ...normal(7n) })
        assert.strictEqual(yield* cache.next(epoch(1)), rowId(8n))
        assert.isUndefined(cache.nextUnsafe(epoch(0)))
      }))

    test("RID-12 RID-13 initialising again goes on from the new tip, whatever was handed out before", ({ rowIds }) =>
      Effect.gen(function*() {
        yield* rowIds.initialize({ ...table, ...normal(100n) })
        const { first } = yield* rowIds.reserve({ ...table, count: 3 })
        // Two of the three were committed; then the process died.
        yield* rowIds.initialize({ ...table, ...normal(first + 1n) })
        assert.deepStrictEqual(yield* singles(rowIds, table, 2), [103n, 104n])
        yield* rowIds.initialize({ ...table, ...autoincrement(3n, 40n) })
        assert.deepStrictEqual(yield* rowIds.state(table), {
          isInitialized: true,
          nextRowId: rowId(41n),
          highWater: rowId(40n)
        })
        yield* rowIds.initialize({ ...table, ...normal(maxRowId) })
        yield* rowIds.initialize({ ...table, ...normal(3n) })
        assert.deepStrictEqual(yield* rowIds.state(table), {
          isInitialized: true,
          nextRowId: rowId(4n),
          highWater: undefined
        })
      }))

    test("RID-13 of those who find a table missing at once, one initialises it", ({ owner, rowIds }) =>
      Effect.gen(function*() {
        const insert = Effect.gen(function*() {
          if ((yield* rowIds.state(table)).isInitialized) assert.fail("all of them find it missing")
          yield* Effect.yieldNow
          const didIt = yield* owner.initializeMissing({ ...table, ...normal(100n) })
          return { didIt, ids: yield* singles(rowIds, table, 3) }
        })
        const inserted = yield* Effect.all(Array.from({ length: 20 }, () => insert), { concurrency: "unbounded" })
        assert.strictEqual(inserted.filter(({ didIt }) => didIt).length, 1)
        assert.strictEqual(new Set(inserted.flatMap(({ ids }) => ids)).size, 60)
      }))

    test("RID-01 ... RID-08 RID-10 RID-13 whatever is asked of a table, it answers as a plain model of it does", ({ rowIds }) => {
      let tables = 100
      return checkProperty(fc.tuple(someTip, someSteps), ([tip, steps]) =>
        Effect.gen(function*() {
          const of = { ...table, table: tableId(tables++) }
          const model = new Model()
          for (const step of [{ what: "initialize", tip } as const, ...steps]) {
            if (step.what === "initialize") {
              model.initialize(step.tip)
              yield* rowIds.initialize({ ...of, ...step.tip })
            } else if (step.what === "bump") {
              const answer = yield* Effect.result(rowIds.bump({ ...of, rowId: rowId(step.id) }))
              assert.strictEqual(answer._tag, model.bump(step.id) ? "Success" : "Failure")
            } else {
              const answer = yield* Effect.match(rowIds.reserve({ ...of, count: step.count }), {
                onSuccess: idsOf,
                onFailure: (error) => error._tag
              })
              assert.deepStrictEqual(answer, model.reserve(step.count) ?? "Exhausted")
            }
            assert.deepStrictEqual(yield* rowIds.state(of), model.state())
          }
        }), 150)
    })
  })
}

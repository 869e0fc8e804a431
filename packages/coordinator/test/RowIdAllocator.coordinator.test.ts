/** Row ids beside a coordinator: under its schema epoch, and over the restarts of its database. */
import { assert, describe, it } from "@effect/vitest"
import { CompatCoordinator } from "@tidemark/coordinator/CompatCoordinator"
import * as NativeCoordinator from "@tidemark/coordinator/NativeCoordinator"
import type { Transaction } from "@tidemark/coordinator/Pager"
import * as RowIdAllocator from "@tidemark/coordinator/RowIdAllocator"
import * as RowIdCache from "@tidemark/coordinator/RowIdCache"
import type { RowId } from "@tidemark/core/Scalars"
import { maxRowId } from "@tidemark/core/Scalars"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NativeLog from "@tidemark/wal/NativeLog"
import { Effect, Layer } from "effect"
import {
  commitPages,
  grow,
  makeDisk,
  makeRequest,
  memoryPath,
  openMemory,
  outcomeOf,
  page,
  pageSize
} from "./support/database.ts"
import type { Database } from "./support/database.ts"
import { test } from "./support/logs.ts"
import { autoincrement, epoch, normal, rowId, tableId } from "./support/rowIds.ts"

const table = tableId(2)

const services = Effect.all({
  rowIds: RowIdAllocator.RowIdAllocator,
  owner: RowIdAllocator.RowIdOwner,
  cache: RowIdCache.RowIdCache
})

/** Row ids, and one connection, beside the coordinator of a database. */
const beside = ({ coordinator }: Database) =>
  RowIdCache.layer.pipe(
    Layer.provideMerge(RowIdAllocator.layerOf(CompatCoordinator)),
    Layer.provide(Layer.succeed(CompatCoordinator, coordinator))
  )

/** Rows on page 2: how many, then their ids. */
const rowsIn = (tx: Transaction) =>
  Effect.map(tx.read(page(2)), (bytes) => {
    const view = new DataView(bytes.buffer)
    return Array.from({ length: view.getUint32(0) }, (_, row) => rowId(view.getBigInt64(8 + row * 8)))
  })

const insert = (tx: Transaction, ids: ReadonlyArray<RowId>) =>
  Effect.flatMap(rowsIn(tx), (rows) => {
    const bytes = new Uint8Array(pageSize)
    const view = new DataView(bytes.buffer)
    const all = [...rows, ...ids]
    view.setUint32(0, all.length)
    all.forEach((id, row) => view.setBigInt64(8 + row * 8, id))
    return tx.write(page(2), bytes)
  })

describe("RowIdAllocator.layerOf", () => {
  test.overEveryLog("RID-11 RID-09 the schema epoch of the coordinator is that of the row ids, in the same step", () =>
    Effect.gen(function*() {
      const database = yield* openMemory(makeDisk())
      yield* grow(database, 3)
      yield* database.coordinator.setSchemaEpoch(epoch(5))
      yield* Effect.gen(function*() {
        const { cache, owner, rowIds } = yield* services
        assert.strictEqual(owner.schemaEpoch(), epoch(5), "that of a coordinator that has one already")
        yield* rowIds.initialize({ schemaEpoch: epoch(5), table, ...normal(10n) })
        const ids = cache.table(table)
        assert.strictEqual(yield* ids.next(epoch(5)), 11n)
        const old = yield* makeRequest(database, [2])
        assert.strictEqual(old.snapshot.schemaEpoch, epoch(5))
        assert.strictEqual(ids.nextUnsafe(old.snapshot.schemaEpoch), rowId(12n))

        const seen: Array<readonly [bigint, bigint]> = []
        database.coordinator.onSchemaEpoch(() => {
          seen.push([owner.schemaEpoch(), database.coordinator.begin().snapshot.schemaEpoch])
        })
        yield* database.coordinator.setSchemaEpoch(epoch(6))
        // When the listeners are told, no snapshot has it yet; here the allocator was told first.
        assert.deepStrictEqual(seen, [[5n, 5n], [6n, 5n]])
        assert.isUndefined(ids.nextUnsafe(epoch(5)), "the range of the old schema is void")
        assert.strictEqual(yield* outcomeOf(ids.next(old.snapshot.schemaEpoch)), "SchemaMismatch")
        assert.strictEqual(yield* outcomeOf(database.coordinator.commit(old)), "SchemaMismatch")
        const { snapshot } = database.coordinator.begin()
        assert.strictEqual(yield* outcomeOf(ids.next(snapshot.schemaEpoch)), "TableNotInitialized")
        yield* owner.initializeMissing({ schemaEpoch: snapshot.schemaEpoch, table, ...normal(20n) })
        assert.strictEqual(yield* ids.next(snapshot.schemaEpoch), 21n)
        yield* commitPages(database, [2])
        // The same one again is no change.
        yield* database.coordinator.setSchemaEpoch(epoch(6))
        assert.strictEqual(yield* ids.next(snapshot.schemaEpoch), 22n)
      }).pipe(Effect.provide(beside(database)))
    }))

  test.overEveryLog("RID-01 RID-03 RID-07 the ids of rows that are committed go on above the durable ones, one by one", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const database = yield* openMemory(disk)
      yield* grow(database, 3)
      yield* database.pager.withTransaction((tx) => insert(tx, [rowId(2n), rowId(5n)]))
      disk.crash("lost")
      const again = yield* openMemory(disk)
      yield* Effect.gen(function*() {
        const { cache, rowIds } = yield* services
        const of = (number: typeof table) => ({ schemaEpoch: epoch(0), table: number })
        const rows = yield* again.pager.withTransaction(rowsIn)
        const max = rows.reduce((largest, row) => row > largest ? row : largest)
        assert.strictEqual(max, 5n)
        yield* rowIds.initialize({ ...of(table), ...normal(max) })
        // What was deleted had the ids up to 40, and `sqlite_sequence` says so.
        const other = tableId(3)
        yield* rowIds.initialize({ ...of(other), ...autoincrement(max, 40n) })
        const ids = yield* Effect.replicateEffect(cache.table(table).next(epoch(0)), 10)
        assert.deepStrictEqual(ids, [6n, 7n, 8n, 9n, 10n, 11n, 12n, 13n, 14n, 15n].map(rowId))
        yield* rowIds.reserve({ ...of(other), count: 10 })
        yield* rowIds.reserve({ ...of(other), count: 20 })
        assert.strictEqual((yield* rowIds.state(of(other))).highWater, rowId(70n))
        yield* again.pager.withTransaction((tx) => insert(tx, ids))
        assert.deepStrictEqual(yield* again.pager.withTransaction(rowsIn), [...rows, ...ids])
      }).pipe(Effect.provide(beside(again)))
    }))

  it.effect("RID-11 the native coordinator is followed too", () =>
    Effect.gen(function*() {
      const native = yield* NativeCoordinator.NativeCoordinator
      const owner = yield* RowIdAllocator.RowIdOwner
      yield* native.setSchemaEpoch(epoch(3))
      assert.strictEqual(owner.schemaEpoch(), epoch(3))
      assert.strictEqual(native.begin().snapshot.schemaEpoch, epoch(3))
    }).pipe(Effect.provide(
      RowIdAllocator.layerOf(NativeCoordinator.NativeCoordinator).pipe(
        Layer.provideMerge(NativeCoordinator.layer),
        Layer.provide(NativeLog.layer({ database: memoryPath, create: { pageSize } })),
        Layer.provide(MemoryVfs.layerDisk(makeDisk()))
      )
    )))
})

describe("row ids of a database", () => {
  test.overEveryLog("RID-12 RID-05 after a power loss no id is given that was committed", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const acknowledged = new Set<bigint>()
      let mode: "lost" | "kept" = "lost"
      for (let life = 0; life < 4; life++) {
        const database = yield* openMemory(disk)
        if (life === 0) yield* grow(database, 3)
        yield* Effect.gen(function*() {
          const { cache, owner } = yield* services
          const rows = yield* database.pager.withTransaction(rowsIn)
          for (const id of acknowledged) assert.include(rows, id)
          const maxCommitted = rows.reduce((most, id) => id > most ? id : most, 0n)
          yield* owner.initializeMissing({ schemaEpoch: epoch(0), table, ...normal(maxCommitted) })
          const ids = cache.table(table)
          for (let transaction = 0; transaction < 4; transaction++) {
            const given = [yield* ids.next(epoch(0)), yield* ids.next(epoch(0))]
            for (const id of given) assert.notInclude(rows, id)
            // Every other one gives up: its ids are gone.
            if (transaction % 2 === 1) continue
            yield* database.pager.withTransaction((tx) => insert(tx, given))
            for (const id of given) acknowledged.add(id)
          }
        }).pipe(Effect.provide(beside(database)))
        disk.crash(mode)
        mode = mode === "lost" ? "kept" : "lost"
      }
      assert.strictEqual(acknowledged.size, 16)
    }))

  test.overEveryLog("RID-02 RID-06 RID-10 RID-12 the largest id of all is committed once, and a restart gives no other one", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const open = openMemory(disk)
      const first = yield* open
      yield* grow(first, 3)
      yield* Effect.gen(function*() {
        const { cache, owner } = yield* services
        yield* owner.initializeMissing({ schemaEpoch: epoch(0), table, ...normal(maxRowId - 2n) })
        const ids = cache.table(table)
        const given = [yield* ids.next(epoch(0)), yield* ids.next(epoch(0))]
        assert.deepStrictEqual(given, [rowId(2n ** 63n - 2n), rowId(2n ** 63n - 1n)])
        assert.strictEqual(yield* outcomeOf(ids.next(epoch(0))), "Exhausted")
        yield* first.pager.withTransaction((tx) => insert(tx, given))
      }).pipe(Effect.provide(beside(first)))
      disk.crash("lost")
      const second = yield* open
      yield* Effect.gen(function*() {
        const { cache, owner, rowIds } = yield* services
        const rows = yield* second.pager.withTransaction(rowsIn)
        const maxCommitted = rows.reduce((most, id) => id > most ? id : most, 0n)
        assert.strictEqual(maxCommitted, 2n ** 63n - 1n, "it is an i64 on the page")
        yield* owner.initializeMissing({ schemaEpoch: epoch(0), table, ...normal(maxCommitted) })
        assert.strictEqual(yield* outcomeOf(cache.table(table).next(epoch(0))), "Exhausted")
        const bump = rowIds.bump({ schemaEpoch: epoch(0), table, rowId: maxRowId })
        assert.strictEqual(yield* outcomeOf(bump), "Exhausted")
      }).pipe(Effect.provide(beside(second)))
    }))
})

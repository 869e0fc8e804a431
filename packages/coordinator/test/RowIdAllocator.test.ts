import { assert, describe, it } from "@effect/vitest"
import * as CoordinatorMetrics from "@tidemark/coordinator/CoordinatorMetrics"
import * as RowIdAllocator from "@tidemark/coordinator/RowIdAllocator"
import { Exhausted, rowIdsExhausted, TableNotInitialized } from "@tidemark/coordinator/RowIdErrors"
import { maxRowId, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import { Cause, Effect, Exit, Logger, Metric, References } from "effect"
import { rowIdAllocatorContract } from "./RowIdAllocatorContract.ts"
import { epoch, normal, rowId, tableId } from "./support/rowIds.ts"

rowIdAllocatorContract("state in this process", RowIdAllocator.layer)

const table = { schemaEpoch: epoch(0), table: tableId(7) }
const services = Effect.all({ rowIds: RowIdAllocator.RowIdAllocator, owner: RowIdAllocator.RowIdOwner })

describe("RowIdAllocator.layer", () => {
  it.effect("RID-09 RID-13 says when ranges that were reserved before are void", () =>
    Effect.gen(function*() {
      const { owner, rowIds } = yield* services
      const seen = new Set<number>()
      const isAnother = () => seen.size !== seen.add(rowIds.incarnation()).size
      isAnother()
      yield* rowIds.initialize({ ...table, ...normal(0n) })
      yield* rowIds.initialize({ ...table, table: tableId(8), ...normal(0n) })
      yield* rowIds.reserve({ ...table, count: 5 })
      yield* rowIds.bump({ ...table, rowId: maxRowId })
      yield* owner.initializeMissing({ ...table, ...normal(0n) })
      yield* owner.setSchemaEpoch(epoch(0))
      assert.isFalse(isAnother())
      yield* rowIds.initialize({ ...table, ...normal(0n) })
      assert.isTrue(isAnother())
      yield* owner.setSchemaEpoch(epoch(1))
      assert.isTrue(isAnother())
      yield* owner.setSchemaEpoch(epoch(0))
      assert.isTrue(isAnother())
    }).pipe(Effect.provide(RowIdAllocator.layer)))

  it.effect("RID-11 begins under the schema epoch that it is told", () =>
    Effect.gen(function*() {
      const { owner, rowIds } = yield* services
      assert.strictEqual(owner.schemaEpoch(), epoch(12))
      assert.strictEqual((yield* Effect.flip(rowIds.state(table)))._tag, "SchemaMismatch")
      assert.isFalse((yield* rowIds.state({ ...table, schemaEpoch: epoch(12) })).isInitialized)
    }).pipe(Effect.provide(RowIdAllocator.layerOptions({ schemaEpoch: epoch(12) }))))

  it.effect("refuses more tables than there is room for, and keeps those that it has", () =>
    Effect.gen(function*() {
      const { owner, rowIds } = yield* services
      const initialize = (number: number) => rowIds.initialize({ ...table, table: tableId(number), ...normal(5n) })
      yield* initialize(1)
      yield* initialize(2)
      for (const refused of [initialize(3), owner.initializeMissing({ ...table, table: tableId(3), ...normal(0n) })]) {
        const error = yield* Effect.flip(refused)
        assert.instanceOf(error, Exhausted)
        assert.deepInclude(error, { what: "tables with row ids", limit: 2n, sqliteCode: 13 })
      }
      yield* initialize(2)
      assert.isTrue((yield* rowIds.state({ ...table, table: tableId(1) })).isInitialized)
      yield* owner.setSchemaEpoch(epoch(1))
      yield* rowIds.initialize({ table: tableId(3), schemaEpoch: epoch(1), ...normal(0n) })
    }).pipe(Effect.provide(RowIdAllocator.layerOptions({ maxTables: 2 }))))

  it.effect("takes a count that is none, or cannot travel, for a defect", () =>
    Effect.gen(function*() {
      const { rowIds } = yield* services
      yield* rowIds.initialize({ ...table, ...normal(0n) })
      for (const count of [-1, 1.5, Number.NaN, 2 ** 32]) {
        const exit = yield* Effect.exit(rowIds.reserve({ ...table, count }))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), String(count))
      }
      assert.strictEqual((yield* rowIds.state(table)).nextRowId, rowId(1n))
    }).pipe(Effect.provide(RowIdAllocator.layer)))

  it.effect("RID-02 RID-11 logs what an operator wants to know, and exhaustion once", () =>
    Effect.gen(function*() {
      const { rowIds } = yield* services
      const lines: Array<string> = []
      const logger = Logger.layer([
        Logger.make(({ logLevel, message }) => {
          lines.push(`${logLevel}: ${Array.isArray(message) ? message.join(" ") : String(message)}`)
        })
      ])
      yield* Effect.gen(function*() {
        yield* rowIds.initialize({ ...table, ...normal(maxRowId - 3n) })
        yield* rowIds.reserve({ ...table, count: 2 })
        yield* rowIds.reserve({ ...table, token: { id: toTxnId(5n), epoch: TxnEpoch.make(1) }, count: 1 })
        yield* Effect.ignore(rowIds.reserve({ ...table, count: 1 }))
        yield* Effect.ignore(rowIds.reserve({ ...table, count: 1 }))
        yield* Effect.ignore(rowIds.bump({ ...table, rowId: rowId(1n) }))
        yield* Effect.ignore(rowIds.reserve({ ...table, schemaEpoch: epoch(3), count: 1 }))
        yield* rowIds.initialize({ ...table, ...normal(maxRowId) })
        yield* Effect.ignore(rowIds.reserve({ ...table, count: 1 }))
      }).pipe(Effect.provide(logger), Effect.provideService(References.MinimumLogLevel, "Debug"))
      assert.deepStrictEqual(lines, [
        "Info: row ids of table 7 are initialised under schema epoch 0 (normal): next is 9223372036854775805",
        "Debug: reserved row ids 9223372036854775805 ... 9223372036854775806 of table 7",
        "Debug: reserved row ids 9223372036854775807 ... 9223372036854775807 of table 7 for transaction 5.1",
        `Error: ${rowIdsExhausted(table.table).message}`,
        "Warn: no row ids of table 7: the request was made under schema epoch 3, current is 0; begin again on a fresh snapshot",
        "Info: row ids of table 7 are initialised under schema epoch 0 (normal): it is exhausted",
        `Error: ${rowIdsExhausted(table.table).message}`
      ])
    }).pipe(Effect.provide(RowIdAllocator.layer)))

  it.effect("counts ranges and ids", () =>
    Effect.gen(function*() {
      const { rowIds } = yield* services
      yield* rowIds.initialize({ ...table, ...normal(maxRowId - 70n) })
      for (const count of [64, 0, 100, 2]) yield* Effect.ignore(rowIds.reserve({ ...table, count }))
      assert.strictEqual((yield* Metric.value(CoordinatorMetrics.rowIdReservations)).count, 2)
      assert.strictEqual((yield* Metric.value(CoordinatorMetrics.rowIdsReserved)).count, 66)
    }).pipe(
      Effect.provide(RowIdAllocator.layer, { local: true }),
      Effect.provideService(Metric.MetricRegistry, new Map())
    ))
})

describe("RowIdErrors", () => {
  it("RID-11 tell apart what has the same code, and say what to do", () => {
    const exhausted = rowIdsExhausted(tableId(7))
    const missing = new TableNotInitialized(table)
    assert.deepStrictEqual([exhausted.sqliteCode, missing.sqliteCode], [13, 13])
    assert.deepStrictEqual([exhausted._tag, missing._tag], ["Exhausted", "TableNotInitialized"])
    assert.deepStrictEqual([exhausted.isRetryable, missing.isRetryable], [false, false])
    assert.include(exhausted.message, "no row ids of table 7 left (limit 9223372036854775807)")
    assert.include(missing.message, "table 7 are not initialised under schema epoch 0")
    assert.include(missing.message, "initialise them")
  })
})

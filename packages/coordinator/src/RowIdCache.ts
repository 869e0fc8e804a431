/**
 * The ranges of row ids of one connection: an id for each insert without asking for each (RID-09).
 *
 * **Details**
 *
 * A table's ids are handed out from a range in a synchronous step, {@link TableRowIds.nextUnsafe}, until it is empty.
 * Then the next range is reserved, by {@link TableRowIds.next}, which waits for it.
 *
 * Invariants:
 *
 * 1. An id is handed out once: taking it and counting on is one synchronous step.
 * 2. There is at most one reservation of a table on its way, however many fibers wait. It belongs to nobody of them: who
 *    is interrupted takes nothing away from the others, and a range that arrives is kept.
 * 3. Who waits is served in the order in which he came, from the range that arrives, before anybody who comes later.
 * 4. A range is of one schema epoch and one incarnation of the allocator. Under another it is forgotten, not used.
 *
 * Ids of a range that is forgotten, or left over at the end, are never handed out: row ids grow with gaps, and with
 * several connections they do not grow in the order of the commits.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import type { RowId, SchemaEpoch, TableId, TxnToken } from "@tidemark/core/Scalars"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { RangeOfTable } from "./internal/rowIdRange.ts"
import { RowIdAllocator } from "./RowIdAllocator.ts"
import type { RowIdError } from "./RowIdErrors.ts"

/**
 * The row ids of one table, for one connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface TableRowIds {
  readonly table: TableId

  /**
   * The next id of the range, now; `undefined` when the range is empty, or was forgotten because the schema epoch is
   * another one. Asks nobody: for code that cannot wait, and for loops in which an Effect per id costs too much.
   */
  readonly nextUnsafe: (schemaEpoch: SchemaEpoch) => RowId | undefined

  /**
   * The next id, from the range or from the next one, which is reserved when it is needed. `token` is the transaction's,
   * for the logs of the allocator. When there is no room for a range any more, the last ids are asked for one by one
   * (RID-10).
   */
  readonly next: (schemaEpoch: SchemaEpoch, token?: TxnToken) => Effect.Effect<RowId, RowIdError>

  /**
   * The transaction inserts an id of its own choice: neither this range nor those to come hand out one at or below it
   * (RID-06).
   *
   * **Gotchas**
   *
   * Ranges in the hands of other connections are not reached. An id of one of them that somebody chooses himself is
   * handed out there too, and the insert then finds the row, or conflicts.
   */
  readonly bump: (schemaEpoch: SchemaEpoch, rowId: RowId, token?: TxnToken) => Effect.Effect<void, RowIdError>

  /** How many ids {@link nextUnsafe} would answer one after the other. */
  readonly remaining: (schemaEpoch: SchemaEpoch) => number

  /** Forgets the range: its ids are gone. */
  readonly forget: () => void
}

/**
 * The row ids of one connection.
 *
 * @category services
 * @since 0.1.0
 */
export class RowIdCache extends Context.Service<RowIdCache, {
  /** Ids in a range. */
  readonly rangeSize: number

  /**
   * The row ids of a table, the same object for the same table as long as there is room for it (`maxTables`). Keep it
   * over many inserts.
   */
  readonly table: (table: TableId) => TableRowIds
}>()("@tidemark/coordinator/RowIdCache") {}

/**
 * Ids in a range by default: 64 (RID-08).
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultRangeSize = 64

const maxRangeSize = 0xffffffff

/**
 * How many tables a cache remembers at most, by default: 1024. Those that were not asked for longest are let go, with
 * what is left of their ranges.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultMaxTables = 1024

/**
 * @category models
 * @since 0.1.0
 */
export interface RowIdCacheOptions {
  /** 1 ... 2^32 - 1, default {@link defaultRangeSize}. */
  readonly rangeSize?: number | undefined
  /** Default {@link defaultMaxTables}. */
  readonly maxTables?: number | undefined
}

/**
 * Makes the cache of one more connection. When its scope closes, reservations that are on their way end, and who waits
 * for them is interrupted.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(
  options: RowIdCacheOptions = {}
): Effect.fn.Return<RowIdCache["Service"], never, RowIdAllocator | Scope.Scope> {
  const { maxTables = defaultMaxTables, rangeSize = defaultRangeSize } = options
  invariant(
    Number.isInteger(rangeSize) && rangeSize >= 1 && rangeSize <= maxRangeSize,
    "a range has 1 ... 2^32 - 1 ids"
  )
  invariant(Number.isInteger(maxTables) && maxTables > 0, "a cache has room for one table at least")
  const allocator = yield* RowIdAllocator
  const scope = yield* Effect.scope
  const context = yield* Effect.context<never>()
  // In the order in which they were asked for, the one that was not asked for longest first.
  const tables = new Map<TableId, RangeOfTable>()

  return RowIdCache.of({
    rangeSize,
    table(table) {
      let found = tables.get(table)
      if (found !== undefined) tables.delete(table)
      else found = new RangeOfTable(allocator, { table, rangeSize, scope, context })
      tables.set(table, found)
      if (tables.size > maxTables) {
        const [oldest = table] = tables.keys()
        tables.delete(oldest)
      }
      return found
    }
  })
})

/**
 * {@link layer} with options.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerOptions = (options: RowIdCacheOptions): Layer.Layer<RowIdCache, never, RowIdAllocator> =>
  Layer.effect(RowIdCache, make(options))

/**
 * The cache of one connection, over whichever allocator there is.
 *
 * **Example** (Taking ids without waiting)
 *
 * ```ts
 * import * as RowIdAllocator from "@tidemark/coordinator/RowIdAllocator"
 * import * as RowIdCache from "@tidemark/coordinator/RowIdCache"
 * import { RowId, SchemaEpoch, TableId } from "@tidemark/core/Scalars"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 *
 * const schemaEpoch = SchemaEpoch.make(0n)
 * const table = TableId.make(2)
 *
 * export const program = Effect.gen(function*() {
 *   const allocator = yield* RowIdAllocator.RowIdAllocator
 *   yield* allocator.initialize({ schemaEpoch, table, mode: "normal", maxCommitted: RowId.make(100n) })
 *   const rowIds = (yield* RowIdCache.RowIdCache).table(table)
 *   const first = yield* rowIds.next(schemaEpoch)
 *   const second = rowIds.nextUnsafe(schemaEpoch)
 *   return [first, second, rowIds.remaining(schemaEpoch)] // => [101n, 102n, 62]
 * }).pipe(Effect.provide(RowIdCache.layer.pipe(Layer.provideMerge(RowIdAllocator.layer))))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<RowIdCache, never, RowIdAllocator> = layerOptions({})

const RangeSize = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: maxRangeSize }))

/**
 * {@link layerOptions} from the configuration: `TIDEMARK_ROW_ID_RANGE_SIZE`, 1 ... 4,294,967,295, default 64.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<RowIdCache, Config.ConfigError, RowIdAllocator> = Layer.unwrap(
  Effect.gen(function*() {
    return layerOptions({
      rangeSize: yield* Config.schema(RangeSize, "TIDEMARK_ROW_ID_RANGE_SIZE").pipe(
        Config.withDefault(defaultRangeSize)
      )
    })
  })
)

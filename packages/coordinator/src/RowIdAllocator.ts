/**
 * Row ids in ranges: who inserts gets ids that nobody else gets, without waiting for anybody's commit.
 *
 * **Details**
 *
 * The coordinator owns the ids, one state for each table of the current schema. What stands in the database file decides
 * only how a table begins: nothing here is stored, and a table is initialised from its rows after every start and every
 * change of the schema (RID-01, RID-12). What was handed out to a transaction that aborts is gone (RID-05): ids grow,
 * with gaps.
 *
 * Invariants:
 *
 * 1. In the life of a state no id is handed out twice: every step begins where the one before ended (RID-03, RID-04).
 *    A step is synchronous, so on this thread none comes between.
 * 2. No id is above {@link maxRowId}, and that one is handed out at most once (RID-02, RID-10).
 * 3. A range is handed out wholly or not at all (RID-08).
 * 4. There are states of the current schema epoch only, so what an old epoch knew never comes back, even if its number
 *    does.
 *
 * The service is two. {@link RowIdAllocator} is what anybody may ask, here or across a socket: each of its calls is one
 * frame of section 9 of `formats.md`, with the schema epoch in it. {@link RowIdOwner} is what only the process that owns
 * the ids can do.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import { maxRowId, type RowId, SchemaEpoch, type TableId, type TxnToken, txnTokenKey } from "@tidemark/core/Scalars"
import { Exhausted } from "@tidemark/wal/LogErrors"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as LogLevel from "effect/LogLevel"
import * as References from "effect/References"
import type { Coordination } from "./Coordination.ts"
import { SchemaMismatch } from "./CoordinatorErrors.ts"
import * as CoordinatorMetrics from "./CoordinatorMetrics.ts"
import { type RowIdError, rowIdsExhausted, TableNotInitialized } from "./RowIdErrors.ts"

/**
 * Which table, and under which schema it is asked for: a request under another schema epoch than the current one is
 * refused with `SchemaMismatch`, here as across a socket (RID-11).
 *
 * @category models
 * @since 0.1.0
 */
export interface RowIdRequest {
  /** That of the transaction's snapshot. */
  readonly schemaEpoch: SchemaEpoch
  readonly table: TableId
  /** The transaction on whose behalf it is asked; for logs. */
  readonly token?: TxnToken | undefined
}

/**
 * What the durable state says of a table, from which its row ids go on (RID-01).
 *
 * **Details**
 *
 * `"normal"`: one above `maxCommitted`, at least 1. `"autoincrement"`: one above the larger of `maxCommitted` and
 * `sequence`, so that the ids of deleted rows stay used.
 *
 * @category models
 * @since 0.1.0
 */
export type RowIdTip =
  | {
    readonly mode: "normal"
    /** The largest row id in the table, 0 when it is empty. */
    readonly maxCommitted: RowId
  }
  | {
    readonly mode: "autoincrement"
    /** The largest row id in the table, 0 when it is empty. */
    readonly maxCommitted: RowId
    /** Its `seq` in `sqlite_sequence`, 0 when it has none. */
    readonly sequence: RowId
  }

/**
 * Ids that are whoever's who reserved them: `first` ... `first + count - 1`. `first` means nothing when `count` is 0.
 *
 * @category models
 * @since 0.1.0
 */
export interface RowIdRange {
  readonly first: RowId
  readonly count: number
}

/**
 * What is known of a table (RID-13).
 *
 * @category models
 * @since 0.1.0
 */
export interface RowIdState {
  readonly isInitialized: boolean
  /** The next id to be handed out; `undefined` when the table is exhausted or not initialised. */
  readonly nextRowId: RowId | undefined
  /**
   * The largest id that was ever used or handed out, which belongs into `sqlite_sequence` (RID-07); `undefined` when the
   * table is not an autoincrement one, or not initialised.
   */
  readonly highWater: RowId | undefined
}

/**
 * Hands out row ids.
 *
 * @category services
 * @since 0.1.0
 */
export class RowIdAllocator extends Context.Service<RowIdAllocator, {
  /**
   * Says what the durable state of a table is (RID-01), in place of whatever was known of it (RID-13).
   *
   * **Gotchas**
   *
   * Once more while ids of the table are in the hands of transactions that have not committed, and those ids are handed
   * out again. Initialise after `TableNotInitialized`, and where two could do so at once, with
   * `RowIdOwner.initializeMissing`.
   */
  readonly initialize: (request: RowIdRequest & RowIdTip) => Effect.Effect<void, SchemaMismatch | Exhausted>

  /**
   * Reserves `count` ids, 0 ... 2^32 - 1, one behind the other: all of them, or none and `Exhausted` (RID-08). 0 of a
   * table that is initialised changes nothing.
   */
  readonly reserve: (request: RowIdRequest & { readonly count: number }) => Effect.Effect<RowIdRange, RowIdError>

  /**
   * Somebody has chosen an id himself: what is handed out from now on is above it (RID-06). One below changes nothing;
   * the largest exhausts the table. An exhausted table answers `Exhausted`, whatever the id.
   */
  readonly bump: (request: RowIdRequest & { readonly rowId: RowId }) => Effect.Effect<void, RowIdError>

  /** What is known of a table; one that is not initialised is no error. */
  readonly state: (request: RowIdRequest) => Effect.Effect<RowIdState, SchemaMismatch>

  /**
   * Changes when ranges that were reserved before are void: the schema changed, a table was initialised again, or the
   * owner of the ids is another one than before. Who keeps a range compares it before every id; it takes the value before
   * it asks for the range. Only equality means something.
   */
  readonly incarnation: () => number
}>()("@tidemark/coordinator/RowIdAllocator") {}

/**
 * What only the process that owns the row ids can do.
 *
 * @category services
 * @since 0.1.0
 */
export class RowIdOwner extends Context.Service<RowIdOwner, {
  readonly schemaEpoch: () => SchemaEpoch

  /**
   * Declares another schema (RID-11): requests under any other are refused, and every table has to be initialised again.
   * The current one again changes nothing. Whoever declares one to the coordinator has to declare it here too, in the
   * same step; the allocator of {@link layerOf} is told by the coordinator.
   */
  readonly setSchemaEpoch: (epoch: SchemaEpoch) => Effect.Effect<void>

  /**
   * Initialises a table unless it is initialised, in one step: of all who found it missing at once, the first one's tip
   * counts. Answers whether this call did it.
   */
  readonly initializeMissing: (request: RowIdRequest & RowIdTip) => Effect.Effect<boolean, SchemaMismatch | Exhausted>
}>()("@tidemark/coordinator/RowIdOwner") {}

/**
 * How many tables have a state at most, by default: 65,536, far above the tables of any schema. A client that names
 * tables at random cannot fill the memory; what it gets is `Exhausted`.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultMaxTables = 65_536

/**
 * @category models
 * @since 0.1.0
 */
export interface RowIdAllocatorOptions {
  /** The current one at first. Default 0, as that of a coordinator. */
  readonly schemaEpoch?: SchemaEpoch | undefined
  /** Default {@link defaultMaxTables}. */
  readonly maxTables?: number | undefined
}

const maxCount = 0xffffffff

/** The row ids of one table. */
class TableState {
  readonly isAutoincrement: boolean
  /** The next id; one above the largest when the table is exhausted, which is the only value here that is no row id. */
  next: bigint
  /** Exhaustion is logged once, not for each of the inserts that it refuses. */
  isExhaustionLogged = false

  constructor(tip: RowIdTip) {
    this.isAutoincrement = tip.mode === "autoincrement"
    const largest = tip.mode === "autoincrement" && tip.sequence > tip.maxCommitted ? tip.sequence : tip.maxCommitted
    this.next = tip.mode === "normal" && largest < 0n ? 1n : largest + 1n
  }

  get isExhausted(): boolean {
    return this.next > maxRowId
  }

  has(count: number): boolean {
    return this.next + BigInt(count) - 1n <= maxRowId
  }
}

/** Brands what was computed from row ids. */
const toRowId = (value: bigint): RowId => {
  invariant(BigInt.asIntN(64, value) === value, "a row id fits into an i64")
  return value as RowId // checked in the line above
}

const notInitialized: RowIdState = { isInitialized: false, nextRowId: undefined, highWater: undefined }

const nameOf = ({ table, token }: RowIdRequest): string =>
  token === undefined ? `table ${table}` : `table ${table} for transaction ${txnTokenKey(token)}`

class Allocator {
  private readonly tables = new Map<TableId, TableState>()
  private epoch: SchemaEpoch
  private readonly maxTables: number
  private readonly context: Context.Context<never>
  private incarnations = 0

  constructor(options: RowIdAllocatorOptions, context: Context.Context<never>) {
    this.epoch = options.schemaEpoch ?? SchemaEpoch.make(0n)
    this.maxTables = options.maxTables ?? defaultMaxTables
    this.context = context
    invariant(Number.isInteger(this.maxTables) && this.maxTables > 0, "an allocator has room for one table at least")
  }

  readonly schemaEpoch = (): SchemaEpoch => this.epoch

  readonly incarnation = (): number => this.incarnations

  readonly setSchemaEpoch = (epoch: SchemaEpoch): Effect.Effect<void> => Effect.sync(() => this.follow(epoch))

  readonly follow = (epoch: SchemaEpoch): void => {
    if (epoch === this.epoch) return
    this.epoch = epoch
    this.tables.clear()
    this.incarnations++
  }

  readonly initialize = (request: RowIdRequest & RowIdTip): Effect.Effect<void, SchemaMismatch | Exhausted> =>
    Effect.suspend((): Effect.Effect<void, SchemaMismatch | Exhausted> =>
      this.refusal(request) ?? this.install(request)
    )

  readonly initializeMissing = (request: RowIdRequest & RowIdTip): Effect.Effect<boolean, SchemaMismatch | Exhausted> =>
    Effect.suspend((): Effect.Effect<boolean, SchemaMismatch | Exhausted> =>
      this.refusal(request)
        ?? (this.tables.has(request.table) ? Effect.succeed(false) : Effect.as(this.install(request), true))
    )

  readonly reserve = (request: RowIdRequest & { readonly count: number }): Effect.Effect<RowIdRange, RowIdError> =>
    Effect.withFiber((fiber): Effect.Effect<RowIdRange, RowIdError> => {
      const { count, table } = request
      invariant(
        Number.isInteger(count) && count >= 0 && count <= maxCount,
        "0 ... 2^32 - 1 row ids are reserved at once"
      )
      const refusal = this.refusal(request)
      if (refusal !== undefined) return refusal
      const state = this.tables.get(table)
      if (state === undefined) return this.missing(request)
      if (count === 0) return Effect.succeed({ first: state.isExhausted ? maxRowId : toRowId(state.next), count })
      if (!state.has(count)) return this.exhausted(table, state)
      const first = toRowId(state.next)
      state.next += BigInt(count)
      CoordinatorMetrics.rowIdReservations.updateUnsafe(1, this.context)
      CoordinatorMetrics.rowIdsReserved.updateUnsafe(count, this.context)
      const range = { first, count }
      // Writing two such numbers takes as long as everything else here.
      return LogLevel.isGreaterThan(fiber.getRef(References.MinimumLogLevel), "Debug")
        ? Effect.succeed(range)
        : Effect.as(Effect.logDebug(`reserved row ids ${first} ... ${state.next - 1n} of ${nameOf(request)}`), range)
    })

  readonly bump = (request: RowIdRequest & { readonly rowId: RowId }): Effect.Effect<void, RowIdError> =>
    Effect.suspend((): Effect.Effect<void, RowIdError> => {
      const refusal = this.refusal(request)
      if (refusal !== undefined) return refusal
      const state = this.tables.get(request.table)
      if (state === undefined) return this.missing(request)
      if (state.isExhausted) return this.exhausted(request.table, state)
      if (request.rowId >= state.next) state.next = request.rowId + 1n
      return Effect.void
    })

  readonly state = (request: RowIdRequest): Effect.Effect<RowIdState, SchemaMismatch> =>
    Effect.suspend((): Effect.Effect<RowIdState, SchemaMismatch> => {
      const refusal = this.refusal(request)
      if (refusal !== undefined) return refusal
      const state = this.tables.get(request.table)
      if (state === undefined) return Effect.succeed(notInitialized)
      return Effect.succeed({
        isInitialized: true,
        nextRowId: state.isExhausted ? undefined : toRowId(state.next),
        // Reservations and explicit ids move both, so there is one number for the two.
        highWater: state.isAutoincrement ? toRowId(state.next - 1n) : undefined
      })
    })

  private refusal({ schemaEpoch: found, table }: RowIdRequest): Effect.Effect<never, SchemaMismatch> | undefined {
    if (found === this.epoch) return undefined
    const error = new SchemaMismatch({ current: this.epoch, found })
    return Effect.andThen(Effect.logWarning(`no row ids of table ${table}: ${error.message}`), Effect.fail(error))
  }

  private missing({ schemaEpoch, table }: RowIdRequest): Effect.Effect<never, TableNotInitialized> {
    return Effect.fail(new TableNotInitialized({ schemaEpoch, table }))
  }

  private exhausted(table: TableId, state: TableState): Effect.Effect<never, Exhausted> {
    const error = rowIdsExhausted(table)
    if (state.isExhaustionLogged) return Effect.fail(error)
    state.isExhaustionLogged = true
    return Effect.andThen(Effect.logError(error.message), Effect.fail(error))
  }

  private install(request: RowIdRequest & RowIdTip): Effect.Effect<void, Exhausted> {
    const { mode, table } = request
    if (this.tables.has(table)) this.incarnations++
    else if (this.tables.size >= this.maxTables) {
      return Effect.fail(new Exhausted({ what: "tables with row ids", limit: BigInt(this.maxTables) }))
    }
    const state = new TableState(request)
    this.tables.set(table, state)
    const next = state.isExhausted ? "it is exhausted" : `next is ${state.next}`
    return Effect.logInfo(
      `row ids of table ${table} are initialised under schema epoch ${this.epoch} (${mode}): ${next}`
    )
  }
}

/**
 * {@link layer} with options.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerOptions = (options: RowIdAllocatorOptions): Layer.Layer<RowIdAllocator | RowIdOwner> =>
  Layer.effectContext(Effect.map(Effect.context<never>(), (context) => {
    const allocator = new Allocator(options, context)
    return Context.make(RowIdAllocator, allocator).pipe(Context.add(RowIdOwner, allocator))
  }))

/**
 * The row ids of a database, owned by the process of its coordinator and under the schema epoch of that: what
 * `setSchemaEpoch` of the coordinator declares is the current one here in the same synchronous step, so that there is no
 * moment at which a snapshot has one epoch and the allocator another.
 *
 * **Example** (Row ids beside a coordinator)
 *
 * ```ts
 * import { CompatCoordinator } from "@tidemark/coordinator/CompatCoordinator"
 * import * as RowIdAllocator from "@tidemark/coordinator/RowIdAllocator"
 *
 * export const rowIds = RowIdAllocator.layerOf(CompatCoordinator)
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerOf = <E, R>(
  coordinator: Effect.Effect<Pick<Coordination, "onSchemaEpoch">, E, R>,
  options: Pick<RowIdAllocatorOptions, "maxTables"> = {}
): Layer.Layer<RowIdAllocator | RowIdOwner, E, R> =>
  Layer.effectContext(Effect.gen(function*() {
    const { onSchemaEpoch } = yield* coordinator
    const allocator = new Allocator(options, yield* Effect.context<never>())
    onSchemaEpoch(allocator.follow)
    return Context.make(RowIdAllocator, allocator).pipe(Context.add(RowIdOwner, allocator))
  }))

/**
 * The row ids of a database, owned here, under schema epoch 0 at first. Beside a coordinator whose schema changes it is
 * {@link layerOf} that is wanted.
 *
 * **Example** (Inserting from two connections)
 *
 * ```ts
 * import * as RowIdAllocator from "@tidemark/coordinator/RowIdAllocator"
 * import { RowId, SchemaEpoch, TableId } from "@tidemark/core/Scalars"
 * import * as Effect from "effect/Effect"
 *
 * const accounts = { schemaEpoch: SchemaEpoch.make(0n), table: TableId.make(2) }
 *
 * export const program = Effect.gen(function*() {
 *   const rowIds = yield* RowIdAllocator.RowIdAllocator
 *   yield* rowIds.initialize({ ...accounts, mode: "normal", maxCommitted: RowId.make(100n) })
 *   const mine = yield* rowIds.reserve({ ...accounts, count: 64 })
 *   const yours = yield* rowIds.reserve({ ...accounts, count: 64 })
 *   return [mine.first, yours.first] // => [101n, 165n]
 * }).pipe(Effect.provide(RowIdAllocator.layer))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<RowIdAllocator | RowIdOwner> = layerOptions({})

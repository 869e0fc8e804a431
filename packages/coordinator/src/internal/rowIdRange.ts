/**
 * The range of row ids that one connection has of one table, and those who wait for the next one. `RowIdCache` says what
 * it promises.
 *
 * A reservation runs in a fiber of its own, in the scope of the cache, so no waiter can cancel it. When it is answered,
 * the step that gives out the range sends the next one if somebody still waits. An allocator of this process answers before
 * the fiber is even left; then all of this is one synchronous step.
 */
import type { RowId, SchemaEpoch, TableId, TxnToken } from "@tidemark/core/Scalars"
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { RowIdAllocator, RowIdRange } from "../RowIdAllocator.ts"
import type { TableRowIds } from "../RowIdCache.ts"
import type { RowIdError } from "../RowIdErrors.ts"

interface Waiter {
  /** Grows by one with each. */
  readonly order: number
  readonly schemaEpoch: SchemaEpoch
  readonly token: TxnToken | undefined
  readonly resume: (answer: Effect.Effect<RowId, RowIdError>) => void
}

/** A reservation that is on its way. */
interface Refill {
  readonly schemaEpoch: SchemaEpoch
  readonly incarnation: number
  readonly count: number
  /** The refusal of it is the answer to those who came before: what is true now may not have been when it was asked. */
  readonly before: number
  /** The largest id that the transactions here have chosen meanwhile: the range may have been reserved before that. */
  above: bigint | undefined
}

export interface RangeOptions {
  readonly table: TableId
  readonly rangeSize: number
  readonly scope: Scope.Scope
  readonly context: Context.Context<never>
}

export class RangeOfTable implements TableRowIds {
  readonly table: TableId
  private readonly allocator: RowIdAllocator["Service"]
  private readonly rangeSize: number
  private readonly scope: Scope.Scope
  private readonly fork: ReturnType<typeof Effect.runForkWith<never>>

  private left = 0
  /** The next id, when there is one left. */
  private id = 0n
  private schemaEpoch: SchemaEpoch | undefined
  private incarnation = -1

  /** In the order in which they came. */
  private readonly waiters = new Set<Waiter>()
  private arrivals = 0
  private isRefilling = false
  private refill: Refill | undefined

  constructor(allocator: RowIdAllocator["Service"], { context, rangeSize, scope, table }: RangeOptions) {
    this.allocator = allocator
    this.table = table
    this.rangeSize = rangeSize
    this.scope = scope
    this.fork = Effect.runForkWith(context)
  }

  readonly nextUnsafe = (schemaEpoch: SchemaEpoch): RowId | undefined => {
    if (this.left === 0) return undefined
    if (!this.isOf(schemaEpoch)) {
      this.left = 0
      return undefined
    }
    const id = this.id
    this.id = id + 1n
    this.left--
    // It lies in a range that was checked when it arrived.
    return id as RowId
  }

  readonly next = (schemaEpoch: SchemaEpoch, token?: TxnToken): Effect.Effect<RowId, RowIdError> =>
    Effect.suspend(() => {
      const id = this.nextUnsafe(schemaEpoch)
      return id === undefined ? this.wait(schemaEpoch, token) : Effect.succeed(id)
    })

  readonly bump = (schemaEpoch: SchemaEpoch, rowId: RowId, token?: TxnToken): Effect.Effect<void, RowIdError> =>
    Effect.suspend(() => {
      this.skip(rowId)
      return Effect.tap(
        this.allocator.bump({ schemaEpoch, table: this.table, rowId, token }),
        // A range that arrived since, or is still on its way, may have been reserved before the allocator knew.
        () => Effect.sync(() => this.skip(rowId))
      )
    })

  readonly remaining = (schemaEpoch: SchemaEpoch): number => this.left > 0 && this.isOf(schemaEpoch) ? this.left : 0

  readonly forget = (): void => {
    this.left = 0
  }

  private isOf(schemaEpoch: SchemaEpoch): boolean {
    return schemaEpoch === this.schemaEpoch && this.allocator.incarnation() === this.incarnation
  }

  /** No id up to this one is handed out from what is reserved, or was asked for, until now. */
  private skip(rowId: bigint): void {
    if (this.left > 0 && rowId >= this.id) {
      const skipped = rowId - this.id + 1n
      this.left = skipped >= BigInt(this.left) ? 0 : this.left - Number(skipped)
      this.id = rowId + 1n
    }
    const { refill } = this
    if (refill !== undefined && (refill.above === undefined || rowId > refill.above)) refill.above = rowId
  }

  private wait(schemaEpoch: SchemaEpoch, token: TxnToken | undefined): Effect.Effect<RowId, RowIdError> {
    return Effect.callback((resume) => {
      const waiter: Waiter = { order: this.arrivals++, schemaEpoch, token, resume }
      this.waiters.add(waiter)
      if (!this.isRefilling) this.refillWhileWaited(this.rangeSize)
      return Effect.sync(() => {
        this.waiters.delete(waiter)
      })
    })
  }

  /** Asks for so many ids on behalf of the first who waits, then for whole ranges, until nobody waits. */
  private refillWhileWaited(count: number): void {
    this.isRefilling = true
    for (let [first] = this.waiters; first !== undefined; [first] = this.waiters) {
      const { schemaEpoch, token } = first
      const refill: Refill = {
        schemaEpoch,
        incarnation: this.allocator.incarnation(),
        count,
        before: this.arrivals,
        above: undefined
      }
      this.refill = refill
      const fiber = this.fork(this.allocator.reserve({ schemaEpoch, table: this.table, token, count }))
      const exit = fiber.pollUnsafe()
      if (exit === undefined) {
        fiber.addObserver((exit) => this.refillWhileWaited(this.settle(refill, exit)))
        Fiber.runIn(fiber, this.scope)
        return
      }
      count = this.settle(refill, exit)
    }
    this.isRefilling = false
  }

  /** Gives everybody his answer whose answer this is; answers how many ids to ask for next. */
  private settle(refill: Refill, exit: Exit.Exit<RowIdRange, RowIdError>): number {
    this.refill = undefined
    if (Exit.isSuccess(exit)) {
      this.arrived(refill, exit.value)
      return this.rangeSize
    }
    const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
    // There is no room for a whole range any more, but perhaps for an id (RID-10).
    if (error?._tag === "Exhausted" && refill.count > 1) return 1
    const refused = [...this.waiters].filter((waiter) =>
      // The scope has closed, or the allocator has a defect: that is nobody's own answer.
      error === undefined || waiter.order < refill.before && waiter.schemaEpoch === refill.schemaEpoch
    )
    for (const waiter of refused) this.waiters.delete(waiter)
    for (const { resume } of refused) resume(Effect.failCause(exit.cause))
    return this.rangeSize
  }

  private arrived({ above, incarnation, schemaEpoch }: Refill, range: RowIdRange): void {
    this.schemaEpoch = schemaEpoch
    this.incarnation = incarnation
    this.id = range.first
    this.left = range.count
    if (above !== undefined) this.skip(above)
    // Everybody's id is taken before anybody goes on: who is resumed may ask for the next one at once.
    const served: Array<[Waiter, RowId]> = []
    for (const waiter of this.waiters) {
      if (waiter.schemaEpoch !== schemaEpoch) continue
      const id = this.nextUnsafe(schemaEpoch)
      if (id === undefined) break
      this.waiters.delete(waiter)
      served.push([waiter, id])
    }
    for (const [{ resume }, id] of served) resume(Effect.succeed(id))
  }
}

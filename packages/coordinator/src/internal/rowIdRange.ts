/**
 * The range of row ids that one connection has of one table, and those who wait for the next one. `RowIdCache` says what
 * it promises.
 *
 * A reservation runs in a fiber of its own, in the scope of the cache, until nobody waits: so no waiter can cancel it,
 * and it needs no other wake-up than the answer to the one before.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { RowId, SchemaEpoch, TableId, TxnToken } from "@tidemark/core/Scalars"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
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
      if (!this.isRefilling) {
        this.isRefilling = true
        Fiber.runIn(this.fork(this.refillWhileWaited), this.scope)
      }
      return Effect.sync(() => {
        this.waiters.delete(waiter)
      })
    })
  }

  private readonly refillWhileWaited: Effect.Effect<void> = Effect.onExit(
    Effect.whileLoop({
      // Nobody waits, and the fiber is not there any more: one step, so that nobody comes between.
      while: () => this.isRefilling = this.waiters.size > 0,
      body: () => this.refillOnce,
      step: () => {}
    }),
    (exit) =>
      Effect.sync(() => {
        if (Exit.isSuccess(exit)) return
        // The scope has closed, or the allocator has a defect: nothing will ever arrive.
        this.isRefilling = false
        this.refill = undefined
        const waiting = [...this.waiters]
        this.waiters.clear()
        for (const { resume } of waiting) resume(Effect.failCause(exit.cause))
      })
  )

  private readonly refillOnce: Effect.Effect<void> = Effect.suspend(() => {
    const [first] = this.waiters
    invariant(first !== undefined, "a range is reserved when somebody waits")
    const { schemaEpoch, token } = first
    const refill: Refill = {
      schemaEpoch,
      incarnation: this.allocator.incarnation(),
      before: this.arrivals,
      above: undefined
    }
    this.refill = refill
    return Effect.match(this.reserve(schemaEpoch, token), {
      onSuccess: (range) => this.arrived(refill, range),
      onFailure: (error) => this.refused(refill, error)
    })
  })

  /** A whole range; where there is no room for one any more, a single id (RID-10). */
  private reserve(schemaEpoch: SchemaEpoch, token: TxnToken | undefined): Effect.Effect<RowIdRange, RowIdError> {
    const request = { schemaEpoch, table: this.table, token }
    const range = this.allocator.reserve({ ...request, count: this.rangeSize })
    return this.rangeSize === 1
      ? range
      : Effect.catchTag(range, "Exhausted", () => this.allocator.reserve({ ...request, count: 1 }))
  }

  private arrived(refill: Refill, range: RowIdRange): void {
    this.refill = undefined
    this.schemaEpoch = refill.schemaEpoch
    this.incarnation = refill.incarnation
    this.id = range.first
    this.left = range.count
    if (refill.above !== undefined) this.skip(refill.above)
    // Everybody's id is taken before anybody goes on: who is resumed may ask for the next one at once.
    const served: Array<[Waiter, RowId]> = []
    for (const waiter of this.waiters) {
      if (waiter.schemaEpoch !== refill.schemaEpoch) continue
      const id = this.nextUnsafe(refill.schemaEpoch)
      if (id === undefined) break
      this.waiters.delete(waiter)
      served.push([waiter, id])
    }
    for (const [{ resume }, id] of served) resume(Effect.succeed(id))
  }

  private refused({ before, schemaEpoch }: Refill, error: RowIdError): void {
    this.refill = undefined
    const refused = [...this.waiters].filter((waiter) => waiter.order < before && waiter.schemaEpoch === schemaEpoch)
    for (const waiter of refused) this.waiters.delete(waiter)
    for (const { resume } of refused) resume(Effect.fail(error))
  }
}

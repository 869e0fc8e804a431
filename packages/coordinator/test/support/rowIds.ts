/** What the tests of row ids share. */
import type { RowIdAllocator, RowIdRange, RowIdRequest, RowIdTip } from "@tidemark/coordinator/RowIdAllocator"
import { RowId, SchemaEpoch, TableId } from "@tidemark/core/Scalars"
import { Effect, type Fiber } from "effect"
import fc from "fast-check"

export type Allocator = RowIdAllocator["Service"]

export const rowId = (value: bigint): RowId => RowId.make(value)

export const epoch = (value: number): SchemaEpoch => SchemaEpoch.make(BigInt(value))

export const tableId = (value: number): TableId => TableId.make(value)

/** Maximum of a table without autoincrement. */
export const normal = (maxCommitted: bigint): RowIdTip => ({ mode: "normal", maxCommitted: rowId(maxCommitted) })

export const autoincrement = (maxCommitted: bigint, sequence: bigint): RowIdTip => ({
  mode: "autoincrement",
  maxCommitted: rowId(maxCommitted),
  sequence: rowId(sequence)
})

/** First and last id. */
export const bounds = ({ count, first }: RowIdRange): readonly [bigint, bigint] => [first, first + BigInt(count) - 1n]

export const idsOf = ({ count, first }: RowIdRange): ReadonlyArray<bigint> =>
  Array.from({ length: count }, (_, index) => first + BigInt(index))

/** So many single ids, one after the other. */
export const singles = (allocator: Allocator, of: RowIdRequest, count: number) =>
  Effect.forEach(
    Array.from({ length: count }),
    () => Effect.map(allocator.reserve({ ...of, count: 1 }), ({ first }): bigint => first)
  )

export const forkNow = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.forkScoped(effect, { startImmediately: true })

export const isWaiting = (fiber: Fiber.Fiber<unknown, unknown>): boolean => fiber.pollUnsafe() === undefined

/** Runs a property in the context of the test. */
export const checkProperty = <A, R>(
  arbitrary: fc.Arbitrary<A>,
  run: (value: A) => Effect.Effect<void, unknown, R>,
  numRuns: number
): Effect.Effect<void, never, R> =>
  Effect.flatMap(
    Effect.context<R>(),
    (context) =>
      Effect.promise(() =>
        fc.assert(fc.asyncProperty(arbitrary, (value) => Effect.runPromiseWith(context)(run(value))), { numRuns })
      )
  )

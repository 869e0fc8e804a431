/** All writers of a contestant in a closed loop: each asks for its next commit when its last one is durable. */
import * as Effect from "effect/Effect"
import type { Loop } from "./ClosedLoop.ts"

/** What a writer hands over again and again, told apart by a count in it. */
export interface Counted {
  /** Raises the count by one. */
  readonly count: () => void
}

/** Writers as fibers. */
export const writeInFibers = <A extends Counted, E, R>(
  loop: Loop,
  rows: ReadonlyArray<A>,
  commit: (row: A) => Effect.Effect<unknown, E, R>
): Effect.Effect<void, E, R> =>
  Effect.all(
    rows.map((row, writer) =>
      Effect.whileLoop({
        while: loop.goesOn,
        body: () => {
          row.count()
          return commit(row)
        },
        step: () => loop.ended(writer)
      })
    ),
    { concurrency: "unbounded", discard: true }
  )

/** Writers as async functions, which wait for what `commit` answers and for nothing else. */
export const writeInPromises = async <A extends Counted>(
  loop: Loop,
  rows: ReadonlyArray<A>,
  commit: (row: A) => Promise<unknown>
): Promise<void> => {
  await Promise.all(rows.map(async (row, writer) => {
    while (loop.goesOn()) {
      row.count()
      await commit(row)
      loop.ended(writer)
    }
  }))
}

/** Writers of a thread whose commits return when they are durable: one after the other. */
export const writeInTurn = <A extends Counted>(
  loop: Loop,
  rows: ReadonlyArray<A>,
  commit: (row: A) => void
): void => {
  while (loop.goesOn()) {
    rows.forEach((row, writer) => {
      row.count()
      commit(row)
      loop.ended(writer)
    })
  }
}

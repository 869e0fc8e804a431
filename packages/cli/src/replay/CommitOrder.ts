/**
 * Which recorded transaction may be committed when, by many writers at once.
 *
 * **Details**
 *
 * 1. Two transactions that wrote the same page are committed in the order in which they were recorded, the later one
 *    not before the earlier one is durable. All others may go side by side.
 * 2. Transactions that made the database larger are committed in their order, for each leaves its size behind.
 * 3. One that made it smaller comes after all before it and before all after it.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import * as Effect from "effect/Effect"
import type { RecordedTransaction } from "./RecordedWal.ts"

type Recorded = Pick<RecordedTransaction, "pages" | "databasePages">

/**
 * @category models
 * @since 0.1.0
 */
export interface CommitOrder {
  /** The next transaction that may be committed, waiting until there is one; `undefined` when none is left. */
  readonly take: Effect.Effect<number | undefined>
  /** A transaction that was taken is durable. */
  readonly complete: (index: number) => void
}

/**
 * Makes the order of what was recorded over a database of `initialPages` pages. What `isDone` says of a transaction is
 * that it is durable already: it is not handed out.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  transactions: ReadonlyArray<Recorded>,
  initialPages: number,
  isDone: (index: number) => boolean
): CommitOrder => {
  const { predecessors, successors } = makeEdges(transactions, initialPages)
  const blockedBy = new Uint32Array(transactions.length)
  const ready: Array<number> = []
  let nextReady = 0
  let left = 0
  const waiters: Array<() => void> = []

  for (let index = 0; index < transactions.length; index++) {
    if (isDone(index)) continue
    left++
    let blockers = 0
    for (const predecessor of predecessors[index] ?? []) if (!isDone(predecessor)) blockers++
    blockedBy[index] = blockers
    if (blockers === 0) ready.push(index)
  }
  let notTaken = left

  const takeNow = () => {
    const index = ready[nextReady]
    if (index === undefined) return undefined
    nextReady++
    notTaken--
    return index
  }

  /** Wakes as many as there is something for; all of them when nothing is left to wait for. */
  const wake = () => {
    const woken = waiters.splice(0, notTaken === 0 ? waiters.length : ready.length - nextReady)
    for (const resume of woken) resume()
  }

  const take: Effect.Effect<number | undefined> = Effect.suspend(() => {
    const index = takeNow()
    if (index !== undefined || notTaken === 0) return Effect.succeed(index)
    return Effect.andThen(
      Effect.callback<void>((resume) => {
        const waiter = () => resume(Effect.void)
        waiters.push(waiter)
        return Effect.sync(() => {
          const position = waiters.indexOf(waiter)
          if (position >= 0) waiters.splice(position, 1)
        })
      }),
      take
    )
  })

  return {
    take,
    complete: (index) => {
      left--
      invariant(left >= 0, "a transaction is completed once")
      for (const successor of successors[index] ?? []) {
        const blockers = (blockedBy[successor] ?? 0) - 1
        invariant(blockers >= 0, "a transaction waits for each of its predecessors once")
        blockedBy[successor] = blockers
        if (blockers === 0) ready.push(successor)
      }
      wake()
    }
  }
}

const makeEdges = (transactions: ReadonlyArray<Recorded>, initialPages: number) => {
  const predecessors: Array<Set<number>> = []
  const successors: Array<Array<number>> = transactions.map(() => [])
  const lastWriter = new Map<number, number>()
  let lastResize: number | undefined
  let lastCut: number | undefined
  let sinceCut: Array<number> = []
  let databasePages = initialPages
  transactions.forEach((transaction, index) => {
    const before = new Set<number>()
    const isAfter = (predecessor: number | undefined) => {
      if (predecessor !== undefined) before.add(predecessor)
    }
    isAfter(lastCut)
    for (const page of transaction.pages) {
      isAfter(lastWriter.get(page))
      lastWriter.set(page, index)
    }
    if (transaction.databasePages !== databasePages) {
      isAfter(lastResize)
      lastResize = index
    }
    if (transaction.databasePages < databasePages) {
      for (const earlier of sinceCut) isAfter(earlier)
      sinceCut = []
      lastCut = index
    } else sinceCut.push(index)
    databasePages = transaction.databasePages
    for (const predecessor of before) successors[predecessor]?.push(index)
    predecessors.push(before)
  })
  return { predecessors, successors }
}

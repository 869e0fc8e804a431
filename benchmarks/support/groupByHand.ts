/**
 * What an application does by hand when its store has no group commit: it lets hand-overs gather while the batch before
 * is committed, and commits what has gathered as one.
 *
 * A commit that fails ends the program, as a rejection that nobody handles.
 */
import { promisify } from "node:util"

const nextTurn = promisify<void>((done) => setImmediate(() => done(null)))

export const gatherByHand = <A>(
  commit: (batch: ReadonlyArray<A>) => void | Promise<void>
): (item: A, wake: () => void) => void => {
  let waiting: Array<A> = []
  let wakers: Array<() => void> = []
  let isLeading = false

  const lead = async () => {
    while (waiting.length > 0) {
      const batch = waiting
      const woken = wakers
      waiting = []
      wakers = []
      await commit(batch)
      for (const wake of woken) wake()
      // Those who were woken hand over again, and the event loop gets its turn.
      await nextTurn()
    }
    isLeading = false
  }

  return (item, wake) => {
    waiting.push(item)
    wakers.push(wake)
    if (isLeading) return
    isLeading = true
    setImmediate(() => void lead())
  }
}

/** The same for writers that wait for a promise. */
export const groupByHand = <A>(
  commit: (batch: ReadonlyArray<A>) => void | Promise<void>
): (item: A) => Promise<void> => {
  const handOver = gatherByHand(commit)
  return (item) => new Promise((resolve) => handOver(item, resolve))
}

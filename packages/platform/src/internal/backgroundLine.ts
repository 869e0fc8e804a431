/**
 * The writes of one file in the background: one after the other, in the order in which they were asked for.
 *
 * A write stands behind the one before it until that one is done; where both go to a queue that keeps their order, it
 * joins that queue at once. What stands behind a write that failed fails, too, and was not begun. When nobody is left in
 * line it is forgotten that something failed: who asks then knows of it.
 *
 * Invariant: between the question whether the queue takes a write and the call that begins it no other fiber runs. So what
 * is to join the queue has joined it when that call answers; what it answers only waits.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { VfsError } from "../VfsError.ts"
import { toVfsError } from "./nodeCalls.ts"
import { notBegun, withCode } from "./transfer.ts"

interface Place {
  /** Whether it was given to the queue. */
  isQueued: boolean
  /** Whether it succeeded. */
  readonly outcome: Deferred.Deferred<boolean>
}

/** Answers how a write takes its place in the line of the file at `path`, uninterruptibly. */
export const makeBackgroundLine = (path: string) => {
  let last: Place | undefined

  return (
    /** Begins the write. With `isQueued` it has joined the queue when this answers. */
    start: (isQueued: boolean) => Effect.Effect<void, VfsError>,
    /** Whether the queue would take it at this moment. */
    canQueue: () => boolean = () => false
  ): Effect.Effect<void, VfsError> =>
    Effect.uninterruptible(Effect.suspend(() => {
      const before = last
      const place: Place = { isQueued: false, outcome: Deferred.makeUnsafe<boolean>() }
      last = place
      const begin = (isQueued: boolean): Effect.Effect<void, VfsError> => {
        try {
          place.isQueued = isQueued
          return start(isQueued)
        } catch (defect) {
          // Whoever stands behind it must hear of it.
          return Effect.die(defect)
        }
      }
      const joins = (before === undefined || before.isQueued) && canQueue()
      const write = before === undefined || joins ? begin(joins) : Effect.flatMap(
        Deferred.await(before.outcome),
        (hasSucceeded) => hasSucceeded ? begin(canQueue()) : Effect.fail(toVfsError("write", path, withCode(notBegun)))
      )
      return Effect.onExit(write, (exit) =>
        Effect.sync(() => {
          if (last === place) last = undefined
          Deferred.doneUnsafe(place.outcome, Exit.succeed(Exit.isSuccess(exit)))
        }))
    }))
}

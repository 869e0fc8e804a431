/**
 * An allocator behind a wire that a test holds in its hand: a reservation is sent, then the owner of the ids looks at it,
 * then its answer arrives, and a test says when. Everything else is answered at once.
 */
import type { RowIdOwner, RowIdRange, RowIdRequest } from "@tidemark/coordinator/RowIdAllocator"
import type { RowIdError } from "@tidemark/coordinator/RowIdErrors"
import { Deferred, Effect, Exit } from "effect"
import type { Allocator } from "./rowIds.ts"

export interface Sent {
  readonly request: RowIdRequest & { readonly count: number }
  /** Nobody waits for the answer any more. */
  isAbandoned: boolean
  /** Lets the owner look at it, once. */
  readonly process: Effect.Effect<void>
  /** Lets the answer arrive; processes it before, if that has not been done. */
  readonly deliver: Effect.Effect<void>
}

export interface SlowRowIds {
  readonly rowIds: Allocator
  readonly owner: RowIdOwner["Service"]
  /** On its way, the first sent first. */
  readonly sent: ReadonlyArray<Sent>
  /** How many were ever sent. */
  readonly total: () => number
}

export const makeSlowRowIds = (rowIds: Allocator, owner: RowIdOwner["Service"]): SlowRowIds => {
  const sent: Array<Sent> = []
  let total = 0
  return {
    rowIds: {
      initialize: rowIds.initialize,
      bump: rowIds.bump,
      state: rowIds.state,
      incarnation: rowIds.incarnation,
      reserve: (request) =>
        Effect.suspend(() => {
          total++
          const arrived = Deferred.makeUnsafe<RowIdRange, RowIdError>()
          let answer: Exit.Exit<RowIdRange, RowIdError> | undefined
          const process = Effect.suspend(() =>
            answer === undefined
              ? Effect.map(Effect.exit(rowIds.reserve(request)), (exit) => {
                answer = exit
              })
              : Effect.void
          )
          const one: Sent = {
            request,
            isAbandoned: false,
            process,
            deliver: Effect.andThen(
              process,
              Effect.sync(() => {
                sent.splice(sent.indexOf(one), 1)
                Deferred.doneUnsafe(arrived, answer ?? Exit.die("it was processed in the step before"))
              })
            )
          }
          sent.push(one)
          return Effect.onInterrupt(Deferred.await(arrived), () =>
            Effect.sync(() => {
              one.isAbandoned = true
            }))
        })
    },
    owner,
    sent,
    total: () => total
  }
}

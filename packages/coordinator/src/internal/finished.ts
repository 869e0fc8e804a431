import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"

/** What most transactions end with, known by sight: to ask what a value is takes longer. */
const nothing: unknown = Effect.void

/** The exit that an effect is, if it is one: then there is nothing left to run. */
export const finished = <A, E, R>(effect: Effect.Effect<A, E, R>): Exit.Exit<A, E> | undefined =>
  // Its type arguments are those of the effect that it is.
  effect === nothing || Exit.isExit(effect) ? effect as Exit.Exit<A, E> : undefined

/** Opening what holds locks and files. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"

/**
 * Opens something in a scope of its own, which closes with the caller's, finalizers one after another, the last one first:
 * who could not open it, or was interrupted, lets go of its lock at once.
 *
 * @internal
 */
export const inScopeOfItsOwn = <A, E, R>(open: Effect.Effect<A, E, R | Scope.Scope>) =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const scope = yield* Scope.fork(yield* Effect.scope, "sequential")
      return yield* restore(Scope.provide(open, scope)).pipe(Effect.onError(() => Scope.close(scope, Exit.void)))
    })
  )

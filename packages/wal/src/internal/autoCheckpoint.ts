/**
 * The checkpoint that runs in the background whenever enough has gathered in the log. It never fails a commit (PG-07).
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import type { LogEnded } from "../GroupCommit.ts"
import type { CheckpointFailed } from "../LogErrors.ts"

/** @internal */
export interface AutoCheckpointOptions {
  /** Frames that make a round worth while; 0: there are none. */
  readonly threshold: number
  /** Frames that came into the log since the last round began. */
  readonly sinceLastRound: () => number
  /** Sets the one listener that is called when commits were published. */
  readonly onPublished: (listener: () => void) => void
  readonly round: Effect.Effect<void, CheckpointFailed | LogEnded>
}

/** A fiber of the scope. @internal */
export const forkAutoCheckpoint = (options: AutoCheckpointOptions): Effect.Effect<void, never, Scope.Scope> => {
  const { onPublished, round, sinceLastRound, threshold } = options
  if (threshold === 0) return Effect.void
  const isDue = () => sinceLastRound() >= threshold
  const awaitDue = Effect.callback<void>((resume) => {
    if (isDue()) return resume(Exit.void)
    onPublished(() => {
      if (!isDue()) return
      onPublished(() => {})
      resume(Exit.void)
    })
  })
  return Effect.forever(Effect.andThen(awaitDue, round), { disableYield: true }).pipe(
    Effect.catch((error) =>
      error._tag === "CheckpointFailed"
        ? Effect.logWarning("automatic checkpoints stop until the database is opened again", error)
        : Effect.void
    ),
    Effect.forkScoped,
    Effect.asVoid
  )
}

/**
 * The checkpoint that runs in the background whenever enough has gathered in the log. It never fails a commit (PG-07).
 *
 * A round reads and writes each page once that was changed since the round before, however often it was. So under a load
 * that fills the log faster than a round takes, the fewer rounds the less work: between two of them the disk belongs to
 * the commits for a while, unless the log is about to become too long.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
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
  /** Whether the next round cannot wait. Without it none ever waits for anything but the threshold. */
  readonly isUrgent?: (() => boolean) | undefined
}

/** After a round there is none for so many times as long as it took: they have a fiftieth of the time. */
const restPerRound = 49
/** A slow disk is no reason to let the log wait for longer. */
const maxRest = Duration.seconds(1)

/** A fiber of the scope. @internal */
export const forkAutoCheckpoint = (options: AutoCheckpointOptions): Effect.Effect<void, never, Scope.Scope> => {
  const { isUrgent, onPublished, round, sinceLastRound, threshold } = options
  if (threshold === 0) return Effect.void
  const isDue = () => sinceLastRound() >= threshold
  const awaitThat = (isSo: () => boolean) =>
    Effect.callback<void>((resume) => {
      if (isSo()) return resume(Exit.void)
      onPublished(() => {
        if (!isSo()) return
        onPublished(() => {})
        resume(Exit.void)
      })
      return Effect.sync(() => onPublished(() => {}))
    })
  const rested = isUrgent === undefined ? round : Effect.gen(function*() {
    const before = yield* Clock.monotonicTimeNanos
    yield* round
    const nanos = (yield* Clock.monotonicTimeNanos) - before
    if (nanos === 0n) return
    const rest = Duration.min(Duration.nanos(nanos * BigInt(restPerRound)), maxRest)
    yield* Effect.raceFirst(Effect.sleep(rest), awaitThat(isUrgent))
  })
  // A listener is called in the middle of a batch that becomes durable: the round begins when that is over.
  const next = Effect.andThen(Effect.andThen(awaitThat(isDue), Effect.yieldNow), rested)
  return Effect.forever(next, { disableYield: true }).pipe(
    Effect.catch((error) =>
      error._tag === "CheckpointFailed"
        ? Effect.logWarning("automatic checkpoints stop until the database is opened again", error)
        : Effect.void
    ),
    Effect.forkScoped,
    Effect.asVoid
  )
}

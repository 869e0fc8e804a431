import type * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { CommitWaiter } from "../Coordination.ts"

/** A fiber as the one who waits for a commit. `resume` is that of an `Effect.callback`. */
export const resuming = <Answer, Error>(
  resume: (outcome: Effect.Effect<Answer, Error>) => void
): CommitWaiter<Answer, Error> => ({ committed: (answer) => resume(Exit.succeed(answer)), resume })

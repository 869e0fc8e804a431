/**
 * Tells fibers that something has changed, without a queue: who waits looks again, and sees the newest.
 *
 * Whoever notifies is not held up: a woken fiber first waits for its turn, so nothing of its work runs inside `notify`.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"

/** @internal */
export class ChangeSignal {
  private waiting: Array<(exit: Exit.Exit<void>) => void> = []

  get hasWaiters(): boolean {
    return this.waiting.length > 0
  }

  /** Wakes everybody who waits now. */
  notify(): void {
    if (this.waiting.length === 0) return
    const woken = this.waiting
    this.waiting = []
    for (const resume of woken) resume(Exit.void)
  }

  /** Waits for the next notification, unless `hasChanged` says that there is something to look at already. */
  wait(hasChanged: () => boolean): Effect.Effect<void> {
    return Effect.andThen(
      Effect.callback<void>((resume) => {
        if (hasChanged()) return resume(Exit.void)
        this.waiting.push(resume)
        return Effect.sync(() => {
          const at = this.waiting.indexOf(resume)
          if (at >= 0) this.waiting.splice(at, 1)
        })
      }),
      Effect.yieldNow
    )
  }
}

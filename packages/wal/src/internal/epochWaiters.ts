/**
 * Which epoch is durable, and who waits for one (PW-11, PW-12).
 */
import type { WalEpoch } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { LogEnded } from "../GroupCommit.ts"

interface EpochWaiter {
  readonly epoch: WalEpoch
  readonly resume: (exit: Exit.Exit<void, LogEnded>) => void
}

/** @internal */
export class EpochWaiters {
  /** Everything up to here is durable; it only grows. */
  durable: WalEpoch | undefined
  private waiting: Array<EpochWaiter> = []

  get size(): number {
    return this.waiting.length
  }

  /** Raises the mark; nobody is woken yet. */
  raise(epoch: WalEpoch): void {
    if (this.durable === undefined || epoch > this.durable) this.durable = epoch
  }

  /** Takes out everybody whose epoch is durable; calling the answer wakes them, and they run inline. */
  takeDue(): () => void {
    const { durable, waiting } = this
    if (durable === undefined || waiting.length === 0) return () => {}
    this.waiting = waiting.filter(({ epoch }) => epoch > durable)
    return () => {
      for (const { epoch, resume } of waiting) if (epoch <= durable) resume(Exit.void)
    }
  }

  /** Tells everybody who still waits that the log has ended. */
  fail(ended: LogEnded): void {
    const { waiting } = this
    this.waiting = []
    for (const { resume } of waiting) resume(Exit.fail(ended))
  }

  /** Waits until an epoch is durable; `refusal` tells why it is of no use to wait, if so. */
  await(epoch: WalEpoch, refusal: () => LogEnded | undefined): Effect.Effect<void, LogEnded> {
    return Effect.callback<void, LogEnded>((resume) => {
      if (this.durable !== undefined && epoch <= this.durable) return resume(Exit.void)
      const ended = refusal()
      if (ended !== undefined) return resume(Exit.fail(ended))
      const waiter = { epoch, resume }
      this.waiting.push(waiter)
      return Effect.sync(() => {
        this.waiting = this.waiting.filter((other) => other !== waiter)
      })
    })
  }
}

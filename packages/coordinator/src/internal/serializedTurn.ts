/**
 * Whose turn it is to be the serialized transaction of a coordinator (CO-12). Plain steps without effects: a turn is
 * given, and refusals are looked up, inside of the synchronous steps of the coordinator.
 *
 * Invariants
 * 1. At most one transaction has the turn; the others wait in the order in which they asked.
 * 2. From the step that gives a turn on, until the step that ends it, every other commit is refused.
 */
import type { TxnToken } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { Busy } from "../CoordinatorErrors.ts"

interface Waiter {
  readonly token: TxnToken
  readonly resume: () => void
}

/** A transaction that was refused is run again when the turn ends; who cannot wait for that tries again after this. */
const retryAfterMillis = 1

export class SerializedTurn {
  private current: TxnToken | undefined
  private line: Array<Waiter> = []
  private others: Array<() => void> = []

  get holder(): TxnToken | undefined {
    return this.current
  }

  /** Why the commit of this transaction has to wait. */
  refuse(token: TxnToken): Busy | undefined {
    const holder = this.current
    return holder === undefined || isSame(holder, token)
      ? undefined
      : new Busy({ reason: `transaction ${holder.id} is serialized`, retryAfterMillis })
  }

  /** Whether the transaction with this id has the turn. */
  isOf(id: bigint): boolean {
    return this.current?.id === id
  }

  /** Waits for the turn. Whoever is interrupted, or fails afterwards, calls {@link SerializedTurn.leave}. */
  take(token: TxnToken): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      if (this.current === undefined) {
        this.current = token
        return resume(Exit.void)
      }
      this.line.push({ token, resume: () => resume(Exit.void) })
    })
  }

  /** Ends the turn, or the wait for it. Whoever has neither changes nothing. */
  leave(token: TxnToken): void {
    if (this.current === undefined || !isSame(this.current, token)) {
      this.line = this.line.filter((waiter) => !isSame(waiter.token, token))
      return
    }
    const next = this.line.shift()
    this.current = next?.token
    next?.resume()
    if (next !== undefined) return
    for (const resume of this.others.splice(0)) resume()
  }

  /** Waits until nobody has the turn. */
  readonly awaitNobody: Effect.Effect<void> = Effect.callback<void>((resume) => {
    if (this.current === undefined) return resume(Exit.void)
    const wake = () => resume(Exit.void)
    this.others.push(wake)
    return Effect.sync(() => {
      this.others = this.others.filter((other) => other !== wake)
    })
  })
}

const isSame = (a: TxnToken, b: TxnToken): boolean => a.id === b.id && a.epoch === b.epoch

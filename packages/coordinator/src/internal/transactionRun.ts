/**
 * What `Pager.withTransaction` does: begins a transaction, lets a function work in it, and commits it; again when another
 * one was in the way.
 *
 * A function that has done its work when it returns (it answers an `Exit`, as `write` and `Effect.void` are) is committed
 * in the step that began the transaction, so that such a transaction is one effect that waits for its durability. For any
 * other the commit follows what the function answered.
 *
 * Invariant: a transaction begins inside of what releases it, so that nothing can interrupt between the two. It may be
 * released before that, by whoever knows that it is over: the first release counts.
 */
import { invariant } from "@tidemark/core/Invariant"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { CommitAnswer, CommitError } from "../CompatCoordinator.ts"
import type { CommitWaiter, TransactionHold } from "../Coordination.ts"
import { Busy, Conflict, SerializationFailure } from "../CoordinatorErrors.ts"
import type { Isolation, Transaction } from "../Pager.ts"
import { finished } from "./finished.ts"
import type { PagerParts } from "./pagerTransaction.ts"
import { PagerTransaction } from "./pagerTransaction.ts"

/** What a transaction came to that is over when this ends, or what the next one comes to, if it is to be run again. */
export type Recover = <A, E, R>(once: Effect.Effect<A, E, R>, next: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** What it can be worth while to run a transaction again after. */
export type Contention = Conflict | SerializationFailure | Busy

export const isConflict = (error: unknown): error is Conflict | SerializationFailure =>
  error instanceof Conflict || error instanceof SerializationFailure

export const isContention = (error: unknown): error is Contention => isConflict(error) || error instanceof Busy

/** How transactions are run: one for all that are run in the same way. */
export interface RunKind {
  readonly parts: PagerParts
  readonly isolation: Isolation
  readonly beginHold: () => TransactionHold
  /** Without it a failure is only told. A success does not always pass through it. */
  readonly recover?: Recover
}

/** One run of `use` in a transaction. A class, because every transaction makes one. */
export class TransactionRun<A, E, R> implements CommitWaiter<CommitAnswer, CommitError> {
  private readonly kind: RunKind
  private readonly use: (transaction: Transaction) => Effect.Effect<A, E, R>
  private transaction: PagerTransaction | undefined = undefined
  /** Of the commit that is under way: what `use` has answered, and who waits for it. */
  private used: Exit.Success<A, E> | undefined = undefined
  private tell: ((outcome: Effect.Effect<A, E | CommitError, R>) => void) | undefined = undefined

  constructor(kind: RunKind, use: (transaction: Transaction) => Effect.Effect<A, E, R>) {
    this.kind = kind
    this.use = use
  }

  get effect(): Effect.Effect<A, E | CommitError, R> {
    return Effect.onExitPrimitive(this.attempt, () => this.transaction?.release())
  }

  private get attempt(): Effect.Effect<A, E | CommitError, R> {
    return Effect.callback<A, E | CommitError, R>((resume) => this.begin(resume))
  }

  private begin(
    resume: (outcome: Effect.Effect<A, E | CommitError, R>) => void
  ): Effect.Effect<void> | void {
    const { beginHold, isolation, parts } = this.kind
    const transaction = new PagerTransaction(parts, isolation, beginHold())
    this.transaction = transaction
    const used = this.use(transaction)
    const exit = finished(used)
    if (exit !== undefined && Exit.isSuccess(exit)) {
      this.used = exit
      this.tell = resume
      return transaction.submit(this)
    }
    return resume(this.recovering(
      transaction,
      Effect.flatMap(used, (value) =>
        Effect.map(transaction.submitted, (answer) => {
          transaction.committed(answer)
          return value
        }))
    ))
  }

  committed(answer: CommitAnswer): void {
    const { tell, transaction, used } = this.underWay
    transaction.committed(answer)
    // The exit that `use` has answered is what the whole comes to.
    tell(used)
  }

  resume(outcome: Effect.Effect<CommitAnswer, CommitError>): void {
    const { tell, transaction, used } = this.underWay
    tell(this.recovering(
      transaction,
      Effect.map(outcome, (answer) => {
        transaction.committed(answer)
        return used.value
      })
    ))
  }

  private get underWay() {
    const { tell, transaction, used } = this
    invariant(tell !== undefined && transaction !== undefined && used !== undefined, "a commit is under way")
    return { tell, transaction, used }
  }

  private recovering(
    transaction: PagerTransaction,
    outcome: Effect.Effect<A, E | CommitError, R>
  ): Effect.Effect<A, E | CommitError, R> {
    const { recover } = this.kind
    if (recover === undefined) return outcome
    return recover(Effect.onExitPrimitive(outcome, () => transaction.release()), this.attempt)
  }
}

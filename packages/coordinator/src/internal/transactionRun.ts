/**
 * What `Pager.withTransaction` does: begins a transaction, lets a function work in it, and commits it; again when another
 * one was in the way.
 *
 * A function that has done its work when it returns (it answers an `Exit`, as `write` and `Effect.void` are) is committed
 * in the step that began the transaction, so that such a transaction is one effect that waits for its durability. For any
 * other the commit follows what the function answered.
 *
 * Invariant: a transaction that has begun is released, once, whatever happens: the first release counts.
 *
 * - Up to the step in which it is handed over nothing can come between: it is one synchronous step, and what is thrown in
 *   it is caught.
 * - Handed over, it is released when the coordinator says what became of it, which it does once, or when it steps back.
 *   Who is interrupted in between has no part in it any more.
 * - What takes longer is done inside of an effect that releases it. Before that effect has begun the fiber may be
 *   interrupted, by itself or while it yields: until then it is released when the fiber ends.
 */
import { invariant } from "@tidemark/core/Invariant"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
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
  private readonly tell: (outcome: Effect.Effect<A, E | CommitError, R>) => void
  private readonly fiber = Fiber.getCurrent()
  private transaction: PagerTransaction | undefined = undefined
  private used: Exit.Success<A, E> | undefined = undefined

  private constructor(
    kind: RunKind,
    use: (transaction: Transaction) => Effect.Effect<A, E, R>,
    tell: (outcome: Effect.Effect<A, E | CommitError, R>) => void
  ) {
    this.kind = kind
    this.use = use
    this.tell = tell
  }

  /** Every time that it is run it is a run of its own. */
  static of<A, E, R>(
    kind: RunKind,
    use: (transaction: Transaction) => Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | CommitError, R> {
    return Effect.callback<A, E | CommitError, R>((resume) => new TransactionRun(kind, use, resume).begin())
  }

  /** Answers how to step back, where there is something to step back from. */
  private begin(): Effect.Effect<void> | void {
    const { beginHold, isolation, parts } = this.kind
    const transaction = new PagerTransaction(parts, isolation, beginHold())
    this.transaction = transaction
    const used = this.work(transaction)
    const exit = finished(used)
    if (exit === undefined) {
      return this.tell(this.releasing(
        transaction,
        Effect.flatMap(used, (value) => answering(transaction, transaction.submitted, value))
      ))
    }
    if (Exit.isFailure(exit)) return this.tell(this.failed(transaction, exit))
    this.used = exit
    const stepBack = transaction.submit(this)
    if (stepBack === undefined) return
    return Effect.andThen(stepBack, Effect.suspend(() => transaction.release() ?? Effect.void))
  }

  private work(transaction: Transaction): Effect.Effect<A, E, R> {
    try {
      return this.use(transaction)
    } catch (defect) {
      return Effect.die(defect)
    }
  }

  committed(answer: CommitAnswer): void {
    const { transaction, used } = this
    invariant(transaction !== undefined && used !== undefined, "a commit that is answered was handed over")
    transaction.committed(answer)
    const left = transaction.release()
    // The exit that `use` has answered is what the whole comes to.
    this.tell(left === undefined ? used : Effect.andThen(left, used))
  }

  resume(outcome: Effect.Effect<CommitAnswer, CommitError>): void {
    const { transaction, used } = this
    invariant(transaction !== undefined && used !== undefined, "a commit that is answered was handed over")
    const exit = finished(outcome)
    if (exit === undefined) this.tell(this.releasing(transaction, answering(transaction, outcome, used.value)))
    else if (Exit.isSuccess(exit)) this.committed(exit.value)
    else this.tell(this.failed(transaction, exit))
  }

  private failed(
    transaction: PagerTransaction,
    { cause }: Exit.Failure<unknown, E | CommitError>
  ): Effect.Effect<A, E | CommitError, R> {
    const left = transaction.release()
    const failure = Effect.failCause(cause)
    return this.orAgain(left === undefined ? failure : Effect.andThen(left, failure))
  }

  private releasing(
    transaction: PagerTransaction,
    rest: Effect.Effect<A, E | CommitError, R>
  ): Effect.Effect<A, E | CommitError, R> {
    // Nothing is spilled yet, so that there is nothing left to do then.
    const removeObserver = this.fiber?.addObserver(() => transaction.release())
    const begun = Effect.suspend(() => {
      removeObserver?.()
      return rest
    })
    return this.orAgain(Effect.onExitPrimitive(begun, () => transaction.release()))
  }

  private orAgain(once: Effect.Effect<A, E | CommitError, R>): Effect.Effect<A, E | CommitError, R> {
    const { recover } = this.kind
    return recover === undefined ? once : recover(once, TransactionRun.of(this.kind, this.use))
  }
}

const answering = <A, E>(
  transaction: PagerTransaction,
  submitted: Effect.Effect<CommitAnswer, E>,
  value: A
): Effect.Effect<A, E> =>
  Effect.map(submitted, (answer) => {
    transaction.committed(answer)
    return value
  })

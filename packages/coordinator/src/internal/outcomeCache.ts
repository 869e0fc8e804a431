/**
 * What became of the newest transactions, by token: so that a submission that is repeated gets the first one's answer,
 * and that an interrupted committer can ask (CO-17, CO-18). Bounded: the oldest are forgotten.
 */
import type { TxnToken } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { CommitAnswer, CommitError, Outcome } from "../CompatCoordinator.ts"

/** Of one generation: at least so many of the newest outcomes are remembered, at most twice as many. */
const generationSize = 16_384

type CommitExit = Exit.Exit<CommitAnswer, CommitError>

interface Entry {
  readonly token: TxnToken
  /** `undefined` while the commit is on its way. */
  exit: CommitExit | undefined
  waiters: Array<(exit: CommitExit) => void> | undefined
}

/** @internal */
export interface PendingOutcome {
  readonly settle: (exit: CommitExit) => void
}

/**
 * Ids of one epoch count from 1, so as numbers they are keys that do not collide (and are several times as fast as
 * `bigint` keys). Where they do collide after all, the younger one is remembered.
 */
const keyOf = (token: TxnToken): number => Number(token.id)

const isSame = (a: TxnToken, b: TxnToken): boolean => a.id === b.id && a.epoch === b.epoch

/** @internal */
export class OutcomeCache {
  /** Grows with everything that is remembered. */
  changes = 0
  private young = new Map<number, Entry>()
  private old = new Map<number, Entry>()

  begin(token: TxnToken): PendingOutcome {
    const key = keyOf(token)
    const entry: Entry = { token, exit: undefined, waiters: undefined }
    this.remember(key, entry)
    return {
      settle: (exit) => {
        const { waiters } = entry
        entry.exit = exit
        entry.waiters = undefined
        // A log that failed says nothing about what of it has reached the disk: the commit stays undecided.
        if (Exit.isFailure(exit)) {
          this.young.delete(key)
          this.old.delete(key)
        }
        if (waiters !== undefined) { for (const waiter of waiters) waiter(exit) }
      }
    }
  }

  /** The request was refused: nothing of it was written. A retry under the same token is looked at anew. */
  abort(token: TxnToken): void {
    this.remember(keyOf(token), { token, exit: aborted, waiters: undefined })
  }

  /** The answer of an earlier submission that was accepted. */
  find(token: TxnToken): Effect.Effect<CommitAnswer, CommitError> | undefined {
    const entry = this.lookUp(token)
    if (entry === undefined || entry.exit === aborted) return undefined
    if (entry.exit !== undefined) return entry.exit
    return Effect.callback<CommitAnswer, CommitError>((resume) => {
      if (entry.exit !== undefined) return resume(entry.exit)
      const waiter = (exit: CommitExit) => resume(exit)
      entry.waiters = [...(entry.waiters ?? []), waiter]
      return Effect.sync(() => {
        entry.waiters = entry.waiters?.filter((other) => other !== waiter)
      })
    })
  }

  outcome(token: TxnToken): Outcome {
    const exit = this.lookUp(token)?.exit
    if (exit === undefined) return { _tag: "undecided" }
    return Exit.isSuccess(exit) ? { _tag: "committed", commitSeq: exit.value.commitSeq } : { _tag: "aborted" }
  }

  private lookUp(token: TxnToken): Entry | undefined {
    const key = keyOf(token)
    const entry = this.young.get(key) ?? this.old.get(key)
    return entry !== undefined && isSame(entry.token, token) ? entry : undefined
  }

  private remember(key: number, entry: Entry): void {
    this.changes++
    if (this.young.size >= generationSize) {
      const forgotten = this.old
      this.old = this.young
      this.young = new Map()
      // What is on its way is never forgotten; the log's queue bounds how much that is.
      for (const [oldKey, oldEntry] of forgotten) if (oldEntry.exit === undefined) this.young.set(oldKey, oldEntry)
    }
    this.young.set(key, entry)
  }
}

const aborted: CommitExit = Exit.interrupt()

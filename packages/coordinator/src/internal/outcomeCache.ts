/**
 * What became of the newest transactions, by token: so that a submission that is repeated gets the first one's answer,
 * and that an interrupted committer can ask (CO-17, CO-18). Bounded: the oldest are forgotten.
 *
 * Every commit is remembered, so this is flat memory: ids count up, and an id names its slot by its low bits. Only an
 * outcome whose slot another one needs while it must not be forgotten yet moves to a map: that happens when most
 * transactions only read, because they use up ids and are not remembered.
 *
 * Invariants
 * 1. An outcome is in its slot or in the map, never in both.
 * 2. What is on its way is never forgotten; the log's queue bounds how much that is.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, TxnToken } from "@tidemark/core/Scalars"
import { toCommitSeq, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Outcome } from "../Coordination.ts"

/** At least so many of the newest outcomes are remembered. */
const minRemembered = 16_384
/** A power of two. Twice as many as must be remembered, so that ids that count up by one never meet. */
const slots = 2 * minRemembered

/**
 * Keeps of the answers what is not their sequence, one for each slot.
 *
 * @internal
 */
export interface AnswerStore<Answer> {
  readonly put: (slot: number, answer: Answer) => void
  readonly get: (slot: number, commitSeq: CommitSeq) => Answer
}

/** Values of a slot's state. */
const free = 0
const pending = 1
const committed = 2
const aborted = 3

/** An outcome that had to leave its slot. */
interface Displaced<Answer> {
  readonly token: TxnToken
  readonly order: number
  state: number
  answer: Answer | undefined
}

const isSame = (a: TxnToken, b: TxnToken): boolean => a.id === b.id && a.epoch === b.epoch

/** @internal */
export class OutcomeCache<Answer extends { readonly commitSeq: CommitSeq }, Error> {
  /** Grows with everything that is remembered: the order of an outcome is its value then. */
  changes = 0
  private readonly states = new Uint8Array(slots)
  private readonly ids = new BigUint64Array(slots)
  private readonly epochs = new Uint32Array(slots)
  private readonly orders = new Float64Array(slots)
  private readonly seqs = new BigUint64Array(slots)
  private readonly answers: AnswerStore<Answer>
  /** By id: where two ids are the same in different epochs, the younger outcome is remembered. */
  private readonly displaced = new Map<bigint, Displaced<Answer>>()
  /** Those who ask for what is on its way, by the token they ask for. Hardly ever anybody. */
  private waiting: Array<{ readonly token: TxnToken; readonly resume: (exit: Exit.Exit<Answer, Error>) => void }> = []

  /** `answers` makes a store for so many slots. */
  constructor(answers: (slots: number) => AnswerStore<Answer>) {
    this.answers = answers(slots)
  }

  /** The commit was accepted and is on its way. */
  begin(token: TxnToken): void {
    this.remember(token, pending)
  }

  commit(token: TxnToken, answer: Answer): void {
    const slot = this.slotOf(token)
    if (slot >= 0) {
      this.states[slot] = committed
      this.seqs[slot] = answer.commitSeq
      this.answers.put(slot, answer)
    } else {
      const entry = this.displacedOf(token)
      if (entry !== undefined) {
        entry.state = committed
        entry.answer = answer
      }
    }
    if (this.waiting.length > 0) this.tell(token, Exit.succeed(answer))
  }

  /** A log that failed says nothing about what of it has reached the disk: the commit stays undecided. */
  fail(token: TxnToken, exit: Exit.Exit<never, Error>): void {
    const slot = this.slotOf(token)
    if (slot >= 0) this.states[slot] = free
    else if (this.displacedOf(token) !== undefined) this.displaced.delete(token.id)
    if (this.waiting.length > 0) this.tell(token, exit)
  }

  /** The request was refused: nothing of it was written. A retry under the same token is looked at anew. */
  abort(token: TxnToken): void {
    this.remember(token, aborted)
  }

  /** Whether `find` could answer anything. */
  isKnown(token: TxnToken): boolean {
    return this.stateOf(token) !== free
  }

  /**
   * The answer of an earlier submission that was accepted. `again` submits once more: when it failed before somebody
   * could wait for it.
   */
  find(
    token: TxnToken,
    again: Effect.Effect<Answer, Error>
  ): Effect.Effect<Answer, Error> | undefined {
    const state = this.stateOf(token)
    if (state === committed) return Effect.succeed(this.answerOf(token))
    if (state !== pending) return undefined
    return Effect.callback<Answer, Error>((resume) => {
      if (this.stateOf(token) !== pending) return resume(this.find(token, again) ?? again)
      const waiter = { token, resume }
      this.waiting.push(waiter)
      return Effect.sync(() => {
        this.waiting = this.waiting.filter((other) => other !== waiter)
      })
    })
  }

  outcome(token: TxnToken): Outcome {
    const state = this.stateOf(token)
    if (state === committed) return { _tag: "committed", commitSeq: this.answerOf(token).commitSeq }
    return { _tag: state === aborted ? "aborted" : "undecided" }
  }

  private tell(token: TxnToken, exit: Exit.Exit<Answer, Error>): void {
    const due = this.waiting.filter((waiter) => isSame(waiter.token, token))
    this.waiting = this.waiting.filter((waiter) => !isSame(waiter.token, token))
    for (const waiter of due) waiter.resume(exit)
  }

  private stateOf(token: TxnToken): number {
    const slot = this.slotOf(token)
    return (slot >= 0 ? this.states[slot] : this.displacedOf(token)?.state) ?? free
  }

  private answerOf(token: TxnToken): Answer {
    const slot = this.slotOf(token)
    const answer = slot >= 0
      ? this.answers.get(slot, toCommitSeq(this.seqs[slot] ?? 0n))
      : this.displacedOf(token)?.answer
    invariant(answer !== undefined, "what is committed has an answer")
    return answer
  }

  /** The slot that holds the token's outcome, or -1. */
  private slotOf(token: TxnToken): number {
    const slot = Number(token.id) & (slots - 1)
    const isHere = this.states[slot] !== free && this.ids[slot] === token.id && this.epochs[slot] === token.epoch
    return isHere ? slot : -1
  }

  private displacedOf(token: TxnToken): Displaced<Answer> | undefined {
    if (this.displaced.size === 0) return undefined
    const entry = this.displaced.get(token.id)
    return entry !== undefined && isSame(entry.token, token) ? entry : undefined
  }

  private remember(token: TxnToken, state: number): void {
    this.changes++
    if (this.displaced.size > 0) this.displaced.delete(token.id)
    const slot = Number(token.id) & (slots - 1)
    if (this.states[slot] !== free && this.ids[slot] !== token.id) this.displace(slot)
    this.states[slot] = state
    this.ids[slot] = token.id
    this.epochs[slot] = token.epoch
    this.orders[slot] = this.changes
  }
  /** Makes room in a slot; its outcome moves to the map unless it may be forgotten. */
  private displace(slot: number): void {
    const order = this.orders[slot] ?? 0
    const state = this.states[slot] ?? free
    if (this.mayForget(state, order)) return
    if (this.displaced.size >= slots) {
      for (const [id, entry] of this.displaced) if (this.mayForget(entry.state, entry.order)) this.displaced.delete(id)
    }
    const token = { id: toTxnId(this.ids[slot] ?? 0n), epoch: TxnEpoch.make(this.epochs[slot] ?? 0) }
    const answer = state === committed ? this.answerOf(token) : undefined
    this.displaced.set(token.id, { token, order, state, answer })
  }

  private mayForget(state: number, order: number): boolean {
    return state !== pending && order <= this.changes - minRemembered
  }
}

/**
 * The transactions that run in all processes of a database, and the horizon below which none of them looks (SHM-11,
 * SHM-12).
 *
 * @since 0.1.0
 */
import type { CommitSeq, TxnToken } from "@tidemark/core/Scalars"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Busy } from "./CoordinatorErrors.ts"
import type { HeaderSnapshot } from "./SharedHeader.ts"
import type { TxnIdExhausted } from "./SharedHeaderErrors.ts"
import type { TransactionMode, TransactionSlot, TransactionState } from "./TransactionSlotFormat.ts"

/**
 * What a claim asks for.
 *
 * @category models
 * @since 0.1.0
 */
export interface ClaimOptions {
  readonly mode: TransactionMode
  /**
   * How long the slot outlives its process at least: it is cleaned when the process is dead and this is over. Default:
   * when the process is dead. The slot of a process that lives is never cleaned.
   */
  readonly lease?: Duration.Input | undefined
}

/**
 * A slot with a transaction of this process, until its scope closes or it is released. After that, and when the slot
 * was taken away, nothing of it changes any memory.
 *
 * @category models
 * @since 0.1.0
 */
export interface ClaimedSlot {
  readonly index: number
  readonly token: TxnToken
  /** Taken after the slot was claimed: nothing up to here is forgotten before the slot is free. */
  readonly snapshot: HeaderSnapshot
  /**
   * Whether the slot is still this transaction's. It is not after its release, and when its process was taken for dead
   * (as in another pid namespace).
   */
  isHeld(): boolean
  setState(state: Exclude<TransactionState, "free">): void
  /** Says under which sequence it commits, and that it does. */
  setCommitting(seq: CommitSeq): void
  setFlags(flags: {
    readonly hasInRw?: boolean | undefined
    readonly hasOutRw?: boolean | undefined
    readonly writeSetPages?: number | undefined
  }): void
  /** Whether somebody wants this transaction to abort. */
  isMarkedForAbort(): boolean
  /** Frees the slot. The first call counts. */
  release(): void
}

/**
 * A slot that is not free, as it was at one moment.
 *
 * @category models
 * @since 0.1.0
 */
export interface ListedSlot extends TransactionSlot {
  readonly index: number
}

/**
 * The transaction slots of a header.
 *
 * **Gotchas**
 *
 * A slot belongs to the header that was mapped when it was claimed. When that header is made anew (RC-18), the new one
 * knows nothing of it.
 *
 * A thread that is terminated leaves its slots with its process, which lives.
 *
 * @category models
 * @since 0.1.0
 */
export interface TransactionSlots {
  /**
   * Takes a slot, then a transaction id, then the snapshot, in this order (SHM-11). When all slots are taken, those of
   * dead processes are cleaned; when that helps nobody, the answer is `Busy`, as it is when no snapshot can be taken.
   */
  readonly claim: (options: ClaimOptions) => Effect.Effect<ClaimedSlot, Busy | TxnIdExhausted, Scope.Scope>

  /**
   * The smallest begin sequence of all live transactions; `published`, when there is none (SHM-12). While a process is
   * about to take its snapshot it stays where `updateHorizon` has left it. Never above what the header says is published.
   *
   * Looks at each slot once: 128 slots take some 3 microseconds when they are free and 6 when they are taken.
   */
  readonly horizon: (published: CommitSeq) => CommitSeq

  /**
   * The same, and moves the horizon in the header up to it. For the publisher, after it has published: what is
   * `published` by nobody yet does not count.
   */
  readonly updateHorizon: (published: CommitSeq) => CommitSeq

  /**
   * Frees the slots of dead processes whose lease is over, and answers how many those were. Asks the system about each
   * process once, some 20 microseconds; a process with a stuck slot holds the horizon back, so the publisher asks now and
   * then.
   */
  readonly cleanDead: Effect.Effect<number>

  /**
   * Tells a transaction to abort. `true`: the mark was there while it was live, and it has seen it if it looked since.
   * `false`: it is over, or was so by the time that the mark was made.
   */
  readonly markForAbort: (token: TxnToken) => boolean

  /** The slots that are not free. Those whose words make no sense are left out. */
  readonly list: () => ReadonlyArray<ListedSlot>
}

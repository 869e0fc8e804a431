/**
 * What commits are decided by, whichever coordinator decides: the part of a request that says nothing about bytes, the
 * hold that a transaction has on its snapshot, and what can become of it.
 *
 * @since 0.1.0
 */
import type { CommitSeq, PageNumber, SchemaEpoch, TxnToken } from "@tidemark/core/Scalars"
import type { Snapshot } from "@tidemark/core/Snapshot"
import type { LogReader } from "@tidemark/wal/CommitLog"
import type { LogEnded } from "@tidemark/wal/GroupCommit"
import type { Exhausted } from "@tidemark/wal/LogErrors"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type {
  Busy,
  Conflict,
  LeaseNotHeld,
  ReadSetTooLarge,
  SchemaMismatch,
  SerializationFailure,
  WriteSetTooLarge
} from "./CoordinatorErrors.ts"

/**
 * Pages in a read set at the most (section 9 of `formats.md`).
 *
 * @category constants
 * @since 0.1.0
 */
export const maxReadPages = 65_536

/**
 * Who gives way when a transaction stands between two others that cannot both come before it. Here it is always the one
 * that asks to commit; under `"custom"` the caller has decided, and it commits.
 *
 * @category models
 * @since 0.1.0
 */
export type AbortPolicy = "pivot" | "dro" | "youngest" | "custom"

/**
 * Antidependencies that the caller has found among concurrent transactions (CO-13): `in`, somebody read what this one
 * overwrites; `out`, this one read what somebody overwrote. One of them harms nobody, both make it a pivot.
 *
 * @category models
 * @since 0.1.0
 */
export interface ConflictFlags {
  readonly in: boolean
  readonly out: boolean
}

/**
 * What every request to commit says.
 *
 * @category models
 * @since 0.1.0
 */
export interface CommitProposal {
  readonly token: TxnToken
  readonly snapshot: Snapshot
  /** Pages that the transaction read and did not write, when it is serializable (CO-13). */
  readonly reads?: ReadonlyArray<PageNumber> | undefined
  /** Default: neither. */
  readonly conflicts?: ConflictFlags | undefined
  /** Default `"pivot"`. */
  readonly abortPolicy?: AbortPolicy | undefined
  /**
   * Database size after the commit, in pages. Default: the larger of the current size and the highest page written.
   * Whoever chooses a size conflicts with every other change of the size, and if it is smaller than the current one,
   * with every change of page 1 and of a page that is cut off (PG-11). Whoever changes the size writes every page that
   * is added, but for SQLite's lock-byte page, and page 1, whose header says the size; the pager does.
   */
  readonly databasePages?: number | undefined
}

/**
 * What became of a transaction, as far as it is remembered. `"undecided"`: it is on its way, or nothing is known of it.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome =
  | { readonly _tag: "committed"; readonly commitSeq: CommitSeq }
  | { readonly _tag: "aborted" }
  | { readonly _tag: "undecided" }

/**
 * Why a commit was not made, whatever its bytes are. After all of them but the last, nothing of it was written.
 *
 * @category errors
 * @since 0.1.0
 */
export type CommitRefusal =
  | Conflict
  | SerializationFailure
  | Busy
  | SchemaMismatch
  | LeaseNotHeld
  | WriteSetTooLarge
  | ReadSetTooLarge
  | Exhausted
  | LogEnded

/**
 * Who is told what became of a commit: once, by one of the two.
 *
 * @category models
 * @since 0.1.0
 */
export interface CommitWaiter<Answer, Error> {
  /** It is durable and visible. */
  committed(answer: Answer): void
  /** It was refused or failed, or this is still to be run to know. */
  resume(outcome: Effect.Effect<Answer, Error>): void
}

/**
 * A transaction's hold on its snapshot: an identity, a reader of the log, and a place in the GC horizon.
 *
 * @category models
 * @since 0.1.0
 */
export interface TransactionHold {
  readonly token: TxnToken
  readonly snapshot: Snapshot
  readonly reader: LogReader
  /** Nothing is read at the snapshot any more: checkpoints need not wait for it. The first call counts. */
  endReading(): void
  /** The transaction is over. The first call counts. */
  end(): void
}

/**
 * @category models
 * @since 0.1.0
 */
export interface SerializedOptions {
  /** How long to wait for those who are in the way, before it is `Busy`. Default 5 seconds. */
  readonly busyTimeout?: Duration.Input | undefined
}

/**
 * How transactions begin and end, at either coordinator.
 *
 * @category models
 * @since 0.1.0
 */
export interface Coordination {
  /** Takes a snapshot of what is visible now, for a new transaction. */
  readonly begin: () => TransactionHold

  /**
   * Begins a transaction that excludes all others (CO-12): while it is open their commits are answered `Busy`, so its own
   * never meets a conflict. Waits for its turn, and until the commits that are on their way are decided; `Busy` when that
   * takes longer than the timeout. Ends with the hold.
   */
  readonly beginSerialized: (options?: SerializedOptions) => Effect.Effect<TransactionHold, Busy>

  /** Waits until no serialized transaction is open or about to: what a commit waits for that was answered `Busy`. */
  readonly awaitConcurrent: Effect.Effect<void>

  /** What became of the transaction. At least the newest 16,384 are remembered. */
  readonly outcome: (token: TxnToken) => Effect.Effect<Outcome>

  /**
   * Waits until a commit is visible, or never will be. What a transaction waits for that conflicted with a commit that
   * is still being synced: a snapshot taken before would conflict again.
   */
  readonly awaitVisible: (seq: CommitSeq) => Effect.Effect<void>

  /**
   * Declares another schema: transactions that began under the one before are refused with `SchemaMismatch`. The one
   * place where the schema epoch of a database changes: the header says it from then on, and row ids follow it
   * (`RowIdAllocator.layerOf`). After a start it is 0.
   */
  readonly setSchemaEpoch: (epoch: SchemaEpoch) => Effect.Effect<void>

  /**
   * Registers a listener that is told the schema epoch: now, and each other one in the synchronous step that declares it,
   * before any snapshot has it. It must not throw.
   */
  readonly onSchemaEpoch: (listener: (epoch: SchemaEpoch) => void) => void
}

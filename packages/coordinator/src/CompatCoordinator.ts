/**
 * The write coordinator in compatibility mode: many transactions commit pages side by side, the first committer of a
 * page wins, and what is committed is a standard SQLite WAL.
 *
 * **Details**
 *
 * A commit is validated, given its sequence, recorded in the conflict index and handed to the log in one synchronous
 * step; the log makes it durable together with the others of its batch, publishes it, and only then its committer is
 * answered. So sequences are dense, the order in the log is the order of sequences, and nothing is visible before it is
 * durable.
 *
 * Invariants
 * 1. What can fail for one transaction alone is checked before it gets a sequence (CO-05).
 * 2. Between the validation of a commit and its hand-over to the log there is no await, so no other commit can come
 *    between (CO-02).
 * 3. After the log is poisoned no sequence is assigned, and the index is as if the failed commits had never been.
 * 4. Every append happens under the lease: it is checked in the same synchronous step (CO-07, CO-08).
 *
 * @since 0.1.0
 */
import type { CommitSeq, PageNumber, PageSize } from "@tidemark/core/Scalars"
import type { FileLock } from "@tidemark/platform/FileLock"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { CommitLog } from "@tidemark/wal/CommitLog"
import type { DatabaseTruncated } from "@tidemark/wal/LogErrors"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { CommitProposal, CommitRefusal, CommitWaiter, Coordination } from "./Coordination.ts"
import type { SpillCorrupt } from "./CoordinatorErrors.ts"
import * as CoordinatorLease from "./CoordinatorLease.ts"
import { type AuthorityError, privateHeader, takeAuthority } from "./internal/authority.ts"
import { CompatCommits } from "./internal/compatCommits.ts"
import type { SharedHeader } from "./SharedHeader.ts"
import type { WriteSet } from "./WriteSet.ts"

export { maxReadPages } from "./Coordination.ts"
export type { Outcome, TransactionHold } from "./Coordination.ts"
export { maxCommitPages } from "./internal/compatCommits.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface CommitRequest extends CommitProposal {
  /** The pages to commit. It must not change until the commit is answered. */
  readonly writes: WriteSet
}

/**
 * @category models
 * @since 0.1.0
 */
export interface CommitAnswer {
  /** The commit's place in the order of commits; the snapshot's own when there was nothing to write. */
  readonly commitSeq: CommitSeq
  /** Where its first frame stands, counted from the first frame of the log, in bytes; 0 when nothing was written. */
  readonly walOffset: number
}

/**
 * @category errors
 * @since 0.1.0
 */
export type CommitError = CommitRefusal | SpillCorrupt | DatabaseTruncated | VfsError

/**
 * @category services
 * @since 0.1.0
 */
export class CompatCoordinator extends Context.Service<
  CompatCoordinator,
  Coordination & {
    /** Path of the database file. */
    readonly database: string
    readonly pageSize: PageSize
    /** The fencing generation of the lease under which this coordinator appends. */
    readonly generation: bigint

    /**
     * Commits, and answers when the commit is durable and visible. Interrupting it before the request was accepted
     * changes nothing; after that the commit finishes, and `outcome` tells what became of it
     * (CO-18). The same token again answers what the first submission came to, as long as it is remembered; after a
     * refusal it is looked at anew. Who writes nothing is answered his snapshot, also when the log is poisoned.
     */
    readonly commit: (request: CommitRequest) => Effect.Effect<CommitAnswer, CommitError>

    /**
     * `commit`, for who waits in an effect of his own. The waiter is told once, perhaps before this returns. What it
     * answers steps back; there is nothing to step back from once the request was accepted.
     */
    readonly submitUnsafe: (
      request: CommitRequest,
      waiter: CommitWaiter<CommitAnswer, CommitError>
    ) => Effect.Effect<void> | void

    /**
     * Continues from a given state, before the first commit: the next sequence, the commits that the index shall know of,
     * and the offset at which the next one starts (CO-06).
     */
    readonly restoreState: (state: {
      readonly nextSeq: CommitSeq
      readonly recentCommits: Iterable<readonly [PageNumber, CommitSeq]>
      readonly walOffset: number
    }) => Effect.Effect<void>
  }
>()("@tidemark/coordinator/CompatCoordinator") {}

/**
 * A coordinator under a lease, and publishing in a header, from the environment.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoDeps: Layer.Layer<
  CompatCoordinator,
  AuthorityError,
  CommitLog | CoordinatorLease.CoordinatorLease | SharedHeader
> = Layer.effect(CompatCoordinator, Effect.suspend(() => make))

/**
 * A coordinator under the lease file of its database, publishing in a header from the environment: with
 * `SharedHeader.layer` other processes see what was committed.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerShared: Layer.Layer<
  CompatCoordinator,
  AuthorityError,
  CommitLog | SharedHeader | Vfs | FileLock | ProcessLiveness
> = Layer.unwrap(
  Effect.map(CommitLog, ({ database }) => Layer.provide(layerNoDeps, CoordinatorLease.layerFile({ database })))
)

/**
 * A coordinator under the lease file of its database, with a header in memory that only this process sees.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<
  CompatCoordinator,
  AuthorityError,
  CommitLog | Vfs | FileLock | ProcessLiveness
> = Layer.unwrap(Effect.map(CommitLog, (log) => Layer.provide(layerShared, privateHeader(log))))

const make: Effect.Effect<
  CompatCoordinator["Service"],
  AuthorityError,
  CommitLog | CoordinatorLease.CoordinatorLease | SharedHeader | Scope.Scope
> = Effect.gen(function*() {
  const log = yield* CommitLog
  const coordinator = new CompatCommits(log, yield* takeAuthority(log, 0n))
  yield* Effect.addFinalizer(() => coordinator.close)
  return CompatCoordinator.of({
    database: log.database,
    pageSize: log.pageSize,
    generation: coordinator.generation,
    begin: coordinator.begin,
    beginSerialized: coordinator.beginSerialized,
    awaitConcurrent: coordinator.awaitConcurrent,
    commit: coordinator.commit,
    submitUnsafe: coordinator.submitUnsafe,
    outcome: coordinator.outcome,
    awaitVisible: coordinator.awaitVisible,
    setSchemaEpoch: coordinator.setSchemaEpoch,
    onSchemaEpoch: coordinator.onSchemaEpoch,
    restoreState: coordinator.restoreState
  })
})

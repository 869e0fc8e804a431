/**
 * The write coordinator in native mode: the pages of a transaction are in a capsule that the committer has stored, and
 * only a marker of 88 bytes, which names the capsule, is given a sequence and made durable.
 *
 * **Details**
 *
 * A publication is validated, given its sequence, recorded in the conflict index and handed to the log in one
 * synchronous step, as in `CompatCoordinator`, and by the same rules. Then two barriers for the whole batch: the capsules
 * of its commits are synced, all at once, and their directory; then its markers. Only after the second one is anything
 * visible or answered, so a crash in between leaves capsules that nobody names, and never a marker without its capsule
 * (CO-09, CO-10).
 *
 * The coordinator never sees the bytes of a page. That the capsule holds what the request says is for the committer to
 * see to, and for recovery to check.
 *
 * @since 0.1.0
 */
import type { CommitSeq, ObjectId, PageNumber, PageSize } from "@tidemark/core/Scalars"
import type { FileLock } from "@tidemark/platform/FileLock"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { Vfs } from "@tidemark/platform/Vfs"
import { NativeLog } from "@tidemark/wal/NativeLog"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { CommitProposal, CommitRefusal, Coordination } from "./Coordination.ts"
import * as CoordinatorLease from "./CoordinatorLease.ts"
import { type AuthorityError, privateHeader, takeAuthority } from "./internal/authority.ts"
import { NativeCommits } from "./internal/nativeCommits.ts"
import type { SharedHeader } from "./SharedHeader.ts"

export { maxPublishPages } from "./internal/nativeCommits.ts"

/**
 * A request to publish a capsule that is in the store: written, not yet synced.
 *
 * @category models
 * @since 0.1.0
 */
export interface PublishRequest extends CommitProposal {
  readonly capsule: ObjectId
  /** BLAKE3 of the whole capsule file, 32 bytes. */
  readonly capsuleDigest: Uint8Array
  /** The pages in the capsule, ascending, each once. None: nothing is published. */
  readonly pages: ReadonlyArray<PageNumber>
}

/**
 * @category models
 * @since 0.1.0
 */
export interface PublishAnswer {
  /** The commit's place in the order of commits; the snapshot's own when there was nothing to write. */
  readonly commitSeq: CommitSeq
  /** Of the marker that made it durable; zeros when there was nothing to write. */
  readonly markerId: ObjectId
}

/**
 * @category services
 * @since 0.1.0
 */
export class NativeCoordinator extends Context.Service<
  NativeCoordinator,
  Coordination & {
    /** Path of the database file. */
    readonly database: string
    readonly pageSize: PageSize
    /** The fencing generation of the lease under which this coordinator publishes. */
    readonly generation: bigint

    /**
     * Why a transaction that wrote these pages, ascending, would be refused now; `undefined` when it would not. To be asked
     * before its capsule is written: the answer to `publish` is another look, and the one that counts.
     */
    readonly check: (proposal: CommitProposal, pages: ReadonlyArray<PageNumber>) => CommitRefusal | undefined

    /**
     * Publishes a capsule, and answers when the commit is durable and visible. Interruption and repetition are as in
     * `CompatCoordinator.commit`. A capsule whose publication was refused belongs to nobody: its committer removes it, or
     * the next start does (RC-16).
     */
    readonly publish: (request: PublishRequest) => Effect.Effect<PublishAnswer, CommitRefusal>
  }
>()("@tidemark/coordinator/NativeCoordinator") {}

/**
 * A coordinator under a lease, and publishing in a header, from the environment.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoDeps: Layer.Layer<
  NativeCoordinator,
  AuthorityError,
  NativeLog | CoordinatorLease.CoordinatorLease | SharedHeader
> = Layer.effect(NativeCoordinator, Effect.suspend(() => make))

/**
 * A coordinator under the lease file of its database, publishing in a header from the environment: with
 * `SharedHeader.layer` other processes see what was committed.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerShared: Layer.Layer<
  NativeCoordinator,
  AuthorityError,
  NativeLog | SharedHeader | Vfs | FileLock | ProcessLiveness
> = Layer.unwrap(
  Effect.map(NativeLog, ({ database }) => Layer.provide(layerNoDeps, CoordinatorLease.layerFile({ database })))
)

/**
 * A coordinator under the lease file of its database, with a header in memory that only this process sees.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<
  NativeCoordinator,
  AuthorityError,
  NativeLog | Vfs | FileLock | ProcessLiveness
> = Layer.unwrap(Effect.map(NativeLog, ({ commits: log }) => Layer.provide(layerShared, privateHeader(log))))

const make: Effect.Effect<
  NativeCoordinator["Service"],
  AuthorityError,
  NativeLog | CoordinatorLease.CoordinatorLease | SharedHeader | Scope.Scope
> = Effect.gen(function*() {
  const { commits, database, lastTxnId, pageSize } = yield* NativeLog
  const coordinator = new NativeCommits(commits, yield* takeAuthority(commits, lastTxnId))
  yield* Effect.addFinalizer(() => coordinator.close)
  return NativeCoordinator.of({
    database,
    pageSize,
    generation: coordinator.generation,
    begin: coordinator.begin,
    beginSerialized: coordinator.beginSerialized,
    awaitConcurrent: coordinator.awaitConcurrent,
    check: coordinator.check,
    publish: coordinator.commit,
    outcome: coordinator.outcome,
    awaitVisible: coordinator.awaitVisible,
    setSchemaEpoch: coordinator.setSchemaEpoch,
    onSchemaEpoch: coordinator.onSchemaEpoch
  })
})

/**
 * A pager's commits over the native coordinator: the pages of a transaction become a capsule in the store, and the
 * coordinator is asked to publish it.
 *
 * Invariants
 * 1. A capsule is in the store, written, before the coordinator hears of it (CO-10).
 * 2. A capsule whose publication was refused is removed; one whose publication was accepted, or may have been, is not.
 */
import { toObjectId } from "@tidemark/core/Scalars"
import { VfsError } from "@tidemark/platform/VfsError"
import * as CapsuleFormat from "@tidemark/wal/CapsuleFormat"
import type { CapsuleStore } from "@tidemark/wal/CapsuleStore"
import type { NativeLog } from "@tidemark/wal/NativeLog"
import * as Effect from "effect/Effect"
import type { CommitAnswer, CommitError, CommitRequest } from "../CompatCoordinator.ts"
import { SpillCorrupt } from "../CoordinatorErrors.ts"
import type { NativeCoordinator, PublishRequest } from "../NativeCoordinator.ts"
import type { PageCommits } from "./pageCommits.ts"

export const nativePageCommits = (
  coordinator: NativeCoordinator["Service"],
  log: NativeLog["Service"],
  capsules: CapsuleStore["Service"]
): PageCommits => {
  const publish = (request: PublishRequest): Effect.Effect<CommitAnswer, CommitError> =>
    Effect.map(coordinator.publish(request), ({ commitSeq }) => ({ commitSeq, walOffset: 0 }))

  const commit = (request: CommitRequest): Effect.Effect<CommitAnswer, CommitError> =>
    Effect.suspend(() => {
      const { writes, ...proposal } = request
      const pages = writes.pagesAscending()
      if (pages.length === 0) return publish({ ...proposal, ...noCapsule, pages })
      // What can be refused is refused before anything is written for it.
      const refusal = coordinator.check(proposal, pages)
      if (refusal !== undefined) return Effect.fail(refusal)
      const encoded = Effect.suspend(() => {
        try {
          return Effect.succeed(CapsuleFormat.encode({
            token: request.token,
            beginSeq: request.snapshot.high,
            databasePages: request.databasePages ?? 0,
            pageSize: log.pageSize,
            pages
          }, (page) => writes.image(page)))
        } catch (cause) {
          // A spilled page is read here once more; nothing has a sequence yet, so only this commit fails (CO-05).
          return cause instanceof SpillCorrupt || cause instanceof VfsError ? Effect.fail(cause) : Effect.die(cause)
        }
      })
      const store = Effect.flatMap(encoded, ({ bytes, digest, id }) =>
        Effect.as(capsules.put({ bytes, id }), { capsule: id, capsuleDigest: digest }))
      const stored = writes.isSpilled ? Effect.andThen(writes.verify, store) : store
      return Effect.flatMap(stored, (capsule) =>
        Effect.tapError(
          publish({ ...proposal, ...capsule, pages }),
          (error) =>
            // A log that ended says nothing about what of it has reached the disk.
            error._tag === "WalPoisoned" || error._tag === "LogClosed"
              ? Effect.void
              : Effect.ignore(capsules.remove(capsule.capsule))
        ))
    })

  return { ...coordinator, commit, onRestart: log.commits.onRestart }
}

/** What a request names that publishes nothing. */
const noCapsule = { capsule: toObjectId(new Uint8Array(16)), capsuleDigest: new Uint8Array(32) }

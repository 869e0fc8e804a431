/**
 * A pager's commits over the native coordinator: the pages of a transaction become a capsule in the store, and the
 * coordinator is asked to publish it.
 *
 * Invariants
 * 1. A capsule is in the store, written, before the coordinator hears of it (CO-10).
 * 2. A capsule whose publication was refused, or whose committer was interrupted before it was accepted, is removed; one
 *    whose publication was accepted, or may have been, is not: the store of a running log removes none that was handed
 *    over.
 */
import { type ObjectId, toObjectId } from "@tidemark/core/Scalars"
import { VfsError } from "@tidemark/platform/VfsError"
import * as CapsuleFormat from "@tidemark/wal/CapsuleFormat"
import type { CapsuleStore } from "@tidemark/wal/CapsuleStore"
import type { NativeLog } from "@tidemark/wal/NativeLog"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { CommitAnswer, CommitError, CommitRequest } from "../CompatCoordinator.ts"
import { SpillCorrupt } from "../CoordinatorErrors.ts"
import type { NativeCoordinator, PublishRequest } from "../NativeCoordinator.ts"
import { maxPublishPages } from "./nativeCommits.ts"
import type { PageCommits } from "./pageCommits.ts"

export const nativePageCommits = (
  coordinator: NativeCoordinator["Service"],
  log: NativeLog["Service"],
  capsules: CapsuleStore["Service"]
): PageCommits => {
  const publish = (request: PublishRequest): Effect.Effect<CommitAnswer, CommitError> =>
    Effect.map(coordinator.publish(request), ({ commitSeq }) => ({ commitSeq, walOffset: 0 }))

  // What cannot be removed now is removed by the next start.
  const remove = (capsule: ObjectId): Effect.Effect<void> => Effect.ignore(capsules.remove(capsule))

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
        capsules.put({ bytes, id }).pipe(
          Effect.onInterrupt(() => remove(id)),
          Effect.as({ capsule: id, capsuleDigest: digest })
        ))
      const stored = writes.isSpilled ? Effect.andThen(writes.verify, store) : store
      return Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(restore(stored), (capsule) =>
          Effect.onError(
            restore(publish({ ...proposal, ...capsule, pages })),
            (cause) => mayBeOnDisk(cause) ? Effect.void : remove(capsule.capsule)
          ))
      )
    })

  return {
    ...coordinator,
    maxPages: maxPublishPages,
    // The capsule comes first, in the committer's own fiber.
    submit: (request, waiter) => waiter.resume(commit(request)),
    onRestart: log.commits.onRestart,
    isSeenByReaders: log.commits.isSeenByReaders
  }
}

/** A log that ended, or a defect, says nothing about what of a commit has reached the disk. */
const mayBeOnDisk = (cause: Cause.Cause<CommitError>): boolean => {
  const error = Cause.findErrorOption(cause)
  return Option.match(error, {
    onNone: () => !Cause.hasInterruptsOnly(cause),
    onSome: ({ _tag }) => _tag === "WalPoisoned" || _tag === "LogClosed"
  })
}

/** What a request names that publishes nothing. */
const noCapsule = { capsule: toObjectId(new Uint8Array(16)), capsuleDigest: new Uint8Array(32) }

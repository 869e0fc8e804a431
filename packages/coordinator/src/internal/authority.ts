/**
 * The right to coordinate a database: its lease first, then the right to publish its header. Both end with the scope,
 * the other way round.
 */
import { SchemaEpoch } from "@tidemark/core/Scalars"
import type { FileLockUnavailable } from "@tidemark/platform/FileLock"
import type { VfsError } from "@tidemark/platform/VfsError"
import type { SequencedLog } from "@tidemark/wal/CommitLog"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { LeaseHeld } from "../CoordinatorErrors.ts"
import { CoordinatorLease } from "../CoordinatorLease.ts"
import { type BecomePublisherError, layerMemory, SharedHeader } from "../SharedHeader.ts"
import { ShmPageSizeMismatch } from "../SharedHeaderErrors.ts"
import type { CoordinatorAuthority } from "./coordinator.ts"

export type AuthorityError = LeaseHeld | FileLockUnavailable | VfsError | BecomePublisherError

/** `lastTxnId`: the highest id that was found in the log. */
export const takeAuthority = Effect.fnUntraced(function*(
  log: SequencedLog<never>,
  lastTxnId: bigint
): Effect.fn.Return<CoordinatorAuthority, AuthorityError, CoordinatorLease | SharedHeader | Scope.Scope> {
  const lease = yield* CoordinatorLease
  const header = yield* SharedHeader
  if (header.pageSize !== log.pageSize) {
    return yield* new ShmPageSizeMismatch({ path: header.path, found: header.pageSize, expected: log.pageSize })
  }
  const grant = yield* lease.acquire
  const publisher = yield* header.becomePublisher({
    commitSeq: log.published().commitSeq,
    // Only whether two of them are equal means something, and no transaction outlives its coordinator.
    schemaEpoch: SchemaEpoch.make(0n),
    ecsEpoch: 0n,
    nextTxnId: lastTxnId + 1n
  })
  return { grant, header, publisher, context: yield* Effect.context<never>() }
})

/** A header that nobody else maps: publishing to it cannot be refused. */
export const privateHeader = (log: SequencedLog<never>): Layer.Layer<SharedHeader> =>
  layerMemory({ pageSize: log.pageSize })

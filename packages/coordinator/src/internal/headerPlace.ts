/**
 * Where a header lies, as `SharedHeader` needs it: in a mapped file that all processes of the database share
 * (`headerFile.ts`), or in memory of this process alone.
 */
import { type SharedRegion } from "@tidemark/platform/SharedMemory"
import * as SharedMemory from "@tidemark/platform/SharedMemory"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { BecomePublisherError, RefreshError } from "../SharedHeader.ts"
import * as SharedHeaderFormat from "../SharedHeaderFormat.ts"

export interface HeaderPlace {
  readonly path: string
  readonly region: () => SharedRegion
  /** Slots of the header that is there now. */
  readonly slots: () => number
  /**
   * Takes the right to publish until the scope closes. When it is had, `region` is what has the name, and passes every
   * check.
   */
  readonly own: Effect.Effect<void, BecomePublisherError, Scope.Scope>
  /** Whether the right is held by more than the word in the header, which then is for messages. */
  readonly isLocked: boolean
  /** Whether the publisher lives, whoever it is. */
  readonly isPublisherAlive: Effect.Effect<boolean>
  readonly refresh: (isPublishing: () => boolean) => Effect.Effect<boolean, RefreshError>
}

/**
 * What a header is made with by somebody who does not know the log: no snapshot can be taken and no transaction id be
 * given before a publisher has said what is durable.
 */
export const unpublishedHeader = (
  contents: SharedHeaderFormat.SharedHeaderContents
): SharedHeaderFormat.SharedHeaderContents => ({ ...contents, snapshotSequence: 1n, nextTxnId: 0n })

/** Whether nobody has published in this header yet. */
export const isUnpublished = (region: SharedRegion): boolean => region.load(SharedHeaderFormat.offsets.nextTxnId) === 0n

/** A header in memory of this process. Whether somebody publishes is said by its own word. */
export const makeMemoryPlace = (
  name: string,
  contents: SharedHeaderFormat.SharedHeaderContents
): HeaderPlace => {
  const region = SharedMemory.regionOf(
    name,
    new SharedArrayBuffer(SharedHeaderFormat.mappedBytes(contents.slots))
  )
  const bytes = SharedHeaderFormat.encode(unpublishedHeader(contents))
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  for (let offset = 0; offset < bytes.length; offset += 8) region.store(offset, view.getBigUint64(offset, true))
  return {
    path: name,
    region: () => region,
    slots: () => contents.slots,
    own: Effect.void,
    isLocked: false,
    isPublisherAlive: Effect.sync(() =>
      SharedHeaderFormat.fromPublisherWord(region.load(SharedHeaderFormat.offsets.publisherOwner)).pid !== 0
    ),
    refresh: () => Effect.succeed(false)
  }
}

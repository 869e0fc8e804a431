/**
 * Transaction ids from the shared-memory header (SHM-10). One step:
 *
 *     next transaction id: n -> n + 1, by compare-and-swap, where n is 1 ... 2^62 - 1; n is the caller's
 *
 * Invariant: an id is given out once, whoever dies when. Adding instead would carry the word over the last id, where
 * it would not stop: 0 says that nobody knows the log yet, and the two top bits are tags of slots.
 */
import { type TxnId } from "@tidemark/core/Scalars"
import type { SharedRegion } from "@tidemark/platform/SharedMemory"
import { Busy } from "../CoordinatorErrors.ts"
import { TxnIdExhausted } from "../SharedHeaderErrors.ts"
import { maxTxnId, offsets } from "../SharedHeaderFormat.ts"

/** The next transaction id; `undefined` when there is none, for the reason that {@link whyNoTxnId} gives. */
export const allocateTxnId = (region: SharedRegion): TxnId | undefined => {
  let next = region.load(offsets.nextTxnId)
  while (next >= 1n && next <= maxTxnId) {
    const was = region.compareExchange(offsets.nextTxnId, next, next + 1n)
    // The condition of the loop is what a transaction id is.
    if (was === next) return next as TxnId
    next = was
  }
  return undefined
}

/** Why there is no next transaction id: nobody has said yet what is in the log, or all are used up. */
export const whyNoTxnId = (region: SharedRegion): Busy | TxnIdExhausted =>
  region.load(offsets.nextTxnId) === 0n
    ? new Busy({ reason: `nobody has published in ${region.name} yet`, retryAfterMillis: 50 })
    : new TxnIdExhausted({ limit: maxTxnId })

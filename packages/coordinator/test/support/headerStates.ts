/** States that show whether they are whole, and regions that can be watched and stopped. */
import type * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import { PageSize, type SchemaEpoch, toCommitSeq } from "@tidemark/core/Scalars"
import type { SharedRegion } from "@tidemark/platform/SharedMemory"

export const pageSize = PageSize.make(4096)

/** A state whose three numbers show whether they belong together. */
export const stateAt = (commit: number | bigint): SharedHeader.HeaderSnapshot => {
  const commitSeq = toCommitSeq(BigInt(commit))
  return {
    commitSeq,
    // Three times a small number. `SchemaEpoch.make` takes longer than a window: publishers would mostly be outside.
    schemaEpoch: commitSeq * 3n as SchemaEpoch,
    ecsEpoch: commitSeq * 7n
  }
}

export const durableAt = (commit: number | bigint, nextTxnId: number | bigint = 1): SharedHeader.DurableState => ({
  ...stateAt(commit),
  nextTxnId: BigInt(nextTxnId)
})

/** Whether the three were published together by {@link stateAt}. */
export const isWhole = ({ commitSeq, ecsEpoch, schemaEpoch }: SharedHeader.HeaderSnapshot): boolean =>
  schemaEpoch === commitSeq * 3n && ecsEpoch === commitSeq * 7n

/** A region that calls `onStore` before each store and `onLoad` before each load of the one behind it. */
export const watched = (
  region: SharedRegion,
  hooks: {
    readonly onStore?: (offset: number, value: bigint) => void
    readonly onLoad?: (offset: number) => void
  }
): SharedRegion => ({
  name: region.name,
  bytes: region.bytes,
  medium: region.medium,
  identity: region.identity,
  buffer: region.buffer,
  load: (offset) => {
    hooks.onLoad?.(offset)
    return region.load(offset)
  },
  store: (offset, value) => {
    hooks.onStore?.(offset, value)
    region.store(offset, value)
  },
  compareExchange: (offset, expected, replacement) => region.compareExchange(offset, expected, replacement),
  add: (offset, delta) => region.add(offset, delta),
  copy: (offset, length) => region.copy(offset, length),
  notify: (offset, count) => region.notify(offset, count),
  wait: (offset, expected, timeout) => region.wait(offset, expected, timeout)
})

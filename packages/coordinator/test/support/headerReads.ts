/** Reading a header over and over, and counting what was seen: for threads and processes that look for a mixture. */
import { readHeader } from "@tidemark/coordinator/SharedHeader"
import { offsets } from "@tidemark/coordinator/SharedHeaderFormat"
import type { SharedRegion } from "@tidemark/platform/SharedMemory"
import type * as Clock from "effect/Clock"
import { isWhole } from "./headerStates.ts"

export interface ReadCounts {
  /** Snapshots asked for. */
  readonly reads: number
  /** Answered with three numbers that belong together. */
  readonly whole: number
  /** Answered with a mixture. Has to stay 0. */
  readonly mixed: number
  /** Not answered: the window stayed open. */
  readonly open: number
  /** Times that another state was seen than at the read before. */
  readonly changes: number
  /** Times that the state was older than one that was seen before. Has to stay 0 under one publisher. */
  readonly backwards: number
  /** The control: times that the three words, read without looking at the sequence, were a mixture. */
  readonly mixedWithoutLock: number
}

export const makeCounter = (region: SharedRegion, clock: Clock.Clock) => {
  const reader = readHeader(region, clock)
  let reads = 0
  let whole = 0
  let mixed = 0
  let open = 0
  let changes = 0
  let backwards = 0
  let mixedWithoutLock = 0
  let last = 0n
  return {
    /** Reads so many times. Answers the newest commit that was seen. */
    read: (count: number): bigint => {
      for (let i = 0; i < count; i++) {
        reads++
        const snapshot = reader.snapshotUnsafe()
        if (snapshot === undefined) {
          open++
        } else {
          if (isWhole(snapshot)) whole++
          else mixed++
          if (snapshot.commitSeq !== last) changes++
          if (snapshot.commitSeq < last) backwards++
          last = snapshot.commitSeq
        }
        if (i % 8 === 0) {
          const schemaEpoch = region.load(offsets.schemaEpoch)
          const commitSeq = region.load(offsets.commitSeq)
          const ecsEpoch = region.load(offsets.ecsEpoch)
          if (schemaEpoch !== commitSeq * 3n || ecsEpoch !== commitSeq * 7n) mixedWithoutLock++
        }
      }
      return last
    },
    counts: (): ReadCounts => ({ reads, whole, mixed, open, changes, backwards, mixedWithoutLock })
  }
}

/** Batches for lanes whose bytes tell whose they are. */
import { LaneId, WalEpoch } from "@tidemark/core/Scalars"
import type { LaneBatch } from "../../src/internal/laneMemory.ts"

export const lane = (id: number) => LaneId.make(id)

export const epoch = (number: number) => WalEpoch.make(BigInt(number))

export interface TestBatch extends LaneBatch {
  readonly seed: number
}

/** The bytes that a batch writes. */
export const bytesOf = ({ encodedBytes, seed }: { readonly encodedBytes: number; readonly seed: number }) =>
  Uint8Array.from({ length: encodedBytes }, (_, index) => seed * 37 + index + 1)

export const testBatch = (options: {
  readonly seed: number
  readonly accountedBytes?: number
  readonly encodedBytes?: number
  readonly frames?: number
  readonly stagedAt?: number
}): TestBatch => {
  const { accountedBytes = 100, encodedBytes = 100, frames = 1, seed, stagedAt = 0 } = options
  return {
    seed,
    accountedBytes,
    encodedBytes,
    frames,
    stagedAt,
    fill: (target, _view, offset) => {
      target.set(bytesOf({ encodedBytes, seed }), offset)
      return offset + encodedBytes
    }
  }
}

export const concatenated = (buffers: ReadonlyArray<Uint8Array>): Uint8Array => new Uint8Array(Buffer.concat(buffers))

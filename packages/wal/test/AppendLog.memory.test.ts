/** Memory of the queue in front of a slow disk, when batches are bounded to less than a chunk. */
import { assert, describe, it } from "@effect/vitest"
import { writePadFrame } from "../src/AppendLogFormat.ts"
import { RunQueue } from "../src/internal/runQueue.ts"

/** Counts the memory that a queue asks for. */
const allocated = (work: () => void): number => {
  let bytes = 0
  const original = globalThis.Uint8Array
  class Counting extends original {
    static get [Symbol.species]() {
      return original
    }

    constructor(length: number) {
      super(length)
      bytes += length
    }
  }
  Object.assign(globalThis, { Uint8Array: Counting })
  try {
    work()
  } finally {
    Object.assign(globalThis, { Uint8Array: original })
  }
  return bytes
}

const queueOf = (maxBatchBytes: number) =>
  new RunQueue({ initial: 0, maxBatchBytes, cutPointBytes: 16, pad: writePadFrame })

describe("AppendLog, memory", () => {
  it.each([[8_000_000, 900], [65_536, 896], [4096, 3904], [1024, 904]])(
    "GC-11 batches of %i bytes, records of %i: the queue takes a small multiple of what is queued",
    (maxBatchBytes, length) => {
      const queue = queueOf(maxBatchBytes)
      const bytes = allocated(() => {
        while (queue.reserved < 1_000_000) queue.append(length, () => {})
      })
      assert.isTrue(bytes <= 4 * queue.reserved, `${bytes} bytes for ${queue.reserved} that are queued`)
    }
  )
})

/**
 * Writing and syncing a batch in plain JavaScript, by the rule that Tidemark's `NodeVfs` has: a small batch on the
 * calling thread while the device is fast, others in the thread pool.
 */
import { defaults } from "@tidemark/platform/NodeVfs"
import * as NodeFs from "node:fs"
import { promisify } from "node:util"

export const write = promisify<number, ReadonlyArray<NodeJS.ArrayBufferView>, number, number>(NodeFs.writev)
export const sync = promisify(NodeFs.fdatasync)

/** Writes to a descriptor and syncs it; answers at once, without a promise, when that was done on the calling thread. */
export const makeWriteAndSync = () => {
  let recentMicros = Number.NaN

  const record = (started: number) => {
    const micros = (performance.now() - started) * 1000
    recentMicros = Number.isNaN(recentMicros) ? micros : recentMicros + (micros - recentMicros) / 4
  }

  const inPool = async (
    descriptor: number,
    buffers: ReadonlyArray<Uint8Array>,
    at: number,
    isSmall: boolean
  ): Promise<void> => {
    const started = performance.now()
    await write(descriptor, buffers, at)
    await sync(descriptor)
    if (isSmall) record(started)
  }

  return (
    descriptor: number,
    buffers: ReadonlyArray<Uint8Array>,
    bytes: number,
    at: number
  ): Promise<void> | undefined => {
    const isSmall = bytes <= defaults.inlineSyncMaxBytes
    // NaN compares false: the pool shows first how long this device takes.
    if (!isSmall || !(recentMicros < defaults.inlineSyncMaxMicros)) return inPool(descriptor, buffers, at, isSmall)
    const started = performance.now()
    NodeFs.writevSync(descriptor, buffers, at)
    NodeFs.fdatasyncSync(descriptor)
    record(started)
    return undefined
  }
}

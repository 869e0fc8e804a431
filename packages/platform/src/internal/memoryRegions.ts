/**
 * Shared memory as buffers of this process, under names in a table. Every call is one synchronous step, so a name never
 * stands for something half made.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import type { SharedMemory } from "../SharedMemory.ts"
import { regionBytes } from "./regionSize.ts"
import { originOf, WordRegion } from "./wordRegion.ts"

/** One memory. */
export interface MemoryBlock {
  readonly buffer: SharedArrayBuffer
}

/** A region that refuses everything once its scope is closed. */
export const scoped = (region: WordRegion) =>
  Effect.acquireRelease(Effect.succeed(region), (opened) => Effect.sync(() => opened.close()))

export const makeMemoryRegions = (blocks: Map<string, MemoryBlock>): SharedMemory["Service"] => {
  const regionIn = (name: string, { buffer }: MemoryBlock) => scoped(new WordRegion(name, buffer, originOf(buffer)))
  return {
    medium: "memory",
    peek: (name, length) =>
      Effect.sync(() => {
        const block = blocks.get(name)
        if (block === undefined) return undefined
        return new WordRegion(name, block.buffer, originOf(block.buffer)).copy(
          0,
          Math.min(length, block.buffer.byteLength)
        )
      }),
    identify: (name) =>
      Effect.sync(() => {
        const block = blocks.get(name)
        return block === undefined ? undefined : originOf(block.buffer).identity
      }),
    open: (name) =>
      Effect.suspend(() => {
        const block = blocks.get(name)
        return block === undefined ? Effect.succeed(undefined) : regionIn(name, block)
      }),
    create: (name, options) =>
      Effect.suspend(() => {
        const buffer = new SharedArrayBuffer(regionBytes(options))
        new Uint8Array(buffer).set(options.content)
        const block = { buffer }
        blocks.set(name, block)
        return regionIn(name, block)
      })
  }
}

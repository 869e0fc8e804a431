/**
 * Writes at the end of what means anything in a file, past the page cache (`O_DIRECT`): the device reads the bytes where
 * they are, which saves a copy in the kernel and most of the kernel's work for each page (decision 0017 has the figures).
 *
 * The system takes such a write only in whole blocks, from memory that begins at a block. So what is written is widened:
 *
 * - in front by what the file holds in that block already. It was written by this file before, is remembered from then,
 *   and written again with the same bytes: a block that a power loss tears has them either way;
 * - behind by zeros, which is what the caller has allowed.
 *
 * Invariants
 * 1. While such a write is under way there is no other write of this file but such ones, each of which lies in its
 *    blocks, begins where the one before it ends, and comes to the system behind it.
 * 2. What is remembered of the last block is what the file holds there once what is under way is done: every other write
 *    makes it forgotten.
 */
import { invariant } from "@tidemark/core/Invariant"
import * as TailMemory from "../TailMemory.ts"
import { byteLengthOf } from "./transfer.ts"

const { blockBytes } = TailMemory

const downToBlock = (position: number) => position - (position % blockBytes)
const upToBlock = (position: number) => downToBlock(position + blockBytes - 1)

/** More than that is written in another way: memory is kept for as much as was written at once. */
export const maxDirectBytes = 4 * 1024 * 1024

/** What is to be given to the system: whole blocks, in memory for it. */
export interface Widened {
  readonly bytes: Uint8Array
  readonly position: number
}

export class DirectTail {
  private staging: Uint8Array = new Uint8Array(0)
  /** Where the last write ended, and the bytes of its last block up to there. Forgotten: -1. */
  private end = -1
  private readonly lastBlock = new Uint8Array(blockBytes)
  private underWay = 0

  /** Another write has changed the file, or may have. */
  forget(): void {
    invariant(this.underWay === 0, "a write at the end of a file is the only one that is under way there")
    this.end = -1
  }

  /** Whether these bytes may be begun while others are under way, if they come to the system behind them. */
  continues(buffers: ReadonlyArray<Uint8Array>, position: number): boolean {
    return (this.underWay === 0 || this.end === position) && inPlace(buffers, position % blockBytes) !== undefined
  }

  /** `readFront` reads what the file holds at a position, as far as it goes. When it throws nothing has begun. */
  begin(
    buffers: ReadonlyArray<Uint8Array>,
    position: number,
    readFront: (into: Uint8Array, position: number) => number
  ): Widened {
    invariant(
      this.underWay === 0 || this.continues(buffers, position),
      "a write at the end of a file is the only one that is under way there"
    )
    const length = byteLengthOf(buffers)
    const start = downToBlock(position)
    const front = position - start
    const total = upToBlock(position + length) - start
    const only = inPlace(buffers, front)
    const bytes = only === undefined ? this.stage(total) : new Uint8Array(only.buffer, only.byteOffset - front, total)
    if (this.end === position) bytes.set(front === 0 ? nothing : this.lastBlock.subarray(0, front))
    else if (front > 0) {
      const found = readFront(bytes.subarray(0, front), start)
      bytes.fill(0, found, front)
    }
    if (only === undefined) {
      let at = front
      for (const buffer of buffers) {
        bytes.set(buffer, at)
        at += buffer.length
      }
    }
    bytes.fill(0, front + length)
    this.underWay++
    this.end = position + length
    const kept = this.end % blockBytes
    this.lastBlock.set(bytes.subarray(this.end - kept - start, this.end - start))
    return { bytes, position: start }
  }

  /** A write that was begun has succeeded, or not: then nobody knows what the file holds. */
  finish(hasSucceeded: boolean): void {
    this.underWay--
    if (!hasSucceeded) this.end = -1
  }

  private stage(length: number): Uint8Array {
    if (this.staging.length < length) this.staging = TailMemory.make(Math.max(length, 2 * this.staging.length))
    return this.staging.subarray(0, length)
  }
}

const nothing = new Uint8Array(0)

/** Below that a read from the page cache, when it is there, costs less than one from the device. */
const leastReadBytes = 64 * 1024

/** A long read into memory that can take it without a copy: whole blocks. What else is in them is overwritten. */
export const widenedRead = (buffer: Uint8Array, position: number): Widened | undefined => {
  if (buffer.length < leastReadBytes) return undefined
  const start = downToBlock(position)
  if (!liesInBlocks(buffer, position - start)) return undefined
  const total = upToBlock(position + buffer.length) - start
  return { bytes: new Uint8Array(buffer.buffer, buffer.byteOffset - (position - start), total), position: start }
}

/** The bytes, when they are in one piece that lies in memory as its blocks lie in the file. */
const inPlace = (buffers: ReadonlyArray<Uint8Array>, front: number): Uint8Array | undefined => {
  const [only] = buffers
  return buffers.length === 1 && only !== undefined && liesInBlocks(only, front) ? only : undefined
}

/** Whether the bytes lie in memory as their blocks lie in the file. Such memory is whole blocks: the rest of these is there. */
const liesInBlocks = (bytes: Uint8Array, front: number): boolean =>
  bytes.byteOffset % blockBytes === front && TailMemory.isTailMemory(bytes.buffer)

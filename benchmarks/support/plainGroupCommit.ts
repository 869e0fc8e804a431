/**
 * Group commit of the same bytes with nothing around it: what Tidemark's checksums, conflict checks, index, checkpoints
 * and effects are to be measured against.
 *
 * Frames of 24 + 4096 bytes, without a checksum, into a file that is filled with zeros ahead. One write and one
 * `fdatasync` per batch, by the rule that Tidemark's `NodeVfs` has: a small batch on the calling thread while the device
 * is fast, others in the thread pool. One batch after the other: nobody is woken while the next one is written. Where
 * Tidemark would start its log over, this begins again at the front, and nothing is ever copied anywhere.
 */
import { defaults as walDefaults } from "@tidemark/wal/SqliteWal"
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import { promisify } from "node:util"
import { makeWriteAndSync } from "./plainWrite.ts"
import type { Contestant } from "./rounds.ts"
import { pageBytes } from "./rowPages.ts"

const frameHeaderBytes = 24
const frameBytes = frameHeaderBytes + pageBytes
const fileBytes = walDefaults.restartFrames * frameBytes
const zeros = new Uint8Array(walDefaults.preallocateBytes)

const nextTurn = promisify<void>((done) => setImmediate(() => done(null)))

const makeLog = (descriptor: number) => {
  let waiting: Array<() => void> = []
  let batchBuffer = Buffer.alloc(frameBytes * 16)
  let spareBuffer = Buffer.alloc(frameBytes * 16)
  let used = 0
  let position = 0
  let preparedEnd = 0
  let wakeLeader: (() => void) | undefined
  let isOver = false

  const commit = (pageNumber: number, page: Uint8Array): Promise<void> =>
    new Promise((resolve) => {
      if (used + frameBytes > batchBuffer.length) {
        const larger = Buffer.alloc(batchBuffer.length * 2)
        larger.set(batchBuffer)
        batchBuffer = larger
      }
      batchBuffer.writeUInt32BE(pageNumber, used)
      batchBuffer.set(page, used + frameHeaderBytes)
      used += frameBytes
      waiting.push(resolve)
      wakeLeader?.()
      wakeLeader = undefined
    })

  const writeAndSync = makeWriteAndSync()
  const writeBatch = async (buffers: ReadonlyArray<Uint8Array>, bytes: number, at: number) => {
    await (writeAndSync(descriptor, buffers, bytes, at) ?? nextTurn())
  }

  const lead = async () => {
    while (!isOver) {
      if (waiting.length === 0) {
        await new Promise<void>((resolve) => {
          wakeLeader = resolve
        })
        await nextTurn()
        continue
      }
      const batch = waiting
      const buffer = batchBuffer
      const length = used
      waiting = []
      batchBuffer = spareBuffer
      spareBuffer = buffer
      used = 0
      if (position + length > fileBytes) position = 0
      const bytes = buffer.subarray(0, length)
      if (position + length <= preparedEnd) await writeBatch([bytes], length, position)
      else {
        preparedEnd = position + length + zeros.length
        await writeBatch([bytes, zeros], length + zeros.length, position)
      }
      position += length
      for (const done of batch) done()
    }
  }

  const leader = lead()
  return {
    commit,
    close: async () => {
      isOver = true
      wakeLeader?.()
      await leader
    }
  }
}

export const plainGroupCommit: Contestant = {
  name: "plain group commit",
  open: ({ directory, writers }) => {
    const descriptor = NodeFs.openSync(NodePath.join(directory, "frames"), "w+")
    const log = makeLog(descriptor)
    const pages = Array.from({ length: writers }, () => new Uint8Array(pageBytes))
    return {
      run: async (loop) => {
        await Promise.all(pages.map(async (page, writer) => {
          while (loop.goesOn()) {
            page.fill(writer, pageBytes - 8)
            await log.commit(writer + 2, page)
            loop.ended(writer)
          }
        }))
      },
      close: async () => {
        await log.close()
        NodeFs.closeSync(descriptor)
      }
    }
  }
}

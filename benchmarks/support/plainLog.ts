/**
 * Group commit of records with nothing around it: what Tidemark's frames, checksums, watermarks, segments and effects are
 * to be measured against.
 *
 * The bytes of the records, one behind the other, in plain JavaScript: one write and one `fdatasync` per batch, by the
 * rule that Tidemark's `NodeVfs` has, into files that were filled with zeros and synced before. As the append log does,
 * it has files of 64 MiB and fills the next one while it writes one. One batch after the other: nobody is woken while
 * the next one is written.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import type { Loop } from "./ClosedLoop.ts"
import { gatherByHand } from "./groupByHand.ts"
import { makeWriteAndSync, sync, write } from "./plainWrite.ts"
import { checkRecords, makeRecords, recordBytes, type WriterRecord } from "./records.ts"
import type { Contestant } from "./rounds.ts"
import { writeInFibers, writeInPromises } from "./writers.ts"

const fileBytes = 64 * 1024 * 1024
const zeros = new Uint8Array(1024 * 1024)

const makeLog = async (directory: string) => {
  let files = 0
  const prepare = async (): Promise<number> => {
    const descriptor = NodeFs.openSync(NodePath.join(directory, String(files++).padStart(8, "0")), "wx")
    // Synced piece by piece, lest one sync of the whole file holds up those of the records.
    for (let at = 0; at < fileBytes; at += zeros.length) {
      await write(descriptor, [zeros], at)
      await sync(descriptor)
    }
    return descriptor
  }

  const writeAndSync = makeWriteAndSync()
  let current = await prepare()
  let next = prepare()
  let position = 0
  let buffer = new Uint8Array(64 * recordBytes)

  return {
    append: gatherByHand<WriterRecord>(async (batch) => {
      const length = batch.length * recordBytes
      if (length > buffer.length) buffer = new Uint8Array(2 * length)
      for (let i = 0, at = 0; at < length; i++, at += recordBytes) {
        const record = batch[i]
        if (record !== undefined) buffer.set(record.bytes, at)
      }
      if (position + length > fileBytes) {
        NodeFs.closeSync(current)
        current = await next
        next = prepare()
        position = 0
      }
      await writeAndSync(current, [buffer.subarray(0, length)], length, position)
      position += length
    }),
    close: async () => {
      NodeFs.closeSync(current)
      NodeFs.closeSync(await next)
    }
  }
}

/** All records of the files; a file ends where its zeros begin. */
function* recordsIn(directory: string): Generator<Uint8Array> {
  for (const name of NodeFs.readdirSync(directory).sort()) {
    const bytes = NodeFs.readFileSync(NodePath.join(directory, name))
    for (let at = 0; at + recordBytes <= bytes.length && bytes.readUInt32BE(at) > 0; at += recordBytes) {
      yield bytes.subarray(at, at + recordBytes)
    }
  }
}

type Append = (record: WriterRecord, wake: () => void) => void

const contestant = (
  name: string,
  write: (loop: Loop, records: ReadonlyArray<WriterRecord>, append: Append) => Promise<void>
): Contestant => ({
  name,
  open: async ({ directory, writers }) => {
    const records = makeRecords(writers)
    const log = await makeLog(directory)
    return {
      run: (loop) => write(loop, records, log.append),
      close: async () => {
        await log.close()
        checkRecords(records, recordsIn(directory))
      }
    }
  }
})

/** With async functions as writers. */
export const plainLog = contestant(
  "plain group commit",
  (loop, records, append) =>
    writeInPromises(loop, records, (record) => new Promise<void>((resolve) => append(record, resolve)))
)

/** With fibers as writers: what there is to be had when they are given, whoever writes the log. */
export const plainLogOfFibers = contestant(
  "plain group commit, fibers",
  (loop, records, append) =>
    Effect.runPromise(
      writeInFibers(
        loop,
        records,
        (record) => Effect.callback<void>((resume) => append(record, () => resume(Exit.void)))
      )
    )
)

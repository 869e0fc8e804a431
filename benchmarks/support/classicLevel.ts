/**
 * Records in LevelDB (`classic-level`), under ascending numbers, with `sync: true`: a write is in LevelDB's log and
 * synced when its promise resolves. LevelDB joins the writes of threads that meet, and the thread pool has four.
 */
import { ClassicLevel } from "classic-level"
import { groupByHand } from "./groupByHand.ts"
import { checkRecords, makeRecords, type WriterRecord } from "./records.ts"
import type { Contestant } from "./rounds.ts"
import { writeInPromises } from "./writers.ts"

const open = async (directory: string, writers: number) => {
  const records = makeRecords(writers)
  const level = new ClassicLevel<Buffer, Uint8Array>(directory, { keyEncoding: "buffer", valueEncoding: "view" })
  await level.open()
  let position = 0
  return {
    records,
    level,
    nextKey: () => {
      const key = Buffer.allocUnsafe(8)
      key.writeUIntBE(0, 0, 2)
      key.writeUIntBE(position++, 2, 6)
      return key
    },
    close: async () => {
      checkRecords(records, await level.values().all())
      await level.close()
    }
  }
}

const durable = { sync: true }

/** One `put` per record. */
export const classicLevelOneByOne: Contestant = {
  name: "classic-level, sync",
  open: async ({ directory, writers }) => {
    const { close, level, nextKey, records } = await open(directory, writers)
    const append = ({ bytes }: WriterRecord) => level.put(nextKey(), bytes, durable)
    return { run: (loop) => writeInPromises(loop, records, append), close }
  }
}

/** One `batch` for all that wait. */
export const classicLevelGrouped: Contestant = {
  name: "classic-level, grouped by hand",
  open: async ({ directory, writers }) => {
    const { close, level, nextKey, records } = await open(directory, writers)
    const append = groupByHand<WriterRecord>((batch) =>
      level.batch(batch.map(({ bytes }) => ({ type: "put", key: nextKey(), value: bytes })), durable)
    )
    return { run: (loop) => writeInPromises(loop, records, append), close }
  }
}

/**
 * Records in LMDB (`lmdb`), under ascending numbers. It has a group commit of its own: what is put in one turn of the
 * event loop becomes one transaction, which a thread of the pool writes and syncs.
 *
 * In its default mode (`overlappingSync`) a transaction is committed, and visible, before it is flushed, and the promise
 * that `put` answers speaks of the commit; a writer waits for the `flushed` promise beside it, as its documentation asks
 * for durability. With `overlappingSync: false` a commit includes the sync, and the promise of `put` is enough.
 */
import { open, type RootDatabaseOptions } from "lmdb"
import { checkRecords, makeRecords, type WriterRecord } from "./records.ts"
import type { Contestant } from "./rounds.ts"
import { writeInPromises } from "./writers.ts"

/** A put that fails rejects without anybody who handles it, and thereby ends the program. */
const flushed = (put: Promise<boolean>): Promise<unknown> => {
  if ("flushed" in put && put.flushed instanceof Promise) return put.flushed
  throw new Error("lmdb does not say when a put is flushed")
}

const contestant = (
  name: string,
  options: RootDatabaseOptions,
  durable: (put: Promise<boolean>) => Promise<unknown>
): Contestant => ({
  name,
  open: ({ directory, writers }) => {
    const records = makeRecords(writers)
    const database = open<Uint8Array, number>({ ...options, path: directory, encoding: "binary" })
    let position = 0
    const append = ({ bytes }: WriterRecord) => durable(database.put(position++, bytes))
    return {
      run: (loop) => writeInPromises(loop, records, append),
      close: async () => {
        checkRecords(records, database.getRange().map(({ value }) => value))
        await database.close()
      }
    }
  }
})

export const lmdbDefault: Contestant = contestant("LMDB, default", { separateFlushed: true }, flushed)

export const lmdbNotOverlapping: Contestant = contestant(
  "LMDB, overlappingSync: false",
  { overlappingSync: false },
  (put) => put
)

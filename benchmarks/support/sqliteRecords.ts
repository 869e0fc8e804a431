/**
 * Records in a table of SQLite (`node:sqlite`), with `journal_mode=WAL` and `synchronous=FULL`: a transaction is in the
 * log and synced when `COMMIT` returns. Checkpoints as SQLite makes them by default.
 */
import * as NodePath from "node:path"
import { DatabaseSync } from "node:sqlite"
import { groupByHand } from "./groupByHand.ts"
import { checkRecords, makeRecords, type WriterRecord } from "./records.ts"
import type { Contestant } from "./rounds.ts"
import { writeInPromises, writeInTurn } from "./writers.ts"

const open = (directory: string, writers: number) => {
  const records = makeRecords(writers)
  const sqlite = new DatabaseSync(NodePath.join(directory, "records.db"))
  sqlite.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
  sqlite.exec("CREATE TABLE records (position INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
  const insert = sqlite.prepare("INSERT INTO records (payload) VALUES (?)")
  return {
    records,
    sqlite,
    insert: ({ bytes }: WriterRecord) => {
      insert.run(bytes)
    },
    close: () => {
      checkRecords(records, payloads(sqlite))
      sqlite.close()
    }
  }
}

function* payloads(sqlite: DatabaseSync): Generator<Uint8Array> {
  for (const { payload } of sqlite.prepare("SELECT payload FROM records ORDER BY position").iterate()) {
    if (!(payload instanceof Uint8Array)) throw new Error("a payload is a blob")
    yield payload
  }
}

/** One transaction per record: N writers of a thread commit one after the other. */
export const sqliteRecordsOneByOne: Contestant = {
  name: "SQLite, one by one",
  open: ({ directory, writers }) => {
    const { close, insert, records } = open(directory, writers)
    return { run: (loop) => writeInTurn(loop, records, insert), close }
  }
}

/** One transaction for all that wait. */
export const sqliteRecordsGrouped: Contestant = {
  name: "SQLite, grouped by hand",
  open: ({ directory, writers }) => {
    const { close, insert, records, sqlite } = open(directory, writers)
    const begin = sqlite.prepare("BEGIN IMMEDIATE")
    const commit = sqlite.prepare("COMMIT")
    const append = groupByHand<WriterRecord>((batch) => {
      begin.run()
      batch.forEach(insert)
      commit.run()
    })
    return { run: (loop) => writeInPromises(loop, records, append), close }
  }
}

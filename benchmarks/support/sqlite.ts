/**
 * SQLite in Node (`node:sqlite`), with `journal_mode=WAL` and `synchronous=FULL`: a commit is in the log and synced when
 * it returns. Its calls are synchronous, so N writers on a thread commit one after the other.
 */
import * as NodePath from "node:path"
import { DatabaseSync } from "node:sqlite"
import type { Contestant } from "./rounds.ts"
import { makeRowPages, type RowPage, verifyRowPages } from "./rowPages.ts"

const open = (directory: string, writers: number, checkpointFrames: number) => {
  const database = NodePath.join(directory, "sqlite.db")
  const rows = makeRowPages(database, writers)
  const sqlite = new DatabaseSync(database)
  sqlite.exec(`PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = ${checkpointFrames}`)
  const update = sqlite.prepare("UPDATE counters SET value = ? WHERE writer = ?")
  return {
    rows,
    sqlite,
    update: (row: RowPage, writer: number) => {
      row.count()
      update.run(row.value, writer + 1)
    },
    close: () => {
      sqlite.close()
      verifyRowPages(database, rows)
    }
  }
}

/** One transaction per commit. */
export const sqliteOneByOne = (checkpointFrames: number): Contestant => ({
  name: "SQLite, one by one",
  open: ({ directory, writers }) => {
    const { close, rows, update } = open(directory, writers, checkpointFrames)
    return {
      run: (loop) => {
        while (loop.goesOn()) {
          rows.forEach((row, writer) => {
            update(row, writer)
            loop.ended(writer)
          })
        }
      },
      close
    }
  }
})

/** What an application can do by hand when it has all N updates before it: one transaction for all of them. */
export const sqliteGrouped = (checkpointFrames: number): Contestant => ({
  name: "SQLite, grouped by hand",
  open: ({ directory, writers }) => {
    const { close, rows, sqlite, update } = open(directory, writers, checkpointFrames)
    const begin = sqlite.prepare("BEGIN IMMEDIATE")
    const commit = sqlite.prepare("COMMIT")
    return {
      run: (loop) => {
        while (loop.goesOn()) {
          begin.run()
          rows.forEach(update)
          commit.run()
          rows.forEach((_, writer) => loop.ended(writer))
        }
      },
      close
    }
  }
})

/**
 * A database in which every writer has a row that fills a page of its own, made by SQLite.
 *
 * The last 8 bytes of a row count the commits of its writer. A commit of Tidemark writes the whole page with the count
 * raised, one of SQLite updates the row; either way the database stays a valid one, and afterwards SQLite can be asked
 * whether every commit that was acknowledged is in it.
 */
import * as NodeFs from "node:fs"
import { DatabaseSync } from "node:sqlite"

export const pageBytes = 4096
/** Cell of a leaf page: 4061 bytes at the most stay on the page (usable size - 35), and two of these do not fit. */
const valueBytes = 4000
const countBytes = 8

/** A row, as the page that it fills. */
export interface RowPage {
  readonly pageNumber: number
  /** The page; the count lies at its very end, as SQLite fills a page from there. */
  readonly bytes: Uint8Array
  /** The value of the row: the end of the page. */
  readonly value: Uint8Array
  /** Raises the count by one. */
  readonly count: () => void
  readonly commits: () => number
}

/** Makes the database, in WAL mode with an empty log, and answers the page of each writer's row. */
export const makeRowPages = (database: string, writers: number): ReadonlyArray<RowPage> => {
  const sqlite = new DatabaseSync(database)
  sqlite.exec(`PRAGMA page_size = ${pageBytes}; PRAGMA journal_mode = WAL`)
  sqlite.exec("CREATE TABLE counters (writer INTEGER PRIMARY KEY, value BLOB NOT NULL); BEGIN")
  const insert = sqlite.prepare("INSERT INTO counters VALUES (?, zeroblob(?))")
  for (let writer = 0; writer < writers; writer++) insert.run(writer + 1, valueBytes)
  sqlite.exec("COMMIT")
  sqlite.close()
  const file = NodeFs.readFileSync(database)
  const rows = new Map<number, RowPage>()
  for (let at = pageBytes; at < file.length; at += pageBytes) {
    const writer = rowOfLeaf(file, at)
    if (writer !== undefined) {
      rows.set(writer, rowPage(at / pageBytes + 1, new Uint8Array(file.subarray(at, at + pageBytes))))
    }
  }
  return Array.from({ length: writers }, (_, writer) => {
    const row = rows.get(writer + 1)
    if (row === undefined) throw new Error(`the row of writer ${writer + 1} has no page of its own`)
    return row
  })
}

const tableLeaf = 0x0d

/** The key of the only row of a table leaf page at `at`. */
const rowOfLeaf = (file: Uint8Array, at: number): number | undefined => {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  if (view.getUint8(at) !== tableLeaf || view.getUint16(at + 3) !== 1) return undefined
  const cell = at + view.getUint16(at + 8)
  const payload = varint(view, cell)
  return varint(view, payload.end).value
}

/** SQLite's integer of variable length: 7 bits a byte, the highest first; these are small. */
const varint = (view: DataView, from: number): { readonly value: number; readonly end: number } => {
  let value = 0
  let at = from
  for (;;) {
    const byte = view.getUint8(at++)
    value = value * 128 + (byte & 0x7f)
    if (byte < 0x80) return { value, end: at }
  }
}

const rowPage = (pageNumber: number, bytes: Uint8Array): RowPage => {
  const view = new DataView(bytes.buffer)
  const at = bytes.length - countBytes
  let commits = 0
  return {
    pageNumber,
    bytes,
    value: bytes.subarray(bytes.length - valueBytes),
    count: () => view.setBigUint64(at, BigInt(++commits)),
    commits: () => commits
  }
}

/** Lets SQLite check the database, and each count against what was acknowledged. */
export const verifyRowPages = (database: string, rows: ReadonlyArray<RowPage>): void => {
  const sqlite = new DatabaseSync(database)
  try {
    const answer = sqlite.prepare("PRAGMA integrity_check").get()?.["integrity_check"]
    if (answer !== "ok") throw new Error(`integrity_check says: ${String(answer)}`)
    const select = sqlite.prepare("SELECT value FROM counters WHERE writer = ?")
    rows.forEach((row, writer) => {
      const value = select.get(writer + 1)?.["value"]
      if (!(value instanceof Uint8Array)) throw new Error(`the row of writer ${writer + 1} is gone`)
      const found = new DataView(value.buffer, value.byteOffset).getBigUint64(value.length - countBytes)
      if (found === BigInt(row.commits())) return
      throw new Error(`writer ${writer + 1}: ${row.commits()} commits were acknowledged, ${found} are in the database`)
    })
  } finally {
    sqlite.close()
  }
}

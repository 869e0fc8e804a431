/**
 * Real transactions: stock SQLite makes a database and changes it, and the frames of its own WAL are what is committed
 * again through the log under test. Parsed by hand here, so that a mistake in the format's module is not repeated.
 */
import { copyFileSync, readFileSync } from "node:fs"
import { DatabaseSync } from "node:sqlite"

export interface RecordedTransaction {
  readonly pages: ReadonlyMap<number, Uint8Array>
  readonly databasePages: number
}

/** The transactions of a `-wal` that stock SQLite has written. */
export const parseSqliteWal = (bytes: Uint8Array): ReadonlyArray<RecordedTransaction> => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const pageSize = view.getUint32(8)
  const transactions: Array<RecordedTransaction> = []
  let pages = new Map<number, Uint8Array>()
  for (let offset = 32; offset + 24 + pageSize <= bytes.length; offset += 24 + pageSize) {
    // A frame of an older generation ends it.
    if (view.getUint32(offset + 8) !== view.getUint32(16)) break
    pages.set(view.getUint32(offset), bytes.slice(offset + 24, offset + 24 + pageSize))
    const databasePages = view.getUint32(offset + 4)
    if (databasePages === 0) continue
    transactions.push({ pages: new Map(Array.from(pages).sort(([a], [b]) => a - b)), databasePages })
    pages = new Map()
  }
  return transactions
}

/** What transaction n does: inserts, updates, deletes, so that the database grows, shrinks and splits pages. */
const change = (database: DatabaseSync, n: number): void => {
  database.exec("BEGIN")
  database.prepare("INSERT INTO t VALUES (?, ?)").run(n, String(n).repeat(20 + (n * 37) % 300))
  database.prepare("UPDATE t SET v = v || ? WHERE id = ?").run(`+${n}`, Math.floor(n / 2))
  database.prepare("DELETE FROM t WHERE id = ?").run(n % 5 === 0 ? n - 3 : -1)
  database.exec("COMMIT")
}

/** Rows after the first n transactions, by SQLite alone. */
export const expectedRows = (n: number): ReadonlyArray<unknown> => {
  const database = new DatabaseSync(":memory:")
  database.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
  for (let i = 1; i <= n; i++) change(database, i)
  const rows = readRows(database)
  database.close()
  return rows
}

export const readRows = (database: DatabaseSync): ReadonlyArray<unknown> =>
  database.prepare("SELECT id, v FROM t ORDER BY id").all().map((row) => [row["id"], row["v"]])

/**
 * Makes `path` with a table and no transaction in it, and `path-recorded`, the WAL of the transactions 1 ... count.
 */
export const recordTransactions = (path: string, pageSize: number, count: number): void => {
  const source = `${path}-source`
  const database = new DatabaseSync(source)
  database.exec(`PRAGMA page_size = ${pageSize}; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0`)
  database.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); PRAGMA wal_checkpoint(TRUNCATE)")
  copyFileSync(source, path)
  for (let n = 1; n <= count; n++) change(database, n)
  copyFileSync(`${source}-wal`, `${path}-recorded`)
  database.close()
}

/** Asserts nothing: what stock SQLite says about a database, opened as any tool would. */
export const inspectWithSqlite = (path: string) => {
  const database = new DatabaseSync(path)
  try {
    return {
      integrity: database.prepare("PRAGMA integrity_check").all().map((row) => row["integrity_check"]),
      rows: readRows(database)
    }
  } finally {
    database.close()
  }
}

export const readRecorded = (path: string): ReadonlyArray<RecordedTransaction> =>
  parseSqliteWal(readFileSync(`${path}-recorded`))

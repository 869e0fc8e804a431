/**
 * Databases that SQLite itself has written, as a crash would leave them: the database file and its WAL.
 */
import { copyFileSync, existsSync, rmSync } from "node:fs"
import { DatabaseSync } from "node:sqlite"

export interface MadeDatabase {
  /** The database, with every commit in its WAL. */
  readonly path: string
  readonly wal: string
  /** The database before the first commit in the WAL; it has none. */
  readonly base: string
  readonly commits: number
  readonly pageSize: number
}

/** Makes `name.db` with one commit for each of `commits` rows. */
export const makeDatabase = (
  directory: string,
  name: string,
  options: {
    readonly commits?: number
    readonly pageSize?: number
    /** Of the text in a row: the number of the row, and blanks. */
    readonly rowBytes?: number
  } = {}
): MadeDatabase => {
  const { commits = 5, pageSize = 4096, rowBytes = 0 } = options
  const live = `${directory}/${name}-live.db`
  const path = `${directory}/${name}.db`
  const base = `${directory}/${name}-base.db`
  const database = new DatabaseSync(live)
  database.exec(`PRAGMA page_size = ${pageSize}; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0`)
  database.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT); PRAGMA wal_checkpoint(TRUNCATE)")
  copyFileSync(live, base)
  for (let id = 1; id <= commits; id++) database.exec(`INSERT INTO t VALUES (${id}, '${`row ${id}`.padEnd(rowBytes)}')`)
  copyFileSync(live, path)
  copyFileSync(`${live}-wal`, `${path}-wal`)
  database.close()
  for (const file of [live, `${live}-wal`, `${live}-shm`]) if (existsSync(file)) rmSync(file)
  return { path, wal: `${path}-wal`, base, commits, pageSize }
}

/** What SQLite reads from it: the number of rows, and what it says of the database. */
export const readWithSqlite = (path: string): { readonly rows: number; readonly integrity: string } => {
  const database = new DatabaseSync(path)
  try {
    return {
      rows: Number(database.prepare("SELECT count(*) AS n FROM t").get()?.["n"]),
      integrity: String(database.prepare("PRAGMA integrity_check").get()?.["integrity_check"])
    }
  } finally {
    database.close()
  }
}

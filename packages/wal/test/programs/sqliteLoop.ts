/**
 * Opens a database with the SQLite of Node, reads, writes (when asked to), checkpoints and closes, again and again, and
 * prints what came of it: one line for each round, with SQLite's result code of each attempt, 0 when it worked.
 * Arguments: database, `"read"` or `"write"`, and `"anew"` for a connection each time or `"kept"` for one that is kept.
 */
import { writeSync } from "node:fs"
import { DatabaseSync } from "node:sqlite"
import { setTimeout } from "node:timers/promises"

const [path = "", mode = "read", connection = "anew"] = process.argv.slice(2)

const attempt = (work: () => void): number => {
  try {
    work()
    return 0
  } catch (cause) {
    if (cause instanceof Error && "errcode" in cause) return Number(cause.errcode) & 0xff
    throw cause
  }
}

const open = () => {
  const database = new DatabaseSync(path)
  database.exec("PRAGMA busy_timeout = 0")
  return database
}

let kept = connection === "kept" ? open() : undefined
writeSync(1, "ready\n")
while (true) {
  const database = kept ?? open()
  const read = attempt(() => database.prepare("SELECT count(*) FROM sqlite_schema").all())
  const write = mode === "write" ? attempt(() => database.exec("UPDATE t SET v = 'SQLite was here' WHERE id = 1")) : -1
  const checkpoint = attempt(() => database.exec("PRAGMA wal_checkpoint(TRUNCATE)"))
  // Closing the last connection checkpoints and deletes the log.
  if (kept === undefined) database.close()
  else if (read === 0) {
    kept.close()
    kept = open()
  }
  writeSync(1, `${read} ${write} ${checkpoint}\n`)
  await setTimeout(2)
}

/**
 * Opens a database with the SQLite of Node, does what the second argument says (`"open"`, `"read"`, `"readTransaction"`,
 * `"writeTransaction"`), says `ready` and waits to be killed.
 */
import { writeSync } from "node:fs"
import { DatabaseSync } from "node:sqlite"

const [path = "", what = "open"] = process.argv.slice(2)
const database = new DatabaseSync(path)
const read = () => database.prepare("SELECT count(*) FROM t").all()

if (what === "read") read()
if (what === "readTransaction") {
  database.exec("BEGIN")
  read()
}
if (what === "writeTransaction") database.exec("BEGIN IMMEDIATE; UPDATE t SET v = 'unfinished'")
writeSync(1, "ready\n")
setInterval(() => database.isOpen, 1000)

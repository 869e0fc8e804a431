/**
 * Keeps a database open with SQLite, in a transaction that reads, until its standard input ends.
 */
import { DatabaseSync } from "node:sqlite"

const [, , path = ""] = process.argv
const database = new DatabaseSync(path)
database.exec("BEGIN")
database.prepare("SELECT count(*) FROM sqlite_schema").get()
process.stdout.write("open\n")
process.stdin.on("end", () => database.close()).resume()

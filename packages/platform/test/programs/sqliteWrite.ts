/**
 * Writes one row with the SQLite of Node and prints its result code, 0 when it worked.
 */
import { DatabaseSync } from "node:sqlite"

const [path = ""] = process.argv.slice(2)
const database = new DatabaseSync(path)
try {
  database.exec("pragma busy_timeout = 0; create table if not exists t (x); insert into t values (1)")
  console.log(0)
} catch (cause) {
  console.log(cause instanceof Error && "errcode" in cause ? cause.errcode : cause)
}
database.close()

/**
 * `bench commit`, `bench parallel` and `bench native`: each writer changes its own page of a database, through the pager,
 * with the automatic checkpoints that an application has; over the SQLite WAL, the parallel log and the native one.
 *
 * @since 0.1.0
 */
import { Pager } from "@tidemark/coordinator/Pager"
import { toPageNumber } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import { type DatabaseLog, withEngine, withSqlite } from "../database.ts"
import type { Bench } from "./runBench.ts"

const pageBytes = 4096
/** Of the image of an overflow page, so that the database stays one: the rest of it is nobody's but the writer's. */
const counterOffset = pageBytes - 8
/** The header's page, and the root of the table. */
const pagesBefore = 2

const benchOver = (name: string, log: DatabaseLog): Bench => ({
  name,
  run: Effect.fnUntraced(function*(directory, writers, measure) {
    const database = `${directory}/bench.db`
    yield* withSqlite(database, (sqlite) =>
      sqlite.exec(
        `PRAGMA page_size = ${pageBytes}; PRAGMA journal_mode = WAL; CREATE TABLE filler (bytes BLOB); ` +
          `INSERT INTO filler VALUES (zeroblob(${(writers + pagesBefore) * pageBytes}))`
      ))
    const commitAll = Effect.gen(function*() {
      const pager = yield* Pager
      const commitOf = Array.from({ length: writers }, (_, writer) => {
        const page = toPageNumber(pagesBefore + 1 + writer)
        let count = 0
        return pager.withTransaction((transaction) =>
          Effect.flatMap(transaction.read(page), (image) => {
            const bytes = Uint8Array.from(image)
            new DataView(bytes.buffer).setFloat64(counterOffset, ++count)
            return transaction.write(page, bytes)
          })
        )
      })
      return yield* measure((writer) => commitOf[writer] ?? Effect.void)
    })
    return yield* withEngine(database, log, commitAll)
  })
})

/**
 * @category benches
 * @since 0.1.0
 */
export const benchCommit: Bench = benchOver("commit", "sqlite")

/**
 * @category benches
 * @since 0.1.0
 */
export const benchParallel: Bench = benchOver("parallel", "parallel")

/**
 * @category benches
 * @since 0.1.0
 */
export const benchNative: Bench = benchOver("native", "native")

/**
 * Commits the transactions recorded beside a database, some at a time, prints the number of each when it is
 * acknowledged, and waits to be killed. Never closes. Arguments: database, `"nothing"` or a checkpoint mode to run in
 * between.
 */
import { NodeVfs } from "@tidemark/platform"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { writeSync } from "node:fs"
import { CommitLog } from "../../src/CommitLog.ts"
import * as SqliteWal from "../../src/SqliteWal.ts"
import { readRecorded } from "../support/sqliteRecording.ts"
import { commit } from "../support/sqliteWal.ts"

const [database = "", between = "nothing"] = process.argv.slice(2)
const transactions = readRecorded(database)

setInterval(() => {}, 1000)
await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
  const context = yield* Layer.build(SqliteWal.layer({ database }).pipe(Layer.provide(NodeVfs.layer)))
  const log = Context.get(context, CommitLog)
  const wal = Context.get(context, SqliteWal.SqliteWal)
  let handedOver = log.published().commitSeq
  let next = 0
  const writer = Effect.gen(function*() {
    while (next < transactions.length) {
      const number = next++
      const transaction = transactions[number]
      if (transaction === undefined) return
      yield* commit(
        log,
        () => ({ written: transaction.pages, databasePages: transaction.databasePages }),
        {
          lastSeq: () => handedOver,
          entered: (seq) => {
            handedOver = seq
          },
          // Synchronously, so that what is in the pipe was acknowledged.
          acknowledged: () => writeSync(1, `${number + 1}\n`),
          maxPages: transaction.pages.size
        }
      )
      if (between !== "nothing" && number % 8 === 7) {
        yield* wal.checkpoint(between === "truncate" ? "truncate" : "passive")
      }
    }
  })
  yield* Effect.all([writer, writer, writer, writer], { concurrency: "unbounded" })
  writeSync(1, "done\n")
  return yield* Effect.never
})))

/**
 * Other processes that have a database open. SQLite's is one too: the locks that it takes are those of a process, and
 * reading the same file in the process of the test would drop them.
 */
import { Effect } from "effect"
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"

const heldBy = (program: string) => (database: string) =>
  Effect.acquireRelease(
    Effect.promise(() =>
      new Promise<{ readonly close: () => Promise<void> }>((resolve, reject) => {
        const path = fileURLToPath(new URL(`../programs/${program}`, import.meta.url))
        const child = spawn(process.execPath, [path, database], { stdio: ["pipe", "pipe", "inherit"] })
        const closed = new Promise<void>((done) => {
          child.on("close", () => done())
        })
        child.on("error", reject)
        child.on("exit", () => reject(new Error("the holder could not open the database")))
        child.stdout.once("data", () =>
          resolve({
            close: () => {
              child.stdin.end()
              return closed
            }
          }))
      })
    ),
    (holder) => Effect.promise(holder.close)
  )

/** A process of Tidemark that has the database open for as long as the scope is. */
export const heldByTidemark = heldBy("holdDatabase.ts")

/** A process that has an append log open and writes it all the time, for as long as the scope is open. */
export const heldByWriter = heldBy("writeLog.ts")

/** A process that writes a database through a parallel log, and checkpoints it, all the time. */
export const heldByParallelWriter = heldBy("writeParallel.ts")

/** The same through a native log, with four writers. */
export const heldByNativeWriter = heldBy("writeNative.ts")

/** A process in which SQLite reads the database, in a transaction, for as long as the scope is open. */
export const heldBySqlite = heldBy("holdWithSqlite.ts")

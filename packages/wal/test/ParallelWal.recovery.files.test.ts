/** Real files and real transactions: stock SQLite refuses the database before the checkpoint and reads it after it. */
import { assert, describe, it } from "@effect/vitest"
import { toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as Effect from "effect/Effect"
import { existsSync, readdirSync } from "node:fs"
import { join } from "node:path"
import type * as ParallelWal from "../src/ParallelWal.ts"
import { startProgram, temporaryDirectory } from "./support/children.ts"
import { openParallelOn } from "./support/parallelWal.ts"
import { expectedRows, inspectWithSqlite, readRecorded, recordTransactions } from "./support/sqliteRecording.ts"
import { commit, openOn } from "./support/sqliteWal.ts"

const open = (database: string, options: Partial<ParallelWal.ParallelWalOptions> = {}) =>
  openParallelOn(NodeVfs.layer, { database, ...options })

const segmentsIn = (directory: string) => readdirSync(directory).filter((name) => name.includes("-wal-seg-"))

/** SQLite's codes for "this is no database that I know" and "somebody else is in". */
const isRefused = (line: string | undefined) => line?.split(" ")[0] === "26"
const isLockedOut = (line: string | undefined) => ["5", "15"].includes(line?.split(" ")[0] ?? "")
const isKeptOut = (line: string | undefined) => isRefused(line) || isLockedOut(line)

/** Commits the transactions from `first` on that SQLite has recorded, with the engine's own ticker and controller. */
const replay = (path: string, opened: Effect.Success<ReturnType<typeof open>>, first: number, end: number) =>
  Effect.gen(function*() {
    let last = opened.log.published().commitSeq
    const transactions = readRecorded(path).slice(first, end)
    const one = (pages: ReadonlyMap<number, Uint8Array>, databasePages: number) =>
      commit(opened.log, () => ({ written: pages, databasePages }), {
        lastSeq: () => last,
        entered: (seq) => {
          last = seq
        },
        maxPages: pages.size
      })
    yield* Effect.forEach(transactions, ({ databasePages, pages }) => one(pages, databasePages), { concurrency: 8 })
    return last
  })

describe.skipIf(process.platform !== "linux")("ParallelWal on real files", () => {
  it.live.each(["passive", "full", "restart", "truncate"] as const)(
    "PW-28 SQLite refuses the database until everything is in it, and finds every row then (%s)",
    (mode) =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const path = join(directory, "test.db")
        recordTransactions(path, 4096, 60)
        const opened = yield* open(path, { checkpointOnClose: false, autoCheckpointFrames: 0 })
        const child = yield* startProgram("sqliteLoop.ts", [path, "read", "anew"])
        assert.strictEqual(yield* replay(path, opened, 0, 30), toCommitSeq(30n))
        yield* child.until((lines) => lines.length > 3)
        assert.isTrue(child.lines.slice(1).every(isKeptOut), child.lines.join(", "))
        const seen = child.lines.length
        yield* opened.close
        assert.isTrue(segmentsIn(directory).length > 0)
        // Nobody holds a lock now: it is the version bytes that keep it out, from the first line of that kind on.
        const unlocked = (lines: ReadonlyArray<string>) => lines.slice(seen).filter((line) => !isLockedOut(line))
        yield* child.until((lines) => unlocked(lines).length > 3)
        assert.isTrue(unlocked(child.lines).every(isRefused), child.lines.slice(seen).join(", "))
        assert.throws(() => inspectWithSqlite(path), /not a database/)

        const again = yield* open(path, { checkpointOnClose: false, autoCheckpointFrames: 10 })
        assert.strictEqual(again.wal.startUp.case, "RC-06")
        assert.strictEqual(yield* replay(path, again, 30, 60), toCommitSeq(60n))
        yield* again.wal.checkpoint(mode)
        assert.deepStrictEqual(segmentsIn(directory), [])
        yield* again.close
        if (mode === "passive") {
          assert.throws(() => inspectWithSqlite(path), /not a database/)
          yield* Effect.flatMap(open(path), ({ close }) => close)
        }
        yield* child.until((lines) => lines.at(-1)?.startsWith("0 ") === true)
        yield* child.kill
        const found = inspectWithSqlite(path)
        assert.deepStrictEqual(found.integrity, ["ok"])
        assert.deepStrictEqual(found.rows, expectedRows(60))
      })
  )

  it.live("PW-28 what stock SQLite does in between is there, and sequences never go back", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = join(directory, "test.db")
      recordTransactions(path, 1024, 40)
      const first = yield* open(path)
      yield* replay(path, first, 0, 20)
      yield* first.close
      assert.deepStrictEqual(inspectWithSqlite(path).rows, expectedRows(20))
      const sqlite = yield* openOn(NodeVfs.layer, { database: path })
      assert.strictEqual(sqlite.log.published().commitSeq, toCommitSeq(20n))
      yield* sqlite.close
      const second = yield* open(path)
      const reader = second.log.openReader()
      assert.strictEqual(reader.high, toCommitSeq(20n))
      assert.deepStrictEqual(yield* reader.read(toPageNumber(1)), reader.readSync(toPageNumber(1)))
      reader.release()
      assert.strictEqual(yield* replay(path, second, 20, 40), toCommitSeq(40n))
      yield* second.close
      assert.isFalse(existsSync(`${path}-journal`))
      const found = inspectWithSqlite(path)
      assert.deepStrictEqual(found.integrity, ["ok"])
      assert.deepStrictEqual(found.rows, expectedRows(40))
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { markersDirectory } from "@tidemark/wal/MarkerFormat"
import { Effect } from "effect"
import { copyFileSync, existsSync, readFileSync, truncateSync } from "node:fs"
import { DatabaseSync } from "node:sqlite"
import { makeDatabase, readWithSqlite } from "./support/databases.ts"
import { makeNative } from "./support/nativeDatabases.ts"
import { makeParallel } from "./support/parallelDatabases.ts"
import {
  assertFailed,
  assertWrongUsage,
  documentOf,
  temporaryDirectory,
  tidemark,
  unchanged
} from "./support/program.ts"

describe.each(["sqlite", "parallel", "native"] as const)("replay --log %s", (log) => {
  it.effect("brings a copy of the base to the bytes that SQLite's own checkpoint leaves", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { base, path, wal } = makeDatabase(directory, "a", { commits: 300, pageSize: 512 })
      const ended = yield* tidemark("replay", wal, base, "--writers", "8", "--log", log, "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      const document = documentOf(ended)
      assert.deepInclude(document, { transactions: 300, committed: 300, conflicts: 0, integrityCheck: "ok", log })
      assert.isAbove(Number(document["commitsPerSecond"]), 0)
      assert.strictEqual(existsSync(`${base}-wal-cert`), log === "parallel")
      assert.strictEqual(existsSync(markersDirectory(base)), log === "native")
      const sqlite = new DatabaseSync(path)
      sqlite.exec("PRAGMA wal_checkpoint(TRUNCATE)")
      sqlite.close()
      assert.deepStrictEqual(readFileSync(base), readFileSync(path))
    }))

  it.effect("follows a database that grows and shrinks", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const live = `${directory}/live.db`
      const base = `${directory}/base.db`
      const database = new DatabaseSync(live)
      database.exec("PRAGMA page_size = 1024; PRAGMA auto_vacuum = FULL; PRAGMA journal_mode = WAL")
      database.exec("PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB)")
      database.exec("PRAGMA wal_checkpoint(TRUNCATE)")
      copyFileSync(live, base)
      for (let id = 1; id <= 60; id++) {
        database.exec(`INSERT INTO t VALUES (${id}, zeroblob(${id * 331 % 5000}))`)
        if (id % 7 === 0) database.exec(`DELETE FROM t WHERE id % 5 = ${id % 5}`)
      }
      copyFileSync(`${live}-wal`, `${directory}/recorded`)
      database.close()
      const ended = yield* tidemark("replay", `${directory}/recorded`, base, "--log", log, "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      assert.deepInclude(documentOf(ended), { transactions: 68, committed: 68, integrityCheck: "ok" })
      assert.deepStrictEqual(readFileSync(base), readFileSync(live))
    }))

  it.effect("refuses, having changed nothing, what does not fit together", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { base, path, wal } = makeDatabase(directory, "a")
      const other = makeDatabase(directory, "b", { pageSize: 1024 })
      assertFailed(
        yield* unchanged(directory, "replay", other.wal, base, "--log", log, "--json"),
        "OperationFailed",
        /pages of 1024 bytes \(byte 8\).* 4096/
      )
      const replay = (source: string, database: string, ...args: ReadonlyArray<string>) =>
        unchanged(directory, "replay", source, database, "--log", log, ...args)
      assertWrongUsage(yield* replay(wal, path, "--json"), /is the log of .* itself/)
      assertFailed(yield* replay(path, base), "OperationFailed", /no SQLite WAL .*byte 0/)
      assertFailed(yield* replay(wal, `${directory}/none.db`), "OperationFailed", /no database/)
      assertWrongUsage(yield* replay(wal, base, "--writers", "0"), /--writers/)
      truncateSync(wal, 30)
      assertFailed(yield* replay(wal, base, "--json"), "OperationFailed", /30 bytes/)
    }))
})

describe("replay", () => {
  it.effect("RC-23 refuses to write the parallel log beside commits of the SQLite WAL", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = makeDatabase(directory, "a")
      const other = makeDatabase(directory, "b")
      assertFailed(
        yield* unchanged(directory, "replay", other.wal, path, "--log", "parallel", "--json"),
        "WrongLogKind",
        /a\.db/
      )
    }))

  for (const [log, make] of [["parallel", makeParallel], ["native", makeNative]] as const) {
    it.effect(`RC-23 goes on with the ${log} log that the database is in the middle of, and with no other one`, () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const { commits, path } = yield* make(directory, "a")
        // What it has committed already: whole pages, which the same transactions leave as they are.
        const args = [`${directory}/a-recorded.db-wal`, path, "--json"]
        assertFailed(yield* unchanged(directory, "replay", ...args), "WrongLogKind", /a\.db/)
        const ended = yield* tidemark("replay", "--log", log, ...args)
        assert.strictEqual(ended.code, 0, ended.stderr)
        assert.deepInclude(documentOf(ended), { committed: commits, integrityCheck: "ok" })
        assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
        assert.deepInclude(documentOf(yield* tidemark("verify", path, "--json")), { ok: true, tip: `${2 * commits}` })
      }))
  }

  it.effect("answers wrong usage when there is no such log", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { base, wal } = makeDatabase(directory, "a")
      assertWrongUsage(
        yield* unchanged(directory, "replay", wal, base, "--log", "wal", "--json"),
        /no log "wal" .*it has: sqlite, parallel, native/
      )
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { appendFileSync, copyFileSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { makeDatabase, readWithSqlite } from "./support/databases.ts"
import { heldBySqlite, heldByTidemark } from "./support/holder.ts"
import {
  assertFailed,
  documentOf,
  mainPath,
  runCommand,
  temporaryDirectory,
  tidemark,
  unchanged
} from "./support/program.ts"
import { canMount, smallFileSystem } from "./support/smallFileSystem.ts"

describe("recover", () => {
  it.effect("copies every commit into the database, which SQLite then reads without the log", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { commits, path, wal } = makeDatabase(directory, "a", { commits: 40 })
      const ended = yield* tidemark("recover", path, "--json")
      assert.strictEqual(ended.code, 0)
      assert.deepInclude(documentOf(ended), { case: "RC-02", tip: String(commits), pagesApplied: 1, droppedBytes: 0 })
      assert.strictEqual(statSync(wal).size, 0)
      assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
      const again = documentOf(yield* tidemark("recover", path, "--json"))
      assert.deepInclude(again, { tip: String(commits), pagesApplied: 0, droppedBytes: 0 })
    }))

  it.effect("RC-03 drops a torn tail and says how much of it", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { commits, path, wal } = makeDatabase(directory, "a")
      truncateSync(wal, statSync(wal).size - 1000)
      const ended = yield* tidemark("recover", path, "--json")
      assert.strictEqual(ended.code, 0)
      assert.deepInclude(documentOf(ended), { case: "RC-03", tip: String(commits - 1), droppedBytes: 24 + 4096 - 1000 })
      assert.deepStrictEqual(readWithSqlite(path), { rows: commits - 1, integrity: "ok" })
    }))

  it.effect("does not call a database whole whose file has lost pages that no log holds", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = makeDatabase(directory, "a")
      assert.deepInclude(documentOf(yield* tidemark("recover", path, "--json")), { problems: [] })
      truncateSync(path, 4096)
      const ended = yield* tidemark("recover", path, "--json")
      assert.strictEqual(ended.code, 1, ended.stderr)
      const what = "1 of 2 pages, page 2 first, are in no file"
      assert.deepStrictEqual(documentOf(ended)["problems"], [{ path, offset: 4096, what, severity: "corrupt" }])
      const text = yield* tidemark("recover", path)
      assert.strictEqual(text.code, 1, text.stderr)
      assert.match(text.stdout, /recovered, but not whole\n[^]*corrupt in .* at byte 4,096: 1 of 2 pages/)
    }))

  it.effect("refuses, having changed nothing, what cannot be opened safely, and goes on with --accept-loss", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path, wal } = makeDatabase(directory, "a")
      const bytes = readFileSync(wal)
      bytes[32 + 2 * (24 + 4096) + 100] = 0xff
      writeFileSync(wal, bytes)
      assertFailed(yield* unchanged(directory, "recover", path, "--json"), "WalDamaged", /frame 2 .* at byte 8272/)
      const accepted = yield* tidemark("recover", path, "--accept-loss", "--json")
      assert.strictEqual(accepted.code, 0)
      assert.deepInclude(documentOf(accepted), { tip: "2", droppedBytes: 3 * (24 + 4096) })
      assert.deepStrictEqual(readWithSqlite(path), { rows: 2, integrity: "ok" })

      const other = makeDatabase(directory, "b", { pageSize: 1024 })
      copyFileSync(other.wal, wal)
      assertFailed(yield* unchanged(directory, "recover", path, "--json"), "PageSizeMismatch", /1024 bytes.* 4096/)
      writeFileSync(`${directory}/text.db`, "this is no database\n".repeat(20))
      assertFailed(
        yield* unchanged(directory, "recover", `${directory}/text.db`, "--json"),
        "NotADatabase",
        /text\.db is not a SQLite database .*byte 0/
      )
      truncateSync(`${directory}/text.db`, 40)
      assertFailed(yield* unchanged(directory, "recover", `${directory}/text.db`), "NotADatabase", /byte 0/)
      assertFailed(
        yield* unchanged(directory, "recover", `${directory}/none.db`, "--json"),
        "VfsError",
        /none\.db.*ENOENT/
      )
      assertFailed(yield* unchanged(directory, "recover", `${path}/in/it.db`, "--json"), "VfsError", /ENOTDIR/)
    }))

  it.effect("SWAL-10 refuses a database that SQLite or another process of Tidemark has open", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = makeDatabase(directory, "a")
      yield* Effect.scoped(Effect.gen(function*() {
        yield* heldByTidemark(path)
        assertFailed(yield* unchanged(directory, "recover", path, "--json"), "LogLocked", /is open in another Tidemark/)
        assertFailed(yield* unchanged(directory, "checkpoint", path), "LogLocked", /is open in another Tidemark/)
      }))
      yield* Effect.scoped(Effect.gen(function*() {
        yield* heldBySqlite(path)
        assertFailed(yield* unchanged(directory, "recover", path, "--json"), "Busy", /SQLite has .*a\.db open/)
      }))
      assert.strictEqual((yield* tidemark("recover", path)).code, 0)
    }))

  it.effect("SWAL-08 fails with one sentence when a file may not grow, and can be run again", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { commits, path } = makeDatabase(directory, "a", { commits: 500 })
      // Blocks of 512 bytes: enough for the small files, too little for the log, which is written back first.
      const limited = "trap '' XFSZ; ulimit -f 16; exec \"$@\""
      const args = ["-c", limited, "sh", process.execPath, mainPath, "recover", path, "--json"]
      assertFailed(yield* runCommand("sh", args), "VfsError", /a\.db-wal.* larger than is allowed \(EFBIG\)/)
      assert.strictEqual((yield* tidemark("recover", path)).code, 0)
      assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
    }))

  it.effect.skipIf(!canMount)(
    "fails with one sentence when the disk is full, and loses nothing",
    () =>
      Effect.gen(function*() {
        const directory = yield* smallFileSystem(300 * 1024)
        const elsewhere = yield* temporaryDirectory
        const { commits, path, wal } = makeDatabase(elsewhere, "a", { commits: 30 })
        copyFileSync(path, `${directory}/a.db`)
        copyFileSync(wal, `${directory}/a.db-wal`)
        // Not a block is left, so that not even the small files of the side directory can be made.
        yield* Effect.sync(() => {
          try {
            for (;;) appendFileSync(`${directory}/filler`, Buffer.alloc(1024))
          } catch {
            // Full: that is what it is for.
          }
        })
        assertFailed(
          yield* tidemark("recover", `${directory}/a.db`, "--json"),
          "VfsError",
          /the disk is full \(ENOSPC\)/
        )
        truncateSync(`${directory}/filler`, 0)
        assert.strictEqual((yield* tidemark("recover", `${directory}/a.db`)).code, 0)
        assert.deepStrictEqual(readWithSqlite(`${directory}/a.db`), { rows: commits, integrity: "ok" })
      })
  )
})

describe("checkpoint", () => {
  it.effect("SWAL-07 copies frames in the mode it is told, and leaves the log as the mode says", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { commits, path, wal } = makeDatabase(directory, "a")
      const passive = documentOf(yield* tidemark("checkpoint", path, "--json"))
      assert.deepInclude(passive, { mode: "passive", framesBefore: commits, framesCopied: commits, blocked: false })
      assert.isAbove(statSync(wal).size, 0)
      const truncate = documentOf(yield* tidemark("checkpoint", path, "--mode", "truncate", "--json"))
      assert.deepInclude(truncate, { mode: "truncate", framesBefore: commits, blocked: false })
      assert.strictEqual(statSync(wal).size, 0)
      assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { appendFileSync, copyFileSync, readFileSync, statSync, truncateSync } from "node:fs"
import { dirname } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { recovered, verified } from "./support/databaseCommands.ts"
import { readWithSqlite } from "./support/databases.ts"
import { heldByNativeWriter } from "./support/holder.ts"
import { capsuleAt, capsulesIn, makeNative, offsetOfMarker } from "./support/nativeDatabases.ts"
import { assertFailed, documentOf, objectsIn, temporaryDirectory, tidemark } from "./support/program.ts"

describe("a database with a native log", () => {
  it.effect("RC-06 is verified, and recovered into the database file, which SQLite then reads and writes", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { commits, markers, path } = yield* makeNative(directory, "a")
      assert.throws(() => readWithSqlite(path))
      assert.deepInclude(yield* verified(directory, path), {
        path,
        log: "native",
        case: "RC-06",
        cases: ["RC-06"],
        ok: true,
        tip: String(commits),
        tipSource: "marker",
        refusal: null,
        databasePages: 2,
        markers: commits + 1,
        capsules: commits,
        records: commits,
        commits,
        isBeingWritten: false,
        isReadOnly: false,
        checkpointedThrough: null,
        unacknowledgedCapsules: [],
        damage: null,
        problems: [],
        tornTailBytes: 0
      })
      assert.match(
        (yield* tidemark("verify", path)).stdout,
        /: ok\n[^]*5 capsules, 5 records, 5 commits\n[^]*6 markers in 1 segment\n/
      )
      const history = readFileSync(markers)
      assert.deepInclude(yield* recovered(path), {
        log: "native",
        case: "RC-06",
        tip: String(commits),
        commits,
        pagesApplied: 1,
        droppedBytes: 0,
        unacknowledgedCapsules: [],
        damage: null
      })
      assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
      assert.deepStrictEqual(capsulesIn(path), [])
      assert.deepStrictEqual(readFileSync(markers), history)
      const clean = { log: "native", case: "RC-01", ok: true, tip: String(commits), markers: commits + 1, commits: 0 }
      assert.deepInclude(yield* verified(directory, path), { ...clean, checkpointedThrough: String(commits) })
      assert.deepInclude(yield* recovered(path), { case: "RC-01", tip: String(commits), pagesApplied: 0 })
      assert.deepInclude(yield* verified(directory, path), clean)
      const sqlite = new DatabaseSync(path)
      sqlite.exec(`INSERT INTO t VALUES (${commits + 1}, 'by SQLite')`)
      sqlite.close()
      assert.deepInclude(yield* verified(directory, path), { ok: true, markers: commits + 1 })
      assert.deepStrictEqual(readWithSqlite(path), { rows: commits + 1, integrity: "ok" })
    }))

  it.effect("RC-14 drops what was appended behind the last marker, and loses no commit", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { commits, markers, path } = yield* makeNative(directory, "a")
      appendFileSync(markers, Buffer.alloc(40, 0x11))
      const document = yield* verified(directory, path)
      assert.deepInclude(document, {
        case: "RC-14",
        cases: ["RC-14", "RC-06"],
        ok: false,
        refusal: null,
        tip: String(commits),
        tornTailBytes: 40
      })
      assert.deepStrictEqual(
        objectsIn(document, "problems").map(({ offset, path, severity }) => ({ offset, path, severity })),
        [{ path: markers, offset: offsetOfMarker(commits + 1), severity: "tail" }]
      )
      assert.deepInclude(yield* recovered(path), { tip: String(commits), commits, droppedBytes: 40 })
      assert.strictEqual(statSync(markers).size, offsetOfMarker(commits + 1))
      assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
    }))

  it.effect("RC-14, RC-16 has a torn marker, and a capsule that it would have named: never acknowledged, dropped", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const database = yield* makeNative(directory, "a")
      const { markers, path } = database
      const last = capsuleAt(database, 4)
      const { size } = statSync(last)
      truncateSync(markers, offsetOfMarker(6) - 30)
      const document = yield* verified(directory, path)
      assert.deepInclude(document, {
        ok: false,
        refusal: null,
        tip: "4",
        commits: 4,
        tornTailBytes: 58,
        unacknowledgedCapsules: [last]
      })
      assert.sameMembers(objectsIn(document, "problems").map(({ path }) => path), [markers, last])
      assert.isTrue(objectsIn(document, "problems").every(({ severity }) => severity === "tail"))
      assert.deepInclude(yield* recovered(path), {
        tip: "4",
        commits: 4,
        droppedBytes: 58 + size,
        unacknowledgedCapsules: [last]
      })
      assert.deepStrictEqual(capsulesIn(path), [])
      assert.deepStrictEqual(readWithSqlite(path), { rows: 4, integrity: "ok" })
      assert.deepInclude(yield* verified(directory, path), { ok: true, tip: "4" })
    }))

  it.effect("RC-21, RC-25 removes capsules that are in the database file, and files that never became any", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const database = yield* makeNative(directory, "a")
      const { commits, path } = database
      const first = capsuleAt(database, 0)
      copyFileSync(first, `${directory}/kept`)
      yield* recovered(path)
      copyFileSync(`${directory}/kept`, first)
      copyFileSync(`${directory}/kept`, `${dirname(first)}/.tmp-capsule-1`)
      assert.deepInclude(yield* verified(directory, path), {
        log: "native",
        cases: ["RC-25", "RC-21", "RC-01"],
        ok: true,
        tip: String(commits),
        checkpointedCapsules: [first]
      })
      assert.deepInclude(yield* recovered(path), { case: "RC-25", pagesApplied: 0, droppedBytes: 0 })
      assert.deepStrictEqual(capsulesIn(path), [])
      assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
    }))

  it.effect("SWAL-07 is checkpointed in the mode it is told, and opened by SQLite after each", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      for (const mode of ["passive", "full", "restart", "truncate"]) {
        const { commits, markers, path } = yield* makeNative(directory, mode, { commits: 3 })
        const ended = yield* tidemark("checkpoint", path, "--mode", mode, "--json")
        assert.strictEqual(ended.code, 0, ended.stderr)
        assert.deepInclude(documentOf(ended), {
          log: "native",
          mode,
          framesBefore: commits,
          framesCopied: commits,
          blocked: false
        })
        assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
        assert.deepStrictEqual(capsulesIn(path), [])
        assert.strictEqual(statSync(markers).size, offsetOfMarker(commits + 1))
      }
    }))

  it.effect("SWAL-10 is locked while a process writes it, and verified without a lock, in whatever state it is", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = yield* makeNative(directory, "a")
      yield* Effect.scoped(Effect.gen(function*() {
        yield* heldByNativeWriter(path)
        assertFailed(yield* tidemark("recover", path, "--json"), "LogLocked", /is open in /)
        assertFailed(yield* tidemark("checkpoint", path), "LogLocked", /is open in /)
        for (let look = 0; look < 4; look++) {
          const ended = yield* tidemark("verify", path, "--json")
          assert.strictEqual(ended.code, 0, ended.stdout + ended.stderr)
          assert.deepInclude(documentOf(ended), { log: "native", ok: true, isBeingWritten: true })
        }
      }))
      assert.deepInclude(yield* verified(directory, path), { case: "RC-01", ok: true, isBeingWritten: false })
    }))
})

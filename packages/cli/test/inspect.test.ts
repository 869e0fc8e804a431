import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { readFileSync, truncateSync, writeFileSync } from "node:fs"
import { makeDatabase } from "./support/databases.ts"
import {
  assertFailed,
  assertWrongUsage,
  documentOf,
  objectIn,
  objectsIn,
  temporaryDirectory,
  tidemark,
  unchanged
} from "./support/program.ts"

const alwaysThere = ["kind", "path", "bytes", "valid", "header", "summary", "problems"]
const walHeaderBytes = 32
const frameHeaderBytes = 24

const flip = (path: string, offset: number) => {
  const bytes = readFileSync(path)
  bytes[offset] = (bytes[offset] ?? 0) ^ 0x40
  writeFileSync(path, bytes)
}

describe("inspect", () => {
  it.effect("says what is in a WAL, and lists a range of its frames", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { commits, pageSize, wal } = makeDatabase(directory, "a", { commits: 4 })
      const ended = yield* unchanged(directory, "inspect", wal, "--records", "--from", "1", "--to", "2", "--json")
      assert.strictEqual(ended.code, 0)
      const document = documentOf(ended)
      assert.containsAllKeys(document, [...alwaysThere, "records"])
      assert.deepInclude(document, { kind: "sqlite-wal", path: wal, valid: true, problems: [] })
      assert.deepInclude(document["header"], { pageSize, checkpointSequence: 1, checksumWords: "littleEndian" })
      assert.deepInclude(document["summary"], { frames: commits, commits, tornTailBytes: 0 })
      const slot = frameHeaderBytes + pageSize
      const records = objectsIn(document, "records")
      assert.lengthOf(records, 2)
      assert.deepInclude(records[0], {
        index: 1,
        offset: walHeaderBytes + slot,
        valid: true,
        pageNumber: 2,
        databaseSizeInPages: 2
      })
    }))

  it.effect("RC-03 calls an end that belongs to no commit a tail", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { pageSize, wal } = makeDatabase(directory, "a", { commits: 3 })
      const end = walHeaderBytes + 2 * (frameHeaderBytes + pageSize)
      truncateSync(wal, end + 100)
      const ended = yield* tidemark("inspect", wal, "--records", "--json")
      assert.strictEqual(ended.code, 1)
      const document = documentOf(ended)
      assert.strictEqual(document["valid"], false)
      assert.deepInclude(document["summary"], { frames: 2, tornTailBytes: 100 })
      const [problem] = objectsIn(document, "problems")
      assert.deepInclude(problem, { offset: end, severity: "tail" })
      assert.deepStrictEqual(objectsIn(document, "records").map(({ valid }) => valid), [true, true, false])
    }))

  it.effect("RC-03 calls a bad frame with commits behind it corrupt, and every frame from there on invalid", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { pageSize, wal } = makeDatabase(directory, "a", { commits: 4 })
      const slot = frameHeaderBytes + pageSize
      flip(wal, walHeaderBytes + slot + frameHeaderBytes + 50)
      const ended = yield* tidemark("inspect", wal, "--records", "--json")
      assert.strictEqual(ended.code, 1)
      const document = documentOf(ended)
      const [problem] = objectsIn(document, "problems")
      assert.deepInclude(problem, { offset: walHeaderBytes + slot, severity: "corrupt" })
      assert.deepStrictEqual(objectsIn(document, "records").map(({ valid }) => valid), [true, false, false, false])
    }))

  it.effect("calls a frame invalid that only chains to one before a bad one", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { pageSize, wal } = makeDatabase(directory, "a", { commits: 3 })
      const bytes = readFileSync(wal)
      const cut = walHeaderBytes + frameHeaderBytes + pageSize
      const foreign = Buffer.alloc(frameHeaderBytes + pageSize, 7)
      writeFileSync(wal, Buffer.concat([bytes.subarray(0, cut), foreign, bytes.subarray(cut)]))
      const document = documentOf(yield* tidemark("inspect", wal, "--records", "--json"))
      assert.deepInclude(document["summary"], { frames: 1 })
      assert.deepStrictEqual(objectsIn(document, "records").map(({ valid }) => valid), [true, false, false, false])
    }))

  it.effect("keeps its keys for truncated headers, files of no format, empty files", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path, wal } = makeDatabase(directory, "a")
      truncateSync(wal, 20)
      truncateSync(path, 60)
      writeFileSync(`${directory}/text`, "neither a log nor a database\n".repeat(10))
      writeFileSync(`${directory}/empty`, "")
      const expected = [
        [wal, "sqlite-wal", 1],
        [path, "sqlite-database", 1],
        [`${directory}/text`, "unknown", 1],
        [`${directory}/empty`, "empty", 0]
      ] as const
      const all = yield* Effect.all(
        expected.map(([file]) => tidemark("inspect", file, "--json")),
        { concurrency: 2 }
      )
      expected.forEach(([file, kind, code], index) => {
        const ended = all[index]
        assert(ended !== undefined)
        const document = documentOf(ended)
        assert.strictEqual(ended.code, code, file)
        assert.containsAllKeys(document, alwaysThere)
        assert.deepInclude(document, { kind, path: file, valid: code === 0, header: null })
        assert.lengthOf(objectsIn(document, "problems"), code)
      })
    }))

  it.effect("reads the WAL base and the lease, 64-bit numbers as decimal strings", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { base, commits, path, wal } = makeDatabase(directory, "a")
      assert.strictEqual((yield* tidemark("replay", wal, base, "--json")).code, 0)
      const walBase = documentOf(yield* tidemark("inspect", `${base}.fsqlite/wal-base`, "--json"))
      assert.deepInclude(walBase, { kind: "wal-base", bytes: 48, valid: true })
      assert.deepInclude(walBase["header"], { sealed: true, baseCommitSequence: String(commits) })
      const lease = documentOf(yield* tidemark("inspect", `${base}.fsqlite/lease`, "--json"))
      assert.deepInclude(lease, { kind: "coordinator-lease", bytes: 56, valid: true })
      const { generation, pidBirth } = objectIn(lease, "header")
      assert.strictEqual(generation, "1")
      assert(typeof pidBirth === "string" && /^\d+$/.test(pidBirth))
      flip(`${base}.fsqlite/lease`, 20)
      const damaged = yield* tidemark("inspect", `${base}.fsqlite/lease`, "--json")
      assert.strictEqual(damaged.code, 1)
      assert.deepInclude(documentOf(damaged), { kind: "coordinator-lease", header: null })
      const database = documentOf(yield* tidemark("inspect", path, "--json"))
      assert.deepInclude(database, { kind: "sqlite-database", valid: true })
      assert.deepInclude(database["header"], { pageSize: 4096, writeVersion: 2, readVersion: 2 })
    }))

  it.effect("fails for what cannot be opened, and refuses a range that is none", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      writeFileSync(`${directory}/file`, "x")
      assertFailed(yield* tidemark("inspect", `${directory}/none`, "--json"), "VfsError", /no such file .*ENOENT/)
      assertFailed(yield* tidemark("inspect", `${directory}/file/in`, "--json"), "VfsError", /ENOTDIR/)
      assertFailed(
        yield* tidemark("inspect", directory, "--json"),
        "OperationFailed",
        /a directory without an append log/
      )
      assertWrongUsage(
        yield* tidemark("inspect", `${directory}/file`, "--from", "3", "--to", "1", "--json"),
        /--from 3/
      )
    }))

  it.effect("writes an aligned table for people, without colours into a pipe", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { wal } = makeDatabase(directory, "a", { commits: 2 })
      const { code, stdout } = yield* tidemark("inspect", wal, "--records")
      assert.strictEqual(code, 0)
      assert.notInclude(stdout, "\u001b")
      assert.match(stdout, /page size +4,096\n/)
      const lines = stdout.split("\n")
      const head = lines.findIndex((line) => /^ +index +offset +valid/.test(line))
      const [first, second] = [lines[head + 1], lines[head + 2]]
      assert.match(String(first), /^ +0 +32 +yes +2 +2 /)
      assert.match(String(second), /^ +1 +4,152 +yes +2 +2 /)
      assert.strictEqual(String(first).indexOf("yes"), String(second).indexOf("yes"))
    }))
})

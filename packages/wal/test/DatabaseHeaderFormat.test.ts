import { assert, describe, it } from "@effect/vitest"
import { InvariantViolation } from "@tidemark/core/Invariant"
import { PageSize, pageSizes } from "@tidemark/core/Scalars"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import {
  databaseHeaderBytes,
  DatabaseHeaderFromBytes,
  databasePagesOf,
  decode,
  emptyDatabasePage1,
  encode,
  isTidemarkLog,
  isWal,
  setVersions
} from "../src/DatabaseHeaderFormat.ts"
import { flipped } from "./support/walFiles.ts"

const codeOf = (bytes: Uint8Array) =>
  Result.match(decode(bytes), { onSuccess: () => "valid", onFailure: (issue) => issue.code })

const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-header-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

const openSqlite = (file: string) =>
  Effect.acquireRelease(Effect.sync(() => new DatabaseSync(file)), (database) => Effect.sync(() => database.close()))

const headerOf = (bytes: Uint8Array) => Effect.fromResult(decode(bytes))

describe("DatabaseHeaderFormat", () => {
  for (const size of pageSizes) {
    it.effect(`SWAL-09 SQLite opens our empty database of ${size}-byte pages in WAL mode and fills it`, () =>
      Effect.gen(function*() {
        const file = join(yield* temporaryDirectory, "empty.db")
        writeFileSync(file, emptyDatabasePage1(PageSize.make(size)))
        yield* Effect.scoped(Effect.gen(function*() {
          const sqlite = yield* openSqlite(file)
          const pragma = (name: string) => Object.values(sqlite.prepare(`PRAGMA ${name}`).get() ?? {})[0]
          assert.strictEqual(pragma("integrity_check"), "ok")
          assert.strictEqual(pragma("journal_mode"), "wal")
          assert.strictEqual(pragma("page_size"), size)
          assert.strictEqual(pragma("page_count"), 1)
          assert.strictEqual(pragma("encoding"), "UTF-8")
          sqlite.exec("CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(100000)), (2)")
          assert.strictEqual(pragma("integrity_check"), "ok")
        }))
        const header = yield* headerOf(readFileSync(file))
        assert.strictEqual(header.pageSize, size)
        assert.isTrue(isWal(header))
      }))
  }

  it.effect("what SQLite wrote is read, field by field", () =>
    Effect.gen(function*() {
      const file = join(yield* temporaryDirectory, "sqlite.db")
      yield* Effect.scoped(Effect.map(openSqlite(file), (sqlite) => {
        sqlite.exec(
          "PRAGMA page_size=8192; PRAGMA encoding='UTF-16le'; PRAGMA auto_vacuum=2; PRAGMA user_version=77;" +
            "PRAGMA application_id=99; CREATE TABLE t(a); CREATE TABLE u(a); INSERT INTO t VALUES (zeroblob(90000)); DELETE FROM t"
        )
      }))
      const bytes = readFileSync(file)
      const header = yield* headerOf(bytes)
      const pages = bytes.length / 8192
      const { changeCounter, firstFreelistPage, schemaCookie, sqliteVersion, ...rest } = header
      assert.deepStrictEqual(rest, {
        pageSize: PageSize.make(8192),
        writeVersion: 1,
        readVersion: 1,
        reservedBytes: 0,
        databasePages: pages,
        freelistPages: pages - 4,
        schemaFormat: 4,
        defaultCachePages: 0,
        largestRootPage: 4,
        textEncoding: 2,
        userVersion: 77,
        incrementalVacuum: 1,
        applicationId: 99,
        versionValidFor: changeCounter
      })
      assert.isAbove(firstFreelistPage, 4)
      assert.isAbove(schemaCookie, 0)
      assert.isAbove(sqliteVersion, 3_040_000)
      assert.isFalse(isWal(header))
      assert.isTrue(Buffer.from(encode(header)).equals(bytes.subarray(0, 100)), "encoding gives SQLite's bytes back")
    }))

  it("each refusal has its code, at any cut", () => {
    const bytes = emptyDatabasePage1(PageSize.make(4096)).subarray(0, databaseHeaderBytes)
    for (let length = 0; length < bytes.length; length++) {
      assert.strictEqual(codeOf(bytes.subarray(0, length)), "TooShort")
    }
    for (let offset = 0; offset < 16; offset++) assert.strictEqual(codeOf(flipped(bytes, offset)), "BadMagic")
    for (const stored of [0, 2, 256, 511, 3072, 0xffff]) {
      const changed = bytes.slice()
      new DataView(changed.buffer).setUint16(16, stored)
      assert.strictEqual(codeOf(changed), "InvalidPageSize", `${stored}`)
    }
  })

  it("every flipped bit is refused, or seen in the field that it belongs to", () => {
    const bytes = emptyDatabasePage1(PageSize.make(4096)).slice(0, databaseHeaderBytes)
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const offset = bit >> 3
      const changed = flipped(bytes, offset, 1 << (bit & 7))
      const decoded = decode(changed)
      if (Result.isFailure(decoded)) {
        assert.isBelow(offset, 18, `bit ${bit}`)
      } else {
        // The three fractions are fixed and 20 bytes are reserved: these say nothing.
        const isSilent = (offset >= 21 && offset <= 23) || (offset >= 72 && offset <= 91)
        assert.deepStrictEqual(encode(decoded.success), isSilent ? bytes : changed, `bit ${bit}`)
      }
    }
  })

  it("random bytes are refused, never a defect", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 120 }), (bytes) => {
      assert.notStrictEqual(codeOf(bytes), "valid")
    }))
  })

  it.effect("bytes 18 and 19 say where the newest commits are", () =>
    Effect.gen(function*() {
      const page = emptyDatabasePage1(PageSize.make(512))
      const before = page.slice()
      setVersions(page, 3)
      assert.deepStrictEqual([page[18], page[19]], [3, 3])
      assert.isTrue(isTidemarkLog(yield* headerOf(page)))
      assert.isFalse(isWal(yield* headerOf(page)))
      setVersions(page, 2)
      assert.deepStrictEqual(page, before)
      assert.isFalse(isTidemarkLog(yield* headerOf(page)))
      setVersions(page, 1)
      assert.isFalse(isWal(yield* headerOf(page)))
      assert.isFalse(isWal({ ...(yield* headerOf(page)), writeVersion: 2 }))
      assert.throws(() => setVersions(new Uint8Array(50), 2), InvariantViolation)
    }))

  it.effect("the size is the header's when it is current, else the file's, a partial page included", () =>
    Effect.gen(function*() {
      const header = yield* headerOf(emptyDatabasePage1(PageSize.make(512)))
      assert.strictEqual(databasePagesOf({ ...header, databasePages: 9 }, 5120), 9)
      assert.strictEqual(databasePagesOf({ ...header, databasePages: 9, changeCounter: 2 }, 5120), 10)
      assert.strictEqual(databasePagesOf({ ...header, databasePages: 0 }, 5121), 11)
    }))

  it.effect("the codec is the plain functions", () =>
    Effect.gen(function*() {
      const bytes = emptyDatabasePage1(PageSize.make(65536)).slice(0, 100)
      const header = yield* Schema.decodeEffect(DatabaseHeaderFromBytes)(bytes)
      assert.strictEqual(header.pageSize, 65536)
      assert.deepStrictEqual(yield* Schema.encodeEffect(DatabaseHeaderFromBytes)(header), bytes)
      const refused = yield* Effect.flip(Schema.decodeEffect(DatabaseHeaderFromBytes)(flipped(bytes, 3)))
      assert.include(refused.message, "magic at byte 3")
    }))
})

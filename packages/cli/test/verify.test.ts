import { assert, describe, it } from "@effect/vitest"
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import * as NativeCoordinator from "@tidemark/coordinator/NativeCoordinator"
import * as Pager from "@tidemark/coordinator/Pager"
import { toPageNumber } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as NativeLog from "@tidemark/wal/NativeLog"
import * as ParallelWal from "@tidemark/wal/ParallelWal"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import { Effect, Layer } from "effect"
import { copyFileSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { makeDatabase } from "./support/databases.ts"
import { heldByTidemark } from "./support/holder.ts"
import {
  assertFailed,
  documentOf,
  objectIn,
  objectsIn,
  temporaryDirectory,
  tidemark,
  unchanged
} from "./support/program.ts"

describe("verify", () => {
  const alwaysThere = ["case", "cases", "ok", "tip", "problems", "tornTailBytes"]

  it.effect("RC-01, RC-02 says that all is well, changes nothing and makes no file", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { base, commits, path } = makeDatabase(directory, "a")
      const withWal = yield* unchanged(directory, "verify", path, "--json")
      assert.strictEqual(withWal.code, 0)
      assert.containsAllKeys(documentOf(withWal), alwaysThere)
      assert.deepInclude(documentOf(withWal), {
        case: "RC-02",
        cases: ["RC-02"],
        ok: true,
        tip: String(commits),
        problems: [],
        tornTailBytes: 0
      })
      const without = yield* unchanged(directory, "verify", base, "--json")
      assert.strictEqual(without.code, 0)
      assert.deepInclude(documentOf(without), { case: "RC-01", ok: true, tip: "0" })
    }))

  it.effect("RC-03 reports a torn tail with its size", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path, wal } = makeDatabase(directory, "a")
      const { size } = statSync(wal)
      truncateSync(wal, size - 1)
      const ended = yield* unchanged(directory, "verify", path, "--json")
      assert.strictEqual(ended.code, 1)
      const document = documentOf(ended)
      assert.containsAllKeys(document, alwaysThere)
      assert.deepInclude(document, { case: "RC-03", ok: false, tip: "4", tornTailBytes: 24 + 4096 - 1 })
      assert.deepInclude(objectsIn(document, "problems")[0], { path: wal, severity: "tail" })
    }))

  it.effect("reports what a start would refuse: no database, a WAL of another page size", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = makeDatabase(directory, "a")
      const other = makeDatabase(directory, "b", { pageSize: 1024 })
      copyFileSync(other.wal, `${path}-wal`)
      writeFileSync(`${directory}/text.db`, "this is no database\n".repeat(20))
      const mismatch = yield* unchanged(directory, "verify", path, "--json")
      assert.strictEqual(mismatch.code, 1)
      assert.containsAllKeys(documentOf(mismatch), alwaysThere)
      assert.deepInclude(documentOf(mismatch), { case: "RC-05", ok: false })
      assert.deepInclude(objectIn(documentOf(mismatch), "refusal"), { tag: "PageSizeMismatch" })
      const text = yield* unchanged(directory, "verify", `${directory}/text.db`, "--json")
      assert.strictEqual(text.code, 1)
      assert.deepInclude(objectIn(documentOf(text), "refusal"), { tag: "NotADatabase" })
    }))

  it.effect("RC-02, RC-06 does not call a database well whose file is gone, although its log holds every page", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const overPages = Pager.layer.pipe(Layer.provide(CompatCoordinator.layer))
      const made = {
        sqlite: (database: string) => overPages.pipe(Layer.provide(SqliteWal.layer({ database, create: {} }))),
        parallel: (database: string) =>
          overPages.pipe(Layer.provide(ParallelWal.layer({ database, create: {}, checkpointOnClose: false }))),
        native: (database: string) =>
          Pager.layerNative.pipe(
            Layer.provide(NativeCoordinator.layer),
            Layer.provide(NativeLog.layer({ database, create: {}, checkpointOnClose: false }))
          )
      }
      for (const [log, layer] of Object.entries(made)) {
        const path = `${directory}/${log}.db`
        yield* Effect.flatMap(
          Pager.Pager,
          (pager) => pager.withTransaction((tx) => tx.write(toPageNumber(2), new Uint8Array(pager.pageSize).fill(7)))
        ).pipe(Effect.provide(layer(path).pipe(Layer.provide(NodeVfs.layer)), { local: true }))
        rmSync(path)
        const verified = yield* unchanged(directory, "verify", path, "--json")
        assert.strictEqual(verified.code, 1, log)
        const document = documentOf(verified)
        assert.deepInclude(document, { log, ok: false, refusal: null })
        assert.deepInclude(objectsIn(document, "problems")[0], { path, severity: "corrupt" })
        assert.match(String(objectsIn(document, "problems")[0]?.["what"]), /there is no database file/)
        assertFailed(yield* unchanged(directory, "recover", path, "--json"), "VfsError", /ENOENT/)
        if (log === "native") assert.strictEqual((yield* unchanged(directory, "inspect", path)).code, 1)
        // What the problem says to do.
        writeFileSync(path, "")
        assert.strictEqual((yield* tidemark("recover", path)).code, 0, log)
        assert.strictEqual(readFileSync(path)[2 * 4096 - 1], 7)
      }
    }))

  it.effect("fails where there is nothing to verify", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = makeDatabase(directory, "a")
      assertFailed(
        yield* unchanged(directory, "verify", `${directory}/none.db`, "--json"),
        "OperationFailed",
        /no database/
      )
      assertFailed(yield* unchanged(directory, "verify", directory, "--json"), "OperationFailed", /is a directory/)
      assertFailed(yield* unchanged(directory, "verify", `${path}/in`, "--json"), "VfsError", /ENOTDIR/)
    }))

  it.effect("takes no lock: it works while another process has the database open", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = makeDatabase(directory, "a")
      yield* heldByTidemark(path)
      const ended = yield* unchanged(directory, "verify", path, "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
    }))
})

import { assert, describe, it } from "@effect/vitest"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Effect, Layer } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { countTo, engine } from "../counters.ts"

describe("counters", () => {
  const directory = Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-counters-"))),
    (path) => Effect.sync(() => rmSync(path, { recursive: true }))
  )

  it.live("PG-08 PG-05 counts every fiber once over files, and SQLite opens the result", () =>
    Effect.gen(function*() {
      const database = join(yield* directory, "counters.db")
      const run = countTo(64).pipe(Effect.provide(engine(database).pipe(Layer.provide(NodeVfs.layer)), { local: true }))
      assert.strictEqual(yield* run, 64)
      assert.strictEqual(yield* run, 128)
      const sqlite = new DatabaseSync(database)
      assert.deepStrictEqual({ ...sqlite.prepare("PRAGMA journal_mode").get() }, { journal_mode: "wal" })
      sqlite.close()
    }))

  it.effect("PG-08 the same program counts in memory", () =>
    Effect.gen(function*() {
      const layer = engine("/counters.db").pipe(Layer.provide(MemoryVfs.layer))
      assert.strictEqual(yield* countTo(64).pipe(Effect.provide(layer)), 64)
    }))
})

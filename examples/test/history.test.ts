import { assert, describe, it } from "@effect/vitest"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Effect, Layer } from "effect"
import { mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { committedBy, deposit, engine, history } from "../history.ts"

const directory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-history-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true }))
)

describe("history", () => {
  it.live("CO-09 RC-21 keeps the history over files while its capsules go, and SQLite opens the result", () =>
    Effect.gen(function*() {
      const database = join(yield* directory, "history.db")
      const run = <A, E, R>(body: Effect.Effect<A, E, R>) =>
        body.pipe(Effect.provide(engine(database).pipe(Layer.provide(NodeVfs.layer)), { local: true }))
      const capsules = () => readdirSync(`${database}.fsqlite/capsules`)
      assert.strictEqual(yield* run(deposit(16)), 16)
      assert.deepStrictEqual(capsules(), [])
      const first = yield* run(history)
      assert.strictEqual(first.length, 16)
      assert.strictEqual(yield* run(deposit(16)), 32)
      const both = yield* run(history)
      assert.deepStrictEqual(both.slice(0, 16), first)
      assert.deepStrictEqual(both.map(({ seq }) => seq), Array.from({ length: 32 }, (_, at) => BigInt(at + 1)))

      const sqlite = new DatabaseSync(database)
      assert.deepStrictEqual({ ...sqlite.prepare("PRAGMA journal_mode").get() }, { journal_mode: "wal" })
      sqlite.close()
    }))

  it.effect("PG-08 the same program runs in memory, and finds the commit of a time", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* deposit(4), 4)
      const commits = yield* history
      const [first] = commits
      const last = commits.at(-1)
      assert.isDefined(first)
      assert.isDefined(last)
      assert.strictEqual(yield* committedBy(last.timeUnixNanos), last.seq)
      assert.isUndefined(yield* committedBy(first.timeUnixNanos - 1n))
    }).pipe(Effect.provide(engine("/history.db").pipe(Layer.provide(MemoryVfs.layer)))))
})

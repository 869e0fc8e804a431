import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import type { WriterJob } from "../src/demo/WriterProtocol.ts"
import {
  assertFailed,
  assertNoStack,
  assertWrongUsage,
  documentOf,
  mainPath,
  runCommand,
  temporaryDirectory,
  tidemark
} from "./support/program.ts"
import { canMount, smallFileSystem } from "./support/smallFileSystem.ts"

const alwaysThere = [
  "writers",
  "transactions",
  "acknowledged",
  "recovered",
  "lost",
  "duplicated",
  "conflicts",
  "retries",
  "syncs",
  "commitsPerSync",
  "commitsPerSecond",
  "sqliteCommitsPerSecond",
  "speedup",
  "integrityCheck",
  "database"
]

const isFine = {
  lost: 0,
  duplicated: 0,
  lostAdditions: 0,
  differingRows: 0,
  unknownTokens: 0,
  integrityCheck: "ok"
} as const

/** The row of the start-up table that applies to the log of a process that was killed while it was committing. */
const caseOf = { sqlite: "RC-02", parallel: "RC-06", native: "RC-06" } as const

describe.each(["sqlite", "parallel", "native"] as const)("demo --log %s", (log) => {
  it.effect("loses nothing and repeats nothing when the process is killed at random moments, three times", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      let foundUnacknowledged = 0
      let afterKill = 0
      let conflicts = 0
      const cases = new Set<string>()
      for (const seed of ["11", "12", "13"]) {
        const args = ["--transactions", "500", "--kill", "random", "--seed", seed, "--dir", directory, "--json"]
        const ended = yield* tidemark("demo", "--log", log, ...args)
        assert.strictEqual(ended.code, 0, ended.stderr)
        const document = documentOf(ended)
        assert.containsAllKeys(document, alwaysThere)
        assert.deepInclude(document, {
          ...isFine,
          log,
          writers: 64,
          transactions: 500,
          acknowledged: 500,
          database: null,
          seed: Number(seed)
        })
        // What was acknowledged before the kill was recovered, and the rest was committed after it.
        const before = Number(document["acknowledgedBeforeKill"])
        const found = Number(document["foundUnacknowledged"])
        const after = Number(document["acknowledgedAfterKill"])
        assert.strictEqual(before + found + after, 500)
        assert.strictEqual(document["recovered"], before + found)
        assert.isAbove(before, 0)
        const rows = document["startUpCases"]
        assert(Array.isArray(rows))
        for (const row of rows) cases.add(String(row))
        foundUnacknowledged += found
        afterKill += after
        conflicts += Number(document["conflicts"])
        // The native log syncs the capsule of every commit.
        assert.isAbove(Number(document["commitsPerSync"]), log === "native" ? 0 : 1)
        for (const rate of ["commitsPerSecond", "sqliteCommitsPerSecond", "speedup"]) {
          assert.isAbove(Number(document[rate]), 0)
        }
      }
      // Otherwise the kills came at moments that prove nothing. What became durable in an epoch of the parallel log is
      // told at once, so that a kill in between is rare.
      if (log === "sqlite") assert.isAbove(foundUnacknowledged, 0)
      assert.isAbove(afterKill, 0)
      assert.isAbove(conflicts, 0)
      assert.include([...cases], caseOf[log])
      assert.deepStrictEqual(readdirSync(directory), [])
    }))

  it.effect("commits without a kill, and keeps a database that SQLite opens", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const args = ["--transactions", "200", "--writers", "8", "--kill", "0", "--keep", "--dir", directory, "--json"]
      const ended = yield* tidemark("demo", "--log", log, ...args)
      assert.strictEqual(ended.code, 0, ended.stderr)
      const document = documentOf(ended)
      assert.deepInclude(document, {
        ...isFine,
        startUpCases: [],
        writers: 8,
        transactions: 200,
        acknowledged: 200,
        recovered: 0
      })
      const path = document["database"]
      assert(typeof path === "string" && path.startsWith(directory))
      const database = new DatabaseSync(path, { readOnly: true })
      const count = (sql: string) => Number(database.prepare(sql).get()?.["n"])
      assert.strictEqual(count("SELECT count(DISTINCT token) AS n FROM ledger WHERE token GLOB 'txn-*'"), 200)
      assert.strictEqual(count("SELECT count(*) AS n FROM ledger WHERE token GLOB 'txn-*'"), 200)
      assert.strictEqual(count("SELECT sum(value - 1000000000000) AS n FROM counters"), 10)
      database.close()
      const [run] = readdirSync(directory)
      assert.isFalse(readdirSync(`${directory}/${run}`).some((name) => !name.startsWith("accounts.db")))
    }))

  it.effect("recovers also when the kill comes after the last acknowledgement", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const args = ["demo", "--log", log, "--transactions", "100", "--kill", "1", "--dir", directory, "--json"]
      const ended = yield* tidemark(...args)
      assert.strictEqual(ended.code, 0, ended.stderr)
      assert.deepInclude(documentOf(ended), { ...isFine, acknowledged: 100, recovered: 100, acknowledgedAfterKill: 0 })
    }))

  // 2 MiB are too little for the accounts, 12 MiB for the log of the commits behind the recording, or, where a checkpoint
  // makes room for them, for the copy that SQLite works on.
  for (
    const [mebibytes, sentence] of [[2, /finished\.db: .* full/], [
      12,
      /(the process that commits|copy) .* full/
    ]] as const
  ) {
    it.effect.skipIf(!canMount)(
      `fails with one sentence when a disk of ${mebibytes} MiB becomes full`,
      () =>
        Effect.gen(function*() {
          const directory = yield* smallFileSystem(mebibytes * 1024 * 1024)
          const args = ["demo", "--log", log, "--transactions", "300", "--kill", "0", "--dir", directory, "--json"]
          assertFailed(yield* tidemark(...args), "OperationFailed", sentence)
          assert.deepStrictEqual(readdirSync(directory), [])
        })
    )
  }
})

describe("demo", () => {
  it.effect("answers wrong usage with what this version has", () =>
    Effect.gen(function*() {
      assertWrongUsage(yield* tidemark("demo", "--log", "wal", "--json"), /no log "wal".*has: sqlite, parallel, native/)
      assertWrongUsage(yield* tidemark("demo", "--processes", "2"), /--processes; it has: .*--writers/)
      assertWrongUsage(yield* tidemark("demo", "--kill", "1.5"), /--kill 1\.5/)
      assertWrongUsage(yield* tidemark("demo", "--transactions", "0", "--json"), /--transactions 0/)
      assertWrongUsage(yield* tidemark("demo-writer"), /started by demo/)
    }))

  it.effect("the process that commits is told more than a pipe holds", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const job: WriterJob = {
        database: join(directory, "missing.db"),
        log: "sqlite",
        recordedWal: join(directory, "missing.db-wal"),
        writers: 1,
        recorded: 300_000,
        additions: 0,
        initialPages: 1,
        ledgerPages: [],
        counterPages: [],
        acknowledged: Array.from({ length: 300_000 }, (_, index) => index)
      }
      const input = JSON.stringify(job)
      assert.isAbove(input.length, 1024 * 1024)
      const ended = yield* runCommand(process.execPath, [mainPath, "demo-writer"], { input })
      assert.strictEqual(ended.code, 3, ended.stderr)
      // It has understood, and finds that nobody is there to be answered.
      assert.match(ended.stderr, /the demo is gone/)
    }))

  it.effect("removes its files when it is interrupted", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      // The progress line comes in the second second, while the process commits or SQLite checks.
      const args = ["demo", "--transactions", "30000", "--dir", directory]
      const ended = yield* runCommand(process.execPath, [mainPath, ...args], { onOutput: (program) => program.kill() })
      assert.strictEqual(ended.code, 130)
      assert.strictEqual(ended.stdout, "")
      assertNoStack(ended)
      assert.deepStrictEqual(readdirSync(directory), [])
    }))

  it.effect("fails with one sentence when the directory cannot be used", () =>
    Effect.gen(function*() {
      const nowhere = "/dev/null/in"
      assertFailed(yield* tidemark("demo", "--dir", nowhere, "--json"), "OperationFailed", /\/dev\/null\/in: .*ENOTDIR/)
    }))
})

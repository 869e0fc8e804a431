import { assert, describe, it } from "@effect/vitest"
import * as Certificates from "@tidemark/wal/CertificateFormat"
import { Effect } from "effect"
import { appendFileSync, copyFileSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { flip, recovered, verified } from "./support/databaseCommands.ts"
import { readWithSqlite } from "./support/databases.ts"
import { heldByParallelWriter } from "./support/holder.ts"
import { cutCertificates, offsetOfCertificate, segmentAt, segmentsIn } from "./support/parallelCommands.ts"
import { makeParallel } from "./support/parallelDatabases.ts"
import { assertFailed, documentOf, objectsIn, temporaryDirectory, tidemark } from "./support/program.ts"

describe("a database with a parallel log", () => {
  it.effect("RC-06 is verified, and recovered into the database file, which SQLite then reads", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { commits, path } = yield* makeParallel(directory, "a")
      assert.throws(() => readWithSqlite(path))
      assert.deepInclude(yield* verified(directory, path), {
        path,
        log: "parallel",
        case: "RC-06",
        cases: ["RC-06"],
        ok: true,
        tip: String(commits),
        tipSource: "certificate",
        refusal: null,
        databasePages: 2,
        segments: commits,
        records: commits,
        commits,
        problems: [],
        tornTailBytes: 0
      })
      assert.match((yield* tidemark("verify", path)).stdout, /: ok\n[^]*5 segments, 5 records, 5 commits\n/)
      assert.deepInclude(yield* recovered(path), {
        log: "parallel",
        case: "RC-06",
        tip: String(commits),
        commits,
        pagesApplied: 1,
        droppedBytes: 0
      })
      assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
      assert.deepStrictEqual(segmentsIn(directory), [])
      const mark = documentOf(yield* tidemark("inspect", `${path}.fsqlite/checkpoint`, "--json"))
      assert.deepInclude(mark["header"], { kind: "parallel", throughSequence: String(commits), databasePages: 2 })
      assert.deepInclude(yield* verified(directory, path), { case: "RC-01", ok: true, tip: String(commits) })
      assert.deepInclude(yield* recovered(path), { case: "RC-01", tip: String(commits), pagesApplied: 0 })
      assert.deepInclude(yield* verified(directory, path), { ok: true, tip: String(commits) })
    }))

  it.effect("RC-07, RC-09 has a tail of what was never acknowledged, which is dropped", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const database = yield* makeParallel(directory, "a")
      const { certificates, path } = database
      flip(certificates, offsetOfCertificate(4) + 20)
      const torn = Certificates.certificateBytes(1)
      const last = segmentAt(database, 4)
      const document = yield* verified(directory, path)
      assert.deepInclude(document, {
        case: "RC-09",
        cases: ["RC-09", "RC-07", "RC-06"],
        ok: false,
        tip: "4",
        refusal: null,
        tornTailBytes: torn,
        unacknowledgedSegments: [last]
      })
      assert.deepStrictEqual(
        objectsIn(document, "problems").map(({ offset, path, severity }) => ({ offset, path, severity })),
        [
          { path: certificates, offset: offsetOfCertificate(4), severity: "tail" },
          { path: last, offset: 0, severity: "tail" }
        ]
      )
      const bytes = statSync(last).size
      assert.deepInclude(yield* recovered(path), { case: "RC-09", tip: "4", commits: 4, droppedBytes: torn + bytes })
      assert.deepStrictEqual(readWithSqlite(path), { rows: 4, integrity: "ok" })
      assert.deepStrictEqual(segmentsIn(directory), [])
    }))

  it.effect("RC-21, RC-25 removes segments that are in the database file, and files that never became any", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const database = yield* makeParallel(directory, "a")
      const { commits, path } = database
      const first = segmentAt(database, 0)
      copyFileSync(first, `${directory}/kept`)
      yield* recovered(path)
      copyFileSync(`${directory}/kept`, first)
      copyFileSync(`${directory}/kept`, `${segmentAt(database, 4)}.tmp-1`)
      assert.deepInclude(yield* verified(directory, path), {
        case: "RC-25",
        cases: ["RC-25", "RC-21", "RC-01"],
        ok: true,
        tip: String(commits),
        checkpointedSegments: [first]
      })
      assert.deepInclude(yield* recovered(path), { case: "RC-25", pagesApplied: 0, droppedBytes: 0 })
      assert.deepStrictEqual(segmentsIn(directory), [])
      assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
    }))

  it.effect("RC-09 is what a log without commits is told to have when it is torn", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { certificates, commits, path } = yield* makeParallel(directory, "a")
      yield* recovered(path)
      const bytes = readFileSync(certificates)
      bytes[Certificates.certificateLogHeaderBytes + 7] = 1
      writeFileSync(certificates, bytes)
      assert.deepInclude(yield* verified(directory, path), {
        log: "parallel",
        cases: ["RC-09", "RC-01"],
        ok: false,
        tip: String(commits),
        tornTailBytes: 8
      })
      assert.deepInclude(yield* recovered(path), { cases: ["RC-09", "RC-01"], droppedBytes: 8 })
      assert.deepInclude(yield* verified(directory, path), { ok: true, tip: String(commits) })
    }))

  it.effect("SWAL-07 is checkpointed in the mode it is told, and opened by SQLite after each", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      for (const mode of ["passive", "full", "restart", "truncate"]) {
        const { certificates, commits, path } = yield* makeParallel(directory, mode, 3)
        const ended = yield* tidemark("checkpoint", path, "--mode", mode, "--json")
        assert.strictEqual(ended.code, 0, ended.stderr)
        assert.deepInclude(documentOf(ended), {
          log: "parallel",
          mode,
          framesBefore: commits,
          framesCopied: commits,
          blocked: false
        })
        assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
        const { summary } = documentOf(yield* tidemark("inspect", certificates, "--json"))
        assert.deepInclude(summary, { certificates: mode === "restart" || mode === "truncate" ? 0 : commits })
      }
      assert.deepStrictEqual(segmentsIn(directory), [])
    }))

  it.effect("SWAL-10 is locked while a process writes it, and verified without a lock, in whatever state it is", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = yield* makeParallel(directory, "a")
      yield* Effect.scoped(Effect.gen(function*() {
        yield* heldByParallelWriter(path)
        assertFailed(yield* tidemark("recover", path, "--json"), "LogLocked", /is open in another Tidemark/)
        assertFailed(yield* tidemark("checkpoint", path), "LogLocked", /is open in another Tidemark/)
        for (let look = 0; look < 3; look++) {
          const ended = yield* tidemark("verify", path, "--json")
          assert.strictEqual(ended.code, 0, ended.stdout + ended.stderr)
          assert.deepInclude(documentOf(ended), { log: "parallel", ok: true })
        }
      }))
      assert.deepInclude(yield* verified(directory, path), { case: "RC-01", ok: true })
    }))

  it.effect("RC-07 does not believe a segment that a torn certificate log says nothing of", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const database = yield* makeParallel(directory, "a")
      const { certificates, path } = database
      cutCertificates(certificates, 3)
      appendFileSync(segmentAt(database, 4), "torn")
      const document = yield* verified(directory, path)
      assert.deepInclude(document, { cases: ["RC-07", "RC-06"], tip: "3", tornTailBytes: 0 })
      const problems = objectsIn(document, "problems")
      assert.lengthOf(problems, 2)
      assert.match(String(problems[1]?.["what"]), /which is unreadable: it was never acknowledged/)
      assert.deepInclude(yield* recovered(path), { commits: 3 })
      assert.deepStrictEqual(readWithSqlite(path), { rows: 3, integrity: "ok" })
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { copyFileSync, existsSync, mkdirSync, rmSync, statSync } from "node:fs"
import { assertRefused, flip, recovered, verified } from "./support/databaseCommands.ts"
import { makeDatabase, readWithSqlite } from "./support/databases.ts"
import { offsetOfCertificate, segmentAt, segmentsIn } from "./support/parallelCommands.ts"
import { makeParallel } from "./support/parallelDatabases.ts"
import {
  assertFailed,
  assertWrongUsage,
  objectIn,
  objectsIn,
  temporaryDirectory,
  unchanged
} from "./support/program.ts"

describe("a database with a parallel log that cannot be opened safely", () => {
  it.effect("RC-08 is refused when a certified segment is damaged or missing, and keeps its prefix if told to", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const database = yield* makeParallel(directory, "a")
      const { path } = database
      const third = segmentAt(database, 2)
      flip(third, 500)
      const damaged = yield* assertRefused(directory, path, "RC-08", "CertifiedSegmentLost", /contents is CRC-32C/)
      assert.deepInclude(objectsIn(damaged, "problems")[0], { path: third, severity: "corrupt" })
      assert.deepInclude(damaged, { tip: "5", lostSegments: database.segments.slice(2) })
      const left = statSync(segmentAt(database, 3)).size + statSync(segmentAt(database, 4)).size
      rmSync(third)
      yield* assertRefused(directory, path, "RC-08", "CertifiedSegmentLost", /the file is missing/)
      assert.deepInclude(yield* recovered(path, "--accept-loss"), {
        case: "RC-08",
        tip: "5",
        commits: 2,
        droppedBytes: left,
        lostSegments: database.segments.slice(2)
      })
      assert.deepStrictEqual(readWithSqlite(path), { rows: 2, integrity: "ok" })
      assert.deepInclude(yield* verified(directory, path), { ok: true, tip: "5", refusal: null })
      yield* recovered(path)
      assert.deepStrictEqual(segmentsIn(directory), [])
      assert.deepStrictEqual(readWithSqlite(path), { rows: 2, integrity: "ok" })
    }))

  it.effect("RC-10 is refused when its certificates are damaged or do not follow each other", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { certificates, path } = yield* makeParallel(directory, "a")
      flip(certificates, offsetOfCertificate(1) + 20)
      const damaged = yield* assertRefused(
        directory,
        path,
        "RC-10",
        "CertificateChecksumMismatch",
        /is damaged at byte 112 /
      )
      assert.deepInclude(objectsIn(damaged, "problems")[0], { path: certificates, severity: "corrupt" })
      // Nobody has asked to lose what certificates vouch for.
      assertFailed(
        yield* unchanged(directory, "recover", path, "--accept-loss", "--json"),
        "CertificateChecksumMismatch",
        /byte 112/
      )
      for (const flag of ["--trust-segments", "--discard-segments"]) {
        assertWrongUsage(
          yield* unchanged(directory, "recover", path, flag, "--json"),
          new RegExp(`^tidemark: ${flag} is for databases whose certificate log is missing`)
        )
      }
    }))

  it.effect("RC-11 is refused without its certificates, unless told to trust its segments or to discard them", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      for (const name of ["a", "b", "c"]) mkdirSync(`${directory}/${name}`)
      const trusted = yield* makeParallel(`${directory}/a`, "a")
      rmSync(trusted.certificates)
      const document = yield* assertRefused(
        directory,
        trusted.path,
        "RC-11",
        "CertificatesLost",
        /5 segments \(epochs 0 to 4\) stand beside it/
      )
      assert.deepInclude(document, { unacknowledgedSegments: trusted.segments })
      assertWrongUsage(
        yield* unchanged(directory, "recover", trusted.path, "--trust-segments", "--discard-segments"),
        /say the opposite/
      )
      assert.deepInclude(yield* recovered(trusted.path, "--trust-segments"), {
        case: "RC-11",
        tip: "5",
        commits: 5,
        pagesApplied: 1
      })
      assert.deepStrictEqual(readWithSqlite(trusted.path), { rows: 5, integrity: "ok" })

      const closed = yield* makeParallel(`${directory}/b`, "b")
      rmSync(closed.certificates)
      flip(segmentAt(closed, 3), 500)
      assertFailed(
        yield* unchanged(directory, "recover", closed.path, "--trust-segments", "--json"),
        "SegmentUnreadable",
        /CRC-32C of record 0/
      )
      assert.deepInclude(yield* recovered(closed.path, "--trust-segments", "--accept-loss"), { commits: 3 })
      assert.deepStrictEqual(readWithSqlite(closed.path), { rows: 3, integrity: "ok" })

      const discarded = yield* makeParallel(`${directory}/c`, "c")
      rmSync(discarded.certificates)
      const bytes = discarded.segments.reduce((sum, path) => sum + statSync(path).size, 0)
      assert.deepInclude(yield* recovered(discarded.path, "--discard-segments"), {
        case: "RC-11",
        commits: 0,
        pagesApplied: 0,
        droppedBytes: bytes
      })
      assert.deepStrictEqual(readWithSqlite(discarded.path), { rows: 0, integrity: "ok" })
    }))

  it.effect("RC-20, RC-23 is refused beside commits of another log", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path, segments } = yield* makeParallel(directory, "a")
      const other = makeDatabase(directory, "other")
      copyFileSync(other.wal, `${path}-wal`)
      yield* assertRefused(directory, path, "RC-20", "MixedLogs", /5 commits in its -wal/)
      // The other way round: whoever asks for the segments of a database that has its commits in the `-wal`.
      const [first] = segments
      assert(first !== undefined)
      copyFileSync(first, first.replace("/a.db-", "/other.db-"))
      assertFailed(
        yield* unchanged(directory, "recover", other.path, "--trust-segments", "--json"),
        "WrongLogKind",
        /newest commits in its -wal/
      )
    }))

  it.effect("is refused without its database file, having made none", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = yield* makeParallel(directory, "a")
      rmSync(path)
      const document = yield* verified(directory, path)
      assert.deepInclude(document, { ok: false })
      assert.deepInclude(objectIn(document, "refusal"), { tag: "DatabasePagesLost" })
      assertFailed(yield* unchanged(directory, "recover", path, "--json"), "VfsError", /ENOENT/)
      assert.isFalse(existsSync(path))
    }))
})

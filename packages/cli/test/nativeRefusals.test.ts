import { assert, describe, it } from "@effect/vitest"
import { markersDirectory } from "@tidemark/wal/MarkerFormat"
import { Effect } from "effect"
import { appendFileSync, chmodSync, chownSync, copyFileSync, existsSync, rmSync, statSync, truncateSync } from "node:fs"
import { assertNotOpened, assertRefused, flip, recovered, verified } from "./support/databaseCommands.ts"
import { makeDatabase, readWithSqlite } from "./support/databases.ts"
import { heldBySqlite } from "./support/holder.ts"
import { capsuleAt, capsulesIn, makeNative, offsetOfMarker } from "./support/nativeDatabases.ts"
import {
  assertFailed,
  assertWrongUsage,
  contentsOf,
  mainPath,
  objectIn,
  objectsIn,
  runCommand,
  temporaryDirectory,
  tidemark,
  unchanged
} from "./support/program.ts"
import { canMount, smallFileSystem } from "./support/smallFileSystem.ts"

describe("a database with a native log that cannot be opened safely", () => {
  it.effect("RC-15 is refused when the capsule of a commit is damaged or missing, whatever loss is accepted", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const database = yield* makeNative(directory, "a")
      const { commits, path } = database
      const third = capsuleAt(database, 2)
      copyFileSync(third, `${directory}/kept`)
      flip(third, 500)
      const damaged = yield* assertRefused(
        directory,
        path,
        "RC-15",
        "CapsuleLost",
        /holds the pages of commit 3, .* only those through 2 are whole/
      )
      assert.deepInclude(objectsIn(damaged, "problems")[0], { path: third, severity: "corrupt" })
      assert.deepInclude(damaged, { tip: "5", commits: 2 })
      rmSync(third)
      yield* assertRefused(directory, path, "RC-15", "CapsuleLost", /it is not there \(capsule /)
      assertFailed(
        yield* unchanged(directory, "recover", path, "--accept-loss", "--json"),
        "CapsuleLost",
        /it is not there/
      )
      copyFileSync(`${directory}/kept`, third)
      assert.deepInclude(yield* recovered(path), { case: "RC-06", commits })
      assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
    }))

  it.effect("RC-26 is only read when its markers are damaged, and keeps what stands before the damage if told to", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const database = yield* makeNative(directory, "a")
      const { markers, path } = database
      flip(markers, offsetOfMarker(3) + 20)
      const document = yield* verified(directory, path)
      assert.deepInclude(document, {
        case: "RC-26",
        ok: false,
        refusal: null,
        isReadOnly: true,
        tip: "5",
        commits: 2,
        unacknowledgedCapsules: []
      })
      assert.deepInclude(objectIn(document, "damage"), {
        path: markers,
        offset: offsetOfMarker(3),
        recordsBehind: 2,
        lastSequence: "2"
      })
      const sentence =
        /is damaged .* with 2 good records behind it.*open it with `tidemark recover --accept-loss` to keep what ends with sequence 2/
      assert.deepInclude(objectsIn(document, "problems")[0], {
        path: markers,
        offset: offsetOfMarker(3),
        severity: "corrupt"
      })
      yield* assertNotOpened(directory, path, "MarkersDamaged", sentence)
      const replay = ["replay", "--log", "native", `${directory}/a-recorded.db-wal`, path, "--json"]
      assertFailed(yield* unchanged(directory, ...replay), "MarkersDamaged", sentence)

      const dropped = [2, 3, 4].reduce((sum, index) => sum + statSync(capsuleAt(database, index)).size, 0)
      const accepted = yield* recovered(path, "--accept-loss")
      assert.deepInclude(accepted, { case: "RC-26", commits: 2, droppedBytes: dropped + 3 * 88 })
      assert.deepInclude(objectIn(accepted, "damage"), { path: markers, offset: offsetOfMarker(3) })
      assert.deepStrictEqual(capsulesIn(path), [])
      assert.deepStrictEqual(readWithSqlite(path), { rows: 2, integrity: "ok" })
      // No sequence is used twice, so that the stream goes on in the next segment.
      assert.deepInclude(yield* verified(directory, path), { ok: true, tip: "1000000", damage: null })
    }))

  it.effect("RC-26 is not what damage to the history is called: a problem, and no obstacle", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { commits, markers, path } = yield* makeNative(directory, "a")
      yield* recovered(path)
      flip(markers, offsetOfMarker(2) + 20)
      const document = yield* verified(directory, path)
      assert.deepInclude(document, { log: "native", case: "RC-01", ok: false, refusal: null, damage: null })
      const [problem, ...more] = objectsIn(document, "problems")
      assert.deepInclude(problem, { path: markers, offset: offsetOfMarker(2), severity: "corrupt" })
      assert.match(String(problem?.["what"]), /the commit is in the database file$/)
      assert.deepStrictEqual(more, [])
      assert.deepInclude(yield* recovered(path), { case: "RC-01", tip: String(commits) })
      assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
    }))

  it.effect("RC-20, RC-23 is refused beside commits of another log", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = yield* makeNative(directory, "a")
      const other = makeDatabase(directory, "other")
      for (const log of ["sqlite", "parallel"]) {
        assertFailed(
          yield* unchanged(directory, "replay", other.wal, path, "--log", log, "--json"),
          "WrongLogKind",
          /newest commits in a native log/
        )
      }
      assertFailed(
        yield* unchanged(directory, "replay", `${directory}/a-recorded.db-wal`, other.path, "--log", "native"),
        "WrongLogKind",
        /newest commits in its -wal/
      )
      copyFileSync(other.wal, `${path}-wal`)
      yield* assertRefused(directory, path, "RC-20", "MixedLogs", /5 commits in its -wal/)
    }))

  it.effect("RC-23 is one with a native log, and not a parallel one, when only its capsules are left", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { commits, path } = yield* makeNative(directory, "a")
      rmSync(markersDirectory(path), { recursive: true })
      const document = yield* assertRefused(directory, path, "RC-23", "WrongLogKind", /a log that is not there/)
      assert.deepInclude(document, { log: "native" })
      for (const flag of ["--trust-segments", "--discard-segments"]) {
        assertWrongUsage(
          yield* unchanged(directory, "recover", path, flag, "--json"),
          new RegExp(`${flag} is for a parallel log, and ${path} has a native one`)
        )
      }
      assert.lengthOf(capsulesIn(path), commits)
    }))

  it.effect("names the database where one of its directories is given in its place", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = yield* makeNative(directory, "a")
      for (const [command, given] of [["inspect", ""], ["verify", "/markers"], ["recover", "/capsules/"]] as const) {
        assertFailed(
          yield* unchanged(directory, command, `${path}.fsqlite${given}`, "--json"),
          "OperationFailed",
          new RegExp(`a directory without an append log: it belongs to the database ${path}, whose path`)
        )
      }
    }))

  it.effect("SWAL-10 is refused while SQLite has it open", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = yield* makeNative(directory, "a")
      yield* recovered(path)
      yield* heldBySqlite(path)
      assertFailed(yield* unchanged(directory, "recover", path, "--json"), "Busy", /SQLite has .*a\.db open/)
    }))

  it.effect("is refused without its database file, having made none", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { path } = yield* makeNative(directory, "a")
      rmSync(path)
      const document = yield* verified(directory, path)
      assert.deepInclude(document, { ok: false })
      assert.deepInclude(objectIn(document, "refusal"), { tag: "DatabasePagesLost" })
      assertFailed(yield* unchanged(directory, "recover", path, "--json"), "VfsError", /ENOENT/)
      assert.isFalse(existsSync(path))
    }))

  it.effect.skipIf(process.getuid?.() !== 0)(
    "is refused in a directory that may only be read, and verified there",
    () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const { commits, path } = yield* makeNative(directory, "a")
        const nobody = 65_534
        chmodSync(directory, 0o755)
        const run = (command: string) =>
          Effect.gen(function*() {
            const before = contentsOf(directory)
            const ended = yield* runCommand(process.execPath, [mainPath, command, path, "--json"], {
              uid: nobody,
              env: { NODE_COMPILE_CACHE: "" }
            })
            assert.deepStrictEqual(contentsOf(directory), before)
            return ended
          })
        assert.strictEqual((yield* run("verify")).code, 0)
        for (const command of ["recover", "checkpoint"]) {
          assertFailed(yield* run(command), "VfsError", /a\.db: permission denied \(EACCES\)/)
        }
        // The file may be written, the directory around it may not.
        chownSync(path, nobody, nobody)
        assertFailed(yield* run("recover"), "VfsError", /permission denied \(EACCES\)/)
        assert.deepInclude(yield* recovered(path), { commits })
        assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
      })
  )

  it.effect("SWAL-08 fails with one sentence when a file may not grow, and can be run again", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      // Blocks of 512 bytes: enough for the small files, too little for what the commits add to the database.
      const limited = "trap '' XFSZ; ulimit -f 16; exec \"$@\""
      const large = yield* makeNative(directory, "large", { rowBytes: 3000 })
      const args = (path: string) => ["-c", limited, "sh", process.execPath, mainPath, "recover", path, "--json"]
      const capsules = capsulesIn(large.path)
      assertFailed(
        yield* runCommand("sh", args(large.path)),
        "CheckpointFailed",
        /large\.db failed .* larger than is allowed \(EFBIG\).* every commit is safe in the log/
      )
      assert.deepStrictEqual(capsulesIn(large.path), capsules)
      // The end of the markers is written once more before anything is built on it.
      const many = yield* makeNative(directory, "many", { commits: 100 })
      assertFailed(
        yield* runCommand("sh", args(many.path)),
        "VfsError",
        /segment-000000\.log: .* larger than is allowed \(EFBIG\)/
      )
      for (const { commits, path } of [large, many]) {
        assert.deepInclude(yield* verified(directory, path), { log: "native", ok: true, commits })
        assert.deepInclude(yield* recovered(path), { commits })
        assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
      }
    }))

  it.effect.skipIf(!canMount)(
    "fails with one sentence when the disk is full, and loses nothing",
    () =>
      Effect.gen(function*() {
        const directory = yield* smallFileSystem(4 * 1024 * 1024)
        const { commits, path } = yield* makeNative(directory, "a", { commits: 150 })
        yield* Effect.sync(() => {
          try {
            for (;;) appendFileSync(`${directory}/filler`, Buffer.alloc(1024))
          } catch {
            // Full: that is what it is for.
          }
        })
        assertFailed(
          yield* tidemark("recover", path, "--json"),
          "CheckpointFailed",
          /the disk is full \(ENOSPC\).* every commit is safe in the log/
        )
        truncateSync(`${directory}/filler`, 0)
        assert.deepInclude(yield* recovered(path), { commits })
        assert.deepStrictEqual(readWithSqlite(path), { rows: commits, integrity: "ok" })
      })
  )
})

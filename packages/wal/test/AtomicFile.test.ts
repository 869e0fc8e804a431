import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Random } from "effect"
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  directoryOf,
  isAnyTemporaryName,
  isTemporaryName,
  nameOf,
  readSmallFile,
  replaceFile
} from "../src/AtomicFile.ts"

const path = "/data/app.db.fsqlite/wal-base"
const before = new Uint8Array(700).fill(1)
const after = new Uint8Array(1100).fill(2)

const replace = (disk: MemoryDisk, contents = after) =>
  Effect.flatMap(Vfs, (vfs) => replaceFile(vfs, path, contents)).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))

const diskWith = (contents: Uint8Array | undefined) => {
  const disk = MemoryDisk.make({ async: false })
  disk.writeFile("/data/app.db.fsqlite/lease", new Uint8Array(56))
  if (contents !== undefined) disk.writeFile(path, contents)
  return disk
}

describe("AtomicFile", () => {
  it.effect("after it succeeds, no power loss takes the new contents away", () =>
    Effect.gen(function*() {
      for (const old of [undefined, before]) {
        const disk = diskWith(old)
        yield* replace(disk)
        assert.deepStrictEqual(disk.unsynced, [])
        assert.deepStrictEqual(disk.afterCrash("lost").readFile(path), after)
        assert.deepStrictEqual(disk.files, ["/data/app.db.fsqlite/lease", path])
      }
    }))

  it.effect("a power loss at any moment leaves the old contents or the new ones, and leftovers RC-25 knows", () =>
    Effect.gen(function*() {
      let states = 0
      for (const old of [undefined, before]) {
        const disk = diskWith(old)
        const trace = disk.record()
        yield* replace(disk)
        trace.stop()
        for (const state of trace.crashStates()) {
          states++
          const found = state.disk.readFile(path)
          const isOld = old === undefined ? found === undefined : found !== undefined && Buffer.from(found).equals(old)
          assert.isTrue(isOld || (found !== undefined && Buffer.from(found).equals(after)), state.label)
          for (const file of state.disk.files) {
            assert.isTrue(
              file === path || file.endsWith("/lease") || isTemporaryName(nameOf(file), "wal-base"),
              `${file} ${state.label}`
            )
          }
        }
      }
      assert.isAbove(states, 20)
    }))

  for (const operation of ["open", "write", "syncFull", "rename"] as const) {
    it.effect(`when ${operation} fails the old contents stay and nothing is left behind`, () =>
      Effect.gen(function*() {
        const disk = diskWith(before)
        const fault = disk.inject({ operation, fault: { kind: "error", code: "EIO" } })
        const error = yield* Effect.flip(replace(disk))
        assert.strictEqual(fault.hits, 1)
        assert.deepStrictEqual([error.operation, error.code], [operation, "EIO"])
        assert.deepStrictEqual(disk.readFile(path), before)
        assert.deepStrictEqual(disk.files, ["/data/app.db.fsqlite/lease", path])
      }))
  }

  it.effect("when the sync of the directory fails the caller hears of it", () =>
    Effect.gen(function*() {
      const disk = diskWith(before)
      disk.inject({ operation: "syncDirectory", fault: { kind: "error", code: "EIO" } })
      assert.strictEqual((yield* Effect.flip(replace(disk))).operation, "syncDirectory")
    }))

  it.effect("the first failure is answered even when the temporary file cannot be removed", () =>
    Effect.gen(function*() {
      const disk = diskWith(before)
      disk.inject({ operation: "write", fault: { kind: "shortWrite", bytes: 10 } })
      disk.inject({ operation: "remove", fault: { kind: "error", code: "EACCES" } })
      const error = yield* Effect.flip(replace(disk))
      assert.deepStrictEqual([error.operation, error.code], ["write", "ENOSPC"])
      assert.strictEqual(disk.files.filter((file) => isTemporaryName(nameOf(file), "wal-base")).length, 1)
    }))

  it.effect("a leftover of the same random name is stepped around", () =>
    Effect.gen(function*() {
      const disk = diskWith(before)
      const seeded = replace(disk).pipe(Random.withSeed("the same name"))
      disk.inject({ operation: ["rename", "remove"], fault: { kind: "error", code: "EIO" }, times: 2 })
      yield* Effect.flip(seeded)
      assert.strictEqual(disk.files.length, 3)
      yield* seeded
      assert.deepStrictEqual(disk.readFile(path), after)
      assert.strictEqual(disk.files.length, 3)
    }))

  it.effect("two replacements at once leave one of the two", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: { seed: 5, maxTurns: 6 } })
      disk.writeFile(path, before)
      yield* Effect.gen(function*() {
        const vfs = yield* Vfs
        yield* Effect.all(
          [3, 4, 5].map((value) => replaceFile(vfs, path, new Uint8Array(2000).fill(value))),
          { concurrency: "unbounded", discard: true }
        )
      }).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
      const found = disk.readFile(path) ?? new Uint8Array(0)
      assert.strictEqual(found.length, 2000)
      assert.isTrue(found.every((byte) => byte === found[0]))
      assert.deepStrictEqual(disk.files, [path])
    }))

  it.effect("an empty file can be written", () =>
    Effect.gen(function*() {
      const disk = diskWith(before)
      yield* replace(disk, new Uint8Array(0))
      assert.strictEqual(disk.readFile(path)?.length, 0)
    }))

  it.effect("a small file is read up to the limit; one that is not there is undefined; other failures are failures", () =>
    Effect.gen(function*() {
      const disk = diskWith(before)
      yield* Effect.gen(function*() {
        const vfs = yield* Vfs
        assert.deepStrictEqual(yield* readSmallFile(vfs, path, 4096), before)
        assert.strictEqual((yield* readSmallFile(vfs, path, 49))?.length, 49)
        assert.isUndefined(yield* readSmallFile(vfs, "/data/nothing", 10))
        assert.isUndefined(yield* readSmallFile(vfs, "/no/such/directory", 10))
        disk.inject({ operation: "read", fault: { kind: "error", code: "EIO" } })
        assert.strictEqual((yield* Effect.flip(readSmallFile(vfs, path, 10))).code, "EIO")
        disk.inject({ operation: "open", fault: { kind: "error", code: "EACCES" } })
        assert.strictEqual((yield* Effect.flip(readSmallFile(vfs, path, 10))).code, "EACCES")
      }).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
    }))

  it.live("on real files, with the permission bits that were asked for", () =>
    Effect.gen(function*() {
      const directory = yield* Effect.acquireRelease(
        Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-atomic-"))),
        (made) => Effect.sync(() => rmSync(made, { recursive: true, force: true }))
      )
      const file = join(directory, "lease")
      const vfs = yield* Vfs
      yield* replaceFile(vfs, file, before)
      yield* replaceFile(vfs, file, after, { mode: 0o600 })
      assert.isTrue(readFileSync(file).equals(after))
      assert.strictEqual(statSync(file).mode & 0o777, 0o600)
      assert.deepStrictEqual(readdirSync(directory), ["lease"])
    }).pipe(Effect.provide(NodeVfs.layer)))

  it("RC-25 temporary names are told from others", () => {
    assert.isTrue(isTemporaryName(".tmp-app.db-0123abcd", "app.db"))
    for (const other of ["app.db", ".tmp-app.db", ".tmp-app.db-0123abc", ".tmp-app.db-x123abcd"]) {
      assert.isFalse(isTemporaryName(other, "app.db"), other)
    }
    assert.isFalse(isTemporaryName(".tmp-app.db-wal-0123abcd", "app.db"), "a file of a neighbour")
    assert.isTrue(isAnyTemporaryName(".tmp-segment-17"))
    assert.isFalse(isAnyTemporaryName("tmp-"))
    assert.deepStrictEqual(["/a/b", "b", "/b"].map(directoryOf), ["/a", ".", "/"])
    assert.deepStrictEqual(["/a/b", "b", "/b"].map(nameOf), ["b", "b", "b"])
  })
})

import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs, type VfsFile } from "@tidemark/platform/Vfs"
import { ConfigProvider, Effect, Exit, Fiber, Layer, Result, Scope } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { capsuleHeaderBytes, capsulePath } from "../src/CapsuleFormat.ts"
import { CapsuleStore, layer, layerConfig, makeCapsuleStore, readCapsule } from "../src/CapsuleStore.ts"
import { capsuleStoreContract } from "./CapsuleStoreContract.ts"
import { capsuleOf, changed } from "./support/capsules.ts"

const database = "/data/app.db"

const newDisk = (options?: Parameters<typeof MemoryDisk.make>[0]) => {
  const disk = MemoryDisk.make(options)
  disk.writeFile(database, new Uint8Array(512))
  return disk
}

capsuleStoreContract(
  "MemoryVfs",
  Effect.sync(() => ({ database, layer: MemoryVfs.layerDisk(newDisk()) }))
)
capsuleStoreContract(
  "MemoryVfs, operations that overtake each other",
  Effect.sync(() => ({ database, layer: MemoryVfs.layerDisk(newDisk({ async: { seed: 5, maxTurns: 3 } })) }))
)
capsuleStoreContract(
  "NodeVfs",
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-capsules-"))),
      (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
    ),
    (directory) => ({ database: join(directory, "app.db"), layer: NodeVfs.layerVfs })
  )
)

const on = <A, E>(disk: MemoryDisk, use: (vfs: Vfs["Service"]) => Effect.Effect<A, E, Scope.Scope>) =>
  Effect.scoped(Effect.flatMap(Vfs, use)).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))

/** Counts the files that are open, and how many there were at most. */
const counting = (vfs: Vfs["Service"]) => {
  const files = { open: 0, most: 0, opened: 0 }
  const open: Vfs["Service"]["open"] = (path, options) =>
    Effect.tap(vfs.open(path, options), () =>
      Effect.acquireRelease(
        Effect.sync(() => {
          files.open++
          files.opened++
          files.most = Math.max(files.most, files.open)
        }),
        () =>
          Effect.sync(() => {
            files.open--
          })
      ))
  return { files, vfs: { ...vfs, open } }
}

describe("CapsuleStore, open files", () => {
  const capsules = Array.from({ length: 60 }, (_, index) => capsuleOf(BigInt(index + 1), [1]))
  const ids = capsules.map(({ id }) => id)

  it.effect("files stay open from put to sync, and no longer", () =>
    on(newDisk(), (plain) =>
      Effect.gen(function*() {
        const { files, vfs } = counting(plain)
        const store = yield* makeCapsuleStore(vfs, { database })
        yield* Effect.forEach(capsules, store.put, { concurrency: "unbounded", discard: true })
        assert.deepStrictEqual([files.open, files.opened], [60, 60])
        yield* store.sync(ids)
        assert.deepStrictEqual([files.open, files.opened], [0, 60])
      })))

  it.effect("they are bounded: the oldest is closed for the next, and opened again when it is synced", () =>
    on(newDisk(), (plain) =>
      Effect.gen(function*() {
        const { files, vfs } = counting(plain)
        const store = yield* makeCapsuleStore(vfs, { database, maxKeptFiles: 10, syncConcurrency: 4 })
        yield* Effect.forEach(capsules, store.put, { concurrency: "unbounded", discard: true })
        assert.strictEqual(files.open, 10)
        assert.isAtMost(files.most, 10 + 16)
        files.most = 0
        yield* store.sync(ids.slice(-10))
        assert.deepStrictEqual([files.open, files.opened], [0, 60])
        yield* store.sync(ids)
        assert.deepStrictEqual([files.open, files.opened], [0, 120])
        assert.isAtMost(files.most, 10)
      })))

  it.effect("one file of a capsule is open, however often it is put", () =>
    on(newDisk(), (plain) =>
      Effect.gen(function*() {
        const { files, vfs } = counting(plain)
        const store = yield* makeCapsuleStore(vfs, { database })
        for (const capsule of [capsuleOf(1n), capsuleOf(2n), capsuleOf(1n), capsuleOf(1n)]) yield* store.put(capsule)
        assert.strictEqual(files.open, 2)
      })))

  it.effect("with the scope of the store they are closed, and later calls keep none open", () =>
    on(newDisk(), (plain) =>
      Effect.gen(function*() {
        const { files, vfs } = counting(plain)
        const scope = Scope.makeUnsafe()
        const store = yield* Scope.provide(makeCapsuleStore(vfs, { database }), scope)
        yield* Effect.forEach(capsules, store.put, { discard: true })
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(files.open, 0)
        yield* store.put(capsuleOf(99n))
        assert.strictEqual(files.open, 0)
        yield* store.sync([capsuleOf(99n).id])
      })))

  it.effect("where descriptors are short those that wait are given back", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* on(disk, (plain) =>
        Effect.gen(function*() {
          const { files, vfs } = counting(plain)
          const store = yield* makeCapsuleStore(vfs, { database })
          yield* Effect.forEach(capsules.slice(0, 5), store.put, { discard: true })
          for (const code of ["EMFILE", "ENFILE"]) {
            disk.inject({ operation: "open", fault: { kind: "error", code } })
            yield* store.put(capsuleOf(70n))
            assert.strictEqual(files.open, 1, "the others were closed")
          }
          yield* store.put(capsuleOf(71n))
          disk.inject({ operation: "syncDirectory", fault: { kind: "error", code: "EMFILE" } })
          yield* store.sync([capsuleOf(70n).id])
          assert.strictEqual(files.open, 0, "71 was closed")
          // Nothing is left to be given back: it fails, and may be tried again.
          const shortage = disk.inject({
            operation: ["open", "syncDirectory"],
            fault: { kind: "error", code: "EMFILE" },
            times: Number.POSITIVE_INFINITY
          })
          assert.strictEqual((yield* Effect.flip(store.sync(ids.slice(0, 5)))).code, "EMFILE")
          assert.strictEqual((yield* Effect.flip(store.put(capsuleOf(72n)))).code, "EMFILE")
          shortage.remove()
          yield* store.sync(ids.slice(0, 5))
        }))
    }))
})

describe("CapsuleStore, waiting", () => {
  it.effect("a put that fails removes nothing that another put of the same capsule has written meanwhile", () =>
    Effect.gen(function*() {
      const disk = newDisk({ async: false })
      const capsule = capsuleOf(7n)
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const store = yield* makeCapsuleStore(vfs, { database })
          disk.inject({ operation: "write", fault: { kind: "error", code: "EIO" }, times: 2 })
          const put = Effect.forkChild(Effect.result(store.put(capsule)), { startImmediately: true })
          // Each is held while it writes, and the next one comes; the first two fail.
          const firstHold = disk.hold({ operation: "write" })
          const first = yield* put
          yield* firstHold.reached
          const second = yield* put
          const secondHold = disk.hold({ operation: "write" })
          yield* firstHold.release
          yield* secondHold.reached
          const third = yield* put
          yield* secondHold.release
          const failed = [first, second, third].map((fiber) => Effect.map(Fiber.join(fiber), Result.isFailure))
          assert.deepStrictEqual(yield* Effect.all(failed), [true, true, false])
          yield* store.sync([capsule.id])
        }))
      disk.crash("lost")
      assert.deepStrictEqual(disk.readFile(capsulePath(database, capsule.id)), capsule.bytes)
    }))

  it.effect("a put that writes runs to its end when it is interrupted; one that waits for its turn goes at once", () =>
    Effect.gen(function*() {
      const disk = newDisk({ async: false })
      const capsule = capsuleOf(7n)
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const store = yield* makeCapsuleStore(vfs, { database })
          const hold = disk.hold({ operation: "write" })
          const writing = yield* Effect.forkChild(store.put(capsule), { startImmediately: true })
          yield* hold.reached
          const waiting = yield* Effect.forkChild(store.put(capsule), { startImmediately: true })
          yield* Fiber.interrupt(waiting)
          const interruption = yield* Effect.forkChild(Fiber.interrupt(writing), { startImmediately: true })
          assert.isUndefined(writing.pollUnsafe())
          yield* hold.release
          yield* Fiber.join(interruption)
          assert.deepStrictEqual(disk.readFile(capsulePath(database, capsule.id)), capsule.bytes)
          // Nobody's turn was lost.
          yield* store.put(capsule)
          yield* store.sync([capsule.id])
        }))
    }))

  it.effect("CO-09 files are synced at the same time, as many as asked for, and their directory once they all are", () =>
    Effect.gen(function*() {
      const capsules = [1n, 2n, 3n, 4n, 5n].map((id) => capsuleOf(id))
      const waiting: Array<() => void> = []
      const done = Array<string>()
      yield* on(newDisk(), (plain) =>
        Effect.gen(function*() {
          const slow = (file: VfsFile): VfsFile => ({
            ...file,
            syncData: Effect.andThen(
              Effect.callback<void>((resume) => {
                waiting.push(() => resume(Effect.void))
              }),
              Effect.tap(file.syncData, () => Effect.sync(() => done.push("file")))
            )
          })
          const vfs: Vfs["Service"] = {
            ...plain,
            open: (path, options) => Effect.map(plain.open(path, options), slow),
            syncDirectory: (path) => Effect.tap(plain.syncDirectory(path), () => Effect.sync(() => done.push(path)))
          }
          const store = yield* makeCapsuleStore(vfs, { database, syncConcurrency: 3 })
          yield* Effect.forEach(capsules, store.put, { discard: true })
          const syncing = yield* Effect.forkChild(store.sync(capsules.map(({ id }) => id)), { startImmediately: true })
          for (const expected of [3, 3, 3, 2, 1]) {
            while (waiting.length < expected) yield* Effect.yieldNow
            yield* Effect.yieldNow
            assert.strictEqual(waiting.length, expected)
            waiting.shift()?.()
          }
          yield* Fiber.join(syncing)
        }))
      assert.deepStrictEqual(done, [
        ...Array.from({ length: 5 }, () => "file"),
        "/data",
        "/data/app.db.fsqlite",
        "/data/app.db.fsqlite/capsules"
      ])
    }))
})

describe("CapsuleStore, reading", () => {
  it.effect("RC-15 no memory is taken for a file whose header does not fit it", () =>
    Effect.gen(function*() {
      const claim = (pageCount: number, size: number) =>
        Effect.gen(function*() {
          const capsule = capsuleOf(7n)
          const disk = newDisk()
          disk.writeFile(
            capsulePath(database, capsule.id),
            changed(capsule.bytes, (view) => {
              view.setUint32(12, 65_536, true)
              view.setUint32(28, pageCount, true)
            })
          )
          let largest = 0
          const error = yield* Effect.flip(on(disk, (vfs) =>
            readCapsule(
              {
                ...vfs,
                open: (path, options) =>
                  Effect.map(vfs.open(path, options), (file) => ({
                    ...file,
                    size: Effect.succeed(size),
                    read: (buffer, position) => {
                      largest = Math.max(largest, buffer.length)
                      return file.read(buffer, position)
                    }
                  }))
              },
              database,
              capsule.id
            )))
          assert.isAtMost(largest, capsuleHeaderBytes)
          assert.strictEqual(error._tag, "CapsuleUnreadable")
          return error._tag === "CapsuleUnreadable" ? error.issue.code : ""
        })
      assert.strictEqual(yield* claim(0xffffffff, 100_000_000), "TooManyPages")
      assert.strictEqual(yield* claim(262_144, 100_000_000), "Truncated")
      assert.strictEqual(yield* claim(2, 100_000_000), "BytesBehindDigest")
    }))
})

describe("CapsuleStore, layers", () => {
  const capsule = capsuleOf(7n)
  const program = Effect.gen(function*() {
    const store = yield* CapsuleStore
    yield* store.put(capsule)
    yield* store.sync([capsule.id])
    return [store.database, (yield* store.read(capsule.id)).digest]
  })

  it.effect("from options and from the environment", () =>
    Effect.gen(function*() {
      const fromOptions = program.pipe(
        Effect.provide(layer({ database }).pipe(Layer.provide(MemoryVfs.layerDisk(newDisk()))))
      )
      assert.deepStrictEqual(yield* fromOptions, [database, capsule.digest])
      const from = (env: Record<string, string>) =>
        program.pipe(
          Effect.provide(layerConfig.pipe(
            Layer.provide([
              MemoryVfs.layerDisk(newDisk()),
              ConfigProvider.layer(ConfigProvider.fromEnvRecord(env))
            ])
          ))
        )
      assert.deepStrictEqual(yield* from({ TIDEMARK_DATABASE: database, TIDEMARK_CAPSULE_MAX_KEPT_FILES: "0" }), [
        database,
        capsule.digest
      ])
      const wrong = [
        ["TIDEMARK_CAPSULE_SYNC_CONCURRENCY", "0"],
        ["TIDEMARK_CAPSULE_MAX_KEPT_FILES", "-1"],
        ["TIDEMARK_CAPSULE_MAX_KEPT_FILES", "many"]
      ] as const
      for (const [key, value] of wrong) {
        assert.include((yield* Effect.flip(from({ TIDEMARK_DATABASE: database, [key]: value }))).message, key)
      }
      assert.include((yield* Effect.flip(from({}))).message, "TIDEMARK_DATABASE")
    }))

  it.effect("a bound that is none is a defect", () =>
    Effect.gen(function*() {
      for (const options of [{ syncConcurrency: 0 }, { syncConcurrency: 1.5 }, { maxKeptFiles: -1 }]) {
        const exit = yield* Effect.exit(on(newDisk(), (vfs) => makeCapsuleStore(vfs, { database, ...options })))
        assert.isTrue(Exit.hasDies(exit))
      }
    }))
})

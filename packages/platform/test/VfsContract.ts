/**
 * What every layer of `Vfs` has to do, sentence by sentence of its documentation.
 *
 * Durability is not in it: no process can take the power from its own disk. `MemoryVfs.test.ts` shows what a power loss
 * takes and leaves.
 */
import { assert, describe, it } from "@effect/vitest"
import { Vfs } from "@tidemark/platform/Vfs"
import { VfsError } from "@tidemark/platform/VfsError"
import { Effect, Exit, Fiber, type Layer, type Scope } from "effect"
import fc from "fast-check"
import { bytes, contents, create, refuses, type TestOfVfs } from "./support/vfsContracts.ts"
import { vfsWriteContract } from "./VfsWriteContract.ts"

/** Makes an empty directory for one test and answers its path without a slash at the end. */
export type MakeDirectory<R> = Effect.Effect<string, VfsError, R | Scope.Scope>

/**
 * The suite for a layer of `Vfs`, as tests of Vitest.
 *
 * @since 0.1.0
 */
export const vfsContract = (name: string, layer: Layer.Layer<Vfs>, makeDirectory: MakeDirectory<Vfs>): void => {
  const test: TestOfVfs = (title, body) =>
    it.live(title, () =>
      Effect.gen(function*() {
        const vfs = yield* Vfs
        yield* body(vfs, yield* makeDirectory)
      }).pipe(Effect.provide(layer, { local: true })))

  describe(`Vfs: ${name}`, () => {
    describe("open", () => {
      test(
        "a file that must exist and does not is ENOENT, which is the default",
        (vfs, directory) =>
          Effect.gen(function*() {
            const path = `${directory}/missing`
            yield* refuses(vfs.open(path, { access: "readWrite" }), "open", path, "ENOENT")
            yield* refuses(vfs.open(path, { access: "read", create: "never" }), "open", path, "ENOENT")
            assert.deepStrictEqual(yield* vfs.list(directory), [])
          })
      )

      test(
        "\"ifMissing\" creates an empty file and leaves one that exists as it is",
        (vfs, directory) =>
          Effect.gen(function*() {
            const path = `${directory}/a`
            const first = yield* vfs.open(path, { access: "readWrite", create: "ifMissing" })
            assert.strictEqual(first.path, path)
            assert.strictEqual(yield* first.size, 0)
            yield* first.write([bytes(1, 2, 3)], 0)
            const second = yield* vfs.open(path, { access: "readWrite", create: "ifMissing", mode: 0o600 })
            assert.deepStrictEqual(yield* contents(second), bytes(1, 2, 3))
          })
      )

      test("\"exclusive\" refuses a name that is taken with EEXIST", (vfs, directory) =>
        Effect.gen(function*() {
          const path = `${directory}/a`
          yield* create(vfs, path, 1)
          yield* refuses(vfs.open(path, { access: "readWrite", create: "exclusive" }), "open", path, "EEXIST")
          yield* refuses(vfs.open(directory, { access: "readWrite", create: "exclusive" }), "open", directory, "EEXIST")
        }))

      test(
        "of two that create a file exclusively at the same time one gets it",
        (vfs, directory) =>
          Effect.gen(function*() {
            const open = vfs.open(`${directory}/a`, { access: "readWrite", create: "exclusive" })
            const exits = yield* Effect.all(Array.from({ length: 8 }, () => Effect.exit(open)), {
              concurrency: "unbounded"
            })
            assert.strictEqual(exits.filter(Exit.isSuccess).length, 1)
          })
      )

      test(
        "a missing directory is ENOENT, a file in the middle of the path ENOTDIR",
        (vfs, directory) =>
          Effect.gen(function*() {
            yield* create(vfs, `${directory}/file`)
            const missing = `${directory}/missing/a`
            const through = `${directory}/file/a`
            yield* refuses(vfs.open(missing, { access: "readWrite", create: "ifMissing" }), "open", missing, "ENOENT")
            yield* refuses(vfs.open(through, { access: "readWrite", create: "ifMissing" }), "open", through, "ENOTDIR")
          })
      )

      test("a directory is EISDIR", (vfs, directory) =>
        Effect.gen(function*() {
          yield* refuses(vfs.open(directory, { access: "read" }), "open", directory, "EISDIR")
          yield* refuses(vfs.open(directory, { access: "readWrite" }), "open", directory, "EISDIR")
        }))

      test("a file is closed with its scope: EBADF", (vfs, directory) =>
        Effect.gen(function*() {
          const path = `${directory}/a`
          const file = yield* Effect.scoped(create(vfs, path, 1))
          yield* refuses(file.read(new Uint8Array(1), 0), "read", path, "EBADF")
          yield* refuses(file.write([bytes(1)], 0), "write", path, "EBADF")
          yield* refuses(file.writeAndSyncData([bytes(1)], 0), "write", path, "EBADF")
          yield* refuses(file.syncData, "syncData", path, "EBADF")
          yield* refuses(file.syncFull, "syncFull", path, "EBADF")
          yield* refuses(file.truncate(0), "truncate", path, "EBADF")
          yield* refuses(file.size, "size", path, "EBADF")
          assert.throws(() => file.readSync(new Uint8Array(1), 0), VfsError, "EBADF")
        }))

      test("a file that is open for reading refuses every change", (vfs, directory) =>
        Effect.gen(function*() {
          const path = `${directory}/a`
          yield* create(vfs, path, 1, 2, 3)
          const file = yield* vfs.open(path, { access: "read" })
          yield* refuses(file.write([bytes(9)], 0), "write", path, "EBADF", "EACCES")
          yield* refuses(file.writeAndSyncData([bytes(9)], 0), "write", path, "EBADF", "EACCES")
          yield* refuses(file.truncate(1), "truncate", path, "EINVAL", "EBADF", "EACCES")
          yield* file.syncData
          assert.deepStrictEqual(yield* contents(file), bytes(1, 2, 3))
        }))
    })

    describe("read", () => {
      for (const how of ["read", "readSync", "readSync by path"] as const) {
        test(
          `${how} is short only at the end of the file and 0 at and behind it`,
          (vfs, directory) =>
            Effect.gen(function*() {
              const file = yield* create(vfs, `${directory}/a`, 1, 2, 3, 4, 5)
              const read = (buffer: Uint8Array, position: number) =>
                how === "read"
                  ? file.read(buffer, position)
                  : Effect.sync(() =>
                    how === "readSync"
                      ? file.readSync(buffer, position)
                      : vfs.readSync(`${directory}/a`, buffer, position)
                  )
              const buffer = new Uint8Array(3)
              assert.strictEqual(yield* read(buffer, 1), 3)
              assert.deepStrictEqual(buffer, bytes(2, 3, 4))
              assert.strictEqual(yield* read(buffer, 3), 2)
              assert.deepStrictEqual(buffer, bytes(4, 5, 4))
              assert.strictEqual(yield* read(buffer, 5), 0)
              assert.strictEqual(yield* read(buffer, 10_000), 0)
              assert.strictEqual(yield* read(new Uint8Array(0), 0), 0)
              assert.deepStrictEqual(buffer, bytes(4, 5, 4))
            })
        )
      }

      test("a view into a larger buffer is filled and nothing beside it", (vfs, directory) =>
        Effect.gen(function*() {
          const file = yield* create(vfs, `${directory}/a`, 1, 2, 3, 4)
          const buffer = new Uint8Array(6).fill(9)
          assert.strictEqual(yield* file.read(buffer.subarray(2, 4), 1), 2)
          assert.deepStrictEqual(buffer, bytes(9, 9, 2, 3, 9, 9))
        }))

      test("readSync by path makes no file", (vfs, directory) =>
        Effect.gen(function*() {
          const path = `${directory}/missing`
          let thrown: unknown
          try {
            vfs.readSync(path, new Uint8Array(1), 0)
          } catch (error) {
            thrown = error
          }
          assert.instanceOf(thrown, VfsError)
          assert.deepInclude(thrown, { operation: "open", code: "ENOENT", path })
          assert.strictEqual(yield* vfs.identify(path), undefined)
        }))

      test("readSync sees what a finished write wrote", (vfs, directory) =>
        Effect.gen(function*() {
          const file = yield* create(vfs, `${directory}/a`)
          const buffer = new Uint8Array(1)
          for (let value = 1; value <= 20; value++) {
            yield* file.write([bytes(value)], 0)
            assert.strictEqual(file.readSync(buffer, 0), 1)
            assert.strictEqual(buffer[0], value)
          }
        }))
    })

    vfsWriteContract(test)

    describe("truncate", () => {
      test("cuts, extends with zeros, and what was cut does not come back", (vfs, directory) =>
        Effect.gen(function*() {
          const file = yield* create(vfs, `${directory}/a`, 1, 2, 3, 4)
          yield* file.truncate(2)
          assert.strictEqual(yield* file.size, 2)
          yield* file.truncate(5)
          assert.deepStrictEqual(yield* contents(file), bytes(1, 2, 0, 0, 0))
          yield* file.truncate(5)
          yield* file.truncate(1)
          yield* file.write([bytes(9)], 4)
          assert.deepStrictEqual(yield* contents(file), bytes(1, 0, 0, 0, 9))
          yield* file.truncate(0)
          assert.strictEqual(yield* file.size, 0)
        }))
    })

    it.live("any sequence of writes, cuts and reads gives what an array of bytes would give", () => {
      const position = fc.integer({ min: 0, max: 10_000 })
      const length = fc.integer({ min: 0, max: 5000 })
      const step = fc.oneof(
        fc.record({ kind: fc.constant("write" as const), position, lengths: fc.array(length, { maxLength: 4 }) }),
        fc.record({ kind: fc.constant("truncate" as const), size: position }),
        fc.record({ kind: fc.constant("read" as const), position, length })
      )
      const run = (steps: ReadonlyArray<typeof step extends fc.Arbitrary<infer A> ? A : never>) =>
        Effect.gen(function*() {
          const vfs = yield* Vfs
          const file = yield* vfs.open(`${yield* makeDirectory}/a`, { access: "readWrite", create: "exclusive" })
          let model = new Uint8Array(0)
          let value = 0
          const resize = (size: number) => {
            const next = new Uint8Array(size)
            next.set(model.subarray(0, size))
            model = next
          }
          for (const step of steps) {
            if (step.kind === "write") {
              const buffers = step.lengths.map((length) => new Uint8Array(length).fill(++value))
              const end = step.position + buffers.reduce((sum, buffer) => sum + buffer.length, 0)
              if (end > step.position) resize(Math.max(model.length, end))
              let at = step.position
              for (const buffer of buffers) {
                if (buffer.length > 0) model.set(buffer, at)
                at += buffer.length
              }
              yield* file.write(buffers, step.position)
            } else if (step.kind === "truncate") {
              resize(step.size)
              yield* file.truncate(step.size)
            } else {
              const buffer = new Uint8Array(step.length)
              const count = yield* file.read(buffer, step.position)
              assert.deepStrictEqual(buffer.subarray(0, count), model.slice(step.position, step.position + step.length))
            }
          }
          assert.deepStrictEqual(yield* contents(file), model)
        }).pipe(Effect.scoped, Effect.provide(layer, { local: true }), Effect.runPromise)
      return Effect.promise(() => fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 12 }), run), { numRuns: 40 }))
    })

    describe("remove", () => {
      test("the name is gone, an open file lives on", (vfs, directory) =>
        Effect.gen(function*() {
          const path = `${directory}/a`
          const file = yield* create(vfs, path, 1, 2)
          yield* vfs.remove(path)
          assert.deepStrictEqual(yield* vfs.list(directory), [])
          yield* file.write([bytes(3)], 2)
          yield* file.syncFull
          assert.deepStrictEqual(yield* contents(file), bytes(1, 2, 3))
          const other = yield* create(vfs, path, 9)
          assert.deepStrictEqual(yield* contents(file), bytes(1, 2, 3))
          assert.deepStrictEqual(yield* contents(other), bytes(9))
        }))

      test("what is not there is ENOENT, a directory is refused", (vfs, directory) =>
        Effect.gen(function*() {
          const path = `${directory}/a`
          yield* refuses(vfs.remove(path), "remove", path, "ENOENT")
          yield* vfs.makeDirectory(path)
          yield* refuses(vfs.remove(path), "remove", path, "EISDIR", "EPERM")
          assert.deepStrictEqual(yield* vfs.list(directory), ["a"])
        }))
    })

    describe("rename", () => {
      test(
        "replaces what has the name; open files keep what they were opened for",
        (vfs, directory) =>
          Effect.gen(function*() {
            const fresh = yield* create(vfs, `${directory}/fresh`, 1)
            const old = yield* create(vfs, `${directory}/name`, 2)
            yield* vfs.rename(`${directory}/fresh`, `${directory}/name`)
            assert.deepStrictEqual(yield* vfs.list(directory), ["name"])
            yield* fresh.write([bytes(3)], 1)
            assert.deepStrictEqual(yield* contents(old), bytes(2))
            const found = yield* vfs.open(`${directory}/name`, { access: "read" })
            assert.deepStrictEqual(yield* contents(found), bytes(1, 3))
          })
      )

      test(
        "a name that is read all the time while it is replaced is never missing",
        (vfs, directory) =>
          Effect.gen(function*() {
            yield* Effect.scoped(create(vfs, `${directory}/name`, 0))
            const replace = Effect.gen(function*() {
              for (let value = 1; value <= 20; value++) {
                yield* Effect.scoped(create(vfs, `${directory}/fresh`, value))
                yield* vfs.rename(`${directory}/fresh`, `${directory}/name`)
              }
            })
            let last = 0
            const watch = Effect.gen(function*() {
              const found = yield* contents(yield* vfs.open(`${directory}/name`, { access: "read" }))
              assert.strictEqual(found.length, 1)
              const value = found[0] ?? -1
              assert.isAtLeast(value, last)
              last = value
            }).pipe(Effect.scoped)
            const replacing = yield* Effect.forkChild(replace)
            while (replacing.pollUnsafe() === undefined) yield* watch
            yield* Fiber.join(replacing)
            yield* watch
            assert.strictEqual(last, 20)
          })
      )

      test("to another directory, and to itself", (vfs, directory) =>
        Effect.gen(function*() {
          yield* vfs.makeDirectory(`${directory}/sub`)
          const file = yield* create(vfs, `${directory}/a`, 1)
          yield* vfs.rename(`${directory}/a`, `${directory}/a`)
          assert.deepStrictEqual(yield* vfs.list(directory), ["a", "sub"])
          yield* vfs.rename(`${directory}/a`, `${directory}/sub/b`)
          assert.deepStrictEqual(yield* vfs.list(directory), ["sub"])
          assert.deepStrictEqual(yield* vfs.list(`${directory}/sub`), ["b"])
          assert.deepStrictEqual(yield* contents(file), bytes(1))
        }))

      test(
        "a missing source or target directory is ENOENT, a directory in the way EISDIR",
        (vfs, directory) =>
          Effect.gen(function*() {
            const path = `${directory}/a`
            yield* refuses(vfs.rename(path, `${directory}/b`), "rename", path, "ENOENT")
            yield* create(vfs, path, 1)
            yield* refuses(vfs.rename(path, `${directory}/missing/b`), "rename", path, "ENOENT")
            yield* vfs.makeDirectory(`${directory}/sub`)
            yield* refuses(vfs.rename(path, `${directory}/sub`), "rename", path, "EISDIR")
            assert.deepStrictEqual(yield* vfs.list(directory), ["a", "sub"])
          })
      )
    })

    describe("directories", () => {
      test(
        "list is sorted and knows files and directories, without . and ..",
        (vfs, directory) =>
          Effect.gen(function*() {
            assert.deepStrictEqual(yield* vfs.list(directory), [])
            for (const file of ["b", "a10", "a9", "B", ".hidden", "\u00fc", "c"]) {
              yield* create(vfs, `${directory}/${file}`)
            }
            yield* vfs.makeDirectory(`${directory}/aa`)
            assert.deepStrictEqual(yield* vfs.list(directory), [".hidden", "B", "a10", "a9", "aa", "b", "c", "\u00fc"])
          })
      )

      test("list of nothing is ENOENT, of a file ENOTDIR", (vfs, directory) =>
        Effect.gen(function*() {
          const path = `${directory}/a`
          yield* refuses(vfs.list(path), "list", path, "ENOENT")
          yield* create(vfs, path)
          yield* refuses(vfs.list(path), "list", path, "ENOTDIR")
        }))

      test(
        "makeDirectory makes missing parents and is fine with what exists",
        (vfs, directory) =>
          Effect.gen(function*() {
            const path = `${directory}/a/b/c`
            yield* vfs.makeDirectory(path, { mode: 0o700 })
            yield* create(vfs, `${path}/file`, 1)
            yield* vfs.makeDirectory(path)
            yield* vfs.makeDirectory(`${directory}/a`)
            assert.deepStrictEqual(yield* vfs.list(path), ["file"])
          })
      )

      test("makeDirectory over a file is EEXIST, through one ENOTDIR", (vfs, directory) =>
        Effect.gen(function*() {
          const path = `${directory}/file`
          yield* create(vfs, path)
          yield* refuses(vfs.makeDirectory(path), "makeDirectory", path, "EEXIST")
          yield* refuses(vfs.makeDirectory(`${path}/a`), "makeDirectory", `${path}/a`, "ENOTDIR")
        }))

      test(
        "syncDirectory succeeds on a directory, is ENOENT without one and ENOTDIR on a file",
        (vfs, directory) =>
          Effect.gen(function*() {
            yield* create(vfs, `${directory}/a`)
            yield* vfs.syncDirectory(directory)
            yield* refuses(vfs.syncDirectory(`${directory}/b`), "syncDirectory", `${directory}/b`, "ENOENT")
            yield* refuses(vfs.syncDirectory(`${directory}/a`), "syncDirectory", `${directory}/a`, "ENOTDIR")
          })
      )
    })

    describe("identify", () => {
      test("says what stands there and how large it is, or undefined", (vfs, directory) =>
        Effect.gen(function*() {
          const path = `${directory}/a`
          assert.isUndefined(yield* vfs.identify(path))
          yield* create(vfs, path, 1, 2, 3)
          assert.isUndefined(yield* vfs.identify(`${path}/below`))
          const file = yield* vfs.identify(path)
          assert.deepInclude(file, { kind: "file", size: 3 })
          assert.strictEqual((yield* vfs.identify(directory))?.kind, "directory")
        }))

      test(
        "the inode stays with the file and differs for another one of the same name",
        (vfs, directory) =>
          Effect.gen(function*() {
            const inodeOf = (name: string) =>
              Effect.map(vfs.identify(`${directory}/${name}`), (identity) => identity?.inode)
            const file = yield* create(vfs, `${directory}/a`, 1)
            const first = yield* inodeOf("a")
            assert.isDefined(first)
            yield* file.write([bytes(1, 2, 3)], 0)
            yield* file.truncate(1)
            assert.strictEqual(yield* inodeOf("a"), first)
            yield* create(vfs, `${directory}/b`, 2)
            const second = yield* inodeOf("b")
            assert.notStrictEqual(second, first)
            yield* vfs.rename(`${directory}/b`, `${directory}/a`)
            assert.strictEqual(yield* inodeOf("a"), second)
          })
      )
    })
  })
}

/**
 * What every layer of `Vfs` has to do, sentence by sentence of its documentation.
 *
 * Durability is not in it: no process can take the power from its own disk. `MemoryVfs.test.ts` shows what a power loss
 * takes and leaves.
 */
import { assert, describe, it } from "@effect/vitest"
import { Vfs, type VfsFile } from "@tidemark/platform/Vfs"
import { VfsError, type VfsOperation } from "@tidemark/platform/VfsError"
import { Effect, Exit, Fiber, type Layer, Scope } from "effect"
import fc from "fast-check"

/** Makes an empty directory for one test and answers its path without a slash at the end. */
export type MakeDirectory<R> = Effect.Effect<string, VfsError, R | Scope.Scope>

const bytes = (...values: ReadonlyArray<number>) => Uint8Array.from(values)

const contents = (file: VfsFile) =>
  Effect.gen(function*() {
    // Not zeros, so that a gap has to be filled.
    const buffer = new Uint8Array(yield* file.size).fill(0xee)
    assert.strictEqual(yield* file.read(buffer, 0), buffer.length)
    return buffer
  })

/** Fails unless the effect fails with a `VfsError` that names the operation, the path and one of the codes. */
const refuses = <A, R>(
  call: Effect.Effect<A, VfsError, R>,
  operation: VfsOperation,
  path: string,
  ...codes: ReadonlyArray<string>
) =>
  Effect.gen(function*() {
    const error = yield* Effect.match(call, {
      onFailure: (error) => error,
      onSuccess: () => assert.fail(`${operation} ${path} succeeds`)
    })
    assert.instanceOf(error, VfsError)
    assert.deepStrictEqual({ operation: error.operation, path: error.path }, { operation, path })
    assert.include(codes, error.code)
  })

/**
 * The suite for a layer of `Vfs`, as tests of Vitest.
 *
 * @since 0.1.0
 */
export const vfsContract = (name: string, layer: Layer.Layer<Vfs>, makeDirectory: MakeDirectory<Vfs>): void => {
  const test = (
    title: string,
    body: (vfs: Vfs["Service"], directory: string) => Effect.Effect<void, VfsError, Scope.Scope>
  ) =>
    it.live(title, () =>
      Effect.gen(function*() {
        const vfs = yield* Vfs
        yield* body(vfs, yield* makeDirectory)
      }).pipe(Effect.provide(layer, { local: true })))

  const create = (vfs: Vfs["Service"], path: string, ...values: ReadonlyArray<number>) =>
    Effect.gen(function*() {
      const file = yield* vfs.open(path, { access: "readWrite", create: "exclusive" })
      yield* file.write([bytes(...values)], 0)
      return file
    })

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

    describe("write", () => {
      test(
        "the buffers stand one after another, empty ones and more than 1024 of them",
        (vfs, directory) =>
          Effect.gen(function*() {
            const file = yield* create(vfs, `${directory}/a`)
            const buffers = Array.from({ length: 2500 }, (_, index) => new Uint8Array(index % 4).fill(index % 251))
            const joined = Uint8Array.from(buffers.flatMap((buffer) => Array.from(buffer)))
            yield* file.write(buffers, 10)
            assert.deepStrictEqual((yield* contents(file)).subarray(10), joined)
            yield* file.writeAndSyncData(buffers, 5)
            assert.deepStrictEqual((yield* contents(file)).subarray(5, 5 + joined.length), joined)
          })
      )

      test("nothing to write changes nothing, not even the size", (vfs, directory) =>
        Effect.gen(function*() {
          const file = yield* create(vfs, `${directory}/a`, 1)
          yield* file.write([], 100)
          yield* file.write([new Uint8Array(0), new Uint8Array(0)], 100)
          yield* file.writeAndSyncData([], 100)
          assert.strictEqual(yield* file.size, 1)
        }))

      test("a gap that a write leaves reads as zeros", (vfs, directory) =>
        Effect.gen(function*() {
          const file = yield* create(vfs, `${directory}/a`, 1)
          yield* file.write([bytes(2)], 10_000)
          const expected = new Uint8Array(10_001)
          expected[0] = 1
          expected[10_000] = 2
          assert.deepStrictEqual(yield* contents(file), expected)
        }))

      test(
        "writes at different places at the same time do not disturb each other or readers",
        (vfs, directory) =>
          Effect.gen(function*() {
            const file = yield* create(vfs, `${directory}/a`)
            const block = 1000
            yield* file.write([new Uint8Array(64 * block).fill(255)], 0)
            yield* Effect.forEach(Array.from({ length: 64 }, (_, index) => index), (index) =>
              Effect.gen(function*() {
                yield* file.write(
                  [new Uint8Array(block / 2).fill(index), new Uint8Array(block / 2).fill(index)],
                  index * block
                )
                const buffer = new Uint8Array(block)
                yield* file.read(buffer, index * block)
                assert.deepStrictEqual(buffer, new Uint8Array(block).fill(index))
              }), { concurrency: "unbounded", discard: true })
            const expected = Uint8Array.from({ length: 64 * block }, (_, position) => Math.floor(position / block))
            assert.deepStrictEqual(yield* contents(file), expected)
          })
      )

      test("a write whose fiber is interrupted runs to its end", (vfs, directory) =>
        Effect.gen(function*() {
          const file = yield* create(vfs, `${directory}/a`)
          const written = new Uint8Array(1 << 20).fill(7)
          const fiber = yield* Effect.forkChild(file.write([written, written], 0), { startImmediately: true })
          yield* Fiber.interrupt(fiber)
          const found = yield* contents(file)
          assert.strictEqual(found.length, 2 << 20)
          assert.isTrue(found.every((value) => value === 7))
        }))

      test("a scope that closes during a write takes nothing from it", (vfs, directory) =>
        Effect.gen(function*() {
          const path = `${directory}/a`
          const scope = yield* Scope.make()
          const file = yield* Scope.provide(create(vfs, path), scope)
          const written = new Uint8Array(1 << 20).fill(7)
          const fiber = yield* Effect.forkChild(file.write([written], 0), { startImmediately: true })
          yield* Scope.close(scope, Exit.void)
          yield* Fiber.join(fiber)
          const again = yield* vfs.open(path, { access: "read" })
          assert.deepStrictEqual(yield* contents(again), written)
        }))

      test("the syncs succeed, and writeAndSyncData has written", (vfs, directory) =>
        Effect.gen(function*() {
          const file = yield* create(vfs, `${directory}/a`, 1)
          yield* file.syncData
          yield* file.syncFull
          yield* file.writeAndSyncData([bytes(2), bytes(3)], 1)
          yield* file.syncFull
          assert.deepStrictEqual(yield* contents(file), bytes(1, 2, 3))
        }))
    })

    describe("writeAndSyncData with tail", () => {
      const block = 4096
      const upToBlock = (position: number) => Math.ceil(position / block) * block

      /** Writes to the file, and to the model what the file holds afterwards if that is allowed. */
      const writeTail = (
        file: VfsFile,
        model: Uint8Array,
        written: Uint8Array,
        position: number,
        background: boolean
      ) =>
        Effect.gen(function*() {
          const third = Math.floor(written.length / 3)
          yield* file.writeAndSyncData([written.subarray(0, third), written.subarray(third)], position, {
            background,
            tail: true
          })
          const found = yield* contents(file)
          const end = position + written.length
          const until = upToBlock(end)
          assert.isAtLeast(found.length, Math.max(model.length, end))
          assert.isAtMost(found.length, Math.max(model.length, until))
          const expected = new Uint8Array(found.length)
          expected.set(model)
          expected.set(written, position)
          for (let at = end; at < Math.min(until, found.length); at++) {
            if (found[at] === 0) expected[at] = 0
          }
          assert.isTrue(Buffer.from(found.buffer).equals(expected), `what is written at ${position} is there`)
          return found
        })

      for (const background of [false, true]) {
        test(
          `what is before it and it itself is exact, and behind it nothing but zeros is new, ${
            background ? "in the background" : "on some thread"
          }`,
          (vfs, directory) =>
            Effect.gen(function*() {
              const file = yield* vfs.open(`${directory}/a`, { access: "readWrite", create: "exclusive" })
              let model = new Uint8Array(5 * block + 77).fill(0xaa)
              yield* file.write([model], 0)
              let position = 10
              let value = 0
              for (const length of [1, 100, block - 111, block, block + 1, 3, 3 * block, 500]) {
                model = yield* writeTail(file, model, new Uint8Array(length).fill(++value), position, background)
                position += length
              }
              // Behind a gap, and before the end once more.
              model = yield* writeTail(file, model, new Uint8Array(9).fill(21), position + 2 * block, background)
              model = yield* writeTail(file, model, new Uint8Array(block).fill(22), block + 5, background)
              yield* writeTail(file, model, new Uint8Array(1).fill(23), 2 * block - 1, background)
            })
        )
      }

      test(
        "other writes and cuts between such writes are neither lost nor undone",
        (vfs, directory) =>
          Effect.gen(function*() {
            const file = yield* vfs.open(`${directory}/a`, { access: "readWrite", create: "exclusive" })
            let model = yield* writeTail(file, new Uint8Array(0), new Uint8Array(100).fill(1), 0, false)
            for (let round = 0; round < 4; round++) {
              const end = 100 * (round + 1)
              yield* file.write([bytes(50 + round, 50 + round)], end - 3)
              model.fill(50 + round, end - 3, end - 1)
              if (round % 2 === 1) {
                yield* file.truncate(end - 2)
                model = model.slice(0, end - 2)
              }
              model = yield* writeTail(file, model, new Uint8Array(100).fill(2 + round), end, round > 1)
            }
          })
      )

      test("refuses a file that is open for reading", (vfs, directory) =>
        Effect.gen(function*() {
          const path = `${directory}/a`
          yield* create(vfs, path, 1, 2, 3)
          const file = yield* vfs.open(path, { access: "read" })
          for (const background of [false, true]) {
            yield* refuses(
              file.writeAndSyncData([bytes(9)], 0, { background, tail: true }),
              "write",
              path,
              "EBADF",
              "EACCES"
            )
          }
          assert.deepStrictEqual(yield* contents(file), bytes(1, 2, 3))
        }))
    })

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

/**
 * The part of `vfsContract` about writes, and those that are synced in the same call.
 */
import { assert, describe } from "@effect/vitest"
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { Effect, Exit, Fiber, Scope } from "effect"
import { bytes, contents, create, refuses, type TestOfVfs } from "./support/vfsContracts.ts"

export const vfsWriteContract = (test: TestOfVfs): void => {
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

  describe("writeAndSyncData in the background", () => {
    for (const tail of [false, true]) {
      const how = { background: true, tail }
      const name = tail ? ", at the end of the file" : ""

      test(
        `ten that are begun at once end in their order, and the file holds them all${name}`,
        (vfs, directory) =>
          Effect.gen(function*() {
            const file = yield* create(vfs, `${directory}/a`)
            const ended: Array<number> = []
            const expected: Array<number> = []
            const fibers: Array<Fiber.Fiber<unknown, VfsError>> = []
            for (let index = 0; index < 10; index++) {
              const written = new Uint8Array(1000 + index * 700).fill(index + 1)
              const position = expected.length
              expected.push(...written)
              fibers.push(
                yield* Effect.forkChild(
                  Effect.andThen(
                    file.writeAndSyncData([written.subarray(0, 10), written.subarray(10)], position, how),
                    Effect.sync(() => ended.push(index))
                  ),
                  { startImmediately: true }
                )
              )
            }
            yield* Fiber.joinAll(fibers)
            assert.deepStrictEqual(ended, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
            const found = yield* contents(file)
            assert.isTrue(Buffer.from(expected).equals(found.subarray(0, expected.length)))
            assert.isTrue(found.subarray(expected.length).every((byte) => byte === 0))
          })
      )

      test(
        `a scope that closes, and an interruption, take nothing from those that wait${name}`,
        (vfs, directory) =>
          Effect.gen(function*() {
            const path = `${directory}/a`
            const scope = yield* Scope.make()
            const file = yield* Scope.provide(create(vfs, path), scope)
            const fibers: Array<Fiber.Fiber<unknown, VfsError>> = []
            for (let index = 0; index < 4; index++) {
              fibers.push(
                yield* Effect.forkChild(file.writeAndSyncData([bytes(index + 1)], index, how), {
                  startImmediately: true
                })
              )
            }
            yield* Effect.forEach(fibers.slice(1, 3), (fiber) => Fiber.interrupt(fiber), { concurrency: "unbounded" })
            yield* Scope.close(scope, Exit.void)
            yield* Fiber.joinAll(fibers.slice(3))
            const found = yield* contents(yield* vfs.open(path, { access: "read" }))
            assert.deepStrictEqual(found.subarray(0, 4), bytes(1, 2, 3, 4))
            yield* refuses(file.writeAndSyncData([bytes(9)], 0, how), "write", path, "EBADF")
          })
      )
    }
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
}

/**
 * What every layer of `FileLock` has to do. What happens when a process dies is not in it.
 */
import { assert, describe, it } from "@effect/vitest"
import { FileLock, RangeLocked } from "@tidemark/platform/FileLock"
import { Effect, type Layer, type Scope } from "effect"
import type { MakeDirectory } from "./VfsContract.ts"

/**
 * The suite for a layer of `FileLock`, as tests of Vitest.
 *
 * @since 0.1.0
 */
export const fileLockContract = <R>(
  name: string,
  layer: Layer.Layer<FileLock | R>,
  makeDirectory: MakeDirectory<R>
): void => {
  type Mode = "shared" | "exclusive"

  const test = (
    title: string,
    body: (
      acquire: (mode: Mode, start?: number, length?: number) => Effect.Effect<void, unknown, Scope.Scope>,
      locks: FileLock["Service"],
      path: string
    ) => Effect.Effect<void, unknown, Scope.Scope>
  ) =>
    it.live(title, () =>
      Effect.gen(function*() {
        const locks = yield* FileLock
        const path = `${yield* makeDirectory}/lock`
        const acquire = (mode: Mode, start = 0, length = 10) =>
          locks.acquire(path, { range: { start, length }, mode, create: true })
        yield* body(acquire, locks, path)
      }).pipe(Effect.provide(layer, { local: true })))

  const isLocked = (acquire: Effect.Effect<void, unknown, Scope.Scope>) =>
    Effect.match(Effect.scoped(acquire), {
      onFailure: (error) => error instanceof RangeLocked ? error : assert.fail(`it fails with ${String(error)}`),
      onSuccess: () => assert.fail("the lock is granted")
    })

  describe(`FileLock: ${name}`, () => {
    test("shared locks pass each other, an exclusive one passes nobody, also within one process", (acquire) =>
      Effect.gen(function*() {
        yield* Effect.scoped(Effect.gen(function*() {
          yield* acquire("shared")
          yield* acquire("shared")
          yield* isLocked(acquire("exclusive"))
        }))
        yield* acquire("exclusive")
        yield* isLocked(acquire("shared"))
        yield* isLocked(acquire("exclusive"))
      }))

    test("only bytes that overlap exclude each other", (acquire, _, path) =>
      Effect.gen(function*() {
        yield* acquire("exclusive", 100, 10)
        yield* acquire("exclusive", 90, 10)
        yield* acquire("exclusive", 110, 10)
        const error = yield* isLocked(acquire("shared", 109, 1))
        assert.deepInclude(error, { path, start: 109, length: 1, mode: "shared" })
        yield* isLocked(acquire("exclusive", 0, 1000))
      }))

    test("locks on different files do not exclude each other", (acquire, locks, path) =>
      Effect.gen(function*() {
        yield* acquire("exclusive")
        yield* locks.acquire(`${path}-2`, { range: { start: 0, length: 10 }, mode: "exclusive", create: true })
      }))

    test("a lock goes with its scope, a refused one leaves nothing behind", (acquire) =>
      Effect.gen(function*() {
        yield* Effect.scoped(Effect.gen(function*() {
          yield* acquire("shared")
          yield* isLocked(acquire("exclusive"))
        }))
        yield* Effect.scoped(acquire("exclusive"))
        yield* acquire("exclusive")
      }))

    test(
      "who asks whether a lock is held is told what an acquisition would be, and takes nothing",
      (acquire, locks, path) =>
        Effect.gen(function*() {
          const isHeld = (mode: Mode, start = 0, length = 10) => locks.isHeld(path, { range: { start, length }, mode })
          const answers = () => Effect.all([isHeld("shared"), isHeld("exclusive")])
          assert.deepStrictEqual(yield* answers(), [false, false])
          assert.deepInclude(
            yield* Effect.flip(locks.acquire(path, { range: { start: 0, length: 1 }, mode: "shared" })),
            {
              code: "ENOENT"
            }
          )
          yield* Effect.scoped(Effect.gen(function*() {
            yield* acquire("shared")
            assert.deepStrictEqual(yield* answers(), [false, true])
            yield* acquire("shared")
          }))
          yield* Effect.scoped(Effect.gen(function*() {
            yield* acquire("exclusive")
            assert.deepStrictEqual(yield* answers(), [true, true])
            assert.isTrue(yield* isHeld("shared", 9, 1))
            assert.isFalse(yield* isHeld("exclusive", 10, 1))
          }))
          assert.deepStrictEqual(yield* answers(), [false, false])
          yield* acquire("exclusive")
          assert.isFalse(yield* locks.isHeld(`${path}/below`, { range: { start: 0, length: 1 }, mode: "exclusive" }))
          const directory = path.slice(0, path.lastIndexOf("/"))
          const refused = yield* Effect.flip(
            locks.isHeld(directory, { range: { start: 0, length: 1 }, mode: "shared" })
          )
          assert.deepInclude(refused, { _tag: "VfsError", code: "EISDIR" })
        })
    )

    test(
      "a file is made only when that is asked for, and a directory is EISDIR",
      (_, locks, path) =>
        Effect.gen(function*() {
          const range = { start: 0, length: 1 }
          const missing = yield* Effect.flip(locks.acquire(path, { range, mode: "exclusive" }))
          assert.deepInclude(missing, { _tag: "VfsError", operation: "open", path, code: "ENOENT" })
          yield* locks.acquire(path, { range, mode: "exclusive", create: true })
          const directory = path.slice(0, path.lastIndexOf("/"))
          const refused = yield* Effect.flip(locks.acquire(directory, { range, mode: "exclusive" }))
          assert.deepInclude(refused, { _tag: "VfsError", code: "EISDIR" })
        })
    )
  })
}

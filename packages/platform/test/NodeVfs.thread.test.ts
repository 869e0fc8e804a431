/**
 * Writes in the background on real files, several of them under way at once, through the thread that writes and past it.
 */
import { assert, describe, it, vi } from "@effect/vitest"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as TailMemory from "@tidemark/platform/TailMemory"
import { Vfs, type VfsFile } from "@tidemark/platform/Vfs"
import { Effect, Exit, Fiber, References, Scope } from "effect"
import fc from "fast-check"
import * as NodeFs from "node:fs"
import * as NodeOs from "node:os"
import * as NodePath from "node:path"
import { WriteThread } from "../src/internal/writeThread.ts"
import { openDescriptorsOf, takesDirect } from "./support/descriptors.ts"

const { blockBytes } = TailMemory
const background = { background: true, tail: true }

const newPath = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => NodeFs.mkdtempSync(NodePath.join(NodeOs.tmpdir(), "tidemark-thread-"))),
    (directory) => Effect.sync(() => NodeFs.rmSync(directory, { recursive: true, force: true }))
  ),
  (directory) => NodePath.join(directory, "file")
)

/** The threads of this process that write, by what the system calls them. */
const threadsThatWrite = () =>
  NodeFs.readdirSync("/proc/self/task").filter((task) => {
    try {
      return NodeFs.readFileSync(`/proc/self/task/${task}/comm`, "latin1").trim() === "tidemark writes"
    } catch {
      // It has ended meanwhile.
      return false
    }
  }).length

const turn = Effect.callback<void>((resume) => void setImmediate(() => resume(Effect.void)))
const until = (condition: () => boolean): Effect.Effect<void> =>
  Effect.suspend(() => condition() ? Effect.void : Effect.andThen(turn, until(condition)))

/** Bytes that lie in memory of their own as they are to lie in the file. */
const inPlace = (bytes: Uint8Array, position: number) => {
  const first = position % blockBytes
  const memory = TailMemory.make(first + bytes.length + blockBytes)
  memory.set(bytes, first)
  return memory.subarray(first, first + bytes.length)
}

const filled = (length: number, value: number) => new Uint8Array(length).fill(value)

/** Orders that threads were given, until the scope closes. */
const watchedOrders = Effect.acquireRelease(
  Effect.sync(() => vi.spyOn(WriteThread.prototype, "write")),
  (spy) => Effect.sync(() => spy.mockRestore())
)

const openNew = (path: string) =>
  Effect.flatMap(Vfs, (vfs) => vfs.open(path, { access: "readWrite", create: "exclusive" }))

/** Writes the first byte until a thread has been given one. */
const openForThread = (path: string) =>
  Effect.gen(function*() {
    const file = yield* openNew(path)
    const orders = yield* watchedOrders
    while (orders.mock.calls.length === 0) {
      yield* file.writeAndSyncData([inPlace(Uint8Array.of(1), 0)], 0, background)
      yield* turn
    }
    orders.mockClear()
    return { file, orders }
  })

const fork = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

describe.runIf(process.platform === "linux" && takesDirect(NodeOs.tmpdir()))(
  "in the background, several at once",
  () => {
    const layer = NodeVfs.layerVfs

    it.live("a close waits for all that are under way, ends the thread, and closes its descriptors", () =>
      Effect.gen(function*() {
        const path = yield* newPath
        const scope = yield* Scope.make()
        const { file, orders } = yield* Scope.provide(openForThread(path), scope)
        assert.strictEqual(threadsThatWrite(), 1)
        const fibers: Array<Fiber.Fiber<void, unknown>> = []
        const length = 1 << 20
        // More than the thread takes at once: the last ones wait in the line when the close begins.
        for (let index = 0; index < 7; index++) {
          const position = 1 + index * length
          fibers.push(
            yield* fork(file.writeAndSyncData([inPlace(filled(length, index + 2), position)], position, background))
          )
        }
        assert.isAtLeast(orders.mock.calls.length, 3)
        assert.isTrue(fibers.every((fiber) => fiber.pollUnsafe() === undefined))
        yield* Scope.close(scope, Exit.void)
        assert.isTrue(fibers.every((fiber) => fiber.pollUnsafe() !== undefined))
        yield* Fiber.joinAll(fibers)
        const found = NodeFs.readFileSync(path)
        assert.isTrue(found.subarray(1, 1 + 7 * length).every((byte, at) => byte === 2 + Math.floor(at / length)))
        assert.deepStrictEqual(openDescriptorsOf(path), [])
        yield* until(() => threadsThatWrite() === 0)
        assert.strictEqual((yield* Effect.flip(file.writeAndSyncData([filled(1, 1)], 0, background))).code, "EBADF")
      }).pipe(Effect.scoped, Effect.provide(layer)))

    const tailWrite = (file: VfsFile, options: { readonly tail?: boolean; readonly background?: boolean }) =>
      file.writeAndSyncData([inPlace(Uint8Array.of(1), 0)], 0, options)

    it.live("a file has a queue when a write has gone past the page cache, and until its thread has ended", () =>
      Effect.gen(function*() {
        const path = yield* newPath
        const { file } = yield* openForThread(path)
        assert.isTrue(file.hasWriteQueue())
        const other = yield* openNew(`${path}2`)
        assert.isFalse(other.hasWriteQueue())
        while (NodeFs.statSync(`${path}2`).size < blockBytes) {
          assert.isFalse(other.hasWriteQueue())
          yield* tailWrite(other, { tail: true })
          yield* turn
        }
        // No thread was needed yet, and one could be had.
        assert.isTrue(other.hasWriteQueue())
        assert.strictEqual(threadsThatWrite(), 1)
        const started = vi.spyOn(WriteThread.prototype, "isRunning", "get").mockReturnValue(false)
        assert.isTrue(other.hasWriteQueue())
        assert.isFalse(file.hasWriteQueue())
        started.mockRestore()
      }).pipe(Effect.scoped, Effect.provide(layer)))

    for (const options of [{ writeThreads: false }, { directTails: false }]) {
      it.live(`with ${Object.keys(options).join()}: false no file has a queue`, () =>
        Effect.gen(function*() {
          const file = yield* Effect.flatMap(newPath, openNew)
          for (let at = 0; at < 30; at++) {
            yield* tailWrite(file, { background: at > 20, tail: true })
            assert.isFalse(file.hasWriteQueue())
            yield* turn
          }
        }).pipe(Effect.scoped, Effect.provide(NodeVfs.layerVfsOptions(options))))
    }

    it.live("with writeThreads: false none is started", () =>
      Effect.gen(function*() {
        const path = yield* newPath
        const orders = yield* watchedOrders
        const file = yield* openNew(path)
        for (let at = 0; at < 30; at++) {
          yield* file.writeAndSyncData([inPlace(filled(1, at), at)], at, background)
          yield* turn
        }
        assert.strictEqual(NodeFs.statSync(path).size, blockBytes)
        assert.strictEqual(threadsThatWrite(), 0)
        assert.strictEqual(orders.mock.calls.length, 0)
      }).pipe(Effect.scoped, Effect.provide(NodeVfs.layerVfsOptions({ writeThreads: false }))))

    const step = fc.record({
      length: fc.oneof(fc.integer({ min: 1, max: 9000 }), fc.constantFrom(blockBytes, 2 * blockBytes)),
      how: fc.oneof(
        { weight: 6, arbitrary: fc.constant("in place" as const) },
        { weight: 1, arbitrary: fc.constantFrom("other memory", "several", "gap", "back", "no tail") }
      ),
      /** Turns of the event loop before the next one. */
      turns: fc.nat({ max: 2 }),
      waits: fc.nat({ max: 9 }).map((value) => value === 0)
    })

    const run = (steps: ReadonlyArray<typeof step extends fc.Arbitrary<infer A> ? A : never>) =>
      Effect.gen(function*() {
        const path = yield* newPath
        const { file, orders } = yield* openForThread(path)
        const model = new Uint8Array(400_000)
        model[0] = 1
        let end = 1
        let value = 1
        let underWay: Array<Fiber.Fiber<void, unknown>> = []
        for (const { how, length, turns, waits } of steps) {
          value = value % 200 + 1
          const position = how === "gap" ? end + 5000 : how === "back" ? Math.max(0, end - 300) : end
          const bytes = filled(length, value)
          model.set(bytes, position)
          if (how !== "no tail") model.fill(0, position + length)
          end = position + length
          const buffers = how === "several"
            ? [bytes.subarray(0, 1), bytes.subarray(1)]
            : how === "other memory"
            ? [bytes]
            : [inPlace(bytes, position)]
          const write: ReturnType<VfsFile["writeAndSyncData"]> = file.writeAndSyncData(
            buffers,
            position,
            how === "no tail" ? { background: true } : background
          )
          underWay.push(yield* fork(write))
          for (let count = 0; count < turns; count++) yield* turn
          if (waits) {
            yield* Fiber.joinAll(underWay)
            underWay = []
          }
        }
        yield* Fiber.joinAll(underWay)
        const found = NodeFs.readFileSync(path)
        assert.isAtLeast(found.length, end)
        assert.isTrue(found.equals(model.subarray(0, found.length)), "the file holds what the array holds")
        return orders.mock.calls.length
      }).pipe(Effect.scoped)

    for (const ops of [16, 2048]) {
      it.live(`whatever is written, the file holds what an array of bytes would hold, fibers yield after ${ops}`, () =>
        Effect.promise(async () => {
          let orders = 0
          await fc.assert(
            fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 25 }), async (steps) => {
              orders += await Effect.runPromise(
                run(steps).pipe(Effect.provide(layer), Effect.provideService(References.MaxOpsBeforeYield, ops))
              )
            }),
            { numRuns: 20 }
          )
          assert.isAbove(orders, 50)
        }))
    }
  }
)

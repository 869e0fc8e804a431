/**
 * Writes past the page cache on real files, and on files whose calls fail as no disk at hand does.
 *
 * How a test knows the way that a write took: the calls of `node:fs` are watched, with the flags that the kernel has for
 * the descriptor at that moment; and a file becomes a multiple of a block long by nothing but a widened write.
 */
import { assert, describe, it } from "@effect/vitest"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as TailMemory from "@tidemark/platform/TailMemory"
import { Vfs, type VfsFile } from "@tidemark/platform/Vfs"
import { Cause, Effect, Exit, Fiber, Scope } from "effect"
import fc from "fast-check"
import NodeFsMutable, * as NodeFs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import * as NodeOs from "node:os"
import * as NodePath from "node:path"
import { openDescriptorsOf, takesDirect } from "./support/descriptors.ts"

const isLinux = process.platform === "linux"
const { blockBytes } = TailMemory
const upToBlock = (position: number) => Math.ceil(position / blockBytes) * blockBytes

const temporaryDirectory = (parent: string) =>
  Effect.acquireRelease(
    Effect.sync(() => NodeFs.mkdtempSync(NodePath.join(parent, "tidemark-tail-"))),
    (directory) => Effect.sync(() => NodeFs.rmSync(directory, { recursive: true, force: true }))
  )

const newPath = Effect.map(temporaryDirectory(NodeOs.tmpdir()), (directory) => NodePath.join(directory, "file"))

const flagsOf = (descriptor: number | string) =>
  Number.parseInt(
    /flags:\s+([0-7]+)/.exec(NodeFs.readFileSync(`/proc/self/fdinfo/${descriptor}`, "latin1"))?.[1] ?? "0",
    8
  )

const isDirect = (descriptor: number | string) => (flagsOf(descriptor) & NodeFs.constants.O_DIRECT) !== 0

interface SeenCall {
  readonly name: "writev" | "writevSync" | "read"
  readonly isDirect: boolean
}

/** The calls on descriptors of `node:fs`, each told before it is made. The functions are put back with the scope. */
const watchedCalls = Effect.acquireRelease(
  Effect.sync(() => {
    const seen: Array<SeenCall> = []
    const { read, writev, writevSync } = NodeFsMutable
    const watch = (name: SeenCall["name"], original: (...parameters: Array<never>) => unknown) =>
      Object.defineProperty(NodeFsMutable, name, {
        configurable: true,
        writable: true,
        value: (...parameters: ReadonlyArray<unknown>): unknown => {
          seen.push({ name, isDirect: isDirect(Number(parameters[0])) })
          return Reflect.apply(original, NodeFsMutable, parameters)
        }
      })
    watch("writev", writev)
    watch("writevSync", writevSync)
    watch("read", read)
    syncBuiltinESMExports()
    return {
      /** Since the last question. */
      seen: () => seen.splice(0),
      restore: () => {
        Object.assign(NodeFsMutable, { read, writev, writevSync })
        syncBuiltinESMExports()
      }
    }
  }),
  ({ restore }) => Effect.sync(restore)
)

const tail = { tail: true }
const background = { background: true, tail: true }
const pool = NodeVfs.layerVfsOptions({ inlineSyncMaxMicros: 0 })

const openNew = (path: string) =>
  Effect.flatMap(Vfs, (vfs) => vfs.open(path, { access: "readWrite", create: "exclusive" }))

/** Writes the first byte again and again, until the way past the page cache is open and one write has taken it. */
const openForTails = (path: string) =>
  Effect.gen(function*() {
    const file = yield* openNew(path)
    for (let attempt = 0; attempt < 1000 && (yield* file.size) < blockBytes; attempt++) {
      yield* file.writeAndSyncData([Uint8Array.of(1)], 0, tail)
    }
    // Whichever has got the lower number.
    assert.sameMembers(openDescriptorsOf(path).map(isDirect), [false, true])
    return file
  })

describe.runIf(isLinux && takesDirect(NodeOs.tmpdir()))("past the page cache", () => {
  const ways = [
    { name: "on the calling thread", layer: NodeVfs.layerVfsOptions({ inlineSyncMaxMicros: 1e9 }), how: tail },
    { name: "in the pool", layer: pool, how: tail },
    { name: "in the background", layer: pool, how: background }
  ]
  for (const { how, layer, name } of ways) {
    it.live(`a write at the end goes there ${name}, and a plain one, an empty one and a long one do not`, () =>
      Effect.gen(function*() {
        const path = yield* newPath
        const file = yield* openForTails(path)
        const { seen } = yield* watchedCalls
        const isPast = (...options: Parameters<VfsFile["writeAndSyncData"]>) =>
          Effect.map(file.writeAndSyncData(...options), () => seen())
        const call = name === "on the calling thread" ? "writevSync" : "writev"
        assert.deepStrictEqual(yield* isPast([Uint8Array.of(2, 3)], 1, how), [{ name: call, isDirect: true }])
        assert.deepStrictEqual(yield* isPast([], 10_000, how), [])
        const long = new Uint8Array(4 * 1024 * 1024 + 1).fill(9)
        assert.isTrue((yield* isPast([long], 3, how)).every(({ isDirect }) => !isDirect))
        assert.strictEqual(NodeFs.statSync(path).size, 3 + long.length)
        assert.deepStrictEqual(yield* isPast([long.subarray(1)], 3, how), [{ name: "writev", isDirect: true }])
        // What a plain write has left to be synced is promised, too.
        yield* file.write([Uint8Array.of(4)], 5)
        seen()
        assert.isTrue((yield* isPast([Uint8Array.of(5)], 6, how)).every(({ isDirect }) => !isDirect))
        assert.deepStrictEqual((yield* isPast([Uint8Array.of(6)], 7, how)).map(({ isDirect }) => isDirect), [true])
        const expected = Uint8Array.from([1, 2, 3, 9, 9, 4, 5, 6, 0])
        assert.isTrue(NodeFs.readFileSync(path).subarray(0, 9).equals(expected))
      }).pipe(Effect.scoped, Effect.provide(layer)))
  }

  it.live("a long read goes there into memory for it, sees plain writes, and stops at the end of the file", () =>
    Effect.gen(function*() {
      const path = yield* newPath
      const file = yield* openForTails(path)
      const contents = Uint8Array.from({ length: 100_000 }, (_, index) => index % 251)
      yield* file.write([contents], 0)
      const { seen } = yield* watchedCalls
      const read = (buffer: Uint8Array, position: number) =>
        Effect.gen(function*() {
          const count = yield* file.read(buffer, position)
          assert.strictEqual(count, Math.min(buffer.length, Math.max(0, contents.length - position)))
          assert.isTrue(Buffer.from(buffer.subarray(0, count)).equals(contents.subarray(position, position + count)))
          return seen().map(({ isDirect }) => isDirect)
        })
      const memory = TailMemory.make(200_000)
      assert.deepStrictEqual(yield* read(memory.subarray(5, 70_005), 5), [true])
      assert.deepStrictEqual(yield* read(memory.subarray(6, 70_006), 5), [false])
      assert.deepStrictEqual(yield* read(memory.subarray(5, 60_005), 5), [false])
      assert.deepStrictEqual(yield* read(new Uint8Array(70_000), 0), [false])
      // The end is where another read finds nothing.
      assert.deepStrictEqual(yield* read(memory.subarray(4096, 150_000), 0), [true, false])
      assert.deepStrictEqual(yield* read(memory.subarray(5, 70_005), 200_005 - 200_005 % blockBytes + 5), [true, false])
    }).pipe(Effect.scoped, Effect.provide(pool)))

  it.live("a close closes that descriptor, which no child process gets, and waits for the write under way", () =>
    Effect.gen(function*() {
      const path = yield* newPath
      const scope = yield* Scope.make()
      const file = yield* Scope.provide(openForTails(path), scope)
      const closeOnExec = 0o2000000
      const descriptors = openDescriptorsOf(path)
      assert.strictEqual(descriptors.length, 2)
      assert.isTrue(descriptors.map(flagsOf).every((flags) => (flags & closeOnExec) !== 0))
      const bytes = new Uint8Array(4 * 1024 * 1024 - 1).fill(7)
      const fiber = yield* Effect.forkChild(file.writeAndSyncData([bytes], 1, background), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      assert.isDefined(fiber.pollUnsafe())
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(openDescriptorsOf(path), [])
      assert.isTrue(NodeFs.readFileSync(path).subarray(1, 1 + bytes.length).equals(bytes))
      for (const how of [tail, background]) {
        assert.strictEqual((yield* Effect.flip(file.writeAndSyncData([bytes], 0, how))).code, "EBADF")
      }
    }).pipe(Effect.scoped, Effect.provide(pool)))

  it.live("an interrupted write runs to its end before its fiber does, and the next one knows what it wrote", () =>
    Effect.gen(function*() {
      const path = yield* newPath
      const file = yield* openForTails(path)
      const bytes = new Uint8Array(1 << 20).fill(7)
      const fiber = yield* Effect.forkChild(file.writeAndSyncData([bytes], 1, tail), { startImmediately: true })
      assert.isUndefined(fiber.pollUnsafe())
      yield* Fiber.interrupt(fiber)
      assert.isTrue(NodeFs.readFileSync(path).subarray(1, 1 + bytes.length).equals(bytes))
      yield* file.writeAndSyncData([bytes], 1 + bytes.length, tail)
      assert.isTrue(NodeFs.readFileSync(path).subarray(1, 1 + 2 * bytes.length).every((byte) => byte === 7))
    }).pipe(Effect.scoped, Effect.provide(pool)))

  it.live("another write meanwhile is a defect, and leaves the file usable", () =>
    Effect.gen(function*() {
      const path = yield* newPath
      const file = yield* openForTails(path)
      const one = Uint8Array.of(1)
      for (const other of [file.write([one], 0), file.truncate(0), file.writeAndSyncData([one], 0, background)]) {
        const fiber = yield* Effect.forkChild(
          file.writeAndSyncData([new Uint8Array(1 << 20).fill(7)], 1, tail),
          { startImmediately: true }
        )
        const exit = yield* Effect.exit(other)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        yield* Fiber.join(fiber)
      }
      assert.strictEqual(NodeFs.statSync(path).size, upToBlock(1 + (1 << 20)))
    }).pipe(Effect.scoped, Effect.provide(pool)))

  it.live("what was written is read by others at any time while more is written behind it", () =>
    Effect.gen(function*() {
      const path = yield* newPath
      const file = yield* openForTails(path)
      let end = 1
      let isOver = false
      const other = NodeFs.openSync(path, "r")
      const rounds = 150
      const expected = Buffer.from(Uint8Array.from({ length: 5000 * rounds }, (_, at) => at === 0 ? 1 : at % 251))
      let reads = 0
      const reader = Effect.gen(function*() {
        const buffer = new Uint8Array(9000)
        while (!isOver) {
          const from = Math.max(0, end - buffer.length)
          const length = end - from
          yield* Effect.callback<void>((resume) => {
            NodeFs.read(other, buffer, 0, length, from, (_, count) => {
              assert.strictEqual(count, length)
              assert.isTrue(expected.subarray(from, from + length).equals(buffer.subarray(0, length)))
              resume(Effect.void)
            })
          })
          reads++
        }
      })
      const reading = yield* Effect.forkChild(reader, { startImmediately: true })
      for (let round = 0; round < rounds; round++) {
        const bytes = expected.subarray(end, end + 1 + (round * 977) % 5000)
        yield* file.writeAndSyncData([bytes], end, background)
        end += bytes.length
      }
      isOver = true
      yield* Fiber.join(reading)
      NodeFs.closeSync(other)
      assert.isAbove(reads, 20)
    }).pipe(Effect.scoped, Effect.provide(pool)))
})

const positionsOf = fc.oneof(fc.constant("end" as const), fc.integer({ min: 0, max: 30_000 }))
const lengths = fc.array(fc.oneof(fc.integer({ min: 0, max: 9000 }), fc.constantFrom(0, blockBytes)), { maxLength: 3 })
const steps = fc.array(
  fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant("tail" as const),
        at: fc.oneof({ weight: 3, arbitrary: fc.constant("end" as const) }, { weight: 1, arbitrary: positionsOf }),
        lengths,
        background: fc.boolean(),
        isInPlace: fc.boolean()
      })
    },
    {
      weight: 2,
      arbitrary: fc.record({
        kind: fc.constantFrom("write" as const, "writeAndSync" as const, "writeAndSyncInBackground" as const),
        at: positionsOf,
        lengths
      })
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("truncate" as const), size: fc.nat({ max: 30_000 }) }) },
    {
      weight: 2,
      arbitrary: fc.record({
        kind: fc.constant("read" as const),
        at: fc.integer({ min: 0, max: 120_000 }),
        length: fc.oneof(fc.integer({ min: 0, max: 5000 }), fc.integer({ min: 65_536, max: 150_000 }))
      })
    }
  ),
  { minLength: 5, maxLength: 25 }
)

/** Runs the steps on a new file, and compares it after each with what an array of bytes holds. */
const runSteps = (parent: string, list: typeof steps extends fc.Arbitrary<infer A> ? A : never) =>
  Effect.gen(function*() {
    const path = NodePath.join(yield* temporaryDirectory(parent), "file")
    const file = yield* openNew(path)
    const plain = yield* Effect.acquireRelease(
      Effect.sync(() => NodeFs.openSync(path, "r")),
      (descriptor) =>
        Effect.sync(() => {
          NodeFs.closeSync(descriptor)
        })
    )
    let model: Uint8Array = new Uint8Array(0)
    let end = 0
    let value = 0
    let widened = 0
    const resize = (size: number) => {
      const next = new Uint8Array(size)
      next.set(model.subarray(0, size))
      model = next
    }
    const writes: Record<"write" | "writeAndSync" | "writeAndSyncInBackground", VfsFile["write"]> = {
      write: file.write,
      writeAndSync: file.writeAndSyncData,
      writeAndSyncInBackground: (buffers, position) => file.writeAndSyncData(buffers, position, { background: true })
    }
    for (const step of list) {
      if (step.kind === "truncate") {
        resize(step.size)
        end = step.size
        yield* file.truncate(step.size)
      } else if (step.kind === "read") {
        const offset = blockBytes + step.at % blockBytes
        const buffer = TailMemory.make(200_000).subarray(offset, offset + step.length)
        const count = yield* file.read(buffer, step.at)
        assert.isTrue(Buffer.from(buffer.subarray(0, count)).equals(model.subarray(step.at, step.at + step.length)))
      } else {
        const position = step.at === "end" ? end : step.at
        const isInPlace = step.kind === "tail" && step.isInPlace
        const memory = (isInPlace ? TailMemory.make(65_536) : new Uint8Array(65_536)).fill(0xee)
        const first = position % blockBytes
        let length = 0
        const buffers = (isInPlace ? [step.lengths.reduce((sum, next) => sum + next, 0)] : step.lengths).map((next) => {
          const buffer = memory.subarray(first + length, first + length + next).fill(value++ % 200 + 1)
          length += next
          return buffer
        })
        if (length > 0) {
          resize(Math.max(model.length, position + length))
          model.set(memory.subarray(first, first + length), position)
          end = position + length
        }
        if (step.kind === "tail") {
          yield* file.writeAndSyncData(buffers, position, { background: step.background, tail: true })
          // Both ways are right. Which of them it was shows behind the bytes, if there was anything.
          const found = new Uint8Array(length === 0 ? 0 : upToBlock(end) - end)
          const behind = found.subarray(0, NodeFs.readSync(plain, found, 0, found.length, end))
          if (behind.every((byte) => byte === 0)) model.fill(0, end, end + behind.length)
          if (end + behind.length > model.length) {
            assert.strictEqual(behind.length, found.length)
            widened++
            resize(end + behind.length)
          }
        } else {
          yield* writes[step.kind](buffers, position)
        }
        if (step.kind === "write" && value % 2 === 0) yield* file.syncData
      }
      const found = new Uint8Array(model.length + 1)
      assert.strictEqual(NodeFs.readSync(plain, found, 0, found.length, 0), model.length)
      assert.isTrue(Buffer.from(found.subarray(0, model.length)).equals(model), `after ${JSON.stringify(step)}`)
    }
    return widened
  }).pipe(Effect.scoped)

describe.runIf(isLinux)("any sequence of writes, tails, cuts and reads gives what an array of bytes would give", () => {
  const disks = [NodeOs.tmpdir(), "/dev/shm"].filter((parent) => NodeFs.existsSync(parent))
  const platforms = [
    { name: "", options: {}, isMissing: false },
    { name: ", never on the calling thread", options: { inlineSyncMaxMicros: 0 }, isMissing: false },
    // With calls of its own the file is opened in no other way.
    { name: ", where there is no way past the page cache", options: { calls: { ...NodeFs } }, isMissing: true }
  ]
  for (const parent of disks) {
    const isWidening = takesDirect(parent)
    for (const { isMissing, name, options } of platforms) {
      it.live(`in ${parent}${name}`, () =>
        Effect.promise(async () => {
          let widened = 0
          const layer = NodeVfs.layerVfsOptions(options)
          await fc.assert(
            fc.asyncProperty(steps, async (list) => {
              widened += await Effect.runPromise(runSteps(parent, list).pipe(Effect.provide(layer)))
            }),
            { numRuns: 25 }
          )
          if (isWidening && !isMissing) assert.isAbove(widened, 5)
          else assert.strictEqual(widened, 0)
        }))
    }
  }
})

it.live("a position that is no safe integer is a defect, and one that no file has is the error of the system", () =>
  Effect.gen(function*() {
    const path = yield* newPath
    const file = isLinux && takesDirect(NodeOs.tmpdir()) ? yield* openForTails(path) : yield* openNew(path)
    const size = yield* file.size
    for (const how of [tail, background]) {
      for (const position of [-1, 0.5, 2 ** 53, Number.NaN]) {
        const exit = yield* Effect.exit(file.writeAndSyncData([Uint8Array.of(1)], position, how))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      }
      const tooFar = yield* Effect.flip(file.writeAndSyncData([Uint8Array.of(1)], Number.MAX_SAFE_INTEGER, how))
      const usual = yield* Effect.flip(file.writeAndSyncData([Uint8Array.of(1)], Number.MAX_SAFE_INTEGER))
      assert.deepStrictEqual([tooFar.operation, tooFar.code], [usual.operation, usual.code])
    }
    assert.strictEqual(yield* file.size, size)
  }).pipe(Effect.scoped, Effect.provide(NodeVfs.layerVfs)))

it.live.runIf(isLinux)("a file that is open for reading is opened in no other way", () =>
  Effect.gen(function*() {
    const path = yield* newPath
    NodeFs.writeFileSync(path, "abc")
    const file = yield* (yield* Vfs).open(path, { access: "read" })
    for (const how of [tail, background]) {
      for (let attempt = 0; attempt < 2; attempt++) {
        assert.strictEqual((yield* Effect.flip(file.writeAndSyncData([Uint8Array.of(1)], 0, how))).code, "EBADF")
      }
    }
    const memory = TailMemory.make(70_000)
    assert.strictEqual(yield* file.read(memory, 0), 3)
    assert.strictEqual(openDescriptorsOf(path).length, 1)
    assert.strictEqual(NodeFs.readFileSync(path, "latin1"), "abc")
  }).pipe(Effect.scoped, Effect.provide(NodeVfs.layerVfs)))

it.live.runIf(isLinux)(
  "where the system refuses to open it so, writes go the usual way and keep their errors",
  () =>
    Effect.gen(function*() {
      const file = yield* (yield* Vfs).open("/dev/full", { access: "readWrite" })
      for (const how of [tail, background, tail, background]) {
        const error = yield* Effect.flip(file.writeAndSyncData([Uint8Array.of(1)], 0, how))
        assert.deepStrictEqual([error.operation, error.code], ["write", "ENOSPC"])
        assert.isFalse(openDescriptorsOf("/dev/full").some(isDirect))
      }
    }).pipe(Effect.scoped, Effect.provide(NodeVfs.layerVfs))
)

it.live.runIf(isLinux)("with directTails: false no file is opened so", () =>
  Effect.gen(function*() {
    const path = yield* newPath
    const file = yield* (yield* Vfs).open(path, { access: "readWrite", create: "exclusive" })
    for (let position = 0; position < 20; position++) {
      yield* file.writeAndSyncData([Uint8Array.of(position)], position, tail)
      // As long as it takes to open a file: a write through the pool has been there and back.
      yield* file.write([Uint8Array.of(position)], position)
      yield* file.syncFull
    }
    assert.isFalse(openDescriptorsOf(path).some(isDirect))
    assert.strictEqual(yield* file.size, 20)
  }).pipe(Effect.scoped, Effect.provide(NodeVfs.layerVfsOptions({ directTails: false }))))

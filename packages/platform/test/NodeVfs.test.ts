import { assert, describe, it } from "@effect/vitest"
import { FileLock } from "@tidemark/platform/FileLock"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { Vfs } from "@tidemark/platform/Vfs"
import { VfsError } from "@tidemark/platform/VfsError"
import { Cause, Clock, ConfigProvider, Effect, Exit, Fiber, Layer, Scope } from "effect"
import fc from "fast-check"
import * as NodeFs from "node:fs"
import * as NodeOs from "node:os"
import * as NodePath from "node:path"
import { openDescriptorsOf } from "./support/descriptors.ts"

const isLinux = process.platform === "linux"

const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => NodeFs.mkdtempSync(NodePath.join(NodeOs.tmpdir(), "tidemark-vfs-"))),
  (directory) => Effect.sync(() => NodeFs.rmSync(directory, { recursive: true, force: true }))
)

const byteLengthOf = (buffers: ReadonlyArray<Uint8Array>) => buffers.reduce((total, buffer) => total + buffer.length, 0)

const joined = (buffers: ReadonlyArray<Uint8Array>) => new Uint8Array(Buffer.concat(buffers))

/** A file in memory whose calls do only as much as the next of `lengths` allows. */
const shortFile = (lengths: ReadonlyArray<number>, contents: Uint8Array = new Uint8Array(0)) => {
  let bytes = contents
  let calls = 0
  let mostBuffers = 0
  const next = (wanted: number) => Math.min(wanted, lengths[calls++ % lengths.length] ?? wanted)
  return {
    bytes: () => bytes,
    clear: () => {
      bytes = new Uint8Array(0)
      calls = 0
      mostBuffers = 0
    },
    calls: () => calls,
    mostBuffers: () => mostBuffers,
    write: (buffers: ReadonlyArray<Uint8Array>, position: number) => {
      mostBuffers = Math.max(mostBuffers, buffers.length)
      const all = joined(buffers)
      const count = next(all.length)
      const grown = new Uint8Array(Math.max(bytes.length, position + count))
      grown.set(bytes)
      grown.set(all.subarray(0, count), position)
      bytes = grown
      return count
    },
    read: (buffer: Uint8Array, position: number) => {
      const rest = bytes.subarray(Math.min(position, bytes.length))
      const count = next(Math.min(buffer.length, rest.length))
      buffer.set(rest.subarray(0, count))
      return count
    }
  }
}

/** The calls of `node:fs`, on files of which `file` stands behind every descriptor. */
const callsOn = (file: ReturnType<typeof shortFile>): NodeVfs.NodeFileCalls => ({
  ...NodeFs,
  writev: (_, buffers, position, done) => done(null, file.write(buffers, position)),
  writevSync: (_, buffers, position) => file.write(buffers, position),
  read: (_, buffer, offset, length, position, done) =>
    done(null, file.read(buffer.subarray(offset, offset + length), position)),
  readSync: (_, buffer, offset, length, position) => file.read(buffer.subarray(offset, offset + length), position)
})

const openNew = Effect.gen(function*() {
  const path = NodePath.join(yield* temporaryDirectory, "file")
  return yield* (yield* Vfs).open(path, { access: "readWrite", create: "exclusive" })
})

describe("short calls", () => {
  const buffersAndLengths = fc.record({
    buffers: fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 30 }),
    lengths: fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 10 }),
    position: fc.integer({ min: 0, max: 100 })
  })

  it.effect("however short the writes are, all bytes arrive in order, in the pool and on the calling thread", () =>
    Effect.gen(function*() {
      for (const { buffers, lengths, position } of fc.sample(buffersAndLengths, 60)) {
        const short = shortFile(lengths)
        const file = yield* openNew.pipe(Effect.provide(NodeVfs.layerVfsOptions({ calls: callsOn(short) })))
        const expected = joined([new Uint8Array(byteLengthOf(buffers) === 0 ? 0 : position), ...buffers])
        const writes = [file.write, file.writeAndSyncData, file.writeAndSyncData]
        for (const write of writes) {
          short.clear()
          yield* write(buffers, position)
          assert.deepStrictEqual(short.bytes(), expected)
        }
      }
    }).pipe(Effect.scoped))

  it.effect("however short the reads are, the buffer is filled up to the end of the file", () =>
    Effect.gen(function*() {
      for (const { buffers, lengths, position } of fc.sample(buffersAndLengths, 60)) {
        const contents = joined(buffers)
        const short = shortFile(lengths, contents)
        const file = yield* openNew.pipe(Effect.provide(NodeVfs.layerVfsOptions({ calls: callsOn(short) })))
        for (const size of [0, 1, 100, 2000]) {
          const expected = contents.subarray(position, position + size)
          const buffer = new Uint8Array(size)
          assert.strictEqual(yield* file.read(buffer, position), expected.length)
          assert.deepStrictEqual(buffer.subarray(0, expected.length), expected)
          const again = new Uint8Array(size)
          assert.strictEqual(file.readSync(again, position), expected.length)
          assert.deepStrictEqual(again, buffer)
        }
      }
    }).pipe(Effect.scoped))

  it.effect("no call is given more buffers than the system takes", () =>
    Effect.gen(function*() {
      const buffers = Array.from({ length: 2 * 1024 + 1 }, (_, index) => Uint8Array.of(index))
      const short = shortFile([Number.MAX_SAFE_INTEGER])
      const file = yield* openNew.pipe(Effect.provide(NodeVfs.layerVfsOptions({ calls: callsOn(short) })))
      for (const write of [file.writeAndSyncData, file.writeAndSyncData]) {
        short.clear()
        yield* write(buffers, 0)
        assert.deepStrictEqual([short.calls(), short.mostBuffers()], [3, 1024])
        assert.deepStrictEqual(short.bytes(), joined(buffers))
      }
    }).pipe(Effect.scoped))

  it.effect("a call that takes nothing is an error, and so is one that fails half way", () =>
    Effect.gen(function*() {
      const stuck = shortFile([0])
      const stuckFile = yield* openNew.pipe(Effect.provide(NodeVfs.layerVfsOptions({ calls: callsOn(stuck) })))
      const full = Object.assign(new Error("no space"), { code: "ENOSPC" })
      const filling: NodeVfs.NodeFileCalls = {
        ...NodeFs,
        writev: (_, __, position, done) => position === 0 ? done(null, 1) : done(full, 0),
        writevSync: (_, __, position) => {
          if (position > 0) throw full
          return 1
        }
      }
      const fillingFile = yield* openNew.pipe(Effect.provide(NodeVfs.layerVfsOptions({ calls: filling })))
      for (const [file, code] of [[stuckFile, "EIO"], [fillingFile, "ENOSPC"]] as const) {
        for (const write of [file.write, file.writeAndSyncData, file.writeAndSyncData]) {
          const error = yield* Effect.flip(write([Uint8Array.of(1, 2, 3)], 0))
          assert.deepStrictEqual([error.operation, error.code], ["write", code])
        }
      }
    }).pipe(Effect.scoped))
})

describe("the way of a durable write", () => {
  /** A platform on which a write-and-sync takes as long as `setMicros` says, and that tells its ways apart. */
  const timed = Effect.gen(function*() {
    let micros = 0
    let nanos = 0n
    const ways: Array<"pool" | "thread"> = []
    const take = (way: typeof ways[number]) => {
      ways.push(way)
      nanos += BigInt(micros) * 1000n
    }
    const calls: NodeVfs.NodeFileCalls = {
      ...NodeFs,
      fdatasync: (descriptor, done) => {
        take("pool")
        NodeFs.fdatasync(descriptor, done)
      },
      fdatasyncSync: (descriptor) => {
        take("thread")
        NodeFs.fdatasyncSync(descriptor)
      }
    }
    const clock = yield* Clock.Clock
    const withClock = Effect.provideService(Clock.Clock, {
      currentTimeMillis: clock.currentTimeMillis,
      currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe(),
      currentTimeNanos: clock.currentTimeNanos,
      currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
      monotonicTimeNanos: Effect.sync(() => nanos),
      monotonicTimeNanosUnsafe: () => nanos,
      sleep: (duration) => clock.sleep(duration)
    })
    const openTimed = Effect.map(openNew, (file) => ({
      ...file,
      sync: (bytes: number) => withClock(file.writeAndSyncData([new Uint8Array(bytes)], 0))
    }))
    const layer = (options: NodeVfs.NodeVfsOptions) =>
      NodeVfs.layerVfsOptions({ inlineSyncMaxBytes: 100, ...options, calls })
    return {
      open: (options: NodeVfs.NodeVfsOptions = {}) => Effect.provide(openTimed, layer(options)),
      /** Two files of one layer. */
      openTwo: Effect.provide(Effect.all([openTimed, openTimed]), layer({})),
      setMicros: (value: number) => {
        micros = value
      },
      /** The ways taken since the last question. */
      ways: () => ways.splice(0)
    }
  })

  it.effect("an unknown device takes the pool, a fast one the calling thread, a slow one the pool again", () =>
    Effect.gen(function*() {
      const { open, setMicros, ways } = yield* timed
      const file = yield* open()
      setMicros(100)
      yield* file.sync(1)
      yield* file.sync(1)
      assert.deepStrictEqual(ways(), ["pool", "thread"])
      setMicros(50_000)
      yield* file.sync(1)
      assert.deepStrictEqual(ways(), ["thread"])
      setMicros(100)
      for (let call = 0; call < 30; call++) yield* file.sync(1)
      const after = ways()
      assert.strictEqual(after[0], "pool")
      assert.isAtMost(after.indexOf("thread"), 15)
      assert.isFalse(after.slice(after.indexOf("thread")).includes("pool"))
    }).pipe(Effect.scoped))

  it.effect("a batch that is big, or makes a big one with what is not yet synced, takes the pool", () =>
    Effect.gen(function*() {
      const { open, ways } = yield* timed
      const file = yield* open()
      yield* file.sync(1)
      yield* file.sync(100)
      yield* file.sync(101)
      yield* file.write([new Uint8Array(60)], 0)
      yield* file.sync(50)
      yield* file.sync(50)
      yield* file.write([new Uint8Array(60)], 0)
      yield* file.syncData
      yield* file.sync(50)
      assert.deepStrictEqual(ways(), ["pool", "thread", "pool", "pool", "thread", "pool", "thread"])
    }).pipe(Effect.scoped))

  it.effect("a sync does not account for a write that had not ended when it began", () =>
    Effect.gen(function*() {
      let finish = () => {}
      const ways: Array<string> = []
      const calls: NodeVfs.NodeFileCalls = {
        ...NodeFs,
        writev: (_, buffers, position, done) => {
          const end = () => done(null, byteLengthOf(buffers))
          if (position === 0) end()
          else finish = end
        },
        fdatasync: (_, done) => {
          ways.push("pool")
          done(null)
        },
        fdatasyncSync: () => {
          ways.push("thread")
        }
      }
      const file = yield* openNew.pipe(
        Effect.provide(NodeVfs.layerVfsOptions({ inlineSyncMaxBytes: 100, calls }))
      )
      const sync = file.writeAndSyncData([new Uint8Array(50)], 0)
      yield* sync
      const writing = yield* Effect.forkChild(file.write([new Uint8Array(60)], 9), { startImmediately: true })
      yield* sync
      finish()
      yield* Fiber.join(writing)
      yield* sync
      // The last sync has brought the 60 bytes to the device; two syncs at once count them once.
      yield* sync
      yield* file.write([new Uint8Array(60)], 0)
      yield* Effect.all([file.syncData, file.syncData], { concurrency: "unbounded" })
      yield* file.write([new Uint8Array(60)], 0)
      yield* sync
      assert.deepStrictEqual(ways.splice(0), ["pool", "pool", "pool", "thread", "pool", "pool", "pool"])
      const small = yield* Effect.forkChild(file.write([new Uint8Array(30)], 9), { startImmediately: true })
      yield* sync
      finish()
      yield* Fiber.join(small)
      yield* file.write([new Uint8Array(30)], 0)
      yield* sync
      assert.deepStrictEqual(ways, ["thread", "pool"])
    }).pipe(Effect.scoped))

  it.effect("with a limit of zero all take the pool", () =>
    Effect.gen(function*() {
      const { open, ways } = yield* timed
      const file = yield* open({ inlineSyncMaxMicros: 0 })
      yield* file.sync(1)
      yield* file.sync(1)
      assert.deepStrictEqual(ways(), ["pool", "pool"])
    }).pipe(Effect.scoped))

  it.effect("calls that meet take the pool, and so do the next 15", () =>
    Effect.gen(function*() {
      const { openTwo, ways } = yield* timed
      const [file, other] = yield* openTwo
      yield* file.sync(1)
      yield* Effect.all([file.sync(1), other.sync(1)], { concurrency: "unbounded" })
      assert.deepStrictEqual(ways(), ["pool", "thread", "pool"])
      for (let call = 0; call < 16; call++) yield* file.sync(1)
      assert.deepStrictEqual(ways(), [...Array.from({ length: 15 }, () => "pool" as const), "thread"])
    }).pipe(Effect.scoped))

  it.effect("calls of one file follow each other on the calling thread, one in a turn of the event loop", () =>
    Effect.gen(function*() {
      const { open, ways } = yield* timed
      const file = yield* open()
      yield* file.sync(1)
      let turns = 0
      let isOver = false
      const count = () => {
        turns++
        if (!isOver) setImmediate(count)
      }
      setImmediate(count)
      yield* Effect.all(Array.from({ length: 20 }, () => file.sync(1)), { concurrency: "unbounded" })
      isOver = true
      assert.deepStrictEqual(ways(), ["pool", ...Array.from({ length: 20 }, () => "thread" as const)])
      assert.isAtLeast(turns, 18)
    }).pipe(Effect.scoped))
})

describe("NodeVfs", () => {
  const platforms = [
    { name: "on the calling thread", layer: NodeVfs.layer },
    { name: "in the pool", layer: NodeVfs.layerOptions({ inlineSyncMaxMicros: 0 }) }
  ]

  it.effect("one layer is the whole platform", () =>
    Effect.gen(function*() {
      yield* Vfs
      yield* FileLock
      assert.strictEqual((yield* ProcessLiveness).self.pid, process.pid)
    }).pipe(Effect.provide(NodeVfs.layer)))

  it.effect("after a fast first call a write is done at once, and the next one in the next turn", () =>
    Effect.gen(function*() {
      const path = NodePath.join(yield* temporaryDirectory, "file")
      const file = yield* (yield* Vfs).open(path, { access: "readWrite", create: "exclusive" })
      yield* file.writeAndSyncData([Uint8Array.of(1)], 0)
      const first = yield* Effect.forkChild(file.writeAndSyncData([Uint8Array.of(2, 3)], 1), { startImmediately: true })
      assert.isDefined(first.pollUnsafe())
      const next = yield* Effect.forkChild(file.writeAndSyncData([Uint8Array.of(4)], 3), { startImmediately: true })
      assert.deepStrictEqual([...NodeFs.readFileSync(path)], [1, 2, 3])
      assert.isUndefined(next.pollUnsafe())
      yield* Fiber.join(next)
      assert.deepStrictEqual([...NodeFs.readFileSync(path)], [1, 2, 3, 4])
    }).pipe(Effect.provide(NodeVfs.layerVfs)))

  for (const { layer, name } of platforms) {
    describe(`writes ${name}`, () => {
      it.effect("more buffers than one call takes are written, at positions above 4 GiB too", () =>
        Effect.gen(function*() {
          const path = NodePath.join(yield* temporaryDirectory, "file")
          const file = yield* (yield* Vfs).open(path, { access: "readWrite", create: "exclusive" })
          const buffers = Array.from({ length: 2500 }, (_, index) => Uint8Array.of(index, index >> 8))
          const position = 2 ** 32 + 5
          yield* file.writeAndSyncData([Uint8Array.of(9)], 0)
          yield* file.writeAndSyncData(buffers, position)
          yield* file.write(buffers, position + 5000)
          const buffer = new Uint8Array(10_001)
          assert.strictEqual(yield* file.read(buffer, position), 10_000)
          assert.deepStrictEqual(buffer.subarray(0, 10_000), joined([...buffers, ...buffers]))
          assert.strictEqual(file.readSync(buffer, position + 9_999), 1)
          assert.strictEqual(yield* file.size, position + 10_000)
        }).pipe(Effect.provide(layer)))

      it.effect("a close waits for the write and the sync that are under way", () =>
        Effect.gen(function*() {
          const path = NodePath.join(yield* temporaryDirectory, "file")
          const scope = yield* Scope.make()
          const file = yield* Scope.provide(
            (yield* Vfs).open(path, { access: "readWrite", create: "exclusive" }),
            scope
          )
          const bytes = new Uint8Array(8 * 1024 * 1024).fill(5)
          const fiber = yield* Effect.forkChild(file.writeAndSyncData([bytes], 0), { startImmediately: true })
          yield* Scope.close(scope, Exit.void)
          yield* Fiber.join(fiber)
          assert.isTrue(NodeFs.readFileSync(path).equals(bytes))
        }).pipe(Effect.provide(layer)))

      it.effect("a file whose scope is closed answers EBADF, and touches no file that has its descriptor now", () =>
        Effect.gen(function*() {
          const directory = yield* temporaryDirectory
          const path = NodePath.join(directory, "file")
          const file = yield* Effect.scoped(
            (yield* Vfs).open(path, { access: "readWrite", create: "exclusive" }).pipe(
              Effect.tap((file) => file.writeAndSyncData([Uint8Array.of(1)], 0))
            )
          )
          // The system gives the lowest free number, which is the one that has just been closed.
          const otherPath = NodePath.join(directory, "other")
          yield* (yield* Vfs).open(otherPath, { access: "readWrite", create: "exclusive" })
          const one = Uint8Array.of(2)
          for (
            const [operation, late] of [
              ["write", file.write([one], 0)],
              ["write", file.writeAndSyncData([one], 0)],
              ["read", file.read(one, 0)],
              ["size", file.size],
              ["syncFull", file.syncFull]
            ] as const
          ) {
            const error = yield* Effect.flip(late)
            assert.deepStrictEqual([error.operation, error.code, error.path], [operation, "EBADF", path])
          }
          assert.throws(() => file.readSync(one, 0), VfsError)
          assert.deepStrictEqual([...NodeFs.readFileSync(path)], [1])
          assert.deepStrictEqual([...NodeFs.readFileSync(otherPath)], [])
        }).pipe(Effect.provide(layer)))

      it.effect.runIf(isLinux)(
        "an error says which half failed, and keeps the code of the system",
        () =>
          Effect.gen(function*() {
            const vfs = yield* Vfs
            const full = yield* vfs.open("/dev/full", { access: "readWrite" })
            const unsyncable = yield* vfs.open("/dev/null", { access: "readWrite" })
            // Twice: only the second may be done on the calling thread.
            for (let attempt = 0; attempt < 2; attempt++) {
              const written = yield* Effect.flip(full.writeAndSyncData([Uint8Array.of(1)], 0))
              assert.deepStrictEqual([written.operation, written.code], ["write", "ENOSPC"])
              const synced = yield* Effect.flip(unsyncable.writeAndSyncData([Uint8Array.of(1)], 0))
              assert.deepStrictEqual([synced.operation, synced.code], ["syncData", "EINVAL"])
            }
            assert.strictEqual((yield* Effect.flip(full.write([Uint8Array.of(1)], 0))).code, "ENOSPC")
            assert.strictEqual((yield* Effect.flip(unsyncable.syncFull)).operation, "syncFull")
          }).pipe(Effect.provide(layer))
      )
    })
  }

  it.effect("an interrupted call runs to its end before its fiber does, and its file stays open that long", () =>
    Effect.gen(function*() {
      const events: Array<string> = []
      let finish = () => {}
      const held: NodeVfs.NodeFileCalls = {
        ...NodeFs,
        writev: (_, buffers, __, done) => {
          events.push("started")
          finish = () => {
            events.push("finished")
            done(null, byteLengthOf(buffers))
          }
        }
      }
      const scope = yield* Scope.make()
      const file = yield* openNew.pipe(Effect.provide(NodeVfs.layerVfsOptions({ calls: held })), Scope.provide(scope))
      for (const write of [file.write, file.writeAndSyncData]) {
        events.length = 0
        const fiber = yield* Effect.forkChild(
          write([Uint8Array.of(1)], 0).pipe(Effect.onExit(() => Effect.sync(() => events.push("ended")))),
          { startImmediately: true }
        )
        const interruption = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
        for (let turn = 0; turn < 5; turn++) yield* Effect.yieldNow
        assert.deepStrictEqual(events, ["started"])
        finish()
        yield* Fiber.join(interruption)
        assert.deepStrictEqual(events, ["started", "finished", "ended"])
      }
      events.length = 0
      const writing = yield* Effect.forkChild(file.write([Uint8Array.of(1)], 0), { startImmediately: true })
      const closing = yield* Effect.forkChild(
        Scope.close(scope, Exit.void).pipe(Effect.tap(() => Effect.sync(() => events.push("closed")))),
        { startImmediately: true }
      )
      for (let turn = 0; turn < 5; turn++) yield* Effect.yieldNow
      assert.deepStrictEqual(events, ["started"])
      finish()
      yield* Fiber.join(writing)
      yield* Fiber.join(closing)
      assert.deepStrictEqual(events, ["started", "finished", "closed"])
    }))

  it.effect("a position that is no safe integer is a defect, and writes nothing", () =>
    Effect.gen(function*() {
      const path = NodePath.join(yield* temporaryDirectory, "file")
      const file = yield* (yield* Vfs).open(path, { access: "readWrite", create: "exclusive" })
      for (const position of [-1, 0.5, 2 ** 53, Number.NaN]) {
        for (const write of [file.write, file.writeAndSyncData]) {
          const exit = yield* Effect.exit(write([Uint8Array.of(1)], position))
          assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        }
      }
      assert.strictEqual(yield* file.size, 0)
    }).pipe(Effect.provide(NodeVfs.layerVfs)))

  it.effect("a directory is no file", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const vfs = yield* Vfs
      for (const access of ["read", "readWrite"] as const) {
        const error = yield* Effect.flip(vfs.open(directory, { access }))
        assert.deepStrictEqual([error.operation, error.code], ["open", "EISDIR"])
      }
      const path = NodePath.join(directory, "file")
      NodeFs.writeFileSync(path, "")
      assert.strictEqual((yield* Effect.flip(vfs.syncDirectory(path))).operation, "syncDirectory")
    }).pipe(Effect.provide(NodeVfs.layerVfs)))

  it.effect("a file that replaces another one of its name has another identity, even in the same inode", () =>
    Effect.gen(function*() {
      const path = NodePath.join(yield* temporaryDirectory, "file")
      const vfs = yield* Vfs
      const seen = new Set<string>()
      for (let generation = 0; generation < 5; generation++) {
        yield* Effect.scoped(vfs.open(path, { access: "readWrite", create: "exclusive" }))
        const before = yield* vfs.identify(path)
        NodeFs.appendFileSync(path, "x")
        const after = yield* vfs.identify(path)
        assert.strictEqual(before?.inode, after?.inode)
        assert.strictEqual(after?.size, 1)
        seen.add(after?.inode ?? "nothing")
        yield* vfs.remove(path)
        assert.isUndefined(yield* vfs.identify(path))
      }
      assert.strictEqual(seen.size, 5)
    }).pipe(Effect.provide(NodeVfs.layerVfs)))

  const closeOnExec = 0o2000000
  const flagsOf = (descriptor: string) =>
    Number.parseInt(
      /flags:\s+([0-7]+)/.exec(NodeFs.readFileSync(`/proc/self/fdinfo/${descriptor}`, "latin1"))?.[1] ?? "0",
      8
    )

  it.effect.runIf(isLinux)(
    "in the background, one hop and two write and sync the same bytes",
    () =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const path = NodePath.join(yield* temporaryDirectory, "file")
        const file = yield* Scope.provide(
          (yield* Vfs).open(path, { access: "readWrite", create: "exclusive" }),
          scope
        )
        const background = { background: true }
        // Two hops while the second descriptor is being opened, two behind a plain write, else one.
        yield* file.writeAndSyncData([Uint8Array.of(1)], 0, background)
        yield* file.writeAndSyncData([Uint8Array.of(2)], 1, background)
        yield* file.write([Uint8Array.of(3)], 2)
        yield* file.writeAndSyncData([Uint8Array.of(4), Uint8Array.of(5)], 3, background)
        yield* file.writeAndSyncData([Uint8Array.of(6)], 5, background)
        assert.deepStrictEqual([...NodeFs.readFileSync(path)], [1, 2, 3, 4, 5, 6])
        const flags = openDescriptorsOf(path).map(flagsOf)
        assert.deepStrictEqual(flags.map((flags) => (flags & NodeFs.constants.O_DSYNC) !== 0), [false, true])
        assert.isTrue(flags.every((flags) => (flags & closeOnExec) !== 0))
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(openDescriptorsOf(path), [])
      }).pipe(Effect.provide(NodeVfs.layerVfs))
  )

  it.effect.runIf(isLinux)(
    "child processes inherit no descriptor, and none is left open",
    () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const path = NodePath.join(directory, "file")
        const vfs = yield* Vfs
        yield* Effect.scoped(Effect.gen(function*() {
          yield* vfs.open(path, { access: "readWrite", create: "exclusive" })
          const [descriptor, ...others] = openDescriptorsOf(path)
          assert.deepStrictEqual(others, [])
          assert.isTrue((flagsOf(descriptor ?? "") & closeOnExec) !== 0)
        }))
        yield* vfs.syncDirectory(directory)
        yield* Effect.flip(vfs.open(directory, { access: "read" }))
        assert.deepStrictEqual([...openDescriptorsOf(path), ...openDescriptorsOf(directory)], [])
      }).pipe(Effect.provide(NodeVfs.layerVfs))
  )

  it.effect("knobs come from the configuration, and bad ones are refused by name", () =>
    Effect.gen(function*() {
      const withVariables = (variables: Record<string, string>) =>
        Effect.provide(NodeVfs.config, ConfigProvider.layer(ConfigProvider.fromEnvRecord(variables)))
      assert.deepStrictEqual(yield* withVariables({}), NodeVfs.defaults)
      assert.deepStrictEqual(yield* withVariables({ TIDEMARK_VFS_INLINE_SYNC_MAX_MICROS: "0" }), {
        ...NodeVfs.defaults,
        inlineSyncMaxMicros: 0
      })
      assert.isFalse((yield* withVariables({ TIDEMARK_VFS_DIRECT_TAILS: "false" })).directTails)
      assert.isFalse((yield* withVariables({ TIDEMARK_VFS_WRITE_THREADS: "false" })).writeThreads)
      for (const value of ["-1", "0.5", "soon"]) {
        const refused = yield* Effect.flip(
          Effect.scoped(Layer.build(NodeVfs.layerConfig)).pipe(
            Effect.provide(ConfigProvider.layer(
              ConfigProvider.fromEnvRecord({ TIDEMARK_VFS_INLINE_SYNC_MAX_BYTES: value })
            ))
          )
        )
        assert.include(refused.message, "TIDEMARK_VFS_INLINE_SYNC_MAX_BYTES")
      }
    }))
})

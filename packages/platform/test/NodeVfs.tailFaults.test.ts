/**
 * What can go wrong past the page cache: a file over real descriptors, of which one stands for the one that the system
 * opened for it, and whose calls fail as the test says.
 */
import { assert, describe, it } from "@effect/vitest"
import * as TailMemory from "@tidemark/platform/TailMemory"
import { Effect, Fiber } from "effect"
import * as NodeFs from "node:fs"
import * as NodeOs from "node:os"
import * as NodePath from "node:path"
import { type DescriptorCalls, makeNodeFile, type OpenOnceMore } from "../src/internal/nodeFile.ts"
import { makeSyncRoute } from "../src/internal/syncRoute.ts"

const { blockBytes } = TailMemory

const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => NodeFs.mkdtempSync(NodePath.join(NodeOs.tmpdir(), "tidemark-tail-"))),
  (directory) => Effect.sync(() => NodeFs.rmSync(directory, { recursive: true, force: true }))
)

const codeError = (code: string): NodeJS.ErrnoException => Object.assign(new Error(code), { code })

const isOpen = (descriptor: number) => {
  try {
    NodeFs.fstatSync(descriptor)
    return true
  } catch {
    return false
  }
}

/** What the next calls past the page cache do: so many bytes, or an error. Then: all that was asked. */
type Outcome = number | string

const openFaulty = (inlineSyncMaxMicros: number) =>
  Effect.gen(function*() {
    const path = NodePath.join(yield* temporaryDirectory, "file")
    const descriptor = NodeFs.openSync(path, "wx+")
    const direct: Array<number> = []
    const seen: Array<string> = []
    let outcomes: ReadonlyArray<Outcome> = []
    let frontFails = false
    let held: (() => void) | undefined
    let holds = false
    let openFails = false
    let hasSynchronous = false
    const tell = (name: string, to: number) => {
      const isDirect = direct.includes(to)
      seen.push(isDirect ? `${name} past` : name)
      if (!isDirect) return undefined
      const [next, ...others] = outcomes
      outcomes = others
      return next
    }
    /** As much of the buffers as one call takes. */
    const cut = (buffers: ReadonlyArray<Uint8Array>, outcome: Outcome | undefined) =>
      typeof outcome === "number" ? [new Uint8Array(Buffer.concat(buffers)).subarray(0, outcome)] : buffers
    const calls: DescriptorCalls = {
      ...NodeFs,
      writev: (to, buffers, position, done) => {
        const outcome = tell("write", to)
        if (typeof outcome === "string") setImmediate(() => done(codeError(outcome), 0))
        else NodeFs.writev(to, [...cut(buffers, outcome)], position, done)
      },
      writevSync: (to, buffers, position) => {
        const outcome = tell("write", to)
        if (typeof outcome === "string") throw codeError(outcome)
        return NodeFs.writevSync(to, [...cut(buffers, outcome)], position)
      },
      read: (from, buffer, offset, length, position, done) => {
        const outcome = tell("read", from)
        if (typeof outcome === "string") setImmediate(() => done(codeError(outcome), 0))
        else NodeFs.read(from, buffer, offset, outcome ?? length, position, done)
      },
      readSync: (from, buffer, offset, length, position) => {
        seen.push("front")
        if (frontFails) throw codeError("EIO")
        return NodeFs.readSync(from, buffer, offset, length, position)
      },
      fdatasync: (of, done) => {
        seen.push("sync")
        NodeFs.fdatasync(of, done)
      },
      fdatasyncSync: (of) => {
        seen.push("sync")
        NodeFs.fdatasyncSync(of)
      }
    }
    const openDirect: OpenOnceMore = (done) => {
      seen.push("open")
      held = () => {
        if (openFails) return done(codeError("EMFILE"), -1)
        const opened = NodeFs.openSync(path, NodeFs.constants.O_RDWR)
        direct.push(opened)
        done(null, opened)
      }
      if (!holds) held()
    }
    const { close, file } = makeNodeFile({
      descriptor,
      path,
      route: makeSyncRoute(),
      limits: { maxMicros: inlineSyncMaxMicros, maxBytes: 524_288 },
      calls,
      openSynchronous: (done) =>
        hasSynchronous ? done(null, NodeFs.openSync(path, "r+")) : done(codeError("EMFILE"), -1),
      openDirect
    })
    let isClosed = false
    const closeOnce = Effect.suspend(() => {
      if (isClosed) return Effect.void
      isClosed = true
      return close
    })
    yield* Effect.addFinalizer(() => closeOnce)
    return {
      close: closeOnce,
      file,
      /** All descriptors that were ever opened. */
      descriptors: () => [descriptor, ...direct],
      contents: () => NodeFs.readFileSync(path),
      /** The calls since the last question. */
      seen: () => seen.splice(0),
      answer: (...next: ReadonlyArray<Outcome>) => {
        outcomes = next
      },
      failFronts: (fails: boolean) => {
        frontFails = fails
      },
      failOpen: () => {
        openFails = true
      },
      allowSynchronous: () => {
        hasSynchronous = true
      },
      hold: () => {
        holds = true
      },
      letGo: () => {
        held?.()
      }
    }
  })

const ways = [
  { name: "on the calling thread", micros: 1e9, how: { tail: true } },
  { name: "in the pool", micros: 0, how: { tail: true } },
  { name: "in the background", micros: 0, how: { tail: true, background: true } }
]

const filled = (length: number, value: number) => new Uint8Array(length).fill(value)

for (const { how, micros, name } of ways) {
  describe(`past the page cache ${name}`, () => {
    /** A file of 10 bytes, and what else the block has, written past the page cache. */
    const opened = Effect.gen(function*() {
      const faulty = yield* openFaulty(micros)
      yield* faulty.file.writeAndSyncData([filled(5, 1)], 0, how)
      yield* faulty.file.writeAndSyncData([filled(5, 1)], 5, how)
      assert.strictEqual(faulty.contents().length, blockBytes)
      faulty.seen()
      return {
        ...faulty,
        write: (value: number, at: number) => faulty.file.writeAndSyncData([filled(5, value)], at, how)
      }
    })

    it.live("short writes are continued until all blocks are there", () =>
      Effect.gen(function*() {
        const { answer, contents, file, seen } = yield* opened
        answer(512, blockBytes)
        yield* file.writeAndSyncData([filled(2 * blockBytes, 2)], 10, how)
        assert.deepStrictEqual(seen(), ["write past", "write past", "write past"])
        const expected = filled(3 * blockBytes, 0).fill(1, 0, 10).fill(2, 10, 10 + 2 * blockBytes)
        assert.isTrue(contents().equals(expected))
      }).pipe(Effect.scoped))

    for (const first of [[], [512]]) {
      it.live(`blocks that are refused after ${first.length} short writes go the usual way, and all that come later`, () =>
        Effect.gen(function*() {
          const { answer, close, contents, descriptors, seen, write } = yield* opened
          answer(...first, "EINVAL")
          yield* write(2, 10)
          assert.deepStrictEqual(seen(), [...first.map(() => "write past"), "write past", "write", "sync"])
          yield* write(3, 15)
          assert.deepStrictEqual(seen(), ["write", "sync"])
          assert.deepStrictEqual([...contents().subarray(0, 21)], [
            ...filled(10, 1),
            ...filled(5, 2),
            ...filled(5, 3),
            0
          ])
          assert.deepStrictEqual(descriptors().map(isOpen), [true, true])
          yield* close
          assert.deepStrictEqual(descriptors().map(isOpen), [false, false])
        }).pipe(Effect.scoped))
    }

    it.live("no other failure is tried again, and what was remembered is forgotten", () =>
      Effect.gen(function*() {
        for (const code of ["ENOSPC", "EIO"]) {
          const { answer, contents, seen, write } = yield* opened
          answer(code)
          const error = yield* Effect.flip(write(2, 10))
          assert.deepStrictEqual([error.operation, error.code], ["write", code])
          assert.deepStrictEqual(seen(), ["write past"])
          // The file has nothing of it: what is in front of these is not what was to be written there.
          yield* write(3, 15)
          assert.deepStrictEqual(seen(), ["front", "write past"])
          assert.deepStrictEqual([...contents().subarray(9, 16)], [1, 0, 0, 0, 0, 0, 3])
          yield* write(3, 20)
          assert.deepStrictEqual(seen(), ["write past"])
        }
      }).pipe(Effect.scoped))

    it.live("a call that takes nothing is an error", () =>
      Effect.gen(function*() {
        const { answer, seen, write } = yield* opened
        answer(512, 0)
        const error = yield* Effect.flip(write(2, 10))
        assert.deepStrictEqual([error.operation, error.code], ["write", "EIO"])
        assert.deepStrictEqual(seen(), ["write past", "write past"])
      }).pipe(Effect.scoped))

    it.live("when what stands in front cannot be read that is the error, nothing is written, and a close waits for nothing", () =>
      Effect.gen(function*() {
        const { close, contents, descriptors, failFronts, seen, write } = yield* opened
        failFronts(true)
        const before = contents()
        const error = yield* Effect.flip(write(2, 7))
        assert.deepStrictEqual([error.operation, error.code], ["read", "EIO"])
        assert.deepStrictEqual(seen(), ["front"])
        assert.isTrue(contents().equals(before))
        failFronts(false)
        yield* write(2, 7)
        assert.deepStrictEqual(seen(), ["front", "write past"])
        yield* close
        assert.deepStrictEqual(descriptors().map(isOpen), [false, false])
      }).pipe(Effect.scoped))

    it.live("other writes and cuts make it forget, reads and syncs do not", () =>
      Effect.gen(function*() {
        const { allowSynchronous, contents, file, seen, write } = yield* opened
        yield* file.read(new Uint8Array(100), 0)
        yield* file.syncData
        yield* file.syncFull
        yield* file.read(TailMemory.make(65_536), 0)
        seen()
        yield* write(2, 10)
        assert.deepStrictEqual(seen(), ["write past"])
        yield* file.write([filled(1, 9)], 14)
        yield* file.syncData
        seen()
        yield* write(3, 15)
        yield* file.truncate(19)
        assert.deepStrictEqual(seen(), ["front", "write past"])
        yield* write(4, 20)
        // The second finds out that the file ends there.
        assert.deepStrictEqual(seen(), ["front", "front", "write past"])
        yield* file.writeAndSyncData([filled(1, 9)], 24)
        seen()
        yield* write(5, 25)
        assert.deepStrictEqual(seen(), ["front", "write past"])
        // The first opens another way, which the second goes.
        allowSynchronous()
        yield* file.writeAndSyncData([filled(1, 7)], 29, { background: true })
        yield* write(6, 30)
        seen()
        yield* file.writeAndSyncData([filled(1, 8)], 34, { background: true })
        assert.deepStrictEqual(seen(), ["write"])
        yield* write(7, 35)
        assert.deepStrictEqual(seen(), ["front", "write past"])
        assert.deepStrictEqual([...contents().subarray(8, 41)], [
          ...Uint8Array.of(1, 1, 2, 2, 2, 2, 9),
          ...Uint8Array.of(3, 3, 3, 3, 0, 4, 4, 4, 4, 9),
          ...Uint8Array.of(5, 5, 5, 5, 7, 6, 6, 6, 6, 8),
          ...Uint8Array.of(7, 7, 7, 7, 7, 0)
        ])
      }).pipe(Effect.scoped))

    it.live("a write after a close that had to wait asks the system for nothing, and closes nothing once more", () =>
      Effect.gen(function*() {
        const { close, descriptors, file, seen } = yield* opened
        const fiber = yield* Effect.forkChild(file.write([filled(1 << 20, 7)], 0), { startImmediately: true })
        yield* close
        yield* Fiber.join(fiber)
        seen()
        // The numbers belong to somebody else now.
        const others: Array<number> = []
        while (!descriptors().every((descriptor) => others.includes(descriptor))) {
          others.push(NodeFs.openSync("/dev/null", "r+"))
        }
        const error = yield* Effect.flip(file.writeAndSyncData([filled(1 << 20, 1)], 0, how))
        assert.strictEqual(error.code, "EBADF")
        assert.deepStrictEqual(seen(), [])
        yield* Effect.yieldNow
        for (const other of others) NodeFs.closeSync(other)
      }).pipe(Effect.scoped))

    it.live("a descriptor that cannot be opened is not asked for again", () =>
      Effect.gen(function*() {
        const { close, contents, failOpen, file, seen } = yield* openFaulty(micros)
        failOpen()
        for (let at = 0; at < 3; at++) yield* file.writeAndSyncData([filled(1, 1)], at, how)
        assert.deepStrictEqual(seen(), ["open", "write", "sync", "write", "sync", "write", "sync"])
        assert.deepStrictEqual([...contents()], [1, 1, 1])
        yield* close
      }).pipe(Effect.scoped))

    it.live("until it is open writes go the usual way, and a close waits for it and closes it", () =>
      Effect.gen(function*() {
        const { close, contents, descriptors, file, hold, letGo, seen } = yield* openFaulty(micros)
        hold()
        for (let at = 0; at < 2; at++) yield* file.writeAndSyncData([filled(1, 1)], at, how)
        assert.deepStrictEqual(seen(), ["open", "write", "sync", "write", "sync"])
        const closing = yield* Effect.forkChild(close, { startImmediately: true })
        for (let turn = 0; turn < 5; turn++) yield* Effect.yieldNow
        assert.isUndefined(closing.pollUnsafe())
        assert.strictEqual((yield* Effect.flip(file.writeAndSyncData([filled(1, 1)], 2, how))).code, "EBADF")
        letGo()
        yield* Fiber.join(closing)
        assert.strictEqual(descriptors().length, 2)
        assert.deepStrictEqual(descriptors().map(isOpen), [false, false])
        assert.deepStrictEqual([...contents()], [1, 1])
      }).pipe(Effect.scoped))
  })
}

describe("a long read past the page cache", () => {
  const contents = Uint8Array.from({ length: 100_000 }, (_, index) => index % 251)
  const opened = Effect.gen(function*() {
    const faulty = yield* openFaulty(0)
    yield* faulty.file.writeAndSyncData([filled(1, 1)], 0, { tail: true })
    yield* faulty.file.write([contents], 0)
    yield* faulty.file.syncData
    faulty.seen()
    return faulty
  })
  const buffer = () => TailMemory.make(200_000).subarray(10, 90_010)

  for (const count of [0, 1, 9, 10, 11, 512, 50_001]) {
    it.live(`that is short after ${count} bytes is continued in the usual way`, () =>
      Effect.gen(function*() {
        const { answer, file, seen } = yield* opened
        answer(count)
        const into = buffer()
        assert.strictEqual(yield* file.read(into, 10), into.length)
        assert.isTrue(Buffer.from(into).equals(contents.subarray(10, 90_010)))
        assert.deepStrictEqual(seen(), ["read past", "read"])
      }).pipe(Effect.scoped))
  }

  it.live("whose blocks are refused goes the usual way, and so does all that comes later", () =>
    Effect.gen(function*() {
      const { answer, file, seen } = yield* opened
      answer("EINVAL")
      for (let attempt = 0; attempt < 2; attempt++) {
        const into = buffer()
        assert.strictEqual(yield* file.read(into, 10), into.length)
        assert.isTrue(Buffer.from(into).equals(contents.subarray(10, 90_010)))
      }
      yield* file.writeAndSyncData([filled(1, 1)], 100_000, { tail: true })
      assert.deepStrictEqual(seen(), ["read past", "read", "read", "write", "sync"])
    }).pipe(Effect.scoped))

  it.live("that fails is an error", () =>
    Effect.gen(function*() {
      const { answer, file, seen } = yield* opened
      answer("EIO")
      const error = yield* Effect.flip(file.read(buffer(), 10))
      assert.deepStrictEqual([error.operation, error.code], ["read", "EIO"])
      assert.deepStrictEqual(seen(), ["read past"])
    }).pipe(Effect.scoped))
})

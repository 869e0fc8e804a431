import { assert, describe, it } from "@effect/vitest"
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import * as SharedHeaderFormat from "@tidemark/coordinator/SharedHeaderFormat"
import { FileLock } from "@tidemark/platform/FileLock"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { SharedMemory } from "@tidemark/platform/SharedMemory"
import { Effect, Layer } from "effect"
import { existsSync, linkSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { machine, openHeader, startProgram } from "./support/headerFiles.ts"
import type { ReadCounts } from "./support/headerReads.ts"
import { durableAt, pageSize, stateAt } from "./support/headerStates.ts"
import { startReadingThread } from "./support/readingThread.ts"
import { temporaryDirectory } from "./support/temporaryDirectory.ts"

const lastCommit = 1000

describe("SharedHeader in mapped files", () => {
  it.live("SHM-04 1,000 publishes against 5,000 reads from a thread and from another process: never a mixture", () =>
    Effect.gen(function*() {
      const database = join(yield* temporaryDirectory, "app.db")
      const header = yield* openHeader(database)
      const publisher = yield* header.becomePublisher(durableAt(0))
      const thread = yield* startReadingThread([header.region().buffer])
      const child = yield* startProgram("headerReader.ts", [database, `${lastCommit}`, "5000"])
      assert.strictEqual(yield* child.line, "reading")
      for (let commit = 1; commit <= lastCommit; commit++) {
        publisher.publish(stateAt(commit))
        if (commit % 100 !== 0) continue
        // Nobody runs away: both have seen this hundred while it was the newest.
        yield* thread.seen(BigInt(commit / 100))
        assert.strictEqual(yield* child.line, `${commit / 100}`)
      }
      const ofProcess = JSON.parse(yield* child.line) as ReadCounts
      const [ofThread] = yield* thread.stop
      for (const counts of [ofThread, ofProcess]) {
        assert.deepInclude(counts, { mixed: 0, backwards: 0 })
        assert.isAtLeast(counts?.reads ?? 0, 5000)
        assert.isAtLeast(counts?.changes ?? 0, 10)
      }
    }).pipe(Effect.provide(machine)))

  it.live("SHM-04 a hunt for torn reads: millions of them under a publisher that never rests", () =>
    Effect.gen(function*() {
      const hunt = yield* startProgram("headerTornReads.ts", ["2"])
      const counts = JSON.parse(yield* hunt.line) as { readonly ofProcess: ReadCounts; readonly ofThread: ReadCounts }
      assert.strictEqual(yield* hunt.exit, 0)
      for (const found of [counts.ofProcess, counts.ofThread]) {
        assert.deepInclude(found, { mixed: 0, backwards: 0 })
        // It would have seen a mixture: without the sequence it does.
        assert.isAbove(found.mixedWithoutLock, 0)
        assert.isAbove(found.whole, 1000)
      }
    }))

  it.live("SHM-06 publishers are killed in their windows: nobody sees a mixture or waits, and the next owner repairs", () =>
    Effect.gen(function*() {
      const loop = yield* startProgram("headerKillLoop.ts", [
        "3",
        "7",
        "--threads",
        "2",
        "--stopped",
        "3",
        "--headers",
        "5",
        "--forked",
        "60"
      ])
      const found = JSON.parse(yield* loop.line) as {
        readonly killedWhileRunning: { readonly kills: number }
        readonly killedWhileStopped: object
        readonly killedForked: { readonly kills: number; readonly windowsInterrupted: number; readonly halted: number }
        readonly readingThread: ReadCounts
        readonly violations: ReadonlyArray<string>
      }
      assert.deepStrictEqual(found.violations, [])
      assert.strictEqual(yield* loop.exit, 0)
      assert.strictEqual(found.killedWhileRunning.kills, 3)
      assert.deepInclude(found.killedWhileStopped, {
        kills: 3,
        windowsInterrupted: 15,
        byStores: { "1 or 5": 6, "2": 3, "3": 3, "4": 3 }
      })
      assert.strictEqual(found.killedForked.kills, 60)
      assert.isAtLeast(found.killedForked.windowsInterrupted, 5)
      assert.isAtLeast(found.killedForked.halted, 7)
      assert.isAbove(found.readingThread.reads, 1000)
    }))

  it.live("RC-18 a file that cannot be mapped, or is no header, is replaced by a new inode and never touched", () =>
    Effect.gen(function*() {
      const database = join(yield* temporaryDirectory, "app.db")
      const path = `${database}.fsqlite-shm`
      const good = SharedHeaderFormat.encode(SharedHeaderFormat.freshHeader({ pageSize }))
      const versions = {
        empty: new Uint8Array(0),
        "too short to be mapped": good,
        "of another length": Buffer.concat([good, new Uint8Array(65_536)]),
        "zeros": new Uint8Array(65_536),
        "with a hole": undefined
      }
      for (const [what, bytes] of Object.entries(versions)) {
        if (bytes === undefined) {
          writeFileSync(path, good)
          truncateSync(path, 65_536)
        } else {
          writeFileSync(path, bytes)
        }
        // The name of the old file, for looking at it afterwards.
        const old = `${path}.old`
        rmSync(old, { force: true })
        linkSync(path, old)
        const before = readFileSync(old)
        yield* Effect.scoped(Effect.gen(function*() {
          const header = yield* openHeader(database)
          yield* Effect.scoped(header.becomePublisher(durableAt(7)))
          assert.deepStrictEqual(yield* header.snapshot, stateAt(7), what)
          assert.notStrictEqual(statSync(path).ino, statSync(old).ino, what)
          assert.deepStrictEqual(readFileSync(old), before, what)
          const written = SharedHeaderFormat.decode(readFileSync(path))
          assert.isTrue(written._tag === "Success" && written.success.commitSeq === 7n, what)
          // Another one finds it good.
          assert.strictEqual((yield* openHeader(database)).region().identity, header.region().identity, what)
        }))
        rmSync(path)
      }
    }).pipe(Effect.provide(machine)))

  it.live("RC-18 a file with a hole while somebody publishes is refused by type, and left as it is", () =>
    Effect.gen(function*() {
      const database = join(yield* temporaryDirectory, "app.db")
      const path = `${database}.fsqlite-shm`
      const header = yield* openHeader(database)
      yield* header.becomePublisher(durableAt(7))
      rmSync(path)
      writeFileSync(path, SharedHeaderFormat.encode(SharedHeaderFormat.freshHeader({ pageSize })))
      truncateSync(path, 65_536)
      const facts = () => {
        const { blocks, ino, mtimeMs, size } = statSync(path)
        return { blocks, ino, mtimeMs, size }
      }
      const before = facts()
      const refusal = yield* Effect.flip(openHeader(database))
      assert.strictEqual(refusal._tag, "SharedMemoryUnmappable")
      assert.include(refusal.message, "hole")
      assert.deepStrictEqual(facts(), before)
      // Who publishes goes on in the memory that it has.
      assert.deepStrictEqual(yield* header.snapshot, stateAt(7))
      assert.strictEqual((yield* Effect.flip(header.refresh))._tag, "ShmReplaced")
    }).pipe(Effect.provide(machine)))

  it.live("without native access the header is refused by type, and nothing is made", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const build = (memory: Layer.Layer<SharedMemory>, locks: Layer.Layer<FileLock>) =>
        Effect.flip(Layer.build(
          SharedHeader.layer({ database: join(directory, "app.db"), pageSize }).pipe(
            Layer.provide([memory, locks]),
            Layer.provide(NodeVfs.layer)
          )
        ))
      const noMemory = yield* build(SharedMemory.layerFileBackends([]), FileLock.layer)
      assert.strictEqual(noMemory._tag, "SharedMemoryUnavailable")
      const noLocks = yield* build(SharedMemory.layerFile, FileLock.layerBackends([]))
      assert.strictEqual(noLocks._tag, "FileLockUnavailable")
      assert.isFalse(existsSync(join(directory, "app.db.fsqlite-shm")))
    }))
})

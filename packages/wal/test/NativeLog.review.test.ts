/** Orders of events that a native log has to survive although its callers ought not to bring them about, and what stays. */
import { assert, describe, it } from "@effect/vitest"
import { PageSize, toCommitSeq } from "@tidemark/core/Scalars"
import type { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as References from "effect/References"
import { checkpointMarkPath } from "../src/CheckpointMarkFormat.ts"
import type { LogEnded } from "../src/GroupCommit.ts"
import { markerBytes, markerSegmentHeaderBytes, markerSegmentPath } from "../src/MarkerFormat.ts"
import type { NativeCommit } from "../src/NativeLog.ts"
import { Ledger } from "./support/ledger.ts"
import {
  capsulesOf,
  commits,
  emptyDisk,
  handOver,
  openByHand,
  type OpenedNative,
  pageSize,
  put,
  slowDisk,
  stampOf
} from "./support/nativeLog.ts"
import { settle, versionBytes } from "./support/parallelRuns.ts"
import { memoryPath } from "./support/sqliteWal.ts"

const quiet = Effect.provideService(References.MinimumLogLevel, "None")

/** Hands a commit over and waits until it is durable. */
const publish = (opened: OpenedNative, commit: NativeCommit) =>
  Effect.suspend(() => {
    const outcome = Deferred.makeUnsafe<unknown, LogEnded>()
    handOver(opened, commit, () => {}, (exit) => Deferred.doneUnsafe(outcome, exit))
    return Deferred.await(outcome)
  })

/** The capsule of another commit once more, under the next sequence. */
const again = (commit: NativeCommit): NativeCommit => ({ ...commit, seq: toCommitSeq(commit.seq + 1n) })

describe("NativeLog, a capsule that commits name", () => {
  it.effect("CO-10 RC-15 whoever removes it from the store of the log removes nothing, from the hand-over on", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const first = yield* put(opened, 1n, 2)
      yield* publish(opened, first)
      // As the committer of a publication that was repeated does, when the repetition is refused.
      yield* opened.capsules.remove(first.capsule)
      assert.strictEqual(stampOf(opened, 2), 1)

      const second = yield* put(opened, 2n, 3)
      const held = disk.hold({ operation: "syncData", path: /markers/ })
      yield* Effect.addFinalizer(() => held.release)
      const running = yield* Effect.forkChild(publish(opened, second))
      yield* held.reached
      yield* opened.capsules.remove(second.capsule)
      yield* held.release
      yield* Fiber.join(running)
      assert.strictEqual(capsulesOf(disk).length, 2)

      const refused = yield* put(opened, 9n, 3)
      yield* opened.capsules.remove(refused.capsule)
      assert.strictEqual(capsulesOf(disk).length, 2, "one that nobody names goes")
      yield* opened.native.checkpoint("full")
      yield* put(opened, 1n, 2)
      assert.strictEqual(capsulesOf(disk).length, 1)
      yield* Effect.forEach(yield* opened.capsules.list, opened.capsules.remove)
      assert.deepStrictEqual(capsulesOf(disk), [], "and one whose commit is in the database file")
      yield* opened.close
      const file = Buffer.from(disk.afterCrash("lost").readFile(memoryPath) ?? new Uint8Array(0))
      assert.deepStrictEqual([2, 3].map((page) => file.readUInt32BE((page - 1) * pageSize + 4)), [1, 2])
    }).pipe(quiet))

  it.effect("CO-10 RC-15 a checkpoint leaves it to the commits that name it too and are not in the database file yet", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const first = yield* put(opened, 1n, 2)
      yield* publish(opened, first)
      const reader = opened.log.openReader()
      yield* publish(opened, again(first))
      // It goes as far as the reader.
      yield* opened.native.checkpoint("passive")
      assert.deepStrictEqual(opened.native.inLog(), { records: 1, capsules: 1 })
      assert.strictEqual(stampOf(opened, 2), 1)
      const found = yield* openByHand(disk.afterCrash("lost"))
      assert.deepStrictEqual([found.native.startUp.case, found.native.startUp.live.length], ["RC-06", 1])
      yield* found.capsules.remove(first.capsule)
      assert.strictEqual((yield* found.capsules.list).length, 1, "what a start has found is needed as well")
      reader.release()

      // On its way to the disk while the checkpoint removes.
      const held = disk.hold({ operation: "syncData", path: /markers/ })
      yield* Effect.addFinalizer(() => held.release)
      const running = yield* Effect.forkChild(publish(opened, again(again(first))))
      yield* held.reached
      yield* opened.native.checkpoint("passive")
      assert.deepStrictEqual(opened.native.inLog(), { records: 0, capsules: 0 })
      yield* held.release
      yield* Fiber.join(running)
      assert.strictEqual(stampOf(opened, 2), 1)
      const later = yield* openByHand(disk.afterCrash("lost"))
      assert.deepStrictEqual([later.native.startUp.case, later.native.startUp.live.length], ["RC-06", 1])

      yield* opened.native.checkpoint("full")
      assert.deepStrictEqual(capsulesOf(disk), [], "then it goes")
    }).pipe(quiet))
})

describe("NativeLog, files that serve again", () => {
  it.effect("CO-10 RC-15 a capsule that is published again after its checkpoint keeps its file, put again or not", () =>
    Effect.gen(function*() {
      for (const isPutAgain of [false, true]) {
        const disk = slowDisk()
        const opened = yield* openByHand(disk, { autoCheckpointFrames: 2 })
        const first = yield* put(opened, 1n, 2)
        yield* publish(opened, first)
        if (isPutAgain) yield* put(opened, 1n, 2)
        yield* publish(opened, yield* put(opened, 2n, 3))
        yield* settle
        assert.deepStrictEqual(opened.native.inLog(), { records: 0, capsules: 0 })
        assert.strictEqual(capsulesOf(disk).length, 2, "spares")
        const reader = opened.log.openReader()
        yield* publish(opened, { ...first, seq: toCommitSeq(3n) })
        for (const seq of [4n, 5n, 6n]) yield* publish(opened, yield* put(opened, seq, 4))
        assert.strictEqual(stampOf(opened, 2), 1)
        const later = yield* openByHand(disk.afterCrash("lost"))
        assert.deepStrictEqual([2, 3, 4].map((page) => stampOf(later, page)), [1, 2, 6])
        reader.release()
      }
    }).pipe(quiet))

  it.effect("CO-10 RC-15 a capsule that could not be removed, and is published again, stays", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const first = yield* put(opened, 1n, 2)
      yield* publish(opened, first)
      const fault = disk.inject({ operation: "remove", path: /capsules/, fault: { kind: "error", code: "EBUSY" } })
      yield* opened.native.checkpoint("passive")
      assert.strictEqual(fault.hits, 1)
      yield* publish(opened, yield* put(opened, 2n, 3))
      const reader = opened.log.openReader()
      yield* publish(opened, { ...first, seq: toCommitSeq(3n) })
      yield* opened.native.checkpoint("passive")
      assert.deepStrictEqual(opened.native.inLog(), { records: 1, capsules: 1 })
      assert.strictEqual(stampOf(opened, 2), 1)
      reader.release()
      yield* opened.native.checkpoint("full")
      assert.deepStrictEqual(capsulesOf(disk), [])
    }).pipe(quiet))

  it.effect("CO-10 RC-15 whoever publishes other pages than his capsule has spoils no commit but his own", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk, { autoCheckpointFrames: 2 })
      const other = yield* put(opened, 1n, 2, 3, 4)
      yield* publish(opened, { ...other, pages: other.pages.slice(0, 2) })
      yield* settle
      assert.deepStrictEqual(opened.native.inLog(), { records: 0, capsules: 0 })
      const reader = opened.log.openReader()
      yield* publish(opened, yield* put(opened, 2n, 5, 6))
      const later = yield* openByHand(disk.afterCrash("lost"))
      assert.deepStrictEqual([5, 6].map((page) => stampOf(later, page)), [2, 2])
      reader.release()
    }).pipe(quiet))
})

describe("NativeLog, another life", () => {
  it.effect("RC-05 of another page size than is asked for: a database keeps the one it has, whatever is in the log", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const ledger = new Ledger(pageSize)
      const lives = [[pageSize, false], [PageSize.make(4096), true], [PageSize.make(4096), true]] as const
      for (const [asked, checkpointOnClose] of lives) {
        const opened = yield* openByHand(disk, { create: { pageSize: asked }, checkpointOnClose })
        assert.strictEqual(opened.native.pageSize, pageSize)
        yield* commits(ledger, opened, 2)
        yield* ledger.checkTip(opened, "another page size")
        yield* opened.close
      }
    }))

  it.effect("RC-21 what an orderly end leaves: the database, its mark, 88 bytes for each commit, no capsule", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const ledger = new Ledger(pageSize)
      const left = (commits: number) => ({
        [memoryPath]: 6 * pageSize,
        // Nothing but a place for the lock that keeps stock SQLite out.
        [`${memoryPath}-shm`]: 0,
        [checkpointMarkPath(memoryPath)]: 48,
        [markerSegmentPath(memoryPath, 0n)]: markerSegmentHeaderBytes + (1 + commits) * markerBytes
      })
      for (const count of [5, 10, 15]) {
        const opened = yield* openByHand(disk, { checkpointOnClose: true })
        yield* commits(ledger, opened, 5)
        assert.strictEqual(capsulesOf(disk).length, 5)
        yield* opened.close
        assert.deepStrictEqual(sizesOf(disk), left(count))
        assert.deepStrictEqual(versionBytes(disk), [2, 2])
      }
      // Without a commit nothing comes to it.
      yield* Effect.flatMap(openByHand(disk, { checkpointOnClose: true }), ({ close }) => close)
      assert.deepStrictEqual(sizesOf(disk), left(15))
    }))

  it.effect("GC-07 PG-07 a poisoned log: a checkpoint that is under way brings what was acknowledged home, no more", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const ledger = new Ledger(pageSize)
      const opened = yield* openByHand(disk, { autoCheckpointFrames: 4, checkpointOnClose: true })
      const copying = disk.hold({ operation: "write", path: memoryPath, skip: 1 })
      yield* Effect.addFinalizer(() => copying.release)
      yield* commits(ledger, opened, 4)
      yield* copying.reached
      disk.inject({ operation: "syncData", path: /markers/, fault: { kind: "error", code: "EIO" } })
      const failed = yield* Effect.exit(commits(ledger, opened, 1))
      assert.isTrue(Exit.isFailure(failed))
      yield* copying.release
      yield* settle
      yield* opened.close
      assert.deepStrictEqual(versionBytes(disk), [3, 3], "a commit may be on the disk that nobody was told of")
      for (const choice of ["kept", "lost", 1, 2, 3] as const) {
        const next = yield* openByHand(disk.afterCrash(choice))
        const { commitSeq } = next.log.published()
        assert.isTrue(commitSeq === 4n || commitSeq === 5n, `${choice}: ${commitSeq}`)
        assert.isUndefined(ledger.differenceOf(next.log.openReader()), `${choice}`)
        yield* next.close
      }
    }).pipe(quiet))
})

describe("NativeLog, a checkpoint under load", () => {
  it.effect("PG-06 capsules are copied side by side: behind one that takes its time the others are in the database file", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      for (let seq = 1n; seq <= 30n; seq++) yield* publish(opened, yield* put(opened, seq, Number(seq) % 8 + 2))
      const slow = disk.hold({ operation: "read", path: /capsules/ })
      yield* Effect.addFinalizer(() => slow.release)
      const running = yield* Effect.forkChild(opened.native.checkpoint("passive"))
      yield* slow.reached
      yield* settle
      const file = disk.readFile(memoryPath) ?? new Uint8Array(0)
      const written = [2, 3, 4, 5, 6, 7, 8, 9].filter((page) => (file[(page - 1) * pageSize + 7] ?? 0) > 0)
      assert.strictEqual(written.length, 7)
      yield* slow.release
      yield* Fiber.join(running)
      assert.deepStrictEqual(opened.native.inLog(), { records: 0, capsules: 0 })
    }))

  it.effect("PG-06 capsules are removed side by side: behind one that takes its time the others go", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      yield* commits(new Ledger(pageSize), opened, 30)
      const slow = disk.hold({ operation: "remove", path: /capsules/ })
      yield* Effect.addFinalizer(() => slow.release)
      const running = yield* Effect.forkChild(opened.native.checkpoint("passive"))
      yield* slow.reached
      yield* settle
      assert.strictEqual(capsulesOf(disk).length, 1)
      yield* slow.release
      yield* Fiber.join(running)
      assert.deepStrictEqual(capsulesOf(disk), [])
    }))
})

const sizesOf = (disk: MemoryDisk): Record<string, number> =>
  Object.fromEntries(
    disk.files.filter((path) => path.startsWith(memoryPath)).map((path) => [path, disk.readFile(path)?.length ?? 0])
  )

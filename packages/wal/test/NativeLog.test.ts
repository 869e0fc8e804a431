/** The native log: what a commit does on the disk, in which order, and what is answered when. */
import { assert, describe, it } from "@effect/vitest"
import { objectIdToHex, toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import type { MemoryDisk, TraceEvent } from "@tidemark/platform/MemoryDisk"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { capsulePath, capsulesDirectory, maxCapsulePages } from "../src/CapsuleFormat.ts"
import * as LogMetrics from "../src/LogMetrics.ts"
import { markerSegmentPath, slotOffset } from "../src/MarkerFormat.ts"
import type { NativeCommit } from "../src/NativeLog.ts"
import { Ledger } from "./support/ledger.ts"
import {
  byHand,
  capsulesOf,
  commit,
  commits,
  emptyDisk,
  handOver,
  openByHand,
  type OpenedNative,
  pageSize,
  put,
  slowDisk
} from "./support/nativeLog.ts"
import { filledPage } from "./support/pages.ts"
import { checkVisible, settle, versionBytes } from "./support/parallelRuns.ts"
import { ofLog, ownMetrics } from "./support/parallelWal.ts"
import { memoryPath } from "./support/sqliteWal.ts"

const directory = capsulesDirectory(memoryPath)
const segment = markerSegmentPath(memoryPath, 0n)

/** Hands commits over in one step, and waits for all of them. */
const handOverAll = (opened: OpenedNative, all: ReadonlyArray<NativeCommit>) =>
  Effect.gen(function*() {
    const outcomes = all.map((each) => {
      const outcome = Deferred.makeUnsafe<string>()
      handOver(opened, each, () => {}, (exit) => {
        const ending = Exit.isSuccess(exit) ? "durable" : Exit.findErrorOption(exit)
        Deferred.doneUnsafe(outcome, Exit.succeed(typeof ending === "string" ? ending : JSON.stringify(ending)))
      })
      return outcome
    })
    return yield* Effect.forEach(outcomes, (outcome) => Deferred.await(outcome))
  })

const isCapsule = (path: string) => path.startsWith(`${directory}/`)

/** What one step is, for the order of a batch. */
const kindOf = (step: TraceEvent): string | undefined => {
  switch (step.kind) {
    case "write":
      return step.path === segment ? "markers" : isCapsule(step.path) ? "capsule" : "database"
    case "syncData":
    case "syncFull":
      return step.path === segment ? "sync markers" : isCapsule(step.path) ? "sync capsule" : "sync database"
    case "syncDirectory":
      return step.path === directory ? "sync directory" : "sync other directory"
    default:
      return undefined
  }
}

/** The steps that a use takes, by kind. */
const stepsOf = <A, E, R>(disk: MemoryDisk, use: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const trace = disk.record()
    yield* use
    trace.stop()
    return trace.steps.flatMap((step) => kindOf(step) ?? [])
  })

describe("NativeLog, commits", () => {
  it.effect("CO-09 a commit is answered with its sequence and marker id when its marker is on the disk", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const first = yield* put(opened, 1n, 2, 5)
      const second = yield* put(opened, 2n, 2, 3)
      assert.isUndefined(first.markerId)
      assert.deepStrictEqual(yield* handOverAll(opened, [first, second]), ["durable", "durable"])
      assert.deepStrictEqual(opened.log.published(), { commitSeq: toCommitSeq(2n), databasePages: 9 })
      // What the disk has without any luck, as the next process finds it.
      const after = disk.afterCrash("lost")
      const again = yield* openByHand(after)
      for (const each of [first, second]) {
        const marker = yield* again.native.markers.read(each.seq)
        assert.isDefined(marker)
        assert.isDefined(each.markerId)
        assert.strictEqual(objectIdToHex(marker.id), objectIdToHex(each.markerId))
        assert.strictEqual(objectIdToHex(marker.capsule), objectIdToHex(each.capsule))
      }
      const reader = again.log.openReader()
      assert.strictEqual(reader.high, toCommitSeq(2n))
      assert.deepStrictEqual(reader.readSync(toPageNumber(2)), filledPage(pageSize, 2, 2))
      assert.deepStrictEqual(yield* reader.read(toPageNumber(5)), filledPage(pageSize, 5, 1))
      assert.strictEqual(reader.versionOf(toPageNumber(5)), toCommitSeq(1n))
      assert.strictEqual(reader.versionOf(toPageNumber(3)), toCommitSeq(2n))
      assert.strictEqual(reader.versionOf(toPageNumber(1)), toCommitSeq(0n))
      reader.release()
    }))

  it.effect("CO-10 CO-09 two barriers: capsules side by side, their directory once, then the markers once", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      // The first batch also says in the header where the newest commits are, and makes sure of directories.
      yield* handOverAll(opened, [yield* put(opened, 1n, 2)])
      assert.deepStrictEqual(versionBytes(disk.afterCrash("lost")), [3, 3])
      const batch = yield* Effect.forEach([2n, 3n, 4n, 5n, 6n], (seq) => put(opened, seq, 2, 3))
      const steps = yield* stepsOf(disk, handOverAll(opened, batch))
      assert.deepStrictEqual(steps, [
        ...batch.map(() => "sync capsule"),
        "sync directory",
        "markers",
        "sync markers"
      ])
      const next = yield* put(opened, 7n, 2)
      assert.deepStrictEqual(
        yield* stepsOf(disk, handOverAll(opened, [next])),
        ["sync capsule", "sync directory", "markers", "sync markers"]
      )
    }))

  it.effect("CO-10 the version bytes are durable before the first marker, and before it nothing names a capsule", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const first = yield* put(opened, 1n, 2)
      const trace = disk.record()
      yield* handOverAll(opened, [first])
      trace.stop()
      const firstMarker = trace.steps.findIndex((step) => step.kind === "write" && step.path === segment)
      assert.isTrue(firstMarker > 0)
      for (let step = 0; step <= firstMarker; step++) {
        const { disk: crashed } = trace.crashAfter(step, "kept")
        assert.strictEqual(crashed.readFile(segment)?.length, slotOffset(toCommitSeq(1n)), `after step ${step}`)
      }
      const before = trace.crashAfter(firstMarker, "lost").disk
      assert.deepStrictEqual(versionBytes(before), [3, 3])
      assert.strictEqual(before.readFile(capsulePath(memoryPath, first.capsule))?.length, 48 + 8 + 512 + 32)
    }))

  it.effect("CO-10 no byte of a marker is written while a capsule of its batch is on its way to the disk", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      yield* handOverAll(opened, [yield* put(opened, 1n, 2)])
      const batch = [yield* put(opened, 2n, 2), yield* put(opened, 3n, 3), yield* put(opened, 4n, 4)]
      for (const [operation, path] of [["syncData", /capsules/], ["syncDirectory", directory]] as const) {
        const held = disk.hold({ operation, path })
        const trace = disk.record()
        const answers = yield* Effect.forkChild(handOverAll(opened, batch.splice(0, 1)))
        yield* held.reached
        yield* settle
        assert.deepStrictEqual(trace.steps.filter((step) => step.path === segment), [], operation)
        assert.isUndefined(answers.pollUnsafe())
        yield* held.release
        assert.deepStrictEqual(yield* Fiber.join(answers), ["durable"])
        trace.stop()
      }
    }))

  it.effect("CO-16 nothing is visible before its marker is durable", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const each = yield* put(opened, 1n, 2)
      const held = disk.hold({ operation: "syncData", path: segment, when: "after" })
      const answers = yield* Effect.forkChild(handOverAll(opened, [each]))
      yield* held.reached
      yield* settle
      assert.strictEqual(opened.log.published().commitSeq, toCommitSeq(0n))
      const early = opened.log.openReader()
      assert.strictEqual(early.versionOf(toPageNumber(2)), toCommitSeq(0n))
      assert.isUndefined(yield* opened.native.markers.read(toCommitSeq(1n)))
      let seenWhenPublished = toCommitSeq(0n)
      opened.log.onPublished(({ commitSeq }) => {
        seenWhenPublished = commitSeq
        assert.isUndefined(answers.pollUnsafe())
      })
      yield* held.release
      yield* Fiber.join(answers)
      assert.strictEqual(seenWhenPublished, toCommitSeq(1n))
      assert.strictEqual(early.versionOf(toPageNumber(2)), toCommitSeq(0n), "an older snapshot stays as it is")
      early.release()
      assert.isDefined(yield* opened.native.markers.read(toCommitSeq(1n)))
    }))

  it.effect("GC-02 many writers: every commit once, sequences dense, the markers in their order", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const ledger = new Ledger(pageSize)
      const writer = (number: number) =>
        Effect.forEach(
          Array.from({ length: 12 }),
          (_, round) => commit(ledger, opened, { pages: [2 + (number + round) % 7], databasePages: 8 })
        )
      const answers = yield* Effect.all(Array.from({ length: 16 }, (_, number) => writer(number)), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(
        answers.flat().sort((a, b) => Number(a - b)),
        Array.from({ length: 192 }, (_, n) => toCommitSeq(BigInt(n + 1)))
      )
      const history = Array.from(
        yield* Stream.runCollect(opened.native.markers.range(toCommitSeq(1n), toCommitSeq(192n)))
      )
      assert.strictEqual(history.length, 192)
      assert.deepStrictEqual(yield* opened.native.markers.verifyChain, { markers: 193 })
      checkVisible(opened, ledger, "192 commits")
      const again = yield* openByHand(disk.afterCrash("lost"))
      assert.deepStrictEqual(checkVisible(again, ledger, "reopened"), {
        visible: toCommitSeq(192n),
        tip: toCommitSeq(192n)
      })
      assert.strictEqual(again.native.lastTxnId, 192n)
    }))

  it.effect("GC-11 a commit counts for its marker in the queue, and waits in line when that is full", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk, { groupCommit: { maxQueuedBytes: 2 * 88 } })
      assert.strictEqual(opened.log.commitBytes(1000), 88)
      const batch = yield* Effect.forEach([1n, 2n, 3n], (seq) => put(opened, seq, 2))
      const held = disk.hold({ operation: "syncData", path: segment })
      const entered: Array<bigint> = []
      const answers = batch.map((each) => {
        const outcome = Deferred.makeUnsafe<void>()
        handOver(opened, each, () => entered.push(each.seq), () => Deferred.doneUnsafe(outcome, Exit.void))
        return outcome
      })
      yield* held.reached
      assert.deepStrictEqual(entered, [1n, 2n])
      yield* held.release
      yield* Effect.forEach(answers, (outcome) => Deferred.await(outcome))
      assert.deepStrictEqual(entered, [1n, 2n, 3n])
    }))

  it.effect("GC-13 a batch has a bounded number of capsules", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk, { groupCommit: { maxBatchBytes: 2 * 88 } })
      yield* handOverAll(opened, [yield* put(opened, 1n, 2)])
      const batch = yield* Effect.forEach([2n, 3n, 4n, 5n], (seq) => put(opened, seq, 2))
      const steps = yield* stepsOf(disk, handOverAll(opened, batch))
      const ofTwo = ["sync capsule", "sync capsule", "sync directory", "markers", "sync markers"]
      assert.deepStrictEqual(steps, [...ofTwo, ...ofTwo])
    }))

  it.effect("CO-02 a commit out of turn, or one that is not to be durable, is a defect of its caller alone", () =>
    Effect.gen(function*() {
      const opened = yield* openByHand(emptyDisk())
      const first = yield* put(opened, 1n, 2)
      const third = yield* put(opened, 3n, 2)
      const waiter = { succeed: () => {}, fail: () => {} }
      assert.throws(() => opened.log.appendUnsafe(third, { mode: "durable", ...waiter }), /order of their sequences/)
      assert.throws(() => opened.log.appendUnsafe(first, { mode: "written", ...waiter }), /visible when it is durable/)
      assert.deepStrictEqual(yield* handOverAll(opened, [first]), ["durable"])
    }))

  it.effect("CO-06 a coordinator that is restored goes on at the tip; a native log has no offsets", () =>
    Effect.gen(function*() {
      const opened = yield* openByHand(emptyDisk())
      yield* handOverAll(opened, [yield* put(opened, 1n, 2)])
      opened.log.restore(toCommitSeq(1n), 0)
      assert.throws(() => opened.log.restore(toCommitSeq(0n), 0), /continues at the tip/)
      assert.throws(() => opened.log.restore(toCommitSeq(1n), 4120), /no offsets/)
      assert.isUndefined(opened.log.refuse(maxCapsulePages))
      assert.strictEqual(opened.log.refuse(maxCapsulePages + 1)?._tag, "Exhausted")
    }))

  it.effect("CO-15 what recovery found is told: base, tip, and the newest version of each page", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const ledger = new Ledger(pageSize)
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk)
        assert.deepStrictEqual({ ...opened.log.recovered, pages: [] }, {
          base: toCommitSeq(0n),
          tip: toCommitSeq(0n),
          pages: []
        })
        yield* commits(ledger, opened, 2)
        yield* opened.native.checkpoint("passive")
        yield* commit(ledger, opened, { pages: [3], databasePages: 6 })
        yield* commit(ledger, opened, { pages: [4], databasePages: 6 })
      }))
      const { base, pages, tip } = (yield* openByHand(disk)).log.recovered
      assert.deepStrictEqual([base, tip], [toCommitSeq(2n), toCommitSeq(4n)])
      assert.deepStrictEqual(new Map<number, bigint>(pages()), new Map([[1, 4n], [3, 3n], [4, 4n]]))
    }))

  it.effect("GC-14 closing makes durable what was handed over, and takes nothing more", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const batch = yield* Effect.forEach([1n, 2n], (seq) => put(opened, seq, 2))
      const answers = yield* Effect.forkChild(handOverAll(opened, batch), { startImmediately: true })
      yield* opened.close
      assert.deepStrictEqual(yield* Fiber.join(answers), ["durable", "durable"])
      assert.strictEqual(opened.log.ended()?._tag, "LogClosed")
      const again = yield* openByHand(disk.afterCrash("lost"))
      assert.strictEqual(again.log.published().commitSeq, toCommitSeq(2n))
      assert.strictEqual(capsulesOf(disk).length, 2)
    }))

  it.effect("CO-18 settling decides what was handed over", () =>
    Effect.gen(function*() {
      const opened = yield* openByHand(slowDisk())
      const each = yield* put(opened, 1n, 2)
      let answered = false
      handOver(opened, each, () => {}, () => {
        answered = true
      })
      yield* opened.log.settle
      assert.isTrue(answered)
      assert.strictEqual(opened.log.published().commitSeq, toCommitSeq(1n))
    }))

  it.effect("GC-15 metrics carry the path of the database", () =>
    ownMetrics(Effect.gen(function*() {
      const opened = yield* openByHand(slowDisk())
      yield* handOverAll(opened, [yield* put(opened, 1n, 2)])
      yield* handOverAll(opened, yield* Effect.forEach([2n, 3n, 4n], (seq) => put(opened, seq, 2)))
      assert.strictEqual((yield* ofLog(LogMetrics.commits)).count, 4)
      assert.strictEqual((yield* ofLog(LogMetrics.syncs)).count, 2)
      assert.strictEqual((yield* ofLog(LogMetrics.batchCommits)).max, 3)
      assert.strictEqual((yield* ofLog(LogMetrics.capsulesSynced)).count, 4)
      assert.strictEqual((yield* ofLog(LogMetrics.capsuleBarrierSeconds)).count, 2)
    })))
})

describe("NativeLog, its database", () => {
  it.effect("SWAL-10 a second log of any process is refused, and the lock ends with the layer", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk)
      const refused = yield* Effect.flip(Effect.scoped(openByHand(disk)))
      assert.strictEqual(refused._tag, "LogLocked")
      yield* opened.close
      yield* Effect.scoped(openByHand(disk))
    }))

  it.effect("RC-01 without `create` a database has to be there; with it one is made, of the page size asked for", () =>
    Effect.gen(function*() {
      const missing = yield* Effect.flip(Effect.scoped(openByHand(emptyDisk(), { create: undefined })))
      assert.strictEqual(missing._tag, "VfsError")
      const disk = emptyDisk()
      for (const create of [byHand.create, undefined]) {
        const opened = yield* openByHand(disk, { create })
        assert.strictEqual(opened.native.pageSize, pageSize)
        assert.deepStrictEqual(opened.native.inLog(), { records: 0, capsules: 0 })
        assert.deepStrictEqual(opened.log.published(), { commitSeq: toCommitSeq(0n), databasePages: 1 })
        assert.deepStrictEqual(versionBytes(disk), [2, 2], "without a commit there is nothing that SQLite lacks")
        yield* opened.close
      }
    }))

  it.effect("CO-05 what one capsule alone cannot be put for is nobody else's trouble", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk)
      const ledger = new Ledger(pageSize)
      yield* commits(ledger, opened, 1)
      disk.inject({ operation: "write", path: /capsules/, fault: { kind: "shortWrite", bytes: 100 } })
      const failed = yield* Effect.flip(commits(ledger, opened, 1))
      assert.strictEqual(failed._tag, "VfsError")
      assert.strictEqual(capsulesOf(disk).length, 1)
      yield* commits(ledger, opened, 2)
      assert.strictEqual(opened.log.published().commitSeq, toCommitSeq(3n), "the sequence was not given away")
    }))
})

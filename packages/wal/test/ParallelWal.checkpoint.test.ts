/** Checkpoints of a parallel WAL: their order, readers in the way, interruptions, and what stays bounded. */
import { assert, describe, it } from "@effect/vitest"
import { PageSize, toCommitSeq } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as References from "effect/References"
import { TestClock } from "effect/testing"
import { checkpointMarkPath } from "../src/CheckpointMarkFormat.ts"
import type { CheckpointMode } from "../src/SqliteWal.ts"
import { Ledger } from "./support/ledger.ts"
import {
  certificateHighs,
  certificates,
  checkVisible,
  commits,
  cycling,
  fileDifference,
  nothingIsLost,
  recover,
  segmentsOf,
  settle,
  versionBytes
} from "./support/parallelRuns.ts"
import { batchOf, openByHand, type Options } from "./support/parallelWal.ts"
import { memoryPath, prepareDisk, readTip } from "./support/sqliteWal.ts"

const pageSize = PageSize.make(512)
const insisting = ["full", "restart", "truncate"] as const
const quiet = Effect.provideService(References.MinimumLogLevel, "None")
const mark = checkpointMarkPath(memoryPath)

const open = (options: Options = {}, disk = prepareDisk(MemoryDisk.make())) =>
  Effect.map(openByHand(disk, options), (opened) => ({ disk, opened, ledger: new Ledger(pageSize) }))

/** Turns of the event loop until a condition holds, so many at the most. */
const eventually = (what: string, isMet: () => boolean) =>
  Effect.gen(function*() {
    for (let turn = 0; turn < 10_000; turn++) {
      if (isMet()) return
      yield* Effect.yieldNow
    }
    assert.fail(`never: ${what}`)
  })

describe("ParallelWal checkpoints", () => {
  it.effect.each(["passive", ...insisting] satisfies Array<CheckpointMode>)(
    "PW-26 2.2: pages, then the mark, then the rest, each durable before the next (%s)",
    (mode) =>
      Effect.gen(function*() {
        const { disk, ledger, opened } = yield* open()
        yield* commits(ledger, opened, 3)
        const segments = segmentsOf(disk)
        const trace = disk.record()
        const report = yield* opened.wal.checkpoint(mode)
        trace.stop()
        assert.deepStrictEqual(report, { mode, framesBefore: 10, framesCopied: 10, blocked: false })
        const at = (isIt: (step: typeof trace.steps[number]) => boolean) => trace.steps.findIndex(isIt)
        const image = trace.steps.findLastIndex((step) =>
          step.kind === "write" && step.path === memoryPath && step.bytes.length >= pageSize
        )
        const synced = at((step) => step.kind === "syncFull" && step.path === memoryPath)
        const named = at((step) => step.kind === "rename" && step.toPath === mark)
        const marked = trace.steps.findIndex((step, index) =>
          index > named && step.kind === "syncDirectory" && step.path === `${memoryPath}.fsqlite`
        )
        const removed = at((step) => step.kind === "remove")
        const header = at((step) => step.kind === "write" && step.path === memoryPath && step.bytes.length === 100)
        const emptied = at((step) => step.kind === "rename" && step.toPath === certificates)
        assert.isTrue(image >= 0 && image < synced && synced < named && named < marked && marked < removed)
        assert.strictEqual(header > removed, mode !== "passive", "the version bytes come last")
        assert.strictEqual(
          emptied > marked,
          mode === "restart" || mode === "truncate",
          "the certificates are not needed"
        )
        assert.strictEqual(trace.steps.filter((step) => step.kind === "remove").length, segments.length)
        assert.deepStrictEqual(segmentsOf(disk), [])
        assert.deepStrictEqual(versionBytes(disk), mode === "passive" ? [3, 3] : [2, 2])
        assert.isUndefined(fileDifference(disk, ledger, 3n))
        assert.deepStrictEqual(opened.wal.inLog(), { records: 0, segments: 0 })
        assert.deepStrictEqual(certificateHighs(disk).length, mode === "passive" || mode === "full" ? 3 : 0)
        // And on it goes, with the version bytes first.
        yield* commits(ledger, opened, 1)
        assert.deepStrictEqual(versionBytes(disk.afterCrash("lost")), [3, 3])
        yield* nothingIsLost(disk, ledger, mode)
      })
  )

  it.effect("PW-26 PASSIVE copies whole intervals up to the oldest reader, waits for nobody, and goes on from there", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 2)
      const old = opened.log.openReader()
      yield* commits(ledger, opened, 2)
      assert.deepStrictEqual(yield* opened.wal.checkpoint("passive"), {
        mode: "passive",
        framesBefore: 12,
        framesCopied: 8,
        blocked: false
      })
      assert.deepStrictEqual(opened.wal.inLog(), { records: 4, segments: 2 })
      assert.isUndefined(fileDifference(disk, ledger, 2n))
      const trace = disk.record()
      assert.strictEqual((yield* opened.wal.checkpoint("passive")).framesCopied, 0)
      assert.deepStrictEqual(trace.steps, [], "nothing is done for nothing")
      trace.stop()
      assert.isUndefined(ledger.differenceOf(old))
      old.release()
      assert.strictEqual((yield* opened.wal.checkpoint("passive")).framesCopied, 4)
      assert.isUndefined(fileDifference(disk, ledger, 4n))
      yield* nothingIsLost(disk, ledger, "passive")
    }))

  it.effect("PW-26 of the versions of a page in an interval the last one is copied, and no half of an interval", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      const three = yield* Effect.forkChild(Effect.all([
        ledger.commit(opened, { pages: [2, 3], databasePages: 3 }),
        ledger.commit(opened, { pages: [2], databasePages: 3 }),
        ledger.commit(opened, { pages: [3], databasePages: 3 })
      ], { concurrency: "unbounded" }))
      yield* settle
      yield* opened.wal.advanceAndFlush()
      yield* Fiber.join(three)
      assert.deepStrictEqual(opened.wal.inLog(), { records: 7, segments: 1 })
      const reader = opened.log.openReader()
      assert.strictEqual(yield* Effect.map(opened.wal.checkpoint("passive"), (report) => report.framesCopied), 7)
      assert.isUndefined(fileDifference(disk, ledger, 3n))
      assert.isUndefined(ledger.differenceOf(reader))
      reader.release()
    }))

  it.effect("the database file ends at the committed size, also when it shrinks", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      for (const [index, size] of [7, 3, 5, 1, 4, 2].entries()) {
        yield* cycling(opened, ledger.commit(opened, { pages: [2], databasePages: size }))
        yield* opened.wal.checkpoint(index % 2 === 0 ? "passive" : "truncate")
        assert.strictEqual(disk.readFile(memoryPath)?.length, size * pageSize)
        assert.isUndefined(fileDifference(disk, ledger, BigInt(index) + 1n))
        yield* nothingIsLost(disk, ledger, `${size} pages`)
      }
    }))

  describe.each(insisting)("%s", (mode) => {
    it.effect("waits for readers; commits wait in line and go on afterwards", () =>
      Effect.gen(function*() {
        const { disk, ledger, opened } = yield* open()
        yield* commits(ledger, opened, 2)
        const old = opened.log.openReader()
        yield* commits(ledger, opened, 1)
        const checkpoint = yield* Effect.forkChild(opened.wal.checkpoint(mode))
        yield* settle
        const commit = yield* Effect.forkChild(commits(ledger, opened, 1))
        yield* settle
        assert.isUndefined(checkpoint.pollUnsafe())
        assert.strictEqual(ledger.lastSeq, toCommitSeq(3n), "a commit is not handed over meanwhile")
        assert.isUndefined(ledger.differenceOf(old))
        old.release()
        const report = yield* Fiber.join(checkpoint)
        assert.deepStrictEqual(report, { mode, framesBefore: 10, framesCopied: 10, blocked: false })
        yield* Fiber.join(commit)
        assert.deepStrictEqual(checkVisible(opened, ledger, mode), { visible: toCommitSeq(4n), tip: toCommitSeq(4n) })
        yield* nothingIsLost(disk, ledger, mode)
      }))

    it.effect("says that readers stood in the way when the time is over, lets nobody in, and commits go on", () =>
      Effect.gen(function*() {
        const { disk, ledger, opened } = yield* open()
        yield* commits(ledger, opened, 2)
        const old = opened.log.openReader()
        yield* commits(ledger, opened, 1)
        const checkpoint = yield* Effect.forkChild(opened.wal.checkpoint(mode, { busyTimeout: "3 seconds" }))
        yield* settle
        yield* TestClock.adjust("2999 millis")
        assert.isUndefined(checkpoint.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(yield* Fiber.join(checkpoint), {
          mode,
          framesBefore: 10,
          framesCopied: 8,
          blocked: true
        })
        assert.deepStrictEqual(versionBytes(disk), [3, 3])
        assert.strictEqual(certificateHighs(disk).length, 3)
        yield* commits(ledger, opened, 1)
        assert.isUndefined(ledger.differenceOf(old))
        old.release()
        assert.isFalse((yield* opened.wal.checkpoint(mode)).blocked)
        assert.deepStrictEqual(versionBytes(disk), [2, 2])
        assert.isUndefined(fileDifference(disk, ledger, 4n))
      }))

    it.effect("does nothing more when it is interrupted while it waits", () =>
      Effect.gen(function*() {
        const { ledger, opened } = yield* open()
        yield* commits(ledger, opened, 1)
        const old = opened.log.openReader()
        yield* commits(ledger, opened, 1)
        const checkpoint = yield* Effect.forkChild(opened.wal.checkpoint(mode))
        yield* settle
        yield* Fiber.interrupt(checkpoint)
        yield* commits(ledger, opened, 1)
        assert.isUndefined(ledger.differenceOf(old))
        old.release()
        assert.isFalse((yield* opened.wal.checkpoint(mode)).blocked)
        checkVisible(opened, ledger, mode)
      }))

    it.effect("closing does not wait for a checkpoint that waits for readers, which touches nothing any more", () =>
      Effect.gen(function*() {
        for (const checkpointOnClose of [true, false]) {
          const { disk, ledger, opened } = yield* open({ checkpointOnClose })
          yield* commits(ledger, opened, 1)
          const old = opened.log.openReader()
          yield* commits(ledger, opened, 1)
          const checkpoint = yield* Effect.forkChild(Effect.flip(opened.wal.checkpoint(mode)))
          const queued = yield* Effect.forkChild(Effect.flip(opened.wal.checkpoint("passive")))
          yield* settle
          yield* opened.close
          const trace = disk.record()
          old.release()
          assert.strictEqual((yield* Fiber.join(checkpoint))._tag, "LogClosed")
          assert.strictEqual((yield* Fiber.join(queued))._tag, "LogClosed")
          assert.deepStrictEqual(trace.steps, [])
          trace.stop()
          assert.deepStrictEqual(versionBytes(disk), [3, 3], "somebody still read")
          yield* nothingIsLost(disk, ledger, mode)
        }
      }))
  })

  it.effect("closing lets a checkpoint that copies finish, before anybody else may open the database", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 2)
      const held = disk.hold({ operation: "syncFull", path: memoryPath })
      const checkpoint = yield* Effect.forkChild(opened.wal.checkpoint("passive"))
      yield* held.reached
      const closing = yield* Effect.forkChild(opened.close)
      yield* settle
      assert.isUndefined(closing.pollUnsafe())
      yield* held.release
      yield* Fiber.join(closing)
      assert.strictEqual((yield* Fiber.join(checkpoint)).framesCopied, 8)
      assert.deepStrictEqual(segmentsOf(disk), [])
      yield* nothingIsLost(disk, ledger, "closed")
    }))

  it.effect("closing copies everything and lets stock SQLite in, but not while somebody reads, and only when asked", () =>
    Effect.gen(function*() {
      for (const [isRead, checkpointOnClose] of [[false, true], [true, true], [false, false]] as const) {
        const { disk, ledger, opened } = yield* open({ checkpointOnClose })
        yield* commits(ledger, opened, 1)
        const reader = isRead ? opened.log.openReader() : undefined
        yield* commits(ledger, opened, 2)
        yield* opened.close
        const isAlone = checkpointOnClose && !isRead
        assert.deepStrictEqual(versionBytes(disk.afterCrash("lost")), isAlone ? [2, 2] : [3, 3])
        assert.strictEqual(segmentsOf(disk).length, isAlone ? 0 : 3)
        if (isAlone) assert.isUndefined(fileDifference(disk, ledger, 3n))
        yield* nothingIsLost(disk, ledger, "closed")
        reader?.release()
      }
    }))

  it.effect("a closed log refuses checkpoints with LogClosed, a poisoned one with WalPoisoned", () =>
    Effect.gen(function*() {
      const { ledger, opened } = yield* open()
      yield* commits(ledger, opened, 1)
      yield* opened.close
      const poisoned = yield* open()
      poisoned.disk.inject({ operation: "write", path: certificates, fault: { kind: "error", code: "EIO" } })
      yield* Effect.flip(commits(poisoned.ledger, poisoned.opened, 1))
      for (const mode of ["passive", ...insisting] satisfies Array<CheckpointMode>) {
        assert.strictEqual((yield* Effect.flip(opened.wal.checkpoint(mode)))._tag, "LogClosed")
        assert.strictEqual((yield* Effect.flip(poisoned.opened.wal.checkpoint(mode)))._tag, "WalPoisoned")
      }
    }).pipe(quiet))

  it.effect("a checkpoint that is interrupted at any of its steps loses nothing and can be run again", () =>
    Effect.gen(function*() {
      for (const mode of ["passive", "full", "truncate"] as const) {
        for (let turns = 0; turns < 60; turns += 1) {
          const { disk, ledger, opened } = yield* open()
          yield* commits(ledger, opened, 3)
          const checkpoint = yield* Effect.forkChild(opened.wal.checkpoint(mode))
          yield* Effect.repeat(Effect.yieldNow, { times: turns })
          yield* Fiber.interrupt(checkpoint)
          const label = `${mode}, interrupted after ${turns} turns`
          checkVisible(opened, ledger, label)
          yield* commits(ledger, opened, 1)
          assert.deepStrictEqual(versionBytes(disk.afterCrash("lost")), [3, 3], label)
          yield* recover(disk.afterCrash("lost"), ledger, label)
          yield* opened.wal.checkpoint(mode)
          assert.isUndefined(fileDifference(disk, ledger, 4n), label)
          assert.deepStrictEqual(segmentsOf(disk), [], label)
          yield* opened.close
        }
      }
    }))
})

describe("ParallelWal automatic checkpoints", () => {
  it.effect("PG-07 from so many records on, and what fails stops them and no commit notices", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open({ autoCheckpointFrames: 20 })
      yield* commits(ledger, opened, 7)
      assert.deepStrictEqual(opened.wal.inLog(), { records: 18, segments: 7 })
      yield* commits(ledger, opened, 1)
      yield* eventually("the segments go", () => segmentsOf(disk).length === 0)
      const handle = disk.inject({
        operation: "syncFull",
        path: memoryPath,
        fault: { kind: "lostSync" },
        times: Number.POSITIVE_INFINITY
      })
      yield* commits(ledger, opened, 40)
      assert.strictEqual(handle.hits, 1)
      assert.isUndefined(opened.log.ended())
      checkVisible(opened, ledger, "after the failure")
      yield* nothingIsLost(disk, ledger, "after the failure")
    }).pipe(quiet))

  it.effect("recovered records count", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 20)
      yield* opened.close
      const again = yield* openByHand(disk, { autoCheckpointFrames: 20 })
      yield* eventually("the segments go", () => segmentsOf(disk).length === 0)
      checkVisible(again, ledger, "after the checkpoint")
    }))

  it.effect("a reader that stays keeps the log, and is tried again without syncs for nothing", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open({ autoCheckpointFrames: 10 })
      yield* commits(ledger, opened, 1)
      yield* opened.wal.checkpoint("passive")
      const old = opened.log.openReader()
      const trace = disk.record()
      yield* commits(ledger, opened, 60)
      const onFile = trace.steps.filter((step) => step.path === memoryPath && step.kind === "syncFull").length
      trace.stop()
      assert.strictEqual(onFile, 0, "syncs of the database file although nothing could be copied")
      assert.isUndefined(ledger.differenceOf(old))
      assert.strictEqual(segmentsOf(disk).length, 60)
      old.release()
      yield* commits(ledger, opened, 10)
      yield* eventually("the segments go", () => segmentsOf(disk).length < 20)
      checkVisible(opened, ledger, "after the reader")
    }))

  it.live(
    "PG-06 files and memory stay bounded over 8,000 epochs, and the certificate log starts over",
    () =>
      Effect.gen(function*() {
        const disk = prepareDisk(MemoryDisk.make({ async: false }))
        const opened = yield* openByHand(disk, { autoCheckpointFrames: 200, control: { laneCount: 64 } })
        // In the last of many lanes, so that certificates are long.
        const writers = yield* Effect.all(Array.from({ length: 64 }, () => opened.wal.writer))
        const writer = writers.at(-1)
        if (writer === undefined) throw new Error("there are writers")
        let segments = 0
        let certificateBytes = 0
        let replaced = 0
        let id = 0n
        const run = (count: number) =>
          Effect.gen(function*() {
            for (let n = 0; n < count; n++) {
              yield* writer.submitBatch(batchOf(++id, { [2 + n % 3]: n }, 4))
              yield* opened.wal.advanceAndFlush()
              if (n % 50 !== 0) continue
              segments = Math.max(segments, segmentsOf(disk).length)
              const length = certificateHighs(disk).length
              if (length < certificateBytes) replaced++
              certificateBytes = length
            }
          })
        const heap = Effect.sync(() => {
          globalThis.gc?.()
          return process.memoryUsage().heapUsed
        })
        yield* run(2000)
        const before = yield* heap
        yield* run(6000)
        const grown = ((yield* heap) - before) / 2 ** 20
        assert.isTrue(segments <= 420, `${segments} segments`)
        assert.isTrue(replaced >= 2, `${replaced} times`)
        assert.isTrue((disk.readFile(certificates)?.length ?? 0) <= 1.3 * 2 ** 20)
        assert.isTrue(grown < 60, `the heap has grown by ${grown.toFixed(1)} MiB`)
        const { pages } = yield* readTip(opened.log)
        assert.strictEqual(pages.size, 4)
        assert.strictEqual(opened.wal.published(), toCommitSeq(8000n))
      }),
    60_000
  )
})

import { assert, describe, it } from "@effect/vitest"
import { PageSize, toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as References from "effect/References"
import { TestClock } from "effect/testing"
import type { CheckpointMode, SqliteWalOptions } from "../src/SqliteWal.ts"
import { walBasePath } from "../src/WalBaseFormat.ts"
import { Ledger } from "./support/ledger.ts"
import { filledPage, firstDifference, sameBytes } from "./support/pages.ts"
import { commit, memoryPath, type Opened, openMemory, prepareDisk, readTip } from "./support/sqliteWal.ts"

const pageSize = PageSize.make(512)
const walPath = `${memoryPath}-wal`
const insisting = ["full", "restart", "truncate"] as const

const open = (options: Partial<SqliteWalOptions> = {}, disk = prepareDisk(MemoryDisk.make())) =>
  Effect.map(
    openMemory(disk, { create: { pageSize }, autoCheckpointFrames: 0, ...options }),
    (opened) => ({ disk, opened, ledger: new Ledger(pageSize) })
  )

/** Pages of the database file, without the log. */
const filePages = (disk: MemoryDisk): ReadonlyArray<Uint8Array> => {
  const bytes = disk.readFile(memoryPath) ?? new Uint8Array(0)
  assert.strictEqual(bytes.length % pageSize, 0)
  return Array.from({ length: bytes.length / pageSize }, (_, n) => bytes.subarray(n * pageSize, (n + 1) * pageSize))
}

/** How the database file differs from a version. */
const fileDifference = (disk: MemoryDisk, ledger: Ledger, seq: bigint): string | undefined => {
  const pages = filePages(disk)
  return firstDifference(ledger.version(toCommitSeq(seq)), pages.length, (page) => pages[page - 1])
}

/** Turns of the event loop until a condition holds, so many at the most. */
const eventually = (what: string, isMet: () => boolean) =>
  Effect.gen(function*() {
    for (let turn = 0; turn < 10_000; turn++) {
      if (isMet()) return
      yield* Effect.yieldNow
    }
    assert.fail(`never: ${what}`)
  })

/** Turns enough for everything that does not wait for a clock or for somebody else. */
const settle = Effect.repeat(Effect.yieldNow, { times: 60 })

const commits = (ledger: Ledger, opened: Opened, count: number) =>
  Effect.forEach(
    Array.from({ length: count }),
    (_, n) =>
      ledger.commit(opened, {
        pages: [2 + n % 5],
        databasePages: Math.max(6, ledger.version(ledger.lastSeq).databasePages)
      }),
    { discard: true }
  )

describe("SqliteWal checkpoints", () => {
  it.effect("SWAL-07 the log is synced before pages are copied, ascending, and the file before the log starts over", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* ledger.commit(opened, { pages: [5, 3], databasePages: 6 })
      yield* ledger.commit(opened, { pages: [4, 3], databasePages: 6 })
      const trace = disk.record()
      const report = yield* opened.wal.checkpoint("restart")
      assert.deepStrictEqual(report, { mode: "restart", framesBefore: 9, framesCopied: 9, blocked: false })
      assert.isUndefined(fileDifference(disk, ledger, 2n))
      yield* ledger.commit(opened, { pages: [2], databasePages: 6 })
      trace.stop()
      const onFile = trace.steps.filter((step) => step.path === memoryPath)
      const positions = onFile.flatMap((step) => step.kind === "write" ? [step.position] : [])
      assert.deepStrictEqual(positions, positions.toSorted((a, b) => a - b))
      assert.deepStrictEqual(disk.unsynced.filter((what) => what.includes(`${memoryPath} `)), [])
      const lastSync = trace.steps.findLastIndex((step) => step.kind === "syncFull" && step.path === memoryPath)
      const lastWrite = trace.steps.findLastIndex((step) => step.kind === "write" && step.path === memoryPath)
      const firstOfLog = trace.steps.findIndex((step) => step.kind === "write" && step.path === walPath)
      assert.isTrue(lastWrite < lastSync && lastSync < firstOfLog, `${lastWrite} ${lastSync} ${firstOfLog}`)
    }))

  it.effect("SWAL-07 PASSIVE copies up to the oldest reader, waits for nobody, and goes on from there", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 3)
      const old = opened.log.openReader()
      yield* commits(ledger, opened, 2)
      const older = opened.wal.frames().inLog
      const first = yield* opened.wal.checkpoint("passive")
      assert.isFalse(first.blocked)
      assert.strictEqual(first.framesCopied, older - 4)
      assert.deepStrictEqual(opened.wal.frames(), { inLog: older, copied: older - 4 })
      assert.isUndefined(fileDifference(disk, ledger, 3n))
      assert.isUndefined(ledger.differenceOf(old))
      old.release()
      const trace = disk.record()
      assert.strictEqual((yield* opened.wal.checkpoint("passive")).framesCopied, older)
      const written = trace.steps.flatMap((step) => step.kind === "write" ? [step.bytes.length] : [])
      trace.stop()
      assert.strictEqual(written.reduce((sum, length) => sum + length, 0), 3 * pageSize, "only what was not copied")
      assert.isUndefined(fileDifference(disk, ledger, 5n))
      assert.strictEqual(opened.wal.frames().inLog, older, "the log stays")
    }))

  it.effect("SWAL-07 the database file ends at the committed size, also when it shrinks", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      for (const [seq, size] of [7, 3, 5, 1, 4, 2].entries()) {
        yield* ledger.commit(opened, { pages: [2], databasePages: size })
        if (seq % 2 === 0) yield* opened.wal.checkpoint(seq % 4 === 0 ? "passive" : "restart")
        if (seq % 2 === 0) assert.isUndefined(fileDifference(disk, ledger, BigInt(seq + 1)))
      }
      // An older reader of the longer database keeps the end of the file where it is.
      yield* ledger.commit(opened, { pages: [], databasePages: 9 })
      yield* opened.wal.checkpoint("truncate")
      const reader = opened.log.openReader()
      yield* ledger.commit(opened, { pages: [], databasePages: 2 })
      yield* opened.wal.checkpoint("passive")
      assert.strictEqual(filePages(disk).length, 9)
      assert.isUndefined(ledger.differenceOf(reader))
      reader.release()
      yield* opened.wal.checkpoint("passive")
      assert.strictEqual(filePages(disk).length, 2)
      // What was grown and cut off again in between is not written at all.
      yield* ledger.commit(opened, { pages: [], databasePages: 9 })
      yield* ledger.commit(opened, { pages: [], databasePages: 3 })
      const trace = disk.record()
      yield* opened.wal.checkpoint("passive")
      trace.stop()
      const ends = trace.steps.flatMap((step) => step.kind === "write" ? [step.position + step.bytes.length] : [])
      assert.deepStrictEqual(ends, [pageSize, 3 * pageSize])
    }))

  it.effect("SWAL-07 the last image of a page wins, over more pages than are copied at a time", () =>
    Effect.gen(function*() {
      const size = PageSize.make(65536)
      const disk = prepareDisk(MemoryDisk.make({ async: false }))
      const opened = yield* openMemory(disk, { create: { pageSize: size }, autoCheckpointFrames: 0 })
      const ledger = new Ledger(size)
      // 150 pages are more than two groups of 4 MiB.
      yield* ledger.commit(opened, { pages: [], databasePages: 150 })
      for (let n = 0; n < 5; n++) {
        yield* ledger.commit(opened, { pages: [2 + n * 7, 150 - n, 75], databasePages: 150 })
      }
      yield* opened.wal.checkpoint("truncate")
      const bytes = disk.readFile(memoryPath) ?? new Uint8Array(0)
      assert.isUndefined(firstDifference(
        ledger.version(toCommitSeq(6n)),
        bytes.length / size,
        (page) => bytes.subarray((page - 1) * size, page * size)
      ))
      assert.strictEqual(disk.readFile(walPath)?.length, 0)
    }))

  describe.each(insisting.map((mode) => ({ mode })))("SWAL-07 $mode", ({ mode }) => {
    it.effect("waits for older readers, holds commits up meanwhile, and copies everything when they have gone", () =>
      Effect.gen(function*() {
        const { disk, ledger, opened } = yield* open()
        yield* commits(ledger, opened, 2)
        const old = opened.log.openReader()
        yield* commits(ledger, opened, 1)
        const current = opened.log.openReader()
        const checkpoint = yield* Effect.forkChild(opened.wal.checkpoint(mode))
        yield* settle
        yield* TestClock.adjust("4 seconds")
        const waiting = yield* Effect.forkChild(ledger.commit(opened, { pages: [2], databasePages: 6 }))
        yield* TestClock.adjust("500 millis")
        assert.isUndefined(checkpoint.pollUnsafe())
        assert.isUndefined(waiting.pollUnsafe())
        assert.isUndefined(ledger.differenceOf(old))
        old.release()
        const report = yield* Fiber.join(checkpoint)
        assert.deepStrictEqual([report.blocked, report.framesCopied], [false, report.framesBefore])
        assert.isUndefined(ledger.differenceOf(current), "a reader of the tip is in nobody's way")
        assert.isUndefined(fileDifference(disk, ledger, 3n))
        current.release()
        yield* Fiber.join(waiting)
        assert.strictEqual(opened.wal.frames().inLog, (mode === "full" ? report.framesBefore : 0) + 2)
        yield* ledger.checkTip(opened, mode)
      }))

    it.effect("reports that readers stood in the way when the time is over, and lets commits go on", () =>
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
        const report = yield* Fiber.join(checkpoint)
        const { inLog } = opened.wal.frames()
        assert.deepStrictEqual(report, { mode, framesBefore: inLog, framesCopied: inLog - 2, blocked: true })
        assert.isUndefined(fileDifference(disk, ledger, 2n), "what the reader allows is copied")
        yield* commits(ledger, opened, 1)
        assert.isUndefined(ledger.differenceOf(old))
        old.release()
        const again = yield* opened.wal.checkpoint(mode)
        assert.strictEqual(again.blocked, false)
        yield* ledger.checkTip(opened, mode)
      }))

    it.effect("does nothing more when it is interrupted while it waits", () =>
      Effect.gen(function*() {
        const { ledger, opened } = yield* open()
        const old = opened.log.openReader()
        yield* commits(ledger, opened, 1)
        const checkpoint = yield* Effect.forkChild(opened.wal.checkpoint(mode))
        yield* settle
        yield* TestClock.adjust("1 seconds")
        yield* Fiber.interrupt(checkpoint)
        yield* commits(ledger, opened, 1)
        assert.isUndefined(ledger.differenceOf(old))
        old.release()
        assert.isFalse((yield* opened.wal.checkpoint(mode)).blocked)
        yield* ledger.checkTip(opened, mode)
      }))
  })

  it.effect("closing does not wait for a checkpoint that waits for readers, which touches nothing any more", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      const old = opened.log.openReader()
      yield* commits(ledger, opened, 1)
      const checkpoint = yield* Effect.forkChild(Effect.exit(opened.wal.checkpoint("truncate")))
      yield* settle
      const refused = yield* Effect.forkChild(Effect.flip(ledger.commit(opened, { pages: [2], databasePages: 6 })))
      yield* settle
      yield* opened.close
      assert.strictEqual((yield* Fiber.join(refused))._tag, "LogClosed")
      const trace = disk.record()
      old.release()
      assert.isTrue(Exit.isFailure(yield* Fiber.join(checkpoint)))
      assert.deepStrictEqual(trace.steps, [])
      trace.stop()
      const again = yield* openMemory(disk)
      yield* ledger.checkTip(again, "after the closing")
    }))

  it.effect("SWAL-07 TRUNCATE leaves an empty log and a sealed base, also of a log without a frame", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      for (const change of [true, false, true]) {
        if (change) yield* commits(ledger, opened, 2)
        yield* opened.wal.checkpoint("truncate")
        assert.strictEqual(disk.readFile(walPath)?.length, 0)
        assert.strictEqual(disk.readFile(walBasePath(memoryPath))?.[10], 1)
      }
      assert.deepStrictEqual(disk.unsynced, [])
      yield* commits(ledger, opened, 1)
      assert.strictEqual(disk.readFile(walBasePath(memoryPath))?.[10], 0, "unsealed before the commit is acknowledged")
    }))

  it.effect("CO-15 SWAL-07 a log that starts over still says what was recovered when it was opened", () =>
    Effect.gen(function*() {
      const first = yield* open()
      yield* commits(first.ledger, first.opened, 7)
      yield* first.opened.close
      const { ledger, opened } = yield* Effect.map(
        open({}, first.disk),
        ({ opened }) => ({ opened, ledger: first.ledger })
      )
      const recovered = Array.from(opened.log.recovered.pages())
      assert.strictEqual(new Map(recovered).get(toPageNumber(3)), toCommitSeq(7n))
      for (let generation = 0; generation < 3; generation++) {
        yield* opened.wal.checkpoint("restart")
        yield* commits(ledger, opened, 4)
        assert.deepStrictEqual(Array.from(opened.log.recovered.pages()), recovered)
      }
    }))

  it.effect("a page and its version name its bytes until the log says that it starts over", () =>
    Effect.gen(function*() {
      const { ledger, opened } = yield* open()
      yield* ledger.commit(opened, { pages: [2, 3], databasePages: 3 })
      yield* ledger.commit(opened, { pages: [3], databasePages: 3 })
      const heard: Array<ReadonlyArray<readonly [number, bigint]>> = []
      const reader = opened.log.openReader()
      opened.log.onRestart((versions) => {
        heard.push(Array.from(versions))
        // The old names are still good at this moment, and the database file is what they name.
        assert.strictEqual(reader.versionOf(toPageNumber(3)), toCommitSeq(2n))
      })
      yield* opened.wal.checkpoint("passive")
      yield* opened.wal.checkpoint("full")
      assert.deepStrictEqual(heard, [])
      yield* opened.wal.checkpoint("restart")
      assert.deepStrictEqual(heard, [[[1, 2n], [2, 1n], [3, 2n]]])
      assert.strictEqual(reader.versionOf(toPageNumber(3)), toCommitSeq(0n))
      reader.release()
      yield* opened.wal.checkpoint("restart")
      assert.strictEqual(heard.length, 1, "there was nothing to start over")
    }))
})

describe("SqliteWal automatic checkpoints", () => {
  const disk = () => prepareDisk(MemoryDisk.make())

  it.effect("PG-07 SWAL-07 at 1000 frames by default, and then an idle log starts over", () =>
    Effect.gen(function*() {
      const { ledger, opened } = yield* Effect.map(
        openMemory(disk(), { create: { pageSize } }),
        (log) => ({ opened: log, ledger: new Ledger(pageSize) })
      )
      yield* ledger.commit(opened, { pages: [], databasePages: 8 })
      // Two frames each; eight are there.
      yield* commits(ledger, opened, 495)
      assert.deepStrictEqual(opened.wal.frames(), { inLog: 998, copied: 0 })
      yield* commits(ledger, opened, 1)
      yield* eventually("the log starts over", () => opened.wal.frames().inLog === 0)
      yield* ledger.checkTip(opened, "after the checkpoint")
    }))

  it.effect("SWAL-07 under load the log starts over from restartFrames on, also while readers come and go", () =>
    Effect.gen(function*() {
      const { ledger, opened } = yield* open({ autoCheckpointFrames: 20, restartFrames: 60 })
      let highest = 0
      let generations = 0
      opened.log.onRestart(() => {
        generations++
      })
      let isDone = false
      const writer = commits(ledger, opened, 150)
      // Three readers whose snapshots overlap, so that at any moment somebody is a little behind.
      const reader = Effect.gen(function*() {
        while (!isDone) {
          const snapshot = opened.log.openReader()
          yield* Effect.repeat(Effect.yieldNow, { times: 20 })
          assert.isUndefined(ledger.differenceOf(snapshot))
          highest = Math.max(highest, opened.wal.frames().inLog)
          snapshot.release()
        }
      })
      const after = (turns: number) => Effect.andThen(Effect.repeat(Effect.yieldNow, { times: turns }), reader)
      yield* Effect.all([
        Effect.andThen(
          Effect.all([writer, writer, writer, writer], { concurrency: "unbounded" }),
          Effect.sync(() => {
            isDone = true
          })
        ),
        after(1),
        after(8),
        after(15)
      ], { concurrency: "unbounded" })
      assert.isTrue(generations >= 4, `${generations} generations`)
      assert.isTrue(highest < 200, `${highest} frames at the most`)
      yield* ledger.checkTip(opened, "after the load")
    }))

  it.effect("SWAL-07 a reader that stays keeps the log, and is tried again without syncs for nothing", () =>
    Effect.gen(function*() {
      const place = disk()
      const { ledger, opened } = yield* open({ autoCheckpointFrames: 10, restartFrames: 30 }, place)
      yield* commits(ledger, opened, 1)
      const old = opened.log.openReader()
      const trace = place.record()
      yield* commits(ledger, opened, 60)
      assert.isUndefined(ledger.differenceOf(old))
      assert.isTrue(opened.wal.frames().inLog > 100)
      const syncs = trace.steps.filter((step) => step.kind === "syncFull" || step.kind === "syncData")
      trace.stop()
      const onFile = syncs.filter((step) => step.path === memoryPath).length
      assert.isTrue(onFile <= 2, `${onFile} syncs of the database file although nothing more could be copied`)
      old.release()
      yield* commits(ledger, opened, 10)
      yield* eventually("the log starts over", () => opened.wal.frames().inLog < 20)
      yield* ledger.checkTip(opened, "after the reader")
    }))

  it.live("PG-06 memory and log stay bounded over 200,000 commits", () =>
    Effect.gen(function*() {
      const place = prepareDisk(MemoryDisk.make({ async: false }))
      const opened = yield* openMemory(place, { create: { pageSize } })
      const image = filledPage(pageSize, 2, 1)
      let last = opened.log.published().commitSeq
      yield* commit(opened.log, () => ({
        written: new Ledger(pageSize).version(last).pages,
        databasePages: 1
      }), {
        lastSeq: () => last,
        entered: (seq) => {
          last = seq
        }
      })
      let highest = 0
      const pages = Array.from({ length: 50 }, (_, n) => new Map([[2 + n, image]]))
      const writer = (number: number, count: number) =>
        Effect.gen(function*() {
          for (let n = 0; n < count; n++) {
            yield* commit(opened.log, () => ({ written: pages[(number + n) % 50] ?? new Map(), databasePages: 51 }), {
              lastSeq: () => last,
              entered: (seq) => {
                last = seq
              },
              maxPages: 1
            })
            if (n % 100 === 0) highest = Math.max(highest, opened.wal.frames().inLog)
          }
        })
      const run = (perWriter: number) =>
        Effect.forEach(Array.from({ length: 64 }), (_, number) => writer(number, perWriter), {
          concurrency: "unbounded",
          discard: true
        })
      const heap = Effect.sync(() => {
        globalThis.gc?.()
        return process.memoryUsage().heapUsed
      })
      yield* run(300)
      const before = yield* heap
      yield* run(2825)
      const grown = ((yield* heap) - before) / 2 ** 20
      assert.strictEqual(last, toCommitSeq(200_001n))
      assert.isTrue(highest <= 65_100, `${highest} frames`)
      assert.isTrue((place.readFile(walPath)?.length ?? 0) < 65_100 * 536 + 2 ** 21)
      // Without a collector that can be called there is garbage in it, but not 200,000 of anything.
      assert.isTrue(grown < 60, `the heap has grown by ${grown.toFixed(1)} MiB`)
      const { pages: found } = yield* readTip(opened.log)
      assert.isTrue(sameBytes(found.get(2) ?? new Uint8Array(0), image))
    }))
})

describe("SqliteWal checkpoints that fail", () => {
  const faults = [
    { name: "ENOSPC while writing", operation: "write", fault: { kind: "shortWrite", bytes: 700 } },
    { name: "EIO while writing", operation: "write", fault: { kind: "error", code: "EIO" } },
    { name: "a failed sync that loses what was written", operation: "syncFull", fault: { kind: "lostSync" } }
  ] as const

  it.effect.each(faults)("SWAL-07 $name: commits go on, nothing is copied again, reopening recovers", ({
    fault,
    operation
  }) =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 6)
      const handle = disk.inject({ operation, path: memoryPath, fault })
      const failed = yield* Effect.flip(opened.wal.checkpoint("passive"))
      assert.strictEqual(handle.hits, 1)
      assert.strictEqual(failed._tag, "CheckpointFailed")
      assert.strictEqual(opened.wal.frames().copied, 0)
      const trace = disk.record()
      for (const mode of ["passive", ...insisting] satisfies Array<CheckpointMode>) {
        assert.strictEqual((yield* Effect.flip(opened.wal.checkpoint(mode)))._tag, "CheckpointFailed")
        yield* commits(ledger, opened, 2)
      }
      yield* ledger.checkTip(opened, "after the failure")
      yield* opened.close
      assert.deepStrictEqual(trace.steps.filter((step) => step.path === memoryPath), [])
      trace.stop()
      for (const choice of ["lost", "kept", 1, 2, 3] as const) {
        const crashed = disk.afterCrash(choice)
        const again = yield* openMemory(crashed, { autoCheckpointFrames: 0 })
        assert.strictEqual(again.log.published().commitSeq, ledger.acknowledged)
        yield* ledger.checkTip(again, `${choice}`)
        yield* again.wal.checkpoint("truncate")
        assert.isUndefined(fileDifference(crashed, ledger, ledger.acknowledged))
        yield* again.close
      }
    }))

  it.effect("SWAL-07 an automatic checkpoint that fails stops, and no commit notices", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open({ autoCheckpointFrames: 8, restartFrames: 16 })
      const handle = disk.inject({
        operation: "syncFull",
        path: memoryPath,
        fault: { kind: "lostSync" },
        times: Number.POSITIVE_INFINITY
      })
      yield* commits(ledger, opened, 100)
      assert.strictEqual(handle.hits, 1)
      assert.isUndefined(opened.log.ended())
      assert.strictEqual(opened.wal.frames().copied, 0)
      yield* ledger.checkTip(opened, "after the failure")
    }).pipe(Effect.provideService(References.MinimumLogLevel, "None")))

  it.effect("SWAL-07 a base that cannot be written fails TRUNCATE alone; a log that cannot be cut is poisoned", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 3)
      disk.inject({ operation: "write", path: /\.tmp-wal-base/, fault: { kind: "error", code: "ENOSPC" } })
      assert.strictEqual((yield* Effect.flip(opened.wal.checkpoint("truncate")))._tag, "CheckpointFailed")
      assert.isUndefined(opened.log.ended())
      assert.isUndefined(fileDifference(disk, ledger, 3n))
      for (const choice of ["lost", "kept", 4] as const) {
        const again = yield* openMemory(disk.afterCrash(choice))
        assert.strictEqual(again.log.published().commitSeq, toCommitSeq(3n))
        yield* again.close
      }
      yield* commits(ledger, opened, 2)
      yield* opened.wal.checkpoint("truncate")
      yield* commits(ledger, opened, 2)
      disk.inject({ operation: "syncFull", path: walPath, fault: { kind: "lostSync" } })
      assert.strictEqual((yield* Effect.flip(opened.wal.checkpoint("truncate")))._tag, "CheckpointFailed")
      assert.strictEqual(opened.log.ended()?._tag, "WalPoisoned")
      assert.strictEqual((yield* Effect.flip(opened.wal.checkpoint("passive")))._tag, "WalPoisoned")
      yield* ledger.checkTip(opened, "what is committed can be read")
      yield* opened.close
      for (const choice of ["lost", "kept", 5] as const) {
        const again = yield* openMemory(disk.afterCrash(choice))
        assert.strictEqual(again.log.published().commitSeq, toCommitSeq(7n))
        yield* ledger.checkTip(again, `${choice}`)
        yield* again.close
      }
    }).pipe(Effect.provideService(References.MinimumLogLevel, "None")))

  it.effect("a closed log refuses checkpoints with LogClosed", () =>
    Effect.gen(function*() {
      const { ledger, opened } = yield* open()
      yield* commits(ledger, opened, 1)
      yield* opened.close
      for (const mode of ["passive", ...insisting] satisfies Array<CheckpointMode>) {
        assert.strictEqual((yield* Effect.flip(opened.wal.checkpoint(mode)))._tag, "LogClosed")
      }
    }))
})

/** Checkpoints of a native log: order on the disk, modes, readers, closing, the background. */
import { assert, describe, it } from "@effect/vitest"
import { toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as References from "effect/References"
import * as TestClock from "effect/testing/TestClock"
import { checkpointMarkPath } from "../src/CheckpointMarkFormat.ts"
import type { CheckpointMode } from "../src/SqliteWal.ts"
import { Ledger } from "./support/ledger.ts"
import { capsulesOf, commit, commits, openByHand, type Options, pageSize, slowDisk } from "./support/nativeLog.ts"
import { markOn, nothingIsLost, recover } from "./support/nativeRuns.ts"
import { checkVisible, fileDifference, settle, versionBytes } from "./support/parallelRuns.ts"
import { memoryPath, prepareDisk } from "./support/sqliteWal.ts"

const insisting = ["full", "restart", "truncate"] as const
const everyMode = ["passive", ...insisting] satisfies Array<CheckpointMode>
const quiet = Effect.provideService(References.MinimumLogLevel, "None")
const mark = checkpointMarkPath(memoryPath)

const open = (options: Options = {}, disk = slowDisk()) =>
  Effect.map(openByHand(disk, options), (opened) => ({ disk, opened, ledger: new Ledger(pageSize) }))

describe("NativeLog checkpoints", () => {
  it.effect.each(everyMode)(
    "CO-10 2.2: pages, then the mark, then the rest, each durable before the next (%s)",
    (mode) =>
      Effect.gen(function*() {
        const { disk, ledger, opened } = yield* open()
        yield* commits(ledger, opened, 3)
        const trace = disk.record()
        const report = yield* opened.native.checkpoint(mode)
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
        assert.isTrue(image >= 0 && image < synced && synced < named && named < marked && marked < removed)
        assert.strictEqual(header > removed, mode !== "passive", "the version bytes come last")
        assert.strictEqual(trace.steps.filter((step) => step.kind === "remove").length, 3)
        assert.deepStrictEqual(capsulesOf(disk), [])
        assert.deepStrictEqual(versionBytes(disk), mode === "passive" ? [3, 3] : [2, 2])
        assert.isUndefined(fileDifference(disk, ledger, 3n))
        assert.deepStrictEqual(opened.native.inLog(), { records: 0, capsules: 0 })
        assert.deepStrictEqual(markOn(disk), {
          kind: "native",
          through: toCommitSeq(3n),
          databasePages: 6
        })
        assert.deepStrictEqual(yield* opened.native.markers.verifyChain, { markers: 4 }, "the history stays")
        // And on it goes, with the version bytes first.
        yield* commits(ledger, opened, 1)
        assert.deepStrictEqual(versionBytes(disk.afterCrash("lost")), [3, 3])
        yield* nothingIsLost(disk, ledger, mode)
      })
  )

  it.effect("PG-03 PASSIVE copies up to the oldest reader, waits for nobody, and goes on from there", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 2)
      const old = opened.log.openReader()
      yield* commits(ledger, opened, 2)
      assert.deepStrictEqual(yield* opened.native.checkpoint("passive"), {
        mode: "passive",
        framesBefore: 12,
        framesCopied: 8,
        blocked: false
      })
      assert.deepStrictEqual(opened.native.inLog(), { records: 4, capsules: 2 })
      assert.isUndefined(fileDifference(disk, ledger, 2n))
      assert.strictEqual(markOn(disk).through, toCommitSeq(2n))
      const trace = disk.record()
      assert.strictEqual((yield* opened.native.checkpoint("passive")).framesCopied, 0)
      assert.deepStrictEqual(trace.steps, [], "nothing is done for nothing")
      trace.stop()
      assert.isUndefined(ledger.differenceOf(old))
      old.release()
      assert.strictEqual((yield* opened.native.checkpoint("passive")).framesCopied, 4)
      assert.isUndefined(fileDifference(disk, ledger, 4n))
      yield* nothingIsLost(disk, ledger, "passive")
    }))

  it.effect("SWAL-07 the last image of a page wins, and the database file ends at the committed size", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      for (const [index, size] of [7, 3, 5, 1, 4, 2].entries()) {
        yield* commit(ledger, opened, { pages: [2, 3], databasePages: 7 })
        yield* commit(ledger, opened, { pages: [2], databasePages: size })
        yield* opened.native.checkpoint(index % 2 === 0 ? "passive" : "truncate")
        assert.strictEqual(disk.readFile(memoryPath)?.length, size * pageSize)
        assert.isUndefined(fileDifference(disk, ledger, ledger.lastSeq))
        yield* nothingIsLost(disk, ledger, `${size} pages`)
      }
    }))

  it.effect("PG-03 who reads while a checkpoint runs sees what he saw, and who is told looks again", () =>
    Effect.gen(function*() {
      const { ledger, opened } = yield* open()
      yield* commits(ledger, opened, 3)
      const gone = new Map<number, bigint>()
      opened.log.onRestart((versions) => {
        for (const [page, seq] of versions) gone.set(page, seq)
      })
      const reader = opened.log.openReader()
      const reads = yield* Effect.forkChild(
        Effect.forEach(
          Array.from({ length: 20 }),
          () => Effect.map(ledger.checkTip(opened, "while it is checkpointed"), () => ledger.differenceOf(reader))
        )
      )
      yield* opened.native.checkpoint("passive")
      assert.deepStrictEqual(new Set(yield* Fiber.join(reads)), new Set([undefined]))
      assert.deepStrictEqual(gone, new Map([[1, 3n], [2, 1n], [3, 2n], [4, 3n], [5, 1n], [6, 1n]]))
      assert.strictEqual(reader.versionOf(toPageNumber(2)), toCommitSeq(0n))
      reader.release()
    }))

  describe.each(insisting)("%s", (mode) => {
    it.effect("waits for readers; commits wait in line and go on afterwards", () =>
      Effect.gen(function*() {
        const { disk, ledger, opened } = yield* open()
        yield* commits(ledger, opened, 2)
        const old = opened.log.openReader()
        yield* commits(ledger, opened, 1)
        const checkpoint = yield* Effect.forkChild(opened.native.checkpoint(mode))
        yield* settle
        const late = yield* Effect.forkChild(commits(ledger, opened, 1))
        yield* settle
        assert.isUndefined(checkpoint.pollUnsafe())
        assert.strictEqual(ledger.lastSeq, toCommitSeq(3n), "a commit is not handed over meanwhile")
        assert.isUndefined(ledger.differenceOf(old))
        old.release()
        assert.deepStrictEqual(yield* Fiber.join(checkpoint), {
          mode,
          framesBefore: 10,
          framesCopied: 10,
          blocked: false
        })
        yield* Fiber.join(late)
        assert.deepStrictEqual(checkVisible(opened, ledger, mode), { visible: toCommitSeq(4n), tip: toCommitSeq(4n) })
        assert.deepStrictEqual(versionBytes(disk), [3, 3])
        yield* nothingIsLost(disk, ledger, mode)
      }))

    it.effect("says that readers stood in the way when the time is over, lets nobody in, and commits go on", () =>
      Effect.gen(function*() {
        const { disk, ledger, opened } = yield* open()
        yield* commits(ledger, opened, 2)
        const old = opened.log.openReader()
        yield* commits(ledger, opened, 1)
        const checkpoint = yield* Effect.forkChild(opened.native.checkpoint(mode, { busyTimeout: "3 seconds" }))
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
        yield* commits(ledger, opened, 1)
        assert.isUndefined(ledger.differenceOf(old))
        old.release()
        assert.isFalse((yield* opened.native.checkpoint(mode)).blocked)
        assert.deepStrictEqual(versionBytes(disk), [2, 2])
        assert.isUndefined(fileDifference(disk, ledger, 4n))
      }))

    it.effect("closing does not wait for a checkpoint that waits for readers, which touches nothing any more", () =>
      Effect.gen(function*() {
        for (const checkpointOnClose of [true, false]) {
          const { disk, ledger, opened } = yield* open({ checkpointOnClose })
          yield* commits(ledger, opened, 1)
          const old = opened.log.openReader()
          yield* commits(ledger, opened, 1)
          const checkpoint = yield* Effect.forkChild(Effect.flip(opened.native.checkpoint(mode)))
          const queued = yield* Effect.forkChild(Effect.flip(opened.native.checkpoint("passive")))
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
      const checkpoint = yield* Effect.forkChild(opened.native.checkpoint("passive"))
      yield* held.reached
      const closing = yield* Effect.forkChild(opened.close)
      yield* settle
      assert.isUndefined(closing.pollUnsafe())
      yield* held.release
      yield* Fiber.join(closing)
      assert.strictEqual((yield* Fiber.join(checkpoint)).framesCopied, 8)
      assert.deepStrictEqual(capsulesOf(disk), [])
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
        assert.strictEqual(capsulesOf(disk).length, isAlone ? 0 : 3)
        if (isAlone) assert.isUndefined(fileDifference(disk, ledger, 3n))
        yield* nothingIsLost(disk, ledger, "closed")
        reader?.release()
      }
    }))

  it.effect("closing without a new commit lets stock SQLite in too, where a crash has kept it out", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 1)
      yield* opened.native.checkpoint("passive")
      disk.crash("lost")
      assert.deepStrictEqual(versionBytes(disk), [3, 3])
      yield* Effect.scoped(openByHand(disk, { checkpointOnClose: true }))
      assert.deepStrictEqual(versionBytes(disk.afterCrash("lost")), [2, 2])
      assert.isUndefined(fileDifference(disk, ledger, 1n))
    }))

  it.effect("SWAL-08 a checkpoint that is interrupted at any of its steps loses nothing and can be run again", () =>
    Effect.gen(function*() {
      for (const mode of ["passive", "full"] as const) {
        for (let turns = 0; turns < 50; turns += 1) {
          const { disk, ledger, opened } = yield* open()
          yield* commits(ledger, opened, 3)
          const checkpoint = yield* Effect.forkChild(opened.native.checkpoint(mode))
          yield* Effect.repeat(Effect.yieldNow, { times: turns })
          yield* Fiber.interrupt(checkpoint)
          const label = `${mode}, interrupted after ${turns} turns`
          checkVisible(opened, ledger, label)
          yield* commits(ledger, opened, 1)
          assert.deepStrictEqual(versionBytes(disk.afterCrash("lost")), [3, 3], label)
          yield* recover(disk.afterCrash("lost"), ledger, label)
          yield* opened.native.checkpoint(mode)
          assert.isUndefined(fileDifference(disk, ledger, 4n), label)
          assert.deepStrictEqual(capsulesOf(disk), [], label)
          yield* opened.close
        }
      }
    }))

  it.effect("a closed log refuses checkpoints", () =>
    Effect.gen(function*() {
      const { opened } = yield* open()
      yield* opened.close
      for (const mode of everyMode) {
        assert.strictEqual((yield* Effect.flip(opened.native.checkpoint(mode)))._tag, "LogClosed")
      }
    }))
})

describe("NativeLog checkpoints that fail", () => {
  const faults = [
    { name: "ENOSPC while writing", operation: "write", path: memoryPath, fault: { kind: "shortWrite", bytes: 700 } },
    {
      name: "a failed sync that loses what was written",
      operation: "syncFull",
      path: memoryPath,
      fault: { kind: "lostSync" }
    },
    {
      name: "a capsule that cannot be read",
      operation: "read",
      path: /capsules/,
      fault: { kind: "error", code: "EIO" }
    }
  ] as const

  it.effect.each(faults)("GC-07 $name: commits go on, the database file is left alone, reopening recovers", ({
    fault,
    operation,
    path
  }) =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open({ checkpointOnClose: true })
      yield* commits(ledger, opened, 6)
      const handle = disk.inject({ operation, path, fault })
      const failed = yield* Effect.flip(opened.native.checkpoint("passive"))
      assert.strictEqual(handle.hits, 1)
      assert.strictEqual(failed._tag, "CheckpointFailed")
      assert.strictEqual(capsulesOf(disk).length, 6)
      const trace = disk.record()
      for (const mode of everyMode) {
        assert.strictEqual((yield* Effect.flip(opened.native.checkpoint(mode)))._tag, "CheckpointFailed")
        yield* commits(ledger, opened, 2)
      }
      checkVisible(opened, ledger, "after the failure")
      yield* opened.close
      assert.deepStrictEqual(trace.steps.filter((step) => step.path === memoryPath), [])
      trace.stop()
      yield* nothingIsLost(disk, ledger, "after the failure")
      const again = yield* openByHand(disk)
      yield* again.native.checkpoint("truncate")
      assert.isUndefined(fileDifference(disk.afterCrash("lost"), ledger, ledger.acknowledged))
    }).pipe(quiet))

  it.effect.each(["write", "syncFull", "rename", "syncDirectory"] as const)(
    "a mark whose %s fails costs nothing, and the next checkpoint writes it",
    (operation) =>
      Effect.gen(function*() {
        const { disk, ledger, opened } = yield* open()
        yield* commits(ledger, opened, 3)
        disk.inject({
          operation,
          path: operation === "syncDirectory" ? `${memoryPath}.fsqlite` : /\.tmp-checkpoint/,
          fault: { kind: "error", code: "ENOSPC" }
        })
        assert.strictEqual((yield* Effect.flip(opened.native.checkpoint("passive")))._tag, "CheckpointFailed")
        assert.strictEqual(capsulesOf(disk).length, 3)
        checkVisible(opened, ledger, operation)
        yield* nothingIsLost(disk, ledger, operation)
        yield* commits(ledger, opened, 1)
        yield* opened.native.checkpoint("full")
        assert.deepStrictEqual(capsulesOf(disk), [])
        assert.isUndefined(fileDifference(disk, ledger, 4n))
      })
  )

  it.effect("RC-21 a capsule that cannot be removed is removed after the next copy, or by the next start", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 2)
      const handle = disk.inject({
        operation: "remove",
        path: /capsules/,
        times: 2,
        fault: { kind: "error", code: "EBUSY" }
      })
      yield* opened.native.checkpoint("passive")
      assert.strictEqual(handle.hits, 2)
      assert.strictEqual(capsulesOf(disk).length, 2)
      const killed = disk.afterCrash("kept")
      yield* Effect.scoped(Effect.map(openByHand(killed), (again) => {
        assert.include(again.native.startUp.cases, "RC-21")
        assert.strictEqual(checkVisible(again, ledger, "left over").visible, toCommitSeq(2n))
      }))
      assert.deepStrictEqual(capsulesOf(killed), [])
      yield* opened.native.checkpoint("passive")
      assert.deepStrictEqual(capsulesOf(disk), [])
    }).pipe(quiet))
})

describe("NativeLog automatic checkpoints", () => {
  it.effect("PG-07 from so many pages on, and what fails stops them and no commit notices", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open({ autoCheckpointFrames: 20, maxSpareBytes: 0 })
      yield* commits(ledger, opened, 7)
      assert.deepStrictEqual(opened.native.inLog(), { records: 18, capsules: 7 })
      yield* commits(ledger, opened, 1)
      yield* settle
      assert.deepStrictEqual(capsulesOf(disk), [])
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

  it.effect("PG-07 recovered pages count", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 20)
      yield* opened.close
      const again = yield* openByHand(disk, { autoCheckpointFrames: 20, maxSpareBytes: 0 })
      yield* settle
      assert.deepStrictEqual(capsulesOf(disk), [])
      checkVisible(again, ledger, "after the checkpoint")
    }))

  /** Every commit of it is two images from then on, and nothing is in the log. */
  const openSteady = (autoCheckpointFrames: number) =>
    Effect.gen(function*() {
      const { disk, ledger, opened: first } = yield* open()
      const change = { pages: [2, 3], databasePages: 4 }
      yield* commit(ledger, first, change)
      yield* first.native.checkpoint("full")
      yield* first.close
      const opened = yield* openByHand(disk, { autoCheckpointFrames })
      return { disk, ledger, opened, write: commit(ledger, opened, change) }
    })

  it.effect("PG-06 the background keeps the files of capsules for the next commits; who asks, and closing, let them go", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened, write } = yield* openSteady(2)
      yield* write
      yield* settle
      assert.strictEqual(opened.native.inLog().capsules, 0)
      assert.strictEqual(capsulesOf(disk).length, 1)
      const trace = disk.record()
      yield* write
      yield* settle
      trace.stop()
      assert.isFalse(trace.steps.some(({ kind, path }) => kind === "create" && path.includes("/capsules/")))
      assert.strictEqual(capsulesOf(disk).length, 1)
      // A kill leaves them to the next start.
      const killed = disk.afterCrash("kept")
      yield* recover(killed, ledger, "killed")
      assert.deepStrictEqual(capsulesOf(killed), [])
      yield* opened.native.checkpoint("passive")
      assert.deepStrictEqual(capsulesOf(disk), [])
      yield* write
      yield* settle
      assert.strictEqual(capsulesOf(disk).length, 1)
      yield* opened.close
      assert.deepStrictEqual(capsulesOf(disk), [])
      yield* nothingIsLost(disk, ledger, "closed")
    }))

  it.effect("PG-06 a page that was on its way while its capsule's file was given to another commit is read again", () =>
    Effect.gen(function*() {
      const { disk, opened, write } = yield* openSteady(4)
      yield* write
      const reader = opened.log.openReader()
      const before = reader.readSync(toPageNumber(2))
      const [path] = capsulesOf(disk)
      const held = disk.hold({ operation: "read", path: path ?? "" })
      const reading = yield* Effect.forkChild(reader.read(toPageNumber(2)))
      yield* held.reached
      // The second capsule makes a checkpoint due, which passes the first; the third takes its file.
      yield* write
      yield* settle
      assert.strictEqual(opened.native.inLog().capsules, 1)
      yield* write
      assert.notInclude(capsulesOf(disk), path)
      yield* held.release
      assert.deepStrictEqual(yield* Fiber.join(reading), before)
      reader.release()
    }))

  it.live("PG-06 files and memory stay bounded over 3,000 commits", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open(
        { autoCheckpointFrames: 200 },
        prepareDisk(MemoryDisk.make({ async: false }))
      )
      let most = 0
      const run = (count: number) =>
        Effect.gen(function*() {
          for (let n = 0; n < count; n++) {
            yield* commit(ledger, opened, { pages: [2 + n % 3], databasePages: 4 })
            ledger.versions.delete(toCommitSeq(ledger.lastSeq - 1n))
            if (n % 50 === 0) most = Math.max(most, capsulesOf(disk).length)
          }
        })
      const heap = Effect.sync(() => {
        globalThis.gc?.()
        return process.memoryUsage().heapUsed
      })
      yield* run(1000)
      const before = yield* heap
      yield* run(2000)
      const grown = ((yield* heap) - before) / 2 ** 20
      assert.isTrue(most <= 420, `${most} capsules`)
      assert.isTrue(grown < 60, `the heap has grown by ${grown.toFixed(1)} MiB`)
      assert.strictEqual(opened.log.published().commitSeq, toCommitSeq(3000n))
    }), 30_000)
})

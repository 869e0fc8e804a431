/**
 * Opening an append log when something is in the way: each operation of it fails once, or it is interrupted at any of
 * its steps. Whatever happened, nothing is left behind (no descriptor, no lock), nothing of the log is lost, and the same
 * process may simply try again.
 */
import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import { FileLock } from "@tidemark/platform/FileLock"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsOperation } from "@tidemark/platform/VfsError"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { AppendLogOptions } from "../src/AppendLog.ts"
import { AppendLog } from "../src/AppendLog.ts"
import { preparedSegmentName } from "../src/AppendLogFormat.ts"
import { type Log, memoryDirectory, numberOf, payloadOf, readAll } from "./support/appendLog.ts"
import { outcomeOf, settle } from "./support/engine.ts"

const numbers = (log: Log) => Effect.map(readAll(log), (records) => records.map(({ payload }) => numberOf(payload)))

/** One process on a disk that opens logs again and again, and counts the descriptors and locks that it has. */
const processOn = Effect.fnUntraced(function*(disk: MemoryDisk) {
  const context = yield* Layer.build(Layer.fresh(MemoryVfs.layerDisk(disk)))
  const vfs = Context.get(context, Vfs)
  const locks = Context.get(context, FileLock)
  const open = { files: 0, locks: 0, most: 0 }
  const count = (what: "files" | "locks") =>
    Effect.acquireRelease(
      Effect.sync(() => {
        open[what]++
        open.most = Math.max(open.most, open.files)
      }),
      () =>
        Effect.sync(() => {
          open[what]--
        })
    )
  const counting = context.pipe(
    Context.add(Vfs, Vfs.of({ ...vfs, open: (path, how) => Effect.tap(vfs.open(path, how), () => count("files")) })),
    Context.add(
      FileLock,
      FileLock.of({ ...locks, acquire: (path, how) => Effect.tap(locks.acquire(path, how), () => count("locks")) })
    )
  )
  const openLog = Effect.fnUntraced(function*(options: Partial<AppendLogOptions> = {}) {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const log = yield* AppendLog.open({ directory: memoryDirectory, segmentBytes: 400, ...options }).pipe(
      Scope.provide(scope),
      Effect.provideContext(counting)
    )
    return { log, close: Scope.close(scope, Exit.void) }
  })
  /** The scope of the caller goes on: what is let go of, the opening has let go of. */
  const tryOpen = (options: Partial<AppendLogOptions> = {}) =>
    outcomeOf(Effect.flatMap(openLog(options), ({ close }) => close))
  return { openLog, tryOpen, open }
})

/** A disk with nothing on it, one with a log, and one with all that recovery has to do with. */
const situations: ReadonlyArray<
  readonly [string, Effect.Effect<{ readonly disk: MemoryDisk; readonly held: ReadonlyArray<number> }>]
> = [
  ["a new log", Effect.sync(() => ({ disk: MemoryDisk.make(), held: [] }))],
  [
    "a log with a torn tail, a prepared file and an unsynced batch",
    Effect.scoped(Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { openLog } = yield* processOn(disk)
      const { log } = yield* openLog({ segmentBytes: 30_000 })
      for (let number = 0; number < 40; number++) yield* log.append(payloadOf(number, 90))
      yield* log.append(payloadOf(40, 1200), { until: "written" })
      yield* log.append(payloadOf(41, 1200), { until: "written" })
      const after = disk.afterCrash({
        contents: ({ path, position }) => !path.endsWith(".tlog") || Math.floor(position / 512) % 2 === 0,
        sizes: "kept",
        names: "kept"
      })
      after.writeFile(`${memoryDirectory}/${preparedSegmentName(77n)}`, new Uint8Array(900).fill(7))
      yield* Effect.scoped(Effect.gen(function*() {
        const { log: torn } = yield* (yield* processOn(after.afterCrash("kept"))).openLog()
        assert.isTrue(torn.recovery.droppedBytes > 500)
        assert.deepStrictEqual(torn.recovery.cases, ["RC-12", "RC-25"])
      }))
      return { disk: after, held: [...Array(40).keys()] }
    })).pipe(Effect.orDie)
  ]
]

const operations: ReadonlyArray<VfsOperation> = [
  "open",
  "read",
  "write",
  "truncate",
  "size",
  "syncData",
  "syncFull",
  "rename",
  "remove",
  "list",
  "makeDirectory",
  "syncDirectory",
  "identify"
]

describe("AppendLog, opening", () => {
  it.effect.each(situations)(
    "LOG-06 LOG-10 %s: every operation fails once, and it is opened at the second try",
    ([, make]) =>
      Effect.gen(function*() {
        let struck = 0
        for (const operation of operations) {
          for (let skip = 0;; skip++) {
            const { disk, held } = yield* make
            const label = `${operation} number ${skip}`
            const process = yield* processOn(disk)
            const fault = disk.inject({ operation, skip, fault: { kind: "error", code: "EIO" } })
            const outcome = yield* process.tryOpen()
            assert.deepInclude(process.open, { files: 0, locks: 0 }, label)
            if (fault.hits === 0) {
              fault.remove()
              assert.strictEqual(outcome, "success", label)
              break
            }
            struck++
            if (outcome !== "success") assert.strictEqual(outcome, "VfsError", label)
            const { close, log } = yield* process.openLog()
            assert.deepStrictEqual(yield* numbers(log), held, label)
            yield* log.append(payloadOf(100))
            assert.deepStrictEqual(yield* numbers(log), [...held, 100], label)
            yield* close
            assert.deepInclude(process.open, { files: 0, locks: 0 }, label)
          }
        }
        assert.isTrue(struck >= 10, `${struck} faults`)
      })
  )

  it.effect.each(situations)("LOG-10 %s: interrupted at every step", ([, make]) =>
    Effect.gen(function*() {
      let interrupted = 0
      for (let steps = 0;; steps++) {
        const { disk, held } = yield* make
        const label = `after ${steps} turns`
        const process = yield* processOn(disk)
        const opening = yield* Effect.forkChild(Effect.scoped(process.openLog()), { startImmediately: true })
        yield* Effect.repeat(Effect.yieldNow, { times: steps })
        yield* Fiber.interrupt(opening)
        const exit = yield* Fiber.await(opening)
        assert.deepInclude(process.open, { files: 0, locks: 0 }, label)
        const { close, log } = yield* process.openLog()
        assert.deepStrictEqual(yield* numbers(log), held, label)
        yield* close
        if (Exit.isSuccess(exit)) break
        interrupted++
      }
      assert.isTrue(interrupted > 10, `${interrupted} interruptions`)
    }))

  it.effect("LOG-10 LOG-05 refused and refused again: nothing is kept open, and the holder is not disturbed", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const one = yield* processOn(disk)
      const other = yield* processOn(disk)
      const first = yield* one.openLog()
      for (let number = 0; number < 20; number++) {
        assert.strictEqual(yield* other.tryOpen(), "LogLocked")
        assert.strictEqual(yield* one.tryOpen(), "LogLocked", "also in the same process")
        yield* first.log.append(payloadOf(number))
      }
      assert.deepInclude(other.open, { files: 0, locks: 0 })
      yield* first.close
      const path = `${memoryDirectory}/0000000000000000.tlog`
      const whole = disk.readFile(path) ?? new Uint8Array(0)
      const broken = whole.slice()
      broken[80] = 255
      disk.writeFile(path, broken)
      const before = disk.files.map((file) => disk.readFile(file))
      for (let time = 0; time < 3; time++) assert.strictEqual(yield* other.tryOpen(), "LogCorrupt")
      assert.deepStrictEqual(disk.files.map((file) => disk.readFile(file)), before, "nothing was changed")
      assert.deepInclude(other.open, { files: 0, locks: 0 })
      disk.writeFile(path, whole)
      const again = yield* other.openLog()
      assert.deepStrictEqual(yield* numbers(again.log), [...Array(20).keys()])
    }))

  it.effect("LOG-12 descriptors: one for the segment that is written, one for the one that is prepared, one for each reader", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const process = yield* processOn(disk)
      const { close, log } = yield* process.openLog()
      for (let number = 0; number < 100; number++) yield* log.append(payloadOf(number, 30))
      yield* settle
      assert.isTrue(process.open.files <= 2 && process.open.most <= 3, JSON.stringify(process.open))
      for (let time = 0; time < 20; time++) {
        // Readers that end, that fail, that are cut off and that are interrupted.
        yield* readAll(log)
        yield* Stream.runDrain(Stream.take(log.stream(), 30))
        yield* Effect.exit(log.read(toLsn(4)))
        yield* log.read(toLsn(0))
        yield* Effect.exit(
          Stream.runForEach(log.stream(), ({ start }) => start > 600 ? Effect.fail("enough") : Effect.void)
        )
        const follower = yield* Effect.forkChild(Stream.runDrain(log.stream({ follow: true })), {
          startImmediately: true
        })
        yield* Effect.repeat(Effect.yieldNow, { times: time })
        yield* Fiber.interrupt(follower)
        disk.inject({ operation: "read", skip: time % 5, fault: { kind: "error", code: "EIO" } })
        assert.strictEqual(yield* outcomeOf(readAll(log)), "VfsError")
        disk.inject({ operation: "open", skip: time % 5, fault: { kind: "error", code: "EMFILE" } })
        assert.strictEqual(yield* outcomeOf(readAll(log)), "VfsError")
      }
      assert.isTrue(process.open.files <= 2, JSON.stringify(process.open))
      yield* log.truncateBefore(log.watermarks().reserved)
      yield* settle
      assert.isTrue(process.open.files <= 2, JSON.stringify(process.open))
      yield* close
      assert.deepInclude(process.open, { files: 0, locks: 0 })
    }))

  it.effect("GC-08 a poisoned log gives its descriptors and its lock back when it closes", () =>
    Effect.gen(function*() {
      for (
        const operation of ["write", "syncData", "syncFull", "rename", "syncDirectory", "open", "truncate"] as const
      ) {
        for (let skip = 0; skip < 6; skip++) {
          const disk = MemoryDisk.make()
          const process = yield* processOn(disk)
          const { close, log } = yield* process.openLog()
          // For ever: also what is tried in between, and what is tried instead.
          const fault = disk.inject({ operation, skip, times: Infinity, fault: { kind: "error", code: "EIO" } })
          const acknowledged: Array<number> = []
          yield* Effect.exit(
            Effect.forEach([...Array(60).keys()], (number) =>
              Effect.map(log.append(payloadOf(number, 60)), () => {
                acknowledged.push(number)
              }))
          )
          assert.strictEqual(log.ended()?._tag, "WalPoisoned", `${operation} ${skip}`)
          yield* close
          assert.deepInclude(process.open, { files: 0, locks: 0 }, `${operation} ${skip}`)
          fault.remove()
          const again = yield* process.openLog()
          assert.includeMembers(yield* numbers(again.log), acknowledged, `${operation} ${skip}`)
          yield* again.close
        }
      }
    }))
})

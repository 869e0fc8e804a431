/** What a log does when it closes, or is poisoned, while it does something else. */
import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { AppendLog } from "../src/AppendLog.ts"
import { type Log, memoryDirectory, numberOf, openMemory, payloadOf, readAll } from "./support/appendLog.ts"
import { outcomeOf, settle } from "./support/engine.ts"

const isSegment = /\.tlog$/
const numbers = (log: Log) => Effect.map(readAll(log), (records) => records.map(({ payload }) => numberOf(payload)))
const appendNumbers = (log: Log, count: number, from = 0) =>
  Effect.forEach(Array.from({ length: count }, (_, at) => from + at), (number) => log.append(payloadOf(number, 30)))

describe("AppendLog, poison and closing", () => {
  it.effect("GC-07 a sync of zeros that fails late: nothing is acknowledged that it may have taken with it", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const context = yield* Layer.build(Layer.fresh(MemoryVfs.layerDisk(disk)))
      const vfs = Context.get(context, Vfs)
      const told = yield* Deferred.make<void>()
      const lost = yield* Deferred.make<void>()
      let opened = 0
      // The news of a failed sync of the zeros comes late: a pool of threads promises no order.
      const late = Vfs.of({
        ...vfs,
        open: (path, how) =>
          Effect.map(vfs.open(path, how), (file) => {
            if (!isSegment.test(path) || how.access === "read" || opened++ === 0) return file
            const wait = Effect.andThen(Deferred.succeed(lost, undefined), Deferred.await(told))
            return { ...file, syncData: Effect.onError(file.syncData, () => wait) }
          })
      })
      const log = yield* AppendLog.open({
        directory: memoryDirectory,
        segmentBytes: 100_000,
        preallocateBytes: 1000
      }).pipe(Effect.provideContext(Context.add(context, Vfs, late)))
      const opening = disk.hold({ operation: "open", path: isSegment })
      yield* log.append(payloadOf(1))
      yield* log.append(payloadOf(2, 600))
      yield* opening.reached
      // A record is written and about to be synced.
      const syncing = disk.hold({ operation: "syncData", path: isSegment })
      const writer = yield* Effect.forkChild(outcomeOf(log.append(payloadOf(3))), { startImmediately: true })
      yield* syncing.reached
      // The sync of the zeros fails and takes the record with it; then the sync of the record finds nothing to do.
      disk.inject({ operation: "syncData", path: isSegment, fault: { kind: "lostSync" } })
      yield* opening.release
      yield* Deferred.await(lost)
      yield* syncing.release
      yield* Effect.repeat(settle, { times: 3 })
      yield* Deferred.succeed(told, undefined)
      const outcome = yield* Fiber.join(writer)
      const second = yield* openMemory(disk.afterCrash("lost"))
      if (outcome === "success") assert.include(yield* numbers(second.log), 3)
      else assert.strictEqual(outcome, "WalPoisoned")
    }))

  it.effect("LOG-08 LOG-10 a log that closes while it truncates has ended to truncate before it lets go of its lock", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const context = yield* Layer.build(Layer.fresh(MemoryVfs.layerDisk(disk)))
      const scope = yield* Scope.make()
      const options = { directory: memoryDirectory, segmentBytes: 300 }
      const first = yield* AppendLog.open(options).pipe(Scope.provide(scope), Effect.provideContext(context))
      yield* appendNumbers(first, 30)
      const hold = disk.hold({ operation: "remove", skip: 1, path: isSegment })
      const truncating = yield* Effect.forkChild(outcomeOf(first.truncateBefore(toLsn(800))), {
        startImmediately: true
      })
      yield* hold.reached
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* Effect.repeat(settle, { times: 3 })
      const second = yield* Effect.exit(AppendLog.open(options).pipe(Effect.provideContext(context)))
      yield* hold.release
      yield* Fiber.join(truncating)
      yield* Fiber.join(closing)
      // Either the second waits its turn (LogLocked), or what it has found stays where it is.
      if (Exit.isSuccess(second)) assert.strictEqual(yield* outcomeOf(readAll(second.value)), "success")
    }))

  it.effect("GC-08 a leader on its way to a new segment stops when the log is poisoned; no failed sync is tried again", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 300 })
      yield* appendNumbers(log, 10)
      yield* settle
      const hold = disk.hold({ operation: "syncFull", path: /\.tmp-segment/ })
      const writer = yield* Effect.forkChild(Effect.exit(appendNumbers(log, 10, 100)), { startImmediately: true })
      yield* hold.reached
      disk.inject({ operation: "syncDirectory", fault: { kind: "error", code: "EIO" } })
      assert.strictEqual(yield* outcomeOf(log.truncateBefore(toLsn(300))), "WalPoisoned")
      const trace = disk.record()
      yield* hold.release
      yield* Fiber.await(writer)
      yield* Effect.repeat(settle, { times: 5 })
      trace.stop()
      assert.deepStrictEqual(trace.steps.map(({ kind }) => kind), ["syncFull"], "the one under way, and no more")
    }))

  it.effect("GC-08 a truncation stops when the log is poisoned", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { log } = yield* openMemory(disk, { segmentBytes: 300 })
      yield* appendNumbers(log, 30)
      yield* settle
      const hold = disk.hold({ operation: "remove", path: isSegment })
      const truncating = yield* Effect.forkChild(outcomeOf(log.truncateBefore(toLsn(1300))), { startImmediately: true })
      yield* hold.reached
      disk.inject({ operation: "write", path: isSegment, fault: { kind: "error", code: "EIO" } })
      assert.strictEqual(yield* outcomeOf(log.append(payloadOf(1))), "WalPoisoned")
      const trace = disk.record()
      yield* hold.release
      yield* Fiber.join(truncating)
      trace.stop()
      const removed = trace.steps.filter(({ kind }) => kind === "remove")
      assert.strictEqual(removed.length, 1, "the one under way, and no more")
    }))
})

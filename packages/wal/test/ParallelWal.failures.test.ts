/** What fails under a parallel WAL, who is told what, and what is left on the disk. */
import { assert, describe, it } from "@effect/vitest"
import { toCommitSeq } from "@tidemark/core/Scalars"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Cause, Deferred, Effect, Exit, Fiber, Layer } from "effect"
import { TestClock } from "effect/testing"
import { certificatesPath } from "../src/CertificateFormat.ts"
import * as LogMetrics from "../src/LogMetrics.ts"
import { outcomeOf, settle } from "./support/engine.ts"
import {
  batchOf,
  byHand,
  emptyDisk,
  handOver,
  isWaiting,
  ofLog,
  openByHand,
  openParallelOn,
  ownMetrics,
  recording,
  segmentsOn,
  slowDisk,
  stampOf
} from "./support/parallelWal.ts"
import { memoryPath } from "./support/sqliteWal.ts"

const certificates = certificatesPath(memoryPath)
const ofAttempt = (attempt: number) => new RegExp(`-wal-seg-[0-9a-f]+\\.tmp-${attempt}$`)
const anySegment = /-wal-seg-/

/** Everything that can go wrong with one attempt to write a segment. */
const attemptFaults = [
  { step: "open", path: ofAttempt(1) },
  { step: "write", path: ofAttempt(1) },
  { step: "syncData", path: ofAttempt(1) },
  { step: "rename", path: ofAttempt(1) },
  { step: "syncDirectory", path: "/data" }
] as const

describe("ParallelWal: an epoch that cannot be written", () => {
  it.effect.each(attemptFaults)(
    "PW-15 a failed $step: the same batches under the next attempt, no later epoch meanwhile",
    ({ path, step }) =>
      ownMetrics(Effect.gen(function*() {
        const disk = emptyDisk()
        const { close, log, wal } = yield* openByHand(disk)
        const writer = yield* wal.writer
        yield* wal.advanceAndFlush()
        const first = yield* writer.submitBatch(batchOf(1, { 2: 11 }))
        const fault = disk.inject({ operation: step, path, fault: { kind: "error", code: "EIO" } })
        assert.isFalse(yield* wal.advanceAndFlush())
        assert.strictEqual(fault.hits, 1)
        assert.strictEqual((yield* ofLog(LogMetrics.segmentWriteFailures)).count, 1)
        assert.deepStrictEqual(segmentsOn(disk), [], "nothing stands under the name of a segment")
        assert.isUndefined(log.ended(), "that is not poison")
        assert.strictEqual(wal.published(), 0n)

        // Whoever comes now belongs to a later epoch, and is not written before the earlier one.
        const second = yield* writer.submitBatch(batchOf(2, { 3: 22 }))
        assert.deepStrictEqual([first.epoch, second.epoch].map((epoch) => epoch - first.epoch), [0n, 1n])
        const again = disk.inject({ operation: "open", path: ofAttempt(2), fault: { kind: "error", code: "ENOSPC" } })
        assert.isFalse(yield* wal.advanceAndFlush())
        assert.strictEqual(again.hits, 1, "the second attempt has a file of its own")
        assert.deepStrictEqual(segmentsOn(disk), [])

        assert.isTrue(yield* wal.advanceAndFlush())
        assert.deepStrictEqual(segmentsOn(disk), [first.epoch], "the one that failed, and only that one")
        assert.strictEqual(wal.durableEpoch(), first.epoch)
        assert.strictEqual(wal.published(), 1n)
        assert.isTrue(yield* wal.advanceAndFlush())
        assert.deepStrictEqual(segmentsOn(disk), [first.epoch, second.epoch])
        assert.strictEqual(wal.published(), 2n)
        yield* close

        const reopened = yield* openByHand(disk)
        assert.strictEqual(reopened.wal.published(), 2n)
        assert.deepStrictEqual([stampOf(reopened, 2), stampOf(reopened, 3)], [11, 22])
      }))
  )

  it.effect("PW-15 a file whose sync failed is never written or synced again", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const { wal } = yield* openByHand(disk)
      const writer = yield* wal.writer
      yield* writer.submitBatch(batchOf(1, { 2: 1 }))
      disk.inject({ operation: "syncData", path: anySegment, fault: { kind: "lostSync" } })
      // Nor can it be removed.
      disk.inject({ operation: "remove", path: ofAttempt(1), fault: { kind: "error", code: "EIO" } })
      assert.isFalse(yield* wal.advanceAndFlush())
      const touched = disk.inject({
        operation: ["write", "syncData", "syncFull", "rename", "truncate"],
        path: ofAttempt(1),
        fault: { kind: "error", code: "EIO" },
        times: Infinity
      })
      assert.isTrue(yield* wal.advanceAndFlush())
      assert.strictEqual(touched.hits, 0)
      disk.crash("lost")
      const reopened = yield* openByHand(disk)
      assert.strictEqual(stampOf(reopened, 2), 1, "what is acknowledged came from another file")
    }))

  it.effect("PW-15 DurabilityTimeout carries the cause and means undecided: success later", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const { wal } = yield* openByHand(disk)
      const writer = yield* wal.writer
      const { epoch } = yield* writer.submitBatch(batchOf(1, { 2: 1 }))
      const waiting = yield* Effect.forkChild(Effect.flip(wal.awaitDurable(epoch, "50 millis")), {
        startImmediately: true
      })
      yield* TestClock.adjust("50 millis")
      const slow = yield* Fiber.join(waiting)
      assert.strictEqual(slow._tag, "DurabilityTimeout")
      if (slow._tag !== "DurabilityTimeout") return
      assert.deepStrictEqual([slow.epoch, slow.timeoutMillis, slow.cause], [epoch, 50, undefined])

      disk.inject({ operation: "write", path: ofAttempt(1), fault: { kind: "error", code: "ENOSPC" } })
      assert.isFalse(yield* wal.advanceAndFlush())
      const later = yield* writer.submitBatch(batchOf(2, { 3: 2 }))
      for (const stuck of [epoch, later.epoch]) {
        const fiber = yield* Effect.forkChild(Effect.flip(wal.awaitDurable(stuck, "1 millis")), {
          startImmediately: true
        })
        yield* TestClock.adjust("1 millis")
        const failed = yield* Fiber.join(fiber)
        assert.strictEqual(failed._tag, "DurabilityTimeout")
        if (failed._tag === "DurabilityTimeout") assert.strictEqual(failed.cause?.code, "ENOSPC", "the one in the way")
      }
      const patient = yield* Effect.forkChild(wal.awaitDurable(later.epoch, "1 hour"), { startImmediately: true })
      yield* wal.advanceAndFlush()
      assert.isTrue(isWaiting(patient))
      yield* wal.awaitDurable(epoch, 0)
      yield* wal.advanceAndFlush()
      yield* Fiber.join(patient)
      assert.strictEqual(wal.published(), 2n)
    }))

  it.effect("PW-15 the ticker tries again at the next tick, not before", () =>
    ownMetrics(Effect.gen(function*() {
      const disk = emptyDisk()
      for (const controller of [false, true]) {
        const opened = yield* openByHand(disk, { ticker: true, controller })
        const writer = yield* opened.wal.writer
        const fault = disk.inject({
          operation: "write",
          path: anySegment,
          fault: { kind: "error", code: "ENOSPC" },
          times: Infinity
        })
        const { epoch } = yield* writer.submitBatch(batchOf(1, { 2: 1 }))
        // The controller closes it at once; without it the tick does.
        if (controller) yield* settle
        else yield* TestClock.adjust("10 millis")
        assert.strictEqual(fault.hits, 1)
        // However much comes meanwhile.
        yield* writer.submitBatch(batchOf(2, { 2: 2 }))
        yield* TestClock.adjust("9 millis")
        yield* settle
        assert.strictEqual(fault.hits, 1)
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(fault.hits, 2)
        fault.remove()
        yield* TestClock.adjust("20 millis")
        yield* opened.wal.awaitDurable(epoch, 0)
        yield* TestClock.adjust("20 millis")
        assert.strictEqual(stampOf(opened, 2), 2)
        yield* opened.close
      }
    })))
})

describe("ParallelWal: poison", () => {
  const certificateFaults = [
    { what: "append", operation: "write", kind: "error" },
    { what: "sync", operation: "syncData", kind: "error" },
    { what: "lost sync", operation: "syncData", kind: "lostSync" }
  ] as const

  it.effect.each(certificateFaults)(
    "PW-15 PW-29 a failed $what of a certificate poisons: told in order, interval decided by the next start",
    ({ kind, operation }) =>
      Effect.gen(function*() {
        const disk = emptyDisk()
        const opened = yield* openByHand(disk)
        const { wal } = opened
        const told: Array<string> = []
        handOver(opened, 1n, (what) => told.push(what))
        yield* wal.advanceAndFlush()
        assert.deepStrictEqual(told.splice(0), ["1 entered", "1 durable"])
        const epoch = wal.epoch()
        handOver(opened, 2n, (what) => told.push(what))
        handOver(opened, 3n, (what) => told.push(what))
        const waiter = yield* Effect.forkChild(Effect.flip(wal.awaitDurable(epoch, "1 hour")), {
          startImmediately: true
        })
        disk.inject({ operation, path: certificates, fault: kind === "error" ? { kind, code: "EIO" } : { kind } })
        assert.strictEqual(yield* outcomeOf(wal.advanceAndFlush()), "WalPoisoned")
        assert.deepStrictEqual(told.splice(0), ["2 entered", "3 entered", "2 WalPoisoned", "3 WalPoisoned"])
        assert.strictEqual((yield* Fiber.join(waiter))._tag, "WalPoisoned")
        assert.strictEqual(wal.published(), 1n, "nothing is visible without a certificate")
        assert.strictEqual(stampOf(opened, 2), 1)

        // Nothing is taken and no file is touched any more.
        const trace = disk.record()
        handOver(opened, 4n, (what) => told.push(what))
        assert.deepStrictEqual(told, ["4 refused WalPoisoned"])
        assert.strictEqual(yield* outcomeOf(wal.advanceAndFlush()), "WalPoisoned")
        assert.strictEqual(yield* outcomeOf(wal.awaitDurable(epoch, "1 hour")), "WalPoisoned")
        assert.strictEqual(yield* outcomeOf(wal.awaitDurable(1n as typeof epoch, "1 hour")), "WalPoisoned")
        yield* opened.close
        assert.deepStrictEqual(trace.steps, [])
        trace.stop()

        disk.crash("lost")
        const reopened = yield* openByHand(disk)
        const tip = reopened.wal.published()
        assert.isTrue(tip === 3n, "the interval was finished or aborted, and either way it is not used again")
        const stamp = stampOf(reopened, 2)
        assert.include([1, 3], stamp)
        const next = yield* (yield* reopened.wal.writer).submitBatch(batchOf(9, { 2: 99 }))
        assert.strictEqual(next.commitSeq, 4n)
        assert.isAbove(Number(next.epoch), Number(epoch), "no epoch is used again")
      })
  )

  it.effect("PW-15 the poison of somebody outside while a segment is on its way: it is not certified", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const { log, wal } = opened
      const told: Array<string> = []
      handOver(opened, 1n, (what) => told.push(what))
      const hold = disk.hold({ operation: "syncDirectory", path: "/data" })
      const cycle = yield* Effect.forkChild(Effect.exit(wal.advanceAndFlush()), { startImmediately: true })
      yield* hold.reached
      log.poison(Cause.die("outside"))
      assert.deepStrictEqual(told, ["1 entered", "1 WalPoisoned"])
      const trace = disk.record()
      yield* hold.release
      const exit = yield* Fiber.join(cycle)
      assert.isTrue(Exit.isFailure(exit) && !Cause.hasDies(exit.cause), "that is no defect")
      assert.strictEqual(wal.published(), 0n, "nobody sees what its committer was not told")
      assert.deepStrictEqual(trace.steps.filter(({ path }) => path === certificates), [])
      trace.stop()
      yield* opened.close
    }))

  it.effect("PW-15 the poison of somebody outside while a certificate is on its way: nothing is published", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const { log, wal } = opened
      const told: Array<string> = []
      handOver(opened, 1n, (what) => told.push(what))
      const hold = disk.hold({ operation: "syncData", path: certificates })
      const cycle = yield* Effect.forkChild(Effect.exit(wal.advanceAndFlush()), { startImmediately: true })
      yield* hold.reached
      log.poison(Cause.die("outside"))
      yield* hold.release
      const exit = yield* Fiber.join(cycle)
      assert.isTrue(Exit.isFailure(exit) && !Cause.hasDies(exit.cause), "that is no defect")
      assert.strictEqual(wal.published(), 0n)
      assert.deepStrictEqual(told, ["1 entered", "1 WalPoisoned"])
      yield* opened.close
    }))

  it.effect("PW-15 a committer that throws when it is told takes nobody else's answer, and poisons", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk)
      const told: Array<string> = []
      const tell = (what: string) => told.push(what)
      handOver(opened, 1n, tell, {
        onDurable: () => {
          throw new Error("thrown by a committer")
        }
      })
      handOver(opened, 2n, tell)
      const waiting = yield* Effect.forkChild(opened.wal.awaitDurable(opened.wal.epoch(), "1 hour"), {
        startImmediately: true
      })
      yield* Effect.exit(opened.wal.advanceAndFlush())
      assert.deepStrictEqual(told, ["1 entered", "2 entered", "1 durable", "2 durable"])
      yield* Fiber.join(waiting)
      assert.strictEqual(opened.log.ended()?._tag, "WalPoisoned")
      assert.strictEqual(opened.wal.published(), 2n)
      yield* opened.close
      assert.strictEqual((yield* openByHand(disk)).wal.published(), 2n)
    }))

  it.effect("PW-15 a defect in a cycle poisons, instead of leaving everybody waiting; the ticker ends", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const dying = Layer.effect(
        Vfs,
        Effect.map(
          Vfs,
          (vfs) => ({
            ...vfs,
            rename: (from, to) => from.includes("-wal-seg-") ? Effect.die("dead") : vfs.rename(from, to)
          })
        )
      )
      const platform = Layer.provideMerge(dying, MemoryVfs.layerDisk(disk))
      const opened = yield* openParallelOn(platform, { database: memoryPath, ...byHand, ticker: true })
      const told: Array<string> = []
      handOver(opened, 1n, (what) => told.push(what))
      const waiting = yield* Effect.forkChild(Effect.flip(opened.wal.awaitDurable(opened.wal.epoch(), "1 hour")), {
        startImmediately: true
      })
      yield* TestClock.adjust("20 millis")
      assert.deepStrictEqual(told, ["1 entered", "1 WalPoisoned"])
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "WalPoisoned")
      // Another one could be started, and would end as well.
      yield* opened.wal.startTicker
      yield* opened.close
    }))

  it.effect("PW-29 RC-06 the mark of the database comes before the first certificate, and its failure poisons", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk)
      const told: Array<string> = []
      handOver(opened, 1n, (what) => told.push(what))
      const fault = disk.inject({
        operation: ["write", "syncData"],
        path: memoryPath,
        fault: { kind: "error", code: "EIO" }
      })
      assert.strictEqual(yield* outcomeOf(opened.wal.advanceAndFlush()), "WalPoisoned")
      assert.strictEqual(fault.hits, 1)
      assert.deepStrictEqual(told, ["1 entered", "1 WalPoisoned"])
      assert.deepStrictEqual(segmentsOn(disk), [])
    }))
})

describe("ParallelWal: closing", () => {
  it.effect("PW-14 PW-15 closing drains what is sealed and what is open, and tells who comes after", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk)
      const { wal } = opened
      const told: Array<string> = []
      handOver(opened, 1n, (what) => told.push(what))
      disk.inject({ operation: "write", path: ofAttempt(1), fault: { kind: "error", code: "EIO" } })
      assert.isFalse(yield* wal.advanceAndFlush())
      handOver(opened, 2n, (what) => told.push(what))
      const never = yield* Effect.forkChild(Effect.flip(wal.awaitDurable((wal.epoch() + 5n) as never, "1 hour")), {
        startImmediately: true
      })
      yield* opened.close
      assert.deepStrictEqual(told, ["1 entered", "2 entered", "1 durable", "2 durable"])
      assert.strictEqual((yield* Fiber.join(never))._tag, "LogClosed")
      handOver(opened, 3n, (what) => told.push(what))
      assert.strictEqual(told.at(-1), "3 refused LogClosed")
      assert.strictEqual((yield* openByHand(disk)).wal.published(), 2n)
    }))

  it.effect("PW-15 PW-29 closing tries once more, then aborts the interval by a certificate and fails the waiters", () =>
    recording(({ lines }) =>
      Effect.gen(function*() {
        const disk = emptyDisk()
        const opened = yield* openByHand(disk)
        const { wal } = opened
        const told: Array<string> = []
        handOver(opened, 1n, (what) => told.push(what))
        yield* wal.advanceAndFlush()
        for (const seq of [2n, 3n]) handOver(opened, seq, (what) => told.push(what))
        const fault = disk.inject({
          operation: "write",
          path: anySegment,
          fault: { kind: "error", code: "ENOSPC" },
          times: Infinity
        })
        assert.isFalse(yield* wal.advanceAndFlush())
        handOver(opened, 4n, (what) => told.push(what))
        const waiting = yield* Effect.forkChild(Effect.exit(wal.awaitDurable(wal.epoch(), "1 hour")), {
          startImmediately: true
        })
        told.splice(0)
        const before = fault.hits
        yield* opened.close
        assert.isAbove(fault.hits, before)
        assert.deepStrictEqual(told, ["2 WalPoisoned", "3 WalPoisoned", "4 WalPoisoned"])
        assert.isTrue(Exit.isFailure(yield* Fiber.join(waiting)))
        assert.isTrue(lines.some(({ level }) => level === "Error"))

        const { startUp, ...reopened } = (yield* openByHand(disk)).wal
        const last = startUp.certificates?.certificates.at(-1)?.certificate
        assert.deepInclude(last, {
          aborted: true,
          low: toCommitSeq(2n),
          high: toCommitSeq(4n),
          segmentCrc: 0,
          pageSetSize: 0
        })
        assert.deepStrictEqual(startUp.uncertified, [])
        assert.strictEqual(reopened.published(), 4n)
        const next = yield* (yield* reopened.writer).submitBatch(batchOf(9, { 2: 9 }))
        assert.strictEqual(next.commitSeq, 5n)
      })
    ))

  it.effect("PW-15 PW-16 a closed log has no more cycles, and its ticker stops whoever started it", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const { close, wal } = yield* openByHand(disk)
      yield* wal.startTicker
      yield* TestClock.adjust("30 millis")
      assert.strictEqual(wal.epoch(), 3n)
      yield* close
      const epoch = wal.epoch()
      yield* TestClock.adjust("30 millis")
      assert.strictEqual(wal.epoch(), epoch)
      assert.strictEqual(yield* outcomeOf(wal.advanceAndFlush()), "LogClosed")
      assert.strictEqual(yield* outcomeOf(wal.awaitDurable(epoch, "1 hour")), "LogClosed")
      assert.strictEqual(wal.epoch(), epoch)
    }))

  it.effect("PW-15 closing tries an epoch that fails for the first time once more", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk)
      const told: Array<string> = []
      handOver(opened, 1n, (what) => told.push(what))
      const fault = disk.inject({ operation: "write", path: anySegment, fault: { kind: "error", code: "EIO" } })
      yield* opened.close
      assert.strictEqual(fault.hits, 1)
      assert.deepStrictEqual(told, ["1 entered", "1 durable"])
    }))

  it.effect("PW-29 a cycle by hand while closing aborts an interval: it is not written any more", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const told: Array<string> = []
      handOver(opened, 1n, (what) => told.push(what))
      // The attempts of closing fail; the one after them would not.
      disk.inject({ operation: "write", path: anySegment, fault: { kind: "error", code: "EIO" }, times: 2 })
      const hold = disk.hold({ operation: "syncData", path: certificates })
      const closing = yield* Effect.forkChild(opened.close, { startImmediately: true })
      yield* hold.reached
      const beside = yield* Effect.forkChild(outcomeOf(opened.wal.advanceAndFlush()), { startImmediately: true })
      yield* settle
      yield* hold.release
      yield* Fiber.join(closing)
      assert.strictEqual(yield* Fiber.join(beside), "WalPoisoned")
      assert.deepStrictEqual(told, ["1 entered", "1 WalPoisoned"])
      assert.deepStrictEqual(segmentsOn(disk), [])
      const { startUp } = (yield* openByHand(disk)).wal
      assert.deepStrictEqual(startUp.certificates?.certificates.map(({ certificate }) => certificate.aborted), [true])
    }))

  it.effect("PW-29 a cycle by hand beside a close: every interval has one certificate", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const told: Array<string> = []
      handOver(opened, 1n, (what) => told.push(what))
      // The attempts of closing fail; the one after them would not.
      disk.inject({ operation: "write", path: anySegment, fault: { kind: "error", code: "EIO" }, times: 2 })
      const done = yield* Deferred.make<void>()
      const beside = yield* Effect.forkChild(
        Effect.forEach(Array.from({ length: 30 }), () =>
          Effect.andThen(Effect.exit(opened.wal.advanceAndFlush()), Effect.yieldNow)),
        { startImmediately: true }
      )
      yield* Effect.andThen(opened.close, Deferred.succeed(done, undefined))
      yield* Fiber.join(beside)
      assert.lengthOf(told, 2)
      const { startUp } = (yield* openByHand(disk)).wal
      assert.lengthOf(startUp.certificates?.certificates ?? [], 1)
      const isAborted = startUp.certificates?.certificates[0]?.certificate.aborted
      assert.strictEqual(told[1], isAborted === true ? "1 WalPoisoned" : "1 durable")
    }))
})

/** Epochs of a parallel WAL: closing them, waiting for them, the ticker, what becomes of them when a log is opened. */
import { assert, describe, it } from "@effect/vitest"
import { PageNumber, WalEpoch } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Clock, ConfigProvider, Context, Deferred, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { TestClock } from "effect/testing"
import { join } from "node:path"
import { certificatesPath } from "../src/CertificateFormat.ts"
import * as LogMetrics from "../src/LogMetrics.ts"
import * as ParallelWal from "../src/ParallelWal.ts"
import { temporaryDirectory } from "./support/children.ts"
import { outcomeOf, settle } from "./support/engine.ts"
import { page1 } from "./support/pages.ts"
import {
  batchOf,
  byHand,
  emptyDisk,
  encodedRecord,
  isWaiting,
  ofLog,
  openByHand,
  openParallelOn,
  ownMetrics,
  pageSize,
  recording,
  segmentsOn,
  slowDisk,
  stampOf
} from "./support/parallelWal.ts"
import { memoryPath, prepareDisk } from "./support/sqliteWal.ts"

describe("ParallelWal: epochs", () => {
  it.effect("PW-09 a new log has epoch 0 and none that is durable; a restart begins behind the highest on disk", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const first = yield* openByHand(disk)
      assert.deepStrictEqual([first.wal.epoch(), first.wal.durableEpoch(), first.wal.published()], [0n, undefined, 0n])
      const writer = yield* first.wal.writer
      for (const id of [1, 2, 3]) {
        yield* first.wal.advanceAndFlush()
        yield* writer.submitBatch(batchOf(id, { 2: id }))
        yield* first.wal.advanceAndFlush()
      }
      assert.deepStrictEqual(segmentsOn(disk), [1n, 3n, 5n])
      yield* first.close
      const second = yield* openByHand(disk)
      assert.deepStrictEqual([second.wal.epoch(), second.wal.durableEpoch(), second.wal.published()], [
        6n,
        undefined,
        3n
      ])
      const trace = disk.record()
      yield* (yield* second.wal.writer).submitBatch(batchOf(4, { 2: 4 }))
      yield* second.wal.advanceAndFlush()
      assert.deepStrictEqual(segmentsOn(disk), [1n, 3n, 5n, 6n])
      assert.isFalse(trace.steps.some(({ path }) => /wal-seg-000000000000000[135]$/.test(path)))
      trace.stop()
    }))

  it.effect("PW-11 PW-12 PW-16 an empty epoch is durable without a file; marks keep the maximum", () =>
    ownMetrics(Effect.gen(function*() {
      const disk = emptyDisk()
      const { wal } = yield* openByHand(disk)
      const trace = disk.record()
      const waiting = yield* Effect.forkChild(wal.awaitDurable(WalEpoch.make(1n), "1 hour"), { startImmediately: true })
      assert.isTrue(yield* wal.advanceAndFlush())
      assert.strictEqual(wal.durableEpoch(), 0n)
      assert.isTrue(isWaiting(waiting))
      assert.isTrue(yield* wal.advanceAndFlush())
      yield* Fiber.join(waiting)
      for (let more = 0; more < 4; more++) yield* wal.advanceAndFlush()
      assert.strictEqual(wal.durableEpoch(), 5n)
      // An earlier one is durable with it.
      yield* wal.awaitDurable(WalEpoch.make(3n), 0)
      assert.deepStrictEqual(trace.steps, [])
      assert.strictEqual((yield* ofLog(LogMetrics.emptyEpochs)).count, 6)
      assert.strictEqual((yield* ofLog(LogMetrics.epochsFlushed)).count, 0)
      trace.stop()
    })))

  it.effect("PW-11 PW-29 durable and visible when the certificate is synced, not when the segment is", () =>
    ownMetrics(Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const { wal } = opened
      const writer = yield* wal.writer
      const { commitSeq, epoch } = yield* writer.submitBatch(batchOf(1, { 2: 1 }))
      yield* writer.submitBatch(batchOf(2, { 3: 2, 4: 2 }))
      assert.strictEqual(commitSeq, 1n)
      const hold = disk.hold({ operation: "syncData", path: certificatesPath(memoryPath), when: "before" })
      const cycle = yield* Effect.forkChild(wal.advanceAndFlush(), { startImmediately: true })
      const waiting = yield* Effect.forkChild(wal.awaitDurable(epoch, "1 hour"), { startImmediately: true })
      yield* hold.reached
      assert.deepStrictEqual(segmentsOn(disk), [epoch])
      assert.deepStrictEqual([wal.durableEpoch(), wal.published(), wal.inLog().records], [undefined, 0n, 0])
      assert.isTrue(isWaiting(waiting))
      // What comes meanwhile gathers in the next epoch.
      const next = yield* writer.submitBatch(batchOf(3, { 2: 3 }))
      assert.strictEqual(next.epoch, epoch + 1n)
      yield* TestClock.adjust("3 millis")
      yield* hold.release
      assert.isTrue(yield* Fiber.join(cycle))
      yield* Fiber.join(waiting)
      assert.deepStrictEqual([wal.durableEpoch(), wal.published(), wal.inLog().records], [epoch, 2n, 3])
      assert.deepStrictEqual([2, 3, 4].map((page) => stampOf(opened, page)), [1, 2, 2])
      assert.strictEqual((yield* ofLog(LogMetrics.commits)).count, 2)
      assert.strictEqual((yield* ofLog(LogMetrics.epochsFlushed)).count, 1)
      const seconds = yield* ofLog(LogMetrics.epochFlushSeconds)
      assert.strictEqual(seconds.count, 1)
      assert.closeTo(seconds.sum, 3e-3, 1e-9)
    })))

  it.effect("PW-10 advancing waits for the writers it was told to wait for, ten intervals; then nothing is sealed", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const { wal } = yield* openByHand(disk)
      const busy = yield* wal.writer
      const other = yield* wal.writer
      const gate = yield* Deferred.make<void>()
      const section = yield* Effect.forkChild(
        busy.section(Effect.gen(function*() {
          const first = yield* busy.submitBatch(batchOf(1, { 2: 1 }))
          yield* Deferred.await(gate)
          return [first.epoch, (yield* busy.submitBatch(batchOf(2, { 3: 2 }))).epoch]
        })),
        { startImmediately: true }
      )
      const advancing = yield* Effect.forkChild(Effect.flip(wal.advanceAndFlush({ waitFor: [busy, other] })), {
        startImmediately: true
      })
      yield* TestClock.adjust("99 millis")
      assert.isTrue(isWaiting(advancing))
      yield* TestClock.adjust("1 millis")
      const timedOut = yield* Fiber.join(advancing)
      assert.strictEqual(timedOut._tag, "EpochBusy")
      assert.deepInclude(timedOut, { epoch: WalEpoch.make(0n), timeoutMillis: 100, pendingWriters: 1 })
      assert.deepStrictEqual([wal.epoch(), segmentsOn(disk).length], [0n, 0])

      const retry = yield* Effect.forkChild(wal.advanceAndFlush({ waitFor: [busy] }), { startImmediately: true })
      yield* TestClock.adjust("50 millis")
      assert.isTrue(isWaiting(retry))
      yield* Deferred.succeed(gate, undefined)
      assert.isTrue(yield* Fiber.join(retry), "the retry takes all records")
      assert.deepStrictEqual(yield* Fiber.join(section), [0n, 0n] as never)
      assert.strictEqual(wal.published(), 2n)
      assert.isTrue(yield* wal.advanceAndFlush({ waitFor: [busy, other] }), "idle writers hold nobody up")
    }))

  it.effect("PW-10 a writer that is back in a section before the cycle has its turn is waited for again", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const { wal } = yield* openByHand(disk)
      const writer = yield* wal.writer
      yield* writer.submitBatch(batchOf(1, { 2: 1 }))
      const hold = disk.hold({ operation: "rename", path: /-wal-seg-/ })
      const earlier = yield* Effect.forkChild(wal.advanceAndFlush(), { startImmediately: true })
      yield* hold.reached
      // It passes the wait, and stands behind the cycle that runs.
      const advancing = yield* Effect.forkChild(wal.advanceAndFlush({ waitFor: [writer] }), { startImmediately: true })
      const gate = yield* Deferred.make<void>()
      const section = yield* Effect.forkChild(
        writer.section(Effect.gen(function*() {
          const first = yield* writer.submitBatch(batchOf(2, { 2: 2 }))
          yield* Deferred.await(gate)
          return [first.epoch, (yield* writer.submitBatch(batchOf(3, { 2: 3 }))).epoch]
        })),
        { startImmediately: true }
      )
      yield* hold.release
      assert.isTrue(yield* Fiber.join(earlier))
      yield* settle
      assert.isTrue(isWaiting(advancing))
      yield* Deferred.succeed(gate, undefined)
      assert.isTrue(yield* Fiber.join(advancing))
      const [first, second] = yield* Fiber.join(section)
      assert.strictEqual(first, second)
      assert.strictEqual(wal.published(), 3n)
    }))

  it.effect("PW-10 who leaves a section and is back at once is no reason to give up before the time", () =>
    Effect.gen(function*() {
      const { wal } = yield* openByHand(emptyDisk())
      const writer = yield* wal.writer
      const gates = yield* Effect.forEach([0, 1], () => Deferred.make<void>())
      const sections = yield* Effect.forkChild(
        Effect.forEach(gates, (gate) => writer.section(Deferred.await(gate)), { discard: true }),
        { startImmediately: true }
      )
      const advancing = yield* Effect.forkChild(Effect.exit(wal.advanceAndFlush({ waitFor: [writer] })), {
        startImmediately: true
      })
      yield* Effect.forEach(gates.slice(0, 1), (gate) => Deferred.succeed(gate, undefined))
      yield* settle
      assert.isTrue(isWaiting(advancing))
      yield* Effect.forEach(gates.slice(1), (gate) => Deferred.succeed(gate, undefined))
      yield* Fiber.join(sections)
      assert.deepStrictEqual(yield* Fiber.join(advancing), Exit.succeed(true))
      assert.strictEqual(wal.epoch(), 1n)
    }))

  it.effect("PW-10 a section that is interrupted, or fails, is left", () =>
    Effect.gen(function*() {
      const { wal } = yield* openByHand(emptyDisk())
      const writer = yield* wal.writer
      const inside = yield* Effect.forkChild(writer.section(Effect.never), { startImmediately: true })
      // A section within a section of the same writer.
      yield* Effect.exit(writer.section(writer.section(Effect.fail("no"))))
      const advancing = yield* Effect.forkChild(wal.advanceAndFlush({ waitFor: [writer] }), { startImmediately: true })
      yield* settle
      assert.isTrue(isWaiting(advancing))
      yield* Fiber.interrupt(inside)
      assert.isTrue(yield* Fiber.join(advancing))
    }))
})

describe("ParallelWal: the ticker", () => {
  const ticking = { ...byHand, ticker: true }

  it.effect("PW-14 one cycle every interval; idle writers hold nobody up", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk, {
        ...ticking,
        epochInterval: "20 millis",
        control: { maxFlushDelayMillis: 20 }
      })
      const { wal } = opened
      const writer = yield* wal.writer
      const never = yield* Effect.forkChild(writer.section(Effect.never), { startImmediately: true })
      const { epoch } = yield* writer.submitBatch(batchOf(1, { 2: 1 }))
      yield* TestClock.adjust("19 millis")
      assert.deepStrictEqual([wal.epoch(), wal.published()], [0n, 0n])
      yield* TestClock.adjust("1 millis")
      yield* wal.awaitDurable(epoch, 0)
      assert.deepStrictEqual([wal.epoch(), wal.published()], [1n, 1n])
      yield* TestClock.adjust("60 millis")
      assert.deepStrictEqual([wal.epoch(), wal.durableEpoch(), segmentsOn(disk).length], [4n, 3n, 1])
      yield* Fiber.interrupt(never)
    }))

  it.effect("PW-14 starting twice fails; stopping is idempotent; a restart works, also when the first scope is closed", () =>
    Effect.gen(function*() {
      const { wal } = yield* openByHand(emptyDisk())
      yield* wal.stopTicker
      const parent = yield* Scope.make()
      yield* Scope.provide(wal.startTicker, parent)
      const again = yield* Effect.flip(wal.startTicker)
      assert.strictEqual(again._tag, "AlreadyRunning")
      yield* TestClock.adjust("20 millis")
      assert.strictEqual(wal.epoch(), 2n)
      yield* Scope.close(parent, Exit.void)
      yield* TestClock.adjust("20 millis")
      assert.strictEqual(wal.epoch(), 2n)
      yield* wal.startTicker
      yield* TestClock.adjust("20 millis")
      assert.strictEqual(wal.epoch(), 4n)
      yield* wal.stopTicker
      yield* wal.stopTicker
      yield* TestClock.adjust("20 millis")
      assert.strictEqual(wal.epoch(), 4n)

      // The scope of one that was stopped by somebody else does not stop its successor.
      const third = yield* Scope.make()
      yield* Scope.provide(wal.startTicker, third)
      yield* wal.stopTicker
      yield* wal.startTicker
      yield* Scope.close(third, Exit.void)
      yield* TestClock.adjust("10 millis")
      assert.strictEqual(wal.epoch(), 5n)
    }))

  it.effect("PW-14 stopping waits for the current cycle, whoever stops, and does not drain", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk, ticking)
      const { wal } = opened
      const writer = yield* wal.writer
      yield* writer.submitBatch(batchOf(1, { 2: 1 }))
      const hold = disk.hold({ operation: "rename", path: /-wal-seg-/ })
      yield* TestClock.adjust("10 millis")
      yield* hold.reached
      yield* writer.submitBatch(batchOf(2, { 2: 2 }))
      const stopping = [
        yield* Effect.forkChild(wal.stopTicker, { startImmediately: true }),
        yield* Effect.forkChild(wal.stopTicker, { startImmediately: true })
      ]
      yield* settle
      assert.deepStrictEqual(stopping.map(isWaiting), [true, true])
      assert.strictEqual(yield* outcomeOf(wal.startTicker), "AlreadyRunning", "it is not over before its cycle is")
      yield* hold.release
      yield* Fiber.joinAll(stopping)
      assert.strictEqual(wal.published(), 1n)
      yield* TestClock.adjust("50 millis")
      assert.strictEqual(wal.published(), 1n, "nothing was drained")
      yield* opened.close
      assert.strictEqual((yield* openByHand(disk)).wal.published(), 2n, "closing does")
    }))

  it.effect("PW-14 an epoch that has grown to maxBatchBytes is closed at once", () =>
    Effect.gen(function*() {
      const { wal } = yield* openByHand(emptyDisk(), { ...ticking, control: { maxBatchBytes: 2 * encodedRecord } })
      const writer = yield* wal.writer
      yield* settle
      yield* writer.submitBatch(batchOf(1, { 2: 1 }))
      yield* settle
      assert.strictEqual(wal.published(), 0n)
      yield* writer.submitBatch(batchOf(2, { 2: 2 }))
      yield* settle
      assert.strictEqual(wal.published(), 2n)
    }))

  it.effect("PW-14 maxFlushDelayMillis bounds how long a batch waits, and idle epochs still last an interval", () =>
    Effect.gen(function*() {
      for (const controller of [false, true]) {
        const { close, wal } = yield* openByHand(emptyDisk(), {
          ...ticking,
          controller,
          epochInterval: "100 millis",
          control: { maxFlushDelayMillis: controller ? 0 : 4 }
        })
        yield* TestClock.adjust("30 millis")
        yield* settle
        assert.strictEqual(wal.epoch(), 0n)
        const writer = yield* wal.writer
        yield* writer.submitBatch(batchOf(1, { 2: 1 }))
        if (!controller) {
          yield* TestClock.adjust("3 millis")
          yield* settle
          assert.strictEqual(wal.published(), 0n)
          yield* TestClock.adjust("1 millis")
        }
        yield* settle
        assert.strictEqual(wal.published(), 1n)
        yield* close
      }
    }))

  it.effect("PW-14 with a delay of 0 every batch is flushed at once, and an idle log is idle", () =>
    Effect.gen(function*() {
      const { wal } = yield* openByHand(emptyDisk(), { ...ticking, control: { maxFlushDelayMillis: 0 } })
      yield* settle
      yield* settle
      assert.strictEqual(wal.epoch(), 0n, "no epoch after the other")
      yield* (yield* wal.writer).submitBatch(batchOf(1, { 2: 1 }))
      yield* settle
      assert.strictEqual(wal.published(), 1n)
      assert.strictEqual(wal.epoch(), 1n)
    }))

  it.effect("PW-14 PW-33 a clock on the wall that is set back holds nobody up, and misleads no decision", () =>
    Effect.gen(function*() {
      const test = yield* Clock.Clock
      let setBackMillis = 0
      const millis = () => test.currentTimeMillisUnsafe() - setBackMillis
      const nanos = () => test.currentTimeNanosUnsafe() - BigInt(setBackMillis) * 1_000_000n
      const wall: Clock.Clock = {
        currentTimeMillisUnsafe: millis,
        currentTimeMillis: Effect.sync(millis),
        currentTimeNanosUnsafe: nanos,
        currentTimeNanos: Effect.sync(nanos),
        monotonicTimeNanosUnsafe: () => test.monotonicTimeNanosUnsafe(),
        monotonicTimeNanos: test.monotonicTimeNanos,
        sleep: (duration) => test.sleep(duration)
      }
      for (const controller of [false, true]) {
        const disk = slowDisk()
        const { close, wal } = yield* Effect.provideService(
          openByHand(disk, { ...ticking, controller }),
          Clock.Clock,
          wall
        )
        yield* TestClock.adjust("1 second")
        const writer = yield* wal.writer
        const hold = disk.hold({ operation: "rename", path: /-wal-seg-/ })
        const { epoch } = yield* writer.submitBatch(batchOf(1, { 2: 1 }))
        yield* TestClock.adjust("10 millis")
        yield* hold.reached
        // While it is flushed, and batches wait.
        yield* writer.submitBatch(batchOf(2, { 2: 2 }))
        setBackMillis += 3_600_000
        yield* hold.release
        const settled = yield* Effect.forkChild(wal.awaitDurable(WalEpoch.make(epoch + 1n), "1 second"))
        yield* TestClock.adjust("10 millis")
        yield* settle
        yield* TestClock.adjust("10 millis")
        yield* Fiber.join(settled)
        assert.strictEqual(wal.published(), 2n)
        assert.strictEqual(wal.fallback(), "none")
        yield* close
      }
    }))
})

describe("ParallelWal: policies and platforms", () => {
  it.effect.each([{ policy: "full" }, { policy: "normal" }, { policy: "off" }] as const)(
    "PW-23 policy $policy: what it syncs, and what a power loss takes",
    ({ policy }) =>
      Effect.gen(function*() {
        const disk = emptyDisk()
        const { wal } = yield* openByHand(disk, { syncPolicy: policy })
        const writer = yield* wal.writer
        // The first epoch marks the database, which is synced under every policy.
        yield* writer.submitBatch(batchOf(1, { 2: 1 }))
        yield* wal.advanceAndFlush()
        const trace = disk.record()
        const { epoch } = yield* writer.submitBatch(batchOf(2, { 2: 2 }))
        yield* wal.advanceAndFlush()
        yield* wal.awaitDurable(epoch, 0)
        const steps = trace.steps.map(({ kind, path }) => `${kind} ${path.replace(/^.*test\.db/, "")}`)
        const temporary = "-wal-seg-0000000000000001.tmp-1"
        const expected = [
          `create ${temporary}`,
          `write ${temporary}`,
          `syncData ${temporary}`,
          `rename ${temporary}`,
          "syncDirectory /data",
          "write -wal-cert",
          "syncData -wal-cert"
        ]
        assert.deepStrictEqual(
          steps.filter((step, at) => step !== steps[at - 1]),
          policy === "off" ? expected.filter((step) => !step.startsWith("sync")) : expected
        )
        trace.stop()
        disk.crash("lost")
        if (policy === "off") return
        const reopened = yield* openByHand(disk)
        assert.strictEqual(reopened.wal.published(), 2n)
        assert.strictEqual(stampOf(reopened, 2), 2)
      })
  )

  it.live("PW-12 PW-14 real files, the ticker and the controller as they are by default", () =>
    Effect.gen(function*() {
      const database = join(yield* temporaryDirectory, "smoke.db")
      const options = { database, create: { pageSize } }
      const first = yield* openParallelOn(NodeVfs.layer, options)
      const writers = yield* Effect.forEach(Array.from({ length: 8 }), () => first.wal.writer)
      const all = batchOf(1, { 2: 1, 3: 1, 4: 1, 5: 0, 6: 0, 7: 0, 8: 0, 9: 0, 10: 0, 11: 0, 12: 0 }, 12)
      const first1 = { page: PageNumber.make(1), after: page1(pageSize, 12, 1) }
      yield* (yield* first.wal.writer).submitBatch({ ...all, records: [...all.records, first1] })
      yield* Effect.forEach(writers, (writer, at) =>
        Effect.forEach(Array.from({ length: 10 }), (_, n) =>
          Effect.flatMap(
            writer.submitBatch(batchOf(at * 10 + n + 2, { [at + 5]: n + 1 }, 12)),
            ({ epoch }) => first.wal.awaitDurable(epoch, "20 seconds")
          )), { concurrency: "unbounded", discard: true })
      assert.strictEqual(first.wal.published(), 81n)
      assert.isAbove(first.wal.decisions().length, 0)
      yield* first.close
      const second = yield* openParallelOn(NodeVfs.layer, options)
      assert.strictEqual(second.wal.published(), 81n)
      assert.deepStrictEqual(writers.map((_, at) => stampOf(second, at + 5)), writers.map(() => 10))
      assert.deepStrictEqual(second.wal.inLog(), { records: 0, segments: 0 }, "closing has copied everything")
      yield* second.close
    }))
})

describe("ParallelWal: the environment", () => {
  const open = (values: Record<string, string>, disk: MemoryDisk) =>
    Layer.build(ParallelWal.layerConfig.pipe(
      Layer.provide(MemoryVfs.layerDisk(disk)),
      Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(values)))
    ))

  const databaseOn = (disk: MemoryDisk) => Effect.scoped(Effect.asVoid(openByHand(disk)))

  it.effect("PW-31 layerConfig reads the database, the interval and the control surface", () =>
    recording(({ lines }) =>
      Effect.gen(function*() {
        const disk = prepareDisk(MemoryDisk.make({ async: false }))
        yield* databaseOn(disk)
        const context = yield* open({
          TIDEMARK_DATABASE: memoryPath,
          TIDEMARK_AUTO_CHECKPOINT_FRAMES: "0",
          TIDEMARK_EPOCH_INTERVAL_MS: "25",
          TIDEMARK_PARALLEL_CONTROLLER: "false",
          FSQLITE_PARALLEL_WAL_MODE: " Shadow ",
          FSQLITE_PARALLEL_WAL_LANES: "3",
          FSQLITE_PARALLEL_WAL_MAX_BATCH_BYTES: "many",
          FSQLITE_PARALLEL_WAL_MAX_FLUSH_DELAY_MS: "40",
          FSQLITE_PARALLEL_WAL_SHADOW_COMPARE_PER_MILLE: "2000"
        }, disk)
        const wal = Context.get(context, ParallelWal.ParallelWal)
        assert.deepInclude(wal.control, {
          mode: "shadow_compare",
          laneCount: 3,
          maxBatchBytes: 4 * 1024 * 1024,
          maxFlushDelayMillis: 40,
          shadowComparePerMille: 1000
        })
        assert.strictEqual(wal.laneCount(), 3)
        yield* TestClock.adjust("75 millis")
        assert.strictEqual(wal.epoch(), 3n)
        assert.deepStrictEqual(wal.decisions(), [])
        assert.isTrue(lines.some(({ message }) => message.includes("FSQLITE_PARALLEL_WAL_MAX_BATCH_BYTES")))
      })
    ))

  it.effect("PW-31 the environment starts from conservative mode; more lanes than slots are a warning", () =>
    recording(({ lines }) =>
      Effect.gen(function*() {
        const disk = emptyDisk()
        yield* databaseOn(disk)
        const context = yield* open({ TIDEMARK_DATABASE: memoryPath }, disk)
        const wal = Context.get(context, ParallelWal.ParallelWal)
        assert.strictEqual(wal.control.mode, "conservative")
        assert.strictEqual(wal.laneCount(), 1)
        assert.deepStrictEqual(lines, [])
        const other = emptyDisk()
        yield* openByHand(other, { slots: 2, control: { laneCount: 5 } })
        assert.deepStrictEqual(lines.map(({ level }) => level), ["Warn"])
        assert.include(lines[0]?.message ?? "", "5 lanes")
      })
    ))

  it.effect("PW-31 what makes no sense is a ConfigError, and no file is touched", () =>
    Effect.gen(function*() {
      for (
        const values of [
          {},
          { TIDEMARK_DATABASE: memoryPath, TIDEMARK_EPOCH_INTERVAL_MS: "0" },
          { TIDEMARK_DATABASE: memoryPath, TIDEMARK_EPOCH_INTERVAL_MS: "soon" },
          { TIDEMARK_DATABASE: memoryPath, TIDEMARK_AUTO_CHECKPOINT_FRAMES: "-1" },
          { TIDEMARK_DATABASE: memoryPath, TIDEMARK_PARALLEL_CONTROLLER: "perhaps" }
        ]
      ) {
        const disk = emptyDisk()
        const files = disk.files
        assert.strictEqual(yield* outcomeOf(Effect.scoped(open(values, disk))), "ConfigError")
        assert.deepStrictEqual(disk.files, files)
      }
    }))
})

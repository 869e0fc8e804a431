/** What writers and coordinators meet when they hand over: lanes, room, order, stepping back. */
import { assert, describe, it } from "@effect/vitest"
import { PageNumber, toCommitSeq, WalEpoch } from "@tidemark/core/Scalars"
import { Cause, Effect, Exit, Fiber, Scope } from "effect"
import { EpochWaiters } from "../src/internal/epochWaiters.ts"
import { LogClosed } from "../src/LogErrors.ts"
import * as LogMetrics from "../src/LogMetrics.ts"
import { maxImageBytes } from "../src/SegmentFormat.ts"
import { outcomeOf, settle } from "./support/engine.ts"
import {
  accountedRecord,
  batchOf,
  emptyDisk,
  encodedRecord,
  handOver,
  isWaiting,
  ofLog,
  openByHand,
  ownMetrics,
  segmentsOn,
  slowDisk,
  stampOf
} from "./support/parallelWal.ts"

const threeRecords = 3 * accountedRecord

describe("ParallelWal: lanes", () => {
  it.effect("PW-01 a writer keeps one lane for its scope; lanes are used again, surplus writers share in turn", () =>
    Effect.gen(function*() {
      const { wal } = yield* openByHand(emptyDisk(), { control: { laneCount: 2 } })
      for (let wave = 0; wave < 2; wave++) {
        const scopes = [yield* Scope.make(), yield* Scope.make()]
        const lanes = yield* Effect.forEach(scopes, (scope) => Scope.provide(wal.writer, scope))
        assert.deepStrictEqual(lanes.map(({ lane }) => Number(lane)), [0, 1])
        yield* Effect.forEach(scopes, (scope) => Scope.close(scope, Exit.void))
      }
      const many = yield* Effect.forEach(Array.from({ length: 6 }), () => wal.writer)
      assert.deepStrictEqual(many.map(({ lane }) => Number(lane)), [0, 1, 0, 1, 0, 1])
    }))

  it.effect("PW-01 lanes of writers are named in the certificate, the lowest ones up to the last in use", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const { close, wal } = yield* openByHand(disk, { control: { laneCount: 3 } })
      const writers = yield* Effect.forEach(Array.from({ length: 3 }), () => wal.writer)
      yield* Effect.forEach(
        [[0, { 2: 1, 3: 1 }], [1, { 2: 2 }], [0, { 4: 3 }]] as const,
        ([writer, pages], id) => writers[writer]?.submitBatch(batchOf(id + 1, pages)) ?? Effect.die("no such writer")
      )
      yield* wal.advanceAndFlush()
      yield* close
      const reopened = yield* openByHand(disk)
      const certificate = reopened.wal.startUp.certificates?.certificates[0]?.certificate
      assert.deepStrictEqual(certificate?.laneRecords, [3, 1])
      assert.deepInclude(certificate, { low: toCommitSeq(1n), high: toCommitSeq(3n), pageSetSize: 3, databasePages: 4 })
      assert.deepStrictEqual([2, 3, 4].map((page) => stampOf(reopened, page)), [2, 1, 3])
    }))

  it.effect("PW-02 lanes are clamped to the slots and to a u16; conservative mode has one", () =>
    Effect.gen(function*() {
      const lanesOf = (options: Parameters<typeof openByHand>[1]) =>
        Effect.scoped(Effect.map(openByHand(emptyDisk(), options), ({ wal }) => wal.laneCount()))
      assert.strictEqual(yield* lanesOf({ control: { laneCount: 200 }, slots: 7 }), 7)
      assert.strictEqual(yield* lanesOf({ control: { laneCount: 70_000 }, slots: 100_000 }), 65_535)
      assert.strictEqual(yield* lanesOf({ control: { laneCount: 5 }, slots: 0 }), 1)
      assert.strictEqual(yield* lanesOf({ control: { laneCount: 5, mode: "conservative" } }), 1)
    }))

  it.effect("PW-07 policy block refuses the whole batch of a writer, and the next epoch takes it", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk, { overflowPolicy: "block", laneCapacityBytes: threeRecords })
      const writer = yield* opened.wal.writer
      yield* writer.submitBatch(batchOf(1, { 2: 1, 3: 1 }))
      const refused = yield* Effect.flip(writer.submitBatch(batchOf(2, { 2: 2, 3: 2 })))
      assert.strictEqual(refused._tag, "LaneFull")
      assert.deepInclude(refused, {
        lane: writer.lane,
        neededBytes: 2 * accountedRecord,
        freeBytes: accountedRecord,
        capacityBytes: threeRecords
      })
      // Equality fits.
      const fitting = yield* writer.submitBatch(batchOf(3, { 4: 3 }))
      assert.strictEqual(fitting.commitSeq, 2n, "no sequence was assigned to what was refused")
      yield* opened.wal.advanceAndFlush()
      assert.deepStrictEqual([2, 3, 4].map((page) => stampOf(opened, page)), [1, 1, 3])
      const again = yield* writer.submitBatch(batchOf(2, { 2: 2, 3: 2 }))
      assert.strictEqual(again.commitSeq, 3n)
      assert.strictEqual(opened.wal.fallback(), "none")
    }))

  it.effect("PW-07 policy block: a coordinator's commit waits for room instead, and gets it when the epoch is closed", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk, { overflowPolicy: "block", laneCapacityBytes: threeRecords })
      const told: Array<string> = []
      const tell = (what: string) => told.push(what)
      handOver(opened, 1n, tell, { pages: 2 })
      handOver(opened, 2n, tell, { pages: 2 })
      assert.deepStrictEqual(told, ["1 entered", "2 entered"])
      handOver(opened, 3n, tell, { pages: 2 })
      assert.lengthOf(told, 2)
      const refusal = opened.log.refuse(4)
      assert.strictEqual(refusal?._tag, "Exhausted", "what never fits is refused before it waits")
      assert.isUndefined(opened.log.refuse(3))

      const hold = disk.hold({ operation: "rename", path: /-wal-seg-/ })
      const cycle = yield* Effect.forkChild(opened.wal.advanceAndFlush(), { startImmediately: true })
      yield* hold.reached
      assert.deepStrictEqual(told, ["1 entered", "2 entered", "3 entered"], "the other half of the lane is writable")
      yield* hold.release
      assert.isTrue(yield* Fiber.join(cycle))
      assert.deepStrictEqual(told.slice(3), ["1 durable", "2 durable"])
      yield* opened.wal.advanceAndFlush()
      assert.strictEqual(told.at(-1), "3 durable")
    }))

  it.effect("PW-07 overflow: queued, counted, part of its epoch; above the limit it falls back until drained", () =>
    ownMetrics(Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk, {
        control: { laneCount: 2 },
        laneCapacityBytes: accountedRecord,
        overflowLimitBytes: accountedRecord
      })
      const { wal } = opened
      const writers = [yield* wal.writer, yield* wal.writer]
      const submit = (writer: number, id: number, page: number) =>
        writers[writer]?.submitBatch(batchOf(id, { [page]: id })) ?? Effect.die("no such writer")
      const epochs = [(yield* submit(1, 1, 2)).epoch, (yield* submit(1, 2, 2)).epoch]
      assert.strictEqual((yield* ofLog(LogMetrics.overflowedBatches)).count, 1)
      assert.strictEqual(wal.fallback(), "none", "up to the limit it is only counted")
      epochs.push((yield* submit(1, 3, 3)).epoch)
      assert.strictEqual(wal.fallback(), "lane_overflow")
      assert.strictEqual((yield* ofLog(LogMetrics.fallbackActive)).value, 1)
      epochs.push((yield* submit(1, 4, 4)).epoch)
      assert.deepStrictEqual(new Set(epochs).size, 1)
      assert.isTrue(yield* wal.advanceAndFlush())
      assert.deepStrictEqual([2, 3, 4].map((page) => stampOf(opened, page)), [2, 3, 4], "all are in that epoch's flush")
      assert.strictEqual(wal.published(), 4n)

      // Drained; the next certificate is a clean one and ends it.
      assert.strictEqual(wal.fallback(), "lane_overflow")
      yield* wal.resumeParallel
      assert.strictEqual(wal.fallback(), "lane_overflow", "that ends by itself only")
      yield* submit(1, 5, 2)
      yield* wal.advanceAndFlush()
      assert.strictEqual(wal.fallback(), "none")
      assert.strictEqual((yield* ofLog(LogMetrics.fallbackActive)).value, 0)
      yield* submit(1, 6, 2)
      yield* wal.advanceAndFlush()
      yield* opened.close

      const certificates = (yield* openByHand(disk)).wal.startUp.certificates?.certificates ?? []
      assert.deepStrictEqual(
        certificates.map(({ certificate: { fallbackActive, laneRecords } }) => ({ fallbackActive, laneRecords })),
        [
          // The fourth went to the one lane of conservative mode.
          { fallbackActive: true, laneRecords: [1, 3] },
          { fallbackActive: true, laneRecords: [1] },
          { fallbackActive: false, laneRecords: [0, 1] }
        ]
      )
    })))

  it.effect("PW-07 a batch larger than a lane latches at once, whatever the policy", () =>
    Effect.gen(function*() {
      const overflowing = yield* openByHand(emptyDisk(), { laneCapacityBytes: accountedRecord })
      yield* (yield* overflowing.wal.writer).submitBatch(batchOf(1, { 2: 1, 3: 1 }))
      assert.strictEqual(overflowing.wal.fallback(), "lane_overflow")
      const blocking = yield* openByHand(emptyDisk(), { laneCapacityBytes: accountedRecord, overflowPolicy: "block" })
      const writer = yield* blocking.wal.writer
      assert.strictEqual(yield* outcomeOf(writer.submitBatch(batchOf(1, { 2: 1, 3: 1 }))), "LaneFull")
      assert.strictEqual(blocking.wal.fallback(), "lane_overflow")
      for (const id of [2, 3]) {
        yield* writer.submitBatch(batchOf(id, { 2: id }))
        yield* blocking.wal.advanceAndFlush()
      }
      assert.strictEqual(blocking.wal.fallback(), "none")
    }))

  it.effect("PW-08 what is accepted into an epoch is in its flush, and its sequences are an interval", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk, { control: { laneCount: 3 } })
      const { wal } = opened
      const writers = yield* Effect.forEach(Array.from({ length: 3 }), () => wal.writer)
      const accepted: Array<{ readonly epoch: bigint; readonly seq: bigint }> = []
      const write = (writer: (typeof writers)[number], from: number) =>
        Effect.forEach(
          Array.from({ length: 12 }),
          (_, at) =>
            writer.submitBatch(batchOf(from + at, { 2: from + at })).pipe(
              Effect.tap(({ commitSeq, epoch }) => Effect.sync(() => accepted.push({ epoch, seq: commitSeq ?? 0n }))),
              Effect.andThen(Effect.yieldNow)
            )
        )
      const fibers = yield* Effect.forEach(writers, (writer, at) => Effect.forkChild(write(writer, at * 100 + 1)))
      while (fibers.some(isWaiting)) yield* wal.advanceAndFlush()
      yield* wal.advanceAndFlush()
      yield* opened.close
      const { certificates } = (yield* openByHand(disk)).wal.startUp
      const epochs = new Map<bigint, Array<bigint>>()
      for (const { epoch, seq } of accepted) epochs.set(epoch, [...epochs.get(epoch) ?? [], seq])
      assert.isAbove(epochs.size, 2)
      assert.deepStrictEqual(
        certificates?.certificates.map(({ certificate: { high, low, segmentEpoch } }) => [segmentEpoch, low, high]),
        Array.from(epochs, ([epoch, seqs]) => [epoch, seqs[0], seqs.at(-1)]) as never
      )
      assert.deepStrictEqual(accepted.map(({ seq }) => seq), Array.from({ length: 36 }, (_, at) => BigInt(at + 1)))
    }))

  it.effect("PW-13 records without an end are not flushed; a batch of nothing else takes no sequence", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk)
      const writer = yield* opened.wal.writer
      const kept = batchOf(1, { 2: 1 }, 3)
      const aborted = batchOf(1, { 2: 7 }).records.map(({ after, page }) => ({ after, page, isAborted: true }))
      const nothing = yield* writer.submitBatch({ ...kept, records: aborted })
      assert.deepStrictEqual(nothing, { epoch: opened.wal.epoch(), commitSeq: undefined })
      assert.isTrue(yield* opened.wal.advanceAndFlush())
      assert.deepStrictEqual(segmentsOn(disk), [])
      yield* writer.submitBatch({ ...kept, records: [...kept.records, ...aborted] })
      yield* opened.wal.advanceAndFlush()
      yield* opened.close
      const reopened = yield* openByHand(disk)
      assert.deepStrictEqual(reopened.wal.inLog(), { records: 1, segments: 1 })
      assert.strictEqual(stampOf(reopened, 2), 1)
    }))

  it.effect("PW-21 an image that is no page is refused before anything is stored, in line or not", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk, { maxQueuedBytes: encodedRecord })
      const writer = yield* opened.wal.writer
      const files = disk.files
      const bad = (bytes: number) => {
        const batch = batchOf(9, {})
        return { ...batch, records: [{ page: PageNumber.make(2), after: new Uint8Array(bytes) }] }
      }
      for (const bytes of [0, 511, 513, maxImageBytes + 1]) {
        assert.strictEqual(yield* outcomeOf(writer.submitBatch(bad(bytes))), "defect")
      }
      yield* writer.submitBatch(batchOf(1, { 2: 1 }))
      // There is no room now: one that waits in line must not become the log's trouble either.
      const waiting = yield* Effect.forkChild(outcomeOf(writer.submitBatch(bad(511))), { startImmediately: true })
      assert.deepStrictEqual(disk.files, files)
      yield* opened.wal.advanceAndFlush()
      assert.strictEqual(yield* Fiber.join(waiting), "defect")
      assert.isUndefined(opened.log.ended())
      const beyond = yield* Effect.exit(writer.submitBatch(batchOf(2, { 9: 1 }, 8)))
      assert.isTrue(Exit.isFailure(beyond) && Cause.hasDies(beyond.cause), "no page beyond the end of the database")
    }))

  it.effect("PW-08 sequences are given out by a coordinator or by the log itself, never both", () =>
    Effect.gen(function*() {
      const opened = yield* openByHand(emptyDisk())
      handOver(opened, 1n, () => {})
      const writer = yield* opened.wal.writer
      assert.strictEqual(yield* outcomeOf(writer.submitBatch(batchOf(1, { 2: 1 }))), "defect")
      yield* opened.wal.advanceAndFlush()
      assert.strictEqual(opened.wal.published(), 1n)
    }))
})

describe("ParallelWal: room and order", () => {
  const twoRecords = { maxQueuedBytes: 2 * encodedRecord }

  it.effect("PW-12 above maxQueuedBytes committers wait in line, in order; a larger one is let in alone", () =>
    Effect.gen(function*() {
      const opened = yield* openByHand(emptyDisk(), twoRecords)
      const told: Array<string> = []
      const tell = (what: string) => told.push(what)
      for (const seq of [1n, 2n]) handOver(opened, seq, tell)
      handOver(opened, 3n, tell, { pages: 5 })
      handOver(opened, 4n, tell)
      assert.deepStrictEqual(told.splice(0), ["1 entered", "2 entered"])
      yield* opened.wal.advanceAndFlush()
      // What it needs is counted by what it stored: 4 fits beside it.
      assert.deepStrictEqual(told.splice(0), ["1 durable", "2 durable", "3 entered", "4 entered"])
      yield* opened.wal.advanceAndFlush()
      assert.deepStrictEqual(told.splice(0), ["3 durable", "4 durable"])
    }))

  it.effect("PW-12 what cannot be written counts as queued: no memory without bound", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk, twoRecords)
      const told: Array<string> = []
      const tell = (what: string) => told.push(what)
      const fault = disk.inject({
        operation: "write",
        path: /-wal-seg-/,
        fault: { kind: "error", code: "ENOSPC" },
        times: Infinity
      })
      for (const seq of [1n, 2n, 3n]) handOver(opened, seq, tell)
      for (let attempt = 0; attempt < 5; attempt++) assert.isFalse(yield* opened.wal.advanceAndFlush())
      assert.deepStrictEqual(told.splice(0), ["1 entered", "2 entered"])
      fault.remove()
      yield* opened.wal.advanceAndFlush()
      assert.deepStrictEqual(told.splice(0), ["1 durable", "2 durable", "3 entered"])
    }))

  it.effect("PW-12 stepping back frees the line for those behind; nothing stays of it", () =>
    Effect.gen(function*() {
      const opened = yield* openByHand(emptyDisk(), twoRecords)
      const told: Array<string> = []
      const tell = (what: string) => told.push(what)
      handOver(opened, 1n, tell)
      const stepBack = handOver(opened, 2n, tell, { pages: 2 })
      handOver(opened, 2n, tell)
      assert.deepStrictEqual(told.splice(0), ["1 entered"])
      stepBack()
      assert.deepStrictEqual(told.splice(0), ["2 entered"])
      stepBack()
      yield* opened.wal.advanceAndFlush()
      assert.deepStrictEqual(told.splice(0), ["1 durable", "2 durable"])
      handOver(opened, 3n, tell, { pages: 9 })
      assert.deepStrictEqual(told, ["3 entered"], "no room is taken by who stepped back")
    }))

  it.effect("PW-12 a writer that is interrupted in line leaves nothing behind", () =>
    Effect.gen(function*() {
      const opened = yield* openByHand(emptyDisk(), { maxQueuedBytes: encodedRecord })
      const writer = yield* opened.wal.writer
      yield* writer.submitBatch(batchOf(1, { 2: 1 }))
      const gone = yield* Effect.forkChild(writer.submitBatch(batchOf(2, { 2: 2 })), { startImmediately: true })
      const stays = yield* Effect.forkChild(writer.submitBatch(batchOf(3, { 2: 3 })), { startImmediately: true })
      yield* Fiber.interrupt(gone)
      assert.isTrue(isWaiting(stays))
      yield* opened.wal.advanceAndFlush()
      assert.strictEqual((yield* Fiber.join(stays)).commitSeq, 2n)
      yield* opened.wal.advanceAndFlush()
      assert.strictEqual(stampOf(opened, 2), 3)
    }))

  it.effect("PW-12 who is interrupted while he waits for an epoch leaves nothing behind", () =>
    Effect.gen(function*() {
      const waiters = new EpochWaiters()
      const fibers = yield* Effect.forEach(
        Array.from({ length: 300 }),
        (_, at) =>
          Effect.forkChild(waiters.await(WalEpoch.make(BigInt(at % 3)), () => undefined), { startImmediately: true })
      )
      assert.strictEqual(waiters.size, 300)
      for (const fiber of fibers.slice(3)) yield* Fiber.interrupt(fiber)
      assert.strictEqual(waiters.size, 3)
      waiters.raise(WalEpoch.make(1n))
      const wake = waiters.takeDue()
      assert.deepStrictEqual(fibers.slice(0, 3).map(isWaiting), [true, true, true], "taken out, not told yet")
      assert.strictEqual(waiters.size, 1)
      wake()
      assert.deepStrictEqual(fibers.slice(0, 3).map(isWaiting), [false, false, true])
      waiters.fail(new LogClosed({ log: "test" }))
      assert.strictEqual(waiters.size, 0)
    }))

  it.effect("PW-11 whoever is told may hand over again at once, and sees everything in place", () =>
    Effect.gen(function*() {
      const opened = yield* openByHand(emptyDisk(), { maxQueuedBytes: 3 * encodedRecord })
      const { wal } = opened
      const told: Array<string> = []
      const tell = (what: string) => told.push(what)
      const seen: Array<unknown> = []
      const epoch = wal.epoch()
      for (const seq of [1n, 2n]) {
        handOver(opened, seq, tell, {
          onDurable: () => {
            seen.push([wal.published(), wal.durableEpoch(), stampOf(opened, 2), wal.inLog().records])
            handOver(opened, seq + 2n, tell)
          }
        })
      }
      yield* wal.advanceAndFlush()
      assert.deepStrictEqual(told, ["1 entered", "2 entered", "1 durable", "3 entered", "2 durable", "4 entered"])
      assert.deepStrictEqual(seen, [[2n, epoch, 2, 2], [2n, epoch, 2, 2]])
      yield* wal.advanceAndFlush()
      assert.deepStrictEqual(told.slice(6), ["3 durable", "4 durable"])
    }))

  it.effect("PW-08 storing a batch never runs a cycle inside, however large the batch is", () =>
    Effect.gen(function*() {
      for (const controller of [false, true]) {
        const opened = yield* openByHand(emptyDisk(), {
          ticker: true,
          controller,
          control: { maxBatchBytes: encodedRecord }
        })
        yield* settle
        const told: Array<string> = []
        handOver(opened, 1n, (what) => told.push(what))
        assert.deepStrictEqual(told, ["1 entered"])
        yield* settle
        assert.deepStrictEqual(told, ["1 entered", "1 durable"], "but at once afterwards")
        yield* opened.close
      }
    }))

  it.effect("PW-29 a checkpoint that wants quiet drains first, and lets nobody in meanwhile", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const told: Array<string> = []
      const tell = (what: string) => told.push(what)
      handOver(opened, 1n, tell)
      const hold = disk.hold({ operation: "syncDirectory", path: "/data" })
      const checkpoint = yield* Effect.forkChild(opened.wal.checkpoint("full"), { startImmediately: true })
      yield* hold.reached
      handOver(opened, 2n, tell)
      assert.deepStrictEqual(told, ["1 entered"])
      yield* hold.release
      const report = yield* Fiber.join(checkpoint)
      assert.deepInclude(report, { blocked: false, framesCopied: 1 })
      assert.deepStrictEqual(told, ["1 entered", "1 durable", "2 entered"])
      yield* opened.wal.advanceAndFlush()
      assert.strictEqual(told.at(-1), "2 durable")
    }))

  it.effect("PW-29 a checkpoint that is interrupted while it waits for quiet lets everybody in again", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const told: Array<string> = []
      const tell = (what: string) => told.push(what)
      handOver(opened, 1n, tell)
      const hold = disk.hold({ operation: "syncDirectory", path: "/data" })
      const checkpoint = yield* Effect.forkChild(opened.wal.checkpoint("full"), { startImmediately: true })
      yield* hold.reached
      handOver(opened, 2n, tell)
      const interrupting = yield* Effect.forkChild(Fiber.interrupt(checkpoint), { startImmediately: true })
      yield* hold.release
      yield* Fiber.join(interrupting)
      assert.deepStrictEqual(told, ["1 entered", "1 durable", "2 entered"])
      assert.isTrue(yield* opened.wal.advanceAndFlush())
      assert.strictEqual(told.at(-1), "2 durable")
    }))

  it.effect("PW-15 a checkpoint that cannot drain fails, and the log goes on", () =>
    Effect.gen(function*() {
      const disk = emptyDisk()
      const opened = yield* openByHand(disk)
      const told: Array<string> = []
      const tell = (what: string) => told.push(what)
      handOver(opened, 1n, tell)
      disk.inject({ operation: "write", path: /-wal-seg-/, fault: { kind: "error", code: "ENOSPC" } })
      const failed = yield* Effect.flip(opened.wal.checkpoint("full"))
      assert.strictEqual(failed._tag, "CheckpointFailed")
      handOver(opened, 2n, tell)
      assert.isTrue(yield* opened.wal.advanceAndFlush())
      assert.isTrue(yield* opened.wal.advanceAndFlush())
      assert.deepStrictEqual(told, ["1 entered", "2 entered", "1 durable", "2 durable"])
    }))
})

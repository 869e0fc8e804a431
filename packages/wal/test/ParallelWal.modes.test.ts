/** Modes of a parallel WAL: the two ways to encode, falling back, what is traced, what the controller decides. */
import { assert, describe, it } from "@effect/vitest"
import { toCommitSeq, toPageNumber, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import type { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import { Clock, Effect, Exit, References } from "effect"
import { TestClock } from "effect/testing"
import { certificatesPath } from "../src/CertificateFormat.ts"
import * as LogMetrics from "../src/LogMetrics.ts"
import type { ControlSurface } from "../src/ParallelWalControl.ts"
import { segmentPath } from "../src/SegmentFormat.ts"
import { walEpoch } from "./support/certificates.ts"
import { outcomeOf, settle } from "./support/engine.ts"
import {
  batchOf,
  byHand,
  emptyDisk,
  handOver,
  imageOf,
  ofLog,
  openByHand,
  type OpenedParallel,
  ownMetrics,
  recording,
  segmentsOn,
  slowDisk,
  stampOf
} from "./support/parallelWal.ts"
import { memoryPath } from "./support/sqliteWal.ts"

/** Hands over a commit of page 2 whose image is another one each time that it is asked for. */
const handOverChanging = ({ log }: OpenedParallel, seq: bigint, stamps: ReadonlyArray<number>) =>
  Effect.callback<void, unknown>((resume) => {
    let asked = 0
    log.admit({
      length: log.commitBytes(1),
      enter: () => {
        log.appendUnsafe({
          token: { id: toTxnId(seq), epoch: TxnEpoch.make(0) },
          seq: toCommitSeq(seq),
          pages: [toPageNumber(2)],
          image: () => imageOf(2, stamps[Math.min(asked++, stamps.length - 1)] ?? 0),
          databasePages: 4
        }, { mode: "durable", succeed: () => {}, fail: () => {} })
        resume(Exit.void)
      },
      refuse: (ended) => resume(Exit.fail(ended))
    })
  })

const shadowing: Partial<ControlSurface> = { mode: "shadow_compare" }

const certificatesOf = (disk: MemoryDisk) =>
  Effect.map(
    Effect.scoped(openByHand(disk)),
    ({ wal }) => wal.startUp.certificates?.certificates.map(({ certificate }) => certificate) ?? []
  )

describe("ParallelWal: two ways to encode", () => {
  it.effect("PW-30 a planted difference publishes nothing of the parallel path, is marked, and falls back", () =>
    ownMetrics(recording(({ lines, spans }) =>
      Effect.gen(function*() {
        const disk = emptyDisk()
        const opened = yield* openByHand(disk, { control: shadowing })
        const { wal } = opened
        const told: Array<string> = []
        handOver(opened, 1n, (what) => told.push(what))
        // Asked once for the records that are kept, and once for what the lane holds.
        yield* handOverChanging(opened, 2n, [20, 99])
        handOver(opened, 3n, (what) => told.push(what))
        assert.strictEqual(wal.fallback(), "none", "nobody has looked yet")
        assert.isTrue(yield* wal.advanceAndFlush())
        assert.strictEqual(wal.fallback(), "publication_mismatch")
        assert.deepStrictEqual(told.splice(0), ["1 entered", "3 entered", "1 durable", "3 durable"])
        const bytes = disk.readFile(segmentPath(memoryPath, walEpoch(0))) ?? new Uint8Array(0)
        assert.isTrue(Buffer.from(bytes).includes(imageOf(2, 20)), "the conservative image")
        assert.isFalse(Buffer.from(bytes).includes(imageOf(2, 99)), "and nothing of the parallel one")
        assert.strictEqual(stampOf(opened, 2), 3)
        assert.strictEqual((yield* ofLog(LogMetrics.shadowCompares)).count, 3)
        assert.strictEqual((yield* ofLog(LogMetrics.shadowDifferences)).count, 1)
        const verdicts = spans.filter(({ name }) => name === "parallel_wal_lane_stage")
          .map(({ attributes }) => attributes.get("shadow_verdict"))
        assert.deepStrictEqual(verdicts, ["clean", "diverged", "clean"])
        const error = lines.find(({ level }) => level === "Error")
        assert.include(error?.message ?? "", "commit 2")
        assert.strictEqual(error?.annotations["fallback_reason"], "publication_mismatch")
        assert.isTrue(lines.some(({ level, message }) => level === "Warn" && message.includes("publication_mismatch")))

        // Conservatively the image is asked for once only as far as it counts, and nothing is compared.
        yield* handOverChanging(opened, 4n, [40, 98])
        yield* wal.advanceAndFlush()
        assert.strictEqual(stampOf(opened, 2), 40)
        assert.strictEqual((yield* ofLog(LogMetrics.shadowCompares)).count, 3)
        assert.strictEqual(wal.fallback(), "publication_mismatch", "it does not end by itself")
        yield* wal.resumeParallel
        assert.strictEqual(wal.fallback(), "none")
        assert.strictEqual((yield* ofLog(LogMetrics.fallbackActive)).value, 0)
        handOver(opened, 5n, (what) => told.push(what))
        yield* wal.advanceAndFlush()
        assert.strictEqual((yield* ofLog(LogMetrics.shadowCompares)).count, 4)
        yield* opened.close
        assert.deepStrictEqual(
          (yield* certificatesOf(disk)).map(({ fallbackActive }) => fallbackActive),
          [true, true, false]
        )
        const reopened = yield* openByHand(disk)
        assert.strictEqual(reopened.wal.published(), 5n)
        assert.strictEqual(stampOf(reopened, 2), 5)
      })
    )))

  it.effect("PW-30 auto checks batch n when (n - 1) mod 1000 is below the share; what is refused counts as none", () =>
    ownMetrics(recording(({ spans }) =>
      Effect.gen(function*() {
        const { wal } = yield* openByHand(emptyDisk(), {
          control: { laneCount: 1, shadowComparePerMille: 2 },
          overflowPolicy: "block",
          laneCapacityBytes: 600 * 600
        })
        const writer = yield* wal.writer
        const refused = Object.fromEntries(Array.from({ length: 700 }, (_, page) => [page + 2, 1]))
        assert.strictEqual(yield* outcomeOf(writer.submitBatch(batchOf(1, refused, 800))), "LaneFull")
        // That has latched: two epochs later it works in parallel again.
        for (const id of [1, 2]) {
          yield* writer.submitBatch(batchOf(id, { 2: id }))
          yield* wal.advanceAndFlush()
        }
        assert.strictEqual(wal.fallback(), "none")
        for (let id = 3; id <= 2003; id++) {
          yield* writer.submitBatch(batchOf(id, { 2: id }))
          if (id % 500 === 0) yield* wal.advanceAndFlush()
        }
        yield* wal.advanceAndFlush()
        const staged = spans.filter(({ name }) => name === "parallel_wal_lane_stage")
        // Batches 1 and 2 were stored conservatively.
        assert.deepStrictEqual(staged.map(({ attributes }) => attributes.get("commit_seq_low")), [
          "1001",
          "1002",
          "2001",
          "2002"
        ])
        assert.strictEqual((yield* ofLog(LogMetrics.shadowCompares)).count, 4)
        assert.strictEqual((yield* ofLog(LogMetrics.shadowDifferences)).count, 0)
      })
    )))

  it.effect("PW-02 PW-30 every mode writes the same bytes", () =>
    Effect.gen(function*() {
      const contents: Array<unknown> = []
      for (const mode of ["auto", "conservative", "shadow_compare"] as const) {
        const disk = emptyDisk()
        const opened = yield* openByHand(disk, { control: { mode, laneCount: 3 } })
        const writers = yield* Effect.forEach(Array.from({ length: 3 }), () => opened.wal.writer)
        for (let id = 1; id <= 12; id++) {
          yield* (writers[id % 3] ?? assert.fail()).submitBatch(batchOf(100 - id, { [2 + id % 3]: id, 1: id }))
          // In the middle of an epoch the way changes.
          if (id === 6) yield* opened.wal.forceConservative
          if (id === 8) yield* opened.wal.resumeParallel
          if (id % 4 === 0) yield* opened.wal.advanceAndFlush()
        }
        contents.push(
          segmentsOn(disk).map((epoch) =>
            Buffer.from(disk.readFile(segmentPath(memoryPath, walEpoch(Number(epoch)))) ?? []).toString("hex")
          )
        )
        assert.deepStrictEqual([1, 2, 3, 4].map((page) => stampOf(opened, page)).slice(1), [12, 10, 11])
      }
      assert.lengthOf(contents[0] as ReadonlyArray<string>, 3)
      assert.deepStrictEqual(contents[1], contents[0])
      assert.deepStrictEqual(contents[2], contents[0])
    }))

  it.effect("PW-12 images are copied: a writer uses its memory again as soon as the batch is accepted", () =>
    Effect.gen(function*() {
      for (const mode of ["auto", "conservative", "shadow_compare"] as const) {
        const opened = yield* openByHand(emptyDisk(), { control: { mode } })
        const writer = yield* opened.wal.writer
        const memory = imageOf(2, 7)
        yield* writer.submitBatch({ ...batchOf(1, {}), records: [{ page: toPageNumber(2), after: memory }] })
        memory.fill(0xff)
        yield* opened.wal.advanceAndFlush()
        assert.strictEqual(stampOf(opened, 2), 7, mode)
        assert.strictEqual(opened.wal.fallback(), "none")
      }
    }))

  it.effect("PW-31 an operator forces conservative mode for the interval that is open, and resumes", () =>
    ownMetrics(recording(({ lines }) =>
      Effect.gen(function*() {
        const disk = emptyDisk()
        const { close, wal } = yield* openByHand(disk, { control: { laneCount: 2 } })
        const writers = [yield* wal.writer, yield* wal.writer]
        const second = writers[1] ?? assert.fail()
        yield* wal.forceConservative
        yield* wal.forceConservative
        assert.strictEqual(wal.fallback(), "operator_forced")
        assert.strictEqual((yield* ofLog(LogMetrics.fallbackActive)).value, 1)
        yield* second.submitBatch(batchOf(1, { 2: 1 }))
        yield* wal.advanceAndFlush()
        yield* wal.resumeParallel
        assert.strictEqual((yield* ofLog(LogMetrics.fallbackActive)).value, 0)
        yield* second.submitBatch(batchOf(2, { 2: 2 }))
        yield* wal.advanceAndFlush()
        assert.lengthOf(lines, 2, "said once each")
        yield* close
        const certificates = yield* certificatesOf(disk)
        assert.deepStrictEqual(
          certificates.map(({ fallbackActive, laneRecords }) => ({ fallbackActive, laneRecords })),
          [{ fallbackActive: true, laneRecords: [1] }, { fallbackActive: false, laneRecords: [0, 1] }]
        )
      })
    )))
})

describe("ParallelWal: traces", () => {
  it.effect("PW-32 one span per epoch with the fields of the flush, none per commit; failures stand in it", () =>
    recording(({ lines, spans }) =>
      Effect.gen(function*() {
        const disk = slowDisk()
        const { close, wal } = yield* openByHand(disk, { control: { shadowComparePerMille: 0 } })
        const writer = yield* wal.writer
        for (const id of [1, 2, 3]) yield* writer.submitBatch(batchOf(id, { 2: id }))
        disk.inject({ operation: "rename", path: /-wal-seg-/, fault: { kind: "error", code: "EIO" }, times: 3 })
        yield* TestClock.adjust("5 millis")
        for (let attempt = 0; attempt < 3; attempt++) {
          assert.isFalse(yield* wal.advanceAndFlush().pipe(Effect.withSpan("somebody")))
          yield* TestClock.adjust("10 millis")
        }
        const flushes = () => spans.filter(({ name }) => name.startsWith("parallel_wal"))
        assert.deepStrictEqual(flushes().map(({ status }) => status._tag), ["Started"])
        assert.isTrue(yield* wal.advanceAndFlush())
        assert.deepStrictEqual(flushes().map(({ name, parent }) => [name, parent._tag]), [[
          "parallel_wal_lane_flush",
          "None"
        ]])
        const [flush] = flushes()
        const fields = {
          component: "parallel_wal",
          trace_id: `${memoryPath}/0`,
          mode: "auto",
          epoch: "0",
          commit_seq_low: "1",
          commit_seq_high: "3",
          fallback_active: false,
          fallback_reason: "none",
          policy_id: "thread_slot_v1",
          policy_version: 1
        }
        assert.deepStrictEqual(Object.fromEntries(flush?.attributes ?? []), fields)
        assert.deepInclude(flush?.status, { _tag: "Ended", startTime: 5_000_000n, endTime: 35_000_000n })
        // Attempts 1 and 2 are said, then it grows quiet; each line has the fields.
        assert.deepStrictEqual(lines.map(({ annotations }) => annotations), [fields, fields])

        yield* wal.advanceAndFlush()
        assert.lengthOf(flushes(), 1, "an empty epoch is no flush")
        yield* close
        const next = yield* openByHand(disk)
        yield* (yield* next.wal.writer).submitBatch(batchOf(4, { 2: 4 }))
        yield* next.wal.advanceAndFlush()
        assert.strictEqual(flushes().at(-1)?.attributes.get("recovery_epoch"), "0")
      })
    ))

  it.effect("PW-32 a batch that was sampled has a span from its staging to the closing, below that of its epoch", () =>
    recording(({ spans }) =>
      Effect.gen(function*() {
        const { wal } = yield* openByHand(emptyDisk(), { control: { laneCount: 2, shadowComparePerMille: 1 } })
        const writers = [yield* wal.writer, yield* wal.writer]
        yield* TestClock.adjust("2 millis")
        yield* (writers[1] ?? assert.fail()).submitBatch(batchOf(1, { 2: 1 }))
        yield* TestClock.adjust("3 millis")
        yield* (writers[0] ?? assert.fail()).submitBatch(batchOf(2, { 2: 2 }))
        yield* wal.advanceAndFlush()
        assert.deepStrictEqual(spans.map(({ name }) => name), ["parallel_wal_lane_flush", "parallel_wal_lane_stage"])
        const [flush, stage] = spans
        assert.strictEqual(stage?.parent._tag === "Some" ? stage.parent.value.spanId : "", flush?.spanId)
        assert.deepInclude(stage?.status, { _tag: "Ended", startTime: 2_000_000n, endTime: 5_000_000n })
        assert.deepInclude(Object.fromEntries(stage?.attributes ?? []), {
          lane: 1,
          commit_seq_low: "1",
          commit_seq_high: "1",
          shadow_verdict: "clean"
        })
      })
    ))

  it.effect("PW-32 a flush that ends in poison has a span that failed; with tracing off there is none", () =>
    recording(({ spans }) =>
      Effect.gen(function*() {
        const disk = emptyDisk()
        const opened = yield* openByHand(disk, { control: shadowing })
        handOver(opened, 1n, () => {})
        yield* opened.wal.advanceAndFlush().pipe(Effect.provideService(References.TracerEnabled, false))
        assert.deepStrictEqual(spans, [])
        handOver(opened, 2n, () => {})
        disk.inject({ operation: "write", path: certificatesPath(memoryPath), fault: { kind: "error", code: "EIO" } })
        yield* Effect.exit(opened.wal.advanceAndFlush())
        const [flush] = spans
        assert.isTrue(flush?.status._tag === "Ended" && Exit.isFailure(flush.status.exit))
      })
    ))
})

describe("ParallelWal: the controller", () => {
  /** Closed-loop writers, each waiting for its own durability. */
  const run = (disk: MemoryDisk, controller: boolean) =>
    Effect.gen(function*() {
      const opened = yield* openByHand(disk, { ...byHand, ticker: true, controller, control: { laneCount: 4 } })
      const { wal } = opened
      const writers = yield* Effect.forEach(Array.from({ length: 6 }), () => wal.writer)
      let done = 0
      yield* Effect.forEach(writers, (writer, at) =>
        Effect.forEach(Array.from({ length: 5 }), (_, n) =>
          Effect.flatMap(
            writer.submitBatch(batchOf(at * 5 + n + 1, { [2 + at]: n + 1 }, 8)),
            ({ epoch }) => Effect.tap(wal.awaitDurable(epoch, "1 minute"), () => Effect.sync(() => done++))
          )), { concurrency: "unbounded", discard: true }).pipe(Effect.forkChild({ startImmediately: true }))
      const startedAt = yield* Clock.currentTimeMillis
      while (done < 30) {
        yield* TestClock.adjust("1 millis")
        yield* settle
      }
      const millis = (yield* Clock.currentTimeMillis) - startedAt
      const stamps = writers.map((_, at) => stampOf(opened, 2 + at))
      const decisions = wal.decisions()
      yield* opened.close
      return { stamps, decisions, millis, tip: wal.published() }
    })

  it.effect("PW-33 switching it off changes when, never what; every decision is recorded", () =>
    recording(({ spans }) =>
      Effect.gen(function*() {
        const off = yield* run(slowDisk(), false)
        const before = spans.length
        assert.deepStrictEqual(off.decisions, [])
        assert.isTrue(spans.every(({ attributes }) => !attributes.has("decision_id")))
        const disk = slowDisk()
        const on = yield* run(disk, true)
        assert.deepStrictEqual(on.stamps, off.stamps)
        assert.deepStrictEqual([on.tip, off.tip], [30n, 30n])
        assert.isBelow(on.millis, off.millis, "it closes epochs before their time")
        assert.isAbove(on.decisions.length, 0)
        for (const [at, decision] of on.decisions.entries()) {
          assert.strictEqual(decision.id, at + 1)
          assert.isAbove(decision.policyId.length, 0)
          assert.isTrue(decision.confidenceBasisPoints >= 0 && decision.confidenceBasisPoints <= 10_000)
          assert.isTrue(decision.expectedLossMicros >= 0 && decision.regretMicros >= 0)
          assert.strictEqual(decision.fallback, "none")
        }
        // The flushes that it led to name the decision.
        const sealing = on.decisions.filter(({ action }) => action === "seal_now").map(({ id }) => id)
        const named = spans.slice(before).filter(({ name }) => name === "parallel_wal_lane_flush")
          .flatMap(({ attributes }) => attributes.get("decision_id") ?? [])
        assert.isAbove(named.length, 0)
        assert.includeMembers(sealing, named as Array<number>)
        assert.strictEqual(new Set(named).size, named.length, "no two of them the same")
      })
    ))

  it.effect("PW-32 PW-33 an epoch that nobody decided to close names no decision", () =>
    recording(({ spans }) =>
      Effect.gen(function*() {
        const { wal } = yield* openByHand(emptyDisk(), { ...byHand, ticker: true, controller: true })
        const writer = yield* wal.writer
        yield* settle
        yield* writer.submitBatch(batchOf(1, { 2: 1 }))
        yield* settle
        assert.strictEqual(wal.published(), 1n)
        yield* writer.submitBatch(batchOf(2, { 2: 2 }))
        yield* wal.advanceAndFlush()
        const named = spans.filter(({ name }) => name === "parallel_wal_lane_flush")
          .map(({ attributes }) => attributes.get("decision_id"))
        assert.deepStrictEqual(named, [1, undefined])
      })
    ))

  it.effect("PW-33 an idle log decides nothing, and keeps its lanes; a number of lanes that was asked for stays", () =>
    Effect.gen(function*() {
      const idle = yield* openByHand(emptyDisk(), { ...byHand, ticker: true, controller: true })
      const lanes = idle.wal.laneCount()
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(idle.wal.decisions(), [])
      assert.strictEqual(idle.wal.laneCount(), lanes)

      const asked = yield* openByHand(emptyDisk(), {
        ...byHand,
        ticker: true,
        controller: true,
        control: { laneCount: 9 }
      })
      const writer = yield* asked.wal.writer
      for (let id = 1; id <= 10; id++) {
        yield* writer.submitBatch(batchOf(id, { 2: id }))
        yield* TestClock.adjust("20 millis")
        yield* settle
      }
      assert.strictEqual(asked.wal.published(), 10n)
      assert.strictEqual(asked.wal.laneCount(), 9)
    }))
})

import { assert, describe, it } from "@effect/vitest"
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import { Conflict, SchemaMismatch, SerializationFailure } from "@tidemark/coordinator/CoordinatorErrors"
import * as CoordinatorLease from "@tidemark/coordinator/CoordinatorLease"
import * as CoordinatorMetrics from "@tidemark/coordinator/CoordinatorMetrics"
import { PageSize, SchemaEpoch, toCommitSeq } from "@tidemark/core/Scalars"
import { Exhausted } from "@tidemark/wal/LogErrors"
import { Effect, Fiber, Metric } from "effect"
import { TestClock } from "effect/testing"
import {
  commitPages,
  filled,
  forkNow,
  grow,
  isWaiting,
  makeDisk,
  makeRequest,
  openMemory,
  outcomeOf,
  page,
  pages,
  published,
  readNow,
  settle,
  valueOf
} from "./support/database.ts"
import { test } from "./support/logs.ts"
import { openRecording, RecordingLog } from "./support/recordingLog.ts"

const frameBytes = (pageBytes: number) => 24 + pageBytes

/** Opens a database of 50 pages on a disk of its own. */
const open50 = Effect.gen(function*() {
  const disk = makeDisk()
  const database = yield* openMemory(disk)
  yield* grow(database, 50)
  return { ...database, disk, tip: published(database) }
})

const after = (tip: bigint, count: number) => toCommitSeq(tip + BigInt(count))

describe("CompatCoordinator: conflicts", () => {
  test.overEveryLog("CO-01 a page that changed above the snapshot is a conflict; all of them are listed, with the highest sequence", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const { coordinator, tip } = database
      const stale = yield* makeRequest(database, [30, 9, 4, 20, 31], { value: 7 })
      yield* commitPages(database, [20, 3])
      yield* commitPages(database, [4])
      yield* commitPages(database, [9, 40])
      yield* commitPages(database, [41])
      const conflict = yield* Effect.flip(coordinator.commit(stale))
      assert.instanceOf(conflict, Conflict)
      assert.deepInclude(conflict, {
        pages: pages(4, 9, 20),
        conflictingSeq: after(tip, 3),
        reason: "write set",
        isRetryable: true,
        sqliteCode: 517
      })
      // Nothing of it was written, and nothing was assigned to it.
      assert.strictEqual(valueOf(yield* readNow(database, 30)), 0)
      assert.strictEqual((yield* commitPages(database, [30])).commitSeq, after(tip, 5))
      assert.deepStrictEqual(yield* coordinator.outcome(stale.token), { _tag: "aborted" })
    }))

  test.overEveryLog("CO-01 at the snapshot itself nothing conflicts, nor do pages that nobody else wrote", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const stale = yield* makeRequest(database, [5])
      yield* commitPages(database, [6])
      yield* database.coordinator.commit(stale)
      yield* commitPages(database, [5, 6])
      assert.strictEqual(published(database), after(database.tip, 3))
    }))

  test.overEveryLog("CO-01 a cut and a page that changed are one conflict: all pages, the highest of both sequences", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const { coordinator, tip } = database
      const stale = yield* makeRequest(database, [3, 12, 48])
      yield* commitPages(database, [3])
      yield* commitPages(database, [1], { databasePages: 40 })
      const conflict = yield* Effect.flip(coordinator.commit(stale))
      assert.deepInclude(conflict, { pages: pages(3, 48), conflictingSeq: after(tip, 2) })
    }))

  it.effect("CO-02 sequences are dense and in the order of the log, whatever the order of the answers", () =>
    Effect.gen(function*() {
      const log = new RecordingLog({ tip: 10n })
      const opened = yield* openRecording(log)
      const answers: Array<bigint> = []
      for (let writer = 0; writer < 20; writer++) {
        const request = yield* makeRequest(opened, [writer + 1, writer + 2])
        yield* forkNow(
          Effect.match(opened.coordinator.commit(request), {
            onSuccess: ({ commitSeq }) => {
              answers.push(commitSeq)
            },
            onFailure: () => {}
          })
        )
      }
      // Each one shares a page with the one before: every second is refused, and takes no sequence.
      assert.deepStrictEqual(
        log.commits.map(({ seq }) => seq),
        Array.from({ length: 10 }, (_, at) => after(10n, at + 1))
      )
      assert.deepStrictEqual(
        log.commits.map(({ pages: [first] }) => first),
        Array.from({ length: 10 }, (_, at) => page(2 * at + 1))
      )
      log.complete(4)
      log.complete()
      yield* settle
      assert.deepStrictEqual(answers, log.commits.map(({ seq }) => seq))
    }))

  it.effect("CO-02 pages are reserved in the step that validates them: the second of two waiting requests sees the first", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      log.isFull = true
      const first = yield* makeRequest(opened, [1, 2])
      const second = yield* makeRequest(opened, [2, 3])
      const fibers = [
        yield* forkNow(opened.coordinator.commit(first)),
        yield* forkNow(Effect.flip(opened.coordinator.commit(second)))
      ] as const
      assert.strictEqual(log.waiting.length, 2)
      log.letIn()
      log.letIn()
      assert.deepInclude(yield* Fiber.join(fibers[1]), { pages: pages(2), conflictingSeq: toCommitSeq(1n) })
      assert.isTrue(isWaiting(fibers[0]))
      log.complete()
      assert.strictEqual((yield* Fiber.join(fibers[0])).commitSeq, toCommitSeq(1n))
    }))

  test.overLogs("CO-03 three requests on different pages in one batch: three sequences, one sync", (log) =>
    Effect.gen(function*() {
      const database = yield* open50
      const { coordinator, disk, tip } = database
      // The first commit of a generation also syncs its header; this one is not the first.
      const hold = disk.hold(log.batchWrite)
      const before = yield* makeRequest(database, [2])
      const first = yield* forkNow(coordinator.commit(before))
      yield* hold.reached
      const requests = yield* Effect.forEach([10, 20, 30], (number) => makeRequest(database, [number]))
      const batch = yield* Effect.forEach(requests, (request) => forkNow(coordinator.commit(request)))
      const trace = disk.record()
      yield* hold.release
      yield* Fiber.join(first)
      const answers = yield* Effect.forEach(batch, Fiber.join)
      trace.stop()
      assert.deepStrictEqual(answers.map(({ commitSeq }) => commitSeq), [2, 3, 4].map((at) => after(tip, at)))
      const syncs = trace.steps.filter(({ kind }) => kind === "syncData" || kind === "syncFull")
      const expected = [...log.batchSyncs, ...log.batchSyncs]
      assert.strictEqual(syncs.length, expected.length, "one batch for the first, one for the three")
      for (const [at, path] of expected.entries()) assert.match(syncs[at]?.path ?? "", path)
    }))

  test.overEveryLog("CO-04 two requests on one page in one batch: the first wins, the second conflicts with its sequence", (log) =>
    Effect.gen(function*() {
      const database = yield* open50
      const { coordinator, disk, tip } = database
      const first = yield* makeRequest(database, [7, 8], { value: 1 })
      const second = yield* makeRequest(database, [8, 9], { value: 2 })
      const hold = disk.hold(log.batchWrite)
      const winner = yield* forkNow(coordinator.commit(first))
      const conflict = yield* Effect.flip(coordinator.commit(second))
      assert.deepInclude(conflict, { pages: pages(8), conflictingSeq: after(tip, 1) })
      assert.isTrue(isWaiting(winner), "the loser is told before the winner is durable")
      yield* hold.reached
      yield* hold.release
      yield* Fiber.join(winner)
      assert.strictEqual(valueOf(yield* readNow(database, 8)), 1)
      assert.strictEqual(valueOf(yield* readNow(database, 9)), 0)
    }))
})

describe("CompatCoordinator: places and states", () => {
  test.overEveryLog("CO-06 three pages of 4096 bytes take 3 x (24 + 4096) of a SQLite WAL; the next commit starts there", (log) =>
    Effect.gen(function*() {
      const database = yield* openMemory(makeDisk(), { pageSize: PageSize.make(4096) })
      // A log without offsets answers 0.
      const places = log.frameBytes(4096) === 0 ? [0, 0, 0] : [0, 12_360, 12_360 + frameBytes(4096)]
      const found = yield* Effect.forEach([[1, 2, 3], [2], [2]], (numbers) => commitPages(database, numbers))
      assert.deepStrictEqual(found.map(({ walOffset }) => walOffset), places)
    }))

  it.effect("CO-06 restoreState continues from given values: sequence 11, offset 12,345", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      const recentCommits = [[page(4), toCommitSeq(9n)], [page(6), toCommitSeq(10n)]] as const
      yield* opened.coordinator.restoreState({ nextSeq: toCommitSeq(11n), recentCommits, walOffset: 12_345 })
      assert.deepStrictEqual(log.restored, [{ tip: toCommitSeq(10n), walOffset: 12_345 }])

      const at = (high: bigint) => ({ snapshot: { high: toCommitSeq(high), schemaEpoch: SchemaEpoch.make(0n) } })
      assert.deepInclude(yield* Effect.flip(commitPages(opened, [4, 5, 6], at(8n))), {
        pages: pages(4, 6),
        conflictingSeq: toCommitSeq(10n),
        reason: "write set"
      })
      assert.deepInclude(yield* Effect.flip(commitPages(opened, [4, 5, 6], at(9n))), { pages: pages(6) })
      assert.deepInclude(yield* Effect.flip(commitPages(opened, [5], at(7n))), {
        reason: "floor",
        conflictingSeq: toCommitSeq(8n)
      })
      const commit = yield* forkNow(commitPages(opened, [4, 6], at(10n)))
      const next = yield* forkNow(commitPages(opened, [5], at(10n)))
      log.complete()
      assert.deepStrictEqual(yield* Fiber.join(commit), { commitSeq: toCommitSeq(11n), walOffset: 12_345 })
      assert.deepStrictEqual(yield* Fiber.join(next), {
        commitSeq: toCommitSeq(12n),
        walOffset: 12_345 + 2 * frameBytes(512)
      })
    }))

  test.overLogs("CO-06 on a real log an offset or a sequence that is not its end is a defect, and its end (12,360) works", (log) =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const first = yield* openMemory(disk, { pageSize: PageSize.make(4096) })
      yield* commitPages(first, [1, 2, 3])
      yield* first.close
      const { coordinator, ...database } = yield* openMemory(disk, { pageSize: PageSize.make(4096) })
      const restore = (walOffset: number, nextSeq = 2n) =>
        outcomeOf(coordinator.restoreState({ nextSeq: toCommitSeq(nextSeq), recentCommits: [], walOffset }))
      const end = 3 * log.frameBytes(4096)
      assert.strictEqual(yield* restore(12_345), "defect")
      assert.strictEqual(yield* restore(end, 11n), "defect")
      assert.strictEqual(yield* restore(end), "success")
      const answer = yield* commitPages({ coordinator, ...database }, [2])
      assert.deepStrictEqual(answer, { commitSeq: toCommitSeq(2n), walOffset: end })
    }))

  it.effect("CO-06 a state is not restored while a commit is on its way", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      yield* forkNow(commitPages(opened, [1]))
      const restore = opened.coordinator.restoreState({ nextSeq: toCommitSeq(2n), recentCommits: [], walOffset: 0 })
      assert.strictEqual(yield* outcomeOf(restore), "defect")
      assert.deepStrictEqual(log.restored, [])
      log.complete()
    }))

  test.overEveryLog("an empty write set takes no sequence and answers its snapshot", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const request = yield* makeRequest(database, [])
      yield* commitPages(database, [3])
      assert.deepStrictEqual(yield* database.coordinator.commit(request), { commitSeq: database.tip, walOffset: 0 })
      assert.strictEqual(published(database), after(database.tip, 1))
    }))
})

describe("CompatCoordinator: the lease", () => {
  it.effect("CO-07 after its release every path is refused, and so is a whole batch", () =>
    Effect.gen(function*() {
      const registry = CoordinatorLease.makeLeaseRegistry()
      const log = new RecordingLog()
      const opened = yield* openRecording(log, CoordinatorLease.layerMemory({ name: "a", registry }))
      yield* opened.lease.forceRelease
      const batch = yield* Effect.forEach([1, 2, 3], (number) => makeRequest(opened, [number]))
      const errors = yield* Effect.forEach(batch, (request) => Effect.flip(opened.coordinator.commit(request)), {
        concurrency: "unbounded"
      })
      for (const error of errors) {
        assert.deepInclude(error, { _tag: "LeaseNotHeld", generation: opened.coordinator.generation })
      }
      assert.strictEqual(yield* outcomeOf(commitPages(opened, [])), "LeaseNotHeld")
      assert.strictEqual(yield* outcomeOf(commitPages(opened, [1], { spillThresholdBytes: 0 })), "LeaseNotHeld")
      assert.deepStrictEqual(log.commits, [])
    }))

  it.effect("CO-08 a lease that is lost while a request waits for room stops it before the append", () =>
    Effect.gen(function*() {
      const registry = CoordinatorLease.makeLeaseRegistry()
      const log = new RecordingLog()
      const opened = yield* openRecording(log, CoordinatorLease.layerMemory({ name: "a", registry }))
      log.isFull = true
      const request = yield* makeRequest(opened, [1])
      const waiting = yield* forkNow(Effect.flip(opened.coordinator.commit(request)))
      assert.strictEqual(log.waiting.length, 1)
      yield* opened.lease.forceRelease
      log.letIn()
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "LeaseNotHeld")
      assert.deepStrictEqual(log.commits, [])
      assert.deepStrictEqual(yield* opened.coordinator.outcome(request.token), { _tag: "aborted" })
    }))

  it.effect("CO-08 a lease in memory that expires stops the next append; its heir has a larger generation", () =>
    Effect.gen(function*() {
      const registry = CoordinatorLease.makeLeaseRegistry()
      const layer = () => CoordinatorLease.layerMemory({ name: "a", registry, duration: "1 second" })
      const log = new RecordingLog()
      const first = yield* openRecording(log, layer())
      yield* TestClock.adjust("10 seconds")
      const commit = yield* forkNow(commitPages(first, [1]))
      log.complete()
      assert.strictEqual((yield* Fiber.join(commit)).commitSeq, toCommitSeq(1n), "it is renewed while it lives")

      assert.strictEqual(yield* outcomeOf(Effect.scoped(openRecording(new RecordingLog(), layer()))), "LeaseHeld")
      yield* first.lease.forceRelease
      const second = yield* openRecording(new RecordingLog({ tip: 1n }), layer())
      assert.isAbove(Number(second.coordinator.generation), Number(first.coordinator.generation))
      assert.strictEqual(yield* outcomeOf(commitPages(first, [2])), "LeaseNotHeld")
      assert.strictEqual(log.commits.length, 1)
    }))

  test.overEveryLog("CO-08 each opening of a database has a larger generation, which names its transactions", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const generations: Array<bigint> = []
      for (let opening = 0; opening < 3; opening++) {
        const database = yield* openMemory(disk)
        generations.push(database.coordinator.generation)
        const hold = database.coordinator.begin()
        assert.strictEqual(hold.token.epoch, Number(database.coordinator.generation))
        hold.end()
        yield* database.close
      }
      assert.deepStrictEqual(generations, [1n, 2n, 3n])
    }))
})

describe("CompatCoordinator: reads, sizes and schemas", () => {
  test.overEveryLog("CO-13 a page that was read and changed meanwhile is refused under serializable isolation", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const { coordinator, tip } = database
      const request = yield* makeRequest(database, [3], { reads: [2, 10, 11, 99] })
      const innocent = yield* makeRequest(database, [4], { reads: [2, 11, 99] })
      yield* commitPages(database, [10])
      const failure = yield* Effect.flip(coordinator.commit(request))
      assert.instanceOf(failure, SerializationFailure)
      assert.deepInclude(failure, {
        pages: pages(10),
        conflictingSeq: after(tip, 1),
        reason: "read set",
        isRetryable: true,
        sqliteCode: 517
      })
      yield* coordinator.commit(innocent)
    }))

  test.overEveryLog("CO-13 a page beyond the end that was read is refused when the database grew over it, or was cut before it", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const { coordinator } = database
      const beyond = yield* makeRequest(database, [3], { reads: [51] })
      yield* commitPages(database, [51])
      assert.deepInclude(yield* Effect.flip(coordinator.commit(beyond)), { reason: "read set", pages: pages(51) })

      const within = yield* makeRequest(database, [3], { reads: [20, 49] })
      yield* commitPages(database, [1], { databasePages: 30 })
      assert.deepInclude(yield* Effect.flip(coordinator.commit(within)), { reason: "read set", pages: pages(49) })
    }))

  it.effect("CO-13 a read that conflicts with a commit on its way is refused before that is durable", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      yield* forkNow(commitPages(opened, [2]))
      assert.strictEqual(yield* outcomeOf(commitPages(opened, [3], { reads: [2] })), "SerializationFailure")
      log.complete()
      const commit = yield* forkNow(commitPages(opened, [3], { reads: [2] }))
      log.complete()
      yield* Fiber.join(commit)
    }))

  it.effect("a write set or a read set that is too large is refused before a sequence is assigned", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      const shared = filled(1)
      const writing = Effect.fnUntraced(function*(count: number) {
        const request = yield* makeRequest(opened, [], { spillThresholdBytes: Number.MAX_SAFE_INTEGER })
        yield* request.writes.adopt(new Map(Array.from({ length: count }, (_, at) => [page(at + 1), shared] as const)))
        return request
      })
      const tooMany = yield* writing(CompatCoordinator.maxCommitPages + 1)
      assert.deepInclude(yield* Effect.flip(opened.coordinator.commit(tooMany)), {
        _tag: "WriteSetTooLarge",
        pages: 98_302,
        maxPages: 98_301,
        isRetryable: false
      })
      const reads = Array.from({ length: CompatCoordinator.maxReadPages + 1 }, (_, at) => page(at + 2))
      const small = yield* writing(1)
      assert.deepInclude(yield* Effect.flip(opened.coordinator.commit({ ...small, reads })), {
        _tag: "ReadSetTooLarge",
        ids: 65_537,
        maxIds: 65_536,
        isRetryable: false
      })
      assert.deepStrictEqual(log.commits, [])
      // Exactly as many are accepted; and who has nothing to write is not asked what he has read.
      yield* forkNow(opened.coordinator.commit({ ...small, reads: reads.slice(1) }))
      assert.deepStrictEqual(log.commits.map((commit) => commit.pages.length), [1])
      const readOnly = yield* makeRequest(opened, [])
      yield* opened.coordinator.commit({ ...readOnly, reads })
      log.complete()
      yield* forkNow(Effect.flatMap(writing(CompatCoordinator.maxCommitPages), opened.coordinator.commit))
      assert.deepStrictEqual(log.commits.map((commit) => commit.pages.length), [1, 98_301])
      log.complete()
    }))

  it.effect("a transaction that began under another schema is refused", () =>
    Effect.gen(function*() {
      const opened = yield* openRecording(new RecordingLog())
      const old = yield* makeRequest(opened, [3])
      const oldReader = yield* makeRequest(opened, [])
      yield* opened.coordinator.setSchemaEpoch(SchemaEpoch.make(5n))
      const error = yield* Effect.flip(opened.coordinator.commit(old))
      assert.instanceOf(error, SchemaMismatch)
      assert.deepInclude(error, { sqliteCode: 17, isRetryable: false })
      assert.deepStrictEqual([error.current, error.found], [SchemaEpoch.make(5n), SchemaEpoch.make(0n)])
      assert.strictEqual(yield* outcomeOf(opened.coordinator.commit(oldReader)), "SchemaMismatch")
      assert.strictEqual(opened.coordinator.begin().snapshot.schemaEpoch, 5n)
    }))

  it.effect("a schema that changes while a request waits for room refuses it", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      log.isFull = true
      const waiting = yield* forkNow(Effect.flip(commitPages(opened, [1])))
      yield* opened.coordinator.setSchemaEpoch(SchemaEpoch.make(1n))
      log.letIn()
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "SchemaMismatch")
    }))

  it.effect("a log without room for the frames refuses before a sequence is assigned", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      log.exhausted = new Exhausted({ what: "frames of the log", limit: 10n })
      assert.strictEqual(yield* outcomeOf(commitPages(opened, [1])), "Exhausted")
      log.exhausted = undefined
      const commit = yield* forkNow(commitPages(opened, [1]))
      log.complete()
      assert.strictEqual((yield* Fiber.join(commit)).commitSeq, toCommitSeq(1n))
    }))

  test.overEveryLog("PG-11 a size that was chosen conflicts with every other change of the size", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const cut = yield* makeRequest(database, [1], { databasePages: 40 })
      const cutDeeper = yield* makeRequest(database, [2], { databasePages: 30 })
      const growing = yield* makeRequest(database, [52], { databasePages: 52 })
      yield* commitPages(database, [51])
      assert.deepInclude(yield* Effect.flip(database.coordinator.commit(cut)), {
        _tag: "Conflict",
        conflictingSeq: after(database.tip, 1)
      })
      assert.strictEqual(yield* outcomeOf(database.coordinator.commit(growing)), "Conflict")
      yield* commitPages(database, [1], { databasePages: 20 })
      // Smaller than it was, larger than it is now.
      assert.strictEqual(yield* outcomeOf(database.coordinator.commit(cutDeeper)), "Conflict")
      assert.strictEqual(database.log.published().databasePages, 20)
    }))

  test.overEveryLog("PG-11 a cut conflicts with a change of a page that it cuts off", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const cut = yield* makeRequest(database, [1], { databasePages: 40 })
      const harmless = yield* makeRequest(database, [1], { databasePages: 45 })
      yield* commitPages(database, [41, 42, 40])
      assert.deepInclude(yield* Effect.flip(database.coordinator.commit(cut)), {
        _tag: "Conflict",
        pages: pages(41, 42),
        conflictingSeq: after(database.tip, 1)
      })
      yield* database.coordinator.commit(harmless)
      assert.strictEqual(database.log.published().databasePages, 45)
    }))

  it.effect("refusals are counted by reason", () =>
    Effect.gen(function*() {
      const opened = yield* openRecording(new RecordingLog())
      const counted = (reason: string) =>
        Effect.map(Metric.value(CoordinatorMetrics.conflicts), ({ count }) => count).pipe(
          Effect.provideService(Metric.CurrentMetricAttributes, { reason })
        )
      yield* forkNow(commitPages(opened, [2]))
      yield* Effect.exit(commitPages(opened, [2]))
      yield* Effect.exit(commitPages(opened, [2]))
      yield* Effect.exit(commitPages(opened, [3], { reads: [2] }))
      assert.strictEqual(yield* counted("write set"), 2)
      assert.strictEqual(yield* counted("read set"), 1)
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))
})

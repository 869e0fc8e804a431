/** What becomes of commits: visibility, repeated submissions, interruption, poison, closing, recovery. */
import { assert, describe, it } from "@effect/vitest"
import * as CoordinatorLease from "@tidemark/coordinator/CoordinatorLease"
import { SchemaEpoch, toCommitSeq, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import { Effect, Fiber, Layer } from "effect"
import {
  commitPages,
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

const open50 = Effect.gen(function*() {
  const disk = makeDisk()
  const database = yield* openMemory(disk)
  yield* grow(database, 50)
  // Nothing of it is under way any more, whatever its answer waited for.
  yield* settle
  return { ...database, disk, tip: published(database) }
})

const seqOf = (value: number) => toCommitSeq(BigInt(value))
const undecided = { _tag: "undecided" } as const
const aborted = { _tag: "aborted" } as const
const committed = (seq: number) => ({ _tag: "committed", commitSeq: seqOf(seq) }) as const

describe("CompatCoordinator: visibility", () => {
  test.overEveryLog("CO-16 a snapshot that is taken while the sync is in flight does not see the batch", (log) =>
    Effect.gen(function*() {
      const database = yield* open50
      const { disk, pager, tip } = database
      const hold = disk.hold(log.batchSync)
      const commit = yield* forkNow(commitPages(database, [7], { value: 9 }))
      yield* hold.reached
      const during = yield* pager.begin()
      assert.strictEqual(during.snapshot.high, tip)
      assert.strictEqual(valueOf(yield* during.read(page(7))), 0)
      assert.strictEqual(valueOf(during.readSync(page(7))), 0)
      assert.isTrue(isWaiting(commit))
      yield* hold.release
      yield* Fiber.join(commit)
      assert.strictEqual(valueOf(yield* during.read(page(7))), 0, "the snapshot stays what it was")
      assert.strictEqual(valueOf(yield* readNow(database, 7)), 9)
    }))

  test.overEveryLog("CO-16 who is answered finds his commit visible, and all before it", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const writers = Array.from({ length: 20 }, (_, writer) =>
        Effect.gen(function*() {
          const { commitSeq } = yield* commitPages(database, [writer + 2], { value: writer + 1 })
          assert.isAtLeast(Number(published(database)), Number(commitSeq))
          assert.strictEqual(valueOf(yield* readNow(database, writer + 2)), writer + 1)
        }))
      yield* Effect.all(writers, { concurrency: "unbounded" })
    }))

  it.effect("awaitVisible waits for what is on its way, and for nothing else", () =>
    Effect.gen(function*() {
      const log = new RecordingLog({ tip: 5n })
      const opened = yield* openRecording(log)
      const { awaitVisible } = opened.coordinator
      yield* awaitVisible(seqOf(5))
      yield* awaitVisible(seqOf(6))
      yield* forkNow(commitPages(opened, [1]))
      yield* forkNow(commitPages(opened, [2]))
      const waits = yield* Effect.forEach([6, 7], (seq) => forkNow(awaitVisible(seqOf(seq))))
      const interrupted = yield* forkNow(awaitVisible(seqOf(6)))
      yield* awaitVisible(seqOf(8))
      yield* Fiber.interrupt(interrupted)
      log.complete(1)
      assert.deepStrictEqual(waits.map(isWaiting), [false, true])
      log.poison()
      assert.deepStrictEqual(waits.map(isWaiting), [false, false], "it never will be visible")
      yield* awaitVisible(seqOf(7))
    }))
})

describe("CompatCoordinator: tokens", () => {
  it.effect("CO-18 the same token again is answered what the first submission came to", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      const request = yield* makeRequest(opened, [1, 2])
      const first = yield* forkNow(opened.coordinator.commit(request))
      const second = yield* forkNow(opened.coordinator.commit(request))
      assert.isTrue(isWaiting(second), "it is on its way")
      assert.deepStrictEqual(yield* opened.coordinator.outcome(request.token), undecided)
      log.complete()
      const answer = { commitSeq: seqOf(1), walOffset: 0 }
      assert.deepStrictEqual(yield* Fiber.join(first), answer)
      assert.deepStrictEqual(yield* Fiber.join(second), answer)
      assert.deepStrictEqual(yield* opened.coordinator.commit(request), answer)
      assert.deepStrictEqual(yield* opened.coordinator.outcome(request.token), committed(1))
      assert.strictEqual(log.commits.length, 1)
    }))

  it.effect("CO-18 the same token again while both wait for room: one commit, one answer", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      log.isFull = true
      const request = yield* makeRequest(opened, [1])
      const twice = [
        yield* forkNow(opened.coordinator.commit(request)),
        yield* forkNow(opened.coordinator.commit(request))
      ]
      log.letIn()
      log.letIn()
      assert.deepStrictEqual(twice.map(isWaiting), [true, true])
      assert.deepStrictEqual(yield* opened.coordinator.outcome(request.token), undecided)
      log.complete()
      const answer = { commitSeq: seqOf(1), walOffset: 0 }
      assert.deepStrictEqual(yield* Effect.forEach(twice, Fiber.join), [answer, answer])
      assert.deepStrictEqual(yield* opened.coordinator.outcome(request.token), committed(1))
      assert.strictEqual(log.commits.length, 1)
    }))

  it.effect("CO-18 the same token again while both verify their spilled pages: one commit, one answer", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      const request = yield* makeRequest(opened, [1, 2], { spillThresholdBytes: 0 })
      const twice = [
        yield* forkNow(opened.coordinator.commit(request)),
        yield* forkNow(opened.coordinator.commit(request))
      ]
      yield* settle
      log.complete()
      yield* settle
      const answer = { commitSeq: seqOf(1), walOffset: 0 }
      assert.deepStrictEqual(yield* Effect.forEach(twice, Fiber.join), [answer, answer])
      assert.deepStrictEqual(yield* opened.coordinator.outcome(request.token), committed(1))
    }))

  it.effect("CO-18 a committed token is answered after the schema changed, its set was cleared, the log ended", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      const request = yield* makeRequest(opened, [1])
      const commit = yield* forkNow(opened.coordinator.commit(request))
      log.complete()
      const answer = yield* Fiber.join(commit)
      yield* request.writes.clear
      assert.deepStrictEqual(yield* opened.coordinator.commit(request), answer)
      yield* opened.coordinator.setSchemaEpoch(SchemaEpoch.make(3n))
      assert.deepStrictEqual(yield* opened.coordinator.commit(request), answer)
      log.poison()
      assert.deepStrictEqual(yield* opened.coordinator.commit(request), answer)
      assert.deepStrictEqual(yield* opened.coordinator.outcome(request.token), committed(1))
    }))

  it.effect("CO-18 a token that was refused is looked at anew", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      const request = yield* makeRequest(opened, [1])
      const other = yield* forkNow(commitPages(opened, [1]))
      assert.strictEqual(yield* outcomeOf(opened.coordinator.commit(request)), "Conflict")
      assert.deepStrictEqual(yield* opened.coordinator.outcome(request.token), aborted)
      log.complete()
      yield* Fiber.join(other)
      const { snapshot } = opened.coordinator.begin()
      const again = yield* forkNow(opened.coordinator.commit({ ...request, snapshot }))
      assert.deepStrictEqual(yield* opened.coordinator.outcome(request.token), undecided)
      log.complete()
      assert.strictEqual((yield* Fiber.join(again)).commitSeq, seqOf(2))
      assert.deepStrictEqual(yield* opened.coordinator.outcome(request.token), committed(2))
    }))

  test.overEveryLog("CO-18 nothing is known of a token that was never seen, nor of one of another epoch", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const hold = database.coordinator.begin()
      hold.end()
      const token = { id: toTxnId(77n), epoch: hold.token.epoch }
      const { commitSeq } = yield* commitPages(database, [3], { token })
      assert.deepStrictEqual(yield* database.coordinator.outcome(token), { _tag: "committed", commitSeq })
      const other = { ...token, epoch: TxnEpoch.make(token.epoch + 1) }
      assert.deepStrictEqual(yield* database.coordinator.outcome(other), undecided)
      assert.deepStrictEqual(yield* database.coordinator.outcome({ ...token, id: toTxnId(78n) }), undecided)
    }))

  test.overEveryLog("transactions that begin have tokens of their own", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const tokens = Array.from({ length: 100 }, () => {
        const hold = database.coordinator.begin()
        hold.end()
        hold.end()
        return hold.token
      })
      assert.strictEqual(new Set(tokens.map(({ epoch, id }) => `${id} ${epoch}`)).size, 100)
    }))
})

describe("CompatCoordinator: interruption", () => {
  it.effect("CO-18 interrupted before it is accepted, a request changes nothing", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      log.isFull = true
      const request = yield* makeRequest(opened, [1])
      const fiber = yield* forkNow(opened.coordinator.commit(request))
      assert.strictEqual(log.waiting.length, 1)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(log.waiting.length, 0)
      assert.deepStrictEqual(yield* opened.coordinator.outcome(request.token), undecided)
      log.isFull = false
      const next = yield* forkNow(commitPages(opened, [1]))
      log.complete()
      assert.strictEqual((yield* Fiber.join(next)).commitSeq, seqOf(1), "its page is free")
    }))

  test.overEveryLog("CO-18 interrupted after it was accepted, the commit finishes, and its token tells", (log) =>
    Effect.gen(function*() {
      const database = yield* open50
      const hold = database.disk.hold(log.batchSync)
      const request = yield* makeRequest(database, [7], { value: 5 })
      const fiber = yield* forkNow(database.coordinator.commit(request))
      yield* hold.reached
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* database.coordinator.outcome(request.token), undecided)
      yield* request.writes.clear
      yield* hold.release
      yield* database.coordinator.awaitVisible(toCommitSeq(database.tip + 1n))
      assert.deepStrictEqual(yield* database.coordinator.outcome(request.token), {
        _tag: "committed",
        commitSeq: toCommitSeq(database.tip + 1n)
      })
      assert.strictEqual(valueOf(yield* readNow(database, 7)), 5)
    }))

  test.overEveryLog("CO-18 interrupted while its spilled pages are verified, a request changes nothing", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const request = yield* makeRequest(database, [7], { spillThresholdBytes: 0 })
      const hold = database.disk.hold({ operation: "read", path: /\.spill$/ })
      const fiber = yield* forkNow(database.coordinator.commit(request))
      yield* hold.reached
      const interruption = yield* forkNow(Fiber.interrupt(fiber))
      yield* hold.release
      yield* Fiber.join(interruption)
      yield* settle
      assert.strictEqual(published(database), database.tip)
      assert.strictEqual((yield* commitPages(database, [7])).commitSeq, toCommitSeq(database.tip + 1n))
    }))
})

describe("CompatCoordinator: spilled write sets", () => {
  const spilled = { spillThresholdBytes: 0 } as const
  const spillFile = (files: ReadonlyArray<string>) => files.find((path) => path.endsWith(".spill")) ?? ""

  test.overEveryLog("CO-11 a write set that has spilled commits like one in memory", (log) =>
    Effect.gen(function*() {
      const database = yield* open50
      const request = yield* makeRequest(database, [3, 4, 5], { ...spilled, value: 6 })
      assert.isTrue(request.writes.isSpilled)
      const { walOffset } = yield* database.coordinator.commit(request)
      assert.strictEqual((yield* commitPages(database, [9])).walOffset, walOffset + 3 * log.frameBytes(512))
      for (const number of [3, 4, 5]) assert.strictEqual(valueOf(yield* readNow(database, number)), 6)
    }))

  test.overLogs("CO-11 a damaged spill file refuses its own transaction before it gets a sequence, and no other", () =>
    Effect.gen(function*() {
      const database = yield* open50
      const request = yield* makeRequest(database, [3, 4, 5], spilled)
      const path = spillFile(database.disk.files)
      const bytes = database.disk.readFile(path) ?? new Uint8Array(0)
      bytes[700] = (bytes[700] ?? 0) ^ 1
      database.disk.writeFile(path, bytes)
      const error = yield* Effect.flip(database.coordinator.commit(request))
      assert.deepInclude(error, { _tag: "SpillCorrupt", path, page: page(4), isRetryable: false })
      assert.strictEqual((yield* commitPages(database, [3, 4])).commitSeq, toCommitSeq(database.tip + 1n))
      database.disk.writeFile(path, bytes.subarray(0, 100))
      assert.strictEqual(yield* outcomeOf(database.coordinator.commit(request)), "SpillCorrupt")
      yield* commitPages(database, [3, 4, 5], spilled)
    }))

  test.overLogs("CO-11 a page that is damaged between the check and the append poisons the log; nothing of it is visible", (log) =>
    Effect.gen(function*() {
      const database = yield* open50
      const { coordinator, disk, tip } = database
      const held = disk.hold(log.batchSync)
      const before = yield* forkNow(Effect.flip(commitPages(database, [20])))
      yield* held.reached
      const request = yield* makeRequest(database, [3, 4], spilled)
      // The check reads from an opening of the file in the way that `read` does, the append with `readSync`.
      const path = spillFile(disk.files)
      disk.inject({ operation: "read", path, skip: 1, fault: { kind: "flippedBit", position: 600, bit: 3 } })
      const error = yield* Effect.flip(coordinator.commit(request))
      assert.strictEqual(error._tag, "WalPoisoned")
      yield* held.release
      assert.strictEqual((yield* Fiber.join(before))._tag, "WalPoisoned")
      assert.strictEqual(published(database), tip)
      assert.strictEqual(yield* outcomeOf(commitPages(database, [8])), "WalPoisoned")
      yield* database.close
      const again = yield* openMemory(disk)
      const reached = published(again)
      assert.isTrue(reached === tip || reached === tip + 1n, "the commit before it was never acknowledged")
      assert.strictEqual(valueOf(yield* readNow(again, 3)), 0)
    }))
})

describe("CompatCoordinator: poison and closing", () => {
  it.effect("CO-05 a failed sync takes the reservations back and poisons; no sequence is assigned after it", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      const first = yield* forkNow(Effect.flip(commitPages(opened, [1, 2])))
      const second = yield* forkNow(Effect.flip(commitPages(opened, [3])))
      const request = yield* makeRequest(opened, [2])
      assert.strictEqual(yield* outcomeOf(opened.coordinator.commit(request)), "Conflict")
      log.poison()
      assert.strictEqual((yield* Fiber.join(first))._tag, "WalPoisoned")
      assert.strictEqual((yield* Fiber.join(second))._tag, "WalPoisoned")
      // Not a phantom conflict with a commit that never was.
      assert.strictEqual(yield* outcomeOf(opened.coordinator.commit(request)), "WalPoisoned")
      assert.strictEqual(yield* outcomeOf(commitPages(opened, [1], { spillThresholdBytes: 0 })), "WalPoisoned")
      assert.strictEqual(log.commits.length, 2)
    }))

  it.effect("CO-05 what failed leaves no trace in what is remembered: a log that lived on would take the pages", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      const request = yield* makeRequest(opened, [2, 101])
      yield* forkNow(Effect.exit(commitPages(opened, [2, 4])))
      yield* forkNow(Effect.exit(commitPages(opened, [3], { databasePages: 50 })))
      log.poison()
      log.ended = undefined
      const commit = yield* forkNow(opened.coordinator.commit(request))
      assert.strictEqual(log.commits.length, 3)
      log.complete()
      yield* Fiber.join(commit)
    }))

  test.overLogs("CO-05 a request that breaks its contract is a defect of its caller, also when it waits, and of nobody else", (log) =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const database = yield* openMemory(disk, { maxQueuedBytes: 1000 })
      yield* grow(database, 10)
      const hold = disk.hold(log.batchWrite)
      const first = yield* forkNow(commitPages(database, [2, 3]))
      yield* hold.reached
      const cutShort = yield* makeRequest(database, [4, 9], { databasePages: 8 })
      const changing = yield* makeRequest(database, [5, 6])
      const innocent = yield* forkNow(commitPages(database, [7, 8]))
      const culprits = [
        yield* forkNow(outcomeOf(database.coordinator.commit(cutShort))),
        yield* forkNow(outcomeOf(database.coordinator.commit(changing)))
      ]
      yield* changing.writes.clear
      assert.isTrue(isWaiting(innocent))
      yield* hold.release
      assert.deepStrictEqual(yield* Effect.forEach(culprits, Fiber.join), ["defect", "defect"])
      yield* Fiber.join(first)
      yield* Fiber.join(innocent)
      yield* commitPages(database, [4, 5])
    }))

  it.effect("CO-05 a commit that failed with the log stays undecided", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      const request = yield* makeRequest(opened, [1])
      const first = yield* forkNow(Effect.flip(opened.coordinator.commit(request)))
      const second = yield* forkNow(Effect.flip(opened.coordinator.commit(request)))
      log.poison()
      assert.strictEqual((yield* Fiber.join(first))._tag, "WalPoisoned")
      assert.strictEqual((yield* Fiber.join(second))._tag, "WalPoisoned")
      assert.deepStrictEqual(yield* opened.coordinator.outcome(request.token), undecided)
    }))

  it.effect("CO-05 requests that wait for room are refused when the log is poisoned", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      log.isFull = true
      const waiting = yield* forkNow(Effect.flip(commitPages(opened, [1])))
      log.poison()
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "WalPoisoned")
    }))

  test.overEveryLog("CO-05 reading goes on after poison, and committing nothing is not refused", (log) =>
    Effect.gen(function*() {
      const database = yield* open50
      database.disk.inject({ ...log.batchSync, fault: { kind: "error", code: "EIO" } })
      assert.strictEqual(yield* outcomeOf(commitPages(database, [7], { value: 3 })), "WalPoisoned")
      assert.strictEqual(valueOf(yield* database.pager.withTransaction((tx) => tx.read(page(7)))), 0)
      assert.deepInclude(yield* commitPages(database, []), { commitSeq: database.tip })
    }))

  test.overEveryLog("CO-05 after recovery the next sequence is the tip and one, and nothing of the commit that failed is seen", (log) =>
    Effect.gen(function*() {
      const database = yield* open50
      const { disk, tip } = database
      yield* commitPages(database, [7], { value: 2 })
      disk.inject({ ...log.batchSync, fault: { kind: "lostSync" } })
      assert.strictEqual(yield* outcomeOf(commitPages(database, [7], { value: 3 })), "WalPoisoned")
      disk.crash("lost")
      const again = yield* openMemory(disk)
      assert.strictEqual(again.control.recoveredTip, toCommitSeq(tip + 1n))
      // The sequence of the commit that failed is on the disk when the log writes it before it counts: it is not used again.
      const reached = toCommitSeq(tip + (log.isSequenceKept ? 2n : 1n))
      assert.strictEqual(published(again), reached)
      assert.strictEqual(valueOf(yield* readNow(again, 7)), 2)
      assert.strictEqual((yield* commitPages(again, [7], { value: 4 })).commitSeq, toCommitSeq(reached + 1n))
      assert.strictEqual(valueOf(yield* readNow(again, 7)), 4)
    }))

  it.effect("closing finishes what was accepted, refuses what was not, and gives the lease back after the last append", () =>
    Effect.gen(function*() {
      const events: Array<string> = []
      const log = new RecordingLog()
      const watched = Layer.effect(
        CoordinatorLease.CoordinatorLease,
        Effect.map(CoordinatorLease.CoordinatorLease, (lease) => ({
          ...lease,
          acquire: Effect.tap(
            lease.acquire,
            () => Effect.addFinalizer(() => Effect.sync(() => events.push("lease released")))
          )
        }))
      ).pipe(Layer.provide(
        CoordinatorLease.layerMemory({ name: "closing", registry: CoordinatorLease.makeLeaseRegistry() })
      ))
      const opened = yield* openRecording(log, watched)
      const accepted = yield* makeRequest(opened, [1])
      const waiting = yield* makeRequest(opened, [2])
      const late = yield* makeRequest(opened, [3])
      const first = yield* forkNow(opened.coordinator.commit(accepted))
      log.isFull = true
      const second = yield* forkNow(Effect.flip(opened.coordinator.commit(waiting)))
      const closing = yield* forkNow(opened.close)
      assert.isTrue(isWaiting(closing))
      assert.strictEqual(yield* outcomeOf(opened.coordinator.commit(late)), "LogClosed")
      log.letIn()
      assert.strictEqual((yield* Fiber.join(second))._tag, "LogClosed")
      assert.deepStrictEqual(events, [])
      events.push("durable")
      log.complete()
      yield* Fiber.join(closing)
      assert.strictEqual((yield* Fiber.join(first)).commitSeq, seqOf(1))
      assert.deepStrictEqual(events, ["durable", "lease released"])
    }))

  it.effect("closing a poisoned coordinator does not hang", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      const commit = yield* forkNow(Effect.flip(commitPages(opened, [1])))
      const closing = yield* forkNow(opened.close)
      assert.isTrue(isWaiting(closing))
      log.poison()
      yield* Fiber.join(closing)
      assert.strictEqual((yield* Fiber.join(commit))._tag, "WalPoisoned")
    }))
})

describe("CompatCoordinator: what is remembered", () => {
  it.effect("CO-14 memory stays bounded under endless commits; who is below the floor is refused", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const opened = yield* openRecording(log)
      const { coordinator } = opened
      const stale = yield* Effect.scoped(makeRequest(opened, [999]))
      const commitNow = (number: number) =>
        Effect.gen(function*() {
          const commit = yield* Effect.forkChild(commitPages(opened, [number]), { startImmediately: true })
          log.complete()
          return yield* Fiber.join(commit)
        })
      for (let at = 0; at < 2000; at++) {
        yield* commitNow(at + 1000)
        log.commits.length = 0
      }
      const { token } = coordinator.begin()
      const writes = (yield* makeRequest(opened, [999])).writes
      const conflict = yield* Effect.flip(coordinator.commit({ ...stale, token, writes }))
      assert.deepInclude(conflict, { _tag: "Conflict", reason: "floor", pages: pages(999) })
      // A transaction that is open keeps what it needs.
      const held = yield* makeRequest(opened, [998])
      for (let at = 0; at < 1000; at++) yield* commitNow(at + 1000)
      const commit = yield* forkNow(coordinator.commit(held))
      log.complete()
      yield* Fiber.join(commit)
    }))

  test.overEveryLog("CO-15 after a take-over a stale request conflicts, and one below the base of the log is below the floor", () =>
    Effect.gen(function*() {
      const { disk, tip, ...database } = yield* open50
      const { snapshot } = database.coordinator.begin()
      yield* commitPages(database, [4])
      yield* commitPages(database, [5])
      disk.kill()
      const again = yield* openMemory(disk)
      assert.deepInclude(yield* Effect.flip(commitPages(again, [3, 4, 5], { snapshot })), {
        _tag: "Conflict",
        pages: pages(4, 5),
        conflictingSeq: toCommitSeq(tip + 2n),
        reason: "write set"
      })
      yield* commitPages(again, [6], { snapshot })

      yield* again.control.checkpoint("restart")
      yield* commitPages(again, [7])
      yield* again.close
      const third = yield* openMemory(disk)
      assert.deepInclude(yield* Effect.flip(commitPages(third, [8], { snapshot })), {
        _tag: "Conflict",
        reason: "floor"
      })
    }))

  test.overEveryLog("CO-15 after a take-over a stale request conflicts with a cut that the log has", () =>
    Effect.gen(function*() {
      const { disk, ...database } = yield* open50
      const { snapshot } = database.coordinator.begin()
      yield* commitPages(database, [1], { databasePages: 10 })
      disk.kill()
      const again = yield* openMemory(disk)
      assert.deepInclude(yield* Effect.flip(commitPages(again, [3, 20], { snapshot })), {
        _tag: "Conflict",
        pages: pages(20)
      })
      assert.strictEqual(yield* outcomeOf(commitPages(again, [1], { snapshot, databasePages: 5 })), "Conflict")
      yield* commitPages(again, [3], { snapshot })
      yield* commitPages(again, [11])
    }))

  it.effect("CO-15 the index is there before the first request, also when the log says nothing about commits", () =>
    Effect.gen(function*() {
      const log = new RecordingLog({ base: 3n, tip: 9n, pages: [[page(4), seqOf(5)], [page(6), seqOf(9)]] })
      const opened = yield* openRecording(log)
      const at = (high: number) => ({ snapshot: { high: seqOf(high), schemaEpoch: SchemaEpoch.make(0n) } })
      assert.deepInclude(yield* Effect.flip(commitPages(opened, [4, 5, 6], at(4))), { pages: pages(4, 6) })
      assert.deepInclude(yield* Effect.flip(commitPages(opened, [4, 5, 6], at(5))), { pages: pages(6) })
      assert.deepInclude(yield* Effect.flip(commitPages(opened, [5], at(2))), { reason: "floor" })
      const commit = yield* forkNow(commitPages(opened, [4, 5], at(5)))
      log.complete()
      assert.strictEqual((yield* Fiber.join(commit)).commitSeq, seqOf(10))
    }))
})

/** Commits on their way through the files of a log: what is seen of them, and what becomes of them when a step fails. */
import { assert, describe } from "@effect/vitest"
import * as CoordinatorMetrics from "@tidemark/coordinator/CoordinatorMetrics"
import { toCommitSeq } from "@tidemark/core/Scalars"
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
  memoryPath,
  openMemory,
  type OpenOptions,
  outcomeOf,
  page,
  pages,
  pageSize,
  published,
  readNow,
  settle,
  valueOf
} from "./support/database.ts"
import { parallelWal, test } from "./support/logs.ts"

const open20 = (options?: OpenOptions) =>
  Effect.gen(function*() {
    const disk = makeDisk()
    const database = yield* openMemory(disk, options)
    yield* grow(database, 20)
    // Nothing of it is under way any more, whatever its answer waited for.
    yield* settle
    return { ...database, disk, tip: published(database) }
  })

const after = (tip: bigint, count: number) => toCommitSeq(tip + BigInt(count))

/** The interval of an epoch passes, and what is tried at its end is over. */
const tick = Effect.andThen(TestClock.adjust("10 millis"), settle)

describe("batches: visibility", () => {
  test.overEveryLog("CO-16 at no step of the disk before the answer does a snapshot see the commit", (log) =>
    Effect.gen(function*() {
      let steps = 0
      for (const when of ["before", "after"] as const) {
        for (let isOver = false, skip = 0; !isOver; skip++) {
          const database = yield* open20()
          const trace = database.disk.record()
          const hold = database.disk.hold({ operation: "any", skip, when })
          const commit = yield* forkNow(commitPages(database, [7], { value: 9 }))
          yield* Effect.raceFirst(hold.reached, Fiber.await(commit))
          isOver = !isWaiting(commit)
          if (isOver) {
            // It must not catch what comes now.
            yield* hold.release
            const stepsBefore = trace.steps.length
            yield* settle
            assert.strictEqual(trace.steps.length, stepsBefore, "what was answered waits for nothing more")
          } else {
            steps++
            const during = yield* database.pager.begin()
            assert.strictEqual(during.snapshot.high, database.tip, `${when} step ${skip}`)
            assert.strictEqual(valueOf(during.readSync(page(7))), 0)
            yield* hold.release
            yield* Fiber.join(commit)
            assert.strictEqual(valueOf(yield* during.read(page(7))), 0)
          }
          assert.strictEqual(valueOf(yield* readNow(database, 7)), 9)
          yield* database.close
        }
      }
      // A write and a sync in each file, and what gives a file its name.
      assert.isAtLeast(steps, 2 * 2 * log.batchSyncs.length)
    }))

  test.overEveryLog("CO-18 interrupted at any step after it was accepted, the commit finishes, and its token tells", (log) =>
    Effect.gen(function*() {
      for (const step of [log.batchWrite, log.batchSync]) {
        const database = yield* open20()
        const { coordinator, disk, tip } = database
        const hold = disk.hold(step)
        const request = yield* makeRequest(database, [7], { value: 5 })
        const fiber = yield* forkNow(coordinator.commit(request))
        yield* hold.reached
        yield* Fiber.interrupt(fiber)
        yield* request.writes.clear
        assert.deepStrictEqual(yield* coordinator.outcome(request.token), { _tag: "undecided" })
        const late = yield* makeRequest(database, [7])
        assert.strictEqual(yield* outcomeOf(coordinator.commit(late)), "Conflict")
        yield* hold.release
        yield* coordinator.awaitVisible(after(tip, 1))
        assert.deepStrictEqual(yield* coordinator.outcome(request.token), {
          _tag: "committed",
          commitSeq: after(tip, 1)
        })
        assert.strictEqual(valueOf(yield* readNow(database, 7)), 5)
      }
    }))

  test.overLogs("closing finishes what was accepted, whatever it waits for", (log) =>
    Effect.gen(function*() {
      for (const step of [log.batchWrite, log.batchSync]) {
        const database = yield* open20()
        const hold = database.disk.hold(step)
        const first = yield* forkNow(commitPages(database, [7], { value: 5 }))
        yield* hold.reached
        const second = yield* forkNow(commitPages(database, [8], { value: 6 }))
        const closing = yield* forkNow(database.close)
        yield* settle
        assert.isTrue(isWaiting(closing))
        assert.strictEqual(yield* outcomeOf(commitPages(database, [9])), "LogClosed")
        yield* hold.release
        yield* Fiber.join(closing)
        assert.strictEqual((yield* Fiber.join(first)).commitSeq, after(database.tip, 1))
        assert.strictEqual((yield* Fiber.join(second)).commitSeq, after(database.tip, 2))
        const again = yield* openMemory(database.disk)
        assert.strictEqual(published(again), after(database.tip, 2))
        assert.deepStrictEqual([valueOf(yield* readNow(again, 7)), valueOf(yield* readNow(again, 8))], [5, 6])
      }
    }))
})

describe("batches: what is remembered", () => {
  test.overEveryLog("CO-14 memory stays bounded under endless commits over a log; who is below the floor is refused", () =>
    Effect.gen(function*() {
      const database = yield* open20({ autoCheckpointFrames: 100 })
      const stale = yield* Effect.scoped(makeRequest(database, [5]))
      for (let at = 0; at < 1000; at++) yield* commitPages(database, [2 + at % 18])
      assert.isAtMost((yield* Metric.value(CoordinatorMetrics.rememberedPages)).value, 18)
      assert.isBelow(database.control.pending(), 300)
      const { token, writes } = yield* makeRequest(database, [6])
      const conflict = yield* Effect.flip(database.coordinator.commit({ ...stale, token, writes }))
      assert.deepInclude(conflict, { _tag: "Conflict", reason: "floor" })
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))

  test.overEveryLog("CO-05 CO-15 after a power loss nothing conflicts with a commit that is lost, and what is there does", (log) =>
    Effect.gen(function*() {
      const { disk, tip, ...database } = yield* open20()
      const before = database.coordinator.begin().snapshot
      yield* commitPages(database, [2], { value: 2 })
      const between = database.coordinator.begin().snapshot
      const hold = disk.hold(log.batchSync)
      const lost = yield* forkNow(Effect.exit(commitPages(database, [3, 30], { value: 3 })))
      yield* hold.reached
      disk.crash("lost")
      // Nobody lives to hear of it.
      yield* Fiber.interrupt(lost)
      const again = yield* openMemory(disk)
      assert.strictEqual(again.control.recoveredTip, after(tip, 1))
      assert.strictEqual(again.log.published().databasePages, 20)
      assert.deepInclude(yield* Effect.flip(commitPages(again, [2, 3], { snapshot: before })), {
        _tag: "Conflict",
        pages: pages(2),
        conflictingSeq: after(tip, 1)
      })
      const next = yield* commitPages(again, [2, 3], { snapshot: between, value: 4 })
      assert.strictEqual(next.commitSeq, toCommitSeq(again.log.recovered.tip + 1n))
      assert.strictEqual(valueOf(yield* readNow(again, 3)), 4)
    }))

  test.overEveryLog("CO-15 PG-11 after a take-over the size is that of the last commit of a batch, and so are its pages", (log) =>
    Effect.gen(function*() {
      // What the commits of one batch write, and the size that they give the database.
      const batches: ReadonlyArray<ReadonlyArray<readonly [numbers: ReadonlyArray<number>, databasePages: number]>> = [
        [[[3], 20], [[4, 21, 22], 22]],
        [[[3, 21, 22], 22], [[4], 20]],
        [[[3, 21], 21], [[4], 12], [[5, 13], 13]]
      ]
      for (const batch of batches) {
        const database = yield* open20()
        const hold = database.disk.hold(log.batchWrite)
        const fibers = [yield* forkNow(commitPages(database, [2]))]
        yield* hold.reached
        for (const [at, [numbers, databasePages]] of batch.entries()) {
          // Each at a snapshot that has seen the ones before.
          const snapshot = { ...database.coordinator.begin().snapshot, high: after(database.tip, 1 + at) }
          fibers.push(yield* forkNow(commitPages(database, numbers, { value: 10 + at, databasePages, snapshot })))
        }
        yield* hold.release
        yield* Effect.forEach(fibers, Fiber.join)
        database.disk.kill()
        const again = yield* openMemory(database.disk)
        assert.strictEqual(published(again), after(database.tip, 1 + batch.length))
        const [numbers, databasePages] = batch.at(-1) ?? [[], 0]
        assert.strictEqual(again.log.published().databasePages, databasePages)
        for (const number of numbers) assert.strictEqual(valueOf(yield* readNow(again, number)), 9 + batch.length)
        yield* again.control.checkpoint("truncate")
        assert.strictEqual(database.disk.readFile(memoryPath)?.length, databasePages * pageSize)
      }
    }))
})

describe("batches: a disk that does not take them", () => {
  test.overParallelWal("CO-05 PW-15 commits wait while their batch is written again; nothing is seen of them, and pages stay reserved", () =>
    Effect.gen(function*() {
      const database = yield* open20()
      const { coordinator, disk, tip } = database
      const fault = disk.inject({
        ...parallelWal.batchWrite,
        fault: { kind: "error", code: "ENOSPC" },
        times: Infinity
      })
      const commits = [
        yield* forkNow(commitPages(database, [2], { value: 2 })),
        yield* forkNow(commitPages(database, [3], { value: 3 }))
      ]
      const retried = yield* forkNow(database.pager.withTransaction(Effect.fnUntraced(function*(tx) {
        yield* tx.write(page(2), filled(valueOf(yield* tx.read(page(2))) + 1))
      })))
      for (let at = 0; at < 3; at++) {
        yield* tick
        assert.deepStrictEqual([...commits, retried].map(isWaiting), [true, true, true])
        assert.strictEqual(published(database), tip)
        assert.strictEqual(valueOf(yield* readNow(database, 2)), 0)
        const conflict = yield* Effect.flip(commitPages(database, [3]))
        assert.deepInclude(conflict, { _tag: "Conflict", conflictingSeq: after(tip, 2) })
      }
      assert.isAbove(fault.hits, 2)
      const later = yield* forkNow(commitPages(database, [4], { value: 4 }))
      fault.remove()
      yield* tick
      const answers = yield* Effect.forEach([...commits, later], Fiber.join)
      assert.deepStrictEqual(answers.map(({ commitSeq }) => commitSeq), [1, 2, 3].map((at) => after(tip, at)))
      yield* Fiber.join(retried)
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 3)
      assert.strictEqual(coordinator.begin().snapshot.high, after(tip, 4))
    }))

  for (const operation of ["open", "write", "syncData", "rename", "syncDirectory"] as const) {
    test.overParallelWal(`CO-05 PW-15 a ${operation} of a segment that fails once loses nothing, also after a power loss`, () =>
      Effect.gen(function*() {
        const database = yield* open20()
        const { disk, tip } = database
        const path = operation === "syncDirectory" ? "/data" : parallelWal.batchWrite.path
        const kind = operation === "syncData"
          ? { kind: "lostSync" } as const
          : { kind: "error", code: "EIO" } as const
        const fault = disk.inject({ operation, path, fault: kind })
        const first = yield* forkNow(commitPages(database, [2, 21], { value: 2 }))
        yield* settle
        assert.strictEqual(fault.hits, 1)
        assert.isTrue(isWaiting(first))
        const second = yield* forkNow(commitPages(database, [3], { value: 3 }))
        yield* tick
        assert.strictEqual((yield* Fiber.join(first)).commitSeq, after(tip, 1))
        assert.strictEqual((yield* Fiber.join(second)).commitSeq, after(tip, 2))
        disk.crash("lost")
        const again = yield* openMemory(disk)
        assert.strictEqual(published(again), after(tip, 2))
        for (const number of [2, 3]) assert.strictEqual(valueOf(yield* readNow(again, number)), number)
        assert.strictEqual(again.log.published().databasePages, 21)
      }))
  }

  test.overParallelWal("CO-05 PW-07 a transaction larger than a lane that blocks is refused before it gets a sequence; others wait for room", () =>
    Effect.gen(function*() {
      const laneCapacityBytes = 4 * (48 + pageSize)
      const { disk, tip, ...database } = yield* open20().pipe(
        Effect.tap(({ close }) => close),
        Effect.flatMap(({ disk: grown, tip: reached }) =>
          Effect.map(
            openMemory(grown, {
              parallel: { laneCapacityBytes, overflowPolicy: "block", control: { laneCount: 1 } }
            }),
            (opened) => ({ ...opened, disk: grown, tip: reached })
          )
        )
      )
      assert.strictEqual(yield* outcomeOf(commitPages(database, [2, 3, 4, 5, 6])), "Exhausted")
      const hold = disk.hold(parallelWal.batchWrite)
      const first = yield* forkNow(commitPages(database, [2, 3, 4, 5], { value: 1 }))
      yield* hold.reached
      // The lane is empty again while its epoch is written; then it is full.
      const second = yield* forkNow(commitPages(database, [6, 7, 8, 9], { value: 2 }))
      const third = yield* forkNow(commitPages(database, [10], { value: 3 }))
      const fourth = yield* forkNow(outcomeOf(commitPages(database, [9], { value: 4 })))
      yield* settle
      assert.deepStrictEqual([first, second, third, fourth].map(isWaiting), [true, true, true, true])
      yield* hold.release
      const answers = yield* Effect.forEach([first, second, third], Fiber.join)
      assert.deepStrictEqual(answers.map(({ commitSeq }) => commitSeq), [1, 2, 3].map((at) => after(tip, at)))
      assert.strictEqual(yield* Fiber.join(fourth), "Conflict")
    }))
})

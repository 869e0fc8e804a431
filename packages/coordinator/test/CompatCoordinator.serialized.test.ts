/** Serialized transactions exclude concurrent ones (CO-12), and pivots give way (CO-13). */
import { assert, describe, it } from "@effect/vitest"
import { SchemaEpoch, toCommitSeq, toTxnId } from "@tidemark/core/Scalars"
import { Deferred, Effect, Exit, Fiber, Scope } from "effect"
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
  readNow,
  settle,
  valueOf
} from "./support/database.ts"
import { test } from "./support/logs.ts"
import { openRecording, RecordingLog } from "./support/recordingLog.ts"

describe("CompatCoordinator", () => {
  it.effect("CO-12 while a serialized transaction is open every other commit is Busy, its own is made", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const { coordinator, vfs } = yield* openRecording(log)
      const before = yield* makeRequest({ coordinator, vfs }, [1])
      const serialized = yield* coordinator.beginSerialized()
      const busy = yield* Effect.flip(coordinator.commit(before))
      assert.strictEqual(busy._tag, "Busy")
      assert.strictEqual(yield* outcomeOf(commitPages({ coordinator, vfs }, [2])), "Busy")
      // Who writes nothing is in nobody's way.
      assert.strictEqual(yield* outcomeOf(commitPages({ coordinator, vfs }, [])), "success")
      const own = yield* forkNow(commitPages({ coordinator, vfs }, [1], { token: serialized.token }))
      log.complete()
      assert.strictEqual((yield* Fiber.join(own)).commitSeq, 1n)
      assert.strictEqual(yield* outcomeOf(commitPages({ coordinator, vfs }, [2])), "Busy")
      serialized.end()
      const after = yield* forkNow(commitPages({ coordinator, vfs }, [2]))
      log.complete()
      assert.strictEqual((yield* Fiber.join(after)).commitSeq, 2n)
      // It was Busy, not refused for good; what the serialized one wrote stands against it now.
      assert.strictEqual(yield* outcomeOf(coordinator.commit(before)), "Conflict")
    }))

  it.effect("CO-12 a serialized transaction begins when the commits before it are durable, and lets in none meanwhile", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const { coordinator, vfs } = yield* openRecording(log)
      const first = yield* forkNow(commitPages({ coordinator, vfs }, [1]))
      const entering = yield* forkNow(coordinator.beginSerialized())
      yield* settle
      assert.isTrue(isWaiting(entering))
      assert.strictEqual(yield* outcomeOf(commitPages({ coordinator, vfs }, [2])), "Busy")
      log.complete()
      yield* Fiber.join(first)
      const hold = yield* Fiber.join(entering)
      assert.strictEqual(hold.snapshot.high, 1n)
      hold.end()
    }))

  it.effect("CO-12 a request that waits for room when the turn is given is Busy when there is some", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      log.isFull = true
      const { coordinator, vfs } = yield* openRecording(log)
      const waiting = yield* forkNow(Effect.flip(commitPages({ coordinator, vfs }, [1])))
      const hold = yield* coordinator.beginSerialized()
      log.letIn()
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "Busy")
      assert.lengthOf(log.commits, 0)
      hold.end()
    }))

  it.effect("CO-12 entry is Busy after its timeout and leaves nothing behind", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const { coordinator, vfs } = yield* openRecording(log)
      const first = yield* forkNow(commitPages({ coordinator, vfs }, [1]))
      const entering = yield* forkNow(Effect.flip(coordinator.beginSerialized({ busyTimeout: "2 seconds" })))
      yield* TestClock.adjust("1999 millis")
      assert.isTrue(isWaiting(entering))
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* Fiber.join(entering))._tag, "Busy")
      // Commits are taken again, although the first one is still on its way.
      const second = yield* forkNow(commitPages({ coordinator, vfs }, [2]))
      log.complete()
      assert.strictEqual((yield* Fiber.join(first)).commitSeq, 1n)
      assert.strictEqual((yield* Fiber.join(second)).commitSeq, 2n)
    }))

  it.effect("CO-12 turns are given in the order of asking, and who gives up waiting is passed over", () =>
    Effect.gen(function*() {
      const { coordinator } = yield* openRecording(new RecordingLog())
      const first = yield* coordinator.beginSerialized()
      const given: Array<string> = []
      const ask = (name: string) =>
        forkNow(Effect.tap(coordinator.beginSerialized(), () => Effect.sync(() => given.push(name))))
      const second = yield* ask("second")
      const third = yield* ask("third")
      const fourth = yield* ask("fourth")
      const concurrent = yield* forkNow(coordinator.awaitConcurrent)
      yield* Fiber.interrupt(third)
      first.end()
      first.end()
      const holder = yield* Fiber.join(second)
      yield* settle
      assert.deepStrictEqual(given, ["second"])
      holder.end()
      const last = yield* Fiber.join(fourth)
      assert.isTrue(isWaiting(concurrent))
      last.end()
      yield* Fiber.join(concurrent)
      assert.deepStrictEqual(given, ["second", "fourth"])
      yield* coordinator.awaitConcurrent
    }))

  it.effect("CO-12 a serialized writer of another process is one too: in the header", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const { coordinator, header, vfs } = yield* openRecording(log)
      const other = toTxnId(1_000_000n)
      yield* header.serialized.acquire(other)
      assert.strictEqual(yield* outcomeOf(commitPages({ coordinator, vfs }, [1])), "Busy")
      const concurrent = yield* forkNow(coordinator.awaitConcurrent)
      yield* TestClock.adjust("1 second")
      assert.isTrue(isWaiting(concurrent))
      const entering = yield* forkNow(coordinator.beginSerialized())
      yield* TestClock.adjust("1 second")
      assert.isTrue(isWaiting(entering))
      assert.isTrue(header.serialized.release(other))
      yield* TestClock.adjust("1 second")
      const hold = yield* Fiber.join(entering)
      assert.strictEqual(header.serialized.holder()?.id, hold.token.id)
      hold.end()
      assert.isUndefined(header.serialized.holder())
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(concurrent)
    }))

  it.effect("CO-12 who gives up on a writer of another process leaves the header to it", () =>
    Effect.gen(function*() {
      const { coordinator, header } = yield* openRecording(new RecordingLog())
      const other = toTxnId(1_000_000n)
      yield* header.serialized.acquire(other)
      const entering = yield* forkNow(Effect.flip(coordinator.beginSerialized({ busyTimeout: "2 seconds" })))
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(entering))._tag, "Busy")
      assert.strictEqual(header.serialized.holder()?.id, other)
    }))

  it.effect("SHM-12 CO-14 nothing is forgotten that a transaction in a slot of the header can conflict with", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const { coordinator, header, vfs } = yield* openRecording(log)
      const commitMany = Effect.gen(function*() {
        for (let at = 0; at < 600; at++) {
          const fiber = yield* forkNow(commitPages({ coordinator, vfs }, [1 + at % 50]))
          log.complete()
          yield* Fiber.join(fiber)
        }
      })
      const slot = yield* header.transactions.claim({ mode: "concurrent" })
      yield* commitMany
      const request = yield* makeRequest({ coordinator, vfs }, [60])
      const snapshot = { high: slot.snapshot.commitSeq, schemaEpoch: slot.snapshot.schemaEpoch }
      const other = yield* forkNow(coordinator.commit({ ...request, snapshot }))
      log.complete()
      yield* Fiber.join(other)
      slot.release()
      yield* commitMany
      const late = yield* makeRequest({ coordinator, vfs }, [61])
      const refused = yield* Effect.flip(coordinator.commit({ ...late, snapshot }))
      assert.deepInclude(refused, { _tag: "Conflict", reason: "floor" })
    }))

  it.effect("CO-16 the header says what was committed, to whoever maps it, when it is durable and not before", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const { coordinator, header, vfs } = yield* openRecording(log)
      const fiber = yield* forkNow(commitPages({ coordinator, vfs }, [1]))
      assert.strictEqual(header.snapshotUnsafe()?.commitSeq, 0n)
      log.complete()
      assert.strictEqual(header.snapshotUnsafe()?.commitSeq, 1n)
      yield* Fiber.join(fiber)
      yield* coordinator.setSchemaEpoch(SchemaEpoch.make(7n))
      assert.deepStrictEqual(header.snapshotUnsafe(), {
        commitSeq: toCommitSeq(1n),
        schemaEpoch: SchemaEpoch.make(7n),
        ecsEpoch: 0n
      })
      assert.strictEqual(coordinator.begin().snapshot.schemaEpoch, 7n)
    }))

  it.effect("CO-13 a transaction with antidependencies in and out gives way, unless its caller has decided", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const { coordinator, vfs } = yield* openRecording(log)
      const request = yield* makeRequest({ coordinator, vfs }, [1])
      for (const abortPolicy of [undefined, "pivot", "dro", "youngest"] as const) {
        const refused = yield* Effect.flip(
          coordinator.commit({ ...request, abortPolicy, conflicts: { in: true, out: true } })
        )
        assert.deepInclude(refused, { _tag: "SerializationFailure", reason: "pivot", sqliteCode: 517 })
      }
      assert.lengthOf(log.commits, 0)
      let number = 1
      for (
        const given of [
          { conflicts: { in: true, out: false } },
          { conflicts: { in: false, out: true } },
          { conflicts: { in: true, out: true }, abortPolicy: "custom" as const }
        ]
      ) {
        const other = yield* makeRequest({ coordinator, vfs }, [number++])
        const committed = yield* forkNow(coordinator.commit({ ...other, ...given }))
        log.complete()
        yield* Fiber.join(committed)
      }
      // A page that was overwritten is told first: it names what to wait for.
      const stale = yield* Effect.flip(coordinator.commit({ ...request, conflicts: { in: true, out: true } }))
      assert.strictEqual(stale._tag, "Conflict")
    }))
})

describe("CompatCoordinator, over each log", () => {
  test.overEveryLog("CO-13 a pivot is refused whatever it wrote, and nothing of it is there", () =>
    Effect.gen(function*() {
      const database = yield* openMemory(makeDisk())
      yield* grow(database, 4)
      const { coordinator } = database
      const both = { conflicts: { in: true, out: true } }
      const request = yield* makeRequest(database, [2, 3], { value: 5 })
      const refused = yield* Effect.flip(coordinator.commit({ ...request, ...both }))
      assert.deepInclude(refused, { _tag: "SerializationFailure", reason: "pivot", sqliteCode: 517, isRetryable: true })
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 0)
      const spilled = yield* makeRequest(database, [2, 3], { value: 6, spillThresholdBytes: 0 })
      assert.strictEqual(yield* outcomeOf(coordinator.commit({ ...spilled, ...both })), "SerializationFailure")
      // The same transaction again, when its caller has decided that it is not the one that gives way.
      yield* coordinator.commit({ ...spilled, ...both, abortPolicy: "custom" })
      assert.strictEqual(valueOf(yield* readNow(database, 3)), 6)
      // Who read a page that has changed is refused for that, a pivot or not.
      const old = yield* makeRequest(database, [2], { reads: [3] })
      yield* commitPages(database, [3])
      const stale = yield* Effect.flip(coordinator.commit(old))
      assert.deepInclude(stale, { _tag: "SerializationFailure", reason: "read set" })
    }))
})

describe("Pager", () => {
  test.overEveryLog("CO-12 concurrent transactions are run again when the serialized one is over", () =>
    Effect.gen(function*() {
      const database = yield* openMemory(makeDisk())
      yield* grow(database, 3)
      const scope = yield* Scope.make()
      const serialized = yield* Scope.provide(database.pager.beginSerialized(), scope)
      let runs = 0
      const others = yield* Effect.forEach(
        [1, 2, 3],
        () =>
          forkNow(database.pager.withTransaction((tx) =>
            Effect.gen(function*() {
              runs++
              const value = valueOf(yield* tx.read(page(2)))
              yield* tx.write(page(2), filled(value + 1))
            })
          ))
      )
      yield* settle
      assert.strictEqual(runs, 3)
      assert.isTrue(others.every(isWaiting))
      yield* serialized.write(page(2), filled(100))
      yield* serialized.commit
      yield* Scope.close(scope, Exit.void)
      yield* Effect.forEach(others, Fiber.join)
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 103)
    }))

  test.overEveryLog("CO-12 withTransaction in mode serialized needs one run, rolls back when it fails, and ends its turn", () =>
    Effect.gen(function*() {
      const database = yield* openMemory(makeDisk())
      yield* grow(database, 3)
      const increment = (tx: Parameters<Parameters<typeof database.pager.withTransaction>[0]>[0]) =>
        Effect.flatMap(tx.read(page(2)), (bytes) => tx.write(page(2), filled(valueOf(bytes) + 1)))
      let runs = 0
      yield* Effect.forEach(
        Array.from({ length: 8 }),
        () =>
          database.pager.withTransaction((tx) => {
            runs++
            return increment(tx)
          }, { mode: "serialized" }),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(runs, 8)
      const failed = yield* Effect.flip(
        database.pager.withTransaction((tx) => Effect.andThen(increment(tx), Effect.fail("no" as const)), {
          mode: "serialized"
        })
      )
      assert.strictEqual(failed, "no")
      yield* database.pager.withTransaction(increment)
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 9)
    }))

  it.effect("CO-12 a turn that does not come is Busy, and is not waited for again", () =>
    Effect.gen(function*() {
      const database = yield* openMemory(makeDisk())
      yield* grow(database, 2)
      const isOpen = yield* Deferred.make<void>()
      const release = yield* Deferred.make<void>()
      const holder = yield* forkNow(database.pager.withTransaction(
        () => Effect.andThen(Deferred.succeed(isOpen, undefined), Deferred.await(release)),
        { mode: "serialized" }
      ))
      yield* Deferred.await(isOpen)
      const waiting = yield* forkNow(Effect.flip(
        database.pager.withTransaction(() => Effect.void, { mode: "serialized", busyTimeout: "1 second" })
      ))
      yield* settle
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "Busy")
      yield* Deferred.succeed(release, undefined)
      yield* Fiber.join(holder)
    }))
})

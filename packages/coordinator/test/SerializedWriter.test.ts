import { assert, describe, it } from "@effect/vitest"
import { offsets, toWriterWord } from "@tidemark/coordinator/SharedHeaderFormat"
import { toTxnId } from "@tidemark/core/Scalars"
import type { ProcessIdentity } from "@tidemark/platform/ProcessLiveness"
import type { SharedRegion } from "@tidemark/platform/SharedMemory"
import { Effect, Exit, Logger } from "effect"
import { TestClock } from "effect/testing"
import { makeSerializedWriter } from "../src/internal/serializedWriter.ts"
import { watched } from "./support/headerStates.ts"
import { contentsOf, freshRegion } from "./support/sharedHeaders.ts"

const [one, two] = [toTxnId(1n), toTxnId(2n)]

/** Processes of one machine over one header; those in `alive` live. */
const makeProcesses = () => {
  const region = freshRegion()
  const alive = new Set<string>()
  const key = ({ birth, pid }: ProcessIdentity) => `${pid} ${birth}`
  const isAlive = (asked: ProcessIdentity) =>
    Effect.sync(() =>
      asked.birth === 0n
        ? [...alive].some((known) => known.startsWith(`${asked.pid} `))
        : alive.has(key(asked))
    )
  return {
    region,
    start: (self: ProcessIdentity, through: SharedRegion = region) => {
      alive.add(key(self))
      return makeSerializedWriter({ region: () => through, liveness: { self, isAlive } })
    },
    kill: (self: ProcessIdentity) => {
      alive.delete(key(self))
    },
    /** The words as they stand: id, pid half, birth, lease, and the generation half. */
    words: () => {
      const { writerBirth, writerGeneration, writerLeaseExpiryUnixSeconds, writerPid, writerTxnId } = contentsOf(region)
      return {
        id: writerTxnId,
        pid: writerPid,
        birth: writerBirth,
        lease: writerLeaseExpiryUnixSeconds,
        writerGeneration
      }
    }
  }
}

const first: ProcessIdentity = { pid: 11, birth: 100n }
const second: ProcessIdentity = { pid: 12, birth: 200n }
const quiet = Effect.provide(Logger.layer([]))
const free = { id: 0n, pid: 0, birth: 0n, lease: 0n }

describe("SerializedWriter", () => {
  it.effect("SHM-08 0 -> id; a second one, and releases by others or again, are refused; the generation stays and grows", () =>
    Effect.gen(function*() {
      const processes = makeProcesses()
      const a = processes.start(first)
      const b = processes.start(second)
      assert.isUndefined(a.holder())
      yield* a.acquire(one)
      assert.deepStrictEqual(processes.words(), { id: 1n, pid: 11, birth: 100n, lease: 0n, writerGeneration: 1 })
      assert.deepStrictEqual(b.holder(), {
        id: one,
        pid: 11,
        generation: 1,
        birth: 100n,
        leaseExpiryUnixSeconds: 0n
      })
      for (const [writer, id] of [[a, two], [b, two], [b, one], [a, one]] as const) {
        assert.strictEqual(
          (yield* Effect.flip(writer.acquire(id))).reason,
          "transaction 1 of process 11 is the serialized writer"
        )
      }
      assert.isFalse(a.release(two))
      assert.isFalse(b.release(one), "the same id from another process")
      assert.strictEqual(processes.words().id, 1n)
      assert.isTrue(a.release(one))
      assert.deepStrictEqual(processes.words(), { ...free, writerGeneration: 1 })
      assert.isFalse(a.release(one))
      assert.isUndefined(a.holder())
      yield* b.acquire(two, { lease: "5 seconds" })
      assert.deepStrictEqual(processes.words(), { id: 2n, pid: 12, birth: 200n, lease: 5n, writerGeneration: 2 })
      assert.isTrue(b.release(two))
      assert.deepStrictEqual(processes.words(), { ...free, writerGeneration: 2 })
    }))

  it.effect("SHM-08 the id is cleared first, and while the pid stands nobody begins", () =>
    Effect.gen(function*() {
      const processes = makeProcesses()
      const stored: Array<number> = []
      const b = processes.start(second)
      const refusals: Array<string> = []
      const a = processes.start(
        first,
        watched(processes.region, {
          onStore: (offset) => {
            stored.push(offset)
            const exit = Effect.runSyncExit(b.acquire(two))
            refusals.push(Exit.isFailure(exit) ? "refused" : "acquired")
          }
        })
      )
      yield* a.acquire(one, { lease: "1 hour" })
      stored.length = 0
      refusals.length = 0
      assert.isTrue(a.release(one))
      const { writerBirth, writerLeaseExpiry, writerOwner, writerTxnId } = offsets
      assert.deepStrictEqual(stored, [writerTxnId, writerBirth, writerLeaseExpiry, writerOwner])
      assert.deepStrictEqual(refusals, ["refused", "refused", "refused", "refused"])
      yield* b.acquire(two)
    }))

  it.effect("SHM-08 the generation goes on at 0 after 2^32 - 1", () =>
    Effect.gen(function*() {
      const processes = makeProcesses()
      processes.region.store(offsets.writerOwner, toWriterWord({ pid: 0, generation: 0xffffffff }))
      const a = processes.start(first)
      yield* a.acquire(one)
      assert.strictEqual(a.holder()?.generation, 0)
    }))

  it.effect("SHM-09 a lease decides: until the second it names has come nobody clears it, from then on everybody", () =>
    Effect.gen(function*() {
      for (const isDead of [false, true]) {
        yield* TestClock.setTime(1_000_400)
        const processes = makeProcesses()
        const a = processes.start(first)
        const b = processes.start(second)
        yield* a.acquire(one, { lease: "2 seconds" })
        assert.strictEqual(processes.words().lease, 1003n, "no sooner than the lease is over")
        if (isDead) processes.kill(first)
        yield* TestClock.setTime(1_002_999)
        assert.strictEqual(yield* b.clearStale, "alive")
        assert.strictEqual((yield* Effect.flip(b.acquire(two)))._tag, "Busy")
        yield* TestClock.setTime(1_003_000)
        yield* b.acquire(two)
        // Who has overstayed finds out, and takes nothing from the other one.
        assert.isFalse(a.release(one))
        assert.deepInclude(a.holder(), { id: two, pid: 12 })
      }
    }).pipe(quiet))

  it.effect("SHM-09 a clock that jumps forward ends a lease, one that jumps back does not end the lease of another one", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(5_000_000)
      const processes = makeProcesses()
      const a = processes.start(first)
      const b = processes.start(second)
      yield* a.acquire(one, { lease: "10 seconds" })
      yield* TestClock.setTime(1_000_000)
      assert.strictEqual(yield* b.clearStale, "alive")
      yield* TestClock.setTime(9_000_000)
      assert.strictEqual(yield* b.clearStale, "cleared")
      assert.isUndefined(a.holder(), "its holder sees that it is no longer the writer")
    }).pipe(quiet))

  it.effect("SHM-09 SHM-13 without a lease liveness decides, by pid and birth", () =>
    Effect.gen(function*() {
      const processes = makeProcesses()
      const a = processes.start(first)
      const b = processes.start(second)
      assert.strictEqual(yield* b.clearStale, "none")
      yield* a.acquire(one)
      yield* TestClock.setTime(4_000_000_000_000)
      assert.strictEqual(yield* b.clearStale, "alive", "no time ends what has no lease")
      processes.kill(first)
      // Another process has its pid now.
      processes.start({ pid: first.pid, birth: 101n })
      assert.strictEqual(yield* b.clearStale, "cleared")
      assert.deepInclude(processes.words(), free)
      assert.strictEqual(yield* b.clearStale, "none")
    }).pipe(quiet))

  it.effect("SHM-09 an id with neither pid, birth nor lease is somebody who is about to say who: alive", () =>
    Effect.gen(function*() {
      const processes = makeProcesses()
      const b = processes.start(second)
      processes.region.store(offsets.writerTxnId, 7n)
      assert.strictEqual(yield* b.clearStale, "alive")
      assert.match((yield* Effect.flip(b.acquire(two))).reason, /transaction 7 of a process that has not said which/)
      // As soon as it has said that it is one that is dead, or that its lease is over, it is cleared.
      processes.region.store(offsets.writerBirth, 9n)
      assert.strictEqual(yield* b.clearStale, "cleared")
      processes.region.store(offsets.writerTxnId, 7n)
      processes.region.store(offsets.writerLeaseExpiry, 1n)
      yield* TestClock.setTime(1000)
      yield* b.acquire(two)
      assert.deepInclude(b.holder(), { id: two, leaseExpiryUnixSeconds: 0n })
    }).pipe(quiet))

  it.effect("SHM-09 the lease of another writer, whose pid was given back before it, is not taken over", () =>
    Effect.gen(function*() {
      const processes = makeProcesses()
      // SHM-08 clears the pid half before birth and lease: a program that was killed in between leaves these.
      processes.region.store(offsets.writerOwner, toWriterWord({ pid: 0, generation: 4 }))
      processes.region.store(offsets.writerBirth, 9n)
      processes.region.store(offsets.writerLeaseExpiry, 3n)
      yield* TestClock.setTime(10_000)
      const a = processes.start(first)
      const b = processes.start(second)
      yield* a.acquire(one)
      assert.deepStrictEqual(processes.words(), { id: 1n, pid: 11, birth: 100n, lease: 0n, writerGeneration: 5 })
      assert.strictEqual(yield* b.clearStale, "alive")
      assert.strictEqual((yield* Effect.flip(b.acquire(two)))._tag, "Busy")
    }).pipe(quiet))

  it.effect("a lease that is no time is a defect, and takes nothing", () =>
    Effect.gen(function*() {
      const processes = makeProcesses()
      const a = processes.start(first)
      for (const lease of ["0 seconds", Infinity] as const) {
        assert.isTrue(Exit.hasDies(yield* Effect.exit(a.acquire(one, { lease }))))
        assert.isUndefined(a.holder())
      }
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { Busy } from "@tidemark/coordinator/CoordinatorErrors"
import type { HeaderSnapshot } from "@tidemark/coordinator/SharedHeader"
import { encode, freshHeader, maxTxnId, offsets, regionsOf } from "@tidemark/coordinator/SharedHeaderFormat"
import * as Format from "@tidemark/coordinator/TransactionSlotFormat"
import { toCommitSeq, TxnEpoch } from "@tidemark/core/Scalars"
import type { ProcessIdentity } from "@tidemark/platform/ProcessLiveness"
import { regionOf, type SharedRegion } from "@tidemark/platform/SharedMemory"
import { Deferred, Effect, Exit, Fiber, Logger, Scope } from "effect"
import { TestClock } from "effect/testing"
import { makeTransactionSlots } from "../src/internal/transactionSlots.ts"
import { pageSize, stateAt, watched } from "./support/headerStates.ts"

const first: ProcessIdentity = { pid: 11, birth: 100n }
const second: ProcessIdentity = { pid: 12, birth: 200n }
const slotAt = (slots: number, index: number) => regionsOf(slots).transactionSlots + index * Format.transactionSlotBytes

const regionWith = (slots: number, commit = 10): SharedRegion => {
  const buffer = new SharedArrayBuffer(65_536)
  new Uint8Array(buffer).set(encode({ ...freshHeader({ pageSize, slots }), ...stateAt(commit) }))
  return regionOf("header", buffer)
}

const snapshotOf = (region: SharedRegion) => Effect.sync(() => stateAt(region.load(offsets.commitSeq)))

/** Processes of one machine over one header. */
const makeProcesses = (region: SharedRegion) => {
  const alive = new Map<number, bigint>()
  return {
    alive,
    start: (self: ProcessIdentity, parts: {
      readonly snapshot?: Effect.Effect<HeaderSnapshot, Busy>
      readonly region?: () => SharedRegion
    } = {}) => {
      alive.set(self.pid, self.birth)
      const isAlive = ({ birth, pid }: ProcessIdentity) =>
        Effect.sync(() => alive.has(pid) && (birth === 0n || alive.get(pid) === birth))
      return makeTransactionSlots({
        region: parts.region ?? (() => region),
        liveness: { self, isAlive },
        snapshot: parts.snapshot ?? snapshotOf(region)
      })
    }
  }
}

const concurrent = { mode: "concurrent" } as const
/** A transaction that nobody ends. */
const leave = <A, E>(claim: Effect.Effect<A, E, Scope.Scope>) => Scope.provide(claim, Scope.makeUnsafe())
const quiet = Effect.provide(Logger.layer([]))

const wordsOf = (region: SharedRegion, slot: number) =>
  Array.from({ length: Format.transactionSlotBytes / 8 }, (_, index) => region.load(slot + index * 8))
const empty = Array.from({ length: 16 }, () => 0n)

describe("TransactionSlots", () => {
  it.effect("SHM-11 the slot is claimed, then an id taken, then the snapshot; what it says stands in the slot", () =>
    Effect.gen(function*() {
      const region = regionWith(2)
      const seen: Array<string> = []
      const slots = makeProcesses(region).start(first, {
        snapshot: Effect.sync(() => {
          seen.push(Format.toTag(region.load(slotAt(2, 0))), `next id ${region.load(offsets.nextTxnId)}`)
          return stateAt(10)
        })
      })
      yield* TestClock.setTime(50_000)
      const slot = yield* slots.claim({ mode: "serialized", lease: "7 seconds" })
      assert.deepStrictEqual(seen, ["claiming", "next id 2"])
      assert.deepInclude(slots.list()[0], {
        index: 0,
        tag: "live",
        holder: 1n,
        epoch: slot.token.epoch,
        pid: 11,
        birth: 100n,
        leaseExpiryUnixSeconds: 57n,
        beginSeq: toCommitSeq(10n),
        snapshotHigh: toCommitSeq(10n),
        state: "active",
        mode: "serialized",
        claimingUnixSeconds: 50n,
        cleanupTxnId: 1n
      })
      assert.deepStrictEqual(slot.snapshot, stateAt(10))
      slot.setCommitting(toCommitSeq(11n))
      slot.setFlags({ hasInRw: true, writeSetPages: 3 })
      slot.setFlags({ hasOutRw: true })
      assert.deepInclude(slots.list()[0], {
        state: "committing",
        commitSeq: toCommitSeq(11n),
        hasInRw: true,
        hasOutRw: true,
        writeSetPages: 3,
        abortMark: 0
      })
      slot.setState("aborted")
      assert.deepInclude(slots.list()[0], { state: "aborted", mode: "serialized", commitSeq: toCommitSeq(11n) })
    }).pipe(Effect.scoped))

  it.effect("SHM-11 free is one last write; the words are zero before; afterwards the transaction changes nothing", () =>
    Effect.gen(function*() {
      const region = regionWith(1)
      const slot0 = slotAt(1, 0)
      const stored: Array<number> = []
      const slots = makeProcesses(region).start(first, {
        region: () => through
      })
      const through = watched(region, { onStore: (offset) => stored.push(offset - slot0) })
      const slot = yield* leave(slots.claim({ ...concurrent, lease: "1 second" }))
      slot.setFlags({ hasInRw: true, writeSetPages: 9 })
      slot.setCommitting(toCommitSeq(11n))
      stored.length = 0
      slot.release()
      assert.strictEqual(stored.at(-1), Format.words.holder)
      assert.lengthOf(stored.filter((offset) => offset === Format.words.holder), 1)
      assert.deepStrictEqual(wordsOf(region, slot0), empty)
      const next = yield* leave(slots.claim(concurrent))
      const before = wordsOf(region, slot0)
      slot.release()
      slot.setState("aborted")
      slot.setCommitting(toCommitSeq(12n))
      slot.setFlags({ hasOutRw: true })
      assert.isFalse(slot.isHeld())
      assert.isFalse(slot.isMarkedForAbort())
      assert.deepStrictEqual(wordsOf(region, slot0), before)
      assert.isTrue(next.isHeld())
    }))

  it.effect("SHM-11 the end of the scope frees it", () =>
    Effect.gen(function*() {
      const region = regionWith(1)
      const slots = makeProcesses(region).start(first)
      yield* Effect.scoped(slots.claim(concurrent))
      assert.deepStrictEqual(wordsOf(region, slotAt(1, 0)), empty)
    }))

  it.effect("SHM-11 all busy: Busy; a dead process's slot goes to the next one when its lease is over, a live one's never", () =>
    Effect.gen(function*() {
      const region = regionWith(2)
      const processes = makeProcesses(region)
      const a = processes.start(first)
      const b = processes.start(second)
      yield* leave(a.claim({ ...concurrent, lease: "10 seconds" }))
      const own = yield* leave(b.claim({ ...concurrent, lease: "1 second" }))
      assert.strictEqual(
        (yield* Effect.flip(leave(b.claim(concurrent)))).message.includes("all 2 transaction slots"),
        true
      )
      yield* TestClock.setTime(9_999)
      processes.alive.delete(first.pid)
      assert.strictEqual(yield* b.cleanDead, 0, "its lease is not over")
      assert.strictEqual((yield* Effect.flip(leave(b.claim(concurrent))))._tag, "Busy")
      yield* TestClock.setTime(10_000)
      const next = yield* leave(b.claim(concurrent))
      assert.strictEqual(next.index, 0)
      assert.isTrue(own.isHeld(), "a lease that is over frees nothing of a process that lives")
      assert.strictEqual(yield* b.cleanDead, 0)
    }).pipe(quiet))

  it.effect("SHM-11 SHM-13 another process with the pid of a dead one does not keep its slots", () =>
    Effect.gen(function*() {
      const region = regionWith(1)
      const processes = makeProcesses(region)
      yield* leave(processes.start(first).claim(concurrent))
      processes.start({ pid: first.pid, birth: 101n })
      assert.strictEqual(yield* processes.start(second).cleanDead, 1)
      assert.deepStrictEqual(wordsOf(region, slotAt(1, 0)), empty)
    }).pipe(quiet))

  for (const [what, wordOf] of [["claimed", Format.claimingWord], ["emptied", Format.cleaningWord]] as const) {
    it.effect(`SHM-13 a slot that was being ${what} by a dead process is cleaned by the next one with its pid, as in a container`, () =>
      Effect.gen(function*() {
        const region = regionWith(1)
        const processes = makeProcesses(region)
        // Its birth is not written yet, or was wiped out: the word itself has to do.
        region.store(slotAt(1, 0), wordOf(first))
        assert.strictEqual(yield* processes.start(first).cleanDead, 0, "a thread of that very process is at it")
        const again = processes.start({ pid: first.pid, birth: 5000n })
        yield* leave(again.claim(concurrent))
      }).pipe(quiet))
  }

  it.effect("SHM-11 whoever gets no id, no snapshot, or is interrupted, leaves the slot free", () =>
    Effect.gen(function*() {
      const region = regionWith(1)
      const processes = makeProcesses(region)
      const refused = processes.start(first, {
        snapshot: Effect.fail(new Busy({ reason: "open", retryAfterMillis: 1 }))
      })
      assert.strictEqual((yield* Effect.flip(leave(refused.claim(concurrent))))._tag, "Busy")
      assert.deepStrictEqual(wordsOf(region, slotAt(1, 0)), empty)

      const isWaiting = yield* Deferred.make<void>()
      const waiting = processes.start(first, {
        snapshot: Effect.andThen(Deferred.succeed(isWaiting, undefined), Effect.never)
      })
      const fiber = yield* Effect.forkChild(leave(waiting.claim(concurrent)))
      yield* Deferred.await(isWaiting)
      assert.strictEqual(Format.toTag(region.load(slotAt(1, 0))), "claiming")
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(wordsOf(region, slotAt(1, 0)), empty)

      region.store(offsets.nextTxnId, maxTxnId + 1n)
      const exhausted = yield* Effect.flip(leave(processes.start(first).claim(concurrent)))
      assert.strictEqual(exhausted._tag, "TxnIdExhausted")
      assert.deepStrictEqual(wordsOf(region, slotAt(1, 0)), empty)

      const died = yield* Effect.exit(leave(processes.start(first).claim({ ...concurrent, lease: 0 })))
      assert.isTrue(Exit.hasDies(died))
      assert.deepStrictEqual(wordsOf(region, slotAt(1, 0)), empty)
    }))

  it.effect("SHM-11 RC-18 a header that is made anew while the snapshot is taken: Busy, and nothing is kept in either", () =>
    Effect.gen(function*() {
      const old = regionWith(1)
      const anew = regionWith(1, 50)
      let mapped = old
      const slots = makeProcesses(old).start(first, {
        region: () => mapped,
        snapshot: Effect.sync(() => {
          mapped = anew
          return stateAt(50)
        })
      })
      const refused = yield* Effect.flip(leave(slots.claim(concurrent)))
      assert.include(refused.message, "made anew")
      for (const region of [old, anew]) assert.deepStrictEqual(wordsOf(region, slotAt(1, 0)), empty)
      const slot = yield* leave(slots.claim(concurrent))
      assert.strictEqual(slot.snapshot.commitSeq, 50n)
      assert.strictEqual(anew.load(slotAt(1, 0)), slot.token.id)
    }))

  it.effect("SHM-12 the horizon is the smallest begin sequence; without a transaction what is published, and no more", () =>
    Effect.gen(function*() {
      const region = regionWith(4)
      const slots = makeProcesses(region).start(first)
      const at = (commit: number) => region.store(offsets.commitSeq, BigInt(commit))
      assert.strictEqual(slots.horizon(toCommitSeq(10n)), 10n)
      assert.strictEqual(slots.horizon(toCommitSeq(99n)), 10n, "nobody has published 99")
      assert.strictEqual(slots.horizon(toCommitSeq(8n)), 8n)
      const ten = yield* leave(slots.claim(concurrent))
      at(20)
      const twenty = yield* leave(slots.claim(concurrent))
      at(30)
      assert.strictEqual(slots.updateHorizon(toCommitSeq(30n)), 10n)
      assert.strictEqual(region.load(offsets.gcHorizon), 10n)
      ten.release()
      assert.strictEqual(slots.horizon(toCommitSeq(30n)), 20n)
      assert.strictEqual(region.load(offsets.gcHorizon), 10n, "only told, not moved")
      assert.strictEqual(slots.updateHorizon(toCommitSeq(30n)), 20n)
      twenty.setCommitting(toCommitSeq(31n))
      assert.strictEqual(slots.updateHorizon(toCommitSeq(30n)), 20n, "a transaction that commits still reads")
      twenty.release()
      assert.strictEqual(slots.updateHorizon(toCommitSeq(30n)), 30n)
      assert.strictEqual(slots.updateHorizon(toCommitSeq(25n)), 25n)
      assert.strictEqual(region.load(offsets.gcHorizon), 30n, "it does not go back")
    }))

  it.effect("SHM-12 while somebody is about to take a snapshot the horizon stays; a slot that is emptied does not count", () =>
    Effect.gen(function*() {
      const region = regionWith(2, 30)
      region.store(offsets.gcHorizon, 20n)
      const slots = makeProcesses(region).start(first)
      region.store(slotAt(2, 1), Format.claimingWord(second))
      assert.strictEqual(slots.updateHorizon(toCommitSeq(30n)), 20n)
      region.store(slotAt(2, 1), Format.cleaningWord(second))
      assert.strictEqual(slots.updateHorizon(toCommitSeq(30n)), 30n)
    }))

  it.effect("a mark to abort reaches the transaction that was meant, by id and epoch", () =>
    Effect.gen(function*() {
      const processes = makeProcesses(regionWith(2))
      const a = processes.start(first)
      const b = processes.start(second)
      const slot = yield* leave(a.claim(concurrent))
      assert.isFalse(b.markForAbort({ id: slot.token.id, epoch: TxnEpoch.make((slot.token.epoch + 1) % 2 ** 32) }))
      assert.isFalse(slot.isMarkedForAbort())
      assert.isTrue(b.markForAbort(slot.token))
      assert.isTrue(slot.isMarkedForAbort())
      slot.setFlags({ hasInRw: true })
      assert.isTrue(slot.isMarkedForAbort())
      slot.release()
      assert.isFalse(b.markForAbort(slot.token))
    }))
})

import { assert, describe, it } from "@effect/vitest"
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import * as Format from "@tidemark/coordinator/SharedHeaderFormat"
import { CommitSeq, PageSize, toTxnId, TxnId } from "@tidemark/core/Scalars"
import { FileLock } from "@tidemark/platform/FileLock"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Context, Effect, Exit, Fiber, Layer, Logger } from "effect"
import { TestClock } from "effect/testing"
import { durableAt, pageSize, stateAt } from "./support/headerStates.ts"
import { contentsOf, database, headerPath, makeMachine, publishIn } from "./support/sharedHeaders.ts"

const { offsets } = Format

type Header = SharedHeader.SharedHeader["Service"]

/** The refusal of becoming the publisher. */
const refusedBy = (header: Header) => Effect.flip(Effect.scoped(header.becomePublisher(durableAt(0))))

/** The answer to somebody who waits for an open window until patience ends. */
const answerAfterWaiting = Effect.fnUntraced(function*(header: Header) {
  const fiber = yield* Effect.forkChild(Effect.result(header.snapshot), { startImmediately: true })
  yield* TestClock.adjust("1 millis")
  return yield* Fiber.join(fiber)
})

const busyReason = (answer: Effect.Success<ReturnType<typeof answerAfterWaiting>>): string =>
  answer._tag === "Failure" ? answer.failure.reason : assert.fail("there was an answer")

/** Lets virtual time pass until the effect is done, a second or two at most. */
const withTime = Effect.fnUntraced(function*<A, E, R>(effect: Effect.Effect<A, E, R>) {
  const fiber = yield* Effect.forkChild(effect, { startImmediately: true })
  let millis = 0
  for (; fiber.pollUnsafe() === undefined && millis < 3000; millis += 5) yield* TestClock.adjust("5 millis")
  return { exit: yield* Fiber.await(fiber), millis }
})

const bytesOf = (contents: Partial<Format.SharedHeaderContents> = {}) =>
  Format.encode({ ...Format.freshHeader({ pageSize }), ...contents })

/** Bytes of a header that somebody is still filling. */
const filling = (creator: { readonly pid: number; readonly birth: bigint }) => {
  const bytes = bytesOf({
    publisherPid: creator.pid,
    publisherBirth: creator.birth,
    publisherIsInitializing: true
  })
  new DataView(bytes.buffer).setBigUint64(0, Format.initializingMagic, true)
  return bytes
}

describe("SharedHeader", () => {
  it.effect("a state that was published is what every process takes as its snapshot", () =>
    Effect.gen(function*() {
      const machine = makeMachine()
      const writer = yield* machine.start()
      const reader = yield* machine.start()
      assert.strictEqual(reader.header.path, headerPath)
      assert.strictEqual(reader.header.slots, 128)
      assert.strictEqual(reader.header.pageSize, pageSize)
      assert.strictEqual(reader.header.region().identity, writer.header.region().identity)
      const publisher = yield* writer.header.becomePublisher(durableAt(4, 100))
      assert.deepStrictEqual(yield* reader.header.snapshot, stateAt(4))
      publisher.publish(stateAt(5))
      publisher.publish(stateAt(5))
      publisher.publish(stateAt(17))
      assert.deepStrictEqual(yield* reader.header.snapshot, stateAt(17))
      assert.deepStrictEqual(reader.header.snapshotUnsafe(), stateAt(17))
      assert.deepInclude(contentsOf(machine.region()), {
        nextTxnId: 100n,
        nextCommitSeq: CommitSeq.make(18n),
        snapshotSequence: 8n,
        publisherPid: writer.identity.pid,
        publisherBirth: writer.identity.birth,
        publisherGeneration: 1,
        publisherIsInitializing: false
      })
    }))

  it.effect("ids, slots and the serialized writer are those of the header that is mapped, also after another one came", () =>
    Effect.gen(function*() {
      const machine = makeMachine()
      const { header } = yield* machine.start()
      const tooEarly = header.nextTxnId()
      assert.strictEqual(typeof tooEarly === "bigint" ? tooEarly : tooEarly._tag, "Busy")
      const first = yield* publishIn(header, durableAt(5, 100))
      assert.strictEqual(header.nextTxnId(), TxnId.make(100n))
      const slot = yield* header.transactions.claim({ mode: "concurrent" })
      assert.strictEqual(slot.token.id, TxnId.make(101n))
      assert.deepStrictEqual(slot.snapshot, stateAt(5))
      first.publisher.publish(stateAt(9))
      assert.strictEqual(header.transactions.horizon(CommitSeq.make(9n)), CommitSeq.make(5n))
      yield* first.end

      machine.remove()
      yield* publishIn(header, durableAt(9, 300))
      const next = yield* header.transactions.claim({ mode: "serialized" })
      assert.strictEqual(next.token.id, TxnId.make(300n))
      assert.deepStrictEqual(next.snapshot, stateAt(9))
      assert.strictEqual(header.transactions.list().length, 1)
      yield* header.serialized.acquire(next.token.id)
      assert.strictEqual(header.serialized.holder()?.id, next.token.id)
      assert.strictEqual(contentsOf(machine.region()).writerTxnId, 300n)
      assert.isTrue(header.serialized.release(next.token.id))
      // The slot in the memory of before is given back there, and does no harm.
      slot.release()
      assert.strictEqual(header.transactions.list().length, 1)
      machine.region().store(offsets.nextTxnId, 2n ** 62n)
      const exhausted = header.nextTxnId()
      assert.strictEqual(typeof exhausted === "bigint" ? exhausted : exhausted._tag, "TxnIdExhausted")
    }))

  describe("publisher", () => {
    it.effect("one at a time: a second process, and a second one of the same process, get Busy with its pid", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const first = yield* machine.start()
        const second = yield* machine.start()
        const { end, publisher } = yield* publishIn(first.header, durableAt(1))
        for (const { header } of [first, second]) {
          const refusal = yield* refusedBy(header)
          assert.strictEqual(refusal._tag, "Busy")
          assert.include(refusal.message, `process ${first.identity.pid}`)
          assert.isTrue(refusal.isRetryable)
        }
        // Who was refused has changed nothing.
        publisher.publish(stateAt(2))
        assert.deepStrictEqual(yield* second.header.snapshot, stateAt(2))
        assert.strictEqual(contentsOf(machine.region()).publisherPid, first.identity.pid)
        yield* end
        yield* second.header.becomePublisher(durableAt(2))
        assert.strictEqual(contentsOf(machine.region()).publisherPid, second.identity.pid)
      }))

    it.effect("the lock on byte 64 of the lease file is the right, and the coordinator's own lock is another one", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const { header } = yield* machine.start()
        const other = yield* Layer.build(MemoryVfs.layerDisk(machine.disk))
        const lock = (start: number, length: number) =>
          Context.get(other, FileLock).acquire("/app.db.fsqlite/lease", {
            range: { start, length },
            mode: "exclusive",
            create: true
          })
        yield* Effect.scoped(Effect.andThen(lock(0, 64), header.becomePublisher(durableAt(1))))
        yield* Effect.scoped(Effect.andThen(lock(65, 1000), header.becomePublisher(durableAt(1))))
        const { exit, millis } = yield* withTime(
          Effect.scoped(Effect.andThen(lock(64, 1), Effect.flip(header.becomePublisher(durableAt(1)))))
        )
        assert.isTrue(Exit.isSuccess(exit))
        if (Exit.isSuccess(exit)) assert.strictEqual(exit.value._tag, "Busy")
        // Its holder has not said who it is: it may be somebody who only makes the header.
        assert.isAtLeast(millis, 1000)
      }))

    it.effect("interrupted while it waits for the lock, it holds none", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const first = yield* machine.start()
        const second = yield* machine.start()
        const { end } = yield* publishIn(first.header, durableAt(1))
        // As if its holder only made the header.
        machine.region().store(offsets.publisherOwner, 0n)
        const waiting = yield* Effect.forkChild(second.header.becomePublisher(durableAt(1)), {
          startImmediately: true
        })
        yield* TestClock.adjust("100 millis")
        yield* Fiber.interrupt(waiting)
        yield* end
        yield* publishIn(first.header, durableAt(2))
        assert.deepStrictEqual(yield* second.header.snapshot, stateAt(2))
      }))

    it.effect("its end leaves nobody's name; the snapshot stays readable; the generation grows with each", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const { header } = yield* machine.start()
        for (let generation = 1; generation <= 3; generation++) {
          const { end, publisher } = yield* publishIn(header, durableAt(1))
          assert.strictEqual(publisher.generation, generation)
          yield* end
          assert.deepInclude(contentsOf(machine.region()), {
            publisherPid: 0,
            publisherBirth: 0n,
            publisherGeneration: generation,
            publisherIsInitializing: false
          })
          assert.deepStrictEqual(yield* header.snapshot, stateAt(1))
        }
      }))

    it.effect("the generation goes on at 0 after 2^31 - 1 and leaves the initializing bit alone", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const { header } = yield* machine.start()
        machine.region().store(
          offsets.publisherOwner,
          Format.toPublisherWord({ pid: 0, generation: 0x7ffffffe, isInitializing: false })
        )
        for (const generation of [0x7fffffff, 0, 1]) {
          const { end, publisher } = yield* publishIn(header, durableAt(1))
          assert.strictEqual(publisher.generation, generation)
          assert.deepInclude(contentsOf(machine.region()), {
            publisherGeneration: generation,
            publisherIsInitializing: false
          })
          yield* end
        }
      }))

    it.effect("after its end it is not used, and what is published never goes back", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const { header } = yield* machine.start()
        const { end, publisher } = yield* publishIn(header, durableAt(5))
        assert.throws(() => publisher.publish(stateAt(4)), /never goes back/)
        publisher.publish(stateAt(6))
        assert.throws(() => publisher.publish(stateAt(5)), /never goes back/)
        publisher.reconcile(durableAt(3))
        publisher.publish(stateAt(4))
        yield* end
        assert.throws(() => publisher.publish(stateAt(9)), /scope is open/)
        assert.throws(() => publisher.reconcile(durableAt(9)), /scope is open/)
        assert.deepStrictEqual(yield* header.snapshot, stateAt(4))
      }))

    it.effect("one that is killed leaves its name, and the next one takes over at once", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const dying = yield* machine.start()
        const next = yield* machine.start()
        yield* publishIn(dying.header, durableAt(5))
        yield* dying.kill
        assert.strictEqual(contentsOf(machine.region()).publisherPid, dying.identity.pid)
        const { publisher } = yield* publishIn(next.header, durableAt(6))
        assert.strictEqual(publisher.generation, 2)
        assert.deepStrictEqual(yield* next.header.snapshot, stateAt(6))
      }))

    it.effect("somebody who only makes the header stands in nobody's way for longer than that takes", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const { header } = yield* machine.start()
        machine.remove()
        // The maker is stopped while it holds the lock.
        const hold = machine.disk.hold({ operation: "open", path: "/app.db.fsqlite/lease", when: "after" })
        const maker = yield* Effect.forkChild(machine.start(), { startImmediately: true })
        yield* hold.reached
        const waiting = yield* Effect.forkChild(header.becomePublisher(durableAt(2)), { startImmediately: true })
        yield* TestClock.adjust("500 millis")
        assert.isUndefined(waiting.pollUnsafe())
        yield* hold.release
        assert.isTrue(Exit.isSuccess((yield* withTime(Fiber.join(waiting))).exit))
        const made = yield* Fiber.join(maker)
        yield* made.header.refresh
        assert.deepStrictEqual(yield* made.header.snapshot, stateAt(2))
      }))
  })

  describe("SHM-04 an open window", () => {
    /** A publisher, and a reader that finds the publisher's window open. */
    const stopped = Effect.gen(function*() {
      const machine = makeMachine()
      const writer = yield* machine.start()
      const reader = yield* machine.start()
      const { publisher } = yield* publishIn(writer.header, durableAt(5))
      const region = machine.region()
      region.store(offsets.snapshotSequence, region.load(offsets.snapshotSequence) + 1n)
      region.store(offsets.schemaEpoch, 999n)
      return { machine, writer, reader, publisher, region }
    })

    it.effect("of a publisher that lives: Busy after a millisecond, which names it", () =>
      Effect.gen(function*() {
        const { reader, writer } = yield* stopped
        assert.isUndefined(reader.header.snapshotUnsafe())
        const answer = yield* answerAfterWaiting(reader.header)
        assert.strictEqual(
          busyReason(answer),
          `process ${writer.identity.pid} is in the middle of publishing a commit in ${headerPath}`
        )
        assert.deepInclude(answer, { _tag: "Failure" })
      }))

    it.effect("of one that died: Busy, which says so, and the next owner rewrites all of it (SHM-06)", () =>
      Effect.gen(function*() {
        const { machine, reader, writer } = yield* stopped
        yield* writer.kill
        assert.strictEqual(
          busyReason(yield* answerAfterWaiting(reader.header)),
          `the publisher of ${headerPath} died while it published, and nobody has taken its place yet`
        )
        yield* publishIn(reader.header, durableAt(6))
        assert.deepStrictEqual(yield* reader.header.snapshot, stateAt(6))
        assert.deepInclude(contentsOf(machine.region()), { snapshotSequence: 4n, nextCommitSeq: CommitSeq.make(7n) })
      }))

    it.effect("SHM-06 a live publisher's window is not stolen", () =>
      Effect.gen(function*() {
        const { publisher, reader, region } = yield* stopped
        assert.strictEqual((yield* refusedBy(reader.header))._tag, "Busy")
        assert.strictEqual(region.load(offsets.snapshotSequence) % 2n, 1n)
        assert.strictEqual(region.load(offsets.schemaEpoch), 999n)
        publisher.publish(stateAt(7))
        assert.deepStrictEqual(yield* reader.header.snapshot, stateAt(7))
      }))

    it.effect("that closes while somebody waits gives the new state to all who wait", () =>
      Effect.gen(function*() {
        const { publisher, reader } = yield* stopped
        const waiting = yield* Effect.forkChild(
          Effect.all(Array.from({ length: 50 }, () => reader.header.snapshot), { concurrency: "unbounded" }),
          { startImmediately: true }
        )
        yield* TestClock.adjust("999 micros")
        yield* turns(200)
        assert.isUndefined(waiting.pollUnsafe())
        publisher.publish(stateAt(8))
        yield* TestClock.adjust("1 micros")
        assert.deepStrictEqual(yield* Fiber.join(waiting), Array.from({ length: 50 }, () => stateAt(8)))
      }))

    it.effect("that closes while the kernel is asked about the publisher is answered all the same", () =>
      Effect.gen(function*() {
        const { machine, publisher, reader } = yield* stopped
        const hold = machine.disk.hold({ operation: "open", path: "/app.db.fsqlite/lease", when: "after" })
        const waiting = yield* Effect.forkChild(reader.header.snapshot, { startImmediately: true })
        yield* TestClock.adjust("1 millis")
        yield* hold.reached
        publisher.publish(stateAt(8))
        yield* hold.release
        assert.deepStrictEqual(yield* Fiber.join(waiting), stateAt(8))
      }))

    it.effect("of a header in which nobody has published yet: no snapshot at 0, but Busy", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const { header } = yield* machine.start()
        assert.strictEqual(
          busyReason(yield* answerAfterWaiting(header)),
          `nobody has published in ${headerPath} yet`
        )
        assert.strictEqual(contentsOf(machine.region()).nextTxnId, 0n)
        const { end } = yield* publishIn(header, durableAt(0))
        yield* end
        assert.deepStrictEqual(yield* header.snapshot, stateAt(0))
        assert.strictEqual(contentsOf(machine.region()).nextTxnId, 1n)
      }))
  })

  describe("RC-17 SHM-07 reconcile", () => {
    for (
      const [what, found] of [
        ["ahead", { ...stateAt(90), snapshotSequence: 20n }],
        ["behind", { ...stateAt(3), snapshotSequence: 20n }],
        ["odd", { ...stateAt(90), snapshotSequence: 21n }],
        ["a mixture", { ...stateAt(90), ecsEpoch: 1n, snapshotSequence: 21n }]
      ] as const
    ) {
      it.effect(`sets exactly the durable values when the memory is ${what}`, () =>
        Effect.gen(function*() {
          const machine = makeMachine()
          machine.put(bytesOf({ ...found, nextTxnId: 7n, gcHorizon: CommitSeq.make(60n) }))
          const { header } = yield* machine.start()
          yield* publishIn(header, durableAt(50, 40))
          assert.deepInclude(contentsOf(machine.region()), {
            ...stateAt(50),
            nextCommitSeq: CommitSeq.make(51n),
            snapshotSequence: 22n,
            nextTxnId: 40n,
            gcHorizon: CommitSeq.make(50n)
          })
        }))
    }

    it.effect("never lowers the next transaction id, and keeps a horizon that is not ahead", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        machine.put(bytesOf({ nextTxnId: 700n, gcHorizon: CommitSeq.make(6n) }))
        const { header } = yield* machine.start()
        const { publisher } = yield* publishIn(header, durableAt(50, 40))
        assert.deepInclude(contentsOf(machine.region()), { nextTxnId: 700n, gcHorizon: CommitSeq.make(6n) })
        publisher.reconcile(durableAt(5, 701))
        assert.deepInclude(contentsOf(machine.region()), { nextTxnId: 701n, gcHorizon: CommitSeq.make(5n) })
        assert.throws(() => publisher.reconcile(durableAt(5, 0)), /1 \.\.\. 2\^62/)
        // All of them are used up: that is a fact, and stays one.
        machine.region().store(offsets.nextTxnId, 2n ** 62n)
        publisher.reconcile(durableAt(5, 9))
        assert.strictEqual(contentsOf(machine.region()).nextTxnId, 2n ** 62n)
        machine.region().store(offsets.nextTxnId, 2n ** 62n + 1n)
        publisher.reconcile(durableAt(5, 9))
        assert.strictEqual(contentsOf(machine.region()).nextTxnId, 9n)
      }))

    it.effect("every byte of a header flipped: what never changes is made anew, what does is reconciled", () =>
      Effect.gen(function*() {
        const good = bytesOf({ ...stateAt(90), nextTxnId: 95n, nextCommitSeq: CommitSeq.make(91n) })
        const immutable = (byte: number) => byte < 24 || byte >= 104 && byte < 152 || byte >= 176
        for (let byte = 0; byte < Format.sharedHeaderBytes; byte++) {
          const machine = makeMachine()
          const flipped = good.slice()
          flipped[byte] = (flipped[byte] ?? 0) ^ 0xff
          const before = machine.put(flipped)
          const { header } = yield* machine.start()
          const { identity } = header.region()
          assert.strictEqual(identity !== before.identity, immutable(byte), `byte ${byte}`)
          // The damaged one is left as it was.
          assert.deepStrictEqual(before.copy(0, 216), flipped)
          yield* publishIn(header, durableAt(50, 40))
          assert.deepStrictEqual(yield* header.snapshot, stateAt(50))
          const contents = contentsOf(machine.region())
          assert.strictEqual(contents.nextCommitSeq, CommitSeq.make(51n))
          assert.strictEqual(contents.snapshotSequence % 2n, 0n)
          assert.isTrue(contents.nextTxnId >= 40n && contents.nextTxnId <= 2n ** 62n, `byte ${byte}`)
          assert.isTrue(contents.gcHorizon <= 50n, `byte ${byte}`)
          assert.isFalse(contents.publisherIsInitializing)
        }
      }))
  })

  it.effect("RC-17 whatever byte of the serialized writer is flipped, it can be acquired under the next publisher, and kept", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(1_700_000_000_000)
      for (let byte: number = offsets.writerTxnId; byte < offsets.lockTable; byte++) {
        const machine = makeMachine()
        const flipped = bytesOf({ ...stateAt(90), nextTxnId: 95n })
        flipped[byte] = (flipped[byte] ?? 0) ^ 0xff
        machine.put(flipped)
        const [{ header }, other] = [yield* machine.start(), yield* machine.start()]
        yield* publishIn(header, durableAt(50, 40))
        yield* header.serialized.acquire(toTxnId(100n)).pipe(
          Effect.mapError((error) => `byte ${byte}: ${error.message}`)
        )
        assert.strictEqual(yield* other.header.serialized.clearStale, "alive", `byte ${byte}`)
        assert.strictEqual(
          (yield* Effect.flip(other.header.serialized.acquire(toTxnId(101n))))._tag,
          "Busy",
          `byte ${byte}`
        )
        assert.isTrue(header.serialized.release(toTxnId(100n)))
        yield* other.header.serialized.acquire(toTxnId(101n))
      }
    }))

  it.effect("RC-17 a serialized writer that says who it is outlives the publisher", () =>
    Effect.gen(function*() {
      const machine = makeMachine()
      const [writer, first, second] = [yield* machine.start(), yield* machine.start(), yield* machine.start()]
      yield* publishIn(first.header, durableAt(5))
      yield* writer.header.serialized.acquire(toTxnId(1n))
      yield* first.kill
      yield* publishIn(second.header, durableAt(5))
      assert.deepInclude(second.header.serialized.holder(), { id: toTxnId(1n), pid: writer.identity.pid })
      assert.isTrue(writer.header.serialized.release(toTxnId(1n)))
    }))

  describe("RC-18 a header that fails a check", () => {
    it.effect("is made anew, under another identity, by whoever finds it while nobody publishes", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const version = bytesOf({ nextTxnId: 95n })
        new DataView(version.buffer).setUint32(8, 2, true)
        for (const bytes of [version, new Uint8Array(65_536), bytesOf({ slots: 300 }), bytesOf().subarray(0, 100)]) {
          const before = machine.put(bytes)
          const { close, header } = yield* machine.start({ slots: 64 })
          assert.notStrictEqual(header.region().identity, before.identity)
          assert.strictEqual(header.slots, 64)
          assert.deepInclude(contentsOf(header.region()), { slots: 64, nextTxnId: 0n, snapshotSequence: 1n, pageSize })
          yield* close
        }
      }))

    it.effect("while somebody publishes: waits a second for that one, then says what is wrong, and touches nothing", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const writer = yield* machine.start()
        yield* publishIn(writer.header, durableAt(5))
        const damaged = machine.put(new Uint8Array(65_536))
        const { exit, millis } = yield* withTime(Effect.flip(machine.start()))
        assert.isTrue(Exit.isSuccess(exit))
        if (Exit.isSuccess(exit)) assert.strictEqual(exit.value._tag, "ShmBadMagic")
        assert.isAtLeast(millis, 1000)
        assert.isAtMost(millis, 1050)
        assert.strictEqual(machine.region().identity, damaged.identity)
        assert.deepStrictEqual(damaged.copy(0, 216), new Uint8Array(216))
      }))

    it.effect("every byte of it that never changes, flipped while somebody publishes: refused by type and place, and left", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const good = bytesOf({ ...stateAt(5), nextTxnId: 9n })
        const publisher = yield* machine.start()
        yield* publishIn(publisher.header, durableAt(5))
        const tags = new Set<string>()
        // Up to which byte a refusal names which place: slots and regions are found out by the checksum at 144.
        const places = [[8, 0], [12, 8], [16, 12], [20, 144], [24, 20], [152, 144]] as const
        for (let byte = 0; byte < Format.sharedHeaderBytes; byte++) {
          if (byte >= offsets.nextTxnId && byte < offsets.lockTable) continue
          if (byte >= offsets.nextCommitSeq && byte < offsets.padding) continue
          const flipped = good.slice()
          flipped[byte] = (flipped[byte] ?? 0) ^ 0xff
          const damaged = machine.put(flipped)
          const { exit } = yield* withTime(Effect.flip(machine.start()))
          if (Exit.isFailure(exit)) return assert.fail(`byte ${byte} was accepted`)
          const refusal = exit.value
          tags.add(refusal._tag)
          const offset = places.find(([end]) => byte < end)?.[1] ?? byte - byte % 8
          const expected = { path: headerPath, isRetryable: false, "issue.offset": offset }
          assert.deepNestedInclude(refusal, expected, `byte ${byte}`)
          assert.strictEqual(machine.region().identity, damaged.identity)
          assert.deepStrictEqual(damaged.copy(0, 216), flipped)
        }
        assert.deepStrictEqual(
          tags,
          new Set([
            "ShmBadMagic",
            "ShmVersionMismatch",
            "ShmInvalidPageSize",
            "ShmChecksumMismatch",
            "ShmLayoutMismatch"
          ])
        )
        // The measure.
        machine.put(good)
        yield* machine.start()
      }))

    it.effect("cut short, or half made, while somebody publishes: refused by type, and left", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const publisher = yield* machine.start()
        yield* publishIn(publisher.header, durableAt(5))
        const half = bytesOf().fill(0, 24)
        for (
          const [bytes, length, tag] of [
            [new Uint8Array(0), 208, "ShmTooSmall"],
            [bytesOf().subarray(0, 208), 208, "ShmTooSmall"],
            [bytesOf(), 216, "ShmTooSmall"],
            [bytesOf({ slots: 300 }), 65_536, "ShmTooSmall"],
            [half, 65_536, "ShmChecksumMismatch"]
          ] as const
        ) {
          const damaged = machine.put(bytes, length)
          const before = damaged.copy(0, length)
          const { exit } = yield* withTime(Effect.flip(machine.start()))
          assert.isTrue(Exit.isSuccess(exit), tag)
          if (Exit.isSuccess(exit)) assert.strictEqual(exit.value._tag, tag)
          assert.strictEqual(machine.region().identity, damaged.identity)
          assert.deepStrictEqual(damaged.copy(0, length), before)
        }
      }))

    it.effect("no header at all while somebody publishes: Busy after a second", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const writer = yield* machine.start()
        yield* publishIn(writer.header, durableAt(5))
        machine.remove()
        const { exit, millis } = yield* withTime(Effect.flip(machine.start()))
        assert.isTrue(Exit.isSuccess(exit))
        if (Exit.isSuccess(exit)) assert.strictEqual(exit.value._tag, "Busy")
        assert.isAtLeast(millis, 1000)
      }))

    it.effect("the next publisher makes it anew; clients find out by asking, and map again", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const client = yield* machine.start()
        const first = yield* machine.start()
        yield* publishIn(first.header, durableAt(5, 60))
        yield* first.kill
        assert.isFalse(yield* client.header.refresh)
        // Damaged where it is mapped.
        client.header.region().store(offsets.witness, 1n)
        const second = yield* machine.start()
        const { publisher } = yield* publishIn(second.header, durableAt(6, 70))
        assert.deepStrictEqual(yield* client.header.snapshot, stateAt(5))
        assert.isTrue(yield* client.header.refresh)
        assert.isFalse(yield* client.header.refresh)
        publisher.publish(stateAt(7))
        assert.deepStrictEqual(yield* client.header.snapshot, stateAt(7))
        assert.strictEqual(contentsOf(client.header.region()).nextTxnId, 70n)
      }))

    it.effect("a process that has it mapped makes it anew when it becomes the publisher, or takes what has the name", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const { header } = yield* machine.start({ slots: 32 })
        const good = header.region()
        const { end } = yield* publishIn(header, durableAt(5))
        yield* end
        const damaged = header.region()
        assert.strictEqual(damaged, good)
        damaged.store(offsets.witness, 1n)
        const again = yield* publishIn(header, durableAt(6))
        assert.notStrictEqual(header.region().identity, damaged.identity)
        assert.strictEqual(header.region().identity, machine.region().identity)
        // The generation goes on in the new one.
        assert.strictEqual(again.publisher.generation, 2)
        assert.strictEqual(header.slots, 32)
        assert.deepStrictEqual(yield* header.snapshot, stateAt(6))
        yield* again.end

        machine.remove()
        const removed = yield* publishIn(header, durableAt(7))
        assert.strictEqual(header.region().identity, machine.region().identity)
        assert.deepStrictEqual(yield* header.snapshot, stateAt(7))
        yield* removed.end

        const other = machine.put(bytesOf({ slots: 16 }))
        yield* publishIn(header, durableAt(8))
        assert.strictEqual(header.region().identity, other.identity)
        assert.strictEqual(header.slots, 16)
        assert.deepStrictEqual(yield* header.snapshot, stateAt(8))
      }))

    it.effect("a serialized writer of the header before is not taken for the one of the new header", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const [first, writer, second] = [yield* machine.start(), yield* machine.start(), yield* machine.start()]
        yield* publishIn(first.header, durableAt(5, 9))
        const id = writer.header.nextTxnId()
        if (typeof id !== "bigint") return assert.fail(id.message)
        yield* writer.header.serialized.acquire(id)
        const before = writer.header.serialized.holder()
        yield* first.kill
        second.header.region().store(offsets.witness, 1n)
        yield* publishIn(second.header, durableAt(5, 9))
        assert.isTrue(yield* writer.header.refresh)
        // Its transaction never came to the log, so its id is given once more.
        const again = second.header.nextTxnId()
        assert.strictEqual(again, id)
        yield* second.header.serialized.acquire(id)
        assert.strictEqual(before?.generation, 1)
        assert.strictEqual(writer.header.serialized.holder()?.generation, 2)
        assert.isFalse(writer.header.serialized.release(id))
      }))

    it.effect("a publisher whose file has lost its name hears of it", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const { header } = yield* machine.start()
        const { end, publisher } = yield* publishIn(header, durableAt(5))
        assert.isFalse(yield* header.refresh)
        machine.remove()
        assert.strictEqual((yield* Effect.flip(header.refresh))._tag, "ShmReplaced")
        machine.put(bytesOf())
        assert.strictEqual((yield* Effect.flip(header.refresh))._tag, "ShmReplaced")
        // It goes on where it was.
        publisher.publish(stateAt(6))
        assert.deepStrictEqual(yield* header.snapshot, stateAt(6))
        yield* end
        assert.isTrue(yield* header.refresh)
      }))

    it.effect("a client keeps what it has while the name is nobody's, or stands for something unusable", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const { header } = yield* machine.start()
        const { end } = yield* publishIn(header, durableAt(5))
        yield* end
        machine.remove()
        assert.isFalse(yield* header.refresh)
        machine.put(new Uint8Array(216))
        assert.strictEqual((yield* Effect.flip(header.refresh))._tag, "ShmBadMagic")
        assert.deepStrictEqual(yield* header.snapshot, stateAt(5))
      }))
  })

  it.effect("RC-25 what a killed maker has left is swept by the next one, and nothing else is", () =>
    Effect.gen(function*() {
      const machine = makeMachine()
      const others = ["/.tmp-app.db.fsqlite-shm-01234", "/.tmp-other.db.fsqlite-shm-0123abcd", "/app.db"]
      for (const name of [...others, "/.tmp-app.db.fsqlite-shm-0123abcd"]) {
        machine.disk.writeFile(name, new Uint8Array(8))
      }
      yield* machine.start()
      const left = machine.disk.files
      assert.notInclude(left, "/.tmp-app.db.fsqlite-shm-0123abcd")
      for (const name of others) assert.include(left, name)
    }))

  it.effect("a header with more slots than are made here is used, and made anew with as many as can be", () =>
    Effect.gen(function*() {
      const machine = makeMachine()
      const slots = 65_537
      machine.put(bytesOf({ slots }), Format.mappedBytes(slots))
      const { header } = yield* machine.start()
      assert.strictEqual(header.slots, slots)
      machine.remove()
      yield* publishIn(header, durableAt(3))
      assert.strictEqual(header.slots, 65_536)
      assert.deepStrictEqual(yield* header.snapshot, stateAt(3))
    }))

  it.effect("another page size than the database's is refused, and nothing is changed", () =>
    Effect.gen(function*() {
      const machine = makeMachine()
      const before = machine.put(bytesOf({ pageSize: PageSize.make(8192) }))
      const refusal = yield* Effect.flip(machine.start())
      assert.strictEqual(refusal._tag, "ShmPageSizeMismatch")
      assert.include(refusal.message, "pages of 8192 bytes")
      assert.include(refusal.message, "pages of 4096 bytes")
      assert.strictEqual(machine.region().identity, before.identity)
      const { header } = yield* machine.start({ pageSize: PageSize.make(8192) })
      machine.put(bytesOf())
      assert.strictEqual((yield* Effect.flip(header.refresh))._tag, "ShmPageSizeMismatch")
      assert.strictEqual((yield* Effect.flip(header.becomePublisher(durableAt(1))))._tag, "ShmPageSizeMismatch")
      // Who was refused keeps no lock, although its scope goes on.
      machine.put(bytesOf({ pageSize: PageSize.make(8192) }))
      yield* publishIn(header, durableAt(1))
    }))

  it.effect("the number of slots is the header's, whatever the second process asks for", () =>
    Effect.gen(function*() {
      const machine = makeMachine()
      const first = yield* machine.start({ slots: 16 })
      const second = yield* machine.start({ slots: 200 })
      assert.strictEqual(first.header.slots, 16)
      assert.strictEqual(second.header.slots, 16)
    }))

  it.effect("processes that start at the same time agree on one header", () =>
    Effect.gen(function*() {
      for (let round = 0; round < 20; round++) {
        const machine = makeMachine()
        const { exit } = yield* withTime(Effect.all(
          Array.from({ length: 4 }, (_, index) => Effect.andThen(turns(index * round % 7), machine.start())),
          { concurrency: "unbounded" }
        ))
        assert.isTrue(Exit.isSuccess(exit))
        if (Exit.isSuccess(exit)) {
          const identities = new Set(exit.value.map(({ header }) => header.region().identity))
          assert.deepStrictEqual(identities, new Set([machine.region().identity]))
        }
      }
    }))

  describe("RC-27 a header that is still being filled", () => {
    it.effect("is waited for while its creator lives, and taken when it is finished", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const creator = yield* machine.start()
        const region = machine.put(filling(creator.identity))
        const opening = yield* Effect.forkChild(machine.start(), { startImmediately: true })
        yield* TestClock.adjust("900 millis")
        assert.isUndefined(opening.pollUnsafe())
        region.store(offsets.magic, Format.magic)
        yield* TestClock.adjust("10 millis")
        assert.strictEqual((yield* Fiber.join(opening)).header.region().identity, region.identity)
      }))

    it.effect("is made anew after a second", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const creator = yield* machine.start()
        const region = machine.put(filling(creator.identity))
        const { exit, millis } = yield* withTime(machine.start())
        assert.isTrue(Exit.isSuccess(exit))
        assert.isAtLeast(millis, 1000)
        assert.isAtMost(millis, 1050)
        assert.notStrictEqual(machine.region().identity, region.identity)
      }))

    it.effect("is made anew at once when its creator is dead, or named nobody and nobody holds the lock", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const creator = yield* machine.start()
        yield* creator.kill
        for (const dead of [creator.identity, { pid: 0, birth: 0n }]) {
          const region = machine.put(filling(dead))
          yield* machine.start()
          assert.notStrictEqual(machine.region().identity, region.identity)
        }
      }))

    it.effect("is not touched while somebody holds the lock: Busy after a second", () =>
      Effect.gen(function*() {
        const machine = makeMachine()
        const writer = yield* machine.start()
        yield* publishIn(writer.header, durableAt(1))
        const region = machine.put(filling({ pid: 0, birth: 0n }))
        const { exit, millis } = yield* withTime(Effect.flip(machine.start()))
        assert.isTrue(Exit.isSuccess(exit))
        if (Exit.isSuccess(exit)) assert.strictEqual(exit.value._tag, "Busy")
        assert.isAtLeast(millis, 1000)
        assert.strictEqual(machine.region().identity, region.identity)
      }))
  })

  describe("layerMemory", () => {
    const build = Effect.map(
      Layer.build(SharedHeader.layerMemory({ pageSize, database }).pipe(Layer.provideMerge(Logger.layer([])))),
      (context) => Context.get(context, SharedHeader.SharedHeader)
    )

    it.effect("has the path of no file in its messages when it is told no database", () =>
      Effect.gen(function*() {
        const header = Context.get(
          yield* Layer.build(SharedHeader.layerMemory({ pageSize })),
          SharedHeader.SharedHeader
        )
        assert.strictEqual(header.path, "memory")
        assert.strictEqual(busyReason(yield* answerAfterWaiting(header)), "nobody has published in memory yet")
      }))

    it.effect("publishes and reads without a file; the owner word is the right to publish", () =>
      Effect.gen(function*() {
        const header = yield* build
        assert.strictEqual(busyReason(yield* answerAfterWaiting(header)), `nobody has published in ${headerPath} yet`)
        const { end, publisher } = yield* publishIn(header, durableAt(5, 9))
        assert.deepStrictEqual(yield* header.snapshot, stateAt(5))
        const refusal = yield* refusedBy(header)
        assert.strictEqual(refusal._tag, "Busy")
        assert.include(refusal.message, `process ${process.pid}`)
        publisher.publish(stateAt(6))
        header.region().store(offsets.snapshotSequence, 99n)
        assert.include(busyReason(yield* answerAfterWaiting(header)), `process ${process.pid} is in the middle`)
        yield* end
        assert.include(busyReason(yield* answerAfterWaiting(header)), "died while it published")
        const again = yield* publishIn(header, durableAt(7))
        assert.strictEqual(again.publisher.generation, 2)
        assert.deepStrictEqual(yield* header.snapshot, stateAt(7))
        assert.isFalse(yield* header.refresh)
        assert.strictEqual(contentsOf(header.region()).nextTxnId, 9n)
      }))

    it.effect("every layer has a header of its own", () =>
      Effect.gen(function*() {
        const [one, two] = [yield* build, yield* build]
        yield* publishIn(one, durableAt(5))
        yield* publishIn(two, durableAt(6))
        assert.deepStrictEqual(yield* one.snapshot, stateAt(5))
        assert.deepStrictEqual(yield* two.snapshot, stateAt(6))
      }))
  })
})

const turns = (count: number): Effect.Effect<void> =>
  count === 0 ? Effect.void : Effect.andThen(Effect.yieldNow, turns(count - 1))

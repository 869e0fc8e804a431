/**
 * What Effect's `EventJournal` promises: from the documentation of the interface, and from what `layerMemory` does where
 * that is silent. Where the memory journal and the SQL journal differ (writes that overlap without a lock), nothing is
 * asked.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, type Layer, Option, PubSub, type Scope } from "effect"
import { EventJournal } from "effect/eventlog"
import { Entry, EventJournalError, makeEntryIdUnsafe } from "effect/eventlog/EventJournal"
import { StoreId } from "effect/eventlog/EventLogMessage"
import fc from "fast-check"
import { replayCompacted } from "./support/journalCompaction.ts"
import {
  bytesOf,
  entryAt,
  ids,
  ignored,
  imported,
  type Journal,
  payloads,
  remote,
  remoteId,
  takeAllNow,
  textOf,
  unsent,
  write
} from "./support/journalEntries.ts"
import { anyAction, replay } from "./support/journalModel.ts"

/** Runs the suite against a layer. `layer` is called for each test and gives an empty journal each time. */
export const eventJournalContract = (
  name: string,
  layer: () => Layer.Layer<EventJournal.EventJournal, unknown>
): void => {
  const test = <E>(title: string, body: (journal: Journal) => Effect.Effect<void, E, Scope.Scope>) =>
    it.effect(
      title,
      () => Effect.provide(Effect.flatMap(EventJournal.EventJournal, body), layer(), { local: true })
    )

  describe(`EventJournal contract: ${name}`, () => {
    test("is empty at first", (journal) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* journal.entries, [])
        assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 0)
        assert.deepStrictEqual(yield* journal.withRemoteUncommited(remoteId(1), Effect.succeed), Option.none())
        assert.deepStrictEqual(yield* journal.entriesById([makeEntryIdUnsafe()]), [undefined])
      }))

    describe("write", () => {
      test("stores an entry and answers what the effect answers", (journal) =>
        Effect.gen(function*() {
          const payload = new Uint8Array([0, 255, 128])
          const seen = yield* journal.write({
            event: "Created",
            primaryKey: "é\ud83d\u0000",
            payload,
            effect: (entry) =>
              Effect.map(journal.entries, (stored) => {
                assert.deepStrictEqual(stored, [])
                return entry
              })
          })
          const [entry, ...others] = yield* journal.entries
          assert.deepStrictEqual(others, [])
          assert.strictEqual(entry?.event, "Created")
          assert.strictEqual(entry?.primaryKey, "é\ud83d\u0000")
          assert.deepStrictEqual(entry?.payload, payload)
          assert.strictEqual(entry?.idString, seen.idString)
          assert.isTrue(entry instanceof Entry)
        }))

      test("keeps an empty payload", (journal) =>
        Effect.gen(function*() {
          yield* write(journal, "")
          assert.deepStrictEqual(payloads(yield* journal.entries), [""])
        }))

      test("stores and publishes nothing when its effect fails, dies or is interrupted", (journal) =>
        Effect.gen(function*() {
          const changes = yield* journal.changes
          const writing = <A, E>(effect: () => Effect.Effect<A, E>) =>
            journal.write({ event: "E", primaryKey: "p", payload: bytesOf("x"), effect })
          assert.strictEqual(yield* Effect.flip(writing(() => Effect.fail("no"))), "no")
          const died = yield* Effect.exit(writing(() => Effect.die("oh")))
          assert.isTrue(Exit.isFailure(died) && Cause.hasDies(died.cause))
          const fiber = yield* Effect.forkChild(writing(() => Effect.never), { startImmediately: true })
          yield* Fiber.interrupt(fiber)
          assert.deepStrictEqual(yield* journal.entries, [])
          yield* write(journal, "after")
          assert.deepStrictEqual(payloads(yield* journal.entries), ["after"])
          assert.deepStrictEqual(payloads(yield* takeAllNow(changes)), ["after"])
        }))

      test("makes ids that ascend, and the entries come in their order", (journal) =>
        Effect.gen(function*() {
          const before = makeEntryIdUnsafe()
          for (let i = 0; i < 20; i++) yield* write(journal, `${i}`)
          const entries = yield* journal.entries
          assert.deepStrictEqual(payloads(entries), Array.from({ length: 20 }, (_, i) => `${i}`))
          assert.deepStrictEqual(ids(entries), ids(entries).toSorted())
          assert.isTrue(EventJournal.EntryIdOrder(before, entries[0]?.id ?? before) < 0)
          assert.isTrue(EventJournal.EntryIdOrder(entries[19]?.id ?? before, makeEntryIdUnsafe()) < 0)
        }))

      test("makes ids behind the latest entry, also when that one is from the future", (journal) =>
        Effect.gen(function*() {
          const future = entryAt(Date.now() + 1_000_000_000, 9)
          yield* journal.writeFromRemote({ remoteId: remoteId(1), entries: remote([0, future]), effect: ignored })
          const first = yield* write(journal, "first")
          yield* journal.writeMany({
            entries: [1, 2, 3].map((i) => ({ event: "E", primaryKey: "p", payload: bytesOf(`${i}`) })) as never,
            effect: Effect.succeed
          })
          assert.deepStrictEqual(payloads(yield* journal.entries), [textOf(future.payload), "first", "1", "2", "3"])
          assert.isTrue(EventJournal.EntryIdOrder(first.id, future.id) > 0)
        }))

      test("goes on in the next millisecond when the ids of one are used up", (journal) =>
        Effect.gen(function*() {
          const future = entryAt(Date.now() + 1_000_000_000, 9)
          future.id[6] = 0x7f
          future.id[7] = 0xff
          yield* journal.writeFromRemote({ remoteId: remoteId(1), entries: remote([0, future]), effect: ignored })
          const next = yield* write(journal, "next")
          assert.strictEqual(next.createdAtMillis, future.createdAtMillis + 1)
        }))

      test("fails when there is no id left behind the latest entry, and runs nothing", (journal) =>
        Effect.gen(function*() {
          const last = entryAt(2 ** 48 - 1, 9)
          last.id.fill(0xff, 6)
          yield* journal.writeFromRemote({ remoteId: remoteId(1), entries: remote([0, last]), effect: ignored })
          const error = yield* Effect.flip(
            journal.write({
              event: "E",
              primaryKey: "p",
              payload: bytesOf("x"),
              effect: () => Effect.die("it runs")
            })
          )
          assert.isTrue(error instanceof EventJournalError)
          assert.strictEqual((yield* journal.entries).length, 1)
        }))

      test("stores all of many at the same time", (journal) =>
        Effect.gen(function*() {
          const changes = yield* journal.changes
          const values = Array.from({ length: 100 }, (_, i) => `${i}`)
          yield* Effect.forEach(values, (value) => write(journal, value), { concurrency: "unbounded", discard: true })
          assert.deepStrictEqual(payloads(yield* journal.entries).toSorted(), values.toSorted())
          assert.deepStrictEqual(payloads(yield* takeAllNow(changes)).toSorted(), values.toSorted())
        }))
    })

    describe("writeMany", () => {
      const three = [
        { event: "A", primaryKey: "1", payload: bytesOf("a") },
        { event: "B", primaryKey: "2", payload: bytesOf("b") },
        { event: "A", primaryKey: "1", payload: bytesOf("c") }
      ] as const

      test("runs its effect once, with all entries in order, and stores them together", (journal) =>
        Effect.gen(function*() {
          const changes = yield* journal.changes
          const calls: Array<ReadonlyArray<Entry>> = []
          const result = yield* journal.writeMany({
            entries: three,
            effect: (entries) =>
              Effect.gen(function*() {
                calls.push(entries)
                assert.deepStrictEqual(yield* journal.entries, [])
                return "result"
              })
          })
          assert.strictEqual(result, "result")
          assert.strictEqual(calls.length, 1)
          const entries = calls[0] ?? []
          assert.deepStrictEqual(entries.map(({ event }) => event), ["A", "B", "A"])
          assert.deepStrictEqual(payloads(entries), ["a", "b", "c"])
          assert.deepStrictEqual(ids(entries), ids(entries).toSorted())
          assert.deepStrictEqual(ids(yield* journal.entries), ids(entries))
          assert.deepStrictEqual(ids(yield* takeAllNow(changes)), ids(entries))
        }))

      test("stores none when its effect fails", (journal) =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(journal.writeMany({ entries: three, effect: () => Effect.fail("no") }))
          assert.strictEqual(error, "no")
          assert.deepStrictEqual(yield* journal.entries, [])
        }))
    })

    describe("entries, entriesById", () => {
      test("answers the entries as they were", (journal) =>
        Effect.gen(function*() {
          yield* write(journal, "1")
          const entries = yield* journal.entries
          yield* write(journal, "2")
          assert.deepStrictEqual(payloads(entries), ["1"])
          assert.deepStrictEqual(payloads(yield* journal.entries), ["1", "2"])
        }))

      test("answers in the order that was asked for, undefined for what is not there", (journal) =>
        Effect.gen(function*() {
          const [one, two] = [yield* write(journal, "1"), yield* write(journal, "2")]
          const three = entryAt(5, 1)
          yield* journal.writeFromRemote({ remoteId: remoteId(1), entries: remote([0, three]), effect: ignored })
          const found = yield* journal.entriesById([two.id, makeEntryIdUnsafe(), three.id, one.id, two.id])
          assert.deepStrictEqual(found.map((entry) => entry?.idString), [
            two.idString,
            undefined,
            three.idString,
            one.idString,
            two.idString
          ])
          assert.deepStrictEqual(yield* journal.entriesById([]), [])
        }))
    })

    describe("changes", () => {
      test("publishes to every subscriber what is written here from then on", (journal) =>
        Effect.gen(function*() {
          yield* write(journal, "before")
          const [one, two] = [yield* journal.changes, yield* journal.changes]
          yield* journal.writeFromRemote({
            remoteId: remoteId(1),
            entries: remote([0, entryAt(5, 1)]),
            effect: ignored
          })
          yield* write(journal, "1")
          yield* write(journal, "2")
          assert.deepStrictEqual(payloads(yield* takeAllNow(one)), ["1", "2"])
          assert.deepStrictEqual(payloads(yield* takeAllNow(two)), ["1", "2"])
        }))

      test("publishes what can be read", (journal) =>
        Effect.gen(function*() {
          const changes = yield* journal.changes
          const reading = yield* Effect.forkChild(
            Effect.flatMap(PubSub.take(changes), (entry) => journal.entriesById([entry.id])),
            { startImmediately: true }
          )
          yield* write(journal, "1")
          const [entry] = yield* Fiber.join(reading)
          assert.strictEqual(textOf(entry?.payload ?? bytesOf("")), "1")
        }))
    })

    describe("writeFromRemote", () => {
      test("stores what is new, in the order of ids", (journal) =>
        Effect.gen(function*() {
          const local = yield* write(journal, "local")
          const { calls, duplicates } = yield* imported(
            journal,
            remoteId(1),
            remote([0, entryAt(20, 1)], [1, entryAt(10, 1)])
          )
          assert.deepStrictEqual(calls.map((batch) => batch.map(([payload]) => payload)), [["10/1", "20/1"]])
          assert.deepStrictEqual(duplicates, [])
          assert.deepStrictEqual(payloads(yield* journal.entries), ["10/1", "20/1", textOf(local.payload)])
        }))

      test("answers the duplicates and passes the rest on", (journal) =>
        Effect.gen(function*() {
          const [one, two] = [entryAt(10, 1), entryAt(20, 1)]
          yield* imported(journal, remoteId(1), remote([0, one]))
          const { calls, duplicates } = yield* imported(journal, remoteId(2), remote([0, one], [1, two]))
          assert.deepStrictEqual(duplicates, ["10/1"])
          assert.deepStrictEqual(calls, [[["20/1", []]]])
          assert.strictEqual((yield* journal.entries).length, 2)
        }))

      test("does not call its effect when nothing is new", (journal) =>
        Effect.gen(function*() {
          const one = entryAt(10, 1)
          yield* imported(journal, remoteId(1), remote([3, one]))
          assert.deepStrictEqual(yield* imported(journal, remoteId(1), remote([4, one])), {
            calls: [],
            duplicates: ["10/1"]
          })
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 5)
          assert.deepStrictEqual(yield* imported(journal, remoteId(1), []), { calls: [], duplicates: [] })
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 5)
        }))

      test("takes the first copy of an entry that a batch repeats", (journal) =>
        Effect.gen(function*() {
          const [first, second] = [entryAt(10, 1, "E", "p", "first"), entryAt(10, 1, "E", "p", "second")]
          assert.deepStrictEqual(yield* imported(journal, remoteId(1), remote([0, first], [1, second])), {
            calls: [[["first", []]]],
            duplicates: []
          })
          assert.deepStrictEqual(payloads(yield* journal.entries), ["first"])
        }))

      test("pairs each entry with the later ones of the same event and key", (journal) =>
        Effect.gen(function*() {
          yield* imported(
            journal,
            remoteId(1),
            remote(
              [0, entryAt(10, 1)],
              [1, entryAt(30, 1)],
              [2, entryAt(20, 1)],
              [3, entryAt(40, 1, "Other")],
              [4, entryAt(40, 2, "E", "other")],
              [5, entryAt(20, 5)]
            )
          )
          const { calls } = yield* imported(
            journal,
            remoteId(2),
            remote(
              [0, entryAt(25, 1)],
              [1, entryAt(5, 1)],
              [2, entryAt(50, 1)],
              [3, entryAt(20, 3)],
              [4, entryAt(7, 1, "Other")]
            )
          )
          assert.deepStrictEqual(calls, [[
            ["5/1", ["10/1", "20/1", "20/5", "30/1"]],
            ["7/1", ["40/1"]],
            ["20/3", ["20/5", "30/1"]],
            ["25/1", ["30/1"]],
            ["50/1", []]
          ]])
        }))

      test("counts local entries among the conflicts", (journal) =>
        Effect.gen(function*() {
          yield* write(journal, "local")
          yield* write(journal, "of another key", { primaryKey: "q" })
          const { calls } = yield* imported(journal, remoteId(1), remote([0, entryAt(5, 1)]))
          assert.deepStrictEqual(calls, [[["5/1", ["local"]]]])
        }))

      test("stores nothing and stays where it was when its effect fails", (journal) =>
        Effect.gen(function*() {
          const entries = remote([0, entryAt(10, 1)], [1, entryAt(20, 1)])
          const failure = new EventJournalError({ method: "test", cause: "no" })
          const error = yield* Effect.flip(
            journal.writeFromRemote({ remoteId: remoteId(1), entries, effect: () => Effect.fail(failure) })
          )
          assert.strictEqual(error, failure)
          assert.deepStrictEqual(yield* journal.entries, [])
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 0)
          const { calls } = yield* imported(journal, remoteId(1), entries)
          assert.deepStrictEqual(calls, [[["10/1", []], ["20/1", []]]])
        }))

      test("is not stored while its effect runs", (journal) =>
        journal.writeFromRemote({
          remoteId: remoteId(1),
          entries: remote([0, entryAt(10, 1)]),
          effect: () =>
            Effect.map(Effect.orDie(journal.entries), (entries) => {
              assert.deepStrictEqual(entries, [])
            })
        }).pipe(Effect.andThen(Effect.map(journal.entries, (entries) => {
          assert.strictEqual(entries.length, 1)
        }))))

      test("goes on behind the highest sequence, and never back", (journal) =>
        Effect.gen(function*() {
          yield* imported(journal, remoteId(1), remote([7, entryAt(10, 1)], [3, entryAt(20, 1)]))
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 8)
          yield* imported(journal, remoteId(1), remote([2, entryAt(30, 1)]))
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 8)
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(2)), 0)
        }))

      test("lets new entries be compacted for the effect, and stores them as they came", (journal) =>
        Effect.gen(function*() {
          const [one, two, known] = [entryAt(10, 1), entryAt(20, 1), entryAt(5, 1)]
          yield* imported(journal, remoteId(1), remote([0, known]))
          const seen: Array<ReadonlyArray<number>> = []
          const calls: Array<ReadonlyArray<string>> = []
          yield* journal.writeFromRemote({
            remoteId: remoteId(1),
            entries: remote([1, known], [2, two], [3, one]),
            compact: (uncommitted) =>
              Effect.sync(() => {
                seen.push(uncommitted.map(({ remoteSequence }) => remoteSequence))
                return [entryAt(20, 2, "E", "p", "both"), entryAt(7, 1, "E", "p", "new")]
              }),
            effect: (batch) => Effect.sync(() => void calls.push(payloads(batch.map(({ entry }) => entry))))
          })
          assert.deepStrictEqual(seen, [[2, 3]])
          assert.deepStrictEqual(calls, [["new", "both"]])
          assert.deepStrictEqual(payloads(yield* journal.entries), ["5/1", "10/1", "20/1"])
        }))

      test("stores what a compaction has made nothing of", (journal) =>
        Effect.gen(function*() {
          yield* journal.writeFromRemote({
            remoteId: remoteId(1),
            entries: remote([0, entryAt(10, 1)]),
            compact: () => Effect.succeed([]),
            effect: () => Effect.die("it is called")
          })
          assert.deepStrictEqual(payloads(yield* journal.entries), ["10/1"])
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 1)
        }))

      test("stores nothing when the compaction fails", (journal) =>
        Effect.gen(function*() {
          const failure = new EventJournalError({ method: "test", cause: "no" })
          const error = yield* Effect.flip(journal.writeFromRemote({
            remoteId: remoteId(1),
            entries: remote([0, entryAt(10, 1)]),
            compact: () => Effect.fail(failure),
            effect: ignored
          }))
          assert.strictEqual(error, failure)
          assert.deepStrictEqual(yield* journal.entries, [])
        }))

      it.effect("gives what a compaction has written the place of its source (EventLog)", () =>
        Effect.gen(function*() {
          const replayed = yield* replayCompacted
          assert.deepStrictEqual(replayed, [{ value: "one+two", conflicts: ["between"] }])
        }).pipe(Effect.provide(layer(), { local: true })))
    })

    describe("withRemoteUncommited", () => {
      test("answers what the remote has yet to be sent, until that has succeeded", (journal) =>
        Effect.gen(function*() {
          yield* write(journal, "1")
          yield* write(journal, "2")
          assert.deepStrictEqual(yield* unsent(journal, remoteId(1)), ["1", "2"])
          assert.deepStrictEqual(yield* unsent(journal, remoteId(1)), ["1", "2"])
          const sent = yield* journal.withRemoteUncommited(remoteId(1), (entries) => Effect.succeed(payloads(entries)))
          assert.deepStrictEqual(sent, Option.some(["1", "2"]))
          assert.deepStrictEqual(yield* unsent(journal, remoteId(1)), [])
          assert.deepStrictEqual(
            yield* journal.withRemoteUncommited(remoteId(1), () => Effect.die("it runs")),
            Option.none()
          )
          yield* write(journal, "3")
          assert.deepStrictEqual(yield* unsent(journal, remoteId(1)), ["3"])
          assert.deepStrictEqual(yield* unsent(journal, remoteId(2)), ["1", "2", "3"])
        }))

      test("leaves for the next time what is written meanwhile", (journal) =>
        Effect.gen(function*() {
          yield* write(journal, "1")
          yield* journal.withRemoteUncommited(remoteId(1), () => write(journal, "2"))
          assert.deepStrictEqual(yield* unsent(journal, remoteId(1)), ["2"])
        }))

      test("does not send a remote what came from it, but what came from others", (journal) =>
        Effect.gen(function*() {
          yield* imported(journal, remoteId(1), remote([0, entryAt(20, 1)]))
          yield* imported(journal, remoteId(2), remote([0, entryAt(10, 1)]))
          assert.deepStrictEqual(yield* unsent(journal, remoteId(1)), ["10/1"])
          assert.deepStrictEqual(yield* unsent(journal, remoteId(2)), ["20/1"])
          assert.deepStrictEqual(yield* unsent(journal, remoteId(3)), ["10/1", "20/1"])
        }))

      test("sends an older entry that came later", (journal) =>
        Effect.gen(function*() {
          yield* write(journal, "local")
          yield* journal.withRemoteUncommited(remoteId(1), () => Effect.void)
          yield* imported(journal, remoteId(2), remote([0, entryAt(10, 1)]))
          assert.deepStrictEqual(yield* unsent(journal, remoteId(1)), ["10/1"])
          yield* write(journal, "next")
          assert.deepStrictEqual(yield* unsent(journal, remoteId(1)), ["10/1", "next"])
        }))

      test("counts an interrupted upload as none", (journal) =>
        Effect.gen(function*() {
          yield* write(journal, "1")
          const uploading = yield* Effect.forkChild(journal.withRemoteUncommited(remoteId(1), () => Effect.never), {
            startImmediately: true
          })
          yield* Fiber.interrupt(uploading)
          assert.deepStrictEqual(yield* unsent(journal, remoteId(1)), ["1"])
        }))

      test("goes forward only, when uploads end out of order", (journal) =>
        Effect.gen(function*() {
          yield* write(journal, "1")
          yield* journal.withRemoteUncommited(remoteId(1), () =>
            Effect.andThen(write(journal, "2"), journal.withRemoteUncommited(remoteId(1), () => Effect.void)))
          assert.deepStrictEqual(yield* unsent(journal, remoteId(1)), [])
        }))
    })

    describe("writeRemoteAcks", () => {
      const acks = (...sequences: ReadonlyArray<number>) =>
        sequences.map((sequence) => ({ entryId: makeEntryIdUnsafe(), sequence }))

      test("goes on across sequences without a gap", (journal) =>
        Effect.gen(function*() {
          const next = journal.nextRemoteSequence(remoteId(1))
          yield* journal.writeRemoteAcks({ remoteId: remoteId(1), acks: acks(2, 0, 1) })
          assert.strictEqual(yield* next, 3)
          yield* journal.writeRemoteAcks({ remoteId: remoteId(1), acks: acks(5, 4) })
          assert.strictEqual(yield* next, 3)
          yield* journal.writeRemoteAcks({ remoteId: remoteId(1), acks: acks(3, 3, 1, 4, 6) })
          assert.strictEqual(yield* next, 5)
          yield* journal.writeRemoteAcks({ remoteId: remoteId(1), acks: acks(0) })
          assert.strictEqual(yield* next, 5)
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(2)), 0)
        }))

      test("begins where the remote does", (journal) =>
        Effect.gen(function*() {
          yield* journal.writeRemoteAcks({ remoteId: remoteId(1), acks: acks(1), firstSequence: 1 })
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 2)
          yield* journal.writeRemoteAcks({ remoteId: remoteId(1), acks: acks(2), firstSequence: 1 })
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 3)
          yield* journal.writeRemoteAcks({ remoteId: remoteId(2), acks: acks(1) })
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(2)), 0)
        }))

      test("goes on from what was imported, and the other way round", (journal) =>
        Effect.gen(function*() {
          yield* imported(journal, remoteId(1), remote([0, entryAt(10, 1)]))
          yield* journal.writeRemoteAcks({ remoteId: remoteId(1), acks: acks(1, 2) })
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 3)
          yield* imported(journal, remoteId(1), remote([9, entryAt(20, 1)]))
          assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 10)
        }))
    })

    test("destroy removes everything, and the journal goes on", (journal) =>
      Effect.gen(function*() {
        const changes = yield* journal.changes
        const entry = yield* write(journal, "1")
        yield* imported(journal, remoteId(1), remote([4, entryAt(10, 1)]))
        yield* journal.withRemoteUncommited(remoteId(2), () => Effect.void)
        yield* journal.destroy
        assert.deepStrictEqual(yield* journal.entries, [])
        assert.deepStrictEqual(yield* journal.entriesById([entry.id]), [undefined])
        assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 0)
        assert.deepStrictEqual(yield* unsent(journal, remoteId(2)), [])
        yield* write(journal, "2")
        assert.deepStrictEqual(payloads(yield* journal.entries), ["2"])
        assert.deepStrictEqual(yield* unsent(journal, remoteId(2)), ["2"])
        assert.deepStrictEqual(yield* imported(journal, remoteId(1), remote([4, entryAt(10, 1)])), {
          calls: [[["10/1", ["2"]]]],
          duplicates: []
        })
        assert.deepStrictEqual(payloads(yield* takeAllNow(changes)), ["1", "2"])
      }))

    describe("withLock", () => {
      test("lets one in at a time per store", (journal) =>
        Effect.gen(function*() {
          const [one, two] = [StoreId.make("one"), StoreId.make("two")]
          const [entered, leave] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
          const first = yield* Effect.forkChild(
            journal.withLock(one)(Effect.andThen(Deferred.succeed(entered, undefined), Deferred.await(leave))),
            { startImmediately: true }
          )
          yield* Deferred.await(entered)
          const second = yield* Effect.forkChild(journal.withLock(one)(Effect.succeed("second")), {
            startImmediately: true
          })
          assert.strictEqual(yield* journal.withLock(two)(Effect.succeed("other store")), "other store")
          assert.isUndefined(second.pollUnsafe())
          yield* Deferred.succeed(leave, undefined)
          assert.strictEqual(yield* Fiber.join(second), "second")
          yield* Fiber.join(first)
        }))

      test("is released by whatever ends its effect", (journal) =>
        Effect.gen(function*() {
          const lock = journal.withLock(StoreId.make("one"))
          assert.strictEqual(yield* Effect.flip(lock(Effect.fail("no"))), "no")
          yield* Effect.exit(lock(Effect.die("oh")))
          yield* Fiber.interrupt(yield* Effect.forkChild(lock(Effect.never), { startImmediately: true }))
          yield* lock(write(journal, "1"))
          assert.deepStrictEqual(payloads(yield* journal.entries), ["1"])
        }))
    })

    it.effect("does what a list of entries does, whatever it is told", () =>
      Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(fc.array(anyAction, { maxLength: 25 }), (actions) =>
            Effect.runPromise(
              Effect.provide(
                Effect.flatMap(EventJournal.EventJournal, (journal) => replay(journal, actions)),
                layer(),
                { local: true }
              ) as Effect.Effect<void>
            )),
          { numRuns: 40 }
        )
      ))
  })
}

/** What an event journal in a log promises beyond the contract of the interface. */
import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import { Cause, Deferred, Effect, Fiber, Option, Result, Scheduler, Stream } from "effect"
import { EventJournal } from "effect/eventlog"
import { EventJournalError, makeEntryIdUnsafe, type RemoteId } from "effect/eventlog/EventJournal"
import fc from "fast-check"
import * as EventJournalFormat from "../src/EventJournalFormat.ts"
import { LogClosed, RecordTooLarge, WalPoisoned } from "../src/LogErrors.ts"
import * as StateRecordFormat from "../src/StateRecordFormat.ts"
import {
  type Ending,
  inOwnProcess,
  openJournal,
  type Options,
  othersGoOn,
  segments,
  tooLong
} from "./support/adapters.ts"
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
  unsent,
  write
} from "./support/journalEntries.ts"
import { anyAction, replay } from "./support/journalModel.ts"
import { SeededScheduler } from "./support/seededScheduler.ts"
import { openLog } from "./support/words.ts"

const numbers = (count: number) => Array.from({ length: count }, (_, i) => i)
const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

const three = [
  { event: "E", primaryKey: "p", payload: bytesOf("a") },
  { event: "E", primaryKey: "p", payload: bytesOf("b") },
  { event: "E", primaryKey: "p", payload: bytesOf("c") }
] as const

const entriesOn = (disk: MemoryDisk) =>
  Effect.scoped(Effect.flatMap(openJournal(disk), ({ journal }) => Effect.map(journal.entries, payloads)))

/** The ids of the entries in the order in which they stand in the log. */
const idsInLog = Effect.fnUntraced(function*(disk: MemoryDisk) {
  const { close, log } = yield* openLog(disk, { directory: "/journal" })
  const found: Array<string> = []
  for (const { payload } of yield* Stream.runCollect(log.stream())) {
    const record = Result.getOrThrow(StateRecordFormat.decode(payload))
    for (const item of record.type === "commands" ? record.items : []) {
      const command = Result.getOrThrow(EventJournalFormat.decode(item))
      if (command.type === "entry") found.push(uuidOf(command.id))
    }
  }
  yield* close
  return found
})

const uuidOf = (id: Uint8Array) =>
  Buffer.from(id).toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5")

/** A journal that lives for one call only. */
const oneCallPerProcess = (ending: Ending, options: Options): Journal => {
  const disk = MemoryDisk.make()
  const call = <A, E, R>(use: (journal: Journal) => Effect.Effect<A, E, R>) =>
    inOwnProcess(disk, ending, openJournal(disk, options), ({ journal }) => use(journal))
  return EventJournal.EventJournal.of({
    entries: call((journal) => journal.entries),
    entriesById: (ids) => call((journal) => journal.entriesById(ids)),
    write: (options) => call((journal) => journal.write(options)),
    writeMany: (options) => call((journal) => journal.writeMany(options)),
    writeFromRemote: (options) => call((journal) => journal.writeFromRemote(options)),
    withRemoteUncommited: (remoteId, f) => call((journal) => journal.withRemoteUncommited(remoteId, f)),
    writeRemoteAcks: (options) => call((journal) => journal.writeRemoteAcks(options)),
    nextRemoteSequence: (remoteId) => call((journal) => journal.nextRemoteSequence(remoteId)),
    changes: Effect.die("a subscription outlives no process"),
    destroy: call((journal) => journal.destroy),
    withLock: () => (effect) => effect
  })
}

describe("LogEventJournal", () => {
  describe("durability", () => {
    it.effect("shows and publishes entries only when they are durable", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { journal } = yield* openJournal(disk)
        const changes = yield* journal.changes
        const sync = disk.hold({ operation: "syncData", path: segments })
        const writing = yield* start(
          journal.writeMany({ entries: three, effect: (entries) => Effect.succeed(ids(entries)) })
        )
        const importing = yield* start(imported(journal, remoteId(1), remote([0, entryAt(5, 1)])))
        yield* sync.reached
        yield* othersGoOn
        assert.deepStrictEqual(yield* journal.entries, [])
        assert.deepStrictEqual(yield* takeAllNow(changes), [])
        assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 0)
        assert.isUndefined(writing.pollUnsafe())
        assert.deepStrictEqual(yield* entriesOn(disk.afterCrash("lost")), [])
        yield* sync.release
        const written = yield* Fiber.join(writing)
        yield* Fiber.join(importing)
        assert.deepStrictEqual(payloads(yield* journal.entries), ["5/1", "a", "b", "c"])
        assert.deepStrictEqual(ids(yield* takeAllNow(changes)), written)
        assert.deepStrictEqual(yield* entriesOn(disk.afterCrash("lost")), ["5/1", "a", "b", "c"])
      }))

    it.effect("finishes a write that is interrupted behind its effect", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { journal } = yield* openJournal(disk)
        const changes = yield* journal.changes
        const sync = disk.hold({ operation: "syncData", path: segments })
        const writing = yield* start(write(journal, "1"))
        yield* sync.reached
        const interrupting = yield* start(Fiber.interrupt(writing))
        yield* othersGoOn
        yield* sync.release
        yield* Fiber.join(interrupting)
        assert.deepStrictEqual(payloads(yield* journal.entries), ["1"])
        assert.deepStrictEqual(payloads(yield* takeAllNow(changes)), ["1"])
      }))

    it.effect("keeps what it was given, whatever happens to the bytes outside", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { close, journal } = yield* openJournal(disk, tooLong)
        const payload = bytesOf("local")
        yield* journal.write({
          event: "E",
          primaryKey: "p",
          payload,
          effect: () => Effect.sync(() => void payload.fill(0))
        })
        const entry = entryAt(5, 1)
        const from = remoteId(1)
        yield* imported(journal, from, remote([3, entry]))
        entry.payload.fill(0)
        from.fill(9)
        // Until there is a snapshot of it all.
        for (const _ of numbers(5)) yield* write(journal, "more")
        yield* othersGoOn
        yield* close
        const again = yield* openJournal(disk)
        for (const { entries, nextRemoteSequence } of [journal, again.journal]) {
          assert.deepStrictEqual(payloads(yield* entries).slice(0, 3), ["5/1", "local", "more"])
          assert.strictEqual(yield* nextRemoteSequence(remoteId(1)), 4)
        }
        assert.deepStrictEqual(yield* unsent(again.journal, remoteId(1)), ["local", ...numbers(5).map(() => "more")])
      }))

    it.effect("publishes in the order of the log, whatever the scheduler does", () =>
      Effect.gen(function*() {
        for (let seed = 1; seed <= 25; seed++) {
          const disk = MemoryDisk.make({ async: { seed, maxTurns: 2 } })
          yield* Effect.scoped(Effect.gen(function*() {
            const { close, journal } = yield* openJournal(disk)
            const changes = yield* journal.changes
            yield* Effect.forEach(numbers(12), (i) => write(journal, `${i}`), { concurrency: 5, discard: true })
            const published = ids(yield* takeAllNow(changes))
            yield* close
            assert.deepStrictEqual(published, yield* idsInLog(disk), `seed ${seed}`)
            assert.strictEqual(published.length, 12)
          }))
        }
      }).pipe(Effect.provideServiceEffect(
        Scheduler.Scheduler,
        Effect.sync(() => new SeededScheduler(3, 0.2))
      )))
  })

  describe("across processes", () => {
    for (
      const [title, ending, options] of [
        ["that are closed after each call", "closed", {}],
        ["whose power fails after each call, with a log that is always too long", "powerLost", tooLong]
      ] as const
    ) {
      it.effect(`does what a list of entries does, in processes ${title}`, () =>
        Effect.promise(() =>
          fc.assert(
            fc.asyncProperty(
              fc.array(anyAction, { maxLength: 10 }),
              (actions) => Effect.runPromise(Effect.orDie(replay(oneCallPerProcess(ending, options), actions)))
            ),
            { numRuns: 12 }
          )
        ))
    }

    it.effect("goes on behind ids from the future", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const future = entryAt(Date.now() + 1_000_000_000, 9)
        yield* Effect.scoped(
          Effect.flatMap(openJournal(disk), ({ journal }) => imported(journal, remoteId(1), remote([0, future])))
        )
        const { journal } = yield* openJournal(disk)
        const entry = yield* write(journal, "next")
        assert.isTrue(EventJournal.EntryIdOrder(entry.id, future.id) > 0)
      }))

    it.effect("has batches whole or not at all, and the sequence of a remote with them, wherever it came", () =>
      Effect.gen(function*() {
        let states = 0
        const disk = MemoryDisk.make({ async: { seed: 1, maxTurns: 2 } })
        yield* Effect.scoped(openJournal(disk))
        const trace = disk.record<string>()
        const batch = (i: number) => numbers(4).map((n) => entryAt(100 * i + n, n, "E", `${i}`))
        yield* Effect.scoped(Effect.gen(function*() {
          const { journal } = yield* openJournal(disk, { ...tooLong, maxRecordBytes: 150, maxBatchBytes: 200 })
          const local = Effect.forEach(numbers(6), (i) =>
            Effect.tap(
              journal.writeMany({
                entries: [
                  { event: "L", primaryKey: `${i}`, payload: bytesOf(`l${i}.0`) },
                  { event: "L", primaryKey: `${i}`, payload: bytesOf(`l${i}.1`) },
                  { event: "L", primaryKey: `${i}`, payload: bytesOf(`l${i}.2`) }
                ],
                effect: Effect.succeed
              }),
              () => Effect.sync(() => trace.mark(`l${i}`))
            ))
          const remotes = Effect.forEach(numbers(6), (i) =>
            Effect.tap(
              imported(journal, remoteId(1), remote(...batch(i).map((entry, n) => [4 * i + n, entry] as const))),
              () => Effect.sync(() => trace.mark(`r${i}`))
            ))
          yield* Effect.all([local, remotes], { concurrency: "unbounded" })
        }))
        trace.stop()
        for (const state of trace.crashStates({ perStep: 1, steps: (step) => step % 3 === 0 })) {
          states++
          yield* Effect.scoped(Effect.gen(function*() {
            const { journal } = yield* openJournal(state.disk)
            const found = yield* journal.entries
            const countOf = (event: string, key: number) =>
              found.filter((entry) => entry.event === event && entry.primaryKey === `${key}`).length
            let imports = 0
            for (const i of numbers(6)) {
              const [locals, remotes] = [countOf("L", i), countOf("E", i)]
              assert.include([0, 3], locals, `${state.label}: local batch ${i}`)
              assert.include([0, 4], remotes, `${state.label}: remote batch ${i}`)
              if (state.marks.includes(`l${i}`)) assert.strictEqual(locals, 3, `${state.label}: local batch ${i}`)
              if (state.marks.includes(`r${i}`)) assert.strictEqual(remotes, 4, `${state.label}: remote batch ${i}`)
              if (remotes > 0) imports = i + 1
            }
            assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 4 * imports, state.label)
            const missing = yield* unsent(journal, remoteId(1))
            assert.deepStrictEqual(missing, payloads(found.filter(({ event }) => event === "L")), state.label)
          })).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${state.label}: ${Cause.pretty(cause)}`))))
        }
        assert.isAbove(states, 300)
      }))
  })

  describe("calls that overlap", () => {
    it.effect("store an entry once that two remotes bring at the same time", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { journal } = yield* openJournal(disk)
        const entry = entryAt(5, 1)
        const sync = disk.hold({ operation: "syncData", path: segments })
        const importing = [
          yield* start(imported(journal, remoteId(1), remote([0, entry]))),
          yield* start(imported(journal, remoteId(2), remote([7, entry])))
        ]
        yield* sync.reached
        yield* sync.release
        yield* Effect.forEach(importing, Fiber.join)
        assert.deepStrictEqual(payloads(yield* journal.entries), ["5/1"])
        assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(2)), 8)
        assert.deepStrictEqual(yield* entriesOn(disk.afterCrash("lost")), ["5/1"])
      }))

    it.effect("do not pass over an older entry that comes during an upload", () =>
      Effect.gen(function*() {
        const { journal } = yield* openJournal(MemoryDisk.make())
        yield* write(journal, "local")
        yield* journal.withRemoteUncommited(
          remoteId(1),
          () => imported(journal, remoteId(2), remote([0, entryAt(5, 1)]))
        )
        assert.deepStrictEqual(yield* unsent(journal, remoteId(1)), ["5/1"])
      }))

    it.effect("do not take what is written behind a destroy for uploaded", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { close, journal } = yield* openJournal(disk, tooLong)
        for (const i of numbers(5)) yield* write(journal, `${i}`)
        yield* journal.withRemoteUncommited(remoteId(1), () => Effect.andThen(journal.destroy, write(journal, "after")))
        assert.deepStrictEqual(yield* unsent(journal, remoteId(1)), ["after"])
        yield* write(journal, "later")
        yield* othersGoOn
        yield* close
        const again = yield* openJournal(disk)
        assert.deepStrictEqual(yield* unsent(again.journal, remoteId(1)), ["after", "later"])
      }))

    it.effect("count acknowledgements of which none has seen the other", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { journal } = yield* openJournal(disk)
        const sync = disk.hold({ operation: "syncData", path: segments })
        const acks = (sequence: number) =>
          journal.writeRemoteAcks({ remoteId: remoteId(1), acks: [{ entryId: makeEntryIdUnsafe(), sequence }] })
        const acking = [yield* start(acks(0)), yield* start(acks(1)), yield* start(acks(2))]
        yield* sync.reached
        yield* sync.release
        yield* Effect.forEach(acking, Fiber.join)
        assert.strictEqual(yield* journal.nextRemoteSequence(remoteId(1)), 3)
      }))
  })

  describe("limits and endings", () => {
    it.effect("GC-10 refuses an entry that fits into no record before anything is done about it", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const options: Options = { ...tooLong, maxRecordBytes: 1000 }
        const { close, journal } = yield* openJournal(disk, options)
        const tooLarge = "x".repeat(1000)
        const refusals = [
          yield* Effect.flip(journal.write({
            event: "E",
            primaryKey: "p",
            payload: bytesOf(tooLarge),
            effect: () => Effect.die("it runs")
          })),
          yield* Effect.flip(journal.writeMany({
            entries: [three[0], { ...three[1], payload: bytesOf(tooLarge) }],
            effect: () => Effect.die("it runs")
          })),
          yield* Effect.flip(journal.writeFromRemote({
            remoteId: remoteId(1),
            entries: remote([0, entryAt(5, 1)], [1, entryAt(6, 1, "E", "p", tooLarge)]),
            effect: () => Effect.die("it runs")
          }))
        ]
        assert.deepStrictEqual(refusals.map((error) => [error._tag, error.method]), [
          ["EventJournalError", "writeMany"],
          ["EventJournalError", "writeMany"],
          ["EventJournalError", "writeFromRemote"]
        ])
        for (const { cause } of refusals) assert.isTrue(cause instanceof RecordTooLarge)
        assert.deepStrictEqual(yield* journal.entries, [])
        // Each fits, together they do not.
        const large = numbers(8).map((i) => entryAt(i + 1, 1, "E", "p", `${i}`.repeat(900)))
        yield* imported(journal, remoteId(1), remote(...large.map((entry, i) => [i, entry] as const)))
        yield* othersGoOn
        yield* close
        assert.deepStrictEqual(yield* entriesOn(disk), payloads(large))
      }))

    it.effect("refuses ids and sequences that have no meaning", () =>
      Effect.gen(function*() {
        const { journal } = yield* openJournal(MemoryDisk.make())
        const bad = (bytes: number) => new Uint8Array(bytes) as RemoteId
        const short = entryAt(5, 1)
        const acks = [{ entryId: makeEntryIdUnsafe(), sequence: 1.5 }]
        const calls: ReadonlyArray<Effect.Effect<unknown, EventJournalError>> = [
          imported(journal, bad(0), remote([0, short])),
          imported(journal, bad(256), remote([0, short])),
          journal.withRemoteUncommited(bad(0), () => Effect.die("it runs")) as Effect.Effect<
            unknown,
            EventJournalError
          >,
          journal.writeRemoteAcks({ remoteId: bad(0), acks: [] }),
          journal.writeRemoteAcks({ remoteId: remoteId(1), acks }),
          journal.writeRemoteAcks({ remoteId: remoteId(1), acks: [], firstSequence: -1 })
        ]
        for (const call of calls) {
          const error = yield* Effect.flip(call)
          assert.isTrue(error._tag === "EventJournalError" && error.cause instanceof RangeError)
        }
        assert.deepStrictEqual(yield* journal.entries, [])
      }))

    it.effect("GC-07 fails with the reason when the log is poisoned, publishes nothing, and reopens whole", () =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        const { close, journal } = yield* openJournal(disk)
        yield* write(journal, "1")
        const changes = yield* journal.changes
        disk.inject({ operation: "syncData", path: segments, fault: { kind: "lostSync" } })
        const ran = yield* Deferred.make<void>()
        const errors = [
          yield* Effect.flip(journal.write({
            event: "E",
            primaryKey: "p",
            payload: bytesOf("2"),
            effect: () => Deferred.succeed(ran, undefined)
          })),
          yield* Effect.flip(imported(journal, remoteId(1), remote([0, entryAt(5, 1)]))),
          yield* Effect.flip(journal.withRemoteUncommited(remoteId(1), ignored)),
          yield* Effect.flip(journal.writeRemoteAcks({ remoteId: remoteId(1), acks: [] })),
          yield* Effect.flip(journal.destroy)
        ]
        assert.isTrue(yield* Deferred.isDone(ran))
        assert.deepStrictEqual(errors.map(({ method }) => method), [
          "writeMany",
          "writeFromRemote",
          "withRemoteUncommited",
          "writeRemoteAcks",
          "destroy"
        ])
        for (const error of errors) {
          assert.isTrue(error instanceof EventJournalError && error.cause instanceof WalPoisoned)
        }
        assert.deepStrictEqual(payloads(yield* journal.entries), ["1"])
        assert.deepStrictEqual(yield* takeAllNow(changes), [])
        yield* close
        disk.crash("lost")
        const again = yield* openJournal(disk)
        assert.deepStrictEqual(payloads(yield* again.journal.entries), ["1"])
        assert.deepStrictEqual(
          Option.map(yield* again.journal.withRemoteUncommited(remoteId(1), Effect.succeed), payloads),
          Option.some(["1"])
        )
        yield* again.close
        assert.isTrue((yield* Effect.flip(again.journal.destroy)).cause instanceof LogClosed)
      }))
  })
})

/** Compaction of what a remote brings, which only an `EventLog` can do to its journal. */
import { Deferred, Effect, Layer, Queue, Redacted, Schema } from "effect"
import { SchemaBinary } from "effect/encoding"
import { EventGroup, EventJournal, EventLog } from "effect/eventlog"
import { Entry, type RemoteEntry } from "effect/eventlog/EventJournal"
import { entryAt, ignored, remote, remoteId } from "./journalEntries.ts"

const Note = Schema.Struct({ key: Schema.String, value: Schema.String })
const Notes = EventGroup.empty.add({ tag: "Set", primaryKey: ({ key }) => key, payload: Note })
const notes = EventLog.schema(Notes)

/**
 * A remote brings two entries that a compaction makes one of. The new one has an id of its own, which is later than that
 * of the stored entry; its place is that of the first entry, which is earlier.
 */
export const replayCompacted = Effect.gen(function*() {
  const replayed: Array<{ readonly value: string; readonly conflicts: ReadonlyArray<string> }> = []
  const done = yield* Deferred.make<void>()
  const handlers = EventLog.group(
    Notes,
    (handlers) =>
      handlers.handle("Set", ({ conflicts, payload }) =>
        Effect.gen(function*() {
          replayed.push({ value: payload.value, conflicts: conflicts.map(({ payload }) => payload.value) })
          yield* Deferred.succeed(done, undefined)
        }))
  )
  const compaction = EventLog.groupCompaction(
    Notes,
    ({ events, primaryKey, write }) =>
      write("Set", { key: primaryKey, value: events.map(({ payload }) => payload.value).join("+") })
  )
  const identity = Layer.succeed(EventLog.Identity, {
    publicKey: "test",
    privateKey: Redacted.make(new Uint8Array(32))
  })

  yield* Effect.gen(function*() {
    const journal = yield* EventJournal.EventJournal
    const registry = yield* EventLog.Registry
    const encode = Schema.encodeEffect(SchemaBinary.toCodec(Note))
    const at = (millis: number, number: number, value: string) =>
      Effect.map(Effect.orDie(encode({ key: "k", value })), (payload) => {
        const { id } = entryAt(millis, number)
        return new Entry({ id, event: "Set", primaryKey: "k", payload })
      })
    const between = yield* at(10, 2, "between")
    yield* journal.writeFromRemote({ remoteId: remoteId(1), entries: remote([0, between]), effect: ignored })
    const changes = yield* Queue.unbounded<RemoteEntry>()
    yield* Queue.offerAll(changes, remote([0, yield* at(10, 1, "one")], [1, yield* at(20, 1, "two")]))
    yield* registry.registerRemote({
      id: remoteId(2),
      changes: () => Effect.succeed(changes),
      write: () => Effect.void,
      whenAuthenticated: (effect) => effect
    })
    yield* Deferred.await(done)
  }).pipe(
    Effect.scoped,
    Effect.provide(EventLog.layer(notes, Layer.merge(handlers, compaction)).pipe(Layer.provideMerge(identity)))
  )
  return replayed
})

/** Entries of journals, and the calls by which tests look at them. */
import { assert } from "@effect/vitest"
import { Effect, PubSub } from "effect"
import { EventJournal } from "effect/eventlog"
import { Entry, EventJournalError, makeEntryIdUnsafe, RemoteEntry, type RemoteId } from "effect/eventlog/EventJournal"

export type Journal = EventJournal.EventJournal["Service"]

const encoder = new TextEncoder()
export const bytesOf = (text: string) => encoder.encode(text)
export const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

export const remoteId = (number: number): RemoteId => {
  const id = EventJournal.makeRemoteIdUnsafe()
  id.fill(number)
  return id
}

/** Ids ascend by millisecond, then by the number. */
export const entryAt = (
  millis: number,
  number: number,
  event = "E",
  primaryKey = "p",
  payload = `${millis}/${number}`
) => {
  const id = makeEntryIdUnsafe({ msecs: millis })
  id[6] = 0x70
  id.fill(0, 7)
  id[15] = number
  return new Entry({ id, event, primaryKey, payload: bytesOf(payload) })
}

export const remote = (...entries: ReadonlyArray<readonly [sequence: number, entry: Entry]>) =>
  entries.map(([remoteSequence, entry]) => new RemoteEntry({ remoteSequence, entry }))

export const payloads = (entries: ReadonlyArray<Entry>) => entries.map(({ payload }) => textOf(payload))
export const ids = (entries: ReadonlyArray<Entry>) => entries.map(({ idString }) => idString)

/** Writes an entry whose payload is the text. */
export const write = (
  journal: Journal,
  payload: string,
  options?: { readonly event?: string; readonly primaryKey?: string }
) =>
  journal.write({
    event: options?.event ?? "E",
    primaryKey: options?.primaryKey ?? "p",
    payload: bytesOf(payload),
    effect: Effect.succeed
  })

export const ignored = () => Effect.void

/** What a call of `writeFromRemote` handed to its effect. */
export const imported = Effect.fnUntraced(function*(
  journal: Journal,
  from: RemoteId,
  entries: ReadonlyArray<RemoteEntry>
) {
  const calls: Array<ReadonlyArray<readonly [payload: string, conflicts: ReadonlyArray<string>]>> = []
  const { duplicateEntries } = yield* journal.writeFromRemote({
    remoteId: from,
    entries,
    effect: (batch) =>
      Effect.sync(() => {
        calls.push(batch.map(({ conflicts, entry }) => [textOf(entry.payload), payloads(conflicts)] as const))
      })
  })
  return { calls, duplicates: payloads(duplicateEntries) }
})

/** The payloads that a remote has yet to be sent, without marking them as sent. */
export const unsent = (journal: Journal, to: RemoteId) =>
  Effect.map(
    Effect.flip(
      journal.withRemoteUncommited(to, (entries) => Effect.fail(payloads(entries))).pipe(
        Effect.andThen(Effect.fail<ReadonlyArray<string>>([]))
      )
    ),
    (unsent) => {
      assert.isFalse(unsent instanceof EventJournalError)
      return unsent
    }
  )

/** What was published so far. */
export const takeAllNow = <A>(subscription: PubSub.Subscription<A>) =>
  PubSub.takeUpTo(subscription, Number.MAX_SAFE_INTEGER)

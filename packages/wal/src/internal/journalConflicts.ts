/**
 * Pairs incoming entries with the stored ones that they conflict with.
 *
 * The rules are those of Effect's journals, down to the place that an entry takes which a compaction has written, and
 * that place is known inside of Effect only. So Effect's own memory journal is asked: one that holds nothing but the
 * stored entries that may matter, and is thrown away afterwards.
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Effect from "effect/Effect"
import type { EventJournal, EventJournalError } from "effect/eventlog/EventJournal"
import { type Entry, EntryIdOrder, makeMemory, makeRemoteIdUnsafe, RemoteEntry } from "effect/eventlog/EventJournal"
import * as References from "effect/References"
import type { JournalState } from "./journalState.ts"

type Apply = Parameters<EventJournal["Service"]["writeFromRemote"]>[0]["effect"]

/**
 * Runs `apply` once with `incoming`, in the order in which every replica applies them, each with its conflicts.
 * `received` are the entries that `incoming` was made of.
 *
 * @internal
 */
export const applyWithConflicts = Effect.fnUntraced(function*(
  state: JournalState,
  received: ReadonlyArray<Entry>,
  incoming: NonEmptyReadonlyArray<Entry>,
  apply: Apply
): Effect.fn.Return<void, EventJournalError> {
  const stored = mayConflict(state, received, incoming)
  const journal = yield* makeMemory
  yield* journal.writeFromRemote({
    remoteId: makeRemoteIdUnsafe(),
    entries: stored.map((entry, i) => new RemoteEntry({ remoteSequence: i, entry }, { disableChecks: true })),
    effect: () => Effect.void
    // They were imported before: what there was to be said about them was said then.
  }).pipe(Effect.provideService(References.MinimumLogLevel, "None"))
  yield* journal.writeFromRemote({
    remoteId: makeRemoteIdUnsafe(),
    entries: [],
    compact: () => Effect.succeed(incoming),
    effect: apply
  })
})

/** Those of the same event and primary key that are younger than the oldest of all: an entry stands for one received. */
const mayConflict = (
  state: JournalState,
  received: ReadonlyArray<Entry>,
  incoming: NonEmptyReadonlyArray<Entry>
): ReadonlyArray<Entry> => {
  let oldest = incoming[0].id
  for (const { id } of [...received, ...incoming]) if (EntryIdOrder(id, oldest) < 0) oldest = id
  const keys = new Map<string, Set<string>>()
  for (const { event, primaryKey } of incoming) {
    const primaryKeys = keys.get(event) ?? new Set<string>()
    keys.set(event, primaryKeys.add(primaryKey))
  }
  return Array.from(state.after(oldest)).filter(({ event, primaryKey }) => keys.get(event)?.has(primaryKey) === true)
}

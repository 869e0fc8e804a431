/**
 * Effect's `EventJournal` on an append log: entries, the progress of remotes, and nothing is published that could be
 * lost.
 *
 * **When to use**
 *
 * Use as the journal of an `EventLog` in a process with a disk.
 *
 * **Details**
 *
 * 1. `write` and `writeMany` run their effect, and are done when the entries are durable, all of them or none. Only then
 *    they can be read, and are published to `changes`, in the order of the log. Writes that come at the same time share
 *    one sync.
 * 2. `entries` answers in the order of ids. Local ids come after every id that is stored.
 * 3. `writeFromRemote` stores a batch and advances the sequence of its remote together. An entry that is known is a
 *    duplicate, also when two batches bring it at the same time.
 * 4. `withRemoteUncommited` answers what was inserted since it last succeeded for that remote; an older entry that was
 *    imported meanwhile is among them the next time.
 *
 * **Gotchas**
 *
 * All entries are kept in memory. An entry above `maxRecordBytes` of the log (16 MiB) is refused with an
 * `EventJournalError` whose cause is `RecordTooLarge`, before the effect runs; a batch may be larger. When the log has
 * ended, changes fail with the reason as their cause, the effect having run; reads go on. A write that is interrupted
 * after its effect has succeeded is finished first.
 *
 * Ids follow the clock of the system, as those of every journal do, not Effect's `Clock`.
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import type * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import { Entry, EventJournal, EventJournalError, type RemoteEntry, type RemoteId } from "effect/eventlog/EventJournal"
import type { StoreId } from "effect/eventlog/EventLogMessage"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { AppendLog } from "./AppendLog.ts"
import * as EventJournalFormat from "./EventJournalFormat.ts"
import { makeIdsAfter } from "./internal/entryIds.ts"
import { applyWithConflicts } from "./internal/journalConflicts.ts"
import { JournalState } from "./internal/journalState.ts"
import { overConfig, overDirectory, stateLogOptions } from "./internal/logStateLayers.ts"
import { openStateLog } from "./internal/openStateLog.ts"
import type { LogStateDirectoryOptions, LogStateOptions, OpenDirectoryError, OpenError, Platform } from "./LogState.ts"

type JournalCommand = EventJournalFormat.JournalCommand
type Journal = EventJournal["Service"]
type WriteFromRemote = Parameters<Journal["writeFromRemote"]>[0]

/**
 * Opens a journal over the log in the environment, which is the journal's alone.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(
  options?: LogStateOptions
): Effect.fn.Return<Journal, OpenError, AppendLog | Scope.Scope> {
  const log = yield* AppendLog
  const clock = yield* Clock.Clock
  const stateLog = yield* openStateLog(log, definition, stateLogOptions(options))
  const { state } = stateLog
  const changes = yield* PubSub.unbounded<Entry>()

  /** Makes commands durable; `published` are the ids of entries among them that were written here. */
  const commit = (method: string, commands: ReadonlyArray<JournalCommand>, published: ReadonlyArray<Entry> = []) =>
    stateLog.transact(() => ({
      type: "commit",
      commands,
      answer: () => {
        for (const entry of published) PubSub.publishUnsafe(changes, entry)
      }
    })).pipe(Effect.mapError((cause) => new EventJournalError({ method, cause })))

  /** Refuses what cannot be written, before anything is done about it. */
  const checkEntries = (method: string, entries: ReadonlyArray<Entry>, source?: Uint8Array<ArrayBuffer>) => {
    for (const entry of entries) {
      const cause = refuseId(entry) ?? (isSmall(entry, stateLog.maxItemBytes)
        ? undefined
        : stateLog.refuseSize([EventJournalFormat.encode(toCommand(entry, source))]))
      if (cause !== undefined) return Effect.fail(new EventJournalError({ method, cause }))
    }
    return Effect.void
  }

  const writeMany: Journal["writeMany"] = ({ effect, entries }) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const written = yield* makeEntries(entries, state)
        yield* checkEntries("writeMany", written)
        const result = yield* restore(effect(written))
        yield* commit("writeMany", written.map((entry) => toCommand(entry, undefined)), written)
        return result
      })
    )

  const writeFromRemote = Effect.fnUntraced(function*({ compact, effect, entries, remoteId }: WriteFromRemote) {
    const source = yield* checkRemoteId("writeFromRemote", remoteId)
    const { duplicates, received } = withoutDuplicates(state, entries)
    const imported = received.map(({ entry }) => entry)
    yield* checkEntries("writeFromRemote", imported, source)
    const next = nextBehind(entries)
    const commands = [
      ...imported.map((entry) => toCommand(entry, source)),
      ...(next > state.nextSequence(source) ? [{ type: "next", remoteId: source, next } as const] : [])
    ]
    const incoming = compact === undefined ? imported : yield* compact(received)
    yield* Effect.uninterruptibleMask((restore) =>
      Effect.andThen(
        Arr.isReadonlyArrayNonEmpty(incoming)
          ? restore(applyWithConflicts(state, imported, incoming, effect))
          : Effect.void,
        commands.length === 0 ? Effect.void : commit("writeFromRemote", commands)
      )
    )
    yield* warnIfAhead(clock, imported)
    return { duplicateEntries: duplicates }
  })

  const withRemoteUncommited: Journal["withRemoteUncommited"] = (remoteId, f) =>
    Effect.flatMap(checkRemoteId("withRemoteUncommited", remoteId), (remote) => {
      const { entries, upTo } = state.uncommitted(remote)
      if (!Arr.isReadonlyArrayNonEmpty(entries)) return Effect.succeedNone
      return Effect.uninterruptibleMask((restore) =>
        Effect.tap(
          Effect.asSome(restore(f(entries))),
          commit("withRemoteUncommited", [{ type: "uploaded", remoteId: remote, insertion: upTo }])
        )
      )
    })

  const writeRemoteAcks: Journal["writeRemoteAcks"] = ({ acks, firstSequence = 0, remoteId }) =>
    Effect.flatMap(checkRemoteId("writeRemoteAcks", remoteId), (remote) => {
      const sequences = acks.map(({ sequence }) => sequence)
      const cause = refuseSequences([firstSequence, ...sequences])
      return cause === undefined
        ? commit("writeRemoteAcks", [{ type: "acks", remoteId: remote, firstSequence, sequences }])
        : Effect.fail(new EventJournalError({ method: "writeRemoteAcks", cause }))
    })

  const locks = new Map<StoreId, Semaphore.Semaphore>()
  const lockOf = (storeId: StoreId): Semaphore.Semaphore => {
    const lock = locks.get(storeId) ?? Semaphore.makeUnsafe(1)
    locks.set(storeId, lock)
    return lock
  }

  return EventJournal.of({
    entries: Effect.sync(() => state.ordered.slice()),
    entriesById: (ids) => Effect.sync(() => ids.map((id) => state.get(id))),
    write: ({ effect, ...entry }) => writeMany({ entries: [entry], effect: ([written]) => effect(written) }),
    writeMany,
    writeFromRemote,
    withRemoteUncommited,
    writeRemoteAcks,
    nextRemoteSequence: (remoteId) => Effect.sync(() => state.nextSequence(remoteId)),
    changes: PubSub.subscribe(changes),
    destroy: Effect.suspend(() => commit("destroy", [{ type: "destroy" }])),
    withLock: (storeId) => (effect) => lockOf(storeId).withPermit(effect)
  })
})

/**
 * The journal over the log in the environment. One adapter per log.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: LogStateOptions): Layer.Layer<EventJournal, OpenError, AppendLog> =>
  Layer.effect(EventJournal, make(options))

/**
 * The journal over a log of its own, which lives in a directory.
 *
 * **Example** (Providing the journal of an event log)
 *
 * ```ts
 * import * as NodeVfs from "@tidemark/platform/NodeVfs"
 * import * as LogEventJournal from "@tidemark/wal/LogEventJournal"
 * import { Layer } from "effect"
 *
 * export const Journal = LogEventJournal.layerDirectory({ directory: "./data/journal" }).pipe(
 *   Layer.provide(NodeVfs.layer)
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerDirectory = (
  options: LogStateDirectoryOptions
): Layer.Layer<EventJournal, OpenDirectoryError, Platform> => overDirectory(layer, options)

/**
 * {@link layerDirectory} with options from the configuration: `TIDEMARK_JOURNAL_DIRECTORY`, and with the same prefix
 * `_SNAPSHOT_RATIO`, `_SNAPSHOT_MIN_BYTES`, `_MAX_QUEUED_BYTES`, `_SEGMENT_BYTES`, `_MAX_RECORD_BYTES`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<EventJournal, OpenDirectoryError | Config.ConfigError, Platform> = overConfig(
  layer,
  "TIDEMARK_JOURNAL"
)

const definition = {
  kind: "JRNL",
  encode: EventJournalFormat.encode,
  decode: EventJournalFormat.decode,
  empty: () => new JournalState()
}

const makeEntries = (
  entries: Parameters<Journal["writeMany"]>[0]["entries"],
  state: JournalState
): Effect.Effect<Arr.NonEmptyArray<Entry>, EventJournalError> =>
  Effect.try({
    try: () => {
      const ids = makeIdsAfter(state.latestId, entries.length).values()
      return Arr.map(entries, ({ event, payload, primaryKey }) => {
        const id = ids.next()
        if (id.done === true) throw new RangeError("there is an id for every entry")
        return new Entry({ id: id.value, event, primaryKey, payload: payload.slice() }, { disableChecks: true })
      })
    },
    catch: (cause) => new EventJournalError({ method: "writeMany", cause })
  })

const toCommand = (
  { event, id, payload, primaryKey }: Entry,
  source: Uint8Array<ArrayBuffer> | undefined
): JournalCommand => ({
  type: "entry",
  id,
  source,
  event,
  primaryKey,
  // What came from outside stays outside.
  payload: source === undefined ? payload : payload.slice()
})

/** What the fields of an entry beside its texts and its payload take at the most. */
const entryHeadBytes = 512

/** Whether an entry is far from the limit. A character of text takes three bytes at the most. */
const isSmall = ({ event, payload, primaryKey }: Entry, maxItemBytes: number): boolean =>
  entryHeadBytes + 3 * (event.length + primaryKey.length) + payload.length <= maxItemBytes

const refuseId = ({ id }: Entry): RangeError | undefined =>
  id.length === EventJournalFormat.entryIdBytes
    ? undefined
    : new RangeError(`the id of an entry has ${EventJournalFormat.entryIdBytes} bytes, this one ${id.length}`)

const refuseSequences = (sequences: ReadonlyArray<number>): RangeError | undefined => {
  const bad = sequences.find((sequence) => !Number.isSafeInteger(sequence) || sequence < 0)
  return bad === undefined ? undefined : new RangeError(`a sequence is an integer from 0 to 2^53 - 1, not ${bad}`)
}

/** The first copy of each entry that is not stored yet, and those that are. */
const withoutDuplicates = (state: JournalState, entries: ReadonlyArray<RemoteEntry>) => {
  const duplicates: Array<Entry> = []
  const received: Array<RemoteEntry> = []
  const seen = new Set<string>()
  for (const remoteEntry of entries) {
    const { entry } = remoteEntry
    if (state.get(entry.id) !== undefined) duplicates.push(entry)
    else if (!seen.has(entry.idString)) received.push(remoteEntry)
    seen.add(entry.idString)
  }
  return { duplicates, received }
}

/** The sequence behind every entry of a batch. */
const nextBehind = (entries: ReadonlyArray<RemoteEntry>): number =>
  entries.reduce((next, { remoteSequence }) => Math.max(next, remoteSequence + 1), 0)

/** A copy of the id, which is the caller's. */
const checkRemoteId = (
  method: string,
  remoteId: RemoteId
): Effect.Effect<Uint8Array<ArrayBuffer>, EventJournalError> =>
  remoteId.length >= 1 && remoteId.length <= EventJournalFormat.maxRemoteIdBytes
    ? Effect.sync(() => new Uint8Array(remoteId))
    : Effect.fail(
      new EventJournalError({
        method,
        cause: new RangeError(
          `the id of a remote has 1 ... ${EventJournalFormat.maxRemoteIdBytes} bytes, this one ${remoteId.length}`
        )
      })
    )

const maxClockSkewMillis = 24 * 60 * 60 * 1000

/** From now on local ids go on behind the latest id that was imported, so a clock that is far off should be known. */
const warnIfAhead = (clock: Clock.Clock, imported: ReadonlyArray<Entry>): Effect.Effect<void> => {
  const aheadMillis = imported.reduce((latest, { createdAtMillis }) => Math.max(latest, createdAtMillis), 0) -
    clock.currentTimeMillisUnsafe()
  return aheadMillis <= maxClockSkewMillis
    ? Effect.void
    : Effect.logWarning(`an entry was imported whose id is ${Math.round(aheadMillis / 3_600_000)} hours ahead`)
}

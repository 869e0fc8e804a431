/**
 * The state of an event journal: entries, where they came from, and how far each remote is.
 *
 * 1. An id is stored once; an entry that comes again changes nothing.
 * 2. Entries are numbered by insertion, from 1 on; `destroy` does not reset the number. What a remote has yet to be sent
 *    are the entries behind the insertion up to which it has everything, without those that came from it: an older
 *    entry that is imported later stands behind that insertion and is not passed over.
 * 3. Sequences and insertions of a remote only grow.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { EntryId } from "effect/eventlog/EventJournal"
import { Entry, EntryIdOrder } from "effect/eventlog/EventJournal"
import { entryIdBytes, type JournalCommand } from "../EventJournalFormat.ts"
import type { LoggedState } from "./loggedState.ts"

type Bytes = Uint8Array<ArrayBuffer>

interface Remote {
  readonly id: Bytes
  /** The first sequence of the remote that is not known here. */
  next: number
  /** The remote has everything up to this insertion. */
  uploaded: number
}

interface Insertion {
  readonly entry: Entry
  readonly source: Remote | undefined
}

/** One character per byte: a key for a map. */
const keyOf = (id: Uint8Array): string => String.fromCharCode(...id)

/** @internal */
export class JournalState implements LoggedState<JournalCommand> {
  private readonly byId = new Map<string, Entry>()
  private readonly remotes = new Map<string, Remote>()
  private insertions: Array<Insertion> = []
  /** Insertions before the first of `insertions`. */
  private base = 0
  /** All entries; in the order of their ids when `isOrdered`. */
  private entries: Array<Entry> = []
  private isOrdered = true
  private latest: EntryId | undefined
  private bytes = 0

  get liveBytes(): number {
    return this.bytes
  }

  /** The greatest id. */
  get latestId(): EntryId | undefined {
    return this.latest
  }

  /** In the order of ids. Not to be changed, and not to be kept. */
  get ordered(): ReadonlyArray<Entry> {
    if (!this.isOrdered) this.entries.sort(Entry.Order)
    this.isOrdered = true
    return this.entries
  }

  get(id: Uint8Array): Entry | undefined {
    return this.byId.get(keyOf(id))
  }

  nextSequence(remoteId: Uint8Array): number {
    return this.remotes.get(keyOf(remoteId))?.next ?? 0
  }

  /** What a remote has yet to be sent, in the order of ids, and the insertion up to which it has everything then. */
  uncommitted(remoteId: Uint8Array): { readonly entries: ReadonlyArray<Entry>; readonly upTo: number } {
    const remote = this.remotes.get(keyOf(remoteId))
    const entries: Array<Entry> = []
    const first = Math.max(0, (remote?.uploaded ?? 0) - this.base)
    for (const { entry, source } of this.insertions.slice(first)) {
      if (source === undefined || source !== remote) entries.push(entry)
    }
    return { entries: entries.sort(Entry.Order), upTo: this.base + this.insertions.length }
  }

  /** The entries with an id greater than `id`, from the greatest down. */
  *after(id: EntryId): Generator<Entry> {
    const { ordered } = this
    for (let i = ordered.length - 1; i >= 0; i--) {
      const entry = ordered[i]
      if (entry === undefined || EntryIdOrder(entry.id, id) <= 0) return
      yield entry
    }
  }

  readonly apply = (command: JournalCommand, itemBytes: number): void => {
    switch (command.type) {
      case "entry":
        return this.insert(command, itemBytes)
      case "next": {
        const remote = this.remote(command.remoteId)
        remote.next = Math.max(remote.next, command.next)
        return
      }
      case "acks": {
        const remote = this.remote(command.remoteId)
        remote.next = nextBehind(Math.max(remote.next, command.firstSequence), command.sequences)
        return
      }
      case "uploaded": {
        const remote = this.remote(command.remoteId)
        remote.uploaded = Math.max(remote.uploaded, command.insertion)
        return
      }
      case "destroy":
        return this.clear()
      case "base": {
        invariant(this.insertions.length === 0, "the number of earlier insertions stands before the entries")
        this.base = command.insertions
      }
    }
  }

  private insert(command: Extract<JournalCommand, { readonly type: "entry" }>, itemBytes: number): void {
    invariant(command.id.length === entryIdBytes, "an id has 16 bytes")
    const key = keyOf(command.id)
    if (this.byId.has(key)) return
    const entry = new Entry({
      // Checked in the line above.
      id: command.id as EntryId,
      event: command.event,
      primaryKey: command.primaryKey,
      payload: command.payload
    }, { disableChecks: true })
    const source = command.source === undefined ? undefined : this.remote(command.source)
    this.byId.set(key, entry)
    this.insertions.push({ entry, source })
    this.entries.push(entry)
    if (this.latest === undefined || EntryIdOrder(entry.id, this.latest) > 0) this.latest = entry.id
    else this.isOrdered = false
    this.bytes += itemBytes
  }

  private remote(id: Bytes): Remote {
    const key = keyOf(id)
    const remote = this.remotes.get(key) ?? { id, next: 0, uploaded: 0 }
    this.remotes.set(key, remote)
    return remote
  }

  private clear(): void {
    this.base += this.insertions.length
    this.insertions = []
    this.entries = []
    this.isOrdered = true
    this.latest = undefined
    this.byId.clear()
    this.remotes.clear()
    this.bytes = 0
  }

  readonly capture = (): ReadonlyArray<JournalCommand> => {
    const commands: Array<JournalCommand> = [{ type: "base", insertions: this.base }]
    for (const { entry: { event, id, payload, primaryKey }, source } of this.insertions) {
      commands.push({ type: "entry", id, source: source?.id, event, primaryKey, payload })
    }
    for (const { id: remoteId, next, uploaded } of this.remotes.values()) {
      commands.push({ type: "next", remoteId, next }, { type: "uploaded", remoteId, insertion: uploaded })
    }
    return commands
  }
}

/** Goes on from `next` as long as the sequences do: what was not seen is not passed over. */
const nextBehind = (next: number, sequences: ReadonlyArray<number>): number => {
  for (const sequence of sequences.toSorted((a, b) => a - b)) {
    if (sequence > next) break
    if (sequence === next) next++
  }
  return next
}

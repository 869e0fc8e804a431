/**
 * Rebuilds a state from the records of its log, in one pass, by the rules of `StateRecordFormat`.
 *
 * What is kept in front of the first complete snapshot is the rest of segments that were truncated away in part: it is
 * read over. The first complete snapshot gives the state, and whatever comes behind its begin is applied to it, later
 * snapshots read over: they say what is known already. So nothing is applied twice, and a snapshot that never came to
 * its end changes nothing.
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { FormatIssue as Issue } from "@tidemark/core/BinaryFormat"
import type { Lsn } from "@tidemark/core/Scalars"
import * as Result from "effect/Result"
import type { LogRecord } from "../AppendLog.ts"
import { SnapshotMissing, StateRecordInvalid, WrongStateKind } from "../LogStateErrors.ts"
import * as StateRecordFormat from "../StateRecordFormat.ts"
import type { LoggedState, StateDefinition } from "./loggedState.ts"

interface OpenSnapshot<State> {
  readonly begin: Lsn
  itemsRecords: number
  /** Built up while there is no state yet, and what has to be applied to it when it is complete. */
  readonly building: { readonly state: State; readonly commands: Array<Uint8Array> } | undefined
}

type Refusal = WrongStateKind | StateRecordInvalid

/** @internal */
export class StateReplay<State extends LoggedState<Command>, Command> {
  /** The state after the records so far; `undefined` until a snapshot was complete. */
  state: State | undefined
  /** The newest complete snapshot. */
  lastSnapshot: { readonly start: Lsn; readonly end: Lsn } | undefined
  private readonly log: string
  private readonly definition: StateDefinition<State, Command>
  private snapshot: OpenSnapshot<State> | undefined
  private batch: Array<Uint8Array> | undefined
  private records = 0

  constructor(log: string, definition: StateDefinition<State, Command>) {
    this.log = log
    this.definition = definition
  }

  /** Takes the next record of the log, and answers what is wrong with it. */
  take(record: LogRecord): Refusal | undefined {
    this.records++
    const decoded = StateRecordFormat.decode(record.payload)
    if (Result.isFailure(decoded)) {
      return this.records === 1
        ? new WrongStateKind({ log: this.log, found: undefined, expected: this.definition.kind })
        : this.invalid(record.start, decoded.failure)
    }
    const issue = this.step(decoded.success, record)
    if (issue === undefined || issue instanceof WrongStateKind) return issue
    return this.invalid(record.start, issue)
  }

  /** What is wrong with the log as a whole, once all of its records were taken. */
  finish(firstKept: Lsn): SnapshotMissing | undefined {
    return this.state === undefined && this.records > 0
      ? new SnapshotMissing({ log: this.log, firstKept })
      : undefined
  }

  private invalid(lsn: Lsn, issue: FormatIssue): StateRecordInvalid {
    return new StateRecordInvalid({ log: this.log, lsn, issue })
  }

  private step(
    record: StateRecordFormat.StateRecord,
    { end, start }: LogRecord
  ): FormatIssue | WrongStateKind | undefined {
    switch (record.type) {
      case "begin":
        return this.begin(record.kind, start)
      case "items":
        return this.items(record.items)
      case "end":
        return this.end(record.itemsRecords, end)
      case "commands":
        return this.commands(record)
    }
  }

  private begin(kind: string, begin: Lsn): WrongStateKind | undefined {
    if (kind !== this.definition.kind) {
      return new WrongStateKind({ log: this.log, found: kind, expected: this.definition.kind })
    }
    // A snapshot that is still open, and a batch, were left behind by a crash.
    this.batch = undefined
    const building = this.state === undefined ? { state: this.definition.empty(), commands: [] } : undefined
    this.snapshot = { begin, itemsRecords: 0, building }
    return undefined
  }

  private items(items: ReadonlyArray<Uint8Array>): FormatIssue | undefined {
    const { snapshot } = this
    if (snapshot === undefined) return this.state === undefined ? undefined : outOfPlace("items", "a snapshot's begin")
    snapshot.itemsRecords++
    return snapshot.building === undefined ? undefined : this.apply(snapshot.building.state, items)
  }

  private end(itemsRecords: number, end: Lsn): FormatIssue | undefined {
    const { snapshot } = this
    if (snapshot === undefined) return this.state === undefined ? undefined : outOfPlace("end", "a snapshot's begin")
    if (snapshot.itemsRecords !== itemsRecords) {
      return new Issue({
        format: "state record",
        code: "ItemsMissing",
        field: "number of items records",
        offset: 4,
        found: `${snapshot.itemsRecords}`,
        expected: `${itemsRecords}`
      })
    }
    this.snapshot = undefined
    this.lastSnapshot = { start: snapshot.begin, end }
    const { building } = snapshot
    if (building === undefined) return undefined
    this.state = building.state
    return this.apply(building.state, building.commands)
  }

  private commands(
    record: Extract<StateRecordFormat.StateRecord, { readonly type: "commands" }>
  ): FormatIssue | undefined {
    if (record.isFirst) this.batch = []
    const { batch } = this
    if (batch === undefined) return this.state === undefined ? undefined : outOfPlace("commands", "a first record")
    for (const item of record.items) batch.push(item)
    if (!record.isLast) return undefined
    this.batch = undefined
    if (this.state !== undefined) return this.apply(this.state, batch)
    const commands = this.snapshot?.building?.commands
    if (commands !== undefined) { for (const item of batch) commands.push(item) }
    return undefined
  }

  private apply(state: State, items: ReadonlyArray<Uint8Array>): FormatIssue | undefined {
    for (const item of items) {
      const command = this.definition.decode(item)
      if (Result.isFailure(command)) return command.failure
      state.apply(command.success, item.length)
    }
    return undefined
  }
}

const outOfPlace = (found: string, expected: string) =>
  new Issue({
    format: "state record",
    code: "OutOfPlace",
    field: "tag",
    offset: 0,
    found: `${found} without ${expected}`,
    expected: `${expected} before it`
  })

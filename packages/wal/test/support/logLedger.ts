/**
 * What a workload has asked an append log to do, and what a log may hold after any crash because of it.
 *
 * The judge knows nothing of batches, segments or files: only what was handed over, where it was said to lie, what was
 * acknowledged, and how far it was allowed to forget.
 */
import { assert } from "@effect/vitest"
import type { Lsn } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import type { Appended, AppendUntil, LogRecord } from "../../src/AppendLog.ts"
import { type Log, numberOf, readAll } from "./appendLog.ts"

/** A record that was to be handed over. Its payload begins with its number, which no other has. */
interface LedgerRecord {
  readonly payload: Uint8Array
  /** Records of one hand-over have the same. */
  readonly handOver: number
  /** Where it lies, once the log has said so. */
  at: Appended | undefined
}

/** What a test says about a moment: everything before `durable` is acknowledged, `truncated` was begun or done. */
export type LogMark =
  | { readonly kind: "durable"; readonly lsn: Lsn }
  | { readonly kind: "truncating" | "truncated"; readonly lsn: Lsn }

export interface Allowed {
  /** Everything before it was acknowledged as durable. */
  readonly durable: number
  /** No segment may be gone that holds anything at or behind it. */
  readonly mayTruncate: number
  /** The log begins here at the earliest. */
  readonly mustTruncate: number
}

export const allowedBy = (marks: ReadonlyArray<LogMark>): Allowed => {
  let durable = 0
  let mayTruncate = 0
  let mustTruncate = 0
  for (const { kind, lsn } of marks) {
    if (kind === "durable") durable = Math.max(durable, lsn)
    else if (kind === "truncating") mayTruncate = Math.max(mayTruncate, lsn)
    else mustTruncate = Math.max(mustTruncate, lsn)
  }
  return { durable, mayTruncate, mustTruncate }
}

export interface Found {
  readonly firstKept: number
  readonly end: number
  readonly droppedBytes: number
  readonly records: ReadonlyArray<LogRecord>
}

/** What an open log holds. */
export const contentsOf = (log: Log): Effect.Effect<Found> =>
  Effect.map(Effect.orDie(readAll(log)), (records) => ({
    firstKept: log.watermarks().firstKept,
    end: log.watermarks().durable,
    droppedBytes: log.recovery.droppedBytes,
    records
  }))

export class LogLedger {
  mark: (mark: LogMark) => void = () => {}
  private readonly records = new Map<number, LedgerRecord>()
  private handOvers = 0

  /** One that goes on by itself, with what a log holds. */
  static continuing(records: ReadonlyArray<LogRecord>): LogLedger {
    const ledger = new LogLedger()
    ledger.intend(records.map(({ payload }) => payload)).add(records, "appended")
    return ledger
  }

  /** Notes what is going to be handed over together; `add` notes where it lies and, if promised, that it is durable. */
  intend(payloads: ReadonlyArray<Uint8Array>) {
    const handOver = this.handOvers++
    const records = payloads.map((payload): LedgerRecord => ({ payload, handOver, at: undefined }))
    for (const record of records) {
      const number = numberOf(record.payload)
      assert.isFalse(this.records.has(number), "a number is used once")
      this.records.set(number, record)
    }
    return {
      add: (appended: ReadonlyArray<Appended>, until: AppendUntil): void => {
        assert.strictEqual(appended.length, records.length)
        for (const [index, record] of records.entries()) {
          record.at = appended[index]
          if (until === "durable" && record.at !== undefined) this.mark({ kind: "durable", lsn: record.at.end })
        }
      }
    }
  }

  /** Asserts that a log may hold this. */
  check(found: Found, { durable, mayTruncate, mustTruncate }: Allowed, label: string): void {
    assert.isTrue(found.end >= durable, `${label}: ends at ${found.end}, acknowledged up to ${durable}`)
    assert.isTrue(found.firstKept >= mustTruncate, `${label}: begins at ${found.firstKept}, cut at ${mustTruncate}`)
    const there = new Map<number, LogRecord>()
    for (const record of found.records) {
      const number = numberOf(record.payload)
      const known = this.records.get(number)
      assert.deepStrictEqual(record.payload, known?.payload, `${label}: record ${number} as it was handed over`)
      assert.isFalse(there.has(number), `${label}: record ${number} once`)
      if (known?.at !== undefined) {
        assert.deepStrictEqual([record.start, record.end], [known.at.start, known.at.end], `${label}: record ${number}`)
      }
      there.set(number, record)
    }
    const partsOf = new Map<number, { found: number; all: number }>()
    for (const [number, { at, handOver }] of this.records) {
      const parts = partsOf.get(handOver) ?? { found: 0, all: 0 }
      partsOf.set(handOver, { found: parts.found + (there.has(number) ? 1 : 0), all: parts.all + 1 })
      if (at === undefined || at.end > found.end || there.has(number)) continue
      assert.isTrue(at.start < found.firstKept, `${label}: record ${number} at ${at.start} is missing`)
      assert.isTrue(at.start < mayTruncate, `${label}: record ${number} at ${at.start} was cut off by mistake`)
    }
    for (const { all, found } of partsOf.values()) {
      assert.isTrue(found === 0 || found === all, `${label}: ${found} of the ${all} records of a hand-over`)
    }
  }
}

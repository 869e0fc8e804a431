/**
 * What became of the transactions, as SQLite sees it: nothing lost, nothing twice, and the tables as they were recorded.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import { integrityCheck, type Sqlite, withSqlite } from "../database.ts"
import type { OperationFailed } from "../ExitCode.ts"
import type { RecordedTransaction } from "../replay/RecordedWal.ts"
import * as Bank from "./Bank.ts"
import type { Recording } from "./Recording.ts"

/**
 * What recovery has lost, as far as can be told when it is over: transactions that were acknowledged and are not found,
 * and those that others rest on which were found. A transaction is handed to the log only when those before it on its
 * pages are durable, so one without them was acknowledged to its writer, whether or not we have heard of it.
 *
 * @category checks
 * @since 0.1.0
 */
export const lostInRecovery = (
  transactions: ReadonlyArray<Pick<RecordedTransaction, "pages">>,
  acknowledged: ReadonlySet<number>,
  found: ReadonlySet<number>
): ReadonlySet<number> => {
  const lost = new Set([...acknowledged].filter((index) => !found.has(index)))
  const missingOnPage = new Map<number, Array<number>>()
  transactions.forEach(({ pages }, index) => {
    for (const page of pages) {
      const missing = missingOnPage.get(page)
      if (found.has(index)) {
        for (const earlier of missing ?? []) lost.add(earlier)
      } else if (missing === undefined) missingOnPage.set(page, [index])
      else missing.push(index)
    }
  })
  return lost
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Verification {
  readonly integrityCheck: string
  /** Transactions without an entry in the ledger, or whose mark is missing from an account that has it in the recording. */
  readonly lost: ReadonlySet<number>
  /** Entries in the ledger beyond the first one of each transaction. */
  readonly duplicated: number
  /** Entries in the ledger that belong to no transaction. */
  readonly unknownTokens: number
  /** Rows of the account tables that are not as they were recorded. */
  readonly differingRows: number
  /** What is missing from the sum of the counters; negative when there is too much. */
  readonly lostAdditions: number
}

/**
 * Lets SQLite look at the database that was committed, with the recording beside it.
 *
 * @category checks
 * @since 0.1.0
 */
export const verifyDatabase = (
  database: string,
  recording: Recording
): Effect.Effect<Verification, OperationFailed> =>
  withSqlite(
    database,
    Effect.fnUntraced(function*(sqlite) {
      const integrity = yield* integrityCheck(sqlite)
      if (integrity !== "ok") return unreadable(integrity, recording.sizes)
      yield* sqlite.exec(`ATTACH '${recording.finished.replaceAll("'", "''")}' AS recording`)
      const ledger = yield* readLedger(sqlite, recording.sizes)
      const marks = yield* missingMarks(sqlite, recording.sizes)
      return {
        integrityCheck: integrity,
        lost: new Set([...ledger.missing, ...marks]),
        duplicated: ledger.repeats,
        unknownTokens: ledger.unknown,
        differingRows: yield* differingRows(sqlite),
        lostAdditions: yield* lostAdditions(sqlite, recording.sizes)
      }
    })
  )

/** Nothing that is read from a damaged database says anything about transactions. */
const unreadable = (integrity: string, sizes: Bank.WorkloadSizes): Verification => ({
  integrityCheck: integrity,
  lost: new Set(Array.from({ length: sizes.recorded + sizes.additions }, (_, index) => index)),
  duplicated: 0,
  unknownTokens: 0,
  differingRows: 0,
  lostAdditions: 0
})

const readLedger = Effect.fnUntraced(function*(sqlite: Sqlite, sizes: Bank.WorkloadSizes) {
  const rows = yield* sqlite.rows(
    `SELECT token, count(*) FROM main.ledger WHERE token <> '${Bank.emptyToken}' GROUP BY token`
  )
  const missing = new Set(Array.from({ length: sizes.recorded + sizes.additions }, (_, index) => index))
  let repeats = 0
  let unknown = 0
  for (const [token, entries] of rows) {
    const index = Bank.indexOf(String(token), sizes)
    if (index === undefined) unknown += Number(entries)
    else {
      missing.delete(index)
      repeats += Number(entries) - 1
    }
  }
  return { missing, repeats, unknown }
})

const tables = Array.from({ length: Bank.accountTables }, (_, table) => `accounts_${table}`)

/** The marks that the last transaction on each account should have left there. */
const missingMarks = Effect.fnUntraced(function*(sqlite: Sqlite, sizes: Bank.WorkloadSizes) {
  const rows = yield* sqlite.rows(
    tables.map((table) =>
      `SELECT r.token FROM recording.${table} r LEFT JOIN main.${table} m USING (id) WHERE m.token IS NOT r.token`
    ).join(" UNION ")
  )
  return rows.map(([token]) => Bank.indexOf(String(token), sizes)).filter((index) => index !== undefined)
})

const numberOf = (sqlite: Sqlite, sql: string): Effect.Effect<number, OperationFailed> =>
  Effect.map(sqlite.rows(sql), ([row]) => Number(row?.[0] ?? 0))

const differingRows = Effect.fnUntraced(function*(sqlite: Sqlite) {
  let differing = 0
  for (const table of tables) {
    const beyond = (left: string, right: string) =>
      numberOf(
        sqlite,
        `SELECT count(*) FROM (SELECT * FROM ${left}.${table} EXCEPT SELECT * FROM ${right}.${table})`
      )
    differing += Math.max(yield* beyond("main", "recording"), yield* beyond("recording", "main"))
  }
  return differing
})

const lostAdditions = (sqlite: Sqlite, sizes: Bank.WorkloadSizes): Effect.Effect<number, OperationFailed> =>
  Effect.map(
    numberOf(sqlite, `SELECT sum(value - ${Bank.initialValue}) FROM main.counters`),
    (sum) => sizes.additions - sum
  )

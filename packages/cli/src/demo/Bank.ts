/**
 * The database of the demo: a bank with accounts in 8 tables, made so that every transaction rewrites rows in place.
 *
 * **Details**
 *
 * 1. Each row has a fixed width, so that an update changes only the leaf page it is on: transactions on different
 *    pages have nothing in common and may be committed side by side. Balances are in millionths, from 10^12 on, which
 *    takes six bytes for as long as the demo runs; tokens are texts of equal length.
 * 2. Each transaction has a token. A transfer leaves it in the two accounts that it touches, as SQLite records it; and
 *    whoever commits a transaction enters its token into the first free slot of the ledger, in the same transaction.
 *    Committing one twice leaves two entries: writing the same page again would hide that, a ledger does not.
 * 3. A counter is alone on its page. Who adds to it reads it first, so two that do it at once conflict.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type { DatabaseSync } from "node:sqlite"

/**
 * @category constants
 * @since 0.1.0
 */
export const accountTables = 8
const accountsPerTable = 1600
/** Where balances and counters start. */
export const initialValue = 1_000_000_000_000
export const counters = 4
/** One of so many transactions adds to a counter, on top of the recorded ones. */
export const recordedPerAddition = 20

const memo = "a line of text that makes a row about as long as rows are, so that a page holds some twenty of them; "
  + "it never changes"
/** A counter and this make a row that fills more than half a page. */
const counterPadding = 2500

/**
 * What a slot of the ledger holds before it is taken.
 *
 * @category constants
 * @since 0.1.0
 */
export const emptyToken = "------------"
const tokenDigits = 8

/**
 * The token of a transaction. Those of recorded transfers are numbered from 0, those of additions behind them.
 *
 * @category tokens
 * @since 0.1.0
 */
export const tokenOf = (index: number, recorded: number): string =>
  index < recorded
    ? `txn-${index.toString().padStart(tokenDigits, "0")}`
    : `add-${(index - recorded).toString().padStart(tokenDigits, "0")}`

/**
 * The number of the transaction that a token belongs to, or `undefined` when it belongs to none of this run.
 *
 * @category tokens
 * @since 0.1.0
 */
export const indexOf = (token: string, sizes: WorkloadSizes): number | undefined => {
  const match = /^(txn|add)-(\d{8})$/.exec(token)
  if (match === null) return undefined
  const number = Number(match[2])
  if (match[1] === "txn") return number < sizes.recorded ? number : undefined
  return number < sizes.additions ? sizes.recorded + number : undefined
}

/**
 * The counter, from 0, that an addition adds to. Scattered, so that some meet and most do not.
 *
 * @category workload
 * @since 0.1.0
 */
export const counterOf = (addition: number): number => (Math.imul(addition + 1, 0x9e3779b1) >>> 16) % counters

/**
 * How many transactions there are of each kind.
 *
 * @category models
 * @since 0.1.0
 */
export interface WorkloadSizes {
  /** Transfers that SQLite has recorded. */
  readonly recorded: number
  /** Read-modify-write transactions on the counters. */
  readonly additions: number
}

/**
 * Money that goes from one account to another one of the same table.
 *
 * @category models
 * @since 0.1.0
 */
export interface Transfer {
  readonly table: number
  readonly from: number
  readonly to: number
  readonly amount: number
}

/**
 * Draws transfers from the `Random` of the environment.
 *
 * @category workload
 * @since 0.1.0
 */
export const drawTransfers = Effect.fnUntraced(function*(howMany: number): Effect.fn.Return<Array<Transfer>> {
  const transfers: Array<Transfer> = []
  for (let index = 0; index < howMany; index++) {
    const from = yield* Random.nextIntBetween(1, accountsPerTable)
    const distance = yield* Random.nextIntBetween(1, accountsPerTable - 1)
    transfers.push({
      table: yield* Random.nextIntBetween(0, accountTables - 1),
      from,
      to: (from - 1 + distance) % accountsPerTable + 1,
      amount: yield* Random.nextIntBetween(1, 1_000_000)
    })
  }
  return transfers
})

/**
 * Makes the tables, in one transaction.
 *
 * @category sqlite
 * @since 0.1.0
 */
export const createTables = (database: DatabaseSync, ledgerSlots: number): void => {
  database.exec("BEGIN")
  for (let table = 0; table < accountTables; table++) {
    database.exec(
      `CREATE TABLE accounts_${table} (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, token TEXT NOT NULL, memo TEXT NOT NULL)`
    )
    const insert = database.prepare(`INSERT INTO accounts_${table} VALUES (?, ?, ?, ?)`)
    for (let id = 1; id <= accountsPerTable; id++) insert.run(id, initialValue, emptyToken, memo)
  }
  database.exec("CREATE TABLE ledger (slot INTEGER PRIMARY KEY, token TEXT NOT NULL)")
  const insertSlot = database.prepare("INSERT INTO ledger VALUES (?, ?)")
  for (let slot = 1; slot <= ledgerSlots; slot++) insertSlot.run(slot, emptyToken)
  database.exec("CREATE TABLE counters (id INTEGER PRIMARY KEY, value INTEGER NOT NULL, padding BLOB NOT NULL)")
  const insertCounter = database.prepare(`INSERT INTO counters VALUES (?, ?, zeroblob(${counterPadding}))`)
  for (let id = 1; id <= counters; id++) insertCounter.run(id, initialValue)
  database.exec("COMMIT")
}

/**
 * Prepares the transfers' statements and answers how to run one as a transaction; with `ledger` it also enters the token
 * there, as everybody does who commits.
 *
 * @category sqlite
 * @since 0.1.0
 */
export const prepareTransactions = (database: DatabaseSync) => {
  const updates = Array.from(
    { length: accountTables },
    (_, table) => database.prepare(`UPDATE accounts_${table} SET balance = balance + ?, token = ? WHERE id = ?`)
  )
  const enter = database.prepare("UPDATE ledger SET token = ? WHERE slot = ?")
  const add = database.prepare("UPDATE counters SET value = value + 1 WHERE id = ?")
  const begin = database.prepare("BEGIN IMMEDIATE")
  const commit = database.prepare("COMMIT")
  return {
    transfer: ({ amount, from, table, to }: Transfer, token: string, ledgerSlot?: number) => {
      begin.run()
      updates[table]?.run(-amount, token, from)
      updates[table]?.run(amount, token, to)
      if (ledgerSlot !== undefined) enter.run(token, ledgerSlot)
      commit.run()
    },
    addition: (token: string, counter: number, ledgerSlot: number) => {
      begin.run()
      add.run(counter)
      enter.run(token, ledgerSlot)
      commit.run()
    }
  }
}

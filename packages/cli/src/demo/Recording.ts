/**
 * The recording: SQLite makes the bank and runs the transfers, and its own `-wal` is what is committed later.
 *
 * @since 0.1.0
 */
import { Vfs } from "@tidemark/platform/Vfs"
import { walPath } from "@tidemark/wal/SqliteWalFormat"
import * as Effect from "effect/Effect"
import * as NodeFs from "node:fs/promises"
import { type Sqlite, withSqlite } from "../database.ts"
import { OperationFailed } from "../ExitCode.ts"
import { openRecordedWal } from "../replay/RecordedWal.ts"
import { reasonOf, sentenceOf } from "../Report.ts"
import * as Bank from "./Bank.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface Recording {
  /** The database that all transactions have been run on by SQLite: what the result is compared with. */
  readonly finished: string
  /** The database as it was before the first of them. */
  readonly base: string
  /** The WAL that SQLite has written from there to the end. */
  readonly wal: string
  readonly transfers: ReadonlyArray<Bank.Transfer>
  readonly sizes: Bank.WorkloadSizes
  /** Where the ledger and the counters stand. */
  readonly ledgerPages: ReadonlyArray<number>
  readonly counterPages: ReadonlyArray<number>
}

/** So many rows of the ledger fit on its pages at the least; a writer has one page to itself at a time. */
const slotsPerLedgerPage = 200

/**
 * Makes a recording in a directory. `onProgress` is told how many transfers are recorded.
 *
 * @category recording
 * @since 0.1.0
 */
export const makeRecording = Effect.fnUntraced(function*(
  directory: string,
  options: { readonly transactions: number; readonly writers: number },
  onProgress: (recorded: number) => void
) {
  const { transactions, writers } = options
  const sizes = { recorded: transactions, additions: Math.ceil(transactions / Bank.recordedPerAddition) }
  const finished = `${directory}/finished.db`
  const base = `${directory}/base.db`
  const wal = `${directory}/recorded.wal`
  const transfers = yield* Bank.drawTransfers(transactions)

  // Two processes use the ledger one after the other, each with its writers' half-filled pages.
  const ledgerSlots = sizes.recorded + sizes.additions + 2 * writers * slotsPerLedgerPage
  const pages = yield* withSqlite(finished, (sqlite) => createBase(sqlite, ledgerSlots))
  yield* copyFile(finished, base)
  yield* withSqlite(finished, (sqlite) =>
    Effect.andThen(
      recordTransfers(sqlite, transfers, onProgress),
      // While SQLite has it open: closing checkpoints the WAL and removes it.
      copyFile(walPath(finished), wal)
    ))
  const recording: Recording = { finished, base, wal, transfers, sizes, ...pages }
  yield* checkRecording(recording)
  return recording
})

const createBase = Effect.fnUntraced(function*(sqlite: Sqlite, ledgerSlots: number) {
  yield* sqlite.exec(
    "PRAGMA page_size = 4096; PRAGMA auto_vacuum = NONE; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF"
  )
  yield* sqlite.step((database) => Bank.createTables(database, ledgerSlots))
  yield* sqlite.exec("PRAGMA wal_checkpoint(TRUNCATE)")
  const leavesOf = (table: string) =>
    Effect.map(
      sqlite.rows(`SELECT pageno FROM dbstat WHERE name = '${table}' AND pagetype = 'leaf' ORDER BY path`),
      (rows) => rows.map(([page]) => Number(page))
    )
  return { ledgerPages: yield* leavesOf("ledger"), counterPages: yield* leavesOf("counters") }
})

/** So many transfers are run between two looks at the clock and at interruptions. */
const transfersPerStep = 500

const recordTransfers = Effect.fnUntraced(function*(
  sqlite: Sqlite,
  transfers: ReadonlyArray<Bank.Transfer>,
  onProgress: (recorded: number) => void
) {
  // The recording is made again when the machine fails; nothing of it needs a sync.
  yield* sqlite.exec("PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0")
  const { transfer } = yield* sqlite.step(Bank.prepareTransactions)
  for (let first = 0; first < transfers.length; first += transfersPerStep) {
    const chunk = transfers.slice(first, first + transfersPerStep)
    yield* sqlite.step(() =>
      chunk.forEach((one, position) => transfer(one, Bank.tokenOf(first + position, transfers.length)))
    )
    onProgress(first + chunk.length)
    yield* Effect.yieldNow
  }
})

const copyFile = (from: string, to: string): Effect.Effect<void, OperationFailed> =>
  Effect.tryPromise({
    try: () => NodeFs.copyFile(from, to),
    catch: (cause) => new OperationFailed({ path: to, sentence: `cannot copy ${from} to ${to}: ${reasonOf(cause)}` })
  })

/** What the rest rests on: one commit in the WAL per transfer, none of which touches what the demo itself writes. */
const checkRecording = Effect.fnUntraced(function*({ counterPages, ledgerPages, sizes, wal }: Recording) {
  const { transactions } = yield* openRecordedWal(wal)
  const own = new Set([...ledgerPages, ...counterPages])
  const isAsPlanned = transactions.length === sizes.recorded && counterPages.length === Bank.counters &&
    transactions.every(({ pages }) => pages.every((page) => page !== 1 && !own.has(page)))
  if (!isAsPlanned) {
    return yield* new OperationFailed({
      path: wal,
      sentence:
        `this SQLite lays out ${wal} in another way than the demo needs (${transactions.length} commits for ${sizes.recorded} transfers)`
    })
  }
}, Effect.scoped)

/**
 * What a copy of the base is needed for.
 *
 * @category recording
 * @since 0.1.0
 */
export const copyBase = (recording: Recording, to: string): Effect.Effect<void, OperationFailed, Vfs> =>
  Effect.andThen(
    copyFile(recording.base, to),
    Effect.flatMap(Vfs, (vfs) =>
      Effect.scoped(Effect.flatMap(vfs.open(to, { access: "readWrite" }), (file) => file.syncFull))).pipe(
        Effect.mapError((error) =>
          new OperationFailed({ path: to, sentence: sentenceOf(error) })
        )
      )
  )

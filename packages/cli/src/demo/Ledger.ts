/**
 * The ledger through the pager: who commits a transaction enters its token, once, in the same transaction.
 *
 * @since 0.1.0
 */
import type { Pager, ReadError, Transaction, WriteError } from "@tidemark/coordinator/Pager"
import { invariant } from "@tidemark/core/Invariant"
import { type PageNumber, toPageNumber } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import { emptyToken } from "./Bank.ts"
import * as LeafRows from "./LeafRows.ts"

/** The column of the token, behind the slot's number. */
const tokenColumn = 1

/**
 * A page of the ledger with its free slots.
 *
 * @category models
 * @since 0.1.0
 */
interface LedgerPage {
  readonly page: PageNumber
  /** Where their tokens stand: rows keep their place. */
  readonly free: Array<LeafRows.Cell>
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Ledger {
  /** Every token that was found when the ledger was opened, repeats included. */
  readonly tokens: ReadonlyArray<string>
  /** A writer's own part of the ledger: no other one writes to its pages while it does. */
  readonly makeWriter: () => LedgerWriter
}

/**
 * Enters tokens, one transaction after another.
 *
 * @category models
 * @since 0.1.0
 */
export interface LedgerWriter {
  /** Enters a token in a transaction. Running it again, in a retry, takes the same slot. */
  readonly enter: (transaction: Transaction, token: string) => Effect.Effect<void, ReadError | WriteError>
  /** The transaction is durable: the slot is taken for good. */
  readonly keep: () => void
}

/**
 * Reads the whole ledger.
 *
 * @category reading
 * @since 0.1.0
 */
export const open = Effect.fnUntraced(function*(pager: Pager["Service"], pages: ReadonlyArray<number>) {
  const tokens: Array<string> = []
  const pool: Array<LedgerPage> = []
  yield* pager.withTransaction(Effect.fnUntraced(function*(transaction) {
    for (const page of pages.map(toPageNumber)) {
      const bytes = yield* transaction.read(page)
      const free: Array<LeafRows.Cell> = []
      for (const cell of LeafRows.cellsOf(bytes, tokenColumn)) {
        const token = LeafRows.readText(bytes, cell)
        if (token === emptyToken) free.push(cell)
        else tokens.push(token)
      }
      if (free.length > 0) pool.push({ page, free })
    }
  }))
  const ledger: Ledger = { tokens, makeWriter: () => makeWriter(pool) }
  return ledger
})

const makeWriter = (pool: Array<LedgerPage>): LedgerWriter => {
  let own: LedgerPage | undefined
  return {
    enter: (transaction, token) =>
      Effect.suspend(() => {
        if (own === undefined || own.free.length === 0) own = pool.pop()
        const cell = own?.free.at(-1)
        invariant(own !== undefined && cell !== undefined, "the ledger has a slot for each transaction")
        const { page } = own
        return Effect.flatMap(transaction.read(page), (bytes) => {
          invariant(LeafRows.readText(bytes, cell) === emptyToken, "a free slot is not taken by somebody else")
          LeafRows.writeText(bytes, cell, token)
          return transaction.write(page, bytes)
        })
      }),
    keep: () => {
      own?.free.pop()
    }
  }
}

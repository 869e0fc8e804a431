/**
 * Writes what a recorded transaction wrote into a transaction of the pager.
 *
 * @since 0.1.0
 */
import type { Transaction, WriteError } from "@tidemark/coordinator/Pager"
import type { PageOutOfRange } from "@tidemark/coordinator/PagerErrors"
import { toPageNumber } from "@tidemark/core/Scalars"
import { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import type { RecordedTransaction, RecordedWal } from "./RecordedWal.ts"

/**
 * Writes the pages, and makes the database as large or small as the recorded transaction left it.
 *
 * **Details**
 *
 * `buffer` is one page and is used for each page in turn: the pager copies what is written.
 *
 * @category writing
 * @since 0.1.0
 */
export const writeRecorded = Effect.fnUntraced(function*(
  transaction: Transaction,
  wal: RecordedWal,
  { databasePages, frames, pages }: RecordedTransaction,
  sizeBefore: number,
  buffer: Uint8Array
): Effect.fn.Return<void, WriteError | PageOutOfRange | VfsError> {
  for (let position = 0; position < pages.length; position++) {
    const page = pages[position]
    const frame = frames[position]
    // A page that lies behind the end after the commit was cut off again by it.
    if (page === undefined || frame === undefined || page > databasePages) continue
    yield* readInto(wal, frame, buffer)
    yield* transaction.write(page, buffer)
  }
  if (databasePages < sizeBefore) yield* transaction.truncateTo(databasePages)
  else if (databasePages > sizeBefore && transaction.databasePages() < databasePages) {
    // SQLite counts a page that it allocated and did not need in the end, and does not write it.
    yield* transaction.write(toPageNumber(databasePages), buffer.fill(0))
  }
})

/** Synchronously: the file is in the page cache, and a hop to another thread takes longer than the read. */
const readInto = (wal: RecordedWal, frame: number, buffer: Uint8Array): Effect.Effect<void, VfsError> =>
  Effect.suspend(() => {
    try {
      wal.readPage(frame, buffer)
      return Effect.void
    } catch (error) {
      if (error instanceof VfsError) return Effect.fail(error)
      throw error
    }
  })

/**
 * The transactions in a `-wal` that SQLite has written: which pages each of them changed, and where their images stand.
 *
 * **Details**
 *
 * A transaction is the run of frames that ends with a commit frame; when it holds a page twice the last image counts.
 * Images stay in the file: what is kept in memory is some tens of bytes per frame.
 *
 * @since 0.1.0
 */
import { type PageNumber, type PageSize, toPageNumber } from "@tidemark/core/Scalars"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import {
  chainFromHeader,
  decodeHeader,
  frameBytes,
  frameHeaderBytes,
  frameOffset,
  readFrameHeader,
  walHeaderBytes
} from "@tidemark/wal/SqliteWalFormat"
import { forEachChunk, FrameScanner, type WalScan } from "@tidemark/wal/WalScan"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { OperationFailed } from "../ExitCode.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface RecordedTransaction {
  /** The pages that it wrote, each once. */
  readonly pages: ReadonlyArray<PageNumber>
  /** The frame that holds the image of each of them. */
  readonly frames: ReadonlyArray<number>
  /** Database size in pages after it. */
  readonly databasePages: number
}

/**
 * @category models
 * @since 0.1.0
 */
export interface RecordedWal {
  readonly path: string
  readonly pageSize: PageSize
  readonly transactions: ReadonlyArray<RecordedTransaction>
  /** Bytes behind the last commit that belong to no commit; they are not read. */
  readonly tornTailBytes: number
  /** Reads the page that a frame holds into a buffer of one page, now; throws a `VfsError`. */
  readonly readPage: (frame: number, page: Uint8Array) => void
}

/**
 * Opens a WAL and lists its transactions. A file without a readable header, and one with damage in front of commits, is
 * refused.
 *
 * @category reading
 * @since 0.1.0
 */
export const openRecordedWal = Effect.fnUntraced(function*(
  path: string
): Effect.fn.Return<RecordedWal, OperationFailed | VfsError, Vfs | Scope.Scope> {
  const vfs = yield* Vfs
  const file = yield* vfs.open(path, { access: "read" })
  const bytes = yield* file.size
  const headerBytes = new Uint8Array(Math.min(walHeaderBytes, bytes))
  yield* file.read(headerBytes, 0)
  const decoded = decodeHeader(headerBytes)
  if (Result.isFailure(decoded)) {
    return yield* new OperationFailed({ path, sentence: `${path} is no SQLite WAL (${decoded.failure.message})` })
  }
  const { pageSize } = decoded.success
  const scanner = new FrameScanner(decoded.success, chainFromHeader(headerBytes))
  // By slot; 0 in every frame but the last one of a commit.
  const sizes: Array<number> = []
  yield* forEachChunk(file, bytes, pageSize, (chunk) => {
    scanner.take(chunk)
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    for (let offset = 0; offset + frameBytes(pageSize) <= chunk.length; offset += frameBytes(pageSize)) {
      sizes.push(readFrameHeader(view, offset).databasePages)
    }
    return true
  })
  const scan = scanner.result()
  if (scan.damage !== undefined) {
    const { frame, lostCommits, offset } = scan.damage
    return yield* new OperationFailed({
      path,
      sentence:
        `frame ${frame} of ${path} at byte ${offset} is damaged and at least ${lostCommits} commits stand behind it; nothing was replayed`
    })
  }
  return {
    path,
    pageSize,
    transactions: groupByCommit(scan, sizes),
    tornTailBytes: scan.tornTailBytes,
    readPage: (frame, page) => {
      file.readSync(page, frameOffset(frame, pageSize) + frameHeaderBytes)
    }
  }
})

const groupByCommit = (scan: WalScan, sizes: ReadonlyArray<number>): ReadonlyArray<RecordedTransaction> => {
  const transactions: Array<RecordedTransaction> = []
  let frameOfPage = new Map<PageNumber, number>()
  scan.framePages.forEach((page, frame) => {
    frameOfPage.set(toPageNumber(page), frame)
    const databasePages = sizes[frame] ?? 0
    if (databasePages === 0) return
    transactions.push({ pages: [...frameOfPage.keys()], frames: [...frameOfPage.values()], databasePages })
    frameOfPage = new Map()
  })
  return transactions
}

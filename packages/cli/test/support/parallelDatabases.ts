/**
 * Databases with a parallel log that is not checkpointed, as a crash would leave them. What is committed are transactions
 * that SQLite has recorded, so that SQLite can read what recovery makes of it.
 */
import { TxnEpoch, TxnId } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { certificatesPath } from "@tidemark/wal/CertificateFormat"
import * as ParallelWal from "@tidemark/wal/ParallelWal"
import { segmentPath } from "@tidemark/wal/SegmentFormat"
import { Effect } from "effect"
import { copyFileSync, rmSync } from "node:fs"
import { openRecordedWal } from "../../src/replay/RecordedWal.ts"
import { makeDatabase } from "./databases.ts"

export interface MadeParallel {
  readonly path: string
  readonly certificates: string
  /** One for each commit, in their order. */
  readonly segments: ReadonlyArray<string>
  readonly commits: number
  readonly pageSize: number
}

/** Makes `name.db`, whose parallel log has one commit, in a segment of its own, for each of `commits` rows. */
export const makeParallel = (directory: string, name: string, commits = 5): Effect.Effect<MadeParallel> =>
  Effect.gen(function*() {
    const path = `${directory}/${name}.db`
    const recorded = makeDatabase(directory, `${name}-recorded`, { commits })
    copyFileSync(recorded.base, path)
    const { pageSize, readPage, transactions } = yield* openRecordedWal(recorded.wal)
    const segments: Array<string> = []
    yield* Effect.gen(function*() {
      const log = yield* ParallelWal.ParallelWal
      const writer = yield* log.writer
      for (const [index, { databasePages, frames, pages }] of transactions.entries()) {
        const images = frames.map((frame) => {
          const image = new Uint8Array(pageSize)
          readPage(frame, image)
          return image
        })
        const { epoch } = yield* writer.submitBatch({
          token: { id: TxnId.make(BigInt(index + 1)), epoch: TxnEpoch.make(0) },
          records: pages.map((page, record) => ({ page, after: images[record] ?? new Uint8Array() })),
          databasePages
        })
        yield* log.advanceAndFlush()
        segments.push(segmentPath(path, epoch))
      }
    }).pipe(
      Effect.scoped,
      Effect.provide(ParallelWal.layer({
        database: path,
        ticker: false,
        autoCheckpointFrames: 0,
        checkpointOnClose: false
      }))
    )
    // Whoever opens the database makes it, and a refusal must not.
    rmSync(`${path}-shm`)
    return { path, certificates: certificatesPath(path), segments, commits, pageSize }
  }).pipe(Effect.scoped, Effect.provide(NodeVfs.layer), Effect.orDie)

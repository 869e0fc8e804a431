/**
 * Writes a database through a parallel log, with checkpoints all the time, until its standard input ends.
 */
import { toPageNumber, TxnEpoch, TxnId } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as ParallelWal from "@tidemark/wal/ParallelWal"
import { Effect, Layer } from "effect"

const [, , database = ""] = process.argv
const untilInputEnds = Effect.callback<void>((resume) => {
  process.stdin.on("end", () => resume(Effect.void)).resume()
})

const write = Effect.gen(function*() {
  const log = yield* ParallelWal.ParallelWal
  const writer = yield* log.writer
  const after = new Uint8Array(log.pageSize).fill(0x77)
  for (let id = 1n;; id++) {
    const { epoch } = yield* writer.submitBatch({
      token: { id: TxnId.make(id), epoch: TxnEpoch.make(0) },
      records: [{ page: toPageNumber(2), after }]
    })
    yield* log.awaitDurable(epoch, "10 seconds")
    if (id === 20n) process.stdout.write("open\n")
  }
})

await Effect.runPromise(
  Effect.raceFirst(untilInputEnds, Effect.scoped(write)).pipe(
    Effect.provide(
      ParallelWal.layer({ database, autoCheckpointFrames: 3, epochInterval: "2 millis" }).pipe(
        Layer.provide(NodeVfs.layer)
      )
    )
  )
)

/**
 * Writes a database through a native log, with checkpoints all the time, until its standard input ends.
 */
import * as NativeCoordinator from "@tidemark/coordinator/NativeCoordinator"
import * as Pager from "@tidemark/coordinator/Pager"
import { toPageNumber } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as NativeLog from "@tidemark/wal/NativeLog"
import { Effect, Layer } from "effect"

const [, , database = ""] = process.argv
const untilInputEnds = Effect.callback<void>((resume) => {
  process.stdin.on("end", () => resume(Effect.void)).resume()
})

const write = Effect.gen(function*() {
  const pager = yield* Pager.Pager
  const image = new Uint8Array(pager.pageSize).fill(0x77)
  const writer = Effect.fnUntraced(function*(page: number) {
    for (let commit = 1;; commit++) {
      yield* pager.withTransaction((transaction) => transaction.write(toPageNumber(page), image))
      if (page === 2 && commit === 20) process.stdout.write("open\n")
    }
  })
  yield* Effect.all([2, 3, 4, 5].map(writer), { concurrency: "unbounded" })
})

await Effect.runPromise(
  Effect.raceFirst(untilInputEnds, write).pipe(
    Effect.provide(
      Pager.layerNative.pipe(
        Layer.provideMerge(NativeCoordinator.layer),
        Layer.provideMerge(NativeLog.layer({ database, autoCheckpointFrames: 3 })),
        Layer.provide(NodeVfs.layer)
      )
    )
  )
)

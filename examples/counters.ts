/**
 * Many fibers commit page transactions to one SQLite database, durably; conflicts are run again.
 *
 * Run it with `node examples/counters.ts [DATABASE]`, then look: `sqlite3 DATABASE "PRAGMA page_count"`.
 */
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import * as Pager from "@tidemark/coordinator/Pager"
import { toPageNumber } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import { Effect, Layer } from "effect"

const counter = toPageNumber(2)

/** Adds one to the counter in page 2, from as many fibers as it is told, and answers what it has come to. */
export const countTo = Effect.fnUntraced(function*(fibers: number) {
  const pager = yield* Pager.Pager
  const addOne = pager.withTransaction(Effect.fnUntraced(function*(tx) {
    const page = yield* tx.read(counter)
    const view = new DataView(page.buffer)
    view.setUint32(0, view.getUint32(0) + 1)
    yield* tx.write(counter, page)
  }))
  yield* Effect.all(Array.from({ length: fibers }, () => addOne), { concurrency: "unbounded", discard: true })
  const page = yield* pager.withTransaction((tx) => tx.read(counter))
  return new DataView(page.buffer).getUint32(0)
})

/** The whole engine over a platform that is still to be provided: `NodeVfs.layer`, or `MemoryVfs.layer` in tests. */
export const engine = (database: string) =>
  Pager.layer.pipe(
    Layer.provideMerge(CompatCoordinator.layer),
    Layer.provideMerge(SqliteWal.layer({ database, create: {} }))
  )

if (import.meta.main) {
  const layer = engine(process.argv[2] ?? "counters.db").pipe(Layer.provide(NodeVfs.layer))
  const total = await Effect.runPromise(countTo(64).pipe(Effect.provide(layer)))
  process.stdout.write(`the counter stands at ${total}\n`)
}

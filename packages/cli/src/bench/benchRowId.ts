/**
 * `bench rowid`: each writer is a connection that takes row ids of one table from its local range, as fast as it can. No
 * byte is written: the ids of a table are in no file.
 *
 * A single id takes less time than looking at a clock. So a writer takes a run of them, lets the others go on, and its
 * time is divided by the ids: latencies are those of an id in the mean of its run.
 *
 * @since 0.1.0
 */
import * as RowIdAllocator from "@tidemark/coordinator/RowIdAllocator"
import * as RowIdCache from "@tidemark/coordinator/RowIdCache"
import { RowId, SchemaEpoch, TableId } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import type { Bench } from "./runBench.ts"

const idsInRun = 1000
const schemaEpoch = SchemaEpoch.make(0n)
const table = TableId.make(2)

/**
 * @category benches
 * @since 0.1.0
 */
export const benchRowId: Bench = {
  name: "rowid",
  run: (_directory, writers, measure) =>
    Effect.gen(function*() {
      const allocator = yield* RowIdAllocator.RowIdAllocator
      yield* allocator.initialize({ schemaEpoch, table, mode: "normal", maxCommitted: RowId.make(0n) })
      const connections = yield* Effect.forEach(Array.from({ length: writers }), () => RowIdCache.make())
      const runs = connections.map((cache) => {
        const rowIds = cache.table(table)
        return Effect.gen(function*() {
          for (let taken = 0; taken < idsInRun; taken++) {
            if (rowIds.nextUnsafe(schemaEpoch) === undefined) yield* rowIds.next(schemaEpoch)
          }
          yield* Effect.yieldNow
        })
      })
      const row = yield* measure((writer) => runs[writer] ?? Effect.void)
      return {
        ...row,
        commits: row.commits * idsInRun,
        commitsPerSecond: row.commitsPerSecond * idsInRun,
        p50Micros: row.p50Micros / idsInRun,
        p99Micros: row.p99Micros / idsInRun
      }
    }).pipe(Effect.scoped, Effect.provide(RowIdAllocator.layer, { local: true }))
}

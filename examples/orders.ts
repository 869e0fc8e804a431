/**
 * Row ids and the shared header: several connections insert rows under ids of their own ranges, and whoever maps the
 * header of the database sees how far it is committed, without a lock and without opening the database.
 *
 * Run it with `node examples/orders.ts [DATABASE]`, more than once: no id comes twice. It needs Linux, and native access
 * (koffi) for the memory that processes share.
 */
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import * as Pager from "@tidemark/coordinator/Pager"
import * as RowIdAllocator from "@tidemark/coordinator/RowIdAllocator"
import * as RowIdCache from "@tidemark/coordinator/RowIdCache"
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import { defaultPageSize, RowId, SchemaEpoch, TableId, toPageNumber } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { SharedMemory } from "@tidemark/platform/SharedMemory"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import { Effect, Layer } from "effect"

const orders = TableId.make(2)
/** That of the coordinator's snapshots: a program with tables changes it when it changes them. */
const schemaEpoch = SchemaEpoch.make(0n)
const connections = 4

/**
 * Each connection writes the ids of its rows into a page of its own: how many, then the ids, eight bytes
 * each; there is room for 511.
 */
const pageOf = (connection: number) => toPageNumber(2 + connection)

const rowsIn = (page: Uint8Array): ReadonlyArray<RowId> => {
  const view = new DataView(page.buffer, page.byteOffset)
  return Array.from({ length: view.getUint32(0) }, (_, row) => RowId.make(view.getBigInt64(8 + 8 * row)))
}

/** All rows there are, of one snapshot. */
export const allRows = Effect.gen(function*() {
  const pager = yield* Pager.Pager
  return yield* pager.withTransaction((tx) =>
    Effect.map(
      Effect.forEach(Array.from({ length: connections }, (_, connection) => connection), (connection) =>
        Effect.map(tx.read(pageOf(connection)), rowsIn)),
      (rows) =>
        rows.flat()
    )
  )
})

/** Inserts so many rows at each connection, all of them at the same time, and answers all that there are. */
export const insert = Effect.fnUntraced(function*(rows: number) {
  const pager = yield* Pager.Pager
  const owner = yield* RowIdAllocator.RowIdOwner
  // Row ids are in no file: after every start they go on above the largest row.
  const maxCommitted = (yield* allRows).reduce((most, id) => id > most ? id : most, RowId.make(0n))
  yield* owner.initializeMissing({ schemaEpoch, table: orders, mode: "normal", maxCommitted })

  const connection = (number: number) =>
    Effect.scoped(Effect.gen(function*() {
      const ids = (yield* RowIdCache.make({ rangeSize: 16 })).table(orders)
      for (let row = 0; row < rows; row++) {
        const id = yield* ids.next(schemaEpoch)
        yield* pager.withTransaction(Effect.fnUntraced(function*(tx) {
          const page = yield* tx.read(pageOf(number))
          const view = new DataView(page.buffer)
          const count = view.getUint32(0)
          view.setUint32(0, count + 1)
          view.setBigInt64(8 + 8 * count, id)
          yield* tx.write(pageOf(number), page)
        }))
      }
    }))
  yield* Effect.forEach(Array.from({ length: connections }, (_, number) => number), connection, {
    concurrency: "unbounded",
    discard: true
  })
  return yield* allRows
})

/** How far the database is committed, as every process sees it that maps the header. */
export const committed = Effect.gen(function*() {
  const header = yield* SharedHeader.SharedHeader
  return (yield* header.snapshot).commitSeq
})

/** The header of a database, as the one that publishes and those that read open it. */
export const header = (database: string) => SharedHeader.layer({ database, pageSize: defaultPageSize })

/** The engine that commits: over a platform, and a header to publish in. */
export const engine = (database: string) =>
  Pager.layer.pipe(
    Layer.provideMerge(CompatCoordinator.layerShared),
    Layer.provideMerge(SqliteWal.layer({ database, create: { pageSize: defaultPageSize } })),
    Layer.provideMerge(RowIdAllocator.layer)
  )

if (import.meta.main) {
  const database = process.argv[2] ?? "orders.db"
  const machine = Layer.merge(NodeVfs.layer, SharedMemory.layerFile)
  const layer = Layer.provideMerge(engine(database), Layer.provideMerge(header(database), machine))
  const program = Effect.gen(function*() {
    const rows = yield* insert(8)
    // A layer of its own: what another process does.
    const seen = yield* committed.pipe(Effect.provide(header(database), { local: true }))
    return { rows: rows.length, distinct: new Set(rows).size, seen }
  })
  const { distinct, rows, seen } = await Effect.runPromise(program.pipe(Effect.provide(layer)))
  process.stdout.write(`${rows} rows with ${distinct} ids; the header says that commit ${seen} is durable\n`)
}

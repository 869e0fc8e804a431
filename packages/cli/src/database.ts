/**
 * The two sides of a database: SQLite itself, as it is built into Node, and Tidemark's layers.
 *
 * @since 0.1.0
 */
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import * as CoordinatorMetrics from "@tidemark/coordinator/CoordinatorMetrics"
import * as Pager from "@tidemark/coordinator/Pager"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as LogMetrics from "@tidemark/wal/LogMetrics"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import type { DatabaseSync, SQLOutputValue } from "node:sqlite"
import { OperationFailed } from "./ExitCode.ts"
import { reasonOf } from "./Report.ts"

/**
 * The whole engine over one database of this machine.
 *
 * @category layers
 * @since 0.1.0
 */
export const engine = (database: string) =>
  Pager.layer.pipe(
    Layer.provideMerge(CompatCoordinator.layer),
    Layer.provideMerge(SqliteWal.layer({ database })),
    Layer.provideMerge(NodeVfs.layer)
  )

/**
 * What the engine has counted since the process began.
 *
 * @category models
 * @since 0.1.0
 */
export interface EngineCounts {
  readonly syncs: number
  readonly conflicts: number
  readonly retries: number
}

/**
 * What a counter stands at, whichever attributes it was counted with.
 *
 * @category metrics
 * @since 0.1.0
 */
export const counterOf = (metric: { readonly id: string }): Effect.Effect<number> =>
  Effect.map(Metric.snapshot, (metrics) => {
    let sum = 0
    for (const { id, state, type } of metrics) if (type === "Counter" && id === metric.id) sum += Number(state.count)
    return sum
  })

/**
 * Reads the metrics of the engine.
 *
 * @category metrics
 * @since 0.1.0
 */
export const engineCounts: Effect.Effect<EngineCounts> = Effect.all({
  syncs: counterOf(LogMetrics.syncs),
  conflicts: counterOf(CoordinatorMetrics.conflicts),
  retries: counterOf(CoordinatorMetrics.retries)
})

/** SQLite's own failures, and those of the files under it, as the failure of the command. */
const failed = (path: string) => (cause: unknown) =>
  new OperationFailed({ path, sentence: `SQLite failed on ${path}: ${reasonOf(cause)}` })

/**
 * Opens a database with SQLite, for `use`, and closes it.
 *
 * @category sqlite
 * @since 0.1.0
 */
export const withSqlite = <A, E, R>(
  path: string,
  use: (sqlite: Sqlite) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | OperationFailed, R> =>
  Effect.acquireUseRelease(
    Effect.flatMap(
      // Only here, so that the commands that do not need SQLite start without it.
      Effect.promise(() => import("node:sqlite")),
      ({ DatabaseSync }) => Effect.try({ try: () => new DatabaseSync(path), catch: failed(path) })
    ),
    (database) => use(makeSqlite(path, database)),
    (database) =>
      // What cannot be closed was failing before: the reason is on its way already.
      Effect.ignore(Effect.try({ try: () => database.close(), catch: failed(path) }))
  )

/**
 * A database that SQLite has open. What goes wrong fails with {@link OperationFailed}.
 *
 * @category sqlite
 * @since 0.1.0
 */
export interface Sqlite {
  readonly path: string
  /** Runs statements that have no answer. */
  readonly exec: (sql: string) => Effect.Effect<void, OperationFailed>
  /** The rows that a query answers, each as an array of its columns, which have different names. */
  readonly rows: (sql: string) => Effect.Effect<ReadonlyArray<ReadonlyArray<SQLOutputValue>>, OperationFailed>
  /** Runs plain code on the connection, in one step. */
  readonly step: <A>(work: (database: DatabaseSync) => A) => Effect.Effect<A, OperationFailed>
}

const makeSqlite = (path: string, database: DatabaseSync): Sqlite => {
  const step: Sqlite["step"] = (work) => Effect.try({ try: () => work(database), catch: failed(path) })
  return {
    path,
    exec: (sql) => step(() => database.exec(sql)),
    rows: (sql) => step(() => database.prepare(sql).all().map((row) => Object.values(row))),
    step
  }
}

/**
 * What `PRAGMA integrity_check` says: `"ok"`, or the first thing that is wrong.
 *
 * @category sqlite
 * @since 0.1.0
 */
export const integrityCheck = (sqlite: Sqlite): Effect.Effect<string, OperationFailed> =>
  sqlite.rows("PRAGMA integrity_check").pipe(
    Effect.map((rows) => String(rows[0]?.[0] ?? "no answer")),
    // A database that SQLite cannot even read is an answer to this question, too.
    Effect.catch((error) => Effect.succeed(error.message))
  )

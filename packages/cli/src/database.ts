/**
 * The two sides of a database: SQLite itself, as it is built into Node, and Tidemark's layers.
 *
 * @since 0.1.0
 */
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import * as CoordinatorMetrics from "@tidemark/coordinator/CoordinatorMetrics"
import * as Pager from "@tidemark/coordinator/Pager"
import type { FileLock } from "@tidemark/platform/FileLock"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { CommitLog } from "@tidemark/wal/CommitLog"
import type { LogEnded } from "@tidemark/wal/GroupCommit"
import * as LogMetrics from "@tidemark/wal/LogMetrics"
import * as ParallelWal from "@tidemark/wal/ParallelWal"
import type { DurabilityTimeout } from "@tidemark/wal/ParallelWalErrors"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import type { StartUpCase } from "@tidemark/wal/StartUp"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import type { DatabaseSync, SQLOutputValue } from "node:sqlite"
import { OperationFailed } from "./ExitCode.ts"
import { reasonOf } from "./Report.ts"

/**
 * The logs that a database can be written through.
 *
 * @category models
 * @since 0.1.0
 */
export const databaseLogs = ["sqlite", "parallel"] as const
export type DatabaseLog = (typeof databaseLogs)[number]

/**
 * What the commands need of the log of an open database, whichever it is, beside the `CommitLog` that the coordinator
 * uses.
 *
 * @category services
 * @since 0.1.0
 */
export class OpenLog extends Context.Service<OpenLog, {
  /** The rows of the start-up table (section 10 of `formats.md`) that applied when it was opened. */
  readonly startUpCases: ReadonlyArray<StartUpCase>
  readonly checkpoint: SqliteWal.SqliteWal["Service"]["checkpoint"]
  /** Fails when commits cannot become durable for so long that nobody should wait for them any more. */
  readonly stuck: Effect.Effect<never, DurabilityTimeout | LogEnded>
}>()("@tidemark/cli/OpenLog") {}

const layersOfLog: Record<
  DatabaseLog,
  (
    database: string
  ) => Layer.Layer<OpenLog | CommitLog, SqliteWal.OpenError | ParallelWal.OpenParallelError, Vfs | FileLock>
> = {
  sqlite: (database) =>
    Layer.effect(
      OpenLog,
      Effect.map(SqliteWal.SqliteWal, ({ checkpoint, startUp }) => ({
        startUpCases: startUp.cases,
        checkpoint,
        // What cannot be written fails those who wait for it.
        stuck: Effect.never
      }))
    ).pipe(Layer.provideMerge(SqliteWal.layer({ database }))),
  parallel: (database) =>
    Layer.effect(
      OpenLog,
      Effect.gen(function*() {
        const wal = yield* ParallelWal.ParallelWal
        return {
          startUpCases: wal.startUp.cases,
          checkpoint: wal.checkpoint,
          stuck: stuckEpoch(wal)
        }
      })
    ).pipe(Layer.provideMerge(ParallelWal.layer({ database })))
}

/** A full disk may get room again, but a program that somebody waits for does not wait for ever. */
const patience = "3 seconds"
const lookEvery = "100 millis"

/**
 * The parallel log writes an epoch again until it is there. That an epoch is late is no failure; that the attempts to
 * write it fail for as long as this is one.
 */
const stuckEpoch = (wal: ParallelWal.ParallelWal["Service"]): Effect.Effect<never, DurabilityTimeout | LogEnded> =>
  Effect.forever(
    Effect.suspend(() => wal.awaitDurable(wal.epoch(), patience)).pipe(
      Effect.catchTag(
        "DurabilityTimeout",
        (timeout) => timeout.cause === undefined ? Effect.void : Effect.fail(timeout)
      ),
      Effect.andThen(Effect.sleep(lookEvery))
    )
  )

/**
 * Opens the whole engine over one database of this machine, with default options, for `use`. When commits cannot become
 * durable `use` is interrupted, and the reason is the failure.
 *
 * @category layers
 * @since 0.1.0
 */
export const withEngine = <A, E, R>(database: string, log: DatabaseLog, use: Effect.Effect<A, E, R>) =>
  Effect.raceFirst(use, Effect.flatMap(OpenLog, ({ stuck }) => stuck)).pipe(
    Effect.provide(
      Pager.layer.pipe(
        Layer.provideMerge(CompatCoordinator.layer),
        Layer.provideMerge(layersOfLog[log](database)),
        Layer.provideMerge(NodeVfs.layer)
      )
    )
  )

/**
 * What the engine has counted since the process began.
 *
 * @category models
 * @since 0.1.0
 */
export interface EngineCounts {
  /** Those that commits have waited for; checkpoints have others. */
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

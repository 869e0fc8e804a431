/**
 * The two sides of a database: SQLite itself, as it is built into Node, and Tidemark's layers.
 *
 * @since 0.1.0
 */
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import * as CoordinatorMetrics from "@tidemark/coordinator/CoordinatorMetrics"
import * as NativeCoordinator from "@tidemark/coordinator/NativeCoordinator"
import * as Pager from "@tidemark/coordinator/Pager"
import type { FileLock } from "@tidemark/platform/FileLock"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { CapsuleStore } from "@tidemark/wal/CapsuleStore"
import type { CommitLog } from "@tidemark/wal/CommitLog"
import type { LogEnded } from "@tidemark/wal/GroupCommit"
import * as LogMetrics from "@tidemark/wal/LogMetrics"
import type { MarkersDamaged } from "@tidemark/wal/MarkerErrors"
import * as NativeLog from "@tidemark/wal/NativeLog"
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
import { layerUndamaged } from "./native/markerDamage.ts"
import { reasonOf } from "./Report.ts"

/**
 * The logs that a database can be written through.
 *
 * @category models
 * @since 0.1.0
 */
export const databaseLogs = ["sqlite", "parallel", "native"] as const
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

/**
 * How a log is opened. What is left out is as an application has it by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface OpenLogOptions {
  readonly database: string
  /** 0: no checkpoint but those that are asked for. */
  readonly autoCheckpointFrames?: number
}

/** Why a database cannot be opened through the log that it has. */
type OpenLogError =
  | SqliteWal.OpenError
  | ParallelWal.OpenParallelError
  | NativeLog.OpenNativeError
  | MarkersDamaged

/** What cannot be written fails those who wait for it. */
const neverStuck = Effect.never

const layerSqlite = (options: OpenLogOptions) =>
  Layer.effect(
    OpenLog,
    Effect.map(SqliteWal.SqliteWal, ({ checkpoint, startUp }) => ({
      startUpCases: startUp.cases,
      checkpoint,
      stuck: neverStuck
    }))
  ).pipe(Layer.provideMerge(SqliteWal.layer(options)))

const layerParallel = (options: OpenLogOptions) =>
  Layer.effect(
    OpenLog,
    Effect.map(ParallelWal.ParallelWal, (wal) => ({
      startUpCases: wal.startUp.cases,
      checkpoint: wal.checkpoint,
      stuck: stuckEpoch(wal)
    }))
  ).pipe(Layer.provideMerge(ParallelWal.layer(options)))

const layerNative = (options: OpenLogOptions) =>
  Layer.effect(
    OpenLog,
    Effect.map(NativeLog.NativeLog, ({ checkpoint, startUp }) => ({
      startUpCases: startUp.cases,
      checkpoint,
      stuck: neverStuck
    }))
  ).pipe(Layer.provideMerge(layerUndamaged(options)))

interface LayersOfLog {
  readonly log: Layer.Layer<OpenLog, OpenLogError, Vfs | FileLock>
  readonly engine: Layer.Layer<
    OpenLog | Pager.Pager,
    // Both coordinators fail alike.
    OpenLogError | Layer.Error<typeof CompatCoordinator.layer>,
    Vfs | FileLock | ProcessLiveness
  >
}

const overPages = (log: Layer.Layer<OpenLog | CommitLog, OpenLogError, Vfs | FileLock>): LayersOfLog => ({
  log,
  engine: Pager.layer.pipe(Layer.provideMerge(CompatCoordinator.layer), Layer.provideMerge(log))
})

const overCapsules = (
  log: Layer.Layer<OpenLog | NativeLog.NativeLog | CapsuleStore, OpenLogError, Vfs | FileLock>
): LayersOfLog => ({
  log,
  engine: Pager.layerNative.pipe(Layer.provideMerge(NativeCoordinator.layer), Layer.provideMerge(log))
})

const layersOfLog: Record<DatabaseLog, (options: OpenLogOptions) => LayersOfLog> = {
  sqlite: (options) => overPages(layerSqlite(options)),
  parallel: (options) => overPages(layerParallel(options)),
  native: (options) => overCapsules(layerNative(options))
}

/**
 * The log of a database, without a coordinator or a pager over it.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerLog = (log: DatabaseLog, options: OpenLogOptions): LayersOfLog["log"] => layersOfLog[log](options).log

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
    Effect.provide(layersOfLog[log]({ database }).engine.pipe(Layer.provideMerge(NodeVfs.layer)))
  )

/**
 * What the engine has counted since the process began.
 *
 * @category models
 * @since 0.1.0
 */
export interface EngineCounts {
  /** {@link commitSyncs} */
  readonly syncs: number
  readonly conflicts: number
  readonly retries: number
}

/** How often something was counted or measured, whichever attributes it was counted with. */
const countOf = (metric: { readonly id: string }): Effect.Effect<number> =>
  Effect.map(Metric.snapshot, (metrics) => {
    let sum = 0
    for (const { id, state, type } of metrics) {
      if (id === metric.id && (type === "Counter" || type === "Histogram")) sum += Number(state.count)
    }
    return sum
  })

/**
 * The syncs that commits have waited for since the process began; checkpoints have others. A batch of the native log has
 * those of its capsules and one of their directory before the one of its markers.
 *
 * @category metrics
 * @since 0.1.0
 */
export const commitSyncs: Effect.Effect<number> = Effect.map(
  Effect.all([
    countOf(LogMetrics.syncs),
    countOf(LogMetrics.capsulesSynced),
    countOf(LogMetrics.capsuleBarrierSeconds)
  ]),
  ([syncs, capsules, directories]) => syncs + capsules + directories
)

/**
 * Reads the metrics of the engine.
 *
 * @category metrics
 * @since 0.1.0
 */
export const engineCounts: Effect.Effect<EngineCounts> = Effect.all({
  syncs: commitSyncs,
  conflicts: countOf(CoordinatorMetrics.conflicts),
  retries: countOf(CoordinatorMetrics.retries)
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

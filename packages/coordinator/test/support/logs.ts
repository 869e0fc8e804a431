/**
 * The two logs under the same engine, as a layer that a test exchanges, with what a test has to know of their files.
 */
import { it } from "@effect/vitest"
import type { CommitSeq, PageSize } from "@tidemark/core/Scalars"
import type { FileLock } from "@tidemark/platform/FileLock"
import type { DiskMatch } from "@tidemark/platform/MemoryDisk"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { CommitLog } from "@tidemark/wal/CommitLog"
import type { LogEnded } from "@tidemark/wal/GroupCommit"
import type { CheckpointFailed } from "@tidemark/wal/LogErrors"
import * as ParallelWal from "@tidemark/wal/ParallelWal"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import { Context, type Duration, Effect, Layer, type Scope } from "effect"

/** Where the database lies on a memory disk. */
export const memoryPath = "/data/test.db"
const walPath = `${memoryPath}-wal`

/** What a log can do beside being a `CommitLog`. */
export class LogControl extends Context.Service<LogControl, {
  readonly checkpoint: (
    mode: SqliteWal.CheckpointMode,
    options?: { readonly busyTimeout?: Duration.Input | undefined }
  ) => Effect.Effect<SqliteWal.CheckpointReport, CheckpointFailed | LogEnded>
  /** Pages of commits in the log that no checkpoint has copied yet. */
  readonly pending: () => number
  /** Whether recovery found this commit; a sequence up to the tip may belong to one that was aborted. */
  readonly wasRecovered: (seq: CommitSeq) => boolean
  /** The last commit that recovery found. */
  readonly recoveredTip: CommitSeq
}>()("test/LogControl") {}

/** What both logs have; without a number, the number that the log has by default. */
export interface LogOptions {
  readonly database: string
  readonly pageSize: PageSize
  readonly autoCheckpointFrames: number | undefined
  readonly maxQueuedBytes: number | undefined
  /** For one of them alone. */
  readonly sqlite: Partial<SqliteWal.SqliteWalOptions> | undefined
  readonly parallel: Partial<ParallelWal.ParallelWalOptions> | undefined
}

export interface LogKind {
  readonly name: "SQLite WAL" | "parallel WAL"
  readonly layer: (
    options: LogOptions
  ) => Layer.Layer<CommitLog | LogControl, SqliteWal.OpenError | ParallelWal.OpenParallelError, Vfs | FileLock>
  /** The first step of a batch on a memory disk: who comes while it is held is in the next one. */
  readonly batchWrite: DiskMatch
  /** The last step of a batch: when it is done its commits are durable, when it fails the log is poisoned. */
  readonly batchSync: DiskMatch
  /** All syncs of the contents of files that a batch needs, in order. */
  readonly batchSyncs: ReadonlyArray<RegExp>
  /** Where a page is read from that no checkpoint has copied. */
  readonly pageRead: DiskMatch
  /** Bytes that a page takes of the offsets that committers are answered; 0 when the log has none. */
  readonly frameBytes: (pageBytes: number) => number
  /** A batch whose write failed is written again at the next tick, instead of ending the log (PW-15). */
  readonly writesAgain: boolean
  /** A commit whose pages are on the disk, and which does not count, has used up its sequence (PW-29). */
  readonly isSequenceKept: boolean
  /** Stock SQLite reads what no checkpoint has copied; else it refuses the database. */
  readonly isReadBySqlite: boolean
}

export const sqliteWal: LogKind = {
  name: "SQLite WAL",
  layer: ({ autoCheckpointFrames, database, maxQueuedBytes, pageSize, sqlite }) => {
    const log = SqliteWal.layer({
      database,
      create: { pageSize },
      preallocateBytes: 0,
      autoCheckpointFrames,
      groupCommit: { maxQueuedBytes },
      ...sqlite
    })
    const control = Layer.effect(
      LogControl,
      Effect.map(SqliteWal.SqliteWal, ({ checkpoint, frames, startUp: { tip } }) => ({
        checkpoint,
        pending: () => frames().inLog - frames().copied,
        wasRecovered: (seq: CommitSeq) => seq <= tip,
        recoveredTip: tip
      }))
    )
    return Layer.provideMerge(control, log)
  },
  batchWrite: { operation: "write", path: walPath },
  batchSync: { operation: "syncData", path: walPath },
  batchSyncs: [/-wal$/],
  pageRead: { operation: "read", path: walPath },
  frameBytes: (pageBytes) => 24 + pageBytes,
  writesAgain: false,
  isSequenceKept: false,
  isReadBySqlite: true
}

export const parallelWal: LogKind = {
  name: "parallel WAL",
  layer: ({ autoCheckpointFrames, database, maxQueuedBytes, pageSize, parallel }) => {
    const log = ParallelWal.layer({
      database,
      create: { pageSize },
      autoCheckpointFrames,
      maxQueuedBytes,
      // As the other one, so that what is opened again finds something in its log.
      checkpointOnClose: false,
      ...parallel
    })
    const control = Layer.effect(
      LogControl,
      Effect.map(ParallelWal.ParallelWal, ({ checkpoint, inLog, startUp: { certificates, tip } }) => {
        const aborted = (certificates?.certificates ?? []).flatMap(({ certificate }) =>
          certificate.aborted ? [certificate] : []
        )
        const wasRecovered = (seq: CommitSeq) =>
          seq <= tip && !aborted.some(({ high, low }) => low <= seq && seq <= high)
        let recoveredTip = tip
        while (recoveredTip > 0n && !wasRecovered(recoveredTip)) recoveredTip = (recoveredTip - 1n) as CommitSeq // above 0
        return { checkpoint, pending: () => inLog().records, wasRecovered, recoveredTip }
      })
    )
    return Layer.provideMerge(control, log)
  },
  batchWrite: { operation: "write", path: /-wal-seg-[0-9a-f]{16}\.tmp-\d+$/ },
  batchSync: { operation: "syncData", path: `${memoryPath}-wal-cert` },
  batchSyncs: [/-wal-seg-[0-9a-f]{16}\.tmp-\d+$/, /-wal-cert$/],
  pageRead: { operation: "read", path: /-wal-seg-[0-9a-f]{16}$/ },
  frameBytes: () => 0,
  writesAgain: true,
  isSequenceKept: true,
  isReadBySqlite: false
}

/** The log that databases are opened with. */
export const LogUnderTest = Context.Reference<LogKind>("test/LogUnderTest", { defaultValue: () => sqliteWal })

const over =
  (kinds: ReadonlyArray<LogKind>) =>
  <E>(title: string, body: (log: LogKind) => Effect.Effect<void, E, Scope.Scope>): void => {
    for (const log of kinds) {
      it.effect(`${title} (${log.name})`, () => Effect.provideService(body(log), LogUnderTest, log))
    }
  }

/** One test for each log, or for one of them, over which everything is opened that is opened in it. */
export const test = {
  overLogs: over([sqliteWal, parallelWal]),
  overSqliteWal: over([sqliteWal]),
  overParallelWal: over([parallelWal])
}

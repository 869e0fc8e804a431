/**
 * The logs under the same engine, as a layer that a test exchanges, with what a test has to know of their files.
 */
import { it } from "@effect/vitest"
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import type { CoordinatorLease } from "@tidemark/coordinator/CoordinatorLease"
import * as NativeCoordinator from "@tidemark/coordinator/NativeCoordinator"
import * as Pager from "@tidemark/coordinator/Pager"
import type { SharedHeader } from "@tidemark/coordinator/SharedHeader"
import type { CommitSeq, PageSize } from "@tidemark/core/Scalars"
import type { FileLock } from "@tidemark/platform/FileLock"
import type { DiskMatch } from "@tidemark/platform/MemoryDisk"
import type { Vfs } from "@tidemark/platform/Vfs"
import { CapsuleStore } from "@tidemark/wal/CapsuleStore"
import { CommitLog } from "@tidemark/wal/CommitLog"
import type { LogEnded } from "@tidemark/wal/GroupCommit"
import type { CheckpointFailed } from "@tidemark/wal/LogErrors"
import * as NativeLog from "@tidemark/wal/NativeLog"
import * as ParallelWal from "@tidemark/wal/ParallelWal"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import { Context, type Duration, Effect, Layer, type Scope } from "effect"
import type { AuthorityError } from "../../src/internal/authority.ts"
import { nativePageCommits } from "../../src/internal/nativePageCommits.ts"
import { resuming } from "../../src/internal/resuming.ts"

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
  /** Of these the native log takes `checkpointOnClose`. */
  readonly parallel: Partial<ParallelWal.ParallelWalOptions> | undefined
  /** Stands between the coordinator and the log, where the log is handed pages. */
  readonly wrapLog: ((log: CommitLog["Service"]) => CommitLog["Service"]) | undefined
  readonly pager: Pager.PagerOptions
}

/**
 * A log, the coordinator over it and the pager over both. The native coordinator is dressed as the other one: what it is
 * asked to commit becomes a capsule, as in the pager.
 */
type Engine = CommitLog | LogControl | CompatCoordinator.CompatCoordinator | Pager.Pager
type EngineError =
  | SqliteWal.OpenError
  | ParallelWal.OpenParallelError
  | NativeLog.OpenNativeError
  | AuthorityError

export interface LogKind {
  readonly name: "SQLite WAL" | "parallel WAL" | "native log"
  readonly layer: (
    options: LogOptions
  ) => Layer.Layer<Engine, EngineError, CoordinatorLease | SharedHeader | Vfs | FileLock>
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

/** The engine over a log that is handed pages. */
const overPages = <E>(
  log: Layer.Layer<CommitLog | LogControl, E, Vfs | FileLock>,
  { pager, wrapLog }: LogOptions
): Layer.Layer<Engine, E | AuthorityError, CoordinatorLease | SharedHeader | Vfs | FileLock> =>
  Pager.layerOptions(pager).pipe(
    Layer.provideMerge(CompatCoordinator.layerNoDeps),
    Layer.provideMerge(Layer.effect(CommitLog, Effect.map(CommitLog, wrapLog ?? ((log) => log)))),
    Layer.provideMerge(log)
  )

export const sqliteWal: LogKind = {
  name: "SQLite WAL",
  layer: (options) => {
    const { autoCheckpointFrames, database, maxQueuedBytes, pageSize, sqlite } = options
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
    return overPages(Layer.provideMerge(control, log), options)
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
  layer: (options) => {
    const { autoCheckpointFrames, database, maxQueuedBytes, pageSize, parallel } = options
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
    return overPages(Layer.provideMerge(control, log), options)
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

const markersPath = /\/markers\/segment-\d{6}\.log$/

export const nativeLog: LogKind = {
  name: "native log",
  layer: ({ autoCheckpointFrames, database, maxQueuedBytes, pageSize, pager, parallel, wrapLog }) => {
    const log = NativeLog.layer({
      database,
      create: { pageSize },
      autoCheckpointFrames,
      groupCommit: maxQueuedBytes === undefined ? undefined : { maxQueuedBytes },
      checkpointOnClose: parallel?.checkpointOnClose ?? false
    })
    const control = Layer.effect(
      LogControl,
      Effect.map(NativeLog.NativeLog, ({ checkpoint, inLog, startUp: { tip } }) => ({
        checkpoint,
        pending: () => inLog().records,
        wasRecovered: (seq: CommitSeq) => seq <= tip,
        recoveredTip: tip
      }))
    )
    const commitLog = Layer.effect(
      CommitLog,
      Effect.map(NativeLog.NativeLog, ({ commits }) => {
        if (wrapLog !== undefined) throw new Error("no pages are handed to the native log")
        return {
          ...commits,
          appendUnsafe: () => {
            throw new Error("only the native coordinator hands commits to its log")
          }
        }
      })
    )
    const coordinator = Layer.effect(
      CompatCoordinator.CompatCoordinator,
      Effect.gen(function*() {
        const native = yield* NativeCoordinator.NativeCoordinator
        const { submit, ...commits } = nativePageCommits(native, yield* NativeLog.NativeLog, yield* CapsuleStore)
        return CompatCoordinator.CompatCoordinator.of({
          ...native,
          ...commits,
          submitUnsafe: submit,
          commit: (request) => Effect.callback((resume) => submit(request, resuming(resume))),
          restoreState: () => Effect.die("a native coordinator goes on where its log ends")
        })
      })
    )
    return Layer.mergeAll(Pager.layerNativeOptions(pager), coordinator, commitLog, control).pipe(
      Layer.provide(NativeCoordinator.layerNoDeps),
      Layer.provide(log)
    )
  },
  batchWrite: { operation: "write", path: markersPath },
  batchSync: { operation: "syncData", path: markersPath },
  batchSyncs: [/\/capsules\/[0-9a-f]{32}$/, markersPath],
  pageRead: { operation: "read", path: /\/capsules\/[0-9a-f]{32}$/ },
  frameBytes: () => 0,
  writesAgain: false,
  isSequenceKept: false,
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
  /** What does not depend on pages being handed to the log: a native commit writes its capsule before it is accepted. */
  overEveryLog: over([sqliteWal, parallelWal, nativeLog]),
  overSqliteWal: over([sqliteWal]),
  overParallelWal: over([parallelWal])
}

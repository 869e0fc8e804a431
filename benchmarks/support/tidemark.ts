/** Tidemark over files, as an application composes it, with default options. */
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import * as NativeCoordinator from "@tidemark/coordinator/NativeCoordinator"
import * as Pager from "@tidemark/coordinator/Pager"
import * as WriteSet from "@tidemark/coordinator/WriteSet"
import { toPageNumber } from "@tidemark/core/Scalars"
import type { FileLock } from "@tidemark/platform/FileLock"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import type { CommitLog } from "@tidemark/wal/CommitLog"
import * as NativeLog from "@tidemark/wal/NativeLog"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as References from "effect/References"
import * as NodePath from "node:path"
import type { Contestant } from "./rounds.ts"
import { makeRowPages, type RowPage, verifyRowPages } from "./rowPages.ts"
import { writeInFibers } from "./writers.ts"

/** What everything stands on. Standard output belongs to the results. */
const platform = Layer.merge(NodeVfs.layer, Layer.succeed(References.MinimumLogLevel, "Warn"))

/** The engine over a log, with everything that it stands on. */
const engineOver = <R, E>(log: Layer.Layer<R | CommitLog, E, Vfs | FileLock>) =>
  Pager.layer.pipe(Layer.provideMerge(CompatCoordinator.layer), Layer.provideMerge(log), Layer.provideMerge(platform))

/** The engine in native mode. */
export const nativeEngine = (options: NativeLog.NativeLogOptions) =>
  Pager.layerNative.pipe(
    Layer.provideMerge(NativeCoordinator.layer),
    Layer.provideMerge(NativeLog.layer(options)),
    Layer.provideMerge(platform)
  )

/** The engine over the SQLite WAL. */
export const engine = (options: SqliteWal.SqliteWalOptions) => engineOver(SqliteWal.layer(options))

/** The log of a database. */
export type LogOf<E = unknown> = (database: string) => Layer.Layer<CommitLog, E, Vfs | FileLock>

/** One commit of a row's page. */
export type Commit<R, E> = (row: RowPage) => Effect.Effect<unknown, E, R>

/** A transaction of the pager that writes one page: what an application does. */
export const throughPager = Effect.map(
  Pager.Pager,
  (pager) => ({ bytes, pageNumber }: RowPage) =>
    pager.withTransaction((transaction) => transaction.write(toPageNumber(pageNumber), bytes))
)

/** The same commit handed to the coordinator without the pager around it. */
export const throughCoordinator = Effect.gen(function*() {
  const coordinator = yield* CompatCoordinator.CompatCoordinator
  const vfs = yield* Vfs
  const { database, pageSize } = coordinator
  return ({ bytes, pageNumber }: RowPage) =>
    Effect.suspend(() => {
      const hold = coordinator.begin()
      const { snapshot, token } = hold
      hold.endReading()
      const writes = WriteSet.makeUnsafe(vfs, { database, token, pageSize })
      const commit = Effect.andThen(
        writes.put(toPageNumber(pageNumber), bytes),
        coordinator.commit({ token, snapshot, writes })
      )
      return Effect.onExitPrimitive(commit, () => {
        hold.end()
        return writes.closeUnsafe()
      })
    })
})

const contestant = <R, E>(
  name: string,
  engineOf: (database: string) => Layer.Layer<R, unknown>,
  makeCommit: Effect.Effect<Commit<never, E>, never, R>
): Contestant => ({
  name,
  open: async ({ directory, writers }) => {
    const database = NodePath.join(directory, "tidemark.db")
    const rows = makeRowPages(database, writers)
    const runtime = ManagedRuntime.make(engineOf(database))
    const commit = await runtime.runPromise(makeCommit)
    return {
      run: (loop) => runtime.runPromise(writeInFibers(loop, rows, commit)),
      close: async () => {
        await runtime.dispose()
        verifyRowPages(database, rows)
      }
    }
  }
})

const sqliteWal = (autoCheckpointFrames: number) => (database: string) =>
  SqliteWal.layer({ database, autoCheckpointFrames })

export const tidemarkPager = (checkpointFrames: number): Contestant =>
  contestant("Tidemark, Pager", (database) => engineOver(sqliteWal(checkpointFrames)(database)), throughPager)

export const tidemarkNativePager = (autoCheckpointFrames: number): Contestant =>
  contestant("Tidemark, native", (database) => nativeEngine({ database, autoCheckpointFrames }), throughPager)

export const tidemarkCoordinator = (checkpointFrames: number): Contestant =>
  coordinatorOver("Tidemark, coordinator", sqliteWal(checkpointFrames))

/** The coordinator over any log. */
export const coordinatorOver = (name: string, logOf: LogOf): Contestant =>
  contestant(name, (database) => engineOver(logOf(database)), throughCoordinator)

/** A database with everything that stands on it, opened as a process of its own, and small steps that tests share. */
import { assert } from "@effect/vitest"
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import * as CoordinatorLease from "@tidemark/coordinator/CoordinatorLease"
import * as Pager from "@tidemark/coordinator/Pager"
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import * as WriteSet from "@tidemark/coordinator/WriteSet"
import type { CommitSeq, PageNumber, TxnToken } from "@tidemark/core/Scalars"
import { PageSize, toPageNumber } from "@tidemark/core/Scalars"
import type { Snapshot } from "@tidemark/core/Snapshot"
import type { FileLock } from "@tidemark/platform/FileLock"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { Vfs } from "@tidemark/platform/Vfs"
import { CommitLog } from "@tidemark/wal/CommitLog"
import type * as ParallelWal from "@tidemark/wal/ParallelWal"
import type * as SqliteWal from "@tidemark/wal/SqliteWal"
import { Context, Effect, Exit, type Fiber, Layer, Scope } from "effect"
import { LogControl, LogUnderTest, memoryPath } from "./logs.ts"

export { memoryPath }

/** Pages of tests are small unless they say otherwise. */
export const pageSize = PageSize.make(512)

export const page = (number: number): PageNumber => toPageNumber(number)
export const pages = (...numbers: ReadonlyArray<number>): ReadonlyArray<PageNumber> => numbers.map(page)

/** A page whose every byte is the value. */
export const filled = (value: number, bytes: number = pageSize): Uint8Array => new Uint8Array(bytes).fill(value)

/** The value of a page that {@link filled} made; fails when its bytes differ. */
export const valueOf = (bytes: Uint8Array): number => {
  const value = bytes[0] ?? -1
  assert.isTrue(bytes.every((byte) => byte === value), "every byte of the page is the same")
  return value
}

export interface OpenOptions {
  readonly database?: string
  readonly pageSize?: PageSize
  /** A checkpoint by itself after so many pages; `undefined`: as the log does by default. Default: none. */
  readonly autoCheckpointFrames?: number | undefined
  readonly maxQueuedBytes?: number | undefined
  /** For one of the logs alone. */
  readonly sqlite?: Partial<SqliteWal.SqliteWalOptions> | undefined
  readonly parallel?: Partial<ParallelWal.ParallelWalOptions> | undefined
  readonly pager?: Pager.PagerOptions
  /** Default: the lease file of the database. */
  readonly lease?: Layer.Layer<CoordinatorLease.CoordinatorLease>
  /** Default: one that nobody else sees. */
  readonly header?: Layer.Layer<SharedHeader.SharedHeader>
  /** Stands between the coordinator and the log. */
  readonly wrapLog?: (log: CommitLog["Service"]) => CommitLog["Service"]
}

export interface Database {
  readonly pager: Pager.Pager["Service"]
  readonly coordinator: CompatCoordinator.CompatCoordinator["Service"]
  readonly lease: CoordinatorLease.CoordinatorLease["Service"]
  readonly log: CommitLog["Service"]
  readonly control: LogControl["Service"]
  readonly vfs: Vfs["Service"]
  /** Closes it before the scope that it was opened in. */
  readonly close: Effect.Effect<void>
}

/**
 * Opens a database on a platform over the log under test, and makes it when it is not there. Checkpoints run when they
 * are asked for.
 */
export const openOn = <E>(
  platform: Layer.Layer<Vfs | FileLock | ProcessLiveness, E>,
  options: OpenOptions = {}
) =>
  Effect.gen(function*() {
    const database = options.database ?? memoryPath
    const log = yield* LogUnderTest
    const scope = yield* Scope.fork(yield* Effect.scope)
    const layer = log.layer({
      database,
      pageSize: options.pageSize ?? pageSize,
      autoCheckpointFrames: "autoCheckpointFrames" in options ? options.autoCheckpointFrames : 0,
      maxQueuedBytes: options.maxQueuedBytes,
      sqlite: options.sqlite,
      parallel: options.parallel,
      wrapLog: options.wrapLog,
      pager: options.pager ?? {}
    }).pipe(
      Layer.provideMerge(options.lease ?? CoordinatorLease.layerFile({ database })),
      Layer.provide(options.header ?? SharedHeader.layerMemory({ pageSize: options.pageSize ?? pageSize })),
      Layer.provideMerge(platform)
    )
    const context = yield* Layer.buildWithScope(Layer.fresh(layer), scope).pipe(
      Effect.onError(() => Scope.close(scope, Exit.void))
    )
    const opened: Database = {
      pager: Context.get(context, Pager.Pager),
      coordinator: Context.get(context, CompatCoordinator.CompatCoordinator),
      lease: Context.get(context, CoordinatorLease.CoordinatorLease),
      log: Context.get(context, CommitLog),
      control: Context.get(context, LogControl),
      vfs: Context.get(context, Vfs),
      close: Scope.close(scope, Exit.void)
    }
    return opened
  })

/** A disk in memory with the directory of the database on it. */
export const makeDisk = (options?: MemoryVfs.MemoryDiskOptions): MemoryVfs.MemoryDisk => {
  const disk = MemoryVfs.MemoryDisk.make(options)
  disk.writeFile("/data/beside", new Uint8Array(0))
  return disk
}

/** Opens the database of a memory disk. */
export const openMemory = (disk: MemoryVfs.MemoryDisk, options?: OpenOptions) =>
  openOn(MemoryVfs.layerDisk(disk), options)

// ---------------------------------------------------------------------------------------------------------------------
// Requests to the coordinator
// ---------------------------------------------------------------------------------------------------------------------

export interface RequestOptions {
  readonly token?: TxnToken
  readonly snapshot?: Snapshot
  readonly reads?: ReadonlyArray<number>
  readonly databasePages?: number
  readonly spillThresholdBytes?: number
  /** What the pages are filled with. Default 1. */
  readonly value?: number
}

type Coordinating = Pick<Database, "coordinator" | "vfs">

/** A request that writes these pages, at a snapshot taken now and held until the scope closes. */
export const makeRequest = Effect.fnUntraced(function*(
  { coordinator, vfs }: Coordinating,
  numbers: ReadonlyArray<number>,
  options: RequestOptions = {}
) {
  const hold = coordinator.begin()
  yield* Effect.addFinalizer(() => Effect.sync(() => hold.end()))
  hold.endReading()
  const token = options.token ?? hold.token
  const writes = yield* WriteSet.make({
    database: coordinator.database,
    token,
    pageSize: coordinator.pageSize,
    spillThresholdBytes: options.spillThresholdBytes
  }).pipe(Effect.provideService(Vfs, vfs))
  for (const number of numbers) yield* writes.put(page(number), filled(options.value ?? 1, coordinator.pageSize))
  const request: CompatCoordinator.CommitRequest = {
    token,
    snapshot: options.snapshot ?? hold.snapshot,
    writes,
    reads: options.reads?.map(page),
    databasePages: options.databasePages
  }
  return request
})

/** Writes these pages in a transaction of their own. */
export const commitPages = Effect.fnUntraced(function*(
  database: Coordinating,
  numbers: ReadonlyArray<number>,
  options?: RequestOptions
) {
  return yield* database.coordinator.commit(yield* makeRequest(database, numbers, options))
}, Effect.scoped)

/** Gives a new database so many pages. */
export const grow = (database: Pick<Database, "pager">, databasePages: number) =>
  database.pager.withTransaction((tx) =>
    Effect.sync(() => {
      while (tx.databasePages() < databasePages) tx.allocate()
    })
  )

/** A page as a new snapshot sees it. */
export const readNow = (database: Pick<Database, "pager">, number: number) =>
  Effect.scoped(Effect.flatMap(database.pager.begin(), (tx) => tx.read(page(number))))

export const published = (database: Pick<Database, "log">): CommitSeq => database.log.published().commitSeq

// ---------------------------------------------------------------------------------------------------------------------
// Waiting
// ---------------------------------------------------------------------------------------------------------------------

/** Turns of the event loop, enough for everything that can go on without a held call to go on. */
export const settle = Effect.repeat(Effect.yieldNow, { times: 30 })

export const isWaiting = (fiber: Fiber.Fiber<unknown, unknown>): boolean => fiber.pollUnsafe() === undefined

/** The tag of the typed error that an effect fails with, or `"success"`, or `"defect"`. */
export const outcomeOf = <A, E extends { readonly _tag: string }, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<string, never, R> =>
  Effect.catchCause(
    Effect.match(effect, { onFailure: (error) => error._tag, onSuccess: () => "success" }),
    () => Effect.succeed("defect")
  )

/** Forks in the scope of the test, and lets it run up to where it waits. */
export const forkNow = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.forkScoped(effect, { startImmediately: true })

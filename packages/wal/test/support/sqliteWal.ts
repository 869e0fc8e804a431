/** An open SQLite WAL with the few steps that its tests share: commit, read a version back, hold a snapshot. */
import type { CommitSeq } from "@tidemark/core/Scalars"
import { toCommitSeq, toPageNumber, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import type { FileLock } from "@tidemark/platform/FileLock"
import type { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import type { Vfs } from "@tidemark/platform/Vfs"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import type { LogReader, SequencedLog } from "../../src/CommitLog.ts"
import { CommitLog } from "../../src/CommitLog.ts"
import type { LogEnded } from "../../src/GroupCommit.ts"
import * as SqliteWal from "../../src/SqliteWal.ts"
import type { Version } from "./pages.ts"

export interface Opened {
  readonly wal: SqliteWal.SqliteWal["Service"]
  readonly log: CommitLog["Service"]
  readonly close: Effect.Effect<void>
}

/** The path that tests on a memory disk use. */
export const memoryPath = "/data/test.db"

/** Opens a database on a platform, in a scope of its own that ends with the caller's or at `close`. */
export const openOn = <E>(
  platform: Layer.Layer<Vfs | FileLock, E>,
  options: SqliteWal.SqliteWalOptions
): Effect.Effect<Opened, E | SqliteWal.OpenError, Scope.Scope> =>
  Effect.gen(function*() {
    const parent = yield* Effect.scope
    const scope = yield* Scope.fork(parent)
    const context = yield* Layer.buildWithScope(
      Layer.fresh(Layer.provide(SqliteWal.layer(options), Layer.fresh(platform))),
      scope
    ).pipe(Effect.onError(() => Scope.close(scope, Exit.void)))
    return {
      wal: Context.get(context, SqliteWal.SqliteWal),
      log: Context.get(context, CommitLog),
      close: Scope.close(scope, Exit.void)
    }
  })

/** A disk whose directory for the database is there, durably. */
export const prepareDisk = (disk: MemoryDisk): MemoryDisk => {
  disk.writeFile("/data/beside", new Uint8Array(0))
  return disk
}

/** Opens the database of a memory disk as a process of its own; without further options it is created if missing. */
export const openMemory = (
  disk: MemoryDisk,
  options: Partial<SqliteWal.SqliteWalOptions> = {}
): Effect.Effect<Opened, SqliteWal.OpenError, Scope.Scope> =>
  openOn(MemoryVfs.layerDisk(disk), { database: memoryPath, ...options })

/** Hands a commit over when there is room. `entered` tells its sequence in the same synchronous step. */
export const commit = (
  log: CommitLog["Service"],
  make: (seq: CommitSeq) => {
    readonly written: ReadonlyMap<number, Uint8Array>
    readonly databasePages: number
  },
  options: {
    readonly lastSeq: () => CommitSeq
    readonly entered?: (seq: CommitSeq) => void
    readonly acknowledged?: (seq: CommitSeq) => void
    readonly maxPages?: number
  }
): Effect.Effect<CommitSeq, LogEnded> =>
  Effect.callback<CommitSeq, LogEnded>((resume) => {
    const stepBack = log.admit({
      length: log.commitBytes(options.maxPages ?? 64),
      enter: () => {
        const seq = toCommitSeq(options.lastSeq() + 1n)
        const { databasePages, written } = make(seq)
        options.entered?.(seq)
        log.appendUnsafe({
          token: { id: toTxnId(seq), epoch: TxnEpoch.make(0) },
          seq,
          pages: Array.from(written.keys(), toPageNumber),
          image: (page) => written.get(page) ?? new Uint8Array(0),
          databasePages
        }, {
          mode: "durable",
          succeed: () => {
            options.acknowledged?.(seq)
            resume(Exit.succeed(seq))
          },
          fail: (failure) => resume(Exit.fail(failure))
        })
      },
      refuse: (ended) => resume(Exit.fail(ended))
    })
    return Effect.sync(stepBack)
  })

/** Every page that a snapshot sees. */
export const readVersion = (reader: LogReader) =>
  Effect.gen(function*() {
    const pages = new Map<number, Uint8Array>()
    for (let page = 1; page <= reader.databasePages; page++) {
      pages.set(page, yield* reader.read(toPageNumber(page)))
    }
    return { databasePages: reader.databasePages, pages } satisfies Version
  })

/** Every page that is visible now. */
export const readTip = (log: Pick<SequencedLog<never>, "openReader">) =>
  Effect.acquireUseRelease(
    Effect.sync(() => log.openReader()),
    readVersion,
    (reader) => Effect.sync(() => reader.release())
  )

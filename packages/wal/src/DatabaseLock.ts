/**
 * How Tidemark keeps stock SQLite, and a second Tidemark process, out of a database while it writes it (SWAL-10).
 *
 * **Details**
 *
 * SQLite coordinates by locks on bytes of the database file and of `-shm`. We hold, until the scope closes or the
 * process dies:
 *
 * 1. the PENDING byte of the database file, exclusive: no SQLite connection can begin to read, and no second
 *    coordinator of ours can start;
 * 2. the SHARED range of the database file, shared: a connection that holds on to it from before was excluded by
 *    proving, for a moment, that the range can be locked exclusively;
 * 3. byte 120 of `-shm`, shared: nobody becomes a WAL writer or checkpointer.
 *
 * These are open-file-description locks: they do not go away when this process closes another descriptor of the file,
 * and the kernel takes them back when the process dies.
 *
 * @since 0.1.0
 */
import type { FileLock, FileLockUnavailable, LockRange } from "@tidemark/platform/FileLock"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { readSmallFile } from "./AtomicFile.ts"
import * as LeaseFormat from "./LeaseFormat.ts"
import { Busy, LogLocked } from "./LogErrors.ts"

/** SQLite's PENDING byte, at 2^30. */
const pendingByte: LockRange = { start: 0x40000000, length: 1 }
/** SQLite's SHARED range: PENDING, RESERVED, then 510 bytes. */
const sharedRange: LockRange = { start: 0x40000002, length: 510 }
/** The WAL write lock, the first of the lock bytes of `-shm`. */
const walWriteByte: LockRange = { start: 120, length: 1 }

const retryAfterMillis = 100

/**
 * Takes the locks on the database file, which must exist. Changes nothing on the disk.
 *
 * @category locks
 * @since 0.1.0
 */
export const lockDatabase = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  fileLock: FileLock["Service"],
  database: string
): Effect.fn.Return<void, LogLocked | Busy | FileLockUnavailable | VfsError, Scope.Scope> {
  yield* fileLock.acquire(database, { range: pendingByte, mode: "exclusive" }).pipe(
    Effect.catchTag(
      "RangeLocked",
      () => Effect.flatMap(readHolder(vfs, database), (holderPid) => new LogLocked({ path: database, holderPid }))
    )
  )
  const inUse = () => new Busy({ reason: `SQLite has ${database} open`, retryAfterMillis })
  yield* fileLock.acquire(database, { range: sharedRange, mode: "exclusive" }).pipe(
    Effect.scoped,
    Effect.catchTag("RangeLocked", inUse)
  )
  // Between the two nobody can come in: a connection that begins to read has to pass the PENDING byte.
  yield* fileLock.acquire(database, { range: sharedRange, mode: "shared" }).pipe(
    Effect.catchTag("RangeLocked", inUse)
  )
})

/**
 * Takes the lock on the shared-memory file of SQLite, which is created empty when it is missing. Its contents are
 * never read: SQLite makes them anew when it opens the database.
 *
 * @category locks
 * @since 0.1.0
 */
export const lockSharedMemory = (
  fileLock: FileLock["Service"],
  database: string
): Effect.Effect<void, Busy | FileLockUnavailable | VfsError, Scope.Scope> =>
  fileLock.acquire(`${database}-shm`, { range: walWriteByte, mode: "shared", create: true }).pipe(
    Effect.catchTag("RangeLocked", () => new Busy({ reason: `SQLite is writing ${database}`, retryAfterMillis }))
  )

/**
 * Whether a process of Tidemark has the database open for writing, now. Asks the kernel and takes nothing, so it is in
 * nobody's way.
 *
 * @category locks
 * @since 0.1.0
 */
export const isDatabaseOpen = (
  fileLock: FileLock["Service"],
  database: string
): Effect.Effect<boolean, FileLockUnavailable | VfsError> =>
  fileLock.isHeld(database, { range: pendingByte, mode: "shared" })

/** Who holds the lease as far as its file tells; only for the message. */
const readHolder = (vfs: Vfs["Service"], database: string): Effect.Effect<number | undefined> =>
  readSmallFile(vfs, LeaseFormat.leasePath(database), LeaseFormat.leaseBytes).pipe(
    Effect.map((bytes) => {
      if (bytes === undefined) return undefined
      const lease = LeaseFormat.decode(bytes)
      return Result.isSuccess(lease) && lease.success.pid !== 0 ? lease.success.pid : undefined
    }),
    Effect.orElseSucceed(() => undefined)
  )

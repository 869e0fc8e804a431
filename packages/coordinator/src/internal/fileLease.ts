/**
 * The lease of `CoordinatorLease.layerFile`: an exclusive kernel lock on the lease file.
 *
 * The contents are written in place, 56 bytes at offset 0: replacing the file, as other small files are, would leave
 * the lock on an inode without a name, and the next process would lock the new one. What a crash could do to them:
 *
 * - A killed process leaves them whole, because what it wrote is in the page cache.
 * - A power loss may tear them, or lose them. Then the generation starts over at 1, which is safe: a generation fences
 *   off holders of an earlier one, and none of those outlives a power loss.
 *
 * Who removes or replaces the file under a living holder lets a second one in, with generations that start over; the
 * holder notices at its next renewal and is not current from then on. The lease file stays where it is.
 *
 * An acquisition syncs its generation before anybody sees it, so that it grows over power losses too wherever the disk
 * keeps its promise. A renewal changes only a time that nobody needs after a restart, so it is not synced.
 */
import type { FileLock, FileLockUnavailable } from "@tidemark/platform/FileLock"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { directoryOf, readSmallFile } from "@tidemark/wal/AtomicFile"
import * as LeaseFormat from "@tidemark/wal/LeaseFormat"
import { sideDirectory } from "@tidemark/wal/WalBaseFormat"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import { LeaseHeld, LeaseNotHeld } from "../CoordinatorErrors.ts"
import type { CoordinatorLease, LeaseGrant } from "../CoordinatorLease.ts"
import { renewRepeatedly, unixMillis } from "./leaseRenewal.ts"

interface Tenure {
  readonly grant: LeaseGrant
  readonly scope: Scope.Closeable
}

export const makeFileLease = (
  platform: {
    readonly vfs: Vfs["Service"]
    readonly fileLock: FileLock["Service"]
    readonly liveness: ProcessLiveness["Service"]
  },
  database: string,
  leaseMillis: number
): CoordinatorLease["Service"] => {
  const { fileLock, liveness, vfs } = platform
  const directory = sideDirectory(database)
  const path = LeaseFormat.leasePath(database)
  let current: Tenure | undefined

  /** What the file says; `undefined` when it is missing or says nothing. One byte more, to see that it is too long. */
  const readContents: Effect.Effect<LeaseFormat.Lease | undefined, VfsError> = Effect.map(
    readSmallFile(vfs, path, LeaseFormat.leaseBytes + 1),
    (bytes) => bytes === undefined ? undefined : Result.getOrUndefined(LeaseFormat.decode(bytes))
  )

  /** Who is named in the contents; pid 0 is nobody. */
  const readHolder = Effect.map(readContents, (lease) => lease?.pid === 0 ? undefined : lease)

  const makeSideDirectory = Effect.gen(function*() {
    if ((yield* vfs.identify(directory)) !== undefined) return
    yield* vfs.makeDirectory(directory)
    yield* vfs.syncDirectory(directoryOf(database))
  })

  const lockFile: Effect.Effect<void, LeaseHeld | FileLockUnavailable | VfsError, Scope.Scope> = fileLock.acquire(
    path,
    { range: { start: 0, length: LeaseFormat.leaseBytes }, mode: "exclusive", create: true }
  ).pipe(Effect.catchTag("RangeLocked", () =>
    Effect.gen(function*() {
      // Only for the message, which can do without.
      const holder = yield* Effect.orElseSucceed(readHolder, () => undefined)
      const now = yield* unixMillis
      return yield* new LeaseHeld({
        name: database,
        holder,
        isOverdue: holder !== undefined && holder.expiresUnixMillis <= now
      })
    })))

  const nobody = (generation: bigint): LeaseFormat.Lease => ({
    pid: 0,
    birth: 0n,
    generation,
    acquiredUnixMillis: 0,
    expiresUnixMillis: 0
  })

  /** Opens the file whose lock is held, with room for exactly the contents, and its name on the disk. */
  const openLocked = Effect.gen(function*() {
    const file = yield* vfs.open(path, { access: "readWrite" })
    const size = yield* file.size
    if (size === 0) yield* vfs.syncDirectory(directory)
    if (size > LeaseFormat.leaseBytes) yield* file.truncate(LeaseFormat.leaseBytes)
    return file
  })

  const renew = (file: VfsFile, lease: LeaseFormat.Lease, inode: string | undefined, grant: LeaseGrant) =>
    Effect.gen(function*() {
      if ((yield* vfs.identify(path))?.inode !== inode) {
        if (current?.grant === grant) current = undefined
        yield* Effect.logWarning(
          `the coordinator lease of ${database} (generation ${grant.generation}) is lost: ${path} was replaced or removed`
        )
        return false
      }
      const expiresUnixMillis = (yield* unixMillis) + leaseMillis
      yield* file.write([LeaseFormat.encode({ ...lease, expiresUnixMillis })], 0)
      return true
    }).pipe(Effect.catch((error) =>
      // The kernel's lock is the lease: others will call it overdue, nothing else comes of it.
      Effect.as(Effect.logWarning(`the coordinator lease of ${database} cannot be renewed: ${error.message}`), true)
    ))

  const end = (file: VfsFile, grant: LeaseGrant) =>
    Effect.gen(function*() {
      if (current?.grant !== grant) return
      current = undefined
      yield* file.write([LeaseFormat.encode(nobody(grant.generation))], 0)
      yield* Effect.logInfo(`released the coordinator lease of ${database} (generation ${grant.generation})`)
    }).pipe(Effect.catch((error) =>
      Effect.logWarning(
        `the coordinator lease of ${database} is released, but still names this process: ${error.message}`
      )
    ))

  const begin = Effect.fnUntraced(function*(scope: Scope.Closeable) {
    yield* makeSideDirectory
    yield* lockFile
    const file = yield* openLocked
    const previous = yield* readContents
    const inode = (yield* vfs.identify(path))?.inode
    const now = yield* unixMillis
    const lease: LeaseFormat.Lease = {
      ...liveness.self,
      generation: (previous?.generation ?? 0n) + 1n,
      acquiredUnixMillis: now,
      expiresUnixMillis: now + leaseMillis
    }
    yield* file.writeAndSyncData([LeaseFormat.encode(lease)], 0)

    const grant: LeaseGrant = {
      name: database,
      generation: lease.generation,
      isCurrent: () => current?.grant === grant
    }
    current = { grant, scope }
    yield* Effect.addFinalizer(() => end(file, grant))
    yield* renewRepeatedly(leaseMillis, renew(file, lease, inode, grant)).pipe(
      Effect.interruptible,
      Effect.forkScoped({ startImmediately: true })
    )
    yield* Effect.logInfo(
      previous === undefined || previous.pid === 0
        ? `acquired the coordinator lease of ${database} (generation ${grant.generation})`
        : `took over the coordinator lease of ${database} (generation ${grant.generation}) from process ${previous.pid}, which is gone`
    )
    return grant
  })

  return {
    name: database,

    acquire: Effect.gen(function*() {
      const scope = yield* Scope.fork(yield* Effect.scope)
      return yield* begin(scope).pipe(
        Scope.provide(scope),
        Effect.onError(() => Scope.close(scope, Exit.void))
      )
    }).pipe(Effect.uninterruptible),

    release: (grant) =>
      Effect.suspend(() =>
        current === undefined || current.grant !== grant
          ? new LeaseNotHeld({ name: database, generation: grant.generation })
          : Scope.close(current.scope, Exit.void)
      ),

    forceRelease: Effect.gen(function*() {
      const forced = (generation: bigint) =>
        Effect.logInfo(`forced the release of the coordinator lease of ${database} (generation ${generation})`)
      if (current !== undefined) {
        const { grant, scope } = current
        yield* Scope.close(scope, Exit.void)
        return yield* forced(grant.generation)
      }
      if ((yield* vfs.identify(path)) === undefined) return
      yield* lockFile
      const left = yield* readHolder
      if (left === undefined) return
      const file = yield* openLocked
      yield* file.writeAndSyncData([LeaseFormat.encode(nobody(left.generation))], 0)
      yield* forced(left.generation)
    }).pipe(Effect.scoped, Effect.uninterruptible),

    holder: Effect.gen(function*() {
      const lease = yield* readHolder
      return lease !== undefined && (yield* liveness.isAlive(lease)) ? lease : undefined
    })
  }
}

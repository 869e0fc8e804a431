/**
 * Who writes a log: one process at a time, kept by a kernel lock on `<directory>/lock` (LOG-10).
 *
 * The kernel lock alone decides, and goes when its holder dies. What stands in the file, in the layout of a lease, says
 * who the holder is, for the message to the next one; whether that very process lives is asked before it is believed.
 */
import type { FileLock, FileLockUnavailable } from "@tidemark/platform/FileLock"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { lockFileName } from "../AppendLogFormat.ts"
import { readSmallFile } from "../AtomicFile.ts"
import * as LeaseFormat from "../LeaseFormat.ts"
import { LogLocked } from "../LogErrors.ts"

/** @internal */
export interface LockParts {
  readonly vfs: Vfs["Service"]
  readonly fileLock: FileLock["Service"]
  readonly liveness: ProcessLiveness["Service"]
  readonly directory: string
}

/**
 * Takes the lock until the scope closes.
 *
 * @internal
 */
export const lockLog = (
  parts: LockParts
): Effect.Effect<void, LogLocked | FileLockUnavailable | VfsError, Scope.Scope> =>
  parts.fileLock.acquire(lockPath(parts), { range: { start: 0, length: 1 }, mode: "exclusive", create: true }).pipe(
    Effect.catchTag(
      "RangeLocked",
      () => Effect.flatMap(readHolder(parts), (holderPid) => new LogLocked({ path: parts.directory, holderPid }))
    )
  )

/**
 * Writes down who holds the lock. Not synced: nobody asks for it after a power loss.
 *
 * @internal
 */
export const tellHolder = (parts: LockParts): Effect.Effect<void, VfsError> =>
  Effect.scoped(Effect.gen(function*() {
    const { birth, pid } = parts.liveness.self
    const acquiredUnixMillis = yield* Clock.currentTimeMillis
    const file = yield* parts.vfs.open(lockPath(parts), { access: "readWrite" })
    yield* file.write([LeaseFormat.encode({ pid, birth, generation: 0n, acquiredUnixMillis, expiresUnixMillis: 0 })], 0)
  }))

const lockPath = ({ directory }: LockParts) => `${directory}/${lockFileName}`

const readHolder = (parts: LockParts): Effect.Effect<number | undefined> =>
  readSmallFile(parts.vfs, lockPath(parts), LeaseFormat.leaseBytes).pipe(
    Effect.map((bytes) => bytes === undefined ? undefined : Result.getOrUndefined(LeaseFormat.decode(bytes))),
    Effect.flatMap((holder) =>
      holder === undefined
        ? Effect.undefined
        : Effect.map(parts.liveness.isAlive(holder), (isAlive) => isAlive ? holder.pid : undefined)
    ),
    Effect.orElseSucceed(() => undefined)
  )

/**
 * What the commands ask about the directory of an append log before they look into it.
 *
 * @since 0.1.0
 */
import { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { lockFileName, looksLikeSegmentName } from "@tidemark/wal/AppendLogFormat"
import { isAnyTemporaryName, readSmallFile } from "@tidemark/wal/AtomicFile"
import * as LeaseFormat from "@tidemark/wal/LeaseFormat"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { OperationFailed } from "../ExitCode.ts"

/**
 * Whether a path is a directory, of whatever.
 *
 * @category predicates
 * @since 0.1.0
 */
export const isDirectory = (path: string): Effect.Effect<boolean, VfsError, Vfs> =>
  Effect.gen(function*() {
    const identity = yield* (yield* Vfs).identify(path)
    return identity?.kind === "directory"
  })

/**
 * Refuses a directory that holds nothing of an append log, so that no command makes one of it: a log has segments, or
 * the file that was to become its first one.
 *
 * @category predicates
 * @since 0.1.0
 */
export const requireAppendLog = Effect.fnUntraced(function*(
  directory: string
): Effect.fn.Return<void, OperationFailed | VfsError, Vfs> {
  const names = yield* (yield* Vfs).list(directory)
  if (names.some((name) => looksLikeSegmentName(name) || isAnyTemporaryName(name))) return
  return yield* new OperationFailed({
    path: directory,
    sentence: `${directory} is a directory without an append log${hintOf(directory)}`
  })
})

/** The files beside a database are looked at with it. */
const hintOf = (directory: string): string => {
  const database = /^(.+)\.fsqlite(?:\/(?:markers|capsules))?\/*$/.exec(directory)?.[1]
  return database === undefined ? "" : `: it belongs to the database ${database}, whose path is to be given`
}

/**
 * The process that has the log open, as far as can be told without asking for its lock, which would be in the way of
 * whoever opens the log at that moment: one that has written its name into the lock file and lives.
 *
 * @category predicates
 * @since 0.1.0
 */
export const holderOf = Effect.fnUntraced(function*(
  directory: string
): Effect.fn.Return<number | undefined, VfsError, Vfs | ProcessLiveness> {
  const bytes = yield* readSmallFile(yield* Vfs, `${directory}/${lockFileName}`, LeaseFormat.leaseBytes)
  const holder = bytes === undefined ? undefined : Result.getOrUndefined(LeaseFormat.decode(bytes))
  if (holder === undefined) return undefined
  return (yield* (yield* ProcessLiveness).isAlive(holder)) ? holder.pid : undefined
})

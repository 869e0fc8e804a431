/**
 * Locks on byte ranges of files that the kernel takes back when their holder dies.
 *
 * **Details**
 *
 * These are open-file-description locks: every acquisition opens the file anew, so two acquisitions conflict also
 * within one process, and closing some other descriptor of the same file takes nothing away (which it does with plain
 * record locks). They conflict with the record locks that SQLite takes on the same bytes.
 *
 * @since 0.1.0
 */
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { VfsError } from "./VfsError.ts"

/**
 * A run of bytes. They need not exist in the file.
 *
 * @category models
 * @since 0.1.0
 */
export interface LockRange {
  readonly start: number
  readonly length: number
}

/**
 * Somebody else holds a lock on these bytes that excludes the one asked for.
 *
 * @category errors
 * @since 0.1.0
 */
export class RangeLocked extends TidemarkError("RangeLocked", { isRetryable: true, sqliteCode: SqliteCode.busy })<{
  readonly path: string
  readonly start: number
  readonly length: number
  readonly mode: "shared" | "exclusive"
}> {
  override get message() {
    return `bytes ${this.start} ... ${this.start + this.length - 1} of ${this.path} are locked by somebody else`
  }
}

/**
 * This platform has no kernel locks to offer (no native access). Nothing is shared without a lock: callers refuse, or
 * use their documented fallback.
 *
 * @category errors
 * @since 0.1.0
 */
export class FileLockUnavailable
  extends TidemarkError("FileLockUnavailable", { isRetryable: false, sqliteCode: SqliteCode.cannotOpen })<{
    readonly path: string
    readonly reason: string
  }>
{
  override get message() {
    return `no kernel lock can be taken on ${this.path}: ${this.reason}`
  }
}

/**
 * Kernel locks on files.
 *
 * @category services
 * @since 0.1.0
 */
export class FileLock extends Context.Service<FileLock, {
  /**
   * Takes a lock now or fails with {@link RangeLocked}; it is held until the scope closes or the process dies. The
   * file is created (empty, mode 0o644) when `create` is set and it does not exist.
   */
  readonly acquire: (
    path: string,
    options: { readonly range: LockRange; readonly mode: "shared" | "exclusive"; readonly create?: boolean | undefined }
  ) => Effect.Effect<void, RangeLocked | FileLockUnavailable | VfsError, Scope.Scope>
}>()("@tidemark/platform/FileLock") {}

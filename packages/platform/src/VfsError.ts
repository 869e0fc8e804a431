/**
 * What goes wrong when files are touched.
 *
 * @since 0.1.0
 */
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"

/**
 * The calls of `Vfs` and `VfsFile`, as they are named in errors.
 *
 * @category models
 * @since 0.1.0
 */
export type VfsOperation =
  | "open"
  | "read"
  | "write"
  | "syncData"
  | "syncFull"
  | "truncate"
  | "size"
  | "remove"
  | "rename"
  | "list"
  | "makeDirectory"
  | "syncDirectory"
  | "identify"

/**
 * An operation on a file failed: which one, on which path, with which errno code (`"ENOSPC"`, `"EIO"`, `"EACCES"`, ...).
 *
 * **Gotchas**
 *
 * After a failed write or sync the contents of the file are unknown until it is read again from the disk. Nothing
 * retries such a call on the same file.
 *
 * @category errors
 * @since 0.1.0
 */
export class VfsError extends TidemarkError("VfsError", { isRetryable: false, sqliteCode: SqliteCode.ioError })<{
  readonly operation: VfsOperation
  readonly path: string
  readonly code: string
  readonly cause: unknown
}> {
  override get message() {
    return `cannot ${this.operation} ${this.path}: ${this.code}`
  }
}

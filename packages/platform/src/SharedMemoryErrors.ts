/**
 * Why a file is not mapped.
 *
 * @since 0.1.0
 */
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"

/**
 * Files cannot be mapped here: there is no native access (neither `koffi` nor `node:ffi`, or another system than Linux),
 * or the self-test found that what is stored in a mapping does not arrive in the file. Nothing is shared then; callers
 * refuse, or keep to one process and the memory layer.
 *
 * @category errors
 * @since 0.1.0
 */
export class SharedMemoryUnavailable
  extends TidemarkError("SharedMemoryUnavailable", { isRetryable: false, sqliteCode: SqliteCode.cannotOpen })<{
    readonly path: string
    readonly reason: string
  }>
{
  override get message() {
    return `${this.path} cannot be mapped into memory: ${this.reason}`
  }
}

/**
 * There is a file, but mapping it could kill the process: touching a page behind the end of a mapped file, or storing
 * into one for which a full disk has no block, is answered with SIGBUS. The file was not touched. Who owns the name
 * makes a new one with `create`.
 *
 * @category errors
 * @since 0.1.0
 */
export class SharedMemoryUnmappable
  extends TidemarkError("SharedMemoryUnmappable", { isRetryable: false, sqliteCode: SqliteCode.cannotOpen })<{
    readonly path: string
    readonly reason: string
  }>
{
  override get message() {
    return `${this.path} is not mapped, because using it could kill the process: ${this.reason}`
  }
}

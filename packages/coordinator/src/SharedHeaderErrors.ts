/**
 * The refusals of the shared-memory header (section 7 of `formats.md`), and what else can be met on the way to it.
 *
 * **Details**
 *
 * A header is never trusted and never durable: the log is. A file that is refused is made anew by whoever becomes the
 * publisher (RC-18), so these errors reach a caller only where it may not do that: while somebody else publishes.
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import type { PageSize } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"

interface Refusal extends Record<string, unknown> {
  /** The file, or the name of the memory. */
  readonly path: string
  /** Which field is wrong, and what was found and expected there. */
  readonly issue: FormatIssue
}

const traits = { isRetryable: false, sqliteCode: SqliteCode.cannotOpen } as const

const consequence = "the log has all that is durable: close every process of the database and open it again"

/**
 * The shared-memory header is shorter than its 216 bytes, or than the regions that it describes.
 *
 * @category errors
 * @since 0.1.0
 */
export class ShmTooSmall extends TidemarkError("ShmTooSmall", traits)<Refusal> {
  override get message() {
    return `${this.path} is too small (${this.issue.message}); ${consequence}`
  }
}

/**
 * What has the name of a shared-memory header is none, or is still being filled.
 *
 * @category errors
 * @since 0.1.0
 */
export class ShmBadMagic extends TidemarkError("ShmBadMagic", traits)<Refusal> {
  override get message() {
    return `${this.path} is no finished shared-memory header (${this.issue.message}); ${consequence}`
  }
}

/**
 * The shared-memory header was made by a version that this one does not know.
 *
 * @category errors
 * @since 0.1.0
 */
export class ShmVersionMismatch extends TidemarkError("ShmVersionMismatch", traits)<Refusal> {
  override get message() {
    return `${this.path} has another version (${this.issue.message}); ${consequence}`
  }
}

/**
 * The shared-memory header names a page size that does not exist.
 *
 * @category errors
 * @since 0.1.0
 */
export class ShmInvalidPageSize extends TidemarkError("ShmInvalidPageSize", traits)<Refusal> {
  override get message() {
    return `${this.path} names no page size (${this.issue.message}); ${consequence}`
  }
}

/**
 * The fields of a shared-memory header that never change do not match their checksum.
 *
 * @category errors
 * @since 0.1.0
 */
export class ShmChecksumMismatch extends TidemarkError("ShmChecksumMismatch", traits)<Refusal> {
  override get message() {
    return `${this.path} is damaged (${this.issue.message}); ${consequence}`
  }
}

/**
 * The checksum matches, but the regions are not where the number of slots puts them, there are no slots, or bytes that
 * have to be zero are not: somebody wrote this header by other rules.
 *
 * @category errors
 * @since 0.1.0
 */
export class ShmLayoutMismatch extends TidemarkError("ShmLayoutMismatch", traits)<Refusal> {
  override get message() {
    return `${this.path} has another layout (${this.issue.message}); ${consequence}`
  }
}

/**
 * Why bytes are no shared-memory header.
 *
 * @category errors
 * @since 0.1.0
 */
export type ShmRefusal =
  | ShmTooSmall
  | ShmBadMagic
  | ShmVersionMismatch
  | ShmInvalidPageSize
  | ShmChecksumMismatch
  | ShmLayoutMismatch

/**
 * The shared-memory header is fine, but for a database with pages of another size. Nothing was changed. Who opens it
 * has read the wrong database, or the database was replaced while its header was left behind.
 *
 * @category errors
 * @since 0.1.0
 */
export class ShmPageSizeMismatch extends TidemarkError("ShmPageSizeMismatch", traits)<{
  readonly path: string
  readonly found: PageSize
  readonly expected: PageSize
}> {
  override get message() {
    return `${this.path} is for pages of ${this.found} bytes, the database has pages of ${this.expected} bytes; nothing was changed: when no process uses the database, remove that file and open it again`
  }
}

/**
 * The shared-memory header was removed or replaced while this process publishes in it: others look at another one, and
 * do not see what is published here. What is committed is safe in the log. End the publication and begin it anew.
 *
 * @category errors
 * @since 0.1.0
 */
export class ShmReplaced extends TidemarkError("ShmReplaced", { ...traits, sqliteCode: SqliteCode.protocol })<{
  readonly path: string
}> {
  override get message() {
    return `${this.path} was removed or replaced while this process publishes in it; what is committed is safe: close the coordinator and open it again`
  }
}

/**
 * All 2^62 - 1 transaction ids of this header are used up (SHM-10). Nothing was changed.
 *
 * @category errors
 * @since 0.1.0
 */
export class TxnIdExhausted
  extends TidemarkError("TxnIdExhausted", { isRetryable: false, sqliteCode: SqliteCode.full })<{
    /** The last id that was given out, 2^62 - 1. */
    readonly limit: bigint
  }>
{
  override get message() {
    return `there are no transaction ids left (limit ${this.limit}); nothing was changed`
  }
}

/**
 * What a pager refuses. Nothing is changed by a refusal: the transaction goes on.
 *
 * @since 0.1.0
 */
import type { PageNumber } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"

/**
 * A number that is not that of a usable page.
 *
 * @category errors
 * @since 0.1.0
 */
export class PageOutOfRange
  extends TidemarkError("PageOutOfRange", { isRetryable: false, sqliteCode: SqliteCode.misuse })<{
    readonly page: number
    /** What the number was given as. */
    readonly what: string
    readonly maxPage: number
  }>
{
  override get message() {
    return `${this.page} was given as ${this.what}; usable are 1 ... ${this.maxPage} but for SQLite's lock-byte page`
  }
}

/**
 * Bytes that are not exactly one page.
 *
 * @category errors
 * @since 0.1.0
 */
export class WrongPageSize
  extends TidemarkError("WrongPageSize", { isRetryable: false, sqliteCode: SqliteCode.misuse })<{
    readonly page: PageNumber
    readonly bytes: number
    readonly pageSize: number
  }>
{
  override get message() {
    return `page ${this.page} was to be written with ${this.bytes} bytes, but a page of this database has ${this.pageSize}`
  }
}

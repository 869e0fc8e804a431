/**
 * The typed errors of row ids (RID-10, RID-11), with the reason of each on the wire (section 9 of `formats.md`).
 *
 * | error                 | SQLite code | reason |
 * | --------------------- | ----------- | ------ |
 * | `SchemaMismatch`      | 17          | 2      |
 * | `Exhausted`           | 13          | 3      |
 * | `TableNotInitialized` | 13          | 4      |
 *
 * @since 0.1.0
 */
import { maxRowId, type SchemaEpoch, type TableId } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import { Exhausted } from "@tidemark/wal/LogErrors"
import type { SchemaMismatch } from "./CoordinatorErrors.ts"

export {
  /**
   * A table has come to the largest row id, or a range that was asked for does not fit below it wholly (RID-08, RID-10).
   * Nothing was reserved. The same error that a log answers with when its numbers run out.
   *
   * @category errors
   * @since 0.1.0
   */
  Exhausted
}

/**
 * Nobody has said yet what the largest row id of the table is (RID-11): the row ids of a table are in no file, so they
 * have to be initialised from the rows themselves after every start and every change of the schema. Nothing was reserved.
 *
 * @category errors
 * @since 0.1.0
 */
export class TableNotInitialized
  extends TidemarkError("TableNotInitialized", { isRetryable: false, sqliteCode: SqliteCode.full })<{
    readonly table: TableId
    readonly schemaEpoch: SchemaEpoch
  }>
{
  override get message() {
    return `the row ids of table ${this.table} are not initialised under schema epoch ${this.schemaEpoch}; nothing was reserved: initialise them from the largest row id of the table`
  }
}

/**
 * Why no row id was handed out.
 *
 * @category errors
 * @since 0.1.0
 */
export type RowIdError = SchemaMismatch | Exhausted | TableNotInitialized

/**
 * The {@link Exhausted} of a table, the same whoever makes it: the allocator, or the client that has its answer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rowIdsExhausted = (table: TableId): Exhausted =>
  new Exhausted({ what: `row ids of table ${table}`, limit: maxRowId })

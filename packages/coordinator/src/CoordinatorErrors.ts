/**
 * The typed errors of the coordinator: what a correct program can meet when it commits.
 *
 * **Details**
 *
 * An error says where it happened, what it means for the data, and what the caller can do. Errors that a client can
 * get over the wire carry the SQLite code of the same meaning (section 9 of `formats.md`).
 *
 * {@link Conflict} and {@link SerializationFailure} are the everyday answers of an optimistic coordinator, and the next
 * thing that happens to them is a retry: they are made without a stack trace, whose capture takes some fifty times as
 * long as everything else about them.
 *
 * @since 0.1.0
 */
import type { CommitSeq, PageNumber, SchemaEpoch } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import type { Lease } from "@tidemark/wal/LeaseFormat"

/**
 * `TidemarkError` whose instances have no stack trace of their own: `stack` is the tag and the message.
 *
 * The stack is captured by the constructor of `Error` and cannot be declined there, so it is not called: instances are
 * ordinary objects with the prototype chain of the error (`instanceof Error` holds, they can be yielded, failed with
 * and caught by tag like any other).
 */
const ExpectedError = <Tag extends string>(
  tag: Tag,
  traits: Parameters<typeof TidemarkError>[1]
): ReturnType<typeof TidemarkError<Tag>> => {
  const withStack = TidemarkError(tag, traits)
  function Stackless(this: object, fields: Record<string, unknown>) {
    Object.assign(this, { _tag: tag }, fields)
  }
  // Prototypes are typed `any`.
  const prototype = Object.create(withStack.prototype as object, {
    stack: {
      configurable: true,
      get(this: Error) {
        return `${this.name}: ${this.message}`
      }
    }
  }) as object
  Stackless.prototype = prototype
  // A plain function is a constructor, and this one assigns what `TidemarkError` assigns; neither can be typed.
  return Stackless as unknown as ReturnType<typeof TidemarkError<Tag>>
}

const listed = (pages: ReadonlyArray<PageNumber>): string =>
  pages.length === 1
    ? `page ${pages[0]}`
    : `${pages.length} pages (${pages.slice(0, 8).join(", ")}${pages.length > 8 ? ", ..." : ""})`

/**
 * Somebody else committed first (CO-01). Nothing of the transaction was written; it may be run again on a snapshot at
 * or above `conflictingSeq`.
 *
 * **Details**
 *
 * `reason` is `"write set"` when pages that it wants to write were changed, `"read set"` when pages that it read were,
 * and `"floor"` when its snapshot is older than what the coordinator remembers (CO-14); then `pages` are all of its
 * pages. `pages` are ascending.
 *
 * @category errors
 * @since 0.1.0
 */
export class Conflict extends ExpectedError("Conflict", { isRetryable: true, sqliteCode: SqliteCode.busySnapshot })<{
  readonly conflictingSeq: CommitSeq
  readonly pages: ReadonlyArray<PageNumber>
  readonly reason: "write set" | "read set" | "floor"
}> {
  override get message() {
    return this.reason === "floor"
      ? `the snapshot is older than commit ${this.conflictingSeq}, up to which changes are forgotten; run the transaction again on a fresh snapshot`
      : `${
        listed(this.pages)
      } of the ${this.reason} changed up to commit ${this.conflictingSeq}, after the snapshot was taken; run the transaction again on a fresh snapshot`
  }
}

/**
 * A serializable transaction cannot be put into any order with those that committed meanwhile (CO-13). Nothing of it
 * was written; it may be run again like after a {@link Conflict}.
 *
 * **Details**
 *
 * `reason` is `"read set"` when pages that it read were changed after its snapshot (`pages`, up to `conflictingSeq`),
 * and `"pivot"` when it both read what another overwrote and overwrote what another read (`pages` is empty and
 * `conflictingSeq` is its snapshot).
 *
 * @category errors
 * @since 0.1.0
 */
export class SerializationFailure
  extends ExpectedError("SerializationFailure", { isRetryable: true, sqliteCode: SqliteCode.busySnapshot })<{
    readonly conflictingSeq: CommitSeq
    readonly pages: ReadonlyArray<PageNumber>
    readonly reason: "read set" | "pivot"
  }>
{
  override get message() {
    return this.reason === "pivot"
      ? "the transaction stands between two others that cannot both come before it; run it again on a fresh snapshot"
      : `${
        listed(this.pages)
      } that the transaction read changed up to commit ${this.conflictingSeq}; run it again on a fresh snapshot`
  }
}

/**
 * Somebody is in the way for a moment: a serialized writer, commits that are still being synced, a full table of slots
 * or permits (CO-12, CO-17). The same error that a log answers with.
 *
 * @category errors
 * @since 0.1.0
 */
export { Busy } from "@tidemark/wal/LogErrors"

/**
 * Another coordinator holds the lease (CO-08). Nothing was changed; commit through that one, or try again when it is
 * gone. `holder` is `undefined` while it has not written its contents
 * yet (section 2.3 of `formats.md`).
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseHeld extends TidemarkError("LeaseHeld", { isRetryable: true, sqliteCode: SqliteCode.busy })<{
  /** The database, or the name of the lease in memory. */
  readonly name: string
  readonly holder: Lease | undefined
  /** The holder's renewal is overdue: it hangs, or the clock was set. It still holds the lease. */
  readonly isOverdue: boolean
}> {
  override get message() {
    if (this.holder === undefined) return `another process holds the coordinator lease of ${this.name}`
    const overdue = this.isOverdue ? ", and it has not renewed it in time" : ""
    return `process ${this.holder.pid} holds the coordinator lease of ${this.name} (generation ${this.holder.generation})${overdue}`
  }
}

/**
 * This coordinator does not hold the lease (any more), so it may not append (CO-07). Nothing of the refused commits
 * was written; acquire the lease, or commit through its holder.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseNotHeld extends TidemarkError("LeaseNotHeld", { isRetryable: false, sqliteCode: SqliteCode.busy })<{
  /** The database, or the name of the lease in memory. */
  readonly name: string
  /** The generation that was to be used or released; `undefined` when there never was one. */
  readonly generation: bigint | undefined
}> {
  override get message() {
    return this.generation === undefined
      ? `the coordinator lease of ${this.name} is not held here`
      : `generation ${this.generation} does not hold the coordinator lease of ${this.name} any more`
  }
}

/**
 * The request was made under another schema (RID-11). Nothing happened; begin again on a fresh snapshot.
 *
 * @category errors
 * @since 0.1.0
 */
export class SchemaMismatch
  extends TidemarkError("SchemaMismatch", { isRetryable: false, sqliteCode: SqliteCode.schema })<{
    readonly current: SchemaEpoch
    readonly found: SchemaEpoch
  }>
{
  override get message() {
    return `the request was made under schema epoch ${this.found}, current is ${this.current}; begin again on a fresh snapshot`
  }
}

/**
 * A page in a spill file is not what was written there: too short, or with another checksum (CO-11). The transaction
 * it belongs to cannot commit; no other data is touched. Run that transaction again.
 *
 * @category errors
 * @since 0.1.0
 */
export class SpillCorrupt
  extends TidemarkError("SpillCorrupt", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly path: string
    readonly page: PageNumber
    /** Byte offset in the spill file. */
    readonly offset: number
  }>
{
  override get message() {
    return `page ${this.page} at byte ${this.offset} of the spill file ${this.path} is damaged; the transaction cannot commit`
  }
}

/**
 * The write set has more pages than one commit can carry (section 9 of `formats.md`). Nothing was sent or written;
 * split the transaction.
 *
 * @category errors
 * @since 0.1.0
 */
export class WriteSetTooLarge
  extends TidemarkError("WriteSetTooLarge", { isRetryable: false, sqliteCode: SqliteCode.full })<{
    readonly pages: number
    readonly maxPages: number
  }>
{
  override get message() {
    return `the transaction writes ${this.pages} pages, a commit carries at most ${this.maxPages}; split it`
  }
}

/**
 * The read set has more ids than one commit can carry (section 9 of `formats.md`). Nothing was sent or written; read
 * less under serializable isolation, or use snapshot isolation.
 *
 * @category errors
 * @since 0.1.0
 */
export class ReadSetTooLarge
  extends TidemarkError("ReadSetTooLarge", { isRetryable: false, sqliteCode: SqliteCode.full })<{
    readonly ids: number
    readonly maxIds: number
  }>
{
  override get message() {
    return `the transaction read ${this.ids} pages, a commit carries at most ${this.maxIds} ids; read less, or use snapshot isolation`
  }
}

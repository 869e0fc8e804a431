/**
 * What can go wrong with reading a commit marker stream.
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import type { CommitSeq } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import type { MarkerDamage } from "./MarkerStore.ts"

/**
 * A record that the stream should have cannot be read. Nothing was changed.
 *
 * @category errors
 * @since 0.1.0
 */
export class MarkerUnreadable
  extends TidemarkError("MarkerUnreadable", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly path: string
    readonly issue: FormatIssue
  }>
{
  override get message() {
    return `a commit marker in ${this.path} cannot be read (${this.issue.message}); nothing was changed: ` +
      "restore the file from a copy; look at it with `tidemark inspect --records`"
  }
}

/**
 * The marker stream is damaged (RC-26): commits that were acknowledged may be behind the damage. Nothing was changed.
 *
 * @category errors
 * @since 0.1.0
 */
export class MarkersDamaged
  extends TidemarkError("MarkersDamaged", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly damage: MarkerDamage
    /** The last record before the damage; `undefined` when there is none. */
    readonly last: CommitSeq | undefined
  }>
{
  override get message() {
    const { damage, last } = this
    const behind = damage.recordsBehind === 0 ? "no good record" : `${damage.recordsBehind} good records`
    const origin = damage.couldBeTorn ? "; a power loss during the last batch could have left it like this" : ""
    return `${damage.path} is damaged (${damage.issue.message}), with ${behind} behind it${origin}; nothing was changed: ` +
      `restore the file from a copy, or open it with acceptLoss to keep ${
        last === undefined ? "no marker of it" : `what ends with sequence ${last}`
      }`
  }
}

/**
 * The base of every typed error: what happened, and what the caller can do about it.
 *
 * @since 0.1.0
 */
import * as Data from "effect/Data"

/**
 * The result codes of SQLite that Tidemark's errors carry, so that a caller which speaks SQLite can pass them on.
 *
 * @category models
 * @since 0.1.0
 */
export const SqliteCode = {
  busy: 5,
  ioError: 10,
  corrupt: 11,
  full: 13,
  cannotOpen: 14,
  protocol: 15,
  schema: 17,
  misuse: 21,
  notADatabase: 26,
  busySnapshot: 517
} as const

/**
 * One of the codes in the {@link SqliteCode} table.
 *
 * @category models
 * @since 0.1.0
 */
export type SqliteCode = (typeof SqliteCode)[keyof typeof SqliteCode]

/**
 * What every error of Tidemark can be asked, beside its own fields.
 *
 * @category models
 * @since 0.1.0
 */
export interface ErrorTraits {
  /** Whether the same call may succeed later without anybody's intervention. */
  readonly isRetryable: boolean
  /** The SQLite result code that means the same, where there is one. */
  readonly sqliteCode: SqliteCode | undefined
}

/**
 * Makes the base class of a typed error with tag `tag` and fixed traits.
 *
 * **Details**
 *
 * The subclass declares its fields and overrides `message` with one sentence that says what happened, where, what it
 * means for the data, and what to do.
 *
 * **Example** (Declaring an error)
 *
 * ```ts
 * import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
 *
 * class LaneFull extends TidemarkError("LaneFull", { isRetryable: true, sqliteCode: SqliteCode.busy })<{
 *   readonly lane: number
 * }> {
 *   override get message() {
 *     return `lane ${this.lane} is full; try again when the epoch is flushed`
 *   }
 * }
 *
 * new LaneFull({ lane: 3 }).isRetryable // => true
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const TidemarkError = <Tag extends string>(
  tag: Tag,
  traits: { readonly isRetryable: boolean; readonly sqliteCode?: SqliteCode }
) => {
  abstract class Base<Fields extends Record<string, unknown>> extends Data.TaggedError(tag)<Record<string, unknown>> {
    declare readonly _fields: Fields
    get isRetryable(): boolean {
      return traits.isRetryable
    }
    get sqliteCode(): SqliteCode | undefined {
      return traits.sqliteCode
    }
  }
  // The fields are assigned by `Data.TaggedError`; only their types are added here, which a generic base class cannot
  // express on its own.
  return Base as unknown as new<Fields extends Record<string, unknown>>(
    fields: { readonly [K in keyof Fields]: Fields[K] }
  ) =>
    & InstanceType<ReturnType<typeof Data.TaggedError<Tag>>>
    & ErrorTraits
    & { readonly [K in keyof Fields]: Fields[K] }
}

/**
 * How a binary format is written down once and used through two doors: plain functions for hot paths, and a Schema
 * codec for everybody else.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"
import { SqliteCode, TidemarkError } from "./TidemarkError.ts"

/**
 * Says which field of a format is wrong, at which byte offset, and what was found and expected there.
 *
 * **Details**
 *
 * `code` is stable and is what programs match on (`"BadMagic"`, `"TooShort"`, `"ChecksumMismatch"`, ...).
 *
 * @category errors
 * @since 0.1.0
 */
export class FormatIssue extends TidemarkError("FormatIssue", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
  readonly format: string
  readonly code: string
  readonly field: string
  readonly offset: number
  readonly found: string
  readonly expected: string
}> {
  override get message() {
    return `${this.format}: ${this.field} at byte ${this.offset} is ${this.found}, expected ${this.expected}`
  }
}

/**
 * A format with its two plain functions. `decode` never throws and never allocates by an unchecked length.
 *
 * @category models
 * @since 0.1.0
 */
export interface BinaryFormat<A> {
  readonly decode: (bytes: Uint8Array) => Result.Result<A, FormatIssue>
  readonly encode: (value: A) => Uint8Array
}

/**
 * Wraps the plain functions of a format as a Schema codec from `Uint8Array` to `target`.
 *
 * **Details**
 *
 * The message of the decoder's {@link FormatIssue} becomes the message of the schema issue. Who wants the issue as a
 * value (its `code`, `field` and `offset`) calls the plain `decode`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const toCodec = <A>(target: Schema.Codec<A, A>, format: BinaryFormat<A>): Schema.Codec<A, Uint8Array> =>
  Schema.Uint8Array.pipe(Schema.decodeTo(
    target,
    SchemaTransformation.transformEffect<A, Uint8Array>({
      decode: (bytes, options) =>
        Result.match(format.decode(bytes), {
          onFailure: (issue) => Effect.fail(new SchemaIssue.InvalidValue({ message: issue.message }, bytes, options)),
          onSuccess: Effect.succeed
        }),
      encode: (value) => Effect.succeed(format.encode(value))
    })
  ))

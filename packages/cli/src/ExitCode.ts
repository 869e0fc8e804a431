/**
 * How a run of the program ends: its exit codes, and the errors that only the program itself has.
 *
 * @since 0.1.0
 */
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import * as Data from "effect/Data"

/**
 * The exit codes: 0 fine, 1 the thing examined has a problem, 2 wrong usage, 3 the operation failed.
 *
 * @category models
 * @since 0.1.0
 */
export const ExitCode = { fine: 0, problem: 1, usage: 2, failed: 3, interrupted: 130 } as const
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode]

/**
 * The command line cannot be followed: exit code 2. Nothing was done.
 *
 * @category errors
 * @since 0.1.0
 */
export class WrongUsage extends TidemarkError("WrongUsage", { isRetryable: false, sqliteCode: SqliteCode.misuse })<{
  /** What is wrong and what would be right, one sentence. */
  readonly sentence: string
}> {
  override get message() {
    return this.sentence
  }
}

/**
 * The command could not do its work, for a reason that no component has an error of its own for: exit code 3.
 *
 * @category errors
 * @since 0.1.0
 */
export class OperationFailed extends TidemarkError("OperationFailed", { isRetryable: false })<{
  readonly path: string
  /** What happened, with the path and the offset where there is one, one sentence. */
  readonly sentence: string
}> {
  override get message() {
    return this.sentence
  }
}

/**
 * Everything was said; the program only has to end with this code.
 *
 * @category errors
 * @since 0.1.0
 */
export class Ended extends Data.TaggedError("Ended")<{ readonly code: ExitCode }> {}

/**
 * Broken invariants. What a correct program can meet is a typed error; what it cannot is a defect, and this module is
 * how a defect is raised.
 *
 * @since 0.1.0
 */

/**
 * Raised by {@link invariant}. It is a defect: nothing in Tidemark catches it.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvariantViolation extends Error {
  override readonly name = "InvariantViolation"
}

/**
 * Throws an {@link InvariantViolation} unless `condition` holds.
 *
 * **Details**
 *
 * `sentence` states what should have been true, as a sentence: `"the end of a batch is not below its start"`.
 *
 * **Example** (Guarding a step)
 *
 * ```ts
 * import { invariant } from "@tidemark/core/Invariant"
 *
 * const advance = (durableLsn: number, writtenLsn: number) => {
 *   invariant(durableLsn <= writtenLsn, "durable never passes written")
 *   return writtenLsn
 * }
 * ```
 *
 * @category assertions
 * @since 0.1.0
 */
export function invariant(condition: boolean, sentence: string): asserts condition {
  if (!condition) throw new InvariantViolation(sentence)
}

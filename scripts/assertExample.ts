import { deepStrictEqual } from "node:assert/strict"

/** What the expression of a line `expr // => value` of an example becomes: itself, when it has the value. */
export const assertExample = <A>(actual: A, expected: unknown): A => {
  deepStrictEqual(actual, expected)
  return actual
}

import { deepStrictEqual } from "node:assert/strict"

/** What a line `expr // => value` of an example becomes. */
export const assertExample = (actual: unknown, expected: unknown): void => deepStrictEqual(actual, expected)

/**
 * What the tests of databases do again and again: damage a file, verify the database, recover it, be refused.
 */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { readFileSync, writeFileSync } from "node:fs"
import { assertFailed, documentOf, objectIn, tidemark, unchanged } from "./program.ts"

const alwaysThere = ["case", "cases", "ok", "tip", "problems", "tornTailBytes"]

export const flip = (path: string, offset: number) => {
  const bytes = readFileSync(path)
  bytes[offset] = (bytes[offset] ?? 0) ^ 0x40
  writeFileSync(path, bytes)
}

/** What `verify` says; it must have changed nothing. */
export const verified = (directory: string, path: string) =>
  Effect.map(unchanged(directory, "verify", path, "--json"), (ended) => {
    const document = documentOf(ended)
    assert.containsAllKeys(document, alwaysThere)
    assert.strictEqual(ended.code, document["ok"] === true ? 0 : 1, ended.stderr)
    return document
  })

export const recovered = (path: string, ...flags: ReadonlyArray<string>) =>
  Effect.map(tidemark("recover", path, "--json", ...flags), (ended) => {
    assert.strictEqual(ended.code, 0, ended.stderr)
    return documentOf(ended)
  })

/** `recover` and `checkpoint` are refused, having changed nothing. */
export const assertNotOpened = (directory: string, path: string, tag: string, sentence: RegExp) =>
  Effect.gen(function*() {
    for (const command of ["recover", "checkpoint"]) {
      assertFailed(yield* unchanged(directory, command, path, "--json"), tag, sentence)
    }
  })

/** The same, and `verify` says that a start would be refused. */
export const assertRefused = (directory: string, path: string, row: string, tag: string, sentence: RegExp) =>
  Effect.gen(function*() {
    const document = yield* verified(directory, path)
    assert.deepInclude(document, { case: row, ok: false })
    assert.deepInclude(objectIn(document, "refusal"), { tag })
    yield* assertNotOpened(directory, path, tag, sentence)
    return document
  })

/**
 * What the tests of databases with a parallel log do again and again: damage it, verify it, recover it.
 */
import { assert } from "@effect/vitest"
import * as Certificates from "@tidemark/wal/CertificateFormat"
import { Effect } from "effect"
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import type { MadeParallel } from "./parallelDatabases.ts"
import { documentOf, tidemark, unchanged } from "./program.ts"

const alwaysThere = ["case", "cases", "ok", "tip", "problems", "tornTailBytes"]

export const segmentAt = ({ segments }: MadeParallel, index: number): string => {
  const path = segments[index]
  assert(path !== undefined)
  return path
}

/** All certificates have one lane here. */
export const offsetOfCertificate = (index: number) =>
  Certificates.certificateLogHeaderBytes + index * Certificates.certificateBytes(1)

export const flip = (path: string, offset: number) => {
  const bytes = readFileSync(path)
  bytes[offset] = (bytes[offset] ?? 0) ^ 0x40
  writeFileSync(path, bytes)
}

/** As if the certificates from this one on had never been written. */
export const cutCertificates = (path: string, from: number) =>
  writeFileSync(path, readFileSync(path).fill(0, offsetOfCertificate(from)))

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

export const segmentsIn = (directory: string) => readdirSync(directory).filter((name) => name.includes("-wal-seg-"))

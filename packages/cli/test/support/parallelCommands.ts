/**
 * What the tests of databases with a parallel log do again and again to its files.
 */
import { assert } from "@effect/vitest"
import * as Certificates from "@tidemark/wal/CertificateFormat"
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import type { MadeParallel } from "./parallelDatabases.ts"

export const segmentAt = ({ segments }: MadeParallel, index: number): string => {
  const path = segments[index]
  assert(path !== undefined)
  return path
}

/** All certificates have one lane here. */
export const offsetOfCertificate = (index: number) =>
  Certificates.certificateLogHeaderBytes + index * Certificates.certificateBytes(1)

/** As if the certificates from this one on had never been written. */
export const cutCertificates = (path: string, from: number) =>
  writeFileSync(path, readFileSync(path).fill(0, offsetOfCertificate(from)))

export const segmentsIn = (directory: string) => readdirSync(directory).filter((name) => name.includes("-wal-seg-"))

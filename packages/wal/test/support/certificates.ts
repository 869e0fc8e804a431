/** Certificates and their log as values and bytes, made by the encoder. */
import { CommitSeq, WalEpoch } from "@tidemark/core/Scalars"
import fc from "fast-check"
import {
  type Certificate,
  certificateBytes,
  certificateLogHeaderBytes,
  checksumOf,
  encodeCertificate,
  encodeHeader
} from "../../src/CertificateFormat.ts"
import { concat } from "./walFiles.ts"

export const seq = (value: number | bigint) => CommitSeq.make(BigInt(value))
export const walEpoch = (value: number | bigint) => WalEpoch.make(BigInt(value))

export const logHeader = {
  databaseId: Uint8Array.from({ length: 16 }, (_, index) => 0xa0 + index),
  createdUnixNanos: 1_700_000_000_000_000_000n
}

/** The certificate number `n` (from 1 on) of a log: three commits each, the first one commit 1. */
export const certificateNumber = (n: number, changes: Partial<Certificate> = {}): Certificate => ({
  fallbackActive: n % 2 === 0,
  aborted: false,
  certificateEpoch: BigInt(n) * 10n,
  low: seq(n * 3 - 2),
  high: seq(n * 3),
  segmentEpoch: walEpoch(n + 100),
  databasePages: n + 50,
  pageSetSize: n + 1,
  segmentCrc: (n * 0x9e3779b1) >>> 0,
  laneRecords: [n, 2, 0],
  ...changes
})

export const abortedNumber = (n: number, changes: Partial<Certificate> = {}): Certificate =>
  certificateNumber(n, { aborted: true, segmentCrc: 0, pageSetSize: 0, laneRecords: [0, 0, 0], ...changes })

/** The bytes of a log, each certificate chained to the one before. */
export const certificateLog = (
  certificates: ReadonlyArray<Certificate>,
  options: { readonly zeros?: number } = {}
): Uint8Array => {
  const parts = [encodeHeader(logHeader)]
  let chain = checksumOf(parts[0] ?? new Uint8Array(4))
  for (const certificate of certificates) {
    const bytes = encodeCertificate(certificate, chain)
    chain = checksumOf(bytes)
    parts.push(bytes)
  }
  return concat(...parts, new Uint8Array(options.zeros ?? 0))
}

/** Where certificate `index` (from 0 on) starts in a log whose certificates have so many lanes. */
export const offsetOf = (index: number, lanes = 3): number =>
  certificateLogHeaderBytes + index * certificateBytes(lanes)

const u32 = fc.nat(0xffffffff)
const u64 = fc.bigInt(0n, 2n ** 64n - 1n)

export const anyCertificate: fc.Arbitrary<Certificate> = fc.record({
  fallbackActive: fc.boolean(),
  aborted: fc.boolean(),
  certificateEpoch: u64,
  interval: fc.tuple(fc.bigInt(1n, 2n ** 64n - 1n), u64),
  segmentEpoch: u64,
  databasePages: u32,
  pageSetSize: u32,
  segmentCrc: u32,
  laneRecords: fc.array(u32, { maxLength: 20 })
}).map((drawn): Certificate => {
  const [low, length] = drawn.interval
  const { aborted } = drawn
  return {
    fallbackActive: drawn.fallbackActive,
    aborted,
    certificateEpoch: drawn.certificateEpoch,
    low: seq(low),
    high: seq(low + length > 2n ** 64n - 1n ? 2n ** 64n - 1n : low + length),
    segmentEpoch: walEpoch(drawn.segmentEpoch),
    databasePages: drawn.databasePages,
    pageSetSize: aborted ? 0 : drawn.pageSetSize,
    segmentCrc: aborted ? 0 : drawn.segmentCrc,
    laneRecords: aborted ? drawn.laneRecords.map(() => 0) : drawn.laneRecords
  }
})

/**
 * The certificate log of a parallel WAL, certificate by certificate (section 4 of `formats.md`).
 *
 * @since 0.1.0
 */
import type { VfsError } from "@tidemark/platform/VfsError"
import {
  type Certificate,
  certificateBytes,
  type CertificateScan,
  checksumOf,
  decodeCertificate,
  scanCertificates
} from "@tidemark/wal/CertificateFormat"
import * as Effect from "effect/Effect"
import * as Hex from "effect/encoding/Hex"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import type { OperationFailed } from "../ExitCode.ts"
import { isoTime } from "../Style.ts"
import {
  type Fields,
  type InspectedRecord,
  type Inspection,
  type OpenedFile,
  type Problem,
  problemOf
} from "./Inspection.ts"
import { readWhole } from "./wholeFile.ts"

/**
 * Looks at an open file as a certificate log, on its own: whether the segments that it vouches for are there is for
 * `verify`.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectCertificateLog = Effect.fnUntraced(function*(
  opened: OpenedFile
): Effect.fn.Return<Inspection, OperationFailed | VfsError> {
  const bytes = yield* readWhole(opened)
  const scan = scanCertificates(bytes)
  const { header } = scan
  return {
    kind: "certificate-log",
    header: header === undefined
      ? null
      : { databaseId: Hex.encode(header.databaseId), createdUnixNs: header.createdUnixNanos },
    summary: header === undefined
      ? {}
      : { created: isoTime(Number(header.createdUnixNanos / 1_000_000n)), ...summaryOf(scan) },
    problems: problemsOf(scan),
    records: header === undefined ? undefined : {
      fieldNames: Object.keys(noFields),
      list: ({ from, to }) =>
        Stream.suspend(() =>
          Stream.fromIterable(listCertificates(bytes, scan)).pipe(
            Stream.takeWhile(({ index }) => index <= to),
            Stream.filter(({ index }) => index >= from)
          )
        )
    }
  }
})

const summaryOf = ({ certificates, damage, fileBytes, tornBytes, validBytes }: CertificateScan): Fields => {
  const first = certificates[0]?.certificate
  const last = certificates.at(-1)?.certificate
  let commits = 0n
  for (const { certificate: { aborted, high, low } } of certificates) if (!aborted) commits += high - low + 1n
  return {
    certificates: certificates.length,
    abortedIntervals: certificates.filter(({ certificate }) => certificate.aborted).length,
    commits,
    firstSequence: first?.low ?? null,
    lastSequence: last?.high ?? null,
    lastCertificateEpoch: last?.certificateEpoch ?? null,
    durableSegmentEpoch: last?.segmentEpoch ?? null,
    databaseSizeInPages: last?.databasePages ?? null,
    validBytes,
    tornTailBytes: tornBytes,
    // Zeros that the writer has filled ahead; behind damage nothing is known to be unused.
    unusedBytes: damage === undefined ? fileBytes - validBytes - tornBytes : 0
  }
}

const problemsOf = ({ damage, headerIssue, tornBytes, validBytes }: CertificateScan): ReadonlyArray<Problem> => {
  if (headerIssue !== undefined) return [problemOf(headerIssue)]
  if (damage !== undefined) {
    const { issue, kind, offset } = damage
    const problem = problemOf(issue)
    const why = kind === "CertificateGap" ? "does not follow the one before it" : "does not check"
    return [{ ...problem, what: `the certificate at byte ${offset} ${why}: ${problem.what}` }]
  }
  return tornBytes === 0 ? [] : [{
    offset: validBytes,
    what: `${tornBytes} bytes are of a certificate that was never finished`,
    severity: "tail"
  }]
}

// -- records ----------------------------------------------------------------------------------------------------------

/** The certificates that count; then the bad one, and what can be read behind it, none of which count. */
function* listCertificates(bytes: Uint8Array, scan: CertificateScan): Generator<InspectedRecord, void> {
  const { certificates, damage, tornBytes, validBytes } = scan
  for (const [index, { certificate, crc, offset }] of certificates.entries()) {
    yield { index, offset, valid: true, fields: fieldsOf(certificate, crc) }
  }
  if (damage === undefined && tornBytes === 0) return
  let index = certificates.length
  let offset = validBytes
  let chain = scan.chain
  while (true) {
    const read = decodeCertificate(bytes, offset, chain)
    if (Result.isSuccess(read)) {
      const { certificate, crc, end } = read.success
      yield { index, offset, valid: false, fields: fieldsOf(certificate, crc) }
      offset = end
      chain = crc
    } else {
      // Zeros are the end of the log; what cannot even be measured is shown only where the log stops to count.
      if (offset === validBytes || (read.failure.code !== "BadLength" && offset < bytes.length)) {
        yield { index, offset, valid: false, fields: noFields }
      }
      const next = findCertificate(bytes, offset)
      if (next === undefined) return
      offset = next.offset
      chain = next.chain
    }
    index++
  }
}

/** The least that lies between the starts of two certificates, and what every length is a multiple of. */
const smallestBytes = certificateBytes(0)
const alignment = certificateBytes(1) - certificateBytes(0)
/** How many bytes of what only looks like certificates are checked in search of one. */
const maxProbedBytes = 64 * 1024 * 1024

/** The first certificate behind a bad one: it continues the checksum that stands in front of it. */
const findCertificate = (
  bytes: Uint8Array,
  bad: number
): { readonly offset: number; readonly chain: number } | undefined => {
  let probedBytes = 0
  for (let offset = bad + smallestBytes; offset + smallestBytes <= bytes.length; offset += alignment) {
    const chain = checksumOf(bytes.subarray(0, offset))
    const read = decodeCertificate(bytes, offset, chain)
    if (Result.isSuccess(read)) return { offset, chain }
    const { code, offset: at } = read.failure
    if (code === "ChecksumMismatch" && (probedBytes += at - offset) > maxProbedBytes) return undefined
  }
  return undefined
}

const fieldsOf = (certificate: Certificate, crc: number): Fields => {
  const { laneRecords } = certificate
  return {
    totalLength: certificateBytes(laneRecords.length),
    flags: { fallbackActive: certificate.fallbackActive, aborted: certificate.aborted },
    certificateEpoch: certificate.certificateEpoch,
    commitSequenceLow: certificate.low,
    commitSequenceHigh: certificate.high,
    durableSegmentEpoch: certificate.segmentEpoch,
    databaseSizeInPages: certificate.databasePages,
    pageSetSize: certificate.pageSetSize,
    segmentCrc32c: certificate.segmentCrc,
    laneCount: laneRecords.length,
    laneRecordCounts: laneRecords,
    certificateCrc32c: crc
  }
}

/** Of bytes that make no certificate. */
const noFields: Fields = {
  totalLength: null,
  flags: null,
  certificateEpoch: null,
  commitSequenceLow: null,
  commitSequenceHigh: null,
  durableSegmentEpoch: null,
  databaseSizeInPages: null,
  pageSetSize: null,
  segmentCrc32c: null,
  laneCount: null,
  laneRecordCounts: null,
  certificateCrc32c: null
}

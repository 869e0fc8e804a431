/**
 * The certificate log of the parallel WAL (section 4 of `formats.md`): which intervals of commit sequences are durable,
 * and in which segment their records are. A header of 48 bytes, then one record per interval, all little-endian.
 *
 * **Details**
 *
 * 1. A record counts when every record before it counts, its CRC-32C continues that of the record before it (the first
 *    one's continues the header's), and it follows that one: its interval starts where the other's ends, its certificate
 *    epoch is higher, its segment epoch is not lower (PW-29).
 * 2. Zeros behind the last record are its surroundings, not damage: the file grows ahead of its records.
 * 3. What does not check is the torn end of the last append (RC-09) unless something behind it proves that it was whole
 *    once: a record that chains to it, or to one behind it (RC-10). Appends are synced one after another, so a power loss
 *    alone never leaves such a proof.
 * 4. A record whose checksum is right was written like that. When its fields are wrong nonetheless it is refused as
 *    damage, never dropped as torn: it may come from a newer program.
 * 5. Lengths and counts are compared with the bytes that are there before anything is allocated by them.
 *
 * **Gotchas**
 *
 * A last record that was whole, acknowledged and then damaged cannot be told from one that was torn: nothing behind it
 * proves anything. Its segment is still there; the start reports it as uncertified (RC-07).
 *
 * @since 0.1.0
 */
import { FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import { invariant } from "@tidemark/core/Invariant"
import { CommitSeq, WalEpoch } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { FixedRecord } from "./internal/fixedRecord.ts"
import { encodeFixed, fixedIssue, openFixed } from "./internal/fixedRecord.ts"
import { endOfNonZero } from "./internal/zeros.ts"

/**
 * Bytes of the file's header.
 *
 * @category constants
 * @since 0.1.0
 */
export const certificateLogHeaderBytes = 48

/**
 * Bytes of the id of a database.
 *
 * @category constants
 * @since 0.1.0
 */
export const databaseIdBytes = 16

/**
 * Most lanes of which a certificate can count the records (PW-02).
 *
 * @category constants
 * @since 0.1.0
 */
export const maxCertificateLanes = 65_535

const headerRecord: FixedRecord = {
  format: "certificate log header",
  bytes: certificateLogHeaderBytes,
  // Its text, read as a little-endian u64.
  magic: 0x54524543_4b4d4454n,
  magicText: "TDMKCERT",
  version: 1
}

const headerOffsets = { zero1: 10, headerLength: 12, databaseId: 16, created: 32, zero2: 40, checksum: 44 } as const

const formatName = "certificate"
const recordVersion = 1
/** What a writer does after this record: publish. The only kind of record there is. */
const residueCertified = 1
const flagFallback = 1
const flagAborted = 2

const offsets = {
  length: 0,
  version: 4,
  residue: 6,
  flags: 7,
  certificateEpoch: 8,
  low: 16,
  high: 24,
  segmentEpoch: 32,
  databasePages: 40,
  pageSetSize: 44,
  segmentCrc: 48,
  lanes: 52,
  zero: 54,
  laneRecords: 56
} as const

const checksumBytes = 4
/** Records start at multiples of this: the header and every record are as long. */
const alignment = 4

/**
 * Bytes of a certificate that counts the records of so many lanes, its length and its checksum included.
 *
 * @category sizes
 * @since 0.1.0
 */
export const certificateBytes = (lanes: number): number => offsets.laneRecords + 4 * lanes + checksumBytes

const minBytes = certificateBytes(0)
const maxBytes = certificateBytes(maxCertificateLanes)

/**
 * The file that holds the certificates of a database.
 *
 * @category names
 * @since 0.1.0
 */
export const certificatesPath = (database: string): string => `${database}-wal-cert`

// -- values -----------------------------------------------------------------------------------------------------------

const U32 = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff }))
const U64 = Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 0n, maximum: 2n ** 64n - 1n }))
const DatabaseId = Schema.Uint8Array.check(
  Schema.makeFilter((bytes: Uint8Array) => bytes.length === databaseIdBytes, { expected: `${databaseIdBytes} bytes` })
)

/**
 * What the header of the file says.
 *
 * @category models
 * @since 0.1.0
 */
export const CertificateLogHeader = Schema.Struct({
  /** 16 random bytes, kept when the log is replaced by an empty one. */
  databaseId: DatabaseId,
  createdUnixNanos: U64
})
export type CertificateLogHeader = typeof CertificateLogHeader.Type

/**
 * What a certificate says: the commits `low` to `high`, both included, are durable.
 *
 * **Details**
 *
 * An aborted interval has no records: its counts, its page-set size and its segment CRC are 0.
 *
 * @category models
 * @since 0.1.0
 */
export const Certificate = Schema.Struct({
  /** Whether the log was in fallback when the interval was certified (PW-31). */
  fallbackActive: Schema.Boolean,
  /** The interval was given up: its sequences are used, and nothing was committed under them (PW-29). */
  aborted: Schema.Boolean,
  /** Grows with every certificate, also across replacements of the log. */
  certificateEpoch: U64,
  /** The first commit of the interval; 1 + the `high` of the certificate before. */
  low: Schema.toType(CommitSeq),
  high: Schema.toType(CommitSeq),
  /** The newest segment that is durable: the one with the records of the interval unless it was aborted. Never falls. */
  segmentEpoch: Schema.toType(WalEpoch),
  /** Size of the database after the interval, in pages. */
  databasePages: U32,
  /** How many distinct pages the records of the interval write. */
  pageSetSize: U32,
  /** CRC-32C of the whole segment file. */
  segmentCrc: U32,
  /** How many records of the segment came from each lane; their sum is the number of records in it. */
  laneRecords: Schema.Array(U32).check(Schema.isMaxLength(maxCertificateLanes))
})
export type Certificate = typeof Certificate.Type

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
const hex = (value: number) => `0x${value.toString(16).padStart(8, "0")}`

// -- header -----------------------------------------------------------------------------------------------------------

/**
 * Reads the header from the first 48 bytes of the file (what follows them is ignored). `crc` is its checksum, which the
 * first certificate continues.
 *
 * **Details**
 *
 * Codes, in the order of the checks: `TooShort`, `BadMagic`, `UnsupportedVersion`, `ChecksumMismatch`, `NotZero` (a
 * field that has to be zero), `BadHeaderLength`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeHeader = (
  bytes: Uint8Array
): Result.Result<{ readonly header: CertificateLogHeader; readonly crc: number }, FormatIssue> => {
  const opened = openFixed(headerRecord, bytes.subarray(0, certificateLogHeaderBytes))
  if (Result.isFailure(opened)) return Result.fail(opened.failure)
  const view = opened.success
  const zero1 = view.getUint16(headerOffsets.zero1, true)
  if (zero1 !== 0) return fixedIssue(headerRecord, "NotZero", "zero field", headerOffsets.zero1, `${zero1}`, "0")
  const zero2 = view.getUint32(headerOffsets.zero2, true)
  if (zero2 !== 0) return fixedIssue(headerRecord, "NotZero", "zero field", headerOffsets.zero2, `${zero2}`, "0")
  const length = view.getUint32(headerOffsets.headerLength, true)
  if (length !== certificateLogHeaderBytes) {
    return fixedIssue(headerRecord, "BadHeaderLength", "header length", headerOffsets.headerLength, `${length}`, "48")
  }
  return Result.succeed({
    header: {
      databaseId: bytes.slice(headerOffsets.databaseId, headerOffsets.databaseId + databaseIdBytes),
      createdUnixNanos: view.getBigUint64(headerOffsets.created, true)
    },
    crc: view.getUint32(headerOffsets.checksum, true)
  })
}

/**
 * The 48 bytes of a header, checksum included.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeHeader = (header: CertificateLogHeader): Uint8Array => {
  invariant(header.databaseId.length === databaseIdBytes, "the id of a database has 16 bytes")
  return encodeFixed(headerRecord, (view, bytes) => {
    view.setUint32(headerOffsets.headerLength, certificateLogHeaderBytes, true)
    bytes.set(header.databaseId, headerOffsets.databaseId)
    view.setBigUint64(headerOffsets.created, header.createdUnixNanos, true)
  })
}

/**
 * The header as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const CertificateLogHeaderFromBytes: Schema.Codec<CertificateLogHeader, Uint8Array> = toCodec<
  CertificateLogHeader
>(CertificateLogHeader, {
  decode: (bytes) => Result.map(decodeHeader(bytes), ({ header }) => header),
  encode: encodeHeader
})

// -- certificates -----------------------------------------------------------------------------------------------------

/**
 * Reads the certificate that starts at `offset`, whose checksum continues `previousCrc`: that of the certificate before
 * it, or of the header. `end` is the offset behind it.
 *
 * **Details**
 *
 * Codes, in the order of the checks: `BadLength` (not the length of any certificate; 0 marks the end of the log),
 * `TooShort` (the length, or what it announces, is not there), `ChecksumMismatch`, `UnsupportedVersion`,
 * `UnknownResidue`, `BadFlag`, `BadLaneCount`, `NotZero` (a field that has to be zero), `BadInterval`, `NotEmpty` (an
 * aborted interval that has records). Whether it follows the certificate before it is for {@link scanCertificates}.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeCertificate = (
  bytes: Uint8Array,
  offset: number,
  previousCrc: number
): Result.Result<{ readonly certificate: Certificate; readonly crc: number; readonly end: number }, FormatIssue> => {
  const refuse = (code: string, field: string, at: number, found: string, expected: string) =>
    Result.fail(new FormatIssue({ format: formatName, code, field, offset: offset + at, found, expected }))
  const view = viewOf(bytes)
  const left = bytes.length - offset
  if (left < 4) return refuse("TooShort", "total length", offsets.length, `${left} bytes`, "4 bytes")
  const length = view.getUint32(offset + offsets.length, true)
  if (!isCertificateLength(length)) {
    return refuse("BadLength", "total length", offsets.length, `${length}`, `${minBytes} + 4 per lane`)
  }
  if (left < length) return refuse("TooShort", "certificate", 0, `${left} bytes`, `${length} bytes`)
  const stored = view.getUint32(offset + length - checksumBytes, true)
  const crc = checksumAt(bytes, offset, length, previousCrc)
  if (stored !== crc) return refuse("ChecksumMismatch", "CRC-32C", length - checksumBytes, hex(stored), hex(crc))

  const version = view.getUint16(offset + offsets.version, true)
  if (version !== recordVersion) {
    return refuse("UnsupportedVersion", "version", offsets.version, `${version}`, `${recordVersion}`)
  }
  const residue = view.getUint8(offset + offsets.residue)
  if (residue !== residueCertified) {
    return refuse("UnknownResidue", "residue", offsets.residue, `${residue}`, `${residueCertified}`)
  }
  const flags = view.getUint8(offset + offsets.flags)
  if (flags > (flagFallback | flagAborted)) return refuse("BadFlag", "flags", offsets.flags, `${flags}`, "0 ... 3")
  const lanes = view.getUint16(offset + offsets.lanes, true)
  if (certificateBytes(lanes) !== length) {
    return refuse("BadLaneCount", "lane count", offsets.lanes, `${lanes}`, `${(length - minBytes) / 4}`)
  }
  const zero = view.getUint16(offset + offsets.zero, true)
  if (zero !== 0) return refuse("NotZero", "zero field", offsets.zero, `${zero}`, "0")
  const certificate: Certificate = {
    fallbackActive: (flags & flagFallback) !== 0,
    aborted: (flags & flagAborted) !== 0,
    certificateEpoch: view.getBigUint64(offset + offsets.certificateEpoch, true),
    low: CommitSeq.make(view.getBigUint64(offset + offsets.low, true)),
    high: CommitSeq.make(view.getBigUint64(offset + offsets.high, true)),
    segmentEpoch: WalEpoch.make(view.getBigUint64(offset + offsets.segmentEpoch, true)),
    databasePages: view.getUint32(offset + offsets.databasePages, true),
    pageSetSize: view.getUint32(offset + offsets.pageSetSize, true),
    segmentCrc: view.getUint32(offset + offsets.segmentCrc, true),
    laneRecords: Array.from(
      { length: lanes },
      (_, lane) => view.getUint32(offset + offsets.laneRecords + 4 * lane, true)
    )
  }
  if (!hasInterval(certificate)) {
    const found = `${certificate.low} ... ${certificate.high}`
    return refuse("BadInterval", "interval", offsets.low, found, "a first commit, not 0, and a last one not before it")
  }
  if (!isEmptyIfAborted(certificate)) {
    return refuse("NotEmpty", "aborted interval", offsets.flags, "records or a segment CRC", "none")
  }
  return Result.succeed({ certificate, crc, end: offset + length })
}

/**
 * The bytes of a certificate whose checksum continues `previousCrc`. Its own checksum, which the next one continues, are
 * the last four bytes ({@link checksumOf}).
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeCertificate = (certificate: Certificate, previousCrc: number): Uint8Array => {
  const { laneRecords } = certificate
  invariant(laneRecords.length <= maxCertificateLanes, "a certificate counts at most 65,535 lanes")
  invariant(hasInterval(certificate), "the interval of a certificate has a first commit, not 0, and ends not before it")
  invariant(isEmptyIfAborted(certificate), "an aborted interval has no records and no segment")
  const bytes = new Uint8Array(certificateBytes(laneRecords.length))
  const view = viewOf(bytes)
  view.setUint32(offsets.length, bytes.length, true)
  view.setUint16(offsets.version, recordVersion, true)
  view.setUint8(offsets.residue, residueCertified)
  view.setUint8(
    offsets.flags,
    (certificate.fallbackActive ? flagFallback : 0) | (certificate.aborted ? flagAborted : 0)
  )
  view.setBigUint64(offsets.certificateEpoch, certificate.certificateEpoch, true)
  view.setBigUint64(offsets.low, certificate.low, true)
  view.setBigUint64(offsets.high, certificate.high, true)
  view.setBigUint64(offsets.segmentEpoch, certificate.segmentEpoch, true)
  view.setUint32(offsets.databasePages, certificate.databasePages, true)
  view.setUint32(offsets.pageSetSize, certificate.pageSetSize, true)
  view.setUint32(offsets.segmentCrc, certificate.segmentCrc, true)
  view.setUint16(offsets.lanes, laneRecords.length, true)
  laneRecords.forEach((records, lane) => view.setUint32(offsets.laneRecords + 4 * lane, records, true))
  view.setUint32(bytes.length - checksumBytes, checksumAt(bytes, 0, bytes.length, previousCrc), true)
  return bytes
}

/**
 * The checksum of an encoded certificate, or of an encoded header: what the certificate behind it continues.
 *
 * @category decoding
 * @since 0.1.0
 */
export const checksumOf = (encoded: Uint8Array): number =>
  viewOf(encoded).getUint32(encoded.length - checksumBytes, true)

/**
 * A certificate whose checksum continues `previousCrc` as a codec of its bytes alone.
 *
 * @category schemas
 * @since 0.1.0
 */
export const certificateFromBytes = (previousCrc: number): Schema.Codec<Certificate, Uint8Array> =>
  toCodec<Certificate>(Certificate, {
    decode: (bytes) =>
      Result.flatMap(
        decodeCertificate(bytes, 0, previousCrc),
        ({ certificate, end }) =>
          end === bytes.length ? Result.succeed(certificate) : Result.fail(
            new FormatIssue({
              format: formatName,
              code: "TooLong",
              field: "length",
              offset: end,
              found: `${bytes.length} bytes`,
              expected: `${end} bytes`
            })
          )
      ),
    encode: (certificate) => encodeCertificate(certificate, previousCrc)
  })

const isCertificateLength = (length: number) =>
  length >= minBytes && length <= maxBytes && (length - minBytes) % 4 === 0

const checksumAt = (bytes: Uint8Array, offset: number, length: number, previousCrc: number) =>
  crc32c(bytes.subarray(offset, offset + length - checksumBytes), previousCrc)

const hasInterval = ({ high, low }: Certificate) => low > 0n && low <= high

const isEmptyIfAborted = ({ aborted, laneRecords, pageSetSize, segmentCrc }: Certificate) =>
  !aborted || (segmentCrc === 0 && pageSetSize === 0 && laneRecords.every((records) => records === 0))

// -- the whole file ---------------------------------------------------------------------------------------------------

/**
 * A certificate, where it starts in the file, and its checksum.
 *
 * @category models
 * @since 0.1.0
 */
export interface ScannedCertificate {
  readonly certificate: Certificate
  readonly offset: number
  readonly crc: number
}

/**
 * Why a certificate log is refused (RC-10).
 *
 * **Details**
 *
 * - `CertificateChecksumMismatch`: bytes that do not check although something behind them proves that they did once, or
 *   that check and make no certificate.
 * - `CertificateGap`: a whole certificate that does not follow the one before it: a gap or an overlap of the intervals,
 *   an epoch that goes the wrong way.
 *
 * @category models
 * @since 0.1.0
 */
export interface CertificateDamage {
  readonly kind: "CertificateGap" | "CertificateChecksumMismatch"
  /** Where the bad certificate starts in the file. */
  readonly offset: number
  /** Which field is wrong, where in the file, and how. */
  readonly issue: FormatIssue
}

/**
 * What a certificate log holds.
 *
 * @category models
 * @since 0.1.0
 */
export interface CertificateScan {
  /** `undefined` when the header does not check; then nothing else was looked at. */
  readonly header: CertificateLogHeader | undefined
  readonly headerIssue: FormatIssue | undefined
  /** Those that count, in their order. */
  readonly certificates: ReadonlyArray<ScannedCertificate>
  /** The header and the certificates that count: the next one is appended here. 0 without a header. */
  readonly validBytes: number
  /** The checksum that the next certificate continues. */
  readonly chain: number
  /** Bytes of the torn end of the last append, up to the last one that is not zero (RC-09). 0 with damage. */
  readonly tornBytes: number
  readonly damage: CertificateDamage | undefined
  readonly fileBytes: number
}

/**
 * Reads a whole certificate log and says what counts, what is torn and what is damaged. Never throws.
 *
 * @category decoding
 * @since 0.1.0
 */
export const scanCertificates = (bytes: Uint8Array): CertificateScan => {
  const decoded = decodeHeader(bytes)
  const nothing = {
    header: undefined,
    headerIssue: undefined,
    certificates: [],
    validBytes: 0,
    chain: 0,
    tornBytes: 0,
    damage: undefined,
    fileBytes: bytes.length
  }
  if (Result.isFailure(decoded)) return { ...nothing, headerIssue: decoded.failure }
  const { header } = decoded.success
  const certificates: Array<ScannedCertificate> = []
  let chain = decoded.success.crc
  let offset = certificateLogHeaderBytes
  let damage: CertificateDamage | undefined
  let tornBytes = 0
  for (;;) {
    const read = decodeCertificate(bytes, offset, chain)
    if (Result.isFailure(read)) {
      const issue = read.failure
      const tailEnd = endOfNonZero(viewOf(bytes), offset, bytes.length)
      if (isUnchecked(issue) && !isProvenWhole(bytes, offset, tailEnd, chain)) tornBytes = tailEnd - offset
      else damage = { kind: "CertificateChecksumMismatch", offset, issue }
      break
    }
    const { certificate, crc, end } = read.success
    const issue = notFollowing(certificates.at(-1)?.certificate, certificate, offset)
    if (issue !== undefined) {
      damage = { kind: "CertificateGap", offset, issue }
      break
    }
    certificates.push({ certificate, offset, crc })
    chain = crc
    offset = end
  }
  return { ...nothing, header, certificates, validBytes: offset, chain, tornBytes, damage }
}

/** Whether a certificate was refused before its checksum had been found right, as a torn one is. */
const isUnchecked = ({ code }: FormatIssue) =>
  code === "BadLength" || code === "TooShort" || code === "ChecksumMismatch"

/** Which rule between neighbours a certificate breaks (invariant 1). */
const notFollowing = (
  before: Certificate | undefined,
  certificate: Certificate,
  offset: number
): FormatIssue | undefined => {
  if (before === undefined) return undefined
  const refuse = (code: string, field: string, at: number, found: bigint, expected: string) =>
    new FormatIssue({ format: formatName, code, field, offset: offset + at, found: `${found}`, expected })
  const { certificateEpoch, low, segmentEpoch } = certificate
  if (low !== before.high + 1n) {
    return refuse(low > before.high ? "Gap" : "Overlap", "low", offsets.low, low, `${before.high + 1n}`)
  }
  if (certificateEpoch <= before.certificateEpoch) {
    const expected = `above ${before.certificateEpoch}`
    return refuse("NotGrowing", "certificate epoch", offsets.certificateEpoch, certificateEpoch, expected)
  }
  if (segmentEpoch < before.segmentEpoch) {
    return refuse("Falling", "segment epoch", offsets.segmentEpoch, segmentEpoch, `at least ${before.segmentEpoch}`)
  }
  return undefined
}

/**
 * How many bytes of seeming certificates are checksummed behind a bad one, at the most: no torn record looks like so
 * many of them, so beyond that the answer is damage.
 */
const maxProbedBytes = 64 * 1024 * 1024

/**
 * Whether the bytes from the bad certificate at `bad` to `end`, behind which all are zero, prove that it was whole once (invariant 3). A certificate
 * continues the checksum that stands right before it. Where the damage hit just that checksum, the next one continues
 * what the bytes in front of it add up to.
 */
const isProvenWhole = (bytes: Uint8Array, bad: number, end: number, previousCrc: number): boolean => {
  const view = viewOf(bytes)
  const checks = (at: number, continued: number) => {
    const length = view.getUint32(at, true)
    return view.getUint32(at + length - checksumBytes, true) === checksumAt(bytes, at, length, continued)
  }
  if (seemsCertificate(view, bad)) {
    const length = view.getUint32(bad, true)
    const next = bad + length
    if (seemsCertificate(view, next) && checks(next, checksumAt(bytes, bad, length, previousCrc))) return true
  }
  let probedBytes = 0
  for (let at = bad + minBytes; at < end; at += alignment) {
    if (!seemsCertificate(view, at)) continue
    probedBytes += view.getUint32(at, true)
    if (probedBytes > maxProbedBytes || checks(at, view.getUint32(at - checksumBytes, true))) return true
  }
  return false
}

/** Whether something that has the shape of a certificate lies at an offset, wholly inside of the file. */
const seemsCertificate = (view: DataView, at: number): boolean => {
  if (at + minBytes > view.byteLength) return false
  const length = view.getUint32(at + offsets.length, true)
  return isCertificateLength(length) &&
    at + length <= view.byteLength &&
    view.getUint16(at + offsets.version, true) === recordVersion &&
    view.getUint8(at + offsets.residue) === residueCertified &&
    certificateBytes(view.getUint16(at + offsets.lanes, true)) === length
}

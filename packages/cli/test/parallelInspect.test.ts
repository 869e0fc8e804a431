import { assert, describe, it } from "@effect/vitest"
import { CommitSeq, toPageNumber, TxnEpoch, TxnId, WalEpoch } from "@tidemark/core/Scalars"
import * as Checksum from "@tidemark/platform/Checksum"
import * as Certificates from "@tidemark/wal/CertificateFormat"
import * as CheckpointMark from "@tidemark/wal/CheckpointMarkFormat"
import * as Segment from "@tidemark/wal/SegmentFormat"
import { Effect, Result } from "effect"
import { readFileSync, writeFileSync } from "node:fs"
import { documentOf, objectsIn, temporaryDirectory, tidemark, unchanged } from "./support/program.ts"

const alwaysThere = ["kind", "path", "bytes", "valid", "header", "summary", "problems"]
const epoch7 = WalEpoch.make(7n)

const recordOf = (seq: bigint, page: number, changes: Partial<Segment.SegmentRecord> = {}): Segment.SegmentRecord => ({
  token: { id: TxnId.make(seq + 2n ** 60n), epoch: TxnEpoch.make(3) },
  walEpoch: epoch7,
  page: toPageNumber(page),
  begin: CommitSeq.make(seq),
  end: CommitSeq.make(seq),
  before: new Uint8Array(0),
  after: new Uint8Array(512).fill(page),
  ...changes
})

const records = [recordOf(10n, 4), recordOf(10n, 9), recordOf(11n, 4), recordOf(12n, 5)]
const segmentBytes = Result.getOrThrow(Segment.encode(epoch7, records))
/** Bytes of each of the records: 4 for the length, 41 and 8 of fields, the image, 4 for the checksum. */
const recordBytes = 4 + 41 + 8 + 512 + 4
const offsetOfRecord = (index: number) => 24 + index * recordBytes

const flipped = (bytes: Uint8Array, offset: number): Uint8Array => {
  const copy = Uint8Array.from(bytes)
  copy[offset] = (copy[offset] ?? 0) ^ 0x40
  return copy
}

const inspected = (path: string, ...args: ReadonlyArray<string>) =>
  Effect.map(tidemark("inspect", path, "--json", ...args), (ended) => {
    const document = documentOf(ended)
    assert.containsAllKeys(document, alwaysThere)
    assert.strictEqual(ended.code, document["valid"] === true ? 0 : 1, ended.stderr)
    return document
  })

const written = (path: string, bytes: Uint8Array, ...args: ReadonlyArray<string>) =>
  Effect.suspend(() => {
    writeFileSync(path, bytes)
    return inspected(path, ...args)
  })

describe("inspect of a parallel segment", () => {
  it.effect("PW-20 shows what is in it, and lists a range of its records with their fields", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = Segment.segmentPath(`${directory}/a.db`, epoch7)
      writeFileSync(path, segmentBytes)
      const ended = yield* unchanged(directory, "inspect", path, "--from", "1", "--to", "2", "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      const document = documentOf(ended)
      assert.deepInclude(document, { kind: "parallel-segment", path, bytes: segmentBytes.length, valid: true })
      assert.deepStrictEqual(document["problems"], [])
      assert.deepStrictEqual(document["header"], { version: 2, epoch: "7", recordCount: 4 })
      assert.deepStrictEqual(document["summary"], {
        records: 4,
        damagedRecords: 0,
        abortedRecords: 0,
        transactions: 3,
        pages: 3,
        imageBytes: 4 * 512,
        lowestBeginSequence: "10",
        highestBeginSequence: "12",
        segmentCrc32c: Segment.certifiedChecksum([segmentBytes])
      })
      const [first, second, ...others] = objectsIn(document, "records")
      assert.lengthOf(others, 0)
      const end = offsetOfRecord(2)
      assert.deepStrictEqual(first, {
        index: 1,
        offset: offsetOfRecord(1),
        valid: true,
        txnId: String(10n + 2n ** 60n),
        txnEpoch: 3,
        walEpoch: "7",
        pageNumber: 9,
        beginSequence: "10",
        endFlag: 1,
        endSequence: "10",
        beforeImageLength: 0,
        afterImageLength: 512,
        crc32c: Checksum.crc32c(segmentBytes.subarray(offsetOfRecord(1) + 4, end - 4))
      })
      assert.deepInclude(second, { index: 2, offset: end, pageNumber: 4, beginSequence: "11" })
      const people = yield* tidemark("inspect", path, "--records")
      assert.match(people.stdout, /: parallel segment, 2,300 bytes \(2\.2 KiB\), valid\n/)
      assert.match(people.stdout, /segment CRC-32C +0x[0-9a-f]{8}\n/)
    }))

  it.effect("PW-24 reads version 1, and shows records of aborted transactions as such", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      // One record without an end, with a before image of three bytes and no after image; written from section 3.
      const bytes = Buffer.alloc(24 + 4 + 41 + 3)
      bytes.write("LAWP", "latin1")
      bytes.writeUInt16LE(1, 4)
      bytes.writeBigUInt64LE(7n, 8)
      bytes.writeUInt32LE(1, 16)
      bytes.writeUInt32LE(Checksum.crc32c(bytes.subarray(0, 20)), 20)
      bytes.writeUInt32LE(41 + 3, 24)
      bytes.writeBigUInt64LE(5n, 28)
      bytes.writeBigUInt64LE(7n, 40)
      bytes.writeUInt32LE(6, 48)
      bytes.writeBigUInt64LE(99n, 52)
      bytes.writeUInt32LE(3, 61)
      const document = yield* written(`${directory}/copy`, bytes, "--records")
      assert.deepInclude(document, { kind: "parallel-segment", valid: true })
      assert.deepInclude(document["header"], { version: 1, epoch: "7" })
      assert.deepInclude(document["summary"], { records: 1, abortedRecords: 1 })
      assert.deepInclude(objectsIn(document, "records")[0], {
        txnId: "5",
        pageNumber: 6,
        beginSequence: "99",
        endFlag: 0,
        endSequence: null,
        beforeImageLength: 3,
        afterImageLength: 0,
        crc32c: null
      })
    }))

  it.effect("PW-20 lists what is whole of a damaged one, and says where it is not", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = Segment.segmentPath(`${directory}/a.db`, epoch7)
      const bad = yield* written(path, flipped(segmentBytes, offsetOfRecord(1) + 100), "--records")
      const [problem, ...others] = objectsIn(bad, "problems")
      assert.lengthOf(others, 0)
      assert.deepInclude(problem, { offset: offsetOfRecord(2) - 4, severity: "corrupt" })
      assert.match(String(problem?.["what"]), /CRC-32C of record 1 is/)
      assert.deepStrictEqual(objectsIn(bad, "records").map(({ valid }) => valid), [true, false, true, true])
      assert.deepInclude(objectsIn(bad, "records")[1], { index: 1, offset: offsetOfRecord(1), pageNumber: null })
      assert.deepInclude(bad["summary"], { records: 3, damagedRecords: 1, segmentCrc32c: null })

      const cut = yield* written(path, segmentBytes.subarray(0, offsetOfRecord(2) + 50), "--records")
      assert.deepInclude(objectsIn(cut, "problems")[0], { offset: offsetOfRecord(2), severity: "corrupt" })
      assert.deepStrictEqual(objectsIn(cut, "records").map(({ valid }) => valid), [true, true, false])

      const longer = yield* written(path, Buffer.concat([segmentBytes, Buffer.from("more")]), "--records")
      const behind = objectsIn(longer, "problems")
      assert.lengthOf(behind, 1)
      assert.deepInclude(behind[0], { offset: segmentBytes.length, severity: "corrupt" })
      assert.lengthOf(objectsIn(longer, "records"), 4)

      for (const bytes of [flipped(segmentBytes, 9), segmentBytes.subarray(0, 20)]) {
        const headless = yield* written(path, bytes, "--records")
        assert.deepInclude(headless, { kind: "parallel-segment", valid: false, header: null, records: [] })
        assert.lengthOf(objectsIn(headless, "problems"), 1)
      }
    }))

  it.effect("PW-25 believes the name of a segment, that of a temporary file, and no other", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const misnamed = yield* written(Segment.segmentPath(`${directory}/a.db`, WalEpoch.make(8n)), segmentBytes)
      assert.deepInclude(objectsIn(misnamed, "problems")[0], { offset: 8, severity: "corrupt" })
      assert.deepInclude(misnamed["header"], { epoch: "7" })
      assert.deepInclude(yield* written(`${directory}/copy`, segmentBytes), { valid: true })
      const temporary = Segment.temporarySegmentPath(`${directory}/a.db`, epoch7, 2)
      const torn = yield* written(temporary, segmentBytes.subarray(0, 1000))
      assert.deepInclude(objectsIn(torn, "problems")[0], { severity: "tail" })
    }))
})

const certificateOf = (n: number, changes: Partial<Certificates.Certificate> = {}): Certificates.Certificate => ({
  fallbackActive: n === 2,
  aborted: false,
  certificateEpoch: BigInt(n) * 10n,
  low: CommitSeq.make(BigInt(n * 3 - 2)),
  high: CommitSeq.make(BigInt(n * 3)),
  segmentEpoch: WalEpoch.make(BigInt(n + 100)),
  databasePages: n + 50,
  pageSetSize: n + 1,
  segmentCrc: 0x9000_0000 + n,
  laneRecords: [n, 2, 0],
  ...changes
})

const aborted = { aborted: true, pageSetSize: 0, segmentCrc: 0, laneRecords: [] }

const logOf = (certificates: ReadonlyArray<Certificates.Certificate>): Uint8Array => {
  const header = Certificates.encodeHeader({
    databaseId: new Uint8Array(16).fill(0xab),
    createdUnixNanos: 1_700_000_000_123_456_789n
  })
  const parts = [header]
  for (const certificate of certificates) {
    parts.push(Certificates.encodeCertificate(certificate, Certificates.checksumOf(parts.at(-1) ?? header)))
  }
  return Buffer.concat([...parts, new Uint8Array(200)])
}

/** With three lanes, as most of them have. */
const certificateBytes = 60 + 4 * 3
const offsetOfCertificate = (index: number) => 48 + index * certificateBytes

const certificates = [1, 2, 3, 4].map((n) => certificateOf(n, n === 4 ? aborted : {}))
const certificateLog = logOf(certificates)

describe("inspect of a certificate log", () => {
  it.effect("PW-29 shows what is in it, and lists a range of its certificates with their fields", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = `${directory}/a.db-wal-cert`
      const document = yield* written(path, certificateLog, "--from", "1", "--to", "3")
      assert.deepInclude(document, { kind: "certificate-log", path, bytes: certificateLog.length, valid: true })
      assert.deepStrictEqual(document["problems"], [])
      assert.deepStrictEqual(document["header"], {
        databaseId: "ab".repeat(16),
        createdUnixNs: "1700000000123456789"
      })
      assert.deepStrictEqual(document["summary"], {
        created: "2023-11-14T22:13:20.123Z",
        certificates: 4,
        abortedIntervals: 1,
        commits: "9",
        firstSequence: "1",
        lastSequence: "12",
        lastCertificateEpoch: "40",
        durableSegmentEpoch: "104",
        databaseSizeInPages: 54,
        validBytes: certificateLog.length - 200,
        tornTailBytes: 0,
        unusedBytes: 200
      })
      const [second, , fourth, ...others] = objectsIn(document, "records")
      assert.lengthOf(others, 0)
      const view = new DataView(certificateLog.buffer, certificateLog.byteOffset)
      assert.deepStrictEqual(second, {
        index: 1,
        offset: offsetOfCertificate(1),
        valid: true,
        totalLength: certificateBytes,
        flags: { fallbackActive: true, aborted: false },
        certificateEpoch: "20",
        commitSequenceLow: "4",
        commitSequenceHigh: "6",
        durableSegmentEpoch: "102",
        databaseSizeInPages: 52,
        pageSetSize: 3,
        segmentCrc32c: 0x9000_0002,
        laneCount: 3,
        laneRecordCounts: [2, 2, 0],
        certificateCrc32c: view.getUint32(offsetOfCertificate(2) - 4, true)
      })
      assert.deepInclude(fourth, { index: 3, totalLength: 60, flags: { fallbackActive: false, aborted: true } })
      const people = yield* tidemark("inspect", path, "--records")
      assert.match(people.stdout, /: certificate log, .*, valid\n/)
      assert.match(people.stdout, / 1 \+ 2 \+ 0 /)
    }))

  it.effect("RC-09 calls a torn certificate a tail, and what is before it whole", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = `${directory}/a.db-wal-cert`
      const end = certificateLog.length - 200
      for (const bytes of [certificateLog.subarray(0, end - 10), flipped(certificateLog, end - 20)]) {
        const document = yield* written(path, bytes, "--records")
        const [problem, ...others] = objectsIn(document, "problems")
        assert.lengthOf(others, 0)
        assert.deepInclude(problem, { offset: offsetOfCertificate(3), severity: "tail" })
        assert.deepInclude(document["summary"], { certificates: 3, validBytes: offsetOfCertificate(3) })
        assert.deepStrictEqual(objectsIn(document, "records").map(({ valid }) => valid), [true, true, true, false])
      }
    }))

  it.effect("RC-10 calls anything else corrupt, and lists what stands behind it as not valid", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = `${directory}/a.db-wal-cert`
      const damaged = yield* written(path, flipped(certificateLog, offsetOfCertificate(1) + 20), "--records")
      const [problem, ...others] = objectsIn(damaged, "problems")
      assert.lengthOf(others, 0)
      assert.deepInclude(problem, { offset: offsetOfCertificate(2) - 4, severity: "corrupt" })
      assert.match(String(problem?.["what"]), new RegExp(`at byte ${offsetOfCertificate(1)} does not check`))
      const listed = objectsIn(damaged, "records")
      assert.deepStrictEqual(
        listed.map(({ commitSequenceLow, offset, valid }) => [offset, valid, commitSequenceLow]),
        [["1", true], [null, false], ["7", false], ["10", false]].map(([low, valid], index) => [
          offsetOfCertificate(index),
          valid,
          low
        ])
      )

      // The same in a file that has not been filled ahead.
      const ending = certificateLog.subarray(0, certificateLog.length - 200)
      const full = yield* written(path, flipped(ending, offsetOfCertificate(1) + 20), "--records", "--from", "2")
      assert.deepStrictEqual(objectsIn(full, "records").map(({ commitSequenceLow }) => commitSequenceLow), ["7", "10"])

      const gap = yield* written(path, logOf(certificates.filter((_, index) => index !== 1)), "--records")
      assert.deepInclude(objectsIn(gap, "problems")[0], { offset: offsetOfCertificate(1) + 16, severity: "corrupt" })
      assert.match(String(objectsIn(gap, "problems")[0]?.["what"]), /does not follow .* low is 7, expected 4/)
      assert.deepStrictEqual(objectsIn(gap, "records").map(({ valid }) => valid), [true, false, false])

      for (const bytes of [flipped(certificateLog, 30), certificateLog.subarray(0, 47)]) {
        const headless = yield* written(path, bytes, "--records")
        assert.deepInclude(headless, { kind: "certificate-log", valid: false, header: null, records: [] })
        assert.lengthOf(objectsIn(headless, "problems"), 1)
      }
    }))
})

describe("inspect of a checkpoint mark", () => {
  it.effect("shows what it says, or where it does not check", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = `${directory}/checkpoint`
      const bytes = CheckpointMark.encode({
        kind: "parallel",
        through: CommitSeq.make(2n ** 63n),
        segmentEpoch: WalEpoch.make(8n),
        certificateEpoch: 9n,
        databasePages: 10
      })
      const document = yield* written(path, bytes)
      assert.deepInclude(document, { kind: "checkpoint-mark", bytes: 48, valid: true, problems: [] })
      assert.deepStrictEqual(document["header"], {
        kind: "parallel",
        throughSequence: String(2n ** 63n),
        throughSegmentEpoch: "8",
        throughCertificateEpoch: "9",
        databasePages: 10
      })
      for (const [bad, offset] of [[flipped(bytes, 20), 44], [bytes.subarray(0, 20), 0]] as const) {
        const damaged = yield* written(path, bad)
        assert.deepInclude(damaged, { kind: "checkpoint-mark", valid: false, header: null })
        assert.deepInclude(objectsIn(damaged, "problems")[0], { offset, severity: "corrupt" })
      }
      assert.strictEqual(readFileSync(path).length, 20)
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { crc32c } from "@tidemark/platform/Checksum"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"
import {
  type Certificate,
  certificateBytes,
  certificateFromBytes,
  CertificateLogHeaderFromBytes,
  certificatesPath,
  checksumOf,
  decodeCertificate,
  decodeHeader,
  encodeCertificate,
  encodeHeader
} from "../src/CertificateFormat.ts"
import { anyCertificate, certificateNumber, logHeader, seq, walEpoch } from "./support/certificates.ts"
import { concat, flipped, unspaced } from "./support/walFiles.ts"

const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex")

const certificate: Certificate = {
  fallbackActive: true,
  aborted: false,
  certificateEpoch: 0x0102030405060708n,
  low: seq(0x11),
  high: seq(0x1122),
  segmentEpoch: walEpoch(0x2122232425262728n),
  databasePages: 0x31323334,
  pageSetSize: 0x41424344,
  segmentCrc: 0xf1f2f3f4,
  laneRecords: [0x51525354, 0, 7]
}
const previousCrc = 0xcafebabe

const codeOf = (bytes: Uint8Array, previous = previousCrc) =>
  Result.match(decodeCertificate(bytes, 0, previous), { onSuccess: () => "valid", onFailure: ({ code }) => code })
const headerCodeOf = (bytes: Uint8Array) =>
  Result.match(decodeHeader(bytes), { onSuccess: () => "valid", onFailure: ({ code }) => code })

/** Changes the bytes and makes the checksum fit again. */
const rewritten = (value: Certificate, change: (view: DataView) => void): Uint8Array => {
  const bytes = encodeCertificate(value, previousCrc)
  const view = new DataView(bytes.buffer)
  change(view)
  view.setUint32(bytes.length - 4, crc32c(bytes.subarray(0, -4), previousCrc), true)
  return bytes
}

describe("CertificateFormat: the header", () => {
  it("stands byte for byte as the format says", () => {
    const bytes = encodeHeader(logHeader)
    assert.strictEqual(
      hexOf(bytes.subarray(0, 44)),
      unspaced("54444d4b43455254 0100 0000 30000000 a0a1a2a3a4a5a6a7a8a9aaabacadaeaf 00002a36fe9c9717 00000000")
    )
    assert.strictEqual(bytes.length, 48)
    const crc = crc32c(bytes.subarray(0, 44))
    assert.strictEqual(checksumOf(bytes), crc)
    assert.deepStrictEqual(decodeHeader(bytes), Result.succeed({ header: logHeader, crc }))
    assert.deepStrictEqual(decodeHeader(concat(bytes, new Uint8Array(9))), Result.succeed({ header: logHeader, crc }))
    assert.strictEqual(certificatesPath("/x/app.db"), "/x/app.db-wal-cert")
  })

  it("cut at any byte, or with any bit flipped, it is refused", () => {
    const bytes = encodeHeader(logHeader)
    for (let length = 0; length < bytes.length; length++) {
      assert.strictEqual(headerCodeOf(bytes.subarray(0, length)), "TooShort")
    }
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const expected = bit < 64 ? "BadMagic" : bit < 80 ? "UnsupportedVersion" : "ChecksumMismatch"
      assert.strictEqual(headerCodeOf(flipped(bytes, bit >> 3, 1 << (bit & 7))), expected, `bit ${bit}`)
    }
  })

  it("what the checksum covers is refused too: zero fields that are not zero, another header length", () => {
    const changed = (change: (view: DataView) => void) => {
      const bytes = encodeHeader(logHeader)
      const view = new DataView(bytes.buffer)
      change(view)
      view.setUint32(44, crc32c(bytes.subarray(0, 44)), true)
      return headerCodeOf(bytes)
    }
    assert.strictEqual(changed(() => {}), "valid")
    assert.strictEqual(changed((view) => view.setUint16(10, 1, true)), "NotZero")
    assert.strictEqual(changed((view) => view.setUint32(40, 1, true)), "NotZero")
    assert.strictEqual(changed((view) => view.setUint32(12, 64, true)), "BadHeaderLength")
  })
})

describe("CertificateFormat: a certificate", () => {
  it("stands byte for byte as the format says", () => {
    const bytes = encodeCertificate(certificate, previousCrc)
    assert.strictEqual(
      hexOf(bytes.subarray(0, -4)),
      unspaced(
        "48000000 0100 01 01 0807060504030201 1100000000000000 2211000000000000 2827262524232221 34333231 44434241 " +
          "f4f3f2f1 0300 0000 54535251 00000000 07000000"
      )
    )
    assert.strictEqual(bytes.length, 72)
    assert.strictEqual(certificateBytes(3), 72)
    assert.strictEqual(checksumOf(bytes), crc32c(bytes.subarray(0, -4), previousCrc))
    const aborted = encodeCertificate({
      ...certificate,
      fallbackActive: false,
      aborted: true,
      segmentCrc: 0,
      pageSetSize: 0,
      laneRecords: []
    }, 0)
    assert.strictEqual(hexOf(aborted.subarray(0, 8)), unspaced("3c000000 0100 01 02"))
    assert.strictEqual(aborted.length, 60)
  })

  it("every value round-trips, from the middle of a file too", () => {
    fc.assert(fc.property(anyCertificate, fc.nat(0xffffffff), fc.nat(40), (value, previous, before) => {
      const bytes = encodeCertificate(value, previous)
      const file = concat(new Uint8Array(before).fill(0xa5), bytes, new Uint8Array(3).fill(0x5a))
      assert.deepStrictEqual(
        decodeCertificate(file, before, previous),
        Result.succeed({ certificate: value, crc: checksumOf(bytes), end: before + bytes.length })
      )
    }))
  })

  it("counts as many lanes as a lane id can name, and no more", () => {
    const laneRecords = Array.from({ length: 65_535 }, (_, lane) => lane)
    const bytes = encodeCertificate({ ...certificate, laneRecords }, previousCrc)
    const decoded = decodeCertificate(bytes, 0, previousCrc)
    assert.deepStrictEqual(Result.getOrThrow(decoded).certificate.laneRecords, laneRecords)
    assert.throws(() => encodeCertificate({ ...certificate, laneRecords: [...laneRecords, 0] }, 0), /65,535 lanes/)
  })

  it("PW-29 behind another certificate than the one before it, it is refused", () => {
    const bytes = encodeCertificate(certificate, previousCrc)
    assert.strictEqual(codeOf(bytes), "valid")
    assert.strictEqual(codeOf(bytes, previousCrc ^ 1), "ChecksumMismatch")
    assert.strictEqual(codeOf(bytes, 0), "ChecksumMismatch")
  })

  it("cut at any byte, or with any bit flipped, it is refused, and the issue says where", () => {
    const bytes = encodeCertificate(certificate, previousCrc)
    for (let length = 0; length < bytes.length; length++) {
      assert.strictEqual(codeOf(bytes.subarray(0, length)), "TooShort")
    }
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const code = codeOf(flipped(bytes, bit >> 3, 1 << (bit & 7)))
      assert.oneOf(code, bit < 32 ? ["BadLength", "TooShort", "ChecksumMismatch"] : ["ChecksumMismatch"], `bit ${bit}`)
    }
    const refused = decodeCertificate(concat(new Uint8Array(5), flipped(bytes, 20)), 5, previousCrc)
    assert.deepInclude(Result.getOrThrow(Result.flip(refused)), {
      code: "ChecksumMismatch",
      field: "CRC-32C",
      offset: 5 + 68,
      found: `0x${checksumOf(bytes).toString(16)}`
    })
  })

  it("what the checksum covers is refused too, each field with its own code and offset", () => {
    const changes: ReadonlyArray<readonly [string, number, (view: DataView) => void]> = [
      ["UnsupportedVersion", 4, (view) => view.setUint16(4, 2, true)],
      ["UnknownResidue", 6, (view) => view.setUint8(6, 2)],
      ["BadFlag", 7, (view) => view.setUint8(7, 4)],
      ["BadLaneCount", 52, (view) => view.setUint16(52, 2, true)],
      ["BadLaneCount", 52, (view) => view.setUint16(52, 0xffff, true)],
      ["NotZero", 54, (view) => view.setUint16(54, 1, true)],
      ["BadInterval", 16, (view) => view.setBigUint64(16, 0n, true)],
      ["BadInterval", 16, (view) => view.setBigUint64(24, 0x10n, true)],
      ["NotEmpty", 7, (view) => view.setUint8(7, 2)]
    ]
    assert.strictEqual(codeOf(rewritten(certificate, () => {})), "valid")
    for (const [code, offset, change] of changes) {
      const refused = decodeCertificate(rewritten(certificate, change), 0, previousCrc)
      const issue = Result.getOrThrow(Result.flip(refused))
      assert.deepStrictEqual([issue.code, issue.offset], [code, offset])
    }
  })

  it("a length is believed only as far as there are bytes, and a certificate can be so long", () => {
    const withLength = (length: number, bytes = new Uint8Array(200)) => {
      new DataView(bytes.buffer).setUint32(0, length, true)
      return codeOf(bytes)
    }
    for (const length of [0, 1, 56, 59, 61, 62, 63, 65, certificateBytes(65_535) + 4, 0xfffffffc, 0xffffffff]) {
      assert.strictEqual(withLength(length), "BadLength", `${length}`)
    }
    for (const length of [204, certificateBytes(65_535)]) assert.strictEqual(withLength(length), "TooShort")
    assert.strictEqual(withLength(60), "ChecksumMismatch")
  })

  it("what no certificate may say is not written: an empty interval, records of an aborted one", () => {
    const wrong: ReadonlyArray<Partial<Certificate>> = [
      { low: seq(0) },
      { low: seq(0x1123) },
      { aborted: true },
      { aborted: true, segmentCrc: 0, pageSetSize: 0 },
      { aborted: true, segmentCrc: 1, pageSetSize: 0, laneRecords: [0] },
      { aborted: true, segmentCrc: 0, pageSetSize: 1, laneRecords: [0] }
    ]
    for (const changes of wrong) assert.throws(() => encodeCertificate({ ...certificate, ...changes }, 0))
    assert.throws(() => encodeHeader({ ...logHeader, databaseId: new Uint8Array(15) }))
  })

  it.effect("the codecs are the plain functions", () =>
    Effect.gen(function*() {
      const header = encodeHeader(logHeader)
      assert.deepStrictEqual(yield* Schema.decodeEffect(CertificateLogHeaderFromBytes)(header), logHeader)
      assert.deepStrictEqual(yield* Schema.encodeEffect(CertificateLogHeaderFromBytes)(logHeader), header)
      const codec = certificateFromBytes(previousCrc)
      const bytes = encodeCertificate(certificate, previousCrc)
      assert.deepStrictEqual(yield* Schema.decodeEffect(codec)(bytes), certificate)
      assert.deepStrictEqual(yield* Schema.encodeEffect(codec)(certificate), bytes)
      const refused = yield* Effect.flip(Schema.decodeEffect(codec)(flipped(bytes, 20)))
      assert.include(refused.message, "CRC-32C at byte 68")
      const long = yield* Effect.flip(Schema.decodeEffect(codec)(concat(bytes, new Uint8Array(1))))
      assert.include(long.message, "length at byte 72 is 73 bytes, expected 72 bytes")
      assert.isTrue(Schema.is(Schema.toType(codec))(certificateNumber(3)))
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { crc32c } from "@tidemark/platform/Checksum"
import fc from "fast-check"
import {
  type Certificate,
  certificateBytes,
  type CertificateScan,
  checksumOf,
  encodeHeader,
  scanCertificates
} from "../src/CertificateFormat.ts"
import {
  abortedNumber,
  anyCertificate,
  certificateLog,
  certificateNumber,
  logHeader,
  offsetOf,
  seq,
  walEpoch
} from "./support/certificates.ts"
import { concat, flipped } from "./support/walFiles.ts"

const four = [1, 2, 3, 4].map((n) => certificateNumber(n))
const log = certificateLog(four, { zeros: 700 })
const end = offsetOf(4)

const valuesOf = (scan: CertificateScan) => scan.certificates.map(({ certificate }) => certificate)

/** What a start would make of it, in a word. */
const verdictOf = (scan: CertificateScan) =>
  scan.headerIssue !== undefined ? "header" : scan.damage?.kind ?? (scan.tornBytes > 0 ? "torn" : "whole")

/** What was accepted must have been written, from the first on; and what does not count is said to be so. */
const assertHonest = (bytes: Uint8Array, written: ReadonlyArray<Certificate>, label: string): CertificateScan => {
  const scan = scanCertificates(bytes)
  assert.deepStrictEqual(valuesOf(scan), written.slice(0, scan.certificates.length), label)
  if (scan.headerIssue !== undefined) assert.deepStrictEqual([scan.certificates.length, scan.validBytes], [0, 0], label)
  if (scan.damage !== undefined) {
    assert.strictEqual(scan.damage.offset, scan.validBytes, label)
    assert.strictEqual(scan.tornBytes, 0, label)
    assert.isTrue(scan.damage.issue.offset >= scan.damage.offset && scan.damage.issue.offset < bytes.length, label)
  }
  assert.isAtMost(scan.validBytes + scan.tornBytes, bytes.length, label)
  return scan
}

/** The certificate that starts at `offset` changed, and chained again to the one before it; those behind it are cut off. */
const patched = (bytes: Uint8Array, index: number, change: (view: DataView) => void): Uint8Array => {
  const start = offsetOf(index)
  const copy = bytes.slice(0, offsetOf(index + 1))
  change(new DataView(copy.buffer, start))
  const previous = checksumOf(copy.subarray(0, start))
  const crc = crc32c(copy.subarray(start, -4), previous)
  new DataView(copy.buffer).setUint32(copy.length - 4, crc, true)
  return copy
}

describe("The certificate log as a whole", () => {
  it("PW-29 contiguous intervals in a chain count, aborted ones among them", () => {
    const certificates = [
      certificateNumber(1),
      abortedNumber(2, { segmentEpoch: walEpoch(101) }),
      abortedNumber(3, { segmentEpoch: walEpoch(101), laneRecords: [] }),
      certificateNumber(4, { segmentEpoch: walEpoch(150), laneRecords: [1, 2, 3, 4] })
    ]
    for (const zeros of [0, 1, 3, 4, 59, 60, 5000]) {
      const bytes = certificateLog(certificates, { zeros })
      const scan = scanCertificates(bytes)
      assert.deepStrictEqual(valuesOf(scan), certificates)
      assert.strictEqual(verdictOf(scan), "whole")
      assert.deepStrictEqual(scan.header, logHeader)
      assert.strictEqual(scan.validBytes, bytes.length - zeros)
      assert.strictEqual(scan.chain, checksumOf(bytes.subarray(0, scan.validBytes)))
      assert.strictEqual(scan.fileBytes, bytes.length)
      assert.deepStrictEqual(scan.certificates.map(({ offset }) => offset), [48, 120, 192, 252])
      assert.strictEqual(scan.certificates.at(-1)?.crc, scan.chain)
    }
  })

  it("a log without certificates is empty, and chains the first one to its header", () => {
    const header = encodeHeader(logHeader)
    for (const bytes of [header, concat(header, new Uint8Array(4096))]) {
      const scan = scanCertificates(bytes)
      assert.strictEqual(verdictOf(scan), "whole")
      assert.deepStrictEqual([scan.certificates.length, scan.validBytes, scan.chain], [0, 48, checksumOf(header)])
    }
  })

  it("RC-09 every prefix of the last certificate is a torn tail, with zeros behind it or not", () => {
    const last = offsetOf(3)
    for (let cut = last + 1; cut < end; cut++) {
      for (const bytes of [log.subarray(0, cut), concat(log.subarray(0, cut), new Uint8Array(700))]) {
        const scan = assertHonest(bytes, four, `cut at ${cut}`)
        assert.strictEqual(verdictOf(scan), "torn", `cut at ${cut}`)
        assert.strictEqual(scan.certificates.length, 3)
        assert.strictEqual(scan.validBytes, last)
        assert.isAtMost(last + scan.tornBytes, cut)
        assert.isTrue(bytes.subarray(last + scan.tornBytes).every((byte) => byte === 0))
      }
    }
    assert.strictEqual(verdictOf(scanCertificates(log.subarray(0, last))), "whole")
  })

  it("RC-09 whichever blocks of the last certificate a power loss keeps, the others count", () => {
    const wide = certificateNumber(2, { laneRecords: Array.from({ length: 700 }, (_, lane) => lane + 1) })
    const bytes = certificateLog([certificateNumber(1), wide], { zeros: 80 })
    const blocks = Math.ceil(bytes.length / 512)
    assert.strictEqual(blocks, 6)
    for (let kept = 0; kept < 2 ** blocks - 1; kept++) {
      const torn = bytes.slice()
      for (let block = 0; block < blocks; block++) {
        if ((kept & (1 << block)) === 0) torn.fill(0, Math.max(offsetOf(1), block * 512), (block + 1) * 512)
      }
      const scan = assertHonest(torn, [certificateNumber(1), wide], `blocks ${kept.toString(2)}`)
      assert.strictEqual(verdictOf(scan), kept === 0 ? "whole" : "torn", `blocks ${kept.toString(2)}`)
      assert.strictEqual(scan.certificates.length, 1)
    }
  })

  it("RC-10 any damage before the last certificate is damage, with its offset, found and expected", () => {
    for (let at = offsetOf(0); at < offsetOf(3); at++) {
      for (const mask of [0x01, 0x80, 0xff]) {
        const scan = assertHonest(flipped(log, at, mask), four, `byte ${at}`)
        assert.strictEqual(verdictOf(scan), "CertificateChecksumMismatch", `byte ${at}`)
        const index = Math.floor((at - 48) / certificateBytes(3))
        assert.strictEqual(scan.certificates.length, index)
        assert.strictEqual(scan.damage?.offset, offsetOf(index))
      }
    }
    const found = scanCertificates(flipped(log, offsetOf(1) + 20)).damage?.issue
    assert.deepInclude(found, { code: "ChecksumMismatch", field: "CRC-32C", offset: offsetOf(2) - 4 })
    assert.notStrictEqual(found?.found, found?.expected)
  })

  it("RC-10 a lost block, several neighbours, or a certificate taken out is damage as long as one behind chains", () => {
    const many = Array.from({ length: 40 }, (_, index) => certificateNumber(index + 1))
    const bytes = certificateLog(many)
    const blocks = Math.floor(bytes.length / 512)
    for (let block = 1; block < blocks; block++) {
      for (const fill of [0, 0xff]) {
        const scan = assertHonest(bytes.slice().fill(fill, block * 512, block * 512 + 512), many, `block ${block}`)
        assert.strictEqual(verdictOf(scan), "CertificateChecksumMismatch", `block ${block}`)
        assert.strictEqual(scan.certificates.length, Math.floor((block * 512 - 48) / 72))
      }
    }
    const without = concat(bytes.subarray(0, offsetOf(5)), bytes.subarray(offsetOf(6)))
    assert.strictEqual(verdictOf(assertHonest(without, many, "one taken out")), "CertificateChecksumMismatch")
  })

  const neighbours: ReadonlyArray<readonly [string, Partial<Certificate>, string, number, string, string]> = [
    ["a gap", { low: seq(8) }, "Gap", 16, "8", "7"],
    ["an overlap", { low: seq(6) }, "Overlap", 16, "6", "7"],
    ["the same interval again", { low: seq(4), high: seq(6) }, "Overlap", 16, "4", "7"],
    ["a certificate epoch that stays", { certificateEpoch: 20n }, "NotGrowing", 8, "20", "above 20"],
    ["a certificate epoch that falls", { certificateEpoch: 19n }, "NotGrowing", 8, "19", "above 20"],
    ["a segment epoch that falls", { segmentEpoch: walEpoch(101) }, "Falling", 32, "101", "at least 102"]
  ]
  for (const [what, changes, code, at, found, expected] of neighbours) {
    it(`RC-10 ${what} is a CertificateGap, in the last certificate too`, () => {
      const third = certificateNumber(3, changes)
      for (const certificates of [[...four.slice(0, 2), third], [...four.slice(0, 2), third, certificateNumber(4)]]) {
        const scan = assertHonest(certificateLog(certificates, { zeros: 100 }), certificates, what)
        assert.strictEqual(verdictOf(scan), "CertificateGap")
        assert.strictEqual(scan.certificates.length, 2)
        assert.strictEqual(scan.damage?.offset, offsetOf(2))
        assert.deepInclude(scan.damage?.issue, { code, offset: offsetOf(2) + at, found, expected })
      }
    })
  }

  it("RC-10 a last certificate that checks but says what none can say is damage, not a torn tail", () => {
    const changes: ReadonlyArray<readonly [string, (view: DataView) => void]> = [
      ["UnsupportedVersion", (view) => view.setUint16(4, 2, true)],
      ["UnknownResidue", (view) => view.setUint8(6, 2)],
      ["BadFlag", (view) => view.setUint8(7, 8)],
      ["NotZero", (view) => view.setUint16(54, 1, true)],
      ["BadInterval", (view) => view.setBigUint64(16, 0n, true)]
    ]
    for (const [code, change] of changes) {
      const scan = assertHonest(patched(log, 3, change), four, code)
      assert.strictEqual(verdictOf(scan), "CertificateChecksumMismatch")
      assert.deepStrictEqual([scan.damage?.issue.code, scan.damage?.offset], [code, offsetOf(3)])
    }
    assert.strictEqual(verdictOf(assertHonest(patched(log, 3, () => {}), four, "unchanged")), "whole")
  })

  it("bad input: cut at every length it is whole, torn or without a header, and nothing is invented", () => {
    for (let length = 0; length <= log.length; length++) {
      const scan = assertHonest(log.subarray(0, length), four, `cut at ${length}`)
      const whole = length < 48 ? 0 : Math.min(4, Math.floor((length - 48) / 72))
      assert.strictEqual(scan.certificates.length, whole, `cut at ${length}`)
      const isBetween = length >= 48 && length < end && (length - 48) % 72 !== 0
      assert.strictEqual(verdictOf(scan), length < 48 ? "header" : isBetween ? "torn" : "whole", `cut at ${length}`)
    }
  })

  it("bad input: with any bit flipped a certificate fewer counts, never another one", () => {
    for (let bit = 0; bit < log.length * 8; bit++) {
      const at = bit >> 3
      const scan = assertHonest(flipped(log, at, 1 << (bit & 7)), four, `bit ${bit}`)
      const expected = at < 48
        ? "header"
        : at < offsetOf(3)
        ? "CertificateChecksumMismatch"
        : "torn"
      assert.strictEqual(verdictOf(scan), expected, `bit ${bit}`)
      assert.strictEqual(scan.certificates.length, at < 48 ? 0 : Math.min(4, Math.floor((at - 48) / 72)), `bit ${bit}`)
    }
  })

  it("bad input: whatever happens to several places at once, only what was written is accepted", () => {
    const place = fc.record({ at: fc.nat(log.length - 1), bytes: fc.uint8Array({ minLength: 1, maxLength: 90 }) })
    fc.assert(
      fc.property(fc.array(place, { minLength: 1, maxLength: 4 }), fc.nat(log.length), (places, length) => {
        const bytes = log.slice()
        for (const { at, bytes: over } of places) bytes.set(over.subarray(0, log.length - at), at)
        assertHonest(bytes.subarray(0, length), four, "several places")
      }),
      { numRuns: 500 }
    )
  })

  it("bad input: random bytes behind a header are a torn tail, and random certificates never chain by chance", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      const scan = assertHonest(concat(encodeHeader(logHeader), bytes), [], "random")
      assert.strictEqual(verdictOf(scan), bytes.every((byte) => byte === 0) ? "whole" : "torn")
    }))
    fc.assert(fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      assert.strictEqual(verdictOf(assertHonest(bytes, [], "random")), "header")
    }))
    fc.assert(fc.property(fc.array(anyCertificate, { minLength: 2, maxLength: 5 }), (certificates) => {
      assertHonest(certificateLog(certificates), certificates, "random certificates")
    }))
  })

  it("bad input: a tail full of seeming certificates is refused after a bounded look at them", () => {
    // Each seems to be as long as one can be, and begins 60 bytes behind the one before.
    const tail = new Uint8Array(60 * 300 + certificateBytes(65_535))
    const view = new DataView(tail.buffer)
    for (let at = 0; at < 60 * 300; at += 60) {
      view.setUint32(at, certificateBytes(65_535), true)
      view.setUint16(at + 4, 1, true)
      view.setUint8(at + 6, 1)
      view.setUint16(at + 52, 65_535, true)
    }
    const few = concat(encodeHeader(logHeader), tail.subarray(60 * 200))
    const many = concat(encodeHeader(logHeader), tail)
    assert.strictEqual(verdictOf(assertHonest(few, [], "few")), "torn")
    assert.strictEqual(verdictOf(assertHonest(many, [], "many")), "CertificateChecksumMismatch")
  })
})

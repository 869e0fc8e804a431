/** What reading makes of bytes that nobody wrote: every refusal says where, and none costs memory. */
import { assert, describe, it } from "@effect/vitest"
import { crc32c } from "@tidemark/platform/Checksum"
import { Result } from "effect"
import fc from "fast-check"
import { decode, decodeHeader, entries, segmentHeaderBytes } from "../src/SegmentFormat.ts"
import { anyRecords, headerBytesOf, recordOf, segmentBytesOf, utf8 } from "./support/segmentBytes.ts"
import { concat, flipped } from "./support/walFiles.ts"

const records = [
  recordOf({ begin: 1n, page: 2 }),
  recordOf({ begin: 2n, page: 3, before: utf8("before"), after: new Uint8Array(0) }),
  recordOf({ begin: 3n, page: 0x01020304, end: undefined, id: 2n ** 61n }),
  recordOf({ begin: 0x0102030405060708n, end: 0x1112131415161718n, after: new Uint8Array(300).fill(0xab) })
]

const masks = [0x01, 0x02, 0x10, 0x80, 0xff]

/** Reads the bytes; a refusal has to name a field, and a place inside of them. */
const read = (bytes: Uint8Array, what: string) => {
  const decoded = decode(bytes)
  if (Result.isFailure(decoded)) {
    const { code, expected, field, found, offset } = decoded.failure
    assert.isTrue(offset >= 0 && offset <= bytes.length, `${what}: ${offset} of ${bytes.length}`)
    for (const text of [code, field, found, expected]) assert.isAbove(text.length, 0, what)
  }
  return decoded
}

describe("SegmentFormat, damaged", () => {
  it("PW-20 no byte of a segment of version 2 can be flipped unnoticed", () => {
    const bytes = segmentBytesOf(2, 7n, records)
    assert.isTrue(Result.isSuccess(read(bytes, "whole")))
    for (let offset = 0; offset < bytes.length; offset++) {
      for (const mask of masks) {
        const what = `byte ${offset} ^ ${mask}`
        assert.isTrue(Result.isFailure(read(flipped(bytes, offset, mask), what)), what)
      }
    }
  })

  it("PW-20 a flipped byte of a segment of version 1 is refused, or reads as something else", () => {
    const bytes = segmentBytesOf(1, 7n, records)
    const whole = read(bytes, "whole")
    assert.isTrue(Result.isSuccess(whole))
    let refused = 0
    for (let offset = 0; offset < bytes.length; offset++) {
      for (const mask of masks) {
        const decoded = read(flipped(bytes, offset, mask), `byte ${offset} ^ ${mask}`)
        if (Result.isFailure(decoded)) refused++
        else assert.notDeepEqual(decoded, whole, `byte ${offset} ^ ${mask}`)
        // The header has a checksum in version 1 too.
        if (offset < segmentHeaderBytes) assert.isTrue(Result.isFailure(decoded), `byte ${offset} ^ ${mask}`)
      }
    }
    assert.isAbove(refused, segmentHeaderBytes * masks.length)
  })

  it("PW-20 a segment cut at any byte, or longer by one, is refused", () => {
    for (const version of [1, 2] as const) {
      const bytes = segmentBytesOf(version, 7n, records)
      for (let length = 0; length < bytes.length; length++) {
        assert.isTrue(Result.isFailure(read(bytes.subarray(0, length), `cut at ${length}`)), `cut at ${length}`)
      }
      const longer = decode(concat(bytes, Uint8Array.of(0)))
      assert.isTrue(Result.isFailure(longer) && longer.failure.code === "BytesBehindRecords")
    }
  })

  it("PW-20 whatever stands behind a header that checks, reading neither throws nor believes a length", () => {
    const behind = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.tuple(anyRecords, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 }), fc.constantFrom(1, 2)).map(
        ([some, changes, version]) => {
          const bytes = segmentBytesOf(version === 1 ? 1 : 2, 7n, some).slice(segmentHeaderBytes)
          for (const [at, value] of changes) if (bytes.length > 0) bytes[at % bytes.length] = value
          return bytes
        }
      )
    )
    const count = fc.oneof(fc.nat(9), fc.nat(0xffffffff))
    fc.assert(
      fc.property(behind, count, fc.constantFrom(1, 2), (rest, recordCount, version) => {
        const bytes = concat(headerBytesOf(version, 7n, recordCount), rest)
        const decoded = read(bytes, "random")
        const header = Result.getOrThrow(decodeHeader(bytes))
        let end = segmentHeaderBytes
        let listed = 0
        for (const entry of entries(bytes, header)) {
          assert.strictEqual(entry.offset, end)
          assert.isTrue(entry.end <= bytes.length && (entry.end > entry.offset || entry.issue !== undefined))
          end = entry.end
          listed++
          for (const image of [entry.record?.before, entry.record?.after]) {
            if (image !== undefined) assert.strictEqual(image.buffer, bytes.buffer, "images are views")
          }
        }
        assert.isAtMost(listed, Math.floor(rest.length / 4) + 1)
        if (Result.isSuccess(decoded)) assert.strictEqual(decoded.success.records.length, header.recordCount)
      }),
      { numRuns: 3000 }
    )
  })

  it("PW-20 what claims to be large is refused without memory for it", () => {
    const claims = (version: 1 | 2) => {
      const bytes = segmentBytesOf(version, 7n, [recordOf({ after: new Uint8Array(60) })])
      const claim = (offset: number) => {
        const claimed = bytes.slice()
        const view = new DataView(claimed.buffer)
        view.setUint32(offset, 0xfffffff0, true)
        // Whatever has a checksum has one that fits.
        view.setUint32(20, crc32c(claimed.subarray(0, 20)), true)
        if (version === 2) view.setUint32(claimed.length - 4, crc32c(claimed.subarray(28, -4)), true)
        return claimed
      }
      return [claim(16), claim(24), claim(24 + 45), claim(24 + 49)]
    }
    const codes = ["TooManyRecords", "RecordTooLong", "ImageTooLarge", "ImageTooLarge"]
    for (const version of [1, 2] as const) {
      for (const [index, bytes] of claims(version).entries()) {
        const before = process.memoryUsage().arrayBuffers
        const decoded = decode(bytes)
        assert.isBelow(process.memoryUsage().arrayBuffers - before, 65_536)
        assert.isTrue(Result.isFailure(decoded) && decoded.failure.code === codes[index], codes[index])
      }
    }
  })
})

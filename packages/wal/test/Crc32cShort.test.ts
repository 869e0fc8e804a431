import { assert, describe, it } from "@effect/vitest"
import { crc32c } from "@tidemark/platform/Checksum"
import fc from "fast-check"
import { crc32cOfRun, crc32cOfU64, shiftCrc32c } from "../src/internal/crc32cShort.ts"

const checksum = fc.nat(0xffffffff)

describe("crc32cShort", () => {
  it("a run of any number of words, from any previous checksum, has the checksum of the native function", () => {
    fc.assert(fc.property(fc.nat(80), fc.nat(9), checksum, (words, before, previous) => {
      const bytes = Uint8Array.from({ length: (before + words) * 8 }, (_, index) => (index * 151 + (index >> 5)) & 0xff)
      const view = new DataView(bytes.buffer)
      const expected = crc32c(bytes.subarray(before * 8), previous)
      assert.strictEqual(crc32cOfRun(bytes, view, before * 8, bytes.length, previous), expected)
    }))
  })

  it("so has a u64", () => {
    fc.assert(fc.property(fc.maxSafeNat(), checksum, (value, previous) => {
      const bytes = new Uint8Array(8)
      new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true)
      assert.strictEqual(crc32cOfU64(value, previous), crc32c(bytes, previous))
    }))
  })

  it("the checksum of two runs follows from those of each", () => {
    fc.assert(fc.property(fc.uint8Array(), fc.uint8Array({ maxLength: 300 }), (first, second) => {
      const both = new Uint8Array([...first, ...second])
      assert.strictEqual((shiftCrc32c(crc32c(first), second.length) ^ crc32c(second)) >>> 0, crc32c(both))
    }))
  })

  it("also of runs that are longer than a 32-bit number can say", () => {
    fc.assert(fc.property(checksum, fc.nat(2 ** 50), fc.nat(2 ** 50), (value, first, second) => {
      assert.strictEqual(shiftCrc32c(shiftCrc32c(value, first), second), shiftCrc32c(value, first + second))
    }))
    // 16 MiB of zeros, and 256 times as many.
    const zeros = new Uint8Array(1 << 24)
    const once = crc32c(zeros)
    let expected = once
    for (let run = 1; run < 256; run++) expected = crc32c(zeros, expected)
    let doubled = once
    for (let bytes = 2 ** 24; bytes < 2 ** 32; bytes *= 2) doubled = (shiftCrc32c(doubled, bytes) ^ doubled) >>> 0
    assert.strictEqual(doubled, expected)
  })
})

import { assert, describe, it } from "@effect/vitest"
import { blake3 } from "@tidemark/platform/Checksum"
import fc from "fast-check"
import { blake3Short } from "../src/internal/blake3Short.ts"

const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex")

const short = (bytes: Uint8Array, length = 32) => {
  const target = new Uint8Array(length)
  blake3Short(bytes, target)
  return hexOf(target)
}

describe("blake3Short", () => {
  it("has the published check values", () => {
    assert.strictEqual(short(new Uint8Array(0)), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
    assert.strictEqual(
      short(new TextEncoder().encode("abc")),
      "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    )
  })

  it("is what the native function computes, for every length of a chunk, whatever was hashed before", () => {
    for (let length = 1024; length >= 0; length--) {
      const bytes = Uint8Array.from({ length }, (_, i) => (i * 151 + length) % 256)
      assert.strictEqual(short(bytes), hexOf(blake3(bytes)), `${length} bytes`)
    }
    fc.assert(fc.property(fc.uint8Array({ maxLength: 1024 }), fc.integer({ min: 0, max: 32 }), (bytes, length) => {
      assert.strictEqual(short(bytes, length), hexOf(blake3(bytes)).slice(0, 2 * length))
    }))
  })

  it("refuses more than a chunk, and more than a hash", () => {
    assert.throws(() => short(new Uint8Array(1025)), /a chunk/)
    assert.throws(() => short(new Uint8Array(1), 33), /32 bytes/)
  })
})

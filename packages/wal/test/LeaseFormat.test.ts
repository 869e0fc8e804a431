import { assert, describe, it } from "@effect/vitest"
import { crc32c } from "@tidemark/platform/Checksum"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"
import { decode, encode, type Lease, leaseBytes, LeaseFromBytes, leasePath } from "../src/LeaseFormat.ts"
import { flipped, unspaced } from "./support/walFiles.ts"

const lease: Lease = {
  pid: 0x11223344,
  birth: 0x0102030405060708n,
  generation: 9n,
  acquiredUnixMillis: 1_700_000_000_000,
  expiresUnixMillis: 1_700_000_005_000
}

const codeOf = (bytes: Uint8Array) =>
  Result.match(decode(bytes), { onSuccess: () => "valid", onFailure: (issue) => issue.code })

/** Changes the bytes and makes the checksum fit again. */
const rewritten = (change: (view: DataView) => void): Uint8Array => {
  const bytes = encode(lease)
  const view = new DataView(bytes.buffer)
  change(view)
  view.setUint32(52, crc32c(bytes.subarray(0, 52)), true)
  return bytes
}

describe("LeaseFormat", () => {
  it("stands byte for byte as the format says", () => {
    const bytes = encode(lease)
    assert.strictEqual(
      Buffer.from(bytes.subarray(0, 52)).toString("hex"),
      unspaced(
        "54444d4b4c454153 0100 0000 44332211 0807060504030201 0900000000000000 0068e5cf8b010000 887be5cf8b010000 00000000"
      )
    )
    assert.strictEqual(bytes.length, leaseBytes)
    assert.strictEqual(new DataView(bytes.buffer).getUint32(52, true), crc32c(bytes.subarray(0, 52)))
    assert.strictEqual(leasePath("/x/app.db"), "/x/app.db.fsqlite/lease")
  })

  it("every value round-trips", () => {
    const u64 = fc.bigInt(0n, 2n ** 64n - 1n)
    const millis = fc.maxSafeNat()
    fc.assert(fc.property(
      fc.nat(0xffffffff),
      u64,
      u64,
      millis,
      millis,
      (pid, birth, generation, acquiredUnixMillis, expiresUnixMillis) => {
        const value = { pid, birth, generation, acquiredUnixMillis, expiresUnixMillis }
        assert.deepStrictEqual(decode(encode(value)), Result.succeed(value))
      }
    ))
  })

  it("cut at any byte, longer by one, or with any bit flipped it is refused", () => {
    const bytes = encode(lease)
    for (let length = 0; length < bytes.length; length++) {
      assert.strictEqual(codeOf(bytes.subarray(0, length)), "TooShort")
    }
    assert.strictEqual(codeOf(new Uint8Array(57)), "TooLong")
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const expected = bit < 64 ? "BadMagic" : bit < 80 ? "UnsupportedVersion" : "ChecksumMismatch"
      assert.strictEqual(codeOf(flipped(bytes, bit >> 3, 1 << (bit & 7))), expected, `bit ${bit}`)
    }
  })

  it("what the checksum covers is refused too: zero fields that are not zero, times that are no safe integers", () => {
    assert.strictEqual(codeOf(rewritten(() => {})), "valid")
    assert.strictEqual(codeOf(rewritten((view) => view.setUint16(10, 1, true))), "NotZero")
    assert.strictEqual(codeOf(rewritten((view) => view.setUint32(48, 1, true))), "NotZero")
    assert.strictEqual(codeOf(rewritten((view) => view.setBigUint64(32, 2n ** 53n, true))), "OutOfRange")
    assert.strictEqual(codeOf(rewritten((view) => view.setBigUint64(40, 2n ** 53n, true))), "OutOfRange")
  })

  it("random bytes are refused, never a defect", () => {
    fc.assert(fc.property(fc.uint8Array({ minLength: 50, maxLength: 62 }), (bytes) => {
      assert.notStrictEqual(codeOf(bytes), "valid")
    }))
  })

  it.effect("the codec is the plain functions", () =>
    Effect.gen(function*() {
      const bytes = encode(lease)
      assert.deepStrictEqual(yield* Schema.decodeEffect(LeaseFromBytes)(bytes), lease)
      assert.deepStrictEqual(yield* Schema.encodeEffect(LeaseFromBytes)(lease), bytes)
      const refused = yield* Effect.flip(Schema.decodeEffect(LeaseFromBytes)(flipped(bytes, 12)))
      assert.include(refused.message, "CRC-32C at byte 52")
    }))
})

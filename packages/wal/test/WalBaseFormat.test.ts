import { assert, describe, it } from "@effect/vitest"
import { CommitSeq } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"
import { decode, encode, type WalBase, walBaseBytes, WalBaseFromBytes, walBasePath } from "../src/WalBaseFormat.ts"
import { flipped, unspaced } from "./support/walFiles.ts"

const base: WalBase = {
  sealed: true,
  salt1: 0x11223344,
  salt2: 0xfffefdfc,
  previousSalt1: 0x11223343,
  previousSalt2: 5,
  baseCommitSeq: CommitSeq.make(0x0102030405060708n)
}

const codeOf = (bytes: Uint8Array) =>
  Result.match(decode(bytes), { onSuccess: () => "valid", onFailure: (issue) => issue.code })

/** Changes the bytes and makes the checksum fit again. */
const rewritten = (change: (view: DataView) => void): Uint8Array => {
  const bytes = encode(base)
  const view = new DataView(bytes.buffer)
  change(view)
  view.setUint32(44, crc32c(bytes.subarray(0, 44)), true)
  return bytes
}

describe("WalBaseFormat", () => {
  it("stands byte for byte as the format says", () => {
    const bytes = encode(base)
    assert.strictEqual(
      Buffer.from(bytes.subarray(0, 44)).toString("hex"),
      unspaced("54444d4b42415345 0100 0100 00000000 44332211 fcfdfeff 43332211 05000000 0807060504030201 00000000")
    )
    assert.strictEqual(bytes.length, walBaseBytes)
    assert.strictEqual(new DataView(bytes.buffer).getUint32(44, true), crc32c(bytes.subarray(0, 44)))
    assert.strictEqual(walBasePath("/x/app.db"), "/x/app.db.fsqlite/wal-base")
  })

  it("every value round-trips", () => {
    const u32 = fc.nat(0xffffffff)
    fc.assert(fc.property(
      fc.boolean(),
      fc.tuple(u32, u32, u32, u32),
      fc.bigInt(0n, 2n ** 64n - 1n),
      (sealed, [salt1, salt2, previousSalt1, previousSalt2], seq) => {
        const value = { sealed, salt1, salt2, previousSalt1, previousSalt2, baseCommitSeq: CommitSeq.make(seq) }
        assert.deepStrictEqual(decode(encode(value)), Result.succeed(value))
      }
    ))
  })

  it("cut at any byte, longer by one, or with any bit flipped it is refused", () => {
    const bytes = encode(base)
    for (let length = 0; length < bytes.length; length++) {
      assert.strictEqual(codeOf(bytes.subarray(0, length)), "TooShort")
    }
    assert.strictEqual(codeOf(new Uint8Array(49)), "TooLong")
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const expected = bit < 64 ? "BadMagic" : bit < 80 ? "UnsupportedVersion" : "ChecksumMismatch"
      assert.strictEqual(codeOf(flipped(bytes, bit >> 3, 1 << (bit & 7))), expected, `bit ${bit}`)
    }
  })

  it("what the checksum covers is refused too: a flag of 2, zero fields that are not zero", () => {
    assert.strictEqual(codeOf(rewritten(() => {})), "valid")
    assert.strictEqual(codeOf(rewritten((view) => view.setUint16(10, 2, true))), "BadFlag")
    assert.strictEqual(codeOf(rewritten((view) => view.setUint32(12, 1, true))), "NotZero")
    assert.strictEqual(codeOf(rewritten((view) => view.setUint32(40, 1, true))), "NotZero")
  })

  it("random bytes are refused, never a defect", () => {
    fc.assert(fc.property(fc.uint8Array({ minLength: 40, maxLength: 56 }), (bytes) => {
      assert.notStrictEqual(codeOf(bytes), "valid")
    }))
  })

  it.effect("the codec is the plain functions", () =>
    Effect.gen(function*() {
      const bytes = encode(base)
      assert.deepStrictEqual(yield* Schema.decodeEffect(WalBaseFromBytes)(bytes), base)
      assert.deepStrictEqual(yield* Schema.encodeEffect(WalBaseFromBytes)(base), bytes)
      const refused = yield* Effect.flip(Schema.decodeEffect(WalBaseFromBytes)(flipped(bytes, 20)))
      assert.include(refused.message, "CRC-32C at byte 44")
    }))
})

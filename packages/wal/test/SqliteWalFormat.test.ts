import { assert, describe, it } from "@effect/vitest"
import { InvariantViolation } from "@tidemark/core/Invariant"
import { PageSize, pageSizes } from "@tidemark/core/Scalars"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"
import {
  chainFromHeader,
  type ChecksumWords,
  decodeHeader,
  encodeHeader,
  extendChain,
  frameBytes,
  frameChecks,
  FrameHeaderFromBytes,
  frameOffset,
  readFrameHeader,
  type WalHeader,
  walHeaderBytes,
  WalHeaderFromBytes,
  writeFrame
} from "../src/SqliteWalFormat.ts"
import { flipped, pageImage, unspaced } from "./support/walFiles.ts"

const header: WalHeader = {
  checksumWords: "littleEndian",
  pageSize: PageSize.make(4096),
  checkpointSeq: 5,
  salt1: 0x01020304,
  salt2: 0xfffefdfc
}

const codeOf = (bytes: Uint8Array) =>
  Result.match(decodeHeader(bytes), { onSuccess: () => "valid", onFailure: (issue) => issue.code })

/** Sets a field and makes the checksum fit again, which leaves only the field itself to be refused. */
const withField = (offset: number, value: number): Uint8Array => {
  const bytes = encodeHeader(header)
  const view = new DataView(bytes.buffer)
  view.setUint32(offset, value)
  const chain = { s0: 0, s1: 0 }
  extendChain(chain, view, 0, 24, "littleEndian")
  view.setUint32(24, chain.s0)
  view.setUint32(28, chain.s1)
  return bytes
}

/** The checksum as its definition says it, in unbounded integers. */
const checksumByDefinition = (start: { s0: number; s1: number }, bytes: Uint8Array, words: ChecksumWords) => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let s0 = BigInt(start.s0)
  let s1 = BigInt(start.s1)
  for (let at = 0; at < bytes.length; at += 8) {
    s0 = (s0 + BigInt(view.getUint32(at, words === "littleEndian")) + s1) % 2n ** 32n
    s1 = (s1 + BigInt(view.getUint32(at + 4, words === "littleEndian")) + s0) % 2n ** 32n
  }
  return { s0: Number(s0), s1: Number(s1) }
}

const wordOrders = ["littleEndian", "bigEndian"] as const

const makeFrame = (size: number, words: ChecksumWords) => {
  const own = { ...header, pageSize: PageSize.make(size as PageSize), checksumWords: words }
  const headerBytes = encodeHeader(own)
  // Neither aligned nor at the start of its buffer, as frames in a batch are.
  const target = new Uint8Array(new ArrayBuffer(frameBytes(size) + 41), 3, frameBytes(size) + 38)
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength)
  const chain = chainFromHeader(headerBytes)
  const page = pageImage(size, 9)
  writeFrame(target, view, 13, { pageNumber: 7, databasePages: 12, page }, {
    salt1: own.salt1,
    salt2: own.salt2,
    words
  }, chain)
  return { own, headerBytes, target, view, chain, page }
}

describe("SqliteWalFormat", () => {
  it("the header stands byte for byte as the format says", () => {
    const bytes = encodeHeader(header)
    assert.strictEqual(
      Buffer.from(bytes.subarray(0, 24)).toString("hex"),
      unspaced("377f0682 002de218 00001000 00000005 01020304 fffefdfc")
    )
    assert.deepStrictEqual(
      chainFromHeader(bytes),
      checksumByDefinition({ s0: 0, s1: 0 }, bytes.subarray(0, 24), "littleEndian")
    )
    const big = encodeHeader({ ...header, checksumWords: "bigEndian" })
    assert.strictEqual(Buffer.from(big.subarray(0, 4)).toString("hex"), "377f0683")
    assert.deepStrictEqual(
      chainFromHeader(big),
      checksumByDefinition({ s0: 0, s1: 0 }, big.subarray(0, 24), "bigEndian")
    )
  })

  it("every header round-trips, for all page sizes and both word orders", () => {
    fc.assert(fc.property(
      fc.constantFrom(...wordOrders),
      fc.constantFrom(...pageSizes),
      fc.nat(0xffffffff),
      fc.nat(0xffffffff),
      fc.nat(0xffffffff),
      (checksumWords, size, checkpointSeq, salt1, salt2) => {
        const value = { checksumWords, pageSize: PageSize.make(size), checkpointSeq, salt1, salt2 }
        const bytes = encodeHeader(value)
        const { s0, s1 } = chainFromHeader(bytes)
        assert.deepStrictEqual(decodeHeader(bytes), Result.succeed({ ...value, checksum1: s0, checksum2: s1 }))
      }
    ))
  })

  it("each refusal has its code", () => {
    assert.strictEqual(codeOf(encodeHeader(header)), "valid")
    assert.strictEqual(codeOf(new Uint8Array(0)), "TooShort")
    assert.strictEqual(codeOf(withField(0, 0x377f0681)), "BadMagic")
    for (const size of [0, 1, 256, 4095, 4097, 131072]) {
      assert.strictEqual(codeOf(withField(8, size)), "InvalidPageSize", `${size}`)
    }
    assert.strictEqual(codeOf(withField(4, 3007001)), "UnsupportedVersion")
    assert.strictEqual(codeOf(flipped(encodeHeader(header), 4)), "ChecksumMismatch")
    const tooShort = decodeHeader(encodeHeader(header).subarray(0, 31))
    assert.isTrue(Result.isFailure(tooShort) && tooShort.failure.found === "31 bytes")
  })

  it("a header cut at any byte or with any bit flipped is refused", () => {
    const bytes = encodeHeader(header)
    for (let length = 0; length < bytes.length; length++) {
      assert.strictEqual(codeOf(bytes.subarray(0, length)), "TooShort")
    }
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      // The other magic is a word order, under which the checksum does not fit.
      const expected = bit < 32 ? ["BadMagic", "ChecksumMismatch"] : ["InvalidPageSize", "ChecksumMismatch"]
      assert.include(expected, codeOf(flipped(bytes, bit >> 3, 1 << (bit & 7))), `bit ${bit}`)
    }
  })

  it("random bytes are refused, never a defect", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      assert.notStrictEqual(codeOf(bytes), "valid")
    }))
  })

  it("the checksum is its definition, continued, in both word orders and at any alignment", () => {
    fc.assert(fc.property(
      fc.constantFrom(...wordOrders),
      fc.nat(0xffffffff),
      fc.nat(0xffffffff),
      fc.nat(7),
      fc.nat(20).chain((pairs) => fc.uint8Array({ minLength: pairs * 8, maxLength: pairs * 8 })),
      (words, s0, s1, shift, bytes) => {
        const placed = new Uint8Array(bytes.length + shift)
        placed.set(bytes, shift)
        const chain = { s0, s1 }
        extendChain(chain, new DataView(placed.buffer), shift, bytes.length, words)
        assert.deepStrictEqual(chain, checksumByDefinition({ s0, s1 }, bytes, words))
      }
    ))
  })

  it("a frame is header and page, chained from the header of the file", () => {
    for (const words of wordOrders) {
      for (const size of pageSizes) {
        const { chain, headerBytes, own, page, target, view } = makeFrame(size, words)
        const covered = new Uint8Array(8 + size)
        covered.set(target.subarray(13, 21))
        covered.set(page, 8)
        const expected = checksumByDefinition(chainFromHeader(headerBytes), covered, words)
        assert.deepStrictEqual({ ...chain }, expected)
        assert.deepStrictEqual(readFrameHeader(view, 13), {
          pageNumber: 7,
          databasePages: 12,
          salt1: own.salt1,
          salt2: own.salt2,
          checksum1: expected.s0,
          checksum2: expected.s1
        })
        assert.isTrue(Buffer.from(target.subarray(37, 37 + size)).equals(page))
        assert.isTrue(target.subarray(0, 13).every((byte) => byte === 0), "nothing in front of the frame")
        assert.isTrue(target.subarray(37 + size).every((byte) => byte === 0), "nothing behind the frame")
        const reading = chainFromHeader(headerBytes)
        assert.isTrue(frameChecks(view, 13, size, own, reading))
        assert.deepStrictEqual(reading, chain)
      }
    }
  })

  it("a frame with any bit flipped does not check, and the chain stays where it was", () => {
    for (const words of wordOrders) {
      const { headerBytes, own, target } = makeFrame(512, words)
      for (let offset = 13; offset < 13 + frameBytes(512); offset++) {
        for (const mask of [0x01, 0x80]) {
          const chain = chainFromHeader(headerBytes)
          assert.isFalse(frameChecks(new DataView(flipped(target, offset, mask).buffer), 13, 512, own, chain))
          assert.deepStrictEqual(chain, chainFromHeader(headerBytes))
        }
      }
    }
  })

  it("SWAL-04 zeros are no frame, even where salts and checksum are zero", () => {
    const zeros = { ...header, pageSize: PageSize.make(512), salt1: 0, salt2: 0 }
    assert.isFalse(frameChecks(new DataView(new ArrayBuffer(frameBytes(512))), 0, 512, zeros, { s0: 0, s1: 0 }))
  })

  it("SWAL-06 a page image that is not exactly one page, or no page number, is a defect", () => {
    const target = new Uint8Array(8192)
    const view = new DataView(target.buffer)
    const write = (pageNumber: number, bytes: number) =>
      writeFrame(target, view, 0, { pageNumber, databasePages: 0, page: new Uint8Array(bytes) }, {
        salt1: 1,
        salt2: 2,
        words: "littleEndian"
      }, { s0: 0, s1: 0 })
    write(1, 512)
    for (const bytes of [0, 511, 513, 256, 4095, 6144]) assert.throws(() => write(1, bytes), InvariantViolation)
    for (const page of [0, 0xffffffff]) assert.throws(() => write(page, 512), InvariantViolation)
  })

  it("frames follow each other from byte 32", () => {
    assert.deepStrictEqual([0, 1, 2].map((index) => frameOffset(index, 4096)), [32, 4152, 8272])
    assert.strictEqual(walHeaderBytes, 32)
  })

  it.effect("the codecs are the plain functions", () =>
    Effect.gen(function*() {
      const bytes = encodeHeader(header)
      assert.deepStrictEqual(yield* Schema.decodeEffect(WalHeaderFromBytes)(bytes), header)
      assert.deepStrictEqual(yield* Schema.encodeEffect(WalHeaderFromBytes)(header), bytes)
      const refused = yield* Effect.flip(Schema.decodeEffect(WalHeaderFromBytes)(flipped(bytes, 0)))
      assert.include(refused.message, "magic at byte 0")

      const { target, view } = makeFrame(512, "littleEndian")
      const frame = yield* Schema.decodeEffect(FrameHeaderFromBytes)(target.subarray(13))
      assert.deepStrictEqual(frame, readFrameHeader(view, 13))
      assert.deepStrictEqual(yield* Schema.encodeEffect(FrameHeaderFromBytes)(frame), target.slice(13, 37))
      const short = yield* Effect.flip(Schema.decodeEffect(FrameHeaderFromBytes)(target.subarray(0, 23)))
      assert.include(short.message, "23 bytes")
    }))
})

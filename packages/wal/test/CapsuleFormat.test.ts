import { assert, describe, it } from "@effect/vitest"
import { toObjectId } from "@tidemark/core/Scalars"
import { blake3 } from "@tidemark/platform/Checksum"
import { Effect, Exit, Result, Schema } from "effect"
import fc from "fast-check"
import {
  allocateCapsule,
  capsuleBytes,
  CapsuleFromBytes,
  capsuleHeaderBytes,
  capsuleId,
  capsulePath,
  capsulesDirectory,
  decode,
  decodeHeader,
  encode,
  entries,
  idOfCapsuleName,
  imageOffset,
  lengthIssue,
  maxCapsulePages
} from "../src/CapsuleFormat.ts"
import {
  anyContent,
  capsuleOf,
  changed,
  contentOf,
  digested,
  encoded,
  imageOf,
  pageSizeOf
} from "./support/capsules.ts"
import { concat, flipped, unspaced } from "./support/walFiles.ts"

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex")

const content = contentOf({
  pages: [3, 0x01020304],
  databasePages: 0x0a0b0c0d,
  id: 0x0102030405060708n,
  epoch: 0x11121314,
  beginSeq: 0x2122232425262728n
})
const { bytes, digest, id } = encoded(content)

/** What reading refuses: the code, the field and where; with texts for a person. */
const refused = (damaged: Uint8Array, idOfName?: Parameters<typeof decode>[1]) => {
  const decoded = decode(damaged, idOfName)
  assert.isTrue(Result.isFailure(decoded), "it was read")
  if (Result.isSuccess(decoded)) return ["", "", -1] as const
  const { code, expected, field, found, offset } = decoded.failure
  for (const text of [code, field, found, expected]) assert.isAbove(text.length, 0)
  assert.isTrue(offset >= 0 && offset <= damaged.length, `${code} at ${offset} of ${damaged.length}`)
  return [code, field, offset] as const
}

describe("CapsuleFormat", () => {
  it("stands byte for byte as the format says", () => {
    const header = "54444d4b43415053 0100 0000 00020000 0807060504030201 14131211 02000000 2827262524232221 0d0c0b0a" +
      "00000000"
    const table = "03000000 00000000 04030201 00000000"
    const body = concat(Buffer.from(unspaced(header + table), "hex"), imageOf(content, 3), imageOf(content, 0x01020304))
    assert.strictEqual(hex(bytes.subarray(0, 64)), unspaced(header + table))
    assert.strictEqual(hex(bytes), hex(concat(body, blake3(body))))
    assert.strictEqual(bytes.length, 48 + 2 * 8 + 2 * 512 + 32)
    // Computed with the package @noble/hashes.
    assert.strictEqual(hex(id), "f3dc40bfd19febf4c57351e8ae2e42cf")
    assert.strictEqual(hex(digest), "b9d640abf91b925314f11f1de3362da94248895df1462675b8315f2e3cb95542")
  })

  it("the id hashes its domain and the whole file, the digest that travels the file alone", () => {
    const domain = new TextEncoder().encode("fsqlite:ecs:v1")
    assert.strictEqual(hex(id), hex(blake3(concat(domain, bytes))).slice(0, 32))
    assert.strictEqual(hex(digest), hex(blake3(bytes)))
    for (const hash of [id, digest]) {
      assert.strictEqual(Object.getPrototypeOf(hash), Uint8Array.prototype)
      assert.strictEqual(hash.buffer.byteLength, hash.length)
    }
    // Wherever the bytes stand, and whatever stands before them.
    const among = new Uint8Array(bytes.length + 40).fill(0xa5)
    among.set(bytes, 20)
    for (const same of [bytes, bytes.slice(), among.subarray(20, 20 + bytes.length)]) {
      assert.deepStrictEqual(capsuleId(same), id)
    }
    for (const byte of domain.keys()) {
      const almost = concat(flipped(domain, byte), bytes)
      assert.deepStrictEqual(capsuleId(almost.subarray(domain.length)), id, `byte ${byte} of another domain`)
    }
    assert.deepStrictEqual(among.subarray(0, 20), new Uint8Array(20).fill(0xa5))
  })

  it("memory for a file is hashed where it is", () => {
    const memory = allocateCapsule(bytes.length)
    assert.deepStrictEqual(memory, new Uint8Array(bytes.length))
    memory.set(bytes)
    assert.deepStrictEqual(capsuleId(memory), id)
  })

  it("files are named by their id", () => {
    assert.strictEqual(capsulesDirectory("/x/app.db"), "/x/app.db.fsqlite/capsules")
    assert.strictEqual(capsulePath("/x/app.db", id), `/x/app.db.fsqlite/capsules/${hex(id)}`)
    assert.deepStrictEqual(idOfCapsuleName(hex(id)), id)
    assert.deepStrictEqual(idOfCapsuleName("0123456789abcdef".repeat(2))?.[1], 0x23)
    const none = ["", hex(id).slice(1), `${hex(id)}0`, "0123456789ABCDEF".repeat(2), `.tmp-${hex(id)}-00000000`]
    for (const name of none) assert.isUndefined(idOfCapsuleName(name), name)
  })

  it("sizes and places follow from page size and count", () => {
    assert.strictEqual(capsuleBytes(pageSizeOf(4096), 0), 80)
    assert.strictEqual(capsuleBytes(pageSizeOf(4096), 1), 4184)
    assert.strictEqual(capsuleBytes(pageSizeOf(65_536), maxCapsulePages), 80 + maxCapsulePages * 65_544)
    assert.strictEqual(imageOffset(pageSizeOf(4096), 16, 0), 48 + 16 * 8)
    assert.strictEqual(imageOffset(pageSizeOf(4096), 16, 3), 48 + 16 * 8 + 3 * 4096)
  })

  it("RC-15 every capsule reads back, to its id and digest", () => {
    fc.assert(fc.property(anyContent, (any) => {
      const made = encoded(any)
      assert.strictEqual(made.bytes.length, capsuleBytes(any.pageSize, any.pages.length))
      const read = Result.getOrThrow(decode(made.bytes, made.id))
      const { image, ...rest } = read
      assert.deepStrictEqual(rest, { ...any, id: made.id, digest: made.digest })
      for (const [index, page] of any.pages.entries()) {
        const shown = image(index)
        assert.deepStrictEqual(shown, imageOf(any, page))
        assert.strictEqual(shown.buffer, made.bytes.buffer, "images are views")
        const at = imageOffset(any.pageSize, any.pages.length, index)
        assert.deepStrictEqual(made.bytes.subarray(at, at + any.pageSize), shown)
      }
    }))
  })

  it("RC-15 what two transactions wrote is never one capsule, what one wrote always is", () => {
    fc.assert(
      fc.property(anyContent, anyContent, (one, other) => {
        assert.deepStrictEqual(encoded(one), encoded(one))
        assert.strictEqual(
          hex(encoded(one).id) === hex(encoded(other).id),
          hex(encoded(one).bytes) === hex(encoded(other).bytes)
        )
      }),
      { numRuns: 30 }
    )
  })

  it("each page is asked for once, in order, and copied before the next", () => {
    const asked: Array<number> = []
    const shared = new Uint8Array(512)
    const made = encode(content, (page) => {
      asked.push(page)
      shared.set(imageOf(content, page))
      return shared
    })
    assert.deepStrictEqual(asked, [3, 0x01020304])
    assert.deepStrictEqual(made, { bytes, digest, id })
  })

  it("a capsule of no pages is one", () => {
    const empty = encoded(contentOf({ pages: [], databasePages: 0 }))
    assert.strictEqual(empty.bytes.length, 80)
    assert.deepStrictEqual(Result.getOrThrow(decode(empty.bytes, empty.id)).pages, [])
  })

  it("RC-15 says what is wrong, and where", () => {
    const u16 = (at: number, value: number) => changed(bytes, (view) => view.setUint16(at, value, true))
    const u32 = (at: number, value: number) => changed(bytes, (view) => view.setUint32(at, value, true))
    const u64 = (at: number, value: bigint) => changed(bytes, (view) => view.setBigUint64(at, value, true))
    const last = bytes.length - 32
    const refusals: ReadonlyArray<readonly [Uint8Array, string, string, number]> = [
      [bytes.subarray(0, 0), "TooShort", "header", 0],
      [bytes.subarray(0, 47), "TooShort", "header", 0],
      [bytes.subarray(0, 48), "Truncated", "end of the file", 48],
      [bytes.subarray(0, -1), "Truncated", "end of the file", bytes.length - 1],
      [concat(bytes, new Uint8Array(1)), "BytesBehindDigest", "end of the file", bytes.length],
      [flipped(bytes, 7), "BadMagic", "magic", 0],
      [u16(8, 2), "UnsupportedVersion", "version", 8],
      [u16(10, 1), "NotZero", "zero field", 10],
      [u32(12, 0), "BadPageSize", "page size", 12],
      [u32(12, 256), "BadPageSize", "page size", 12],
      [u32(12, 513), "BadPageSize", "page size", 12],
      [u32(12, 131_072), "BadPageSize", "page size", 12],
      [u64(16, 0n), "BadTxnId", "transaction id", 16],
      [u64(16, 2n ** 62n), "BadTxnId", "transaction id", 16],
      [u64(16, 2n ** 64n - 1n), "BadTxnId", "transaction id", 16],
      [u32(28, 262_145), "TooManyPages", "page count", 28],
      [u32(28, 0xffffffff), "TooManyPages", "page count", 28],
      [u32(28, 1), "BytesBehindDigest", "end of the file", bytes.length - 520],
      [u32(28, 3), "Truncated", "end of the file", bytes.length],
      [u32(28, 262_144), "Truncated", "end of the file", bytes.length],
      [u64(32, 2n ** 64n - 1n), "BadBeginSeq", "begin sequence", 32],
      [u32(44, 1), "NotZero", "last zero field", 44],
      [flipped(bytes, last), "DigestMismatch", "BLAKE3", last],
      [flipped(bytes, 64), "DigestMismatch", "BLAKE3", last],
      [u32(48, 0), "BadPageNumber", "page number 0", 48],
      [u32(56, 0xffffffff), "BadPageNumber", "page number 1", 56],
      [u32(56, 0x0a0b0c0e), "PageBeyondDatabase", "page number 1", 56],
      [u32(40, 0x01020303), "PageBeyondDatabase", "page number 1", 56],
      [u32(56, 3), "PagesNotAscending", "page number 1", 56],
      [u32(56, 2), "PagesNotAscending", "page number 1", 56],
      [u32(52, 1), "NotZero", "zero field of page 0", 52],
      [u32(60, 0x80000000), "NotZero", "zero field of page 1", 60]
    ]
    for (const [damaged, code, field, offset] of refusals) {
      assert.deepStrictEqual(refused(damaged), [code, field, offset])
    }
    // The largest values that are none of these.
    for (const fine of [u64(16, 2n ** 62n - 1n), u64(32, 2n ** 64n - 2n), u32(40, 0x01020304), u32(24, 0xffffffff)]) {
      assert.isTrue(Result.isSuccess(decode(fine)))
    }
  })

  it("RC-15 a whole capsule does not pass for another one", () => {
    const other = capsuleOf(8n)
    assert.deepStrictEqual(refused(other.bytes, id), ["IdMismatch", "object id", 0])
    assert.isTrue(Result.isSuccess(decode(other.bytes, other.id)))
    for (let byte = 0; byte < 16; byte++) {
      assert.strictEqual(refused(bytes, toObjectId(flipped(id, byte)))[0], "IdMismatch", `byte ${byte}`)
    }
  })

  it("RC-15 no bit of a capsule can be flipped unnoticed, no byte of it be cut off", () => {
    const small = capsuleOf(9n, [1, 2])
    assert.isTrue(Result.isSuccess(decode(small.bytes)))
    for (let bit = 0; bit < small.bytes.length * 8; bit++) {
      const code = refused(flipped(small.bytes, bit >> 3, 1 << (bit & 7)))[0]
      if (bit >= 48 * 8) assert.strictEqual(code, "DigestMismatch", `bit ${bit}`)
      if (bit < 64) assert.strictEqual(code, "BadMagic", `bit ${bit}`)
    }
    for (let length = 0; length < small.bytes.length; length++) {
      const code = refused(small.bytes.subarray(0, length))[0]
      assert.strictEqual(code, length < 48 ? "TooShort" : "Truncated", `cut at ${length}`)
    }
  })

  it("RC-15 even with a digest that fits every byte of header and table means something", () => {
    const small = capsuleOf(9n, [1, 2])
    const whole = Result.getOrThrow(decode(small.bytes))
    for (let offset = 0; offset < capsuleHeaderBytes + 16; offset++) {
      for (const mask of [0x01, 0x10, 0x80, 0xff]) {
        const what = `byte ${offset} ^ ${mask}`
        const damaged = digested(flipped(small.bytes, offset, mask))
        assert.strictEqual(refused(damaged, small.id)[0].length > 0, true, what)
        const read = decode(damaged)
        if (Result.isSuccess(read)) {
          const { beginSeq, databasePages, pages, token } = read.success
          assert.notDeepEqual({ beginSeq, databasePages, pages, token }, {
            beginSeq: whole.beginSeq,
            databasePages: whole.databasePages,
            pages: whole.pages,
            token: whole.token
          }, what)
        }
      }
    }
  })

  it("RC-15 whatever stands in a file, reading neither throws nor believes a count", () => {
    const header = fc.record({
      pageSize: fc.constantFrom(512, 4096, 65_536, 0, 513),
      pageCount: fc.oneof(fc.nat(4), fc.nat(0xffffffff)),
      databasePages: fc.oneof(fc.nat(9), fc.nat(0xffffffff)),
      behind: fc.uint8Array({ maxLength: 1200 })
    }).map(({ behind, databasePages, pageCount, pageSize }) => {
      const claimed = concat(bytes.subarray(0, 48), behind)
      const view = new DataView(claimed.buffer)
      view.setUint32(12, pageSize, true)
      view.setUint32(28, pageCount, true)
      view.setUint32(40, databasePages, true)
      return claimed
    })
    fc.assert(
      fc.property(
        fc.oneof(header, header.map((claimed) => digested(concat(claimed, new Uint8Array(32))))),
        (claimed) => {
          const decoded = decode(claimed)
          if (Result.isFailure(decoded)) refused(claimed)
          const read = decodeHeader(claimed)
          if (Result.isFailure(read)) return
          let listed = 0
          for (const entry of entries(claimed, read.success)) {
            assert.strictEqual(entry.offset, 48 + 8 * listed++)
            assert.notStrictEqual(entry.page === undefined, entry.issue === undefined)
          }
          assert.isAtMost(listed, Math.floor((claimed.length - 48) / 8) + 1)
          assert.strictEqual(
            lengthIssue(read.success, claimed.length) === undefined,
            claimed.length === 80 + read.success.pageCount * (8 + read.success.pageSize)
          )
        }
      ),
      { numRuns: 2000 }
    )
  })

  it("RC-15 what claims to be large is refused without memory for it", () => {
    const large = changed(bytes, (view) => view.setUint32(28, maxCapsulePages, true))
    refused(large)
    const before = process.memoryUsage().arrayBuffers
    for (let call = 0; call < 100; call++) refused(large)
    assert.isBelow(process.memoryUsage().arrayBuffers - before, 1_000_000)
  })

  it("the table can be listed although the file is damaged, as far as it goes", () => {
    const damaged = flipped(bytes, 56, 0x04).subarray(0, 70)
    const header = Result.getOrThrow(decodeHeader(damaged))
    const rows = Array.from(
      entries(damaged, header),
      ({ imageOffset, issue, page }) => [page, imageOffset, issue?.code]
    )
    assert.deepStrictEqual(rows, [[3, 64, undefined], [0x01020300, 576, undefined]])
    const cut = Array.from(entries(bytes.subarray(0, 60), header), ({ issue, offset }) => [issue?.code, offset])
    assert.deepStrictEqual(cut, [[undefined, 48], ["Truncated", 56]])
    const same = changed(bytes, (view) => view.setUint32(48, 0, true))
    assert.deepStrictEqual(
      Array.from(entries(same, header), ({ issue }) => issue?.code),
      ["BadPageNumber", undefined],
      "a bad row does not hide the next"
    )
  })

  it("contents that could not be read again are a defect of the writer", () => {
    const image = () => new Uint8Array(512)
    const bad = [
      contentOf({ pages: [2, 2], databasePages: 9 }),
      contentOf({ pages: [3, 2], databasePages: 9 }),
      contentOf({ pages: [3], databasePages: 2 }),
      contentOf({ databasePages: -1, pages: [] }),
      contentOf({ databasePages: 2 ** 32, pages: [] }),
      contentOf({ beginSeq: 2n ** 64n - 1n }),
      contentOf({ pages: Array.from({ length: maxCapsulePages + 1 }, (_, index) => index + 1) })
    ]
    for (const wrong of bad) assert.throws(() => encode(wrong, image), /capsule|database|began|pages/)
    for (const length of [0, 511, 513]) {
      assert.throws(() => encode(contentOf(), () => new Uint8Array(length)), "one page long")
    }
    assert.throws(() => Result.getOrThrow(decode(bytes)).image(2), "page of the table")
    assert.throws(() => Result.getOrThrow(decode(bytes)).image(-1), "page of the table")
  })

  it.effect("is a codec as well", () =>
    Effect.gen(function*() {
      const value = yield* Schema.decodeEffect(CapsuleFromBytes)(bytes)
      const { pages, ...rest } = content
      assert.deepStrictEqual(value, { ...rest, pages: pages.map((page) => ({ page, image: imageOf(content, page) })) })
      assert.deepStrictEqual(yield* Schema.encodeEffect(CapsuleFromBytes)(value), bytes)
      const error = yield* Effect.flip(Schema.decodeEffect(CapsuleFromBytes)(flipped(bytes, bytes.length - 1)))
      assert.include(error.message, `BLAKE3 at byte ${bytes.length - 32}`)
      const [first, second] = value.pages
      if (first === undefined || second === undefined) return assert.fail("two pages were written")
      const unwritable = [
        { ...value, pages: [second, first] },
        { ...value, databasePages: 3 },
        { ...value, pages: [{ ...first, image: new Uint8Array(511) }] },
        { ...value, beginSeq: contentOf({ beginSeq: 2n ** 64n - 1n }).beginSeq }
      ]
      for (const wrong of unwritable) {
        assert.isTrue(Exit.isFailure(yield* Effect.exit(Schema.encodeEffect(CapsuleFromBytes)(wrong))))
        assert.isFalse(Exit.hasDies(yield* Effect.exit(Schema.encodeEffect(CapsuleFromBytes)(wrong))))
      }
    }))
})

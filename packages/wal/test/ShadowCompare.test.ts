import { assert, describe, it } from "@effect/vitest"
import { CommitSeq, PageNumber, TxnEpoch, TxnId, WalEpoch } from "@tidemark/core/Scalars"
import { Result } from "effect"
import fc from "fast-check"
import { compare, compareImages, encodeConservatively, isSampled } from "../src/internal/shadowCompare.ts"
import { decode, encode, encodeHeader, recordBytes, type SegmentRecord, writeRecord } from "../src/SegmentFormat.ts"

const epoch = WalEpoch.make(0x0102030405060708n)

const record = (options: {
  readonly seq: bigint
  readonly page: number
  readonly after: ReadonlyArray<number>
  readonly before?: ReadonlyArray<number>
  readonly txn?: bigint
  readonly isAborted?: boolean
}): SegmentRecord => ({
  token: { id: TxnId.make(options.txn ?? options.seq), epoch: TxnEpoch.make(3) },
  walEpoch: epoch,
  page: PageNumber.make(options.page),
  begin: CommitSeq.make(options.seq),
  end: options.isAborted === true ? undefined : CommitSeq.make(options.seq),
  before: Uint8Array.from(options.before ?? []),
  after: Uint8Array.from(options.after)
})

/** What the parallel path writes: the header, then each record in a buffer of its own, in the order given. */
const parallelBytes = (records: ReadonlyArray<SegmentRecord>): ReadonlyArray<Uint8Array> => [
  encodeHeader(epoch, records.length),
  ...records.map((record) => {
    const bytes = new Uint8Array(recordBytes(record.before.length, record.after.length, record.end !== undefined))
    writeRecord(bytes, new DataView(bytes.buffer), 0, record)
    return bytes
  })
]

const codeOf = (verdict: ReturnType<typeof compare>): string => verdict === "clean" ? "clean" : verdict.difference.code

const threeCommits = [
  record({ seq: 10n, page: 1, after: [1, 2, 3] }),
  record({ seq: 10n, page: 7, after: [4, 5, 6], before: [9] }),
  record({ seq: 11n, page: 7, after: [7, 8, 9] }),
  record({ seq: 12n, page: 2, after: [1], isAborted: true })
]

const records = fc.array(
  fc.record({
    seq: fc.bigInt({ min: 1n, max: 6n }),
    page: fc.integer({ min: 1, max: 5 }),
    txn: fc.bigInt({ min: 1n, max: 3n }),
    isAborted: fc.boolean(),
    before: fc.array(fc.nat(255), { maxLength: 4 }),
    after: fc.array(fc.nat(255), { maxLength: 8 })
  }).map(record),
  { maxLength: 12 }
)

describe("ShadowCompare", () => {
  it("PW-30 samples batch n of mode auto when (n - 1) mod 1000 is below the per mille", () => {
    const sampled = (mode: Parameters<typeof isSampled>[0], perMille: number) =>
      Array.from({ length: 2000 }, (_, index) => index + 1).filter((ordinal) => isSampled(mode, ordinal, perMille))
    assert.deepStrictEqual(sampled("auto", 2), [1, 2, 1001, 1002])
    assert.deepStrictEqual(sampled("auto", 0), [])
    assert.lengthOf(sampled("auto", 1000), 2000)
    assert.lengthOf(sampled("shadow_compare", 0), 2000)
    assert.deepStrictEqual(sampled("conservative", 1000), [])
  })

  it("PW-30 the conservative path writes section 3 of the format byte for byte", () => {
    const bytes = encodeConservatively(epoch, [record({ seq: 0x11n, page: 0x21, after: [0xaa, 0xbb], before: [0xcc] })])
    assert.strictEqual(
      Buffer.from(bytes.subarray(0, bytes.length - 4)).toString("hex"),
      [
        `4c415750 0200 0000 0807060504030201 01000000 ${Buffer.from(bytes.subarray(20, 24)).toString("hex")}`,
        "38000000",
        "1100000000000000 03000000 0807060504030201 21000000 1100000000000000 01 1100000000000000",
        "01000000 cc 02000000 aabb"
      ].join("").replaceAll(" ", "")
    )
    assert.isTrue(Result.isSuccess(decode(bytes, epoch)))
  })

  it("PW-30 both paths write the same bytes, whatever the order in which the records came", () => {
    fc.assert(fc.property(records, (records) => {
      const parallel = Result.getOrThrow(encode(epoch, records))
      assert.deepStrictEqual(encodeConservatively(epoch, records), parallel)
      assert.strictEqual(compare([parallel], records, epoch), "clean")
    }))
  })

  it("PW-30 a segment without a difference is clean, in as many buffers as it comes", () => {
    assert.strictEqual(compare(parallelBytes(threeCommits), threeCommits, epoch), "clean")
    assert.strictEqual(compare(parallelBytes([]), [], epoch), "clean")
  })

  it("PW-30 a planted difference is found, wherever it is", () => {
    const clean = Buffer.concat(parallelBytes(threeCommits))
    for (let at = 0; at < clean.length; at++) {
      const planted = Uint8Array.from(clean)
      planted[at] = (planted[at] ?? 0) ^ 0x10
      const verdict = compare([planted], threeCommits, epoch)
      if (verdict === "clean") assert.fail(`the difference in byte ${at} was not found`)
      assert.strictEqual(verdict.difference.code, "BytesDiffer")
      assert.strictEqual(verdict.difference.offset, at)
    }
    for (let length = 0; length < clean.length; length++) {
      assert.strictEqual(codeOf(compare([clean.subarray(0, length)], threeCommits, epoch)), "BytesDiffer")
    }
  })

  it("PW-30 lost, invented, swapped and foreign records are differences", () => {
    const [first, second, third, fourth] = parallelBytes(threeCommits).slice(1)
    const header = encodeHeader(epoch, 4)
    const parts = [first, second, third, fourth].filter((part) => part !== undefined)
    assert.lengthOf(parts, 4)
    const verdictOf = (...parts: ReadonlyArray<Uint8Array | undefined>) =>
      codeOf(compare([header, ...parts.filter((part) => part !== undefined)], threeCommits, epoch))
    assert.strictEqual(verdictOf(first, second, third, fourth), "clean")
    assert.strictEqual(verdictOf(first, second, third), "BytesDiffer")
    assert.strictEqual(verdictOf(first, second, third, fourth, first), "BytesDiffer")
    assert.strictEqual(verdictOf(first, third, second, fourth), "BytesDiffer")
    const foreign = WalEpoch.make(9n)
    assert.strictEqual(codeOf(compare(parallelBytes(threeCommits), threeCommits, foreign)), "BytesDiffer")
  })

  it("PW-30 the last image of each page is compared by itself", () => {
    const images = (written: ReadonlyArray<SegmentRecord>, meant = threeCommits) =>
      codeOf(compareImages(Buffer.concat(parallelBytes(written)), meant))
    const [first, second, third, aborted] = threeCommits
    assert.isDefined(first)
    assert.isDefined(second)
    assert.isDefined(third)
    assert.isDefined(aborted)
    if (!first || !second || !third || !aborted) return
    assert.strictEqual(images([first, second, third, aborted]), "clean")
    // An older image of a page that a later commit wins does not count, nor does a record that was aborted.
    assert.strictEqual(images([first, third]), "clean")
    assert.strictEqual(images([first, third, second, aborted]), "ImageDiffers")
    assert.strictEqual(images([first, aborted]), "PageMissing")
    assert.strictEqual(images([first, third, { ...aborted, end: aborted.begin }]), "PageInvented")
  })

  it("PW-30 reading what the parallel path wrote never throws", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      assert.notStrictEqual(codeOf(compareImages(bytes, threeCommits)), "clean")
    }))
    const clean = Buffer.concat(parallelBytes(threeCommits))
    for (let at = 0; at < clean.length; at++) {
      for (const value of [0x00, 0x01, 0x7f, 0xff]) {
        const planted = Uint8Array.from(clean)
        planted[at] = value
        assert.isString(codeOf(compareImages(planted, threeCommits)))
      }
      assert.strictEqual(codeOf(compareImages(clean.subarray(0, at), threeCommits)), "Unreadable")
    }
  })
})

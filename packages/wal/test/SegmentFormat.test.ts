import { assert, describe, it } from "@effect/vitest"
import { crc32c } from "@tidemark/platform/Checksum"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"
import { crc32cOfRange } from "../src/internal/segmentChecksum.ts"
import {
  accountedBytes,
  afterImageOffset,
  certifiedChecksum,
  decode,
  decodeHeader,
  encode,
  encodeHeader,
  entries,
  epochOfSegmentName,
  isTemporarySegmentName,
  maxImageBytes,
  recordBytes,
  recoveryOrder,
  SegmentFromBytes,
  segmentHeaderBytes,
  segmentPath,
  type SegmentRecord,
  temporarySegmentPath,
  writeRecord
} from "../src/SegmentFormat.ts"
import {
  anyRecord,
  anyRecords,
  epochOf,
  headerBytesOf,
  recordBytesOf,
  recordOf,
  segmentBytesOf,
  utf8
} from "./support/segmentBytes.ts"
import { concat, flipped, unspaced } from "./support/walFiles.ts"

const versions = [1, 2] as const
const epoch = epochOf(7n)

const encoded = (records: ReadonlyArray<SegmentRecord>): Uint8Array => Result.getOrThrow(encode(epoch, records))

/** The code and the offset of a refusal, or `"valid"`. */
const verdict = (bytes: Uint8Array, epochOfName?: bigint) =>
  Result.match(decode(bytes, epochOfName === undefined ? undefined : epochOf(epochOfName)), {
    onSuccess: () => "valid",
    onFailure: ({ code, offset }) => `${code} @${offset}`
  })

const entriesOf = (bytes: Uint8Array) => Array.from(entries(bytes, Result.getOrThrow(decodeHeader(bytes))))

const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex")

describe("SegmentFormat", () => {
  it("PW-18 a header round-trips; a bad magic is refused; a flipped byte of the epoch fails the checksum", () => {
    fc.assert(fc.property(fc.bigInt(0n, 2n ** 64n - 1n), fc.nat(0xffffffff), (value, recordCount) => {
      const bytes = encodeHeader(epochOf(value), recordCount)
      assert.strictEqual(bytes.length, segmentHeaderBytes)
      assert.deepStrictEqual(bytes, headerBytesOf(2, value, recordCount))
      const header = { version: 2 as const, epoch: epochOf(value), recordCount }
      assert.deepStrictEqual(Result.getOrThrow(decodeHeader(bytes)), header)
    }))
    const bytes = encodeHeader(epochOf(0x0102030405060708n), 0)
    assert.strictEqual(hexOf(bytes.subarray(0, 20)), unspaced("4c415750 0200 0000 0807060504030201 00000000"))
    assert.strictEqual(verdict(flipped(bytes, 0)), "BadMagic @0")
    for (let offset = 8; offset < 16; offset++) {
      assert.strictEqual(verdict(flipped(bytes, offset)), "HeaderChecksumMismatch @20", `byte ${offset}`)
    }
  })

  it("PW-19 the name of a segment, and what is none", () => {
    const named = segmentPath("mydb.sqlite", epochOf(0x123456789abcdef0n))
    assert.strictEqual(named, "mydb.sqlite-wal-seg-123456789abcdef0")
    assert.strictEqual(segmentPath("/data/app.db", epochOf(1n)), "/data/app.db-wal-seg-0000000000000001")
    assert.strictEqual(epochOfSegmentName("mydb.sqlite", named), 0x123456789abcdef0n)
    assert.strictEqual(epochOfSegmentName("a", "a-wal-seg-ffffffffffffffff"), 2n ** 64n - 1n)
    for (
      const other of [
        "mydb.sqlite-wal-cert",
        "mydb.sqlite-wal-seg-123456789ABCDEF0",
        "mydb.sqlite-wal-seg-123456789abcdef",
        "mydb.sqlite-wal-seg-0123456789abcdef0",
        "mydb.sqlite-wal-seg-123456789abcdef0.tmp-1",
        "other.sqlite-wal-seg-123456789abcdef0",
        "old-mydb.sqlite-wal-seg-123456789abcdef0"
      ]
    ) assert.isUndefined(epochOfSegmentName("mydb.sqlite", other), other)
  })

  it("RC-25 the name of an attempt is a temporary one, and no segment", () => {
    const temporary = temporarySegmentPath("app.db", epochOf(0xabn), 12)
    assert.strictEqual(temporary, "app.db-wal-seg-00000000000000ab.tmp-12")
    assert.isTrue(isTemporarySegmentName("app.db", temporary))
    assert.isUndefined(epochOfSegmentName("app.db", temporary))
    for (
      const other of [
        "app.db-wal-seg-00000000000000ab",
        "app.db-wal-seg-00000000000000ab.tmp-",
        "app.db-wal-seg-00000000000000ab.tmp-0",
        "app.db-wal-seg-00000000000000ab.tmp-1x",
        "app.db-wal-seg-0000000000000ab.tmp-1",
        "my-app.db-wal-seg-00000000000000ab.tmp-1"
      ]
    ) assert.isFalse(isTemporarySegmentName("app.db", other), other)
  })

  it("PW-20 a segment stands byte for byte as the format says", () => {
    const bytes = encoded([recordOf({
      id: 0x1122334455667788n,
      txnEpoch: 0x99aabbcc,
      page: 0x01020304,
      begin: 5n,
      end: 6n,
      before: utf8("old"),
      after: utf8("newer")
    })])
    assert.strictEqual(hexOf(bytes.subarray(0, 20)), unspaced("4c415750 0200 0000 0700000000000000 01000000"))
    assert.strictEqual(new DataView(bytes.buffer).getUint32(20, true), crc32c(bytes.subarray(0, 20)))
    assert.strictEqual(
      hexOf(bytes.subarray(24, 85)),
      unspaced(
        "3d000000 8877665544332211 ccbbaa99 0700000000000000 04030201 0500000000000000 01 0600000000000000 " +
          "03000000 6f6c64 05000000 6e65776572"
      )
    )
    assert.strictEqual(new DataView(bytes.buffer).getUint32(85, true), crc32c(bytes.subarray(28, 85)))
    assert.strictEqual(bytes.length, 89)
  })

  it("PW-20 an empty batch is a valid file of 24 bytes", () => {
    const bytes = encoded([])
    assert.strictEqual(bytes.length, 24)
    assert.deepStrictEqual(decode(bytes, epoch), Result.succeed({ version: 2, epoch, records: [] }))
    assert.strictEqual(verdict(headerBytesOf(1, 7n, 0)), "valid")
  })

  for (const version of versions) {
    it(`PW-20 records with and without end sequence and before image read back, version ${version}`, () => {
      fc.assert(fc.property(anyRecords, (records) => {
        const expected = records.toSorted(recoveryOrder)
        const bytes = segmentBytesOf(version, 7n, records)
        if (version === 2) assert.deepStrictEqual(encoded(records), segmentBytesOf(2, 7n, expected))
        const segment = Result.succeed({ version, epoch, records: expected })
        assert.deepStrictEqual(decode(bytes, epoch), segment)
        const among = concat(new Uint8Array(3).fill(0xa5), bytes, new Uint8Array(4).fill(0xa5))
        assert.deepStrictEqual(decode(among.subarray(3, 3 + bytes.length), epoch), segment)
      }))
    })
  }

  it("PW-20 the largest images are 65,536 bytes long, the largest page", () => {
    const before = new Uint8Array(maxImageBytes).fill(1)
    const after = new Uint8Array(maxImageBytes).fill(2)
    const bytes = encoded([recordOf({ before, after })])
    assert.strictEqual(bytes.length, 24 + 4 + 41 + 8 + 2 * 65_536 + 4)
    assert.strictEqual(verdict(bytes), "valid")
    assert.strictEqual(verdict(segmentBytesOf(1, 7n, [recordOf({ before, after })])), "valid")
  })

  it("PW-20 every refusal of the header has its own code", () => {
    const one = recordBytesOf(2, recordOf({}))
    const withOne = (header: Uint8Array) => concat(header, one)
    assert.strictEqual(verdict(new Uint8Array(0)), "TooShort @0")
    assert.strictEqual(verdict(headerBytesOf(2, 7n, 0).subarray(0, 23)), "TooShort @0")
    assert.strictEqual(verdict(withOne(headerBytesOf(2, 7n, 1, { magic: 0x5057414d }))), "BadMagic @0")
    assert.strictEqual(verdict(withOne(headerBytesOf(0, 7n, 1))), "UnsupportedVersion @4")
    assert.strictEqual(verdict(withOne(headerBytesOf(3, 7n, 1))), "UnsupportedVersion @4")
    assert.strictEqual(verdict(withOne(flipped(headerBytesOf(2, 7n, 1), 16))), "HeaderChecksumMismatch @20")
    assert.strictEqual(verdict(withOne(headerBytesOf(2, 7n, 1)), 8n), "EpochNotOfName @8")
    assert.strictEqual(verdict(withOne(headerBytesOf(2, 7n, 1)), 7n), "valid")
    // Not checked on read, but covered by the checksum.
    assert.strictEqual(verdict(withOne(headerBytesOf(2, 7n, 1, { zero: 5 }))), "valid")
  })

  it("PW-20 a record count that the file has no room for is refused, to the byte", () => {
    for (const version of versions) {
      const smallest = recordBytesOf(version, recordOf({ end: undefined, after: new Uint8Array(0) }))
      assert.strictEqual(smallest.length, version === 1 ? 45 : 49)
      const three = concat(smallest, smallest, smallest)
      assert.strictEqual(verdict(concat(headerBytesOf(version, 7n, 3), three)), "valid")
      assert.strictEqual(verdict(concat(headerBytesOf(version, 7n, 4), three)), "TooManyRecords @16")
      const nearly = concat(three, smallest.subarray(0, -1))
      assert.strictEqual(verdict(concat(headerBytesOf(version, 7n, 4), nearly)), "TooManyRecords @16")
      assert.strictEqual(verdict(headerBytesOf(version, 7n, 0xffffffff)), "TooManyRecords @16")
    }
  })

  for (const version of versions) {
    it(`PW-20 every refusal of a record has its own code, version ${version}`, () => {
      const record = recordOf({ before: utf8("b"), after: utf8("afterwards") })
      const first = recordBytesOf(version, recordOf({ begin: 1n }))
      const start = 24 + first.length
      const crcBytes = version === 1 ? 0 : 4
      const with2 = (twisted: Parameters<typeof recordBytesOf>[2], behind = new Uint8Array(0)) =>
        verdict(concat(headerBytesOf(version, 7n, 2), first, recordBytesOf(version, record, twisted), behind))
      assert.strictEqual(with2({}), "valid")
      assert.strictEqual(with2({ txnId: 0n }), `BadTxnId @${start + 4}`)
      assert.strictEqual(with2({ txnId: 2n ** 62n }), `BadTxnId @${start + 4}`)
      assert.strictEqual(with2({ walEpoch: 8n }), `EpochMismatch @${start + 16}`)
      assert.strictEqual(with2({ page: 0 }), `BadPageNumber @${start + 24}`)
      assert.strictEqual(with2({ page: 0xffffffff }), `BadPageNumber @${start + 24}`)
      assert.strictEqual(with2({ endFlag: 2 }), `BadEndFlag @${start + 36}`)
      assert.strictEqual(with2({ beforeLength: 65_537 }), `ImageTooLarge @${start + 45}`)
      assert.strictEqual(with2({ beforeLength: 0xffffffff }), `ImageTooLarge @${start + 45}`)
      assert.strictEqual(with2({ afterLength: 65_537 }), `ImageTooLarge @${start + 50}`)
      assert.strictEqual(with2({ beforeLength: 16 }), `Truncated @${start + 49}`)
      assert.strictEqual(with2({ afterLength: 11 }), `Truncated @${start + 54}`)
      assert.strictEqual(with2({ afterLength: 9 }), `BytesInsideRecord @${start + 63}`)
      assert.strictEqual(with2({ extra: 1 }), `BytesInsideRecord @${start + 64}`)
      assert.strictEqual(with2({}, Uint8Array.of(0)), `BytesBehindRecords @${start + 64 + crcBytes}`)
      const largest = 41 + 8 + 2 * 65_536 + crcBytes
      assert.strictEqual(with2({ length: largest + 1 }), `RecordTooLong @${start}`)
      assert.strictEqual(with2({ length: 0xffffffff }), `RecordTooLong @${start}`)
      assert.strictEqual(with2({ length: largest }), `Truncated @${start}`)
      assert.strictEqual(with2({ length: 60 + crcBytes + 1 }), `Truncated @${start}`)
      assert.strictEqual(with2({ checksum: 1 }), version === 1 ? "valid" : `RecordChecksumMismatch @${start + 64}`)
    })

    it(`PW-20 a record that ends inside of any of its fields is refused there, version ${version}`, () => {
      const record = recordOf({ before: utf8("bb"), after: utf8("aaa") })
      // What follows is long enough for the count and the length: only the length of the record is short.
      const last = recordBytesOf(version, recordOf({ begin: 20n, after: new Uint8Array(100) }))
      const fieldAt = (cutTo: number) => [33, 41, 45, 47, 51].findLast((from) => from <= cutTo) ?? 0
      for (let cutTo = 0; cutTo < 54; cutTo++) {
        const bytes = concat(headerBytesOf(version, 7n, 2), recordBytesOf(version, record, { cutTo }), last)
        // An image without bytes begins behind its length.
        assert.strictEqual(verdict(bytes), `Truncated @${28 + fieldAt(cutTo)}`, `cut to ${cutTo}`)
      }
    })
  }

  it("PW-21 a batch of mixed epochs or with an oversize image is not encoded", () => {
    const refusal = (record: SegmentRecord) =>
      Result.match(encode(epoch, [recordOf({}), record]), {
        onSuccess: () => "encoded",
        onFailure: ({ code, offset }) => `${code} @${offset}`
      })
    const start = 24 + recordBytes(0, 5, true)
    const tooLarge = new Uint8Array(65_537)
    assert.strictEqual(refusal(recordOf({ begin: 11n })), "encoded")
    assert.strictEqual(refusal(recordOf({ begin: 11n, epoch: 8n })), `EpochMismatch @${start + 16}`)
    assert.strictEqual(refusal(recordOf({ begin: 11n, before: tooLarge })), `ImageTooLarge @${start + 45}`)
    assert.strictEqual(
      refusal(recordOf({ begin: 11n, before: utf8("x"), after: tooLarge })),
      `ImageTooLarge @${start + 50}`
    )
    assert.strictEqual(
      refusal(recordOf({ begin: 11n, end: undefined, after: tooLarge })),
      `ImageTooLarge @${start + 41}`
    )
  })

  it("PW-22 records handed over in any order are written in recovery order", () => {
    const ordered = [
      recordOf({ begin: 1n, id: 9n, page: 9 }),
      recordOf({ begin: 2n, id: 1n, page: 4 }),
      recordOf({ begin: 2n, id: 1n, page: 5 }),
      recordOf({ begin: 2n, id: 2n, page: 1 }),
      recordOf({ begin: 3n, id: 1n, page: 1 }),
      recordOf({ begin: 2n ** 63n, id: 1n, page: 1 })
    ]
    const expected = segmentBytesOf(2, 7n, ordered)
    fc.assert(fc.property(fc.shuffledSubarray(ordered, { minLength: ordered.length }), (shuffled) => {
      assert.deepStrictEqual(encoded(shuffled), expected)
    }))
  })

  it("PW-22 records that a file holds in another order are handed out in recovery order; equal ones keep theirs", () => {
    const first = recordOf({ begin: 1n, after: utf8("first") })
    const second = recordOf({ begin: 1n, after: utf8("second") })
    const earlier = recordOf({ begin: 0n })
    for (const version of versions) {
      const bytes = segmentBytesOf(version, 7n, [first, second, earlier])
      assert.deepStrictEqual(Result.getOrThrow(decode(bytes)).records, [earlier, first, second])
    }
    assert.deepStrictEqual(encoded([first, second, earlier]), segmentBytesOf(2, 7n, [earlier, first, second]))
  })

  it("the order of recovery is epoch, begin, transaction, page", () => {
    const low = recordOf({ epoch: 7n, begin: 1n, id: 1n, page: 1 })
    assert.strictEqual(recoveryOrder(low, low), 0)
    for (const high of [{ epoch: 8n, begin: 0n }, { begin: 2n }, { begin: 1n, id: 2n }, { begin: 1n, page: 2 }]) {
      assert.strictEqual(recoveryOrder(low, recordOf(high)), -1)
      assert.strictEqual(recoveryOrder(recordOf(high), low), 1)
    }
    assert.strictEqual(recoveryOrder(recordOf({ begin: 1n, page: 9 }), recordOf({ begin: 2n, id: 1n, page: 1 })), -1)
    assert.strictEqual(recoveryOrder(recordOf({ id: 1n, page: 9 }), recordOf({ id: 2n, page: 1 })), -1)
  })

  it("a record overwrites all of its bytes and no others; sizes and the place of the after image are as announced", () => {
    fc.assert(fc.property(anyRecord, fc.nat(20), (record, offset) => {
      const hasEnd = record.end !== undefined
      const bytes = recordBytes(record.before.length, record.after.length, hasEnd)
      assert.strictEqual(accountedBytes(record.before.length, record.after.length), bytes - 5 - (hasEnd ? 8 : 0) + 4)
      const expected = recordBytesOf(2, record)
      assert.strictEqual(bytes, expected.length)
      for (const garbage of [0x00, 0xff]) {
        const target = new Uint8Array(offset + bytes + 10).fill(garbage)
        const end = writeRecord(target, new DataView(target.buffer), offset, record)
        assert.strictEqual(end, offset + bytes)
        assert.deepStrictEqual(target.subarray(offset, end), expected)
        assert.isTrue([...target.subarray(0, offset), ...target.subarray(end)].every((byte) => byte === garbage))
        const afterAt = afterImageOffset(offset, record.before.length, hasEnd)
        assert.deepStrictEqual(target.subarray(afterAt, afterAt + record.after.length), record.after)
      }
    }))
  })

  it("a record counts for 48 bytes and both images", () => {
    assert.strictEqual(accountedBytes(0, 0), 48)
    assert.strictEqual(accountedBytes(10, 4096), 48 + 10 + 4096)
  })

  it("the checksum of a run is CRC-32C, at any place and of any length", () => {
    const bytes = new Uint8Array(1300).map((_, i) => (i * 37 + 11) ^ (i >> 3))
    const view = new DataView(bytes.buffer)
    for (let from = 0; from < 9; from++) {
      for (let length = 0; length < 600; length++) {
        const expected = crc32c(bytes.subarray(from, from + length))
        assert.strictEqual(crc32cOfRange(bytes, view, from, from + length), expected, `${length} bytes from ${from}`)
      }
    }
  })

  it("the records of a damaged segment are listed one by one, with their offsets and what is wrong", () => {
    const records = [1n, 2n, 3n, 4n].map((begin) => recordOf({ begin }))
    const size = recordBytes(0, 5, true)
    const list = (bytes: Uint8Array): ReadonlyArray<ReadonlyArray<number | bigint | string | undefined>> => {
      const header = Result.getOrThrow(decodeHeader(bytes))
      return Array.from(
        entries(bytes, header),
        ({ end, index, issue, offset, record }) => [index, offset, end, record?.begin ?? issue?.code]
      )
    }
    const at = (index: number) => 24 + index * size
    const whole = encoded(records)
    const row = (index: number, what: bigint | string) => [index, at(index), at(index + 1), what]
    assert.deepStrictEqual(list(whole), [row(0, 1n), row(1, 2n), row(2, 3n), row(3, 4n)])
    assert.deepStrictEqual(list(flipped(whole, at(1) + 30)), [
      row(0, 1n),
      row(1, "RecordChecksumMismatch"),
      row(2, 3n),
      row(3, 4n)
    ])
    // Where the length is lost the way to the next record is lost.
    assert.deepStrictEqual(list(flipped(whole, at(2) + 3, 0xff)), [
      row(0, 1n),
      row(1, 2n),
      [2, at(2), whole.length, "RecordTooLong"]
    ])
    assert.deepStrictEqual(list(whole.subarray(0, -1)), [
      row(0, 1n),
      row(1, 2n),
      row(2, 3n),
      [3, at(3), at(4) - 1, "Truncated"]
    ])
    assert.deepStrictEqual(list(whole.subarray(0, at(1))), [row(0, 1n), [1, at(1), at(1), "Truncated"]])
  })

  it.effect("is a codec as well; version 1 is decoded and not encoded", () =>
    Effect.gen(function*() {
      const records = [recordOf({ begin: 1n }), recordOf({ begin: 2n, end: undefined, before: utf8("b") })]
      const segment = { version: 2 as const, epoch, records }
      assert.deepStrictEqual(yield* Schema.decodeEffect(SegmentFromBytes)(encoded(records)), segment)
      assert.deepStrictEqual(yield* Schema.encodeEffect(SegmentFromBytes)(segment), encoded(records))
      const refused = yield* Effect.flip(Schema.decodeEffect(SegmentFromBytes)(flipped(encoded(records), 40)))
      assert.include(refused.message, "CRC-32C of record 0 at byte")
      const old = yield* Schema.decodeEffect(SegmentFromBytes)(segmentBytesOf(1, 7n, records))
      assert.deepStrictEqual(old, { ...segment, version: 1 })
      assert.include((yield* Effect.flip(Schema.encodeEffect(SegmentFromBytes)(old))).message, "version at byte 4")
      const mixed = { ...segment, records: [recordOf({ epoch: 8n })] }
      assert.include(
        (yield* Effect.flip(Schema.encodeEffect(SegmentFromBytes)(mixed))).message,
        "WAL epoch of record 0"
      )
      const oversize = { ...segment, records: [recordOf({ after: new Uint8Array(65_537) })] }
      assert.isTrue((yield* Effect.exit(Schema.encodeEffect(SegmentFromBytes)(oversize)))._tag === "Failure")
    }))

  it("PW-29 what a certificate keeps of a segment depends on its contents, not on how it lies in memory", () => {
    const segment = (...texts: ReadonlyArray<string>) =>
      encoded(texts.map((text, index) => recordOf({ epoch: 7n, begin: BigInt(index + 1), after: utf8(text) })))
    const whole = segment("abc", "def", "ghi")
    const kept = certifiedChecksum([whole])
    // CRC-32C of header, records and file: what follows its own checksum cancels out.
    assert.strictEqual(crc32c(whole), crc32c(segment("xyz", "uvw", "rst")))
    for (const other of [segment("xyz", "def", "ghi"), segment("abc", "def", "ghj"), segment("abc", "def")]) {
      assert.notStrictEqual(certifiedChecksum([other]), kept)
    }
    const stored = [20, ...entriesOf(whole).map(({ end }) => end - 4)].map((at) => whole.subarray(at, at + 4))
    assert.strictEqual(kept, crc32c(concat(...stored)))
    const ends = [segmentHeaderBytes, ...entriesOf(whole).map(({ end }) => end)]
    assert.strictEqual(certifiedChecksum(ends.map((end, index) => whole.subarray(ends[index - 1] ?? 0, end))), kept)
    const old = segmentBytesOf(1, 7n, [recordOf({ begin: 1n })])
    assert.strictEqual(certifiedChecksum([old]), crc32c(old))
  })
})

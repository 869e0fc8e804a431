import { assert, describe, it } from "@effect/vitest"
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"
import {
  decodeHeader,
  decodeMarker,
  encodeHeader,
  encodeMarker,
  headerPlaceIssue,
  idOfMarkerSegmentName,
  isGenesis,
  type Marker,
  MarkerFromBytes,
  type MarkerPlace,
  markersDirectory,
  MarkerSegmentHeaderFromBytes,
  markerSegmentName,
  markerSegmentPath,
  markersPerSegment,
  placeIssue,
  segmentIdOf,
  segmentStart,
  slotOffset,
  slotsOf
} from "../src/MarkerFormat.ts"
import { decodeSegment, encodeSegment, MarkerSegmentFromBytes } from "../src/MarkerSegmentFormat.ts"
import {
  capsuleNumber,
  chainOf,
  filesOf,
  headerBytes,
  headerOf,
  idIn,
  perSegment,
  recordBytes,
  recordOf,
  resealed,
  segmentFile,
  seqOf,
  zeroId
} from "./support/markers.ts"
import { concat, flipped, unspaced } from "./support/walFiles.ts"

const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex")
const codeOf = <A>(result: Result.Result<A, FormatIssue>) =>
  Result.match(result, { onSuccess: () => "valid", onFailure: ({ code, offset }) => `${code}@${offset}` })

const fields: Omit<Marker, "id"> = {
  seq: seqOf(0x0102030405060708n),
  timeUnixNanos: 0x1112131415161718n,
  capsule: capsuleNumber(0x2122232425262728n),
  proof: capsuleNumber(0x3132333435363738n),
  previous: capsuleNumber(0x4142434445464748n)
}
const record = recordOf(fields)
const marker: Marker = { ...fields, id: idIn(record) }

const anyId = fc.oneof(fc.constant(zeroId), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(capsuleNumber))
const anyU64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
const anyMarker = fc.record({
  seq: anyU64.map(seqOf),
  timeUnixNanos: anyU64,
  capsule: anyId,
  proof: anyId,
  previous: anyId
}).map((fields): Marker => Object.assign({ id: idIn(recordOf(fields)) }, fields))

describe("MarkerFormat: names and positions", () => {
  it("names the file of a segment, and reads its name back", () => {
    assert.strictEqual(markersDirectory("/x/app.db"), "/x/app.db.fsqlite/markers")
    assert.strictEqual(markerSegmentPath("/x/app.db", 7n), "/x/app.db.fsqlite/markers/segment-000007.log")
    for (const id of [0n, 7n, 999_999n, 1_000_000n, 18_446_744_073_709n]) {
      assert.strictEqual(idOfMarkerSegmentName(markerSegmentName(id)), id)
    }
    for (
      const other of [
        "segment-00007.log",
        "segment-0000007.log",
        "segment-00000a.log",
        "segment-000007.log2",
        ".tmp-segment-000007.log-00000000",
        "lock"
      ]
    ) {
      assert.strictEqual(idOfMarkerSegmentName(other), undefined, other)
    }
  })

  it("finds the slot of a sequence: a million records of 88 bytes behind 36", () => {
    assert.strictEqual(markersPerSegment, 1_000_000)
    assert.strictEqual(slotOffset(seqOf(0)), 36)
    assert.strictEqual(slotOffset(seqOf(3_000_002)), 36 + 2 * 88)
    assert.strictEqual(segmentIdOf(seqOf(999_999)), 0n)
    assert.strictEqual(segmentIdOf(seqOf(3_000_002)), 3n)
    assert.strictEqual(segmentStart(3n), 3_000_000n)
    assert.deepStrictEqual(slotsOf(36 + 2 * 88 + 87), { completeRecords: 2, trailingBytes: 87 })
    assert.deepStrictEqual(slotsOf(35), { completeRecords: 0, trailingBytes: 0 })
  })
})

describe("MarkerFormat: the header of a segment", () => {
  const header = { segmentId: 0x0102030405060708n, start: seqOf(0x1112131415161718n) }
  const bytes = headerOf(header.segmentId, header.start)

  it("stands byte for byte as the format says", () => {
    assert.strictEqual(
      hexOf(bytes.subarray(0, 28)),
      unspaced("46534d4b 01000000 0807060504030201 1817161514131211 58000000")
    )
    assert.deepStrictEqual(encodeHeader(header), bytes)
    assert.deepStrictEqual(decodeHeader(bytes), Result.succeed(header))
    assert.deepStrictEqual(decodeHeader(concat(bytes, new Uint8Array(5))), Result.succeed(header))
  })

  it("cut at any byte, or with any bit flipped, it is refused", () => {
    for (let length = 0; length < headerBytes; length++) {
      assert.strictEqual(codeOf(decodeHeader(bytes.subarray(0, length))), "HeaderTooShort@0")
    }
    for (let bit = 0; bit < headerBytes * 8; bit++) {
      const byte = bit >> 3
      const expected = byte < 4
        ? "BadMagic@0"
        : byte < 8
        ? "UnsupportedVersion@4"
        : byte >= 24 && byte < 28
        ? "RecordSizeMismatch@24"
        : "HeaderChecksumMismatch@28"
      assert.strictEqual(codeOf(decodeHeader(flipped(bytes, byte, 1 << (bit & 7)))), expected, `bit ${bit}`)
    }
    assert.strictEqual(codeOf(decodeHeader(headerOf(1, 2, 96))), "RecordSizeMismatch@24")
  })

  it("belongs into one file: that of its id, with the start of its id", () => {
    const place = (header: Uint8Array, id: bigint) => {
      const decoded = Result.getOrThrow(decodeHeader(header))
      const issue = headerPlaceIssue(decoded, id, perSegment)
      return issue === undefined ? "valid" : `${issue.code}@${issue.offset}`
    }
    assert.strictEqual(place(headerOf(3, 30), 3n), "valid")
    assert.strictEqual(place(headerOf(3, 30), 4n), "CommitSeqMismatch@8")
    assert.strictEqual(place(headerOf(3, 31), 3n), "CommitSeqMismatch@16")
  })

  it.effect("is a codec as well", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Schema.decodeEffect(MarkerSegmentHeaderFromBytes)(bytes), header)
      assert.deepStrictEqual(yield* Schema.encodeEffect(MarkerSegmentHeaderFromBytes)(header), bytes)
      const longer = yield* Effect.flip(Schema.decodeEffect(MarkerSegmentHeaderFromBytes)(concat(bytes, bytes)))
      assert.include(longer.message, "72 bytes, expected 36 bytes")
    }))
})

describe("MarkerFormat: records", () => {
  it("stand byte for byte as the format says", () => {
    assert.strictEqual(
      hexOf(record.subarray(0, 64)),
      unspaced(
        "0807060504030201 1817161514131211 cacacacacacacaca2827262524232221 cacacacacacacaca3837363534333231 " +
          "cacacacacacacaca4847464544434241"
      )
    )
    assert.deepStrictEqual(encodeMarker(marker), record)
    assert.deepStrictEqual(decodeMarker(record), Result.succeed(marker))
    assert.isFalse(isGenesis(marker))
    assert.isTrue(isGenesis({ ...marker, capsule: zeroId }))
  })

  it("round-trip, out of the middle of other bytes too, and stand in memory of their own", () => {
    fc.assert(fc.property(anyMarker, (marker) => {
      const bytes = encodeMarker(marker)
      assert.deepStrictEqual(bytes, recordOf(marker))
      const among = new Uint8Array(recordBytes + 7).fill(0xa5)
      among.set(bytes, 3)
      const decoded = decodeMarker(among.subarray(1), 2)
      among.fill(0)
      assert.deepStrictEqual(decoded, Result.succeed(marker))
    }))
  })

  it("cut at any byte, or with any bit flipped, they are refused", () => {
    for (let length = 0; length < recordBytes; length++) {
      assert.strictEqual(codeOf(decodeMarker(record.subarray(0, length))), "RecordTooShort@0")
    }
    for (let bit = 0; bit < recordBytes * 8; bit++) {
      const bytes = flipped(record, bit >> 3, 1 << (bit & 7))
      assert.strictEqual(codeOf(decodeMarker(bytes)), "RecordChecksumMismatch@80", `bit ${bit}`)
      // With a checksum that fits again the id tells, of every byte that it covers and of its own.
      const expected = bit < 80 * 8 ? "MarkerIdMismatch@64" : "valid"
      assert.strictEqual(codeOf(decodeMarker(resealed(bytes))), expected, `bit ${bit}`)
    }
  })

  it("of random bytes none is accepted, and nothing throws", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        assert.isTrue(Result.isFailure(decodeMarker(bytes)))
        assert.isTrue(Result.isFailure(decodeHeader(bytes)))
        assert.isTrue(Result.isFailure(decodeSegment(bytes)))
      }),
      { numRuns: 2000 }
    )
  })

  it("follow the one before them, in their slot", () => {
    const [genesis, first, second] = chainOf([{ start: 0, commits: 3 }])
    assert.isDefined(genesis)
    assert.isDefined(first)
    assert.isDefined(second)
    if (genesis === undefined || first === undefined || second === undefined) return
    const place = (marker: Marker, where: Partial<MarkerPlace>) => {
      const issue = placeIssue(marker, { seq: marker.seq, before: "unknown", genesis: "allowed", ...where }, 1000)
      return issue === undefined ? "valid" : `${issue.code}@${issue.offset - 1000}`
    }
    assert.strictEqual(place(genesis, { before: "none", genesis: "required" }), "valid")
    assert.strictEqual(place(second, { before: first, genesis: "forbidden" }), "valid")
    assert.strictEqual(place(second, { before: "unknown" }), "valid")
    assert.strictEqual(place(second, { before: genesis }), "ChainBroken@48")
    assert.strictEqual(place(second, { before: "none" }), "ChainBroken@48")
    assert.strictEqual(place(second, { before: { ...first, timeUnixNanos: second.timeUnixNanos } }), "valid")
    assert.strictEqual(
      place(second, { before: { ...first, timeUnixNanos: second.timeUnixNanos + 1n } }),
      "ChainBroken@8"
    )
    assert.strictEqual(place(genesis, { genesis: "forbidden" }), "ChainBroken@16")
    assert.strictEqual(place({ ...genesis, proof: first.capsule }, {}), "ChainBroken@32")
    assert.strictEqual(place(second, { genesis: "required" }), "ChainBroken@16")
    assert.strictEqual(place(second, { seq: first.seq }), "CommitSeqMismatch@0")
  })

  it.effect("are a codec as well", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Schema.decodeEffect(MarkerFromBytes)(record), marker)
      assert.deepStrictEqual(yield* Schema.encodeEffect(MarkerFromBytes)(marker), record)
      const longer = yield* Effect.flip(Schema.decodeEffect(MarkerFromBytes)(concat(record, new Uint8Array(1))))
      assert.include(longer.message, "89 bytes, expected 88 bytes")
      const wrongId = yield* Effect.exit(Schema.encodeEffect(MarkerFromBytes)({ ...marker, id: zeroId }))
      assert.strictEqual(wrongId._tag, "Failure")
    }))
})

describe("MarkerSegmentFormat", () => {
  const markers = chainOf([{ start: 0, commits: 4 }])
  const bytes = filesOf(markers).get(segmentFile(0)) ?? new Uint8Array(0)
  const segment = { header: { segmentId: 0n, start: seqOf(0) }, markers }

  it.effect("is a header and its records", () =>
    Effect.gen(function*() {
      assert.strictEqual(bytes.length, headerBytes + 5 * recordBytes)
      assert.deepStrictEqual(encodeSegment(segment), bytes)
      assert.deepStrictEqual(decodeSegment(bytes), Result.succeed(segment))
      assert.deepStrictEqual(yield* Schema.decodeEffect(MarkerSegmentFromBytes)(bytes), segment)
      assert.deepStrictEqual(yield* Schema.encodeEffect(MarkerSegmentFromBytes)(segment), bytes)
    }))

  it("RC-14 cut in the middle of a record it says how many are whole", () => {
    for (let length = 0; length < bytes.length; length++) {
      const whole = Math.floor((length - headerBytes) / recordBytes)
      const trailing = (length - headerBytes) % recordBytes
      const expected = length < headerBytes
        ? "HeaderTooShort@0"
        : trailing > 0
        ? `TornTail@${headerBytes + whole * recordBytes}`
        : "valid"
      const decoded = decodeSegment(bytes.subarray(0, length))
      assert.strictEqual(codeOf(decoded), expected, `cut at ${length}`)
      if (Result.isSuccess(decoded)) assert.deepStrictEqual(decoded.success.markers, markers.slice(0, whole))
      else if (trailing > 0) {
        assert.strictEqual(decoded.failure.found, `${whole} records and ${trailing} bytes of another`)
      }
    }
  })

  it("with any byte changed it is refused, at the record that was changed", () => {
    for (let at = 0; at < bytes.length; at++) {
      const decoded = decodeSegment(flipped(bytes, at, 0x40))
      assert.isTrue(Result.isFailure(decoded), `byte ${at}`)
      if (Result.isFailure(decoded) && at >= headerBytes) {
        assert.strictEqual(decoded.failure.code, "RecordChecksumMismatch")
        assert.strictEqual(decoded.failure.offset, headerBytes + Math.floor((at - headerBytes) / recordBytes) * 88 + 80)
      }
    }
  })

  it("is refused with records of other places: another order, another stream, too many", () => {
    const record = (index: number) =>
      bytes.subarray(headerBytes + index * recordBytes, headerBytes + (index + 1) * recordBytes)
    const header = bytes.subarray(0, headerBytes)
    assert.strictEqual(
      codeOf(decodeSegment(concat(header, record(0), record(2)))),
      `ChainBroken@${headerBytes + 88 + 48}`
    )
    assert.strictEqual(codeOf(decodeSegment(concat(header, record(1)))), `ChainBroken@${headerBytes + 48}`)
    assert.strictEqual(codeOf(decodeSegment(concat(headerOf(0, 1), record(0)))), "CommitSeqMismatch@16")
    const commit = recordOf({ ...segment.markers[1] ?? marker, previous: zeroId })
    assert.strictEqual(codeOf(decodeSegment(concat(header, commit))), `ChainBroken@${headerBytes + 16}`)
    assert.strictEqual(codeOf(decodeSegment(bytes, 4)), `CommitSeqMismatch@${headerBytes + 4 * recordBytes}`)
    // Of a later segment what stands before it is not known.
    const later = chainOf([{ start: 20, commits: 2 }]).slice(1)
    let previous = capsuleNumber(99)
    const chained = later.map((marker, i) => {
      const bytes = recordOf(Object.assign({}, marker, { seq: seqOf(20 + i), previous }))
      previous = idIn(bytes)
      return bytes
    })
    assert.strictEqual(codeOf(decodeSegment(concat(headerOf(2, 20), ...chained), perSegment)), "valid")
  })
})

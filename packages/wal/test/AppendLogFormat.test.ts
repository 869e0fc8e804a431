import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"
import {
  batchChecksum,
  commitFrameBytes,
  decodeFrame,
  decodeSegmentHeader,
  encodeSegmentHeader,
  type Frame,
  frameBytesAt,
  FrameCodec,
  looksLikeSegmentName,
  lsnAt,
  offsetOf,
  parseSegmentFileName,
  preparedSegmentName,
  recordFrameBytes,
  segmentFileName,
  type SegmentHeader,
  segmentHeaderBytes,
  SegmentHeaderCodec,
  writeCommitFrame,
  writePadFrame,
  writeRecordFrame
} from "../src/AppendLogFormat.ts"
import { isAnyTemporaryName } from "../src/AtomicFile.ts"
import { flipped, unspaced } from "./support/walFiles.ts"

const logId = Uint8Array.from({ length: 16 }, (_, index) => 0xa0 + index)

const header: SegmentHeader = {
  logId,
  startLsn: toLsn(0x12_3456_7890),
  segmentIndex: 0x0102030405060708n,
  createdUnixNanos: 1_700_000_000_000_000_000n
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex")

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)

const headerCode = (bytes: Uint8Array) =>
  Result.match(decodeSegmentHeader(bytes), { onSuccess: () => "valid", onFailure: (issue) => issue.code })

/** Changes a header and makes its checksum fit again. */
const rewritten = (change: (view: DataView) => void): Uint8Array => {
  const bytes = encodeSegmentHeader(header)
  const view = viewOf(bytes)
  change(view)
  view.setUint32(60, crc32c(bytes.subarray(0, 60)), true)
  return bytes
}

/** What is written into the middle of a buffer that was full of something else, and nothing beside it. */
const written = (length: number, write: (bytes: Uint8Array, view: DataView, offset: number) => void) => {
  const bytes = new Uint8Array(length + 16).fill(0xee)
  write(bytes, viewOf(bytes), 8)
  assert.strictEqual(hex(bytes.subarray(0, 8)) + hex(bytes.subarray(length + 8)), "ee".repeat(16))
  return bytes.slice(8, 8 + length)
}

const record = (payload: Uint8Array) =>
  written(recordFrameBytes(payload.length), (bytes, view, offset) => writeRecordFrame(bytes, view, offset, payload))

const pad = (length: number) => written(length, (bytes, view, offset) => writePadFrame(bytes, view, offset, length))

const commit = (batchStart: number, earlierIsDurable: boolean, checksum: number) =>
  written(
    commitFrameBytes,
    (_, view, offset) => writeCommitFrame(view, offset, toLsn(batchStart), earlierIsDurable, checksum)
  )

const issueOf = (bytes: Uint8Array, offset = 0) =>
  Result.match(decodeFrame(bytes, viewOf(bytes), offset), {
    onSuccess: ({ type }) => type,
    onFailure: (issue) => `${issue.code} ${issue.offset}`
  })

const changed = (bytes: Uint8Array, offset: number, value: number) => {
  const copy = bytes.slice()
  copy[offset] = value
  return copy
}

describe("AppendLogFormat", () => {
  describe("segment header", () => {
    it("LOG-02 stands byte for byte as the format says", () => {
      const bytes = encodeSegmentHeader(header)
      assert.strictEqual(bytes.length, segmentHeaderBytes)
      assert.strictEqual(
        hex(bytes),
        unspaced(
          "544944454c4f4700 0100 0000 40000000 a0a1a2a3a4a5a6a7a8a9aaabacadaeaf 9078563412000000 0807060504030201 " +
            "00002a36fe9c9717 00000000 ff9df9f4"
        )
      )
      assert.strictEqual(viewOf(bytes).getUint32(60, true), crc32c(bytes.subarray(0, 60)))
    })

    it("every header round-trips, whatever follows it", () => {
      const u64 = fc.bigInt(0n, 2n ** 64n - 1n)
      fc.assert(fc.property(
        fc.uint8Array({ minLength: 16, maxLength: 16 }),
        fc.nat(2 ** 50 - 1),
        u64,
        u64,
        (logId, words, segmentIndex, createdUnixNanos) => {
          const value = { logId, startLsn: toLsn(words * 8), segmentIndex, createdUnixNanos }
          const bytes = new Uint8Array([...encodeSegmentHeader(value), 0xee])
          assert.deepStrictEqual(decodeSegmentHeader(bytes), Result.succeed(value))
        }
      ))
    })

    it("cut at any byte, or with any bit flipped, it is refused", () => {
      const bytes = encodeSegmentHeader(header)
      for (let length = 0; length < bytes.length; length++) {
        assert.strictEqual(headerCode(bytes.subarray(0, length)), "TooShort")
      }
      for (let bit = 0; bit < bytes.length * 8; bit++) {
        const expected = bit < 64 ? "BadMagic" : bit < 80 ? "UnsupportedVersion" : "ChecksumMismatch"
        assert.strictEqual(headerCode(flipped(bytes, bit >> 3, 1 << (bit & 7))), expected, `bit ${bit}`)
      }
    })

    it("field by field, what the checksum covers is refused too", () => {
      assert.strictEqual(headerCode(rewritten(() => {})), "valid")
      assert.strictEqual(headerCode(rewritten((view) => view.setUint16(8, 2, true))), "UnsupportedVersion")
      assert.strictEqual(headerCode(rewritten((view) => view.setUint16(10, 1, true))), "NotZero")
      assert.strictEqual(headerCode(rewritten((view) => view.setUint32(12, 72, true))), "BadHeaderLength")
      assert.strictEqual(headerCode(rewritten((view) => view.setBigUint64(32, 2n ** 53n, true))), "OutOfRange")
      assert.strictEqual(headerCode(rewritten((view) => view.setBigUint64(32, 2n ** 64n - 8n, true))), "OutOfRange")
      assert.strictEqual(headerCode(rewritten((view) => view.setBigUint64(32, 2n ** 53n - 8n, true))), "valid")
      assert.strictEqual(headerCode(rewritten((view) => view.setUint32(32, 4, true))), "Misaligned")
      assert.strictEqual(headerCode(rewritten((view) => view.setUint32(56, 1, true))), "NotZero")
    })

    it("random bytes are refused, never a defect", () => {
      fc.assert(fc.property(fc.uint8Array({ minLength: 60, maxLength: 70 }), (bytes) => {
        assert.notStrictEqual(headerCode(bytes), "valid")
      }))
    })

    it.effect("the codec is the plain functions", () =>
      Effect.gen(function*() {
        const bytes = encodeSegmentHeader(header)
        assert.deepStrictEqual(yield* Schema.decodeEffect(SegmentHeaderCodec)(bytes), header)
        assert.deepStrictEqual(yield* Schema.encodeEffect(SegmentHeaderCodec)(header), bytes)
        const refused = yield* Effect.flip(Schema.decodeEffect(SegmentHeaderCodec)(flipped(bytes, 40)))
        assert.include(refused.message, "CRC-32C at byte 60")
      }))
  })

  describe("names", () => {
    it("LOG-02 a segment is named after its start LSN, and read back from its name", () => {
      assert.strictEqual(segmentFileName(toLsn(0)), "0000000000000000.tlog")
      assert.strictEqual(segmentFileName(toLsn(0x12_3456_7890)), "0000001234567890.tlog")
      assert.strictEqual(segmentFileName(toLsn(2 ** 53 - 8)), "001ffffffffffff8.tlog")
      fc.assert(fc.property(fc.nat(2 ** 50 - 1), fc.nat(2 ** 50 - 1), (left, right) => {
        const [a, b] = [toLsn(left * 8), toLsn(right * 8)]
        assert.strictEqual(parseSegmentFileName(segmentFileName(a)), a)
        assert.strictEqual(segmentFileName(a) < segmentFileName(b), a < b)
      }))
    })

    it("anything else is no segment; what ends like one looks like one", () => {
      const lookalikes = [
        "000000123456789.tlog",
        "00000001234567890.tlog",
        "000000123456789G.tlog",
        "0000001234567ABC.tlog",
        "0000001234567890.TLOG",
        "0000001234567890 (1).tlog",
        "0020000000000000.tlog",
        "ffffffffffffffff.tlog",
        "0000000000000004.tlog",
        "-000000000000010.tlog",
        ".tlog "
      ]
      for (const name of lookalikes) assert.isUndefined(parseSegmentFileName(name), name)
      for (const name of lookalikes.slice(0, -1)) assert.isTrue(looksLikeSegmentName(name), name)
      const others = ["", "lock", ".tlog", "0000001234567890", "0000001234567890.tlog~", "tlog", "notes.txt"]
      for (const name of others) {
        assert.isUndefined(parseSegmentFileName(name), name)
        assert.isFalse(looksLikeSegmentName(name), name)
      }
    })

    it("RC-25 a segment is prepared under a temporary name of its own", () => {
      assert.strictEqual(preparedSegmentName(26n), ".tmp-segment-000000000000001a")
      assert.isTrue(isAnyTemporaryName(preparedSegmentName(2n ** 64n - 1n)))
      assert.isFalse(looksLikeSegmentName(preparedSegmentName(0n)))
      assert.isUndefined(parseSegmentFileName(preparedSegmentName(0n)))
    })
  })

  describe("positions", () => {
    it("LOG-02 the offset of an LSN follows from the start of its segment", () => {
      assert.strictEqual(offsetOf(toLsn(4096), toLsn(4096)), 64)
      assert.strictEqual(offsetOf(toLsn(2 ** 53 - 8), toLsn(2 ** 53 - 64)), 120)
      fc.assert(fc.property(fc.nat(2 ** 40), fc.nat(2 ** 30), (start, distance) => {
        const lsn = toLsn(start + distance)
        assert.strictEqual(lsnAt(offsetOf(lsn, toLsn(start)), toLsn(start)), lsn)
      }))
    })

    it("the frame of a record is its head and its payload, up to a multiple of 8", () => {
      for (let bytes = 1; bytes < 40; bytes++) {
        assert.strictEqual(recordFrameBytes(bytes), 8 + Math.ceil(bytes / 8) * 8, `${bytes}`)
      }
      for (const bytes of [2 ** 31 - 1, 2 ** 31, 2 ** 31 + 1, 2 ** 32 - 1]) {
        assert.strictEqual(recordFrameBytes(bytes), 8 + Math.ceil(bytes / 8) * 8, `${bytes}`)
      }
    })
  })

  describe("frames", () => {
    const golden: ReadonlyArray<readonly [string, Uint8Array, Frame, string]> = [
      [
        "a record with padding",
        record(new Uint8Array([1, 2, 3])),
        { type: "record", frameBytes: 16, payload: new Uint8Array([1, 2, 3]) },
        "01 000000 03000000 0102030000000000"
      ],
      [
        "a record without",
        record(new Uint8Array(8).fill(9)),
        { type: "record", frameBytes: 16, payload: new Uint8Array(8).fill(9) },
        "01 000000 08000000 0909090909090909"
      ],
      ["the smallest pad", pad(8), { type: "pad", frameBytes: 8 }, "02 000000 00000000"],
      ["a pad", pad(24), { type: "pad", frameBytes: 24 }, `02 000000 10000000 ${"00".repeat(16)}`],
      [
        "a commit frame",
        commit(0x12_3456_7890, false, 0xdeadbeef),
        {
          type: "commit",
          frameBytes: 16,
          batchStart: toLsn(0x12_3456_7890),
          earlierIsDurable: false,
          checksum: 0xdeadbeef
        },
        "03 00 0000 efbeadde 9078563412000000"
      ],
      [
        "a commit frame with the flag",
        commit(2 ** 53 - 8, true, 1),
        { type: "commit", frameBytes: 16, batchStart: toLsn(2 ** 53 - 8), earlierIsDurable: true, checksum: 1 },
        "03 01 0000 01000000 f8ffffffffff1f00"
      ],
      ["the end", new Uint8Array(8), { type: "end", frameBytes: 8 }, "0000000000000000"]
    ]

    it("LOG-02 every frame stands byte for byte as the format says, and is read back", () => {
      for (const [name, bytes, frame, expected] of golden) {
        assert.strictEqual(hex(bytes), unspaced(expected), name)
        assert.deepStrictEqual(decodeFrame(bytes, viewOf(bytes), 0), Result.succeed(frame), name)
        assert.strictEqual(frameBytesAt(viewOf(bytes), 0), frame.type === "end" ? 0 : frame.frameBytes, name)
      }
    })

    it("a record of any size round-trips at any multiple of 8, over whatever stood there", () => {
      fc.assert(fc.property(fc.uint8Array({ minLength: 1, maxLength: 70 }), fc.nat(3), (payload, words) => {
        const frame = record(payload)
        const bytes = new Uint8Array([...new Uint8Array(words * 8).fill(0xee), ...frame, 0xee])
        const decoded = decodeFrame(bytes, viewOf(bytes), words * 8)
        assert.deepStrictEqual(decoded, Result.succeed({ type: "record", frameBytes: frame.length, payload }))
      }))
    })

    it("cut at any byte a frame is refused", () => {
      for (const [name, bytes] of golden) {
        for (let length = 0; length < bytes.length; length++) {
          assert.strictEqual(issueOf(bytes.subarray(0, length)), "Truncated 0", `${name}, ${length}`)
        }
      }
      // A length is compared with what is there before anything is made of it.
      const huge = record(new Uint8Array([1]))
      viewOf(huge).setUint32(4, 0xffffffff, true)
      assert.strictEqual(issueOf(huge), "Truncated 0")
    })

    it("field by field, a frame that is none is refused", () => {
      const oneRecord = record(new Uint8Array([1, 2, 3]))
      for (const type of [4, 5, 0x80, 0xff]) assert.strictEqual(issueOf(changed(oneRecord, 0, type)), "UnknownType 0")
      assert.strictEqual(issueOf(changed(oneRecord, 1, 1)), "BadFlag 1")
      assert.strictEqual(issueOf(changed(oneRecord, 2, 1)), "NotZero 2")
      assert.strictEqual(issueOf(changed(oneRecord, 3, 0x80)), "NotZero 2")
      assert.strictEqual(issueOf(changed(oneRecord, 4, 0)), "EmptyRecord 4")
      for (let padding = 11; padding < 16; padding++) {
        assert.strictEqual(issueOf(changed(oneRecord, padding, 1)), `NotZero ${padding}`)
      }
      assert.strictEqual(issueOf(changed(pad(24), 1, 1)), "BadFlag 1")
      assert.strictEqual(issueOf(changed(pad(24), 4, 12)), "BadLength 4")
      for (let body = 8; body < 24; body++) assert.strictEqual(issueOf(changed(pad(24), body, 1)), `NotZero ${body}`)
      const oneCommit = commit(64, true, 7)
      assert.strictEqual(issueOf(changed(oneCommit, 1, 2)), "BadFlag 1")
      assert.strictEqual(issueOf(changed(oneCommit, 3, 1)), "NotZero 2")
      assert.strictEqual(issueOf(changed(oneCommit, 8, 65)), "Misaligned 8")
      assert.strictEqual(issueOf(changed(oneCommit, 14, 0x20)), "OutOfRange 8")
      assert.strictEqual(issueOf(changed(new Uint8Array(8), 1, 1)), "BadFlag 1")
      assert.strictEqual(issueOf(changed(new Uint8Array(8), 7, 1)), "NotZero 4")
    })

    it("random bytes are a frame that encodes to them again, or refused; the hot reader agrees", () => {
      const likely = fc.tuple(fc.nat(4), fc.nat(1), fc.nat(24), fc.uint8Array({ maxLength: 32 })).map(
        ([type, flag, value, body]) => new Uint8Array([type, flag, 0, 0, value, 0, 0, 0, ...body])
      )
      fc.assert(
        fc.property(fc.oneof(likely, fc.uint8Array({ maxLength: 40 })), (bytes) => {
          const decoded = decodeFrame(bytes, viewOf(bytes), 0)
          if (Result.isSuccess(decoded)) {
            const frame = decoded.success
            const own = bytes.subarray(0, frame.frameBytes)
            assert.deepStrictEqual(Schema.encodeSync(FrameCodec)(frame), own.slice())
            assert.strictEqual(frameBytesAt(viewOf(bytes), 0), frame.type === "end" ? 0 : frame.frameBytes)
          } else if (bytes.length >= 8 && ["UnknownType", "BadFlag", "EmptyRecord"].includes(decoded.failure.code)) {
            assert.strictEqual(frameBytesAt(viewOf(bytes), 0), -1)
          }
        }),
        { numRuns: 3000 }
      )
    })

    it.effect("the codec is the plain functions", () =>
      Effect.gen(function*() {
        for (const [, bytes, frame] of golden) {
          assert.deepStrictEqual(yield* Schema.decodeEffect(FrameCodec)(bytes), frame)
          assert.deepStrictEqual(yield* Schema.encodeEffect(FrameCodec)(frame), bytes)
          const longer = new Uint8Array([...bytes, 0])
          assert.include((yield* Effect.flip(Schema.decodeEffect(FrameCodec)(longer))).message, "length at byte 0")
        }
      }))
  })

  describe("checksum of a batch", () => {
    it("covers the log id, the start and the bytes, in that order", () => {
      const batch = new Uint8Array([...record(new Uint8Array([1, 2, 3])), ...pad(16)])
      const start = new Uint8Array([0x90, 0x78, 0x56, 0x34, 0x12, 0, 0, 0])
      const expected = crc32c(new Uint8Array([...logId, ...start, ...batch]))
      assert.strictEqual(batchChecksum(logId, toLsn(0x12_3456_7890), [batch], batch.length), expected)
      assert.strictEqual(expected, 0xd5e19277)
    })

    it("does not depend on how the batch is cut into parts, nor on what follows it in the last one", () => {
      fc.assert(fc.property(fc.array(fc.uint8Array({ maxLength: 20 })), fc.uint8Array(), (parts, rest) => {
        const whole = new Uint8Array(parts.flatMap((part) => [...part]))
        const lsn = toLsn(2 ** 53 - 8)
        assert.strictEqual(
          batchChecksum(logId, lsn, [...parts, rest], whole.length),
          batchChecksum(logId, lsn, [whole], whole.length)
        )
      }))
    })
  })
})

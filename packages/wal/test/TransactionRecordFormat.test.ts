import { assert, describe, it } from "@effect/vitest"
import { Lsn, PageNumber, TxnId } from "@tidemark/core/Scalars"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"
import { decode, encode, type TransactionRecord, TransactionRecordFromBytes } from "../src/TransactionRecordFormat.ts"
import { unspaced } from "./support/walFiles.ts"

const txnId = TxnId.make(0x0102030405060708n)

const write: TransactionRecord = {
  _tag: "PageWrite",
  txnId,
  page: PageNumber.make(0x11223344),
  bytes: new Uint8Array([0xaa, 0xbb, 0xcc])
}

const golden: ReadonlyArray<readonly [TransactionRecord, string]> = [
  [{ _tag: "Begin", txnId }, "01 0807060504030201"],
  [{ _tag: "Commit", txnId }, "02 0807060504030201"],
  [{ _tag: "Rollback", txnId }, "03 0807060504030201"],
  [write, "04 0807060504030201 44332211 03000000 aabbcc"],
  [{ _tag: "Checkpoint", lsn: Lsn.make(0x10_0000_0000_0038) }, "05 3800000000001000"]
]

const codeOf = (bytes: Uint8Array) =>
  Result.match(decode(bytes), { onSuccess: () => "valid", onFailure: ({ code, field }) => `${code} ${field}` })

const changed = (record: TransactionRecord, change: (view: DataView) => void) => {
  const bytes = encode(record)
  change(new DataView(bytes.buffer))
  return bytes
}

const anyRecord: fc.Arbitrary<TransactionRecord> = fc.oneof(
  fc.record({
    _tag: fc.constantFrom("Begin" as const, "Commit" as const, "Rollback" as const),
    txnId: fc.bigInt(1n, 2n ** 62n - 1n).map((id) => TxnId.make(id))
  }),
  fc.record({
    _tag: fc.constant("PageWrite" as const),
    txnId: fc.bigInt(1n, 2n ** 62n - 1n).map((id) => TxnId.make(id)),
    page: fc.integer({ min: 1, max: 0xfffffffe }).map((page) => PageNumber.make(page)),
    bytes: fc.uint8Array({ maxLength: 64 })
  }),
  fc.record({ _tag: fc.constant("Checkpoint" as const), lsn: fc.maxSafeNat().map((lsn) => Lsn.make(lsn)) })
)

describe("TransactionRecordFormat", () => {
  it("LOG-13 every kind stands byte for byte as the format says", () => {
    for (const [record, bytes] of golden) {
      assert.strictEqual(Buffer.from(encode(record)).toString("hex"), unspaced(bytes))
      assert.deepStrictEqual(decode(Buffer.from(unspaced(bytes), "hex")), Result.succeed(record))
    }
  })

  it("LOG-13 every record round-trips, wherever in a buffer its payload lies", () => {
    fc.assert(fc.property(anyRecord, fc.nat(9), (record, before) => {
      const payload = encode(record)
      const buffer = new Uint8Array(before + payload.length + 5).fill(0xee)
      buffer.set(payload, before)
      assert.deepStrictEqual(decode(buffer.subarray(before, before + payload.length)), Result.succeed(record))
    }))
  })

  it("LOG-13 cut or longer by any byte, with any other tag, or with a length that is not its own, it is refused", () => {
    assert.strictEqual(codeOf(new Uint8Array(0)), "TooShort length")
    for (const [record] of golden) {
      const bytes = encode(record)
      for (let length = 1; length < bytes.length; length++) {
        assert.include(["BadLength length", "BadLength page length"], codeOf(bytes.subarray(0, length)), `${length}`)
      }
      const longer = new Uint8Array([...bytes, 0])
      assert.strictEqual(codeOf(longer), record._tag === "PageWrite" ? "BadLength page length" : "BadLength length")
      for (const tag of [0, 6, 7, 0x80, 0xff]) {
        assert.strictEqual(codeOf(changed(record, (view) => view.setUint8(0, tag))), "UnknownTag tag")
      }
    }
    for (const length of [0, 2, 4, 0xffffffff]) {
      assert.strictEqual(codeOf(changed(write, (view) => view.setUint32(13, length, true))), "BadLength page length")
    }
  })

  it("LOG-13 a field out of its range is refused", () => {
    for (const id of [0n, 2n ** 62n, 2n ** 64n - 1n]) {
      for (const [record] of golden.filter(([{ _tag }]) => _tag !== "Checkpoint")) {
        const code = codeOf(changed(record, (view) => view.setBigUint64(1, id, true)))
        assert.strictEqual(code, "OutOfRange transaction id")
      }
    }
    for (const page of [0, 0xffffffff]) {
      assert.strictEqual(codeOf(changed(write, (view) => view.setUint32(9, page, true))), "OutOfRange page number")
    }
    const checkpoint: TransactionRecord = { _tag: "Checkpoint", lsn: Lsn.make(0) }
    assert.strictEqual(codeOf(changed(checkpoint, (view) => view.setBigUint64(1, 2n ** 53n, true))), "OutOfRange LSN")
    assert.strictEqual(codeOf(changed(checkpoint, (view) => view.setBigUint64(1, 2n ** 53n - 1n, true))), "valid")
  })

  it("LOG-13 random bytes are a record that encodes to them again, or refused", () => {
    const likely = fc.tuple(fc.nat(6), fc.uint8Array({ maxLength: 24 })).map(([tag, rest]) =>
      new Uint8Array([tag, ...rest])
    )
    fc.assert(
      fc.property(fc.oneof(likely, fc.uint8Array({ maxLength: 24 })), (bytes) => {
        const decoded = decode(bytes)
        if (Result.isSuccess(decoded)) assert.deepStrictEqual(encode(decoded.success), bytes)
      }),
      { numRuns: 2000 }
    )
  })

  it.effect("LOG-13 the codec is the plain functions", () =>
    Effect.gen(function*() {
      const bytes = encode(write)
      assert.deepStrictEqual(yield* Schema.decodeEffect(TransactionRecordFromBytes)(bytes), write)
      assert.deepStrictEqual(yield* Schema.encodeEffect(TransactionRecordFromBytes)(write), bytes)
      const refused = yield* Effect.flip(Schema.decodeEffect(TransactionRecordFromBytes)(new Uint8Array([9])))
      assert.include(refused.message, "tag at byte 0 is 9")
    }))
})

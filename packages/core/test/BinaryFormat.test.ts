import { assert, describe, it } from "@effect/vitest"
import { type BinaryFormat, FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"

/** A format to test with: the byte 0x7e, then a level of 1 ... 9, which only the target schema checks. */
const Gauge = Schema.Struct({ level: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 9 })) })

const issue = (fields: { code: string; field: string; offset: number; found: string; expected: string }) =>
  Result.fail(new FormatIssue({ format: "gauge", ...fields }))

const gauge: BinaryFormat<typeof Gauge.Type> = {
  decode: (bytes) => {
    const [magic, level] = bytes
    if (bytes.length !== 2 || level === undefined) {
      return issue({
        code: "WrongLength",
        field: "length",
        offset: 0,
        found: `${bytes.length} bytes`,
        expected: "2 bytes"
      })
    }
    return magic === 0x7e
      ? Result.succeed({ level })
      : issue({ code: "BadMagic", field: "magic", offset: 0, found: String(magic), expected: "126" })
  },
  encode: ({ level }) => Uint8Array.of(0x7e, level)
}

const GaugeFromBytes = toCodec(Gauge, gauge)

describe("toCodec", () => {
  it.effect("decodes and encodes what the plain functions do", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Schema.decodeEffect(GaugeFromBytes)(Uint8Array.of(0x7e, 5)), { level: 5 })
      assert.deepStrictEqual(yield* Schema.encodeEffect(GaugeFromBytes)({ level: 5 }), Uint8Array.of(0x7e, 5))
    }))

  it.effect("passes the sentence of the issue on", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Schema.decodeEffect(GaugeFromBytes)(Uint8Array.of(1, 5)))
      assert.strictEqual(error._tag, "SchemaError")
      assert.include(error.message, "gauge: magic at byte 0 is 1, expected 126")
    }))

  it.effect("holds values to the target schema, in both directions", () =>
    Effect.gen(function*() {
      const tooHigh = yield* Effect.flip(Schema.decodeEffect(GaugeFromBytes)(Uint8Array.of(0x7e, 10)))
      const tooLow = yield* Effect.flip(Schema.encodeEffect(GaugeFromBytes)({ level: 0 }))
      assert.deepStrictEqual([tooHigh._tag, tooLow._tag], ["SchemaError", "SchemaError"])
    }))

  it.effect("refuses what is not bytes", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Schema.decodeUnknownEffect(GaugeFromBytes)([0x7e, 5]))
      assert.strictEqual(error._tag, "SchemaError")
    }))

  it("agrees with the plain functions on any bytes", () => {
    const decode = Schema.decodeUnknownResult(GaugeFromBytes)
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 4 }),
      fc.integer({ min: 0, max: 12 }).map((n) => Uint8Array.of(0x7e, n))
    )
    fc.assert(fc.property(bytes, (bytes) => {
      const plain = Result.filterOrFail(gauge.decode(bytes), ({ level }) => level >= 1 && level <= 9, () => "range")
      assert.strictEqual(Result.isSuccess(decode(bytes)), Result.isSuccess(plain))
    }))
  })
})

describe("FormatIssue", () => {
  it("carries where and what as values", () => {
    const error = Result.getOrThrowWith(Result.flip(gauge.decode(new Uint8Array(3))), () => new Error("decoded"))
    assert.strictEqual(error.code, "WrongLength")
    assert.strictEqual(error.offset, 0)
    assert.strictEqual(error.message, "gauge: length at byte 0 is 3 bytes, expected 2 bytes")
    assert.isFalse(error.isRetryable)
    assert.strictEqual(error.sqliteCode, 11)
  })
})

/** What every format of small records has to hold, whatever it says. */
import { assert, it } from "@effect/vitest"
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { Effect, Result, Schema } from "effect"
import fc from "fast-check"
import { unspaced } from "./walFiles.ts"

export interface FormatUnderTest<A> {
  readonly encode: (value: A) => Uint8Array
  readonly decode: (bytes: Uint8Array) => Result.Result<A, FormatIssue>
  readonly codec: Schema.Codec<A, Uint8Array>
  readonly values: fc.Arbitrary<A>
  /** Values and their bytes, written out from the format's description. */
  readonly examples: ReadonlyArray<readonly [value: A, hex: string]>
  /** Bytes that are refused, and the code and offset of the refusal. */
  readonly refusals: ReadonlyArray<readonly [hex: string, code: string, offset: number]>
}

const bytesOf = (hex: string) => new Uint8Array(Buffer.from(unspaced(hex), "hex"))
const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex")

/** Strings of every kind: with half surrogate pairs, byte order marks, NULs. */
export const anyText = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.array(fc.integer({ min: 0, max: 0xffff })).map((units) => String.fromCharCode(...units)),
  fc.constantFrom("", "\ufeff", "\ufeffa", "\ud83d", "a\u0000b", "\ud83d\ude00")
)
export const anyBytes = fc.uint8Array({ maxLength: 40 }).map((bytes) => new Uint8Array(bytes))
export const anyTime = fc.oneof(
  fc.constantFrom(0, 1.5, 1_700_000_000_000, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY),
  fc.double({ noNaN: true })
)

/** Commands of a type, from records of their other fields. */
export const tagged = <Type extends string, Fields extends object>(type: Type, fields: fc.Arbitrary<Fields>) =>
  fields.map((fields) => Object.assign({ type }, fields))

export const formatContract = <A>(format: FormatUnderTest<A>): void => {
  it("stands byte for byte as the format says", () => {
    for (const [value, hex] of format.examples) {
      assert.strictEqual(hexOf(format.encode(value)), unspaced(hex))
      assert.deepStrictEqual(format.decode(bytesOf(hex)), Result.succeed(value))
    }
  })

  it("every value round-trips, out of the middle of other bytes too", () => {
    fc.assert(fc.property(format.values, (value) => {
      const bytes = format.encode(value)
      assert.deepStrictEqual(format.decode(bytes), Result.succeed(value))
      const among = new Uint8Array(bytes.length + 7).fill(0xa5)
      among.set(bytes, 3)
      assert.deepStrictEqual(format.decode(among.subarray(3, 3 + bytes.length)), Result.succeed(value))
    }))
  })

  it("says what is wrong, and where", () => {
    for (const [hex, code, offset] of format.refusals) {
      const refused = format.decode(bytesOf(hex))
      assert.isTrue(Result.isFailure(refused), hex)
      if (Result.isFailure(refused)) {
        assert.deepStrictEqual({ code: refused.failure.code, offset: refused.failure.offset }, { code, offset }, hex)
      }
    }
  })

  it("cut at any byte, or longer by one, it is refused", () => {
    fc.assert(fc.property(format.values, (value) => {
      const bytes = format.encode(value)
      for (let length = 0; length < bytes.length; length++) {
        assert.isTrue(Result.isFailure(format.decode(bytes.subarray(0, length))), `cut at ${length}`)
      }
      assert.isTrue(Result.isFailure(format.decode(new Uint8Array([...bytes, 0]))), "longer by one")
    }))
  })

  it("what it accepts of damaged bytes it writes again as those bytes, and nothing makes it throw", () => {
    const damaged = fc.tuple(format.values, fc.nat(), fc.integer({ min: 1, max: 255 })).map(([value, at, mask]) => {
      const bytes = format.encode(value)
      const index = at % bytes.length
      bytes[index] = (bytes[index] ?? 0) ^ mask
      return bytes
    })
    fc.assert(
      fc.property(fc.oneof(damaged, fc.uint8Array({ maxLength: 64 })), (bytes) => {
        const decoded = format.decode(bytes)
        if (Result.isSuccess(decoded)) assert.deepStrictEqual(format.decode(format.encode(decoded.success)), decoded)
      }),
      { numRuns: 2000 }
    )
  })

  it.effect("is a codec as well", () =>
    Effect.gen(function*() {
      for (const [value, hex] of format.examples) {
        assert.deepStrictEqual(yield* Schema.decodeEffect(format.codec)(bytesOf(hex)), value)
        assert.strictEqual(hexOf(yield* Schema.encodeEffect(format.codec)(value)), unspaced(hex))
      }
      for (const [hex] of format.refusals) {
        const error = yield* Effect.flip(Schema.decodeEffect(format.codec)(bytesOf(hex)))
        const refused = format.decode(bytesOf(hex))
        if (Result.isFailure(refused)) assert.include(error.message, refused.failure.message)
      }
    }))
}

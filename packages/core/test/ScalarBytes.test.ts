import { assert, describe, it } from "@effect/vitest"
import { bigEndian, littleEndian } from "@tidemark/core/ScalarBytes"
import { Effect, Schema } from "effect"
import fc from "fast-check"

/** Per scalar a value and its little-endian bytes, then bytes that are refused for their value. */
const forms: ReadonlyArray<
  readonly [
    name: keyof typeof littleEndian,
    value: unknown,
    bytes: Array<number>,
    refused: ReadonlyArray<Array<number>>
  ]
> = [
  ["TxnId", 0x0102n, [2, 1, 0, 0, 0, 0, 0, 0], [[0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0x40]]],
  ["TxnEpoch", 0xfffffffe, [0xfe, 0xff, 0xff, 0xff], []],
  ["CommitSeq", 2n ** 64n - 2n, [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], []],
  ["SchemaEpoch", 2n ** 56n, [0, 0, 0, 0, 0, 0, 0, 1], []],
  ["TableId", 2, [2, 0, 0, 0], [[0, 0, 0, 0]]],
  ["RowId", -2n, [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], []],
  ["PageNumber", 0x010203, [3, 2, 1, 0], [[0, 0, 0, 0], [0xff, 0xff, 0xff, 0xff]]],
  ["PageSize", 65536, [0, 0, 1, 0], [[1, 0, 0, 0], [0, 3, 0, 0]]],
  [
    "Lsn",
    2 ** 53 - 1,
    [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0],
    // 2^53 and 2^53 + 1, which as numbers are the same, and the largest u64.
    [[0, 0, 0, 0, 0, 0, 0x20, 0], [1, 0, 0, 0, 0, 0, 0x20, 0], [255, 255, 255, 255, 255, 255, 255, 255]]
  ],
  ["WalEpoch", 1n, [1, 0, 0, 0, 0, 0, 0, 0], []],
  ["LaneId", 65534, [0xfe, 0xff], [[0xff, 0xff]]]
]

describe("the bytes of a scalar", () => {
  it.effect.each(forms)(
    "of %s are read and written in both orders",
    ([name, value, bytes, refused]) =>
      Effect.gen(function*() {
        for (const [codecs, order] of [[littleEndian, 1], [bigEndian, -1]] as const) {
          // The codecs of the table differ in their types; here each gets the value that belongs to it.
          const codec = codecs[name] as Schema.Codec<unknown, Uint8Array>
          const inOrder = (list: ReadonlyArray<number>) => Uint8Array.from(order === 1 ? list : list.toReversed())
          assert.deepStrictEqual(yield* Schema.decodeEffect(codec)(inOrder(bytes)), value)
          assert.deepStrictEqual(yield* Schema.encodeEffect(codec)(value), inOrder(bytes))
          for (const wrong of refused) yield* Effect.flip(Schema.decodeEffect(codec)(inOrder(wrong)))
        }
      })
  )

  it.effect.each(forms)("of %s of another length are refused", ([name, , bytes]) =>
    Effect.gen(function*() {
      const codec = littleEndian[name] as Schema.Codec<unknown, Uint8Array>
      for (const length of [0, bytes.length - 1, bytes.length + 1]) {
        const error = yield* Effect.flip(Schema.decodeEffect(codec)(new Uint8Array(length)))
        assert.include(error.message, `length at byte 0 is ${length} bytes, expected ${bytes.length} bytes`)
      }
    }))

  it.effect("of a token are its id and then its epoch", () =>
    Effect.gen(function*() {
      const bytes = new Uint8Array([5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0])
      const token = yield* Schema.decodeEffect(littleEndian.TxnToken)(bytes)
      assert.deepStrictEqual({ ...token }, { id: 5n, epoch: 6 } as typeof token)
      assert.deepStrictEqual(yield* Schema.encodeEffect(littleEndian.TxnToken)(token), bytes)
      assert.deepStrictEqual(
        yield* Schema.encodeEffect(bigEndian.TxnToken)(token),
        new Uint8Array([0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6])
      )
      yield* Effect.flip(Schema.decodeEffect(littleEndian.TxnToken)(new Uint8Array(12)))
    }))

  it("come back as they were, also from the middle of a larger buffer", () => {
    const decode = Schema.decodeSync(littleEndian.RowId)
    const encode = Schema.encodeSync(littleEndian.RowId)
    fc.assert(fc.property(fc.uint8Array({ minLength: 8, maxLength: 8 }), fc.nat(7), (bytes, offset) => {
      const buffer = new Uint8Array(24).fill(0xaa)
      buffer.set(bytes, offset)
      assert.deepStrictEqual(encode(decode(buffer.subarray(offset, offset + 8))), bytes)
    }))
  })
})

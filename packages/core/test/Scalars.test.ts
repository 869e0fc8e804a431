import { assert, describe, it } from "@effect/vitest"
import { InvariantViolation } from "@tidemark/core/Invariant"
import * as Scalars from "@tidemark/core/Scalars"
import { Effect, Exit, Schema } from "effect"
import fc from "fast-check"

const u32 = 2 ** 32 - 1
const u64 = 2n ** 64n - 1n

/** Per scalar, values at both ends of its range, and what lies just beyond or is of another kind. */
const ranges: ReadonlyArray<
  readonly [name: string, schema: Schema.Codec<unknown>, accepted: Array<unknown>, refused: Array<unknown>]
> = [
  ["TxnId", Scalars.TxnId, [1n, 2n ** 62n - 1n], [0n, -1n, 2n ** 62n, 2n ** 63n, 1]],
  ["TxnEpoch", Scalars.TxnEpoch, [0, u32], [-1, u32 + 1, 0.5, Number.NaN, 1n]],
  ["TxnToken", Scalars.TxnToken, [{ id: 1n, epoch: 0 }], [{ id: 0n, epoch: 0 }, { id: 1n, epoch: -1 }, { id: 1n }]],
  ["CommitSeq", Scalars.CommitSeq, [0n, u64], [-1n, u64 + 1n, 1]],
  ["SchemaEpoch", Scalars.SchemaEpoch, [0n, u64], [-1n, u64 + 1n, 1]],
  ["TableId", Scalars.TableId, [1, u32], [0, u32 + 1, 1.5, 1n]],
  ["RowId", Scalars.RowId, [-(2n ** 63n), 0n, 2n ** 63n - 1n], [-(2n ** 63n) - 1n, 2n ** 63n, 1]],
  ["PageNumber", Scalars.PageNumber, [1, 0xfffffffe], [0, 0xffffffff, 1.5, "1"]],
  ["PageSize", Scalars.PageSize, [...Scalars.pageSizes], [0, 1, 256, 511, 1000, 131072, "4096"]],
  ["Lsn", Scalars.Lsn, [0, 2 ** 53 - 1], [-1, 2 ** 53, 0.5, Number.POSITIVE_INFINITY, 1n]],
  ["WalEpoch", Scalars.WalEpoch, [0n, u64], [-1n, u64 + 1n]],
  ["LaneId", Scalars.LaneId, [0, 65534], [-1, 65535, 0.5]],
  ["ObjectId", Scalars.ObjectId, [new Uint8Array(16)], [new Uint8Array(15), new Uint8Array(17), "0".repeat(32)]]
]

describe("the range of a scalar", () => {
  it.effect.each(ranges)(
    "of %s has both its ends and nothing beyond",
    ([, schema, accepted, refused]) =>
      Effect.gen(function*() {
        const decode = Schema.decodeUnknownEffect(schema)
        for (const value of accepted) assert.deepStrictEqual(yield* decode(value), value)
        for (const value of refused) {
          const error = yield* Effect.flip(decode(value))
          assert.strictEqual(error._tag, "SchemaError", String(value))
        }
      })
  )

  it("is what make checks, too", () => {
    assert.strictEqual(Scalars.Lsn.make(2 ** 53 - 1), 2 ** 53 - 1)
    assert.throws(() => Scalars.Lsn.make(2 ** 53))
    assert.throws(() => Scalars.TxnId.make(0n))
  })
})

describe("the JSON form", () => {
  /** Through the text of a JSON document and back. */
  const roundTrip = <A>(schema: Schema.Codec<A, unknown>, value: A) =>
    Effect.gen(function*() {
      const codec = Schema.toCodecJson(schema)
      const text = JSON.stringify(yield* Schema.encodeEffect(codec)(value))
      assert.deepStrictEqual(yield* Schema.decodeUnknownEffect(codec)(JSON.parse(text)), value)
      return text
    })

  it.effect("of a 64-bit number is a decimal string", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* roundTrip(Scalars.CommitSeq, Scalars.CommitSeq.make(u64)), "\"18446744073709551615\"")
      assert.strictEqual(yield* roundTrip(Scalars.TxnId, Scalars.TxnId.make(1n)), "\"1\"")
      assert.strictEqual(
        yield* roundTrip(Scalars.RowId, Scalars.RowId.make(-(2n ** 63n))),
        "\"-9223372036854775808\""
      )
      assert.strictEqual(
        yield* roundTrip(
          Scalars.TxnToken,
          Scalars.TxnToken.make({ id: Scalars.TxnId.make(5n), epoch: Scalars.TxnEpoch.make(6) })
        ),
        "{\"id\":\"5\",\"epoch\":6}"
      )
    }))

  it.effect("of a byte position and of smaller numbers is a number", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* roundTrip(Scalars.Lsn, Scalars.Lsn.make(2 ** 53 - 1)), "9007199254740991")
      assert.strictEqual(yield* roundTrip(Scalars.PageNumber, Scalars.PageNumber.make(1)), "1")
      assert.strictEqual(yield* roundTrip(Scalars.PageSize, Scalars.defaultPageSize), "4096")
    }))

  it.effect("of an object id is 32 lower-case hexadecimal digits", () =>
    Effect.gen(function*() {
      const id = Scalars.toObjectId(Uint8Array.from({ length: 16 }, (_, i) => i * 17))
      assert.strictEqual(yield* roundTrip(Scalars.ObjectId, id), "\"00112233445566778899aabbccddeeff\"")
      const decode = Schema.decodeUnknownExit(Schema.toCodecJson(Scalars.ObjectId))
      for (const text of ["", "00", "0".repeat(31), "0".repeat(33), "A".repeat(32), "g".repeat(32)]) {
        assert.isTrue(Exit.isFailure(decode(text)), text)
      }
    }))

  it.effect("is held to the range when it is read", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Schema.decodeUnknownEffect(Schema.toCodecJson(Scalars.TxnId))("0"))
      assert.strictEqual(error._tag, "SchemaError")
    }))
})

describe("TxnToken", () => {
  it("has equal keys only for equal tokens", () => {
    const keyOf = (id: bigint, epoch: number) =>
      Scalars.txnTokenKey({ id: Scalars.TxnId.make(id), epoch: Scalars.TxnEpoch.make(epoch) })
    assert.notStrictEqual(keyOf(1n, 11), keyOf(11n, 1))
    assert.notStrictEqual(keyOf(1n, 12), keyOf(11n, 2))
    const token = fc.record({
      id: fc.bigInt({ min: 1n, max: 30n }).map((id) => Scalars.TxnId.make(id)),
      epoch: fc.integer({ min: 0, max: 30 }).map((epoch) => Scalars.TxnEpoch.make(epoch))
    })
    fc.assert(fc.property(token, token, (a, b) =>
      assert.strictEqual(
        Scalars.txnTokenKey(a) === Scalars.txnTokenKey(b),
        a.id === b.id && a.epoch === b.epoch
      )))
  })
})

describe("the constructors for hot paths", () => {
  it("brand what is in range", () => {
    assert.strictEqual(Scalars.toLsn(0), 0)
    assert.strictEqual(Scalars.toLsn(2 ** 53 - 1), 2 ** 53 - 1)
    assert.strictEqual(Scalars.toPageNumber(0xfffffffe), 0xfffffffe)
    assert.strictEqual(Scalars.toCommitSeq(u64), u64)
    const bytes: Uint8Array = new Uint8Array(16)
    assert.strictEqual<Uint8Array>(Scalars.toObjectId(bytes), bytes)
  })

  it("raise a defect for what is not", () => {
    for (const value of [-1, 2 ** 53, 0.5, Number.NaN]) assert.throws(() => Scalars.toLsn(value), InvariantViolation)
    for (const value of [0, -1, 0xffffffff, 1.5]) assert.throws(() => Scalars.toPageNumber(value), InvariantViolation)
    for (const value of [-1n, u64 + 1n]) assert.throws(() => Scalars.toCommitSeq(value), InvariantViolation)
    for (const length of [0, 15, 17]) {
      assert.throws(() => Scalars.toObjectId(new Uint8Array(length)), InvariantViolation)
    }
  })

  it("agree with the schemas", () => {
    const agrees = <A>(schema: Schema.Codec<A, A>, construct: (value: A) => unknown, value: A) => {
      const accepts = (f: () => unknown) => {
        try {
          f()
          return true
        } catch {
          return false
        }
      }
      assert.strictEqual(accepts(() => construct(value)), Exit.isSuccess(Schema.decodeUnknownExit(schema)(value)))
    }
    const edges = [-1, 0, 1, 0.5, u32 - 1, u32, u32 + 1, 2 ** 53 - 1, 2 ** 53]
    const anyNumber = fc.oneof(fc.double(), fc.constantFrom(...edges))
    const anyBigint = fc.oneof(fc.bigInt(), fc.constantFrom(-1n, 0n, u64, u64 + 1n))
    fc.assert(
      fc.property(anyNumber, (value) => agrees<number>(Scalars.Lsn as Schema.Codec<number>, Scalars.toLsn, value))
    )
    fc.assert(
      fc.property(
        anyNumber,
        (value) => agrees<number>(Scalars.PageNumber as Schema.Codec<number>, Scalars.toPageNumber, value)
      )
    )
    fc.assert(
      fc.property(
        anyBigint,
        (value) => agrees<bigint>(Scalars.CommitSeq as Schema.Codec<bigint>, Scalars.toCommitSeq, value)
      )
    )
  })
})

describe("ObjectId", () => {
  it("is ordered as its hexadecimal form", () => {
    // Few distinct bytes and a common start, so that ids often differ late or not at all.
    const id = fc.array(fc.constantFrom(0, 1, 0x7f, 0x80, 0xff), { minLength: 3, maxLength: 3 }).map((tail) =>
      Scalars.toObjectId(Uint8Array.from([...new Uint8Array(13), ...tail]))
    )
    fc.assert(fc.property(id, id, (a, b) => {
      const [x, y] = [Scalars.objectIdToHex(a), Scalars.objectIdToHex(b)]
      assert.strictEqual(Scalars.ObjectIdOrder(a, b), x < y ? -1 : x > y ? 1 : 0)
    }))
  })

  it("is compared from its first byte on", () => {
    const low = Scalars.toObjectId(Uint8Array.from([0, ...new Uint8Array(15).fill(255)]))
    const high = Scalars.toObjectId(Uint8Array.from([128, ...new Uint8Array(15)]))
    assert.strictEqual(Scalars.ObjectIdOrder(low, high), -1)
    assert.strictEqual(Scalars.ObjectIdOrder(high, low), 1)
  })
})

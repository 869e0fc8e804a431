import { assert, describe, it } from "@effect/vitest"
import { CommitSeq, SchemaEpoch } from "@tidemark/core/Scalars"
import { isVisible, Snapshot } from "@tidemark/core/Snapshot"
import { Effect, Schema } from "effect"
import fc from "fast-check"

const schemaEpoch = SchemaEpoch.make(0n)
const at = (high: bigint) => Snapshot.make({ high: CommitSeq.make(high), schemaEpoch })

/** Sequences around each other and at the ends of the range. */
const sequence = fc.oneof(
  fc.bigInt({ min: 0n, max: 8n }),
  fc.bigInt({ min: 2n ** 64n - 8n, max: 2n ** 64n - 1n }),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
)

describe("isVisible", () => {
  it("shows exactly what was committed up to the snapshot", () => {
    fc.assert(
      fc.property(
        sequence,
        sequence,
        (seq, high) => assert.strictEqual(isVisible(CommitSeq.make(seq), at(high)), seq > 0n && seq <= high)
      )
    )
  })

  it("shows no less to a later snapshot", () => {
    fc.assert(fc.property(sequence, sequence, sequence, (seq, a, b) => {
      const [earlier, later] = a < b ? [a, b] : [b, a]
      assert.isTrue(!isVisible(CommitSeq.make(seq), at(earlier)) || isVisible(CommitSeq.make(seq), at(later)))
    }))
  })

  it("shows nothing before the first commit", () => {
    assert.isFalse(isVisible(CommitSeq.make(0n), at(0n)))
    assert.isFalse(isVisible(CommitSeq.make(1n), at(0n)))
  })

  it("does not look at the schema epoch", () => {
    const snapshot = Snapshot.make({ high: CommitSeq.make(1n), schemaEpoch: SchemaEpoch.make(9n) })
    assert.isTrue(isVisible(CommitSeq.make(1n), snapshot))
  })
})

describe("Snapshot", () => {
  it.effect("has decimal strings in JSON", () =>
    Effect.gen(function*() {
      const codec = Schema.toCodecJson(Snapshot)
      const json = yield* Schema.encodeEffect(codec)(at(2n ** 64n - 1n))
      assert.deepStrictEqual(json, { high: "18446744073709551615", schemaEpoch: "0" })
      assert.deepStrictEqual(yield* Schema.decodeUnknownEffect(codec)(json), at(2n ** 64n - 1n))
    }))
})

import { assert, describe, it } from "@effect/vitest"
import {
  Busy,
  Conflict,
  LeaseHeld,
  LeaseNotHeld,
  ReadSetTooLarge,
  SchemaMismatch,
  SerializationFailure,
  SpillCorrupt,
  WriteSetTooLarge
} from "@tidemark/coordinator/CoordinatorErrors"
import { SchemaEpoch, toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import { Cause, Effect } from "effect"

const pages = [toPageNumber(3), toPageNumber(9)]
const conflict = new Conflict({ conflictingSeq: toCommitSeq(5n), pages, reason: "write set" })

describe("CoordinatorErrors", () => {
  it.effect("CO-01 a conflict is an ordinary typed error, without the cost of a stack", () =>
    Effect.gen(function*() {
      assert.instanceOf(conflict, Error)
      assert.instanceOf(conflict, Conflict)
      assert.notInstanceOf(conflict, Busy)
      assert.strictEqual(conflict.name, "Conflict")
      assert.strictEqual(conflict.stack, `Conflict: ${conflict.message}`)
      assert.include(Cause.pretty(Cause.fail(conflict)), "2 pages (3, 9)")
      assert.deepStrictEqual(Object.keys(conflict).sort(), ["_tag", "conflictingSeq", "pages", "reason"])

      const caught = yield* Effect.gen(function*() {
        return yield* conflict
      }).pipe(Effect.catchTag("Conflict", (error) => Effect.succeed(error.conflictingSeq)))
      assert.strictEqual(caught, 5n)
      assert.strictEqual(yield* Effect.flip(Effect.fail(conflict)), conflict)
    }))

  it("carries the SQLite code and whether a retry makes sense", () => {
    const conflictingSeq = toCommitSeq(5n)
    const current = SchemaEpoch.make(1n)
    const table = [
      [conflict, 517, true],
      [new SerializationFailure({ conflictingSeq, pages, reason: "read set" }), 517, true],
      [new Busy({ reason: "a serialized writer is active", retryAfterMillis: 5 }), 5, true],
      [new LeaseHeld({ name: "a.db", holder: undefined, isOverdue: false }), 5, true],
      [new LeaseNotHeld({ name: "a.db", generation: undefined }), 5, false],
      [new SchemaMismatch({ current, found: SchemaEpoch.make(0n) }), 17, false],
      [new SpillCorrupt({ path: "x.spill", page: toPageNumber(1), offset: 4096 }), 11, false],
      [new WriteSetTooLarge({ pages: 100_000, maxPages: 98_301 }), 13, false],
      [new ReadSetTooLarge({ ids: 70_000, maxIds: 65_536 }), 13, false]
    ] as const
    for (const [error, code, isRetryable] of table) {
      assert.strictEqual(error.sqliteCode, code, error._tag)
      assert.strictEqual(error.isRetryable, isRetryable, error._tag)
      assert.isAbove(error.message.length, 20, error._tag)
      assert.notInclude(error.message, "undefined", error._tag)
    }
  })
})

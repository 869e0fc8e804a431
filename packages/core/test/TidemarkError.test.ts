import { assert, describe, it } from "@effect/vitest"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import { Cause, Effect } from "effect"

class LaneFull extends TidemarkError("LaneFull", { isRetryable: true, sqliteCode: SqliteCode.busy })<{
  readonly lane: number
  readonly cause?: unknown
}> {
  override get message() {
    return `lane ${this.lane} is full; try again when the epoch is flushed`
  }
}

class LogClosed extends TidemarkError("LogClosed", { isRetryable: false })<{ readonly path: string }> {
  override get message() {
    return `${this.path} is closed`
  }
}

describe("TidemarkError", () => {
  it("makes real errors, with their fields, tag and place", () => {
    const error = new LaneFull({ lane: 3 })
    assert.instanceOf(error, Error)
    assert.instanceOf(error, LaneFull)
    assert.notInstanceOf(error, LogClosed)
    assert.strictEqual(error._tag, "LaneFull")
    assert.strictEqual(error.name, "LaneFull")
    assert.isTrue(Object.hasOwn(error, "lane"))
    assert.strictEqual(error.lane, 3)
    assert.match(error.stack ?? "", /TidemarkError\.test\.ts/)
  })

  it("says its sentence in its message, in its string and where an error is printed", () => {
    const error = new LaneFull({ lane: 3 })
    const sentence = "lane 3 is full; try again when the epoch is flushed"
    assert.strictEqual(error.message, sentence)
    assert.strictEqual(String(error), `LaneFull: ${sentence}`)
    assert.include(Cause.pretty(Cause.fail(error)), sentence)
  })

  it("has the traits of its class", () => {
    const busy = new LaneFull({ lane: 3 })
    assert.isTrue(busy.isRetryable)
    assert.strictEqual(busy.sqliteCode, 5)
    const closed = new LogClosed({ path: "a.tlog" })
    assert.isFalse(closed.isRetryable)
    assert.isUndefined(closed.sqliteCode)
  })

  it("keeps the cause", () => {
    const cause = new Error("no space left")
    assert.strictEqual(new LaneFull({ lane: 3, cause }).cause, cause)
  })

  it.effect("is caught by its tag, and only by its own", () =>
    Effect.gen(function*() {
      const fail = (error: LaneFull | LogClosed) =>
        Effect.fail(error).pipe(
          Effect.catchTag("LaneFull", ({ lane }) => Effect.succeed(`lane ${lane}`)),
          Effect.catchTag("LogClosed", ({ path }) => Effect.succeed(`path ${path}`))
        )
      assert.strictEqual(yield* fail(new LaneFull({ lane: 7 })), "lane 7")
      assert.strictEqual(yield* fail(new LogClosed({ path: "a.tlog" })), "path a.tlog")
      const other: Effect.Effect<string, LaneFull | LogClosed> = Effect.fail(new LogClosed({ path: "b.tlog" }))
      const error = yield* Effect.flip(Effect.catchTag(other, "LaneFull", () => Effect.succeed("wrong")))
      assert.strictEqual(error._tag, "LogClosed")
    }))

  it.effect("fails an effect when it is yielded", () =>
    Effect.gen(function*() {
      const program = Effect.gen(function*() {
        return yield* new LaneFull({ lane: 1 })
      })
      const error = yield* Effect.flip(program)
      assert.strictEqual(error.lane, 1)
    }))

  it.effect("lets retry decide by isRetryable", () =>
    Effect.gen(function*() {
      let calls = 0
      const program = Effect.suspend((): Effect.Effect<never, LaneFull | LogClosed> =>
        Effect.fail(++calls < 3 ? new LaneFull({ lane: calls }) : new LogClosed({ path: "a.tlog" }))
      )
      const error = yield* Effect.flip(Effect.retry(program, { times: 10, while: (error) => error.isRetryable }))
      assert.strictEqual(error._tag, "LogClosed")
      assert.strictEqual(calls, 3)
    }))
})

describe("SqliteCode", () => {
  it("has the numbers that SQLite documents", () => {
    assert.deepStrictEqual(SqliteCode, {
      busy: 5,
      ioError: 10,
      corrupt: 11,
      full: 13,
      cannotOpen: 14,
      protocol: 15,
      schema: 17,
      misuse: 21,
      notADatabase: 26,
      // SQLITE_BUSY with 2 in its second byte.
      busySnapshot: 5 | (2 << 8)
    })
  })
})

import { assert, describe, it } from "@effect/vitest"
import { invariant, InvariantViolation } from "@tidemark/core/Invariant"
import { Cause, Effect, Exit } from "effect"

describe("invariant", () => {
  it("says nothing while the condition holds", () => {
    assert.isUndefined(invariant(true, "the sky is above"))
  })

  it("throws the sentence when it does not", () => {
    let violation: unknown
    try {
      invariant(false, "durable never passes written")
    } catch (error) {
      violation = error
    }
    assert.instanceOf(violation, InvariantViolation)
    assert.instanceOf(violation, Error)
    assert.strictEqual(violation.name, "InvariantViolation")
    assert.strictEqual(violation.message, "durable never passes written")
    assert.match(violation.stack ?? "", /Invariant\.test\.ts/)
  })

  it("narrows the type", () => {
    const value: string | undefined = ["text"].at(0)
    invariant(value !== undefined, "there is a text")
    assert.strictEqual(value.length, 4)
  })

  it.effect("is a defect inside an effect, which no typed handler sees", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.sync(() => invariant(false, "never")).pipe(
        Effect.catch(() => Effect.succeed("caught")),
        Effect.exit
      )
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
    }))
})

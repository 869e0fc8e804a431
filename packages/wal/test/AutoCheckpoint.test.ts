/** When checkpoints run by themselves, and how long they rest. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { TestClock } from "effect/testing"
import { forkAutoCheckpoint } from "../src/internal/autoCheckpoint.ts"
import { CheckpointFailed } from "../src/LogErrors.ts"

const threshold = 10

/** A log in which frames gather when the test says so. */
class Frames {
  since = 0
  isUrgent = false
  rounds = 0
  listener: () => void = () => {}
  /** Called when somebody wants to know how many there are. */
  onLook: () => void = () => {}

  /** Commits are published. */
  add(count: number): void {
    this.since += count
    this.listener()
  }
}

/** Turns of the event loop, enough for everything that waits for nothing else. */
const settle = Effect.repeat(Effect.yieldNow, { times: 20 })

const pass = (millis: number) => Effect.andThen(TestClock.adjust(millis), settle)

const start = Effect.fnUntraced(function*(options: {
  readonly threshold?: number
  /** Milliseconds that a round takes. */
  readonly takes?: number
  readonly rests?: boolean
  readonly ends?: Effect.Effect<void, CheckpointFailed>
} = {}) {
  const frames = new Frames()
  const scope = yield* Scope.fork(yield* Effect.scope)
  yield* forkAutoCheckpoint({
    threshold: options.threshold ?? threshold,
    sinceLastRound: () => {
      frames.onLook()
      return frames.since
    },
    onPublished: (listener) => {
      frames.listener = listener
    },
    round: Effect.suspend(() => {
      frames.since = 0
      frames.rounds++
      const taking = (options.takes ?? 0) === 0 ? Effect.void : Effect.sleep(options.takes ?? 0)
      return Effect.andThen(taking, options.ends ?? Effect.void)
    }),
    isUrgent: options.rests === false ? undefined : () => {
      frames.onLook()
      return frames.isUrgent
    }
  }).pipe(Scope.provide(scope))
  yield* settle
  return { frames, stop: Scope.close(scope, Exit.void) }
})

describe("autoCheckpoint", () => {
  it.effect("PG-07 a round runs when enough has gathered, and not before", () =>
    Effect.gen(function*() {
      const { frames } = yield* start()
      frames.add(threshold - 1)
      yield* settle
      assert.strictEqual(frames.rounds, 0)
      frames.add(1)
      yield* settle
      assert.strictEqual(frames.rounds, 1)
      frames.add(threshold - 1)
      yield* pass(60_000)
      assert.strictEqual(frames.rounds, 1)
    }))

  it.effect.each([
    { takes: 10, rests: 490 },
    // A second at the most.
    { takes: 100, rests: 1000 },
    { takes: 7000, rests: 1000 }
  ])(
    "PG-07 after a round of $takes ms there is none for $rests ms, whatever gathers",
    ({ rests, takes }) =>
      Effect.gen(function*() {
        const { frames } = yield* start({ takes })
        frames.add(threshold)
        yield* settle
        frames.add(5 * threshold)
        yield* pass(takes)
        assert.strictEqual(frames.rounds, 1)
        frames.add(threshold)
        yield* pass(rests - 1)
        frames.add(threshold)
        yield* settle
        assert.strictEqual(frames.rounds, 1)
        yield* pass(1)
        assert.strictEqual(frames.rounds, 2)
      })
  )

  it.effect("PG-07 when it has rested it runs as soon as enough has gathered", () =>
    Effect.gen(function*() {
      const { frames } = yield* start({ takes: 100 })
      for (let round = 1; round <= 3; round++) {
        frames.add(threshold)
        yield* settle
        assert.strictEqual(frames.rounds, round)
        yield* pass(100)
        yield* pass(1000)
      }
      frames.add(threshold - 1)
      yield* pass(5000)
      assert.strictEqual(frames.rounds, 3)
      frames.add(1)
      yield* settle
      assert.strictEqual(frames.rounds, 4, "the listener of the rest is not in the way")
    }))

  it.effect("PG-07 it does not rest when the next round cannot wait: at once, and in the middle of its rest", () =>
    Effect.gen(function*() {
      const { frames } = yield* start({ takes: 100 })
      frames.add(threshold)
      yield* settle
      frames.isUrgent = true
      frames.add(threshold)
      yield* pass(100)
      assert.strictEqual(frames.rounds, 2, "at once")
      frames.isUrgent = false
      frames.add(threshold)
      yield* pass(100)
      yield* pass(300)
      assert.strictEqual(frames.rounds, 2, "it rests")
      frames.isUrgent = true
      frames.add(1)
      yield* settle
      assert.strictEqual(frames.rounds, 3, "in the middle")
      // Urgent, but with nothing to do.
      frames.since = 0
      yield* pass(100)
      yield* pass(10_000)
      assert.strictEqual(frames.rounds, 3)
      frames.add(threshold)
      yield* settle
      assert.strictEqual(frames.rounds, 4)
    }))

  it.effect("PG-07 a round that takes no time is followed by no rest", () =>
    Effect.gen(function*() {
      const { frames } = yield* start()
      for (let round = 1; round <= 5; round++) {
        frames.add(threshold)
        yield* settle
        assert.strictEqual(frames.rounds, round)
      }
    }))

  it.effect("PG-07 without a word about urgency it never rests", () =>
    Effect.gen(function*() {
      const { frames } = yield* start({ takes: 100, rests: false })
      for (let round = 1; round <= 5; round++) {
        frames.add(threshold)
        yield* settle
        assert.strictEqual(frames.rounds, round)
        yield* pass(100)
      }
    }))

  it.effect("PG-07 its end, whatever it waits for, leaves no listener behind", () =>
    Effect.gen(function*() {
      for (const millis of [undefined, 50, 100, 500, 1000]) {
        const { frames, stop } = yield* start({ takes: 100 })
        if (millis !== undefined) {
          frames.add(threshold)
          yield* settle
          yield* pass(Math.min(millis, 100))
          yield* pass(millis - Math.min(millis, 100))
        }
        yield* stop
        let looks = 0
        frames.onLook = () => looks++
        frames.isUrgent = true
        frames.add(10 * threshold)
        yield* pass(10_000)
        assert.deepStrictEqual([frames.rounds, looks], [millis === undefined ? 0 : 1, 0])
      }
    }))

  it.effect("PG-07 a round that fails is the last one; its failure is nobody's but the log's", () =>
    Effect.gen(function*() {
      const failed = new CheckpointFailed({ path: "test", cause: "a test" })
      const { frames } = yield* start({ takes: 100, ends: Effect.fail(failed) })
      frames.add(threshold)
      yield* settle
      yield* pass(100)
      frames.add(threshold)
      yield* pass(10_000)
      assert.strictEqual(frames.rounds, 1)
    }))

  it.effect("PG-07 a threshold of zero: there are none", () =>
    Effect.gen(function*() {
      const { frames } = yield* start({ threshold: 0 })
      frames.add(1000)
      yield* pass(1000)
      assert.strictEqual(frames.rounds, 0)
    }))
})

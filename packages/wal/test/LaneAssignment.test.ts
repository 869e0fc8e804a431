import { assert, describe, it } from "@effect/vitest"
import type { LaneId } from "@tidemark/core/Scalars"
import { Effect, Exit, Scope } from "effect"
import fc from "fast-check"
import { availableParallelism } from "node:os"
import { LaneAssignment, laneCount } from "../src/internal/laneAssignment.ts"
import { lane } from "./support/laneBatches.ts"

describe("LaneAssignment", () => {
  it.effect("PW-01 a writer keeps one lane for its scope; two waves of two writers both see lanes 0 and 1", () =>
    Effect.gen(function*() {
      const lanes = new LaneAssignment(4)
      const wave = Effect.gen(function*() {
        const scopes = [yield* Scope.make(), yield* Scope.make()]
        const seen = yield* Effect.forEach(scopes, (scope) => Effect.provideService(lanes.scoped, Scope.Scope, scope))
        yield* Effect.forEach(scopes, (scope) => Scope.close(scope, Exit.void))
        return seen
      })
      assert.deepStrictEqual(yield* wave, [0, 1].map(lane))
      assert.deepStrictEqual(yield* wave, [0, 1].map(lane))
    }))

  it("PW-01 the lowest free lane is taken first, whoever left it", () => {
    const lanes = new LaneAssignment(3)
    assert.deepStrictEqual([lanes.attach(), lanes.attach(), lanes.attach()], [0, 1, 2].map(lane))
    lanes.detach(lane(2))
    lanes.detach(lane(0))
    assert.deepStrictEqual([lanes.attach(), lanes.attach()], [0, 2].map(lane))
  })

  it("PW-01 surplus writers share lanes round-robin, and a shared lane is free when its last writer has gone", () => {
    const lanes = new LaneAssignment(2)
    const seen = Array.from({ length: 7 }, () => lanes.attach())
    assert.deepStrictEqual(seen, [0, 1, 0, 1, 0, 1, 0].map(lane))
    for (let writer = 0; writer < 3; writer++) lanes.detach(lane(1))
    assert.strictEqual(lanes.attach(), lane(1))
  })

  it("PW-01 a writer that was never attached cannot detach: that would take somebody's lane away", () => {
    const lanes = new LaneAssignment(2)
    lanes.attach()
    lanes.detach(lane(0))
    assert.throws(() => lanes.detach(lane(0)), /once/)
    assert.throws(() => lanes.detach(lane(1)), /once/)
  })

  it("PW-01 attaching and detaching in any order: no lane is shared while another is free, the lowest goes first", () => {
    fc.assert(fc.property(
      fc.integer({ min: 1, max: 4 }),
      fc.array(fc.option(fc.nat({ max: 7 })), { maxLength: 40 }),
      (count, steps) => {
        const lanes = new LaneAssignment(count)
        const attached: Array<LaneId> = []
        for (const step of steps) {
          if (step === null) {
            const free = Array.from({ length: count }, (_, id) => id).filter((id) => !attached.includes(lane(id)))
            const taken = lanes.attach()
            if (free.length > 0) assert.strictEqual(taken, free[0])
            assert.isBelow(taken, count)
            attached.push(taken)
          } else if (attached.length > 0) {
            for (const gone of attached.splice(step % attached.length, 1)) lanes.detach(gone)
          }
        }
      }
    ))
  })

  it("PW-01 the default lane count is the available parallelism, at least 1", () => {
    assert.strictEqual(laneCount(undefined, 65_535, "auto"), availableParallelism())
    assert.strictEqual(laneCount(undefined, 128, "auto", 6), 6)
    assert.strictEqual(laneCount(undefined, 128, "shadow_compare", 0), 1)
  })

  it("PW-02 conservative mode has one lane, whatever the override", () => {
    assert.strictEqual(laneCount(64, 128, "conservative"), 1)
    assert.strictEqual(laneCount(undefined, 128, "conservative"), 1)
  })

  it("PW-02 the lane count is clamped to 1 ... 65,535 and to the slots, and every id fits a u16", () => {
    assert.strictEqual(laneCount(0, 128, "auto"), 1)
    assert.strictEqual(laneCount(-3, 128, "shadow_compare"), 1)
    assert.strictEqual(laneCount(129, 128, "auto"), 128)
    assert.strictEqual(laneCount(128, 128, "auto"), 128)
    const most = laneCount(1_000_000, 1_000_000, "auto")
    assert.strictEqual(most, 65_535)
    const lanes = new LaneAssignment(most)
    let last = lanes.attach()
    for (let writer = 1; writer < most; writer++) last = lanes.attach()
    assert.strictEqual(last, lane(65_534))
    assert.strictEqual(lanes.attach(), lane(0))
    assert.throws(() => new LaneAssignment(most + 1))
    assert.throws(() => new LaneAssignment(0))
  })

  it("PW-33 fewer lanes: nobody new gets one that is no longer used, and who has one keeps it; more lanes: they are free again", () => {
    const lanes = new LaneAssignment(3)
    const kept = [lanes.attach(), lanes.attach(), lanes.attach()]
    lanes.laneCount = 1
    assert.strictEqual(lanes.attach(), lane(0))
    for (const id of kept) lanes.detach(id)
    assert.deepStrictEqual([lanes.attach(), lanes.attach()], [0, 0].map(lane))
    lanes.laneCount = 3
    assert.deepStrictEqual([lanes.attach(), lanes.attach(), lanes.attach()], [1, 2, 0].map(lane))
  })
})

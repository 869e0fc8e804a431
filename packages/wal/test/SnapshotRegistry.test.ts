import { assert, describe, it } from "@effect/vitest"
import { toCommitSeq } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import fc from "fast-check"
import { type SnapshotHold, SnapshotRegistry } from "../src/SnapshotRegistry.ts"

const seq = (n: number) => toCommitSeq(BigInt(n))

describe("SnapshotRegistry", () => {
  it("SWAL-07 the oldest snapshot in use is that of a plain list of holds", () => {
    const step = fc.oneof(
      fc.record({ do: fc.constant("acquire" as const), by: fc.integer({ min: 0, max: 3 }) }),
      fc.record({ do: fc.constant("release" as const), which: fc.nat() })
    )
    fc.assert(fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const registry = new SnapshotRegistry()
      const holds: Array<{ readonly hold: SnapshotHold; readonly high: number }> = []
      let published = 0
      for (const current of steps) {
        if (current.do === "acquire") {
          published += current.by
          holds.push({ hold: registry.acquire(seq(published)), high: published })
        } else if (holds.length > 0) {
          const [released] = holds.splice(current.which % holds.length, 1)
          if (released !== undefined) registry.release(released.hold)
        }
        const oldest = holds.length === 0 ? undefined : Math.min(...holds.map(({ high }) => high))
        assert.strictEqual(registry.oldest, oldest === undefined ? undefined : seq(oldest))
        for (const at of [0, published - 1, published, published + 1]) {
          if (at >= 0) assert.strictEqual(registry.isAtLeast(seq(at)), oldest === undefined || oldest >= at)
        }
      }
    }))
  })

  it("stays small while short holds come and go beside a long one, and after it", () => {
    const registry = new SnapshotRegistry()
    const long = registry.acquire(seq(1))
    for (let n = 2; n < 1000; n++) registry.release(registry.acquire(seq(n)))
    assert.strictEqual(registry.oldest, seq(1))
    registry.release(long)
    assert.isUndefined(registry.oldest)
    for (let n = 1000; n < 3000; n++) {
      const hold = registry.acquire(seq(n))
      assert.strictEqual(registry.oldest, seq(n))
      registry.release(hold)
    }
  })

  it("the front of the queue is cut off behind the last hold that was released, and not further", () => {
    const registry = new SnapshotRegistry()
    const holds = Array.from({ length: 600 }, (_, n) => registry.acquire(seq(n)))
    for (const [n, hold] of holds.slice(0, 599).entries()) {
      registry.release(hold)
      assert.strictEqual(registry.oldest, seq(n + 1))
    }
  })

  it("a hold is released once, and snapshots are taken in growing order", () => {
    const registry = new SnapshotRegistry()
    const hold = registry.acquire(seq(5))
    assert.throws(() => registry.acquire(seq(4)), /growing order/)
    registry.release(hold)
    assert.throws(() => registry.release(hold), /released once/)
  })

  it.effect("SWAL-07 waiters are woken when the last older hold goes, and not when they are gone themselves", () =>
    Effect.gen(function*() {
      const registry = new SnapshotRegistry()
      const holds = [1, 1, 2, 3].map((n) => registry.acquire(seq(n)))
      const waiting = (n: number) => Effect.forkChild(registry.awaitAtLeast(seq(n)), { startImmediately: true })
      const two = yield* waiting(2)
      const three = yield* waiting(3)
      const interrupted = yield* waiting(3)
      const one = yield* waiting(1)
      const states = () => [one, two, three].map((fiber) => fiber.pollUnsafe() !== undefined)
      yield* Fiber.interrupt(interrupted)
      assert.deepStrictEqual(states(), [true, false, false])
      const release = (n: number) => {
        const hold = holds[n]
        if (hold !== undefined) registry.release(hold)
      }
      release(2)
      release(0)
      assert.deepStrictEqual(states(), [true, false, false], "one hold on the oldest is left")
      release(1)
      assert.deepStrictEqual(states(), [true, true, true])
      yield* Fiber.join(three)
      release(3)
      yield* registry.awaitAtLeast(seq(1000))
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { OverlapRule } from "../src/internal/overlap.ts"

/** A rule that has seen the same times for long. */
const after = (syncNanos: number, syncBytes: number, workNanos: number): OverlapRule => {
  const rule = new OverlapRule()
  for (let batch = 0; batch < 200; batch++) {
    rule.synced(syncNanos, syncBytes)
    rule.woke(workNanos * 10, 10)
  }
  return rule
}

describe("OverlapRule", () => {
  it("GC-13 under a clock that stands still 32 waiters overlap, 31 do not", () => {
    const rule = after(0, 0, 0)
    assert.isTrue(rule.pays(32, 0))
    assert.isFalse(rule.pays(31, 1000))
  })

  it("GC-13 the work of all who wait has to take as long as a sync", () => {
    const rule = after(100_000, 0, 1000)
    assert.isFalse(rule.pays(64, 0))
    assert.isFalse(rule.pays(64, 30))
    assert.isTrue(rule.pays(64, 40))
    assert.isTrue(rule.pays(110, 0))
  })

  it("GC-13 the time that a batch's bytes take does not count against another sync", () => {
    // A megabyte in 0.8 ms: nearly all of it for the bytes.
    assert.isTrue(after(800_000, 1_048_576, 6000).pays(64, 0))
    assert.isFalse(after(800_000, 0, 6000).pays(64, 0))
    // Faster than any disk: then there is no fixed part, not a negative one.
    assert.isTrue(after(1000, 1_048_576, 0).pays(64, 0))
  })

  it("GC-13 a disk that turns slow, or writers that turn busy, are noticed within 20 batches", () => {
    const rule = after(100_000, 0, 2000)
    assert.isTrue(rule.pays(64, 0))
    for (let batch = 0; batch < 20; batch++) rule.synced(2_000_000, 0)
    assert.isFalse(rule.pays(64, 0))
    for (let batch = 0; batch < 20; batch++) rule.woke(40_000 * 64, 64)
    assert.isTrue(rule.pays(64, 0))
  })
})

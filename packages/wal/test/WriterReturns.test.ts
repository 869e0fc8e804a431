import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { FlushCost } from "../src/internal/flushCost.ts"
import { WriterReturns } from "../src/internal/writerReturns.ts"

/** How many are expected within so many microseconds. */
const expectedWithin = (returns: WriterReturns, now: number, micros: number): number =>
  returns.forecast(now, micros).at(-1)?.writers ?? 0

/** Cycles of 2 ms: `writers` are woken, and come back `after` microseconds, where there is a number. */
const cycles = (
  returns: WriterReturns,
  count: number,
  writers: number,
  after: (writer: number) => number | undefined
) => {
  for (let cycle = 0; cycle < count; cycle++) {
    const wokenAt = cycle * 2000
    returns.woken(wokenAt, writers)
    const times = Array.from({ length: writers }, (_, writer) => after(writer)).filter((time) => time !== undefined)
    for (const time of times.toSorted((a, b) => a - b)) returns.arrived(wokenAt + time)
  }
  return count * 2000
}

describe("WriterReturns", () => {
  it("PW-33 expects nobody when nobody was woken", () => {
    const returns = new WriterReturns()
    assert.deepStrictEqual(returns.forecast(0, 1000), [])
    returns.arrived(5)
    assert.deepStrictEqual(returns.forecast(10, 1000), [])
  })

  it("PW-33 expects everybody back when they were always back", () => {
    const returns = new WriterReturns()
    const now = cycles(returns, 20, 8, () => 100)
    returns.woken(now, 8)
    // 100 us lie in the class from 90.5 to 128 us.
    assert.approximately(expectedWithin(returns, now, 90), 0, 0.01)
    assert.approximately(expectedWithin(returns, now, 128.1), 8, 0.1)
    assert.approximately(expectedWithin(returns, now + 50, 78.1), 8, 0.1)
  })

  it("PW-33 sees that some are quick and some are slow", () => {
    const returns = new WriterReturns()
    const now = cycles(returns, 20, 8, (writer) => writer < 6 ? 20 : 1500)
    returns.woken(now, 8)
    assert.approximately(expectedWithin(returns, now, 200), 6, 0.5)
    assert.approximately(expectedWithin(returns, now, 1990), 8, 0.5)
    for (let writer = 0; writer < 6; writer++) returns.arrived(now + 20)
    assert.approximately(expectedWithin(returns, now + 200, 300), 0, 0.2)
    assert.approximately(expectedWithin(returns, now + 1000, 1048.1), 2, 0.2)
  })

  it("PW-33 expects nobody who never came back", () => {
    const returns = new WriterReturns()
    const now = cycles(returns, 30, 8, (writer) => writer < 6 ? 20 : undefined)
    returns.woken(now, 6)
    for (let writer = 0; writer < 6; writer++) returns.arrived(now + 20)
    assert.isBelow(expectedWithin(returns, now + 100, 3000), 1)
  })

  it("PW-33 learns anew when the writers change", () => {
    const returns = new WriterReturns()
    cycles(returns, 20, 64, () => 20)
    const before = new WriterReturns()
    for (const learner of [returns, before]) {
      for (let cycle = 0; cycle < 100; cycle++) {
        const wokenAt = 1e6 + cycle * 2000
        learner.woken(wokenAt, 64)
        for (let writer = 0; writer < 64; writer++) learner.arrived(wokenAt + 1000)
      }
      learner.woken(2e6, 64)
    }
    assert.approximately(expectedWithin(returns, 2e6, 500), expectedWithin(before, 2e6, 500), 1)
    assert.approximately(expectedWithin(returns, 2e6, 1100), expectedWithin(before, 2e6, 1100), 5)
  })

  it("PW-33 expects no more than are away when knowledge faded while they were", () => {
    const returns = new WriterReturns()
    returns.woken(0, 2000)
    // The first 1100 make the sums fade: all 2000 had entered, and 900 come back at full weight afterwards.
    for (let writer = 0; writer < 1100; writer++) returns.arrived(100)
    for (let writer = 0; writer < 900; writer++) returns.arrived(125)
    returns.woken(2000, 10)
    for (const { writers } of returns.forecast(2000, 4000)) assert.isAtMost(writers, 10 + 1e-9)
    assert.approximately(expectedWithin(returns, 2000, 128.1), 10, 0.5)
  })

  it("PW-33 loses nobody when the clock is set back", () => {
    const returns = new WriterReturns()
    const now = cycles(returns, 20, 8, () => 100)
    returns.woken(now, 8)
    returns.arrived(now - 1000)
    assert.approximately(expectedWithin(returns, now - 1000, 128.1), 7, 0.1)
  })

  it("PW-33 never expects more than are away, nor fewer as time goes on, whatever comes", () => {
    const step = fc.record({
      kind: fc.constantFrom("arrived", "woken", "forecast"),
      // Now and then the clock is set back, or far ahead.
      after: fc.oneof(fc.nat(50), fc.nat(5000), fc.constantFrom(1e10, -1000, -5000)),
      writers: fc.nat(300)
    })
    fc.assert(fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const returns = new WriterReturns()
      let now = 0
      let woken = 0
      for (const { after, kind, writers } of steps) {
        now += after
        if (kind === "arrived") returns.arrived(now)
        if (kind === "woken") {
          returns.woken(now, writers)
          woken += writers
        }
        if (kind !== "forecast") continue
        let [previousAt, previous] = [0, 0]
        for (const { afterMicros, writers } of returns.forecast(now, 4000)) {
          assert.isAbove(afterMicros, previousAt)
          assert.isAtLeast(writers, previous - 1e-9)
          assert.isAtMost(writers, woken + 1e-9)
          ;[previousAt, previous] = [afterMicros, writers]
        }
      }
    }))
  })
})

describe("FlushCost", () => {
  it("PW-33 tells the fixed part of a flush from the part per record", () => {
    const cost = new FlushCost()
    assert.strictEqual(cost.fixedMicros, 0)
    assert.strictEqual(cost.medianMicros, 0)
    for (let flush = 0; flush < 200; flush++) {
      const records = 1 + flush * 7 % 50
      cost.note(records, 800 + 12 * records + (flush % 3 - 1) * 20)
    }
    assert.approximately(cost.fixedMicros, 800, 25)
  })

  it("PW-33 takes a flush to be all fixed as long as the sizes do not vary, and keeps what it knew", () => {
    const constant = new FlushCost()
    for (let flush = 0; flush < 50; flush++) constant.note(64, 2000)
    assert.approximately(constant.fixedMicros, 2000, 1)
    const varied = new FlushCost()
    for (let flush = 0; flush < 50; flush++) varied.note(1 + flush, 500 + 20 * (1 + flush))
    for (let flush = 0; flush < 2000; flush++) varied.note(64, 500 + 20 * 64)
    assert.approximately(varied.fixedMicros, 500, 25)
  })

  it("PW-33 is never negative, and its median does not follow one slow flush", () => {
    const cost = new FlushCost()
    for (let flush = 0; flush < 15; flush++) cost.note(1 + flush, flush === 7 ? 90_000 : 100 * (1 + flush))
    assert.strictEqual(cost.medianMicros, 900)
    assert.isAtLeast(cost.fixedMicros, 0)
    const growing = new FlushCost()
    for (let flush = 0; flush < 30; flush++) growing.note(flush, flush * flush)
    assert.isAtLeast(growing.fixedMicros, 0)
  })
})

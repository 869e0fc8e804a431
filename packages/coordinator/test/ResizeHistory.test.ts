import { assert, describe, it } from "@effect/vitest"
import { toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import fc from "fast-check"
import { ResizeHistory } from "../src/internal/resizeHistory.ts"

const seq = (value: number) => toCommitSeq(BigInt(value))
const pages = (...numbers: ReadonlyArray<number>) => numbers.map((number) => toPageNumber(number))

describe("ResizeHistory", () => {
  it("PG-11 a page beyond a cut conflicts with it for older snapshots, and only for those", () => {
    const sizes = new ResizeHistory()
    sizes.record(seq(5), 100, 40)
    assert.deepStrictEqual(sizes.validate(pages(40, 41, 90), seq(4), false), {
      conflictingSeq: seq(5),
      pages: pages(41, 90),
      belowFloor: false
    })
    assert.isUndefined(sizes.validate(pages(1, 40), seq(4), false))
    assert.isUndefined(sizes.validate(pages(90), seq(5), false))
  })

  it("PG-11 growth stands against nobody but those who choose a size", () => {
    const sizes = new ResizeHistory()
    sizes.record(seq(5), 10, 20)
    assert.isUndefined(sizes.validate(pages(15), seq(4), false))
    assert.deepInclude(sizes.validate(pages(2), seq(4), true), { conflictingSeq: seq(5), pages: pages(1) })
    assert.isUndefined(sizes.validate(pages(2), seq(5), true))
  })

  it("PG-11 several cuts count together: the pages of all, the highest sequence that has one of them", () => {
    const sizes = new ResizeHistory()
    sizes.record(seq(3), 100, 30)
    sizes.record(seq(4), 30, 100)
    sizes.record(seq(5), 100, 80)
    assert.deepInclude(sizes.validate(pages(50, 90), seq(2), false), { conflictingSeq: seq(5), pages: pages(50, 90) })
    assert.deepInclude(sizes.validate(pages(50), seq(2), false), { conflictingSeq: seq(3), pages: pages(50) })
    assert.isUndefined(sizes.validate(pages(50), seq(3), false))
  })

  it("CO-15 what came before a recovery is not known, so any page beyond the end may have been cut off", () => {
    const sizes = new ResizeHistory()
    sizes.forgetAllBefore(seq(9), 10)
    assert.deepInclude(sizes.validate(pages(10, 11), seq(8), false), { conflictingSeq: seq(9), pages: pages(11) })
    assert.deepInclude(sizes.validate(pages(3), seq(8), true), { conflictingSeq: seq(9) })
    assert.isUndefined(sizes.validate(pages(11), seq(9), true))
  })

  it("CO-05 what is taken back never was", () => {
    const sizes = new ResizeHistory()
    sizes.record(seq(5), 100, 50)
    sizes.record(seq(6), 50, 60)
    sizes.retract(seq(6))
    assert.deepInclude(sizes.validate(pages(70), seq(4), false), { conflictingSeq: seq(5), pages: pages(70) })
    sizes.retract(seq(5))
    assert.isUndefined(sizes.validate(pages(70), seq(4), false))
    assert.isUndefined(sizes.validate(pages(70), seq(4), true))
  })

  it("CO-14 cuts without end beside a snapshot that is held take no more room than there are sizes", () => {
    const sizes = new ResizeHistory()
    for (let at = 1; at <= 20_000; at++) sizes.record(seq(at), at % 2 === 0 ? 7 : 100, at % 2 === 0 ? 100 : 7)
    assert.strictEqual(sizes.size, 1)
    assert.deepInclude(sizes.validate(pages(8), seq(0), false), { conflictingSeq: seq(19_999) })
  })

  it("CO-14 what no open snapshot can meet is forgotten", () => {
    const sizes = new ResizeHistory()
    for (const [at, kept] of [[1, 10], [2, 20], [3, 30]] as const) {
      sizes.record(seq(2 * at), 100, kept)
      sizes.record(seq(2 * at + 1), kept, 100)
    }
    assert.strictEqual(sizes.size, 3)
    sizes.forget(seq(4))
    assert.strictEqual(sizes.size, 1)
    assert.deepInclude(sizes.validate(pages(15, 35), seq(4), false), { conflictingSeq: seq(6), pages: pages(35) })
    sizes.forget(seq(7))
    assert.strictEqual(sizes.size, 0)
  })

  it("PG-11 CO-14 agrees with the list of all sizes", () => {
    const step = fc.record({ size: fc.integer({ min: 1, max: 12 }), forget: fc.boolean() })
    const question = fc.record({
      high: fc.nat(30),
      pages: fc.uniqueArray(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 5 }),
      isChosen: fc.boolean()
    })
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 25 }),
        fc.array(question, { minLength: 1, maxLength: 10 }),
        (steps, asked) => {
          const sizes = new ResizeHistory()
          const resizes: Array<{ readonly seq: number; readonly from: number; readonly to: number }> = []
          let size = 10
          let floor = 0
          steps.forEach((action, at) => {
            if (action.size !== size) {
              sizes.record(seq(at + 1), size, action.size)
              resizes.push({ seq: at + 1, from: size, to: action.size })
              size = action.size
            }
            if (action.forget && at > 3) {
              floor = at - 3
              sizes.forget(seq(floor))
            }
          })
          for (const { high: askedHigh, isChosen, pages: numbers } of asked) {
            const high = Math.max(askedHigh, floor)
            const ascending = [...numbers].sort((a, b) => a - b)
            const above = resizes.filter((resize) => resize.seq > high)
            const against = above.filter((resize) =>
              resize.to < resize.from && numbers.some((page) => page > resize.to)
            )
            const beyond = ascending.filter((page) => against.some((resize) => page > resize.to))
            const expected = isChosen && above.length > 0
              ? { conflictingSeq: seq(above.at(-1)?.seq ?? 0), pages: pages(1), belowFloor: false }
              : !isChosen && against.length > 0
              ? { conflictingSeq: seq(against.at(-1)?.seq ?? 0), pages: pages(...beyond), belowFloor: false }
              : undefined
            assert.deepStrictEqual(sizes.validate(pages(...ascending), seq(high), isChosen), expected)
          }
        }
      ),
      { numRuns: 500 }
    )
  })
})

import { assert, describe, it } from "@effect/vitest"
import { toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import fc from "fast-check"
import { WalIndex } from "../src/WalIndex.ts"

interface ModelCommit {
  readonly pages: ReadonlyArray<number>
  readonly databasePages: number
}

const commits = fc.array(
  fc.record({
    pages: fc.uniqueArray(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 6 }),
    databasePages: fc.integer({ min: 1, max: 100 })
  }),
  { maxLength: 40 }
)

const indexOf = (base: bigint, model: ReadonlyArray<ModelCommit>): WalIndex => {
  const index = new WalIndex(toCommitSeq(base))
  for (const { databasePages, pages } of model) index.addCommit(pages.map(toPageNumber), databasePages)
  return index
}

/** Frame by frame: its page, and the commit it belongs to, counted from 1. */
const framesOf = (model: ReadonlyArray<ModelCommit>) =>
  model.flatMap(({ pages }, n) => pages.map((page) => ({ page, commit: n + 1 })))

describe("WalIndex", () => {
  it("SWAL-07 every question is answered as by looking at all frames", () => {
    fc.assert(fc.property(commits, fc.bigInt({ min: 0n, max: 2n ** 63n }), (model, base) => {
      const index = indexOf(base, model)
      const frames = framesOf(model)
      assert.strictEqual(index.frames, frames.length)
      assert.strictEqual(index.tip, toCommitSeq(base + BigInt(model.length)))
      for (let n = 0; n <= model.length; n++) {
        const high = toCommitSeq(base + BigInt(n))
        const visible = frames.filter(({ commit }) => commit <= n)
        assert.strictEqual(index.framesAt(high), visible.length)
        assert.strictEqual(index.databasePagesAt(high), model[n - 1]?.databasePages)
        const expected = new Map<number, bigint>()
        for (let page = 1; page <= 13; page++) {
          const frame = visible.findLastIndex((candidate) => candidate.page === page)
          assert.strictEqual(index.find(toPageNumber(page), high), frame, `page ${page} at ${n}`)
          if (frame < 0) continue
          const seq = base + BigInt(frames[frame]?.commit ?? 0)
          expected.set(page, seq)
          assert.strictEqual(index.seqOf(frame), toCommitSeq(seq))
        }
        assert.deepStrictEqual<unknown>(new Map(index.versionsAt(high)), expected)
        if (n === model.length) assert.deepStrictEqual<unknown>(new Map(index.newestVersions()), expected)
      }
    }))
  })

  it("SWAL-07 the newest frame of each page within a range", () => {
    fc.assert(fc.property(commits, fc.nat(), fc.nat(), (model, a, b) => {
      const frames = framesOf(model)
      const [from = 0, to = 0] = [a % (frames.length + 1), b % (frames.length + 1)].sort((x, y) => x - y)
      const expected = new Map<number, number>()
      for (let frame = from; frame < to; frame++) expected.set(frames[frame]?.page ?? 0, frame)
      assert.deepStrictEqual<unknown>(indexOf(0n, model).newestBetween(from, to), expected)
    }))
  })

  it("a snapshot outside of the generation sees none of it, or all", () => {
    const index = indexOf(100n, [{ pages: [1, 2], databasePages: 2 }, { pages: [2], databasePages: 3 }])
    assert.deepStrictEqual(
      [index.find(toPageNumber(2), toCommitSeq(40n)), index.framesAt(toCommitSeq(40n))],
      [-1, 0]
    )
    assert.isUndefined(index.databasePagesAt(toCommitSeq(40n)))
    assert.deepStrictEqual(
      [index.find(toPageNumber(2), toCommitSeq(2n ** 63n)), index.databasePagesAt(toCommitSeq(2n ** 63n))],
      [2, 3]
    )
  })

  it("SWAL-07 the index of the next generation knows nothing of the one before, in whose memory it is", () => {
    fc.assert(fc.property(fc.array(commits, { minLength: 1, maxLength: 4 }), (generations) => {
      let index = new WalIndex(toCommitSeq(7n))
      for (const model of generations) {
        const base = index.tip
        const before = index
        index = index.next()
        assert.deepStrictEqual([before.frames, before.tip], [0, before.base])
        assert.deepStrictEqual([index.base, index.tip, index.frames], [base, base, 0])
        for (const { databasePages, pages } of model) index.addCommit(pages.map(toPageNumber), databasePages)
        const fresh = indexOf(base, model)
        for (let high = base; high <= index.tip; high = toCommitSeq(high + 1n)) {
          assert.deepStrictEqual(Array.from(index.versionsAt(high)), Array.from(fresh.versionsAt(high)))
          assert.strictEqual(index.framesAt(high), fresh.framesAt(high))
          assert.strictEqual(index.databasePagesAt(high), fresh.databasePagesAt(high))
        }
      }
    }))
  })

  it("grows beyond its first arrays without losing a frame, and beyond those of the generation before", () => {
    let index = new WalIndex(toCommitSeq(0n))
    for (const count of [100, 3000, 70_000, 100]) {
      index = index.next()
      for (let n = 0; n < count; n++) index.addCommit([toPageNumber(1), toPageNumber(2 + n % 100)], n + 1)
      assert.strictEqual(index.frames, 2 * count)
      for (const n of [1, 100, 255, 256, 257, 511, 512, 513, 2047, 2048, 3000, 70_000].filter((n) => n <= count)) {
        const high = toCommitSeq(index.base + BigInt(n))
        assert.deepStrictEqual(
          [index.find(toPageNumber(1), high), index.databasePagesAt(high), index.framesAt(high)],
          [2 * (n - 1), n, 2 * n]
        )
      }
      // From the newest version back to the oldest.
      assert.strictEqual(index.find(toPageNumber(2), toCommitSeq(index.base + 1n)), 1)
    }
    assert.throws(() => index.seqOf(200), /the frame is in the index/)
    assert.throws(() => index.newestBetween(0, 201), /the frames are in the index/)
  })
})

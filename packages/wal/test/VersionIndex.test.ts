/** The index of the versions of pages against the list of everything that is in it. */
import { assert, describe, it } from "@effect/vitest"
import { toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import fc from "fast-check"
import { type SegmentInLog, VersionIndex } from "../src/internal/versionIndex.ts"

interface Row {
  readonly page: number
  readonly seq: bigint
  readonly offset: number
  readonly segment: SegmentInLog
}

const page = toPageNumber
const seq = toCommitSeq

/** Adds a segment whose commits write these pages, and answers its rows. */
const add = (index: VersionIndex, epoch: number, low: bigint, commits: ReadonlyArray<ReadonlyArray<number>>) => {
  const rows: Array<Row> = []
  const segment: SegmentInLog = {
    path: `segment ${epoch}`,
    low: seq(low),
    high: seq(low + BigInt(commits.length) - 1n),
    databasePages: 9,
    pages: commits.flat().map((number) => page(number))
  }
  index.addSegment(segment)
  commits.forEach((pages, n) =>
    pages.forEach((number) => {
      const row = { page: number, seq: low + BigInt(n), offset: rows.length * 600, segment }
      rows.push(row)
      index.addVersion(page(number), seq(row.seq), segment, row.offset)
    })
  )
  return rows
}

describe("VersionIndex", () => {
  const anyCommit = fc.uniqueArray(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 4 })
  const anyStep = fc.oneof(
    { weight: 3, arbitrary: fc.record({ add: fc.array(anyCommit, { minLength: 1, maxLength: 4 }), gap: fc.nat(2) }) },
    { weight: 1, arbitrary: fc.record({ drop: fc.nat(3) }) }
  )

  it("is what the list of all records says, at every snapshot from the last drop on", () =>
    fc.assert(fc.property(fc.array(anyStep, { maxLength: 12 }), (steps) => {
      const index = new VersionIndex()
      let rows: Array<Row> = []
      let next = 1n
      let dropped = 0n
      steps.forEach((step, epoch) => {
        if ("add" in step) {
          next += BigInt(step.gap) // of aborted intervals
          rows.push(...add(index, epoch, next, step.add))
          next += BigInt(step.add.length)
        } else {
          const gone = index.segments.slice(0, step.drop)
          const bound = gone.at(-1)?.high ?? 0n
          const expected = new Map<number, bigint>()
          for (const row of rows) if (gone.includes(row.segment)) expected.set(row.page, row.seq)
          assert.deepStrictEqual(new Map(index.drop(step.drop)), new Map(expected))
          rows = rows.filter(({ segment }) => !gone.includes(segment))
          if (bound > dropped) dropped = bound
        }
        assert.strictEqual(index.records, rows.length)
        const newest = new Map<number, bigint>()
        for (const row of rows) newest.set(row.page, row.seq)
        assert.deepStrictEqual(new Map(index.newestVersions()), new Map(newest))
        for (let high = dropped; high <= next; high++) {
          for (let number = 1; number <= 6; number++) {
            const expected = rows.findLast((row) => row.page === number && row.seq <= high)
            const found = index.find(page(number), seq(high))
            assert.strictEqual(found?.seq, expected === undefined ? undefined : seq(expected.seq))
            assert.strictEqual(found?.offset, expected?.offset)
            assert.strictEqual(found?.segment, expected?.segment)
          }
        }
        for (let count = 1; count <= index.segments.length; count++) {
          const segments = index.segments.slice(0, count)
          const bound = segments.at(-1)?.high ?? 0n
          const expected = new Map<number, Row>()
          for (const row of rows) if (row.seq <= bound) expected.set(row.page, row)
          const found = Array.from(
            index.newestOf(segments, seq(bound)),
            ([segment, versions]) => Array.from(versions, ([number, version]) => ({ segment, number, version }))
          ).flat()
          assert.strictEqual(found.length, expected.size)
          for (const { number, segment, version } of found) {
            const row = expected.get(number)
            assert.deepStrictEqual([version.seq, version.offset, segment], [row?.seq, row?.offset, row?.segment])
          }
        }
      })
    })))

  it("segments come in the order of their intervals", () => {
    const index = new VersionIndex()
    add(index, 1, 5n, [[1], [2]])
    assert.throws(() => add(index, 2, 6n, [[1]]), /order of their intervals/)
  })

  it("a page that was written a hundred thousand times since costs a checkpoint of an old snapshot one walk", () => {
    const index = new VersionIndex()
    add(index, 1, 1n, Array.from({ length: 1000 }, () => [1]))
    let next = 1001n
    for (let epoch = 2; epoch <= 101; epoch++) {
      add(index, epoch, next, Array.from({ length: 1000 }, () => [1]))
      next += 1000n
    }
    let steps = 0
    const find = index.find.bind(index)
    index.find = (...args) => {
      steps++
      return find(...args)
    }
    const [found] = index.newestOf(index.segments.slice(0, 1), seq(1000n)).values()
    assert.strictEqual(found?.get(page(1))?.seq, seq(1000n))
    assert.strictEqual(steps, 1)
  })
})

import { assert, describe, it } from "@effect/vitest"
import * as ConflictIndex from "@tidemark/coordinator/ConflictIndex"
import { InvariantViolation } from "@tidemark/core/Invariant"
import { type CommitSeq, type PageNumber, toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import fc from "fast-check"

const seq = (value: number | bigint): CommitSeq => toCommitSeq(BigInt(value))
const pages = (...numbers: ReadonlyArray<number>): ReadonlyArray<PageNumber> => numbers.map(toPageNumber)

describe("ConflictIndex", () => {
  it("CO-01 lists every conflicting page, ascending, with the highest sequence", () => {
    const index = ConflictIndex.make()
    index.record(pages(30, 10), seq(1))
    index.record(pages(20), seq(2))
    index.record(pages(40), seq(3))

    assert.deepStrictEqual(index.validate(pages(40, 30, 20, 10, 50, 20), seq(0)), {
      conflictingSeq: seq(3),
      pages: pages(10, 20, 30, 40),
      belowFloor: false
    })
    assert.deepStrictEqual(index.validate(pages(30, 20, 10), seq(1)), {
      conflictingSeq: seq(2),
      pages: pages(20),
      belowFloor: false
    })
    assert.isUndefined(index.validate(pages(10, 20, 30), seq(2)))
    assert.isUndefined(index.validate(pages(50), seq(0)))
  })

  it("CO-04 of two commits on one page in one batch the second conflicts with the first", () => {
    const index = ConflictIndex.make()
    assert.isUndefined(index.validate(pages(1), seq(0)))
    index.record(pages(1), seq(1))
    assert.strictEqual(index.validate(pages(1), seq(0))?.conflictingSeq, seq(1))
  })

  it("CO-05 a failed append leaves no phantom conflicts and gives pages back their older commit", () => {
    const index = ConflictIndex.make()
    index.record(pages(1, 2), seq(1))
    index.settle(seq(1))
    index.record(pages(2, 3), seq(2))
    index.record(pages(2, 4), seq(3))
    index.retract(seq(2))

    assert.isUndefined(index.validate(pages(3, 4), seq(0)))
    assert.isUndefined(index.validate(pages(2), seq(1)))
    assert.strictEqual(index.validate(pages(2), seq(0))?.conflictingSeq, seq(1))
    assert.strictEqual(index.last, seq(1))
    assert.strictEqual(index.size, 2)

    index.record(pages(5), seq(2))
    assert.strictEqual(index.validate(pages(5), seq(1))?.conflictingSeq, seq(2))
  })

  it("CO-05 what a retraction would bring back but was forgotten meanwhile stays forgotten", () => {
    const index = ConflictIndex.make()
    index.record(pages(1), seq(1))
    index.settle(seq(1))
    index.record(pages(1), seq(2))
    index.forget(seq(1))
    index.retract(seq(2))
    assert.strictEqual(index.size, 0)
    assert.strictEqual(index.entries, 0)
    assert.isUndefined(index.validate(pages(1), seq(1)))
  })

  it("CO-05 a durable commit cannot be taken back", () => {
    const index = ConflictIndex.make()
    index.record(pages(1), seq(1))
    index.record(pages(2), seq(2))
    index.settle(seq(1))
    assert.throws(() => index.retract(seq(1)), InvariantViolation)
    index.retract(seq(2))
    assert.strictEqual(index.last, seq(1))
  })

  it("CO-02 sequences that do not grow are a defect", () => {
    const index = ConflictIndex.make({ floor: seq(10) })
    assert.throws(() => index.record(pages(1), seq(10)), InvariantViolation)
    index.record([], seq(11))
    assert.throws(() => index.record(pages(1), seq(11)), InvariantViolation)
    index.settle(seq(20))
    assert.throws(() => index.record(pages(1), seq(20)), InvariantViolation)
    index.record(pages(1), seq(21))
  })

  it("CO-14 a snapshot below the floor conflicts with the floor, but never an empty request", () => {
    const index = ConflictIndex.make()
    for (let n = 1; n <= 5; n++) index.record(pages(n), seq(n))
    index.settle(seq(5))
    index.forget(seq(3))

    assert.strictEqual(index.floor, seq(3))
    assert.strictEqual(index.size, 2)
    assert.deepStrictEqual(index.validate(pages(9, 1), seq(2)), {
      conflictingSeq: seq(3),
      pages: pages(1, 9),
      belowFloor: true
    })
    assert.deepStrictEqual(index.validate(pages(9, 5), seq(2)), {
      conflictingSeq: seq(5),
      pages: pages(5, 9),
      belowFloor: true
    })
    assert.isUndefined(index.validate(pages(9, 1), seq(3)))
    assert.isUndefined(index.validate([], seq(0)))
    index.forget(seq(1))
    assert.strictEqual(index.floor, seq(3))
  })

  it("CO-14 a horizon above what is durable is a defect", () => {
    const index = ConflictIndex.make()
    index.record(pages(1), seq(1))
    assert.throws(() => index.forget(seq(1)), InvariantViolation)
  })

  it("CO-15 an index that is rebuilt from the log refuses a writer from before the take-over", () => {
    const base = seq(2n ** 40n)
    const index = ConflictIndex.recovered({
      base,
      tip: seq(base + 4n),
      pages: [
        [toPageNumber(9), seq(base + 3n)],
        [toPageNumber(7), seq(base + 1n)],
        [toPageNumber(8), seq(base + 3n)]
      ]
    })
    assert.strictEqual(index.validate(pages(7), base)?.conflictingSeq, seq(base + 1n))
    assert.deepStrictEqual(index.validate(pages(9, 8, 7), seq(base + 1n))?.pages, pages(8, 9))
    assert.strictEqual(index.validate(pages(5), seq(base - 1n))?.conflictingSeq, base)
    assert.isUndefined(index.validate(pages(5), base))
    assert.throws(() => index.retract(seq(base + 4n)), InvariantViolation)
    assert.throws(() => index.record(pages(5), seq(base + 4n)), InvariantViolation)
    index.record(pages(5), seq(base + 5n))
    index.settle(seq(base + 5n))
    index.forget(seq(base + 2n))
    assert.strictEqual(index.size, 3)
  })

  it("sequences near the top of a u64 keep their order", () => {
    const top = 2n ** 64n - 1n
    const index = ConflictIndex.make({ floor: seq(top - 3n) })
    index.record(pages(1), seq(top - 2n))
    index.record(pages(2), seq(top))
    assert.strictEqual(index.validate(pages(1, 2), seq(top - 2n))?.conflictingSeq, seq(top))
    assert.isUndefined(index.validate(pages(1), seq(top - 2n)))
    assert.isTrue(index.validate(pages(1), seq(0))?.belowFloor)
    assert.isUndefined(index.validate(pages(1, 2), seq(top)))
  })

  it("CO-01 CO-05 CO-14 PG-11 agrees with the list of all commits", () => {
    const step = fc.oneof(
      { weight: 6, arbitrary: fc.record({ type: fc.constant("commit" as const), pages: pageSets }) },
      { weight: 3, arbitrary: fc.record({ type: fc.constant("settle" as const), behind: fc.nat(3) }) },
      { weight: 2, arbitrary: fc.record({ type: fc.constant("retract" as const) }) },
      { weight: 2, arbitrary: fc.record({ type: fc.constant("forget" as const), behind: fc.nat(4) }) },
      {
        weight: 6,
        arbitrary: fc.record({ type: fc.constant("validate" as const), pages: pageSets, behind: fc.nat(12) })
      }
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), fc.nat(3), (steps, floor) => {
        const index = ConflictIndex.make({ floor: seq(floor) })
        let commits: Array<{ readonly seq: number; readonly pages: ReadonlyArray<number> }> = []
        let last = floor
        let settled = floor
        let forgotten = floor
        for (const action of steps) {
          if (action.type === "commit") {
            last += 1
            commits.push({ seq: last, pages: action.pages })
            index.record(pages(...action.pages), seq(last))
          } else if (action.type === "settle") {
            settled = Math.max(settled, last - action.behind)
            index.settle(seq(settled))
          } else if (action.type === "retract") {
            index.retract(seq(settled + 1))
            commits = commits.filter((commit) => commit.seq <= settled)
            last = settled
          } else if (action.type === "forget") {
            const horizon = Math.max(0, settled - action.behind)
            forgotten = Math.max(forgotten, horizon)
            index.forget(seq(horizon))
          } else {
            const snapshot = Math.max(0, last - action.behind)
            const against = commits.filter((commit) =>
              commit.seq > snapshot && commit.pages.some((page) => action.pages.includes(page))
            )
            const found = index.validate(pages(...action.pages), seq(snapshot))
            if (action.pages.length === 0) assert.isUndefined(found)
            else if (snapshot < forgotten) {
              assert.deepStrictEqual(found, {
                conflictingSeq: seq(Math.max(forgotten, ...against.map((commit) => commit.seq))),
                pages: pages(...[...action.pages].sort((a, b) => a - b)),
                belowFloor: true
              })
            } else if (against.length === 0) assert.isUndefined(found)
            else {
              const changed = new Set(against.flatMap((commit) => commit.pages))
              assert.deepStrictEqual(found, {
                conflictingSeq: seq(Math.max(...against.map((commit) => commit.seq))),
                pages: pages(...action.pages.filter((page) => changed.has(page)).sort((a, b) => a - b)),
                belowFloor: false
              })
            }
            if (snapshot >= forgotten) {
              const above = commits.filter((commit) => commit.seq > snapshot && commit.pages.some((page) => page > 4))
              const beyond = new Set(above.flatMap((commit) => commit.pages.filter((page) => page > 4)))
              assert.deepStrictEqual(
                index.validateBeyond(4, seq(snapshot)),
                beyond.size === 0 ? undefined : {
                  conflictingSeq: seq(Math.max(...above.map((commit) => commit.seq))),
                  pages: pages(...Array.from(beyond).sort((a, b) => a - b)),
                  belowFloor: false
                },
                "PG-11"
              )
            }
          }
          const live = new Set(commits.filter((commit) => commit.seq > forgotten).flatMap((commit) => commit.pages))
          assert.strictEqual(index.size, live.size)
          assert.strictEqual(index.last, seq(last))
          assert.strictEqual(index.settled, seq(settled))
          assert.strictEqual(index.floor, seq(forgotten))
        }
      }),
      { numRuns: 400 }
    )
  })

  it("CO-05 CO-14 compaction keeps what a retraction brings back", () => {
    const index = ConflictIndex.make()
    index.record(pages(1), seq(1))
    let next = 2
    // Enough stale entries of page 2 for many compactions, while page 1 is covered by an unsettled commit each time.
    for (let round = 0; round < 50; round++) {
      for (let n = 0; n < 200; n++) index.record(pages(2), seq(next++))
      index.settle(seq(next - 1))
      index.record(pages(1), seq(next))
      for (let n = 1; n < 300; n++) index.record(pages(3), seq(next + n))
      index.retract(seq(next))
      assert.strictEqual(index.lastCommit(toPageNumber(1)), seq(1))
      assert.strictEqual(index.lastCommit(toPageNumber(2)), seq(next - 1))
      assert.isUndefined(index.lastCommit(toPageNumber(3)))
    }
    index.forget(seq(next - 1))
    assert.strictEqual(index.size, 0)
    assert.strictEqual(index.entries, 0)
  })

  it("CO-05 CO-14 the ring keeps every entry when it wraps, grows and shrinks", () => {
    const index = ConflictIndex.make()
    const smallest = index.ringBytes
    for (let n = 1; n <= 700; n++) index.record(pages(n), seq(n))
    index.settle(seq(700))
    index.forget(seq(600))
    for (let n = 701; n <= 5000; n++) index.record(pages(n), seq(n))
    assert.strictEqual(index.entries, 4400)
    assert.isAtLeast(index.ringBytes, 4400 * 24)
    for (let n = 601; n <= 5000; n++) assert.strictEqual(index.lastCommit(toPageNumber(n)), seq(n))
    index.settle(seq(4000))
    index.retract(seq(4001))
    assert.strictEqual(index.size, 3400)
    for (let n = 601; n <= 4000; n += 100) {
      index.forget(seq(n))
      assert.strictEqual(index.size, 4000 - n)
      assert.strictEqual(index.entries, 4000 - n)
    }
    index.forget(seq(4000))
    assert.strictEqual(index.ringBytes, smallest)
  })

  it("CO-14 a million commits are held in bounded memory", () => {
    for (const pageRange of [64, 0xfffffffe]) {
      const index = ConflictIndex.make()
      const horizonDistance = 1000
      let mostPages = 0
      let mostEntries = 0
      let random = 12345
      for (let n = 1; n <= 1_000_000; n++) {
        random = (Math.imul(random, 1664525) + 1013904223) >>> 0
        index.record([toPageNumber(1 + random % pageRange)], seq(n))
        if (n % 10 === 0) index.settle(seq(n))
        if (n % 100 === 0 && n > horizonDistance) index.forget(seq(n - horizonDistance))
        mostPages = Math.max(mostPages, index.size)
        mostEntries = Math.max(mostEntries, index.entries)
      }
      assert.isAtMost(mostPages, Math.min(pageRange, horizonDistance + 100 + 100))
      assert.isAtMost(mostEntries, 2 * (mostPages + 10) + 1024)
    }
  })

  it("CO-14 a snapshot that is held forever costs no more than the pages that changed", () => {
    const index = ConflictIndex.make()
    let mostEntries = 0
    for (let n = 1; n <= 200_000; n++) {
      index.record(pages(1 + n % 100, 200), seq(n))
      if (n % 10 === 0) index.settle(seq(n))
      mostEntries = Math.max(mostEntries, index.entries)
    }
    assert.strictEqual(index.floor, seq(0))
    assert.strictEqual(index.size, 101)
    assert.isAtMost(mostEntries, 2 * (101 + 20) + 1024)
  })

  it("CO-14 above maxPages the oldest durable commits are forgotten and the floor rises", () => {
    const index = ConflictIndex.make({ maxPages: 100 })
    for (let n = 1; n <= 100; n++) index.record(pages(n), seq(n))
    index.record(pages(101), seq(101))
    assert.strictEqual(index.size, 101, "what is not durable is never forgotten")
    index.settle(seq(101))
    index.record(pages(102), seq(102))
    assert.strictEqual(index.size, 100)
    assert.strictEqual(index.floor, seq(2))
    assert.isTrue(index.validate(pages(500), seq(1))?.belowFloor)
    assert.isUndefined(index.validate(pages(500), seq(2)))
  })
})

const pageSets = fc.uniqueArray(fc.integer({ min: 1, max: 6 }), { maxLength: 3 })

import { assert, describe, it } from "@effect/vitest"
import * as PageCache from "@tidemark/coordinator/PageCache"
import { type CommitSeq, type PageNumber, toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import fc from "fast-check"

const seq = (value: number): CommitSeq => toCommitSeq(BigInt(value))
const page = (value: number): PageNumber => toPageNumber(value)
const costOf = (length: number): number => length + PageCache.versionOverheadBytes

describe("PageCache", () => {
  it("PG-06 holds versions of a page side by side", () => {
    const cache = PageCache.make()
    const [old, current] = [new Uint8Array(512).fill(1), new Uint8Array(512).fill(2)]
    cache.put(page(1), seq(0), old)
    cache.put(page(1), seq(5), current)
    assert.deepStrictEqual(cache.get(page(1), seq(0)), old)
    assert.deepStrictEqual(cache.get(page(1), seq(5)), current)
    assert.isUndefined(cache.get(page(1), seq(4)))
    assert.isUndefined(cache.get(page(2), seq(0)))
    assert.strictEqual(cache.hits, 2)
    assert.strictEqual(cache.misses, 2)
    cache.invalidate(page(1))
    assert.isUndefined(cache.get(page(1), seq(0)))
    assert.isUndefined(cache.get(page(1), seq(5)))
    assert.strictEqual(cache.bytes, 0)
  })

  it("PG-06 a version that a checkpoint copied into the database file is named 0 from then on", () => {
    const cache = PageCache.make()
    const newest = new Uint8Array(512).fill(9)
    cache.put(page(1), seq(0), new Uint8Array(512))
    cache.put(page(1), seq(4), new Uint8Array(512))
    cache.put(page(1), seq(9), newest)
    cache.put(page(1), seq(3), new Uint8Array(512))
    cache.put(page(2), seq(0), new Uint8Array(512))
    cache.rebase(page(1), seq(9))
    cache.rebase(page(2), seq(8))
    assert.deepStrictEqual(cache.get(page(1), seq(0)), newest)
    assert.isUndefined(cache.get(page(1), seq(9)))
    for (const version of [3, 4]) assert.isUndefined(cache.get(page(1), seq(version)))
    assert.isUndefined(cache.get(page(2), seq(0)), "a newer version of it is in the file, which was not held")
    assert.strictEqual(cache.size, 1)
    assert.strictEqual(cache.bytes, costOf(512))
  })

  it("PG-06 lets go of the version that was used longest ago", () => {
    const cache = PageCache.make({ maxBytes: 3 * costOf(512) })
    for (const number of [1, 2, 3]) cache.put(page(number), seq(0), new Uint8Array(512))
    assert.isDefined(cache.get(page(1), seq(0)))
    cache.put(page(4), seq(0), new Uint8Array(512))
    assert.isUndefined(cache.get(page(2), seq(0)))
    for (const number of [1, 3, 4]) assert.isDefined(cache.get(page(number), seq(0)))
    assert.strictEqual(cache.bytes, cache.maxBytes)
  })

  it("PG-06 letting go of one version of a page leaves its others", () => {
    for (const used of [[3, 1], [1, 3], [3, 2], [1, 2]]) {
      const cache = PageCache.make({ maxBytes: 3 * costOf(512) })
      for (const version of [1, 2, 3]) cache.put(page(1), seq(version), new Uint8Array(512))
      for (const version of used) assert.isDefined(cache.get(page(1), seq(version)))
      cache.put(page(2), seq(0), new Uint8Array(512))
      for (const version of [1, 2, 3]) {
        assert.strictEqual(cache.get(page(1), seq(version)) !== undefined, used.includes(version))
      }
      cache.invalidate(page(1))
      assert.strictEqual(cache.size, 1)
    }
  })

  it("PG-06 a page that is larger than the cache is not kept", () => {
    const cache = PageCache.make({ maxBytes: costOf(512) })
    cache.put(page(1), seq(0), new Uint8Array(513))
    assert.strictEqual(cache.size, 0)
    assert.strictEqual(cache.bytes, 0)
    assert.isUndefined(cache.get(page(1), seq(0)))
  })

  it("PG-06 a part of a larger buffer does not hold that buffer", () => {
    const cache = PageCache.make()
    const batch = new Uint8Array(1 << 20).fill(7)
    cache.put(page(1), seq(1), batch.subarray(4096, 8192))
    const kept = cache.get(page(1), seq(1))
    assert.deepStrictEqual(kept, new Uint8Array(4096).fill(7))
    assert.strictEqual(kept?.buffer.byteLength, 4096)
    cache.put(page(2), seq(1), Buffer.from(batch.buffer, 4096, 4096))
    assert.strictEqual(cache.get(page(2), seq(1))?.buffer.byteLength, 4096)
  })

  it("PG-06 holds three versions of a page, the newest ones", () => {
    const cache = PageCache.make()
    for (const version of [1, 2, 3, 4, 5, 6]) cache.put(page(1), seq(version), new Uint8Array(512).fill(version))
    cache.put(page(2), seq(1), new Uint8Array(512))
    assert.strictEqual(cache.size, PageCache.maxVersionsPerPage + 1)
    for (const version of [1, 2, 3]) assert.isUndefined(cache.get(page(1), seq(version)))
    for (const version of [4, 5, 6]) assert.deepStrictEqual(cache.get(page(1), seq(version))?.[0], version)
  })

  it("PG-06 a version behind which nobody sees an older one takes the place of all of them", () => {
    const cache = PageCache.make()
    const supersede = (version: number) => cache.supersede(page(1), seq(version), new Uint8Array(512).fill(version))
    const held = () => [1, 2, 3, 4, 5].filter((version) => cache.get(page(1), seq(version))?.[0] === version)
    for (const version of [1, 2, 3]) cache.put(page(1), seq(version), new Uint8Array(512).fill(version))
    supersede(4)
    assert.deepStrictEqual(held(), [4])
    assert.strictEqual(cache.size, 1)
    assert.strictEqual(cache.bytes, costOf(512))
    cache.put(page(1), seq(5), new Uint8Array(512).fill(5))
    supersede(3)
    assert.deepStrictEqual(held(), [3, 4, 5], "a later one is here, which it says nothing about")
    supersede(5)
    assert.deepStrictEqual(held(), [5])
  })

  it("PG-06 agrees with a list in the order of use, within its bound", () => {
    const key = { page: fc.integer({ min: 1, max: 4 }), version: fc.nat(5) }
    const step = fc.oneof(
      {
        weight: 5,
        arbitrary: fc.record({
          type: fc.constantFrom("put" as const, "supersede" as const),
          ...key,
          length: fc.integer({ min: 1, max: 900 })
        })
      },
      { weight: 5, arbitrary: fc.record({ type: fc.constant("get" as const), ...key }) },
      { weight: 1, arbitrary: fc.record({ type: fc.constant("rebase" as const), ...key }) },
      { weight: 1, arbitrary: fc.record({ type: fc.constant("invalidate" as const), page: key.page }) },
      { weight: 1, arbitrary: fc.record({ type: fc.constant("clear" as const) }) }
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), fc.integer({ min: 0, max: 4000 }), (steps, maxBytes) => {
        const cache = PageCache.make({ maxBytes })
        let model: Array<{ readonly page: number; readonly version: number; readonly bytes: Uint8Array }> = []
        const without = (number: number, version: number) =>
          model.filter((entry) => entry.page !== number || entry.version !== version)
        const bytesOf = () => model.reduce((sum, entry) => sum + costOf(entry.bytes.length), 0)
        for (const [number, action] of steps.entries()) {
          if (action.type === "put" || action.type === "supersede") {
            const bytes = new Uint8Array(action.length).fill(number + 1)
            const given = bytes.slice()
            if (action.type === "supersede") cache.supersede(page(action.page), seq(action.version), given)
            else {
              cache.put(page(action.page), seq(action.version), given)
              // What was put in is the caller's own again.
              given.fill(0)
            }
            const held = model.filter((entry) => entry.page === action.page).map(({ version }) => version)
            if (action.type === "supersede" && held.every((version) => version <= action.version)) {
              model = model.filter((entry) => entry.page !== action.page)
            } else if (held.length === PageCache.maxVersionsPerPage && !held.includes(action.version)) {
              model = without(action.page, Math.min(...held))
            }
            model = [...without(action.page, action.version), { page: action.page, version: action.version, bytes }]
            while (bytesOf() > maxBytes) model = model.slice(1)
          } else if (action.type === "get") {
            const known = model.find((entry) => entry.page === action.page && entry.version === action.version)
            assert.deepStrictEqual(cache.get(page(action.page), seq(action.version)), known?.bytes)
            if (known !== undefined) model = [...without(action.page, action.version), known]
          } else if (action.type === "rebase") {
            cache.rebase(page(action.page), seq(action.version))
            model = model.flatMap((entry) => {
              if (entry.page !== action.page) return [entry]
              return entry.version === action.version ? [{ ...entry, version: 0 }] : []
            })
          } else if (action.type === "invalidate") {
            cache.invalidate(page(action.page))
            model = model.filter((entry) => entry.page !== action.page)
          } else {
            cache.clear()
            model = []
          }
          assert.strictEqual(cache.bytes, bytesOf())
          assert.isAtMost(cache.bytes, maxBytes)
          assert.strictEqual(cache.size, model.length)
        }
      }),
      { numRuns: 500 }
    )
  })
})

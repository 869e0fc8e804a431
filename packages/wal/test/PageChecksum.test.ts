import { assert, describe, it } from "@effect/vitest"
import { pageSizes } from "@tidemark/core/Scalars"
import { extendChain } from "@tidemark/wal/SqliteWalFormat"
import fc from "fast-check"
import { extendOverPage } from "../src/internal/pageChecksum.ts"

const u32 = fc.integer({ min: 0, max: 0xffffffff })

describe("pageChecksum", () => {
  it("SWAL-01 the four parts side by side are the plain loop, for all eight page sizes", () => {
    fc.assert(
      fc.property(u32, u32, u32, fc.constantFrom(...pageSizes), fc.nat(7), (s0, s1, seed, size, shift) => {
        // Behind some bytes: a page in a log is not aligned.
        const memory = new Uint8Array(size + shift)
        let word = seed
        for (let at = 0; at < memory.length; at++) {
          word = (Math.imul(word, 1_664_525) + 1_013_904_223) | 0
          memory[at] = word >>> 24
        }
        const page = memory.subarray(shift)
        const plain = { s0, s1 }
        extendChain(plain, new DataView(memory.buffer, shift), 0, size, "littleEndian")
        const chain = { s0, s1 }
        extendOverPage(chain, page)
        assert.deepStrictEqual(chain, plain)
      }),
      { numRuns: 300 }
    )
  })

  it("the largest words do not overflow", () => {
    for (const size of pageSizes) {
      const page = new Uint8Array(size).fill(0xff)
      const plain = { s0: 0xffffffff, s1: 0xffffffff }
      extendChain(plain, new DataView(page.buffer), 0, size, "littleEndian")
      const chain = { s0: 0xffffffff, s1: 0xffffffff }
      extendOverPage(chain, page)
      assert.deepStrictEqual(chain, plain)
    }
  })

  it("a length that is not four parts of whole vectors is a defect", () => {
    for (const length of [0, 32, 4095, 65_536 + 64]) {
      assert.throws(() => extendOverPage({ s0: 0, s1: 0 }, new Uint8Array(length)), /four parts/)
    }
  })
})

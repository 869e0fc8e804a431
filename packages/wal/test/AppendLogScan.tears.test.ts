import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import fc from "fast-check"
import {
  batchChecksum,
  commitFrameBytes,
  encodeSegmentHeader,
  recordFrameBytes,
  segmentFileName,
  writeCommitFrame
} from "../src/AppendLogFormat.ts"
import {
  type Batch,
  buildSegment,
  type BuiltSegment,
  directory,
  examineFiles,
  logId,
  payload
} from "./support/appendLogFiles.ts"

const blockBytes = 512

/** What a power loss leaves of `after` when only some blocks of what was written over `before` had reached the disk. */
const torn = (before: Uint8Array, after: Uint8Array, keeps: (block: number) => boolean): Uint8Array => {
  const bytes = before.slice()
  for (let at = 0; at < after.length; at += blockBytes) {
    if (keeps(at / blockBytes)) bytes.set(after.subarray(at, at + blockBytes), at)
  }
  return bytes
}

/** The blocks in which two images differ. */
const changedBlocks = (before: Uint8Array, after: Uint8Array): ReadonlyArray<number> =>
  Array.from({ length: Math.ceil(after.length / blockBytes) }, (_, block) => block).filter((block) =>
    after.subarray(block * blockBytes, (block + 1) * blockBytes).some((byte, index) =>
      byte !== before[block * blockBytes + index]
    )
  )

/** What is left with every choice of the blocks in which two images differ. */
const everyTear = function*(before: Uint8Array, after: Uint8Array) {
  const blocks = changedBlocks(before, after)
  assert.isAtMost(blocks.length, 10)
  for (let choice = 0; choice < 1 << blocks.length; choice++) {
    yield torn(before, after, (block) => ((choice >> blocks.indexOf(block)) & 1) === 1)
  }
}

/** Whether the bytes of a batch are all there. */
const isWhole = ({ bytes, cuts }: BuiltSegment, torn: Uint8Array, batch: number): boolean => {
  const start = cuts[batch] ?? 0
  return bytes.subarray(start, cuts[batch + 1]).every((byte, index) => byte === torn[start + index])
}

/** How many batches stand whole, from the first on. */
const wholeBatches = (segment: BuiltSegment, torn: Uint8Array): number => {
  const batches = segment.cuts.length - 1
  for (let batch = 0; batch < batches; batch++) if (!isWhole(segment, torn, batch)) return batch
  return batches
}

/** A file of zeros, as it is prepared ahead. */
const prepared = (segment: BuiltSegment, durable: number): Uint8Array => {
  const bytes = new Uint8Array(segment.bytes.length)
  bytes.set(segment.bytes.subarray(0, segment.cuts[durable]))
  return bytes
}

/** A file that held an older segment of the same log and was used again: its frames, behind what was written since. */
const recycled = (segment: BuiltSegment, durable: number): Uint8Array => {
  const former = buildSegment(
    Array.from({ length: 40 }, (_, index) => ({ pieces: [40 + index % 5, { pad: 16 }, 30 + index] })),
    { startLsn: 0 }
  )
  assert.isAtLeast(former.bytes.length, segment.bytes.length)
  const bytes = former.bytes.slice(0, segment.bytes.length)
  bytes.set(segment.bytes.subarray(0, segment.cuts[durable]))
  return bytes
}

const grounds = [["zeros", prepared], ["a recycled file", recycled]] as const

const startLsn = 65_536

describe("AppendLogScan, torn by a power loss", () => {
  for (const [name, ground] of grounds) {
    it(`RC-12 any blocks of a batch that was never durable, over ${name}: all of it or none, never damage`, async () => {
      const batches: ReadonlyArray<Batch> = [
        { pieces: [100] },
        { pieces: [30, 50] },
        // It begins in a block that the one before it shares.
        { pieces: [700, 300, { pad: 24 }, 900, 1100, 200] }
      ]
      const segment = buildSegment(batches, { startLsn })
      const before = ground(segment, 2)
      for (const bytes of everyTear(before, segment.bytes)) {
        const report = await examineFiles({ [segment.name]: bytes })
        assert.deepStrictEqual(report.problems, [])
        assert.strictEqual(report.batches, isWhole(segment, bytes, 2) ? 3 : 2)
        assert.strictEqual(report.endLsn, toLsn(startLsn + (segment.cuts[report.batches] ?? 0) - 64))
      }
    })

    it(`RC-12 any blocks of batches that were only written, over ${name}: the whole ones from the front, never damage`, async () => {
      const batches: ReadonlyArray<Batch> = [
        { pieces: [100] },
        // Everything before it is durable; behind it nothing is until the next sync, which does not come.
        { pieces: [600] },
        { pieces: [500], flagged: false },
        { pieces: [900, 10], flagged: false },
        { pieces: [300, 300, 300], flagged: false }
      ]
      const segment = buildSegment(batches, { startLsn })
      const before = ground(segment, 1)
      const seen = new Set<number>()
      for (const bytes of everyTear(before, segment.bytes)) {
        const report = await examineFiles({ [segment.name]: bytes })
        assert.deepStrictEqual(report.problems, [])
        assert.strictEqual(report.batches, wholeBatches(segment, bytes))
        seen.add(report.batches)
      }
      assert.deepStrictEqual([...seen].sort((a, b) => a - b), [1, 2, 3, 4, 5])
    })

    it(`RC-13 any block lost of what was durable, over ${name}: LogCorrupt as soon as a later batch stands`, async () => {
      const batches: ReadonlyArray<Batch> = [
        { pieces: [100] },
        { pieces: [600] },
        { pieces: [20], flagged: false },
        { pieces: [900, 10], flagged: false },
        // Written after a sync: all of the above is durable. Long enough that its own end has a block for itself.
        { pieces: [1200] }
      ]
      const segment = buildSegment(batches, { startLsn })
      const before = ground(segment, 1)
      let damaged = 0
      for (const bytes of everyTear(before, segment.bytes)) {
        const report = await examineFiles({ [segment.name]: bytes })
        const whole = wholeBatches(segment, bytes)
        assert.strictEqual(report.batches, whole)
        if (whole < 4 && isWhole(segment, bytes, 4)) {
          damaged++
          assert.strictEqual(report.problems.length, 1)
          const offset = segment.cuts[whole] ?? 0
          assert.deepInclude(report.problems[0], {
            lsn: toLsn(startLsn + offset - 64),
            path: `${directory}/${segment.name}`,
            offset
          })
        } else {
          assert.deepStrictEqual(report.problems, [])
        }
      }
      assert.isAtLeast(damaged, 7)
    })
  }

  it("RC-12 the rest of a recycled file's former contents is nothing, wherever the new frames end in it", async () => {
    // Also where an old frame begins exactly where the new ones end, with its old commit frame behind it.
    const former = buildSegment(Array.from({ length: 8 }, () => ({ pieces: [40] })), { startLsn: 0 })
    for (let batches = 0; batches <= 6; batches++) {
      const segment = buildSegment(Array.from({ length: batches }, () => ({ pieces: [40] })), {
        startLsn: former.endLsn
      })
      const bytes = former.bytes.slice()
      bytes.set(segment.bytes)
      const report = await examineFiles({ [segment.name]: bytes })
      assert.deepStrictEqual(report.problems, [])
      assert.strictEqual(report.endLsn, segment.endLsn)
    }
  })

  it("RC-12 nor are the frames of another log, or those of a part of this one that was copied", async () => {
    const segment = buildSegment([{ pieces: [40] }], { startLsn })
    const follower = { startLsn: segment.endLsn - 64 + 8 }
    const foreign = buildSegment([{ pieces: [40] }, { pieces: [50] }], { ...follower, logId: new Uint8Array(16) })
    const own = buildSegment([{ pieces: [40] }, { pieces: [50] }, { pieces: [60] }], { startLsn })
    for (const stale of [foreign.bytes.subarray(64), own.bytes.subarray(own.cuts[1])]) {
      // Not at the end of the first batch but one word behind it, so that it is no continuation.
      const bytes = new Uint8Array([...segment.bytes, ...new Uint8Array(8), ...stale])
      const report = await examineFiles({ [segment.name]: bytes })
      assert.deepStrictEqual(report.problems, [])
      assert.strictEqual(report.batches, 1)
      assert.strictEqual(report.endLsn, segment.endLsn)
      assert.isDefined(report.tornTail)
    }
  })

  it("RC-13 the proof is found however far behind, behind zeros, and in a block of the file of its own", async () => {
    for (const distance of [1, 1000, 1 << 20, (1 << 20) - 200, (1 << 20) - 208, (3 << 20) + 8]) {
      const batches: ReadonlyArray<Batch> = [{ pieces: [10] }, { pieces: [distance] }, {
        pieces: [1]
      }]
      const segment = buildSegment(batches, { startLsn, bytes: 1 << 12 })
      const bytes = segment.bytes.slice()
      bytes.fill(0, segment.cuts[1], segment.cuts[2])
      const report = await examineFiles({ [segment.name]: bytes })
      assert.strictEqual(report.problems.length, 1, `${distance}`)
      assert.strictEqual(report.problems[0]?.offset, segment.cuts[1])
      assert.include(
        report.problems[0]?.message,
        `the one that ends at ${segment.endLsn} was written when it was durable`
      )
      // Without the flag it proves nothing.
      bytes[(segment.cuts[3] ?? 0) - commitFrameBytes + 1] = 0
      const unproven = await examineFiles({ [segment.name]: bytes })
      assert.deepStrictEqual(unproven.problems, [])
      assert.strictEqual(unproven.batches, 1)
    }
  })

  it("RC-13 a damaged length that jumps over everything behind it does not hide the proof", async () => {
    const segment = buildSegment([{ pieces: [10] }, { pieces: [20] }, { pieces: [30] }], { startLsn })
    const view = new DataView(segment.bytes.slice().buffer)
    const head = segment.cuts[1] ?? 0
    // To the very end of the file, in the middle of it, and far behind it.
    for (const length of [segment.bytes.length - head - 8, 60, 0x7fffffff, 0xffffffff]) {
      view.setUint32(head + 4, length, true)
      const report = await examineFiles({ [segment.name]: new Uint8Array(view.buffer) })
      assert.strictEqual(report.problems[0]?.offset, head, `${length}`)
    }
  })

  it("RC-13 payloads full of imitated commit frames are no proof, cost no more than a few passes, and hide no real one", async () => {
    // 70,000 heads, each with a checksum that is wrong and a batch start that is in range: were they checked one by one,
    // it would be the checksum of 40 GB.
    const imitations = 70_000
    const fake = new Uint8Array(imitations * 16)
    const view = new DataView(fake.buffer)
    const fakeStart = startLsn + 200
    for (let index = 0; index < imitations; index++) {
      writeCommitFrame(view, index * 16, toLsn(fakeStart + index % 2 * 8), true, index)
    }
    const batches: ReadonlyArray<Batch> = [{ pieces: [10] }, { pieces: [100] }, { pieces: [{ payload: fake }] }]
    const segment = buildSegment([...batches, { pieces: [1] }], { startLsn })
    const bytes = segment.bytes.slice()
    bytes.fill(0, (segment.cuts[1] ?? 0) + 8, segment.cuts[2])
    const proven = await examineFiles({ [segment.name]: bytes })
    assert.strictEqual(proven.problems[0]?.offset, segment.cuts[1])
    // The batch of the imitations and the one behind it are real proofs; cut off, only the imitations are left.
    const report = await examineFiles({ [segment.name]: bytes.slice(0, (segment.cuts[3] ?? 0) - commitFrameBytes) })
    assert.deepStrictEqual(report.problems, [])
    assert.strictEqual(report.batches, 1)
  })

  it("RC-13 a real proof in front of thousands of imitations is not forgotten", async () => {
    const fake = new Uint8Array(70_000 * 16)
    const view = new DataView(fake.buffer)
    for (let at = 0; at < fake.length; at += 16) writeCommitFrame(view, at, toLsn(startLsn + 200), true, at)
    const batches: ReadonlyArray<Batch> = [{ pieces: [10] }, { pieces: [100] }, { pieces: [1] }, {
      pieces: [{ payload: fake }]
    }]
    const segment = buildSegment(batches, { startLsn })
    const bytes = segment.bytes.slice(0, (segment.cuts[4] ?? 0) - commitFrameBytes)
    bytes.fill(0, segment.cuts[1], segment.cuts[2])
    const report = await examineFiles({ [segment.name]: bytes })
    assert.strictEqual(report.problems[0]?.offset, segment.cuts[1])
  })

  it("RC-12 no proof: the commit frame of the bad batch itself, and one whose batch starts where none can", async () => {
    const segment = buildSegment([{ pieces: [10] }, { pieces: [13] }], { startLsn })
    const [bad = 0, end = 0] = segment.cuts.slice(1)
    // The checksum is right and the flag is set, but padding is not zero: no frame, so the batch is none.
    const padded = segment.bytes.slice()
    padded[bad + 8 + 13] = 1
    const seal = (bytes: Uint8Array, start: number, commit: number) => {
      const lsn = toLsn(startLsn + start - 64)
      const checksum = batchChecksum(logId, lsn, [bytes.subarray(start, commit)], commit - start)
      writeCommitFrame(new DataView(bytes.buffer), commit, lsn, true, checksum)
      return bytes
    }
    const torn = segment.bytes.slice()
    torn[bad + 8] = (torn[bad + 8] ?? 0) ^ 1
    const withRoom = () => new Uint8Array([...torn, ...new Uint8Array(commitFrameBytes)])
    const noProofs = [
      seal(padded, bad, end - commitFrameBytes),
      // In the middle of a word, and before the bad batch.
      seal(withRoom(), end - 4, end),
      seal(withRoom(), 64, end)
    ]
    for (const bytes of noProofs) {
      const report = await examineFiles({ [segment.name]: bytes })
      assert.deepStrictEqual(report.problems, [])
      assert.strictEqual(report.batches, 1)
    }
    // The same, where a batch can start: this is how a proof looks.
    const proven = await examineFiles({ [segment.name]: seal(withRoom(), end, end) })
    assert.strictEqual(proven.problems[0]?.offset, bad)
  })

  it("RC-12 what is behind the valid batches is reported as the tail, up to its last byte that is not zero", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(255), { maxLength: 40 }), async (tail) => {
        const segment = buildSegment([{ pieces: [10] }], { startLsn })
        const report = await examineFiles({ [segment.name]: new Uint8Array([...segment.bytes, ...tail, 0, 0]) })
        const bytes = tail.findLastIndex((byte) => byte !== 0) + 1
        assert.deepStrictEqual(
          report.tornTail,
          bytes === 0 ? undefined : {
            lsn: segment.endLsn,
            path: `${directory}/${segment.name}`,
            offset: segment.bytes.length,
            bytes
          }
        )
      }),
      { numRuns: 200 }
    )
  })

  it("RC-12 no position passes 2^53 - 1, whatever the header and the size of the file say together", async () => {
    const start = 2 ** 53 - 128
    const fits = buildSegment([{ pieces: [40] }], { startLsn: start })
    assert.strictEqual((await examineFiles({ [fits.name]: fits.bytes })).endLsn, toLsn(start + 64))
    // A batch that ends behind the last position, as no writer makes it.
    const bytes = new Uint8Array(64 + recordFrameBytes(200) + commitFrameBytes)
    const startLsnAtEnd = toLsn(start)
    bytes.set(encodeSegmentHeader({ logId, startLsn: startLsnAtEnd, segmentIndex: 0n, createdUnixNanos: 0n }))
    const view = new DataView(bytes.buffer)
    view.setUint32(64, 1, true)
    view.setUint32(68, 200, true)
    bytes.set(payload(200, 1), 72)
    const end = 64 + recordFrameBytes(200)
    writeCommitFrame(
      view,
      end,
      startLsnAtEnd,
      true,
      batchChecksum(logId, startLsnAtEnd, [bytes.subarray(64)], end - 64)
    )
    const report = await examineFiles({ [segmentFileName(startLsnAtEnd)]: bytes })
    assert.strictEqual(report.endLsn, startLsnAtEnd)
    assert.strictEqual(report.batches, 0)
  })
})

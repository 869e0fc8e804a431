import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect } from "effect"
import fc from "fast-check"
import type { ScanReport } from "../src/AppendLogScan.ts"
import { scanSegmentFile } from "../src/internal/appendLogScanSegment.ts"
import {
  type Batch,
  buildLog,
  buildSegment,
  type BuiltSegment,
  directory,
  diskWith,
  examineFiles,
  payload,
  referenceScan
} from "./support/appendLogFiles.ts"

/** Every bit by itself, all of them, and the nibble that turns one type of frame into another. */
const patterns = [1, 2, 4, 8, 16, 32, 64, 128, 0xff, 0x03]

/** Batches of every kind: one record, several, with pads, of nothing but a pad, of nothing at all. */
const batches: ReadonlyArray<Batch> = [
  { pieces: [5] },
  { pieces: [8, { pad: 16 }, 1, 17] },
  { pieces: [{ pad: 8 }] },
  { pieces: [] },
  { pieces: [30, 2] }
]

const older = buildSegment([{ pieces: [9, 4] }, { pieces: [12] }], { startLsn: 4096, index: 3 })
const last = buildSegment(batches, { startLsn: older.endLsn, index: 4, bytes: 420 })

const withLast = (bytes: Uint8Array) => ({ [older.name]: older.bytes, [last.name]: bytes })

const flipped = ({ bytes }: BuiltSegment, offset: number, pattern: number) => {
  const copy = bytes.slice()
  copy[offset] = (copy[offset] ?? 0) ^ pattern
  return copy
}

/** How many batches of `last` the report has, having checked that it is a prefix of them or damage. */
const keptBatches = (report: ScanReport, what: string): number | "LogCorrupt" => {
  if (report.problems.length > 0) return "LogCorrupt"
  const kept = report.batches - 2
  assert.isAtLeast(kept, 0, what)
  assert.strictEqual(report.endLsn, toLsn(last.startLsn + (last.cuts[kept] ?? -1) - 64), `${what}: ends on a batch`)
  const records = batches.slice(0, kept).flatMap(({ pieces }) => pieces.filter((piece) => typeof piece === "number"))
  assert.strictEqual(report.records, records.length + 3, `${what}: its records and no other`)
  const payloads = records.reduce((sum, bytes) => sum + bytes, 0)
  assert.strictEqual(report.segments[1]?.payloadBytes, payloads, `${what}: their bytes and no other`)
  return kept
}

describe("AppendLogScan, damaged byte by byte", () => {
  it("LOG-04 the last segment cut off at every byte is a prefix of whole batches, or has lost its header", async () => {
    for (let length = 0; length <= last.bytes.length; length++) {
      const report = await examineFiles(withLast(last.bytes.slice(0, length)))
      const expected = length < 64 ? "LogCorrupt" : last.cuts.filter((cut) => cut <= length).length - 1
      assert.strictEqual(keptBatches(report, `${length} bytes`), expected, `${length} bytes`)
      if (expected === "LogCorrupt") {
        assert.deepInclude(report.problems[0], { lsn: last.startLsn, path: `${directory}/${last.name}`, offset: 0 })
        continue
      }
      const left = last.bytes.subarray(last.cuts[expected], length)
      const tail = left.findLastIndex((byte) => byte !== 0) + 1
      assert.strictEqual(report.tornTail?.bytes ?? 0, tail, `${length} bytes: the tail is what is left`)
      assert.strictEqual(report.tornTail?.offset, tail === 0 ? undefined : last.cuts[expected])
    }
  })

  it("LOG-04 with any byte of the last segment changed it is a prefix, or LogCorrupt where a batch behind knew better", async () => {
    const flags = new Set(last.cuts.slice(1).map((end) => end - 15))
    for (let offset = 0; offset < last.bytes.length; offset++) {
      for (const pattern of patterns) {
        const what = `byte ${offset} ^ ${pattern}`
        const report = await examineFiles(withLast(flipped(last, offset, pattern)))
        const kept = keptBatches(report, what)
        const batch = last.cuts.findIndex((cut) => offset < cut) - 1
        if (batch === -1) {
          assert.strictEqual(kept, "LogCorrupt", `${what}, in the header`)
        } else if (batch < -1) {
          assert.strictEqual(kept, batches.length, `${what}, behind the last batch`)
          assert.strictEqual(report.tornTail?.bytes, offset + 1 - (last.cuts.at(-1) ?? 0), what)
        } else if (flags.has(offset) && pattern === 1) {
          assert.strictEqual(kept, batches.length, `${what}: the flag itself, which says nothing about its own batch`)
        } else if (batch === batches.length - 1) {
          assert.strictEqual(kept, batch, `${what}, in the last batch`)
          assert.isDefined(report.tornTail, what)
        } else {
          assert.strictEqual(kept, "LogCorrupt", `${what}, in a batch that was durable`)
          const cut = last.cuts[batch] ?? 0
          assert.deepInclude(report.problems[0], { lsn: toLsn(last.startLsn + cut - 64), offset: cut }, what)
          assert.strictEqual(report.problems[0]?.path, `${directory}/${last.name}`)
          assert.isUndefined(report.tornTail, "damage is no tail")
        }
      }
    }
  })

  it("LOG-05 a segment that is not the last one, cut off or with any byte changed, is LogCorrupt and names the batch", async () => {
    const flags = new Set(older.cuts.slice(1).map((end) => end - 15))
    for (let offset = 0; offset < older.bytes.length; offset++) {
      const batch = older.cuts.findIndex((cut) => offset < cut) - 1
      const lsn = batch === -1 ? older.startLsn : toLsn(older.startLsn + (older.cuts[batch] ?? 0) - 64)
      for (const pattern of flags.has(offset) ? [2, 0xff] : patterns) {
        const report = await examineFiles({ [older.name]: flipped(older, offset, pattern), [last.name]: last.bytes })
        assert.strictEqual(report.problems[0]?.lsn, lsn, `byte ${offset} ^ ${pattern}`)
        assert.strictEqual(report.problems[0]?.path, `${directory}/${older.name}`, `byte ${offset} ^ ${pattern}`)
        assert.strictEqual(report.endLsn, lsn, "the log is whole up to there")
        assert.strictEqual(report.problems.length, 1, "and its damage is reported once")
      }
      const report = await examineFiles({ [older.name]: older.bytes.slice(0, offset), [last.name]: last.bytes })
      assert.strictEqual(report.problems[0]?.lsn, lsn, `${offset} bytes`)
    }
  })

  it("LOG-04 whatever is done to its blocks, the last segment is what a second reader makes of it", async () => {
    const aBatch = fc.record({
      pieces: fc.array(
        fc.oneof(fc.integer({ min: 1, max: 90 }), fc.integer({ min: 1, max: 6 }).map((words) => ({ pad: words * 8 }))),
        { maxLength: 4 }
      ),
      flagged: fc.boolean()
    })
    const aChange = fc.record({
      kind: fc.constantFrom("zero", "copy", "flip", "random"),
      at: fc.nat(),
      from: fc.nat(),
      length: fc.integer({ min: 1, max: 40 })
    })
    await fc.assert(
      fc.asyncProperty(
        fc.array(aBatch, { maxLength: 7 }),
        fc.array(aChange, { maxLength: 3 }),
        fc.nat(80),
        async (batches, changes, room) => {
          const segment = buildSegment(batches, { startLsn: 512 })
          const bytes = new Uint8Array([...segment.bytes, ...new Uint8Array(room)])
          const frames = bytes.length - 64
          for (const { at, from, kind, length } of frames === 0 ? [] : changes) {
            // Words, because that is how frames lie: more of these changes make a frame of something.
            const target = 64 + (at % frames) - (at % 2 === 0 ? at % frames % 8 : 0)
            const end = Math.min(bytes.length, target + length)
            if (kind === "zero") bytes.fill(0, target, end)
            else if (kind === "flip") bytes[target] = (bytes[target] ?? 0) ^ (1 << (from % 8))
            else if (kind === "random") bytes.set(payload(end - target, from), target)
            else bytes.copyWithin(target, 64 + (from % frames) - (from % frames % 8), 64 + (from % frames) + length)
          }
          const expected = referenceScan(bytes, 512)
          const report = await examineFiles({ [segment.name]: bytes })
          assert.strictEqual(report.batches, expected.ends.length)
          assert.strictEqual(report.endLsn, toLsn(512 + (expected.ends.at(-1) ?? 64) - 64))
          assert.strictEqual(report.problems.length > 0, expected.isDamaged)
          assert.strictEqual(report.segments[0]?.trailingBytes, expected.trailingBytes)
        }
      ),
      { numRuns: 1500 }
    )
  })

  it("LOG-04 random words behind a header are no batch and no damage; random bytes are no segment", async () => {
    // Words that are mostly heads, lengths and small numbers, so that the walk comes some way.
    const aWord = fc.oneof(
      fc.tuple(fc.constantFrom(0, 1, 2, 3, 0x103, 4), fc.nat(64)),
      fc.tuple(fc.nat(600), fc.constant(0)),
      fc.tuple(fc.nat(0xffffffff), fc.nat(0xffffffff))
    )
    const empty = buildSegment([], { startLsn: 512 })
    await fc.assert(
      fc.asyncProperty(fc.array(aWord, { maxLength: 60 }), fc.uint8Array({ maxLength: 7 }), async (words, rest) => {
        const frames = new Uint8Array(Uint32Array.from(words.flat()).buffer)
        const report = await examineFiles({ [empty.name]: new Uint8Array([...empty.bytes, ...frames, ...rest]) })
        assert.deepStrictEqual(report.problems, [])
        assert.strictEqual(report.batches, 0)
        const refused = await examineFiles({ [empty.name]: new Uint8Array([...frames, ...rest]) })
        assert.strictEqual(refused.problems.length, 1)
      }),
      { numRuns: 500 }
    )
  })

  it("LOG-04 it does not matter where the blocks end that the file is read in", async () => {
    const aBatch = fc.record({
      pieces: fc.array(
        fc.oneof(
          fc.integer({ min: 1, max: 200 }),
          fc.constant(1500),
          fc.integer({ min: 1, max: 40 }).map((words) => ({ pad: words * 8 }))
        ),
        { maxLength: 4 }
      ),
      flagged: fc.boolean()
    })
    await fc.assert(
      fc.asyncProperty(
        fc.array(aBatch, { maxLength: 6 }),
        fc.nat(60),
        fc.option(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 }))),
        async (batches, room, change) => {
          const [segment] = buildLog([batches], { startLsn: 8 })
          assert.isDefined(segment)
          const bytes = new Uint8Array([...segment.bytes, ...new Uint8Array(room)])
          const [at, pattern] = change ?? [0, 0]
          if (bytes.length > 64) {
            const offset = 64 + at % (bytes.length - 64)
            bytes[offset] = (bytes[offset] ?? 0) ^ pattern
          }
          const path = `${directory}/${segment.name}`
          const scanned = await Effect.runPromise(
            Effect.gen(function*() {
              const vfs = yield* Vfs
              return yield* Effect.forEach(
                [64, 72, 80, 128, 1000, 1 << 20],
                (blockBytes) =>
                  scanSegmentFile(vfs, path, { isLast: true, buffer: new Uint8Array(blockBytes), onProgress: () => {} })
              )
            }).pipe(Effect.provide(MemoryVfs.layerDisk(diskWith({ [segment.name]: bytes }))))
          )
          for (const scan of scanned) assert.deepStrictEqual(scan, scanned[0])
        }
      ),
      { numRuns: 300 }
    )
  })
})

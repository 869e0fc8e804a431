import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import fc from "fast-check"
import {
  capsule,
  markersOf,
  offsetOfRecord,
  offsetOfSlot,
  reportOn,
  segmentOf,
  sharedHeaderOf,
  textOf
} from "./support/inspected.ts"

const segment = segmentOf(markersOf({ start: 0n, count: 4 }))
/** Segment 3, which goes on where segment 2 has ended. */
const later = segmentOf(markersOf({ start: 3_000_000n, count: 4, genesis: false }))
const header = sharedHeaderOf()
const bareHeader = header.subarray(0, 216)
/** The header with its regions. */
const regionsEnd = offsetOfSlot(3) + 1

/**
 * Each with how many of its bytes are flipped, and the lengths at which it may be cut off without anything being
 * missed. What is changed all the time in a header has no checksum: there a flip is another value.
 */
const files: ReadonlyArray<{
  readonly name: string
  readonly bytes: Uint8Array
  readonly flips: number
  readonly wholeAt: ReadonlyArray<number>
  readonly isChecked: boolean
}> = [
  {
    name: "RC-14, RC-26 a marker segment",
    bytes: segment,
    flips: segment.length,
    wholeAt: [0, 1, 2, 3].map(offsetOfRecord),
    isChecked: true
  },
  {
    name: "RC-14, RC-26 a marker segment without a genesis record",
    bytes: later,
    flips: later.length,
    wholeAt: [0, 1, 2, 3].map(offsetOfRecord),
    isChecked: true
  },
  {
    name: "RC-15 a commit capsule",
    bytes: capsule.bytes,
    flips: capsule.bytes.length,
    wholeAt: [],
    isChecked: true
  },
  { name: "SHM-01 a bare shared-memory header", bytes: bareHeader, flips: 216, wholeAt: [], isChecked: false },
  {
    name: "SHM-01, SHM-11 a shared-memory header with its slots",
    bytes: header,
    flips: regionsEnd + 64,
    wholeAt: [216],
    isChecked: false
  }
]

describe("inspect of the native log's files", () => {
  for (const { bytes, flips, isChecked, name, wholeAt } of files) {
    it.effect(`${name} reads differently wherever a bit of it is flipped`, () =>
      Effect.gen(function*() {
        const whole = yield* reportOn(bytes)
        assert.deepStrictEqual(whole.problems, [])
        const text = textOf(whole)
        for (let at = 0; at < flips; at++) {
          const flipped = Uint8Array.from(bytes)
          flipped[at] = (flipped[at] ?? 0) ^ (1 << (at % 8))
          const report = yield* reportOn(flipped)
          assert.notStrictEqual(textOf(report), text, `a bit of byte ${at} is flipped`)
          if (isChecked) assert.isAbove(report.problems.length, 0, `a bit of byte ${at} is flipped`)
        }
      }))

    it.effect(`${name} has a problem wherever it is cut off`, () =>
      Effect.gen(function*() {
        const text = textOf(yield* reportOn(bytes))
        for (let at = 0; at < flips; at++) {
          const report = yield* reportOn(bytes.subarray(0, at))
          assert.notStrictEqual(textOf(report), text, `cut off at ${at}`)
          // No bytes at all are an empty file, of whatever kind.
          if (at === 0 || wholeAt.includes(at)) assert.deepStrictEqual(report.problems, [], `cut off at ${at}`)
          else assert.isAbove(report.problems.length, 0, `cut off at ${at}`)
        }
      }))
  }

  it.effect("RC-14, RC-15, RC-18 answers whatever the bytes are", () =>
    Effect.gen(function*() {
      const anyBytes = fc.uint8Array({ maxLength: 700 })
      const anyFile = fc.constantFrom(segment, later, capsule.bytes, header)
      /** The beginning of a file, and anything behind it. */
      const begun = fc.tuple(anyFile, fc.constantFrom(4, 8, 12, 36, 48, 124, 216, 300), anyBytes).map(
        ([file, length, rest]) => Uint8Array.from([...file.subarray(0, length), ...rest])
      )
      /** A file with anything in the middle of it. */
      const overwritten = fc.tuple(anyFile, fc.nat(699), anyBytes).map(([file, at, middle]) => {
        const bytes = Uint8Array.from(file)
        const offset = at % bytes.length
        bytes.set(middle.subarray(0, bytes.length - offset), offset)
        return bytes
      })
      const kinds = new Set<string>()
      for (const bytes of fc.sample(fc.oneof(anyBytes, begun, overwritten), { numRuns: 400, seed: 20260807 })) {
        const { header, kind, problems } = yield* reportOn(bytes)
        kinds.add(kind)
        if (header === null && kind !== "empty") assert.isAbove(problems.length, 0, Buffer.from(bytes).toString("hex"))
      }
      assert.includeMembers([...kinds], ["marker-segment", "commit-capsule", "shared-memory-header", "unknown"])
    }))
})

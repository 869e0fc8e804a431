/** What a start finds in the files of a marker stream: which records count, which end is torn, what is damage. */
import { assert, describe, it } from "@effect/vitest"
import type { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import { Effect } from "effect"
import { looksUnwritten } from "../src/internal/markerTail.ts"
import type { Marker } from "../src/MarkerFormat.ts"
import {
  capsuleNumber,
  chainOf,
  directory,
  diskOf,
  filesOf,
  headerBytes,
  headerOf,
  idIn,
  recordBytes,
  recordOf,
  scan,
  segmentFile,
  seqOf,
  seqsOf,
  timeOf,
  upTo,
  visited,
  zeroId
} from "./support/markers.ts"
import { concat, flipped } from "./support/walFiles.ts"

const at = (slot: number) => headerBytes + slot * recordBytes

const found = (disk: MemoryDisk, from?: number) =>
  Effect.map(scan(disk, from), ({ damage, highest, last, segments, tornBytes, verifiedFrom }) => ({
    last: last === undefined ? undefined : Number(last.seq),
    records: segments.map(({ records }) => records),
    highest: highest === undefined ? undefined : Number(highest),
    tornBytes,
    verifiedFrom: Number(verifiedFrom),
    damage: damage === undefined ? undefined : {
      at: `${damage.path.slice(directory.length + 1)}@${damage.offset}`,
      code: damage.issue.code,
      behind: damage.recordsBehind,
      couldBeTorn: damage.couldBeTorn
    }
  }))

/** Three segments: two full ones and the beginning of a third. */
const markers = chainOf([{ start: 0, commits: 24 }])
const sameTime = chainOf([{ start: 0, commits: 24 }], () => 77n)

const bytesAt = (files: ReadonlyMap<string, Uint8Array>, id: number): Uint8Array =>
  files.get(segmentFile(id)) ?? new Uint8Array(0)

/** The stream with the bytes of one segment changed. */
const withSegment = (id: number, change: (bytes: Uint8Array) => Uint8Array, from = markers): MemoryDisk => {
  const files = filesOf(from)
  files.set(segmentFile(id), change(bytesAt(files, id)))
  return diskOf(files)
}

const zeroed = (bytes: Uint8Array, from: number, to: number): Uint8Array => bytes.slice().fill(0, from, to)

describe("scanMarkers: what counts", () => {
  it.effect("without a directory, and with an empty one, there is no stream", () =>
    Effect.gen(function*() {
      const nothing = {
        last: undefined,
        records: [],
        highest: undefined,
        tornBytes: 0,
        verifiedFrom: 0,
        damage: undefined
      }
      assert.deepStrictEqual(yield* found(diskOf()), nothing)
      const disk = diskOf([[`${directory}/lock`, new Uint8Array(1)], [
        `${directory}/.tmp-segment-000000.log-0000abcd`,
        new Uint8Array(3)
      ]])
      assert.deepStrictEqual(yield* found(disk), nothing)
      const { foreign, temporaries } = yield* scan(disk)
      assert.deepStrictEqual([foreign, temporaries], [["lock"], [".tmp-segment-000000.log-0000abcd"]])
    }))

  it.effect("every record of a stream over several segments counts, and is visited from any sequence on", () =>
    Effect.gen(function*() {
      const disk = diskOf(filesOf(markers))
      assert.deepStrictEqual(yield* found(disk), {
        last: 24,
        records: [10, 10, 5],
        highest: 24,
        tornBytes: 0,
        verifiedFrom: 0,
        damage: undefined
      })
      assert.deepStrictEqual(yield* visited(disk), [...markers])
      for (const from of [0, 1, 9, 10, 11, 24, 25, 99]) {
        assert.deepStrictEqual(seqsOf(yield* visited(disk, from)), upTo(24, from), `from ${from}`)
      }
    }))

  it.effect("a part that begins with a genesis record may follow an unfinished segment, with a gap or without", () =>
    Effect.gen(function*() {
      for (const start of [10, 20, 70]) {
        const parts = chainOf([{ start: 0, commits: 4 }, { start, commits: 12 }])
        const disk = diskOf(filesOf(parts))
        assert.deepStrictEqual(yield* found(disk), {
          last: start + 12,
          records: [5, 10, 3],
          highest: start + 12,
          tornBytes: 0,
          verifiedFrom: 0,
          damage: undefined
        })
        assert.deepStrictEqual(seqsOf(yield* visited(disk)), [...upTo(4), ...upTo(start + 12, start)])
        assert.deepStrictEqual(seqsOf(yield* visited(disk, 7)), upTo(start + 12, start))
      }
      // It may begin anywhere, and behind a full segment, and behind one that was made and never written.
      assert.strictEqual((yield* found(diskOf(filesOf(chainOf([{ start: 50, commits: 3 }]))))).last, 53)
      assert.strictEqual(
        (yield* found(diskOf(filesOf(chainOf([{ start: 0, commits: 9 }, { start: 10, commits: 1 }]))))).last,
        11
      )
      const files = filesOf(chainOf([{ start: 0, commits: 9 }, { start: 30, commits: 2 }]))
      files.set(segmentFile(1), headerOf(1, 10))
      assert.deepStrictEqual((yield* found(diskOf(files))).records, [10, 0, 3])
    }))

  it.effect("the segment with the millionth id comes behind those of six digits", () =>
    Effect.gen(function*() {
      const parts = chainOf([{ start: 2_000_000, commits: 4 }, { start: 9_999_990, commits: 12 }])
      const disk = diskOf(filesOf(parts))
      assert.isTrue(disk.files.includes(segmentFile(1_000_000)))
      assert.deepStrictEqual(yield* visited(disk), [...parts])
    }))

  it.effect("a segment of which only the header is there has no records", () =>
    Effect.gen(function*() {
      const files = filesOf(chainOf([{ start: 0, commits: 9 }]))
      files.set(segmentFile(1), headerOf(1, 10))
      assert.deepStrictEqual(yield* found(diskOf(files)), {
        last: 9,
        records: [10, 0],
        highest: 9,
        tornBytes: 0,
        verifiedFrom: 0,
        damage: undefined
      })
    }))
})

describe("scanMarkers: torn ends", () => {
  it.effect("RC-14 cut at any byte of the last segment, whole records count and the rest is torn", () =>
    Effect.gen(function*() {
      const bytes = bytesAt(filesOf(markers), 2)
      for (let length = headerBytes; length < bytes.length; length++) {
        const disk = withSegment(2, (bytes) => bytes.subarray(0, length))
        const whole = Math.floor((length - headerBytes) / recordBytes)
        const result = yield* found(disk)
        assert.deepStrictEqual(
          { last: result.last, tornBytes: result.tornBytes, damage: result.damage },
          { last: 19 + whole, tornBytes: (length - headerBytes) % recordBytes, damage: undefined },
          `cut at ${length}`
        )
        assert.deepStrictEqual(seqsOf(yield* visited(disk)), upTo(19 + whole))
      }
    }))

  it.effect("RC-14 an end of zeros, in whole slots or not, is torn", () =>
    Effect.gen(function*() {
      for (const zeros of [1, 87, 88, 89, 176, 400]) {
        const disk = withSegment(2, (bytes) => concat(bytes, new Uint8Array(zeros)))
        const result = yield* found(disk)
        assert.deepStrictEqual([result.last, result.tornBytes, result.damage], [24, zeros, undefined], `${zeros}`)
        assert.strictEqual(result.highest, 24 + Math.floor(zeros / 88))
      }
    }))

  it.effect("RC-14 a last record whose bytes were written up to anywhere is torn", () =>
    Effect.gen(function*() {
      for (let kept = 0; kept < recordBytes; kept++) {
        const disk = withSegment(2, (bytes) => zeroed(bytes, at(4) + kept, at(5)))
        const original = bytesAt(filesOf(markers), 2)
        // The rest was zeros anyway.
        if (original.subarray(at(4) + kept, at(5)).every((byte) => byte === 0)) continue
        const result = yield* found(disk)
        assert.deepStrictEqual([result.last, result.tornBytes, result.damage], [23, 88, undefined], `${kept}`)
      }
    }))

  it("RC-14 a record looks unwritten when a sector of it is zeros to the sector's end, or its own end is", () => {
    const record = recordOf(
      markers[5] ?? { seq: seqOf(0), timeUnixNanos: 0n, capsule: zeroId, proof: zeroId, previous: zeroId }
    )
    const sector = (front: number) => 512 - front
    // The sector boundary falls into the previous marker id, all of which is not zero.
    const there = sector(56)
    const look = (bytes: Uint8Array, offset = there) => looksUnwritten(bytes, offset)
    const behind = new Uint8Array(480).fill(0x5a)
    assert.isFalse(look(concat(record, behind)))
    assert.isTrue(look(concat(zeroed(record, 0, 56), behind)), "its front sector is missing")
    assert.isFalse(look(concat(zeroed(record, 0, 55), behind)))
    assert.isFalse(look(concat(zeroed(record, 1, 56), behind)))
    assert.isTrue(look(zeroed(record, 56, 88)), "its back sector is missing, at the end of the file")
    assert.isTrue(look(concat(zeroed(record, 56, 88), new Uint8Array(480))))
    assert.isFalse(look(concat(zeroed(record, 56, 88), behind)))
    // All in one sector.
    assert.isTrue(look(zeroed(record, 0, 88), 36))
    assert.isFalse(look(concat(zeroed(record, 0, 88), behind.subarray(0, 388)), 36))
    for (let kept = 1; kept < 88; kept++) {
      assert.isTrue(look(concat(zeroed(record, kept, 88), new Uint8Array(300)), 36), `${kept}`)
    }
    assert.isFalse(look(flipped(zeroed(record, 87, 88), 20), 36), "a checksum that is not the front of the right one")
  })
})

describe("scanMarkers: damage", () => {
  it.effect("RC-26 any byte changed of any record but the last: the prefix counts, with the good ones behind counted", () =>
    Effect.gen(function*() {
      const length = bytesAt(filesOf(markers), 2).length
      for (const id of [0, 2]) {
        const end = id === 0 ? at(10) : length
        for (let offset = headerBytes; offset < end; offset += 1 + offset % 7) {
          const slot = Math.floor((offset - headerBytes) / recordBytes)
          const seq = id * 10 + slot
          const disk = withSegment(id, (bytes) => flipped(bytes, offset, 0x24))
          const result = yield* found(disk)
          assert.deepStrictEqual(result.damage, {
            at: `segment-00000${id}.log@${at(slot)}`,
            code: "RecordChecksumMismatch",
            behind: 24 - seq,
            couldBeTorn: false
          }, `byte ${offset} of ${id}`)
          assert.strictEqual(result.last, seq === 0 ? undefined : seq - 1)
          assert.deepStrictEqual([result.tornBytes, result.highest], [0, 24])
          assert.deepStrictEqual(seqsOf(yield* visited(disk)), upTo(seq - 1))
        }
      }
    }))

  it.effect("RC-26 a last record that was changed, not lost, is damage too", () =>
    Effect.gen(function*() {
      const result = yield* found(withSegment(2, (bytes) => flipped(bytes, at(4) + 20)))
      assert.deepStrictEqual(result.damage, {
        at: `segment-000002.log@${at(4)}`,
        code: "RecordChecksumMismatch",
        behind: 0,
        couldBeTorn: false
      })
      assert.strictEqual(result.last, 23)
    }))

  it.effect("RC-26 a lost sector with records of one time behind it could be a torn batch, with several times it could not", () =>
    Effect.gen(function*() {
      const big = 60
      const perBig = 1000
      const grown = (time: (seq: number) => bigint) => {
        const chain = chainOf([{ start: 0, commits: big }], (seq) => time(Number(seq)))
        const bytes = filesOf(chain, perBig).get(segmentFile(0)) ?? new Uint8Array(0)
        return diskOf([[segmentFile(0), zeroed(bytes, 1024, 1536)]])
      }
      // The test's segments are short; this one is not.
      const scanBig = (disk: MemoryDisk) => Effect.map(scan(disk, undefined, perBig), ({ damage }) => damage)
      const torn = yield* scanBig(grown((seq) => seq < 11 ? 5n : 9n))
      assert.deepStrictEqual([torn?.couldBeTorn, torn?.recordsBehind, torn?.offset], [true, 60 - 17 + 0, at(11)])
      const several = yield* scanBig(grown((seq) => seq < 40 ? 5n : 9n))
      assert.strictEqual(several?.couldBeTorn, false)
    }))

  it.effect("RC-26 in front of another segment nothing is torn", () =>
    Effect.gen(function*() {
      const cut = yield* found(withSegment(1, (bytes) => bytes.subarray(0, at(7) + 40), sameTime))
      assert.deepStrictEqual([cut.last, cut.damage], [16, {
        at: `segment-000001.log@${at(7)}`,
        code: "TornTail",
        behind: 5,
        couldBeTorn: false
      }])
      const zeros = yield* found(withSegment(1, (bytes) => zeroed(bytes, at(7), at(10)), sameTime))
      assert.deepStrictEqual([zeros.last, zeros.damage?.behind, zeros.damage?.couldBeTorn], [16, 5, false])
      // Cut between two records it is the next segment that has lost its predecessor.
      const lost = yield* found(withSegment(1, (bytes) => bytes.subarray(0, at(7)), sameTime))
      assert.deepStrictEqual([lost.last, lost.damage], [16, {
        at: `segment-000002.log@${headerBytes}`,
        code: "ChainBroken",
        behind: 4,
        couldBeTorn: false
      }])
      const files = filesOf(markers)
      files.delete(segmentFile(1))
      assert.strictEqual((yield* found(diskOf(files))).damage?.code, "ChainBroken")
    }))

  it.effect("RC-26 a header that does not check, or is another segment's, takes the whole file", () =>
    Effect.gen(function*() {
      const damage = (change: (bytes: Uint8Array) => Uint8Array) =>
        Effect.map(
          found(withSegment(1, change)),
          ({ damage, last }) => [last, damage?.at, damage?.code, damage?.behind]
        )
      assert.deepStrictEqual(yield* damage((bytes) => flipped(bytes, 3)), [9, "segment-000001.log@0", "BadMagic", 15])
      assert.deepStrictEqual(
        yield* damage((bytes) => concat(headerOf(2, 20), bytes.subarray(headerBytes))),
        [9, "segment-000001.log@0", "CommitSeqMismatch", 15]
      )
      assert.deepStrictEqual(yield* damage((bytes) => bytes.subarray(0, 20)), [
        9,
        "segment-000001.log@0",
        "HeaderTooShort",
        5
      ])
    }))

  it.effect("RC-26 records in the wrong slots, of another chain, or too many of them", () =>
    Effect.gen(function*() {
      const record = (bytes: Uint8Array, slot: number) => bytes.subarray(at(slot), at(slot + 1))
      const codes = (disk: MemoryDisk) =>
        Effect.map(found(disk), ({ damage, last }) => [last, damage?.code, damage?.behind])
      assert.deepStrictEqual(
        yield* codes(withSegment(2, (bytes) => concat(bytes.subarray(0, at(2)), record(bytes, 3), record(bytes, 2)))),
        [21, "ChainBroken", 0]
      )
      // A sequence that skips one, in a chain of its own.
      const skipping: Array<Marker> = [...chainOf([{ start: 0, commits: 3 }])]
      const last = skipping.at(-1)
      const bytes = recordOf({
        seq: seqOf(5),
        timeUnixNanos: timeOf(seqOf(5)),
        capsule: capsuleNumber(5),
        proof: zeroId,
        previous: last?.id ?? zeroId
      })
      const files = filesOf(skipping)
      files.set(segmentFile(0), concat(files.get(segmentFile(0)) ?? bytes, bytes))
      assert.deepStrictEqual(yield* codes(diskOf(files)), [3, "CommitSeqMismatch", 0])
      // An eleventh record in a segment of ten.
      assert.deepStrictEqual(
        yield* codes(withSegment(0, (bytes) => concat(bytes, record(bytesAt(filesOf(markers), 1), 0)))),
        [9, "CommitSeqMismatch", 15]
      )
      // No genesis record at the front; one that is none of the stream's beginning.
      assert.deepStrictEqual(yield* codes(diskOf(Array.from(filesOf(markers)).slice(1))), [
        undefined,
        "ChainBroken",
        14
      ])
      const second = filesOf(chainOf([{ start: 0, commits: 4 }, { start: 10, commits: 2 }]))
      second.delete(segmentFile(0))
      assert.deepStrictEqual(yield* codes(diskOf(second)), [undefined, "ChainBroken", 2])
      const plain = filesOf(chainOf([{ start: 0, commits: 12 }]))
      plain.set(segmentFile(2), bytesAt(filesOf(chainOf([{ start: 0, commits: 12 }, { start: 20, commits: 1 }])), 2))
      plain.set(segmentFile(1), bytesAt(plain, 1))
      assert.deepStrictEqual(yield* codes(diskOf(plain)), [21, undefined, undefined])
      // The segment behind an unfinished one begins with a commit, although the chain is right.
      const commit = recordOf({
        seq: seqOf(20),
        timeUnixNanos: timeOf(seqOf(20)),
        capsule: capsuleNumber(20),
        proof: zeroId,
        previous: markers[12]?.id ?? zeroId
      })
      plain.set(segmentFile(2), concat(headerOf(2, 20), commit))
      assert.deepStrictEqual(yield* codes(diskOf(plain)), [12, "ChainBroken", 0])
      // Behind a full one too, when it is not the next.
      const gap = filesOf(chainOf([{ start: 0, commits: 9 }]))
      const behind = recordOf({
        seq: seqOf(20),
        timeUnixNanos: timeOf(seqOf(20)),
        capsule: capsuleNumber(20),
        proof: zeroId,
        previous: markers[9]?.id ?? zeroId
      })
      gap.set(segmentFile(2), concat(headerOf(2, 20), behind))
      assert.deepStrictEqual(yield* codes(diskOf(gap)), [9, "ChainBroken", 0])
    }))

  it.effect("RC-26 a record of no commit has slot 0 only", () =>
    Effect.gen(function*() {
      // Its checksum, its id, its place in the chain and its sequence are right.
      const chain = markers.slice(0, 5)
      for (const seq of [5, 6]) {
        const capsule = seq === 5 ? zeroId : capsuleNumber(seq)
        const fields = {
          seq: seqOf(seq),
          timeUnixNanos: timeOf(seqOf(seq)),
          capsule,
          proof: zeroId,
          previous: chain.at(-1)?.id ?? zeroId
        }
        chain.push({ ...fields, id: idIn(recordOf(fields)) })
      }
      const { damage, last } = yield* found(diskOf(filesOf(chain)))
      assert.deepStrictEqual([last, damage?.code, damage?.behind], [4, "ChainBroken", 1])
    }))

  it.effect("RC-26 a commit time that falls breaks the chain", () =>
    Effect.gen(function*() {
      const falling = chainOf([{ start: 0, commits: 5 }], (seq) => seq === 4n ? 1n : timeOf(seq))
      const { damage, last } = yield* found(diskOf(filesOf(falling)))
      assert.deepStrictEqual([last, damage?.code, damage?.behind], [3, "ChainBroken", 1])
      assert.strictEqual((yield* found(diskOf(filesOf(sameTime)))).last, 24)
    }))
})

describe("scanMarkers: from a sequence on", () => {
  it.effect("verifies that sequence and what is behind it, and the one that it hangs on", () =>
    Effect.gen(function*() {
      for (const id of [0, 1, 2]) {
        for (let slot = 0; slot < (id === 2 ? 5 : 10); slot++) {
          const disk = withSegment(id, (bytes) => flipped(bytes, at(slot) + 30))
          const bad = id * 10 + slot
          for (let from = 0; from <= 26; from++) {
            const result = yield* found(disk, from)
            // The anchor of a late start is the last record there is.
            const anchor = Math.min(from - 1, 24)
            const isSeen = from === 0 || bad >= anchor
            const label = `${bad} bad, from ${from}`
            assert.strictEqual(result.damage?.at, isSeen ? `segment-00000${id}.log@${at(slot)}` : undefined, label)
            const isAnchored = from > 0 && bad !== anchor
            assert.strictEqual(result.verifiedFrom, isAnchored ? anchor : 0, label)
            const expected = isSeen ? bad - 1 : 24
            assert.strictEqual(result.last, expected < 0 ? undefined : expected, label)
          }
        }
      }
    }))

  it.effect("hangs on no record of a file whose header does not check", () =>
    Effect.gen(function*() {
      const result = yield* found(withSegment(2, (bytes) => flipped(bytes, 30)), 23)
      assert.deepStrictEqual([result.last, result.damage?.code, result.verifiedFrom], [19, "HeaderChecksumMismatch", 0])
    }))

  it.effect("hangs on the record before it, also in another segment or part", () =>
    Effect.gen(function*() {
      const foreign = chainOf([{ start: 0, commits: 24 }], (seq) => timeOf(seq) + 1n)
      const files = filesOf(markers)
      files.set(segmentFile(2), bytesAt(filesOf(foreign), 2))
      assert.strictEqual((yield* found(diskOf(files), 20)).damage?.code, "ChainBroken")
      assert.strictEqual((yield* found(diskOf(files), 21)).damage, undefined)
      const parts = filesOf(chainOf([{ start: 0, commits: 4 }, { start: 20, commits: 2 }]))
      assert.deepStrictEqual((yield* found(diskOf(parts), 12)).records, [5, 3])
      assert.strictEqual((yield* found(diskOf(parts), 12)).verifiedFrom, 4)
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { CommitSeq, objectIdToHex } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import * as Capsule from "@tidemark/wal/CapsuleFormat"
import * as Marker from "@tidemark/wal/MarkerFormat"
import { Effect } from "effect"
import { writeFileSync } from "node:fs"
import { inspectMarkerStream } from "../src/inspection/markerInspection.ts"
import {
  capsule,
  everything,
  flipped,
  listed,
  markersOf,
  offsetOfRecord,
  onlyProblem,
  reportOn,
  segmentOf,
  timeOf,
  written
} from "./support/inspected.ts"
import { documentOf, objectsIn, temporaryDirectory, tidemark, unchanged } from "./support/program.ts"

describe("inspect of a marker segment", () => {
  const markers = markersOf({ start: 0n, count: 5 })
  const bytes = segmentOf(markers)
  const path = Marker.markerSegmentPath("/data/a.db", 0n)

  it.effect("RC-14 shows what is in it, and lists the records of a range of sequences with their fields", () =>
    Effect.gen(function*() {
      const start = 2_000_000n
      const later = segmentOf(markersOf({ start, count: 5, genesis: false }))
      const report = yield* reportOn(later, Marker.markerSegmentPath("/data/a.db", 2n), {
        from: 2_000_001,
        to: 2_000_002
      })
      assert.deepInclude(report, { kind: "marker-segment", problems: [] })
      assert.deepStrictEqual(report.header, { segmentId: 2n, startCommitSequence: start, recordSize: 88 })
      assert.deepInclude(report.summary, {
        records: 5,
        commits: 5,
        genesisRecords: 0,
        firstCommitSequence: start,
        lastCommitSequence: start + 4n,
        lastCommitTime: "2023-11-14T22:46:40.004Z",
        recordsBehindDamage: 0,
        tornTailBytes: 0
      })
      const [first, second, ...others] = report.rows
      assert.lengthOf(others, 0)
      const expected = markersOf({ start, count: 5, genesis: false })
      assert.deepStrictEqual(first, {
        index: 1,
        offset: offsetOfRecord(1),
        valid: true,
        fields: {
          commitSequence: start + 1n,
          commitTimeUnixNs: timeOf(start + 1n),
          commitTime: "2023-11-14T22:46:40.001Z",
          capsuleObjectId: objectIdToHex(expected[1]?.capsule ?? Marker.noObject),
          proofObjectId: null,
          previousMarkerId: objectIdToHex(expected[0]?.id ?? Marker.noObject),
          markerId: objectIdToHex(expected[1]?.id ?? Marker.noObject),
          flags: { genesis: false, proof: false },
          chainOk: true
        }
      })
      assert.deepInclude(second?.fields["flags"], { proof: true })
      assert.strictEqual(second?.fields["proofObjectId"], "ee".repeat(16))

      const all = yield* reportOn(bytes, path)
      assert.deepStrictEqual(all.problems, [])
      assert.deepInclude(all.summary, { records: 5, commits: 4, genesisRecords: 1, firstCommitSequence: 1n })
      assert.deepInclude(all.rows[0]?.fields, { capsuleObjectId: null, previousMarkerId: null, chainOk: true })
      // What the first record of a later segment hangs on is in another file.
      const unknown = yield* reportOn(later)
      assert.deepStrictEqual(unknown.rows.map(({ fields }) => fields["chainOk"]), [null, true, true, true, true])
      for (const range of [{ from: 0, to: 1_999_999 }, { from: 2_000_005, to: everything.to }]) {
        assert.deepStrictEqual((yield* reportOn(later, path, range)).rows, [])
      }
    }))

  it.effect("RC-14 calls a part of a record, and records that were never written, a tail", () =>
    Effect.gen(function*() {
      const partial = yield* reportOn(bytes.subarray(0, offsetOfRecord(4) + 30), path)
      assert.deepStrictEqual(onlyProblem(partial), {
        offset: offsetOfRecord(4),
        what: "30 bytes are of markers that were never finished",
        severity: "tail"
      })
      assert.deepInclude(partial.summary, { records: 4, tornTailBytes: 30 })
      assert.lengthOf(partial.rows, 4)

      // Of one that goes on where another has ended, something has to be left to judge by.
      const later = markersOf({ start: 4_000_000n, count: 5, genesis: false })
      for (const [kept, slot] of [[markers, 1], [markers, 3], [later, 3]] as const) {
        const unwritten = segmentOf(kept)
        unwritten.fill(0, offsetOfRecord(slot))
        const torn = yield* reportOn(unwritten)
        assert.deepInclude(onlyProblem(torn), { offset: offsetOfRecord(slot), severity: "tail" })
        assert.deepStrictEqual(torn.rows.map(({ valid }) => valid), [0, 1, 2, 3, 4].map((index) => index < slot))
      }
    }))

  it.effect("RC-26 calls anything else corrupt, and lists what stands behind it as not valid", () =>
    Effect.gen(function*() {
      const damaged = yield* reportOn(flipped(bytes, offsetOfRecord(2) + 20), path)
      assert.deepInclude(onlyProblem(damaged), { offset: offsetOfRecord(2) + 80, severity: "corrupt" })
      assert.match(onlyProblem(damaged).what, /^the record at byte 212 does not check, and 2 behind it do: XXH3-64 is /)
      assert.deepInclude(damaged.summary, {
        records: 2,
        lastCommitSequence: 1n,
        recordsBehindDamage: 2,
        tornTailBytes: 0
      })
      assert.deepStrictEqual(
        damaged.rows.map(({ fields, valid }) => [valid, fields["commitSequence"], fields["chainOk"]]),
        [[true, 0n, true], [true, 1n, true], [false, null, null], [false, 3n, null], [false, 4n, true]]
      )
      // The last record, of which something else than zeros is wrong.
      assert.strictEqual(onlyProblem(yield* reportOn(flipped(bytes, offsetOfRecord(4) + 20))).severity, "corrupt")

      // A record of another history is whole by itself.
      const foreign = segmentOf(markersOf({ start: 0n, count: 5, previous: Marker.markerId(bytes, 0), genesis: false }))
      const mixed = written(bytes, offsetOfRecord(3), foreign.subarray(offsetOfRecord(3)))
      const broken = yield* reportOn(mixed, path)
      assert.deepInclude(onlyProblem(broken), { offset: offsetOfRecord(3) + 48, severity: "corrupt" })
      assert.match(onlyProblem(broken).what, /previous marker id is /)
      assert.deepStrictEqual(broken.rows.map(({ fields }) => fields["chainOk"]), [true, true, true, false, true])
      assert.deepStrictEqual(broken.rows.map(({ valid }) => valid), [true, true, true, false, false])
    }))

  it.effect("RC-26 believes the name of a segment, that of a temporary file, and no other", () =>
    Effect.gen(function*() {
      const misnamed = yield* reportOn(bytes, Marker.markerSegmentPath("/data/a.db", 1n))
      assert.deepStrictEqual(onlyProblem(misnamed), {
        offset: 8,
        what: "segment id is 0, expected 1",
        severity: "corrupt"
      })
      assert.lengthOf(misnamed.rows, 5)
      const elsewhere = Marker.encodeHeader({ segmentId: 1n, start: CommitSeq.make(7n) })
      const misplaced = yield* reportOn(elsewhere)
      assert.deepInclude(onlyProblem(misplaced), { offset: 16, what: "start is 7, expected 1000000" })

      const temporary = "/data/a.db.fsqlite/markers/.tmp-segment-000000.log-00112233"
      for (const part of [bytes.subarray(0, 20), flipped(bytes, offsetOfRecord(1))]) {
        assert.strictEqual(onlyProblem(yield* reportOn(part, temporary)).severity, "tail")
        assert.strictEqual(onlyProblem(yield* reportOn(part, path)).severity, "corrupt")
      }
      for (const [at, offset] of [[5, 4], [25, 24], [30, 28]] as const) {
        const headless = yield* reportOn(flipped(bytes, at), path)
        assert.deepInclude(headless, { kind: "marker-segment", header: null, rows: [] })
        assert.deepInclude(onlyProblem(headless), { offset, severity: "corrupt" })
      }
    }))
})

describe("inspect of a marker stream", () => {
  const directory = "/data/a.db.fsqlite/markers"
  const first = markersOf({ start: 0n, count: 4 })
  const second = markersOf({ start: 3_000_000n, count: 3, previous: first.at(-1)?.id ?? Marker.noObject })

  const inspected = (files: Readonly<Record<string, Uint8Array>>, range = everything, at = directory) => {
    const disk = MemoryDisk.make({ async: false })
    for (const [name, bytes] of Object.entries(files)) disk.writeFile(`${at}/${name}`, bytes)
    return Effect.gen(function*() {
      const { bytes, inspection } = yield* inspectMarkerStream(yield* Vfs, at)
      assert.strictEqual(inspection.kind, "marker-stream")
      return { bytes, ...yield* listed(inspection, range) }
    }).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
  }

  const whole = { "segment-000000.log": segmentOf(first), "segment-000003.log": segmentOf(second) }

  it.effect("RC-26 shows its segments and lists records across them, wherever it lies", () =>
    Effect.gen(function*() {
      const others = { ".tmp-segment-000004.log-00112233": new Uint8Array(5), lock: new Uint8Array(0) }
      for (const at of [directory, "/elsewhere/copy"]) {
        const report = yield* inspected({ ...whole, ...others }, { from: 2, to: 3_000_001 }, at)
        assert.deepStrictEqual(report.problems, [])
        assert.strictEqual(report.bytes, offsetOfRecord(4) + offsetOfRecord(3))
        assert.deepInclude(report.summary, {
          segments: 2,
          records: 7,
          commits: 5,
          genesisRecords: 2,
          firstCommitSequence: 1n,
          lastCommitSequence: 3_000_002n,
          temporaryFiles: 1,
          foreignFiles: 1
        })
        assert.deepStrictEqual(report.parts?.fields[1], {
          name: "segment-000003.log",
          bytes: offsetOfRecord(3),
          segmentId: 3n,
          startCommitSequence: 3_000_000n,
          records: 3,
          trailingBytes: 0
        })
        assert.deepStrictEqual(
          report.rows.map(({ fields, index, valid }) => [
            fields["segment"],
            index,
            fields["commitSequence"],
            fields["chainOk"],
            valid
          ]),
          [
            ["segment-000000.log", 2, 2n, true, true],
            ["segment-000000.log", 3, 3n, true, true],
            ["segment-000003.log", 0, 3_000_000n, true, true],
            ["segment-000003.log", 1, 3_000_001n, true, true]
          ]
        )
      }
      const none = yield* inspected({ lock: new Uint8Array(0) })
      assert.deepInclude(none, { problems: [], rows: [], bytes: 0 })
    }))

  it.effect("RC-14, RC-26 says in which file it is torn or damaged", () =>
    Effect.gen(function*() {
      const torn = yield* inspected({
        ...whole,
        "segment-000003.log": segmentOf(second).subarray(0, offsetOfRecord(2) + 1)
      })
      assert.deepStrictEqual(onlyProblem(torn), {
        path: `${directory}/segment-000003.log`,
        offset: offsetOfRecord(2),
        what: "1 bytes are of markers that were never finished",
        severity: "tail"
      })
      const damaged = yield* inspected({ ...whole, "segment-000000.log": flipped(segmentOf(first), offsetOfRecord(1)) })
      assert.deepInclude(onlyProblem(damaged), {
        path: `${directory}/segment-000000.log`,
        offset: offsetOfRecord(1),
        severity: "corrupt"
      })
      assert.match(onlyProblem(damaged).what, /with 5 good records behind it$/)
      assert.deepStrictEqual(damaged.rows.map(({ valid }) => valid), [true, ...Array.from({ length: 6 }, () => false)])
      // Each segment is whole by itself; the second one is of another stream.
      const other = segmentOf(markersOf({ start: 3_000_000n, count: 3 }))
      const unchained = yield* inspected({ ...whole, "segment-000003.log": other })
      assert.deepInclude(onlyProblem(unchained), { offset: 36, path: `${directory}/segment-000003.log` })
      assert.deepInclude(unchained.rows[4], { valid: false })
      assert.strictEqual(unchained.rows[4]?.fields["chainOk"], false)
      // It names the right record, but between two segments that do not follow each other a genesis record has to be.
      const previous = first.at(-1)?.id ?? Marker.noObject
      const bare = segmentOf(markersOf({ start: 3_000_000n, count: 3, previous, genesis: false }))
      const unbegun = yield* inspected({ ...whole, "segment-000003.log": bare })
      assert.deepInclude(onlyProblem(unbegun), { offset: 36, severity: "corrupt" })
      assert.strictEqual(unbegun.rows[4]?.fields["chainOk"], false)
    }))

  it.live("RC-14 exits with 1 for a torn one, with 3 for a directory that has none", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      writeFileSync(`${directory}/segment-000000.log`, segmentOf(first).subarray(0, offsetOfRecord(3) + 9))
      const torn = yield* unchanged(directory, "inspect", `${directory}/`, "--json", "--from", "2")
      assert.strictEqual(torn.code, 1, torn.stderr)
      assert.deepInclude(documentOf(torn), { kind: "marker-stream", valid: false, header: null })
      assert.strictEqual(objectsIn(documentOf(torn), "problems")[0]?.["path"], `${directory}/segment-000000.log`)
      assert.deepStrictEqual(objectsIn(documentOf(torn), "records").map(({ index }) => index), [2])
      const empty = yield* tidemark("inspect", yield* temporaryDirectory)
      assert.strictEqual(empty.code, 3)
    }))
})

describe("inspect of a commit capsule", () => {
  const path = Capsule.capsulePath("/data/a.db", capsule.id)

  it.effect("RC-15 shows what is in it, and lists a range of its pages", () =>
    Effect.gen(function*() {
      const report = yield* reportOn(capsule.bytes, path)
      assert.deepInclude(report, { kind: "commit-capsule", problems: [] })
      assert.deepStrictEqual(report.header, {
        pageSize: 512,
        txnId: 77n,
        txnEpoch: 5,
        pageCount: 2,
        beginSequence: 40n,
        databaseSizeInPages: 9
      })
      assert.deepStrictEqual(report.summary, {
        objectId: objectIdToHex(capsule.id),
        capsuleDigest: Buffer.from(capsule.digest).toString("hex"),
        lowestPage: 2,
        highestPage: 7,
        imageBytes: 1024,
        expectedBytes: capsule.bytes.length,
        sizeAfterCommit: "chosen by the commit"
      })
      assert.deepStrictEqual(report.rows, [
        { index: 0, offset: 48, valid: true, fields: { pageNumber: 2, imageOffset: 64, imageLength: 512 } },
        { index: 1, offset: 56, valid: true, fields: { pageNumber: 7, imageOffset: 576, imageLength: 512 } }
      ])
      const second = yield* reportOn(capsule.bytes, path, { from: 1, to: 1 })
      assert.deepStrictEqual(second.rows, report.rows.slice(1))
    }))

  it.effect("RC-15 says where it does not check, and holds it against the id in its name and no other name", () =>
    Effect.gen(function*() {
      const end = capsule.bytes.length
      const damaged = yield* reportOn(flipped(capsule.bytes, 700), path)
      assert.deepInclude(onlyProblem(damaged), { offset: end - 32, severity: "corrupt" })
      assert.match(onlyProblem(damaged).what, /^BLAKE3 is /)
      assert.deepInclude(damaged.summary, { objectId: null, capsuleDigest: null })
      assert.deepStrictEqual(damaged.rows.map(({ valid }) => valid), [false, false])

      const longer = yield* reportOn(Buffer.concat([capsule.bytes, Buffer.from("more")]), path)
      assert.deepStrictEqual(onlyProblem(longer), {
        offset: end,
        what: "end of the file is 4 more bytes, expected none",
        severity: "corrupt"
      })
      const other = Capsule.capsulePath("/data/a.db", Marker.markerId(new Uint8Array(64)))
      assert.match(onlyProblem(yield* reportOn(capsule.bytes, other)).what, /^object id is .*, by which it is known$/)
      const headless = yield* reportOn(written(capsule.bytes, 12, Uint8Array.of(1)), path)
      assert.deepInclude(headless, { header: null, rows: [] })
      assert.deepInclude(onlyProblem(headless), { offset: 12, severity: "corrupt" })
    }))

  it.effect("RC-16 calls one that ends too early a tail: it has its name before it is written", () =>
    Effect.gen(function*() {
      for (const [length, pages] of [[20, 0], [48, 1], [60, 2], [900, 2]] as const) {
        const report = yield* reportOn(capsule.bytes.subarray(0, length), path)
        assert.strictEqual(onlyProblem(report).severity, "tail")
        assert.isTrue(report.rows.every(({ valid }) => !valid))
        assert.lengthOf(report.rows, pages)
      }
      const cut = yield* reportOn(capsule.bytes.subarray(0, 900), path)
      assert.deepStrictEqual(cut.rows.map(({ fields }) => fields["imageLength"]), [512, 324])
    }))
})

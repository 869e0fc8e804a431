import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Result } from "effect"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { certifiedChecksum, recoveryOrder, segmentPath, type SegmentRecord } from "../src/SegmentFormat.ts"
import {
  cleanupSegments,
  listSegments,
  maxDurableEpoch,
  readSegment,
  recoverSegments,
  removeSegments,
  writeRecords
} from "../src/SegmentStore.ts"
import { epochOf, headerBytesOf, recordBytesOf, recordOf, segmentBytesOf, utf8 } from "./support/segmentBytes.ts"
import { concat, flipped } from "./support/walFiles.ts"

const database = "/data/app.db"
const pathOf = (epoch: bigint) => segmentPath(database, epochOf(epoch))

const on = <A, E>(disk: MemoryDisk, use: (vfs: Vfs["Service"]) => Effect.Effect<A, E>) =>
  Effect.flatMap(Vfs, use).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))

/** A disk with a database, and with these segments of it. */
const diskWith = (segments: Record<string, Uint8Array> = {}) => {
  const disk = MemoryDisk.make({ async: false })
  disk.writeFile(database, new Uint8Array(512))
  for (const [path, bytes] of Object.entries(segments)) disk.writeFile(path, bytes)
  return disk
}

const contentsOf = (disk: MemoryDisk) => disk.files.map((path) => [path, disk.readFile(path)])

/** A segment of an epoch with one record for each page given, which holds the text given. */
const segmentOf = (epoch: bigint, pages: Record<number, string>, version: 1 | 2 = 2) =>
  segmentBytesOf(
    version,
    epoch,
    Object.entries(pages).map(([page, text]) =>
      recordOf({ epoch, begin: epoch * 10n, page: Number(page), after: utf8(text) })
    )
  )

const three = {
  [pathOf(1n)]: segmentOf(1n, { 1: "one" }),
  [pathOf(2n)]: segmentOf(2n, { 2: "two" }),
  [pathOf(3n)]: segmentOf(3n, { 1: "three" })
}

const textOf = (pages: ReadonlyMap<number, Uint8Array>) =>
  Array.from(pages, ([page, image]) => [page, Buffer.from(image).toString()] as const).sort(([a], [b]) => a - b)

describe("SegmentStore", () => {
  it.effect("PW-19 listing sorts by epoch and ignores other files", () =>
    Effect.gen(function*() {
      const disk = diskWith()
      for (const epoch of [0x10n, 0xffffffffffffffffn, 2n, 0n]) disk.writeFile(pathOf(epoch), new Uint8Array(3))
      for (
        const other of [
          "/data/app.db-wal",
          "/data/app.db-wal-cert",
          "/data/app.db-wal-seg-0000000000000005.tmp-1",
          "/data/app.db-wal-seg-00000000000000AB",
          "/data/other.db-wal-seg-0000000000000007"
        ]
      ) disk.writeFile(other, new Uint8Array(3))
      const found = yield* on(disk, (vfs) => listSegments(vfs, database))
      const epochs = [0n, 2n, 0x10n, 0xffffffffffffffffn].map(epochOf)
      assert.deepStrictEqual(found, epochs.map((epoch) => ({ path: pathOf(epoch), epoch })))
    }))

  it.effect("PW-20 what was written is read back, with the size and the checksum that a certificate carries", () =>
    Effect.gen(function*() {
      const disk = diskWith()
      const records = [
        recordOf({ begin: 2n, page: 9, before: utf8("before") }),
        recordOf({ begin: 1n, page: 4, end: undefined }),
        recordOf({ begin: 3n, page: 4, after: new Uint8Array(0) })
      ]
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const written = yield* writeRecords(vfs, {
            database,
            epoch: epochOf(7n),
            attempt: 1,
            policy: "full",
            records
          })
          const bytes = disk.readFile(pathOf(7n)) ?? new Uint8Array(0)
          assert.deepStrictEqual(written, { bytes: bytes.length, crc: certifiedChecksum([bytes]) })
          assert.deepStrictEqual(disk.files, [database, pathOf(7n)])
          const read = yield* readSegment(vfs, pathOf(7n), epochOf(7n))
          const sorted = records.toSorted(recoveryOrder)
          assert.deepStrictEqual(read, { segment: { version: 2, epoch: epochOf(7n), records: sorted }, ...written })
          // The offset of an image in its buffer is its offset in the file.
          for (const { after } of read.segment.records) {
            assert.deepStrictEqual(bytes.subarray(after.byteOffset, after.byteOffset + after.length), after)
          }
        }))
    }))

  it.effect("PW-20 an empty batch makes a file of 24 bytes that reads back", () =>
    Effect.gen(function*() {
      const disk = diskWith()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          yield* writeRecords(vfs, { database, epoch: epochOf(1n), attempt: 1, policy: "full", records: [] })
          const read = yield* readSegment(vfs, pathOf(1n), epochOf(1n))
          assert.deepStrictEqual([read.bytes, read.segment.records.length], [24, 0])
        }))
    }))

  it.effect("PW-20 a file that cannot be read is refused with what is wrong, and with its size and checksum", () =>
    Effect.gen(function*() {
      const whole = segmentOf(1n, { 1: "one", 2: "two" })
      const refusals: ReadonlyArray<readonly [string, Uint8Array]> = [
        ["TooShort", new Uint8Array(0)],
        ["TooShort", whole.subarray(0, 23)],
        ["BadMagic", flipped(whole, 0)],
        ["HeaderChecksumMismatch", flipped(whole, 9)],
        ["EpochNotOfName", segmentOf(2n, { 1: "one" })],
        ["TooManyRecords", headerBytesOf(2, 1n, 0xffffffff)],
        ["RecordChecksumMismatch", flipped(whole, 40)],
        ["Truncated", whole.subarray(0, -1)],
        ["BytesBehindRecords", concat(whole, new Uint8Array(1))],
        // More than the largest records could fill: refused by the header alone.
        ["BytesBehindRecords", concat(headerBytesOf(2, 1n, 1), new Uint8Array(3_000_000))]
      ]
      for (const [code, bytes] of refusals) {
        const disk = diskWith({ [pathOf(1n)]: bytes })
        const before = contentsOf(disk)
        const error = yield* Effect.flip(on(disk, (vfs) => readSegment(vfs, pathOf(1n), epochOf(1n))))
        assert.strictEqual(error._tag, "SegmentUnreadable")
        if (error._tag !== "SegmentUnreadable") return
        assert.strictEqual(error.issue.code, code)
        assert.deepStrictEqual([error.path, error.epoch], [pathOf(1n), epochOf(1n)])
        assert.strictEqual(error.bytes, bytes.length, code)
        assert.include(error.message, `${pathOf(1n)} cannot be read (WAL segment: ${error.issue.field}`)
        assert.deepStrictEqual(contentsOf(disk), before)
      }
    }))

  it.effect("PW-20 no memory is taken for a file whose header does not fit it, nor more than the machine has", () =>
    Effect.gen(function*() {
      const claim = (recordCount: number, size: number) =>
        Effect.gen(function*() {
          const disk = diskWith({ [pathOf(1n)]: concat(headerBytesOf(2, 1n, recordCount), new Uint8Array(100)) })
          let largest = 0
          const error = yield* Effect.flip(on(disk, (vfs) => {
            const open: Vfs["Service"]["open"] = (path, options) =>
              Effect.map(vfs.open(path, options), (file) => ({
                ...file,
                size: Effect.succeed(size),
                read: (buffer, position) => {
                  largest = Math.max(largest, buffer.buffer.byteLength)
                  return file.read(buffer, position)
                }
              }))
            return readSegment({ ...vfs, open }, pathOf(1n), epochOf(1n))
          }))
          assert.isAtMost(largest, 1024 * 1024)
          assert.strictEqual(error._tag, "SegmentUnreadable")
          return error._tag === "SegmentUnreadable" ? error.issue.code : ""
        })
      assert.strictEqual(yield* claim(0xffffffff, 100_000_000), "TooManyRecords")
      assert.strictEqual(yield* claim(0, 100_000_000), "BytesBehindRecords")
      // 4 G records could be that long; no machine can hold them.
      assert.strictEqual(yield* claim(0xffffffff, 2 ** 48), "TooLarge")
    }))

  it.effect("PW-20 a large segment is read in parts, to the same checksum", () =>
    Effect.gen(function*() {
      const records = Array.from(
        { length: 40 },
        (_, i) => recordOf({ begin: BigInt(i), after: new Uint8Array(65_536).fill(i) })
      )
      const disk = diskWith({ [pathOf(7n)]: segmentBytesOf(2, 7n, records) })
      const { bytes, crc, segment } = yield* on(disk, (vfs) => readSegment(vfs, pathOf(7n), epochOf(7n)))
      assert.isAbove(bytes, 2 * 1024 * 1024)
      assert.strictEqual(crc, certifiedChecksum([disk.readFile(pathOf(7n)) ?? new Uint8Array(0)]))
      assert.deepStrictEqual(segment.records, records)
    }))

  it.effect("a file that the system cannot read is a failure of the system, not of the segment", () =>
    Effect.gen(function*() {
      const disk = diskWith(three)
      disk.inject({ operation: "read", path: pathOf(2n), fault: { kind: "error", code: "EIO" }, times: 2 })
      for (const stopAtCorrupt of [false, true]) {
        const error = yield* Effect.flip(on(disk, (vfs) => recoverSegments(vfs, database, { stopAtCorrupt })))
        assert.deepStrictEqual([error._tag, error._tag === "VfsError" && error.code], ["VfsError", "EIO"])
      }
      const missing = yield* Effect.flip(on(disk, (vfs) => readSegment(vfs, pathOf(9n), epochOf(9n))))
      assert.strictEqual(missing._tag === "VfsError" && missing.code, "ENOENT")
    }))

  it.effect("a bit that flips on the way from the disk is noticed", () =>
    Effect.gen(function*() {
      const disk = diskWith(three)
      disk.inject({ operation: "read", path: pathOf(1n), fault: { kind: "flippedBit", position: 50, bit: 3 } })
      const error = yield* Effect.flip(on(disk, (vfs) => recoverSegments(vfs, database)))
      assert.isTrue(error._tag === "SegmentUnreadable" && error.issue.code === "RecordChecksumMismatch")
      assert.strictEqual((yield* on(disk, (vfs) => recoverSegments(vfs, database))).segmentsRecovered, 3)
    }))

  it.effect("PW-21 a batch of mixed epochs or with an oversize image is refused before any file is made", () =>
    Effect.gen(function*() {
      const disk = diskWith()
      const trace = disk.record()
      const refusal = (record: SegmentRecord) =>
        Effect.gen(function*() {
          const records = [recordOf({}), record]
          const error = yield* Effect.flip(
            on(disk, (vfs) => writeRecords(vfs, { database, epoch: epochOf(7n), attempt: 1, policy: "full", records }))
          )
          assert.strictEqual(error._tag, "FormatIssue")
          return error.code
        })
      assert.strictEqual(yield* refusal(recordOf({ epoch: 8n })), "EpochMismatch")
      assert.strictEqual(yield* refusal(recordOf({ after: new Uint8Array(65_537) })), "ImageTooLarge")
      assert.strictEqual(yield* refusal(recordOf({ before: new Uint8Array(65_537) })), "ImageTooLarge")
      assert.deepStrictEqual(trace.steps, [])
    }))

  it.effect("PW-22 whatever order records are handed over in, on replay the later commit wins the page", () =>
    Effect.gen(function*() {
      const records = [3n, 1n, 4n, 2n].map((begin) =>
        recordOf({ begin, id: 9n - begin, page: begin === 4n ? 6 : 5, after: utf8(`commit ${begin}`) })
      )
      const disk = diskWith()
      const recovered = yield* on(disk, (vfs) =>
        Effect.andThen(
          writeRecords(vfs, { database, epoch: epochOf(7n), attempt: 1, policy: "full", records }),
          recoverSegments(vfs, database)
        ))
      assert.deepStrictEqual(disk.readFile(pathOf(7n)), segmentBytesOf(2, 7n, records.toSorted(recoveryOrder)))
      assert.deepStrictEqual(textOf(recovered.pages), [[5, "commit 3"], [6, "commit 4"]])
    }))

  it.effect("PW-24 epochs 1 to 3 are recovered in order: three segments, three records, the last image per page", () =>
    Effect.gen(function*() {
      const disk = diskWith(three)
      const { pages, ...report } = yield* on(disk, (vfs) => recoverSegments(vfs, database))
      const paths = [1n, 2n, 3n].map(pathOf)
      assert.deepStrictEqual(report, {
        segmentsRecovered: 3,
        recordsApplied: 3,
        bytesRead: Object.values(three).reduce((sum, bytes) => sum + bytes.length, 0),
        epochs: [1n, 2n, 3n].map(epochOf),
        skipped: [],
        damage: undefined,
        deletable: paths,
        aborted: []
      })
      assert.deepStrictEqual(textOf(pages), [[1, "three"], [2, "two"]])
    }))

  it.effect("PW-24 an empty after image changes nothing; a record without an end is listed, never applied", () =>
    Effect.gen(function*() {
      for (const version of [1, 2] as const) {
        const disk = diskWith({
          [pathOf(1n)]: segmentOf(1n, { 1: "kept", 2: "kept too" }, version),
          [pathOf(2n)]: segmentBytesOf(version, 2n, [
            recordOf({ epoch: 2n, begin: 20n, page: 1, after: new Uint8Array(0) }),
            recordOf({ epoch: 2n, begin: 21n, page: 2, id: 5n, txnEpoch: 6, end: undefined, after: utf8("aborted") }),
            recordOf({ epoch: 2n, begin: 22n, page: 3, after: utf8("new") })
          ])
        })
        const recovered = yield* on(disk, (vfs) => recoverSegments(vfs, database))
        assert.deepStrictEqual(textOf(recovered.pages), [[1, "kept"], [2, "kept too"], [3, "new"]])
        assert.strictEqual(recovered.recordsApplied, 3)
        const { begin, page, token } = recordOf({ begin: 21n, page: 2, id: 5n, txnEpoch: 6 })
        assert.deepStrictEqual(recovered.aborted, [{ path: pathOf(2n), epoch: epochOf(2n), token, page, begin }])
      }
    }))

  it.effect("PW-24 a recovery holds one image for each page and no segment", () =>
    Effect.gen(function*() {
      const disk = diskWith({ [pathOf(1n)]: segmentOf(1n, { 1: "x".repeat(5000), 2: "short" }) })
      const { pages } = yield* on(disk, (vfs) => recoverSegments(vfs, database))
      for (const image of pages.values()) assert.strictEqual(image.buffer.byteLength, image.length)
    }))

  it.effect("PW-24 without a segment there is nothing to recover", () =>
    Effect.gen(function*() {
      const recovered = yield* on(diskWith(), (vfs) => recoverSegments(vfs, database))
      assert.deepStrictEqual([recovered.segmentsRecovered, recovered.pages.size, recovered.deletable], [0, 0, []])
    }))

  it.effect("PW-25 recovery fails closed on a corrupt or misnamed segment; stopAtCorrupt keeps the prefix", () =>
    Effect.gen(function*() {
      const bad: ReadonlyArray<readonly [string, Uint8Array]> = [
        ["RecordChecksumMismatch", flipped(segmentOf(2n, { 2: "two" }), 60)],
        ["Truncated", segmentOf(2n, { 2: "two" }).subarray(0, -3)],
        ["EpochNotOfName", segmentOf(4n, { 2: "four" })],
        ["EpochMismatch", concat(headerBytesOf(1, 2n, 1), recordBytesOf(1, recordOf({ epoch: 3n })))]
      ]
      for (const [code, bytes] of bad) {
        const disk = diskWith({ ...three, [pathOf(2n)]: bytes })
        const error = yield* Effect.flip(on(disk, (vfs) => recoverSegments(vfs, database)))
        assert.isTrue(
          error._tag === "SegmentUnreadable" && error.issue.code === code && error.path === pathOf(2n),
          `${code}: ${error.message}`
        )
        const prefix = yield* on(disk, (vfs) => recoverSegments(vfs, database, { stopAtCorrupt: true }))
        assert.deepStrictEqual(textOf(prefix.pages), [[1, "one"]])
        assert.deepStrictEqual(prefix.epochs, [epochOf(1n)])
        assert.deepStrictEqual(prefix.skipped, [pathOf(2n), pathOf(3n)])
        assert.deepStrictEqual(prefix.deletable, [pathOf(1n)])
        assert.strictEqual(prefix.damage?.issue.code, code)
      }
    }))

  it.effect("PW-26 recovery changes nothing on the disk, whether it succeeds or fails", () =>
    Effect.gen(function*() {
      const disk = diskWith({ ...three, [`${pathOf(4n)}.tmp-1`]: new Uint8Array(5) })
      const trace = disk.record()
      assert.deepStrictEqual((yield* on(disk, (vfs) => recoverSegments(vfs, database))).segmentsRecovered, 3)
      trace.stop()
      disk.writeFile(pathOf(3n), new Uint8Array(10))
      const again = disk.record()
      yield* Effect.flip(on(disk, (vfs) => recoverSegments(vfs, database)))
      yield* on(disk, (vfs) => recoverSegments(vfs, database, { stopAtCorrupt: true }))
      assert.deepStrictEqual([...trace.steps, ...again.steps], [])
    }))

  it.effect("PW-26 what a recovery called deletable is removed durably, and what is gone already is fine", () =>
    Effect.gen(function*() {
      const disk = diskWith(three)
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          assert.strictEqual(yield* removeSegments(vfs, database, [pathOf(1n), pathOf(2n), pathOf(9n)]), 2)
          assert.deepStrictEqual(disk.files, [database, pathOf(3n)])
          assert.deepStrictEqual(disk.unsynced, [])
          assert.strictEqual(yield* removeSegments(vfs, database, [pathOf(1n)]), 0)
          disk.inject({ operation: "remove", fault: { kind: "error", code: "EACCES" } })
          const error = yield* Effect.flip(removeSegments(vfs, database, [pathOf(3n)]))
          assert.strictEqual(error.code, "EACCES")
        }))
    }))

  it.effect("PW-27 the highest readable epoch: none without segments", () =>
    Effect.gen(function*() {
      const highest = (segments: Record<string, Uint8Array>) =>
        on(diskWith(segments), (vfs) => maxDurableEpoch(vfs, database))
      assert.isUndefined(yield* highest({}))
      assert.strictEqual(yield* highest(three), 3n)
      assert.strictEqual(yield* highest({ ...three, [pathOf(4n)]: new Uint8Array(24) }), 3n)
      assert.strictEqual(yield* highest({ ...three, [pathOf(4n)]: segmentOf(5n, {}) }), 3n)
      assert.isUndefined(yield* highest({ [pathOf(4n)]: new Uint8Array(0) }))
      const disk = diskWith(three)
      disk.inject({ operation: "read", fault: { kind: "error", code: "EIO" } })
      assert.strictEqual((yield* Effect.flip(on(disk, (vfs) => maxDurableEpoch(vfs, database)))).code, "EIO")
    }))

  it.effect("PW-27 cleaning up removes all segments and says how many, but none above the checkpoint mark", () =>
    Effect.gen(function*() {
      const cleanup = (disk: MemoryDisk, checkpointed: bigint | undefined, force?: boolean) =>
        Effect.result(on(disk, (vfs) =>
          cleanupSegments(vfs, database, {
            checkpointed: checkpointed === undefined ? undefined : epochOf(checkpointed),
            force
          })))
      const segments = { ...three, [pathOf(2n)]: new Uint8Array(1) }
      const temporary = `${pathOf(4n)}.tmp-1`
      for (const [mark, above] of [[undefined, [1n, 2n, 3n]], [0n, [1n, 2n, 3n]], [2n, [3n]]] as const) {
        const disk = diskWith(segments)
        const before = contentsOf(disk)
        const refused = yield* cleanup(disk, mark)
        assert.isTrue(Result.isFailure(refused) && refused.failure._tag === "SegmentsNotCheckpointed")
        if (Result.isFailure(refused) && refused.failure._tag === "SegmentsNotCheckpointed") {
          assert.deepStrictEqual(refused.failure.paths, above.map(pathOf))
          assert.include(refused.failure.message, "nothing was removed")
        }
        assert.deepStrictEqual(contentsOf(disk), before)
      }
      for (const [mark, force] of [[3n, false], [4n, false], [2n, true], [undefined, true]] as const) {
        const disk = diskWith({ ...segments, [temporary]: new Uint8Array(1) })
        assert.deepStrictEqual(yield* cleanup(disk, mark, force), Result.succeed(3))
        assert.deepStrictEqual(disk.files, [database, temporary])
        assert.deepStrictEqual(disk.unsynced, [])
      }
      assert.deepStrictEqual(yield* cleanup(diskWith(), undefined), Result.succeed(0))
    }))

  it.live("on real files", () =>
    Effect.gen(function*() {
      const directory = yield* Effect.acquireRelease(
        Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-segments-"))),
        (made) => Effect.sync(() => rmSync(made, { recursive: true, force: true }))
      )
      const vfs = yield* Vfs
      const path = join(directory, "app.db")
      const policies = ["full", "normal", "off"] as const
      for (const [index, policy] of policies.entries()) {
        const epoch = epochOf(BigInt(index + 1))
        const records = [recordOf({ epoch, begin: BigInt(index + 1), page: index + 1, after: utf8(policy) })]
        const written = yield* writeRecords(vfs, {
          database: path,
          epoch,
          attempt: 1,
          policy,
          records,
          background: index === 1
        })
        assert.strictEqual(certifiedChecksum([readFileSync(segmentPath(path, epoch))]), written.crc)
      }
      const recovered = yield* recoverSegments(vfs, path)
      assert.deepStrictEqual(textOf(recovered.pages), [[1, "full"], [2, "normal"], [3, "off"]])
      assert.strictEqual(yield* cleanupSegments(vfs, path, { checkpointed: epochOf(3n) }), 3)
      assert.deepStrictEqual(readdirSync(directory), [])
    }).pipe(Effect.provide(NodeVfs.layer)))
})

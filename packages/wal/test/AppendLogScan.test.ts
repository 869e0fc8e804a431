import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect } from "effect"
import { LogCorrupt } from "../src/AppendLogErrors.ts"
import { offsetOf, preparedSegmentName } from "../src/AppendLogFormat.ts"
import { examineDirectory, scanDirectory, scanSegment } from "../src/AppendLogScan.ts"
import {
  buildLog,
  buildSegment,
  type BuiltSegment,
  directory,
  diskWith,
  examine,
  examineFiles,
  logId,
  payload
} from "./support/appendLogFiles.ts"

const files = (segments: ReadonlyArray<Pick<BuiltSegment, "name" | "bytes">>): Record<string, Uint8Array> =>
  Object.fromEntries(segments.map(({ bytes, name }) => [name, bytes]))

/** A log of four segments, of which the first ones were truncated away. */
const log = buildLog(
  [
    [{ pieces: [10, 20] }, { pieces: [30, { pad: 16 }] }],
    [{ pieces: [40] }],
    [{ pieces: [50] }, { pieces: [60], flagged: false }],
    [{ pieces: [70] }, { pieces: [80, 90] }, { pieces: [100], flagged: false }]
  ],
  { startLsn: 8192, index: 5 }
)
const [first, second, third, fourth] = log as unknown as readonly [
  // Four segments were asked for.
  BuiltSegment,
  BuiltSegment,
  BuiltSegment,
  BuiltSegment
]

/** The log with one segment replaced by other bytes. */
const withBytes = (segment: BuiltSegment, bytes: Uint8Array) => ({ ...files(log), [segment.name]: bytes })

const rewrittenHeader = ({ bytes }: BuiltSegment, change: (view: DataView) => void): Uint8Array => {
  const copy = bytes.slice()
  const view = new DataView(copy.buffer)
  change(view)
  view.setUint32(60, crc32c(copy.subarray(0, 60)), true)
  return copy
}

const path = ({ name }: BuiltSegment) => `${directory}/${name}`

const firstProblem = async (found: Readonly<Record<string, Uint8Array>>) => {
  const report = await examineFiles(found)
  assert.strictEqual(report.problems.length, 1, "one thing is wrong, and is reported once")
  assert.isUndefined(report.tornTail, "a damaged log has no tail")
  assert.strictEqual(report.endLsn, report.problems[0]?.lsn, "the log is whole up to the first problem")
  return report.problems[0]
}

describe("AppendLogScan", () => {
  it("LOG-02 a whole log: what is in it, and where; every record lies where its LSN says", async () => {
    const report = await examineFiles(files(log))
    assert.deepStrictEqual(report.problems, [])
    assert.isUndefined(report.tornTail)
    assert.deepStrictEqual(report.logId, logId)
    assert.strictEqual(report.firstLsn, toLsn(8192))
    assert.strictEqual(report.endLsn, fourth.endLsn)
    assert.strictEqual(report.batches, 8)
    assert.strictEqual(report.records, 10)
    assert.deepStrictEqual(report.segments.map(({ name }) => name), log.map(({ name }) => name))
    assert.deepStrictEqual(report.segments.map(({ header }) => header?.segmentIndex), [5n, 6n, 7n, 8n])
    assert.deepStrictEqual(report.segments.map(({ payloadBytes }) => payloadBytes), [60, 40, 110, 340])
    for (const [index, { bytes, endLsn, startLsn }] of report.segments.entries()) {
      assert.strictEqual(startLsn, log[index]?.startLsn)
      assert.strictEqual(endLsn, log[index]?.endLsn)
      assert.strictEqual(bytes, log[index]?.bytes.length)
    }
    // The last record of the log, found in the raw bytes: its payload was made of its offset.
    const offset = fourth.bytes.length - 16 - 104 - 8
    assert.strictEqual(offsetOf(toLsn(fourth.endLsn - 16 - 104 - 8), fourth.startLsn), offset)
    assert.deepStrictEqual(fourth.bytes.slice(offset + 8, offset + 108), payload(100, offset))
  })

  it("what is known to have been durable ends with the batch before the last one that has the flag", async () => {
    const report = await examineFiles(files(log))
    const lsn = ({ cuts, startLsn }: BuiltSegment, batch: number) => toLsn(startLsn + (cuts[batch] ?? 0) - 64)
    assert.deepStrictEqual(
      report.segments.map(({ durableLsn }) => durableLsn),
      [lsn(first, 1), lsn(second, 0), lsn(third, 0), lsn(fourth, 1)]
    )
  })

  it("a directory in which no log was begun: empty, or with a lock and temporary files only", async () => {
    const leftovers: ReadonlyArray<ReadonlyArray<string>> = [[], [preparedSegmentName(0n), ".tmp-notes-12345678"]]
    for (const names of leftovers) {
      const report = await examineFiles(Object.fromEntries(names.map((name) => [name, new Uint8Array(100)] as const)))
      assert.deepStrictEqual(report.segments, [])
      assert.deepStrictEqual(report.problems, [])
      assert.deepStrictEqual(report.temporaries, names.toSorted())
      assert.strictEqual(report.endLsn, toLsn(0))
      assert.isUndefined(report.logId)
    }
  })

  it.effect("a directory that does not exist is not an empty log", () =>
    Effect.gen(function*() {
      const vfs = yield* Vfs
      const refused = yield* Effect.flip(scanDirectory(vfs, "/nowhere"))
      assert.deepInclude(refused, { _tag: "VfsError", operation: "list", code: "ENOENT" })
    }).pipe(Effect.provide(MemoryVfs.layer)))

  it("a last segment that had just begun: a header, and nothing or zeros behind it", async () => {
    for (const bytes of [64, 65, 4096]) {
      const begun = buildSegment([], { startLsn: fourth.endLsn, index: 9, bytes })
      const report = await examineFiles(files([...log, begun]))
      assert.deepStrictEqual(report.problems, [])
      assert.isUndefined(report.tornTail)
      assert.strictEqual(report.endLsn, fourth.endLsn)
      assert.strictEqual(report.segments.length, 5)
    }
  })

  it("RC-12 batches behind the last one of a new segment are a tail of that segment", async () => {
    const begun = buildSegment([{ pieces: [300] }], { startLsn: fourth.endLsn, index: 9 })
    begun.bytes.fill(0, 100, 120)
    const report = await examineFiles(files([...log, begun]))
    assert.deepStrictEqual(report.problems, [])
    assert.deepInclude(report.tornTail, { lsn: fourth.endLsn, path: path(begun), offset: 64 })
    assert.strictEqual(report.endLsn, fourth.endLsn)
  })

  it("RC-25 temporary and prepared files are named, foreign ones too, and neither is looked into", async () => {
    const report = await examineFiles({
      ...files(log),
      [preparedSegmentName(9n)]: fourth.bytes,
      ".tmp-0000000000002000.tlog-12345678": new Uint8Array(3),
      "notes.txt": new Uint8Array(3),
      "0000000000000000.tlog.bak": first.bytes,
      ".0000000000000000.tlog": first.bytes
    })
    assert.deepStrictEqual(report.problems, [])
    assert.deepStrictEqual(report.temporaries, [".tmp-0000000000002000.tlog-12345678", preparedSegmentName(9n)])
    assert.deepStrictEqual(report.foreign, [".0000000000000000.tlog", "0000000000000000.tlog.bak", "notes.txt"])
    assert.strictEqual(report.endLsn, fourth.endLsn)
  })

  describe("RC-13", () => {
    it("a segment between two others is missing: LogCorrupt names its file", async () => {
      const problem = await firstProblem(files([first, third, fourth]))
      assert.deepInclude(problem, { lsn: second.startLsn, path: path(second), offset: 0 })
      assert.include(problem?.message, "is missing, as are 1 segments in all: the next segment")
      assert.deepInclude(await firstProblem(files([first, fourth])), { lsn: second.startLsn, path: path(second) })
    })

    it("missing segments at the front were truncated away, and nobody can tell that one at the end is missing", async () => {
      for (const kept of [[second, third, fourth], [fourth], [first, second, third]]) {
        const report = await examineFiles(files(kept))
        assert.deepStrictEqual(report.problems, [])
        assert.strictEqual(report.firstLsn, kept[0]?.startLsn)
        assert.strictEqual(report.endLsn, kept.at(-1)?.endLsn)
      }
    })

    it("a segment ends before the next one starts although none is missing", async () => {
      const problem = await firstProblem(withBytes(third, third.bytes.slice(0, third.cuts[1])))
      const lsn = toLsn(third.startLsn + (third.cuts[1] ?? 0) - 64)
      assert.deepInclude(problem, { lsn, path: path(third), offset: third.cuts[1] ?? 0 })
      const zeroed = third.bytes.slice().fill(0, third.cuts[1])
      assert.deepInclude(await firstProblem(withBytes(third, zeroed)), { lsn, path: path(third) })
    })

    it("damage and a missing segment behind it: the damage comes first", async () => {
      const bytes = first.bytes.slice()
      bytes[70] = 0xee
      const problem = await firstProblem({
        [first.name]: bytes,
        [third.name]: third.bytes,
        [fourth.name]: fourth.bytes
      })
      assert.deepInclude(problem, { lsn: first.startLsn, path: path(first), offset: 64 })
    })

    it("a segment goes on behind the start of the next one", async () => {
      const longer = buildSegment([{ pieces: [40] }, { pieces: [41] }], { startLsn: second.startLsn, index: 6 })
      const problem = await firstProblem(withBytes(second, longer.bytes))
      assert.deepInclude(problem, { lsn: longer.endLsn, path: path(second) })
      assert.include(problem?.message, "overlaps")
    })

    it("header by header: the log id, the index, the start", async () => {
      const foreign = rewrittenHeader(third, (view) => view.setUint8(16, 1))
      const stranger = await firstProblem(withBytes(third, foreign))
      assert.deepInclude(stranger, { lsn: third.startLsn, path: path(third) })
      assert.include(stranger?.message, "belongs to another log")
      for (const index of [0n, 7n, 9n]) {
        const renumbered = rewrittenHeader(fourth, (view) => view.setBigUint64(40, index, true))
        const problem = await firstProblem(withBytes(fourth, renumbered))
        assert.deepInclude(problem, { lsn: fourth.startLsn, path: path(fourth) })
        assert.include(problem?.message, `has index ${index}, and the segment before it has 7`)
      }
      const moved = rewrittenHeader(third, (view) => view.setBigUint64(32, BigInt(third.startLsn) + 8n, true))
      const misplaced = await firstProblem(withBytes(third, moved))
      assert.deepInclude(misplaced, { lsn: third.startLsn, path: path(third) })
      assert.include(misplaced?.message, `has the header of the segment that starts at ${third.startLsn + 8}`)
      const newer = rewrittenHeader(third, (view) => view.setUint16(8, 2, true))
      assert.include((await firstProblem(withBytes(third, newer)))?.message, "was written by something newer")
    })

    it("a header that is none, in the first, a middle and the last segment: it was durable before it had its name", async () => {
      for (const segment of [first, third, fourth]) {
        for (const bytes of [new Uint8Array(0), new Uint8Array(63), new Uint8Array(4096), segment.bytes.slice(8)]) {
          const problem = await firstProblem(withBytes(segment, bytes))
          assert.deepInclude(problem, { lsn: segment.startLsn, path: path(segment), offset: 0 })
          assert.include(problem?.message, "has no whole header")
        }
      }
    })

    it("a name that looks like that of a segment and is none, or is that of a directory", async () => {
      for (const name of ["0000000000002ABC.tlog", "segment.tlog", "0000000000002000 (copy).tlog"]) {
        const problem = await firstProblem({ ...files([first]), [name]: second.bytes })
        assert.deepInclude(problem, { lsn: first.endLsn, path: `${directory}/${name}`, offset: 0 })
      }
      const disk = diskWith(files([first]))
      disk.writeFile(`${directory}/${second.name}/x`, new Uint8Array(1))
      const report = await examine(disk)
      assert.deepInclude(report.problems[0], { lsn: first.endLsn, path: path(second) })
      assert.strictEqual(report.segments.length, 1)
    })

    it("every problem is reported, the first of them refuses", async () => {
      const disk = diskWith({
        ...files([first, third]),
        [fourth.name]: fourth.bytes.slice(0, 10),
        "x.tlog": new Uint8Array(1)
      })
      const report = await examine(disk)
      assert.deepStrictEqual(
        report.problems.map(({ path }) => path.slice(directory.length + 1)),
        [second.name, fourth.name, "x.tlog"]
      )
      const refused = await Effect.runPromise(
        Effect.flatMap(Vfs, (vfs) => Effect.flip(scanDirectory(vfs, directory))).pipe(
          Effect.provide(MemoryVfs.layerDisk(disk))
        )
      )
      assert.instanceOf(refused, LogCorrupt)
      assert.deepInclude(refused, { path: path(second), isRetryable: false, sqliteCode: 11 })
    })
  })

  it("what lies behind the last batch of a segment that is not the last is counted and means nothing", async () => {
    // The rest of a recycled file, with commit frames in it that have the flag, and one that even is of this log.
    const stale = buildSegment([{ pieces: [300] }, { pieces: [7] }], { startLsn: 0 })
    for (const rest of [new Uint8Array(500), stale.bytes.subarray(64), fourth.bytes.subarray(64)]) {
      const report = await examineFiles(withBytes(second, new Uint8Array([...second.bytes, ...rest])))
      assert.deepStrictEqual(report.problems, [])
      assert.strictEqual(report.endLsn, fourth.endLsn)
      assert.strictEqual(report.segments[1]?.trailingBytes, rest.findLastIndex((byte) => byte !== 0) + 1)
    }
  })

  it("LOG-05 nothing is changed on the disk, whatever is found", async () => {
    const damaged = second.bytes.slice()
    damaged[100] = 0xee
    const torn = fourth.bytes.slice(0, -1)
    const found = { ...files(log), [second.name]: damaged, [fourth.name]: torn, [preparedSegmentName(9n)]: torn }
    const disk = diskWith(found)
    const before = disk.files.map((path) => [path, disk.readFile(path)])
    const trace = disk.record()
    await examine(disk)
    await Effect.runPromise(
      Effect.flatMap(Vfs, (vfs) => scanSegment(vfs, path(fourth))).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
    )
    trace.stop()
    assert.deepStrictEqual(trace.steps, [])
    assert.deepStrictEqual(disk.files.map((path) => [path, disk.readFile(path)]), before)
  })

  it("one segment by itself, under any name", async () => {
    const disk = MemoryDisk.make({ async: false })
    disk.writeFile("/elsewhere/copy.bin", fourth.bytes)
    disk.writeFile("/elsewhere/broken.tlog", fourth.bytes.slice(0, 20))
    disk.writeFile(`/elsewhere/${third.name}`, new Uint8Array(64))
    const scanAt = (path: string) =>
      Effect.runPromise(
        Effect.flatMap(Vfs, (vfs) => scanSegment(vfs, path)).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
      )
    const scan = await scanAt("/elsewhere/copy.bin")
    assert.deepInclude(scan, { name: "copy.bin", startLsn: fourth.startLsn, endLsn: fourth.endLsn, batches: 3 })
    assert.deepInclude(await scanAt("/elsewhere/broken.tlog"), { header: undefined, startLsn: toLsn(0), batches: 0 })
    const blank = await scanAt(`/elsewhere/${third.name}`)
    assert.strictEqual(blank.issue?.code, "BadMagic")
    assert.strictEqual(blank.startLsn, third.startLsn)
  })

  it("progress adds up to the bytes of the segments", async () => {
    const [first, second] = buildLog([[{ pieces: [3_000_000] }], [{ pieces: [10] }]], { bytes: 4096 })
    assert.isDefined(first)
    assert.isDefined(second)
    const large = [
      first,
      { ...second, bytes: new Uint8Array([...second.bytes, 1, 2, 3]) },
      { name: "0000000000010000.tlog", bytes: new Uint8Array(500) }
    ]
    let seen = 0
    const report = await Effect.runPromise(
      Effect.flatMap(Vfs, (vfs) =>
        examineDirectory(vfs, directory, {
          onProgress: (bytes) => {
            seen += bytes
          }
        })).pipe(Effect.provide(MemoryVfs.layerDisk(diskWith(files(large)))))
    )
    assert.strictEqual(seen, report.segments.reduce((sum, { bytes }) => sum + bytes, 0))
  })

  it("the reason why the walk ended is a phrase about the batch that would stand there", async () => {
    const [head, end] = [third.cuts[1] ?? 0, third.cuts[2] ?? 0]
    const reasonOf = async (bytes: Uint8Array) => (await examineFiles({ [third.name]: bytes })).segments[0]?.stop
    const changed = (offset: number, value: number) => {
      const bytes = third.bytes.slice()
      bytes[offset] = value
      return bytes
    }
    assert.isUndefined(await reasonOf(third.bytes))
    assert.strictEqual(await reasonOf(new Uint8Array([...third.bytes, 0])), "is cut off by the end of the file")
    assert.strictEqual(await reasonOf(third.bytes.slice(0, end - 16)), "is cut off by the end of the file")
    assert.strictEqual(await reasonOf(third.bytes.slice(0, end - 17)), "goes on behind the end of the file")
    assert.strictEqual(await reasonOf(third.bytes.slice(0, end - 1)), "goes on behind the end of the file")
    assert.strictEqual(await reasonOf(changed(end - 16, 0)), "has a frame that is none")
    assert.strictEqual(await reasonOf(third.bytes.slice().fill(0, end - 16)), "is cut off by zeros")
    assert.strictEqual(await reasonOf(changed(head, 9)), "has a frame that is none")
    assert.strictEqual(await reasonOf(changed(head + 8, 0)), "does not have the checksum in its commit frame")
    assert.strictEqual(await reasonOf(changed(end - 17, 1)), "has a frame whose padding is not zero")
    assert.strictEqual(await reasonOf(changed(end - 8, 1)), "ends with the commit frame of another one")
  })

  describe("a log that is written meanwhile", () => {
    /** Looks at the disk while something happens before each read; the first, number 0, is that of the header. */
    const meanwhile = (disk: MemoryDisk, happens: (read: number) => void, maxReadBytes = Infinity) =>
      Effect.runPromise(
        Effect.gen(function*() {
          const vfs = yield* Vfs
          let reads = 0
          return yield* examineDirectory({
            ...vfs,
            open: (path, options) =>
              Effect.map(vfs.open(path, options), (file) => ({
                ...file,
                read: (buffer, position) =>
                  Effect.suspend(() => {
                    happens(reads++)
                    return file.read(buffer.subarray(0, Math.min(buffer.length, maxReadBytes)), position)
                  })
              }))
          }, directory)
        }).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
      )

    const whole = buildSegment([{ pieces: [10] }, { pieces: [20, 30] }, { pieces: [40] }], { bytes: 4096 })

    it("a batch that was not there yet when its place was read is not damage because the one behind it is", async () => {
      const second = whole.cuts[1] ?? 0
      // Nothing of the second batch was there, its first record, everything but its commit frame.
      for (const writtenBytes of [second, second + 32, (whole.cuts[2] ?? 0) - 16]) {
        // The header, one block and the tail are read. In small blocks it happens behind every one of them.
        for (let reads = 1; reads < 8; reads++) {
          const disk = diskWith({ [whole.name]: whole.bytes.slice().fill(0, writtenBytes) })
          const happens = (read: number) => {
            if (read === reads) disk.writeFile(path(whole), whole.bytes)
          }
          const report = await meanwhile(disk, happens, reads < 4 ? Infinity : 64)
          assert.deepStrictEqual(report.problems, [])
          const isLate = report.endLsn === toLsn(second - 64)
          assert.deepStrictEqual(
            [report.batches, report.records, report.segments[0]?.payloadBytes],
            isLate ? [1, 1, 10] : [3, 4, 100]
          )
          if (!isLate) {
            assert.strictEqual(report.endLsn, whole.endLsn)
            assert.isUndefined(report.tornTail)
          }
        }
      }
    })

    it("what was written behind the tail that was seen is no tail", async () => {
      const disk = diskWith({ [whole.name]: whole.bytes.slice().fill(0, whole.cuts[1]) })
      const longer = buildSegment([{ pieces: [10] }, { pieces: [20, 30] }, { pieces: [40] }, { pieces: [50] }], {
        bytes: 4096
      })
      const report = await meanwhile(disk, (read) => {
        // Before the tail is looked through, and before the batches are walked through again.
        if (read === 2) disk.writeFile(path(whole), whole.bytes)
        if (read === 4) disk.writeFile(path(whole), longer.bytes)
      })
      assert.strictEqual(report.endLsn, longer.endLsn)
      assert.strictEqual(report.segments[0]?.trailingBytes, 0)
    })

    it("but damage is, although the log goes on behind it", async () => {
      const damaged = whole.bytes.slice()
      damaged[(whole.cuts[1] ?? 0) + 9] = 0xee
      const disk = diskWith({ [whole.name]: damaged.slice().fill(0, whole.cuts[2]) })
      const report = await meanwhile(disk, (read) => {
        if (read === 2) disk.writeFile(path(whole), damaged)
      })
      assert.strictEqual(report.problems[0]?.offset, whole.cuts[1])
    })

    it("a segment that is truncated away between being listed and being opened is not missing", async () => {
      const disk = diskWith(files(log))
      const report = await Effect.runPromise(
        Effect.gen(function*() {
          const vfs = yield* Vfs
          let lists = 0
          return yield* examineDirectory({
            ...vfs,
            list: (path) =>
              Effect.tap(vfs.list(path), () => lists++ === 0 ? vfs.remove(`${path}/${first.name}`) : Effect.void)
          }, directory)
        }).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
      )
      assert.deepStrictEqual(report.problems, [])
      assert.strictEqual(report.firstLsn, second.startLsn)
    })

    it("a file that becomes shorter while it is read ends where it ends", async () => {
      const disk = diskWith({ [whole.name]: whole.bytes })
      const report = await meanwhile(disk, (read) => {
        if (read === 1) disk.writeFile(path(whole), whole.bytes.slice(0, whole.cuts[2]))
      })
      assert.deepStrictEqual(report.problems, [])
      assert.strictEqual(report.batches, 2)
    })
  })
})

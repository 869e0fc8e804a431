import { assert, describe, it } from "@effect/vitest"
import { toLsn, toPageNumber, toTxnId } from "@tidemark/core/Scalars"
import * as Format from "@tidemark/wal/AppendLogFormat"
import * as TransactionRecordFormat from "@tidemark/wal/TransactionRecordFormat"
import { Effect } from "effect"
import { copyFileSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { logId, type MadeSegment, makeLog, text } from "./support/appendLogs.ts"
import {
  assertFailed,
  assertNoStack,
  documentOf,
  mainPath,
  objectIn,
  objectsIn,
  runCommand,
  temporaryDirectory,
  tidemark,
  unchanged
} from "./support/program.ts"

const alwaysThere = ["kind", "path", "bytes", "valid", "header", "summary", "problems"]
const logIdHex = Buffer.from(logId).toString("hex")

/** Bytes of the frame of a short text. */
const headBytes = 8
const commitBytes = 16

const only = (segments: ReadonlyArray<MadeSegment>): MadeSegment => {
  const [segment, ...others] = segments
  assert(segment !== undefined && others.length === 0)
  return segment
}

const flip = (path: string, offset: number) => {
  const bytes = readFileSync(path)
  bytes[offset] = (bytes[offset] ?? 0) ^ 0x40
  writeFileSync(path, bytes)
}

describe("inspect of a segment", () => {
  it.effect("shows the header under the names of the format, and the frames of a range of LSNs", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const segment = only(
        makeLog(directory, [[[text("first"), text("second one")], [text("third"), 24]]], {
          start: 4096,
          firstIndex: 2n ** 60n,
          zerosAhead: 4096
        })
      )
      const ended = yield* unchanged(directory, "inspect", segment.path, "--records", "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      const document = documentOf(ended)
      assert.containsAllKeys(document, [...alwaysThere, "records"])
      assert.deepInclude(document, { kind: "append-log-segment", path: segment.path, valid: true, problems: [] })
      assert.deepStrictEqual(document["header"], {
        logId: logIdHex,
        startLsn: "4096",
        segmentIndex: String(2n ** 60n),
        createdUnixNs: "1700000000123456789"
      })
      assert.deepInclude(document["summary"], {
        batches: 2,
        records: 3,
        pads: 1,
        payloadBytes: 20,
        firstLsn: "4096",
        lastRecordLsn: String(segment.batches[1]?.lsns[0]),
        endLsn: String(segment.end),
        created: "2023-11-14T22:13:20.123Z",
        tornTailBytes: 0
      })
      const records = objectsIn(document, "records")
      assert.deepStrictEqual(
        records.map(({ index, lsn, payloadLength, type, valid }) => [index, lsn, type, payloadLength, valid]),
        [
          [0, "4096", "record", 5, true],
          [1, "4112", "record", 10, true],
          [2, "4136", "commit", null, true],
          [3, "4152", "record", 5, true],
          [4, "4168", "pad", 16, true],
          [5, "4192", "commit", null, true]
        ]
      )
      assert.deepStrictEqual(records.map(({ offset }) => offset), [64, 80, 104, 120, 136, 160])
      const bytes = readFileSync(segment.path)
      assert.deepStrictEqual(objectIn(records[5] ?? {}, "batch"), {
        startLsn: "4152",
        checksum: bytes.readUInt32LE(164),
        earlierIsDurable: true
      })

      const range = yield* tidemark("inspect", segment.path, "--from", "4112", "--to", "4152", "--json")
      assert.deepStrictEqual(objectsIn(documentOf(range), "records").map(({ index }) => index), [1, 2, 3])
    }))

  it.effect("answers no records for a range beyond the end, and says so to people", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const segment = only(makeLog(directory, [[[text("all there is")]]], { zerosAhead: 512 }))
      const beyond = yield* unchanged(directory, "inspect", segment.path, "--from", String(segment.end), "--json")
      assert.strictEqual(beyond.code, 0, beyond.stderr)
      assert.deepInclude(documentOf(beyond), { valid: true, records: [] })
      const people = yield* tidemark("inspect", segment.path, "--from", "9007199254740991")
      assert.strictEqual(people.code, 0)
      assert.match(people.stdout, /Records\n +none in this range\n$/)
    }))

  it.effect("LOG-13 shows what typed payloads say, wherever they lie, and nothing of those that only look like them", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const txnId = toTxnId(2n ** 61n)
      const pageWrite = TransactionRecordFormat.encode({
        _tag: "PageWrite",
        txnId,
        page: toPageNumber(7),
        bytes: new Uint8Array(65_536).fill(5)
      })
      const frames = [
        TransactionRecordFormat.encode({ _tag: "Begin", txnId }),
        // Three of them in a row lie across any two blocks of a reader whose blocks are shorter than they are.
        pageWrite,
        pageWrite,
        pageWrite,
        new Uint8Array(300_000).fill(4),
        TransactionRecordFormat.encode({ _tag: "Checkpoint", lsn: toLsn(4096) }),
        Uint8Array.of(1, 2, 3),
        TransactionRecordFormat.encode({ _tag: "Commit", txnId })
      ]
      const segment = only(makeLog(directory, [[frames]]))
      const ended = yield* tidemark("inspect", segment.path, "--records", "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      const id = String(txnId)
      const written = { tag: "PageWrite", txnId: id, page: 7, length: 65_536 }
      assert.deepStrictEqual(objectsIn(documentOf(ended), "records").map(({ transaction }) => transaction), [
        { tag: "Begin", txnId: id },
        written,
        written,
        written,
        null,
        { tag: "Checkpoint", lsn: "4096" },
        null,
        { tag: "Commit", txnId: id },
        null
      ])
    }))

  it.effect("keeps its keys for truncated headers and foreign files with the name of a segment", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const segment = only(makeLog(directory, [[[text("x")]]]))
      const name = segment.path.slice(directory.length + 1)
      for (const folder of ["short", "broken", "foreign"]) mkdirSync(`${directory}/${folder}`)
      copyFileSync(segment.path, `${directory}/short/${name}`)
      truncateSync(`${directory}/short/${name}`, 63)
      copyFileSync(segment.path, `${directory}/broken/${name}`)
      flip(`${directory}/broken/${name}`, 20)
      writeFileSync(`${directory}/foreign/${name}`, "this is not a log\n".repeat(20))
      for (
        const [folder, kind, what] of [
          ["short", "append-log-segment", /63 bytes, expected 64 bytes/],
          ["broken", "append-log-segment", /CRC-32C is /],
          ["foreign", "unknown", /none of the magics/]
        ] as const
      ) {
        const ended = yield* unchanged(directory, "inspect", `${directory}/${folder}/${name}`, "--records", "--json")
        assert.strictEqual(ended.code, 1, ended.stderr)
        const document = documentOf(ended)
        assert.containsAllKeys(document, alwaysThere)
        assert.deepInclude(document, { kind, valid: false, header: null, records: [] })
        const [problem] = objectsIn(document, "problems")
        assert.deepInclude(problem, { severity: "corrupt" })
        assert.match(String(problem?.["what"]), what)
      }
    }))

  it.effect("RC-12 calls an end without its commit frame a tail, and its frames not valid", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const segment = only(makeLog(directory, [[[text("kept")], [text("torn"), text("and lost")]]]))
      truncateSync(segment.path, 64 + segment.end - commitBytes)
      const ended = yield* unchanged(directory, "inspect", segment.path, "--records", "--json")
      assert.strictEqual(ended.code, 1, ended.stderr)
      const document = documentOf(ended)
      const [kept] = segment.batches
      assert.deepInclude(document["summary"], {
        batches: 1,
        records: 1,
        endLsn: String(kept?.end),
        tornTailBytes: 32
      })
      assert.deepInclude(objectsIn(document, "problems")[0], { offset: 64 + (kept?.end ?? 0), severity: "tail" })
      assert.deepStrictEqual(objectsIn(document, "records").map(({ valid }) => valid), [true, true, false, false])
    }))

  it.effect("RC-13 calls a bad batch damage when a later one proves that it was durable", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const segment = only(makeLog(directory, [[[text("one")], [text("two")], [text("three")]]]))
      const [, second, third] = segment.batches
      assert(second !== undefined && third !== undefined)
      flip(segment.path, 64 + second.start + headBytes)
      const ended = yield* unchanged(directory, "inspect", segment.path, "--records", "--json")
      assert.strictEqual(ended.code, 1, ended.stderr)
      const document = documentOf(ended)
      const [problem, ...others] = objectsIn(document, "problems")
      assert.lengthOf(others, 0)
      assert.deepInclude(problem, { offset: 64 + second.start, severity: "corrupt" })
      assert.include(String(problem?.["what"]), `LSN ${third.end}`)
      assert.deepStrictEqual(objectsIn(document, "records").map(({ valid }) => valid), [
        true,
        true,
        false,
        false,
        false,
        false
      ])
    }))

  it.effect("lists a head that is none as such, and stops behind it", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const segment = only(makeLog(directory, [[[text("one"), text("two"), text("three")]]]))
      flip(segment.path, 64 + (segment.batches[0]?.lsns[1] ?? 0))
      const records = objectsIn(documentOf(yield* tidemark("inspect", segment.path, "--records", "--json")), "records")
      assert.deepStrictEqual(records.map(({ lsn, type, valid }) => [lsn, type, valid]), [
        ["0", "record", false],
        ["16", null, false]
      ])
    }))

  it.effect("lists hundreds of thousands of records in little memory", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const frames = Array.from({ length: 200_000 }, () => text("8 bytes!"))
      const segment = only(makeLog(directory, [[frames]]))
      const listing = `${directory}/listing`
      const script = "\"$@\" > \"$LISTING\""
      const args = [process.execPath, "--max-old-space-size=56", mainPath, "inspect", segment.path, "--records"]
      const run = (...more: ReadonlyArray<string>) =>
        runCommand("sh", ["-c", script, "sh", ...args, ...more], { env: { LISTING: listing } })
      const ended = yield* run("--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      assertNoStack(ended)
      const document: unknown = JSON.parse(readFileSync(listing, "utf8"))
      assert(typeof document === "object" && document !== null)
      const records = objectsIn({ ...document }, "records")
      assert.lengthOf(records, frames.length + 1)
      assert.isTrue(records.every(({ index, valid }, position) => valid === true && index === position))
      assert.strictEqual((yield* run()).code, 0)
      assert.strictEqual(readFileSync(listing, "utf8").match(/^ +[\d,]+ +[\d,]+ +yes /gm)?.length, records.length)
    }))

  it.effect("ends the document with the error when the file cannot be read any more in the middle of a listing", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const frames = Array.from({ length: 20_000 }, () => text("8 bytes!"))
      const segment = only(makeLog(directory, [[frames]]))
      // The third reader of the frames is the listing: the scan and the counting have been over them before.
      const break_ = `
        import fs from "node:fs"
        import { syncBuiltinESMExports } from "node:module"
        const { read } = fs
        let passes = 0
        fs.read = (fd, buffer, offset, length, position, done) => {
          if (position === 64) passes++
          if (passes < 3 || position === 64) return read(fd, buffer, offset, length, position, done)
          done(Object.assign(new Error("broken on purpose"), { code: "EIO" }))
        }
        syncBuiltinESMExports()`
      const program = `data:text/javascript,${encodeURIComponent(break_)}`
      const args = ["--import", program, mainPath, "inspect", segment.path, "--records", "--json"]
      const ended = yield* runCommand(process.execPath, args)
      assertFailed(ended, "VfsError", /the device reported an error \(EIO\)/)
      const document = documentOf(ended)
      assert.containsAllKeys(document, alwaysThere)
      assert.isAbove(objectsIn(document, "records").length, 1000)
      assert.isBelow(objectsIn(document, "records").length, frames.length)
    }))

  it.effect("says nothing on standard error when nobody reads any more", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const frames = Array.from({ length: 20_000 }, () => text("8 bytes!"))
      const segment = only(makeLog(directory, [[frames]]))
      const script = "\"$@\" | head -c 1000"
      const args = [process.execPath, mainPath, "inspect", segment.path, "--records"]
      const ended = yield* runCommand("sh", ["-c", script, "sh", ...args])
      assert.strictEqual(ended.stdout.length, 1000)
      assert.strictEqual(ended.stderr, "")
    }))
})

describe("inspect of a directory", () => {
  it.effect("sums the segments up, and lists their records one segment after the other", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const log = `${directory}/log`
      const segments = makeLog(log, [[[text("a")], [text("b"), 8]], [[text("c")]], []], { start: 800, firstIndex: 5n })
      writeFileSync(`${log}/notes.txt`, "not the log's")
      const ended = yield* unchanged(directory, "inspect", log, "--records", "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      const document = documentOf(ended)
      assert.containsAllKeys(document, [...alwaysThere, "records", "segments"])
      assert.deepInclude(document, { kind: "append-log", path: log, valid: true, header: { logId: logIdHex } })
      const end = segments[2]?.end
      assert.deepInclude(document["summary"], {
        segments: 3,
        batches: 3,
        records: 3,
        pads: 1,
        firstLsn: "800",
        lastRecordLsn: String(segments[1]?.start),
        endLsn: String(end),
        tornTailBytes: 0,
        foreignFiles: 1
      })
      assert.deepStrictEqual(
        objectsIn(document, "segments").map(({ endLsn, segmentIndex, startLsn }) => [segmentIndex, startLsn, endLsn]),
        segments.map((made, index) => [String(5 + index), String(made.start), String(made.end)])
      )
      const records = objectsIn(document, "records")
      assert.deepStrictEqual(
        records.map(({ lsn }) => lsn),
        segments.flatMap(({ batches }) => batches.flatMap(({ lsns }) => lsns.map(String)))
      )
      assert.strictEqual(`${log}/${String(records.at(-1)?.["segment"])}`, segments[1]?.path)
      const range = yield* tidemark("inspect", log, "--from", String(segments[1]?.start), "--json")
      assert.lengthOf(objectsIn(documentOf(range), "records"), 2)
      const people = yield* tidemark("inspect", log)
      assert.match(people.stdout, /Segments\n +name +bytes +segment index +start LSN +end LSN /)
    }))

  it.effect("RC-13 says in which file what is wrong", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const segments = makeLog(directory, [[[text("a")]], [[text("b")]], [[text("c")]]])
      const missing = segments[1]?.path ?? ""
      rmSync(missing)
      const ended = yield* unchanged(directory, "inspect", directory, "--json")
      assert.strictEqual(ended.code, 1, ended.stderr)
      const [problem] = objectsIn(documentOf(ended), "problems")
      assert.deepInclude(problem, { path: missing, severity: "corrupt" })
      assert.match(String(problem?.["what"]), /is missing/)
    }))

  it.effect("fails for a directory that holds no log", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      mkdirSync(`${directory}/empty`)
      const failed = yield* unchanged(directory, "inspect", `${directory}/empty`, "--json")
      assertFailed(failed, "OperationFailed", /empty is a directory without an append log/)
    }))
})

describe("the made logs", () => {
  it("are what the format says", () => {
    assert.strictEqual(Format.frameHeadBytes, headBytes)
    assert.strictEqual(Format.commitFrameBytes, commitBytes)
  })
})

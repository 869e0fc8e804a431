import { assert, describe, it } from "@effect/vitest"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { Vfs } from "@tidemark/platform/Vfs"
import * as Format from "@tidemark/wal/AppendLogFormat"
import * as LeaseFormat from "@tidemark/wal/LeaseFormat"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync
} from "node:fs"
import { verifyLog } from "../src/appendLog/verifyLog.ts"
import { type MadeSegment, makeLog, text } from "./support/appendLogs.ts"
import { heldByWriter } from "./support/holder.ts"
import {
  assertFailed,
  assertNoStack,
  assertWrongUsage,
  contentsOf,
  documentOf,
  type Ended,
  mainPath,
  objectIn,
  objectsIn,
  runCommand,
  temporaryDirectory,
  tidemark,
  unchanged
} from "./support/program.ts"

const alwaysThere = ["case", "cases", "ok", "tip", "problems", "tornTailBytes"]

const three = [[[text("a1")], [text("a2"), text("a3")]], [[text("b1")]], [[text("c1")], [text("c2")], [text("c3")]]]

const at = (segments: ReadonlyArray<MadeSegment>, index: number): MadeSegment => {
  const segment = segments[index]
  assert(segment !== undefined)
  return segment
}

const overwrite = (path: string, offset: number, bytes: Uint8Array) => {
  const contents = readFileSync(path)
  contents.set(bytes, offset)
  writeFileSync(path, contents)
}

/** How many bytes of a file there are from an offset to the last one that is not zero. */
const writtenFrom = (path: string, offset: number): number =>
  readFileSync(path).findLastIndex((byte) => byte !== 0) + 1 - offset

/** Whoever runs the tests, this one may not look into a directory that is closed to it. */
const asNobody = (...args: ReadonlyArray<string>): Effect.Effect<Ended> =>
  Effect.tap(
    runCommand(process.execPath, [mainPath, ...args], process.getuid?.() === 0 ? { uid: 65_534 } : {}),
    (ended) => Effect.sync(() => assertNoStack(ended))
  )

/** Ways to damage a log for good, each with the file that is told to be bad. */
const damages: ReadonlyArray<
  readonly [name: string, damage: (segments: ReadonlyArray<MadeSegment>) => string, what: RegExp]
> = [
  ["a batch with acknowledged ones behind it", (segments) => {
    const { batches, path } = at(segments, 2)
    overwrite(path, 64 + (batches[1]?.start ?? 0) - at(segments, 2).start + 8, text("XX"))
    return path
  }, /is damaged/],
  ["the end of a segment that is not the last", (segments) => {
    const { end, path, start } = at(segments, 0)
    truncateSync(path, 64 + end - start - 8)
    return path
  }, /is damaged/],
  ["a missing middle segment", (segments) => {
    const { path } = at(segments, 1)
    rmSync(path)
    return path
  }, /is missing/],
  ["a truncated header", (segments) => {
    const { path } = at(segments, 1)
    truncateSync(path, 40)
    return path
  }, /no whole header/],
  ["a file of something else with the name of a segment", (segments) => {
    const { path } = at(segments, 2)
    writeFileSync(path, "this is not a log\n".repeat(30))
    return path
  }, /no whole header/],
  ["a name that is none of a segment's", (segments) => {
    const path = at(segments, 0).path.replace(/[^/]+$/, "copy of a segment.tlog")
    writeFileSync(path, readFileSync(at(segments, 2).path))
    return path
  }, /named like a segment/]
]

describe("verify of an append log", () => {
  it.effect("says that all is well, without a case, and changes nothing", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const segments = makeLog(directory, three, { start: 2 ** 40, zerosAhead: 4096 })
      writeFileSync(`${directory}/README`, "not the log's")
      const ended = yield* unchanged(directory, "verify", directory, "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      const document = documentOf(ended)
      assert.containsAllKeys(document, alwaysThere)
      assert.deepInclude(document, {
        path: directory,
        case: null,
        cases: [],
        ok: true,
        tip: String(at(segments, 2).end),
        firstLsn: String(2 ** 40),
        refusal: null,
        lockedBy: null,
        segments: 3,
        batches: 6,
        records: 7,
        problems: [],
        tornTailBytes: 0,
        foreignFiles: ["README"]
      })
      const people = yield* tidemark("verify", directory)
      assert.match(people.stdout, /: ok\n[^]*3 segments, 6 batches, 7 records\n/)
    }))

  it.effect("RC-12 reports a torn tail with its size and what is kept", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const segments = makeLog(directory, three, { earlierIsDurable: false })
      const { batches, path, start } = at(segments, 2)
      const [, second] = batches
      assert(second !== undefined)
      overwrite(path, 64 + second.start - start + 8, text("XX"))
      const ended = yield* unchanged(directory, "verify", directory, "--json")
      assert.strictEqual(ended.code, 1, ended.stderr)
      const document = documentOf(ended)
      assert.containsAllKeys(document, alwaysThere)
      assert.deepInclude(document, {
        case: "RC-12",
        cases: ["RC-12"],
        ok: false,
        tip: String(second.start),
        refusal: null,
        tornTailBytes: writtenFrom(path, 64 + second.start - start)
      })
      const [problem, ...others] = objectsIn(document, "problems")
      assert.lengthOf(others, 0)
      assert.deepInclude(problem, { path, offset: 64 + second.start - start, severity: "tail" })
    }))

  it.effect("RC-25 reports temporary files, and is content with them", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      makeLog(directory, three)
      const name = Format.preparedSegmentName(3n)
      writeFileSync(`${directory}/${name}`, new Uint8Array(4096))
      const ended = yield* unchanged(directory, "verify", directory, "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      assert.deepInclude(documentOf(ended), { case: "RC-25", cases: ["RC-25"], ok: true, temporaryFiles: [name] })
    }))

  it.effect("RC-13 reports damage, and recover refuses it, both having changed nothing", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.forEach(damages, ([name, damage, what], index) =>
        Effect.gen(function*() {
          const log = `${directory}/${index}`
          const path = damage(makeLog(log, three))
          const ended = yield* unchanged(log, "verify", log, "--json")
          assert.strictEqual(ended.code, 1, `${name}: ${ended.stderr}`)
          const document = documentOf(ended)
          assert.containsAllKeys(document, alwaysThere)
          assert.deepInclude(document, { case: "RC-13", ok: false }, name)
          assert.deepInclude(objectIn(document, "refusal"), { tag: "LogCorrupt" })
          const [problem] = objectsIn(document, "problems")
          assert.deepInclude(problem, { path, severity: "corrupt" }, name)
          assert.match(String(problem?.["what"]), what)
          const recovered = yield* unchanged(log, "recover", log, "--json")
          assertFailed(recovered, "LogCorrupt", what)
          assert.deepInclude(objectIn(documentOf(recovered), "error"), { path }, name)
        }), { concurrency: 2, discard: true })
    }))

  it.effect("fails, as recover does, for directories without a log and those that it may not read", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      for (const name of ["empty", "other", "closed"]) mkdirSync(`${directory}/${name}`)
      writeFileSync(`${directory}/other/notes.txt`, "nothing of a log")
      makeLog(`${directory}/closed`, three)
      chmodSync(directory, 0o755)
      chmodSync(`${directory}/closed`, 0)
      const notALog = (command: string, name: string) =>
        Effect.map(
          unchanged(`${directory}/${name}`, command, `${directory}/${name}`, "--json"),
          (ended) => assertFailed(ended, "OperationFailed", new RegExp(`${name} is a directory without an append log`))
        )
      const notReadable = (command: string) =>
        Effect.map(
          asNobody(command, `${directory}/closed`, "--json"),
          (ended) => assertFailed(ended, "VfsError", /closed.*EACCES/)
        )
      yield* Effect.all([
        ...["verify", "recover"].flatMap((command) => [notALog(command, "empty"), notALog(command, "other")]),
        ...["verify", "recover", "inspect"].map(notReadable)
      ], { concurrency: 2, discard: true }).pipe(
        Effect.ensuring(Effect.sync(() => chmodSync(`${directory}/closed`, 0o700)))
      )
    }))

  it.effect("looks at a log that is being written, says by whom, and takes no batch for damage or a tail", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      makeLog(directory, three)
      yield* heldByWriter(directory)
      let tip = 0
      for (let look = 0; look < 3; look++) {
        const ended = yield* tidemark("verify", directory, "--json")
        assert.strictEqual(ended.code, 0, ended.stdout)
        const document = documentOf(ended)
        assert.deepInclude(document, { ok: true, refusal: null, problems: [] })
        assert.isNumber(document["lockedBy"])
        assert.isAbove(Number(document["tip"]), tip)
        tip = Number(document["tip"])
      }
      assert.match((yield* tidemark("verify", directory)).stdout, /open +in process \d+/)
    }))

  it.effect("takes a tail for one only when it is still there at the next look, where somebody has the log open", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const torn = makeLog(directory, [[[text("kept")], [text("on its way")]]])
      const { end, path } = at(torn, 0)
      const whole = readFileSync(path)
      const { self } = yield* ProcessLiveness
      const holder = LeaseFormat.encode({ ...self, generation: 0n, acquiredUnixMillis: 0, expiresUnixMillis: 0 })
      writeFileSync(`${directory}/${Format.lockFileName}`, holder)
      const vfs = yield* Vfs
      const cut = Effect.sync(() => truncateSync(path, 64 + end - 4))
      const finish = Effect.sync(() => writeFileSync(path, whole))
      // One batch further, and the next one begun.
      const goOn = Effect.sync(() => appendFileSync(path, Buffer.of(1, 0, 0, 0, 9, 0, 0, 0, 0x77)))

      /** Verifies while the steps happen one after the other, each before one more look at the directory. */
      const verifyWith = (...steps: ReadonlyArray<Effect.Effect<void>>) => {
        let looks = 0
        const changing = Vfs.of({
          ...vfs,
          // Listed once for whether it is a log at all.
          list: (of) => Effect.andThen(Effect.suspend(() => steps[looks++ - 1] ?? Effect.void), vfs.list(of))
        })
        return TestClock.withLive(
          Effect.provideService(verifyLog(directory, () => {}), Vfs, changing)
        )
      }
      const still = yield* verifyWith(cut)
      assert.deepInclude(still, { exitCode: 1 })
      assert.deepInclude(still.json, { ok: false, lockedBy: process.pid, case: "RC-12" })
      const gone = yield* verifyWith(cut, finish)
      assert.deepInclude(gone.json, { ok: true, tip: BigInt(end), tornTailBytes: 0, case: null })
      const moving = yield* verifyWith(cut, Effect.andThen(finish, goOn), cut, Effect.andThen(finish, goOn))
      assert.deepInclude(moving, { exitCode: 0 })
      assert.deepInclude(moving.json, { ok: true, tip: BigInt(end), tornTailBytes: 9, problems: [] })
      rmSync(`${directory}/${Format.lockFileName}`)
      const unlocked = yield* verifyWith(cut, finish)
      assert.deepInclude(unlocked.json, { ok: false, lockedBy: null })
    }).pipe(Effect.provide(Layer.fresh(NodeVfs.layer))))
})

describe("recover of an append log", () => {
  it.effect("RC-12 zeroes a torn tail, says how much of it, and leaves a log that is whole", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const segments = makeLog(directory, three, { zerosAhead: 4096 })
      const { batches, path, start } = at(segments, 2)
      const third = batches[2]
      assert(third !== undefined)
      overwrite(path, 64 + third.start - start + 8, text("XX"))
      const droppedBytes = writtenFrom(path, 64 + third.start - start)
      assert.isAbove(droppedBytes, 16)
      const ended = yield* tidemark("recover", directory, "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      const document = documentOf(ended)
      assert.deepInclude(document, {
        case: "RC-12",
        cases: ["RC-12"],
        tip: String(third.start),
        pagesApplied: 0,
        droppedBytes
      })
      assert.isTrue(readFileSync(path).subarray(64 + third.start - start).every((byte) => byte === 0))
      const again = yield* tidemark("recover", directory, "--json")
      assert.deepInclude(documentOf(again), { case: null, tip: String(third.start), droppedBytes: 0 })
      assert.strictEqual((yield* tidemark("verify", directory)).code, 0)
    }))

  it.effect("RC-25 removes temporary files, and nothing else", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const segments = makeLog(directory, three)
      const before = segments.map(({ path }) => readFileSync(path))
      const name = Format.preparedSegmentName(3n)
      writeFileSync(`${directory}/${name}`, new Uint8Array(4096))
      writeFileSync(`${directory}/notes.txt`, "not the log's")
      const ended = yield* tidemark("recover", directory, "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      assert.deepInclude(documentOf(ended), { case: "RC-25", droppedBytes: 0, removedFiles: [name] })
      assert.deepStrictEqual(readdirSync(directory).sort(), [
        ...segments.map(({ path }) => path.slice(directory.length + 1)),
        "lock",
        "notes.txt"
      ])
      assert.deepStrictEqual(segments.map(({ path }) => readFileSync(path)), before)
    }))

  it.effect("LOG-10 refuses a log that another process has open, until that one is gone", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      makeLog(directory, three)
      yield* Effect.scoped(Effect.gen(function*() {
        yield* heldByWriter(directory)
        const ended = yield* tidemark("recover", directory, "--json")
        assertFailed(ended, "LogLocked", /is open in Tidemark process \d+/)
      }))
      const ended = yield* tidemark("recover", directory, "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      assert.deepInclude(documentOf(ended), { case: null, droppedBytes: 0 })
    }))

  it.effect("gives nothing of a log up, also when it is told to", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      makeLog(directory, three)
      const before = contentsOf(directory)
      assertWrongUsage(
        yield* tidemark("recover", directory, "--accept-loss", "--json"),
        /--accept-loss is for databases/
      )
      assert.deepStrictEqual(contentsOf(directory), before)
      assert.isFalse(existsSync(`${directory}/lock`))
    }))
})

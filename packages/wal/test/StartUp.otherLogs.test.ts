import { assert, describe, it } from "@effect/vitest"
import { CommitSeq } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import { Effect, Result } from "effect"
import { encode as encodeMark } from "../src/CheckpointMarkFormat.ts"
import { decodeHeader, walPath } from "../src/SqliteWalFormat.ts"
import { tipAtOpen } from "../src/StartUp.ts"
import { decode as decodeWalBase, type WalBase, walBasePath } from "../src/WalBaseFormat.ts"
import { certificateLog, seq, walEpoch } from "./support/certificates.ts"
import { filledPage, page1 } from "./support/pages.ts"
import {
  abort,
  certificatesFile,
  markAfter,
  markBytes,
  markFile,
  refusalOf,
  segments,
  whole
} from "./support/parallelFiles.ts"
import { commit, memoryPath, openMemory, prepareDisk, readTip } from "./support/sqliteWal.ts"
import {
  buildDatabase,
  buildWal,
  buildWalBase,
  examine,
  files,
  flipped,
  pageSize,
  salts,
  twoOfThree
} from "./support/walFiles.ts"

const database = buildDatabase(4)
const wal = buildWal(twoOfThree)

describe("StartUp: the tip after another log", () => {
  const base: WalBase = {
    sealed: false,
    ...salts,
    previousSalt1: 50,
    previousSalt2: 51,
    baseCommitSeq: CommitSeq.make(1000n)
  }
  const previous = { salt1: 50, salt2: 51 }
  const other = { salt1: 8, salt2: 9 }
  const rows: ReadonlyArray<
    readonly [string, Parameters<typeof tipAtOpen>, bigint, ReturnType<typeof tipAtOpen>["tipSource"]]
  > = [
    ["at the base the base decides", [base, salts, 7, 1000n], 1007n, "wal-base"],
    ["below the base the base decides", [base, salts, 7, 900n], 1007n, "wal-base"],
    ["above the base, no commits", [base, salts, 0, 1001n], 1001n, "checkpoint-mark"],
    ["above the base, commits of its generation, which are older", [base, salts, 7, 1010n], 1010n, "checkpoint-mark"],
    ["above the base, commits of the generation before it", [base, previous, 7, 1010n], 1010n, "checkpoint-mark"],
    ["above the base, commits of somebody else since", [base, other, 7, 1010n], 1017n, "checkpoint-mark"],
    ["above the base, the WAL is gone", [base, undefined, 0, 1010n], 1010n, "checkpoint-mark"],
    ["above a sealed base", [{ ...base, sealed: true }, undefined, 0, 1010n], 1010n, "checkpoint-mark"],
    ["no base, no WAL", [undefined, undefined, 0, 1010n], 1010n, "checkpoint-mark"],
    ["no base, commits of somebody else since", [undefined, salts, 7, 1010n], 1017n, "checkpoint-mark"],
    ["nothing used, no base", [undefined, salts, 7, 0n], 7n, "no-wal-base"]
  ]
  for (const [what, input, tip, tipSource] of rows) {
    it(`section 2.1: ${what}`, () => {
      assert.deepStrictEqual(tipAtOpen(...input), { tip: CommitSeq.make(tip), tipSource })
    })
  }

  it.effect("section 2.1: by the mark, by aborted intervals, or by what the WAL has used since", () =>
    Effect.gen(function*() {
      const mark = { [markFile]: markBytes({ through: seq(1010) }) }
      const aborted = { [certificatesFile]: certificateLog([abort(1011, 1020, 4, 7)]) }
      const header = { [files.wal]: buildWal([]) }
      const rows = [
        [mark, 1010n, "checkpoint-mark"],
        [{ ...mark, ...header }, 1010n, "checkpoint-mark"],
        [{ ...mark, ...aborted }, 1020n, "checkpoint-mark"],
        [{ ...aborted, ...header, [files.walBase]: buildWalBase(1000n) }, 1020n, "checkpoint-mark"],
        [{ ...mark, ...aborted, [files.wal]: wal, [files.walBase]: buildWalBase(1020n) }, 1022n, "wal-base"],
        [{ ...mark, [files.wal]: wal }, 1012n, "checkpoint-mark"]
      ] as const
      for (const [contents, tip, tipSource] of rows) {
        const found = yield* examine({ [files.database]: database, ...contents })
        assert.isUndefined(found.refusal)
        assert.deepStrictEqual([found.tip, found.tipSource], [CommitSeq.make(tip), tipSource])
      }
    }))
})

describe("StartUp: the SQLite WAL beside other logs", () => {
  it.effect("RC-23 certificates above the mark are refused though the header says 2", () =>
    Effect.gen(function*() {
      const contents = { ...whole, [files.database]: database }
      const found = yield* examine(contents)
      assert.strictEqual(refusalOf(found, "WrongLogKind").found, "parallel")
      assert.deepStrictEqual(found.cases, ["RC-23", "RC-01"])
      assert.strictEqual((yield* examine({ ...contents, [markFile]: markAfter(2) })).refusal?._tag, "WrongLogKind")
      const accepted = yield* examine({ ...contents, [markFile]: flipped(markAfter(3), 20) }, { acceptLoss: true })
      refusalOf(accepted, "WrongLogKind")
      const empty = yield* examine({ ...contents, [files.database]: new Uint8Array(0) })
      refusalOf(empty, "WrongLogKind")
      const torn = yield* examine({ ...contents, [files.database]: new Uint8Array(512) })
      refusalOf(torn, "WrongLogKind")
      const checkpointed = yield* examine({ ...contents, [markFile]: markAfter(3) })
      assert.deepStrictEqual([checkpointed.cases, checkpointed.refusal], [["RC-01"], undefined])
      const uncertified = yield* examine({ [files.database]: database, ...segments })
      assert.isUndefined(uncertified.refusal)
    }))

  it.effect("RC-20 certificates above the mark and commits in the -wal are refused though the header says 2", () =>
    Effect.gen(function*() {
      const found = yield* examine({ ...whole, [files.database]: database, [files.wal]: wal })
      const refusal = refusalOf(found, "MixedLogs")
      assert.deepStrictEqual([refusal.found, refusal.walCommits], ["parallel", 2])
      assert.isUndefined(refusal.checkpointedThrough)
      assert.deepStrictEqual(found.cases, ["RC-20", "RC-02"])
    }))

  it.effect("RC-20 commits of a generation that was over before the mark are refused, not copied over newer ones", () =>
    Effect.gen(function*() {
      const before = { salt1: 1, salt2: 2, previousSalt1: salts.salt1, previousSalt2: salts.salt2 }
      for (const base of [buildWalBase(50n), buildWalBase(50n, before)]) {
        const contents = { [files.database]: database, [files.wal]: wal, [files.walBase]: base }
        const native = encodeMark({
          kind: "native",
          through: seq(100),
          segmentEpoch: walEpoch(0),
          certificateEpoch: 0n,
          databasePages: 4
        })
        const found = yield* examine({ ...contents, [markFile]: native })
        const refusal = refusalOf(found, "MixedLogs")
        assert.deepStrictEqual(
          [refusal.found, refusal.walCommits, refusal.checkpointedThrough],
          ["native", 2, seq(100)]
        )
        assert.include(refusal.message, "through commit 100")
        assert.deepStrictEqual(found.cases, ["RC-20", "RC-02"])
        assert.isUndefined((yield* examine({ ...contents, [markFile]: markBytes({ through: seq(50) }) })).refusal)
      }
    }))

  it.effect("a mark that does not check is refused, and left out with acceptLoss", () =>
    Effect.gen(function*() {
      const good = markAfter(3)
      for (const bad of [flipped(good, 20), good.slice(0, 47), new Uint8Array(0)]) {
        const contents = { [files.database]: database, [files.wal]: wal, [markFile]: bad }
        const refused = yield* examine(contents)
        assert.strictEqual(refusalOf(refused, "CheckpointMarkDamaged").path, markFile)
        assert.match(refused.refusal?.message ?? "", /[^.]$/)
        const accepted = yield* examine(contents, { acceptLoss: true })
        assert.deepStrictEqual([accepted.refusal, accepted.tip], [undefined, seq(2)])
        assert.deepStrictEqual(accepted.problems.map(({ path, severity }) => [path, severity]), [[markFile, "corrupt"]])
      }
    }))
})

describe("SqliteWal after another log", () => {
  const commitOne = (opened: Effect.Success<ReturnType<typeof openMemory>>, stamp: number) =>
    commit(opened.log, () => ({
      written: new Map([[1, page1(pageSize, 2, stamp)], [2, filledPage(pageSize, 2, stamp)]]),
      databasePages: 2
    }), { lastSeq: () => opened.log.published().commitSeq })

  const options = { create: { pageSize }, preallocateBytes: 0 }
  const markOf = (through: number) => markBytes({ through: seq(through), databasePages: 2 })
  const baseOn = (disk: MemoryDisk) =>
    Result.getOrThrow(decodeWalBase(disk.readFile(walBasePath(memoryPath)) ?? new Uint8Array(0)))
  const headerOn = (disk: MemoryDisk) =>
    Result.getOrThrow(decodeHeader((disk.readFile(walPath(memoryPath)) ?? new Uint8Array(0)).slice(0, 32)))
  const memoryMark = `${memoryPath}.fsqlite/checkpoint`

  it.effect("section 2.1: commits go on above the mark, in a new generation, and stay there after a crash", () =>
    Effect.gen(function*() {
      const disk = prepareDisk(MemoryDisk.make())
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openMemory(disk, options)
        yield* commitOne(opened, 1)
        yield* opened.wal.checkpoint("restart")
        yield* commitOne(opened, 2)
        yield* opened.wal.checkpoint("restart")
        yield* opened.close
      }))
      // The frames of the old generation are gone, its header is still there: what a crash may leave as well.
      const header = headerOn(disk)
      disk.writeFile(walPath(memoryPath), (disk.readFile(walPath(memoryPath)) ?? new Uint8Array(0)).slice(0, 32))
      disk.writeFile(memoryMark, markOf(100))
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openMemory(disk, options)
        assert.deepStrictEqual([opened.wal.startUp.tip, opened.wal.startUp.tipSource], [seq(100), "checkpoint-mark"])
        assert.strictEqual(yield* commitOne(opened, 3), seq(101))
      }))
      assert.strictEqual(baseOn(disk).baseCommitSeq, seq(100))
      assert.notStrictEqual(headerOn(disk).salt1, header.salt1)
      disk.crash("lost")
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openMemory(disk, options)
        assert.deepStrictEqual([opened.wal.startUp.tip, opened.wal.startUp.tipSource], [seq(101), "wal-base"])
        assert.deepStrictEqual((yield* readTip(opened.log)).pages.get(2), filledPage(pageSize, 2, 3))
      }))
    }))

  it.effect("section 2.1: a WAL that stock SQLite has written since the mark is gone on with, above the mark", () =>
    Effect.gen(function*() {
      const disk = prepareDisk(MemoryDisk.make())
      disk.writeFile(memoryPath, buildDatabase(4))
      disk.writeFile(walPath(memoryPath), wal)
      disk.writeFile(memoryMark, markOf(100))
      for (const [tip, source] of [[102, "checkpoint-mark"], [103, "wal-base"]] as const) {
        yield* Effect.scoped(Effect.gen(function*() {
          const opened = yield* openMemory(disk, { preallocateBytes: 0 })
          assert.deepStrictEqual([opened.wal.startUp.tip, opened.wal.startUp.tipSource], [seq(tip), source])
          assert.strictEqual(opened.wal.startUp.commits, tip - 100)
          assert.strictEqual(yield* commitOne(opened, tip), seq(tip + 1))
        }))
        assert.deepStrictEqual([baseOn(disk).baseCommitSeq, headerOn(disk).salt1], [seq(100), salts.salt1])
      }
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { CommitSeq, PageSize } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect } from "effect"
import fc from "fast-check"
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { setVersions } from "../src/DatabaseHeaderFormat.ts"
import { frameOffset, walHeaderBytes } from "../src/SqliteWalFormat.ts"
import { type DatabaseExamination, examineDatabase, startUpCases, tipAtOpen } from "../src/StartUp.ts"
import type { StartUpRefusal } from "../src/StartUpErrors.ts"
import type { WalBase } from "../src/WalBaseFormat.ts"
import {
  buildDatabase,
  buildWal,
  buildWalBase,
  concat,
  examine,
  files,
  flipped,
  pageSize,
  path,
  salts,
  slotBytes,
  twoOfThree
} from "./support/walFiles.ts"

const database = buildDatabase(4)
const wal = buildWal(twoOfThree)

const withVersions = (version: 1 | 2 | 3): Uint8Array => {
  const bytes = database.slice()
  setVersions(bytes, version)
  return bytes
}

const hotJournal = concat(Uint8Array.of(0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7), new Uint8Array(504))

/** The refusal of this kind, which must be the one that is answered. */
const refusalOf = <Tag extends StartUpRefusal["_tag"]>(found: DatabaseExamination, tag: Tag) => {
  assert.strictEqual(found.refusal?._tag, tag)
  const isExpected = (refusal: StartUpRefusal | undefined): refusal is Extract<StartUpRefusal, { _tag: Tag }> =>
    refusal?._tag === tag
  if (!isExpected(found.refusal)) throw new Error("no refusal of this kind")
  return found.refusal
}

const severities = ({ problems }: DatabaseExamination) =>
  problems.map(({ offset, path: file, severity }) => ({
    file,
    offset,
    severity
  }))

const base: WalBase = {
  sealed: false,
  ...salts,
  previousSalt1: 50,
  previousSalt2: 51,
  baseCommitSeq: CommitSeq.make(1000n)
}

describe("StartUp: the tip", () => {
  const previous = { salt1: 50, salt2: 51 }
  const other = { salt1: 8, salt2: 9 }
  const rows: ReadonlyArray<
    readonly [string, Parameters<typeof tipAtOpen>, bigint, ReturnType<typeof tipAtOpen>["tipSource"]]
  > = [
    ["the salts match: base + n", [base, salts, 7], 1007n, "wal-base"],
    ["the salts match, no commit yet: base", [base, salts, 0], 1000n, "wal-base"],
    ["the salts match though sealed: base + n", [{ ...base, sealed: true }, salts, 7], 1007n, "wal-base"],
    ["the previous pair: base", [base, previous, 7], 1000n, "previous-generation"],
    ["the previous pair though sealed: base", [{ ...base, sealed: true }, previous, 7], 1000n, "previous-generation"],
    ["sealed and no WAL: base", [{ ...base, sealed: true }, undefined, 0], 1000n, "sealed"],
    ["no base and a WAL: n", [undefined, salts, 7], 7n, "no-wal-base"],
    ["no base and no WAL: 0", [undefined, undefined, 0], 0n, "no-wal-base"],
    ["salts of neither generation: base + 2^32", [base, other, 7], 1000n + 2n ** 32n, "foreign"],
    ["one salt matches: base + 2^32", [base, { ...salts, salt2: 1 }, 7], 1000n + 2n ** 32n, "foreign"],
    ["sealed and a WAL of others: base + 2^32", [{ ...base, sealed: true }, other, 7], 1000n + 2n ** 32n, "foreign"],
    ["not sealed and no WAL: base + 2^32", [base, undefined, 0], 1000n + 2n ** 32n, "foreign"],
    [
      "a previous pair with more commits than the base: base + 2^32",
      [
        { ...base, baseCommitSeq: CommitSeq.make(6n) },
        previous,
        7
      ],
      6n + 2n ** 32n,
      "foreign"
    ]
  ]
  for (const [what, input, tip, tipSource] of rows) {
    it(`RC-01 RC-02 section 2.1: ${what}`, () => {
      assert.deepStrictEqual(tipAtOpen(...input), { tip: CommitSeq.make(tip), tipSource })
    })
  }

  it("a base at the end of the numbers is no defect", () => {
    const last = { ...base, baseCommitSeq: CommitSeq.make(2n ** 64n - 2n) }
    assert.strictEqual(tipAtOpen(last, undefined, 0).tip, 2n ** 64n - 1n)
  })
})

describe("StartUp: the cases", () => {
  it.effect("RC-01 only the database file", () =>
    Effect.gen(function*() {
      const found = yield* examine({ [files.database]: database })
      assert.deepStrictEqual(found.cases, ["RC-01"])
      assert.strictEqual(found.case, "RC-01")
      assert.isUndefined(found.refusal)
      assert.isTrue(found.databaseExists)
      assert.strictEqual(found.databaseFileBytes, database.length)
      assert.strictEqual(found.databaseHeader?.databasePages, 4)
      assert.strictEqual(found.pageSize, 512)
      assert.strictEqual(found.databasePages, 4)
      assert.isUndefined(found.walFileBytes)
      assert.isUndefined(found.chain)
      assert.deepStrictEqual([found.tip, found.tipSource], [CommitSeq.make(0n), "no-wal-base"])
      assert.deepStrictEqual(found.problems, [])
      const sealed = yield* examine({ [files.database]: database, [files.walBase]: buildWalBase(5n, { sealed: true }) })
      assert.deepStrictEqual([sealed.tip, sealed.tipSource, sealed.case], [CommitSeq.make(5n), "sealed", "RC-01"])
    }))

  it.effect("RC-01 nothing at all is an empty database", () =>
    Effect.gen(function*() {
      const found = yield* examine({})
      assert.deepStrictEqual(found.cases, ["RC-01"])
      assert.isFalse(found.databaseExists)
      assert.deepStrictEqual([found.databasePages, found.databaseFileBytes, found.tip], [0, 0, CommitSeq.make(0n)])
      assert.isUndefined(found.pageSize)
      const empty = yield* examine({ [files.database]: new Uint8Array(0) })
      assert.isTrue(empty.databaseExists)
      assert.isUndefined(empty.refusal)
    }))

  it.effect("RC-01 the size is the header's, or the file's where the header is not current", () =>
    Effect.gen(function*() {
      const stale = database.slice()
      new DataView(stale.buffer).setUint32(24, 9)
      assert.strictEqual((yield* examine({ [files.database]: concat(stale, new Uint8Array(512)) })).databasePages, 5)
      assert.strictEqual((yield* examine({ [files.database]: concat(database, new Uint8Array(512)) })).databasePages, 4)
    }))

  it.effect("RC-02 a WAL that ends on a commit", () =>
    Effect.gen(function*() {
      const found = yield* examine({
        [files.database]: database,
        [files.wal]: wal,
        [files.walBase]: buildWalBase(1000n)
      })
      assert.deepStrictEqual(found.cases, ["RC-02"])
      assert.isUndefined(found.refusal)
      assert.deepStrictEqual(found.problems, [])
      assert.deepStrictEqual([found.validFrames, found.commits, found.databasePages], [6, 2, 4])
      assert.deepStrictEqual(Array.from(found.framePages), [1, 2, 3, 2, 3, 4])
      assert.deepStrictEqual(Array.from(found.frameCommit), [1, 1, 1, 2, 2, 2])
      assert.deepStrictEqual([found.tip, found.tipSource], [CommitSeq.make(1002n), "wal-base"])
      assert.strictEqual(found.walFileBytes, wal.length)
      assert.strictEqual(found.walHeader?.salt2, salts.salt2)
      assert.strictEqual(found.walBase?.baseCommitSeq, 1000n)
      const last = new DataView(wal.buffer, frameOffset(5, pageSize))
      assert.deepStrictEqual({ ...found.chain }, { s0: last.getUint32(16), s1: last.getUint32(20) })
    }))

  it.effect("RC-02 zeros that the writer has filled in ahead change nothing", () =>
    Effect.gen(function*() {
      const found = yield* examine({ [files.database]: database, [files.wal]: concat(wal, new Uint8Array(99_000)) })
      assert.deepStrictEqual(found.cases, ["RC-02"])
      assert.deepStrictEqual([found.validFrames, found.tornTailBytes, found.problems.length], [6, 0, 0])
    }))

  it.effect("RC-02 SWAL-05 a header without frames gives none, and the chain of the header", () =>
    Effect.gen(function*() {
      const header = buildWal([])
      const found = yield* examine({
        [files.database]: database,
        [files.wal]: header,
        [files.walBase]: buildWalBase(9n)
      })
      assert.deepStrictEqual(found.cases, ["RC-02"])
      assert.deepStrictEqual([found.validFrames, found.databasePages, found.tip], [0, 4, CommitSeq.make(9n)])
      const view = new DataView(header.buffer)
      assert.deepStrictEqual({ ...found.chain }, { s0: view.getUint32(24), s1: view.getUint32(28) })
    }))

  it.effect("RC-02 a WAL longer than a chunk is read to its end, in bounded steps", () =>
    Effect.gen(function*() {
      const size = PageSize.make(65536)
      const commits = Array.from({ length: 90 }, (_, index) => ({ pages: [1, index + 2], databasePages: index + 2 }))
      const long = buildWal(commits, { pageSize: size })
      const contents = { [files.database]: buildDatabase(1, size), [files.wal]: long }
      const found = yield* examine(contents)
      assert.isAbove(long.length, 2 * 4 * 1024 * 1024)
      assert.deepStrictEqual([found.validFrames, found.commits, found.databasePages], [180, 90, 91])
      // 63 slots of 65,560 bytes are a chunk: damage in the last frame of the first and the first of the second.
      for (const frame of [62, 63]) {
        const damaged = yield* examine({
          ...contents,
          [files.wal]: flipped(long, frameOffset(frame, size) + 5000)
        })
        assert.strictEqual(refusalOf(damaged, "WalDamaged").frame, frame)
        assert.strictEqual(damaged.validFrames, 62)
      }
    }))

  it.effect("RC-03 SWAL-04 a torn or uncommitted tail is dropped and reported", () =>
    Effect.gen(function*() {
      const cut = wal.subarray(0, wal.length - 1)
      const found = yield* examine({ [files.database]: database, [files.wal]: cut, [files.walBase]: buildWalBase(7n) })
      assert.deepStrictEqual(found.cases, ["RC-03"])
      assert.isUndefined(found.refusal)
      assert.deepStrictEqual([found.validFrames, found.commits, found.databasePages], [3, 1, 3])
      assert.strictEqual(found.tornTailBytes, 3 * slotBytes - 1)
      assert.strictEqual(found.tip, 8n)
      assert.deepStrictEqual(severities(found), [
        { file: files.wal, offset: frameOffset(3, pageSize), severity: "tail" }
      ])
      const uncommitted = yield* examine({
        [files.database]: database,
        [files.wal]: buildWal([{ pages: [2, 3], databasePages: 0 }])
      })
      assert.deepStrictEqual(
        [uncommitted.case, uncommitted.validFrames, uncommitted.databasePages, uncommitted.tornTailBytes],
        ["RC-03", 0, 4, 2 * slotBytes]
      )
    }))

  it.effect("RC-03 SWAL-03 damage in front of a commit is refused, and kept out with acceptLoss", () =>
    Effect.gen(function*() {
      for (const frame of [0, 1, 2, 3, 4]) {
        const offset = frameOffset(frame, pageSize)
        const kept = frame < 3 ? 0 : 1
        const contents = { [files.database]: database, [files.wal]: flipped(wal, offset + 300) }
        const refused = yield* examine(contents)
        const { frame: at, keptCommits, lostBytes, lostCommits, offset: from, path: file } = refusalOf(
          refused,
          "WalDamaged"
        )
        assert.deepStrictEqual(
          { at, keptCommits, lostBytes, lostCommits, from, file },
          {
            at: frame,
            keptCommits: kept,
            lostBytes: wal.length - offset,
            lostCommits: frame < 2 ? 2 : 1,
            from: offset,
            file: files.wal
          }
        )
        assert.include(refused.refusal?.message, `frame ${frame} of ${files.wal} at byte ${offset}`)
        const accepted = yield* examine(contents, { acceptLoss: true })
        assert.isUndefined(accepted.refusal)
        for (const found of [refused, accepted]) {
          assert.strictEqual(found.case, "RC-03")
          assert.deepStrictEqual([found.validFrames, found.commits], [kept * 3, kept])
          assert.deepStrictEqual(severities(found), [{ file: files.wal, offset, severity: "corrupt" }])
        }
      }
      const tail = yield* examine({
        [files.database]: database,
        [files.wal]: flipped(wal, frameOffset(5, pageSize) + 300)
      })
      assert.isUndefined(tail.refusal)
      assert.deepStrictEqual(severities(tail).map(({ severity }) => severity), ["tail"])
    }))

  it.effect("RC-04 a WAL that is empty, too short or has a bad header counts as absent", () =>
    Effect.gen(function*() {
      const sealed = buildWalBase(5n, { sealed: true })
      const rows: ReadonlyArray<readonly [Uint8Array, Array<"tail" | "corrupt">]> = [
        [new Uint8Array(0), []],
        [new Uint8Array(8192), []],
        [wal.subarray(0, 31), ["tail"]],
        [flipped(wal.subarray(0, walHeaderBytes), 24), ["tail"]],
        [concat(new Uint8Array(walHeaderBytes), new Uint8Array(slotBytes).fill(1)), ["tail"]]
      ]
      for (const [content, problems] of rows) {
        const found = yield* examine({ [files.database]: database, [files.wal]: content, [files.walBase]: sealed })
        assert.deepStrictEqual(found.cases, ["RC-04"])
        assert.isUndefined(found.refusal)
        assert.isUndefined(found.walHeader)
        assert.deepStrictEqual([found.validFrames, found.databasePages, found.tip], [0, 4, CommitSeq.make(5n)])
        assert.strictEqual(found.tipSource, "sealed")
        assert.strictEqual(found.walFileBytes, content.length)
        assert.deepStrictEqual(found.problems.map(({ severity }) => severity), problems)
      }
    }))

  it.effect("RC-04 a bad header before frames of the current generation is refused, and given up with acceptLoss", () =>
    Effect.gen(function*() {
      const lost = flipped(wal, 3)
      for (const db of [database, new Uint8Array(0)]) {
        const contents = { [files.database]: db, [files.wal]: lost, [files.walBase]: buildWalBase(5n) }
        const refused = yield* examine(contents)
        assert.strictEqual(refusalOf(refused, "WalHeaderLost").issue.code, "ChecksumMismatch")
        assert.strictEqual(refused.case, "RC-04")
        const accepted = yield* examine(contents, { acceptLoss: true })
        assert.isUndefined(accepted.refusal)
        assert.deepStrictEqual([accepted.validFrames, accepted.tipSource], [0, "foreign"])
        assert.deepStrictEqual(severities(accepted).map(({ severity }) => severity), ["corrupt"])
      }
    }))

  it.effect("RC-04 frames of an older generation behind a torn header are no loss", () =>
    Effect.gen(function*() {
      const found = yield* examine({
        [files.database]: database,
        [files.wal]: flipped(wal, 20),
        [files.walBase]: buildWalBase(5n, { salt1: salts.salt1 + 1, salt2: 3, previousSalt1: salts.salt1 })
      })
      assert.isUndefined(found.refusal)
      assert.deepStrictEqual(severities(found), [{ file: files.wal, offset: 24, severity: "tail" }])
      // One salt of two is another generation.
      for (const near of [{ salt1: salts.salt1 + 1 }, { salt2: 3 }]) {
        const contents = { [files.database]: database, [files.wal]: flipped(wal, 20) }
        assert.isUndefined((yield* examine({ ...contents, [files.walBase]: buildWalBase(5n, near) })).refusal)
      }
      const unknown = yield* examine({ [files.database]: database, [files.wal]: flipped(wal, 20) })
      assert.isUndefined(unknown.refusal, "as SQLite does")
      assert.deepStrictEqual(unknown.problems.map(({ severity }) => severity), ["corrupt"], "but it is said")
    }))

  it.effect("RC-05 a WAL of another page size is refused", () =>
    Effect.gen(function*() {
      const found = yield* examine({ [files.database]: buildDatabase(4, PageSize.make(1024)), [files.wal]: wal })
      const refusal = refusalOf(found, "PageSizeMismatch")
      assert.deepStrictEqual([refusal.walPageSize, refusal.databasePageSize], [512, 1024])
      assert.deepStrictEqual(found.cases, ["RC-05", "RC-02"])
      assert.strictEqual(found.pageSize, 1024)
    }))

  it.effect("RC-19 RC-25 leftovers are listed for the sweep, other files are not", () =>
    Effect.gen(function*() {
      const some = new Uint8Array(3)
      const found = yield* examine({
        [files.database]: database,
        [files.wal]: wal,
        [`${path}.fsqlite-tmp/txn-17-3.spill`]: some,
        [`${path}.fsqlite-tmp/notes.txt`]: some,
        [`${path}.fsqlite/.tmp-wal-base-0123abcd`]: some,
        [`${path}.fsqlite/lease`]: some,
        "/data/.tmp-app.db-0123abcd": some,
        "/data/.tmp-app.db-wal-cert-0123abcd": some,
        "/data/.tmp-other.db-0123abcd": some,
        "/data/txn-1-1.spill": some
      })
      assert.deepStrictEqual(found.cases, ["RC-19", "RC-25", "RC-02"])
      assert.isUndefined(found.refusal)
      assert.sameMembers(Array.from(found.sweepable), [
        `${path}.fsqlite-tmp/txn-17-3.spill`,
        `${path}.fsqlite/.tmp-wal-base-0123abcd`,
        "/data/.tmp-app.db-0123abcd",
        "/data/.tmp-app.db-wal-cert-0123abcd"
      ])
    }))

  it.effect("RC-20 commits in the WAL and in a log of another kind are refused", () =>
    Effect.gen(function*() {
      const found = yield* examine({
        [files.database]: withVersions(3),
        [files.wal]: wal,
        [`${path}-wal-cert`]: new Uint8Array(48)
      })
      const refusal = refusalOf(found, "MixedLogs")
      assert.deepStrictEqual([refusal.found, refusal.walCommits], ["parallel", 2])
      assert.deepStrictEqual(found.cases, ["RC-20", "RC-02"])
    }))

  it.effect("RC-23 commits in a log of another kind alone are refused", () =>
    Effect.gen(function*() {
      for (
        const [file, kind] of [
          [`${path}-wal-cert`, "parallel"],
          [`${path}-wal-seg-0000000000000001`, "parallel"],
          [`${path}.fsqlite/markers/segment-000000.log`, "native"],
          ["/data/other.db-wal-cert", "unknown"]
        ] as const
      ) {
        const found = yield* examine({ [files.database]: withVersions(3), [file]: new Uint8Array(9) })
        assert.strictEqual(refusalOf(found, "WrongLogKind").found, kind)
        assert.deepStrictEqual(found.cases, ["RC-23", "RC-01"])
        // After the checkpoint the same files are leftovers, for the log they belong to (RC-07, RC-21).
        assert.isUndefined((yield* examine({ [files.database]: database, [file]: new Uint8Array(9) })).refusal)
      }
    }))

  it.effect("RC-24 a hot journal is refused before anything else; a finished one is not hot", () =>
    Effect.gen(function*() {
      for (const db of [database, withVersions(1), new Uint8Array(512).fill(7)]) {
        const found = yield* examine({ [files.database]: db, [files.journal]: hotJournal })
        assert.strictEqual(refusalOf(found, "HotJournal").path, files.journal)
        assert.strictEqual(found.case, "RC-24")
      }
      for (
        const finished of [new Uint8Array(0), new Uint8Array(512), hotJournal.subarray(0, 27), flipped(hotJournal, 0)]
      ) {
        const found = yield* examine({ [files.database]: database, [files.journal]: finished })
        assert.deepStrictEqual(found.cases, ["RC-01"])
        assert.isUndefined(found.refusal)
      }
    }))

  it.effect("SWAL-09 a database that is not in WAL mode is refused, with what its header says", () =>
    Effect.gen(function*() {
      const found = yield* examine({ [files.database]: withVersions(1) })
      const refusal = refusalOf(found, "NotWalMode")
      assert.deepStrictEqual([refusal.path, refusal.writeVersion, refusal.readVersion], [path, 1, 1])
      const half = database.slice()
      half[19] = 1
      assert.strictEqual(refusalOf(yield* examine({ [files.database]: half }), "NotWalMode").readVersion, 1)
    }))

  it.effect("SWAL-09 an empty or missing database file beside a whole WAL is read from the WAL", () =>
    Effect.gen(function*() {
      for (const contents of [{}, { [files.database]: new Uint8Array(0) }]) {
        const found = yield* examine({ ...contents, [files.wal]: wal })
        assert.deepStrictEqual(found.cases, ["RC-02"])
        assert.isUndefined(found.refusal)
        assert.isUndefined(found.databaseHeader)
        assert.deepStrictEqual([found.pageSize, found.databasePages, found.commits], [pageSize, 4, 2])
        assert.deepStrictEqual(found.problems, [])
      }
    }))

  it.effect("SWAL-09 an empty or missing database file is refused when the WAL holds only a part of it", () =>
    Effect.gen(function*() {
      const part = buildWal([{ pages: [1, 2, 5], databasePages: 6 }])
      for (const contents of [{}, { [files.database]: new Uint8Array(0) }]) {
        const refusal = refusalOf(yield* examine({ ...contents, [files.wal]: part }), "DatabasePagesLost")
        assert.deepStrictEqual([refusal.missingPages, refusal.firstMissingPage, refusal.databasePages], [3, 3, 6])
      }
      // Page 16385 of 64 KiB holds the lock bytes at 2^30: nobody ever writes it, so nobody can lose it.
      const size = PageSize.make(65536)
      for (const [databasePages, missing] of [[16384, 16383], [16385, 16383], [16386, 16384]] as const) {
        const first = buildWal([{ pages: [1], databasePages }], { pageSize: size })
        assert.strictEqual(refusalOf(yield* examine({ [files.wal]: first }), "DatabasePagesLost").missingPages, missing)
      }
      // Beside a database file that is only too short it is damage that is reported: the rest can be read.
      const found = yield* examine({ [files.database]: database, [files.wal]: part })
      assert.isUndefined(found.refusal)
      assert.deepStrictEqual(severities(found), [{ file: path, offset: 5 * 512, severity: "corrupt" }])
    }))

  it.effect("a database file that ends inside of a page is reported, and is damage only where the page is needed", () =>
    Effect.gen(function*() {
      const ragged = yield* examine({ [files.database]: concat(database, new Uint8Array(100)) })
      assert.deepStrictEqual(severities(ragged), [{ file: path, offset: 4 * 512, severity: "tail" }])
      const short = yield* examine({ [files.database]: database.subarray(0, 3 * 512 + 100) })
      assert.deepStrictEqual(severities(short), [{ file: path, offset: 3 * 512, severity: "corrupt" }])
      const covered = yield* examine({ [files.database]: database.subarray(0, 3 * 512 + 100), [files.wal]: wal })
      assert.deepStrictEqual(severities(covered), [{ file: path, offset: 3 * 512, severity: "tail" }])
      for (const found of [ragged, short, covered]) assert.isUndefined(found.refusal)
    }))

  it.effect("a file that is no database is refused", () =>
    Effect.gen(function*() {
      for (
        const [bytes, code] of [
          [new Uint8Array(1), "TooShort"],
          [new Uint8Array(4096).fill(65), "BadMagic"],
          [flipped(database, 16, 0x40), "InvalidPageSize"]
        ] as const
      ) {
        const found = yield* examine({ [files.database]: bytes, [files.wal]: wal })
        assert.strictEqual(refusalOf(found, "NotADatabase").issue.code, code)
        assert.strictEqual(found.commits, 2, "what can be read is read all the same")
      }
    }))

  it.effect("a WAL of an unknown format version is refused, as SQLite does, whatever is accepted", () =>
    Effect.gen(function*() {
      const newer = wal.slice()
      const view = new DataView(newer.buffer)
      view.setUint32(4, 3008000)
      let [s0, s1] = [0, 0]
      for (let at = 0; at < 24; at += 8) {
        s0 = (s0 + view.getUint32(at, true) + s1) >>> 0
        s1 = (s1 + view.getUint32(at + 4, true) + s0) >>> 0
      }
      view.setUint32(24, s0)
      view.setUint32(28, s1)
      const found = yield* examine({ [files.database]: database, [files.wal]: newer }, { acceptLoss: true })
      assert.strictEqual(refusalOf(found, "WalVersionUnknown").issue.code, "UnsupportedVersion")
    }))

  it.effect("a WAL base that does not check is refused, and left out with acceptLoss", () =>
    Effect.gen(function*() {
      const good = buildWalBase(1000n)
      for (const bad of [flipped(good, 33), good.subarray(0, 47), concat(good, new Uint8Array(1)), new Uint8Array(0)]) {
        const contents = { [files.database]: database, [files.wal]: wal, [files.walBase]: bad }
        const refused = yield* examine(contents)
        assert.strictEqual(refusalOf(refused, "WalBaseDamaged").path, files.walBase)
        const accepted = yield* examine(contents, { acceptLoss: true })
        assert.isUndefined(accepted.refusal)
        assert.deepStrictEqual([accepted.tip, accepted.tipSource], [CommitSeq.make(2n), "no-wal-base"])
        assert.deepStrictEqual(accepted.problems.map(({ severity }) => severity), ["corrupt"])
      }
    }))

  it.effect("several rows at once: the most severe is the case, its refusal the answer", () =>
    Effect.gen(function*() {
      const found = yield* examine({
        [files.database]: withVersions(3),
        [files.wal]: wal.subarray(0, wal.length - 5),
        [files.journal]: hotJournal,
        [`${path}.fsqlite-tmp/txn-1-1.spill`]: new Uint8Array(1),
        [`${path}.fsqlite/.tmp-x`]: new Uint8Array(1)
      })
      assert.strictEqual(found.refusal?._tag, "HotJournal")
      assert.deepStrictEqual(found.cases, ["RC-24", "RC-20", "RC-03", "RC-19", "RC-25"])
      assert.strictEqual(new Set(startUpCases).size, startUpCases.length)
    }))

  it.effect("every refusal is one sentence that names the file, is not retryable and has SQLite's code", () =>
    Effect.gen(function*() {
      const part = buildWal([{ pages: [1, 2, 5], databasePages: 6 }])
      const found = yield* Effect.all([
        examine({ [files.database]: new Uint8Array(9) }),
        examine({ [files.database]: withVersions(1) }),
        examine({ [files.database]: buildDatabase(1, PageSize.make(1024)), [files.wal]: wal }),
        examine({ [files.database]: database, [files.wal]: flipped(wal, 100) }),
        examine({ [files.database]: database, [files.wal]: flipped(wal, 3), [files.walBase]: buildWalBase(1n) }),
        examine({ [files.database]: database, [files.walBase]: new Uint8Array(48) }),
        examine({ [files.wal]: part }),
        examine({ [files.database]: database, [files.journal]: hotJournal }),
        examine({ [files.database]: withVersions(3) }),
        examine({ [files.database]: withVersions(3), [`${path}-wal-cert`]: new Uint8Array(1) }),
        examine({ [files.database]: withVersions(3), [files.wal]: wal })
      ])
      for (const { refusal } of found) {
        assert.include(refusal?.message, path)
        assert.match(refusal?.message ?? "", /[^.]$/)
        assert.isFalse(refusal?.isRetryable)
        assert.isDefined(refusal?.sqliteCode)
      }
      assert.strictEqual(new Set(found.map(({ refusal }) => refusal?._tag)).size, 10)
    }))

  it.effect("a WAL with any byte flipped or cut off anywhere never gives more than was written", () =>
    Effect.gen(function*() {
      const written = [1, 2, 3, 2, 3, 4]
      for (let at = 0; at < wal.length; at += 7) {
        for (const bytes of [flipped(wal, at, 0x20), wal.subarray(0, at)]) {
          const contents = { [files.database]: database, [files.wal]: bytes, [files.walBase]: buildWalBase(10n) }
          const found = yield* examine(contents, { acceptLoss: true })
          assert.isUndefined(found.refusal, `byte ${at}`)
          assert.deepStrictEqual(Array.from(found.framePages), written.slice(0, found.validFrames))
          assert.include([0, 3, 6], found.validFrames)
          assert.isAtLeast(Number(found.tip), 10 + found.commits, "no sequence is given out twice")
        }
      }
    }))

  it.effect("random files are never a defect", () =>
    Effect.gen(function*() {
      const bytes = fc.uint8Array({ maxLength: 200 })
      for (const [db, log, seq, journal] of fc.sample(fc.tuple(bytes, bytes, bytes, bytes), 100)) {
        const found = yield* examine({
          [files.database]: db,
          [files.wal]: log,
          [files.walBase]: seq,
          [files.journal]: journal
        })
        assert.strictEqual(found.validFrames, 0)
      }
    }))
})

describe("StartUp: the world around it", () => {
  it.effect("a file that cannot be read fails the examination, it is not taken for absent", () =>
    Effect.gen(function*() {
      for (const file of [files.database, files.wal, files.walBase]) {
        for (const operation of ["open", "read"] as const) {
          const disk = MemoryDisk.make({ async: false })
          disk.writeFile(files.database, database)
          disk.writeFile(files.wal, wal)
          disk.writeFile(files.walBase, buildWalBase(1n))
          disk.inject({ operation, path: file, fault: { kind: "error", code: "EIO" } })
          const error = yield* Effect.flip(
            Effect.flatMap(Vfs, (vfs) => examineDatabase(vfs, path)).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
          )
          assert.deepStrictEqual([error.path, error.operation, error.code], [file, operation, "EIO"])
        }
      }
    }))

  it.effect("RC-03 a power loss inside of the last batch can look like damage: how far it reaches is said", () =>
    Effect.gen(function*() {
      // Pages of 4 KiB span sectors without a frame header, so that a lost one breaks a page and no chain behind it.
      const size = PageSize.make(4096)
      const acknowledged = buildWal([{ pages: [1, 2], databasePages: 2 }], { pageSize: size })
      const whole = buildWal([{ pages: [1, 2], databasePages: 2 }, { pages: [1, 2], databasePages: 2 }], {
        pageSize: size
      })
      const disk = MemoryDisk.make({ async: false })
      disk.writeFile(path, buildDatabase(2, size))
      disk.writeFile(files.wal, acknowledged)
      yield* Effect.gen(function*() {
        const vfs = yield* Vfs
        const file = yield* vfs.open(files.wal, { access: "readWrite" })
        yield* file.write([whole.subarray(acknowledged.length)], acknowledged.length)
        disk.crash({
          contents: ({ position }) => position < acknowledged.length + 1024 || position >= acknowledged.length + 1536,
          sizes: "kept"
        })
      }).pipe(Effect.scoped, Effect.provide(MemoryVfs.layerDisk(disk)))
      const found = yield* Effect.flatMap(Vfs, (vfs) => examineDatabase(vfs, path)).pipe(
        Effect.provide(MemoryVfs.layerDisk(disk))
      )
      const refusal = refusalOf(found, "WalDamaged")
      assert.deepStrictEqual(
        [refusal.frame, refusal.keptCommits, refusal.lostBytes],
        [2, 1, whole.length - acknowledged.length]
      )
    }))

  it.live("SWAL-02 a real database of SQLite's, crashed, on real files: examined twice, nothing is changed", () =>
    Effect.gen(function*() {
      const directory = yield* Effect.acquireRelease(
        Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-startup-"))),
        (made) => Effect.sync(() => rmSync(made, { recursive: true, force: true }))
      )
      const live = join(directory, "live.db")
      const copy = join(directory, "copy.db")
      const sqlite = new DatabaseSync(live)
      sqlite.exec("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a)")
      for (let k = 0; k < 30; k++) sqlite.exec(`INSERT INTO t VALUES (zeroblob(${k * 300}))`)
      copyFileSync(live, copy)
      copyFileSync(`${live}-wal`, `${copy}-wal`)
      sqlite.close()
      // A transaction that SQLite was in the middle of.
      writeFileSync(`${copy}-wal`, readFileSync(`${copy}-wal`).subarray(0, -5000))
      const before = [readFileSync(copy), readFileSync(`${copy}-wal`)]
      const vfs = yield* Vfs
      const found = yield* examineDatabase(vfs, copy)
      assert.deepStrictEqual(yield* examineDatabase(vfs, copy), found)
      assert.deepStrictEqual([readFileSync(copy), readFileSync(`${copy}-wal`)], before)
      assert.deepStrictEqual(readdirSync(directory).filter((name) => name.startsWith("copy")), [
        "copy.db",
        "copy.db-wal"
      ])
      const seen = new DatabaseSync(copy)
      const { log } = seen.prepare("PRAGMA wal_checkpoint(PASSIVE)").get() ?? {}
      const { page_count: pages } = seen.prepare("PRAGMA page_count").get() ?? {}
      const { n } = seen.prepare("SELECT count(*) AS n FROM t").get() ?? {}
      seen.close()
      assert.strictEqual(found.case, "RC-03")
      assert.isUndefined(found.refusal)
      assert.deepStrictEqual([found.validFrames, found.databasePages], [log, pages])
      assert.strictEqual(found.commits, Number(n) + 1, "a commit for each row, and one for the table")
      assert.strictEqual(found.tip, BigInt(found.commits))
    }).pipe(Effect.provide(NodeVfs.layer)))
})

import { assert, describe, it } from "@effect/vitest"
import { CommitSeq, PageSize } from "@tidemark/core/Scalars"
import { Effect } from "effect"
import { certificateBytes } from "../src/CertificateFormat.ts"
import { setVersions } from "../src/DatabaseHeaderFormat.ts"
import type { ParallelExamination } from "../src/ParallelStartUp.ts"
import { certificateLog, offsetOf, seq, walEpoch } from "./support/certificates.ts"
import {
  certificates,
  certificatesFile,
  certify,
  examineAs,
  markAfter,
  markBytes,
  markedDatabase,
  markFile,
  recordsOf,
  refusalOf,
  segmentBytes,
  segmentFile,
  whole,
  without
} from "./support/parallelFiles.ts"
import { buildDatabase, buildWal, buildWalBase, concat, files, flipped, path, twoOfThree } from "./support/walFiles.ts"

const wal = buildWal(twoOfThree)
const hotJournal = concat(Uint8Array.of(0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7), new Uint8Array(504))

const uncertifiedOf = ({ uncertified }: ParallelExamination): ReadonlyArray<ReadonlyArray<unknown>> =>
  uncertified.map(({ epoch, high, low, readable }) => [epoch, readable, low, high])
const severities = ({ problems }: ParallelExamination) => problems.map(({ path: file, severity }) => [file, severity])

describe("ParallelStartUp: the certificate log", () => {
  it.effect("RC-09 a torn last certificate, cut off anywhere, is dropped and reported; its segment was never acknowledged", () =>
    Effect.gen(function*() {
      const log = certificateLog(certificates)
      const start = offsetOf(2, 2)
      for (let length = start + 1; length < start + certificateBytes(2); length++) {
        const found = yield* examineAs({ ...whole, [certificatesFile]: log.slice(0, length) })
        assert.deepStrictEqual(found.cases, ["RC-09", "RC-07", "RC-06"])
        assert.isUndefined(found.refusal)
        assert.deepStrictEqual([found.live.length, found.tip, found.databasePages], [2, seq(3), 4])
        assert.isAbove(found.tornTailBytes, 0)
        assert.deepStrictEqual(uncertifiedOf(found), [[5n, true, 4n, 6n]])
        assert.deepStrictEqual(severities(found), [[certificatesFile, "tail"], [segmentFile(5), "tail"]])
        assert.strictEqual(found.problems[0]?.offset, start)
      }
      const none = yield* examineAs({ ...whole, [certificatesFile]: log.slice(0, start) })
      assert.deepStrictEqual([none.cases, none.tornTailBytes], [["RC-07", "RC-06"], 0])
    }))

  it.effect("RC-10 a certificate that is damaged in front of others is refused with its place", () =>
    Effect.gen(function*() {
      for (const index of [0, 1]) {
        const offset = offsetOf(index, 2)
        const damaged = flipped(certificateLog(certificates), offset + 20)
        for (const options of [{}, { stopAtCorrupt: true, trustSegments: true, discardSegments: true }]) {
          const found = yield* examineAs({ ...whole, [certificatesFile]: damaged }, options)
          const refusal = refusalOf(found, "CertificateChecksumMismatch")
          assert.deepStrictEqual([refusal.path, refusal.offset], [certificatesFile, offset])
          assert.notStrictEqual(refusal.found, refusal.expected)
          assert.strictEqual(found.case, "RC-10")
          assert.notInclude(found.cases, "RC-07", "the certificate of a segment may be what is lost")
          assert.strictEqual(found.live.length, index)
          assert.deepInclude(severities(found), [certificatesFile, "corrupt"])
        }
      }
    }))

  it.effect("RC-10 a header that does not check is damage: no crash leaves one", () =>
    Effect.gen(function*() {
      for (const log of [flipped(certificateLog(certificates), 20), new Uint8Array(0), new Uint8Array(64)]) {
        const refusal = refusalOf(
          yield* examineAs({ ...whole, [certificatesFile]: log }),
          "CertificateChecksumMismatch"
        )
        assert.strictEqual(refusal.offset, 0)
      }
    }))

  it.effect("RC-10 a gap or an overlap between certificates is refused", () =>
    Effect.gen(function*() {
      const [first, , third] = certificates
      assert.isDefined(first)
      assert.isDefined(third)
      for (const [low, code] of [[4, "Gap"], [2, "Overlap"]] as const) {
        const log = certificateLog([first, { ...third, low: seq(low) }])
        const found = yield* examineAs({ ...whole, [certificatesFile]: log })
        const refusal = refusalOf(found, "CertificateGap")
        assert.deepStrictEqual(
          [refusal.offset, refusal.found, refusal.expected, refusal.issue.code],
          [offsetOf(1, 2), `${low}`, "3", code]
        )
        assert.deepStrictEqual(found.cases.slice(0, 1), ["RC-10"])
      }
    }))

  it.effect("RC-10 certificates that begin later than the mark has ended are a gap, earlier ones an overlap", () =>
    Effect.gen(function*() {
      const [, second, third] = certificates
      assert.isDefined(second)
      assert.isDefined(third)
      const rows = [
        // The certificates of commits 1 and 2 are gone, and nothing says that they are in the database file.
        [{ ...whole, [certificatesFile]: certificateLog([second, third]) }, "3", "1"],
        [
          { ...whole, [certificatesFile]: certificateLog([third]), [markFile]: markBytes({ through: seq(2) }) },
          "4",
          "3"
        ],
        // A mark in the middle of an interval is not one of this log.
        [{ ...whole, [markFile]: markBytes({ through: seq(5), segmentEpoch: walEpoch(2) }) }, "4", "6"],
        // A WAL has begun behind commit 4 although this log has it as well.
        [{ ...whole, [markFile]: markAfter(2), [files.walBase]: buildWalBase(4n, { sealed: true }) }, "4", "5"]
      ] as const
      for (const [contents, found, expected] of rows) {
        const examined = yield* examineAs(contents)
        const refusal = refusalOf(examined, "CertificateGap")
        assert.deepStrictEqual([refusal.path, refusal.found, refusal.expected], [certificatesFile, found, expected])
        assert.strictEqual(examined.case, "RC-10")
      }
      // A log that was replaced at the checkpoint begins right behind the mark.
      const replaced = yield* examineAs({
        ...whole,
        [certificatesFile]: certificateLog([third]),
        [markFile]: markAfter(2)
      })
      assert.deepStrictEqual([replaced.cases, replaced.refusal], [["RC-21", "RC-06"], undefined])
    }))

  it.effect("RC-11 segments without a certificate log are refused", () =>
    Effect.gen(function*() {
      const contents = without(whole, certificatesFile)
      const found = yield* examineAs(contents)
      const refusal = refusalOf(found, "CertificatesLost")
      assert.deepStrictEqual(
        [refusal.path, refusal.segments, refusal.firstEpoch, refusal.lastEpoch],
        [certificatesFile, 3, walEpoch(1), walEpoch(5)]
      )
      assert.deepStrictEqual(found.cases, ["RC-11"])
      assert.deepStrictEqual(found.live, [])
      const above = refusalOf(yield* examineAs({ ...contents, [markFile]: markAfter(2) }), "CertificatesLost")
      assert.deepStrictEqual([above.segments, above.firstEpoch], [1, walEpoch(5)])
      const checkpointed = yield* examineAs({
        ...contents,
        [files.database]: buildDatabase(5),
        [markFile]: markAfter(3)
      })
      assert.deepStrictEqual([checkpointed.cases, checkpointed.refusal], [["RC-21", "RC-01"], undefined])
    }))

  it.effect("RC-11 a database that says it has such a log, of which nothing is there, is refused", () =>
    Effect.gen(function*() {
      const contents = { [files.database]: markedDatabase() }
      const found = yield* examineAs(contents)
      assert.strictEqual(refusalOf(found, "CertificatesLost").segments, 0)
      assert.deepStrictEqual(found.cases, ["RC-11"])
      assert.isUndefined((yield* examineAs(contents, { discardSegments: true })).refusal)
    }))

  it.effect("RC-11 with discardSegments the segments count as never acknowledged", () =>
    Effect.gen(function*() {
      const found = yield* examineAs(without(whole, certificatesFile), { discardSegments: true })
      assert.deepStrictEqual([found.cases, found.refusal, found.live], [["RC-11"], undefined, []])
      assert.deepStrictEqual(uncertifiedOf(found), [[1n, true, 1n, 2n], [2n, true, 3n, 3n], [5n, true, 4n, 6n]])
      assert.deepStrictEqual([found.tip, found.highestEpoch], [seq(0), walEpoch(5)])
      const withLog = yield* examineAs(whole, { discardSegments: true })
      assert.strictEqual(withLog.live.length, 3, "where there are certificates they decide")
    }))
})

describe("ParallelStartUp: beside other logs", () => {
  it.effect("RC-20 commits in the -wal and certified segments above the mark are refused", () =>
    Effect.gen(function*() {
      const found = yield* examineAs({ ...whole, [files.wal]: wal, [files.walBase]: buildWalBase(0n) })
      const refusal = refusalOf(found, "MixedLogs")
      assert.deepStrictEqual([refusal.path, refusal.found, refusal.walCommits], [path, "parallel", 2])
      assert.strictEqual(found.case, "RC-20")
    }))

  it.effect("RC-23 commits in the -wal are refused; a -wal without any is fine", () =>
    Effect.gen(function*() {
      const database = { [files.database]: buildDatabase(4), [files.walBase]: buildWalBase(100n) }
      const found = yield* examineAs({ ...database, [files.wal]: wal })
      assert.strictEqual(refusalOf(found, "WrongLogKind").found, "sqlite")
      assert.deepStrictEqual(found.cases, ["RC-23"])
      // Also those of the generation before: they are in the database file, and would be copied over what follows.
      const before = {
        [files.wal]: wal,
        [files.walBase]: buildWalBase(100n, { salt1: 1, previousSalt1: 0x1000_0001, previousSalt2: 0xdead_beef })
      }
      assert.strictEqual(refusalOf(yield* examineAs({ ...database, ...before }), "WrongLogKind").found, "sqlite")
      const checkpointed = { ...database, [markFile]: markBytes({ through: seq(120) }), [files.wal]: wal }
      assert.strictEqual(refusalOf(yield* examineAs(checkpointed), "WrongLogKind").found, "sqlite")

      const rows = [
        [buildWal([]), buildWalBase(100n), 100n],
        [buildWal([{ pages: [1, 2], databasePages: 0 }]), buildWalBase(100n), 100n],
        [new Uint8Array(0), buildWalBase(100n, { sealed: true }), 100n],
        [new Uint8Array(8192), buildWalBase(100n, { sealed: true }), 100n],
        [new Uint8Array(0), buildWalBase(100n), 100n + 2n ** 32n]
      ] as const
      for (const [bytes, base, tip] of rows) {
        const fine = yield* examineAs({ ...database, [files.wal]: bytes, [files.walBase]: base })
        assert.deepStrictEqual([fine.cases, fine.refusal, fine.problems], [["RC-01"], undefined, []])
        assert.deepStrictEqual([fine.tip, fine.base], [CommitSeq.make(tip), CommitSeq.make(tip)])
      }
    }))

  it.effect("RC-23 commits of a -wal that cannot be read are no less in the way", () =>
    Effect.gen(function*() {
      const database = { [files.database]: buildDatabase(4), [files.walBase]: buildWalBase(100n) }
      refusalOf(yield* examineAs({ ...database, [files.wal]: flipped(wal, 3) }), "WalHeaderLost")
      refusalOf(yield* examineAs({ ...database, [files.wal]: flipped(wal, 100) }), "WalDamaged")
    }))

  it.effect("RC-23 a native log that is not checkpointed is refused", () =>
    Effect.gen(function*() {
      const marker = { [`${path}.fsqlite/markers/segment-000000.log`]: new Uint8Array(9) }
      const found = yield* examineAs({ [files.database]: markedDatabase(), ...marker })
      assert.strictEqual(refusalOf(found, "WrongLogKind").found, "native")
      assert.deepStrictEqual(found.cases, ["RC-23"])
      const after = yield* examineAs({ [files.database]: buildDatabase(4), ...marker })
      assert.isUndefined(after.refusal, "checkpointed, its markers are leftovers")
      assert.isUndefined((yield* examineAs({ ...whole, ...marker })).refusal)
    }))

  it.effect("section 2.1: the tip is the highest that any log has used", () =>
    Effect.gen(function*() {
      const database = { [files.database]: buildDatabase(4), [certificatesFile]: certificateLog(certificates) }
      const rows = [
        [{ [markFile]: markAfter(3) }, 6n, "certificate"],
        [{ [markFile]: markAfter(3), [files.walBase]: buildWalBase(6n, { sealed: true }) }, 6n, "certificate"],
        [{ [markFile]: markAfter(3), [files.walBase]: buildWalBase(50n, { sealed: true }) }, 50n, "sealed"],
        [
          { [markFile]: markBytes({ through: seq(80) }), [files.walBase]: buildWalBase(50n, { sealed: true }) },
          80n,
          "checkpoint-mark"
        ],
        // The WAL of a base below the mark was over before the mark: whoever has removed it has removed nothing.
        [{ [markFile]: markBytes({ through: seq(80) }), [files.walBase]: buildWalBase(50n) }, 80n, "checkpoint-mark"]
      ] as const
      for (const [contents, tip, tipSource] of rows) {
        const found = yield* examineAs({ ...database, ...contents })
        assert.isUndefined(found.refusal)
        assert.deepStrictEqual([found.tip, found.base, found.tipSource], [
          CommitSeq.make(tip),
          CommitSeq.make(tip),
          tipSource
        ])
      }
    }))

  it.effect("section 2.1: a -wal that is removed while certified commits stand changes neither tip nor replay", () =>
    Effect.gen(function*() {
      const interval = { epoch: 1, low: 51, commits: [[1], [2]] }
      const contents = {
        [files.database]: markedDatabase(),
        [files.walBase]: buildWalBase(50n),
        [files.wal]: buildWal([]),
        [certificatesFile]: certificateLog([certify(interval, 1)]),
        [segmentFile(1)]: segmentBytes(1, recordsOf(interval))
      }
      for (const found of [yield* examineAs(contents), yield* examineAs(without(contents, files.wal))]) {
        assert.isUndefined(found.refusal)
        assert.deepStrictEqual([found.tip, found.base, found.tipSource], [seq(52), seq(50), "certificate"])
        assert.strictEqual(found.live.length, 1)
      }
    }))
})

describe("ParallelStartUp: the other refusals", () => {
  it.effect("PW-28 a hot journal, another journal mode, no database, a damaged base or mark are refused", () =>
    Effect.gen(function*() {
      const rollback = buildDatabase(4)
      setVersions(rollback, 1)
      const rows = [
        [{ ...whole, [files.journal]: hotJournal }, "HotJournal"],
        [{ [files.database]: rollback }, "NotWalMode"],
        [{ ...whole, [files.database]: new Uint8Array(4096).fill(65) }, "NotADatabase"],
        [{ ...whole, [files.walBase]: flipped(buildWalBase(0n), 33) }, "WalBaseDamaged"],
        [{ ...whole, [markFile]: flipped(markAfter(1), 20) }, "CheckpointMarkDamaged"],
        [{ ...whole, [markFile]: new Uint8Array(0) }, "CheckpointMarkDamaged"]
      ] as const
      for (const [contents, tag] of rows) refusalOf(yield* examineAs(contents), tag)
      const hot = yield* examineAs({ ...without(whole, segmentFile(1)), [files.wal]: wal, [files.journal]: hotJournal })
      assert.deepStrictEqual(hot.cases, ["RC-24", "RC-20", "RC-08"])
    }))

  it.effect("every refusal is one sentence that names the file, is not retryable and has SQLite's code", () =>
    Effect.gen(function*() {
      const log = certificateLog(certificates)
      const found = yield* Effect.all([
        examineAs(without(whole, segmentFile(1))),
        examineAs(without(whole, certificatesFile)),
        examineAs({ [files.database]: markedDatabase() }),
        examineAs({ ...whole, [certificatesFile]: flipped(log, 60) }),
        examineAs({ ...whole, [certificatesFile]: certificateLog(certificates.slice(1)) }),
        examineAs({ ...whole, [markFile]: new Uint8Array(48) }),
        examineAs({ ...whole, [files.wal]: wal }),
        examineAs({ [files.database]: buildDatabase(4), [files.wal]: wal }),
        examineAs({ ...whole, [files.database]: buildDatabase(4, PageSize.make(1024)) })
      ])
      for (const { refusal } of found) {
        assert.include(refusal?.message, path)
        assert.match(refusal?.message ?? "", /[^.]$/)
        assert.match(refusal?.message ?? "", /[:;] (restore|put|run|move) /, "what the caller can do")
        assert.isFalse(refusal?.isRetryable)
        assert.isDefined(refusal?.sqliteCode)
      }
      assert.deepStrictEqual(found.map(({ refusal }) => refusal?._tag), [
        "CertifiedSegmentLost",
        "CertificatesLost",
        "CertificatesLost",
        "CertificateChecksumMismatch",
        "CertificateGap",
        "CheckpointMarkDamaged",
        "MixedLogs",
        "WrongLogKind",
        "PageSizeMismatch"
      ])
    }))
})

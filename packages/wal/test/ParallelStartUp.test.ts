import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { ParallelExamination } from "../src/ParallelStartUp.ts"
import { temporarySegmentPath } from "../src/SegmentFormat.ts"
import { certificateLog, offsetOf, seq, walEpoch } from "./support/certificates.ts"
import {
  abort,
  certificatesFile,
  certify,
  committed,
  examineAs,
  imageOf,
  intervals,
  markAfter,
  markBytes,
  markedDatabase,
  markFile,
  recordsOf,
  refusalOf,
  replayed,
  segmentBytes,
  segmentFile,
  segments,
  whole,
  without
} from "./support/parallelFiles.ts"
import { buildDatabase, files, flipped, pageSize, path } from "./support/walFiles.ts"

const cut = (bytes: Uint8Array | undefined, by: number) => (bytes ?? new Uint8Array(0)).slice(0, -by)

const intervalsOf = ({ live }: ParallelExamination) => live.map(({ epoch, high, low }) => [epoch, low, high])
const uncertifiedOf = ({ uncertified }: ParallelExamination): ReadonlyArray<ReadonlyArray<unknown>> =>
  uncertified.map(({ epoch, high, low, readable }) => [epoch, readable, low, high])
const severities = ({ problems }: ParallelExamination) => problems.map(({ path: file, severity }) => [file, severity])

describe("ParallelStartUp: whole logs", () => {
  it.effect("RC-01 a database without any log", () =>
    Effect.gen(function*() {
      const found = yield* examineAs({ [files.database]: buildDatabase(4) })
      assert.deepStrictEqual(found.cases, ["RC-01"])
      assert.isUndefined(found.refusal)
      assert.deepStrictEqual(found.problems, [])
      assert.deepStrictEqual([found.tip, found.base, found.tipSource], [seq(0), seq(0), "no-wal-base"])
      assert.deepStrictEqual([found.databasePages, found.pageSize, found.live], [4, pageSize, []])
      assert.isUndefined(found.certificates)
      assert.isUndefined(found.highestEpoch, "the first epoch of a new log is 0 (PW-09)")
      assert.strictEqual(found.lastCertificateEpoch, 0n)
      const nothing = yield* examineAs({})
      assert.deepStrictEqual([nothing.cases, nothing.refusal, nothing.databaseExists], [["RC-01"], undefined, false])
    }))

  it.effect("PW-28 RC-01 a header that says 3 before the first certificate, or after the last checkpoint, is fine", () =>
    Effect.gen(function*() {
      const fresh = { [files.database]: markedDatabase(), [certificatesFile]: certificateLog([], { zeros: 100 }) }
      const before = yield* examineAs(fresh)
      assert.deepStrictEqual([before.cases, before.refusal, before.problems], [["RC-01"], undefined, []])
      const after = yield* examineAs({ ...without(whole, ...Object.keys(segments)), [markFile]: markAfter(3) })
      assert.deepStrictEqual([after.cases, after.refusal, after.problems], [["RC-01"], undefined, []])
      assert.deepStrictEqual([after.tip, after.base, after.live], [seq(6), seq(6), []])
    }))

  it.effect("PW-28 RC-06 certificates and segments agree: replayed in the order of the certificates", () =>
    Effect.gen(function*() {
      const found = yield* examineAs(whole)
      assert.deepStrictEqual(found.cases, ["RC-06"])
      assert.isUndefined(found.refusal)
      assert.deepStrictEqual(found.problems, [])
      assert.deepStrictEqual(intervalsOf(found), [[1n, 1n, 2n], [2n, 3n, 3n], [5n, 4n, 6n]])
      assert.deepStrictEqual(found.live.map(({ path: file }) => file), Object.keys(segments))
      assert.deepStrictEqual(found.live.map(({ databasePages }) => databasePages), [4, 4, 5])
      assert.deepStrictEqual(found.live.map(({ pages }) => Array.from(pages)), [[1, 2, 2], [1, 3], [4, 2, 5, 2]])
      assert.deepStrictEqual(found.live.map(({ seqs }) => Array.from(seqs)), [[1n, 1n, 2n], [3n, 3n], [4n, 5n, 5n, 6n]])
      assert.deepStrictEqual(
        replayed(whole, found.live),
        new Map([[1, imageOf(3, 1)], [2, imageOf(6, 2)], [3, imageOf(3, 3)], [4, imageOf(4, 4)], [5, imageOf(5, 5)]])
      )
      assert.deepStrictEqual([found.tip, found.base, found.tipSource], [seq(6), seq(0), "certificate"])
      assert.deepStrictEqual([found.databasePages, found.databaseFileBytes], [5, 4 * pageSize])
      assert.deepStrictEqual([found.highestEpoch, found.lastCertificateEpoch], [walEpoch(5), 30n])
      assert.deepStrictEqual([found.lost, found.isReadOnly, found.removable, found.uncertified], [[], false, [], []])
      assert.strictEqual(found.certificates?.certificates.length, 3)
    }))

  it.effect("RC-06 PW-13 PW-24 records without an end, or without an image, are not applied", () =>
    Effect.gen(function*() {
      const interval = { epoch: 1, low: 1, commits: [[1], [2], [3]] }
      const records = [
        committed(1, 1, 1),
        committed(1, 2, 2, { end: undefined }),
        committed(1, 3, 3, { after: new Uint8Array(0) }),
        committed(1, 3, 4, { before: imageOf(0, 4) })
      ]
      const contents = {
        [files.database]: markedDatabase(),
        [segmentFile(1)]: segmentBytes(1, records),
        [certificatesFile]: certificateLog([certify(interval, 1, {}, records)])
      }
      const found = yield* examineAs(contents)
      assert.isUndefined(found.refusal)
      assert.deepStrictEqual(replayed(contents, found.live), new Map([[1, imageOf(1, 1)], [4, imageOf(3, 4)]]))
      assert.deepStrictEqual(found.live.map(({ seqs }) => Array.from(seqs)), [[1n, 3n]])
    }))

  it.effect("RC-06 PW-29 an aborted interval has no segment and uses up its sequences", () =>
    Effect.gen(function*() {
      const [first] = intervals
      const last = { epoch: 3, low: 8, commits: [[2]] }
      const contents = {
        [files.database]: markedDatabase(),
        [segmentFile(1)]: segmentBytes(1, recordsOf(first)),
        [segmentFile(3)]: segmentBytes(3, recordsOf(last)),
        [certificatesFile]: certificateLog([certify(first, 1), abort(3, 7, 1, 2), certify(last, 3)])
      }
      const found = yield* examineAs(contents)
      assert.deepStrictEqual([found.cases, found.refusal], [["RC-06"], undefined])
      assert.deepStrictEqual(intervalsOf(found), [[1n, 1n, 2n], [3n, 8n, 8n]])
      const end = yield* examineAs({
        ...without(contents, segmentFile(3)),
        [certificatesFile]: certificateLog([certify(first, 1), abort(3, 7, 1, 2)])
      })
      assert.deepStrictEqual([end.tip, end.tipSource, end.lastCertificateEpoch], [seq(7), "certificate", 2n])
      const alone = yield* examineAs({
        [files.database]: markedDatabase(),
        [certificatesFile]: certificateLog([abort(1, 3, 0, 1)])
      })
      assert.deepStrictEqual([alone.cases, alone.refusal, alone.live], [["RC-01"], undefined, []])
      assert.deepStrictEqual([alone.tip, alone.base], [seq(3), seq(0)])
    }))

  it.effect("RC-21 what is at or below the mark is in the database file: not read, not replayed, removable", () =>
    Effect.gen(function*() {
      const contents = { ...whole, [markFile]: markAfter(2), [segmentFile(1)]: new Uint8Array(3) }
      const found = yield* examineAs(contents)
      assert.deepStrictEqual(found.cases, ["RC-21", "RC-06"])
      assert.isUndefined(found.refusal)
      assert.deepStrictEqual(found.problems, [])
      assert.deepStrictEqual(found.removable, [segmentFile(1), segmentFile(2)])
      assert.deepStrictEqual(intervalsOf(found), [[5n, 4n, 6n]])
      assert.deepStrictEqual([found.base, found.tip, found.mark?.through], [seq(3), seq(6), seq(3)])
      // A segment that was never certified goes the same way, and so does one whose certificate is gone with its log.
      const after = yield* examineAs({
        [files.database]: markedDatabase(),
        [certificatesFile]: certificateLog([]),
        [markFile]: markBytes({ through: seq(6), segmentEpoch: walEpoch(5), certificateEpoch: 30n, databasePages: 4 }),
        [segmentFile(4)]: new Uint8Array(1),
        ...segments
      })
      assert.deepStrictEqual(after.cases, ["RC-21", "RC-01"])
      assert.deepStrictEqual(after.removable, [1, 2, 4, 5].map(segmentFile))
      assert.deepStrictEqual([after.tip, after.tipSource, after.lastCertificateEpoch], [seq(6), "checkpoint-mark", 30n])
      assert.strictEqual(after.highestEpoch, walEpoch(5))
    }))

  it.effect("RC-21 a segment whose certificate is at or below the mark goes too, whatever epoch the mark says", () =>
    Effect.gen(function*() {
      const found = yield* examineAs({
        ...whole,
        [markFile]: markBytes({ through: seq(3), segmentEpoch: walEpoch(1) })
      })
      assert.deepStrictEqual([found.cases, found.refusal], [["RC-21", "RC-06"], undefined])
      assert.deepStrictEqual(found.removable, [segmentFile(1), segmentFile(2)])
      assert.deepStrictEqual(found.uncertified, [])
    }))

  it.effect("section 2.2: the first epoch is above those of names, certificates and the mark, each alone", () =>
    Effect.gen(function*() {
      const fresh = { [files.database]: buildDatabase(4), [certificatesFile]: certificateLog([]) }
      const rows = [
        [{ [markFile]: markBytes({ through: seq(1), segmentEpoch: walEpoch(8), certificateEpoch: 9n }) }, 8, 9n],
        [{ [certificatesFile]: certificateLog([abort(1, 2, 7, 3)]) }, 7, 3n],
        [{ [segmentFile(6)]: new Uint8Array(1) }, 6, 0n]
      ] as const
      for (const [contents, epoch, certificateEpoch] of rows) {
        const found = yield* examineAs({ ...fresh, ...contents })
        assert.isUndefined(found.refusal)
        assert.deepStrictEqual([found.highestEpoch, found.lastCertificateEpoch], [walEpoch(epoch), certificateEpoch])
      }
    }))

  it.effect("RC-19 RC-25 temporary segments, certificate logs and spills are listed for the sweep, other files are not", () =>
    Effect.gen(function*() {
      const some = new Uint8Array(3)
      const swept = [
        `${path}.fsqlite-tmp/txn-17-3.spill`,
        `${path}.fsqlite/.tmp-checkpoint-0123abcd`,
        "/data/.tmp-app.db-wal-cert-0123abcd",
        temporarySegmentPath(path, walEpoch(6), 1),
        temporarySegmentPath(path, walEpoch(0x6f), 12)
      ]
      const found = yield* examineAs({
        ...whole,
        ...Object.fromEntries(swept.map((file) => [file, some])),
        [`${path}.fsqlite/lease`]: some,
        "/data/.tmp-other.db-wal-cert-0123abcd": some,
        "/data/other.db-wal-seg-0000000000000006.tmp-1": some,
        [`${segmentFile(6)}.tmp-`]: some,
        [`${segmentFile(6)}.tmp-x`]: some,
        [`${path}-wal-seg-6.tmp-1`]: some
      })
      assert.deepStrictEqual(found.cases, ["RC-19", "RC-25", "RC-06"])
      assert.isUndefined(found.refusal)
      assert.sameMembers(Array.from(found.sweepable), swept)
      assert.deepStrictEqual(found.highestEpoch, walEpoch(5), "what never had the name of a segment has used no epoch")
    }))
})

describe("ParallelStartUp: segments and certificates that do not agree", () => {
  it.effect("RC-07 a segment newer than the last certificate was never acknowledged, readable or torn", () =>
    Effect.gen(function*() {
      const next = { epoch: 6, low: 7, commits: [[1], [2, 3]] }
      const bytes = segmentBytes(6, recordsOf(next))
      const found = yield* examineAs({ ...whole, [segmentFile(6)]: bytes, [segmentFile(7)]: cut(bytes, 1) })
      assert.deepStrictEqual(found.cases, ["RC-07", "RC-06"])
      assert.isUndefined(found.refusal)
      assert.strictEqual(found.live.length, 3)
      assert.deepStrictEqual(uncertifiedOf(found), [[6n, true, 7n, 8n], [7n, false, undefined, undefined]])
      assert.deepStrictEqual([found.tip, found.highestEpoch, found.removable], [seq(6), walEpoch(7), []])
      assert.deepStrictEqual(severities(found), [[segmentFile(6), "tail"], [segmentFile(7), "tail"]])
      // The first segment of all, before any certificate.
      const first = yield* examineAs({
        [files.database]: buildDatabase(4),
        [certificatesFile]: certificateLog([]),
        [segmentFile(0)]: segmentBytes(0, [])
      })
      assert.deepStrictEqual([first.cases, first.refusal], [["RC-07", "RC-01"], undefined])
      assert.deepStrictEqual(uncertifiedOf(first), [[0n, true, undefined, undefined]])
      assert.strictEqual(first.highestEpoch, walEpoch(0))
    }))

  it.effect("RC-22 a segment without a certificate between certified ones is ignored in the same way", () =>
    Effect.gen(function*() {
      const stray = segmentBytes(3, recordsOf({ epoch: 3, low: 4, commits: [[1, 2, 3, 4]] }))
      const found = yield* examineAs({ ...whole, [segmentFile(3)]: stray, [segmentFile(4)]: new Uint8Array(0) })
      assert.deepStrictEqual(found.cases, ["RC-22", "RC-06"])
      assert.isUndefined(found.refusal)
      assert.deepStrictEqual(intervalsOf(found), [[1n, 1n, 2n], [2n, 3n, 3n], [5n, 4n, 6n]])
      assert.deepStrictEqual(uncertifiedOf(found), [[3n, true, 4n, 4n], [4n, false, undefined, undefined]])
      assert.deepStrictEqual(severities(found), [[segmentFile(3), "tail"], [segmentFile(4), "tail"]])
    }))

  it.effect("RC-08 a certified segment that is missing is refused; with stopAtCorrupt the prefix before it is kept", () =>
    Effect.gen(function*() {
      for (const [index, { epoch, low }] of intervals.entries()) {
        const contents = without(whole, segmentFile(epoch))
        const found = yield* examineAs(contents)
        const refusal = refusalOf(found, "CertifiedSegmentLost")
        assert.deepStrictEqual(
          [refusal.path, refusal.epoch, refusal.certificateOffset, refusal.keptThrough, refusal.lostThrough],
          [segmentFile(epoch), walEpoch(epoch), offsetOf(index, 2), seq(low - 1), seq(6)]
        )
        assert.deepStrictEqual([refusal.loss, refusal.found, refusal.expected], ["missing", "missing", "there"])
        assert.isFalse(found.isReadOnly)
        const kept = yield* examineAs(contents, { stopAtCorrupt: true })
        assert.isUndefined(kept.refusal)
        assert.isTrue(kept.isReadOnly)
        assert.strictEqual(kept.tip, seq(6), "no sequence that was acknowledged is used again")
        for (const either of [found, kept]) {
          assert.deepStrictEqual(either.cases, ["RC-08"])
          assert.strictEqual(either.live.length, index)
          assert.deepStrictEqual(either.lost, intervals.slice(index).map((lost) => segmentFile(lost.epoch)))
          assert.deepStrictEqual(severities(either), [[segmentFile(epoch), "corrupt"]])
          assert.strictEqual(either.databasePages, 4)
        }
      }
    }))

  it.effect("RC-08 a certified segment with any byte flipped, or cut off anywhere, is refused", () =>
    Effect.gen(function*() {
      const file = segmentFile(2)
      const bytes = segments[file] ?? new Uint8Array(0)
      for (let at = 0; at < bytes.length; at += 5) {
        for (
          const [damaged, mayBe] of [[flipped(bytes, at), ["unreadable", "checksum"]], [bytes.slice(0, at), [
            "unreadable"
          ]]] as const
        ) {
          const contents = { ...whole, [file]: damaged }
          const refusal = refusalOf(yield* examineAs(contents), "CertifiedSegmentLost")
          assert.deepStrictEqual([refusal.path, refusal.keptThrough, refusal.lostThrough], [file, seq(2), seq(6)])
          assert.include<string>(mayBe, refusal.loss)
          const kept = yield* examineAs(contents, { stopAtCorrupt: true })
          assert.deepStrictEqual([kept.refusal, intervalsOf(kept)], [undefined, [[1n, 1n, 2n]]])
        }
      }
    }))

  it.effect("RC-08 a whole segment that is not the one that was certified is refused", () =>
    Effect.gen(function*() {
      const [first, second] = intervals
      // Of the same epoch, sequences and lengths, and in itself without a fault.
      const other = segmentBytes(
        2,
        recordsOf(second).map((record) => Object.assign(record, { after: record.after.toReversed() }))
      )
      assert.strictEqual(other.length, segmentBytes(2, recordsOf(second)).length)
      const exchanged = refusalOf(yield* examineAs({ ...whole, [segmentFile(2)]: other }), "CertifiedSegmentLost")
      assert.strictEqual(exchanged.loss, "checksum")
      assert.match(exchanged.found, /^0x[0-9a-f]{8}$/)
      assert.notStrictEqual(exchanged.found, exchanged.expected)

      const refusalWith = Effect.fnUntraced(
        function*(changed: ReturnType<typeof certify>, bytes?: Uint8Array) {
          const contents = {
            ...whole,
            ...(bytes === undefined ? {} : { [segmentFile(2)]: bytes }),
            [certificatesFile]: certificateLog([certify(first, 1), changed])
          }
          const { expected, found, loss } = refusalOf(yield* examineAs(contents), "CertifiedSegmentLost")
          return [loss, found, expected]
        }
      )
      // The checksum fits, but what the certificate says of the records does not.
      const counts = certify(second, 2, { laneRecords: [1, 0, 2] })
      assert.deepStrictEqual(yield* refusalWith(counts), ["records", "2", "3"])
      for (const strangers of [[committed(2, 2, 1), committed(2, 3, 3)], [committed(2, 3, 3), committed(2, 4, 1)]]) {
        const certificate = certify(second, 2, {}, strangers)
        const stranger = strangers.find(({ begin }) => begin !== seq(3))
        assert.deepStrictEqual(yield* refusalWith(certificate, segmentBytes(2, strangers)), [
          "sequences",
          `${stranger?.begin}`,
          "3 to 3"
        ])
      }
      const unreadable = certify(second, 2, { segmentCrc: 0xe3069283 })
      const [loss, , expected] = yield* refusalWith(unreadable, new TextEncoder().encode("123456789"))
      assert.deepStrictEqual([loss, expected], ["unreadable", "24 bytes"])
    }))

  it.effect("RC-05 a certified image that is not as long as a page of the database is refused, whatever is accepted", () =>
    Effect.gen(function*() {
      const [first, second, third] = intervals
      const records = [committed(5, 4, 4), committed(5, 5, 5, { after: new Uint8Array(1024) }), committed(5, 6, 1)]
      const bytes = segmentBytes(5, records)
      const contents = {
        ...whole,
        [segmentFile(5)]: bytes,
        [certificatesFile]: certificateLog([certify(first, 1), certify(second, 2), certify(third, 3, {}, records)])
      }
      for (const stopAtCorrupt of [false, true]) {
        const found = yield* examineAs(contents, { stopAtCorrupt })
        const refusal = refusalOf(found, "PageSizeMismatch")
        assert.deepStrictEqual(
          [refusal.path, refusal.walPageSize, refusal.databasePageSize],
          [segmentFile(5), 1024, 512]
        )
        const at = refusal.imageOffset ?? 0
        assert.deepStrictEqual(bytes.subarray(at, at + 1024), new Uint8Array(1024))
        assert.deepStrictEqual(found.cases, ["RC-05"])
        assert.isFalse(found.isReadOnly)
      }
    }))

  it.effect("an empty database file beside a log that holds only a part of it is refused", () =>
    Effect.gen(function*() {
      const lost = yield* examineAs({ ...whole, [files.database]: new Uint8Array(0), [markFile]: markAfter(2) })
      const refusal = refusalOf(lost, "DatabasePagesLost")
      assert.deepStrictEqual([refusal.missingPages, refusal.firstMissingPage, refusal.databasePages], [2, 1, 5])
      assert.strictEqual(lost.pageSize, pageSize)
      const all = yield* examineAs({ ...whole, [files.database]: new Uint8Array(0) })
      assert.deepStrictEqual([all.refusal, all.pageSize, all.databasePages], [undefined, pageSize, 5])
    }))
})

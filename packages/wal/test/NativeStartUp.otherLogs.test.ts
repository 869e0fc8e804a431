import { assert, describe, it } from "@effect/vitest"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect } from "effect"
import { type LogKind, logKindOf } from "../src/ParallelStartUp.ts"
import { certificateLog, seq } from "./support/certificates.ts"
import {
  capsules,
  capsulesOf,
  commits,
  examineNativeAs,
  markers,
  markersOf,
  nativeMark,
  part,
  recordAt,
  segment0,
  wholeNative
} from "./support/nativeFiles.ts"
import {
  abort,
  certificates,
  certificatesFile,
  certify,
  type Contents,
  diskOf,
  examineAs,
  markAfter,
  markBytes,
  markedDatabase,
  markFile,
  recordsOf,
  refusalOf,
  segmentBytes,
  segmentFile,
  segments,
  whole
} from "./support/parallelFiles.ts"
import {
  buildDatabase,
  buildWal,
  buildWalBase,
  concat,
  examine,
  files,
  flipped,
  path,
  twoOfThree
} from "./support/walFiles.ts"

const database = { [files.database]: buildDatabase(4) }
const marked = { [files.database]: markedDatabase() }
const wal = { [files.wal]: buildWal(twoOfThree) }
const markerBytes = markers[segment0] ?? new Uint8Array(0)
const million = 1_000_000
const hotJournal = concat(Uint8Array.of(0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7), new Uint8Array(504))

/** A parallel log that began behind the five commits of the native one. */
const after5 = [{ epoch: 1, low: 6, commits: [[1, 2], [2]] }] as const
const parallelBehind: Contents = {
  [certificatesFile]: certificateLog(after5.map((interval) => certify(interval, 1))),
  [segmentFile(1)]: segmentBytes(1, recordsOf(after5[0]))
}

const kindOf = (contents: Contents): Effect.Effect<LogKind> =>
  Effect.flatMap(Vfs, (vfs) => logKindOf(vfs, path)).pipe(
    Effect.provide(MemoryVfs.layerDisk(diskOf(contents))),
    Effect.orDie
  )

describe("A native log whose commits are not in the database file", () => {
  const unfinished: ReadonlyArray<readonly [string, Contents]> = [
    ["with all of its files", wholeNative],
    ["though the header says 2", { ...wholeNative, ...database }],
    ["above a mark", { ...wholeNative, [markFile]: nativeMark(4) }],
    ["above the mark of the other log", { ...wholeNative, [markFile]: markBytes({ through: seq(4) }) }],
    ["without its capsules", { ...marked, ...markers }],
    ["damaged", { ...database, [segment0]: flipped(markerBytes, recordAt(4) + 20), [markFile]: nativeMark(3) }],
    ["damaged so that none can be read", { ...database, [segment0]: flipped(markerBytes, 3) }],
    [
      "before a genesis record that was made since",
      { ...wholeNative, ...markersOf([part, { start: million, commits: [] }]) }
    ],
    ["beside the leftovers of a parallel one", {
      ...wholeNative,
      [certificatesFile]: certificateLog(certificates),
      ...segments,
      ...markersOf([{
        start: 0,
        commits: [...commits, { seq: 6, pages: [1] }, { seq: 7, pages: [2] }]
      }]),
      [markFile]: markAfter(3)
    }]
  ]

  for (const [what, contents] of unfinished) {
    it.effect(`RC-23 ${what}: the other logs are refused, and recovery opens it`, () =>
      Effect.gen(function*() {
        const bySqlite = yield* examine(contents)
        assert.strictEqual(refusalOf(bySqlite, "WrongLogKind").found, "native")
        assert.strictEqual(bySqlite.case, "RC-23")
        assert.strictEqual(refusalOf(yield* examine(contents, { acceptLoss: true }), "WrongLogKind").found, "native")
        const byParallel = yield* examineAs(contents)
        assert.strictEqual(refusalOf(byParallel, "WrongLogKind").found, "native")
        assert.strictEqual(byParallel.case, "RC-23")
        const any = { trustSegments: true, discardSegments: true, stopAtCorrupt: true }
        assert.strictEqual(refusalOf(yield* examineAs(contents, any), "WrongLogKind").found, "native")
        assert.strictEqual(yield* kindOf(contents), "native")
      }))
  }

  it.effect("RC-20 beside commits in the -wal it is refused by all", () =>
    Effect.gen(function*() {
      for (const contents of [{ ...wholeNative, ...wal }, { ...wholeNative, ...database, ...wal }]) {
        for (const found of [yield* examineNativeAs(contents), yield* examine(contents), yield* examineAs(contents)]) {
          const refusal = refusalOf(found, "MixedLogs")
          assert.deepStrictEqual([refusal.found, refusal.walCommits], ["native", 2])
          assert.strictEqual(found.case, "RC-20")
        }
      }
    }))

  it.effect("RC-20 beside commits in a parallel log it is refused by all", () =>
    Effect.gen(function*() {
      const contents = { ...wholeNative, ...parallelBehind }
      const byNative = yield* examineNativeAs(contents)
      assert.deepStrictEqual([refusalOf(byNative, "MixedLogs").found, byNative.case], ["parallel", "RC-20"])
      const byParallel = yield* examineAs(contents)
      assert.deepStrictEqual([refusalOf(byParallel, "MixedLogs").found, byParallel.case], ["native", "RC-20"])
      assert.include(byParallel.refusal?.message, "a parallel log and in a native one")
      const bySqlite = yield* examine(contents)
      assert.deepStrictEqual([refusalOf(bySqlite, "WrongLogKind").found, bySqlite.case], ["parallel", "RC-23"])
      const all = yield* examineNativeAs({ ...contents, ...wal })
      assert.deepStrictEqual([refusalOf(all, "MixedLogs").walCommits, all.case], [2, "RC-20"])
    }))

  it.effect("RC-20 commits below what another log has put into the database file are not replayed over it", () =>
    Effect.gen(function*() {
      const base = (seq: bigint) => ({ [files.walBase]: buildWalBase(seq, { sealed: true }) })
      const found = yield* examineNativeAs({ ...wholeNative, ...base(3n), [markFile]: nativeMark(2) })
      const refusal = refusalOf(found, "MixedLogs")
      assert.deepStrictEqual([refusal.found, refusal.walCommits, found.case], ["sqlite", 0, "RC-20"])
      assert.include(refusal.message, "older than what a -wal has put into the database file")
      assert.isUndefined(
        (yield* examineNativeAs({ ...wholeNative, ...base(2n), [markFile]: nativeMark(2) })).refusal,
        "at the mark"
      )
      const aborted = { ...wholeNative, [certificatesFile]: certificateLog([abort(1, 3, 0, 1)]) }
      assert.strictEqual(refusalOf(yield* examineNativeAs(aborted), "MixedLogs").found, "parallel")
      assert.isUndefined((yield* examineNativeAs({ ...aborted, [markFile]: nativeMark(3) })).refusal)
    }))
})

describe("A native log that is asked for", () => {
  it.effect("RC-23 is refused beside commits of the other kinds", () =>
    Effect.gen(function*() {
      const rows = [
        [{ ...database, ...wal }, "sqlite"],
        [{ ...database, ...wal, ...markers, [markFile]: nativeMark(5) }, "sqlite"],
        [{ ...whole }, "parallel"],
        [{ ...whole, ...database }, "parallel"],
        [{ ...marked, ...markers, ...parallelBehind, [markFile]: nativeMark(5) }, "parallel"],
        // Its header says 3, and nothing else says what that was for.
        [{ ...marked }, "unknown"],
        [{ ...marked, [markFile]: nativeMark(5), ...capsules }, "unknown"],
        [{ ...marked, [certificatesFile]: certificateLog([]) }, "parallel"],
        [{ ...marked, ...segments }, "parallel"],
        // The certificates are lost, and it is not the native log that the header means.
        [{ ...marked, ...markers, ...segments, [markFile]: nativeMark(5) }, "parallel"]
      ] as const
      for (const [index, [contents, kind]] of rows.entries()) {
        const found = yield* examineNativeAs(contents)
        assert.strictEqual(refusalOf(found, "WrongLogKind").found, kind, `row ${index}`)
        assert.strictEqual(found.case, "RC-23")
      }
      const mixed = yield* examineNativeAs({ ...whole, ...wal })
      assert.deepStrictEqual([refusalOf(mixed, "MixedLogs").found, mixed.case], ["parallel", "RC-20"])
    }))

  it.effect("RC-04 RC-23 a -wal that cannot be read is no less in the way", () =>
    Effect.gen(function*() {
      const base = { ...wholeNative, [files.walBase]: buildWalBase(0n) }
      const walBytes = buildWal(twoOfThree)
      refusalOf(yield* examineNativeAs({ ...base, [files.wal]: flipped(walBytes, 3) }), "WalHeaderLost")
      const damaged = { ...database, ...markersOf([{ start: 0, commits: [] }]), [files.wal]: flipped(walBytes, 100) }
      refusalOf(yield* examineNativeAs(damaged), "WalDamaged")
      const noise = yield* examineNativeAs({ ...wholeNative, [files.wal]: new Uint8Array(40).fill(7) })
      assert.deepStrictEqual([noise.cases, noise.refusal], [["RC-04", "RC-06"], undefined])
      refusalOf(
        yield* examineNativeAs({ ...wholeNative, [files.walBase]: flipped(buildWalBase(0n), 20) }),
        "WalBaseDamaged"
      )
    }))

  it.effect("is refused beside a database that is none, or not in WAL mode", () =>
    Effect.gen(function*() {
      const noDatabase = { ...wholeNative, [files.database]: new Uint8Array(600).fill(9) }
      refusalOf(yield* examineNativeAs(noDatabase), "NotADatabase")
      const rollback = buildDatabase(4)
      rollback.set([1, 1], 18)
      refusalOf(yield* examineNativeAs({ ...wholeNative, [files.database]: rollback }), "NotWalMode")
    }))

  it.effect("RC-24 a hot journal comes before anything else", () =>
    Effect.gen(function*() {
      const found = yield* examineNativeAs({ ...wholeNative, ...wal, [files.journal]: hotJournal })
      assert.strictEqual(refusalOf(found, "HotJournal").path, files.journal)
      assert.strictEqual(found.case, "RC-24")
    }))
})

describe("A native log that was checkpointed", () => {
  const settled: ReadonlyArray<readonly [string, Contents, number]> = [
    ["its markers stay", { ...markers, [markFile]: nativeMark(5) }, 5],
    ["its markers and capsules stay", { ...markers, ...capsules, [markFile]: nativeMark(5) }, 5],
    ["under the mark of the other log", { ...markers, [markFile]: markBytes({ through: seq(8) }) }, 8],
    ["it never had commits", markersOf([{ start: 0, commits: [] }]), 0],
    ["it began again, and never had more", {
      ...markersOf([part, { start: million, commits: [] }]),
      [markFile]: nativeMark(5)
    }, million],
    ["its history is damaged", { [segment0]: flipped(markerBytes, recordAt(2)), [markFile]: nativeMark(5) }, 5],
    ["the end of its history is damaged", {
      [segment0]: flipped(markerBytes, recordAt(5)),
      [markFile]: nativeMark(5)
    }, 5],
    ["a marker was never finished", {
      [segment0]: Uint8Array.of(...markerBytes, 1, 2, 3),
      [markFile]: nativeMark(5)
    }, 5]
  ]

  for (const [what, contents, tip] of settled) {
    it.effect(`RC-23 is in nobody's way, and its sequences are not used again: ${what}`, () =>
      Effect.gen(function*() {
        const bySqlite = yield* examine({ ...database, ...contents })
        assert.deepStrictEqual([bySqlite.refusal, bySqlite.cases, bySqlite.tip], [undefined, ["RC-01"], seq(tip)])
        const byParallel = yield* examineAs({ ...database, ...contents })
        assert.deepStrictEqual([byParallel.refusal, byParallel.cases], [undefined, ["RC-01"]])
        assert.deepStrictEqual([byParallel.tip, byParallel.base], [seq(tip), seq(tip)])
        assert.strictEqual(yield* kindOf({ ...database, ...contents }), "none")
        // Commits that a WAL has taken since come on top.
        const since = yield* examine({ ...database, ...contents, ...wal })
        assert.deepStrictEqual([since.refusal, since.tip], [undefined, seq(tip + 2)])
      }))
  }

  it.effect("RC-23 where the header still says 3, only the log that it means goes on", () =>
    Effect.gen(function*() {
      const contents = { ...marked, ...markers, [markFile]: nativeMark(5) }
      assert.strictEqual(refusalOf(yield* examine(contents), "WrongLogKind").found, "native")
      assert.strictEqual(refusalOf(yield* examineAs(contents), "WrongLogKind").found, "native")
      assert.isUndefined((yield* examineNativeAs(contents)).refusal)
      assert.strictEqual(yield* kindOf(contents), "native")
    }))

  it.effect("RC-23 with what is left of both, nothing above the mark, either of them goes on", () =>
    Effect.gen(function*() {
      const contents = { ...marked, ...markers, ...parallelBehind }
      for (const [mark, kind] of [[nativeMark(7), "native"], [markBytes({ through: seq(7) }), "parallel"]] as const) {
        const settledBoth = { ...contents, [markFile]: mark }
        assert.isUndefined((yield* examineNativeAs(settledBoth)).refusal)
        assert.isUndefined((yield* examineAs(settledBoth)).refusal)
        assert.strictEqual(refusalOf(yield* examine(settledBoth), "WrongLogKind").found, kind)
        assert.strictEqual(yield* kindOf(settledBoth), kind)
        assert.isUndefined((yield* examine({ ...settledBoth, ...database })).refusal)
      }
    }))

  it.effect("section 2.1 a parallel log begins above its sequences, and is whole", () =>
    Effect.gen(function*() {
      const history = { ...marked, ...markers, [markFile]: nativeMark(5) }
      const found = yield* examineAs({ ...history, ...parallelBehind })
      assert.deepStrictEqual([found.refusal, found.cases, found.tip], [undefined, ["RC-06"], seq(7)])
      assert.strictEqual(yield* kindOf({ ...history, ...parallelBehind }), "parallel")
      // With a genesis record behind the mark its sequences begin above that.
      const genesis = { ...history, ...markersOf([part, { start: million, commits: [] }]) }
      assert.strictEqual(refusalOf(yield* examineAs({ ...genesis, ...parallelBehind }), "CertificateGap").found, "6")
      const above = { epoch: 1, low: million + 1, commits: [[2]] }
      const fine = yield* examineAs({
        ...genesis,
        [certificatesFile]: certificateLog([certify(above, 1)]),
        [segmentFile(1)]: segmentBytes(1, recordsOf(above))
      })
      assert.deepStrictEqual([fine.refusal, fine.cases, fine.tip], [undefined, ["RC-06"], seq(million + 1)])
    }))

  it.effect("RC-20 an older generation of the -wal must not be copied over it", () =>
    Effect.gen(function*() {
      const genesis = markersOf([{ start: million, commits: [] }])
      const found = yield* examine({ ...database, ...wal, ...genesis, [files.walBase]: buildWalBase(50n) })
      const refusal = refusalOf(found, "MixedLogs")
      assert.deepStrictEqual([refusal.found, refusal.checkpointedThrough], ["native", seq(million)])
    }))

  it.effect("RC-25 what it has left unfinished is swept by whoever holds the lock", () =>
    Effect.gen(function*() {
      const temporary = `${path}.fsqlite/markers/.tmp-segment-000001.log-01234567`
      const contents = { ...database, ...markers, [markFile]: nativeMark(5), [temporary]: new Uint8Array(9) }
      assert.deepStrictEqual((yield* examine(contents)).sweepable, [temporary])
      assert.deepStrictEqual((yield* examineAs(contents)).sweepable, [temporary])
      const alone = capsulesOf([{ seq: 6, pages: [1] }])
      assert.deepStrictEqual((yield* examine({ ...database, ...alone })).sweepable, [], "a capsule is for its own log")
    }))
})

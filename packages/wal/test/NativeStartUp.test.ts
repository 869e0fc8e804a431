import { assert, describe, it } from "@effect/vitest"
import { PageSize, toTxnId } from "@tidemark/core/Scalars"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Result } from "effect"
import { capsulesDirectory } from "../src/CapsuleFormat.ts"
import { markersDirectory } from "../src/MarkerFormat.ts"
import { examineNative } from "../src/NativeStartUp.ts"
import { seq } from "./support/certificates.ts"
import {
  capsuleFile,
  capsuleOf,
  capsulesOf,
  commits,
  examineNativeAs,
  markers,
  markersOf,
  nativeMark,
  pagesAfter,
  part,
  recordAt,
  replayedPages,
  segment0,
  seqsOf,
  severities,
  wholeNative
} from "./support/nativeFiles.ts"
import { diskOf, markBytes, markedDatabase, markFile, refusalOf, without } from "./support/parallelFiles.ts"
import { buildDatabase, buildWalBase, concat, files, flipped, pageSize, path } from "./support/walFiles.ts"

const [first, second, third, fourth, fifth] = commits
const database = { [files.database]: buildDatabase(4) }
const marked = { [files.database]: markedDatabase() }
const markerBytes = (markers[segment0] ?? new Uint8Array(0)).slice()
const million = 1_000_000

describe("NativeStartUp: whole logs", () => {
  it.effect("RC-01 a database without any log", () =>
    Effect.gen(function*() {
      const found = yield* examineNativeAs(database)
      assert.deepStrictEqual([found.case, found.cases, found.refusal], ["RC-01", ["RC-01"], undefined])
      assert.deepStrictEqual(found.problems, [])
      assert.deepStrictEqual([found.tip, found.base, found.tipSource], [seq(0), seq(0), "no-wal-base"])
      assert.deepStrictEqual([found.databasePages, found.pageSize, found.live], [4, pageSize, []])
      assert.deepStrictEqual([found.orphans, found.removable, found.sweepable], [[], [], []])
      assert.isUndefined(found.markers)
      assert.deepStrictEqual([found.damage, found.isReadOnly, found.lastTxnId], [undefined, false, 0n])
      const nothing = yield* examineNativeAs({})
      assert.deepStrictEqual([nothing.cases, nothing.refusal, nothing.databaseExists], [["RC-01"], undefined, false])
    }))

  it.effect("RC-01 a header that says 3 before the first marker, or after the last checkpoint, is fine", () =>
    Effect.gen(function*() {
      const before = yield* examineNativeAs({ ...marked, ...markersOf([{ start: 0, commits: [] }]) })
      assert.deepStrictEqual([before.cases, before.refusal, before.problems], [["RC-01"], undefined, []])
      assert.deepStrictEqual([before.tip, before.base, before.tipSource], [seq(0), seq(0), "marker"])
      const after = yield* examineNativeAs({ ...marked, ...markers, [markFile]: nativeMark(5) })
      assert.deepStrictEqual([after.cases, after.refusal, after.problems], [["RC-01"], undefined, []])
      assert.deepStrictEqual([after.tip, after.base, after.tipSource], [seq(5), seq(5), "marker"])
      assert.deepStrictEqual([after.live, after.isReadOnly, after.mark?.kind], [[], false, "native"])
    }))

  it.effect("RC-06 markers and capsules agree: replayed in the order of the markers", () =>
    Effect.gen(function*() {
      const found = yield* examineNativeAs(wholeNative)
      assert.deepStrictEqual([found.cases, found.refusal, found.problems], [["RC-06"], undefined, []])
      assert.deepStrictEqual(seqsOf(found), [1, 2, 3, 4, 5])
      assert.deepStrictEqual(found.live.map(({ path: file }) => file), commits.map(capsuleFile))
      assert.deepStrictEqual(found.live.map(({ id }) => id), commits.map((commit) => capsuleOf(commit).id))
      assert.deepStrictEqual(found.live.map(({ token }) => token.id), [1n, 90n, 3n, 4n, 5n])
      assert.deepStrictEqual(found.live.map(({ pages }) => Array.from(pages)), commits.map(({ pages }) => pages))
      assert.deepStrictEqual(found.live.map(({ databasePages }) => databasePages), [4, 4, 4, 4, 5])
      assert.deepStrictEqual(replayedPages(wholeNative, found.live), pagesAfter(5))
      assert.deepStrictEqual([found.tip, found.base, found.tipSource], [seq(5), seq(0), "marker"])
      assert.deepStrictEqual([found.databasePages, found.databaseFileBytes], [5, 4 * pageSize])
      assert.strictEqual(found.lastTxnId, 90n)
      assert.deepStrictEqual([found.isReadOnly, found.orphans, found.removable], [false, [], []])
      assert.strictEqual(found.markers?.last?.seq, seq(5))
    }))

  it.effect("RC-06 commits count though the header does not say 3", () =>
    Effect.gen(function*() {
      const found = yield* examineNativeAs({ ...wholeNative, ...database })
      assert.deepStrictEqual([found.cases, found.refusal, seqsOf(found)], [["RC-06"], undefined, [1, 2, 3, 4, 5]])
    }))

  it.effect("RC-06 a commit that leaves the size of the database open never makes it smaller", () =>
    Effect.gen(function*() {
      const open = [
        { seq: 1, pages: [2, 6], databasePages: 0 },
        { seq: 2, pages: [3], databasePages: 0 },
        { seq: 3, pages: [1], databasePages: 3 },
        { seq: 4, pages: [2], databasePages: 0 },
        { seq: 5, pages: [5], databasePages: 0 }
      ]
      const contents = { ...marked, ...markersOf([{ start: 0, commits: open }]), ...capsulesOf(open) }
      const found = yield* examineNativeAs(contents)
      assert.deepStrictEqual([found.refusal, found.databasePages], [undefined, 5])
      assert.deepStrictEqual(found.live.map(({ databasePages }) => databasePages), [6, 6, 3, 3, 5])
      // From the size that the mark says, not from that of a header which a checkpoint has written too early.
      const above = { ...contents, [markFile]: nativeMark(3, { databasePages: 3 }) }
      const pages = (yield* examineNativeAs(above)).live.map(({ databasePages }) => databasePages)
      assert.deepStrictEqual(pages, [3, 5])
    }))

  it.effect("section 2.1: sequences go on above what other logs have used, in a segment of their own", () =>
    Effect.gen(function*() {
      // Native through 5, then a SQLite WAL through 20, then native again, in the segment behind that of sequence 20.
      const later = [{ seq: million + 1, pages: [2] }, { seq: million + 2, pages: [3] }]
      const both = {
        ...marked,
        ...markersOf([part, { start: million, commits: later }]),
        ...capsulesOf(later),
        [markFile]: nativeMark(5),
        [files.walBase]: buildWalBase(20n, { sealed: true })
      }
      const found = yield* examineNativeAs(both)
      assert.deepStrictEqual([found.cases, found.refusal, found.problems], [["RC-06"], undefined, []])
      assert.deepStrictEqual(seqsOf(found), [million + 1, million + 2])
      assert.deepStrictEqual([found.tip, found.base, found.tipSource], [seq(million + 2), seq(million), "marker"])
      // The base of a WAL that somebody has removed says how far it can have gone: no further than where the markers begin.
      const foreign = yield* examineNativeAs({ ...both, [files.walBase]: buildWalBase(20n) })
      assert.deepStrictEqual([foreign.refusal, foreign.tip, foreign.tipSource], [undefined, seq(million + 2), "marker"])
    }))

  it.effect("section 2.1: the tip is the highest that any log has used", () =>
    Effect.gen(function*() {
      const sealed = (base: bigint) => ({ [files.walBase]: buildWalBase(base, { sealed: true }) })
      const genesis = markersOf([part, { start: million, commits: [] }])
      const rows = [
        [{ ...markers, [markFile]: nativeMark(5) }, 5n, "marker"],
        [{ ...markers, [markFile]: nativeMark(5), ...sealed(4n) }, 5n, "marker"],
        [{ ...markers, [markFile]: nativeMark(5), ...sealed(50n) }, 50n, "sealed"],
        [{ ...markers, [markFile]: markBytes({ through: seq(80) }), ...sealed(50n) }, 80n, "checkpoint-mark"],
        [{ ...genesis, [markFile]: nativeMark(5), ...sealed(50n) }, BigInt(million), "marker"],
        [{ [markFile]: nativeMark(5), ...sealed(4n) }, 5n, "checkpoint-mark"]
      ] as const
      for (const [contents, tip, tipSource] of rows) {
        const found = yield* examineNativeAs({ ...database, ...contents })
        assert.deepStrictEqual([found.refusal, found.cases, found.live], [undefined, ["RC-01"], []])
        assert.deepStrictEqual([found.tip, found.base, found.tipSource], [seq(tip), seq(tip), tipSource])
      }
    }))
})

describe("NativeStartUp: the checkpoint mark", () => {
  it.effect("RC-21 markers at or below the mark are history: their capsules are not needed, and go", () =>
    Effect.gen(function*() {
      const contents = { ...without(wholeNative, capsuleFile(first)), [markFile]: nativeMark(3) }
      for (
        const file of [
          capsuleOf(second).bytes,
          flipped(capsuleOf(second).bytes, 60),
          flipped(capsuleOf(second).bytes, 3),
          capsuleOf(second).bytes.slice(0, 50),
          new Uint8Array(0)
        ]
      ) {
        const found = yield* examineNativeAs({ ...contents, [capsuleFile(second)]: file })
        assert.deepStrictEqual([found.cases, found.refusal, found.problems], [["RC-21", "RC-06"], undefined, []])
        assert.sameMembers([...found.removable], [capsuleFile(second), capsuleFile(third)])
        assert.deepStrictEqual([found.orphans, seqsOf(found)], [[], [4, 5]])
        assert.deepStrictEqual([found.base, found.tip], [seq(3), seq(5)])
      }
    }))

  it.effect("RC-21 a mark of the parallel log covers markers just as well", () =>
    Effect.gen(function*() {
      const found = yield* examineNativeAs({ ...wholeNative, [markFile]: markBytes({ through: seq(4) }) })
      assert.deepStrictEqual([found.cases, found.refusal, seqsOf(found)], [["RC-21", "RC-06"], undefined, [5]])
      assert.strictEqual(found.removable.length, 4)
      const after = yield* examineNativeAs({ ...wholeNative, [markFile]: markBytes({ through: seq(9) }) })
      assert.deepStrictEqual([after.cases, after.live, after.tip], [["RC-21", "RC-01"], [], seq(9)])
      assert.deepStrictEqual([after.refusal, after.isReadOnly, after.removable.length], [undefined, false, 5])
    }))

  it.effect("a mark that does not check is refused: nothing is replayed, nothing may go", () =>
    Effect.gen(function*() {
      for (const bad of [flipped(nativeMark(3), 20), nativeMark(3).slice(0, 47), new Uint8Array(0)]) {
        const found = yield* examineNativeAs({ ...wholeNative, [markFile]: bad })
        assert.strictEqual(refusalOf(found, "CheckpointMarkDamaged").path, markFile)
        assert.deepStrictEqual([found.live, found.orphans, found.removable], [[], [], []])
        assert.deepStrictEqual(severities(found), [[markFile, "corrupt"]])
        refusalOf(
          yield* examineNativeAs({ ...wholeNative, [markFile]: bad }, { acceptLoss: true }),
          "CheckpointMarkDamaged"
        )
      }
    }))

  it.effect("RC-26 a stream that ends before its own mark is not whole, where the database says that it has newer commits", () =>
    Effect.gen(function*() {
      const cutAfter = (last: number) => ({ [segment0]: markerBytes.slice(0, recordAt(last + 1)) })
      const contents = { ...marked, ...cutAfter(3), [markFile]: nativeMark(5) }
      const found = yield* examineNativeAs(contents)
      assert.deepStrictEqual([found.cases, found.refusal, found.isReadOnly], [["RC-26"], undefined, true])
      assert.strictEqual(found.damage?.damage.issue.code, "EndsBeforeMark")
      assert.deepStrictEqual([found.damage?.damage.offset, found.damage?.last], [recordAt(4), seq(5)])
      assert.deepStrictEqual(severities(found), [[segment0, "corrupt"]])
      const accepted = yield* examineNativeAs(contents, { acceptLoss: true })
      assert.deepStrictEqual([accepted.isReadOnly, accepted.tip, accepted.live], [false, seq(5), []])
      // The database had nothing in a log when the end went: it was history.
      const history = yield* examineNativeAs({ ...contents, ...database })
      assert.deepStrictEqual([history.cases, history.isReadOnly, history.tip], [["RC-01"], false, seq(5)])
      // A native log that had no commits wrote down what others had used.
      const others = { ...contents, [files.walBase]: buildWalBase(5n, { sealed: true }) }
      assert.isUndefined((yield* examineNativeAs(others)).damage)
      const parallel = { ...contents, [markFile]: markBytes({ through: seq(5) }) }
      assert.isUndefined((yield* examineNativeAs(parallel)).damage)
    }))
})

describe("NativeStartUp: capsules", () => {
  it.effect("RC-15 a capsule that is missing, damaged, cut or another one refuses the start", () =>
    Effect.gen(function*() {
      const { bytes } = capsuleOf(third)
      const rows = [
        [undefined, "missing"],
        [flipped(bytes, 0), "contents"],
        [flipped(bytes, 100), "contents"],
        [flipped(bytes, bytes.length - 1), "contents"],
        [bytes.slice(0, -1), "contents"],
        [concat(bytes, new Uint8Array(1)), "contents"],
        [new Uint8Array(0), "contents"],
        // Whole, and not what the marker names.
        [capsuleOf(second).bytes, "contents"]
      ] as const
      for (const [file, loss] of rows) {
        const rest = without(wholeNative, capsuleFile(third))
        const found = yield* examineNativeAs(file === undefined ? rest : { ...rest, [capsuleFile(third)]: file })
        const refusal = refusalOf(found, "CapsuleLost")
        assert.deepStrictEqual([refusal.path, refusal.loss, refusal.seq], [capsuleFile(third), loss, seq(3)])
        assert.deepStrictEqual([refusal.keptThrough, refusal.lostThrough], [seq(2), seq(5)])
        assert.match(refusal.message, /nothing was changed/)
        assert.deepStrictEqual([found.cases, seqsOf(found)], [["RC-15"], [1, 2]])
        assert.deepStrictEqual(severities(found), [[capsuleFile(third), "corrupt"]])
        // What is behind it is needed when the file is put back.
        assert.deepStrictEqual([found.orphans, found.removable], [[], []])
        refusalOf(yield* examineNativeAs(rest, { acceptLoss: true }), "CapsuleLost")
      }
    }))

  it.effect("RC-15 is not about genesis records, nor about markers at or below the mark", () =>
    Effect.gen(function*() {
      const bare = { ...marked, ...markers }
      assert.isUndefined((yield* examineNativeAs({ ...bare, [markFile]: nativeMark(5) })).refusal)
      const last = yield* examineNativeAs({ ...bare, [markFile]: nativeMark(4) })
      const refusal = refusalOf(last, "CapsuleLost")
      assert.deepStrictEqual([refusal.seq, refusal.keptThrough, refusal.lostThrough], [seq(5), seq(4), seq(5)])
    }))

  it.effect("RC-16 a capsule without a marker was never acknowledged, whole or not", () =>
    Effect.gen(function*() {
      const orphan = { seq: 6, pages: [3], txnId: 200 }
      const torn = { seq: 6, pages: [4], txnId: 300 }
      const found = yield* examineNativeAs({
        ...wholeNative,
        ...capsulesOf([orphan]),
        [capsuleFile(torn)]: capsuleOf(torn).bytes.slice(0, 300),
        [`${capsulesDirectory(path)}/notes`]: new Uint8Array(1)
      })
      assert.deepStrictEqual([found.cases, found.refusal], [["RC-16", "RC-06"], undefined])
      assert.sameDeepMembers(found.orphans.map(({ path: file, token }) => [file, token?.id]), [
        [capsuleFile(orphan), toTxnId(200n)],
        [capsuleFile(torn), undefined]
      ])
      assert.deepStrictEqual([found.removable, seqsOf(found)], [[], [1, 2, 3, 4, 5]])
      assert.strictEqual(found.lastTxnId, 200n)
      assert.sameDeepMembers(severities(found), [[capsuleFile(orphan), "tail"], [capsuleFile(torn), "tail"]])
      const alone = yield* examineNativeAs({ ...database, ...capsulesOf([orphan]) })
      assert.deepStrictEqual([alone.cases, alone.orphans.length, alone.lastTxnId], [["RC-16", "RC-01"], 1, 200n])
    }))

  it.effect("RC-16 RC-21 what is left over is told apart by the markers at or below the mark", () =>
    Effect.gen(function*() {
      // Began before the mark like the others, and was overtaken by it.
      const slow = { seq: 6, pages: [3], txnId: 200, begin: 1 }
      const contents = { ...wholeNative, ...capsulesOf([slow]), [markFile]: nativeMark(4) }
      const found = yield* examineNativeAs(contents)
      assert.deepStrictEqual([found.cases, found.refusal], [["RC-16", "RC-21", "RC-06"], undefined])
      assert.deepStrictEqual(found.orphans.map(({ path: file }) => file), [capsuleFile(slow)])
      assert.sameMembers([...found.removable], [first, second, third, fourth].map(capsuleFile))
      // Without the markers that say so they are what no marker names.
      const unnamed = yield* examineNativeAs({ ...contents, [segment0]: flipped(markerBytes, recordAt(2)) })
      assert.deepStrictEqual([unnamed.refusal, seqsOf(unnamed)], [undefined, [5]])
      assert.sameMembers(
        [...unnamed.orphans.map(({ path: file }) => file), ...unnamed.removable],
        [first, second, third, fourth, slow].map(capsuleFile)
      )
    }))

  it.effect("RC-05 a capsule of another page size than the database refuses the start", () =>
    Effect.gen(function*() {
      const other = { seq: 2, pages: [2], pageSize: PageSize.make(1024) }
      const found = yield* examineNativeAs({
        ...marked,
        ...markersOf([{ start: 0, commits: [first, other, third] }]),
        ...capsulesOf([first, other, third])
      })
      const refusal = refusalOf(found, "PageSizeMismatch")
      assert.deepStrictEqual([refusal.path, refusal.walPageSize, refusal.databasePageSize], [
        capsuleFile(other),
        1024,
        512
      ])
      assert.strictEqual(refusal.imageOffset, 56)
      assert.deepStrictEqual([found.cases, seqsOf(found)], [["RC-05"], [1]])
      assert.deepStrictEqual(severities(found), [[capsuleFile(other), "corrupt"]])
    }))

  it.effect("RC-05 beside an empty database file the first capsule says the page size", () =>
    Effect.gen(function*() {
      const size = PageSize.make(1024)
      const big = [{ seq: 1, pages: [1, 2], databasePages: 2, pageSize: size }, {
        seq: 2,
        pages: [2],
        databasePages: 2
      }]
      const contents = { [files.database]: new Uint8Array(0), ...markersOf([{ start: 0, commits: big }]) }
      const found = yield* examineNativeAs({ ...contents, ...capsulesOf(big) })
      assert.strictEqual(refusalOf(found, "PageSizeMismatch").databasePageSize, 1024)
      const whole = big.slice(0, 1)
      const fine = yield* examineNativeAs({
        [files.database]: new Uint8Array(0),
        ...markersOf([{ start: 0, commits: whole }]),
        ...capsulesOf(whole)
      })
      assert.deepStrictEqual([fine.cases, fine.refusal, fine.pageSize], [["RC-06"], undefined, size])
      assert.deepStrictEqual([fine.databaseExists, fine.databaseFileBytes, fine.databasePages], [true, 0, 2])
    }))

  it.effect("pages that are neither in the database file nor in a capsule are named, or refused when there is no file", () =>
    Effect.gen(function*() {
      const short = yield* examineNativeAs({
        ...wholeNative,
        [files.database]: markedDatabase().slice(0, 2 * pageSize)
      })
      assert.deepStrictEqual([short.refusal, short.problems], [undefined, []], "3, 4 and 5 are in capsules")
      const checkpointed = { ...wholeNative, [markFile]: nativeMark(3) }
      const gone = yield* examineNativeAs({
        ...checkpointed,
        [files.database]: markedDatabase().slice(0, 2 * pageSize)
      })
      assert.isUndefined(gone.refusal)
      assert.deepStrictEqual(severities(gone), [[path, "corrupt"]])
      assert.strictEqual(gone.problems[0]?.offset, 2 * pageSize, "page 3")
      for (const empty of [{ ...checkpointed, [files.database]: new Uint8Array(0) }, without(checkpointed, path)]) {
        const refusal = refusalOf(yield* examineNativeAs(empty), "DatabasePagesLost")
        assert.deepStrictEqual([refusal.databasePages, refusal.missingPages, refusal.firstMissingPage], [5, 2, 1])
      }
      const unmarked = yield* examineNativeAs({ ...wholeNative, [files.database]: new Uint8Array(0) })
      assert.deepStrictEqual([unmarked.refusal, unmarked.databasePages], [undefined, 5], "all five are in capsules")
    }))

  it.effect("an empty database beside a marker stream with nothing to be replayed has lost what was in it", () =>
    Effect.gen(function*() {
      const rows = [
        [{ ...markers, [markFile]: nativeMark(5) }, 5],
        [markersOf([{ start: 0, commits: [] }]), 1],
        [{ [segment0]: flipped(markerBytes, 3) }, 1]
      ] as const
      for (const [contents, pages] of rows) {
        const refusal = refusalOf(yield* examineNativeAs(contents), "DatabasePagesLost")
        assert.deepStrictEqual([refusal.missingPages, refusal.firstMissingPage], [pages, 1])
      }
    }))
})

describe("NativeStartUp: the marker stream", () => {
  it.effect("RC-14 a partial marker at the end was never acknowledged", () =>
    Effect.gen(function*() {
      for (let bytes = 1; bytes < 88; bytes++) {
        const found = yield* examineNativeAs({ ...wholeNative, [segment0]: markerBytes.slice(0, recordAt(5) + bytes) })
        assert.deepStrictEqual([found.cases, found.refusal], [["RC-14", "RC-16", "RC-06"], undefined])
        assert.deepStrictEqual([found.tip, seqsOf(found), found.tornTailBytes], [seq(4), [1, 2, 3, 4], bytes])
        assert.deepStrictEqual(found.orphans.map(({ path: file }) => file), [capsuleFile(fifth)])
        assert.deepStrictEqual(found.problems[0]?.offset, recordAt(5))
        assert.deepStrictEqual(severities(found), [[segment0, "tail"], [capsuleFile(fifth), "tail"]])
      }
    }))

  it.effect("RC-26 behind a bad marker nothing counts, and nothing may be committed or removed", () =>
    Effect.gen(function*() {
      const orphan = { seq: 6, pages: [3], txnId: 200 }
      const contents = {
        ...wholeNative,
        ...capsulesOf([orphan]),
        [segment0]: flipped(markerBytes, recordAt(3) + 20)
      }
      const found = yield* examineNativeAs(contents)
      assert.deepStrictEqual([found.case, found.cases, found.refusal], ["RC-26", ["RC-26"], undefined])
      assert.deepStrictEqual([found.isReadOnly, seqsOf(found)], [true, [1, 2]])
      assert.deepStrictEqual(replayedPages(contents, found.live), pagesAfter(2))
      assert.deepStrictEqual([found.damage?.last, found.damage?.damage.recordsBehind], [seq(2), 2])
      assert.deepStrictEqual([found.damage?.damage.path, found.damage?.damage.offset], [segment0, recordAt(3)])
      assert.deepStrictEqual([found.orphans, found.removable], [[], []])
      assert.deepStrictEqual([found.tip, found.lastTxnId], [seq(5), 200n], "what is lost is used nonetheless")
      assert.deepStrictEqual(severities(found), [[segment0, "corrupt"]])
      const accepted = yield* examineNativeAs(contents, { acceptLoss: true })
      assert.deepStrictEqual([accepted.cases, accepted.refusal], [["RC-26", "RC-16"], undefined])
      assert.deepStrictEqual([accepted.isReadOnly, seqsOf(accepted), accepted.tip], [false, [1, 2], seq(5)])
      assert.sameMembers(
        accepted.orphans.map(({ path: file }) => file),
        [third, fourth, fifth, orphan].map(capsuleFile)
      )
      assert.strictEqual(accepted.damage?.last, seq(2))
    }))

  it.effect("RC-26 a bad marker at the very end, a header that does not check, a segment that is gone", () =>
    Effect.gen(function*() {
      const later = [{ seq: million, pages: [2] }]
      const rows = [
        [{ ...wholeNative, [segment0]: flipped(markerBytes, recordAt(5) + 20) }, [1, 2, 3, 4], 5],
        [{ ...wholeNative, [segment0]: flipped(markerBytes, 9) }, [], 5],
        [
          {
            ...without(wholeNative, segment0),
            ...without(markersOf([{ start: 0, commits: [...commits, ...later] }]), segment0),
            ...capsulesOf(later)
          },
          [],
          million
        ],
        [{ ...marked, [segment0]: new Uint8Array(9) }, [], 0]
      ] as const
      for (const [contents, live, tip] of rows) {
        const found = yield* examineNativeAs(contents)
        assert.deepStrictEqual([found.cases, found.isReadOnly, seqsOf(found)], [["RC-26"], true, [...live]])
        assert.strictEqual(found.tip, seq(tip))
      }
    }))

  it.effect("RC-26 is about what is above the mark: older markers may be damaged", () =>
    Effect.gen(function*() {
      const contents = { ...marked, ...capsulesOf([fourth, fifth]), [markFile]: nativeMark(3) }
      for (const at of [0, 1, 2]) {
        const found = yield* examineNativeAs({ ...contents, [segment0]: flipped(markerBytes, recordAt(at) + 5) })
        assert.deepStrictEqual([found.cases, found.refusal, found.problems], [["RC-06"], undefined, []])
        assert.deepStrictEqual([seqsOf(found), found.isReadOnly], [[4, 5], false])
      }
      // That of the mark is what the first one above it is held against.
      const last = yield* examineNativeAs({ ...contents, [segment0]: flipped(markerBytes, recordAt(3) + 5) })
      assert.deepStrictEqual([last.cases, last.refusal, seqsOf(last)], [["RC-06"], undefined, [4, 5]])
      assert.deepStrictEqual([last.isReadOnly, last.damage], [false, undefined])
      assert.deepStrictEqual(last.problems.map(({ offset, severity }) => [offset, severity]), [[
        recordAt(3),
        "corrupt"
      ]])
      const both = flipped(flipped(markerBytes, recordAt(3) + 5), recordAt(5) + 5)
      const more = yield* examineNativeAs({ ...contents, [segment0]: both })
      assert.deepStrictEqual([more.cases, more.isReadOnly, seqsOf(more)], [["RC-26"], true, [4]])
      // Where it is the last of all the chain cannot go on from it.
      const end = { ...marked, [markFile]: nativeMark(5), [segment0]: flipped(markerBytes, recordAt(5) + 5) }
      const ended = yield* examineNativeAs(end)
      assert.deepStrictEqual([ended.cases, ended.isReadOnly, ended.tip], [["RC-26"], true, seq(5)])
      const accepted = yield* examineNativeAs(end, { acceptLoss: true })
      assert.deepStrictEqual([accepted.isReadOnly, accepted.tip, accepted.live], [false, seq(5), []])
    }))

  it.effect("RC-26 the genesis record is no commit: damaged, it takes none with it", () =>
    Effect.gen(function*() {
      const found = yield* examineNativeAs({ ...wholeNative, [segment0]: flipped(markerBytes, recordAt(0) + 5) })
      assert.deepStrictEqual([found.cases, found.isReadOnly, seqsOf(found)], [["RC-06"], false, [1, 2, 3, 4, 5]])
      assert.deepStrictEqual(severities(found), [[segment0, "corrupt"]])
    }))
})

describe("NativeStartUp: what is beside", () => {
  it.effect("RC-19 RC-25 spill files and temporary files of every directory are swept", () =>
    Effect.gen(function*() {
      const left = [
        `${path}.fsqlite-tmp/txn-12-3.spill`,
        `${path}.fsqlite/.tmp-checkpoint-01234567`,
        `${markersDirectory(path)}/.tmp-segment-000001.log-01234567`,
        `${capsulesDirectory(path)}/.tmp-${"a".repeat(32)}-01234567`
      ]
      const found = yield* examineNativeAs({
        ...wholeNative,
        ...Object.fromEntries(left.map((file) => [file, new Uint8Array(3)])),
        [`${markersDirectory(path)}/lock`]: new Uint8Array(0)
      })
      assert.deepStrictEqual([found.cases, found.refusal], [["RC-19", "RC-25", "RC-06"], undefined])
      assert.sameMembers([...found.sweepable], left)
      assert.deepStrictEqual([found.orphans, found.problems], [[], []])
    }))

  it.effect("a stream that changes between two looks is looked at once more, and then is an error of the disk", () =>
    Effect.gen(function*() {
      // Each look opens the segment for the record that the chain hangs on, for what is behind it, and for the visit.
      for (const [changed, error] of [[[3], undefined], [[3, 6], "EIO"]] as const) {
        let opened = 0
        const vfs = yield* Vfs
        const changing: Vfs["Service"] = {
          ...vfs,
          open: (file, options) =>
            Effect.map(vfs.open(file, options), (handle) => {
              if (file !== segment0) return handle
              opened++
              const isChanged = changed.some((open) => open === opened)
              return {
                ...handle,
                read: (buffer, position) =>
                  Effect.tap(handle.read(buffer, position), (length) =>
                    Effect.sync(() => {
                      if (isChanged && length > 36) buffer[20] = 1 + (buffer[20] ?? 0)
                    }))
              }
            })
        }
        const found = yield* Effect.result(examineNative(changing, path))
        if (error === undefined) {
          assert.deepStrictEqual(seqsOf(Result.getOrThrow(found)), [1, 2, 3, 4, 5])
          assert.strictEqual(opened, 6)
        } else {
          const failure = Result.getOrThrow(Result.flip(found))
          assert.deepStrictEqual([failure.code, failure.operation, failure.path], [error, "read", segment0])
        }
      }
    }).pipe(Effect.provide(MemoryVfs.layerDisk(diskOf(wholeNative)))))
})

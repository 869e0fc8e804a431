import { assert, describe, it } from "@effect/vitest"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect } from "effect"
import fc from "fast-check"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { certificatesPath } from "../src/CertificateFormat.ts"
import { setVersions } from "../src/DatabaseHeaderFormat.ts"
import { examineParallel, type LogKind, logKindOf } from "../src/ParallelStartUp.ts"
import { segmentPath } from "../src/SegmentFormat.ts"
import { certificateLog, seq, walEpoch } from "./support/certificates.ts"
import {
  abort,
  certificates,
  certificatesFile,
  certify,
  committed,
  type Contents,
  diskOf,
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
import { segmentBytesOf } from "./support/segmentBytes.ts"
import { buildDatabase, buildWal, buildWalBase, files, flipped, path, twoOfThree } from "./support/walFiles.ts"

const trust = { trustSegments: true }

describe("ParallelStartUp: segments that are trusted", () => {
  it.effect("RC-11 with trustSegments they are replayed by epoch, both versions, and the tip is theirs", () =>
    Effect.gen(function*() {
      const contents: Contents = {
        [files.database]: buildDatabase(4),
        ...segments,
        // As FrankenSQLite wrote them, without checksums.
        [segmentFile(2)]: segmentBytesOf(1, 2n, recordsOf(intervals[1]).toSorted((a, b) => a.page - b.page)),
        [segmentFile(9)]: segmentBytes(9, [])
      }
      const found = yield* examineAs(contents, trust)
      assert.deepStrictEqual([found.cases, found.refusal, found.problems], [["RC-11"], undefined, []])
      assert.deepStrictEqual(found.live.map(({ epoch, high, low }) => [epoch, low, high]), [
        [1n, 1n, 2n],
        [2n, 3n, 3n],
        [5n, 4n, 6n]
      ])
      assert.deepStrictEqual(
        replayed(contents, found.live),
        new Map([[1, imageOf(3, 1)], [2, imageOf(6, 2)], [3, imageOf(3, 3)], [4, imageOf(4, 4)], [5, imageOf(5, 5)]])
      )
      assert.deepStrictEqual([found.tip, found.base, found.tipSource], [seq(6), seq(0), "trusted-segments"])
      assert.deepStrictEqual(found.live.map(({ databasePages }) => databasePages), [4, 4, 5])
      assert.deepStrictEqual([found.databasePages, found.highestEpoch], [5, walEpoch(9)])
      assert.deepStrictEqual(found.uncertified, [])
    }))

  it.effect("RC-11 sequences never go back from one trusted segment to the next, nor below what was used before", () =>
    Effect.gen(function*() {
      const contents: Contents = {
        [files.database]: buildDatabase(4),
        [files.walBase]: buildWalBase(10n, { sealed: true }),
        [segmentFile(1)]: segmentBytes(1, [committed(1, 4, 1), committed(1, 12, 2)]),
        [segmentFile(2)]: segmentBytes(2, [committed(2, 5, 1), committed(2, 11, 3), committed(2, 15, 2)]),
        [segmentFile(3)]: segmentBytes(3, [committed(3, 2, 1), committed(3, 3, 1)])
      }
      const found = yield* examineAs(contents, trust)
      assert.isUndefined(found.refusal)
      assert.deepStrictEqual(
        found.live.map(({ high, low, seqs }) => [low, high, Array.from(seqs)]),
        [[11n, 12n, [11n, 12n]], [13n, 15n, [13n, 13n, 15n]], [16n, 16n, [16n, 16n]]]
      )
      assert.deepStrictEqual([found.tip, found.base], [seq(16), seq(10)])
      assert.deepStrictEqual(replayed(contents, found.live).get(1), imageOf(3, 1), "the later segment wins the page")
    }))

  it.effect("RC-11 the first trusted segment that cannot be read is refused, or ends what is kept", () =>
    Effect.gen(function*() {
      const bytes = segments[segmentFile(2)] ?? new Uint8Array(0)
      const contents = { ...without(whole, certificatesFile), [segmentFile(2)]: flipped(bytes, 100) }
      const found = yield* examineAs(contents, trust)
      const refusal = refusalOf(found, "SegmentUnreadable")
      assert.deepStrictEqual([refusal.path, refusal.issue.code], [segmentFile(2), "RecordChecksumMismatch"])
      assert.isFalse(found.isReadOnly)
      const kept = yield* examineAs(contents, { ...trust, stopAtCorrupt: true })
      assert.deepStrictEqual([kept.refusal, kept.isReadOnly], [undefined, true])
      for (const either of [found, kept]) {
        assert.deepStrictEqual(either.cases, ["RC-11"])
        assert.deepStrictEqual(either.live.map(({ epoch }) => epoch), [1n])
        assert.deepStrictEqual(either.lost, [segmentFile(2), segmentFile(5)])
        assert.deepStrictEqual(either.problems.map(({ severity }) => severity), ["corrupt"])
      }
    }))

  it.effect("RC-11 RC-21 only what is above the mark is trusted; certificates are trusted more", () =>
    Effect.gen(function*() {
      const found = yield* examineAs({ ...without(whole, certificatesFile), [markFile]: markAfter(2) }, trust)
      assert.deepStrictEqual([found.cases, found.refusal], [["RC-11", "RC-21"], undefined])
      assert.deepStrictEqual(found.live.map(({ epoch, high, low }) => [epoch, low, high]), [[5n, 4n, 6n]])
      assert.deepStrictEqual(found.removable, [segmentFile(1), segmentFile(2)])
      const stray = { [segmentFile(6)]: segmentBytes(6, [committed(6, 7, 1)]) }
      const certified = yield* examineAs({ ...whole, ...stray }, trust)
      assert.deepStrictEqual(certified.cases, ["RC-07", "RC-06"])
      assert.deepStrictEqual([certified.live.length, certified.tip], [3, seq(6)])
    }))
})

describe("ParallelStartUp: which log", () => {
  it.effect("RC-23 the log that has commits is told, whatever the others have left", () =>
    Effect.gen(function*() {
      const database = buildDatabase(4)
      const wal = buildWal(twoOfThree)
      const marker = { [`${path}.fsqlite/markers/segment-000000.log`]: new Uint8Array(9) }
      const leftovers = {
        [certificatesFile]: certificateLog(certificates),
        [markFile]: markAfter(3),
        ...segments,
        ...marker
      }
      const rows: ReadonlyArray<readonly [LogKind, Contents]> = [
        ["none", {}],
        ["none", { [files.database]: database }],
        ["none", { [files.database]: database, [files.wal]: buildWal([]), ...leftovers }],
        ["sqlite", { [files.database]: database, [files.wal]: wal }],
        ["sqlite", { [files.database]: database, [files.wal]: wal, ...leftovers }],
        ["sqlite", { [files.database]: database, [files.wal]: flipped(wal, 100) }],
        ["sqlite", { [files.database]: database, [files.wal]: flipped(wal, 3), [files.walBase]: buildWalBase(0n) }],
        ["parallel", whole],
        ["parallel", { ...whole, [files.database]: database, [files.wal]: wal, ...marker }],
        ["parallel", { [files.database]: markedDatabase(), [certificatesFile]: certificateLog([]) }],
        ["parallel", { [files.database]: database, ...segments }],
        ["none", { [files.database]: database, ...segments, [markFile]: markAfter(3) }],
        ["none", { [files.database]: database, [certificatesFile]: certificateLog([abort(1, 2, 0, 1)]) }],
        ["native", { [files.database]: markedDatabase(), ...marker }]
      ]
      for (const [index, [kind, contents]] of rows.entries()) {
        const disk = diskOf(contents)
        const found = yield* Effect.flatMap(Vfs, (vfs) => logKindOf(vfs, path)).pipe(
          Effect.provide(MemoryVfs.layerDisk(disk))
        )
        assert.strictEqual(found, kind, `row ${index}`)
      }
    }))
})

describe("ParallelStartUp: whatever the files hold", () => {
  it.effect("a log whose files were damaged, cut or lost anywhere never gives a commit that was not certified", () =>
    Effect.gen(function*() {
      const names = Object.keys(whole)
      const damage = fc.record({
        name: fc.constantFrom(...names, files.walBase, markFile, segmentFile(3)),
        how: fc.constantFrom("flip", "cut", "remove", "exchange"),
        at: fc.nat(3000)
      })
      const options = fc.record({
        stopAtCorrupt: fc.boolean(),
        trustSegments: fc.boolean(),
        discardSegments: fc.boolean()
      })
      const full = {
        ...whole,
        [files.walBase]: buildWalBase(0n, { sealed: true }),
        [markFile]: markBytes({ through: seq(0) })
      }
      const images = new Map<string, bigint>()
      for (const interval of intervals) {
        for (const { after, begin, page } of recordsOf(interval)) images.set(`${page} ${after.join()}`, begin)
      }
      for (
        const [damages, chosen] of fc.sample(fc.tuple(fc.array(damage, { minLength: 1, maxLength: 3 }), options), 300)
      ) {
        const contents: Record<string, Uint8Array> = { ...full }
        for (const { at, how, name } of damages) {
          const bytes = contents[name] ?? new Uint8Array(0)
          if (how === "remove") delete contents[name]
          else if (how === "cut") contents[name] = bytes.slice(0, at % (bytes.length + 1))
          else if (how === "exchange") contents[name] = contents[names[at % names.length] ?? ""] ?? bytes
          else if (bytes.length > 0) contents[name] = flipped(bytes, at % bytes.length)
        }
        const found = yield* examineAs(contents, chosen)
        const pages = replayed(contents, found.live)
        let last = found.base
        for (const { high, low, seqs } of found.live) {
          assert.isTrue(low > last && low <= high && high <= found.tip)
          for (const value of seqs) assert.isTrue(value >= low && value <= high)
          last = high
        }
        for (const [page, image] of pages) assert.isTrue(images.has(`${page} ${image.join()}`))
        if (found.refusal === undefined && !found.isReadOnly) {
          assert.isTrue(found.lost.length === 0)
          if (found.certificates !== undefined) assert.notInclude(found.cases, "RC-10")
        }
        assert.deepStrictEqual(found.case, found.cases[0])
      }
    }))

  it.effect("a file that cannot be read fails the examination, it is not taken for absent", () =>
    Effect.gen(function*() {
      for (const file of [certificatesFile, markFile, segmentFile(5)]) {
        for (const operation of ["open", "read"] as const) {
          const disk = diskOf({ ...whole, [markFile]: markAfter(1) })
          disk.inject({ operation, path: file, fault: { kind: "error", code: "EIO" } })
          const error = yield* Effect.flip(
            Effect.flatMap(Vfs, (vfs) => examineParallel(vfs, path)).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
          )
          assert.deepStrictEqual([error.path, error.operation, error.code], [file, operation, "EIO"])
        }
      }
    }))

  it.live("PW-28 stock SQLite refuses the database until the checkpoint has put its version back", () =>
    Effect.gen(function*() {
      const directory = yield* Effect.acquireRelease(
        Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-parallel-startup-"))),
        (made) => Effect.sync(() => rmSync(made, { recursive: true, force: true }))
      )
      const database = join(directory, "app.db")
      const made = new DatabaseSync(database)
      made.exec("PRAGMA page_size=512; PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES (1)")
      made.close()
      const setVersion = (version: 2 | 3) => {
        const bytes = new Uint8Array(readFileSync(database))
        setVersions(bytes, version)
        writeFileSync(database, bytes)
      }
      const countRows = () => {
        const sqlite = new DatabaseSync(database)
        try {
          return sqlite.prepare("SELECT count(*) AS n FROM t").get()?.["n"]
        } finally {
          sqlite.close()
        }
      }
      const interval = { epoch: 1, low: 1, commits: [[2]] }
      setVersion(3)
      writeFileSync(certificatesPath(database), certificateLog([certify(interval, 1)]))
      writeFileSync(segmentPath(database, walEpoch(1)), segmentBytes(1, recordsOf(interval)))
      const before = readFileSync(database)
      assert.throws(countRows)
      assert.deepStrictEqual(readFileSync(database), before, "and has changed nothing")
      const found = yield* examineParallel(yield* Vfs, database)
      assert.deepStrictEqual([found.cases, found.refusal, found.tip], [["RC-06"], undefined, seq(1)])
      setVersion(2)
      assert.strictEqual(countRows(), 1)
    }).pipe(Effect.provide(NodeVfs.layer)))
})

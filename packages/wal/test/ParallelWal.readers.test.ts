/** Snapshots of a parallel WAL while its segments are copied, dropped and removed. */
import { assert, describe, it } from "@effect/vitest"
import { PageSize, toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type { LogReader } from "../src/CommitLog.ts"
import { Ledger } from "./support/ledger.ts"
import { firstDifference } from "./support/pages.ts"
import { commits, cycling, segmentsOf, versionBytes } from "./support/parallelRuns.ts"
import { openByHand } from "./support/parallelWal.ts"
import { memoryPath, prepareDisk, readVersion } from "./support/sqliteWal.ts"

const pageSize = PageSize.make(512)
const open = (disk = prepareDisk(MemoryDisk.make())) =>
  Effect.map(openByHand(disk), (opened) => ({ disk, opened, ledger: new Ledger(pageSize) }))

/** A snapshot is what its commit left, read either way. */
const check = (ledger: Ledger, reader: LogReader, label: string) =>
  Effect.gen(function*() {
    assert.isUndefined(ledger.differenceOf(reader), `${label}, now`)
    const { databasePages, pages } = yield* readVersion(reader)
    assert.isUndefined(
      firstDifference(ledger.version(reader.high), databasePages, (page) => pages.get(page)),
      `${label}, later`
    )
  })

describe("ParallelWal readers", () => {
  it.effect("a long reader keeps its versions over checkpoints of every mode, beside others that come and go", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      const readers: Array<LogReader> = []
      for (let round = 0; round < 6; round++) {
        yield* commits(ledger, opened, 3)
        readers.push(opened.log.openReader())
        yield* commits(ledger, opened, 2)
        const mode = (["passive", "full", "restart", "truncate"] as const)[round % 4] ?? "passive"
        yield* opened.wal.checkpoint(mode, { busyTimeout: 0 })
        for (const reader of readers) yield* check(ledger, reader, `round ${round}, snapshot ${reader.high}`)
        // The oldest one stays for three rounds.
        if (readers.length > 3) readers.shift()?.release()
      }
      assert.isTrue(segmentsOf(disk).length < 30 && segmentsOf(disk).length > 0)
      for (const reader of readers) reader.release()
      yield* opened.wal.checkpoint("full")
      assert.deepStrictEqual(segmentsOf(disk), [])
      const last = opened.log.openReader()
      yield* check(ledger, last, "from the database file alone")
      last.release()
    }))

  it.effect.each(["open", "read"] as const)(
    "a segment that goes while its page is on its way (held at %s) is read from the database file",
    (operation) =>
      Effect.gen(function*() {
        const { disk, ledger, opened } = yield* open()
        yield* commits(ledger, opened, 2)
        const reader = opened.log.openReader()
        const held = disk.hold({ operation, path: /-wal-seg-/ })
        const read = yield* Effect.forkChild(reader.read(toPageNumber(2)))
        yield* held.reached
        // Somebody else reads now, and the checkpoint does not wait for either.
        const [, oldest] = yield* Effect.all([opened.wal.checkpoint("passive"), Effect.succeed(segmentsOf(disk))], {
          concurrency: 1
        })
        assert.deepStrictEqual(segmentsOf(disk), [], `${oldest.length}`)
        assert.deepStrictEqual(reader.versionOf(toPageNumber(2)), toCommitSeq(0n))
        yield* held.release
        assert.deepStrictEqual(yield* Fiber.join(read), ledger.version(toCommitSeq(2n)).pages.get(2))
        reader.release()
      })
  )

  it.effect("a segment that is gone without a checkpoint is an error, not an older version", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 2)
      const reader = opened.log.openReader()
      disk.inject({
        operation: ["open", "read"],
        path: /-wal-seg-/,
        fault: { kind: "error", code: "ENOENT" },
        times: 2
      })
      const failed = yield* Effect.flip(reader.read(toPageNumber(2)))
      assert.strictEqual(failed._tag, "VfsError")
      assert.throws(() => reader.readSync(toPageNumber(2)))
      assert.deepStrictEqual(yield* reader.read(toPageNumber(2)), ledger.version(toCommitSeq(2n)).pages.get(2))
      reader.release()
    }))

  it.effect("PW-28 page 1 never shows the version bytes that keep stock SQLite out", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 1)
      for (const mode of ["passive", "full", "truncate"] as const) {
        const reader = opened.log.openReader()
        for (const page1 of [reader.readSync(toPageNumber(1)), yield* reader.read(toPageNumber(1))]) {
          assert.deepStrictEqual(Array.from(page1.subarray(18, 20)), [2, 2])
        }
        yield* opened.wal.checkpoint(mode)
        assert.deepStrictEqual(versionBytes(disk), mode === "passive" ? [3, 3] : [2, 2])
        for (const page1 of [reader.readSync(toPageNumber(1)), yield* reader.read(toPageNumber(1))]) {
          assert.deepStrictEqual(page1, ledger.version(reader.high).pages.get(1))
        }
        reader.release()
        yield* commits(ledger, opened, 1)
      }
    }))

  it.effect("beyond the end of the snapshot there are zeros, whatever the file holds there", () =>
    Effect.gen(function*() {
      const { ledger, opened } = yield* open()
      yield* cycling(opened, ledger.commit(opened, { pages: [], databasePages: 6 }))
      const large = opened.log.openReader()
      yield* cycling(opened, ledger.commit(opened, { pages: [], databasePages: 3 }))
      const small = opened.log.openReader()
      yield* opened.wal.checkpoint("passive")
      for (const page of [4, 6, 7]) {
        assert.deepStrictEqual(small.readSync(toPageNumber(page)), new Uint8Array(512))
        assert.deepStrictEqual(yield* small.read(toPageNumber(page)), new Uint8Array(512))
      }
      yield* check(ledger, large, "the larger one")
      large.release()
      yield* opened.wal.checkpoint("passive")
      yield* check(ledger, small, "the smaller one")
      small.release()
    }))

  it.effect("a file that ends before its page is said to be truncated", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 1)
      yield* opened.wal.checkpoint("full")
      disk.writeFile(memoryPath, (disk.readFile(memoryPath) ?? new Uint8Array(0)).subarray(0, 700))
      const reader = opened.log.openReader()
      const failed = yield* Effect.flip(reader.read(toPageNumber(2)))
      assert.strictEqual(failed._tag, "DatabaseTruncated")
      assert.throws(() => reader.readSync(toPageNumber(2)), /512|page 2|truncated/i)
      reader.release()
    }))

  it.effect("a page and its version name its bytes until the log says that it starts over", () =>
    Effect.gen(function*() {
      const { ledger, opened } = yield* open()
      yield* cycling(opened, ledger.commit(opened, { pages: [2, 3], databasePages: 3 }))
      yield* cycling(opened, ledger.commit(opened, { pages: [3], databasePages: 3 }))
      const heard: Array<ReadonlyArray<readonly [number, bigint]>> = []
      opened.log.onRestart((versions) => heard.push(Array.from(versions).sort(([a], [b]) => a - b)))
      const old = opened.log.openReader()
      yield* cycling(opened, ledger.commit(opened, { pages: [2], databasePages: 3 }))
      const reader = opened.log.openReader()
      const versions = (of: LogReader) => [1, 2, 3].map((page) => Number(of.versionOf(toPageNumber(page))))
      assert.deepStrictEqual([versions(old), versions(reader)], [[2, 1, 2], [3, 3, 2]])
      yield* opened.wal.checkpoint("passive")
      // What the old one sees is in the file now, what the new one sees of later commits is not.
      assert.deepStrictEqual(heard, [[[1, 2n], [2, 1n], [3, 2n]]])
      assert.deepStrictEqual([versions(old), versions(reader)], [[0, 0, 0], [3, 3, 0]])
      yield* check(ledger, old, "old")
      yield* check(ledger, reader, "new")
      old.release()
      yield* opened.wal.checkpoint("passive")
      assert.deepStrictEqual(heard.slice(1), [[[1, 3n], [2, 3n]]])
      assert.deepStrictEqual(versions(reader), [0, 0, 0])
      reader.release()
      assert.throws(() => reader.release(), /released once/)
    }))

  it.effect("readers that overlap commits and checkpoints all the time see their snapshot and nothing else", () =>
    Effect.gen(function*() {
      const disk = prepareDisk(MemoryDisk.make({ async: { seed: 11, maxTurns: 3 } }))
      const { ledger, opened } = yield* open(disk)
      let isDone = false
      let snapshots = 0
      const reader = (number: number) =>
        Effect.gen(function*() {
          for (let n = 0; !isDone; n++) {
            const snapshot = opened.log.openReader()
            yield* Effect.repeat(Effect.yieldNow, { times: (number * 7 + n * 5) % 23 })
            yield* check(ledger, snapshot, `reader ${number}, snapshot ${snapshot.high}`)
            snapshot.release()
            snapshots++
          }
        })
      const checkpoints = Effect.gen(function*() {
        for (let n = 0; !isDone; n++) {
          const mode = (["passive", "passive", "full", "truncate"] as const)[n % 4] ?? "passive"
          yield* opened.wal.checkpoint(mode, { busyTimeout: 0 })
          yield* Effect.repeat(Effect.yieldNow, { times: 7 })
        }
      })
      const writer = Effect.forEach(
        Array.from({ length: 60 }),
        (_, n) => ledger.commit(opened, { pages: [2 + n % 5, 3 + n % 3], databasePages: 4 + n % 4 })
      )
      yield* cycling(
        opened,
        Effect.all([
          Effect.andThen(Effect.all([writer, writer], { concurrency: 2 }), Effect.sync(() => isDone = true)),
          ...[1, 2, 3].map(reader),
          checkpoints
        ], { concurrency: "unbounded" })
      )
      assert.strictEqual(ledger.acknowledged, toCommitSeq(120n))
      assert.isTrue(snapshots > 50, `${snapshots} snapshots`)
    }))
})

/** The rows of the start-up table as the opened log shows them, refusals included, and the ways between kinds of log. */
import { assert, describe, it } from "@effect/vitest"
import { PageSize, toCommitSeq, WalEpoch } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Effect from "effect/Effect"
import * as References from "effect/References"
import { checkpointMarkPath } from "../src/CheckpointMarkFormat.ts"
import type * as ParallelWal from "../src/ParallelWal.ts"
import { segmentPath } from "../src/SegmentFormat.ts"
import { walBasePath } from "../src/WalBaseFormat.ts"
import { Ledger } from "./support/ledger.ts"
import {
  certificateHighs,
  certificates,
  checkVisible,
  commits,
  contentsOf,
  continued,
  edited,
  fileDifference,
  logOf,
  recover,
  segmentsOf,
  versionBytes
} from "./support/parallelRuns.ts"
import { openByHand, type Options } from "./support/parallelWal.ts"
import { memoryPath, openMemory, prepareDisk } from "./support/sqliteWal.ts"

const pageSize = PageSize.make(512)
const quiet = Effect.provideService(References.MinimumLogLevel, "None")
const segment = (epoch: number | bigint) => segmentPath(memoryPath, WalEpoch.make(BigInt(epoch)))
const bytesOf = (disk: MemoryDisk, path: string): Uint8Array => {
  const bytes = disk.readFile(path)
  if (bytes === undefined) throw new Error(`there is no ${path}`)
  return bytes
}
const flipped = (bytes: Uint8Array, offset: number): Uint8Array =>
  bytes.map((byte, index) => index === offset ? byte ^ 1 : byte)

/** The epochs of the segments, in order. */
const epochsOf = (disk: MemoryDisk) => segmentsOf(disk).map((path) => Number.parseInt(path.slice(-16), 16))

/** Opens and expects this refusal; nothing on the disk may change: no byte, no name. */
const refused = (disk: MemoryDisk, tag: ParallelWal.OpenParallelError["_tag"], options: Options = {}) =>
  Effect.gen(function*() {
    const before = contentsOf(disk)
    const trace = disk.record()
    const error = yield* Effect.flip(Effect.scoped(openByHand(disk, options)))
    trace.stop()
    assert.strictEqual(error._tag, tag)
    assert.deepStrictEqual(trace.steps, [], `${tag}: nothing is written`)
    assert.deepStrictEqual(contentsOf(disk), before, `${tag}: nothing is changed`)
    return error
  })

/** The power fails in every way for the names and contents that were not synced, and the log is still what it was. */
const survives = (disk: MemoryDisk, ledger: Ledger, visible: bigint, label: string) =>
  Effect.gen(function*() {
    for (const choice of ["lost", "kept", 1, 2, 3] as const) {
      const found = yield* recover(disk.afterCrash(choice), ledger, `${label}, ${choice}`)
      assert.strictEqual(found.visible, toCommitSeq(visible), `${label}, ${choice}`)
    }
  })

describe("ParallelWal, starts", () => {
  it.effect("RC-06 PW-24 what is certified is replayed, in order; PW-26 and nothing is removed", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(3, pageSize)
      const before = segmentsOf(disk)
      assert.strictEqual(before.length, 3)
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk)
        assert.strictEqual(opened.wal.startUp.case, "RC-06")
        assert.deepStrictEqual(checkVisible(opened, ledger, "replayed"), {
          visible: toCommitSeq(3n),
          tip: toCommitSeq(3n)
        })
        assert.deepStrictEqual(opened.wal.inLog(), { records: 10, segments: 3 })
        assert.strictEqual(opened.log.recovered.base, toCommitSeq(0n))
        assert.strictEqual(opened.log.recovered.tip, toCommitSeq(3n))
        assert.deepStrictEqual(
          Array.from(opened.log.recovered.pages()).sort(([a], [b]) => a - b).map(([page, seq]) => [page, Number(seq)]),
          [[1, 3], [2, 1], [3, 2], [4, 3], [5, 1], [6, 1]]
        )
        assert.deepStrictEqual(segmentsOf(disk), before)
      }))
      yield* survives(disk, ledger, 3n, "after the recovery")
    }))

  it.effect("PW-09 the first epoch after a start is above names, certificates and the mark, each alone", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(2, pageSize)
      const highest = Math.max(...epochsOf(disk))
      const first = (place: MemoryDisk, options: Options = {}) =>
        Effect.scoped(Effect.map(openByHand(place, options), ({ wal }) => Number(wal.epoch())))
      assert.strictEqual(yield* first(edited(disk)), highest + 1)
      // An unreadable name counts.
      assert.strictEqual(yield* first(edited(disk, { [segment(900)]: new Uint8Array(3) })), 901)
      // Of a certificate whose segment is lost.
      assert.strictEqual(
        yield* first(edited(disk, { [segment(highest)]: undefined }), { stopAtCorrupt: true }),
        highest + 1
      )
      // Only the mark is left.
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk)
        yield* opened.wal.checkpoint("truncate")
      }))
      assert.deepStrictEqual([segmentsOf(disk), certificateHighs(disk)], [[], []])
      assert.strictEqual(yield* first(edited(disk)), highest + 1)
      // And what is written then overwrites nothing.
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk)
        yield* commits(ledger, opened, 1)
        assert.isTrue(epochsOf(disk).every((epoch) => epoch > highest))
      }))
    }))

  it.effect("RC-07 RC-22 PW-29 what was never certified is not there, its sequences are not used again, a checkpoint removes it", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(4, pageSize)
      const [, , , last] = segmentsOf(disk)
      const three = yield* logOf(3, pageSize)
      // Three are certified, the fourth has only its file; a torn one is beside it.
      const place = edited(disk, {
        [certificates]: bytesOf(three.disk, certificates),
        [segment(700)]: bytesOf(disk, last ?? "").subarray(0, 100)
      })
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(place)
        assert.includeMembers(Array.from(opened.wal.startUp.cases), ["RC-06", "RC-07"])
        assert.deepStrictEqual(checkVisible(opened, ledger, "three"), {
          visible: toCommitSeq(3n),
          tip: toCommitSeq(4n)
        })
        assert.strictEqual(segmentsOf(place).length, 5, "nothing is removed before a checkpoint")
        yield* survives(place, ledger, 3n, "before the checkpoint")
        yield* opened.wal.checkpoint("passive")
        assert.deepStrictEqual(segmentsOf(place), [], "a checkpoint is through")
        yield* survives(place, ledger, 3n, "after the checkpoint")
      }))
      const again = yield* recover(place, ledger, "again")
      assert.deepStrictEqual(again, { visible: toCommitSeq(3n), tip: toCommitSeq(4n) })
    }))

  it.effect.each(["passive", "full", "restart", "truncate"] as const)(
    "RC-07 PW-29 the sequences of an aborted interval are not used again after a %s checkpoint",
    (mode) =>
      Effect.gen(function*() {
        for (const certified of [0, 2]) {
          const whole = yield* logOf(certified + 2, pageSize)
          const short = yield* logOf(certified, pageSize)
          const place = edited(whole.disk, { [certificates]: bytesOf(short.disk, certificates) })
          const high = toCommitSeq(BigInt(certified) + 2n)
          yield* Effect.scoped(Effect.gen(function*() {
            const opened = yield* openByHand(place)
            assert.strictEqual(opened.log.published().commitSeq, high)
            yield* opened.wal.checkpoint(mode)
            assert.deepStrictEqual(segmentsOf(place), [], "what was never certified goes with a checkpoint")
          }))
          for (const choice of ["lost", "kept"] as const) {
            const found = yield* recover(place.afterCrash(choice), whole.ledger, `${mode} ${certified} ${choice}`)
            assert.deepStrictEqual(found, { visible: toCommitSeq(BigInt(certified)), tip: high })
          }
          // Neither by the other log.
          if (mode === "passive") continue
          yield* Effect.scoped(Effect.gen(function*() {
            const { log } = yield* openMemory(place, { autoCheckpointFrames: 0 })
            assert.strictEqual(log.published().commitSeq, high)
          }))
        }
      })
  )

  it.effect("RC-08 a certified segment that is gone or damaged is refused; stopAtCorrupt keeps what is before it, for good", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(4, pageSize)
      const paths = segmentsOf(disk)
      for (const [index, path] of paths.entries()) {
        const bytes = bytesOf(disk, path)
        for (
          const [what, changed] of [
            ["missing", undefined],
            ["flipped", flipped(bytes, bytes.length - 40)],
            ["cut off", bytes.subarray(0, bytes.length - 1)]
          ] as const
        ) {
          const label = `segment ${index} ${what}`
          const place = edited(disk, { [path]: changed })
          yield* refused(place, "CertifiedSegmentLost")
          const kept = toCommitSeq(BigInt(index))
          const tip = toCommitSeq(4n)
          const next = continued(ledger, { visible: kept, tip })
          yield* Effect.scoped(Effect.gen(function*() {
            const opened = yield* openByHand(place, { stopAtCorrupt: true })
            assert.isTrue(opened.wal.startUp.isReadOnly, label)
            assert.deepStrictEqual(opened.wal.startUp.lost, paths.slice(index), label)
            // Checkpointed before anything can be committed: nothing of the log is left, and the mark is above all of it.
            assert.deepStrictEqual(checkVisible(opened, ledger, label), { visible: kept, tip }, label)
            assert.deepStrictEqual(opened.wal.inLog(), { records: 0, segments: 0 }, label)
            assert.isUndefined(fileDifference(place, ledger, kept), label)
            yield* survives(place, ledger, kept, `${label}, accepted`)
            yield* commits(next, opened, 1)
          }))
          // An ordinary start from then on, also after a power loss, and the rest is swept.
          for (const choice of ["lost", "kept"] as const) {
            const crashed = place.afterCrash(choice)
            const found = yield* recover(crashed, next, `${label}, afterwards`)
            assert.strictEqual(found.visible, toCommitSeq(5n), label)
            assert.strictEqual(segmentsOf(crashed).length, 1, label)
          }
        }
      }
    }))

  it.effect("RC-08 a power loss while a loss is being accepted", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(4, pageSize)
      const place = edited(disk, { [segmentsOf(disk)[2] ?? ""]: undefined })
      const trace = place.record<never>()
      yield* Effect.scoped(openByHand(place, { stopAtCorrupt: true }))
      trace.stop()
      let refusals = 0
      for (const { disk: crashed, label } of trace.crashStates({ perStep: 2, exhaustiveUpTo: 16 })) {
        const first = yield* Effect.exit(Effect.scoped(openByHand(crashed.afterCrash("kept"))))
        if (first._tag === "Failure") refusals++
        const found = yield* recover(crashed, ledger, label, { stopAtCorrupt: true })
        assert.deepStrictEqual(found, { visible: toCommitSeq(2n), tip: toCommitSeq(4n) }, label)
      }
      assert.isTrue(refusals > 0 && refusals < 200, `${refusals} are refused again without the option`)
    }))

  it.effect("RC-09 a torn certificate at the end was never acknowledged, and goes before the next one comes", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(3, pageSize)
      const two = yield* logOf(2, pageSize)
      const whole = bytesOf(disk, certificates)
      const end = bytesOf(two.disk, certificates).findLastIndex((byte) => byte !== 0) + 1
      const last = whole.findLastIndex((byte) => byte !== 0)
      for (let torn = end + 1; torn <= last; torn += 7) {
        const bytes = whole.slice()
        bytes.fill(0, torn)
        const place = edited(disk, { [certificates]: bytes })
        yield* Effect.scoped(Effect.gen(function*() {
          const opened = yield* openByHand(place)
          assert.include(opened.wal.startUp.cases, "RC-09")
          const found = checkVisible(opened, ledger, `torn at ${torn}`)
          assert.deepStrictEqual(found, { visible: toCommitSeq(2n), tip: toCommitSeq(3n) })
          const next = continued(ledger, found)
          yield* commits(next, opened, 1)
          const again = yield* recover(place.afterCrash("lost"), next, "after one more")
          assert.strictEqual(again.visible, toCommitSeq(4n))
        }))
      }
    }))

  it.effect("RC-10 damage before the end of the certificates, and gaps, are refused", () =>
    Effect.gen(function*() {
      const { disk } = yield* logOf(3, pageSize)
      const bytes = bytesOf(disk, certificates)
      yield* refused(edited(disk, { [certificates]: flipped(bytes, 20) }), "CertificateChecksumMismatch")
      yield* refused(edited(disk, { [certificates]: flipped(bytes, 48 + 20) }), "CertificateChecksumMismatch")
      // The certificates of a log that went on behind a checkpoint whose mark is gone.
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk)
        yield* opened.wal.checkpoint("truncate")
        const ledger = new Ledger(pageSize, opened.log.published().commitSeq)
        yield* commits(ledger, opened, 1)
      }))
      const gap = edited(disk, { [checkpointMarkPath(memoryPath)]: undefined })
      for (const options of [{}, { stopAtCorrupt: true, discardSegments: true, trustSegments: true }]) {
        yield* refused(gap, "CertificateGap", options)
      }
    }))

  it.effect("RC-11 discardSegments: segments without certificates never happened, their sequences are not used again", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(3, pageSize)
      const place = edited(disk, { [certificates]: undefined })
      yield* refused(place, "CertificatesLost")
      yield* refused(place, "CertificatesLost", { stopAtCorrupt: true })
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(place, { discardSegments: true })
        const found = checkVisible(opened, ledger, "discarded")
        assert.deepStrictEqual(found, { visible: toCommitSeq(0n), tip: toCommitSeq(3n) })
        yield* survives(place, ledger, 0n, "discarded")
        const next = continued(ledger, found)
        yield* commits(next, opened, 1)
        yield* opened.wal.checkpoint("full")
        assert.deepStrictEqual(segmentsOf(place), [])
        assert.isUndefined(fileDifference(place, next, 4n))
      }))
    }))

  it.effect("RC-11 trustSegments: every segment counts, from then on for an ordinary start too", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(3, pageSize)
      const place = edited(disk, { [certificates]: undefined })
      const next = continued(ledger, { visible: toCommitSeq(3n), tip: toCommitSeq(3n) })
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(place, { trustSegments: true })
        const found = checkVisible(opened, ledger, "trusted")
        assert.deepStrictEqual(found, { visible: toCommitSeq(3n), tip: toCommitSeq(3n) })
        assert.strictEqual(opened.wal.startUp.tipSource, "trusted-segments")
        // CO-15: of what is in the database file by now nothing is told, so everything below is unknown.
        assert.deepStrictEqual([opened.log.recovered.base, ...opened.log.recovered.pages()], [toCommitSeq(3n)])
        yield* survives(place, ledger, 3n, "trusted")
        yield* commits(next, opened, 2)
        yield* survives(place, next, 5n, "two more")
        assert.deepStrictEqual(checkVisible(opened, next, "two more").visible, toCommitSeq(5n))
        yield* opened.wal.checkpoint("truncate")
        assert.isUndefined(fileDifference(place, next, 5n))
        assert.deepStrictEqual(segmentsOf(place), [])
      }))
    }))

  it.effect("RC-11 trustSegments fails closed on the first bad segment, and keeps what is before it with stopAtCorrupt", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(3, pageSize)
      const [, second] = segmentsOf(disk)
      const place = edited(disk, {
        [certificates]: undefined,
        [second ?? ""]: flipped(bytesOf(disk, second ?? ""), 30)
      })
      yield* refused(place, "SegmentUnreadable", { trustSegments: true })
      const opened = yield* openByHand(place, { trustSegments: true, stopAtCorrupt: true })
      const found = checkVisible(opened, ledger, "kept")
      assert.strictEqual(found.visible, toCommitSeq(1n))
      yield* survives(place, ledger, 1n, "kept")
      const next = continued(ledger, found)
      yield* commits(next, opened, 1)
      yield* survives(place, next, next.lastSeq, "one more")
    }))

  it.effect("RC-11 a power loss while segments are trusted", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(3, pageSize)
      const place = edited(disk, { [certificates]: undefined })
      const trace = place.record<never>()
      yield* Effect.scoped(openByHand(place, { trustSegments: true }))
      trace.stop()
      for (const { disk: crashed, label } of trace.crashStates({ perStep: 2, exhaustiveUpTo: 16 })) {
        const ordinary = yield* Effect.exit(Effect.scoped(openByHand(crashed.afterCrash("kept"))))
        const found = yield* recover(crashed, ledger, label, ordinary._tag === "Failure" ? { trustSegments: true } : {})
        assert.strictEqual(found.visible, toCommitSeq(3n), label)
      }
    }))

  it.effect("RC-21 RC-25 what a checkpoint has left behind and what was never finished is removed, whatever is lost", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(3, pageSize)
      const [oldest] = segmentsOf(disk)
      const kept = bytesOf(disk, oldest ?? "")
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk)
        yield* opened.wal.checkpoint("passive")
      }))
      const place = edited(disk, {
        [oldest ?? ""]: kept,
        [`${segment(77)}.tmp-1`]: new Uint8Array(10),
        [`/data/.tmp-test.db-wal-cert-0123abcd`]: new Uint8Array(10)
      })
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(place)
        assert.includeMembers(Array.from(opened.wal.startUp.cases), ["RC-21", "RC-25"])
        assert.deepStrictEqual(segmentsOf(place), [])
        assert.isFalse(place.files.some((path) => path.includes("tmp-")))
        checkVisible(opened, ledger, "after the sweep")
      }))
      yield* survives(place, ledger, 3n, "after the sweep")
    }))

  it.effect("RC-20 RC-23 the log of another kind in the way is refused, and nothing is changed", () =>
    Effect.gen(function*() {
      const sqlite = prepareDisk(MemoryDisk.make())
      const ledger = new Ledger(pageSize)
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openMemory(sqlite, { create: { pageSize }, autoCheckpointFrames: 0 })
        yield* ledger.commit(opened, { pages: [2], databasePages: 3 })
      }))
      yield* refused(sqlite, "WrongLogKind")
      yield* refused(sqlite, "WrongLogKind", { stopAtCorrupt: true, trustSegments: true, discardSegments: true })
      const { disk } = yield* logOf(2, pageSize)
      const mixed = edited(disk, { [`${memoryPath}-wal`]: bytesOf(sqlite, `${memoryPath}-wal`) })
      yield* refused(mixed, "MixedLogs")
      // The SQLite WAL does not open what the parallel one is in the middle of.
      const before = contentsOf(disk)
      const error = yield* Effect.flip(Effect.scoped(openMemory(disk)))
      assert.strictEqual(error._tag, "WrongLogKind")
      assert.deepStrictEqual(contentsOf(disk), before)
    }))
})

describe("ParallelWal, the header of the database", () => {
  it.effect("PW-28 a header that lost its 3 gets it back before anything else", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(2, pageSize)
      const database = bytesOf(disk, memoryPath)
      database.fill(2, 18, 20)
      const place = edited(disk, { [memoryPath]: database })
      yield* Effect.scoped(openByHand(place))
      place.crash("lost")
      assert.deepStrictEqual(versionBytes(place), [3, 3])
      yield* survives(place, ledger, 2n, "marked again")
    }))

  it.effect("PW-28 a 3 that the page cache shows and the disk does not have is written before anything is committed", () =>
    Effect.gen(function*() {
      const disk = prepareDisk(MemoryDisk.make())
      const ledger = new Ledger(pageSize)
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk)
        disk.inject({ operation: ["syncData", "syncFull"], path: memoryPath, fault: { kind: "lostSync" } })
        const failed = yield* Effect.flip(commits(ledger, opened, 1))
        assert.strictEqual(failed._tag, "WalPoisoned")
      }))
      assert.deepStrictEqual(versionBytes(disk), [3, 3])
      const next = new Ledger(pageSize)
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk)
        yield* commits(next, opened, 1)
      }))
      disk.crash("lost")
      assert.deepStrictEqual(versionBytes(disk), [3, 3])
      assert.strictEqual((yield* recover(disk, next, "after the crash")).visible, toCommitSeq(1n))
    }).pipe(quiet))
})

describe("ParallelWal, from one kind of log to another", () => {
  it.effect("PW-28 SQLite WAL, parallel WAL and back: sequences never go back, no page is lost", () =>
    Effect.gen(function*() {
      const disk = prepareDisk(MemoryDisk.make())
      let ledger = new Ledger(pageSize)
      const goOnWith = (tip: bigint) => {
        assert.isTrue(tip >= ledger.lastSeq, `${tip} after ${ledger.lastSeq}`)
        ledger = new Ledger(pageSize, toCommitSeq(tip), ledger.version(ledger.lastSeq))
      }
      for (let round = 0; round < 4; round++) {
        yield* Effect.scoped(Effect.gen(function*() {
          const opened = yield* openMemory(disk, { create: { pageSize }, autoCheckpointFrames: 0 })
          goOnWith(opened.log.published().commitSeq)
          yield* ledger.checkTip(opened, `SQLite WAL, round ${round}`)
          for (let n = 0; n <= round; n++) {
            yield* ledger.commit(opened, { pages: [2 + n], databasePages: 4 + round + n % 2 })
          }
          // In the first round the log is sealed, in the second emptied by hand below, in the others only started over.
          yield* opened.wal.checkpoint(round === 0 ? "truncate" : "restart")
        }))
        if (round > 0) {
          yield* refused(disk, "WrongLogKind")
          yield* Effect.scoped(Effect.gen(function*() {
            const opened = yield* openMemory(disk)
            yield* opened.wal.checkpoint("truncate")
          }))
        }
        disk.crash("lost")
        yield* Effect.scoped(Effect.gen(function*() {
          const opened = yield* openByHand(disk, { checkpointOnClose: true })
          goOnWith(opened.log.published().commitSeq)
          yield* ledger.checkTip(opened, `parallel WAL, round ${round}`)
          yield* commits(ledger, opened, 2 + round)
          if (round === 2) yield* opened.wal.checkpoint("truncate")
        }))
        disk.crash("lost")
        assert.deepStrictEqual(versionBytes(disk), [2, 2])
        assert.isUndefined(fileDifference(disk, ledger, ledger.lastSeq), `round ${round}`)
      }
      assert.strictEqual(ledger.lastSeq, toCommitSeq(1n + 2n + 3n + 4n + 2n + 3n + 4n + 5n))
    }))

  it.effect("PW-28 2.1: a parallel log beside a base or an old WAL that knows fewer commits goes on above the mark", () =>
    Effect.gen(function*() {
      const { disk, ledger } = yield* logOf(5, pageSize, { checkpointOnClose: true })
      for (const changes of [{}, { [certificates]: undefined }, { [walBasePath(memoryPath)]: undefined }]) {
        const place = edited(disk, changes)
        const next = new Ledger(pageSize, toCommitSeq(5n), ledger.version(toCommitSeq(5n)))
        yield* Effect.scoped(Effect.gen(function*() {
          const opened = yield* openMemory(place, { autoCheckpointFrames: 0 })
          assert.strictEqual(opened.log.published().commitSeq, toCommitSeq(5n))
          yield* next.commit(opened, { pages: [3], databasePages: 6 })
          yield* opened.wal.checkpoint("truncate")
        }))
        const found = yield* recover(place, next, "parallel again")
        assert.deepStrictEqual(found, { visible: toCommitSeq(6n), tip: toCommitSeq(6n) })
      }
    }))
})

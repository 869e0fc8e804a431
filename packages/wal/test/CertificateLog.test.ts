import { assert, describe, it } from "@effect/vitest"
import { InvariantViolation } from "@tidemark/core/Invariant"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Cause, Effect, Exit, Fiber, Random } from "effect"
import { TestClock } from "effect/testing"
import { mkdtempSync, readdirSync, readlinkSync, rmSync, truncateSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Certificate, certificatesPath, scanCertificates } from "../src/CertificateFormat.ts"
import { type CertificateLog, openCertificateLog, readCertificateLog } from "../src/CertificateLog.ts"
import type { SyncPolicy } from "../src/SegmentStore.ts"
import {
  abortedNumber,
  certificateLog,
  certificateNumber,
  logHeader,
  offsetOf,
  seq,
  walEpoch
} from "./support/certificates.ts"
import { flipped, path } from "./support/walFiles.ts"

const file = certificatesPath(path)
const four = [1, 2, 3, 4].map((n) => certificateNumber(n))

const makeDisk = (bytes?: Uint8Array) => {
  const disk = MemoryDisk.make({ async: false })
  disk.writeFile(path, new Uint8Array(512))
  if (bytes !== undefined) disk.writeFile(file, bytes)
  return disk
}

interface Options {
  readonly policy?: SyncPolicy
  readonly through?: number
}

/** Opens what is there, as a start does, and uses it. */
const withLog = <A, E>(
  disk: MemoryDisk,
  use: (log: CertificateLog) => Effect.Effect<A, E>,
  { policy = "full", through = 0 }: Options = {}
) =>
  Effect.scoped(Effect.gen(function*() {
    const vfs = yield* Vfs
    const scan = yield* readCertificateLog(vfs, path)
    return yield* use(yield* openCertificateLog(vfs, { database: path, policy, scan, through: seq(through) }))
  })).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))

const scanOf = (disk: MemoryDisk) => scanCertificates(disk.readFile(file) ?? new Uint8Array(0))
const found = (disk: MemoryDisk): ReadonlyArray<Certificate> => {
  const scan = scanOf(disk)
  assert.deepStrictEqual([scan.headerIssue, scan.damage], [undefined, undefined])
  return scan.certificates.map(({ certificate }) => certificate)
}

/** The sentence of the invariant that an effect breaks. */
const violationOf = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.map(Effect.exit(effect), (exit) => {
    const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
    return defect instanceof InvariantViolation ? defect.message : `no violation: ${String(defect)}`
  })

describe("CertificateLog", () => {
  it.effect("a new log is durable with its name before anything is appended, and its file grows ahead", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(1_700_000_000_000)
      const disk = makeDisk()
      yield* withLog(disk, (log) =>
        Effect.sync(() => {
          assert.deepStrictEqual(disk.unsynced, [])
          assert.deepStrictEqual([log.last(), log.bytes(), log.isUsable()], [undefined, 48, true])
          const bytes = disk.afterCrash("lost").readFile(file) ?? new Uint8Array(0)
          assert.strictEqual(bytes.length, 65_536)
          assert.strictEqual(scanCertificates(bytes).header?.createdUnixNanos, 1_700_000_000_000_000_000n)
        }))
      assert.deepStrictEqual(disk.files, [path, file])
    }))

  it.effect("each database gets an id of its own, which a replacement keeps", () =>
    Effect.gen(function*() {
      const idOf = (disk: MemoryDisk) => Buffer.from(scanOf(disk).header?.databaseId ?? []).toString("hex")
      const [one, other] = [makeDisk(), makeDisk()]
      for (const [disk, seed] of [[one, "one"], [other, "other"]] as const) {
        yield* withLog(disk, () => Effect.void).pipe(Random.withSeed(seed))
      }
      assert.strictEqual(idOf(one).length, 32)
      assert.notStrictEqual(idOf(one), idOf(other))
      const before = idOf(one)
      yield* withLog(one, (log) => log.replace(seq(5)))
      assert.strictEqual(idOf(one), before)
    }))

  it.effect("PW-29 what is appended is durable, certificate by certificate, aborted ones too", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const certificates = [
        certificateNumber(1),
        abortedNumber(2, { segmentEpoch: walEpoch(101) }),
        certificateNumber(3),
        certificateNumber(4, { laneRecords: Array.from({ length: 300 }, (_, lane) => lane) })
      ]
      yield* withLog(disk, (log) =>
        Effect.forEach(certificates, (certificate, index) =>
          Effect.gen(function*() {
            yield* log.append(certificate)
            assert.deepStrictEqual(disk.unsynced, [])
            assert.deepStrictEqual(found(disk.afterCrash("lost")), certificates.slice(0, index + 1))
            assert.deepStrictEqual(log.last(), certificate)
            assert.strictEqual(log.bytes(), scanOf(disk).validBytes)
          })))
    }))

  it.effect("a start goes on behind the last certificate", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      for (const certificate of four) {
        yield* withLog(disk, (log) => log.append(certificate))
        disk.crash("lost")
      }
      assert.deepStrictEqual(found(disk), four)
      yield* withLog(disk, (log) => Effect.sync(() => assert.deepStrictEqual(log.last(), four[3])))
    }))

  it.effect("an append is one write and one sync that changes no size; every 64 KiB the file grows", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const wide = Array.from({ length: 8000 }, () => 1)
      yield* withLog(disk, (log) =>
        Effect.gen(function*() {
          for (const [index, bytes] of [65_536, 65_536, 131_072].entries()) {
            const trace = disk.record()
            yield* log.append(certificateNumber(index + 1, { laneRecords: wide }))
            trace.stop()
            assert.deepStrictEqual(trace.steps.map(({ kind }) => kind), ["write", "syncData"])
            assert.strictEqual(disk.readFile(file)?.length, bytes)
          }
        }))
      assert.strictEqual(found(disk).length, 3)
    }))

  it.effect("RC-09 a torn tail is overwritten by zeros before the next append", () =>
    Effect.gen(function*() {
      const bytes = certificateLog(four)
      for (let cut = offsetOf(3) + 1; cut < bytes.length; cut++) {
        const disk = makeDisk(bytes.subarray(0, cut))
        yield* withLog(disk, (log) =>
          Effect.gen(function*() {
            assert.deepStrictEqual(disk.unsynced, [])
            assert.deepStrictEqual(log.last(), four[2])
            assert.strictEqual(scanOf(disk).tornBytes, 0)
            assert.isTrue(disk.readFile(file)?.subarray(offsetOf(3)).every((byte) => byte === 0))
            yield* log.append(certificateNumber(4, { databasePages: cut }))
          }))
        disk.crash("lost")
        assert.deepStrictEqual(found(disk), [...four.slice(0, 3), certificateNumber(4, { databasePages: cut })])
      }
    }))

  const notFollowing: ReadonlyArray<readonly [string, Partial<Certificate>]> = [
    ["an interval starts where the one before ends", { low: seq(8), high: seq(9) }],
    ["an interval starts where the one before ends", { low: seq(6), high: seq(9) }],
    ["certificate epochs grow", { certificateEpoch: 20n }],
    ["segment epochs never fall", { segmentEpoch: walEpoch(101) }]
  ]
  it.effect("PW-29 a certificate that does not follow the last is a defect, and nothing is written", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      yield* withLog(disk, (log) =>
        Effect.gen(function*() {
          yield* log.append(certificateNumber(1))
          yield* log.append(certificateNumber(2))
          const before = disk.readFile(file)
          for (const [sentence, changes] of notFollowing) {
            assert.strictEqual(yield* violationOf(log.append(certificateNumber(3, changes))), sentence)
            assert.deepStrictEqual(disk.readFile(file), before)
          }
          yield* log.append(certificateNumber(3))
        }))
      assert.deepStrictEqual(found(disk), four.slice(0, 3))
    }))

  it.effect("PW-29 the rules hold across a restart, a replacement, and for the first certificate", () =>
    Effect.gen(function*() {
      const disk = makeDisk(certificateLog(four.slice(0, 2)))
      for (const [sentence, changes] of notFollowing) {
        assert.strictEqual(
          yield* violationOf(withLog(disk, (log) => log.append(certificateNumber(3, changes)))),
          sentence
        )
      }
      yield* withLog(disk, (log) =>
        Effect.gen(function*() {
          yield* log.replace(seq(6))
          for (const [sentence, changes] of notFollowing) {
            assert.strictEqual(yield* violationOf(log.append(certificateNumber(3, changes))), sentence)
          }
          yield* log.append(certificateNumber(3))
        }))
      assert.deepStrictEqual(found(disk), [certificateNumber(3)])
      const first = withLog(makeDisk(), (log) => log.append(certificateNumber(1)), { through: 5 })
      assert.strictEqual(yield* violationOf(first), "an interval starts where the one before ends")
      yield* withLog(makeDisk(), (log) => log.append(certificateNumber(3)), { through: 6 })
    }))

  it.effect("a replaced log is empty and goes on behind the checkpoint", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      yield* withLog(disk, (log) =>
        Effect.gen(function*() {
          yield* log.append(certificateNumber(1))
          assert.strictEqual(
            yield* violationOf(log.replace(seq(2))),
            "no certificate above the checkpoint is dropped"
          )
          yield* log.replace(seq(3))
          assert.deepStrictEqual(disk.unsynced, [])
          assert.deepStrictEqual([log.last(), log.bytes()], [undefined, 48])
          yield* log.append(certificateNumber(2))
          yield* log.replace(seq(9))
          yield* log.append(certificateNumber(4))
        }))
      disk.crash("lost")
      assert.deepStrictEqual(found(disk), [certificateNumber(4)])
      assert.deepStrictEqual(disk.files, [path, file])
    }))

  it.effect("a log that ends before the checkpoint, as one of another kind leaves it, is replaced at the start", () =>
    Effect.gen(function*() {
      const disk = makeDisk(certificateLog(four.slice(0, 2)))
      yield* withLog(disk, (log) => Effect.sync(() => assert.deepStrictEqual(log.last(), four[1])), { through: 6 })
      yield* withLog(disk, (log) =>
        Effect.gen(function*() {
          assert.isUndefined(log.last())
          assert.deepStrictEqual(found(disk.afterCrash("lost")), [])
          assert.strictEqual(
            yield* violationOf(log.append(certificateNumber(4, { certificateEpoch: 20n }))),
            "certificate epochs grow"
          )
          yield* log.append(certificateNumber(4))
        }), { through: 9 })
      assert.deepStrictEqual(found(disk), [certificateNumber(4)])
      assert.deepStrictEqual(scanOf(disk).header?.databaseId, logHeader.databaseId)
    }))

  it.effect("a damaged log, or one that was not read, is not opened and stays as it is", () =>
    Effect.gen(function*() {
      const damaged = flipped(certificateLog(four), offsetOf(1) + 20)
      for (const bytes of [damaged, flipped(certificateLog(four), 3), certificateLog(four).subarray(0, 20)]) {
        const disk = makeDisk(bytes)
        const sentence = yield* violationOf(withLog(disk, () => Effect.void))
        assert.strictEqual(sentence, "a damaged certificate log is refused, not opened")
        assert.deepStrictEqual(disk.readFile(file), bytes)
      }
      const disk = makeDisk(certificateLog(four))
      const unread = Effect.scoped(Effect.flatMap(
        Vfs,
        (vfs) => openCertificateLog(vfs, { database: path, policy: "full", scan: undefined, through: seq(0) })
      )).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
      assert.strictEqual(yield* violationOf(unread), "a certificate log that is there is read before it is opened")
      assert.deepStrictEqual(disk.readFile(file), certificateLog(four))
    }))

  it.effect("an append that is interrupted runs to its end; another one meanwhile is a defect", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      yield* withLog(disk, (log) =>
        Effect.gen(function*() {
          const hold = disk.hold({ operation: "syncData", path: file })
          const fiber = yield* Effect.forkChild(log.append(certificateNumber(1)), { startImmediately: true })
          yield* hold.reached
          const sentence = "one change of the certificate log runs at a time"
          assert.strictEqual(yield* violationOf(log.append(certificateNumber(1))), sentence)
          assert.strictEqual(yield* violationOf(log.replace(seq(3))), sentence)
          const interruption = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
          yield* hold.release
          yield* Fiber.join(interruption)
          assert.deepStrictEqual(log.last(), certificateNumber(1))
          yield* log.append(certificateNumber(2))
        }))
      assert.deepStrictEqual(found(disk.afterCrash("lost")), four.slice(0, 2))
    }))

  it.live("on real files: opened, appended to, torn, replaced, and one descriptor at a time", () =>
    Effect.gen(function*() {
      const directory = yield* Effect.acquireRelease(
        Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-certificates-"))),
        (made) => Effect.sync(() => rmSync(made, { recursive: true, force: true }))
      )
      const database = join(directory, "app.db")
      const vfs = yield* Vfs
      const use = <A, E>(work: (log: CertificateLog) => Effect.Effect<A, E>) =>
        Effect.scoped(Effect.gen(function*() {
          const scan = yield* readCertificateLog(vfs, database)
          const log = yield* openCertificateLog(vfs, { database, policy: "normal", scan, through: seq(0) })
          return { scan, result: yield* work(log) }
        }))
      const openDescriptors = () =>
        readdirSync("/proc/self/fd").filter((descriptor) => {
          try {
            return readlinkSync(`/proc/self/fd/${descriptor}`).startsWith(directory)
          } catch {
            return false
          }
        }).length
      assert.isUndefined((yield* use((log) => log.append(certificateNumber(1)))).scan)
      yield* use((log) => log.append(certificateNumber(2)))
      truncateSync(certificatesPath(database), offsetOf(1) + 30)
      const torn = yield* use((log) =>
        Effect.gen(function*() {
          yield* log.append(certificateNumber(2))
          for (let round = 0; round < 5; round++) yield* log.replace(seq(6))
          assert.strictEqual(openDescriptors(), 1)
          yield* log.append(certificateNumber(3))
        })
      )
      // Up to the last byte that is not zero: the low end of `high`.
      assert.strictEqual(torn.scan?.tornBytes, 25)
      assert.strictEqual(openDescriptors(), 0)
      const scan = yield* readCertificateLog(vfs, database)
      assert.deepStrictEqual(scan?.certificates.map(({ certificate }) => certificate), [certificateNumber(3)])
      assert.deepStrictEqual(readdirSync(directory), ["app.db-wal-cert"])
    }).pipe(Effect.provide(NodeVfs.layer)))
})

/**
 * Every disk that a power loss, a kill or a failing operation can leave of a certificate log: every certificate whose
 * append succeeded is there, in order, none is invented, and the log goes on.
 */
import { assert, describe, it } from "@effect/vitest"
import { InvariantViolation } from "@tidemark/core/Invariant"
import type { CrashState } from "@tidemark/platform/MemoryDisk"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Cause, Effect, Exit } from "effect"
import { isTemporaryName, nameOf } from "../src/AtomicFile.ts"
import { type Certificate, certificatesPath, scanCertificates } from "../src/CertificateFormat.ts"
import { type CertificateLog, openCertificateLog, readCertificateLog } from "../src/CertificateLog.ts"
import type { SyncPolicy } from "../src/SegmentStore.ts"
import { abortedNumber, certificateLog, certificateNumber, offsetOf, seq, walEpoch } from "./support/certificates.ts"
import { path } from "./support/walFiles.ts"

const file = certificatesPath(path)

const makeDisk = (bytes?: Uint8Array) => {
  const disk = MemoryDisk.make({ async: false })
  disk.writeFile(path, new Uint8Array(512))
  if (bytes !== undefined) disk.writeFile(file, bytes)
  return disk
}

const withLog = <A, E>(
  disk: MemoryDisk,
  through: number,
  use: (log: CertificateLog) => Effect.Effect<A, E>,
  policy: SyncPolicy = "full"
) =>
  Effect.scoped(Effect.gen(function*() {
    const vfs = yield* Vfs
    const scan = yield* readCertificateLog(vfs, path)
    return yield* use(yield* openCertificateLog(vfs, { database: path, policy, scan, through: seq(through) }))
  })).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))

/** What counts on a disk; `undefined` when there is no log. A log that is refused fails the test. */
const found = (disk: MemoryDisk, label = ""): ReadonlyArray<Certificate> | undefined => {
  const bytes = disk.readFile(file)
  if (bytes === undefined) return undefined
  const scan = scanCertificates(bytes)
  assert.deepStrictEqual([scan.headerIssue, scan.damage], [undefined, undefined], label)
  return scan.certificates.map(({ certificate }) => certificate)
}

const lanes = (count: number) => Array.from({ length: count }, (_, lane) => lane * 3)

/** Numbers grow from one life of the file to the next: a certificate that survives its file would be seen. */
const written: ReadonlyArray<ReadonlyArray<Certificate>> = [
  [
    certificateNumber(1),
    abortedNumber(2, { segmentEpoch: walEpoch(101) }),
    certificateNumber(3, { laneRecords: lanes(600) }),
    certificateNumber(4)
  ],
  [certificateNumber(5, { laneRecords: lanes(130) }), certificateNumber(6)],
  // The second one reaches behind the first 64 KiB.
  [certificateNumber(7), certificateNumber(8, { laneRecords: lanes(16_300) }), certificateNumber(9)]
]

/** How far the test had come: in which life of the file, with how many certificates in it, which it was about to end. */
interface Mark {
  readonly life: number
  readonly acknowledged: number
  readonly isEnding: boolean
}

const throughOf = (life: number) => life === 0 ? 0 : Number(written[life - 1]?.at(-1)?.high ?? 0)

/** Opens the log, appends, and replaces it in between. */
const work = (disk: MemoryDisk, mark: (value: Mark) => void) =>
  withLog(disk, 0, (log) =>
    Effect.gen(function*() {
      for (const [life, certificates] of written.entries()) {
        mark({ life, acknowledged: 0, isEnding: false })
        for (const [index, certificate] of certificates.entries()) {
          yield* log.append(certificate)
          mark({ life, acknowledged: index + 1, isEnding: false })
        }
        if (life === written.length - 1) return
        mark({ life, acknowledged: certificates.length, isEnding: true })
        yield* log.replace(seq(throughOf(life + 1)))
      }
    }))

/** Which life of the file is on the disk, and how many of its certificates: one that the marks allow. */
const assertKept = (disk: MemoryDisk, marks: ReadonlyArray<Mark>, label: string) => {
  for (const other of disk.files) {
    assert.isTrue([path, file].includes(other) || isTemporaryName(nameOf(other), nameOf(file)), `${other} ${label}`)
  }
  const certificates = found(disk, label)
  const last = marks.at(-1)
  if (last === undefined) {
    assert.isTrue(certificates === undefined || certificates.length === 0, label)
    return { life: 0, count: 0 }
  }
  assert.isDefined(certificates, label)
  const count = certificates?.length ?? 0
  if (last.isEnding && count === 0) return { life: last.life + 1, count: 0 }
  assert.deepStrictEqual(certificates, written[last.life]?.slice(0, count), label)
  assert.isAtLeast(count, last.acknowledged, label)
  assert.isAtMost(count, last.acknowledged + 1, label)
  return { life: last.life, count }
}

/** A start on such a disk, which appends what comes next. */
const goOn = (disk: MemoryDisk, { count, life }: { readonly life: number; readonly count: number }, label: string) =>
  Effect.gen(function*() {
    const before = (written[life] ?? []).slice(0, count)
    const low = before.at(-1)?.high ?? seq(throughOf(life))
    const next = certificateNumber(20, { low: seq(low + 1n), high: seq(low + 9n), databasePages: 999 })
    yield* withLog(disk, throughOf(life), (log) => log.append(next))
    disk.crash("lost")
    assert.deepStrictEqual(found(disk, label), [...before, next], label)
  }).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${label}: ${Cause.pretty(cause)}`))))

const violationOf = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.map(Effect.exit(effect), (exit) => {
    const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
    return defect instanceof InvariantViolation ? defect.message : `no violation: ${String(defect)}`
  })

describe("CertificateLog and crashes", () => {
  it.effect("RC-09 a power loss at any write and sync keeps what was acknowledged, invents nothing, and the log goes on", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const trace = disk.record<Mark>()
      yield* work(disk, trace.mark)
      trace.stop()
      let states = 0
      let torn = 0
      const lives = new Set<string>()
      for (const state of trace.crashStates({ exhaustiveUpTo: 6, perStep: 10 })) {
        states++
        const kept = assertKept(state.disk, state.marks, state.label)
        lives.add(`${kept.life}/${kept.count}`)
        const bytes = state.disk.readFile(file)
        if (bytes !== undefined && scanCertificates(bytes).tornBytes > 0) torn++
        yield* goOn(state.disk, kept, state.label)
      }
      assert.isAbove(states, 200)
      assert.isAbove(torn, 20)
      assert.strictEqual(lives.size, 4 + 2 + 3 + 3, [...lives].join(" "))
    }))

  it.effect("RC-09 a power loss while a torn tail is cleared, and while the next certificate follows", () =>
    Effect.gen(function*() {
      const before = [certificateNumber(1), certificateNumber(2)]
      const wide = certificateNumber(3, { laneRecords: lanes(300) })
      const next = certificateNumber(3, { laneRecords: lanes(300).map((records) => records + 1) })
      const bytes = certificateLog([...before, wide], { zeros: 3000 })
      let states = 0
      for (const lost of [offsetOf(2), 512, 1024]) {
        const disk = makeDisk(bytes.slice().fill(0, lost, lost + 100))
        const trace = disk.record<"acknowledged">()
        yield* withLog(disk, 0, (log) => log.append(next))
        trace.mark("acknowledged")
        trace.stop()
        for (const state of trace.crashStates({ exhaustiveUpTo: 8, perStep: 10 })) {
          states++
          const kept = found(state.disk, state.label) ?? []
          assert.deepStrictEqual(kept, [...before, next].slice(0, kept.length), state.label)
          assert.isAtLeast(kept.length, state.marks.length === 0 ? 2 : 3, state.label)
        }
      }
      assert.isAbove(states, 100)
    }))

  it.effect("a killed process loses nothing that was appended, whatever the policy", () =>
    Effect.gen(function*() {
      for (const policy of ["full", "normal", "off"] as const) {
        const disk = makeDisk()
        const trace = disk.record<number>()
        yield* withLog(
          disk,
          0,
          (log) =>
            Effect.forEach([1, 2, 3], (n) =>
              Effect.tap(log.append(certificateNumber(n)), () => Effect.sync(() => trace.mark(n)))),
          policy
        )
        trace.stop()
        for (let step = 0; step <= trace.steps.length; step++) {
          const acknowledged = trace.crashAfter(step, "kept").marks.length
          const kept = found(trace.diskAfter(step)) ?? []
          assert.deepStrictEqual(
            kept,
            [1, 2, 3].slice(0, kept.length).map((n) =>
              certificateNumber(n)
            )
          )
          assert.isAtLeast(kept.length, acknowledged)
        }
        assert.strictEqual(found(disk.afterCrash("lost"))?.length, policy === "off" ? 0 : 3, policy)
        // What a restart finds after the kill is durable before it goes on, synced by the one before or not.
        disk.kill()
        yield* withLog(disk, 0, () => Effect.sync(() => assert.deepStrictEqual(disk.unsynced, [])), policy)
        assert.strictEqual(found(disk.afterCrash("lost"))?.length, 3, policy)
      }
    }))

  it.effect("after a failed append everything is a defect, and nothing more is written", () =>
    Effect.gen(function*() {
      for (
        const plan of [
          { operation: "write", fault: { kind: "error", code: "EIO" } },
          { operation: "write", fault: { kind: "shortWrite", bytes: 30 } },
          { operation: "syncData", fault: { kind: "error", code: "EIO" } },
          { operation: "syncData", fault: { kind: "lostSync" } }
        ] as const
      ) {
        const disk = makeDisk()
        yield* withLog(disk, 0, (log) =>
          Effect.gen(function*() {
            yield* log.append(certificateNumber(1))
            disk.inject({ ...plan, path: file })
            const error = yield* Effect.flip(log.append(certificateNumber(2)))
            assert.strictEqual(error.operation, plan.operation)
            assert.isFalse(log.isUsable())
            assert.deepStrictEqual(log.last(), certificateNumber(1))
            const after = disk.readFile(file)
            const sentence = "nothing is certified after a failure"
            assert.strictEqual(yield* violationOf(log.append(certificateNumber(2))), sentence)
            assert.strictEqual(yield* violationOf(log.replace(seq(3))), sentence)
            assert.deepStrictEqual(disk.readFile(file), after)
          }))
      }
    }))

  it.effect("a certificate whose sync failed and which can be read is written again before one follows it", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      yield* withLog(disk, 0, (log) =>
        Effect.gen(function*() {
          yield* log.append(certificateNumber(1))
          disk.inject({ operation: "syncData", path: file, fault: { kind: "lostSync" } })
          yield* Effect.flip(log.append(certificateNumber(2)))
        }))
      assert.strictEqual(found(disk)?.length, 2, "the page cache shows it")
      assert.strictEqual(found(disk.afterCrash("lost"))?.length, 1, "the disk does not have it")
      yield* withLog(disk, 0, (log) => log.append(certificateNumber(3)))
      disk.crash("lost")
      assert.deepStrictEqual(found(disk), [1, 2, 3].map((n) => certificateNumber(n)))
    }))

  for (const operation of ["open", "write", "syncFull", "rename"] as const) {
    it.effect(`when ${operation} fails for the replacement, the log goes on as it was and can be replaced later`, () =>
      Effect.gen(function*() {
        const disk = makeDisk()
        yield* withLog(disk, 0, (log) =>
          Effect.gen(function*() {
            yield* log.append(certificateNumber(1))
            disk.inject({ operation, fault: { kind: "error", code: "ENOSPC" } })
            assert.strictEqual((yield* Effect.flip(log.replace(seq(3)))).operation, operation)
            assert.isTrue(log.isUsable())
            yield* log.append(certificateNumber(2))
            assert.deepStrictEqual(found(disk.afterCrash("lost")), [certificateNumber(1), certificateNumber(2)])
            yield* log.replace(seq(6))
            yield* log.append(certificateNumber(3))
          }))
        disk.crash("lost")
        assert.deepStrictEqual(found(disk), [certificateNumber(3)])
        assert.deepStrictEqual(disk.files, [path, file])
      }))
  }

  it.effect("when it fails after the new file may have the name, the log has ended: what is appended would be lost", () =>
    Effect.gen(function*() {
      for (
        const plan of [
          { operation: "syncDirectory" },
          // The second open: the first one makes the temporary file.
          { operation: "open", path: file }
        ] as const
      ) {
        const disk = makeDisk()
        yield* withLog(disk, 0, (log) =>
          Effect.gen(function*() {
            yield* log.append(certificateNumber(1))
            disk.inject({ ...plan, fault: { kind: "error", code: "EIO" } })
            assert.strictEqual((yield* Effect.flip(log.replace(seq(3)))).operation, plan.operation)
            assert.isFalse(log.isUsable())
            const sentence = "nothing is certified after a failure"
            assert.strictEqual(yield* violationOf(log.append(certificateNumber(2))), sentence)
          }))
        yield* withLog(disk, 3, (log) => log.append(certificateNumber(2)))
        disk.crash("lost")
        assert.deepStrictEqual(found(disk), [certificateNumber(2)])
      }
    }))

  it.effect("when a new log cannot be made there is none, and a later start makes it", () =>
    Effect.gen(function*() {
      for (const operation of ["write", "syncFull", "rename"] as const) {
        const disk = makeDisk()
        disk.inject({ operation, fault: { kind: "error", code: "EIO" } })
        assert.strictEqual((yield* Effect.flip(withLog(disk, 0, () => Effect.void))).operation, operation)
        assert.deepStrictEqual(disk.files, [path])
        yield* withLog(disk, 0, (log) => log.append(certificateNumber(1)))
        assert.strictEqual(found(disk.afterCrash("lost"))?.length, 1)
      }
    }))

  it.effect("a power loss while a log that another kind has overtaken is replaced leaves it or the empty one", () =>
    Effect.gen(function*() {
      const before = [certificateNumber(1), certificateNumber(2)]
      const disk = makeDisk(certificateLog(before))
      const trace = disk.record<"opened">()
      yield* withLog(disk, 9, () => Effect.sync(() => trace.mark("opened")))
      trace.stop()
      const seen = new Set<number>()
      const check = (state: CrashState<"opened">) => {
        const kept = found(state.disk, state.label) ?? [certificateNumber(9)]
        assert.isTrue(kept.length === 0 || state.marks.length === 0, state.label)
        assert.deepStrictEqual(kept, kept.length === 0 ? [] : before, state.label)
        seen.add(kept.length)
      }
      for (const state of trace.crashStates()) check(state)
      assert.deepStrictEqual(seen, new Set([0, 2]))
    }))
})

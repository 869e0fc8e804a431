/** What fails under a native log, who is told what, and what is left on the disk. */
import { assert, describe, it } from "@effect/vitest"
import { toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import type { Fault, MemoryDisk } from "@tidemark/platform/MemoryDisk"
import type { VfsOperation } from "@tidemark/platform/VfsError"
import { Cause, Effect, Exit, Fiber, References } from "effect"
import { capsulesDirectory } from "../src/CapsuleFormat.ts"
import { markerSegmentPath, noObject, slotOffset } from "../src/MarkerFormat.ts"
import type { NativeCommit } from "../src/NativeLog.ts"
import type { CheckpointMode } from "../src/SqliteWal.ts"
import { Ledger } from "./support/ledger.ts"
import {
  byHand,
  capsulesOf,
  commits,
  handOver,
  openByHand,
  type OpenedNative,
  pageSize,
  put,
  slowDisk,
  stampOf
} from "./support/nativeLog.ts"
import { checkVisible, settle, versionBytes } from "./support/parallelRuns.ts"
import { memoryPath } from "./support/sqliteWal.ts"

const segment = markerSegmentPath(memoryPath, 0n)
const quiet = Effect.provideService(References.MinimumLogLevel, "None")

interface Poisoning {
  readonly name: string
  readonly operation: VfsOperation
  readonly path: string | RegExp
  readonly fault: Fault
  /** Whether a marker of the batch may be on the disk. */
  readonly mayHaveMarkers: boolean
}

const eio: Fault = { kind: "error", code: "EIO" }
const capsule = /capsules\//

const poisonings: ReadonlyArray<Poisoning> = [
  { name: "the sync of a capsule", operation: "syncData", path: capsule, fault: eio, mayHaveMarkers: false },
  {
    name: "the sync of a capsule, with its bytes lost",
    operation: "syncData",
    path: capsule,
    fault: { kind: "lostSync" },
    mayHaveMarkers: false
  },
  {
    name: "the sync of their directory",
    operation: "syncDirectory",
    path: capsulesDirectory(memoryPath),
    fault: eio,
    mayHaveMarkers: false
  },
  { name: "the write of the markers", operation: "write", path: segment, fault: eio, mayHaveMarkers: false },
  {
    name: "the write of the markers, after some of them (a full disk)",
    operation: "write",
    path: segment,
    fault: { kind: "shortWrite", bytes: 100 },
    mayHaveMarkers: true
  },
  { name: "the sync of the markers", operation: "syncData", path: segment, fault: eio, mayHaveMarkers: true },
  {
    name: "the sync of the markers, with their bytes lost",
    operation: "syncData",
    path: segment,
    fault: { kind: "lostSync" },
    mayHaveMarkers: true
  }
]

/** Hands commits over in one step; what they are told comes in order. */
const tell = (opened: OpenedNative, told: Array<string>, all: ReadonlyArray<NativeCommit>) => {
  for (const each of all) {
    handOver(opened, each, () => {}, (exit) => {
      const ending = Exit.isSuccess(exit) ? "durable" : Cause.squash(exit.cause)
      told.push(
        `${each.seq} ${typeof ending === "string" ? ending : ending instanceof Error ? ending.name : String(ending)}`
      )
    })
  }
}

/** How often anything under the database is touched while `use` runs. */
const touches = <A, E, R>(disk: MemoryDisk, use: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fault = disk.inject({
      operation: ["write", "syncData", "syncFull", "truncate", "rename", "remove", "syncDirectory"],
      fault: eio,
      times: Infinity
    })
    yield* use
    fault.remove()
    return fault.hits
  })

describe("NativeLog: poison", () => {
  it.effect.each(poisonings)(
    "GC-07 GC-08 CO-05 $name fails: told in order, nothing is touched again, the next start decides",
    ({ fault, mayHaveMarkers, operation, path }) =>
      Effect.gen(function*() {
        const disk = slowDisk()
        const opened = yield* openByHand(disk, { checkpointOnClose: true, groupCommit: { maxQueuedBytes: 3 * 88 } })
        const told: Array<string> = []
        tell(opened, told, [yield* put(opened, 1n, 2, 3)])
        yield* settle
        assert.deepStrictEqual(told.splice(0), ["1 durable"])
        const batch = yield* Effect.forEach([2n, 3n, 4n, 5n], (seq) => put(opened, seq, 3))
        const handle = disk.inject({ operation, path, fault })
        tell(opened, told, batch)
        yield* settle
        assert.strictEqual(handle.hits, 1)
        // The fifth was in line.
        assert.deepStrictEqual(told, [
          "5 WalPoisoned",
          "2 WalPoisoned",
          "3 WalPoisoned",
          "4 WalPoisoned"
        ])
        const ended = opened.log.ended()
        assert.strictEqual(ended?._tag, "WalPoisoned")
        if (ended?._tag === "WalPoisoned") {
          assert.match(ended.message, /EIO|ENOSPC/)
          assert.strictEqual(ended.lsn, 88, "what was acknowledged is safe")
        }
        assert.strictEqual(opened.log.published().commitSeq, toCommitSeq(1n))
        assert.strictEqual(stampOf(opened, 3), 1, "not visible")
        const hits = yield* touches(
          disk,
          Effect.gen(function*() {
            tell(opened, told, batch.slice(0, 1))
            assert.strictEqual(told.at(-1), "2 WalPoisoned")
            yield* opened.log.settle
            for (const mode of ["passive", "full", "restart", "truncate"] satisfies Array<CheckpointMode>) {
              assert.strictEqual((yield* Effect.flip(opened.native.checkpoint(mode)))._tag, "WalPoisoned")
            }
            yield* opened.close
          })
        )
        assert.strictEqual(hits, 0)
        assert.deepStrictEqual(versionBytes(disk), [3, 3])

        for (const choice of ["lost", "kept", 1, 2, 3, 4, 5, 6] as const) {
          const crashed = disk.afterCrash(choice)
          const found = yield* Effect.scoped(Effect.map(openByHand(crashed), (again) => {
            const { commitSeq } = again.log.published()
            assert.strictEqual(stampOf(again, 2), 1)
            assert.strictEqual(stampOf(again, 3), Number(commitSeq))
            return commitSeq
          }))
          assert.isTrue(mayHaveMarkers ? found >= 1n && found <= 4n : found === 1n, `${choice}: ${found}`)
          assert.strictEqual(capsulesOf(crashed).length, Number(found), `${choice}: what counts for nothing is gone`)
        }
        // The next process, without a power loss in between: the same commits once more.
        const again = yield* openByHand(disk)
        const next = again.log.published().commitSeq + 1n
        const later: Array<string> = []
        tell(again, later, yield* Effect.forEach([next, next + 1n], (seq) => put(again, seq, 3)))
        yield* settle
        assert.deepStrictEqual(later, [`${next} durable`, `${next + 1n} durable`])
        const last = yield* openByHand(disk.afterCrash("lost"))
        assert.strictEqual(last.log.published().commitSeq, next + 1n)
        assert.strictEqual(stampOf(last, 3), Number(next + 1n))
      }).pipe(quiet)
  )

  it.effect.each(
    [
      { operation: "write", path: memoryPath, fault: { kind: "shortWrite", bytes: 20 } },
      { operation: "syncData", path: memoryPath, fault: { kind: "lostSync" } }
    ] as const
  )(
    "GC-07 PW-28 version bytes whose $operation fails before the first marker poison",
    (plan) =>
      Effect.gen(function*() {
        const disk = slowDisk()
        const opened = yield* openByHand(disk)
        const told: Array<string> = []
        const first = yield* put(opened, 1n, 2)
        disk.inject(plan)
        tell(opened, told, [first])
        yield* settle
        assert.deepStrictEqual(told, ["1 WalPoisoned"])
        assert.strictEqual(disk.readFile(segment)?.length, slotOffset(toCommitSeq(1n)))
        yield* opened.close
        const again = yield* openByHand(disk)
        tell(again, told, [yield* put(again, 1n, 2)])
        yield* settle
        assert.strictEqual(told.at(-1), "1 durable")
        assert.deepStrictEqual(versionBytes(disk.afterCrash("lost")), [3, 3])
      }).pipe(quiet)
  )

  it.effect("GC-08 a log that is poisoned from outside while capsules are synced writes no marker of them", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const told: Array<string> = []
      const each = yield* put(opened, 1n, 2)
      const held = disk.hold({ operation: "syncData", path: capsule })
      tell(opened, told, [each])
      yield* held.reached
      opened.log.poison(Cause.die(new Error("the coordinator is broken")))
      assert.deepStrictEqual(told, ["1 WalPoisoned"])
      yield* held.release
      yield* settle
      yield* opened.close
      assert.strictEqual(disk.readFile(segment)?.length, slotOffset(toCommitSeq(1n)))
      assert.strictEqual((yield* openByHand(disk)).log.published().commitSeq, toCommitSeq(0n))
    }).pipe(quiet))

  it.effect("CO-10 a commit whose capsule is not there poisons, and leaves no marker", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const told: Array<string> = []
      const lost = yield* put(opened, 1n, 2)
      yield* opened.capsules.remove(lost.capsule)
      tell(opened, told, [lost])
      yield* settle
      assert.deepStrictEqual(told, ["1 WalPoisoned"])
      assert.strictEqual(disk.readFile(segment)?.length, slotOffset(toCommitSeq(1n)))
    }).pipe(quiet))

  it.effect("GC-08 a listener that throws when a commit is published poisons; everybody is told", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const told: Array<string> = []
      opened.log.onPublished(() => {
        throw new Error("a broken coordinator")
      })
      tell(opened, told, yield* Effect.forEach([1n, 2n], (seq) => put(opened, seq, 2)))
      yield* settle
      assert.deepStrictEqual(told, ["1 WalPoisoned", "2 WalPoisoned"])
      assert.strictEqual((yield* openByHand(disk.afterCrash("lost"))).log.published().commitSeq, toCommitSeq(2n))
    }).pipe(quiet))

  it.effect("GC-08 a hand-over that dies while its marker is encoded poisons, and is told", () =>
    Effect.gen(function*() {
      const opened = yield* openByHand(slowDisk())
      const told: Array<string> = []
      const each = yield* put(opened, 1n, 2)
      // No capsule has this id.
      tell(opened, told, [{ ...each, capsule: noObject }])
      assert.deepStrictEqual(told, ["1 WalPoisoned"])
      assert.strictEqual(opened.log.ended()?._tag, "WalPoisoned")
    }).pipe(quiet))
})

describe("NativeLog on a full disk", () => {
  it.effect("LOG-11 a capsule without room fails its writer alone; a checkpoint that the log asks for makes room", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk, { autoCheckpointFrames: 1000 })
      const ledger = new Ledger(pageSize)
      yield* commits(ledger, opened, 3)
      assert.strictEqual(opened.native.inLog().capsules, 3)
      const fault = disk.inject({
        operation: "write",
        path: capsule,
        fault: { kind: "error", code: "ENOSPC" },
        times: Infinity
      })
      const refused = yield* Effect.flip(commits(ledger, opened, 1))
      assert.isTrue(refused._tag === "VfsError" && refused.code === "ENOSPC")
      yield* settle
      assert.strictEqual(opened.native.inLog().capsules, 0)
      assert.deepStrictEqual(capsulesOf(disk), [])
      fault.remove()
      yield* commits(ledger, opened, 1)
      assert.deepStrictEqual(checkVisible(opened, ledger, "with room again"), {
        visible: toCommitSeq(4n),
        tip: toCommitSeq(4n)
      })
    }).pipe(quiet))

  it.effect("LOG-11 PG-07 behind a reader such a checkpoint is tried once for each refusal, not in a circle", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk, { autoCheckpointFrames: 1000 })
      const ledger = new Ledger(pageSize)
      const reader = opened.log.openReader()
      yield* commits(ledger, opened, 2)
      disk.inject({ operation: "write", path: capsule, fault: { kind: "error", code: "ENOSPC" }, times: Infinity })
      yield* Effect.flip(commits(ledger, opened, 1))
      yield* settle
      assert.strictEqual(opened.native.inLog().capsules, 2)
      reader.release()
      yield* settle
      assert.strictEqual(opened.native.inLog().capsules, 2)
      yield* Effect.flip(commits(ledger, opened, 1))
      yield* settle
      assert.strictEqual(opened.native.inLog().capsules, 0)
    }).pipe(quiet))

  it.effect("LOG-11 no room for markers poisons; what was acknowledged is there when it is opened again", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const ledger = new Ledger(pageSize)
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk, { checkpointOnClose: true })
        yield* commits(ledger, opened, 2)
        disk.inject({ operation: "write", path: segment, fault: { kind: "shortWrite", bytes: 30 } })
        assert.strictEqual((yield* Effect.flip(commits(ledger, opened, 1)))._tag, "WalPoisoned")
      }))
      const again = yield* openByHand(disk, byHand)
      assert.strictEqual(again.native.startUp.case, "RC-14")
      assert.strictEqual(again.native.startUp.tornTailBytes, 30)
      assert.strictEqual(checkVisible(again, ledger, "reopened").visible, toCommitSeq(2n))
    }).pipe(quiet))

  it.effect("capsules are put while others are synced", () =>
    Effect.gen(function*() {
      const disk = slowDisk()
      const opened = yield* openByHand(disk)
      const each = yield* put(opened, 1n, 2)
      const held = disk.hold({ operation: "syncData", path: capsule })
      const told: Array<string> = []
      tell(opened, told, [each])
      yield* held.reached
      const other = yield* Effect.forkChild(put(opened, 2n, 3))
      yield* settle
      assert.isDefined(other.pollUnsafe(), "a put does not wait for a sync")
      yield* held.release
      tell(opened, told, [yield* Fiber.join(other)])
      yield* settle
      assert.deepStrictEqual(told, ["1 durable", "2 durable"])
      assert.strictEqual(opened.log.openReader().versionOf(toPageNumber(3)), toCommitSeq(2n))
    }))
})

/** Checkpoints of a parallel WAL that fail at one of their steps: no commit is lost, and stock SQLite never let in. */
import { assert, describe, it } from "@effect/vitest"
import { PageSize, toCommitSeq } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as References from "effect/References"
import type { CheckpointMode } from "../src/SqliteWal.ts"
import { Ledger } from "./support/ledger.ts"
import {
  certificateHighs,
  certificates,
  checkVisible,
  commits,
  fileDifference,
  nothingIsLost,
  recover,
  segmentsOf,
  settle,
  versionBytes
} from "./support/parallelRuns.ts"
import { openByHand, type Options } from "./support/parallelWal.ts"
import { memoryPath, prepareDisk } from "./support/sqliteWal.ts"

const pageSize = PageSize.make(512)
const insisting = ["full", "restart", "truncate"] as const
const quiet = Effect.provideService(References.MinimumLogLevel, "None")

const open = (options: Options = {}, disk = prepareDisk(MemoryDisk.make())) =>
  Effect.map(openByHand(disk, options), (opened) => ({ disk, opened, ledger: new Ledger(pageSize) }))

describe("ParallelWal checkpoints that fail", () => {
  const faults = [
    { name: "ENOSPC while writing", operation: "write", path: memoryPath, fault: { kind: "shortWrite", bytes: 700 } },
    { name: "EIO while writing", operation: "write", path: memoryPath, fault: { kind: "error", code: "EIO" } },
    {
      name: "a failed sync that loses what was written",
      operation: "syncFull",
      path: memoryPath,
      fault: { kind: "lostSync" }
    },
    {
      name: "a segment that cannot be read",
      operation: "read",
      path: /-wal-seg-/,
      fault: { kind: "error", code: "EIO" }
    }
  ] as const

  it.effect.each(faults)("$name: commits go on, the database file is not touched again, reopening recovers", ({
    fault,
    operation,
    path
  }) =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open({ checkpointOnClose: true })
      yield* commits(ledger, opened, 6)
      const handle = disk.inject({ operation, path, fault })
      const failed = yield* Effect.flip(opened.wal.checkpoint("passive"))
      assert.strictEqual(handle.hits, 1)
      assert.strictEqual(failed._tag, "CheckpointFailed")
      assert.strictEqual(segmentsOf(disk).length, 6)
      const trace = disk.record()
      for (const mode of ["passive", ...insisting] satisfies Array<CheckpointMode>) {
        assert.strictEqual((yield* Effect.flip(opened.wal.checkpoint(mode)))._tag, "CheckpointFailed")
        yield* commits(ledger, opened, 2)
      }
      checkVisible(opened, ledger, "after the failure")
      yield* opened.close
      assert.deepStrictEqual(trace.steps.filter((step) => step.path === memoryPath), [])
      trace.stop()
      yield* nothingIsLost(disk, ledger, "after the failure")
      const again = yield* openByHand(disk)
      yield* again.wal.checkpoint("truncate")
      assert.isUndefined(fileDifference(disk.afterCrash("lost"), ledger, ledger.acknowledged))
    }).pipe(quiet))

  it.effect.each(["write", "syncFull", "rename", "syncDirectory"] as const)(
    "a mark whose %s fails costs nothing, and the next checkpoint writes it",
    (operation) =>
      Effect.gen(function*() {
        const { disk, ledger, opened } = yield* open()
        yield* commits(ledger, opened, 3)
        disk.inject({
          operation,
          path: operation === "syncDirectory" ? `${memoryPath}.fsqlite` : /\.tmp-checkpoint/,
          fault: { kind: "error", code: "ENOSPC" }
        })
        assert.strictEqual((yield* Effect.flip(opened.wal.checkpoint("passive")))._tag, "CheckpointFailed")
        assert.strictEqual(segmentsOf(disk).length, 3)
        checkVisible(opened, ledger, operation)
        yield* nothingIsLost(disk, ledger, operation)
        yield* commits(ledger, opened, 1)
        yield* opened.wal.checkpoint("full")
        assert.deepStrictEqual(segmentsOf(disk), [])
        assert.isUndefined(fileDifference(disk, ledger, 4n))
      })
  )

  it.effect.each(["write", "syncData"] as const)(
    "PW-28 version bytes whose %s fails are not taken for 3 by the next commit",
    (operation) =>
      Effect.gen(function*() {
        const { disk, ledger, opened } = yield* open()
        yield* commits(ledger, opened, 3)
        yield* opened.wal.checkpoint("passive")
        disk.inject({
          operation,
          path: memoryPath,
          fault: operation === "write" ? { kind: "shortWrite", bytes: 20 } : { kind: "error", code: "EIO" }
        })
        assert.strictEqual((yield* Effect.flip(opened.wal.checkpoint("full")))._tag, "CheckpointFailed")
        yield* commits(ledger, opened, 1)
        for (const choice of ["lost", "kept", 1, 2, 3] as const) {
          assert.deepStrictEqual(versionBytes(disk.afterCrash(choice)), [3, 3], `${choice}`)
        }
        yield* nothingIsLost(disk, ledger, operation)
      })
  )

  it.effect("PW-26 a segment that cannot be removed is removed after the next copy, or by the next start", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 2)
      const handle = disk.inject({
        operation: "remove",
        path: /-wal-seg-/,
        times: 2,
        fault: { kind: "error", code: "EBUSY" }
      })
      yield* opened.wal.checkpoint("passive")
      assert.strictEqual(handle.hits, 2)
      assert.strictEqual(segmentsOf(disk).length, 2)
      yield* nothingIsLost(disk, ledger, "left over")
      assert.deepStrictEqual(segmentsOf(disk).length, 2)
      yield* opened.wal.checkpoint("passive")
      assert.deepStrictEqual(segmentsOf(disk), [])
    }).pipe(quiet))

  it.effect("a certificate log that cannot be replaced stays in use; one whose new name may be lost poisons", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open()
      yield* commits(ledger, opened, 2)
      disk.inject({ operation: "write", path: /\.tmp-test\.db-wal-cert/, fault: { kind: "error", code: "ENOSPC" } })
      assert.strictEqual((yield* Effect.flip(opened.wal.checkpoint("truncate")))._tag, "CheckpointFailed")
      assert.isUndefined(opened.log.ended())
      yield* commits(ledger, opened, 1)
      yield* nothingIsLost(disk, ledger, "not replaced")
      yield* opened.wal.checkpoint("truncate")
      assert.deepStrictEqual(certificateHighs(disk), [])
      yield* commits(ledger, opened, 1)
      yield* opened.wal.checkpoint("full")
      disk.inject({ operation: "syncDirectory", path: "/data", fault: { kind: "error", code: "EIO" } })
      assert.strictEqual((yield* Effect.flip(opened.wal.checkpoint("truncate")))._tag, "CheckpointFailed")
      assert.strictEqual(opened.log.ended()?._tag, "WalPoisoned")
      yield* nothingIsLost(disk, ledger, "poisoned")
    }).pipe(quiet))

  it.effect("PW-29 a log whose last certificate failed while it was closed does not let stock SQLite in", () =>
    Effect.gen(function*() {
      const { disk, ledger, opened } = yield* open({ checkpointOnClose: true })
      yield* commits(ledger, opened, 1)
      const last = yield* Effect.forkChild(Effect.flip(ledger.commit(opened, { pages: [2], databasePages: 6 })))
      yield* settle
      // It is written, and nobody knows it.
      disk.inject({ operation: "syncData", path: certificates, fault: { kind: "error", code: "EIO" } })
      yield* opened.close
      assert.strictEqual((yield* Fiber.join(last))._tag, "WalPoisoned")
      for (const [choice, visible] of [["lost", 1n], ["kept", 2n]] as const) {
        const crashed = disk.afterCrash(choice)
        assert.deepStrictEqual(versionBytes(crashed), [3, 3])
        assert.strictEqual((yield* recover(crashed, ledger, choice)).visible, toCommitSeq(visible))
      }
    }).pipe(quiet))
})

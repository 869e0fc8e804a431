/**
 * Every disk that a power loss or a kill can leave of a parallel WAL is recovered and compared with the list of commits:
 * what was acknowledged is there, what is there are whole intervals in order, sequences never go back, a second recovery
 * changes nothing, and stock SQLite never sees anything else.
 */
import { assert, describe, it } from "@effect/vitest"
import { PageSize } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Effect from "effect/Effect"
import * as References from "effect/References"
import type { CheckpointMode } from "../src/SqliteWal.ts"
import type { Ledger } from "./support/ledger.ts"
import {
  acknowledgedIn,
  commits,
  continued,
  intervalEnds,
  record,
  recover,
  type Recovered,
  sqliteDifference,
  type Workload
} from "./support/parallelRuns.ts"
import { openByHand } from "./support/parallelWal.ts"
import { prepareDisk } from "./support/sqliteWal.ts"

/** TIDEMARK_CRASH_STATES=n visits n times as many random states after each step. */
const thoroughness = Number(process.env["TIDEMARK_CRASH_STATES"] ?? "1")
const timeout = 30_000 * thoroughness

const smallPages = PageSize.make(512)
const everyMode: ReadonlyArray<CheckpointMode> = ["passive", "restart", "truncate", "full", "passive", "restart"]
const unreliable = (seed: number) => prepareDisk(MemoryDisk.make({ async: { seed, maxTurns: 2 } }))
const quiet = Effect.provideService(References.MinimumLogLevel, "None")

const report = (what: string, counts: Readonly<Record<string, number>>) => {
  if (thoroughness > 1) console.log(what, counts)
}

/** Another process opens the disk, commits once more and is gone; the power fails; all of it is there. */
const goOn = (disk: MemoryDisk, ledger: Ledger, recovered: Recovered, label: string) =>
  Effect.gen(function*() {
    const next = continued(ledger, recovered)
    yield* Effect.scoped(Effect.gen(function*() {
      const opened = yield* openByHand(disk)
      assert.isTrue(opened.log.published().commitSeq >= recovered.tip, `${label}: sequences never go back`)
      next.lastSeq = opened.log.published().commitSeq
      next.versions.set(next.lastSeq, next.version(recovered.tip))
      yield* commits(next, opened, 1)
    }))
    disk.crash("lost")
    const after = yield* recover(disk, next, `${label}, continued`)
    assert.strictEqual(after.visible, next.lastSeq, `${label}: what was committed after the recovery`)
    assert.strictEqual(after.tip, next.lastSeq, `${label}: and nothing after it`)
  })

describe("ParallelWal, power losses", () => {
  const workloads: ReadonlyArray<Workload> = [
    { seed: 1, pageSize: smallPages, rounds: 3, writers: 3, checkpoints: everyMode },
    { seed: 2, pageSize: PageSize.make(1024), rounds: 4, writers: 2, checkpoints: ["truncate", "passive", "truncate"] },
    { seed: 3, pageSize: smallPages, rounds: 2, writers: 5, checkpoints: ["full", "restart", "full"] },
    {
      seed: 4,
      pageSize: smallPages,
      rounds: 6,
      writers: 2,
      checkpoints: [],
      options: { autoCheckpointFrames: 6, syncPolicy: "normal" }
    }
  ]
  it.effect.each(workloads)(
    "PW-29 RC-06 commits and checkpoints of every mode (seed $seed)",
    (workload) =>
      Effect.gen(function*() {
        const { ledger, trace } = yield* record(unreliable(workload.seed), workload)
        const ends = intervalEnds(trace)
        let states = 0
        let ahead = 0
        for (
          const { disk, label, marks, step } of trace.crashStates({
            seed: workload.seed,
            perStep: 2 * thoroughness,
            exhaustiveUpTo: 16
          })
        ) {
          states++
          const before = disk.afterCrash("kept")
          const found = yield* recover(disk, ledger, label)
          const acknowledged = acknowledgedIn(marks)
          assert.isTrue(
            found.visible >= acknowledged,
            `${label}: ${acknowledged} is acknowledged, ${found.visible} there`
          )
          assert.isTrue(ends.has(found.visible), `${label}: ${found.visible} ends an interval`)
          if (found.visible > acknowledged) ahead++
          const seen = sqliteDifference(before, ledger.version(found.visible), ledger.pageSize)
          assert.isUndefined(seen, `${label}: stock SQLite and commit ${found.visible}`)
          if (states % 3 !== 0) continue
          // The power fails again right after the recovery, and again after one more commit.
          disk.crash(step)
          const again = yield* recover(disk, ledger, `${label}, again`)
          assert.deepStrictEqual(again, found, `${label}: a second recovery`)
          yield* goOn(disk, ledger, found, label)
        }
        report(`seed ${workload.seed}`, { steps: trace.steps.length, states, ahead, commits: Number(ledger.lastSeq) })
        assert.isTrue(states > 200, `${states} states`)
        assert.isTrue(ahead > 0, "some certificates are there before anybody hears of them")
      }).pipe(quiet),
    timeout
  )

  it.effect("RC-07 PW-15 segments that fail at every step and are written again", () =>
    Effect.gen(function*() {
      let states = 0
      for (const operation of ["write", "syncData", "rename", "syncDirectory"] as const) {
        for (const skip of [0, 2]) {
          const disk = unreliable(skip)
          const workload: Workload = { seed: 5, pageSize: smallPages, rounds: 3, writers: 2, checkpoints: ["passive"] }
          const { ledger, trace } = yield* record(disk, workload, (ledger, opened) => {
            const isLost = operation === "syncData"
            disk.inject({
              operation,
              path: operation === "syncDirectory" ? "/data" : /-wal-seg-/,
              skip,
              times: 2,
              fault: isLost ? { kind: "lostSync" } : { kind: "error", code: "EIO" }
            })
            return Effect.andThen(commits(ledger, opened, 4), opened.wal.checkpoint("passive"))
          })
          const ends = intervalEnds(trace)
          for (
            const { disk, label, marks } of trace.crashStates({ seed: skip, perStep: thoroughness, exhaustiveUpTo: 4 })
          ) {
            states++
            const found = yield* recover(disk, ledger, `${operation} ${skip}: ${label}`)
            assert.isTrue(found.visible >= acknowledgedIn(marks), label)
            assert.isTrue(ends.has(found.visible), label)
            if (states % 5 === 0) yield* goOn(disk, ledger, found, label)
          }
        }
      }
      report("failing segments", { states })
      assert.isTrue(states > 300, `${states} states`)
    }).pipe(quiet), timeout)

  it.effect("RC-07 RC-21 a power loss during the recovery", () =>
    Effect.gen(function*() {
      const { ledger, trace } = yield* record(unreliable(6), {
        seed: 6,
        pageSize: smallPages,
        rounds: 2,
        writers: 4,
        checkpoints: ["passive", "truncate", "full"]
      })
      let states = 0
      let nth = 0
      for (const outer of trace.crashStates({ seed: 6, perStep: 2 * thoroughness, exhaustiveUpTo: 8 })) {
        if (nth++ % 5 !== 0) continue
        // As after a power loss, and as after a kill that is followed by one.
        const found = yield* recover(outer.disk.afterCrash("kept"), ledger, outer.label)
        const recovery = outer.disk.record<never>()
        yield* Effect.scoped(openByHand(outer.disk, { create: { pageSize: smallPages } }))
        recovery.stop()
        for (const inner of recovery.crashStates({ seed: nth, perStep: 2 * thoroughness, exhaustiveUpTo: 8 })) {
          states++
          const label = `${outer.label}; then ${inner.label}`
          const again = yield* recover(inner.disk, ledger, label)
          assert.strictEqual(again.visible, found.visible, label)
          assert.isTrue(again.tip >= found.visible && again.tip <= found.tip, label)
          if (states % 4 === 0) yield* goOn(inner.disk, ledger, again, label)
        }
      }
      report("during recovery", { states })
      assert.isTrue(states > 200, `${states} states`)
    }).pipe(Effect.orDie, quiet), timeout)

  it.effect("PW-29 what a killed process left is durable before anything is built on it", () =>
    Effect.gen(function*() {
      const { ledger, trace } = yield* record(unreliable(7), {
        seed: 7,
        pageSize: smallPages,
        rounds: 3,
        writers: 2,
        checkpoints: ["passive", "truncate", "full", "restart"]
      })
      let states = 0
      for (let step = 0; step <= trace.steps.length; step++) {
        const label = `killed after step ${step}`
        const killed = trace.diskAfter(step)
        const found = yield* recover(killed.afterCrash("kept"), ledger, label)
        // The next process opens it, and the power fails at each of its steps.
        const recovery = killed.record<never>()
        yield* Effect.scoped(openByHand(killed, { create: { pageSize: smallPages } }))
        recovery.stop()
        for (
          const { disk, label: then } of recovery.crashStates({ seed: step, perStep: thoroughness, exhaustiveUpTo: 4 })
        ) {
          states++
          const again = yield* recover(disk, ledger, `${label}; then ${then}`)
          assert.isTrue(again.visible >= acknowledgedIn(trace.crashAfter(step, "lost").marks), `${label}; then ${then}`)
        }
        // What the recovery has shown stays.
        const after = yield* recover(recovery.crashAfter(recovery.steps.length, "lost").disk, ledger, label)
        assert.strictEqual(after.visible, found.visible, label)
        yield* goOn(killed, ledger, found, label)
      }
      report("killed", { states })
    }).pipe(Effect.orDie, quiet), timeout)
})

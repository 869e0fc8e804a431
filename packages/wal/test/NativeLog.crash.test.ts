/**
 * Every disk that a power loss or a kill can leave of a native log is recovered and compared with the list of commits:
 * what was acknowledged is there, what is there is a prefix, sequences never go back, no capsule that a marker names is
 * missing, a second recovery changes nothing, and stock SQLite never sees anything else.
 *
 * A power loss may tear a batch of markers so that a bad one stands before good ones (RC-26). Then the database can only
 * be read until the loss is accepted, and what was acknowledged is in the prefix that is kept.
 */
import { assert, describe, it } from "@effect/vitest"
import { PageSize } from "@tidemark/core/Scalars"
import { MemoryDisk, type TraceEvent } from "@tidemark/platform/MemoryDisk"
import * as Effect from "effect/Effect"
import * as References from "effect/References"
import { markerSegmentPath } from "../src/MarkerFormat.ts"
import type { CheckpointMode } from "../src/SqliteWal.ts"
import type { Ledger } from "./support/ledger.ts"
import { burst, capsulesOf, commit, commits, openByHand } from "./support/nativeLog.ts"
import { record, recoverAnyhow, type Tally, type Workload } from "./support/nativeRuns.ts"
import { acknowledgedIn, continued, type Recovered, settle, sqliteDifference } from "./support/parallelRuns.ts"
import { memoryPath, prepareDisk } from "./support/sqliteWal.ts"

/** TIDEMARK_CRASH_STATES=n visits n times as many random states after each step. */
const thoroughness = Number(process.env["TIDEMARK_CRASH_STATES"] ?? "1")
const timeout = 30_000 * thoroughness

const smallPages = PageSize.make(512)
const everyMode: ReadonlyArray<CheckpointMode> = ["passive", "restart", "truncate", "full", "passive"]
const unreliable = (seed: number) => prepareDisk(MemoryDisk.make({ async: { seed, maxTurns: 2 } }))
const quiet = Effect.provideService(References.MinimumLogLevel, "None")

const report = (what: string, counts: object) => {
  if (thoroughness > 1) console.log(what, counts)
}

/** Another process opens the disk, commits once more and is gone; the power fails; all of it is there. */
const goOn = (disk: MemoryDisk, ledger: Ledger, recovered: Recovered, label: string) =>
  Effect.gen(function*() {
    const next = continued(ledger, recovered)
    yield* Effect.scoped(Effect.gen(function*() {
      const opened = yield* openByHand(disk, { create: { pageSize: ledger.pageSize } })
      const { commitSeq } = opened.log.published()
      assert.isTrue(commitSeq >= recovered.tip, `${label}: sequences never go back`)
      next.lastSeq = commitSeq
      next.versions.set(commitSeq, next.version(recovered.tip))
      yield* commits(next, opened, 1)
    }))
    disk.crash("lost")
    const after = yield* recoverAnyhow(disk, next, `${label}, continued`)
    assert.strictEqual(after.visible, next.lastSeq, `${label}: what was committed after the recovery`)
    assert.strictEqual(after.tip, next.lastSeq, `${label}: and nothing after it`)
  })

describe("NativeLog, power losses", () => {
  const workloads: ReadonlyArray<Workload> = [
    { seed: 1, pageSize: smallPages, rounds: 3, writers: 3, checkpoints: everyMode },
    { seed: 2, pageSize: PageSize.make(1024), rounds: 4, writers: 2, checkpoints: ["truncate", "passive"] },
    { seed: 3, pageSize: smallPages, rounds: 2, writers: 9, checkpoints: ["full"] },
    { seed: 4, pageSize: smallPages, rounds: 6, writers: 2, checkpoints: [], options: { autoCheckpointFrames: 6 } }
  ]
  it.effect.each(workloads)(
    "CO-09 CO-10 RC-16 commits and checkpoints of every mode (seed $seed)",
    (workload) =>
      Effect.gen(function*() {
        const { ledger, trace } = yield* record(unreliable(workload.seed), workload)
        const tally: Tally = { damaged: 0 }
        let states = 0
        let ahead = 0
        for (
          const { disk, label, marks, step } of trace.crashStates({
            seed: workload.seed,
            perStep: 2 * thoroughness,
            exhaustiveUpTo: 8
          })
        ) {
          states++
          const before = disk.afterCrash("kept")
          const found = yield* recoverAnyhow(disk, ledger, label, tally)
          const acknowledged = acknowledgedIn(marks)
          assert.isTrue(
            found.visible >= acknowledged,
            `${label}: ${acknowledged} is acknowledged, ${found.visible} there`
          )
          if (found.visible > acknowledged) ahead++
          const seen = sqliteDifference(before, ledger.version(found.visible), ledger.pageSize)
          assert.isUndefined(seen, `${label}: stock SQLite and commit ${found.visible}`)
          if (states % 3 !== 0) continue
          // The power fails again right after the recovery, and again after one more commit.
          disk.crash(step)
          const again = yield* recoverAnyhow(disk, ledger, `${label}, again`)
          assert.deepStrictEqual(again, found, `${label}: a second recovery`)
          yield* goOn(disk, ledger, found, label)
        }
        report(`seed ${workload.seed}`, { steps: trace.steps.length, states, ahead, ...tally })
        assert.isTrue(states > 200, `${states} states`)
        assert.isTrue(ahead > 0, "some markers are there before anybody hears of them")
      }).pipe(quiet),
    timeout
  )

  it.effect(
    "CO-10 RC-16 RC-21 PG-06 capsules in the files of others, checkpoints in the background, readers, three lengths",
    () =>
      Effect.gen(function*() {
        let states = 0
        let renames = 0
        for (const [seed, autoCheckpointFrames] of [[21, 2], [22, 4], [23, 7]] as const) {
          const isOfCapsule = ({ kind, path }: TraceEvent) => kind === "rename" && path.includes("/capsules/")
          const workload: Workload = { seed, pageSize: smallPages, rounds: 0, writers: 0, checkpoints: [] }
          const { ledger, trace } = yield* record(
            unreliable(seed),
            { ...workload, options: { autoCheckpointFrames } },
            (ledger, opened) =>
              Effect.gen(function*() {
                yield* commit(ledger, opened, { pages: [2, 3, 4, 5, 6], databasePages: 6 })
                for (let n = 0; n < 4; n++) {
                  const reader = opened.log.openReader()
                  yield* Effect.forEach(
                    [[2], [3], n === 2 ? [4, 5] : [4]],
                    (pages) => commit(ledger, opened, { pages, databasePages: 6 }),
                    { concurrency: "unbounded" }
                  )
                  reader.release()
                  yield* commit(ledger, opened, { pages: [5], databasePages: 6 })
                  yield* settle
                }
              })
          )
          const first = trace.steps.findIndex(isOfCapsule)
          renames += trace.steps.filter(isOfCapsule).length
          for (
            const { disk, label, marks } of trace.crashStates({
              seed,
              perStep: thoroughness,
              exhaustiveUpTo: 2,
              steps: (step) => step > first
            })
          ) {
            states++
            const found = yield* recoverAnyhow(disk, ledger, `seed ${seed}, ${label}`)
            assert.isTrue(found.visible >= acknowledgedIn(marks), `seed ${seed}, ${label}`)
            assert.isAtMost(capsulesOf(disk).length, Number(found.visible), label)
          }
        }
        report("recycled", { states, renames })
        assert.isTrue(renames >= 12, `${renames} files served again`)
        assert.isTrue(states > 400, `${states} states`)
      }).pipe(quiet),
    timeout
  )

  it.effect(
    "RC-26 GC-07 a torn batch of markers: what was acknowledged is in the prefix that is kept",
    () =>
      Effect.gen(function*() {
        const tally: Tally = { damaged: 0 }
        let states = 0
        for (const [first, second] of [[3, 12], [12, 40]] as const) {
          const workload: Workload = { seed: first, pageSize: smallPages, rounds: 0, writers: 0, checkpoints: [] }
          const { ledger, trace } = yield* record(
            unreliable(first),
            workload,
            (ledger, opened) => Effect.andThen(burst(ledger, opened, first), burst(ledger, opened, second))
          )
          const isOfMarkers = (step: number) => {
            const { kind, path } = trace.steps[step - 1] ?? {}
            return (kind === "write" || kind === "syncData") && path === markerSegmentPath(memoryPath, 0n)
          }
          for (
            const { disk, label, marks, step } of trace.crashStates({
              seed: first,
              perStep: 40 * thoroughness,
              exhaustiveUpTo: 4,
              steps: isOfMarkers
            })
          ) {
            states++
            const found = yield* recoverAnyhow(disk, ledger, label, tally)
            const acknowledged = acknowledgedIn(marks)
            assert.isTrue(found.visible >= acknowledged, `${label}: ${acknowledged} is acknowledged`)
            disk.crash(step)
            assert.deepStrictEqual(yield* recoverAnyhow(disk, ledger, `${label}, again`), found, `${label}: again`)
            if (states % 3 === 0) yield* goOn(disk, ledger, found, label)
          }
        }
        report("torn batches", { states, ...tally })
        assert.isTrue(tally.damaged > 10, `${tally.damaged} of ${states}`)
      }).pipe(quiet),
    timeout
  )

  it.effect("RC-26 a power loss while a loss is being accepted", () =>
    Effect.gen(function*() {
      const { ledger, trace } = yield* record(
        unreliable(8),
        { seed: 8, pageSize: smallPages, rounds: 0, writers: 0, checkpoints: [] },
        (ledger, opened) => Effect.andThen(commits(ledger, opened, 2), burst(ledger, opened, 12))
      )
      const step = trace.steps.findLastIndex(({ kind, path }) => kind === "write" && path.includes("markers")) + 1
      // The second sector of the batch is there, the first is not.
      const torn = () => {
        const { disk } = trace.crashAfter(step, {
          contents: ({ path, position }) => path.includes("markers") && position >= 512,
          sizes: "kept",
          names: "kept"
        })
        return disk
      }
      const tally: Tally = { damaged: 0 }
      const disk = torn()
      const recovery = disk.record<never>()
      const found = yield* recoverAnyhow(disk, ledger, "torn", tally)
      recovery.stop()
      assert.strictEqual(tally.damaged, 1)
      assert.strictEqual(found.visible, 2n)
      let states = 0
      const accepting: Tally = { damaged: 0, isAccepting: true }
      for (const inner of recovery.crashStates({ seed: 8, perStep: 2 * thoroughness, exhaustiveUpTo: 8 })) {
        states++
        const again = yield* recoverAnyhow(inner.disk, ledger, inner.label, accepting)
        assert.strictEqual(again.visible, 2n, inner.label)
        yield* goOn(inner.disk, ledger, again, inner.label)
      }
      report("accepting", { states, ...accepting })
      assert.isTrue(states > 20, `${states} states`)
    }).pipe(quiet), timeout)

  it.effect("RC-16 RC-21 a power loss during the recovery", () =>
    Effect.gen(function*() {
      const { ledger, trace } = yield* record(unreliable(6), {
        seed: 6,
        pageSize: smallPages,
        rounds: 2,
        writers: 4,
        checkpoints: ["passive", "truncate", "full"]
      })
      const tally: Tally = { damaged: 0 }
      let states = 0
      let nth = 0
      for (const outer of trace.crashStates({ seed: 6, perStep: 2 * thoroughness, exhaustiveUpTo: 8 })) {
        if (nth++ % 9 !== 0) continue
        const found = yield* recoverAnyhow(outer.disk.afterCrash("kept"), ledger, outer.label)
        const recovery = outer.disk.record<never>()
        yield* recoverAnyhow(outer.disk, ledger, outer.label)
        recovery.stop()
        for (const inner of recovery.crashStates({ seed: nth, perStep: 2 * thoroughness, exhaustiveUpTo: 8 })) {
          states++
          const label = `${outer.label}; then ${inner.label}`
          const again = yield* recoverAnyhow(inner.disk, ledger, label, tally)
          assert.strictEqual(again.visible, found.visible, label)
          assert.isTrue(again.tip >= found.visible && again.tip <= found.tip + 2_000_000n, label)
          if (states % 4 === 0) yield* goOn(inner.disk, ledger, again, label)
        }
      }
      report("during recovery", { states, ...tally })
      assert.isTrue(states > 200, `${states} states`)
    }).pipe(quiet), timeout)

  it.effect("CO-10 what a killed process left is durable before anything is built on it", () =>
    Effect.gen(function*() {
      const { ledger, trace } = yield* record(unreliable(7), {
        seed: 7,
        pageSize: smallPages,
        rounds: 3,
        writers: 2,
        checkpoints: ["passive", "truncate", "full"]
      })
      let states = 0
      for (let step = 0; step <= trace.steps.length; step += 2) {
        const label = `killed after step ${step}`
        const killed = trace.diskAfter(step)
        const found = yield* recoverAnyhow(killed.afterCrash("kept"), ledger, label)
        // The next process opens it, and the power fails at each of its steps.
        const recovery = killed.record<never>()
        yield* recoverAnyhow(killed, ledger, label)
        recovery.stop()
        const acknowledged = acknowledgedIn(trace.crashAfter(step, "lost").marks)
        for (
          const { disk, label: then } of recovery.crashStates({ seed: step, perStep: thoroughness, exhaustiveUpTo: 4 })
        ) {
          states++
          const again = yield* recoverAnyhow(disk, ledger, `${label}; then ${then}`)
          assert.isTrue(again.visible >= acknowledged, `${label}; then ${then}`)
        }
        // What the recovery has shown stays, and what counts for nothing is gone.
        const settled = recovery.crashAfter(recovery.steps.length, "lost").disk
        assert.strictEqual((yield* recoverAnyhow(settled, ledger, label)).visible, found.visible, label)
        assert.isTrue(BigInt(capsulesOf(killed).length) <= found.visible, label)
        yield* goOn(killed, ledger, found, label)
      }
      report("killed", { states })
      assert.isTrue(states > 200, `${states} states`)
    }).pipe(quiet), timeout)

  it.effect(
    "GC-07 a log that was poisoned, opened again by the same machine, and a power loss afterwards",
    () =>
      Effect.gen(function*() {
        let states = 0
        const tally: Tally = { damaged: 0 }
        for (
          const [operation, path] of [["syncData", /capsules/], ["syncData", /markers/], ["write", /markers/]] as const
        ) {
          for (const skip of [0, 3]) {
            const disk = unreliable(skip)
            const workload: Workload = {
              seed: 5,
              pageSize: smallPages,
              rounds: 3,
              writers: 3,
              checkpoints: ["passive"]
            }
            const { ledger, trace } = yield* record(disk, workload, (ledger, opened) => {
              disk.inject({
                operation,
                path,
                skip,
                fault: operation === "write" ? { kind: "shortWrite", bytes: 130 } : { kind: "lostSync" }
              })
              return Effect.exit(Effect.all([commits(ledger, opened, 4), commits(ledger, opened, 4)], {
                concurrency: "unbounded"
              }))
            })
            const acknowledged = ledger.acknowledged
            const reopened = disk.record<never>()
            const found = yield* recoverAnyhow(disk, ledger, `${operation} ${skip}, reopened`, tally)
            assert.isTrue(found.visible >= acknowledged)
            const next = continued(ledger, found)
            yield* Effect.scoped(Effect.flatMap(openByHand(disk), (opened) => commits(next, opened, 2)))
            reopened.stop()
            for (const { disk: crashed, label } of trace.crashStates({ seed: skip, perStep: thoroughness })) {
              states++
              yield* recoverAnyhow(crashed, ledger, `${operation} ${skip}: ${label}`, tally)
            }
            const last = yield* recoverAnyhow(
              reopened.crashAfter(reopened.steps.length, "lost").disk,
              next,
              "at the end"
            )
            assert.strictEqual(last.visible, next.lastSeq)
          }
        }
        report("poisoned", { states, ...tally })
      }).pipe(quiet),
    timeout
  )
})

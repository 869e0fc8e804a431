/**
 * Every disk that a power loss, a kill or a failing operation can leave is recovered and compared with the list of
 * commits: everything acknowledged is there, what is there is a prefix, sequences never go back, and a second recovery
 * changes nothing.
 */
import { assert, describe, it } from "@effect/vitest"
import type { CommitSeq } from "@tidemark/core/Scalars"
import { PageSize, toCommitSeq } from "@tidemark/core/Scalars"
import type { CrashState, MemoryDisk as Disk } from "@tidemark/platform/MemoryDisk"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import type { CheckpointMode, SqliteWalOptions } from "../src/SqliteWal.ts"
import { WalDamaged } from "../src/StartUpErrors.ts"
import { Ledger } from "./support/ledger.ts"
import { firstDifference } from "./support/pages.ts"
import { memoryPath, type Opened, openMemory, prepareDisk } from "./support/sqliteWal.ts"

/** What a test says about a moment of the recording. */
type Mark = { readonly kind: "opened" } | { readonly kind: "acknowledged"; readonly seq: CommitSeq }

const optionsOf = (ledger: Ledger) => ({
  create: { pageSize: ledger.pageSize },
  preallocateBytes: 1500,
  autoCheckpointFrames: 0
})

const acknowledgedIn = (state: CrashState<Mark>): CommitSeq => {
  let seq = toCommitSeq(0n)
  for (const mark of state.marks) if (mark.kind === "acknowledged") seq = mark.seq
  return seq
}

/** The lost bytes of a batch that was never acknowledged can look like damage: that is refused, and has to be asked for. */
const openAfterCrash = (disk: Disk, ledger: Ledger) =>
  openMemory(disk, optionsOf(ledger)).pipe(
    Effect.map((opened) => ({ opened, isRefused: false })),
    Effect.catchIf(
      (error) => error instanceof WalDamaged,
      () =>
        Effect.map(openMemory(disk, { ...optionsOf(ledger), acceptLoss: true }), (opened) => ({
          opened,
          isRefused: true
        }))
    )
  )

/** Recovers, compares with the ledger and answers the tip. */
const recover = (disk: Disk, ledger: Ledger, label: string) =>
  Effect.scoped(Effect.gen(function*() {
    const { isRefused, opened } = yield* openAfterCrash(disk, ledger)
    const { commitSeq } = opened.log.published()
    assert.isTrue(ledger.versions.has(commitSeq), `${label}: commit ${commitSeq} was made`)
    const reader = opened.log.openReader()
    assert.isUndefined(ledger.differenceOf(reader), `${label}: the pages of commit ${commitSeq}`)
    reader.release()
    return { tip: commitSeq, isRefused }
  })).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${label}: ${Cause.pretty(cause)}`))))

/** A process opens the disk, commits once more and is gone. */
const goOn = (disk: Disk, ledger: Ledger, tip: CommitSeq, label: string) =>
  Effect.gen(function*() {
    const continued = new Ledger(ledger.pageSize, tip, ledger.version(tip))
    yield* Effect.scoped(Effect.gen(function*() {
      const { opened } = yield* openAfterCrash(disk, ledger)
      yield* continued.commit(opened, { pages: [2], databasePages: continued.version(tip).databasePages })
    }))
    disk.crash("lost")
    const after = yield* recover(disk, continued, `${label}, continued`)
    assert.strictEqual(after.tip, toCommitSeq(tip + 1n), `${label}: what was committed after the recovery`)
    assert.isFalse(after.isRefused, `${label}: what was left behind the tip does not look like damage`)
  })

interface Workload {
  readonly seed: number
  readonly pageSize: PageSize
  readonly rounds: number
  readonly writers: number
  readonly checkpoints: ReadonlyArray<CheckpointMode>
  readonly options?: Partial<SqliteWalOptions>
  /** Whether batches are written in whole blocks, as past a page cache. */
  readonly widensTails?: boolean
}

/** Writers that commit side by side while checkpoints of the given modes run. */
const work = (ledger: Ledger, opened: Opened, { checkpoints, rounds, seed, writers }: Workload) => {
  const writer = Effect.fnUntraced(function*(number: number) {
    for (let round = 0; round < rounds; round++) {
      const databasePages = 2 + (number * 3 + round * 5 + seed) % 7
      yield* ledger.commit(opened, { pages: [2 + (number + round) % 6, 2 + round % 3], databasePages })
    }
  })
  return Effect.all([
    ...Array.from({ length: writers }, (_, number) => writer(number)),
    Effect.forEach(checkpoints, (mode) => opened.wal.checkpoint(mode))
  ], { concurrency: "unbounded" })
}

const record = Effect.fnUntraced(function*(workload: Workload) {
  const { seed, widensTails } = workload
  const disk = prepareDisk(MemoryDisk.make({ async: { seed, maxTurns: 2 }, widensTails }))
  const trace = disk.record<Mark>()
  const ledger = new Ledger(workload.pageSize)
  ledger.onAcknowledged = (seq) => trace.mark({ kind: "acknowledged", seq })
  yield* Effect.scoped(Effect.gen(function*() {
    const opened = yield* openMemory(disk, { ...optionsOf(ledger), ...workload.options })
    trace.mark({ kind: "opened" })
    yield* work(ledger, opened, workload)
  }))
  trace.stop()
  return { disk, ledger, trace }
})

const everyMode: ReadonlyArray<CheckpointMode> = ["passive", "restart", "truncate", "full", "restart", "passive"]

/** What stock SQLite makes of the files of a disk: it recovers, checkpoints, and what is in the database file is read. */
const readWithSqlite = (disk: Disk, pageSize: number): ReadonlyArray<Uint8Array> => {
  const directory = mkdtempSync(join(tmpdir(), "tidemark-crash-"))
  try {
    mkdirSync(join(directory, "test.db.fsqlite"))
    for (const path of disk.files) {
      const bytes = disk.readFile(path)
      if (path.startsWith(memoryPath) && bytes !== undefined) {
        writeFileSync(join(directory, path.slice("/data/".length)), bytes)
      }
    }
    const path = join(directory, "test.db")
    const database = new DatabaseSync(path)
    assert.deepStrictEqual(database.prepare("PRAGMA journal_mode").all().map((row) => row["journal_mode"]), ["wal"])
    database.exec("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    const bytes = readFileSync(path)
    return Array.from(
      { length: bytes.length / pageSize },
      (_, index) => bytes.subarray(index * pageSize, (index + 1) * pageSize)
    )
  } finally {
    rmSync(directory, { recursive: true })
  }
}

describe("SqliteWal, power losses", () => {
  const workloads: ReadonlyArray<Workload> = [
    { seed: 1, pageSize: PageSize.make(512), rounds: 3, writers: 3, checkpoints: everyMode },
    {
      seed: 2,
      pageSize: PageSize.make(1024),
      rounds: 4,
      writers: 2,
      checkpoints: ["truncate", "passive", "truncate", "restart"]
    },
    { seed: 3, pageSize: PageSize.make(512), rounds: 2, writers: 5, checkpoints: ["restart", "restart", "restart"] },
    {
      seed: 4,
      pageSize: PageSize.make(512),
      rounds: 6,
      writers: 2,
      checkpoints: [],
      options: { autoCheckpointFrames: 6, restartFrames: 12, preallocateBytes: 0 }
    },
    {
      seed: 8,
      pageSize: PageSize.make(512),
      rounds: 3,
      writers: 3,
      checkpoints: everyMode,
      widensTails: true
    }
  ]
  it.effect.each(workloads)(
    "SWAL-08 commits and checkpoints of every mode (seed $seed, whole blocks: $widensTails)",
    (workload) =>
      Effect.gen(function*() {
        const { ledger, trace } = yield* record(workload)
        let states = 0
        let refused = 0
        for (const state of trace.crashStates({ seed: workload.seed, perStep: 12, exhaustiveUpTo: 64 })) {
          const { disk, label } = state
          states++
          const acknowledged = acknowledgedIn(state)
          const found = yield* recover(disk, ledger, label)
          assert.isTrue(
            found.tip >= acknowledged,
            `${label}: commit ${acknowledged} was acknowledged, tip ${found.tip}`
          )
          if (found.isRefused) refused++
          if (states % 4 !== 0) continue
          // The power fails again right after the recovery, and again after one more commit.
          disk.crash(state.step)
          const again = yield* recover(disk, ledger, `${label}, again`)
          assert.deepStrictEqual(again, { tip: found.tip, isRefused: false }, `${label}: a second recovery`)
          yield* goOn(disk, ledger, found.tip, label)
        }
        assert.isTrue(states > 500, `${states} states`)
        // What looks like damage is rare: a page lost from a batch whose other commits are whole.
        assert.isTrue(refused <= states / 50, `${refused} of ${states} states were refused`)
      })
  )

  it.effect("SWAL-08 a power loss during the recovery", () =>
    Effect.gen(function*() {
      const { ledger, trace } = yield* record({
        seed: 5,
        pageSize: PageSize.make(512),
        rounds: 2,
        writers: 4,
        checkpoints: ["passive", "truncate", "restart"]
      })
      let states = 0
      let nth = 0
      for (const outer of trace.crashStates({ seed: 5, perStep: 2, exhaustiveUpTo: 8 })) {
        if (nth++ % 5 !== 0) continue
        const tip = (yield* recover(outer.disk.afterCrash("kept"), ledger, outer.label)).tip
        const recovery = outer.disk.record<Mark>()
        yield* Effect.scoped(openAfterCrash(outer.disk, ledger))
        recovery.stop()
        for (const inner of recovery.crashStates({ seed: nth, perStep: 3, exhaustiveUpTo: 16 })) {
          states++
          const label = `${outer.label}; then ${inner.label}`
          assert.strictEqual((yield* recover(inner.disk, ledger, label)).tip, tip, label)
        }
      }
      assert.isTrue(states > 200, `${states} states`)
    }))

  it.effect("GC-01 SWAL-01 what a killed process left is durable before anything is committed behind it", () =>
    Effect.gen(function*() {
      const { ledger, trace } = yield* record({
        seed: 6,
        pageSize: PageSize.make(512),
        rounds: 3,
        writers: 2,
        checkpoints: ["truncate", "restart", "passive"]
      })
      for (let step = 0; step <= trace.steps.length; step++) {
        const disk = trace.diskAfter(step)
        const { tip } = yield* recover(disk, ledger, `killed after step ${step}`)
        yield* goOn(disk, ledger, tip, `killed after step ${step}`)
      }
    }))

  it.effect("SWAL-01 stock SQLite finds in what a power loss leaves what our recovery finds", () =>
    Effect.gen(function*() {
      const { ledger, trace } = yield* record({
        seed: 7,
        pageSize: PageSize.make(512),
        rounds: 3,
        writers: 3,
        checkpoints: ["passive", "restart", "truncate", "full"]
      })
      let nth = 0
      let compared = 0
      for (const state of trace.crashStates({ seed: 7, perStep: 2, exhaustiveUpTo: 16 })) {
        const isOpened = state.marks.some((mark) => mark.kind === "opened")
        if (!isOpened || nth++ % 4 !== 0) continue
        const pages = readWithSqlite(state.disk, ledger.pageSize)
        const { tip } = yield* recover(state.disk, ledger, state.label)
        assert.isUndefined(
          firstDifference(ledger.version(tip), pages.length, (page) => pages[page - 1]),
          `${state.label}: SQLite and commit ${tip}`
        )
        compared++
      }
      assert.isTrue(compared > 40, `${compared} states`)
    }))

  it.effect("SWAL-05 the header is synced before the first frame, and alone it means no frames", () =>
    Effect.gen(function*() {
      const { ledger, trace } = yield* record({
        seed: 8,
        pageSize: PageSize.make(512),
        rounds: 4,
        writers: 1,
        checkpoints: ["restart", "restart"]
      })
      const wal = `${memoryPath}-wal`
      const base = `${memoryPath}.fsqlite/wal-base`
      // What is under way to the disk when a header is written, and when a frame is.
      let headers = 0
      let unsyncedHeader = false
      let baseIsDurable = false
      for (const [index, step] of trace.steps.entries()) {
        if (step.kind === "rename" && step.toPath === base) baseIsDurable = false
        if (step.kind === "syncDirectory" && step.path === `${memoryPath}.fsqlite`) baseIsDurable = true
        if (step.kind === "syncData" && step.path === wal) unsyncedHeader = false
        if (step.kind !== "write" || step.path !== wal) continue
        if (step.position === 0) {
          assert.isTrue(baseIsDurable, "the base is durable before the header")
          headers++
          unsyncedHeader = true
          // After the header's sync and before the first frame.
          const { disk, label } = trace.crashAfter(index + 2, "lost")
          const tip = acknowledgedIn(trace.crashAfter(index + 2, "lost"))
          assert.strictEqual((yield* recover(disk, ledger, label)).tip, tip)
          yield* Effect.scoped(Effect.gen(function*() {
            const { opened } = yield* openAfterCrash(disk, ledger)
            assert.strictEqual(opened.wal.frames().inLog, 0)
            assert.isDefined(opened.wal.startUp.walHeader)
            assert.strictEqual(opened.wal.startUp.tipSource, "wal-base")
          }))
        } else {
          assert.isFalse(unsyncedHeader, "no frame goes before the header is synced")
        }
      }
      assert.isTrue(headers >= 2, `${headers} generations`)
    }))
})

describe("SqliteWal, failing operations", () => {
  const workload: Workload = {
    seed: 9,
    pageSize: PageSize.make(512),
    rounds: 4,
    writers: 3,
    checkpoints: ["passive", "restart"]
  }
  const isMutation = ["write", "syncData", "syncFull", "truncate", "rename", "syncDirectory"] as const

  it.effect.each([{ path: /-wal$/ }, { path: /wal-base/ }])(
    "GC-07 the k-th write or sync of $path fails",
    ({ path }) =>
      Effect.gen(function*() {
        let struck = 0
        for (let skip = 0; skip < 60; skip++) {
          for (const kind of ["error", "lostSync"] as const) {
            const disk = prepareDisk(MemoryDisk.make({ async: { seed: skip, maxTurns: 2 } }))
            const ledger = new Ledger(workload.pageSize)
            let isPoisoned = false
            let writesAfter = 0
            const label = `${kind} at operation ${skip}`
            const hits = yield* Effect.scoped(Effect.gen(function*() {
              const opened = yield* openMemory(disk, optionsOf(ledger))
              const handle = disk.inject({
                operation: kind === "lostSync" ? ["syncData", "syncFull"] : isMutation,
                path,
                skip,
                fault: kind === "lostSync" ? { kind } : { kind, code: "EIO" }
              })
              const exit = yield* Effect.exit(work(ledger, opened, workload))
              isPoisoned = opened.log.ended()?._tag === "WalPoisoned"
              if (handle.hits === 0) {
                assert.isTrue(Exit.isSuccess(exit), label)
                return 0
              }
              // What was published is readable, and nobody touches the log any more.
              const reader = opened.log.openReader()
              assert.isUndefined(ledger.differenceOf(reader), `${label}: reads after the failure`)
              assert.strictEqual(reader.high, ledger.acknowledged, label)
              reader.release()
              if (!isPoisoned) return handle.hits
              assert.isTrue(Exit.isFailure(exit), label)
              const trace = disk.record()
              const refused = yield* Effect.exit(ledger.commit(opened, { pages: [2], databasePages: 4 }))
              assert.isTrue(Exit.isFailure(refused), `${label}: a poisoned log takes nothing`)
              yield* opened.close
              writesAfter = trace.steps.length
              trace.stop()
              return handle.hits
            }))
            if (hits === 0) continue
            struck++
            assert.strictEqual(writesAfter, 0, `${label}: nothing is written while closing`)
            for (const choice of ["lost", "kept", skip] as const) {
              const { tip } = yield* recover(disk.afterCrash(choice), ledger, `${label}, ${choice}`)
              assert.isTrue(tip >= ledger.acknowledged, `${label}, ${choice}: tip ${tip} of ${ledger.acknowledged}`)
            }
            // Without a power loss in between, what a failed sync has lost can still be read, and nobody knows.
            const { tip } = yield* recover(disk, ledger, `${label}, opened again`)
            yield* goOn(disk, ledger, tip, `${label}, opened again`)
          }
        }
        assert.isTrue(struck > 10, `${struck} faults struck`)
      })
  )
})

/**
 * Many lives of one database under one seed: commits, checkpoints, failing operations, starts that fail, kills, power
 * losses, orderly ends, and logs of the other kinds in between. After each of them the next life finds everything that
 * was acknowledged, no capsule missing, and no sequence below one that was ever shown.
 */
import { assert, describe, it } from "@effect/vitest"
import { PageSize, toCommitSeq } from "@tidemark/core/Scalars"
import type { Fault } from "@tidemark/platform/MemoryDisk"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as References from "effect/References"
import { capsulesDirectory } from "../src/CapsuleFormat.ts"
import { markersDirectory } from "../src/MarkerFormat.ts"
import { Ledger } from "./support/ledger.ts"
import { seeded, thoroughness } from "./support/lives.ts"
import { burst, openByHand } from "./support/nativeLog.ts"
import { recoverAnyhow, type Tally, work } from "./support/nativeRuns.ts"
import { checkVisible, continued, cycling, type Recovered, sqliteDifference } from "./support/parallelRuns.ts"
import { openByHand as openParallel } from "./support/parallelWal.ts"
import { memoryPath, openMemory, prepareDisk } from "./support/sqliteWal.ts"

const pageSize = PageSize.make(512)

const places = [
  /capsules\//,
  /markers\//,
  /\.tmp-/,
  memoryPath,
  "/data",
  `${memoryPath}.fsqlite`,
  capsulesDirectory(memoryPath),
  markersDirectory(memoryPath)
] as const
const faults: ReadonlyArray<Fault> = [
  { kind: "error", code: "EIO" },
  { kind: "shortWrite", bytes: 100 },
  { kind: "lostSync" }
]
const modes = ["passive", "full", "restart", "truncate"] as const

const liveManyTimes = (seed: number, lives: number, counts: Map<string, number>) =>
  Effect.gen(function*() {
    const below = seeded(seed)
    const count = (what: string) => counts.set(what, (counts.get(what) ?? 0) + 1)
    const disk = prepareDisk(MemoryDisk.make({ async: { seed, maxTurns: 2 } }))
    const tally: Tally = { damaged: 0 }
    let ledger = new Ledger(pageSize)
    let shown = toCommitSeq(0n)
    const inject = (skip: number) => {
      const fault = faults[below(faults.length)]
      return fault === undefined ? undefined : disk.inject({
        operation: fault.kind === "lostSync"
          ? ["syncData", "syncFull"]
          : fault.kind === "shortWrite"
          ? "write"
          : ["write", "syncData", "syncFull", "rename", "remove", "syncDirectory", "open", "truncate"],
        path: places[below(places.length)],
        skip: below(skip),
        times: 1 + below(2),
        fault
      })
    }
    /** What a start finds is at least what was acknowledged and shown; the ledger goes on from there. */
    const goOn = (found: Recovered, label: string) => {
      assert.isTrue(found.visible >= ledger.acknowledged, `${label}: ${ledger.acknowledged} is acknowledged`)
      assert.isTrue(found.tip >= shown, `${label}: ${found.tip} after ${shown}`)
      ledger = continued(ledger, found)
    }
    const crash = (end: number) => {
      if (end === 1) disk.kill()
      else disk.crash(end === 2 ? below(1_000_000) : "lost")
      count(end === 1 ? "killed" : "power loss")
    }
    for (let life = 0; life < lives; life++) {
      const label = `seed ${seed}, life ${life}`
      if (below(3) === 0) {
        // A start that may fail at one of its steps, and a crash behind it. Whatever it has made durable stays.
        const failing = inject(3)
        const start = yield* Effect.exit(Effect.scoped(openByHand(disk, { acceptLoss: below(2) === 0 })))
        if (start._tag === "Failure") {
          const error = Cause.findErrorOption(start.cause)
          assert.strictEqual(error._tag === "Some" ? error.value._tag : Cause.pretty(start.cause), "VfsError", label)
          count("failed start")
        }
        failing?.remove()
        crash(1 + below(3))
      }
      // A loss is accepted before the life begins, where there is one.
      goOn(yield* recoverAnyhow(disk, ledger, label, tally), label)
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openByHand(disk, {
          checkpointOnClose: below(2) === 0,
          autoCheckpointFrames: below(2) * 12
        })
        goOn(checkVisible(opened, ledger, label), label)
        const handle = below(2) === 0 ? undefined : inject(12)
        const end = below(4)
        // In the middle of a batch of markers, now and then: written, and not synced.
        const held = end === 2 && below(2) === 0
          ? disk.hold({ operation: "syncData", path: /markers\// })
          : undefined
        const large = held !== undefined || below(3) === 0 ? burst(ledger, opened, 6 + below(12)) : Effect.void
        const running = yield* Effect.forkChild(Effect.andThen(
          large,
          work(ledger, opened, {
            seed: below(100),
            pageSize,
            rounds: 1 + below(3),
            writers: 1 + below(3),
            checkpoints: Array.from({ length: below(4) }, () => modes[below(4)] ?? "passive")
          })
        ))
        if (end === 0) {
          yield* Effect.repeat(Effect.yieldNow, { times: 400 })
          yield* opened.close
          count("closed")
        } else {
          const moment = Effect.asVoid(Effect.repeat(Effect.yieldNow, { times: below(300) }))
          yield* held === undefined ? moment : Effect.raceFirst(held.reached, Effect.repeat(moment, { times: 5 }))
          crash(end)
          if (held !== undefined) yield* held.release
        }
        shown = opened.log.published().commitSeq
        if (handle !== undefined && handle.hits > 0) count("with a failing operation")
        handle?.remove()
        yield* Fiber.interrupt(running)
      })).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${label}: ${Cause.pretty(cause)}`))))
      const database = disk.readFile(memoryPath)
      if (database?.[19] !== 2 || below(3) === 0) continue
      // Stock SQLite would open it: so do the other logs, after which everything is in the file again.
      const seen = Array.from(ledger.versions.keys()).toReversed().find((seq) =>
        sqliteDifference(disk, ledger.version(seq), pageSize) === undefined
      )
      assert.isTrue(seen !== undefined && seen >= ledger.acknowledged, `${label}: SQLite sees ${seen}`)
      const isParallel = below(2) === 0
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = isParallel ? yield* openParallel(disk) : yield* openMemory(disk, { autoCheckpointFrames: 0 })
        const tip = opened.log.published().commitSeq
        assert.isTrue(tip >= shown, `${label}: another log goes on at ${tip} after ${shown}`)
        ledger = continued(ledger, { visible: seen ?? toCommitSeq(0n), tip })
        yield* ledger.checkTip(opened, label)
        const commit = ledger.commit(opened, { pages: [2], databasePages: 4 })
        if ("laneCount" in opened.wal) yield* cycling({ ...opened, wal: opened.wal }, commit)
        else yield* commit
        yield* opened.wal.checkpoint("truncate")
        shown = ledger.lastSeq
        count(isParallel ? "of a parallel log" : "of the SQLite WAL")
      })).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${label}, another log: ${Cause.pretty(cause)}`))))
    }
    counts.set("commits", (counts.get("commits") ?? 0) + Number(ledger.acknowledged % 1_000_000n))
    counts.set("accepted losses", (counts.get("accepted losses") ?? 0) + tally.damaged)
  }).pipe(Effect.provideService(References.MinimumLogLevel, "None"))

describe("NativeLog, life after life", () => {
  it.effect(
    "CO-10 RC-14 RC-16 RC-21 RC-26 nothing that was acknowledged is lost, no sequence comes twice",
    () =>
      Effect.gen(function*() {
        const counts = new Map<string, number>()
        for (let seed = 1; seed <= 40 * thoroughness; seed++) yield* liveManyTimes(seed, 8, counts)
        if (thoroughness > 1) console.log(counts)
        for (
          const [what, least] of [
            ["closed", 20],
            ["killed", 20],
            ["power loss", 20],
            ["failed start", 10],
            ["with a failing operation", 20],
            ["of the SQLite WAL", 10],
            ["of a parallel log", 10],
            ["commits", 100]
          ] as const
        ) {
          assert.isTrue((counts.get(what) ?? 0) >= least, `${what}: ${counts.get(what)}`)
        }
      }),
    60_000 * thoroughness
  )
})

/**
 * Many lives of one database under one seed: commits, checkpoints, failing operations, kills, power losses, orderly ends,
 * and the SQLite WAL in between. After each of them the next life finds everything that was acknowledged, and no sequence
 * below one that was ever shown.
 */
import { assert, describe, it } from "@effect/vitest"
import { PageSize, toCommitSeq } from "@tidemark/core/Scalars"
import type { Fault } from "@tidemark/platform/MemoryDisk"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as References from "effect/References"
import { Ledger } from "./support/ledger.ts"
import { seeded, thoroughness } from "./support/lives.ts"
import { checkVisible, continued, sqliteDifference, work } from "./support/parallelRuns.ts"
import { openByHand } from "./support/parallelWal.ts"
import { memoryPath, openMemory, prepareDisk } from "./support/sqliteWal.ts"

const pageSize = PageSize.make(512)

const places = [
  /-wal-seg-/,
  /-wal-cert/,
  /\.tmp-/,
  memoryPath,
  "/data",
  `${memoryPath}.fsqlite`
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
    let ledger = new Ledger(pageSize)
    let shown = toCommitSeq(0n)
    for (let life = 0; life < lives; life++) {
      const label = `seed ${seed}, life ${life}`
      yield* Effect.scoped(Effect.gen(function*() {
        const checkpointOnClose = below(2) === 0
        const opened = yield* openByHand(disk, {
          checkpointOnClose,
          autoCheckpointFrames: below(2) * 12
        })
        const found = checkVisible(opened, ledger, label)
        assert.isTrue(found.visible >= ledger.acknowledged, `${label}: ${ledger.acknowledged} is acknowledged`)
        assert.isTrue(found.tip >= shown, `${label}: ${found.tip} after ${shown}`)
        ledger = continued(ledger, found)
        const fault = faults[below(faults.length)]
        const isFaulty = below(2) === 0 && fault !== undefined
        const handle = !isFaulty ? undefined : disk.inject({
          operation: fault.kind === "lostSync"
            ? ["syncData", "syncFull"]
            : fault.kind === "shortWrite"
            ? "write"
            : ["write", "syncData", "syncFull", "rename", "remove", "syncDirectory", "open", "truncate"],
          path: places[below(places.length)],
          skip: below(12),
          times: 1 + below(2),
          fault
        })
        const running = yield* Effect.forkChild(work(ledger, opened, {
          seed: below(100),
          pageSize,
          rounds: 1 + below(3),
          writers: 1 + below(3),
          checkpoints: Array.from({ length: below(4) }, () => modes[below(4)] ?? "passive")
        }))
        const end = below(4)
        if (end === 0) {
          // A poisoned log leaves nobody waiting; one that cannot write does, and is closed.
          yield* Effect.repeat(Effect.yieldNow, { times: 400 })
          yield* opened.close
          count("closed")
        } else {
          yield* Effect.repeat(Effect.yieldNow, { times: below(300) })
          if (end === 1) disk.kill()
          else disk.crash(end === 2 ? below(1_000_000) : "lost")
          count(end === 1 ? "killed" : "power loss")
        }
        shown = opened.log.published().commitSeq
        if (handle !== undefined && handle.hits > 0) count("with a failing operation")
        handle?.remove()
        yield* Fiber.interrupt(running)
      })).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${label}: ${Cause.pretty(cause)}`))))
      const database = disk.readFile(memoryPath)
      if (database?.[19] !== 2 || below(2) === 0) continue
      // Stock SQLite would open it: so does our other log, after which everything is in the file again.
      yield* Effect.scoped(Effect.gen(function*() {
        const opened = yield* openMemory(disk, { autoCheckpointFrames: 0 })
        const tip = opened.log.published().commitSeq
        assert.isTrue(tip >= shown, `${label}: the SQLite WAL goes on at ${tip} after ${shown}`)
        const reader = opened.log.openReader()
        const visible = Array.from(ledger.versions.keys()).toReversed().find((seq) =>
          sqliteDifference(disk, ledger.version(seq), pageSize) === undefined
        )
        assert.isTrue(visible !== undefined && visible >= ledger.acknowledged, `${label}: SQLite sees ${visible}`)
        reader.release()
        ledger = continued(ledger, { visible: visible ?? toCommitSeq(0n), tip })
        yield* ledger.checkTip(opened, label)
        yield* ledger.commit(opened, { pages: [2], databasePages: 4 })
        yield* opened.wal.checkpoint("truncate")
        shown = ledger.lastSeq
        count("of the SQLite WAL")
      })).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${label}, SQLite WAL: ${Cause.pretty(cause)}`))))
    }
    counts.set("commits", (counts.get("commits") ?? 0) + Number(ledger.acknowledged))
  }).pipe(Effect.provideService(References.MinimumLogLevel, "None"))

describe("ParallelWal, life after life", () => {
  it.effect(
    "PW-29 RC-06 RC-07 RC-09 RC-21 nothing that was acknowledged is lost, no sequence comes twice",
    () =>
      Effect.gen(function*() {
        const counts = new Map<string, number>()
        for (let seed = 1; seed <= 40 * thoroughness; seed++) yield* liveManyTimes(seed, 10, counts)
        if (thoroughness > 1) console.log(counts)
        for (
          const what of ["closed", "killed", "power loss", "with a failing operation", "of the SQLite WAL", "commits"]
        ) {
          assert.isTrue((counts.get(what) ?? 0) > 20, `${what}: ${counts.get(what)}`)
        }
      }),
    60_000 * thoroughness
  )
})

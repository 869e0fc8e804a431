/** One parallel WAL per database in a process. */
import { assert, describe, it } from "@effect/vitest"
import { toPageNumber, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { CommitLog } from "../src/CommitLog.ts"
import { layer, ParallelWal } from "../src/ParallelWal.ts"
import { ParallelWalMap, type ParallelWalMapOptions } from "../src/ParallelWalMap.ts"
import { outcomeOf, settle } from "./support/engine.ts"

const layerOf = (disk: MemoryDisk, options: Partial<ParallelWalMapOptions> = {}) =>
  ParallelWalMap.layer({ options: () => ({ create: {}, ticker: false, controller: false }), ...options }).pipe(
    Layer.provide(MemoryVfs.layerDisk(disk))
  )

/** The log of a database, held for as long as the scope is open. */
const logOf = (database: string) =>
  Effect.flatMap(Scope.Scope, (scope) => Layer.buildWithScope(ParallelWalMap.get(database), scope))

const walOf = (context: Context.Context<ParallelWal> | undefined) =>
  context === undefined ? undefined : Context.get(context, ParallelWal)

const isFree = (disk: MemoryDisk, database: string) =>
  Effect.map(
    outcomeOf(Effect.scoped(Layer.build(Layer.provide(layer({ database, ticker: false }), MemoryVfs.layerDisk(disk))))),
    (outcome) => outcome !== "LogLocked"
  )

describe("ParallelWalMap", () => {
  it.effect("PW-17 asking twice for a path gives the same log, other paths have others", () => {
    const disk = MemoryDisk.make()
    return Effect.gen(function*() {
      const [one, again, spelled, other] = yield* Effect.all(
        ["/one.db", "/one.db", "/x/..//./one.db", "/other.db"].map(logOf),
        { concurrency: "unbounded" }
      )
      assert.isDefined(one)
      assert.strictEqual(walOf(again), walOf(one))
      assert.strictEqual(walOf(spelled), walOf(one))
      assert.notStrictEqual(walOf(other), walOf(one))
    }).pipe(Effect.scoped, Effect.provide(layerOf(disk)))
  })

  it.effect("PW-17 removing stops the log when nobody has it, and who asks then gets another one", () => {
    const disk = MemoryDisk.make()
    return Effect.gen(function*() {
      const map = yield* ParallelWalMap
      const first = yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Effect.map(logOf("/one.db"), walOf)
        yield* map.remove("/one.db")
        assert.isFalse(yield* isFree(disk, "/one.db"))
        return log
      }))
      assert.isTrue(yield* isFree(disk, "/one.db"))
      const second = yield* Effect.map(logOf("/one.db"), walOf)
      assert.notStrictEqual(second, first)
    }).pipe(Effect.scoped, Effect.provide(layerOf(disk)))
  })

  it.effect("PW-17 a log that nobody has is closed when it has been idle", () => {
    const disk = MemoryDisk.make()
    return Effect.gen(function*() {
      yield* Effect.scoped(logOf("/one.db"))
      assert.isFalse(yield* isFree(disk, "/one.db"))
      yield* TestClock.adjust("31 seconds")
      yield* settle
      assert.isTrue(yield* isFree(disk, "/one.db"))
    }).pipe(Effect.scoped, Effect.provide(layerOf(disk)))
  })

  it.effect("PW-17 a poisoned log is opened anew once it is let go", () => {
    const disk = MemoryDisk.make()
    const write = Effect.gen(function*() {
      const log = yield* ParallelWal
      const { submitBatch } = yield* log.writer
      const page = toPageNumber(2)
      yield* submitBatch({
        token: { id: toTxnId(1n), epoch: TxnEpoch.make(0) },
        records: [{ page, after: new Uint8Array(log.pageSize).fill(7) }]
      })
      yield* log.advanceAndFlush()
      return log.published()
    }).pipe(Effect.scoped, Effect.provide(ParallelWalMap.get("/one.db")))
    return Effect.gen(function*() {
      yield* Effect.scoped(logOf("/one.db"))
      const fault = disk.inject({ operation: "write", path: /-wal-cert$/, fault: { kind: "error", code: "EIO" } })
      assert.strictEqual(yield* outcomeOf(write), "WalPoisoned")
      assert.strictEqual(fault.hits, 1)
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(write)))
      const context = yield* logOf("/one.db")
      assert.isUndefined(Context.get(context, CommitLog).ended())
    }).pipe(Effect.scoped, Effect.provide(layerOf(disk)))
  })
})

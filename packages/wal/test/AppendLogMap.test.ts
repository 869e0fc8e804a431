/** Many logs by key: shared while somebody has them, closed when idle, opened again after poison. */
import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { AppendLog } from "../src/AppendLog.ts"
import { AppendLogMap, type AppendLogMapOptions } from "../src/AppendLogMap.ts"
import { bytesOf, readAll, textsOf } from "./support/appendLog.ts"
import { isWaiting, outcomeOf, settle } from "./support/engine.ts"

const layerOf = (disk: MemoryDisk, options: Partial<AppendLogMapOptions> = {}) =>
  AppendLogMap.layer({ options: (key) => ({ directory: `/logs/${key}` }), ...options }).pipe(
    Layer.provide(MemoryVfs.layerDisk(disk))
  )

const append = (key: string, text: string) =>
  AppendLog.use((log) => log.append(bytesOf(text))).pipe(Effect.provide(AppendLogMap.get(key)))

const textsIn = (key: string) =>
  AppendLog.use((log) => readAll(log)).pipe(Effect.map(textsOf), Effect.provide(AppendLogMap.get(key)))

describe("AppendLogMap", () => {
  it.effect("one log per key, shared by all who have it at the same time", () => {
    const disk = MemoryDisk.make()
    return Effect.gen(function*() {
      const map = yield* AppendLogMap
      const [one, again, other] = yield* Effect.all([map.open("one"), map.open("one"), map.open("other")], {
        concurrency: "unbounded"
      })
      assert.strictEqual(one, again)
      assert.notStrictEqual(one, other)
      yield* Effect.forEach(
        [...Array(20).keys()],
        (number) => append(number % 2 === 0 ? "one" : "other", `${number}`),
        {
          concurrency: "unbounded"
        }
      )
      assert.strictEqual((yield* textsIn("one")).length, 10)
      assert.strictEqual((yield* textsIn("other")).length, 10)
      assert.strictEqual(
        yield* outcomeOf(Effect.scoped(
          AppendLog.open({ directory: "/logs/one" }).pipe(
            Effect.provide(MemoryVfs.layerDisk(disk))
          )
        )),
        "LogLocked"
      )
    }).pipe(Effect.provide(layerOf(disk)))
  })

  it.effect("a log that nobody has is closed when it has been idle, and opened again on demand", () => {
    const disk = MemoryDisk.make()
    const elsewhere = Effect.scoped(AppendLog.open({ directory: "/logs/a" })).pipe(
      Effect.provide(MemoryVfs.layerDisk(disk)),
      outcomeOf
    )
    return Effect.gen(function*() {
      yield* append("a", "1")
      yield* TestClock.adjust("50 seconds")
      yield* append("a", "2")
      yield* TestClock.adjust("59 seconds")
      assert.strictEqual(yield* elsewhere, "LogLocked", "it was used in between")
      yield* TestClock.adjust("2 seconds")
      yield* Effect.repeat(settle, { times: 4 })
      assert.strictEqual(yield* elsewhere, "success")
      yield* append("a", "3")
      assert.deepStrictEqual(yield* textsIn("a"), ["1", "2", "3"])
    }).pipe(Effect.provide(layerOf(disk, { idleTimeToLive: "1 minute" })))
  })

  it.effect("GC-07 a poisoned log is not handed out: who asks next waits for those who have it, and it is opened anew", () => {
    const disk = MemoryDisk.make()
    let openings = 0
    const options = (key: string) => {
      openings++
      return { directory: `/logs/${key}` }
    }
    return Effect.gen(function*() {
      const map = yield* AppendLogMap
      const scope = yield* Scope.make()
      const first = yield* Scope.provide(map.open("a"), scope)
      yield* first.append(bytesOf("kept"))
      disk.inject({ operation: "write", path: /\.tlog$/, fault: { kind: "error", code: "EIO" } })
      assert.strictEqual(yield* outcomeOf(first.append(bytesOf("lost"))), "WalPoisoned")
      const waiting = yield* Effect.forEach(
        [...Array(5).keys()],
        (number) => Effect.forkChild(append("a", `${number}`), { startImmediately: true })
      )
      yield* Effect.repeat(settle, { times: 3 })
      assert.isTrue(waiting.every(isWaiting))
      // It can still be read by those who have it.
      assert.deepStrictEqual(textsOf(yield* readAll(first)), ["kept"])
      yield* Scope.close(scope, Exit.void)
      yield* Effect.forEach(waiting, Fiber.join)
      assert.deepStrictEqual((yield* textsIn("a")).toSorted(), ["0", "1", "2", "3", "4", "kept"])
      assert.strictEqual(openings, 2, "those who wait share the next one")
      const second = yield* map.open("a")
      assert.notStrictEqual(second, first)
      assert.strictEqual(second.ended(), undefined)
    }).pipe(Effect.provide(layerOf(disk, { options })))
  })

  it.effect("GC-07 an application goes on by itself: each unit of work is tried again with a log that lives", () => {
    const disk = MemoryDisk.make({ async: { seed: 4, maxTurns: 2 } })
    return Effect.gen(function*() {
      disk.inject({ operation: ["write", "syncData"], path: /\.tlog$/, skip: 3, fault: { kind: "error", code: "EIO" } })
      disk.inject({ operation: "syncData", path: /\.tlog$/, skip: 17, fault: { kind: "lostSync" } })
      const unit = (number: number) =>
        append("a", `${number}`).pipe(Effect.retry({ times: 4, while: ({ _tag }) => _tag === "WalPoisoned" }))
      yield* Effect.forEach([...Array(60).keys()], unit, { concurrency: 4 })
      const found = (yield* textsIn("a")).map(Number)
      assert.deepStrictEqual([...new Set(found)].toSorted((a, b) => a - b), [...Array(60).keys()])
    }).pipe(Effect.provide(layerOf(disk)))
  })

  it.effect("invalidate closes a log as soon as nobody has it; who asks meanwhile waits for that", () => {
    const disk = MemoryDisk.make()
    return Effect.gen(function*() {
      const map = yield* AppendLogMap
      const gate = Deferred.makeUnsafe<void>()
      const user = yield* AppendLog.use((log) => Effect.andThen(Deferred.await(gate), log.append(bytesOf("old")))).pipe(
        Effect.provide(map.get("a")),
        Effect.forkChild({ startImmediately: true })
      )
      yield* settle
      yield* map.invalidate("a")
      const next = yield* Effect.forkChild(append("a", "new"), { startImmediately: true })
      yield* Effect.repeat(settle, { times: 3 })
      assert.isTrue(isWaiting(next))
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(user)
      yield* Fiber.join(next)
      assert.deepStrictEqual(yield* textsIn("a"), ["old", "new"])
    }).pipe(Effect.provide(layerOf(disk)))
  })

  it.effect("a log that cannot be opened is an error of those who asked, and of nobody later", () => {
    const disk = MemoryDisk.make()
    return Effect.gen(function*() {
      disk.inject({ operation: "list", path: "/logs/a", fault: { kind: "error", code: "EIO" } })
      assert.strictEqual(yield* outcomeOf(append("a", "1")), "VfsError")
      yield* append("a", "2")
      assert.deepStrictEqual(yield* textsIn("a"), ["2"])
    }).pipe(Effect.provide(layerOf(disk)))
  })

  it.effect("leaving the scope of the map closes every log", () => {
    const disk = MemoryDisk.make()
    return Effect.gen(function*() {
      yield* Effect.provide(
        Effect.forEach(["a", "b", "c"], (key) => append(key, "1")),
        layerOf(disk)
      )
      for (const key of ["a", "b", "c"]) {
        const opening = Effect.scoped(AppendLog.open({ directory: `/logs/${key}` }))
        assert.strictEqual(yield* outcomeOf(Effect.provide(opening, MemoryVfs.layerDisk(disk))), "success")
      }
    })
  })
})

/** Many fibers ask a map for logs whose disks fail, whose askers are interrupted, and that are invalidated meanwhile. */
import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { AppendLogMap } from "../src/AppendLogMap.ts"
import { numberOf, openMemory, payloadOf, readAll } from "./support/appendLog.ts"
import { makeRandom } from "./support/seededScheduler.ts"

const operations = ["write", "syncData", "open", "list", "syncFull", "rename"] as const
const isTyped = (error: unknown) =>
  typeof error === "object" && error !== null && "_tag" in error &&
  (error._tag === "WalPoisoned" || error._tag === "VfsError")

/** What one of the fibers did with the logs of a map. */
const user = Effect.fnUntraced(function*(
  map: AppendLogMap["Service"],
  disk: MemoryDisk,
  below: (count: number) => number,
  label: string,
  acknowledge: (key: string, number: number) => void,
  nextNumber: () => number
) {
  let failed = 0
  for (let round = 0; round < 12; round++) {
    const key = below(2) === 0 ? "a" : "b"
    const incident = below(10)
    if (incident === 0) yield* map.invalidate(key)
    if (incident === 1) {
      disk.inject({
        operation: operations[below(operations.length)] ?? "write",
        fault: below(2) === 0 ? { kind: "error", code: "EIO" } : { kind: "lostSync" }
      })
    }
    const use = Effect.scoped(Effect.gen(function*() {
      const log = yield* map.open(key)
      yield* Effect.repeat(Effect.yieldNow, { times: below(4) })
      for (let times = below(3); times >= 0; times--) {
        const number = nextNumber()
        yield* log.append(payloadOf(number, 30))
        acknowledge(key, number)
      }
      if (below(6) === 0) yield* log.rotate
    }))
    if (incident === 2) {
      const fiber = yield* Effect.forkChild(use)
      yield* Effect.repeat(Effect.yieldNow, { times: below(12) })
      yield* Fiber.interrupt(fiber)
      continue
    }
    const exit = yield* Effect.exit(use)
    if (Exit.isSuccess(exit)) continue
    failed++
    assert.isTrue(isTyped(Cause.squash(exit.cause)), `${label}: ${Cause.pretty(exit.cause)}`)
  }
  return failed
})

describe("AppendLogMap, in trouble", () => {
  it.live("GC-07 LOG-03 LOG-10 nobody waits for ever, nothing acknowledged is lost, one log per key at a time", () =>
    Effect.gen(function*() {
      const total = { acknowledged: 0, failed: 0 }
      for (let seed = 0; seed < 60; seed++) {
        const random = makeRandom(seed)
        const below = (count: number) => Math.floor(random() * count)
        const disk = MemoryDisk.make({ async: { seed, maxTurns: 2 } })
        const acknowledged = { a: new Set<number>(), b: new Set<number>() }
        let number = 0
        const acknowledge = (key: string, number: number) => acknowledged[key === "a" ? "a" : "b"].add(number)
        const failed = yield* AppendLogMap.use((map) =>
          Effect.all(
            Array.from({ length: 4 }, () => user(map, disk, below, `seed ${seed}`, acknowledge, () => number++)),
            { concurrency: "unbounded" }
          )
        ).pipe(
          Effect.provide(
            AppendLogMap.layer({
              options: (key) => ({ directory: `/logs/${key}`, segmentBytes: 600, preallocateBytes: 100 }),
              idleTimeToLive: below(2) === 0 ? 0 : "1 minute"
            }).pipe(Layer.provide(Layer.fresh(MemoryVfs.layerDisk(disk)))),
            { local: true }
          ),
          Effect.timeoutOrElse({
            duration: "20 seconds",
            orElse: () => Effect.die(new Error(`seed ${seed}: somebody waits for ever`))
          })
        )
        for (const key of ["a", "b"] as const) {
          yield* Effect.scoped(Effect.gen(function*() {
            const after = disk.afterCrash(seed % 2 === 0 ? "lost" : seed)
            const { log } = yield* openMemory(after, { directory: `/logs/${key}` })
            const found = (yield* readAll(log)).map(({ payload }) => numberOf(payload))
            assert.includeMembers(found, [...acknowledged[key]], `seed ${seed}`)
            total.acknowledged += acknowledged[key].size
          }))
        }
        total.failed += failed.reduce((sum, count) => sum + count, 0)
      }
      assert.isTrue(total.acknowledged > 2000, JSON.stringify(total))
      // A failure is told to those who share the log, and not once more to who asks next.
      assert.isTrue(total.failed > 100 && total.failed < 400, JSON.stringify(total))
    }))
})

/**
 * Counts in shared memory, beside others: word 0 by adding, word 8 by comparing and exchanging. All begin when as many as
 * take part have said at word 24 that they are there. As a worker thread it is handed a buffer; as a program it gets the
 * path, the backend, the rounds and the number of parties as arguments.
 *
 * `wake` waits until somebody waits for word 32, and wakes him.
 */
import type { NativeBackend } from "@tidemark/platform/FileLock"
import { regionOf, SharedMemory, type SharedRegion } from "@tidemark/platform/SharedMemory"
import { Effect } from "effect"
import { setTimeout } from "node:timers/promises"
import { isMainThread, parentPort, workerData } from "node:worker_threads"
import type { SharedTask } from "../support/sharedWorkers.ts"

const count = async (region: SharedRegion, rounds: number, parties: number) => {
  region.add(24, 1n)
  while (region.load(24) < BigInt(parties)) await setTimeout(1)
  for (let round = 0; round < rounds; round++) {
    region.add(0, 1n)
    let seen = region.load(8)
    while (true) {
      const found = region.compareExchange(8, seen, seen + 1n)
      if (found === seen) break
      seen = found
    }
  }
}

const wake = async (region: SharedRegion) => {
  while (region.notify(32) === 0) await setTimeout(1)
}

if (isMainThread) {
  const [path = "", backend = "koffi", rounds = "0", parties = "1"] = process.argv.slice(2)
  const backends: ReadonlyArray<NativeBackend> = [backend === "koffi" ? "koffi" : "node:ffi"]
  await Effect.runPromise(
    Effect.scoped(Effect.gen(function*() {
      const memory = yield* SharedMemory
      const region = yield* memory.open(path)
      if (region === undefined) throw new Error(`there is nothing at ${path}`)
      yield* Effect.promise(() => count(region, Number(rounds), Number(parties)))
    })).pipe(Effect.provide(SharedMemory.layerFileBackends(backends)))
  )
} else {
  // What a worker is handed is untyped; the tests hand it this.
  const { buffer, name, origin, parties, rounds, task } = workerData as SharedTask
  const region = regionOf(name, buffer, origin)
  await (task === "count" ? count(region, rounds, parties) : wake(region))
  parentPort?.postMessage([region.name, region.medium, region.identity].join(" "))
}

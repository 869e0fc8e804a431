/**
 * Counts the mappings of the file given as an argument that this process has: while regions of it are open, after their
 * scope was closed while somebody still refers to a buffer of one, and after nobody does. Run with `--expose-gc`.
 */
import { SharedMemory } from "@tidemark/platform/SharedMemory"
import { Effect } from "effect"
import * as NodeFs from "node:fs"

const [path = ""] = process.argv.slice(2)

const mappings = () =>
  NodeFs.readFileSync("/proc/self/maps", "utf8").split("\n").filter((line) => line.includes(path)).length

const collect = Effect.promise(async () => {
  for (let time = 0; time < 5; time++) {
    globalThis.gc?.()
    await new Promise((resolve) => setImmediate(resolve))
  }
})

const counts: Array<number> = []

await Effect.runPromise(
  Effect.gen(function*() {
    const memory = yield* SharedMemory
    let words: BigUint64Array | undefined
    yield* Effect.scoped(Effect.gen(function*() {
      const region = yield* memory.create(path, { bytes: 1, content: new Uint8Array(0) })
      for (let time = 0; time < 9; time++) yield* memory.open(path)
      counts.push(mappings())
      words = new BigUint64Array(region.buffer)
    }))
    yield* collect
    counts.push(mappings())
    if (words !== undefined) Atomics.store(words, 0, 1n)
    words = undefined
    yield* collect
    counts.push(mappings())
  }).pipe(Effect.provide(SharedMemory.layerFile))
)
console.log(counts.join(" "))

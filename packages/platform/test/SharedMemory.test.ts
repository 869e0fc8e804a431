import { assert, describe, it } from "@effect/vitest"
import type { NativeBackend } from "@tidemark/platform/FileLock"
import { makeSharedRegions, SharedMemory } from "@tidemark/platform/SharedMemory"
import { Effect, Layer } from "effect"
import { sharedMemoryContract } from "./SharedMemoryContract.ts"
import { canMap, temporaryDirectory } from "./support/sharedFiles.ts"

sharedMemoryContract("in memory", Layer.suspend(() => SharedMemory.layerMemory()), Effect.succeed("/memory"))
for (const backend of ["koffi", "node:ffi"] satisfies ReadonlyArray<NativeBackend>) {
  if (canMap(backend)) {
    sharedMemoryContract(
      `files through ${backend}`,
      SharedMemory.layerFileBackends([backend]),
      temporaryDirectory
    )
  }
}

describe("SharedMemory in memory", () => {
  it.effect("layers that share their regions are one machine, others know nothing of each other", () =>
    Effect.gen(function*() {
      const regions = makeSharedRegions()
      const create = SharedMemory.use((memory) => memory.create("one", { bytes: 8, content: new Uint8Array(0) }))
      const first = yield* Effect.provide(create, SharedMemory.layerMemory({ regions }), { local: true })
      const open = SharedMemory.use((memory) => memory.open("one"))
      const second = yield* Effect.provide(open, SharedMemory.layerMemory({ regions }), { local: true })
      assert.strictEqual(second?.identity, first.identity)
      assert.isUndefined(yield* Effect.provide(open, SharedMemory.layerMemory(), { local: true }))
    }))
})

import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect } from "effect"

describe("MemoryVfs", () => {
  it.effect("a synced write survives a power loss, an unsynced one does not", () => {
    const disk = MemoryDisk.make()
    return Effect.gen(function*() {
      const vfs = yield* Vfs
      const file = yield* vfs.open("/journal", { access: "readWrite", create: "ifMissing" })
      yield* vfs.syncDirectory("/")
      yield* file.writeAndSyncData([new Uint8Array([1, 2, 3])], 0)
      yield* file.write([new Uint8Array([4, 5, 6])], 3)
      assert.deepStrictEqual(disk.afterCrash("kept").readFile("/journal"), new Uint8Array([1, 2, 3, 4, 5, 6]))
      disk.crash("lost")
      assert.deepStrictEqual(disk.readFile("/journal"), new Uint8Array([1, 2, 3]))
      const error = yield* Effect.flip(file.write([new Uint8Array([7])], 0))
      assert.strictEqual(error.code, "EIO")
    }).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
  })
})

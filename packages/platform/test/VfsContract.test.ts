import { assert, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Layer } from "effect"
import * as NodeFs from "node:fs/promises"
import * as NodeOs from "node:os"
import * as NodePath from "node:path"
import { fileLockContract } from "./FileLockContract.ts"
import { vfsContract } from "./VfsContract.ts"

const makeInMemory = Effect.gen(function*() {
  const vfs = yield* Vfs
  yield* vfs.makeDirectory("/tests/of/contract")
  return "/tests/of/contract"
})

const makeOnDisk = Effect.acquireRelease(
  Effect.promise(() => NodeFs.mkdtemp(NodePath.join(NodeOs.tmpdir(), "tidemark-contract-"))),
  (directory) => Effect.promise(() => NodeFs.rm(directory, { recursive: true }))
)

vfsContract("MemoryVfs", MemoryVfs.layer, makeInMemory)
vfsContract(
  "MemoryVfs, at once",
  Layer.suspend(() => MemoryVfs.layerDisk(MemoryDisk.make({ async: false }))),
  makeInMemory
)
vfsContract(
  "MemoryVfs, overtaking",
  Layer.suspend(() => MemoryVfs.layerDisk(MemoryDisk.make({ async: { seed: 7, maxTurns: 4 } }))),
  makeInMemory
)
vfsContract(
  "MemoryVfs, past a page cache",
  Layer.suspend(() => MemoryVfs.layerDisk(MemoryDisk.make({ widensTails: true }))),
  makeInMemory
)
vfsContract("NodeVfs", NodeVfs.layer, makeOnDisk)
vfsContract("NodeVfs, never on the calling thread", NodeVfs.layerVfsOptions({ inlineSyncMaxMicros: 0 }), makeOnDisk)

fileLockContract("MemoryVfs", MemoryVfs.layer, makeInMemory)
if (process.platform === "linux") fileLockContract("NodeVfs", NodeVfs.layer, makeOnDisk)

it.effect("each build of MemoryVfs.layer has a disk of its own", () =>
  Effect.gen(function*() {
    const list = Effect.gen(function*() {
      const vfs = yield* Vfs
      const before = yield* vfs.list("/")
      yield* vfs.makeDirectory("/a")
      return before
    })
    assert.deepStrictEqual(yield* Effect.provide(list, MemoryVfs.layer, { local: true }), [])
    assert.deepStrictEqual(yield* Effect.provide(list, MemoryVfs.layer, { local: true }), [])
  }))

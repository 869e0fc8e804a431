/** Memory disks with a database beside which capsules are put, and what a crash has left of those. */
import { assert } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Result, type Scope } from "effect"
import { capsulePath, type EncodedCapsule } from "../../src/CapsuleFormat.ts"
import { makeCapsuleStore, readCapsule } from "../../src/CapsuleStore.ts"
import { capsuleOf } from "./capsules.ts"

export const database = "/data/app.db"

export const newDisk = (options?: Parameters<typeof MemoryDisk.make>[0]) => {
  const disk = MemoryDisk.make({ async: false, ...options })
  disk.writeFile(database, new Uint8Array(512))
  return disk
}

export const on = <A, E>(disk: MemoryDisk, use: (vfs: Vfs["Service"]) => Effect.Effect<A, E, Scope.Scope>) =>
  Effect.scoped(Effect.flatMap(Vfs, use)).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))

export const storeOn = Effect.fnUntraced(function*(vfs: Vfs["Service"], maxKeptFiles?: number) {
  return yield* makeCapsuleStore(vfs, { database, maxKeptFiles })
})

/** What stands under the name of a capsule: nothing, all of it, or something that reading refuses. Never another one. */
export const found = (disk: MemoryDisk, { bytes, id }: EncodedCapsule) =>
  on(disk, (vfs) =>
    Effect.gen(function*() {
      const path = capsulePath(database, id)
      if (disk.readFile(path) === undefined) return "nothing"
      const read = yield* Effect.result(readCapsule(vfs, database, id))
      if (Result.isFailure(read)) return "refused"
      assert.deepStrictEqual(disk.readFile(path), bytes)
      return "whole"
    }))

export const [one, two, three] = [capsuleOf(1n, [1]), capsuleOf(2n, [2, 3]), capsuleOf(3n, [3, 4, 5])] as const
export const ids = (...capsules: ReadonlyArray<EncodedCapsule>) => capsules.map(({ id }) => id)
export const pathOf = ({ id }: EncodedCapsule) => capsulePath(database, id)

/**
 * The platform in memory: exchangeable with `NodeVfs.layer` in one line, and able to crash.
 *
 * **When to use**
 *
 * Use `layer` to test what a program does with files, and `layerDisk` to test what it makes of them after a power loss,
 * a kill, a failed sync or a full disk; see {@link MemoryDisk} for the rules.
 *
 * **Example** (Exchanging the platform)
 *
 * ```ts
 * import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
 * import { Vfs } from "@tidemark/platform/Vfs"
 * import * as Effect from "effect/Effect"
 *
 * export const program = Effect.gen(function*() {
 *   const vfs = yield* Vfs
 *   yield* vfs.makeDirectory("/database")
 *   return yield* vfs.list("/")
 * }).pipe(Effect.provide(MemoryVfs.layer))
 * ```
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { FileLock } from "./FileLock.ts"
import { MemoryDisk } from "./MemoryDisk.ts"
import { ProcessLiveness } from "./ProcessLiveness.ts"
import { Vfs } from "./Vfs.ts"

export { MemoryDisk, type MemoryDiskOptions } from "./MemoryDisk.ts"

/**
 * Mounts a disk: one process with its files, locks and identity. It lives until the layer's scope closes, the process
 * is killed or the disk crashes.
 *
 * **Gotchas**
 *
 * Layers are memoised by reference: to be a second process on the same disk, call this again or use `Layer.fresh`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerDisk = (disk: MemoryDisk): Layer.Layer<Vfs | FileLock | ProcessLiveness> =>
  Layer.effectContext(Effect.map(
    Effect.acquireRelease(Effect.sync(() => disk.mount()), ({ unmount }) => Effect.sync(unmount)),
    ({ process }) =>
      Context.make(Vfs, process.vfs).pipe(
        Context.add(FileLock, process.fileLock),
        Context.add(ProcessLiveness, process.liveness((identity) => disk.isAlive(identity)))
      )
  ))

/**
 * The whole platform over an empty disk of its own.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Vfs | FileLock | ProcessLiveness> = Layer.suspend(() => layerDisk(MemoryDisk.make()))

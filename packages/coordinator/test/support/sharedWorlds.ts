/** Databases whose header other processes map too: on a disk in memory, or in real files. */
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import type { FileLock } from "@tidemark/platform/FileLock"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { makeSharedRegions, SharedMemory } from "@tidemark/platform/SharedMemory"
import type { Vfs } from "@tidemark/platform/Vfs"
import { Context, Effect, Layer, Logger } from "effect"
import { join } from "node:path"
import { makeDisk, memoryPath, openOn, type OpenOptions, pageSize } from "./database.ts"
import { temporaryDirectory } from "./temporaryDirectory.ts"

export interface World {
  readonly database: string
  /** One process each time that it is built. */
  readonly platform: Layer.Layer<Vfs | FileLock | ProcessLiveness>
  readonly memory: Layer.Layer<SharedMemory>
}

const headerLayer = ({ database, memory }: World) =>
  SharedHeader.layer({ database, pageSize }).pipe(Layer.provide(memory))

/** Opens the database as a process that publishes in the header that others map. */
export const openShared = (world: World, options?: OpenOptions) => {
  // The header belongs to the process that the database is opened in: the same platform, built once.
  const header = headerLayer(world).pipe(Layer.provide(world.platform), Layer.orDie)
  return openOn(Layer.merge(world.platform, Logger.layer([])), { ...options, database: world.database, header })
}

/** Another process, which has only the header. */
export const openReader = (world: World) =>
  Effect.map(
    Layer.build(Layer.fresh(headerLayer(world).pipe(Layer.provide(world.platform), Layer.provide(Logger.layer([]))))),
    (context) => Context.get(context, SharedHeader.SharedHeader)
  )

/** A machine in memory. */
export const memoryWorld = () => {
  const disk = makeDisk()
  const world: World = {
    database: memoryPath,
    platform: MemoryVfs.layerDisk(disk),
    memory: SharedMemory.layerMemory({ regions: makeSharedRegions() })
  }
  return { disk, world }
}

/** This machine, in a directory that is gone when the scope closes. */
export const fileWorld = Effect.map(temporaryDirectory, (directory): World => ({
  database: join(directory, "test.db"),
  platform: NodeVfs.layer,
  memory: SharedMemory.layerFile
}))

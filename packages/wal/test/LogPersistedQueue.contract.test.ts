import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Layer } from "effect"
import { PersistedQueue } from "effect/persistence"
import * as LogPersistedQueue from "../src/LogPersistedQueue.ts"
import { persistedQueueContract } from "./PersistedQueueContract.ts"

persistedQueueContract("Effect's memory layer", () => PersistedQueue.layerStoreMemory)

persistedQueueContract("LogPersistedQueue", () =>
  LogPersistedQueue.layerStoreDirectory({ directory: "/queues" }).pipe(
    Layer.provide(MemoryVfs.layerDisk(MemoryDisk.make()))
  ))

// Segments of a few records: every test runs across snapshots and truncations.
persistedQueueContract(
  "LogPersistedQueue with a log that is always too long",
  () =>
    LogPersistedQueue.layerStoreDirectory({
      directory: "/queues",
      segmentBytes: 512,
      snapshotMinBytes: 0,
      snapshotRatio: 0.01
    }).pipe(Layer.provide(MemoryVfs.layerDisk(MemoryDisk.make())))
)

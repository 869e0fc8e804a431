import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Layer } from "effect"
import { KeyValueStore } from "effect/persistence"
import * as LogKeyValueStore from "../src/LogKeyValueStore.ts"
import { keyValueStoreContract } from "./KeyValueStoreContract.ts"

keyValueStoreContract("Effect's memory layer", () => KeyValueStore.layerMemory)

keyValueStoreContract("LogKeyValueStore", () =>
  LogKeyValueStore.layerDirectory({ directory: "/store" }).pipe(
    Layer.provide(MemoryVfs.layerDisk(MemoryDisk.make()))
  ))

// Segments of a few records: every test runs across snapshots and truncations.
keyValueStoreContract(
  "LogKeyValueStore with a log that is always too long",
  () =>
    LogKeyValueStore.layerDirectory({
      directory: "/store",
      segmentBytes: 512,
      snapshotMinBytes: 0,
      snapshotRatio: 0.01
    })
      .pipe(Layer.provide(MemoryVfs.layerDisk(MemoryDisk.make())))
)

import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Effect, Layer } from "effect"
import { pagerContract } from "./PagerContract.ts"
import { makeDisk } from "./support/database.ts"
import { temporaryDirectory } from "./support/temporaryDirectory.ts"

pagerContract("MemoryVfs", Layer.suspend(() => MemoryVfs.layerDisk(makeDisk())), {
  directory: Effect.succeed("/data")
})

pagerContract("NodeVfs", NodeVfs.layer, { directory: temporaryDirectory })

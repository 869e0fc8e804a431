/**
 * Maps the file given as an argument and reads its first word after something was done to the file: `cut` makes it
 * shorter, as no program should, and the read ends this process with SIGBUS; `replace` makes a new one in its place.
 */
import { SharedMemory } from "@tidemark/platform/SharedMemory"
import { Effect } from "effect"
import * as NodeFs from "node:fs"

const [path = "", deed = ""] = process.argv.slice(2)

await Effect.runPromise(
  Effect.scoped(Effect.gen(function*() {
    const memory = yield* SharedMemory
    const options = { bytes: 1, content: Uint8Array.of(7) }
    const region = yield* memory.create(path, options)
    if (deed === "cut") NodeFs.truncateSync(path, 0)
    else yield* memory.create(path, { ...options, content: Uint8Array.of(8) })
    NodeFs.writeSync(1, `${deed} done\n`)
    NodeFs.writeSync(1, `${region.load(0)}\n`)
  })).pipe(Effect.provide(SharedMemory.layerFile))
)

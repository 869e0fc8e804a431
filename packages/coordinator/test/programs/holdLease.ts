/**
 * Takes the coordinator lease of the database given as an argument, says its generation, and waits to be killed.
 */
import * as CoordinatorLease from "@tidemark/coordinator/CoordinatorLease"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Effect, Layer, Logger } from "effect"

const [database = ""] = process.argv.slice(2)

setInterval(() => {}, 1000)
await Effect.runPromise(
  Effect.scoped(Effect.gen(function*() {
    const lease = yield* CoordinatorLease.CoordinatorLease
    const { generation } = yield* lease.acquire
    process.stdout.write(`${generation}\n`)
    return yield* Effect.never
  })).pipe(
    Effect.provide(CoordinatorLease.layerFile({ database }).pipe(Layer.provide(NodeVfs.layer))),
    Effect.provide(Logger.layer([]))
  )
)

/**
 * `bench log`: each writer appends small records to one append log and waits until each of them is durable.
 *
 * @since 0.1.0
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { AppendLog } from "@tidemark/wal/AppendLog"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Bench } from "./runBench.ts"

const recordBytes = 100

/**
 * @category benches
 * @since 0.1.0
 */
export const benchLog: Bench = {
  name: "log",
  run: (directory, _writers, measure) =>
    Effect.gen(function*() {
      const log = yield* AppendLog
      const append = log.append(new Uint8Array(recordBytes).fill(0x61))
      return yield* measure(() => append)
    }).pipe(Effect.provide(
      AppendLog.layer({ directory }).pipe(Layer.provide(NodeVfs.layer))
    ))
}

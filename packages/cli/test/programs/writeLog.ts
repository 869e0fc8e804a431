/**
 * Keeps an append log open and appends to it all the time, until its standard input ends.
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { AppendLog } from "@tidemark/wal/AppendLog"
import { Effect, Layer } from "effect"

const [, , directory = ""] = process.argv
const untilInputEnds = Effect.callback<void>((resume) => {
  process.stdin.on("end", () => resume(Effect.void)).resume()
})

const write = Effect.gen(function*() {
  const { append } = yield* AppendLog
  const record = new Uint8Array(20_000).fill(0x77)
  yield* append(record)
  process.stdout.write("open\n")
  yield* Effect.forever(append(record))
})

await Effect.runPromise(
  Effect.raceFirst(untilInputEnds, Effect.all([write, write, write], { concurrency: "unbounded" })).pipe(
    Effect.provide(AppendLog.layer({ directory }).pipe(Layer.provide(NodeVfs.layer)))
  )
)

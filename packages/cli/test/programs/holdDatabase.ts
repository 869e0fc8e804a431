/**
 * Keeps a database open, as another process of Tidemark does, until its standard input ends.
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import { Effect, Layer } from "effect"

const [, , database = ""] = process.argv
const untilInputEnds = Effect.callback<void>((resume) => {
  process.stdin.on("end", () => resume(Effect.void)).resume()
})

await Effect.runPromise(
  Effect.andThen(Effect.sync(() => process.stdout.write("open\n")), untilInputEnds).pipe(
    Effect.provide(SqliteWal.layer({ database }).pipe(Layer.provide(NodeVfs.layer)))
  )
)

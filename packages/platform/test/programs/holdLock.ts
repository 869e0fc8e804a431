/**
 * Takes a lock on the file given as an argument, says so, and waits to be killed.
 */
import { FileLock } from "@tidemark/platform/FileLock"
import { Effect } from "effect"

const [path = "", mode = "exclusive"] = process.argv.slice(2)

setInterval(() => {}, 1000)
await Effect.runPromise(
  Effect.scoped(Effect.gen(function*() {
    const locks = yield* FileLock
    yield* locks.acquire(path, {
      range: { start: 0, length: 1 },
      mode: mode === "shared" ? "shared" : "exclusive",
      create: true
    })
    console.log("locked")
    return yield* Effect.never
  })).pipe(Effect.provide(FileLock.layer))
)

/** The thread of `programs/headerReadingThread.ts`, from the thread that starts it. */
import { Effect } from "effect"
import { once } from "node:events"
import { join } from "node:path"
import { Worker } from "node:worker_threads"
import type { ReadCounts } from "./headerReads.ts"

/** Reads headers in a thread, from when this is answered until `stop`. */
export const startReadingThread = Effect.fnUntraced(function*(
  buffers: ReadonlyArray<SharedArrayBuffer>,
  /** Leaves the processor to others for so long between two rounds of reads. */
  options?: { readonly pauseMillis: number }
) {
  const worker = yield* Effect.acquireRelease(
    Effect.sync(() =>
      new Worker(join(import.meta.dirname, "..", "programs", "headerReadingThread.ts"), {
        workerData: { buffers, pauseMillis: options?.pauseMillis ?? 0 }
      })
    ),
    (worker) => Effect.promise(() => worker.terminate())
  )
  let hundreds = 0n
  const waiting = new Set<() => void>()
  let counted: ReadonlyArray<ReadCounts> | undefined
  worker.on("message", (message: unknown) => {
    if (typeof message === "bigint") hundreds = message
    // The only array that it posts.
    else if (Array.isArray(message)) counted = message as ReadonlyArray<ReadCounts>
    for (const look of waiting) look()
  })
  const failures = new Set<(cause: unknown) => void>()
  worker.on("error", (cause) => {
    for (const fail of failures) fail(cause)
  })
  const until = <A>(found: () => A | undefined) =>
    Effect.promise(() =>
      new Promise<A>((resolve, reject) => {
        failures.add(reject)
        const look = () => {
          const value = found()
          if (value === undefined) return
          waiting.delete(look)
          failures.delete(reject)
          resolve(value)
        }
        waiting.add(look)
        look()
      })
    )
  yield* Effect.promise(() => once(worker, "message"))
  return {
    /** Waits until a commit of the first header was seen that is as large as so many hundreds. */
    seen: (wanted: bigint) => until(() => hundreds >= wanted ? hundreds : undefined),
    stop: Effect.suspend(() => {
      worker.postMessage("stop")
      return until(() => counted)
    })
  }
})

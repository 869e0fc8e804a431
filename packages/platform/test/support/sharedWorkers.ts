/**
 * Worker threads of the tests of shared memory.
 */
import type { SharedMedium } from "@tidemark/platform/SharedMemory"
import { Effect } from "effect"
import { once } from "node:events"
import * as NodePath from "node:path"
import { Worker } from "node:worker_threads"

/** What `programs/sharedWords.ts` is told. */
export interface SharedTask {
  readonly task: "count" | "wake"
  readonly name: string
  readonly buffer: SharedArrayBuffer
  readonly origin: { readonly medium: SharedMedium; readonly identity: string }
  readonly rounds: number
  /** How many take part: they begin when all are there. */
  readonly parties: number
}

export const programPath = (name: string) => NodePath.join(import.meta.dirname, "..", "programs", name)

/** Runs a program in a thread of its own and answers what it says at its end. */
export const runWorker = (program: string, task: SharedTask): Effect.Effect<string> =>
  Effect.acquireUseRelease(
    Effect.sync(() => new Worker(programPath(program), { workerData: task })),
    // An error of the worker rejects.
    (worker) => Effect.promise(() => once(worker, "message").then(String)),
    (worker) => Effect.promise(() => worker.terminate())
  )

/**
 * Publishes in headers until it is killed, or dies in the middle of a window.
 *
 *     node headerPublisher.ts stopped DIRECTORY COUNT SEED
 *
 * becomes the publisher of COUNT headers and leaves the window of each open after a number of stores, 1 ... 5 of its
 * six, then waits to be killed. The process ends inside of all of these windows, wherever its threads are.
 *
 *     node headerPublisher.ts running DIRECTORY COUNT SEED
 *
 * becomes the publisher of COUNT headers, the first of which its main thread publishes in through its `HeaderPublisher`,
 * one window after the other, as fast as it can, and one thread for each of the others by the same function. Where each
 * of them is when it is killed is for the kernel to say.
 *
 * Either says a line when it can be killed.
 */
import type { SharedRegion } from "@tidemark/platform/SharedMemory"
import * as Effect from "effect/Effect"
import { writeSync } from "node:fs"
import { join } from "node:path"
import { Worker } from "node:worker_threads"
import { writeWindow } from "../../src/internal/headerWindow.ts"
import { databaseAt, machine, openHeader } from "../support/headerFiles.ts"
import { durableAt, stateAt, watched } from "../support/headerStates.ts"

const [mode, directory = "", count = "1", seed = "0"] = process.argv.slice(2)

const say = (line: string) => {
  writeSync(1, `${line}\n`)
}

class Stopped extends Error {}

/** Publishes through a region that refuses the store behind `stores` others. */
const stopAfter = (header: SharedRegion, stores: number, commit: number) => {
  let done = 0
  const stopping = watched(header, {
    onStore: () => {
      if (done++ === stores) throw new Stopped()
    }
  })
  try {
    writeWindow(stopping, stateAt(commit))
  } catch (cause) {
    if (!(cause instanceof Stopped)) throw cause
  }
}

await Effect.runPromise(
  Effect.scoped(Effect.gen(function*() {
    const first = Number(seed) * 1_000_000
    const headers = yield* Effect.forEach(
      Array.from({ length: Number(count) }, (_, index) => databaseAt(directory, index)),
      openHeader
    )
    const publishers = yield* Effect.forEach(headers, (header) => header.becomePublisher(durableAt(first)))
    if (mode === "stopped") {
      for (const [index, { region }] of headers.entries()) {
        for (let commit = first + 1; commit < first + 10; commit++) publishers[index]?.publish(stateAt(commit))
        stopAfter(region(), 1 + (index + Number(seed)) % 5, first + 10)
      }
      say("stopped")
      return yield* Effect.never
    }
    const program = join(import.meta.dirname, "headerPublishingThread.ts")
    for (const { region } of headers.slice(1)) {
      const worker = new Worker(program, { workerData: { buffer: region().buffer, commit: first } })
      yield* Effect.promise(() => new Promise((resolve) => worker.once("message", resolve)))
    }
    let commit = first
    const publish = (windows: number) => {
      for (let i = 0; i < windows; i++) publishers[0]?.publish(stateAt(++commit))
    }
    publish(10_000)
    say("publishing")
    while (true) {
      publish(10_000)
      yield* Effect.yieldNow
    }
  })).pipe(Effect.provide(machine), (program) => {
    // Nobody closes this process: it lives until it is killed.
    setInterval(() => {}, 60_000)
    return program
  })
)

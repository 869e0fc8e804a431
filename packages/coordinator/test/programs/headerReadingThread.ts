/**
 * A worker thread that reads headers until it is told to stop. It is given their memory, says when it begins, passes on
 * when it has seen each further hundredth commit of the first one, and answers `"stop"` with what it has counted.
 */
import { regionOf } from "@tidemark/platform/SharedMemory"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { parentPort, workerData } from "node:worker_threads"
import { makeCounter } from "../support/headerReads.ts"

// Written by `readingThread` in the support module beside it.
const { buffers, pauseMillis } = workerData as {
  readonly buffers: ReadonlyArray<SharedArrayBuffer>
  readonly pauseMillis: number
}
const readsPerRound = pauseMillis === 0 ? 2000 : 20
const clock = await Effect.runPromise(Clock.Clock)
const counters = buffers.map((buffer, index) => makeCounter(regionOf(`header ${index}`, buffer), clock))

const post = (message: unknown) => {
  parentPort?.postMessage(message)
}

let isStopped = false
parentPort?.once("message", () => {
  isStopped = true
})
post("reading")
let hundreds = 0n
const turn = () => {
  for (const [index, counter] of counters.entries()) {
    const commit = counter.read(readsPerRound)
    if (index === 0 && commit / 100n > hundreds) {
      hundreds = commit / 100n
      post(hundreds)
    }
  }
  if (isStopped) post(counters.map((counter) => counter.counts()))
  else if (pauseMillis === 0) setImmediate(turn)
  else setTimeout(turn, pauseMillis)
}
turn()

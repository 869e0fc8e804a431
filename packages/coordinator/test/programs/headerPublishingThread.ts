/**
 * A thread of a publisher that publishes in one header as fast as it can, by the function that the publisher uses. It is
 * given the header's memory and a commit to begin behind, says when it has begun, and ends with its process.
 */
import { regionOf } from "@tidemark/platform/SharedMemory"
import { parentPort, workerData } from "node:worker_threads"
import { writeWindow } from "../../src/internal/headerWindow.ts"
import { stateAt } from "../support/headerStates.ts"

// Written by `headerPublisher.ts`.
const { buffer, commit: first } = workerData as { readonly buffer: SharedArrayBuffer; readonly commit: number }
const region = regionOf("header", buffer)

let commit = first
const publish = (windows: number) => {
  for (let i = 0; i < windows; i++) writeWindow(region, stateAt(++commit))
}
publish(10_000)
parentPort?.postMessage("publishing")
while (true) publish(10_000)

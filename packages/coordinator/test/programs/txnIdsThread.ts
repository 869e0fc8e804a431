/** A thread that takes transaction ids from a header's memory, as many as it is told, when it is told, and posts them. */
import { regionOf } from "@tidemark/platform/SharedMemory"
import { parentPort, workerData } from "node:worker_threads"
import { allocateTxnId } from "../../src/internal/txnIds.ts"

// Written by the test.
const { buffer, count } = workerData as { readonly buffer: SharedArrayBuffer; readonly count: number }
const region = regionOf("header", buffer)
parentPort?.once("message", () => {
  const ids = Array.from({ length: count }, () => allocateTxnId(region))
  parentPort?.postMessage(ids)
})
parentPort?.postMessage("ready")

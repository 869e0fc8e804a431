/**
 * The thread of `writeThread.ts`: carries out what it is told, one after the other.
 *
 * Invariant: behind an order that failed nothing is written any more. What comes next was to lie behind bytes that may
 * not be there.
 */
import * as NodeFs from "node:fs"
import { parentPort } from "node:worker_threads"
import { notBegun, writeFullySync } from "./transfer.ts"
import type { Answer, Order } from "./writeThread.ts"

let hasFailed = false

const carryOut = ({ bytes, descriptor, position }: Order): Answer => {
  if (hasFailed) return notBegun
  try {
    writeFullySync((buffers, at) => NodeFs.writevSync(descriptor, buffers, at), [bytes], position)
    return null
  } catch (cause) {
    hasFailed = true
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "EIO"
    return { code, message: String(cause) }
  }
}

parentPort?.on("message", (order: Order) => parentPort?.postMessage(carryOut(order)))
// Ready.
parentPort?.postMessage(null)

/**
 * The thread of `writeThread.ts`: carries out orders, one after the other, and waits for the next one.
 *
 * Invariant: behind an order that failed nothing is written any more. What comes next was to lie behind bytes that may
 * not be there.
 */
import { invariant } from "@tidemark/core/Invariant"
import * as NodeFs from "node:fs"
import { constants } from "node:os"
import { parentPort, receiveMessageOnPort, workerData } from "node:worker_threads"
import { writeFullySync } from "./transfer.ts"
import { type Introduction, type Order, type Outcome, WriteOrders } from "./writeOrders.ts"

const orders = new WriteOrders(workerData as SharedArrayBuffer)
const memories: Array<Uint8Array> = []
let introductions = 0
let hasFailed = false

/** Reads the messages that came before an order. */
const meet = (count: number) => {
  while (introductions < count) {
    invariant(parentPort !== null, "this is a thread")
    const received: { readonly message: Introduction } | undefined = receiveMessageOnPort(parentPort)
    invariant(received !== undefined, "memory is introduced before an order speaks of it")
    memories[received.message.memory] = new Uint8Array(received.message.buffer)
    introductions++
  }
}

const carryOut = (order: Order): Outcome => {
  if (hasFailed) return { kind: "notBegun" }
  meet(order.introductions)
  const bytes = memories[order.memory]?.subarray(order.offset, order.offset + order.length)
  invariant(bytes?.length === order.length, "an order speaks of memory that was introduced")
  try {
    writeFullySync((buffers, at) => NodeFs.writevSync(order.descriptor, buffers, at), [bytes], order.position)
    return { kind: "written" }
  } catch (cause) {
    hasFailed = true
    return { kind: "failed", errno: errnoOf(cause) }
  }
}

/** Negative, whatever it was: nothing else is a failure on the other side. */
const errnoOf = (cause: unknown): number =>
  cause instanceof Error && "errno" in cause && typeof cause.errno === "number" && cause.errno < 0
    ? cause.errno
    : -constants.errno.EIO

orders.ready()
for (;;) orders.finish(carryOut(orders.awaitOrder()))

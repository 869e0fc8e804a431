/**
 * In place of the thread that writes: carries out one order, takes a second one and dies, with an error or without.
 * What is written to the descriptor says nothing about it.
 */
import { workerData } from "node:worker_threads"
import { WriteOrders } from "../../src/internal/writeOrders.ts"

const orders = new WriteOrders(workerData as SharedArrayBuffer)
orders.ready()
orders.awaitOrder()
orders.finish({ kind: "written" })
if (orders.awaitOrder().position === 1) throw Object.assign(new Error("it died"), { code: "EDIED" })
process.exit(3)

/**
 * In place of the thread that writes: answers each order with the error number that stands in its position.
 */
import { workerData } from "node:worker_threads"
import { WriteOrders } from "../../src/internal/writeOrders.ts"

const orders = new WriteOrders(workerData as SharedArrayBuffer)
orders.ready()
for (;;) orders.finish({ kind: "failed", errno: -orders.awaitOrder().position })

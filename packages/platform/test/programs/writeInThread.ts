/**
 * Gives the thread that writes an order, leaves it to it, and has nothing else to do; or has an idle thread only.
 */
import * as TailMemory from "@tidemark/platform/TailMemory"
import * as NodeFs from "node:fs"
import { WriteThread } from "../../src/internal/writeThread.ts"

const [path = "", orders = "0"] = process.argv.slice(2)
const descriptor = NodeFs.openSync(path, NodeFs.constants.O_RDWR | NodeFs.constants.O_DSYNC)
const thread = new WriteThread()
const bytes = TailMemory.make(1 << 20).fill(7)

const give = (order: number) => {
  if (order === Number(orders)) return
  thread.write(descriptor, bytes, order * bytes.length, (cause) => {
    console.log(cause === null ? "written" : cause)
    give(order + 1)
  })
}
// It does not keep the process until it is ready.
const waiting = setInterval(() => {
  if (!thread.takesOrders) return
  clearInterval(waiting)
  give(0)
}, 5)

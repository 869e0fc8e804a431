/**
 * The floor: what this disk takes for one small durable write, beside which every other figure is to be read.
 *
 * One writer overwrites 4 KiB in a file whose blocks are there and written, and calls `fdatasync`, on the calling thread.
 * However many writers a table is about, the floor has one.
 */
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import type { Contestant } from "./rounds.ts"

const fileBytes = 4 * 1024 * 1024
const writeBytes = 4096

export const floor: Contestant = {
  name: "floor",
  open: ({ directory }) => {
    const path = NodePath.join(directory, "floor")
    NodeFs.writeFileSync(path, new Uint8Array(fileBytes), { flush: true })
    const descriptor = NodeFs.openSync(path, "r+")
    const bytes = new Uint8Array(writeBytes)
    let writes = 0
    return {
      run: (loop) => {
        while (loop.goesOn()) {
          bytes.fill(++writes)
          NodeFs.writeSync(descriptor, bytes, 0, writeBytes, (writes * writeBytes) % fileBytes)
          NodeFs.fdatasyncSync(descriptor)
          loop.ended(0)
        }
      },
      close: () => NodeFs.closeSync(descriptor)
    }
  }
}

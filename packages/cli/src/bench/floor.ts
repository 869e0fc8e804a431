/**
 * The floor: what this disk takes for one small durable write, beside which every other figure is to be read.
 *
 * One writer overwrites 4 KiB in a file whose blocks are there and written, and calls `fdatasync`, on the calling thread.
 * However many writers a row is about, the floor has one.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as NodeFs from "node:fs"
import { OperationFailed } from "../ExitCode.ts"
import { reasonOf } from "../Report.ts"
import { type Latencies, runClosedLoop } from "./ClosedLoop.ts"

const fileBytes = 4 * 1024 * 1024
const writeBytes = 4096

/** So many writes are done between two looks at interruptions. */
const writesPerStep = 16

/**
 * Makes the file in a directory and answers how to measure the floor for so many seconds.
 *
 * @category running
 * @since 0.1.0
 */
export const openFloor = Effect.fnUntraced(function*(
  directory: string
): Effect.fn.Return<
  (latencies: Latencies, seconds: number) => Effect.Effect<void, OperationFailed>,
  OperationFailed,
  Scope.Scope
> {
  const path = `${directory}/floor`
  const call = <A>(what: string, work: () => A) =>
    Effect.try({
      try: work,
      catch: (cause) => new OperationFailed({ path, sentence: `cannot ${what} ${path}: ${reasonOf(cause)}` })
    })
  yield* call("write", () => NodeFs.writeFileSync(path, new Uint8Array(fileBytes), { flush: true }))
  const descriptor = yield* Effect.acquireRelease(
    call("open", () => NodeFs.openSync(path, "r+")),
    (opened) => Effect.ignore(call("close", () => NodeFs.closeSync(opened)))
  )
  const bytes = new Uint8Array(writeBytes)
  let writes = 0
  const writeAndSync = call("write", () => {
    bytes.fill(++writes)
    NodeFs.writeSync(descriptor, bytes, 0, writeBytes, (writes * writeBytes) % fileBytes)
    NodeFs.fdatasyncSync(descriptor)
  })
  const step = Effect.suspend(() =>
    writes % writesPerStep === 0 ? Effect.andThen(Effect.yieldNow, writeAndSync) : writeAndSync
  )
  return (latencies, seconds) => runClosedLoop(latencies, { writers: 1, seconds }, () => step)
})

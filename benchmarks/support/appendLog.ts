/** Tidemark's append log over files, as an application composes it, with default options; its writers are fibers. */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as AppendLog from "@tidemark/wal/AppendLog"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as References from "effect/References"
import * as Stream from "effect/Stream"
import { makeRecords, RecordCheck, type WriterRecord } from "./records.ts"
import type { Contestant } from "./rounds.ts"
import { writeInFibers } from "./writers.ts"

/** The log with everything that it stands on. Standard output belongs to the results. */
export const openLog = (options: AppendLog.AppendLogOptions) =>
  ManagedRuntime.make(
    AppendLog.AppendLog.layer(options).pipe(
      Layer.provideMerge(NodeVfs.layer),
      Layer.provideMerge(Layer.succeed(References.MinimumLogLevel, "Warn"))
    )
  )

/** Lets a log be opened and read by somebody who has nothing but its files. */
const checkLog = async (directory: string, records: ReadonlyArray<WriterRecord>) => {
  const check = new RecordCheck(records)
  const runtime = openLog({ directory })
  await runtime.runPromise(
    AppendLog.AppendLog.use((log) =>
      Stream.runForEachArray(log.stream(), (found) =>
        Effect.sync(() => {
          for (const { payload } of found) check.see(payload)
        }))
    )
  )
  await runtime.dispose()
  check.end(records)
}

export const tidemarkLog: Contestant = {
  name: "Tidemark, AppendLog",
  open: async ({ directory, writers }) => {
    const records = makeRecords(writers)
    const runtime = openLog({ directory })
    const log = await runtime.runPromise(AppendLog.AppendLog)
    return {
      run: (loop) => runtime.runPromise(writeInFibers(loop, records, ({ bytes }) => log.append(bytes))),
      close: async () => {
        await runtime.dispose()
        await checkLog(directory, records)
      }
    }
  }
}

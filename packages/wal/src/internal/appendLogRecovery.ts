/**
 * From a directory to a log that can be gone on with: look, refuse or repair, make durable.
 *
 * Invariants
 * 1. Nothing of the log changes before every refusal has had its turn.
 * 2. What was found is made durable before anything is built on it: contents, sizes and names. A process that was killed
 *    has left them to the page cache, and the next power loss would take them from under what was acknowledged since.
 *    What is not known to be durable is written back for that: after a failed sync a further sync alone writes nothing.
 * 3. Behind the end there are zeros, durably: what a crash has left there could otherwise look like the continuation of
 *    what is written next (LOG-06).
 */
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import type { LogCorrupt } from "../AppendLogErrors.ts"
import { offsetOf } from "../AppendLogFormat.ts"
import { scanDirectory, type ScanReport, type SegmentScan, type TornTail } from "../AppendLogScan.ts"
import { directoryOf } from "../AtomicFile.ts"
import { rewrite } from "./rewrite.ts"
import { zeros } from "./zeroFill.ts"

/**
 * Makes the directory and those above it, durably. One that was there already may owe its name to a process that was
 * killed before it could sync: so the directory that holds it is synced in any case.
 *
 * @internal
 */
export const ensureDirectory = (vfs: Vfs["Service"], directory: string): Effect.Effect<void, VfsError> =>
  Effect.gen(function*() {
    const parent = directoryOf(directory)
    if ((yield* vfs.identify(directory)) === undefined) {
      if (parent !== directory) yield* ensureDirectory(vfs, parent)
      yield* vfs.makeDirectory(directory)
    }
    yield* vfs.syncDirectory(parent)
  })

/** @internal */
export const recoverLog = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  directory: string,
  beforeChanges: Effect.Effect<void, VfsError>
): Effect.fn.Return<ScanReport, LogCorrupt | VfsError> {
  const report = yield* scanDirectory(vfs, directory)
  yield* beforeChanges
  for (const name of report.temporaries) yield* vfs.remove(`${directory}/${name}`)
  const last = report.segments.at(-1)
  if (last !== undefined) yield* settleEnd(vfs, last, report.tornTail)
  yield* vfs.syncDirectory(directory)
  return report
})

/** Writes back what may not be on the disk, and zeros over what does not count. */
const settleEnd = (
  vfs: Vfs["Service"],
  { durableLsn, endLsn, path, startLsn }: SegmentScan,
  tornTail: TornTail | undefined
): Effect.Effect<void, VfsError> =>
  Effect.scoped(Effect.gen(function*() {
    const file = yield* vfs.open(path, { access: "readWrite" })
    yield* rewrite(file, offsetOf(durableLsn, startLsn), offsetOf(endLsn, startLsn))
    if (tornTail !== undefined) {
      yield* file.write(zeros(tornTail.bytes), tornTail.offset)
    }
    yield* file.syncFull
  }))

/**
 * `recover` for a database with a parallel log: opens it, which is recovery, and checkpoints it.
 *
 * @since 0.1.0
 */
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { certificatesPath } from "@tidemark/wal/CertificateFormat"
import type { ParallelExamination } from "@tidemark/wal/ParallelStartUp"
import * as ParallelWal from "@tidemark/wal/ParallelWal"
import { listSegments } from "@tidemark/wal/SegmentStore"
import * as Effect from "effect/Effect"
import { WrongUsage } from "../ExitCode.ts"
import type { Report } from "../Report.ts"
import { droppedBytesOf, sizesOf } from "../startUp/droppedBytes.ts"
import { pagesAppliedOf, recoveryReport } from "../startUp/startUpReports.ts"
import { counted } from "../Style.ts"

/**
 * What may be given up, or believed.
 *
 * @category models
 * @since 0.1.0
 */
export interface RecoverFlags {
  readonly acceptLoss: boolean
  readonly trustSegments: boolean
  readonly discardSegments: boolean
}

/**
 * Recovers a database as one with a parallel log.
 *
 * @category recovery
 * @since 0.1.0
 */
export const recoverParallel = Effect.fnUntraced(function*(database: string, flags: RecoverFlags) {
  const { acceptLoss, discardSegments, trustSegments } = flags
  if (trustSegments || discardSegments) yield* requireNoCertificates(database, flags)
  // Before it is opened: some of them go away with that.
  const segmentBytes = yield* sizesOfSegments(database)
  return yield* Effect.gen(function*() {
    const { checkpoint, startUp } = yield* ParallelWal.ParallelWal
    yield* checkpoint("truncate")
    return reportOf(startUp, segmentBytes)
  }).pipe(
    Effect.provide(
      ParallelWal.layer({
        database,
        stopAtCorrupt: acceptLoss,
        trustSegments,
        discardSegments,
        autoCheckpointFrames: 0
      })
    )
  )
})

/** Where there are certificates they say what counts, and nothing is left to be believed. */
const requireNoCertificates = Effect.fnUntraced(function*(
  database: string,
  { trustSegments }: RecoverFlags
): Effect.fn.Return<void, VfsError | WrongUsage, Vfs> {
  const certificates = certificatesPath(database)
  if ((yield* (yield* Vfs).identify(certificates)) === undefined) return
  return yield* new WrongUsage({
    sentence: `${
      trustSegments ? "--trust-segments" : "--discard-segments"
    } is for databases whose certificate log is missing, and ${certificates} is there`
  })
})

const sizesOfSegments = Effect.fnUntraced(function*(
  database: string
): Effect.fn.Return<ReadonlyMap<string, number>, VfsError, Vfs> {
  const vfs = yield* Vfs
  const segments = yield* listSegments(vfs, database)
  return yield* sizesOf(vfs, segments.map(({ path }) => path))
})

const reportOf = (startUp: ParallelExamination, sizes: ReadonlyMap<string, number>): Report => {
  const { live, lost, tornTailBytes } = startUp
  const uncertified = startUp.uncertified.map(({ path }) => path)
  const commits = live.reduce((sum, { high, low }) => sum + high - low + 1n, 0n)
  return recoveryReport("parallel", startUp, {
    commits: Number(commits),
    pagesApplied: pagesAppliedOf(startUp),
    droppedBytes: droppedBytesOf(sizes, [...uncertified, ...lost]) + tornTailBytes,
    json: { unacknowledgedSegments: uncertified, lostSegments: lost },
    lines: [
      ...(uncertified.length === 0 ? [] : [["never acknowledged", counted(uncertified.length, "segment")] as const]),
      ...(lost.length === 0 ? [] : [["lost", counted(lost.length, "segment")] as const])
    ]
  })
}

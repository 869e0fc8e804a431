/**
 * `verify` for a database with a parallel log: which start-up cases apply, and what a start would drop or refuse. Reads
 * only, takes no lock, makes no file; `lookBesideWriter.ts` says what it is beside a process that writes the database.
 *
 * @since 0.1.0
 */
import type { FileLock } from "@tidemark/platform/FileLock"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { examineParallel, type ParallelExamination } from "@tidemark/wal/ParallelStartUp"
import * as Effect from "effect/Effect"
import type { Report } from "../Report.ts"
import { type Look, lookBesideWriter } from "../startUp/lookBesideWriter.ts"
import { verificationReport } from "../startUp/startUpReports.ts"
import { byteSize, counted } from "../Style.ts"

/** What an examination says of work in progress where there is none. */
const noWork = { uncertified: [], lost: [], tornTailBytes: 0 }

/**
 * Verifies a database as one with a parallel log.
 *
 * @category verification
 * @since 0.1.0
 */
export const verifyParallel = Effect.fnUntraced(function*(
  path: string
): Effect.fn.Return<Report, VfsError, Vfs | FileLock> {
  return reportOf(yield* lookBesideWriter(path, examineParallel(yield* Vfs, path), noWork))
})

const reportOf = ({ found, isBeingWritten }: Look<ParallelExamination>): Report => {
  const { live, lost, mark, removable, tornTailBytes, uncertified } = found
  const records = live.reduce((sum, { pages }) => sum + pages.length, 0)
  const commits = live.reduce((sum, { high, low }) => sum + high - low + 1n, 0n)
  return verificationReport("parallel", found, {
    json: {
      segments: live.length,
      records,
      commits: Number(commits),
      isBeingWritten,
      checkpointedThrough: mark?.through ?? null,
      unacknowledgedSegments: uncertified.map(({ path }) => path),
      checkpointedSegments: removable,
      lostSegments: lost
    },
    lines: [
      ["log", `${counted(live.length, "segment")}, ${counted(records, "record")}, ${counted(commits, "commit")}`],
      [
        "to be dropped",
        `${byteSize(tornTailBytes)} of certificates${
          uncertified.length === 0 ? "" : `, ${counted(uncertified.length, "segment")}`
        }`
      ],
      ...(lost.length === 0 ? [] : [["not replayed", counted(lost.length, "segment")] as const]),
      ...(isBeingWritten ? [["open", "in a process that is writing it"] as const] : [])
    ]
  })
}

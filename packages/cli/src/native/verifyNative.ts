/**
 * `verify` for a database with a native log: which start-up cases apply, and what a start would drop or refuse. Reads
 * only, takes no lock, makes no file; `lookBesideWriter.ts` says what it is beside a process that writes the database.
 *
 * A start does not look at markers whose commits are in the database file: they are its history. Here the chain of those
 * is followed, too, and where it breaks is a problem, although no start is refused for it.
 *
 * @since 0.1.0
 */
import type { FileLock } from "@tidemark/platform/FileLock"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { slotsOf } from "@tidemark/wal/MarkerFormat"
import { type MarkerScan, scanMarkers } from "@tidemark/wal/MarkerStore"
import { examineNative, type NativeExamination } from "@tidemark/wal/NativeStartUp"
import type { StartUpProblem } from "@tidemark/wal/StartUp"
import * as Effect from "effect/Effect"
import type { Report } from "../Report.ts"
import { type Look, lookBesideWriter } from "../startUp/lookBesideWriter.ts"
import { verificationReport } from "../startUp/startUpReports.ts"
import { byteSize, counted } from "../Style.ts"
import { damageJson } from "./markerDamage.ts"

/** What an examination says of work in progress where there is none. */
const noWork = { orphans: [], tornTailBytes: 0 }

/**
 * Verifies a database as one with a native log.
 *
 * @category verification
 * @since 0.1.0
 */
export const verifyNative = Effect.fnUntraced(function*(
  path: string
): Effect.fn.Return<Report, VfsError, Vfs | FileLock> {
  return reportOf(yield* lookBesideWriter(path, examineWithHistory(yield* Vfs, path), noWork))
})

const examineWithHistory = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  path: string
): Effect.fn.Return<NativeExamination, VfsError> {
  const found = yield* examineNative(vfs, path)
  const isHistoryVerified = found.markers === undefined || found.markers.verifiedFrom === 0n
  const problem = isHistoryVerified ? undefined : problemOfHistory(yield* scanMarkers(vfs, path), found)
  const isKnown = found.problems.some(({ offset, path }) => path === problem?.path && offset === problem.offset)
  return problem === undefined || isKnown ? found : { ...found, problems: [...found.problems, problem] }
})

/** Damage to a marker whose commit is in the database file. What is above the mark was judged by the examination. */
const problemOfHistory = (
  { damage, segments }: MarkerScan,
  { mark }: NativeExamination
): StartUpProblem | undefined => {
  if (damage === undefined || mark === undefined) return undefined
  const { issue, offset, path } = damage
  const start = segments.find((segment) => segment.path === path)?.start ?? 0n
  if (start + BigInt(slotsOf(offset).completeRecords) > mark.through) return undefined
  return { path, offset, severity: "corrupt", what: `${issue.message}; the commit is in the database file` }
}

const reportOf = ({ found, isBeingWritten }: Look<NativeExamination>): Report => {
  const { damage, isReadOnly, live, mark, markers, orphans, removable, tornTailBytes } = found
  const records = live.reduce((sum, { pages }) => sum + pages.length, 0)
  const kept = markers?.segments.reduce((sum, segment) => sum + segment.records, 0) ?? 0
  return verificationReport("native", found, {
    json: {
      markers: kept,
      capsules: live.length,
      records,
      commits: live.length,
      isBeingWritten,
      isReadOnly,
      checkpointedThrough: mark?.through ?? null,
      unacknowledgedCapsules: orphans.map(({ path }) => path),
      checkpointedCapsules: removable,
      damage: damage === undefined ? null : damageJson(damage)
    },
    lines: [
      ["log", `${counted(live.length, "capsule")}, ${counted(records, "record")}, ${counted(live.length, "commit")}`],
      ["history", `${counted(kept, "marker")} in ${counted(markers?.segments.length ?? 0, "segment")}`],
      [
        "to be dropped",
        `${byteSize(tornTailBytes)} of markers${orphans.length === 0 ? "" : `, ${counted(orphans.length, "capsule")}`}`
      ],
      ...(isReadOnly ? [["opens", "for reading only, until the loss is accepted"] as const] : []),
      ...(isBeingWritten ? [["open", "in a process that is writing it"] as const] : [])
    ]
  })
}

/**
 * `verify` for a database with a parallel log: which start-up cases apply, and what a start would drop or refuse. Reads
 * only, takes no lock, makes no file.
 *
 * Beside a process that writes the database, files come and go between one read and the next. What that can make look
 * wrong is told from what is wrong by two questions:
 *
 * 1. Does somebody have the database open (the kernel knows)? Then a segment that has no certificate yet, and the end of
 *    the certificates, are his work in progress, however long a sync takes him.
 * 2. Is the checkpoint mark the one that the look began with? A segment goes, and certificates are replaced, only after
 *    the mark has moved on; so under the same mark what is missing is missing. Otherwise it is looked again.
 *
 * @since 0.1.0
 */
import { FileLock } from "@tidemark/platform/FileLock"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { readCheckpointMark } from "@tidemark/wal/CheckpointMarkFormat"
import { isDatabaseOpen } from "@tidemark/wal/DatabaseLock"
import { examineParallel, type ParallelExamination } from "@tidemark/wal/ParallelStartUp"
import type { StartUpCase } from "@tidemark/wal/StartUp"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { ExitCode } from "../ExitCode.ts"
import type { Report } from "../Report.ts"
import { byteSize, count, counted, pairs } from "../Style.ts"
import { meaningOf, problemLines, tipMeaning } from "./startUpMeaning.ts"

/** Checkpoints may come faster than looks: after so many of those nothing has been found that stays. */
const maxLooks = 32
const betweenLooks = "25 millis"

/** What was seen, without what only looked wrong. */
interface Look {
  readonly found: ParallelExamination
  readonly isBeingWritten: boolean
}

/** A segment that was listed can be gone when it is opened. */
const examine = (vfs: Vfs["Service"], path: string): Effect.Effect<ParallelExamination, VfsError> =>
  Effect.retry(examineParallel(vfs, path), { times: maxLooks, while: ({ code }) => code === "ENOENT" })

const look = Effect.fnUntraced(function*(path: string): Effect.fn.Return<Look, VfsError, Vfs | FileLock> {
  const vfs = yield* Vfs
  const fileLock = yield* FileLock
  // Where there are no kernel locks nobody can have a database open.
  const isOpen = Effect.catchTag(isDatabaseOpen(fileLock, path), "FileLockUnavailable", () => Effect.succeed(false))
  for (let looks = 1;; looks++) {
    const wasOpen = yield* isOpen
    const found = yield* examine(vfs, path)
    // Who has closed it meanwhile has worked in it.
    const isBeingWritten = wasOpen || (yield* isOpen)
    if (!isBeingWritten) return { found, isBeingWritten }
    const lasting = withoutWorkInProgress(found)
    const isWrong = lasting.refusal !== undefined || lasting.problems.length > 0
    if (!isWrong || (yield* isMarkOf(vfs, found))) return { found: lasting, isBeingWritten }
    if (looks === maxLooks) return { found: { ...lasting, refusal: undefined, problems: [] }, isBeingWritten }
    yield* Effect.sleep(betweenLooks)
  }
})

/** Whether the mark is still the one under which everything was looked at. */
const isMarkOf = (vfs: Vfs["Service"], { mark, path }: ParallelExamination): Effect.Effect<boolean, VfsError> =>
  Effect.map(readCheckpointMark(vfs, path), (read) => {
    const now = read === undefined || Result.isFailure(read) ? undefined : read.success
    return now?.through === mark?.through && now?.segmentEpoch === mark?.segmentEpoch &&
      now?.certificateEpoch === mark?.certificateEpoch
  })

/** Rows that apply for a moment beside a writer: between a segment and its certificate, a mark and a removal. */
const passingRows: ReadonlySet<StartUpCase> = new Set(["RC-07", "RC-08", "RC-09", "RC-10", "RC-21", "RC-22"])

/** Without the ends that the writer has not finished yet. */
const withoutWorkInProgress = (found: ParallelExamination): ParallelExamination => {
  const problems = found.problems.filter(({ severity }) => severity !== "tail")
  if (found.refusal !== undefined || problems.length > 0) return { ...found, problems }
  const lasting = found.cases.filter((row) => !passingRows.has(row))
  const cases: ReadonlyArray<StartUpCase> = lasting.length > 0 ? lasting : ["RC-06"]
  return { ...found, case: cases[0] ?? "RC-06", cases, problems, uncertified: [], lost: [], tornTailBytes: 0 }
}

/**
 * Verifies a database as one with a parallel log.
 *
 * @category verification
 * @since 0.1.0
 */
export const verifyParallel = Effect.fnUntraced(function*(
  path: string
): Effect.fn.Return<Report, VfsError, Vfs | FileLock> {
  return reportOf(yield* look(path))
})

const reportOf = ({ found, isBeingWritten }: Look): Report => {
  const { case: decisive, cases, databasePages, live, lost, pageSize, path, refusal, removable, tip, tipSource } = found
  const { problems, tornTailBytes, uncertified } = found
  const ok = refusal === undefined && problems.length === 0
  const records = live.reduce((sum, { pages }) => sum + pages.length, 0)
  const commits = live.reduce((sum, { high, low }) => sum + high - low + 1n, 0n)
  return {
    exitCode: ok ? ExitCode.fine : ExitCode.problem,
    json: {
      path,
      log: "parallel",
      case: decisive,
      cases,
      ok,
      tip,
      tipSource,
      refusal: refusal === undefined ? null : { tag: refusal._tag, message: refusal.message },
      pageSize: pageSize ?? null,
      databasePages,
      segments: live.length,
      records,
      commits: Number(commits),
      isBeingWritten,
      checkpointedThrough: found.mark?.through ?? null,
      unacknowledgedSegments: uncertified.map(({ path }) => path),
      checkpointedSegments: removable,
      lostSegments: lost,
      problems,
      tornTailBytes
    },
    text: (style) =>
      [
        `${style.strong(path)}: ${
          ok ? style.good("ok") : refusal === undefined ? style.bad("has problems") : style.bad("would be refused")
        }\n\n`,
        pairs([
          ...cases.map((row, index) => [index === 0 ? "case" : "", `${row}  ${meaningOf[row]}`] as const),
          ["tip", `${count(tip)} (${tipMeaning[tipSource]})`],
          ["database", counted(databasePages, "page")],
          ["log", `${counted(live.length, "segment")}, ${counted(records, "record")}, ${counted(commits, "commit")}`],
          [
            "to be dropped",
            `${byteSize(tornTailBytes)} of certificates${
              uncertified.length === 0 ? "" : `, ${counted(uncertified.length, "segment")}`
            }`
          ],
          ...(lost.length === 0 ? [] : [["not replayed", counted(lost.length, "segment")] as const]),
          ...(isBeingWritten ? [["open", "in a process that is writing it"] as const] : [])
        ], style),
        problemLines(problems, style),
        refusal === undefined ? "" : `\nRefused because\n  ${refusal.message}\n`
      ].join("")
  }
}

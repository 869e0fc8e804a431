/**
 * `verify` for a database with a parallel log: which start-up cases apply, and what a start would drop or refuse. Reads
 * only, takes no lock, makes no file.
 *
 * Beside a process that writes the database, files come and go between one read and the next: a segment has no
 * certificate yet, or a checkpoint has removed it already. So what looks wrong is looked at again, until it stays.
 *
 * @since 0.1.0
 */
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { examineParallel, type ParallelExamination } from "@tidemark/wal/ParallelStartUp"
import type { StartUpCase, StartUpProblem } from "@tidemark/wal/StartUp"
import * as Effect from "effect/Effect"
import { ExitCode } from "../ExitCode.ts"
import type { Report } from "../Report.ts"
import { byteSize, count, counted, pairs } from "../Style.ts"
import { meaningOf, problemLines, tipMeaning } from "./startUpMeaning.ts"

const maxLooks = 4
const betweenLooks = "100 millis"

/** What was seen, without what only looked wrong. */
interface Look {
  readonly found: ParallelExamination
  /** Something was wrong each time, and each time something else. */
  readonly isBeingWritten: boolean
}

const placeOf = ({ offset, path, severity }: StartUpProblem) => `${path} ${offset} ${severity}`

/** What is wrong and where, as a text that can be compared: how far the log goes is not in it. */
const wrongIn = ({ problems, refusal }: ParallelExamination): string =>
  [...refusal === undefined ? [] : [`${refusal._tag} ${refusal.path}`], ...problems.map(placeOf)].join("\n")

/** A segment that was listed can be gone when it is opened. */
const examine = (vfs: Vfs["Service"], path: string): Effect.Effect<ParallelExamination, VfsError> =>
  Effect.retry(examineParallel(vfs, path), { times: maxLooks, while: ({ code }) => code === "ENOENT" })

const look = Effect.fnUntraced(function*(path: string): Effect.fn.Return<Look, VfsError, Vfs> {
  const vfs = yield* Vfs
  let found = yield* examine(vfs, path)
  let before = found
  for (let looks = 1; looks < maxLooks && wrongIn(found) !== ""; looks++) {
    yield* Effect.sleep(betweenLooks)
    before = found
    found = yield* examine(vfs, path)
    if (wrongIn(before) === wrongIn(found)) break
  }
  return wrongIn(before) === wrongIn(found) || wrongIn(found) === ""
    ? { found, isBeingWritten: false }
    : { found: withoutPassing(found, before), isBeingWritten: true }
})

/** Rows that apply for a moment beside a writer: between a segment and its certificate, a mark and a removal. */
const passingRows: ReadonlySet<StartUpCase> = new Set(["RC-07", "RC-08", "RC-09", "RC-10", "RC-22"])

/** Only what was wrong a moment ago, too, stays wrong. */
const withoutPassing = (found: ParallelExamination, before: ParallelExamination): ParallelExamination => {
  const earlier = new Set(before.problems.map(placeOf))
  const problems = found.problems.filter((problem) => earlier.has(placeOf(problem)))
  const isRefused = found.refusal?._tag === before.refusal?._tag && found.refusal?.path === before.refusal?.path
  if (isRefused || problems.length > 0) return { ...found, problems }
  const lasting = found.cases.filter((row) => !passingRows.has(row))
  const cases: ReadonlyArray<StartUpCase> = lasting.length > 0 ? lasting : ["RC-06"]
  return {
    ...found,
    case: cases[0] ?? "RC-06",
    cases,
    refusal: undefined,
    problems,
    uncertified: [],
    lost: [],
    tornTailBytes: 0
  }
}

/**
 * Verifies a database as one with a parallel log.
 *
 * @category verification
 * @since 0.1.0
 */
export const verifyParallel = Effect.fnUntraced(function*(
  path: string
): Effect.fn.Return<Report, VfsError, Vfs> {
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

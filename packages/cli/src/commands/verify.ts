/**
 * `tidemark verify DB-or-DIR`: which start-up cases apply and what a start would drop. Reads only, takes no lock, makes
 * no file; so beside a process that is writing it may see the log of a database in the middle of a commit, as a tail.
 *
 * @since 0.1.0
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { type DatabaseExamination, examineDatabase, type StartUpCase, type TipSource } from "@tidemark/wal/StartUp"
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import { isDirectory } from "../appendLog/logDirectory.ts"
import { verifyLog } from "../appendLog/verifyLog.ts"
import { ExitCode, OperationFailed } from "../ExitCode.ts"
import { databaseOrLog, json } from "../flags.ts"
import { withProgress } from "../Progress.ts"
import { emit, type Report } from "../Report.ts"
import { byteSize, count, counted, pairs } from "../Style.ts"

const verify = Effect.fnUntraced(function*(path: string) {
  const found = yield* examineDatabase(yield* Vfs, path)
  if (!found.databaseExists && found.walFileBytes === undefined) {
    return yield* new OperationFailed({ path, sentence: `there is no database at ${path}` })
  }
  return reportOf(found)
})

const reportOf = (found: DatabaseExamination): Report => {
  const { cases, problems, refusal, tip, tipSource, tornTailBytes } = found
  const ok = refusal === undefined && problems.length === 0
  return {
    exitCode: ok ? ExitCode.fine : ExitCode.problem,
    json: {
      path: found.path,
      case: found.case,
      cases,
      ok,
      tip,
      tipSource,
      refusal: refusal === undefined ? null : { tag: refusal._tag, message: refusal.message },
      pageSize: found.pageSize ?? null,
      databasePages: found.databasePages,
      frames: found.validFrames,
      commits: found.commits,
      problems,
      tornTailBytes
    },
    text: (style) =>
      [
        `${style.strong(found.path)}: ${
          ok ? style.good("ok") : refusal === undefined ? style.bad("has problems") : style.bad("would be refused")
        }\n\n`,
        pairs([
          ...cases.map((row, index) => [index === 0 ? "case" : "", `${row}  ${meaningOf[row]}`] as const),
          ["tip", `${count(tip)} (${tipMeaning[tipSource]})`],
          ["database", counted(found.databasePages, "page")],
          ["log", `${counted(found.validFrames, "frame")}, ${counted(found.commits, "commit")}`],
          ["to be dropped", byteSize(tornTailBytes)]
        ], style),
        problems.length === 0 ?
          "" :
          `\nProblems\n${
            problems.map(({ offset, path, severity, what }) =>
              `  ${style.bad(severity)} in ${path} at byte ${count(offset)}: ${what}\n`
            ).join("")
          }`,
        refusal === undefined ? "" : `\nRefused because\n  ${refusal.message}\n`
      ].join("")
  }
}

const meaningOf: Record<StartUpCase, string> = {
  "RC-01": "only the database file",
  "RC-02": "the log is whole",
  "RC-03": "the log ends in bytes of no commit",
  "RC-04": "the log is empty or has no readable header",
  "RC-05": "the log has pages of another size than the database",
  "RC-06": "the parallel log is whole",
  "RC-07": "a segment of no commit stands behind the last certificate",
  "RC-08": "a segment with acknowledged commits is lost",
  "RC-09": "the certificate log ends in a torn certificate",
  "RC-10": "the certificate log is damaged",
  "RC-11": "the certificate log is missing",
  "RC-19": "spill files are left behind",
  "RC-20": "two kinds of log hold commits",
  "RC-21": "segments whose commits are in the database file are left behind",
  "RC-22": "a segment of no commit stands between certified ones",
  "RC-23": "the newest commits are in a log of another kind",
  "RC-24": "a rollback journal is hot",
  "RC-25": "temporary files are left behind"
}

const tipMeaning: Record<TipSource, string> = {
  "checkpoint-mark": "by what another kind of log has left",
  "wal-base": "by the WAL base",
  "previous-generation": "by the WAL base; the log is of the generation before",
  "sealed": "by the WAL base; no log is needed",
  "no-wal-base": "counted in the log: Tidemark has never written this database",
  "foreign": "2^32 above the WAL base: the log is not Tidemark's"
}

/**
 * @category commands
 * @since 0.1.0
 */
export const verifyCommand = Command.make(
  "verify",
  { path: databaseOrLog, json },
  ({ json, path }) => {
    let bytesRead = 0
    return emit(
      { json },
      Effect.flatMap(
        isDirectory(path),
        (isLog) => isLog ? verifyLog(path, (bytes) => bytesRead += bytes) : verify(path)
      ).pipe(
        Effect.provide(NodeVfs.layer),
        withProgress(() => `verifying ${path}: ${bytesRead === 0 ? "reading" : `${byteSize(bytesRead)} read`}`)
      )
    )
  }
).pipe(
  Command.withDescription(
    "Say which start-up cases apply to a database or an append log and what would be dropped. Reads only."
  )
)

/**
 * `tidemark verify DB-or-DIR`: which start-up cases apply and what a start would drop. Reads only, takes no lock, makes
 * no file; so beside a process that is writing it may see a SQLite WAL in the middle of a commit, as a tail.
 *
 * @since 0.1.0
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { type DatabaseExamination, examineDatabase } from "@tidemark/wal/StartUp"
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import { isDirectory } from "../appendLog/logDirectory.ts"
import { verifyLog } from "../appendLog/verifyLog.ts"
import { ExitCode, OperationFailed } from "../ExitCode.ts"
import { databaseOrLog, json } from "../flags.ts"
import { logUnder } from "../parallel/logUnder.ts"
import { meaningOf, problemLines, tipMeaning } from "../parallel/startUpMeaning.ts"
import { verifyParallel } from "../parallel/verifyParallel.ts"
import { withProgress } from "../Progress.ts"
import { emit, type Report } from "../Report.ts"
import { byteSize, count, counted, pairs } from "../Style.ts"

const verifyEither = Effect.fnUntraced(function*(path: string, isLog: boolean, onRead: (bytes: number) => void) {
  return isLog ? yield* verifyLog(path, onRead) : yield* verify(path)
})

const verify = Effect.fnUntraced(function*(path: string) {
  if ((yield* logUnder(path)) === "parallel") return yield* verifyParallel(path)
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
      log: "sqlite",
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
        problemLines(problems, style),
        refusal === undefined ? "" : `\nRefused because\n  ${refusal.message}\n`
      ].join("")
  }
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
        (isLog) => verifyEither(path, isLog, (bytes) => bytesRead += bytes)
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

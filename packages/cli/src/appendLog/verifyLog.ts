/**
 * `verify` for the directory of an append log: which start-up cases apply, what a start would drop, and whether somebody
 * has the log open. Reads only, takes no lock, makes no file.
 *
 * @since 0.1.0
 */
import { Vfs } from "@tidemark/platform/Vfs"
import { examineDirectory, type ScanReport } from "@tidemark/wal/AppendLogScan"
import * as Effect from "effect/Effect"
import * as Hex from "effect/encoding/Hex"
import { ExitCode } from "../ExitCode.ts"
import { directoryProblems } from "../inspection/appendLogInspection.ts"
import type { Report } from "../Report.ts"
import { byteSize, count, counted, pairs } from "../Style.ts"
import { holderOf, requireAppendLog } from "./logDirectory.ts"

/**
 * The rows of the start-up table that can apply to an append log, most severe first.
 *
 * @category models
 * @since 0.1.0
 */
export type LogCase = "RC-13" | "RC-12" | "RC-25"

const meaningOf: Record<LogCase, string> = {
  "RC-13": "records that were durable are damaged or missing",
  "RC-12": "the log ends in bytes that were never acknowledged",
  "RC-25": "temporary files are left behind, or prepared by the process that has the log open"
}

/**
 * The rows that apply, most severe first; none of them to a log that was closed.
 *
 * @category verification
 * @since 0.1.0
 */
export const logCases = ({ problems, temporaries, tornTail }: ScanReport): ReadonlyArray<LogCase> => [
  ...problems.length > 0 ? ["RC-13" as const] : [],
  ...tornTail === undefined ? [] : ["RC-12" as const],
  ...temporaries.length > 0 ? ["RC-25" as const] : []
]

/** A batch that is being written looks like a tail: it is gone, or the log is longer, when one looks again. */
const looksBesideWriter = 4
const betweenLooks = "100 millis"

interface Look {
  readonly found: ScanReport
  readonly holder: number | undefined
  /** The tail is a batch that is being written. */
  readonly isBeingWritten: boolean
}

const look = Effect.fnUntraced(function*(directory: string, onProgress: (bytes: number) => void) {
  const vfs = yield* Vfs
  const holder = yield* holderOf(directory)
  let found = yield* examineDirectory(vfs, directory, { onProgress })
  let isBeingWritten = false
  for (let looks = 1; looks < looksBesideWriter && holder !== undefined && found.tornTail !== undefined; looks++) {
    yield* Effect.sleep(betweenLooks)
    const again = yield* examineDirectory(vfs, directory, { onProgress })
    isBeingWritten = again.tornTail?.lsn !== found.tornTail.lsn
    found = again
  }
  const result: Look = { found, holder, isBeingWritten: isBeingWritten && found.tornTail !== undefined }
  return result
})

/**
 * Verifies the log in a directory. `onProgress` is told how many bytes were read since the last time.
 *
 * @category verification
 * @since 0.1.0
 */
export const verifyLog = Effect.fnUntraced(function*(directory: string, onProgress: (bytes: number) => void) {
  yield* requireAppendLog(directory)
  return reportOf(yield* look(directory, onProgress))
})

const reportOf = ({ found, holder, isBeingWritten }: Look): Report => {
  const { batches, directory, endLsn, firstLsn, foreign, logId, records, segments, temporaries, tornTail } = found
  const cases = logCases(found)
  const problems = directoryProblems(found).filter(({ severity }) => !(isBeingWritten && severity === "tail"))
  const refusal = found.problems[0]
  const ok = problems.length === 0
  const tornTailBytes = tornTail?.bytes ?? 0
  return {
    exitCode: ok ? ExitCode.fine : ExitCode.problem,
    json: {
      path: directory,
      case: cases[0] ?? null,
      cases,
      ok,
      tip: BigInt(endLsn),
      refusal: refusal === undefined ? null : { tag: refusal._tag, message: refusal.message },
      lockedBy: holder ?? null,
      logId: logId === undefined ? null : Hex.encode(logId),
      firstLsn: BigInt(firstLsn),
      segments: segments.length,
      batches,
      records,
      problems,
      tornTailBytes,
      temporaryFiles: temporaries,
      foreignFiles: foreign
    },
    text: (style) =>
      [
        `${style.strong(directory)}: ${
          ok ? style.good("ok") : refusal === undefined ? style.bad("has problems") : style.bad("would be refused")
        }\n\n`,
        pairs([
          ...(cases.length === 0
            ? [["case", "none  the log is whole"] as const]
            : cases.map((row, index) => [index === 0 ? "case" : "", `${row}  ${meaningOf[row]}`] as const)),
          ["tip", `LSN ${count(endLsn)}`],
          ["first kept", `LSN ${count(firstLsn)}`],
          ["log", `${counted(segments.length, "segment")}, ${count(batches)} batches, ${counted(records, "record")}`],
          ["to be dropped", byteSize(tornTailBytes)],
          ...(foreign.length === 0 ? [] : [["not the log's", foreign.join(", ")] as const]),
          ...(holder === undefined ? [] : [
            [
              "open",
              `in process ${holder}${isBeingWritten ? ", which is writing what stands at the end" : ""}`
            ] as const
          ])
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

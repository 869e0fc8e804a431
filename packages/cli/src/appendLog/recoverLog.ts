/**
 * `recover` for the directory of an append log: opens it, which is recovery. What was never acknowledged at its end is
 * zeroed, and what a crash has left of files is removed.
 *
 * @since 0.1.0
 */
import { Vfs } from "@tidemark/platform/Vfs"
import { AppendLog } from "@tidemark/wal/AppendLog"
import { lockFileName } from "@tidemark/wal/AppendLogFormat"
import { scanDirectory } from "@tidemark/wal/AppendLogScan"
import * as Effect from "effect/Effect"
import { ExitCode } from "../ExitCode.ts"
import type { Report } from "../Report.ts"
import { byteSize, count, counted, pairs } from "../Style.ts"
import { requireAppendLog } from "./logDirectory.ts"

/**
 * Recovers the log in a directory, which must have one.
 *
 * @category recovery
 * @since 0.1.0
 */
export const recoverLog = Effect.fnUntraced(function*(directory: string) {
  const vfs = yield* Vfs
  yield* requireAppendLog(directory)
  if ((yield* vfs.identify(`${directory}/${lockFileName}`)) === undefined) {
    // Opening makes the lock file first: looked at before, a log that is refused has not even that changed.
    yield* scanDirectory(vfs, directory)
  }
  const { recovery } = yield* AppendLog.open({ directory })
  const { cases, droppedBytes, end, firstKept, segments, swept } = recovery
  const report: Report = {
    exitCode: ExitCode.fine,
    json: {
      path: directory,
      case: cases[0] ?? null,
      cases,
      tip: BigInt(end),
      firstLsn: BigInt(firstKept),
      segments,
      pagesApplied: 0,
      droppedBytes,
      removedFiles: swept
    },
    text: (style) =>
      `${style.strong(directory)}: ${style.good("recovered")}\n\n${
        pairs([
          ["case", cases.length === 0 ? "none" : cases.join(", ")],
          ["tip", `LSN ${count(end)}`],
          ["log", counted(segments, "segment")],
          ["dropped", byteSize(droppedBytes)],
          ["files removed", count(swept.length)]
        ], style)
      }`
  }
  return report
}, Effect.scoped)

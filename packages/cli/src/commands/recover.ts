/**
 * `tidemark recover DB`: opens the database, which is recovery, and checkpoints it, so that every commit is in the
 * database file and the log is empty.
 *
 * @since 0.1.0
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import { walPath } from "@tidemark/wal/SqliteWalFormat"
import type { DatabaseExamination } from "@tidemark/wal/StartUp"
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ExitCode } from "../ExitCode.ts"
import { acceptLoss, database, json } from "../flags.ts"
import { withProgress } from "../Progress.ts"
import { emit, type Report } from "../Report.ts"
import { byteSize, count, counted, pairs } from "../Style.ts"

const recover = Effect.gen(function*() {
  const { checkpoint, frames, startUp } = yield* SqliteWal.SqliteWal
  const { inLog } = frames()
  yield* checkpoint("truncate")
  // The frames of a generation that was about to be replaced are in the database file already.
  return reportOf(startUp, inLog === 0 ? 0 : new Set(startUp.framePages).size)
})

/** What stood in the log and is kept by no commit. */
const droppedBytesOf = ({ path, problems, tornTailBytes, walFileBytes, walHeader }: DatabaseExamination): number =>
  walHeader === undefined && problems.some((problem) => problem.path === walPath(path))
    ? walFileBytes ?? 0
    : tornTailBytes

const reportOf = (startUp: DatabaseExamination, pagesApplied: number): Report => {
  const droppedBytes = droppedBytesOf(startUp)
  return {
    exitCode: ExitCode.fine,
    json: {
      path: startUp.path,
      case: startUp.case,
      cases: startUp.cases,
      tip: startUp.tip,
      commits: startUp.commits,
      pagesApplied,
      droppedBytes
    },
    text: (style) =>
      `${style.strong(startUp.path)}: ${style.good("recovered")}\n\n${
        pairs([
          ["case", startUp.cases.join(", ")],
          ["tip", count(startUp.tip)],
          ["commits found in the log", count(startUp.commits)],
          ["pages applied", counted(pagesApplied, "page")],
          ["dropped", byteSize(droppedBytes)]
        ], style)
      }`
  }
}

/**
 * @category commands
 * @since 0.1.0
 */
export const recoverCommand = Command.make(
  "recover",
  { database, acceptLoss, json },
  ({ acceptLoss, database, json }) =>
    emit(
      { json },
      recover.pipe(
        Effect.provide(
          SqliteWal.layer({ database, acceptLoss, autoCheckpointFrames: 0 }).pipe(Layer.provide(NodeVfs.layer))
        ),
        withProgress(() => `recovering ${database}`)
      )
    )
).pipe(
  Command.withDescription(
    "Recover a database after a crash and copy every commit into the database file. Refuses what it cannot open safely."
  )
)

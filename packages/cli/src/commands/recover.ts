/**
 * `tidemark recover DB-or-DIR`: opens the database, which is recovery, and checkpoints it, so that every commit is in the
 * database file and the log is empty; or opens an append log.
 *
 * @since 0.1.0
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import { walPath } from "@tidemark/wal/SqliteWalFormat"
import type { DatabaseExamination } from "@tidemark/wal/StartUp"
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import { isDirectory } from "../appendLog/logDirectory.ts"
import { recoverLog } from "../appendLog/recoverLog.ts"
import { ExitCode, WrongUsage } from "../ExitCode.ts"
import { acceptLoss, databaseOrLog, discardSegments, json, trustSegments } from "../flags.ts"
import { logUnder } from "../parallel/logUnder.ts"
import { type RecoverFlags, recoverParallel } from "../parallel/recoverParallel.ts"
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
      log: "sqlite",
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

const recoverSqlite = (database: string, acceptLoss: boolean) =>
  Effect.provide(recover, SqliteWal.layer({ database, acceptLoss, autoCheckpointFrames: 0 }))

/** Who says what is to be done about segments says which log it is. */
const recoverDatabase = Effect.fnUntraced(function*(path: string, flags: RecoverFlags) {
  const isParallel = flags.trustSegments || flags.discardSegments || (yield* logUnder(path)) === "parallel"
  return yield* isParallel ? recoverParallel(path, flags) : recoverSqlite(path, flags.acceptLoss)
})

const recoverEither = Effect.fnUntraced(function*(path: string, flags: RecoverFlags) {
  if (flags.trustSegments && flags.discardSegments) {
    return yield* new WrongUsage({ sentence: "--trust-segments and --discard-segments say the opposite of each other" })
  }
  if (!(yield* isDirectory(path))) return yield* recoverDatabase(path, flags)
  const given = flags.acceptLoss
    ? "--accept-loss"
    : flags.trustSegments
    ? "--trust-segments"
    : flags.discardSegments
    ? "--discard-segments"
    : undefined
  if (given !== undefined) {
    return yield* new WrongUsage({ sentence: `${given} is for databases, and ${path} is a directory` })
  }
  return yield* recoverLog(path)
})

/**
 * @category commands
 * @since 0.1.0
 */
export const recoverCommand = Command.make(
  "recover",
  { path: databaseOrLog, acceptLoss, trustSegments, discardSegments, json },
  ({ json, path, ...flags }) =>
    emit(
      { json },
      recoverEither(path, flags).pipe(Effect.provide(NodeVfs.layer), withProgress(() => `recovering ${path}`))
    )
).pipe(
  Command.withDescription(
    "Recover a database after a crash and copy every commit into the database file, or recover an append log. "
      + "Refuses what it cannot open safely."
  )
)

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
import { WrongUsage } from "../ExitCode.ts"
import { acceptLoss, databaseOrLog, discardSegments, json, trustSegments } from "../flags.ts"
import { recoverNative } from "../native/recoverNative.ts"
import { type RecoverFlags, recoverParallel } from "../parallel/recoverParallel.ts"
import { withProgress } from "../Progress.ts"
import { emit } from "../Report.ts"
import { logUnder } from "../startUp/logUnder.ts"
import { recoveryReport } from "../startUp/startUpReports.ts"

const recover = Effect.gen(function*() {
  const { checkpoint, frames, startUp } = yield* SqliteWal.SqliteWal
  const { inLog } = frames()
  yield* checkpoint("truncate")
  // The frames of a generation that was about to be replaced are in the database file already.
  const pagesApplied = inLog === 0 ? 0 : new Set(startUp.framePages).size
  return recoveryReport("sqlite", startUp, {
    commits: startUp.commits,
    pagesApplied,
    droppedBytes: droppedBytesOf(startUp)
  })
})

/** What stood in the log and is kept by no commit. */
const droppedBytesOf = ({ path, problems, tornTailBytes, walFileBytes, walHeader }: DatabaseExamination): number =>
  walHeader === undefined && problems.some((problem) => problem.path === walPath(path))
    ? walFileBytes ?? 0
    : tornTailBytes

const recoverSqlite = (database: string, acceptLoss: boolean) =>
  Effect.provide(recover, SqliteWal.layer({ database, acceptLoss, autoCheckpointFrames: 0 }))

const recoverDatabase = Effect.fnUntraced(function*(path: string, flags: RecoverFlags) {
  const found = yield* logUnder(path)
  if (found === "native" && (flags.trustSegments || flags.discardSegments)) {
    return yield* new WrongUsage({
      sentence: `${
        flags.trustSegments ? "--trust-segments" : "--discard-segments"
      } is for a parallel log, and ${path} has a native one`
    })
  }
  // Who says what is to be done about segments says which log it is.
  const log = flags.trustSegments || flags.discardSegments ? "parallel" : found
  switch (log) {
    case "sqlite":
      return yield* recoverSqlite(path, flags.acceptLoss)
    case "parallel":
      return yield* recoverParallel(path, flags)
    case "native":
      return yield* recoverNative(path, flags.acceptLoss)
  }
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

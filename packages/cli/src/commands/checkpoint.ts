/**
 * `tidemark checkpoint DB`: copies committed pages from the log into the database file.
 *
 * @since 0.1.0
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as ParallelWal from "@tidemark/wal/ParallelWal"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import { ExitCode } from "../ExitCode.ts"
import { database, json } from "../flags.ts"
import { logUnder, type OpenedLog } from "../parallel/logUnder.ts"
import { withProgress } from "../Progress.ts"
import { emit, type Report } from "../Report.ts"
import { count, pairs } from "../Style.ts"

const checkpointSqlite = Effect.fnUntraced(function*(mode: SqliteWal.CheckpointMode) {
  const wal = yield* SqliteWal.SqliteWal
  return reportOf("sqlite", wal.database, yield* wal.checkpoint(mode))
})

const checkpointParallel = Effect.fnUntraced(function*(mode: SqliteWal.CheckpointMode) {
  const wal = yield* ParallelWal.ParallelWal
  return reportOf("parallel", wal.database, yield* wal.checkpoint(mode))
})

const checkpoint = Effect.fnUntraced(function*(database: string, mode: SqliteWal.CheckpointMode) {
  const options = { database, autoCheckpointFrames: 0 }
  return yield* (yield* logUnder(database)) === "parallel"
    ? Effect.provide(checkpointParallel(mode), ParallelWal.layer(options))
    : Effect.provide(checkpointSqlite(mode), SqliteWal.layer(options))
})

const reportOf = (log: OpenedLog, path: string, report: SqliteWal.CheckpointReport): Report => {
  const { blocked, framesBefore, framesCopied, mode } = report
  return {
    exitCode: blocked ? ExitCode.problem : ExitCode.fine,
    json: { path, log, mode, framesBefore, framesCopied, blocked },
    text: (style) =>
      `${style.strong(path)}: ${blocked ? style.bad("readers were in the way") : style.good("checkpointed")}\n\n${
        pairs([
          ["mode", mode],
          [log === "parallel" ? "records in the log before" : "frames in the log before", count(framesBefore)],
          ["of them now in the database", count(framesCopied)]
        ], style)
      }`
  }
}

/**
 * @category commands
 * @since 0.1.0
 */
export const checkpointCommand = Command.make("checkpoint", {
  database,
  mode: Flag.Literals("mode", ["passive", "full", "restart", "truncate"]).pipe(
    Flag.withDescription("How much to insist, with the meaning that SQLite gives to these words"),
    Flag.withDefault("passive")
  ),
  json
}, ({ database, json, mode }) =>
  emit(
    { json },
    checkpoint(database, mode).pipe(
      Effect.provide(NodeVfs.layer),
      withProgress(() => `checkpointing ${database}`)
    )
  )).pipe(
    Command.withDescription("Copy committed pages from the log into the database file.")
  )

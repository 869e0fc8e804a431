/**
 * `tidemark checkpoint DB`: copies committed pages from the log into the database file.
 *
 * @since 0.1.0
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as SqliteWal from "@tidemark/wal/SqliteWal"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ExitCode } from "../ExitCode.ts"
import { database, json } from "../flags.ts"
import { withProgress } from "../Progress.ts"
import { emit, type Report } from "../Report.ts"
import { count, pairs } from "../Style.ts"

const checkpoint = Effect.fnUntraced(function*(mode: SqliteWal.CheckpointMode) {
  const wal = yield* SqliteWal.SqliteWal
  return reportOf(wal.database, yield* wal.checkpoint(mode))
})

const reportOf = (path: string, report: SqliteWal.CheckpointReport): Report => {
  const { blocked, framesBefore, framesCopied, mode } = report
  return {
    exitCode: blocked ? ExitCode.problem : ExitCode.fine,
    json: { path, mode, framesBefore, framesCopied, blocked },
    text: (style) =>
      `${style.strong(path)}: ${blocked ? style.bad("readers were in the way") : style.good("checkpointed")}\n\n${
        pairs([
          ["mode", mode],
          ["frames in the log before", count(framesBefore)],
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
    checkpoint(mode).pipe(
      Effect.provide(SqliteWal.layer({ database, autoCheckpointFrames: 0 }).pipe(Layer.provide(NodeVfs.layer))),
      withProgress(() => `checkpointing ${database}`)
    )
  )).pipe(
    Command.withDescription("Copy committed pages from the log into the database file.")
  )

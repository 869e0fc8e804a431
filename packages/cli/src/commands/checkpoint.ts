/**
 * `tidemark checkpoint DB`: copies committed pages from the log into the database file.
 *
 * @since 0.1.0
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import type { CheckpointMode, CheckpointReport } from "@tidemark/wal/SqliteWal"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import { type DatabaseLog, layerLog, OpenLog } from "../database.ts"
import { ExitCode } from "../ExitCode.ts"
import { database, json } from "../flags.ts"
import { withProgress } from "../Progress.ts"
import { emit, type Report } from "../Report.ts"
import { logUnder } from "../startUp/logUnder.ts"
import { count, pairs } from "../Style.ts"

const checkpoint = Effect.fnUntraced(function*(database: string, mode: CheckpointMode) {
  const log = yield* logUnder(database)
  const report = yield* Effect.flatMap(OpenLog, ({ checkpoint }) => checkpoint(mode)).pipe(
    Effect.provide(layerLog(log, { database, autoCheckpointFrames: 0 }))
  )
  return reportOf(log, database, report)
})

const reportOf = (log: DatabaseLog, path: string, report: CheckpointReport): Report => {
  const { blocked, framesBefore, framesCopied, mode } = report
  return {
    exitCode: blocked ? ExitCode.problem : ExitCode.fine,
    json: { path, log, mode, framesBefore, framesCopied, blocked },
    text: (style) =>
      `${style.strong(path)}: ${blocked ? style.bad("readers were in the way") : style.good("checkpointed")}\n\n${
        pairs([
          ["mode", mode],
          [log === "sqlite" ? "frames in the log before" : "records in the log before", count(framesBefore)],
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

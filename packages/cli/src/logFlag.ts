/**
 * `--log`: the log that a command writes a database through.
 *
 * @since 0.1.0
 */
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import { type DatabaseLog, databaseLogs } from "./database.ts"
import { WrongUsage } from "./ExitCode.ts"

/**
 * The flag, as it was written: {@link readLog} tells whether there is such a log.
 *
 * @category flags
 * @since 0.1.0
 */
export const log = Flag.String("log").pipe(
  Flag.withDescription(`Which log to write, one of: ${databaseLogs.join(", ")} (default ${databaseLogs[0]})`),
  Flag.withDefault<string>(databaseLogs[0])
)

/**
 * The log of that name.
 *
 * @category flags
 * @since 0.1.0
 */
export const readLog = (name: string): Effect.Effect<DatabaseLog, WrongUsage> => {
  const found = databaseLogs.find((log) => log === name)
  return found === undefined
    ? Effect.fail(
      new WrongUsage({ sentence: `there is no log "${name}" in this version; it has: ${databaseLogs.join(", ")}` })
    )
    : Effect.succeed(found)
}

/**
 * The program `tidemark`: its commands, and how a run of it ends.
 *
 * @since 0.1.0
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Cause from "effect/Cause"
import * as CliConfig from "effect/cli/CliConfig"
import type * as CliError from "effect/cli/CliError"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import * as NodeFs from "node:fs"
import { benchCommand } from "./commands/bench.ts"
import { checkpointCommand } from "./commands/checkpoint.ts"
import { demoCommand, writerCommand } from "./commands/demo.ts"
import { inspectCommand } from "./commands/inspect.ts"
import { recoverCommand } from "./commands/recover.ts"
import { replayCommand } from "./commands/replay.ts"
import { verifyCommand } from "./commands/verify.ts"
import { Ended, ExitCode } from "./ExitCode.ts"
import { reportFailure, sentenceOf, writeError, writeOut } from "./Report.ts"
import { plain, styleOf } from "./Style.ts"

const root = Command.make("tidemark").pipe(
  Command.withDescription(
    "Looks at, recovers and checkpoints databases that are written by Tidemark, and shows what it can do.\n"
      + "Exit codes: 0 fine, 1 the thing examined has a problem, 2 wrong usage, 3 the operation failed."
  ),
  Command.withSubcommands([
    inspectCommand,
    verifyCommand,
    recoverCommand,
    checkpointCommand,
    replayCommand,
    demoCommand,
    benchCommand,
    writerCommand
  ])
)

/** The sources and the built files lie at the same depth below `package.json`. */
const readVersion = Effect.sync((): string => {
  const manifest: unknown = JSON.parse(NodeFs.readFileSync(new URL("../package.json", import.meta.url), "utf8"))
  return typeof manifest === "object" && manifest !== null && "version" in manifest ? String(manifest.version) : "?"
})

/** Help that was asked for goes to standard output; what is wrong with a command line is one sentence. */
const presenter: CliOutput.Presenter = {
  present: (event) => {
    const formatter = CliOutput.defaultFormatter({ colors: styleOf(process.stdout, process.env) !== plain })
    switch (event._tag) {
      case "Help": {
        const help = `${formatter.formatHelpDoc(event.helpDoc)}\n`
        return event.reason === "Requested"
          ? writeOut(help)
          : writeError(`a command is missing; \`${event.commandPath.join(" ")} --help\` lists them`)
      }
      case "InvalidInvocation":
        return writeError(
          `${event.errors.map(usageSentence).join("; ")}; see \`${event.commandPath.join(" ")} --help\``
        )
      case "Version":
        return writeOut(`${event.name} ${event.version}\n`)
    }
  }
}

const usageSentence = (error: CliError.NonShowHelpErrors): string =>
  error.message
    .replace(/\s*Did you mean this\?\s*/, ", did you mean ")
    .replace(". Expected", ", expected")
    .replace(/\.$/, "")
    // Larger ones are integers, too, but none that a flag takes.
    .replace(/(?<="-?\d{16,}", expected an integer)$/, ` of at most ${Number.MAX_SAFE_INTEGER}`)
    .replace(/^./, (first) => first.toLowerCase())

/** One line per entry on standard error: standard output is for the report. */
const logger = Logger.make<unknown, void>(({ cause, logLevel, message }) => {
  const parts = (Array.isArray(message) ? message : [message]).map((part: unknown) =>
    typeof part === "string" ? part : sentenceOf(part)
  )
  if (cause.reasons.length > 0) parts.push(sentenceOf(Cause.squash(cause)))
  process.stderr.write(`tidemark: ${logLevel.toLowerCase()}: ${parts.join(": ").replace(/\s*\n\s*/g, " ")}\n`)
})

const services = Layer.mergeAll(
  NodeServices.layer,
  CliOutput.layerPresenter(presenter),
  Logger.layer([logger]),
  Layer.succeed(References.MinimumLogLevel, "Warn"),
  Layer.succeed(CliConfig.CliConfig, {
    builtIns: [GlobalFlag.Help, GlobalFlag.Version, GlobalFlag.Completions, GlobalFlag.LogLevel]
  })
)

/**
 * Runs the program with its arguments (without those of Node itself), prints what there is to say, and answers the
 * exit code. An interruption stays one.
 *
 * @category running
 * @since 0.1.0
 */
export const run = (args: ReadonlyArray<string>): Effect.Effect<ExitCode> =>
  Effect.flatMap(readVersion, (version) => Command.runWith(root, { version })(args)).pipe(
    Effect.provide(services),
    Effect.exit,
    Effect.flatMap((exit): Effect.Effect<ExitCode> => {
      if (Exit.isSuccess(exit)) return Effect.succeed(ExitCode.fine)
      if (Cause.hasInterruptsOnly(exit.cause)) return Effect.interrupt
      if (Cause.hasDies(exit.cause)) return reportFailure(exit.cause, args.includes("--json"))
      const error = Cause.squash(exit.cause)
      // Everything else that fails here is the parser's, and the presenter has said what is wrong.
      return Effect.succeed(error instanceof Ended ? error.code : ExitCode.usage)
    })
  )

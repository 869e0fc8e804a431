#!/usr/bin/env node
/**
 * The entry of the program `tidemark`.
 *
 * @since 0.1.0
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Exit from "effect/Exit"
import { run } from "./cli.ts"
import { ExitCode } from "./ExitCode.ts"
import { defectSentence } from "./Report.ts"

// No stack is ever printed, and where records are tried as several things, taking it is most of the time.
Error.stackTraceLimit = 0

// Nobody reads any more what is written (`| head`): the work goes on, the text is lost.
process.stdout.on("error", () => {})
process.stderr.on("error", () => {})

// What no fiber has caught: still one sentence, and still the exit code of a failure.
const dieOf = (defect: unknown) => {
  process.stderr.write(`tidemark: ${defectSentence(defect)}\n`)
  process.exit(ExitCode.failed)
}
process.on("uncaughtException", dieOf)
process.on("unhandledRejection", dieOf)

// Node's own way is several lines; that SQLite is experimental in some versions of Node is nothing the user can change.
process.removeAllListeners("warning")
process.on("warning", ({ message, name }) => {
  if (name !== "ExperimentalWarning") process.stderr.write(`tidemark: warning: ${message.replace(/\s*\n\s*/g, " ")}\n`)
})

NodeRuntime.runMain(run(process.argv.slice(2)), {
  disableErrorReporting: true,
  // The runtime's own codes are other ones: 1 for every failure.
  teardown: (exit, onExit) => {
    const code = Exit.isSuccess(exit)
      ? Number(exit.value)
      : Exit.hasInterrupts(exit)
      ? ExitCode.interrupted
      : ExitCode.failed
    process.exitCode = code
    onExit(code)
  }
})

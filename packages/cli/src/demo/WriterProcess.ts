/**
 * The parent's side of the process that commits: starts it, reads what it says, kills it when that is the plan.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import { type ChildProcess, spawn } from "node:child_process"
import { OperationFailed } from "../ExitCode.ts"
import { reasonOf } from "../Report.ts"
import {
  answerDescriptor,
  decodeAnswer,
  LineReader,
  type WriterAnswer,
  type WriterJob,
  WriterJobJson
} from "./WriterProtocol.ts"

/**
 * The name of the hidden command that is the other side.
 *
 * @category constants
 * @since 0.1.0
 */
export const writerCommandName = "demo-writer"

/** What a process that fails says on standard error is a sentence; more than this is not kept. */
const maxErrorChars = 2000

/**
 * Runs a process that does `job`. `onAnswer` is called for each line that was read, and answers in how many milliseconds
 * to send SIGKILL, or `undefined`; only its first number counts. Lines that the process has written before it died are
 * still read.
 *
 * **Details**
 *
 * Answers whether the process was to be killed, also when it ended before the signal came. One that ends in any other way without having finished is a failure. When the
 * effect is interrupted the process is killed and gone before it ends.
 *
 * @category running
 * @since 0.1.0
 */
export const runWriterProcess = Effect.fnUntraced(function*(
  job: WriterJob,
  onAnswer: (answer: WriterAnswer) => number | undefined
): Effect.fn.Return<boolean, OperationFailed> {
  const jobText = yield* Effect.orDie(Schema.encodeEffect(WriterJobJson)(job))
  const run = Effect.runForkWith(yield* Effect.context<never>())
  return yield* Effect.callback<boolean, OperationFailed>((resume) => {
    const child = start()
    const killIn = (millis: number) =>
      run(Effect.andThen(Effect.sleep(millis), Effect.sync(() => child.kill("SIGKILL"))))
    const failed = (sentence: string) =>
      resume(Effect.fail(new OperationFailed({ path: job.database, sentence: `the process that commits ${sentence}` })))
    const lines = new LineReader()
    let kill: Fiber.Fiber<boolean> | undefined
    let isFinished = false
    let reason: string | undefined
    let errorText = ""
    pipeOf(child).on("data", (chunk: Buffer) => {
      for (const answer of lines.take(chunk.toString("latin1")).map(decodeAnswer)) {
        isFinished ||= answer._tag === "finished"
        if (answer._tag === "failed") reason = answer.sentence
        const killInMillis = onAnswer(answer)
        if (killInMillis !== undefined) kill ??= killIn(killInMillis)
      }
    })
    child.stderr?.on("data", (chunk: Buffer) => {
      errorText = (errorText + chunk.toString()).slice(0, maxErrorChars)
    })
    // A process that is gone has its own way of telling.
    child.stdin?.on("error", () => {})
    child.stdin?.end(jobText)
    child.on("error", (cause) => failed(`could not be started: ${reasonOf(cause)}`))
    // Not before its pipes are read to their end.
    child.on("close", (code, signal) => {
      kill?.interruptUnsafe()
      const isAsPlanned = signal === "SIGKILL" ? kill !== undefined : isFinished && code === 0
      if (isAsPlanned) return resume(Effect.succeed(kill !== undefined))
      const how = signal === null ? `ended with code ${code}` : `was ended by ${signal}`
      failed(`${how}: ${reason ?? (errorText.trim() || "it said nothing")}`)
    })
    return Effect.callback<void>((done) => {
      kill?.interruptUnsafe()
      if (child.exitCode !== null || child.signalCode !== null) return done(Effect.void)
      child.on("close", () => done(Effect.void))
      child.kill("SIGKILL")
    })
  })
})

const start = (): ChildProcess => {
  const [, entry] = process.argv
  invariant(entry !== undefined, "the program knows its own entry")
  return spawn(process.execPath, [...process.execArgv, entry, writerCommandName], {
    stdio: ["pipe", "ignore", "pipe", "pipe"]
  })
}

const pipeOf = (child: ChildProcess): NodeJS.ReadableStream => {
  const pipe = child.stdio[answerDescriptor]
  invariant(pipe !== undefined && pipe !== null && "read" in pipe, "the answers come through a pipe")
  return pipe
}

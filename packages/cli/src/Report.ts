/**
 * What a command answers, and the one place that prints it.
 *
 * **Details**
 *
 * 1. With `--json` standard output holds exactly one JSON document, whatever happens: the report, or
 *    `{"error": {"tag", "message", "path"}}` when the operation failed. Wrong usage prints no document.
 * 2. An error is one sentence on standard error. No stack trace is ever printed; a defect is called one.
 * 3. Output is handed to the operating system before the program ends.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { Ended, ExitCode, WrongUsage } from "./ExitCode.ts"
import { type Style, styleOf } from "./Style.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface Report {
  readonly exitCode: typeof ExitCode.fine | typeof ExitCode.problem
  /** The document; a `bigint` becomes a decimal string. */
  readonly json: Readonly<Record<string, unknown>>
  /** The same for people, with a line feed at the end. */
  readonly text: (style: Style) => string
}

const writeTo = (stream: NodeJS.WriteStream, text: string): Effect.Effect<void> =>
  // A reader that went away (`| head`) is no error of ours: the callback is called in either case.
  Effect.callback((resume) => {
    stream.write(text, () => resume(Effect.void))
  })

/**
 * Writes to standard output and waits until it is handed over.
 *
 * @category output
 * @since 0.1.0
 */
export const writeOut = (text: string): Effect.Effect<void> => writeTo(process.stdout, text)

/**
 * Writes a line to standard error.
 *
 * @category output
 * @since 0.1.0
 */
export const writeError = (sentence: string): Effect.Effect<void> =>
  writeTo(process.stderr, `tidemark: ${oneLine(sentence)}\n`)

const oneLine = (text: string) => text.replace(/\s*\n\s*/g, " ").trim()

/**
 * The document as it is printed.
 *
 * @category output
 * @since 0.1.0
 */
export const toJson = (document: Readonly<Record<string, unknown>>): string =>
  `${JSON.stringify(document, (_key, value: unknown) => typeof value === "bigint" ? value.toString() : value, 2)}\n`

/** What people call the errno codes that they meet. */
const meanings: Readonly<Record<string, string>> = {
  EACCES: "permission denied",
  EBUSY: "the file is in use",
  EDQUOT: "the disk quota is used up",
  EFBIG: "the file would be larger than is allowed",
  EIO: "the device reported an error",
  EISDIR: "it is a directory",
  ELOOP: "there are too many symbolic links",
  EMFILE: "too many files are open",
  ENAMETOOLONG: "the name is too long",
  ENOENT: "there is no such file or directory",
  ENOSPC: "the disk is full",
  ENOTDIR: "a part of the path is not a directory",
  EPERM: "it is not permitted",
  EROFS: "the file system is read-only"
}

const fieldOf = (error: unknown, field: string): string | undefined => {
  if (typeof error !== "object" || error === null || !(field in error)) return undefined
  const value: unknown = Reflect.get(error, field)
  return typeof value === "string" ? value : undefined
}

const codeMeaning = (error: unknown): string | undefined => {
  const code = fieldOf(error, "code")
  const meaning = code === undefined ? undefined : meanings[code]
  return meaning === undefined ? undefined : `${meaning} (${code})`
}

/**
 * Why a call of Node's or of SQLite's failed, as the end of a sentence: what its errno code means, else its message.
 *
 * @category errors
 * @since 0.1.0
 */
export const reasonOf = (cause: unknown): string =>
  codeMeaning(cause) ?? oneLine(cause instanceof Error ? cause.message : String(cause))

/**
 * The sentence for an error: its message, with what its errno codes mean.
 *
 * @category errors
 * @since 0.1.0
 */
export const sentenceOf = (error: unknown): string =>
  oneLine(error instanceof Error ? error.message : String(error)).replace(
    /: (E[A-Z]{2,})(?=$|[),;])/g,
    (ending, code: string) => {
      const meaning = meanings[code]
      return meaning === undefined ? ending : `: ${meaning} (${code})`
    }
  )

/**
 * The sentence for a defect.
 *
 * @category errors
 * @since 0.1.0
 */
export const defectSentence = (defect: unknown): string =>
  `this is a bug in Tidemark (${
    sentenceOf(defect).slice(0, 300)
  }); please report it with this line, the command line and the output of \`tidemark --version\` and \`node --version\``

interface Failure {
  readonly tag: string
  readonly sentence: string
  readonly path: string | undefined
}

const failureOf = (cause: Cause.Cause<unknown>): Failure => {
  const squashed = Cause.squash(cause)
  return Cause.hasDies(cause)
    ? { tag: "Defect", sentence: defectSentence(squashed), path: undefined }
    : {
      tag: fieldOf(squashed, "_tag") ?? "Error",
      sentence: sentenceOf(squashed),
      path: fieldOf(squashed, "path")
    }
}

/**
 * Prints what went wrong with a run and answers its exit code: 2 for {@link WrongUsage}, else 3.
 *
 * @category output
 * @since 0.1.0
 */
export const reportFailure = Effect.fnUntraced(function*(
  cause: Cause.Cause<unknown>,
  asJson: boolean
): Effect.fn.Return<ExitCode> {
  const { path, sentence, tag } = failureOf(cause)
  yield* writeError(sentence)
  if (!Cause.hasDies(cause) && Cause.squash(cause) instanceof WrongUsage) return ExitCode.usage
  if (asJson) {
    yield* writeOut(toJson({ error: { tag, message: sentence, ...(path === undefined ? {} : { path }) } }))
  }
  return ExitCode.failed
})

/**
 * Runs a command and prints its report, or why there is none. What is left to do is to end with the exit code, which
 * the failure {@link Ended} carries.
 *
 * @category output
 * @since 0.1.0
 */
export const emit = <E, R>(
  options: { readonly json: boolean },
  command: Effect.Effect<Report, E, R>
): Effect.Effect<void, Ended, R> =>
  Effect.exit(command).pipe(
    Effect.flatMap((exit): Effect.Effect<void, Ended> => {
      if (Exit.isFailure(exit)) {
        return Cause.hasInterruptsOnly(exit.cause)
          ? Effect.interrupt
          : Effect.flatMap(reportFailure(exit.cause, options.json), (code) => new Ended({ code }))
      }
      const { exitCode, json, text } = exit.value
      return Effect.andThen(
        writeOut(options.json ? toJson(json) : text(styleOf(process.stdout, process.env))),
        exitCode === ExitCode.fine ? Effect.void : new Ended({ code: exitCode })
      )
    })
  )

/**
 * What a command answers, and the one place that prints it.
 *
 * **Details**
 *
 * 1. With `--json` standard output holds exactly one JSON document, whatever happens: the report, or
 *    `{"error": {"tag", "message", "path"}}` when the operation failed. Wrong usage prints no document. When a listing
 *    fails in its middle the document ends with what was listed and the same `error`.
 * 2. An error is one sentence on standard error. No stack trace is ever printed; a defect is called one.
 * 3. Output is handed to the operating system before the program ends.
 * 4. Of a listing no more than one part is held in memory.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"
import { Ended, ExitCode, WrongUsage } from "./ExitCode.ts"
import { type Style, styleOf, tableInParts } from "./Style.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface Report<E = never> {
  readonly exitCode: typeof ExitCode.fine | typeof ExitCode.problem
  /** The document; a `bigint` becomes a decimal string. */
  readonly json: Readonly<Record<string, unknown>>
  /** The same for people, with a line feed at the end. */
  readonly text: (style: Style) => string
  /** What is printed behind it, row by row, while it is read. */
  readonly listing?: Listing<E> | undefined
}

/**
 * Rows that are too many to be held in memory.
 *
 * @category models
 * @since 0.1.0
 */
export interface Listing<E> {
  /** Of the document, the last one of it: an array. */
  readonly key: string
  readonly rows: Stream.Stream<ListedRow, E>
  readonly head: ReadonlyArray<string>
  /** What people read instead of a table without rows. */
  readonly whenEmpty: string
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ListedRow {
  readonly json: Readonly<Record<string, unknown>>
  /** As many as the head has. */
  readonly cells: () => ReadonlyArray<string>
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
  `${JSON.stringify(document, decimalStrings, 2)}\n`

const decimalStrings = (_key: string, value: unknown): unknown => typeof value === "bigint" ? value.toString() : value

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

/** The options of the layers that a command line has flags for. */
const flags: Readonly<Record<string, string>> = {
  acceptLoss: "--accept-loss",
  stopAtCorrupt: "--accept-loss",
  trustSegments: "--trust-segments",
  discardSegments: "--discard-segments"
}

/**
 * A sentence of a layer for who has a command line: where it names an option, the command with the flag for it.
 *
 * @category errors
 * @since 0.1.0
 */
export const forCommandLine = (sentence: string): string =>
  sentence.replace(
    /(?<=\bwith )(?:acceptLoss|stopAtCorrupt|trustSegments|discardSegments)\b/g,
    (option) => `\`tidemark recover ${flags[option] ?? option}\``
  )

/**
 * The sentence for an error: its message, with what its errno codes mean, and flags for options.
 *
 * @category errors
 * @since 0.1.0
 */
export const sentenceOf = (error: unknown): string =>
  forCommandLine(oneLine(error instanceof Error ? error.message : String(error))).replace(
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

const errorOf = ({ path, sentence, tag }: Failure) => ({
  error: { tag, message: sentence, ...(path === undefined ? {} : { path }) }
})

const isWrongUsage = (cause: Cause.Cause<unknown>): boolean =>
  !Cause.hasDies(cause) && Cause.squash(cause) instanceof WrongUsage

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
  const failure = failureOf(cause)
  yield* writeError(failure.sentence)
  if (isWrongUsage(cause)) return ExitCode.usage
  if (asJson) yield* writeOut(toJson(errorOf(failure)))
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
  command: Effect.Effect<Report<E>, E, R>
): Effect.Effect<void, Ended, R> =>
  Effect.exit(command).pipe(
    Effect.flatMap((exit) =>
      Exit.isSuccess(exit)
        ? print(exit.value, options.json)
        : Cause.hasInterruptsOnly(exit.cause)
        ? Effect.interrupt
        : reportFailure(exit.cause, options.json)
    ),
    Effect.flatMap((code): Effect.Effect<void, Ended> => code === ExitCode.fine ? Effect.void : new Ended({ code }))
  )

const print = Effect.fnUntraced(function*<E>(
  { exitCode, json, listing, text }: Report<E>,
  asJson: boolean
): Effect.fn.Return<ExitCode> {
  const style = styleOf(process.stdout, process.env)
  const whole = asJson ? toJson(json) : text(style)
  if (listing === undefined) {
    yield* writeOut(whole)
    return exitCode
  }
  const form = asJson ? arrayForm(whole, listing) : tableForm(whole, listing, style)
  const listed = yield* Effect.exit(list(listing.rows, form))
  if (Exit.isSuccess(listed)) {
    yield* writeOut(form.end(undefined))
    return exitCode
  }
  if (Cause.hasInterruptsOnly(listed.cause)) return yield* Effect.interrupt
  const failure = failureOf(listed.cause)
  yield* writeOut(form.end(failure))
  yield* writeError(failure.sentence)
  return ExitCode.failed
})

/** How the parts of a listing follow each other. */
interface ListingForm {
  readonly begin: string
  readonly part: (rows: ReadonlyArray<ListedRow>) => string
  readonly end: (failure: Failure | undefined) => string
}

/** Enough for the columns of a table to find their widths, little enough to be forgotten. */
const rowsInPart = 1000

const list = <E>(rows: Stream.Stream<ListedRow, E>, form: ListingForm): Effect.Effect<void, E> =>
  Effect.andThen(
    writeOut(form.begin),
    rows.pipe(
      Stream.rechunk(rowsInPart),
      // Nobody reads any more: a listing can be long.
      Stream.takeWhile(() => process.stdout.writable),
      Stream.runForEachArray((part) => writeOut(form.part(part)))
    )
  )

/** The document without its end, the rows one to a line, then its end. */
const arrayForm = <E>(document: string, { key }: Listing<E>): ListingForm => {
  let separator = "\n"
  return {
    begin: `${document.replace(/\n}\n$/, "")},\n  ${JSON.stringify(key)}: [`,
    part: (rows) =>
      rows.map(({ json }) => {
        const line = `${separator}    ${JSON.stringify(json, decimalStrings)}`
        separator = ",\n"
        return line
      }).join(""),
    end: (failure) =>
      `${separator === "\n" ? "" : "\n  "}]${
        failure === undefined ? "\n}\n" : toJson(errorOf(failure)).replace("{", ",")
      }`
  }
}

const tableForm = <E>(text: string, { head, whenEmpty }: Listing<E>, style: Style): ListingForm => {
  const rowsOf = tableInParts(head, style)
  let isEmpty = true
  return {
    begin: text,
    part: (rows) => {
      isEmpty = false
      return rowsOf(rows.map(({ cells }) => cells()))
    },
    end: () => isEmpty ? whenEmpty : ""
  }
}

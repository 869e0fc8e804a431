/**
 * `tidemark inspect FILE`: recognises a file by its contents and says what is in it. Read-only.
 *
 * @since 0.1.0
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { ExitCode, WrongUsage } from "../ExitCode.ts"
import { json } from "../flags.ts"
import { inspectFile } from "../inspection/inspectFile.ts"
import type { Fields, InspectedRecord, Inspection, RecordRange } from "../inspection/Inspection.ts"
import { emit, type Report } from "../Report.ts"
import { byteSize, count, counted, pairs, type Style, table } from "../Style.ts"

/** The range to list, or `undefined` when no records are asked for. */
const rangeOf = (flags: {
  readonly records: boolean
  readonly from: Option.Option<number>
  readonly to: Option.Option<number>
}): Effect.Effect<RecordRange | undefined, WrongUsage> => {
  const { records } = flags
  if (!records && Option.isNone(flags.from) && Option.isNone(flags.to)) return Effect.succeed(undefined)
  const from = Option.getOrElse(flags.from, () => 0)
  const to = Option.getOrElse(flags.to, () => Number.MAX_SAFE_INTEGER)
  return from < 0 || to < from
    ? Effect.fail(
      new WrongUsage({
        sentence: `--from ${from} --to ${to} is no range of records: they are counted from 0, and --to is included`
      })
    )
    : Effect.succeed({ from, to })
}

const inspect = Effect.fnUntraced(function*(path: string, flags: Parameters<typeof rangeOf>[0]) {
  const range = yield* rangeOf(flags)
  const vfs = yield* Vfs
  const file = yield* vfs.open(path, { access: "read" })
  const bytes = yield* file.size
  const inspection = yield* inspectFile({ file, bytes })
  const records = range === undefined ? undefined : yield* inspection.records(range)
  return reportOf(path, bytes, inspection, records)
}, Effect.scoped)

const reportOf = (
  path: string,
  bytes: number,
  inspection: Inspection,
  records: ReadonlyArray<InspectedRecord> | undefined
): Report => {
  const { header, kind, problems, summary } = inspection
  const valid = problems.length === 0
  return {
    exitCode: valid ? ExitCode.fine : ExitCode.problem,
    json: {
      kind,
      path,
      bytes,
      valid,
      header,
      summary,
      problems,
      ...(records === undefined ? {} : {
        records: records.map(({ fields, index, offset, valid }) => ({ index, offset, valid, ...fields }))
      })
    },
    text: (style) =>
      [
        `${style.strong(path)}: ${names[kind]}, ${byteSize(bytes)}, ${
          valid ? style.good("valid") : style.bad(counted(problems.length, "problem"))
        }\n`,
        header === null ? "" : `\nHeader\n${fieldLines(header, style)}`,
        Object.keys(summary).length === 0 ? "" : `\nSummary\n${fieldLines(summary, style)}`,
        valid ?
          "" :
          `\nProblems\n${
            problems.map(({ offset, severity, what }) => `  ${style.bad(severity)} at byte ${count(offset)}: ${what}\n`)
              .join("")
          }`,
        records === undefined ? "" : `\n${recordTable(records, style)}`
      ].join("")
  }
}

const names = {
  "sqlite-wal": "SQLite WAL",
  "sqlite-database": "SQLite database",
  "wal-base": "WAL base",
  "coordinator-lease": "coordinator lease",
  "empty": "empty file",
  "unknown": "unknown format"
} as const

const fieldLines = (fields: Fields, style: Style): string =>
  pairs(Object.entries(fields).map(([name, value]) => [spaced(name), shown(name, value)] as const), style)

const recordTable = (records: ReadonlyArray<InspectedRecord>, style: Style): string => {
  const [first] = records
  if (first === undefined) return "No records in this range\n"
  const fieldNames = Object.keys(first.fields)
  return `Records\n${
    table(
      ["index", "offset", "valid", ...fieldNames.map(spaced)],
      records.map(({ fields, index, offset, valid }) => [
        count(index),
        count(offset),
        valid ? "yes" : "no",
        ...fieldNames.map((name) => shown(name, fields[name] ?? null))
      ]),
      style
    )
  }`
}

/** `pageSize` -> `page size` */
const spaced = (name: string): string =>
  name.replace(
    /([a-z])([A-Z0-9])/g,
    (_, end: string, start: string) => /\d/.test(start) ? `${end} ${start}` : `${end} ${start.toLowerCase()}`
  )

const shown = (name: string, value: Fields[string]): string => {
  switch (typeof value) {
    case "number":
      return /^salt|^checksum\d|Salt/.test(name) ? `0x${value.toString(16).padStart(8, "0")}` : count(value)
    case "bigint":
      return count(value)
    case "boolean":
      return value ? "yes" : "no"
    case "string":
      return value
    default:
      return "-"
  }
}

/**
 * @category commands
 * @since 0.1.0
 */
export const inspectCommand = Command.make("inspect", {
  file: Argument.String("FILE").pipe(Argument.withDescription("The file to look at")),
  records: Flag.Boolean("records").pipe(
    Flag.withDescription("List the records, too (of a SQLite WAL: its frames)"),
    Flag.withDefault(false)
  ),
  from: Flag.Int("from").pipe(
    Flag.withDescription("List records from this index on, counted from 0 (implies --records)"),
    Flag.optional
  ),
  to: Flag.Int("to").pipe(
    Flag.withDescription("List records up to and including this index (implies --records)"),
    Flag.optional
  ),
  json
}, ({ file, json, ...flags }) => emit({ json }, Effect.provide(inspect(file, flags), NodeVfs.layerVfs))).pipe(
  Command.withDescription(
    "Recognise a file by its contents and show its header, a summary and what does not check. Reads only."
  ),
  Command.withExamples([{
    command: "tidemark inspect app.db-wal --records --to 9",
    description: "The first ten frames"
  }])
)

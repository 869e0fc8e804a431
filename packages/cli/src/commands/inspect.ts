/**
 * `tidemark inspect FILE`: recognises a file by its contents and says what is in it. Read-only.
 *
 * @since 0.1.0
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { nameOf } from "@tidemark/wal/AtomicFile"
import { idOfMarkerSegmentName, markersDirectory } from "@tidemark/wal/MarkerFormat"
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { isDirectory, requireAppendLog } from "../appendLog/logDirectory.ts"
import { ExitCode, WrongUsage } from "../ExitCode.ts"
import { json } from "../flags.ts"
import { inspectDirectory } from "../inspection/appendLogInspection.ts"
import { inspectFile } from "../inspection/inspectFile.ts"
import type { Fields, FieldValue, InspectedRecords, Inspection, RecordRange } from "../inspection/Inspection.ts"
import { inspectMarkerStream } from "../inspection/markerInspection.ts"
import { inspectNative, isNativeDatabase } from "../inspection/nativeInspection.ts"
import { withProgress } from "../Progress.ts"
import { emit, forCommandLine, type Listing, type Report } from "../Report.ts"
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
  if (from >= 0 && from <= to) return Effect.succeed({ from, to })
  const given = [
    ...Option.isSome(flags.from) ? [`--from ${from}`] : [],
    ...Option.isSome(flags.to) ? [`--to ${to}`] : []
  ].join(" ")
  return Effect.fail(
    new WrongUsage({ sentence: `${given} is no range of records: it begins at 0 or above, and --to is included` })
  )
}

const inspect = Effect.fnUntraced(function*(path: string, flags: Parameters<typeof rangeOf>[0]) {
  const range = yield* rangeOf(flags)
  const { bytes, inspection } = yield* open(path).pipe(
    // Of the whole run: the records are read later.
    Scope.provide(yield* Effect.scope),
    withProgress(() => `reading ${path}`)
  )
  return reportOf(path, bytes, inspection, range)
})

const open = Effect.fnUntraced(function*(path: string) {
  const vfs = yield* Vfs
  if (yield* isDirectory(path)) return yield* openDirectory(vfs, path)
  if (yield* isNativeDatabase(vfs, path)) return yield* inspectNative(vfs, path)
  const file = yield* vfs.open(path, { access: "read" })
  const bytes = yield* file.size
  return { bytes, inspection: yield* inspectFile({ file, bytes }) }
})

const openDirectory = Effect.fnUntraced(function*(vfs: Vfs["Service"], path: string) {
  const directory = path.replace(/(?<=.)\/+$/, "")
  const names = yield* vfs.list(directory)
  const isMarkers = nameOf(directory) === nameOf(markersDirectory(""))
  if (isMarkers || names.some((name) => idOfMarkerSegmentName(name) !== undefined)) {
    return yield* inspectMarkerStream(vfs, directory)
  }
  yield* requireAppendLog(path)
  return yield* inspectDirectory(vfs, path)
})

const reportOf = (
  path: string,
  bytes: number,
  inspection: Inspection,
  range: RecordRange | undefined
): Report<VfsError> => {
  const { header, kind, parts, summary } = inspection
  const problems = inspection.problems.map((problem) => ({ ...problem, what: forCommandLine(problem.what) }))
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
      ...(parts === undefined ? {} : { [parts.key]: parts.fields })
    },
    text: (style) =>
      [
        `${style.strong(path)}: ${names[kind]}, ${byteSize(bytes)}, ${
          valid ? style.good("valid") : style.bad(counted(problems.length, "problem"))
        }\n`,
        header === null ? "" : `\nHeader\n${fieldLines(header, style)}`,
        Object.keys(summary).length === 0 ? "" : `\nSummary\n${fieldLines(summary, style)}`,
        parts === undefined ? "" : `\n${capitalised(parts.key)}\n${partTable(parts.fields, style)}`,
        valid ?
          "" :
          `\nProblems\n${
            problems.map(({ offset, path, severity, what }) =>
              `  ${style.bad(severity)}${path === undefined ? "" : ` in ${path}`} at byte ${count(offset)}: ${what}\n`
            ).join("")
          }`,
        range === undefined ? "" : "\nRecords\n"
      ].join(""),
    listing: range === undefined ? undefined : listingOf(inspection.records, range)
  }
}

const listingOf = (records: InspectedRecords | undefined, range: RecordRange): Listing<VfsError> => {
  const { fieldNames, list } = records ?? { fieldNames: [], list: () => Stream.empty }
  return {
    key: "records",
    head: ["index", "offset", "valid", ...fieldNames.map(spaced)],
    rows: Stream.map(list(range), ({ fields, index, offset, valid }) => ({
      json: { index, offset, valid, ...fields },
      cells: () => [
        count(index),
        count(offset),
        valid ? "yes" : "no",
        ...fieldNames.map((name) => shown(name, fields[name] ?? null))
      ]
    })),
    whenEmpty: "  none in this range\n"
  }
}

const names = {
  "sqlite-wal": "SQLite WAL",
  "sqlite-database": "SQLite database",
  "wal-base": "WAL base",
  "checkpoint-mark": "checkpoint mark",
  "coordinator-lease": "coordinator lease",
  "parallel-segment": "parallel segment",
  "certificate-log": "certificate log",
  "append-log-segment": "append log segment",
  "append-log": "append log",
  "marker-segment": "marker segment",
  "marker-stream": "marker stream",
  "commit-capsule": "commit capsule",
  "shared-memory-header": "shared-memory header",
  "native-database": "database with a native log",
  "empty": "empty file",
  "unknown": "unknown format"
} as const

const fieldLines = (fields: Fields, style: Style): string =>
  pairs(Object.entries(fields).map(([name, value]) => [spaced(name), shown(name, value)] as const), style)

const partTable = (parts: ReadonlyArray<Fields>, style: Style): string => {
  const names = Object.keys(parts[0] ?? {})
  return table(names.map(spaced), parts.map((part) => names.map((name) => shown(name, part[name] ?? null))), style)
}

/** `pageSize` -> `page size` */
const spaced = (name: string): string =>
  name.replace(
    /([a-z])([A-Z0-9])/g,
    (_, end: string, start: string) => /\d/.test(start) ? `${end} ${start}` : `${end} ${start.toLowerCase()}`
  ).replace(/\blsn\b/, "LSN").replace(/\bcrc 32c\b/, "CRC-32C")

const capitalised = (name: string): string => name.replace(/^./, (first) => first.toUpperCase())

// `Array.isArray` alone does not narrow arrays that are read-only.
const isNumbers = (value: object): value is ReadonlyArray<number> => Array.isArray(value)

const shown = (name: string, value: FieldValue): string => {
  switch (typeof value) {
    case "number":
      return /^salt|^checksum|Salt|[cC]rc32c$/.test(name) ? `0x${value.toString(16).padStart(8, "0")}` : count(value)
    case "bigint":
      return count(value)
    case "boolean":
      return value ? "yes" : "no"
    case "string":
      return value
    default:
      return value === null
        ? "-"
        : isNumbers(value)
        ? value.map(count).join(" + ")
        : Object.entries(value).map(([name, inner]) => `${spaced(name)} ${shown(name, inner)}`).join(", ")
  }
}

/**
 * @category commands
 * @since 0.1.0
 */
export const inspectCommand = Command.make("inspect", {
  file: Argument.String("FILE").pipe(
    Argument.withDescription("The file to look at, or the directory of an append log or of a marker stream")
  ),
  records: Flag.Boolean("records").pipe(
    Flag.withDescription(
      "List the records, too (of a SQLite WAL its frames, of a capsule its pages, of a shared-memory header its slots)"
    ),
    Flag.withDefault(false)
  ),
  from: Flag.Int("from").pipe(
    Flag.withDescription(
      "List from this index on, counted from 0; in an append log from this LSN on, in a marker stream from this commit sequence on (implies --records)"
    ),
    Flag.optional
  ),
  to: Flag.Int("to").pipe(
    Flag.withDescription("List up to and including this index, LSN or commit sequence (implies --records)"),
    Flag.optional
  ),
  json
}, ({ file, json, ...flags }) =>
  // The file stays open until its records are printed.
  emit({ json }, inspect(file, flags)).pipe(Effect.scoped, Effect.provide(NodeVfs.layerVfs))).pipe(
    Command.withDescription(
      "Recognise a file by its contents and show its header, a summary and what does not check. Reads only."
    ),
    Command.withExamples([
      { command: "tidemark inspect app.db-wal --records --to 9", description: "The first ten frames" },
      { command: "tidemark inspect events/ --from 1048576", description: "What an append log holds from this LSN on" }
    ])
  )

/**
 * What `verify` and `recover` answer of a database, whichever log it has: the keys and lines that are always there, with
 * those of the log among them.
 *
 * @since 0.1.0
 */
import type { CommitSeq, PageSize } from "@tidemark/core/Scalars"
import type { NativeTipSource } from "@tidemark/wal/NativeStartUp"
import type { ParallelTipSource } from "@tidemark/wal/ParallelStartUp"
import type { StartUpCase, StartUpProblem } from "@tidemark/wal/StartUp"
import type { StartUpRefusal } from "@tidemark/wal/StartUpErrors"
import type { DatabaseLog } from "../database.ts"
import { ExitCode } from "../ExitCode.ts"
import { forCommandLine, type Report } from "../Report.ts"
import { byteSize, count, counted, pairs } from "../Style.ts"
import { meaningOf, problemLines, tipMeaning } from "./startUpMeaning.ts"

interface Started {
  readonly path: string
  readonly case: StartUpCase
  readonly cases: ReadonlyArray<StartUpCase>
  readonly tip: CommitSeq
  readonly problems: ReadonlyArray<StartUpProblem>
}

/**
 * What an examination says, of whichever log.
 *
 * @category models
 * @since 0.1.0
 */
export interface Verified extends Started {
  readonly tipSource: ParallelTipSource | NativeTipSource
  readonly refusal: StartUpRefusal | undefined
  readonly pageSize: PageSize | undefined
  readonly databasePages: number
  /** Whether there is a database file, empty or not. */
  readonly databaseExists: boolean
  readonly tornTailBytes: number
}

/**
 * The problem of a database without its file. Where the log holds every page nothing is lost, yet nobody opens it.
 *
 * @category reports
 * @since 0.1.0
 */
export const missingFile = (
  { databaseExists, path, refusal }: Pick<Verified, "databaseExists" | "path" | "refusal">
): ReadonlyArray<StartUpProblem> =>
  databaseExists || refusal !== undefined ? [] : [{
    path,
    offset: 0,
    severity: "corrupt",
    what:
      "there is no database file, although its log holds every page: put it back, or make an empty one and recover it"
  }]

type Lines = ReadonlyArray<readonly [label: string, value: string]>

/**
 * The report of `verify`.
 *
 * @category reports
 * @since 0.1.0
 */
export const verificationReport = (
  log: DatabaseLog,
  found: Verified,
  own: { readonly json: Readonly<Record<string, unknown>>; readonly lines: Lines }
): Report => {
  const { cases, databasePages, pageSize, path, tip, tipSource, tornTailBytes } = found
  const refusal = found.refusal === undefined
    ? undefined
    : { tag: found.refusal._tag, message: forCommandLine(found.refusal.message) }
  const problems = [...missingFile(found), ...found.problems].map(({ offset, path, severity, what }) => ({
    path,
    offset,
    severity,
    what: forCommandLine(what)
  }))
  const ok = refusal === undefined && problems.length === 0
  return {
    exitCode: ok ? ExitCode.fine : ExitCode.problem,
    json: {
      path,
      log,
      case: found.case,
      cases,
      ok,
      tip,
      tipSource,
      refusal: refusal ?? null,
      pageSize: pageSize ?? null,
      databasePages,
      ...own.json,
      problems,
      tornTailBytes
    },
    text: (style) =>
      [
        `${style.strong(path)}: ${
          ok ? style.good("ok") : refusal === undefined ? style.bad("has problems") : style.bad("would be refused")
        }\n\n`,
        pairs([
          ...cases.map((row, index) => [index === 0 ? "case" : "", `${row}  ${meaningOf[row]}`] as const),
          ["tip", `${count(tip)} (${tipMeaning[tipSource]})`],
          ["database", counted(databasePages, "page")],
          ...own.lines
        ], style),
        problemLines(problems, style),
        refusal === undefined ? "" : `\nRefused because\n  ${refusal.message}\n`
      ].join("")
  }
}

/**
 * What a recovery has done.
 *
 * @category models
 * @since 0.1.0
 */
export interface Recovered {
  /** Found in the log. */
  readonly commits: number
  /** Copied into the database file. */
  readonly pagesApplied: number
  /** Of the log, kept by no commit. */
  readonly droppedBytes: number
  readonly json?: Readonly<Record<string, unknown>>
  readonly lines?: Lines
}

/**
 * The report of `recover`.
 *
 * @category reports
 * @since 0.1.0
 */
export const recoveryReport = (log: DatabaseLog, startUp: Started, recovered: Recovered): Report => {
  const { cases, path, tip } = startUp
  // What is wrong with the file itself no log makes good: pages that are nowhere.
  const problems = startUp.problems.filter((problem) => problem.severity === "corrupt" && problem.path === path)
  const ok = problems.length === 0
  const { commits, droppedBytes, json = {}, lines = [], pagesApplied } = recovered
  return {
    exitCode: ok ? ExitCode.fine : ExitCode.problem,
    json: { path, log, case: startUp.case, cases, tip, commits, pagesApplied, droppedBytes, problems, ...json },
    text: (style) =>
      `${style.strong(path)}: ${ok ? style.good("recovered") : style.bad("recovered, but not whole")}\n\n${
        pairs([
          ["case", cases.join(", ")],
          ["tip", count(tip)],
          ["commits found in the log", count(commits)],
          ["pages applied", counted(pagesApplied, "page")],
          ["dropped", byteSize(droppedBytes)],
          ...lines
        ], style)
      }${problemLines(problems, style)}`
  }
}

/**
 * How many pages of a log a recovery brings into the database file: those of its newest size, each once.
 *
 * @category reports
 * @since 0.1.0
 */
export const pagesAppliedOf = (
  { databasePages, live }: {
    readonly databasePages: number
    readonly live: ReadonlyArray<{ readonly pages: Uint32Array }>
  }
): number => {
  const pages = new Set<number>()
  for (const part of live) for (const page of part.pages) if (page <= databasePages) pages.add(page)
  return pages.size
}

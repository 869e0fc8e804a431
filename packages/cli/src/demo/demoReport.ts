/**
 * What the demo tells: the figures, and whether everything is as it should be.
 *
 * @since 0.1.0
 */
import { ExitCode } from "../ExitCode.ts"
import type { Report } from "../Report.ts"
import { count, counted, pairs, type Style } from "../Style.ts"
import type { DemoOptions, DemoResult } from "./runDemo.ts"

interface Figures {
  readonly log: string
  readonly writers: number
  readonly transactions: number
  readonly acknowledged: number
  readonly recovered: number
  readonly lost: number
  readonly duplicated: number
  readonly conflicts: number
  readonly retries: number
  readonly syncs: number
  readonly commitsPerSync: number
  readonly commitsPerSecond: number
  readonly sqliteCommitsPerSecond: number
  readonly speedup: number
  readonly integrityCheck: string
  readonly database: string | null
  readonly additions: number
  readonly acknowledgedBeforeKill: number
  readonly foundUnacknowledged: number
  readonly acknowledgedAfterKill: number
  readonly startUpCases: ReadonlyArray<string>
  readonly lostAdditions: number
  readonly differingRows: number
  readonly unknownTokens: number
  readonly sqliteIsSample: boolean
  readonly isInMemory: boolean
  readonly seed: number
}

const perSecond = (commits: number, seconds: number) => seconds > 0 ? commits / seconds : 0
const rounded = (value: number, digits: number) => Number(value.toFixed(digits))

const figuresOf = (options: DemoOptions, result: DemoResult): Figures => {
  const { first, recording, second, sqliteAlone, verification } = result
  const { additions, recorded } = recording.sizes
  const isRecorded = (index: number) => index < recorded
  const countRecorded = (indices: Iterable<number>) => [...indices].filter(isRecorded).length
  const foundUnacknowledged = [...(second?.found ?? [])].filter((index) => !first.acknowledged.has(index))
  const runs = second === undefined ? [first] : [first, second]
  const sum = (value: (run: (typeof runs)[number]) => number) => runs.reduce((total, run) => total + value(run), 0)
  const commits = sum((run) => run.acknowledged.size)
  const syncs = sum((run) => run.syncs)
  const commitsPerSecond = perSecond(commits, sum((run) => run.seconds))
  const sqliteCommitsPerSecond = perSecond(sqliteAlone.commits, sqliteAlone.seconds)
  return {
    log: options.log,
    writers: options.writers,
    transactions: recorded,
    acknowledged: countRecorded(
      new Set([...first.acknowledged, ...foundUnacknowledged, ...(second?.acknowledged ?? [])])
    ),
    recovered: countRecorded(second?.found ?? []),
    lost: new Set([...result.lostInRecovery, ...verification.lost]).size,
    duplicated: verification.duplicated,
    conflicts: sum((run) => run.conflicts),
    retries: sum((run) => run.retries),
    syncs,
    commitsPerSync: syncs === 0 ? 0 : rounded(commits / syncs, 2),
    commitsPerSecond: Math.round(commitsPerSecond),
    sqliteCommitsPerSecond: Math.round(sqliteCommitsPerSecond),
    speedup: sqliteCommitsPerSecond === 0 ? 0 : rounded(commitsPerSecond / sqliteCommitsPerSecond, 2),
    integrityCheck: verification.integrityCheck,
    database: result.database ?? null,
    additions,
    acknowledgedBeforeKill: countRecorded(first.acknowledged),
    foundUnacknowledged: countRecorded(foundUnacknowledged),
    acknowledgedAfterKill: countRecorded(second?.acknowledged ?? []),
    startUpCases: second?.startUpCases ?? [],
    lostAdditions: verification.lostAdditions,
    differingRows: verification.differingRows,
    unknownTokens: verification.unknownTokens,
    sqliteIsSample: sqliteAlone.isSample,
    isInMemory: result.isInMemory,
    seed: options.seed
  }
}

/** What is not as it should be, each as a part of a sentence. */
const faultsOf = (figures: Figures): ReadonlyArray<string> => {
  const faults: Array<readonly [boolean, string]> = [
    [figures.lost > 0, `${counted(figures.lost, "transaction")} lost`],
    [figures.duplicated > 0, `${count(figures.duplicated)} committed twice`],
    [figures.acknowledged !== figures.transactions, `only ${count(figures.acknowledged)} acknowledged`],
    [figures.lostAdditions !== 0, `the counters are ${count(Math.abs(figures.lostAdditions))} off`],
    [figures.differingRows > 0, `${counted(figures.differingRows, "row")} not as recorded`],
    [figures.unknownTokens > 0, `${counted(figures.unknownTokens, "unknown token")} in the ledger`],
    [figures.integrityCheck !== "ok", `integrity_check says "${figures.integrityCheck}"`]
  ]
  return faults.filter(([isFault]) => isFault).map(([, fault]) => fault)
}

/**
 * The report of a run.
 *
 * @category reports
 * @since 0.1.0
 */
export const reportOf = (options: DemoOptions, result: DemoResult): Report => {
  const figures = figuresOf(options, result)
  const faults = faultsOf(figures)
  return {
    exitCode: faults.length === 0 ? ExitCode.fine : ExitCode.problem,
    json: { ...figures },
    text: (style) => textOf(figures, faults, result, style)
  }
}

const textOf = (figures: Figures, faults: ReadonlyArray<string>, result: DemoResult, style: Style): string => {
  const isKilled = result.second !== undefined
  const verdict = faults.length === 0
    ? style.good("nothing lost, nothing twice")
    : style.bad(faults.join(", "))
  return [
    `${style.strong(isKilled ? "Committed, killed, recovered, committed the rest" : "Committed")}: ${verdict}\n\n`,
    pairs([
      [
        "transactions",
        `${count(figures.transactions)} that SQLite recorded, and ${
          counted(figures.additions, "read-modify-write")
        } on ${counted(result.recording.counterPages.length, "counter")}`
      ],
      ["writers", count(figures.writers)],
      ["log", figures.log],
      [
        "acknowledged",
        isKilled
          ? `${count(figures.acknowledged)}: ${count(figures.acknowledgedBeforeKill)} before the kill, ${
            count(figures.foundUnacknowledged)
          } found durable without, ${count(figures.acknowledgedAfterKill)} after`
          : count(figures.acknowledged)
      ],
      [
        "recovered after the kill",
        isKilled ? `${count(figures.recovered)} (${figures.startUpCases.join(", ")})` : "no kill"
      ],
      ["lost", count(figures.lost)],
      ["duplicated", count(figures.duplicated)],
      ["conflicts, retries", `${count(figures.conflicts)}, ${count(figures.retries)}`],
      ["syncs", `${count(figures.syncs)}, ${figures.commitsPerSync} commits each`],
      ["Tidemark", `${count(figures.commitsPerSecond)} commits/s`],
      [
        "SQLite alone",
        `${count(figures.sqliteCommitsPerSecond)} commits/s, one by one, synchronous=FULL${
          figures.sqliteIsSample ?
            ` (of ${count(result.sqliteAlone.commits)} commits in ${Math.round(result.sqliteAlone.seconds)} s)` :
            ""
        }`
      ],
      ["speedup", `${figures.speedup} x`],
      ["integrity_check", figures.integrityCheck],
      [
        "tables as recorded",
        figures.differingRows === 0 && figures.integrityCheck === "ok"
          ? "yes"
          : `no, ${counted(figures.differingRows, "row")} differ`
      ]
    ], style),
    figures.isInMemory
      ? "\nThe files were in memory, where a sync costs nothing; see --dir for a place on a disk.\n"
      : "",
    figures.database === null
      ? ""
      : `\nThe database is kept: sqlite3 ${figures.database} "SELECT count(*) FROM ledger"\n`
  ].join("")
}

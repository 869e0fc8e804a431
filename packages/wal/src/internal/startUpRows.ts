/**
 * The rows of the start-up table that both of Tidemark's own logs have in common, and what they are gathered in.
 *
 * @internal
 */
import { checkpointMarkPath } from "../CheckpointMarkFormat.ts"
import * as DatabaseHeaderFormat from "../DatabaseHeaderFormat.ts"
import { isHotJournal, journalPath } from "../JournalFormat.ts"
import { walPath } from "../SqliteWalFormat.ts"
import { type StartUpCase, startUpCases, type StartUpProblem } from "../StartUp.ts"
import {
  CheckpointMarkDamaged,
  DatabasePagesLost,
  HotJournal,
  MixedLogs,
  NotADatabase,
  NotWalMode,
  type StartUpRefusal,
  WalBaseDamaged,
  WalDamaged,
  WalHeaderLost,
  WalVersionUnknown,
  type WrongLogKind
} from "../StartUpErrors.ts"
import * as WalBaseFormat from "../WalBaseFormat.ts"
import { type MissingPages, problemOfPages } from "./missingPages.ts"
import type { FoundFiles } from "./startUpFiles.ts"

/** Both most severe first. */
export interface DecidedRows {
  readonly cases: ReadonlyArray<StartUpCase>
  readonly refusals: ReadonlyArray<StartUpRefusal>
}

/** The rows that apply, and the refusals in the order in which they are found. */
export class Rows {
  private readonly cases = new Set<StartUpCase>()
  private readonly refusals: Array<StartUpRefusal> = []

  add(row: StartUpCase): void {
    this.cases.add(row)
  }

  refuse(refusal: StartUpRefusal, row?: StartUpCase): void {
    this.refusals.push(refusal)
    if (row !== undefined) this.cases.add(row)
  }

  /** RC-01 applies when none of these rows says what the log is. */
  decide(saysWhatTheLogIs: ReadonlyArray<StartUpCase>): DecidedRows {
    if (!saysWhatTheLogIs.some((row) => this.cases.has(row))) this.cases.add("RC-01")
    return { cases: startUpCases.filter((row) => this.cases.has(row)), refusals: this.refusals }
  }
}

/** What comes before the log itself: what the database file is, and what other logs have left beside it. */
export const addFirstRows = (
  rows: Rows,
  found: FoundFiles,
  otherLog: WrongLogKind | MixedLogs | undefined
): void => {
  const { database, journal, mark, path, wal, walBase } = found
  const { header } = database
  // A journal comes first: before it is rolled back nothing that the database file says can be trusted.
  if (journal !== undefined && isHotJournal(journal)) rows.refuse(new HotJournal({ path: journalPath(path) }), "RC-24")
  if (otherLog !== undefined) rows.refuse(otherLog, otherLog instanceof MixedLogs ? "RC-20" : "RC-23")
  if (database.issue !== undefined) rows.refuse(new NotADatabase({ path, issue: database.issue }))
  if (header !== undefined && !DatabaseHeaderFormat.isWal(header) && !DatabaseHeaderFormat.isTidemarkLog(header)) {
    rows.refuse(new NotWalMode({ path, writeVersion: header.writeVersion, readVersion: header.readVersion }))
  }
  for (const refusal of refusalsOfWal(found)) rows.refuse(refusal)
  if (wal.issue !== undefined && !wal.isBlank) rows.add("RC-04")
  if (walBase.issue !== undefined) {
    rows.refuse(new WalBaseDamaged({ path: WalBaseFormat.walBasePath(path), issue: walBase.issue }))
  }
  if (mark.issue !== undefined) {
    rows.refuse(new CheckpointMarkDamaged({ path: checkpointMarkPath(path), issue: mark.issue }))
  }
}

/** A `-wal` that holds commits which cannot be counted. */
const refusalsOfWal = ({ path, wal }: FoundFiles): ReadonlyArray<StartUpRefusal> => {
  const file = walPath(path)
  const refusals: Array<StartUpRefusal> = []
  if (wal.issue?.code === "UnsupportedVersion") refusals.push(new WalVersionUnknown({ path: file, issue: wal.issue }))
  else if (wal.issue !== undefined && wal.carriesBaseSalts) {
    refusals.push(new WalHeaderLost({ path: file, issue: wal.issue }))
  }
  if (wal.scan?.damage !== undefined) {
    const { frame, lostCommits, lostEnd, offset } = wal.scan.damage
    refusals.push(
      new WalDamaged({
        path: file,
        frame,
        offset,
        keptCommits: wal.scan.commits,
        lostCommits,
        lostBytes: lostEnd - offset
      })
    )
  }
  return refusals
}

/** What comes after the log: pages that are nowhere, and files to be swept. */
export const addLastRows = (
  rows: Rows,
  { beside, database, path }: FoundFiles,
  missing: MissingPages,
  databasePages: number
): void => {
  if (database.fileBytes === 0 && missing.count > 0) {
    rows.refuse(
      new DatabasePagesLost({ path, databasePages, missingPages: missing.count, firstMissingPage: missing.first })
    )
  }
  if (beside.spills.length > 0) rows.add("RC-19")
  if (beside.temporaries.length > 0) rows.add("RC-25")
}

/** What is not as it should be. */
export class Problems {
  private readonly problems: Array<StartUpProblem> = []

  corrupt(path: string, offset: number, what: string): void {
    this.problems.push({ path, offset, what, severity: "corrupt" })
  }

  tail(path: string, offset: number, what: string): void {
    this.problems.push({ path, offset, what, severity: "tail" })
  }

  /** All of them, and what is wrong with the pages of the database file. */
  finish(
    { database, path }: FoundFiles,
    pageSize: number | undefined,
    databasePages: number,
    missing: MissingPages
  ): ReadonlyArray<StartUpProblem> {
    const problem = problemOfPages(path, pageSize, databasePages, database.fileBytes, missing)
    return problem === undefined ? this.problems : [...this.problems, problem]
  }
}

/** What is wrong with the files that have nothing to do with the log. */
export const addFirstProblems = (list: Problems, { mark, path, wal, walBase }: FoundFiles): void => {
  if (wal.issue !== undefined && (!wal.isBlank || wal.carriesBaseSalts)) {
    const what = `the header is unreadable (${wal.issue.message}), so the file counts as absent`
    if (wal.carriesBaseSalts) list.corrupt(walPath(path), wal.issue.offset, what)
    else list.tail(walPath(path), wal.issue.offset, what)
  }
  if (wal.scan?.damage !== undefined) {
    const { frame, lostCommits, offset } = wal.scan.damage
    list.corrupt(walPath(path), offset, `frame ${frame} is damaged; at least ${lostCommits} commits behind it are lost`)
  }
  if (walBase.issue !== undefined) {
    list.corrupt(WalBaseFormat.walBasePath(path), walBase.issue.offset, walBase.issue.message)
  }
  if (mark.issue !== undefined) list.corrupt(checkpointMarkPath(path), mark.issue.offset, mark.issue.message)
}

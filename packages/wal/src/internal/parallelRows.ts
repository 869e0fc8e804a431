/**
 * The rows of the start-up table that apply to a parallel log, the refusals among them, and what is not as it should be.
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { certificatesPath } from "../CertificateFormat.ts"
import { checkpointMarkPath } from "../CheckpointMarkFormat.ts"
import * as DatabaseHeaderFormat from "../DatabaseHeaderFormat.ts"
import { isHotJournal, journalPath } from "../JournalFormat.ts"
import type { ParallelStartUpOptions, UncertifiedSegment } from "../ParallelStartUp.ts"
import { walPath } from "../SqliteWalFormat.ts"
import { type StartUpCase, startUpCases, type StartUpProblem } from "../StartUp.ts"
import {
  CertificateChecksumMismatch,
  CertificateGap,
  CertificatesLost,
  CertifiedSegmentLost,
  CheckpointMarkDamaged,
  DatabasePagesLost,
  HotJournal,
  MixedLogs,
  NotADatabase,
  NotWalMode,
  PageSizeMismatch,
  type StartUpRefusal,
  WalBaseDamaged,
  WalDamaged,
  WalHeaderLost,
  WalVersionUnknown,
  WrongLogKind
} from "../StartUpErrors.ts"
import * as WalBaseFormat from "../WalBaseFormat.ts"
import { type MissingPages, problemOfPages } from "./missingPages.ts"
import type { Plan } from "./parallelPlan.ts"
import { type FoundFiles, hasCommits, liveCertificates } from "./startUpFiles.ts"
import type { Replay } from "./startUpSegments.ts"

/** @internal The rows that apply and the refusals among them, both most severe first. */
export const decideRows = (
  found: FoundFiles,
  plan: Plan,
  replay: Replay,
  missing: MissingPages,
  databasePages: number,
  options: ParallelStartUpOptions
): { readonly cases: ReadonlyArray<StartUpCase>; readonly refusals: ReadonlyArray<StartUpRefusal> } => {
  const { beside, database, journal, mark, path, wal, walBase } = found
  const { header } = database
  const cases = new Set<StartUpCase>()
  const refusals: Array<StartUpRefusal> = []
  const refuse = (refusal: StartUpRefusal, row?: StartUpCase) => {
    refusals.push(refusal)
    if (row !== undefined) cases.add(row)
  }

  // A journal comes first: before it is rolled back nothing that the database file says can be trusted.
  if (journal !== undefined && isHotJournal(journal)) refuse(new HotJournal({ path: journalPath(path) }), "RC-24")
  const otherLog = otherLogWithCommits(found)
  if (otherLog !== undefined) refuse(otherLog, otherLog instanceof MixedLogs ? "RC-20" : "RC-23")
  if (database.issue !== undefined) refuse(new NotADatabase({ path, issue: database.issue }))
  if (header !== undefined && !DatabaseHeaderFormat.isWal(header) && !DatabaseHeaderFormat.isTidemarkLog(header)) {
    refuse(new NotWalMode({ path, writeVersion: header.writeVersion, readVersion: header.readVersion }))
  }
  for (const refusal of refusalsOfWal(found)) refuse(refusal)
  if (wal.issue !== undefined && !wal.isBlank) cases.add("RC-04")
  if (walBase.issue !== undefined) {
    refuse(new WalBaseDamaged({ path: WalBaseFormat.walBasePath(path), issue: walBase.issue }))
  }
  if (mark.issue !== undefined) {
    refuse(new CheckpointMarkDamaged({ path: checkpointMarkPath(path), issue: mark.issue }))
  }
  for (const refusal of refusalsOfCertificates(found, plan)) refuse(refusal, "RC-10")
  if (found.certificates === undefined) {
    const lost = lostCertificates(found, plan)
    if (lost !== undefined) cases.add("RC-11")
    if (lost !== undefined && options.trustSegments !== true && options.discardSegments !== true) refuse(lost)
  } else {
    for (const row of rowsOfOrphans(found, plan)) cases.add(row)
    if (found.certificates.tornBytes > 0) cases.add("RC-09")
  }
  if (replay.loss instanceof PageSizeMismatch) cases.add("RC-05")
  else if (plan.live.some(hasCommits)) cases.add(replay.loss === undefined ? "RC-06" : "RC-08")
  if (replay.loss !== undefined && !isAccepted(replay.loss, options)) refuse(replay.loss)
  if (database.fileBytes === 0 && missing.count > 0) {
    refuse(
      new DatabasePagesLost({ path, databasePages, missingPages: missing.count, firstMissingPage: missing.first })
    )
  }
  if (plan.removable.length > 0) cases.add("RC-21")
  if (beside.spills.length > 0) cases.add("RC-19")
  if (beside.temporaries.length > 0) cases.add("RC-25")
  if (!saysWhatTheLogIs.some((row) => cases.has(row))) cases.add("RC-01")
  return { cases: startUpCases.filter((row) => cases.has(row)), refusals }
}

/** @internal Whether a loss is accepted. A log of another database never is. */
export const isAccepted = (loss: NonNullable<Replay["loss"]>, { stopAtCorrupt }: ParallelStartUpOptions): boolean =>
  stopAtCorrupt === true && !(loss instanceof PageSizeMismatch)

/** One of these, or RC-01. */
const saysWhatTheLogIs: ReadonlyArray<StartUpCase> = ["RC-05", "RC-06", "RC-08", "RC-10", "RC-11", "RC-20", "RC-23"]

/**
 * A log of another kind whose commits are not in the database file (RC-20, RC-23). Frames of an old generation count as
 * well, though they are in the database file: left beside it they would be copied over what is committed now.
 */
const otherLogWithCommits = (found: FoundFiles): WrongLogKind | MixedLogs | undefined => {
  const { beside, path, wal } = found
  const walCommits = wal.scan?.commits ?? 0
  const isCertified = liveCertificates(found).some(hasCommits)
  if (walCommits > 0) {
    return isCertified
      ? new MixedLogs({ path, found: "parallel", walCommits, checkpointedThrough: undefined })
      : new WrongLogKind({ path, found: "sqlite" })
  }
  return saysTidemarkLog(found) && !isCertified && beside.hasMarkers
    ? new WrongLogKind({ path, found: "native" })
    : undefined
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

const refusalsOfCertificates = ({ certificates, path }: FoundFiles, { gap }: Plan): ReadonlyArray<StartUpRefusal> => {
  if (certificates === undefined) return []
  const file = certificatesPath(path)
  const { damage, headerIssue } = certificates
  const refusals: Array<StartUpRefusal> = []
  const refusalOf = (offset: number, issue: FormatIssue) => ({
    path: file,
    offset,
    found: issue.found,
    expected: issue.expected,
    issue
  })
  // A log appears under its name as a whole: no crash leaves one without its header.
  if (headerIssue !== undefined) refusals.push(new CertificateChecksumMismatch(refusalOf(0, headerIssue)))
  if (damage !== undefined) {
    const fields = refusalOf(damage.offset, damage.issue)
    refusals.push(
      damage.kind === "CertificateGap" ? new CertificateGap(fields) : new CertificateChecksumMismatch(fields)
    )
  }
  if (gap !== undefined) refusals.push(new CertificateGap(refusalOf(gap.offset, gap.issue)))
  return refusals
}

/** The certificate log is there before the first segment, and before the header of the database says 3 (RC-11). */
const lostCertificates = (found: FoundFiles, { orphans }: Plan): CertificatesLost | undefined => {
  const { beside, path } = found
  if (orphans.length === 0 && (!saysTidemarkLog(found) || beside.hasMarkers)) return undefined
  return new CertificatesLost({
    path: certificatesPath(path),
    segments: orphans.length,
    firstEpoch: orphans[0]?.epoch,
    lastEpoch: orphans.at(-1)?.epoch
  })
}

/** RC-07, RC-22: as long as it is known which certificates there are. */
const rowsOfOrphans = ({ certificates, mark }: FoundFiles, { orphans }: Plan): ReadonlyArray<StartUpCase> => {
  if (certificates === undefined || certificates.headerIssue !== undefined || certificates.damage !== undefined) {
    return []
  }
  const last = certificates.certificates.at(-1)?.certificate.segmentEpoch ?? mark.value?.segmentEpoch
  return orphans.map(({ epoch }) => last === undefined || epoch > last ? "RC-07" : "RC-22")
}

const saysTidemarkLog = ({ database: { header } }: FoundFiles): boolean =>
  header !== undefined && DatabaseHeaderFormat.isTidemarkLog(header)

/** @internal What is not as it should be. */
export const listProblems = (
  found: FoundFiles,
  plan: Plan,
  replay: Replay,
  uncertified: ReadonlyArray<UncertifiedSegment>,
  missing: MissingPages,
  databasePages: number
): ReadonlyArray<StartUpProblem> => {
  const { certificates, database, mark, path, wal, walBase } = found
  const problems: Array<StartUpProblem> = []
  const corrupt = (file: string, offset: number, what: string) =>
    problems.push({ path: file, offset, what, severity: "corrupt" })
  const tail = (file: string, offset: number, what: string) =>
    problems.push({ path: file, offset, what, severity: "tail" })

  if (wal.issue !== undefined && (!wal.isBlank || wal.carriesBaseSalts)) {
    const add = wal.carriesBaseSalts ? corrupt : tail
    add(
      walPath(path),
      wal.issue.offset,
      `the header is unreadable (${wal.issue.message}), so the file counts as absent`
    )
  }
  if (wal.scan?.damage !== undefined) {
    const { frame, lostCommits, offset } = wal.scan.damage
    corrupt(walPath(path), offset, `frame ${frame} is damaged; at least ${lostCommits} commits behind it are lost`)
  }
  if (walBase.issue !== undefined) corrupt(WalBaseFormat.walBasePath(path), walBase.issue.offset, walBase.issue.message)
  if (mark.issue !== undefined) corrupt(checkpointMarkPath(path), mark.issue.offset, mark.issue.message)
  if (certificates !== undefined) {
    const file = certificatesPath(path)
    const issues = [certificates.headerIssue, certificates.damage?.issue, plan.gap?.issue]
    for (const issue of issues) if (issue !== undefined) corrupt(file, issue.offset, issue.message)
    if (certificates.tornBytes > 0) {
      tail(
        file,
        certificates.validBytes,
        `${certificates.tornBytes} bytes are of a certificate that was never finished`
      )
    }
  }
  for (const { path: file, readable } of uncertified) {
    tail(
      file,
      0,
      `no certificate names this segment${readable ? "" : ", which is unreadable"}: it was never acknowledged`
    )
  }
  if (replay.loss !== undefined) corrupt(replay.loss.path, offsetOf(replay.loss), replay.loss.message)
  const problem = problemOfPages(path, replay.pageSize, databasePages, database.fileBytes, missing)
  return problem === undefined ? problems : [...problems, problem]
}

const offsetOf = (loss: NonNullable<Replay["loss"]>): number =>
  loss instanceof PageSizeMismatch
    ? loss.imageOffset ?? 0
    : loss instanceof CertifiedSegmentLost
    ? 0
    : loss.issue.offset

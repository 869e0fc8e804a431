/**
 * The rows of the start-up table that apply to a parallel log, the refusals among them, and what is not as it should be.
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { certificatesPath } from "../CertificateFormat.ts"
import type { ParallelStartUpOptions, UncertifiedSegment } from "../ParallelStartUp.ts"
import type { StartUpCase, StartUpProblem } from "../StartUp.ts"
import {
  CertificateChecksumMismatch,
  CertificateGap,
  CertificatesLost,
  CertifiedSegmentLost,
  MixedLogs,
  type OtherLogKind,
  PageSizeMismatch,
  type StartUpRefusal,
  WrongLogKind
} from "../StartUpErrors.ts"
import type { MissingPages } from "./missingPages.ts"
import type { Plan } from "./parallelPlan.ts"
import { type FoundFiles, hasCommits, liveCertificates, saysTidemarkLog } from "./startUpFiles.ts"
import { addFirstProblems, addFirstRows, addLastRows, type DecidedRows, Problems, Rows } from "./startUpRows.ts"
import type { Replay } from "./startUpSegments.ts"

/** @internal The rows that apply and the refusals among them, both most severe first. */
export const decideRows = (
  found: FoundFiles,
  plan: Plan,
  replay: Replay,
  missing: MissingPages,
  databasePages: number,
  options: ParallelStartUpOptions
): DecidedRows => {
  const rows = new Rows()
  addFirstRows(rows, found, otherLogWithCommits(found))
  for (const refusal of refusalsOfCertificates(found, plan)) rows.refuse(refusal, "RC-10")
  if (found.certificates === undefined) {
    const lost = lostCertificates(found, plan)
    if (lost !== undefined) rows.add("RC-11")
    if (lost !== undefined && options.trustSegments !== true && options.discardSegments !== true) rows.refuse(lost)
  } else {
    for (const row of rowsOfOrphans(found, plan)) rows.add(row)
    if (found.certificates.tornBytes > 0) rows.add("RC-09")
  }
  if (replay.loss instanceof PageSizeMismatch) rows.add("RC-05")
  else if (plan.live.some(hasCommits)) rows.add(replay.loss === undefined ? "RC-06" : "RC-08")
  if (replay.loss !== undefined && !isAccepted(replay.loss, options)) rows.refuse(replay.loss)
  if (plan.removable.length > 0) rows.add("RC-21")
  addLastRows(rows, found, missing, databasePages)
  return rows.decide(saysWhatTheLogIs)
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
  const { certificates, markers, path, wal } = found
  const walCommits = wal.scan?.commits ?? 0
  const isCertified = liveCertificates(found).some(hasCommits)
  const isNative = markers?.hasCommits === true
  const mixed = (other: OtherLogKind) =>
    new MixedLogs({ path, found: other, walCommits, checkpointedThrough: undefined })
  if (walCommits > 0) {
    return isCertified || isNative
      ? mixed(isCertified ? "parallel" : "native")
      : new WrongLogKind({ path, found: "sqlite" })
  }
  if (isNative) return isCertified ? mixed("native") : new WrongLogKind({ path, found: "native" })
  // With a certificate log there is nothing that the database could mean but what is in it.
  return saysTidemarkLog(found) && certificates === undefined && markers !== undefined
    ? new WrongLogKind({ path, found: "native" })
    : undefined
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
  const { markers, path } = found
  if (orphans.length === 0 && (!saysTidemarkLog(found) || markers !== undefined)) return undefined
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

/** @internal What is not as it should be. */
export const listProblems = (
  found: FoundFiles,
  plan: Plan,
  replay: Replay,
  uncertified: ReadonlyArray<UncertifiedSegment>,
  missing: MissingPages,
  databasePages: number
): ReadonlyArray<StartUpProblem> => {
  const { certificates, path } = found
  const list = new Problems()
  addFirstProblems(list, found)
  if (certificates !== undefined) {
    const file = certificatesPath(path)
    const issues = [certificates.headerIssue, certificates.damage?.issue, plan.gap?.issue]
    for (const issue of issues) if (issue !== undefined) list.corrupt(file, issue.offset, issue.message)
    if (certificates.tornBytes > 0) {
      list.tail(
        file,
        certificates.validBytes,
        `${certificates.tornBytes} bytes are of a certificate that was never finished`
      )
    }
  }
  for (const { path: file, readable } of uncertified) {
    list.tail(
      file,
      0,
      `no certificate names this segment${readable ? "" : ", which is unreadable"}: it was never acknowledged`
    )
  }
  if (replay.loss !== undefined) list.corrupt(replay.loss.path, offsetOf(replay.loss), replay.loss.message)
  return list.finish(found, replay.pageSize, databasePages, missing)
}

const offsetOf = (loss: NonNullable<Replay["loss"]>): number =>
  loss instanceof PageSizeMismatch
    ? loss.imageOffset ?? 0
    : loss instanceof CertifiedSegmentLost
    ? 0
    : loss.issue.offset

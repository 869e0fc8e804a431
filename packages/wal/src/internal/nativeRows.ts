/**
 * The rows of the start-up table that apply to a native log, the refusals among them, and what is not as it should be.
 */
import type { NativeStartUpOptions } from "../NativeStartUp.ts"
import type { StartUpCase, StartUpProblem } from "../StartUp.ts"
import {
  CapsuleLost,
  DatabasePagesLost,
  MixedLogs,
  type OtherLogKind,
  PageSizeMismatch,
  WrongLogKind
} from "../StartUpErrors.ts"
import type { MissingPages } from "./missingPages.ts"
import type { NativePlan } from "./nativePlan.ts"
import { makePlan } from "./parallelPlan.ts"
import type { CapsuleReplay, LeftOver } from "./startUpCapsules.ts"
import { type FoundFiles, hasCommits, liveCertificates, saysTidemarkLog } from "./startUpFiles.ts"
import { addFirstProblems, addFirstRows, addLastRows, type DecidedRows, Problems, Rows } from "./startUpRows.ts"

/** @internal What {@link decideNativeRows} and {@link listNativeProblems} judge. */
export interface NativeFindings {
  readonly found: FoundFiles
  readonly plan: NativePlan
  readonly replay: CapsuleReplay
  readonly leftOver: LeftOver
  readonly missing: MissingPages
  readonly databasePages: number
}

/** One of these, or RC-01. */
const saysWhatTheLogIs: ReadonlyArray<StartUpCase> = ["RC-05", "RC-06", "RC-15", "RC-20", "RC-23", "RC-26"]

/** @internal The rows that apply and the refusals among them, both most severe first. */
export const decideNativeRows = (findings: NativeFindings): DecidedRows => {
  const { databasePages, found, leftOver, missing, plan, replay } = findings
  const rows = new Rows()
  addFirstRows(rows, found, otherLogWithCommits(found, plan))
  const { loss } = replay
  if (loss !== undefined) rows.refuse(loss, loss instanceof PageSizeMismatch ? "RC-05" : "RC-15")
  if (plan.damage !== undefined) rows.add("RC-26")
  else if (loss === undefined && plan.live.length > 0) rows.add("RC-06")
  if ((found.markers?.scan.tornBytes ?? 0) > 0) rows.add("RC-14")
  if (leftOver.orphans.length > 0) rows.add("RC-16")
  if (leftOver.removable.length > 0) rows.add("RC-21")
  // Page 1 was in the database file before the stream was begun: an empty one has lost what was there.
  if (found.database.fileBytes === 0 && found.markers !== undefined && replay.pageSize === undefined) {
    const pages = Math.max(1, databasePages)
    rows.refuse(
      new DatabasePagesLost({ path: found.path, databasePages: pages, missingPages: pages, firstMissingPage: 1 })
    )
  }
  addLastRows(rows, found, missing, databasePages)
  return rows.decide(saysWhatTheLogIs)
}

/** @internal Whether nothing may be committed: there is damage, and it was not accepted. */
export const isReadOnly = ({ damage }: NativePlan, { acceptLoss }: NativeStartUpOptions): boolean =>
  damage !== undefined && acceptLoss !== true

/**
 * A log of another kind whose commits are not in the database file (RC-20, RC-23). Frames of an old generation count as
 * well, though they are in the database file: left beside it they would be copied over what is committed now.
 */
const otherLogWithCommits = (found: FoundFiles, plan: NativePlan): WrongLogKind | MixedLogs | undefined => {
  const { beside, certificates, markers, path, wal } = found
  const walCommits = wal.scan?.commits ?? 0
  const isCertified = liveCertificates(found).some(hasCommits)
  const isNative = markers?.hasCommits === true
  const mixed = (other: OtherLogKind) =>
    new MixedLogs({ path, found: other, walCommits, checkpointedThrough: undefined })
  const wrong = (other: OtherLogKind) => new WrongLogKind({ path, found: other })
  if (walCommits > 0) return isNative || isCertified ? mixed(isNative ? "native" : "parallel") : wrong("sqlite")
  if (isCertified) return isNative ? mixed("parallel") : wrong("parallel")
  if (plan.overlapped !== undefined) return mixed(plan.overlapped)
  if (isNative || !saysTidemarkLog(found)) return undefined
  // The stream is there before the database says that its newest commits are in a log of Tidemark's own: where nothing
  // is above the mark, the log that it means must be this one, or have lost nothing either.
  if (markers === undefined) return wrong(beside.hasParallelFiles ? "parallel" : "unknown")
  return certificates === undefined && makePlan(found, {}).orphans.length > 0 ? wrong("parallel") : undefined
}

/** @internal What is not as it should be. */
export const listNativeProblems = (findings: NativeFindings): ReadonlyArray<StartUpProblem> => {
  const { databasePages, found, leftOver, missing, plan, replay } = findings
  const { markers } = found
  const list = new Problems()
  addFirstProblems(list, found)
  if (markers?.oldDamage !== undefined) {
    const { issue, offset, path } = markers.oldDamage
    list.corrupt(path, offset, `${issue.message}; the commit is in the database file`)
  }
  if (plan.damage !== undefined) {
    const { damage } = plan.damage
    list.corrupt(damage.path, damage.offset, plan.damage.message)
  }
  const tornIn = markers?.scan.segments.at(-1)
  if (markers !== undefined && tornIn !== undefined && markers.scan.tornBytes > 0) {
    const { tornBytes } = markers.scan
    list.tail(tornIn.path, tornIn.bytes - tornBytes, `${tornBytes} bytes are of markers that were never finished`)
  }
  for (const { path, token } of leftOver.orphans) {
    list.tail(
      path,
      0,
      `no marker names this capsule${token === undefined ? ", which is not whole" : ""}: it was never acknowledged`
    )
  }
  const { loss } = replay
  if (loss !== undefined) list.corrupt(loss.path, loss instanceof CapsuleLost ? 0 : loss.imageOffset ?? 0, loss.message)
  return list.finish(found, replay.pageSize, databasePages, missing)
}

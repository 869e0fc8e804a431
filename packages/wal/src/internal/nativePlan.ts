/**
 * What the marker stream, the checkpoint mark and the other logs say of a native log, before a capsule is read.
 */
import { FormatIssue } from "@tidemark/core/BinaryFormat"
import type { CommitSeq } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import { MarkersDamaged } from "../MarkerErrors.ts"
import type { Marker } from "../MarkerFormat.ts"
import type { MarkerDamage } from "../MarkerStore.ts"
import type { NativeTipSource } from "../NativeStartUp.ts"
import { tipAtOpen, type TipSource } from "../StartUp.ts"
import { type FoundFiles, saysTidemarkLog, usedByParallel } from "./startUpFiles.ts"

/** @internal */
export interface NativePlan {
  /** Of the mark; 0 when there is none. */
  readonly through: CommitSeq
  /** The markers of commits above the mark that count, in their order. */
  readonly live: ReadonlyArray<Marker>
  readonly tip: CommitSeq
  readonly tipSource: NativeTipSource
  readonly base: CommitSeq
  /** RC-26. */
  readonly damage: MarkersDamaged | undefined
  /** The log that has used sequences of the live commits as well (invariant 5 of `NativeStartUp.ts`). */
  readonly overlapped: "sqlite" | "parallel" | undefined
}

/** @internal */
export const makeNativePlan = (found: FoundFiles): NativePlan => {
  const { mark, markers, wal, walBase } = found
  const through = mark.value?.through ?? toCommitSeq(0n)
  const before = tipAtOpen(walBase.value, wal.header, wal.scan?.commits ?? 0, usedByParallel(found))
  if (markers === undefined) {
    return { through, live: [], ...before, base: before.tip, damage: undefined, overlapped: undefined }
  }
  // Without the mark it is not known which of them are history.
  const live = mark.issue === undefined ? markers.live : []
  const damage = mark.issue === undefined ? markers.scan.damage ?? endsBeforeMark(found, through) : undefined
  // The commits of a log that has some begin above everything that was used before it, whatever became of the WAL since.
  const goesOn = live.length > 0 || markers.used >= before.tip
  const tip = goesOn ? toCommitSeq(markers.used) : before.tip
  const first = live[0]
  return {
    through,
    live,
    tip,
    tipSource: goesOn ? "marker" : before.tipSource,
    base: first === undefined ? tip : toCommitSeq(first.seq - 1n),
    damage: damage === undefined
      ? undefined
      : new MarkersDamaged({ damage, last: live.at(-1)?.seq ?? mark.value?.through }),
    overlapped: first === undefined ? undefined : overlappedBy(found, first, before)
  }
}

/**
 * A native checkpoint wrote down a commit that the stream does not have, and the database says that there are newer ones:
 * the end of the stream is lost. The mark may also name what a log of another kind has used: the native one then had
 * nothing of its own to check point.
 */
const endsBeforeMark = (found: FoundFiles, through: CommitSeq): MarkerDamage | undefined => {
  const { certificates, mark, markers, wal, walBase } = found
  if (markers === undefined || mark.value?.kind !== "native" || markers.used >= through || !saysTidemarkLog(found)) {
    return undefined
  }
  const usedByCertificates = usedByParallel({ certificates, mark: { value: undefined, issue: undefined } })
  const others = tipAtOpen(walBase.value, wal.header, wal.scan?.commits ?? 0, usedByCertificates)
  if (others.tip >= through) return undefined
  const { scan } = markers
  const last = scan.segments.at(-1)
  if (last === undefined) return undefined
  const offset = last.bytes - scan.tornBytes
  const issue = new FormatIssue({
    format: "marker stream",
    code: "EndsBeforeMark",
    field: "end",
    offset,
    found: `after commit ${markers.used}`,
    expected: `after commit ${through}, which the checkpoint mark names, or a later one`
  })
  return { path: last.path, offset, issue, recordsBehind: 0, couldBeTorn: false }
}

const overlappedBy = (
  { certificates, mark, wal }: FoundFiles,
  first: Marker,
  before: { readonly tip: CommitSeq; readonly tipSource: TipSource }
): NativePlan["overlapped"] => {
  if (usedByParallel({ certificates, mark }) >= first.seq) return "parallel"
  // Of a WAL that somebody has removed it is not known how far it went, only how far it can have gone; and beside commits
  // in the `-wal`, which are refused, which came first.
  if (before.tipSource === "foreign" || (wal.scan?.commits ?? 0) > 0) return undefined
  return before.tip >= first.seq ? "sqlite" : undefined
}

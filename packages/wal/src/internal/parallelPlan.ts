/**
 * What the names of files, the certificates and the checkpoint mark say of a parallel log, before a segment is read.
 */
import { FormatIssue } from "@tidemark/core/BinaryFormat"
import type { CommitSeq, WalEpoch } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import type { ScannedCertificate } from "../CertificateFormat.ts"
import type { ParallelStartUpOptions, ParallelTipSource } from "../ParallelStartUp.ts"
import type { SegmentFile } from "../SegmentStore.ts"
import { tipAtOpen, type TipSource } from "../StartUp.ts"
import { type FoundFiles, hasCommits, liveCertificates, usedByNative } from "./startUpFiles.ts"

/** @internal */
export interface Plan {
  /** Certificates above the mark, those of aborted intervals too. */
  readonly live: ReadonlyArray<ScannedCertificate>
  /** Segments above the mark that no certificate names. */
  readonly orphans: ReadonlyArray<SegmentFile>
  /** Whether they are replayed: there is no certificate log, and it was asked for (RC-11). */
  readonly isTrusting: boolean
  readonly removable: ReadonlyArray<SegmentFile>
  readonly tip: CommitSeq
  readonly tipSource: ParallelTipSource
  readonly base: CommitSeq
  /** The certificates above the mark do not begin where they have to (invariant 4 of `ParallelStartUp.ts`). */
  readonly gap: { readonly offset: number; readonly issue: FormatIssue } | undefined
}

/** @internal */
export const makePlan = (found: FoundFiles, options: ParallelStartUpOptions): Plan => {
  const { beside, certificates, mark, wal, walBase } = found
  const live = liveCertificates(found)
  const replayed = new Set(live.filter(hasCommits).map(({ certificate }) => certificate.segmentEpoch))
  const certified = new Set(
    certificates?.certificates.filter(hasCommits).map(({ certificate }) => certificate.segmentEpoch)
  )
  const isDone = (epoch: WalEpoch) =>
    certified.has(epoch) || (mark.value !== undefined && epoch <= mark.value.segmentEpoch)
  const rest = beside.segments.filter(({ epoch }) => !replayed.has(epoch))

  const walCommits = wal.scan?.commits ?? 0
  const before = tipAtOpen(walBase.value, wal.header, walCommits, usedByNative(found))
  const last = certificates?.certificates.at(-1)?.certificate
  // The commits of a log that has some begin above everything that was used before it, whatever became of the WAL since.
  const goesOn = last !== undefined && (replayed.size > 0 || last.high >= before.tip)
  const tip = goesOn ? last.high : before.tip
  const first = live[0]?.certificate
  return {
    live,
    orphans: rest.filter(({ epoch }) => !isDone(epoch)),
    isTrusting: certificates === undefined && options.trustSegments === true,
    removable: rest.filter(({ epoch }) => isDone(epoch)),
    tip,
    tipSource: goesOn ? "certificate" : before.tipSource,
    base: goesOn && first !== undefined ? toCommitSeq(first.low - 1n) : tip,
    // Beside commits in the `-wal`, which are refused, it is not known which came first.
    gap: walCommits > 0 ? undefined : gapBefore(live, before)
  }
}

const gapBefore = (
  live: ReadonlyArray<ScannedCertificate>,
  { tip, tipSource }: { readonly tip: CommitSeq; readonly tipSource: TipSource }
): Plan["gap"] => {
  const gap = (code: string, { certificate, offset }: ScannedCertificate) => ({
    offset,
    issue: new FormatIssue({
      format: "certificate",
      code,
      field: "low",
      offset,
      found: `${certificate.low}`,
      expected: `${tip + 1n}`
    })
  })
  const first = live[0]
  const firstCommits = live.find(hasCommits)
  if (first === undefined || firstCommits === undefined) return undefined
  if (first.certificate.low > tip + 1n) return gap("Gap", first)
  // Of a WAL that somebody has removed it is not known how far it went, only how far it can have gone.
  return firstCommits.certificate.low <= tip && tipSource !== "foreign" ? gap("Overlap", firstCommits) : undefined
}

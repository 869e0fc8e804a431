/**
 * What a database with a parallel log is found to be at open: which rows of the start-up table apply (section 10 of
 * `formats.md`), which segments are to be replayed, what is refused, and where the sequence of commits stands.
 *
 * **Details**
 *
 * 1. Nothing is written: the opener, `verify` and `inspect` see the same thing, and look as often as they like.
 * 2. A refusal is an answer, not a failure: what was found is answered beside it. The effect fails only when a file
 *    cannot be read.
 * 3. What counts is what a certificate above the checkpoint mark vouches for, all of it or nothing: each such segment
 *    is there and is, byte for byte, what was certified (RC-06), or the start is refused (RC-08).
 * 4. The certificates above the mark begin where the mark, or the log of the other kind that wrote last, has ended. If
 *    they begin later, certificates are missing; if they begin earlier, two histories are mixed (RC-10).
 * 5. A sequence that has been used is not used again, whichever log has used it (section 2.1).
 *
 * Locks are not looked at: whether somebody else has the database open is for the opener, who takes them (SWAL-10).
 *
 * @since 0.1.0
 */
import type { CommitSeq, WalEpoch } from "@tidemark/core/Scalars"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import type { CertificateScan } from "./CertificateFormat.ts"
import type { CheckpointMark } from "./CheckpointMarkFormat.ts"
import { missingPages } from "./internal/missingPages.ts"
import { makePlan } from "./internal/parallelPlan.ts"
import { decideRows, isAccepted, listProblems } from "./internal/parallelRows.ts"
import {
  type FoundFiles,
  hasCommits,
  liveCertificates,
  ownLog,
  pagesOfFile,
  readFiles,
  saysTidemarkLog
} from "./internal/startUpFiles.ts"
import { readUncertified, replayCertified, replayTrusted } from "./internal/startUpSegments.ts"
import type { StartUpExamination, StartUpProblem, TipSource } from "./StartUp.ts"

/**
 * A segment whose commits count and are not in the database file.
 *
 * **Details**
 *
 * The three arrays have one entry for each record that is applied (it has an end sequence, and an after image), in
 * recovery order, so that the last one of a page wins.
 *
 * @category models
 * @since 0.1.0
 */
export interface LiveSegment {
  readonly path: string
  readonly epoch: WalEpoch
  /** Size of the file. */
  readonly bytes: number
  /** The interval of its commits, both included. */
  readonly low: CommitSeq
  readonly high: CommitSeq
  /** Pages of the database after it. */
  readonly databasePages: number
  readonly pages: Uint32Array
  /** Each is in the interval, none is below the one before it. */
  readonly seqs: BigUint64Array
  /** Where the after image starts in the file. It is as long as a page. */
  readonly offsets: Float64Array
}

/**
 * A segment that was never acknowledged (RC-07, RC-22). It may go after the next checkpoint.
 *
 * @category models
 * @since 0.1.0
 */
export interface UncertifiedSegment {
  readonly path: string
  readonly epoch: WalEpoch
  readonly readable: boolean
  /** The sequences that its records have used; `undefined` when it has none or cannot be read. */
  readonly low: CommitSeq | undefined
  readonly high: CommitSeq | undefined
}

/**
 * How the sequence of the last commit was found: by a rule of {@link TipSource}, by the last certificate, or by segments
 * that were trusted.
 *
 * @category models
 * @since 0.1.0
 */
export type ParallelTipSource = TipSource | "certificate" | "trusted-segments"

/**
 * @category models
 * @since 0.1.0
 */
export interface ParallelStartUpOptions {
  /**
   * Where a segment with acknowledged commits is lost, keep what is before it instead of refusing (RC-08). The same for
   * a segment that is trusted. Default false.
   */
  readonly stopAtCorrupt?: boolean | undefined
  /**
   * Where there is no certificate log, replay every segment above the mark (RC-11): for files of FrankenSQLite. Goes
   * before `discardSegments`. Default false.
   */
  readonly trustSegments?: boolean | undefined
  /** Where there is no certificate log, take every segment above the mark for one that was never acknowledged. Default false. */
  readonly discardSegments?: boolean | undefined
}

/**
 * What {@link examineParallel} found.
 *
 * @category models
 * @since 0.1.0
 */
export interface ParallelExamination extends StartUpExamination {
  /** `undefined` when there is none, or when it does not check. */
  readonly mark: CheckpointMark | undefined
  /** `undefined` when there is no certificate log. */
  readonly certificates: CertificateScan | undefined
  /**
   * The last sequence that is used: never given out again, even when its commit is lost or was aborted. An opener goes on
   * with the next one.
   */
  readonly tip: CommitSeq
  readonly tipSource: ParallelTipSource
  /** The last sequence before the first interval above the mark; the tip when no certificate counts any more. */
  readonly base: CommitSeq
  /** What is to be replayed, in this order. Without any the database file is all there is. */
  readonly live: ReadonlyArray<LiveSegment>
  readonly uncertified: ReadonlyArray<UncertifiedSegment>
  /** Segments at or below the mark (RC-21), for the holder of the coordinator's lock to remove. */
  readonly removable: ReadonlyArray<string>
  /** Spill files (RC-19) and temporary files (RC-25), for the holder of the coordinator's lock to remove. */
  readonly sweepable: ReadonlyArray<string>
  /** The segment that could not be replayed and all later ones, there or not. */
  readonly lost: ReadonlyArray<string>
  /** A loss was accepted with `stopAtCorrupt`: nothing is committed before a checkpoint. */
  readonly isReadOnly: boolean
  /** Of segment names (readable or not), certificates and the mark: the next epoch is above it. `undefined`: there was none. */
  readonly highestEpoch: WalEpoch | undefined
  /** Of certificates and the mark: the next certificate epoch is above it. 0 when there was none. */
  readonly lastCertificateEpoch: bigint
  readonly problems: ReadonlyArray<StartUpProblem>
  /** Bytes of the certificate log behind its last certificate, up to the last one that is not zero (RC-09). */
  readonly tornTailBytes: number
}

/**
 * Looks at a database and everything beside it, and says what a start with the parallel log would do. Writes nothing.
 *
 * **Details**
 *
 * Segments that count, and those that were never acknowledged, are read as a whole, one at a time; what is kept of one
 * are 20 bytes per record.
 *
 * **Example** (What would be replayed)
 *
 * ```ts
 * import { Vfs } from "@tidemark/platform/Vfs"
 * import { examineParallel } from "@tidemark/wal/ParallelStartUp"
 * import * as Effect from "effect/Effect"
 *
 * const replayed = (path: string) =>
 *   Effect.gen(function*() {
 *     const found = yield* examineParallel(yield* Vfs, path)
 *     if (found.refusal !== undefined) return yield* found.refusal
 *     return found.live.map(({ high, low, path }) => `${path}: commits ${low} to ${high}`)
 *   })
 * ```
 *
 * @category recovery
 * @since 0.1.0
 */
export const examineParallel = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  options: ParallelStartUpOptions = {}
): Effect.fn.Return<ParallelExamination, VfsError> {
  const found = yield* readFiles(vfs, database)
  const plan = makePlan(found, options)
  const { certificates, mark } = found
  const pageSize = found.database.header?.pageSize
  const replay = plan.isTrusting
    ? yield* replayTrusted(vfs, plan.orphans, { base: plan.tip, pageSize, databasePages: pagesOfFile(found) })
    : yield* replayCertified(vfs, database, plan.live, found.beside.segments, { base: plan.base, pageSize })
  const uncertified = plan.isTrusting ? [] : yield* readUncertified(vfs, plan.orphans)

  const databasePages = replay.live.at(-1)?.databasePages ?? pagesOfFile(found)
  const missing = missingPages(replay.pageSize, databasePages, found.database.fileBytes, pagesIn(replay.live))
  const { cases, refusals } = decideRows(found, plan, replay, missing, databasePages, options)
  const trustedTip = !plan.isTrusting ? undefined : replay.live.at(-1)?.high
  const last = certificates?.certificates.at(-1)?.certificate
  return {
    path: database,
    // RC-01 applies when no other row says what the log is.
    case: cases[0] ?? "RC-01",
    cases,
    refusal: refusals[0],
    databaseExists: found.database.exists,
    databaseFileBytes: found.database.fileBytes,
    databaseHeader: found.database.header,
    pageSize: replay.pageSize,
    databasePages,
    mark: mark.value,
    certificates,
    tip: trustedTip ?? plan.tip,
    tipSource: trustedTip === undefined ? plan.tipSource : "trusted-segments",
    base: plan.base,
    live: replay.live,
    uncertified,
    removable: plan.removable.map(({ path }) => path),
    sweepable: [...found.beside.spills, ...found.beside.temporaries],
    lost: replay.lost,
    isReadOnly: replay.loss !== undefined && isAccepted(replay.loss, options),
    highestEpoch: highest([
      ...found.beside.segments.map(({ epoch }) => epoch),
      ...(certificates?.certificates ?? []).map(({ certificate }) => certificate.segmentEpoch),
      ...(mark.value === undefined ? [] : [mark.value.segmentEpoch])
    ]),
    lastCertificateEpoch: highest([last?.certificateEpoch ?? 0n, mark.value?.certificateEpoch ?? 0n]) ?? 0n,
    problems: listProblems(found, plan, replay, uncertified, missing, databasePages),
    tornTailBytes: certificates?.tornBytes ?? 0
  }
})

const highest = <A extends bigint>(values: ReadonlyArray<A>): A | undefined => {
  let answer: A | undefined
  for (const value of values) if (answer === undefined || value > answer) answer = value
  return answer
}

function* pagesIn(live: ReadonlyArray<LiveSegment>): Generator<number, void> {
  for (const { pages } of live) yield* pages
}

/**
 * The log that a database is in the middle of: the one that has to be opened, and checkpointed, before another kind may
 * start.
 *
 * @category models
 * @since 0.1.0
 */
export type LogKind = "sqlite" | "parallel" | "native" | "none"

/**
 * Which log has commits that are not in the database file, for those that open whatever is there.
 *
 * **Details**
 *
 * Certificates of commits above the mark, or segments above it without any certificate log: parallel. Markers of commits
 * above the mark, or a marker stream that is damaged there: native. Otherwise, when bytes 18 and 19 of the database are
 * 3: native where there are markers, unless there is something of a parallel log too and the mark does not say that the
 * native one was checkpointed last; else parallel. Otherwise commits in the `-wal`, readable or not: sqlite. Where two
 * have commits both ways of opening refuse. Reads the whole `-wal`, as the examination that follows does again.
 *
 * @category recovery
 * @since 0.1.0
 */
export const logKindOf = (vfs: Vfs["Service"], database: string): Effect.Effect<LogKind, VfsError> =>
  Effect.map(readFiles(vfs, database), kindOf)

const kindOf = (found: FoundFiles): LogKind => {
  const { certificates, markers, wal } = found
  if (liveCertificates(found).some(hasCommits) || markers?.hasCommits === true || saysTidemarkLog(found)) {
    return ownLog(found) === "native" ? "native" : "parallel"
  }
  if ((wal.scan !== undefined && (wal.scan.commits > 0 || wal.scan.damage !== undefined)) || wal.carriesBaseSalts) {
    return "sqlite"
  }
  return certificates === undefined && makePlan(found, {}).orphans.length > 0 ? "parallel" : "none"
}

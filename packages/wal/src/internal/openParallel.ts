/**
 * Opening a database with a parallel WAL: locks, examination, refusal or recovery.
 *
 * Invariants
 * 1. Nothing on the disk changes before every refusal has had its turn.
 * 2. Recovery deletes nothing that a checkpoint has not made superfluous, durably: segments without a certificate stay
 *    until one is through (RC-07).
 * 3. Sequences of an interval that was never certified are not used again (PW-29): where a segment without a certificate
 *    says which they were, a certificate of its own says that the interval was aborted.
 * 4. Where segments hold commits that are not in the database file, its header says so before anything is copied or certified.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, PageSize, WalEpoch } from "@tidemark/core/Scalars"
import { defaultPageSize, toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import { FileLock } from "@tidemark/platform/FileLock"
import type { VfsFile } from "@tidemark/platform/Vfs"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Certificate } from "../CertificateFormat.ts"
import { type CertificateLog, openCertificateLog } from "../CertificateLog.ts"
import { writeCheckpointMark } from "../CheckpointMarkFormat.ts"
import type { Published } from "../CommitLog.ts"
import { isTidemarkLog } from "../DatabaseHeaderFormat.ts"
import { lockDatabase, lockSharedMemory } from "../DatabaseLock.ts"
import type { DatabaseTruncated } from "../LogErrors.ts"
import { examineParallel, type ParallelExamination } from "../ParallelStartUp.ts"
import type { OpenParallelError, ParallelWalOptions } from "../ParallelWal.ts"
import { examineDatabase } from "../StartUp.ts"
import { CopyBuffer } from "./checkpoint.ts"
import { markDatabase } from "./databaseMark.ts"
import type { CertifiedSegment } from "./epochLog.ts"
import { holdsNoDatabase, makeDurable, openDatabaseFile, refuse, writeFirstPage } from "./openDatabase.ts"
import { rewrite } from "./rewrite.ts"
import { copySegments, type SegmentCopy } from "./segmentCopy.ts"
import { VersionIndex } from "./versionIndex.ts"

/** @internal */
export interface OpenedParallel {
  readonly databaseFile: VfsFile
  readonly examination: ParallelExamination
  readonly pageSize: PageSize
  readonly certificates: CertificateLog
  readonly index: VersionIndex<CertifiedSegment>
  readonly published: Published
  /** The first epoch. */
  readonly epoch: WalEpoch
  /** Of the last certificate, or of the mark. */
  readonly certificateEpoch: bigint
  readonly segmentEpoch: WalEpoch
  readonly isMarked: boolean
}

/** @internal */
export const openParallel = Effect.fnUntraced(function*(
  options: ParallelWalOptions
): Effect.fn.Return<OpenedParallel, OpenParallelError, Vfs | FileLock | Scope.Scope> {
  const vfs = yield* Vfs
  const fileLock = yield* FileLock
  const { create, database } = options
  const examine = examineParallel(vfs, database, {
    stopAtCorrupt: options.stopAtCorrupt ?? false,
    trustSegments: options.trustSegments ?? false,
    discardSegments: options.discardSegments ?? false
  })
  const databaseFile = yield* openDatabaseFile(
    vfs,
    database,
    create === undefined ? undefined : examineDatabase(vfs, database)
  )
  yield* lockDatabase(vfs, fileLock, database)

  let examination = yield* examine
  const isToBeMade = create !== undefined && examination.certificates === undefined &&
    (yield* holdsNoDatabase(databaseFile, { commits: 0, databaseFileBytes: examination.databaseFileBytes }))
  yield* refuse(examination, isToBeMade)
  yield* lockSharedMemory(fileLock, database)

  // From here on nobody else is in, nothing stands against it, and the disk may change.
  if (isToBeMade) {
    yield* writeFirstPage(databaseFile, create.pageSize ?? defaultPageSize)
    examination = yield* examine
    yield* refuse(examination, false)
  }
  // Before anything is removed: the mark that says that it is not needed may be in the page cache only.
  yield* makeRecoveredDurable(vfs, database, databaseFile, examination)
  for (const path of [...examination.sweepable, ...examination.removable]) yield* vfs.remove(path)
  const { databaseHeader, live, pageSize } = examination
  invariant(pageSize !== undefined, "a database that was not refused has a page size")
  const isMarked = databaseHeader !== undefined && isTidemarkLog(databaseHeader)
  if (!isMarked && live.length > 0) yield* markDatabase(databaseFile, 3)
  const recovered = examination.certificates === undefined && live.length > 0
    ? yield* settleTrusted({ vfs, databaseFile, pageSize, database }, examination)
    : recoverState(examination)
  const certificates = yield* openCertificateLog(vfs, {
    database,
    policy: options.syncPolicy ?? "full",
    scan: examination.certificates,
    through: recovered.through
  })
  const aborted = yield* abortUncertified(databaseFile, certificates, examination, recovered)
  return {
    databaseFile,
    examination,
    pageSize,
    certificates,
    index: recovered.index,
    published: { commitSeq: aborted?.high ?? examination.tip, databasePages: examination.databasePages },
    epoch: firstEpoch(examination),
    certificateEpoch: aborted?.certificateEpoch ?? recovered.certificateEpoch,
    segmentEpoch: recovered.segmentEpoch,
    isMarked: isMarked || live.length > 0 || aborted !== undefined
  }
})

/**
 * What recovery goes on from is durable, contents and names: a process that was killed has left it to the page cache. A
 * certified segment was synced before its certificate, except by the policy `off`. Page 1 is written once more, because
 * after a failed sync its version bytes may be on the disk as they were before (`rewrite.ts`).
 */
const makeRecoveredDurable = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  databaseFile: VfsFile,
  { databaseFileBytes, live, pageSize }: ParallelExamination
): Effect.fn.Return<void, VfsError> {
  yield* rewrite(databaseFile, 0, Math.min(pageSize ?? 0, databaseFileBytes))
  for (const { path } of live) {
    yield* Effect.scoped(Effect.flatMap(vfs.open(path, { access: "readWrite" }), (file) => file.syncFull))
  }
  yield* makeDurable(vfs, database, [databaseFile])
})

/** No segment is ever overwritten (PW-09). */
const firstEpoch = ({ highestEpoch }: ParallelExamination): WalEpoch =>
  highestEpoch === undefined ? epoch0 : (highestEpoch + 1n) as WalEpoch // there are 2^64 of them

const epoch0 = 0n as WalEpoch // the epoch of a log that has none yet

interface Recovered {
  readonly index: VersionIndex<CertifiedSegment>
  /** The last commit that needs no certificate. */
  readonly through: CommitSeq
  readonly certificateEpoch: bigint
  readonly segmentEpoch: WalEpoch
}

const recoverState = (
  { base, certificates, lastCertificateEpoch, live, mark }: ParallelExamination
): Recovered => {
  const index = new VersionIndex<CertifiedSegment>()
  const certified = new Map<bigint, Certificate>()
  for (const { certificate } of certificates?.certificates ?? []) {
    if (!certificate.aborted) certified.set(certificate.segmentEpoch, certificate)
  }
  for (const { databasePages, epoch, high, low, offsets, pages, path, seqs } of live) {
    const segment = {
      epoch,
      certificateEpoch: certified.get(epoch)?.certificateEpoch ?? lastCertificateEpoch,
      path,
      low,
      high,
      databasePages,
      pages: Array.from(pages, toPageNumber)
    }
    index.addSegment(segment)
    segment.pages.forEach((page, record) => {
      index.addVersion(page, toCommitSeq(seqs[record] ?? low), segment, offsets[record] ?? 0)
    })
  }
  return {
    index,
    through: base,
    certificateEpoch: lastCertificateEpoch,
    segmentEpoch: certificates?.certificates.at(-1)?.certificate.segmentEpoch ?? mark?.segmentEpoch ?? epoch0
  }
}

/**
 * Segments that were trusted (RC-11) are brought into the database file, and the mark says so, before there is a
 * certificate log: beside one they would count as never acknowledged from the next start on.
 */
const settleTrusted = Effect.fnUntraced(function*(
  copy: Omit<SegmentCopy, "buffer" | "index"> & { readonly database: string },
  examination: ParallelExamination
): Effect.fn.Return<Recovered, VfsError | DatabaseTruncated> {
  const { database, vfs } = copy
  const { databasePages, highestEpoch, lastCertificateEpoch, tip } = examination
  const { index } = recoverState(examination)
  const { segments } = index
  const last = segments.at(-1)
  invariant(last !== undefined && highestEpoch !== undefined, "what is trusted are segments")
  yield* copySegments({ ...copy, index, buffer: new CopyBuffer() }, segments, last)
  yield* writeCheckpointMark(vfs, database, {
    kind: "parallel",
    through: tip,
    segmentEpoch: highestEpoch,
    certificateEpoch: lastCertificateEpoch,
    databasePages
  })
  for (const { path } of segments) yield* vfs.remove(path)
  return {
    index: new VersionIndex<CertifiedSegment>(),
    through: tip,
    certificateEpoch: lastCertificateEpoch,
    segmentEpoch: highestEpoch
  }
})

/** Invariant 3. Nobody was ever told of these commits. */
const abortUncertified = Effect.fnUntraced(function*(
  databaseFile: VfsFile,
  certificates: CertificateLog,
  { databaseHeader, databasePages, tip, uncertified }: ParallelExamination,
  { certificateEpoch, segmentEpoch }: Recovered
): Effect.fn.Return<Certificate | undefined, VfsError> {
  let high: CommitSeq = tip
  for (const segment of uncertified) if (segment.high !== undefined && segment.high > high) high = segment.high
  if (high === tip) return undefined
  if (databaseHeader === undefined || !isTidemarkLog(databaseHeader)) yield* markDatabase(databaseFile, 3)
  const aborted: Certificate = {
    fallbackActive: false,
    aborted: true,
    certificateEpoch: certificateEpoch + 1n,
    low: toCommitSeq(tip + 1n),
    high,
    segmentEpoch,
    databasePages,
    pageSetSize: 0,
    segmentCrc: 0,
    laneRecords: []
  }
  yield* certificates.append(aborted)
  return aborted
})

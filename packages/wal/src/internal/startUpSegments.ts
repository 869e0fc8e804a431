/**
 * Reads the segments of a parallel log for a start: those that are to be replayed, and those that nothing vouches for.
 *
 * One segment is in memory at a time; what is kept of it are three numbers per record.
 */
import type { CommitSeq } from "@tidemark/core/Scalars"
import { PageSize, toCommitSeq } from "@tidemark/core/Scalars"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Certificate, ScannedCertificate } from "../CertificateFormat.ts"
import type { LiveSegment, UncertifiedSegment } from "../ParallelStartUp.ts"
import { segmentPath, type SegmentRecord } from "../SegmentFormat.ts"
import { type ReadSegment, readSegment, type SegmentFile, type SegmentUnreadable } from "../SegmentStore.ts"
import { CertifiedSegmentLost, PageSizeMismatch, type SegmentLoss } from "../StartUpErrors.ts"
import { hasCommits } from "./startUpFiles.ts"

/** @internal */
export interface Replay {
  readonly live: ReadonlyArray<LiveSegment>
  /** Of the database, else of the first image. */
  readonly pageSize: PageSize | undefined
  /** Why the rest is not replayed. */
  readonly loss: CertifiedSegmentLost | SegmentUnreadable | PageSizeMismatch | undefined
  /** Paths of the segment that is bad and of all later ones. */
  readonly lost: ReadonlyArray<string>
}

/** A segment is the same size as its pages, all of them. */
class PageSizes {
  pageSize: PageSize | undefined

  constructor(pageSize: PageSize | undefined) {
    this.pageSize = pageSize
  }

  /** The first image of another size. */
  refuse(path: string, records: ReadonlyArray<SegmentRecord>): PageSizeMismatch | undefined {
    for (const { after } of records) {
      if (this.pageSize === undefined && isPageSize(after.length)) this.pageSize = after.length
      if (after.length === this.pageSize) continue
      return new PageSizeMismatch({
        path,
        walPageSize: after.length,
        databasePageSize: this.pageSize ?? 0,
        imageOffset: after.byteOffset
      })
    }
    return undefined
  }
}

const isPageSize = Schema.is(PageSize)

/** Aborted records, and those that change nothing, are not applied (PW-24). */
const isApplied = ({ after, end }: SegmentRecord) => end !== undefined && after.length > 0

const toLive = (
  { path, epoch }: SegmentFile,
  { bytes }: ReadSegment,
  applied: ReadonlyArray<SegmentRecord>,
  interval: { readonly low: CommitSeq; readonly high: CommitSeq; readonly databasePages: number }
): LiveSegment => {
  const { databasePages, high, low } = interval
  const pages = new Uint32Array(applied.length)
  const seqs = new BigUint64Array(applied.length)
  const offsets = new Float64Array(applied.length)
  applied.forEach(({ after, begin, page }, index) => {
    pages[index] = page
    seqs[index] = begin > low ? begin : low
    offsets[index] = after.byteOffset
  })
  return { path, epoch, bytes, low, high, databasePages, pages, seqs, offsets }
}

// -- by certificate ---------------------------------------------------------------------------------------------------

/** Replays what certificates vouch for, in their order, up to the first segment that is not what was certified (RC-08). */
export const replayCertified = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  certificates: ReadonlyArray<ScannedCertificate>,
  segments: ReadonlyArray<SegmentFile>,
  from: { readonly base: CommitSeq; readonly pageSize: PageSize | undefined }
): Effect.fn.Return<Replay, VfsError> {
  const there = new Set(segments.map(({ epoch }) => epoch))
  const sizes = new PageSizes(from.pageSize)
  const live: Array<LiveSegment> = []
  const lostThrough = certificates.at(-1)?.certificate.high ?? from.base
  let keptThrough = from.base
  for (const [index, scanned] of certificates.entries()) {
    const { certificate } = scanned
    if (hasCommits(scanned)) {
      const file = { path: segmentPath(database, certificate.segmentEpoch), epoch: certificate.segmentEpoch }
      const lose = ([loss, found, expected]: readonly [SegmentLoss, string, string]) =>
        new CertifiedSegmentLost({
          ...file,
          certificateOffset: scanned.offset,
          loss,
          found,
          expected,
          keptThrough,
          lostThrough
        })
      const taken = there.has(file.epoch)
        ? yield* takeCertified(vfs, file, certificate, sizes)
        : missing
      if ("live" in taken) live.push(taken.live)
      else {
        const lost = certificates.slice(index).filter(hasCommits).map(({ certificate: { segmentEpoch } }) =>
          segmentPath(database, segmentEpoch)
        )
        const loss = taken.loss instanceof PageSizeMismatch ? taken.loss : lose(taken.loss)
        return { live, pageSize: sizes.pageSize, loss, lost }
      }
    }
    keptThrough = certificate.high
  }
  return { live, pageSize: sizes.pageSize, loss: undefined, lost: [] }
})

type Taken =
  | { readonly live: LiveSegment }
  | { readonly loss: PageSizeMismatch | readonly [SegmentLoss, string, string] }

const missing: Taken = { loss: ["missing", "missing", "there"] }

const hex = (value: number) => `0x${value.toString(16).padStart(8, "0")}`

const takeCertified = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  file: SegmentFile,
  certificate: Certificate,
  sizes: PageSizes
): Effect.fn.Return<Taken, VfsError> {
  const { high, laneRecords, low, segmentCrc } = certificate
  const read = yield* readEither(vfs, file)
  if (Result.isFailure(read)) {
    const { issue } = read.failure
    return { loss: ["unreadable", `${issue.field} ${issue.found} (byte ${issue.offset})`, issue.expected] }
  }
  const { crc, segment } = read.success
  if (crc !== segmentCrc) return { loss: ["checksum", hex(crc), hex(segmentCrc)] }
  const { records } = segment
  const counted = laneRecords.reduce((sum, count) => sum + count, 0)
  if (counted !== records.length) return { loss: ["records", `${records.length}`, `${counted}`] }
  // In recovery order, so that the first and the last say it for all.
  const outside = [records[0], records.at(-1)].find((record) =>
    record !== undefined && (record.begin < low || record.begin > high)
  )
  if (outside !== undefined) return { loss: ["sequences", `${outside.begin}`, `${low} to ${high}`] }
  const applied = records.filter(isApplied)
  const loss = sizes.refuse(file.path, applied)
  return loss === undefined ? { live: toLive(file, read.success, applied, certificate) } : { loss }
})

const readEither = (
  vfs: Vfs["Service"],
  { epoch, path }: SegmentFile
): Effect.Effect<Result.Result<ReadSegment, SegmentUnreadable>, VfsError> =>
  readSegment(vfs, path, epoch).pipe(
    Effect.map((read) => Result.succeed(read)),
    Effect.catchTag("SegmentUnreadable", (unreadable) => Effect.succeed(Result.fail(unreadable)))
  )

// -- by trust ---------------------------------------------------------------------------------------------------------

/**
 * Replays segments by epoch, trusting each, up to the first that cannot be read (RC-11 with `trustSegments`).
 *
 * Their intervals are what their records say, above those of the segments before: where a record began below, it takes
 * the first sequence of its segment, for the later segment wins the page. Nothing says the size of the database, so it
 * grows with the pages that are written.
 */
export const replayTrusted = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  segments: ReadonlyArray<SegmentFile>,
  from: { readonly base: CommitSeq; readonly pageSize: PageSize | undefined; readonly databasePages: number }
): Effect.fn.Return<Replay, VfsError> {
  const sizes = new PageSizes(from.pageSize)
  const live: Array<LiveSegment> = []
  let high: CommitSeq = from.base
  let { databasePages } = from
  for (const [index, file] of segments.entries()) {
    const read = yield* readEither(vfs, file)
    const loss = Result.isFailure(read)
      ? read.failure
      : sizes.refuse(file.path, read.success.segment.records.filter(isApplied))
    if (loss !== undefined || Result.isFailure(read)) {
      return { live, pageSize: sizes.pageSize, loss, lost: segments.slice(index).map(({ path }) => path) }
    }
    const { records } = read.success.segment
    const [first, last] = [records[0], records.at(-1)]
    // Without records nothing was committed.
    if (first === undefined || last === undefined) continue
    const above = toCommitSeq(high + 1n)
    const low = first.begin > above ? first.begin : above
    high = last.begin > low ? last.begin : low
    const applied = records.filter(isApplied)
    for (const { page } of applied) databasePages = Math.max(databasePages, page)
    live.push(toLive(file, read.success, applied, { low, high, databasePages }))
  }
  return { live, pageSize: sizes.pageSize, loss: undefined, lost: [] }
})

// -- by nobody --------------------------------------------------------------------------------------------------------

/** Looks at segments that were never acknowledged (RC-07, RC-22), for what sequences they have used. */
export const readUncertified = (
  vfs: Vfs["Service"],
  segments: ReadonlyArray<SegmentFile>
): Effect.Effect<ReadonlyArray<UncertifiedSegment>, VfsError> =>
  Effect.forEach(segments, (file) =>
    Effect.map(readEither(vfs, file), (read) => {
      if (Result.isFailure(read)) return { ...file, readable: false, low: undefined, high: undefined }
      const { records } = read.success.segment
      return { ...file, readable: true, low: records[0]?.begin, high: records.at(-1)?.begin }
    }))

/** Databases with a parallel log as files, made by the encoders of this package. */
import { assert } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Result } from "effect"
import { type Certificate, certificatesPath } from "../../src/CertificateFormat.ts"
import { type CheckpointMark, checkpointMarkPath, encode as encodeMark } from "../../src/CheckpointMarkFormat.ts"
import { setVersions } from "../../src/DatabaseHeaderFormat.ts"
import {
  examineParallel,
  type LiveSegment,
  type ParallelExamination,
  type ParallelStartUpOptions
} from "../../src/ParallelStartUp.ts"
import { certifiedChecksum, encode, segmentPath, type SegmentRecord } from "../../src/SegmentFormat.ts"
import type { StartUpRefusal } from "../../src/StartUpErrors.ts"
import { certificateLog, seq, walEpoch } from "./certificates.ts"
import { recordOf } from "./segmentBytes.ts"
import { buildDatabase, files, pageImage, pageSize, path } from "./walFiles.ts"

export type Contents = Readonly<Record<string, Uint8Array>>

export const certificatesFile = certificatesPath(path)
export const markFile = checkpointMarkPath(path)
export const segmentFile = (epoch: number): string => segmentPath(path, walEpoch(epoch))

/** A database file that says that its newest commits are in one of Tidemark's own logs. */
export const markedDatabase = (pages = 4): Uint8Array => {
  const bytes = buildDatabase(pages)
  setVersions(bytes, 3)
  return bytes
}

/** The image that commit `seq` gives a page. */
export const imageOf = (seq: bigint | number, page: number): Uint8Array => pageImage(pageSize, Number(seq) * 100 + page)

/** The record of commit `seq` for a page. */
export const committed = (epoch: number, seq: number, page: number, changes: Partial<SegmentRecord> = {}) => ({
  ...recordOf({ id: BigInt(seq), epoch: BigInt(epoch), begin: BigInt(seq), page, after: imageOf(seq, page) }),
  ...changes
})

export const segmentBytes = (epoch: number, records: ReadonlyArray<SegmentRecord>): Uint8Array =>
  Result.getOrThrow(encode(walEpoch(epoch), records))

/** An interval of the log: the pages that each of its commits writes, from `low` on. */
export interface Interval {
  readonly epoch: number
  readonly low: number
  readonly commits: ReadonlyArray<ReadonlyArray<number>>
  readonly databasePages?: number
}

export const recordsOf = ({ commits, epoch, low }: Interval): ReadonlyArray<SegmentRecord> =>
  commits.flatMap((pages, index) => pages.map((page) => committed(epoch, low + index, page)))

/** The certificate of an interval whose segment holds `records`. */
export const certify = (
  interval: Interval,
  certificateEpoch: number,
  changes: Partial<Certificate> = {},
  records = recordsOf(interval)
): Certificate => ({
  fallbackActive: false,
  aborted: false,
  certificateEpoch: BigInt(certificateEpoch),
  low: seq(interval.low),
  high: seq(interval.low + interval.commits.length - 1),
  segmentEpoch: walEpoch(interval.epoch),
  databasePages: interval.databasePages ?? 4,
  pageSetSize: new Set(records.map(({ page }) => page)).size,
  segmentCrc: certifiedChecksum([segmentBytes(interval.epoch, records)]),
  // In two lanes, so that it is the sum that counts.
  laneRecords: [1, records.length - 1],
  ...changes
})

/** The certificate of an interval that was given up behind the segment of `epoch`. */
export const abort = (low: number, high: number, epoch: number, certificateEpoch: number): Certificate =>
  certify({ epoch, low, commits: [[1]] }, certificateEpoch, {
    aborted: true,
    high: seq(high),
    pageSetSize: 0,
    segmentCrc: 0,
    laneRecords: [0, 0]
  })

/** Three epochs: commits 1 and 2, commit 3, commits 4 to 6. The database grows to five pages. */
export const intervals: readonly [Interval, Interval, Interval] = [
  { epoch: 1, low: 1, commits: [[1, 2], [2]] },
  { epoch: 2, low: 3, commits: [[3, 1]] },
  { epoch: 5, low: 4, commits: [[4], [5, 2], [2]], databasePages: 5 }
]

export const certificates = intervals.map((interval, index) => certify(interval, (index + 1) * 10))

export const segments: Contents = Object.fromEntries(
  intervals.map((interval) => [segmentFile(interval.epoch), segmentBytes(interval.epoch, recordsOf(interval))])
)

/** A database in the middle of {@link intervals}, all of them certified. */
export const whole: Contents = {
  [files.database]: markedDatabase(),
  [certificatesFile]: certificateLog(certificates, { zeros: 300 }),
  ...segments
}

export const markBytes = (fields: Partial<CheckpointMark> & { readonly through: CheckpointMark["through"] }) =>
  encodeMark({
    kind: "parallel",
    segmentEpoch: walEpoch(0),
    certificateEpoch: 0n,
    databasePages: 4,
    ...fields
  })

/** The mark after the first `count` of {@link intervals}. */
export const markAfter = (count: 1 | 2 | 3): Uint8Array => {
  const last = certificates[count - 1]
  if (last === undefined) throw new Error("there are three intervals")
  const { certificateEpoch, databasePages, high, segmentEpoch } = last
  return markBytes({ through: high, segmentEpoch, certificateEpoch, databasePages })
}

export const without = (contents: Contents, ...paths: ReadonlyArray<string>): Contents =>
  Object.fromEntries(Object.entries(contents).filter(([file]) => !paths.includes(file)))

/** A memory disk that holds these files, durably. */
export const diskOf = (contents: Contents): MemoryDisk => {
  const disk = MemoryDisk.make({ async: false })
  disk.writeFile("/data/neighbour", new Uint8Array(1))
  for (const [file, bytes] of Object.entries(contents)) disk.writeFile(file, bytes)
  return disk
}

/** Examines what these files are. Nothing on the disk may change by it: no byte, no name. */
export const examineAs = (
  contents: Contents,
  options?: ParallelStartUpOptions
): Effect.Effect<ParallelExamination> => {
  const disk = diskOf(contents)
  const trace = disk.record()
  return Effect.gen(function*() {
    const found = yield* examineParallel(yield* Vfs, path, options)
    assert.strictEqual(trace.steps.length, 0, "an examination changes nothing")
    assert.sameMembers(Array.from(disk.files), ["/data/neighbour", ...Object.keys(contents)])
    for (const [file, bytes] of Object.entries(contents)) assert.deepStrictEqual(disk.readFile(file), bytes)
    return found
  }).pipe(Effect.provide(MemoryVfs.layerDisk(disk)), Effect.orDie)
}

/** The refusal of this kind, which must be the one that is answered. */
export const refusalOf = <Tag extends StartUpRefusal["_tag"]>(
  found: { readonly refusal: StartUpRefusal | undefined },
  tag: Tag
): Extract<StartUpRefusal, { _tag: Tag }> => {
  assert.strictEqual(found.refusal?._tag, tag)
  const isExpected = (refusal: StartUpRefusal | undefined): refusal is Extract<StartUpRefusal, { _tag: Tag }> =>
    refusal?._tag === tag
  if (!isExpected(found.refusal)) throw new Error("no refusal of this kind")
  return found.refusal
}

/** What a replay makes of the pages: the last image of each, found where the examination says that it starts. */
export const replayed = (contents: Contents, live: ReadonlyArray<LiveSegment>): ReadonlyMap<number, Uint8Array> => {
  const pages = new Map<number, Uint8Array>()
  for (const segment of live) {
    const bytes = contents[segment.path]
    if (bytes === undefined) throw new Error("a live segment is there")
    assert.strictEqual(segment.bytes, bytes.length)
    segment.pages.forEach((page, index) => {
      const offset = segment.offsets[index] ?? -1
      pages.set(page, bytes.slice(offset, offset + pageSize))
    })
  }
  return pages
}

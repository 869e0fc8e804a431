/**
 * A segment of an append log, or all the segments in its directory (section 5 of `formats.md`).
 *
 * @since 0.1.0
 */
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { offsetOf, type SegmentHeader } from "@tidemark/wal/AppendLogFormat"
import { examineDirectory, type ScanReport, scanSegment, type SegmentScan } from "@tidemark/wal/AppendLogScan"
import * as Effect from "effect/Effect"
import * as Hex from "effect/encoding/Hex"
import * as Stream from "effect/Stream"
import { isoTime } from "../Style.ts"
import { countFrames, type FrameCounts, frameFieldNames, listFrames, type SegmentFrames } from "./appendLogFrames.ts"
import {
  type Fields,
  type InspectedRecord,
  type Inspection,
  type OpenedFile,
  type Problem,
  problemOf,
  type RecordRange
} from "./Inspection.ts"

/**
 * Looks at an open file as a segment, on its own, as if it were the last one of its log: whether its neighbours fit to it
 * is for the directory.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectSegment = Effect.fnUntraced(function*(
  opened: OpenedFile,
  vfs: Vfs["Service"]
): Effect.fn.Return<Inspection, VfsError> {
  const scan = yield* scanSegment(vfs, opened.file.path)
  const { header } = scan
  if (header === undefined) {
    return {
      kind: "append-log-segment",
      header: null,
      summary: {},
      problems: scan.issue === undefined ? [] : [problemOf(scan.issue)],
      records: undefined
    }
  }
  const segment = framesOf(opened, scan)
  return {
    kind: "append-log-segment",
    header: headerFields(header),
    summary: summaryOf(scan, yield* countFrames(segment)),
    problems: problemsOf(scan),
    records: { fieldNames: frameFieldNames, list: (range) => listFrames(segment, range) }
  }
})

/**
 * Looks at the directory of a log.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectDirectory = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  directory: string
): Effect.fn.Return<{ readonly bytes: number; readonly inspection: Inspection }, VfsError> {
  const report = yield* examineDirectory(vfs, directory)
  const counts = yield* Effect.forEach(
    report.segments,
    (scan) => Effect.scoped(Effect.flatMap(openFrames(vfs, scan), countFrames))
  )
  const inspection: Inspection = {
    kind: "append-log",
    header: report.logId === undefined ? null : { logId: Hex.encode(report.logId) },
    summary: directorySummary(report, counts),
    problems: directoryProblems(report),
    parts: { key: "segments", fields: report.segments.map((scan, index) => segmentFields(scan, counts[index])) },
    records: {
      fieldNames: ["segment", ...frameFieldNames],
      list: (range) => Stream.flatMap(Stream.fromIterable(report.segments), (scan) => framesIn(vfs, scan, range))
    }
  }
  return { bytes: report.segments.reduce((sum, { bytes }) => sum + bytes, 0), inspection }
})

const framesOf = ({ bytes, file }: OpenedFile, { endLsn, startLsn }: SegmentScan): SegmentFrames => ({
  file,
  bytes,
  startLsn,
  validEnd: offsetOf(endLsn, startLsn)
})

const openFrames = (vfs: Vfs["Service"], scan: SegmentScan) =>
  Effect.map(vfs.open(scan.path, { access: "read" }), (file) => framesOf({ file, bytes: scan.bytes }, scan))

const framesIn = (
  vfs: Vfs["Service"],
  scan: SegmentScan,
  range: RecordRange
): Stream.Stream<InspectedRecord, VfsError> => {
  const isOutside = scan.startLsn > range.to || scan.startLsn + scan.bytes < range.from
  if (scan.header === undefined || isOutside) return Stream.empty
  return Stream.unwrap(
    Effect.map(openFrames(vfs, scan), (segment) => listFrames(segment, range, { segment: scan.name }))
  )
}

const headerFields = ({ createdUnixNanos, logId, segmentIndex, startLsn }: SegmentHeader): Fields => ({
  logId: Hex.encode(logId),
  startLsn: BigInt(startLsn),
  segmentIndex,
  createdUnixNs: createdUnixNanos
})

const summaryOf = (scan: SegmentScan, { lastRecordLsn, pads }: FrameCounts): Fields => ({
  batches: scan.batches,
  records: scan.records,
  pads,
  payloadBytes: scan.payloadBytes,
  firstLsn: BigInt(scan.startLsn),
  lastRecordLsn: lastRecordLsn === undefined ? null : BigInt(lastRecordLsn),
  endLsn: BigInt(scan.endLsn),
  durableLsn: BigInt(scan.durableLsn),
  created: scan.header === undefined ? null : isoTime(Number(scan.header.createdUnixNanos / 1_000_000n)),
  tornTailBytes: scan.damage === undefined ? scan.trailingBytes : 0
})

const directorySummary = (report: ScanReport, counts: ReadonlyArray<FrameCounts>): Fields => {
  const sumOf = (value: (scan: SegmentScan) => number) => report.segments.reduce((sum, scan) => sum + value(scan), 0)
  const last = counts.findLast(({ lastRecordLsn }) => lastRecordLsn !== undefined)?.lastRecordLsn
  return {
    segments: report.segments.length,
    batches: report.batches,
    records: report.records,
    pads: counts.reduce((sum, { pads }) => sum + pads, 0),
    payloadBytes: sumOf(({ payloadBytes }) => payloadBytes),
    firstLsn: BigInt(report.firstLsn),
    lastRecordLsn: last === undefined ? null : BigInt(last),
    endLsn: BigInt(report.endLsn),
    tornTailBytes: report.tornTail?.bytes ?? 0,
    temporaryFiles: report.temporaries.length,
    foreignFiles: report.foreign.length
  }
}

const segmentFields = (scan: SegmentScan, counts: FrameCounts | undefined): Fields => ({
  name: scan.name,
  bytes: scan.bytes,
  segmentIndex: scan.header?.segmentIndex ?? null,
  startLsn: BigInt(scan.startLsn),
  endLsn: BigInt(scan.endLsn),
  batches: scan.batches,
  records: scan.records,
  pads: counts?.pads ?? 0,
  // Of a segment that is not the last they mean nothing: what a recycled file has held before.
  trailingBytes: scan.trailingBytes
})

const problemsOf = ({ damage, endLsn, startLsn, stop, trailingBytes }: SegmentScan): ReadonlyArray<Problem> => {
  const offset = offsetOf(endLsn, startLsn)
  if (damage !== undefined) {
    const what = `a batch ${stop}, and the one that ends at LSN ${damage.provenBy} was written when it was durable`
    return [{ offset, what, severity: "corrupt" }]
  }
  return trailingBytes === 0 ? [] : [{ offset, what: tailSentence(trailingBytes), severity: "tail" }]
}

/**
 * What a torn tail is called.
 *
 * @category formatting
 * @since 0.1.0
 */
export const tailSentence = (bytes: number): string => `${bytes} bytes behind the last commit were never acknowledged`

/**
 * The problems of a directory, with their paths: damage, else the torn tail.
 *
 * @category inspection
 * @since 0.1.0
 */
export const directoryProblems = (
  { problems, tornTail }: ScanReport
): ReadonlyArray<Problem & { readonly path: string }> => [
  ...problems.map(({ lsn, offset, path, what }) => ({
    path,
    offset,
    what: `${what} (LSN ${lsn})`,
    severity: "corrupt" as const
  })),
  ...tornTail === undefined ? [] : [{
    path: tornTail.path,
    offset: tornTail.offset,
    what: tailSentence(tornTail.bytes),
    severity: "tail" as const
  }]
]

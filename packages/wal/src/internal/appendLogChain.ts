/**
 * Whether the segments of a directory are one log: what is wrong with each of them, and between them (RC-13).
 *
 * @internal
 */
import { LogCorrupt } from "../AppendLogErrors.ts"
import { offsetOf, parseSegmentFileName, segmentFileName } from "../AppendLogFormat.ts"
import type { SegmentScan } from "../AppendLogScan.ts"

/** What is wrong with the segments, which ascend by their names, in the order of positions. */
export const chainProblems = (directory: string, segments: ReadonlyArray<SegmentScan>): ReadonlyArray<LogCorrupt> => {
  const logId = segments.find(({ header }) => header !== undefined)?.header?.logId
  return segments.flatMap((segment, index) => {
    const own = problemOf(segment, logId)
    const previous = segments[index - 1]
    // Nothing can be said about the distance to a segment that is not what it should be.
    if (own !== undefined || previous === undefined || problemOf(previous, logId) !== undefined) return own ?? []
    return problemBetween(directory, previous, segment) ?? []
  }).concat(segments.flatMap((segment) => damageOf(segment) ?? []))
}

const problemOf = (segment: SegmentScan, logId: Uint8Array | undefined): LogCorrupt | undefined => {
  const { header, issue, name, path, startLsn } = segment
  const lsn = parseSegmentFileName(name) ?? startLsn
  if (header === undefined) {
    const what = issue?.code === "UnsupportedVersion" ? "was written by something newer" : "has no whole header"
    return new LogCorrupt({ lsn, path, offset: issue?.offset ?? 0, what: `${what} (${issue?.message})` })
  }
  if (header.startLsn !== lsn) {
    return new LogCorrupt({ lsn, path, offset: 0, what: `has the header of the segment that starts at ${startLsn}` })
  }
  if (logId !== undefined && !isSame(header.logId, logId)) {
    return new LogCorrupt({ lsn, path, offset: 0, what: "belongs to another log than the first segment" })
  }
  return undefined
}

/** The last segment alone has damage; in any other one it shows in where the next one starts. */
const damageOf = ({ damage, endLsn, path, startLsn, stop }: SegmentScan): LogCorrupt | undefined =>
  damage === undefined ? undefined : new LogCorrupt({
    lsn: endLsn,
    path,
    offset: offsetOf(endLsn, startLsn),
    what: `is damaged: a batch ${stop}, and the one that ends at ${damage.provenBy} was written when it was durable`
  })

const problemBetween = (directory: string, previous: SegmentScan, segment: SegmentScan): LogCorrupt | undefined => {
  const { endLsn } = previous
  const { startLsn } = segment
  const skipped = indexOf(segment) - indexOf(previous) - 1n
  const ofPrevious = (what: string) =>
    new LogCorrupt({ lsn: endLsn, path: previous.path, offset: offsetOf(endLsn, previous.startLsn), what })
  const here = `the next segment, ${segment.name}, starts at ${startLsn}`
  if (endLsn < startLsn && skipped > 0n && previous.trailingBytes === 0) {
    const path = `${directory}/${segmentFileName(endLsn)}`
    return new LogCorrupt({
      lsn: endLsn,
      path,
      offset: 0,
      what: `is missing, as are ${skipped} segments in all: ${here}`
    })
  }
  if (endLsn < startLsn) return ofPrevious(`is damaged: a batch ${previous.stop ?? "is missing"}, and ${here}`)
  if (endLsn > startLsn) return ofPrevious(`overlaps: it ends at ${endLsn}, and ${here}`)
  if (skipped !== 0n) {
    const what = `has index ${indexOf(segment)}, and the segment before it has ${indexOf(previous)}`
    return new LogCorrupt({ lsn: startLsn, path: segment.path, offset: 0, what })
  }
  return undefined
}

const indexOf = ({ header }: SegmentScan): bigint => header?.segmentIndex ?? 0n

const isSame = (left: Uint8Array, right: Uint8Array): boolean => left.every((byte, index) => byte === right[index])

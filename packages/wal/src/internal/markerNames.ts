/**
 * Where the records of a marker stream lie, as `MarkerFormat.ts` hands it out: which file, where in it.
 *
 * @internal
 */
import type { CommitSeq } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import { sideDirectory } from "../WalBaseFormat.ts"

/**
 * Bytes of the header of a segment.
 *
 * @category constants
 * @since 0.1.0
 */
export const markerSegmentHeaderBytes = 36

/**
 * Bytes of a record.
 *
 * @category constants
 * @since 0.1.0
 */
export const markerBytes = 88

/**
 * Records of a full segment, the genesis record included.
 *
 * @category constants
 * @since 0.1.0
 */
export const markersPerSegment = 1_000_000

/**
 * The directory that holds the marker segments of a database.
 *
 * @category names
 * @since 0.1.0
 */
export const markersDirectory = (database: string): string => `${sideDirectory(database)}/markers`

/**
 * The name of the file of a segment: its id in six digits, more when it takes more.
 *
 * **Example** (Naming a segment)
 *
 * ```ts
 * import { markerSegmentName } from "@tidemark/wal/MarkerFormat"
 *
 * markerSegmentName(12n) // => "segment-000012.log"
 * ```
 *
 * @category names
 * @since 0.1.0
 */
export const markerSegmentName = (id: bigint): string => `segment-${id.toString().padStart(6, "0")}.log`

const segmentNamePattern = /^segment-([0-9]{6}|[1-9][0-9]{6,13})\.log$/

/**
 * The id that the name of a file (not a path) says, or `undefined` when it is no name of a marker segment.
 *
 * @category names
 * @since 0.1.0
 */
export const idOfMarkerSegmentName = (name: string): bigint | undefined => {
  const digits = segmentNamePattern.exec(name)?.[1]
  return digits === undefined ? undefined : BigInt(digits)
}

/**
 * The file of a segment.
 *
 * @category names
 * @since 0.1.0
 */
export const markerSegmentPath = (database: string, id: bigint): string =>
  `${markersDirectory(database)}/${markerSegmentName(id)}`

/**
 * The segment that has the slot of a sequence.
 *
 * @category positions
 * @since 0.1.0
 */
export const segmentIdOf = (seq: CommitSeq, perSegment: number = markersPerSegment): bigint => seq / BigInt(perSegment)

/**
 * The sequence of slot 0 of a segment.
 *
 * @category positions
 * @since 0.1.0
 */
export const segmentStart = (id: bigint, perSegment: number = markersPerSegment): CommitSeq =>
  toCommitSeq(id * BigInt(perSegment))

/**
 * Where the record of a sequence begins in the file of its segment, bytes.
 *
 * @category positions
 * @since 0.1.0
 */
export const slotOffset = (seq: CommitSeq, perSegment: number = markersPerSegment): number =>
  markerSegmentHeaderBytes + Number(seq % BigInt(perSegment)) * markerBytes

/**
 * What a file of so many bytes has room for: whole records, and bytes behind them that make none.
 *
 * @category positions
 * @since 0.1.0
 */
export const slotsOf = (
  fileBytes: number
): { readonly completeRecords: number; readonly trailingBytes: number } => {
  const bytes = Math.max(0, fileBytes - markerSegmentHeaderBytes)
  return { completeRecords: Math.floor(bytes / markerBytes), trailingBytes: bytes % markerBytes }
}

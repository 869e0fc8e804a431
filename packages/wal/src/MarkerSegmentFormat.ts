/**
 * A whole segment of the commit marker stream in memory (section 6 of `formats.md`), strictly: for tools, tests and
 * messages. Header and records are those of `MarkerFormat.ts`; streams of several files, of which a crash may have left
 * an end that does not count, are the business of `MarkerStore.ts`.
 *
 * @since 0.1.0
 */
import { FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import { toCommitSeq } from "@tidemark/core/Scalars"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { MarkerPlace } from "./MarkerFormat.ts"
import {
  decodeHeader,
  encodeHeader,
  encodeMarker,
  headerPlaceIssue,
  Marker,
  markerAt,
  markerBytes,
  MarkerSegmentHeader,
  markerSegmentHeaderBytes,
  markersPerSegment,
  placeIssue,
  recordIssue,
  slotsOf
} from "./MarkerFormat.ts"

const segmentFormat = "marker segment"

/**
 * That a segment ends in the middle of a record (`TornTail`).
 *
 * @category decoding
 * @since 0.1.0
 */
export const tornTailIssue = (completeRecords: number, trailingBytes: number): FormatIssue =>
  new FormatIssue({
    format: segmentFormat,
    code: "TornTail",
    field: "records",
    offset: markerSegmentHeaderBytes + completeRecords * markerBytes,
    found: `${completeRecords} records and ${trailingBytes} bytes of another`,
    expected: "whole records"
  })

/**
 * That a segment is longer than its records may make it (`CommitSeqMismatch`: they have the slots of the next one).
 *
 * @category decoding
 * @since 0.1.0
 */
export const overfullIssue = (fileBytes: number, perSegment: number = markersPerSegment): FormatIssue => {
  const full = markerSegmentHeaderBytes + perSegment * markerBytes
  return new FormatIssue({
    format: segmentFormat,
    code: "CommitSeqMismatch",
    field: "length",
    offset: full,
    found: `${fileBytes} bytes`,
    expected: `at most ${full} bytes`
  })
}

/**
 * A segment and its records.
 *
 * @category models
 * @since 0.1.0
 */
export const MarkerSegment = Schema.Struct({ header: MarkerSegmentHeader, markers: Schema.Array(Marker) })
export type MarkerSegment = typeof MarkerSegment.Type

/**
 * Reads a whole segment in memory, strictly: the first thing that is wrong refuses it. Files are read by
 * `MarkerStore.ts`, which keeps what stands before that.
 *
 * **Details**
 *
 * Every code of {@link decodeHeader}, {@link headerPlaceIssue}, {@link recordIssue} and {@link placeIssue}, and
 * `TornTail`. What stands before the first record is not known, so that its previous id is not checked; in segment 0
 * there is nothing.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeSegment = (
  bytes: Uint8Array,
  perSegment: number = markersPerSegment
): Result.Result<MarkerSegment, FormatIssue> => {
  const decoded = decodeHeader(bytes)
  if (Result.isFailure(decoded)) return Result.fail(decoded.failure)
  const header = decoded.success
  const misplaced = headerPlaceIssue(header, header.segmentId, perSegment)
  if (misplaced !== undefined) return Result.fail(misplaced)
  const { completeRecords, trailingBytes } = slotsOf(bytes.length)
  if (completeRecords > perSegment) return Result.fail(overfullIssue(bytes.length, perSegment))
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const isFirst = header.segmentId === 0n
  const markers: Array<Marker> = []
  let place: MarkerPlace = {
    seq: header.start,
    before: isFirst ? "none" : "unknown",
    genesis: isFirst ? "required" : "allowed"
  }
  for (let slot = 0; slot < completeRecords; slot++) {
    const offset = markerSegmentHeaderBytes + slot * markerBytes
    const damaged = recordIssue(bytes, view, offset)
    if (damaged !== undefined) return Result.fail(damaged)
    const marker = markerAt(bytes, view, offset)
    const issue = placeIssue(marker, place, offset)
    if (issue !== undefined) return Result.fail(issue)
    markers.push(marker)
    place = { seq: toCommitSeq(marker.seq + 1n), before: marker, genesis: "forbidden" }
  }
  if (trailingBytes > 0) return Result.fail(tornTailIssue(completeRecords, trailingBytes))
  return Result.succeed({ header, markers })
}

/**
 * The bytes of a whole segment. Markers that are no chain are a defect of whoever decodes them.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeSegment = ({ header, markers }: MarkerSegment): Uint8Array => {
  const bytes = new Uint8Array(markerSegmentHeaderBytes + markers.length * markerBytes)
  bytes.set(encodeHeader(header))
  markers.forEach((marker, slot) => bytes.set(encodeMarker(marker), markerSegmentHeaderBytes + slot * markerBytes))
  return bytes
}

/**
 * A whole segment as a codec of its bytes.
 *
 * @category schemas
 * @since 0.1.0
 */
export const MarkerSegmentFromBytes: Schema.Codec<MarkerSegment, Uint8Array> = toCodec<MarkerSegment>(MarkerSegment, {
  decode: decodeSegment,
  encode: encodeSegment
})

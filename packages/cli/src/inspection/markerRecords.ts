/**
 * The records of a marker stream one by one, as far as there are whole slots, in bounded memory (section 6 of
 * `formats.md`).
 *
 * Which of them count is not decided here: that is the scan's business, which says how many of each file do.
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { type CommitSeq, objectIdToHex, toCommitSeq } from "@tidemark/core/Scalars"
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import {
  isGenesis,
  isNoObject,
  type Marker,
  markerAt,
  markerBytes,
  type MarkerPlace,
  markerSegmentHeaderBytes,
  markersPerSegment,
  placeIssue,
  recordIssue,
  slotsOf
} from "@tidemark/wal/MarkerFormat"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { isoTime } from "../Style.ts"
import type { Fields, InspectedRecord, RecordRange } from "./Inspection.ts"

/**
 * A segment whose records are looked at.
 *
 * @category models
 * @since 0.1.0
 */
export interface MarkerRecords {
  readonly open: Effect.Effect<VfsFile, VfsError, Scope.Scope>
  /** Size of the file. */
  readonly bytes: number
  /** The sequence of slot 0. */
  readonly start: CommitSeq
  /** Records that count, from slot 0 on. */
  readonly counting: number
  /** The record before slot 0. */
  readonly before: Effect.Effect<MarkerPlace["before"], VfsError>
  /** The rule for slot 0. */
  readonly genesis: MarkerPlace["genesis"]
}

/**
 * A slot, and what was found in it.
 *
 * @category models
 * @since 0.1.0
 */
export interface CheckedMarker {
  readonly slot: number
  readonly offset: number
  /** `undefined` when the record does not check by itself. */
  readonly marker: Marker | undefined
  /** The first thing that is wrong, by itself or in its place. */
  readonly issue: FormatIssue | undefined
  /** Whether it names the record before it; `undefined` when that one is not known, or this one does not check. */
  readonly isChained: boolean | undefined
}

interface Block {
  readonly records: ReadonlyArray<CheckedMarker>
  /** Of the slot behind them. */
  readonly before: MarkerPlace["before"]
}

/** Little, because each of its records becomes a row. */
const recordsInBlock = 1024

/** Checks the records in `bytes`, the first of which has the slot `slot`. */
const checkBlock = (
  bytes: Uint8Array,
  slot: number,
  { genesis, start }: Pick<MarkerRecords, "start" | "genesis">,
  before: MarkerPlace["before"]
): Block => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const base = markerSegmentHeaderBytes + slot * markerBytes
  const records: Array<CheckedMarker> = []
  let last = before
  for (let at = 0; at + markerBytes <= bytes.length; at += markerBytes) {
    const place = {
      seq: toCommitSeq(start + BigInt(slot + records.length)),
      before: last,
      genesis: slot + records.length === 0 ? genesis : "forbidden"
    } satisfies MarkerPlace
    const checked = checkRecord(bytes, view, at, base, place)
    records.push({ slot: slot + records.length, offset: base + at, ...checked })
    last = checked.marker ?? "unknown"
  }
  return { records, before: last }
}

const checkRecord = (
  bytes: Uint8Array,
  view: DataView,
  at: number,
  base: number,
  place: MarkerPlace
): Pick<CheckedMarker, "marker" | "issue" | "isChained"> => {
  const damage = recordIssue(bytes, view, at, base)
  if (damage !== undefined) return { marker: undefined, issue: damage, isChained: undefined }
  const marker = markerAt(bytes, view, at)
  const issue = placeIssue(marker, place, base + at)
  const isChained = issue?.code === "ChainBroken" ? false : place.before === "unknown" ? undefined : true
  return { marker, issue, isChained }
}

/**
 * The slots of a segment from `from` on, in blocks; those behind a bad one, too, of which the first then has no known one
 * before it.
 *
 * @category reading
 * @since 0.1.0
 */
export const readMarkers = (
  segment: MarkerRecords,
  from: number = 0
): Stream.Stream<ReadonlyArray<CheckedMarker>, VfsError> => {
  const { completeRecords } = slotsOf(segment.bytes)
  const end = Math.min(completeRecords, markersPerSegment)
  if (from >= end) return Stream.empty
  return Stream.unwrap(Effect.gen(function*() {
    const file = yield* segment.open
    const buffer = new Uint8Array(Math.min(recordsInBlock, end) * markerBytes)
    // What a record is held against stands before it.
    const first = Math.max(0, from - 1)
    const before: MarkerPlace["before"] = first === 0 ? yield* segment.before : "unknown"
    return Stream.paginate(
      { slot: first, before },
      Effect.fnUntraced(function*({ before, slot }: { slot: number; before: MarkerPlace["before"] }) {
        const wanted = buffer.subarray(0, (end - slot) * markerBytes)
        const length = yield* file.read(wanted, markerSegmentHeaderBytes + slot * markerBytes)
        const block = checkBlock(wanted.subarray(0, length), slot, segment, before)
        const next = slot + block.records.length
        // Somebody may have cut the file off meanwhile.
        const isLast = next >= end || length < wanted.length
        return [
          [block.records.filter(({ slot }) => slot >= from)],
          isLast ? Option.none() : Option.some({ slot: next, before: block.before })
        ] as const
      })
    )
  }))
}

/**
 * The last record of a segment that counts, for the next segment to be held against.
 *
 * @category reading
 * @since 0.1.0
 */
export const lastCounting = (segment: MarkerRecords): Effect.Effect<MarkerPlace["before"], VfsError> =>
  segment.counting === 0
    ? Effect.succeed("unknown")
    : readMarkers(segment, segment.counting - 1).pipe(
      Stream.take(1),
      Stream.runCollect,
      Effect.map((blocks) => blocks[0]?.[0]?.marker ?? "unknown")
    )

// -- listing ----------------------------------------------------------------------------------------------------------

/**
 * The names of the fields of a listed record.
 *
 * @category inspection
 * @since 0.1.0
 */
export const markerFieldNames: ReadonlyArray<string> = [
  "commitSequence",
  "commitTimeUnixNs",
  "commitTime",
  "capsuleObjectId",
  "proofObjectId",
  "previousMarkerId",
  "markerId",
  "flags",
  "chainOk"
]

const noFields: Fields = Object.fromEntries(markerFieldNames.map((name) => [name, null]))

/**
 * A time of a marker as people read it, `null` for one beyond what a date can say.
 *
 * @category formatting
 * @since 0.1.0
 */
export const markerTime = (unixNanos: bigint): string | null => isoTime(Number(unixNanos / 1_000_000n))

/** An object id, `null` when it is the one of no object. */
const objectOrNull = (id: Marker["capsule"]): string | null => isNoObject(id) ? null : objectIdToHex(id)

const fieldsOf = ({ isChained, marker }: CheckedMarker): Fields => {
  if (marker === undefined) return noFields
  return {
    commitSequence: marker.seq,
    commitTimeUnixNs: marker.timeUnixNanos,
    commitTime: markerTime(marker.timeUnixNanos),
    capsuleObjectId: objectOrNull(marker.capsule),
    proofObjectId: objectOrNull(marker.proof),
    previousMarkerId: objectOrNull(marker.previous),
    markerId: objectIdToHex(marker.id),
    flags: { genesis: isGenesis(marker), proof: !isNoObject(marker.proof) },
    chainOk: isChained ?? null
  }
}

/**
 * The records of the slots whose sequences lie in a range. `index` is the slot. The fields end with what `more` says of a
 * record, `undefined` for one that does not count.
 *
 * @category inspection
 * @since 0.1.0
 */
export const listMarkers = (
  segment: MarkerRecords,
  { from, to }: RecordRange,
  leading: Fields = {},
  more: (marker: Marker | undefined) => Fields = () => ({})
): Stream.Stream<InspectedRecord, VfsError> => {
  // Sequences have 64 bits; what is asked for does not have more than 53.
  const slotAt = (seq: number) => Number(BigInt(seq) - segment.start)
  const last = slotAt(to)
  if (last < 0) return Stream.empty
  return readMarkers(segment, Math.max(0, slotAt(from))).pipe(
    Stream.flatMap((block) => Stream.fromIterable(block)),
    Stream.takeWhile(({ slot }) => slot <= last),
    Stream.map((checked) => {
      const valid = checked.slot < segment.counting
      return {
        index: checked.slot,
        offset: checked.offset,
        valid,
        fields: { ...leading, ...fieldsOf(checked), ...more(valid ? checked.marker : undefined) }
      }
    })
  )
}

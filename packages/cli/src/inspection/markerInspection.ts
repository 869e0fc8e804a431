/**
 * A segment of a marker stream, or all the segments in their directory (section 6 of `formats.md`).
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { objectIdToHex, toCommitSeq } from "@tidemark/core/Scalars"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { isAnyTemporaryName, nameOf } from "@tidemark/wal/AtomicFile"
import type { MarkerUnreadable } from "@tidemark/wal/MarkerErrors"
import {
  decodeHeader,
  headerPlaceIssue,
  idOfMarkerSegmentName,
  isGenesis,
  type Marker,
  markerBytes,
  markerSegmentHeaderBytes,
  markerSegmentName,
  markersPerSegment,
  slotsOf
} from "@tidemark/wal/MarkerFormat"
import { overfullIssue } from "@tidemark/wal/MarkerSegmentFormat"
import { type MarkerScan, type MarkerSegmentFile, scanMarkers } from "@tidemark/wal/MarkerStore"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { OperationFailed } from "../ExitCode.ts"
import { type Fields, type Inspection, type OpenedFile, type Problem, problemOf } from "./Inspection.ts"
import {
  type CheckedMarker,
  lastCounting,
  listMarkers,
  markerFieldNames,
  type MarkerRecords,
  markerTime,
  readMarkers
} from "./markerRecords.ts"

// -- one segment ------------------------------------------------------------------------------------------------------

/**
 * Looks at an open file as a segment, on its own, as if it were the last one of its stream: whether its neighbours fit to
 * it is for the directory.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectMarkerSegment = Effect.fnUntraced(function*(
  opened: OpenedFile
): Effect.fn.Return<Inspection, VfsError, Vfs> {
  const { bytes, file } = opened
  const name = nameOf(file.path)
  // One that never got its name counts for nothing.
  const atSeverity = (problem: Problem): Problem =>
    isAnyTemporaryName(name) ? { ...problem, severity: "tail" } : problem
  const headerBytes = new Uint8Array(Math.min(markerSegmentHeaderBytes, bytes))
  const decoded = decodeHeader(headerBytes.subarray(0, yield* file.read(headerBytes, 0)))
  if (Result.isFailure(decoded)) {
    return {
      kind: "marker-segment",
      header: null,
      summary: {},
      problems: [atSeverity(problemOf(decoded.failure))],
      records: undefined
    }
  }
  const { segmentId, start } = decoded.success
  const isFirst = segmentId === 0n
  const segment: Omit<MarkerRecords, "counting"> = {
    open: Effect.succeed(file),
    bytes,
    start,
    before: Effect.succeed(isFirst ? "none" : "unknown"),
    genesis: isFirst ? "required" : "allowed"
  }
  const found = yield* tallyOf({ ...segment, counting: 0 })
  const misplaced = headerPlaceIssue(decoded.success, idOfMarkerSegmentName(name) ?? segmentId)
  const end = yield* endOf(opened, segmentId, found)
  return {
    kind: "marker-segment",
    header: { segmentId, startCommitSequence: start, recordSize: markerBytes },
    summary: {
      ...summaryOf(found.tally),
      recordsBehindDamage: found.behind,
      tornTailBytes: end?.severity === "tail" ? bytes - offsetOfSlot(found.tally.records) : 0
    },
    problems: [
      ...misplaced === undefined ? [] : [atSeverity(problemOf(misplaced))],
      ...end === undefined ? [] : [atSeverity(end)]
    ],
    records: {
      fieldNames: markerFieldNames,
      list: (range) => listMarkers({ ...segment, counting: found.tally.records }, range)
    }
  }
})

const offsetOfSlot = (slot: number): number => markerSegmentHeaderBytes + slot * markerBytes

/** What the records that count amount to. */
interface Tally {
  records: number
  genesis: number
  first: Marker | undefined
  last: Marker | undefined
}

const emptyTally = (): Tally => ({ records: 0, genesis: 0, first: undefined, last: undefined })

const addTo = (tally: Tally, marker: Marker) => {
  tally.records++
  if (isGenesis(marker)) tally.genesis++
  else tally.first ??= marker
  tally.last = marker
}

const summaryOf = ({ first, genesis, last, records }: Tally): Fields => ({
  records,
  commits: records - genesis,
  genesisRecords: genesis,
  firstCommitSequence: first?.seq ?? null,
  lastCommitSequence: first === undefined ? null : last?.seq ?? null,
  firstCommitTime: first === undefined ? null : markerTime(first.timeUnixNanos),
  lastCommitTime: first === undefined || last === undefined ? null : markerTime(last.timeUnixNanos),
  lastMarkerId: last === undefined ? null : objectIdToHex(last.id)
})

interface Found {
  readonly tally: Tally
  /** The first record that does not check. */
  readonly bad: { readonly slot: number; readonly issue: FormatIssue } | undefined
  /** Records behind that one which check by themselves, in their slots. */
  readonly behind: number
}

const tallyOf = (segment: MarkerRecords): Effect.Effect<Found, VfsError> =>
  Effect.suspend(() => {
    const tally = emptyTally()
    let bad: Found["bad"]
    let behind = 0
    const isInSlot = ({ marker, slot }: CheckedMarker) => marker?.seq === segment.start + BigInt(slot)
    return readMarkers(segment).pipe(
      Stream.runForEach((block) =>
        Effect.sync(() => {
          for (const checked of block) {
            const { issue, marker, slot } = checked
            if (bad !== undefined) {
              if (isInSlot(checked)) behind++
            } else if (issue !== undefined) bad = { slot, issue }
            else if (marker !== undefined) addTo(tally, marker)
          }
        })
      ),
      Effect.map(() => ({ tally, bad, behind }))
    )
  })

/** What is behind the records that count. */
const endOf = Effect.fnUntraced(function*(
  { bytes, file }: OpenedFile,
  segmentId: bigint,
  { bad, behind, tally }: Found
): Effect.fn.Return<Problem | undefined, VfsError, Vfs> {
  if (bad !== undefined) {
    const { issue, slot } = bad
    const rest = bytes - offsetOfSlot(slot)
    if (behind === 0 && (yield* isTorn(file.path, segmentId, slot))) return tornProblem(bytes, rest)
    const problem = problemOf(issue)
    return {
      ...problem,
      what: `the record at byte ${offsetOfSlot(slot)} does not check, and ${behind} behind it do: ${problem.what}`
    }
  }
  const { completeRecords, trailingBytes } = slotsOf(bytes)
  if (completeRecords > markersPerSegment || (completeRecords === markersPerSegment && trailingBytes > 0)) {
    return problemOf(overfullIssue(bytes))
  }
  return trailingBytes === 0 || tally.records < completeRecords ? undefined : tornProblem(bytes, trailingBytes)
})

const tornProblem = (bytes: number, tornBytes: number): Problem => ({
  offset: bytes - tornBytes,
  what: `${tornBytes} bytes are of markers that were never finished`,
  severity: "tail"
})

/**
 * Whether the bad record in a slot, behind which none checks, is what a power loss leaves of a batch (RC-14): what the
 * scan says of a stream that has this file only.
 */
const isTorn = Effect.fnUntraced(function*(
  path: string,
  segmentId: bigint,
  slot: number
): Effect.fn.Return<boolean, VfsError, Vfs> {
  const vfs = yield* Vfs
  const name = markerSegmentName(segmentId)
  const alone = { list: Effect.succeed([name]), pathOf: () => path }
  const start = segmentId * BigInt(markersPerSegment)
  const scan = yield* scanMarkers(streamOf(vfs, alone), nameless, { from: toCommitSeq(start + BigInt(slot)) })
  return scan.damage === undefined && scan.tornBytes > 0 && scan.segments[0]?.records === slot
})

// -- the stream -------------------------------------------------------------------------------------------------------

const nameless = ""

/** A file system in which the stream of a database without a name consists of these files. */
const streamOf = (
  vfs: Vfs["Service"],
  { list, pathOf }: {
    readonly list: Effect.Effect<ReadonlyArray<string>, VfsError>
    readonly pathOf: (name: string) => string
  }
): Vfs["Service"] => ({
  ...vfs,
  list: () => list,
  identify: (path) => vfs.identify(pathOf(nameOf(path))),
  open: (path, options) => vfs.open(pathOf(nameOf(path)), options)
})

/** How often a stream is looked at again that was cut off, or begun anew, while it was read. */
const maxLooks = 8

interface StreamLook {
  readonly scan: MarkerScan
  readonly tally: Tally
}

const look = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  directory: string
): Effect.fn.Return<StreamLook, VfsError | MarkerUnreadable> {
  const files = { list: vfs.list(directory), pathOf: (name: string) => `${directory}/${name}` }
  const scan = yield* scanMarkers(streamOf(vfs, files), nameless)
  const tally = emptyTally()
  yield* scan.visit(toCommitSeq(0n), (marker) => addTo(tally, marker))
  return { scan, tally }
})

/**
 * Looks at the directory of a marker stream, wherever it lies.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectMarkerStream = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  directory: string
): Effect.fn.Return<{ readonly bytes: number; readonly inspection: Inspection }, OperationFailed | VfsError> {
  const { scan, tally } = yield* look(vfs, directory).pipe(
    Effect.retry({ times: maxLooks, while: (error) => error._tag === "MarkerUnreadable" || error.code === "ENOENT" }),
    Effect.catchTag("MarkerUnreadable", ({ issue }) =>
      Effect.fail(
        new OperationFailed({
          path: directory,
          sentence: `the marker stream in ${directory} is another one each time it is read (${issue.message})`
        })
      ))
  )
  const segments = recordsOfStream(vfs, directory, scan.segments)
  const inspection: Inspection = {
    kind: "marker-stream",
    header: null,
    summary: {
      segments: scan.segments.length,
      ...summaryOf(tally),
      recordsBehindDamage: scan.damage?.recordsBehind ?? 0,
      tornTailBytes: scan.tornBytes,
      temporaryFiles: scan.temporaries.length,
      foreignFiles: scan.foreign.length
    },
    problems: problemsOf(directory, scan),
    parts: { key: "segments", fields: scan.segments.map(segmentFields) },
    records: {
      fieldNames: ["segment", ...markerFieldNames],
      list: (range) =>
        Stream.flatMap(
          Stream.fromIterable(segments),
          ({ name, records }) => listMarkers(records, range, { segment: name })
        )
    }
  }
  return { bytes: scan.segments.reduce((sum, { bytes }) => sum + bytes, 0), inspection }
})

const problemsOf = (directory: string, { damage, segments, tornBytes }: MarkerScan): ReadonlyArray<Problem> => {
  if (damage !== undefined) {
    const { couldBeTorn, issue, recordsBehind } = damage
    const origin = couldBeTorn ? "; a power loss during the last batch could have left it like this" : ""
    return [{
      path: `${directory}/${nameOf(damage.path)}`,
      offset: damage.offset,
      what: `${issue.message}, with ${recordsBehind} good records behind it${origin}`,
      severity: "corrupt"
    }]
  }
  const last = segments.at(-1)
  return last === undefined || tornBytes === 0
    ? []
    : [{ path: `${directory}/${nameOf(last.path)}`, ...tornProblem(last.bytes, tornBytes) }]
}

/**
 * A segment as a part of its stream.
 *
 * @category inspection
 * @since 0.1.0
 */
export const segmentFields = ({ bytes, id, path, records, start }: MarkerSegmentFile): Fields => ({
  name: nameOf(path),
  bytes,
  segmentId: id,
  startCommitSequence: start,
  records,
  trailingBytes: Math.max(0, bytes - offsetOfSlot(records))
})

/**
 * The segments of a stream for listing, each held against the one before it.
 *
 * @category inspection
 * @since 0.1.0
 */
export const recordsOfStream = (
  vfs: Vfs["Service"],
  directory: string,
  files: ReadonlyArray<MarkerSegmentFile>
): ReadonlyArray<{ readonly name: string; readonly records: MarkerRecords }> => {
  const listed: Array<{ readonly name: string; readonly records: MarkerRecords }> = []
  for (const [index, { bytes, id, path, records: counting, start }] of files.entries()) {
    const name = nameOf(path)
    const previous = listed.at(-1)?.records
    const fileBefore = files[index - 1]
    const goesOn = fileBefore !== undefined && fileBefore.id + 1n === id && fileBefore.records === markersPerSegment
    listed.push({
      name,
      records: {
        open: vfs.open(`${directory}/${name}`, { access: "read" }),
        bytes,
        start,
        counting,
        before: previous === undefined ? Effect.succeed("none") : lastCounting(previous),
        genesis: goesOn ? "allowed" : "required"
      }
    })
  }
  return listed
}

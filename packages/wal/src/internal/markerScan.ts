/**
 * Looking at the files of a marker stream: what counts, what is torn, what is damaged. `MarkerStore.ts` says by which
 * rules.
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import type { CommitSeq } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import { isAnyTemporaryName } from "../AtomicFile.ts"
import {
  idOfMarkerSegmentName,
  type Marker,
  markerBytes,
  markersDirectory,
  markerSegmentHeaderBytes,
  markerSegmentPath,
  segmentStart,
  slotsOf
} from "../MarkerFormat.ts"
import { overfullIssue, tornTailIssue } from "../MarkerSegmentFormat.ts"
import type { MarkerDamage, MarkerScan, MarkerScanOptions, MarkerSegmentFile } from "../MarkerStore.ts"
import { visitMarkers } from "./markerReader.ts"
import { examineTail } from "./markerTail.ts"
import { bufferFor, genesisIn, headerIssue, MarkerWalk, offsetInSegment, walkSlots } from "./markerWalk.ts"

/** @internal */
export interface ScanMarkersOptions extends MarkerScanOptions {
  readonly perSegment: number
}

/** @internal */
export const scanStream = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  options: ScanMarkersOptions
): Effect.fn.Return<MarkerScan, VfsError> {
  const { perSegment } = options
  const { files, foreign, temporaries } = yield* listFiles(vfs, database, perSegment)
  const from = options.from === undefined ? undefined : yield* findAnchor(vfs, files, options.from, perSegment)
  const found = yield* walkStream(vfs, files, from, perSegment)
  return {
    ...found,
    verifiedFrom: from === undefined ? toCommitSeq(0n) : from.marker.seq,
    highest: highestOf(files),
    temporaries,
    foreign,
    visit: (first, visitor) =>
      found.last === undefined
        ? Effect.void
        : visitMarkers(vfs, { segments: found.segments, from: first, through: found.last.seq, perSegment }, visitor)
  }
})

/**
 * Scans a stream of which the newest `records` are verified.
 *
 * @internal
 */
export const scanNewest = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  options: { readonly perSegment: number; readonly records: number }
): Effect.fn.Return<MarkerScan, VfsError> {
  const { perSegment, records } = options
  const { files } = yield* listFiles(vfs, database, perSegment)
  const from = (highestOf(files) ?? 0n) - BigInt(records) + 1n
  return yield* scanStream(vfs, database, { perSegment, from: from > 0n ? toCommitSeq(from) : undefined })
})

/** The files as they are listed, with the records that they have room for. */
const listFiles = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  perSegment: number
) {
  const { foreign, ids, temporaries } = yield* listDirectory(vfs, database)
  const files: Array<MarkerSegmentFile> = []
  for (const id of ids) {
    const path = markerSegmentPath(database, id)
    const bytes = (yield* vfs.identify(path))?.size ?? 0
    const { completeRecords } = slotsOf(bytes)
    const records = Math.min(completeRecords, perSegment)
    files.push({ path, id, start: segmentStart(id, perSegment), bytes, records })
  }
  return { files, foreign, temporaries }
})

const highestOf = (files: ReadonlyArray<MarkerSegmentFile>): CommitSeq | undefined => {
  const holding = files.findLast(({ records }) => records > 0)
  return holding === undefined ? undefined : toCommitSeq(holding.start + BigInt(holding.records) - 1n)
}

const listDirectory = (vfs: Vfs["Service"], database: string) =>
  vfs.list(markersDirectory(database)).pipe(
    Effect.catchIf(({ code }) => code === "ENOENT", () => Effect.succeed([])),
    Effect.map((names) => {
      const ids: Array<bigint> = []
      const temporaries: Array<string> = []
      const foreign: Array<string> = []
      for (const name of names) {
        const id = idOfMarkerSegmentName(name)
        if (id !== undefined) ids.push(id)
        else (isAnyTemporaryName(name) ? temporaries : foreign).push(name)
      }
      // Names are sorted as texts, where one of seven digits comes before some of six.
      return { ids: ids.toSorted((a, b) => a < b ? -1 : a > b ? 1 : 0), temporaries, foreign }
    })
  )

interface Anchor {
  readonly index: number
  readonly slot: number
  readonly marker: Marker
  /** Has checked it. */
  readonly walk: MarkerWalk
}

/**
 * The last complete record before `from`, which a walk can begin behind; `undefined` when there is none or it does not
 * check.
 */
const findAnchor = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  files: ReadonlyArray<MarkerSegmentFile>,
  from: CommitSeq,
  perSegment: number
): Effect.fn.Return<Anchor | undefined, VfsError, never> {
  const index = files.findLastIndex(({ records, start }) => records > 0 && start < from)
  const segment = files[index]
  if (segment === undefined) return undefined
  const inside = from - segment.start
  const slot = inside < segment.records ? Number(inside) - 1 : segment.records - 1
  return yield* Effect.scoped(Effect.gen(function*() {
    const file = yield* vfs.open(segment.path, { access: "read" })
    if ((yield* headerIssue(file, segment.id, perSegment)) !== undefined) return undefined
    const walk = new MarkerWalk("unknown")
    const buffer = new Uint8Array(markerBytes)
    const genesis = genesisIn(files[index - 1], segment.id, perSegment)
    yield* walkSlots(file, walk, { start: segment.start, from: slot, to: slot + 1, genesis, buffer })
    const marker = walk.last
    return marker === undefined ? undefined : { index, slot, marker, walk }
  }))
})

type Found = Pick<MarkerScan, "segments" | "last" | "tornBytes" | "damage">

/** Walks over the records behind `anchor`, or over all. */
const walkStream = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  files: ReadonlyArray<MarkerSegmentFile>,
  anchor: Anchor | undefined,
  perSegment: number
): Effect.fn.Return<Found, VfsError> {
  const walk = anchor?.walk ?? new MarkerWalk("none")
  const buffer = bufferFor(files.reduce((most, { records }) => Math.max(most, records), 0))
  const counted: Array<MarkerSegmentFile> = files.slice(0, anchor?.index ?? 0)
  for (const [index, segment] of files.entries()) {
    if (index < counted.length) continue
    const from = index === anchor?.index ? anchor.slot + 1 : 0
    const end = yield* walkSegment(vfs, segment, walk, {
      from,
      genesis: genesisIn(counted.at(-1), segment.id, perSegment),
      buffer,
      perSegment,
      isLast: index === files.length - 1
    })
    counted.push({ ...segment, records: end.records })
    if (end.stop === undefined) continue
    const rest = files.slice(index)
    const { couldBeTorn, recordsBehind } = yield* examineTail(
      vfs,
      rest,
      { slot: end.records, issue: end.stop.issue, from: end.stop.offset === 0 ? 0 : end.records + 1 },
      perSegment
    )
    // The header is there whenever the file is.
    const validBytes = offsetInSegment(segment.start, toCommitSeq(segment.start + BigInt(end.records)))
    if (couldBeTorn && recordsBehind === 0) {
      return { segments: counted, last: walk.last, tornBytes: segment.bytes - validBytes, damage: undefined }
    }
    const damage: MarkerDamage = {
      path: segment.path,
      offset: end.stop.offset,
      issue: end.stop.issue,
      recordsBehind,
      couldBeTorn
    }
    for (const unread of rest.slice(1)) counted.push({ ...unread, records: 0 })
    return { segments: counted, last: walk.last, tornBytes: 0, damage }
  }
  const tornBytes = slotsOf(files.at(-1)?.bytes ?? 0).trailingBytes
  return { segments: counted, last: walk.last, tornBytes, damage: undefined }
})

interface SegmentEnd {
  readonly records: number
  readonly stop: { readonly offset: number; readonly issue: FormatIssue } | undefined
}

const walkSegment = (
  vfs: Vfs["Service"],
  segment: MarkerSegmentFile,
  walk: MarkerWalk,
  options: {
    readonly from: number
    readonly genesis: ReturnType<typeof genesisIn>
    readonly buffer: Uint8Array
    readonly perSegment: number
    readonly isLast: boolean
  }
): Effect.Effect<SegmentEnd, VfsError> =>
  Effect.scoped(Effect.gen(function*() {
    const { buffer, from, genesis, isLast, perSegment } = options
    const file = yield* vfs.open(segment.path, { access: "read" })
    const refused = yield* headerIssue(file, segment.id, perSegment)
    if (refused !== undefined) return { records: 0, stop: { offset: 0, issue: refused } }
    const { issue, slot } = yield* walkSlots(file, walk, {
      start: segment.start,
      from,
      to: segment.records,
      genesis,
      buffer
    })
    const offset = markerSegmentHeaderBytes + slot * markerBytes
    if (issue !== undefined) return { records: slot, stop: { offset, issue } }
    const { completeRecords, trailingBytes } = slotsOf(segment.bytes)
    if (completeRecords > perSegment || (completeRecords === perSegment && trailingBytes > 0)) {
      return { records: slot, stop: { offset, issue: overfullIssue(segment.bytes, perSegment) } }
    }
    if (!isLast && trailingBytes > 0) {
      return { records: slot, stop: { offset, issue: tornTailIssue(slot, trailingBytes) } }
    }
    return { records: slot, stop: undefined }
  }))

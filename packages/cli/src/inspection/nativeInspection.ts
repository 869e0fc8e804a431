/**
 * A database with a native log as a whole: its file, the marker stream, the capsules that the markers name, and the
 * shared-memory header beside it. Reads only, takes no lock, maps nothing.
 *
 * Beside a process that writes the database, files come and go between one read and the next. A capsule goes only after
 * the checkpoint mark has moved on; so what is wrong under a mark that has not moved is wrong, and otherwise it is looked
 * at again.
 *
 * @since 0.1.0
 */
import * as SharedHeaderFormat from "@tidemark/coordinator/SharedHeaderFormat"
import { objectIdToHex } from "@tidemark/core/Scalars"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { capsulesDirectory, idOfCapsuleName } from "@tidemark/wal/CapsuleFormat"
import { readCheckpointMark } from "@tidemark/wal/CheckpointMarkFormat"
import { idOfMarkerSegmentName, isGenesis, type Marker, markersDirectory } from "@tidemark/wal/MarkerFormat"
import { examineNative, type LiveCapsule, type NativeExamination } from "@tidemark/wal/NativeStartUp"
import { logKindOf } from "@tidemark/wal/ParallelStartUp"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { missingFile } from "../startUp/startUpReports.ts"
import type { Fields, Inspection, Problem } from "./Inspection.ts"
import { recordsOfStream, segmentFields } from "./markerInspection.ts"
import { listMarkers, markerFieldNames } from "./markerRecords.ts"
import { inspectSharedHeader } from "./sharedHeaderInspection.ts"

/**
 * Whether a database has a native log: there are marker segments or capsules, and no other log has commits that are not
 * in the database file.
 *
 * @category predicates
 * @since 0.1.0
 */
export const isNativeDatabase = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string
): Effect.fn.Return<boolean, VfsError> {
  const markers = yield* namesIn(vfs, markersDirectory(database))
  const capsules = yield* namesIn(vfs, capsulesDirectory(database))
  const isThere = markers.some((name) => idOfMarkerSegmentName(name) !== undefined) ||
    capsules.some((name) => idOfCapsuleName(name) !== undefined)
  if (!isThere) return false
  const kind = yield* logKindOf(vfs, database)
  return kind === "native" || kind === "none"
})

const namesIn = (vfs: Vfs["Service"], directory: string): Effect.Effect<ReadonlyArray<string>, VfsError> =>
  Effect.catchIf(
    vfs.list(directory),
    ({ code }) => code === "ENOENT" || code === "ENOTDIR",
    () => Effect.succeed([])
  )

/**
 * Looks at a database with a native log.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectNative = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string
): Effect.fn.Return<{ readonly bytes: number; readonly inspection: Inspection }, VfsError> {
  const { found, isLasting } = yield* look(vfs, database)
  const shared = yield* sharedHeaderOf(vfs, database)
  const files = found.markers?.segments ?? []
  const segments = recordsOfStream(vfs, markersDirectory(database), files)
  const live = new Map(found.live.map((capsule) => [capsule.seq, capsule]))
  const inspection: Inspection = {
    kind: "native-database",
    header: found.databaseHeader === undefined ? null : { ...found.databaseHeader },
    summary: {
      cases: found.cases.join(" "),
      lastSequence: found.tip,
      checkpointedThrough: found.mark?.through ?? null,
      commitsToReplay: found.live.length,
      pagesToReplay: found.live.reduce((sum, { pages }) => sum + pages.length, 0),
      capsuleBytesToReplay: found.live.reduce((sum, { bytes }) => sum + bytes, 0),
      databaseSizeInPages: found.databasePages,
      capsulesWithoutMarker: found.orphans.length,
      checkpointedCapsules: found.removable.length,
      lastTxnId: found.lastTxnId,
      isReadOnly: found.isReadOnly,
      tornTailBytes: found.tornTailBytes,
      sharedHeader: shared?.fields ?? null
    },
    problems: [
      ...isLasting ? problemsOf(found) : found.problems.filter(({ severity }) => severity === "tail"),
      ...shared === undefined ? [] : sharedProblems(found, shared)
    ],
    parts: { key: "segments", fields: files.map(segmentFields) },
    records: {
      fieldNames: ["segment", ...markerFieldNames, ...Object.keys(noCommit)],
      list: (range) =>
        Stream.flatMap(
          Stream.fromIterable(segments),
          ({ name, records }) =>
            listMarkers(records, range, { segment: name }, (marker) => commitFields(found, live, marker))
        )
    }
  }
  return { bytes: found.databaseFileBytes, inspection }
})

// -- the log ----------------------------------------------------------------------------------------------------------

/** Checkpoints may come faster than looks: after so many of those nothing has been found that stays. */
const maxLooks = 32
const betweenLooks = "25 millis"

const look = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string
): Effect.fn.Return<{ readonly found: NativeExamination; readonly isLasting: boolean }, VfsError> {
  for (let looks = 1;; looks++) {
    const before = yield* markedThrough(vfs, database)
    // A file that was listed can be gone when it is opened.
    const found = yield* Effect.retry(examineNative(vfs, database), {
      times: maxLooks,
      while: ({ code }) => code === "ENOENT"
    })
    // Ends that nobody has acknowledged are what they are, whatever comes next.
    const isDamaged = found.refusal !== undefined || found.problems.some(({ severity }) => severity === "corrupt")
    if (!isDamaged || (yield* markedThrough(vfs, database)) === before) return { found, isLasting: true }
    if (looks === maxLooks) return { found, isLasting: false }
    yield* Effect.sleep(betweenLooks)
  }
})

/** `null` when there is no mark that can be read. */
const markedThrough = (vfs: Vfs["Service"], database: string): Effect.Effect<bigint | null, VfsError> =>
  Effect.map(
    readCheckpointMark(vfs, database),
    (read) => read !== undefined && Result.isSuccess(read) ? read.success.through : null
  )

const problemsOf = (found: NativeExamination): ReadonlyArray<Problem> => {
  const { path, problems, refusal } = found
  return refusal === undefined || problems.some(({ severity }) => severity === "corrupt")
    ? [...missingFile(found), ...problems]
    : [{ path, offset: 0, what: refusal.message, severity: "corrupt" }, ...problems]
}

/** What has become of a commit: `null` of records that are none, or do not count. */
const noCommit: Fields = { commit: null, pages: null, capsuleBytes: null }

const commitFields = (
  { mark }: NativeExamination,
  live: ReadonlyMap<bigint, LiveCapsule>,
  marker: Marker | undefined
): Fields => {
  if (marker === undefined || isGenesis(marker)) return noCommit
  if (mark !== undefined && marker.seq <= mark.through) return { ...noCommit, commit: "in the database file" }
  const capsule = live.get(marker.seq)
  return capsule === undefined || objectIdToHex(capsule.id) !== objectIdToHex(marker.capsule)
    ? { ...noCommit, commit: "not replayed" }
    : { commit: "to be replayed", pages: capsule.pages.length, capsuleBytes: capsule.bytes }
}

// -- the shared-memory header -----------------------------------------------------------------------------------------

interface FoundSharedHeader {
  readonly path: string
  readonly fields: Fields
  /** `undefined` when the header cannot be read. */
  readonly pageSize: number | undefined
  readonly problems: ReadonlyArray<Problem>
}

const sharedHeaderOf = (
  vfs: Vfs["Service"],
  database: string
): Effect.Effect<FoundSharedHeader | undefined, VfsError> => {
  const path = SharedHeaderFormat.sharedHeaderPath(database)
  return Effect.gen(function*() {
    const file = yield* vfs.open(path, { access: "read" })
    const { header, problems, summary } = yield* inspectSharedHeader({ file, bytes: yield* file.size })
    const { liveSlots, published, publisher } = summary
    const pageSize = header?.["pageSize"]
    return {
      path,
      pageSize: typeof pageSize === "number" ? pageSize : undefined,
      fields: {
        commitSequence: header?.["commitSequence"] ?? null,
        published: published ?? null,
        publisher: publisher ?? null,
        liveSlots: liveSlots ?? null
      },
      problems
    }
  }).pipe(
    Effect.scoped,
    Effect.catchIf(
      ({ code, operation }) => operation === "open" && code === "ENOENT",
      () => Effect.succeed(undefined)
    )
  )
}

/** A header for pages of another size is no header of this database. */
const sharedProblems = (
  { pageSize }: NativeExamination,
  { pageSize: found, path, problems }: FoundSharedHeader
): ReadonlyArray<Problem> => {
  const ofHeader = problems.map((problem) => ({ ...problem, path }))
  if (found === undefined || pageSize === undefined || found === pageSize) return ofHeader
  return [...ofHeader, {
    path,
    offset: SharedHeaderFormat.offsets.pageSize,
    what: `the page size is ${found}, and the database has pages of ${pageSize} bytes`,
    severity: "corrupt"
  }]
}

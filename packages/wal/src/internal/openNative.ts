/**
 * Opening a database with a native log: locks, examination, refusal or recovery.
 *
 * Invariants
 * 1. Nothing on the disk changes before every refusal has had its turn, and nothing at all where damage is not accepted
 *    (RC-26).
 * 2. What recovery goes on from is durable, contents and names, before anything is removed or built on it: a process
 *    that was killed has left it to the page cache.
 * 3. Where capsules hold commits that are not in the database file, its header says so before anything is committed.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { PageSize } from "@tidemark/core/Scalars"
import { defaultPageSize, toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import { FileLock } from "@tidemark/platform/FileLock"
import type { VfsFile } from "@tidemark/platform/Vfs"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Published } from "../CommitLog.ts"
import { isTidemarkLog } from "../DatabaseHeaderFormat.ts"
import { lockDatabase, lockSharedMemory } from "../DatabaseLock.ts"
import type { MarkersDamaged } from "../MarkerErrors.ts"
import { type MarkerFiles, openMarkers, scanMarkers } from "../MarkerStore.ts"
import type { NativeLogOptions, OpenNativeError } from "../NativeLog.ts"
import { examineNative, type LiveCapsule, type NativeExamination } from "../NativeStartUp.ts"
import { markDatabase } from "./databaseMark.ts"
import { holdsNoDatabase, makeDurable, openDatabaseFile, refuse, writeFirstPage } from "./openDatabase.ts"
import { rewrite } from "./rewrite.ts"
import { VersionIndex } from "./versionIndex.ts"

/** @internal */
export interface OpenedNative {
  readonly databaseFile: VfsFile
  readonly examination: NativeExamination
  readonly pageSize: PageSize
  readonly index: VersionIndex
  readonly published: Published
  readonly isMarked: boolean
  /** The stream, open for appending; or why it is not (RC-26). */
  readonly markers: MarkerFiles | MarkersDamaged
}

/** @internal */
export const openNative = Effect.fnUntraced(function*(
  options: NativeLogOptions
): Effect.fn.Return<OpenedNative, OpenNativeError, Vfs | FileLock | Scope.Scope> {
  const vfs = yield* Vfs
  const fileLock = yield* FileLock
  const { create, database, mayRemoveOrphan } = options
  const examine = examineNative(vfs, database, { acceptLoss: options.acceptLoss ?? false })
  const databaseFile = yield* openDatabaseFile(
    vfs,
    database,
    create === undefined ? undefined : Effect.map(examine, ({ live, refusal }) => ({ refusal, commits: live.length }))
  )
  yield* lockDatabase(vfs, fileLock, database)

  let examination = yield* examine
  const isToBeMade = create !== undefined && examination.markers === undefined &&
    (yield* holdsNoDatabase(databaseFile, { commits: 0, databaseFileBytes: examination.databaseFileBytes }))
  yield* refuse(examination, isToBeMade)
  // The locks on the database file alone keep stock SQLite out, and `-shm` may have to be made for the one on that.
  if (examination.isReadOnly) return readOnly(databaseFile, examination)
  yield* lockSharedMemory(fileLock, database)

  // From here on nobody else is in, nothing stands against it, and the disk may change.
  if (isToBeMade) {
    yield* writeFirstPage(databaseFile, create.pageSize ?? defaultPageSize)
    examination = yield* examine
    yield* refuse(examination, false)
  }
  const { databaseFileBytes, live, orphans, pageSize, removable, sweepable, tip } = examination
  invariant(pageSize !== undefined, "a database that was not refused has a page size")
  // Page 1 is written once more, because after a failed sync its version bytes may be on the disk as they were before
  // (`rewrite.ts`). A capsule that a marker names was synced before the marker was written.
  yield* rewrite(databaseFile, 0, Math.min(pageSize, databaseFileBytes))
  yield* makeDurable(vfs, database, [databaseFile])
  const isMarked = saysItsCommitsAreElsewhere(examination)
  if (!isMarked && live.length > 0) yield* markDatabase(databaseFile, 3)
  const scan = examination.markers ?? (yield* scanMarkers(vfs, database))
  const markers = yield* openMarkers(vfs, { database, scan, tip })
  // Only now: what names them, or does not, is durable.
  for (const path of [...sweepable, ...removable]) yield* removeIfThere(vfs, path)
  for (const orphan of orphans) {
    if (mayRemoveOrphan === undefined || mayRemoveOrphan(orphan)) yield* removeIfThere(vfs, orphan.path)
  }
  return {
    databaseFile,
    examination,
    pageSize,
    index: indexOf(live),
    // The sequences up to the next one are used up, if only by a genesis record.
    published: { commitSeq: toCommitSeq(markers.next() - 1n), databasePages: examination.databasePages },
    isMarked: isMarked || live.length > 0,
    markers
  }
})

/** What is whole can be read. */
const readOnly = (databaseFile: VfsFile, examination: NativeExamination): OpenedNative => {
  const { base, damage, databasePages, live, pageSize } = examination
  invariant(damage !== undefined && pageSize !== undefined, "a database that can only be read is damaged, and is one")
  return {
    databaseFile,
    examination,
    pageSize,
    index: indexOf(live),
    published: { commitSeq: live.at(-1)?.seq ?? base, databasePages },
    isMarked: saysItsCommitsAreElsewhere(examination),
    markers: damage
  }
}

const saysItsCommitsAreElsewhere = ({ databaseHeader }: NativeExamination): boolean =>
  databaseHeader !== undefined && isTidemarkLog(databaseHeader)

/** Opening the markers sweeps their directory itself. */
const removeIfThere = (vfs: Vfs["Service"], path: string): Effect.Effect<void, VfsError> =>
  Effect.catchIf(vfs.remove(path), (error) => error.code === "ENOENT", () => Effect.void)

const indexOf = (live: ReadonlyArray<LiveCapsule>): VersionIndex => {
  const index = new VersionIndex()
  for (const { databasePages, offsets, pages, path, seq } of live) {
    const segment = { path, low: seq, high: seq, databasePages, pages: Array.from(pages, toPageNumber) }
    index.addSegment(segment)
    segment.pages.forEach((page, at) => index.addVersion(page, seq, segment, offsets[at] ?? 0))
  }
  return index
}

/**
 * Copying the pages of segments, or capsules, into the database file. Nothing counts as copied before the caller has written
 * the checkpoint mark (`formats.md` 2.2): a copy that was cut short is simply made again.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { PageNumber, PageSize } from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import { hasMagic, setVersions } from "../DatabaseHeaderFormat.ts"
import { DatabaseTruncated } from "../LogErrors.ts"
import { adjacentRuns, CopyBuffer, maxGroupBytes } from "./checkpoint.ts"
import type { PageVersion, SegmentInLog, VersionIndex } from "./versionIndex.ts"

/** @internal */
export interface SegmentCopy {
  readonly vfs: Vfs["Service"]
  readonly databaseFile: VfsFile
  readonly pageSize: PageSize
  readonly index: VersionIndex
  /** Kept from copy to copy, so only one runs at a time. */
  readonly buffer: CopyBuffer
}

/**
 * Brings the database file to what it is after the last of these segments, the oldest of the log, durably. Page 1 says
 * that the newest commits are elsewhere.
 *
 * @internal
 */
export const copySegments = Effect.fnUntraced(function*(
  copy: SegmentCopy,
  segments: ReadonlyArray<SegmentInLog>,
  { databasePages, high }: SegmentInLog
): Effect.fn.Return<void, VfsError | DatabaseTruncated> {
  const { databaseFile, index, pageSize } = copy
  const small: Array<SegmentPages> = []
  for (const [segment, versions] of index.newestOf(segments, high)) {
    if (segment.pages.length * pageSize <= smallBytes) small.push([segment, versions])
    else yield* copySegment(copy, segment, versions, databasePages)
  }
  yield* copySmall(copy, small, databasePages)
  if ((yield* databaseFile.size) !== databasePages * pageSize) yield* databaseFile.truncate(databasePages * pageSize)
  // Not `syncData`: an attempt that was interrupted may have cut the file off without having synced that.
  yield* databaseFile.syncFull
})

type SegmentPages = readonly [SegmentInLog, ReadonlyMap<PageNumber, PageVersion>]

/** A segment of so many bytes at the most is small. */
const smallBytes = 64 * 1024
/**
 * Small segments that are copied at the same time. Where a commit is a file each step of copying one waits for a thread of
 * the platform behind the steps of all committers: one file at a time falls behind the commits. So there are more of them
 * than there are capsules being put and synced at a time. They take 64 KiB of memory each, twice that at most.
 */
const copyConcurrency = 64

/** No page is in two of them, so their order does not matter. */
const copySmall = (
  copy: SegmentCopy,
  segments: ReadonlyArray<SegmentPages>,
  databasePages: number
): Effect.Effect<void, VfsError | DatabaseTruncated> => {
  const rest = segments.values()
  const worker = Effect.suspend(() => {
    const own = { ...copy, buffer: new CopyBuffer() }
    return Effect.gen(function*() {
      for (const [segment, versions] of rest) yield* copySegment(own, segment, versions, databasePages)
    })
  })
  const workers = Math.min(copyConcurrency, segments.length)
  return Effect.all(Array.from({ length: workers }, () => worker), { concurrency: workers, discard: true })
}

/** A segment is read from the first to the last image that is wanted, a few megabytes at a time. */
const copySegment = Effect.fnUntraced(
  function*(
    { buffer, databaseFile, pageSize, vfs }: SegmentCopy,
    { path }: SegmentInLog,
    versions: ReadonlyMap<PageNumber, PageVersion>,
    databasePages: number
  ) {
    const wanted = Array.from(versions, ([page, { offset }]) => ({ page, offset }))
      .filter(({ page }) => page <= databasePages)
      .sort((a, b) => a.offset - b.offset)
    const file = yield* vfs.open(path, { access: "read" })
    for (let at = 0; at < wanted.length;) {
      const start = wanted[at]?.offset ?? 0
      let end = at
      while ((wanted[end]?.offset ?? Infinity) + pageSize - start <= Math.max(maxGroupBytes, pageSize)) end++
      const group = wanted.slice(at, end)
      const bytes = buffer.take((group.at(-1)?.offset ?? start) + pageSize - start, start)
      if ((yield* file.read(bytes, start)) < bytes.length) {
        return yield* new DatabaseTruncated({ path, page: group[0]?.page ?? page1, offset: start })
      }
      yield* writeGroup(databaseFile, pageSize, group, bytes, start)
      at = end
    }
  },
  Effect.scoped
)

const writeGroup = (
  databaseFile: VfsFile,
  pageSize: PageSize,
  group: ReadonlyArray<{ readonly page: PageNumber; readonly offset: number }>,
  bytes: Uint8Array,
  start: number
): Effect.Effect<void, VfsError> => {
  const images = new Map<PageNumber, Uint8Array>()
  for (const { offset, page } of group) {
    const image = bytes.subarray(offset - start, offset - start + pageSize)
    if (page === page1 && hasMagic(image)) setVersions(image, 3)
    images.set(page, image)
  }
  const runs = adjacentRuns(Array.from(images.keys()).sort((a, b) => a - b))
  return Effect.forEach(runs, (run) => {
    const first = run[0]
    invariant(first !== undefined, "a run has a page")
    return databaseFile.write(run.flatMap((page) => images.get(page) ?? []), (first - 1) * pageSize)
  }, { discard: true })
}

const page1 = 1 as PageNumber // the first page of every database

/**
 * Copying committed pages from the log into the database file (SWAL-07).
 *
 * The log is durable up to what is published, so it is synced before the first page is copied. The database file is
 * synced before anything counts as copied. A checkpoint that crashes anywhere is simply run again (SWAL-08): the log
 * still has every page, and copying a page twice changes nothing.
 *
 * Why a copy never disturbs a reader: it stops at the oldest snapshot in use, S. A page that it writes has a version at
 * or below S in the log, so every reader (at S or above) finds that page, or a newer version, in the log and does not
 * look at the database file for it.
 */
import type { CommitSeq, PageNumber } from "@tidemark/core/Scalars"
import { toPageNumber } from "@tidemark/core/Scalars"
import * as TailMemory from "@tidemark/platform/TailMemory"
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import { DatabaseTruncated } from "../LogErrors.ts"
import { frameHeaderBytes, frameOffset } from "../SqliteWalFormat.ts"
import type { WalIndex } from "../WalIndex.ts"

/** Pages that are read and written together. At 64 KiB pages this is 16 MiB of memory, at 4 KiB 4 MiB with slack. */
export const maxGroupBytes = 4 * 1024 * 1024

/**
 * Memory for what is read together, used again by every checkpoint of a log: under load there are a hundred in a second,
 * and megabytes that come and go at that rate keep the garbage collector busy for longer than the copying takes.
 *
 * @internal
 */
export class CopyBuffer {
  private bytes: Uint8Array = new Uint8Array(0)

  /** `length` bytes of it, for what is read from `position` on; what it held before is lost. */
  take(length: number, position: number): Uint8Array {
    if (length > maxKeptBytes) return new Uint8Array(length)
    // So that what was written past the page cache is read past it, too. Doubled, so that it is soon large enough.
    const first = position % TailMemory.blockBytes
    const least = length + 2 * TailMemory.blockBytes
    if (least > this.bytes.length) this.bytes = TailMemory.make(Math.min(2 * least, maxKeptBytes + least - length))
    return this.bytes.subarray(first, first + length)
  }
}

/** A group, and as many frames again that lie in its gaps. */
const maxKeptBytes = 2 * maxGroupBytes

/** @internal */
export interface CopyOptions {
  readonly walFile: VfsFile
  readonly databaseFile: VfsFile
  readonly pageSize: number
  readonly index: WalIndex
  /** Frames that are in the database file already. */
  readonly fromFrame: number
  /** The snapshot that the database file shall hold. */
  readonly bound: CommitSeq
  /** The size of the database at `bound`, which the file shall have. */
  readonly databasePages: number
  readonly buffer: CopyBuffer
}

/** @internal Answers how many frames are in the database file now. */
export const copyPages = Effect.fnUntraced(
  function*(options: CopyOptions): Effect.fn.Return<number, VfsError | DatabaseTruncated> {
    const { databaseFile, databasePages, index, pageSize } = options
    const toFrame = index.framesAt(options.bound)
    if (toFrame <= options.fromFrame) return options.fromFrame
    const newest = index.newestBetween(options.fromFrame, toFrame)
    const pages = Array.from(newest.keys()).filter((page) => page <= databasePages).sort((a, b) => a - b)
    const groupPages = Math.max(1, Math.floor(maxGroupBytes / pageSize))
    for (let at = 0; at < pages.length; at += groupPages) {
      const group = pages.slice(at, at + groupPages)
      const images = yield* readFrames(options, group, newest)
      for (const run of adjacentRuns(group)) {
        const buffers = run.flatMap((page) => images.get(page) ?? [])
        yield* databaseFile.write(buffers, ((run[0] ?? 1) - 1) * pageSize)
      }
    }
    if ((yield* databaseFile.size) !== databasePages * pageSize) {
      yield* databaseFile.truncate(databasePages * pageSize)
    }
    // Not `syncData`: an attempt that was interrupted may have cut the file off without having synced that.
    yield* databaseFile.syncFull
    return toFrame
  }
)

/** Runs of neighbouring page numbers, so that each is one write. @internal */
export const adjacentRuns = (pages: ReadonlyArray<PageNumber>): ReadonlyArray<ReadonlyArray<PageNumber>> => {
  const runs: Array<Array<PageNumber>> = []
  for (const page of pages) {
    const run = runs.at(-1)
    if (run !== undefined && run.at(-1) === page - 1) run.push(page)
    else runs.push([page])
  }
  return runs
}

/** Reads the frames of a group, neighbouring frames of the log in one read. */
const readFrames = Effect.fnUntraced(function*(
  { buffer: kept, pageSize, walFile }: CopyOptions,
  group: ReadonlyArray<PageNumber>,
  newest: ReadonlyMap<PageNumber, number>
): Effect.fn.Return<Map<PageNumber, Uint8Array>, VfsError | DatabaseTruncated> {
  const images = new Map<PageNumber, Uint8Array>()
  const frames = group.map((page) => ({ page, frame: newest.get(page) ?? 0 })).sort((a, b) => a.frame - b.frame)
  const maxFrames = Math.max(1, Math.floor(maxGroupBytes / pageSize))
  for (let at = 0; at < frames.length;) {
    const first = frames[at]?.frame ?? 0
    let next = at + 1
    let last = first
    // A gap costs less than another trip to the thread pool, as long as half of what is read is wanted.
    for (let frame = frames[next]?.frame; frame !== undefined; frame = frames[next]?.frame) {
      const span = frame - first + 1
      if (span > maxFrames || span > 2 * (next - at + 1)) break
      last = frame
      next++
    }
    const start = frameOffset(first, pageSize)
    const bytes = frameOffset(last + 1, pageSize) - start
    // The images of a group are needed together: only its first run can have the memory that is kept.
    const buffer = at === 0 ? kept.take(bytes, start) : new Uint8Array(bytes)
    const count = yield* walFile.read(buffer, start)
    if (count < buffer.length) {
      return yield* new DatabaseTruncated({
        path: walFile.path,
        page: frames[at]?.page ?? toPageNumber(1),
        offset: start
      })
    }
    for (const { frame, page } of frames.slice(at, next)) {
      const offset = frameOffset(frame, pageSize) - start + frameHeaderBytes
      images.set(page, buffer.subarray(offset, offset + pageSize))
    }
    at = next
  }
  return images
})

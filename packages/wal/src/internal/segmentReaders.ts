/**
 * Readers of a database whose newest commits are in files with page images: segments of a parallel WAL, or capsules.
 *
 * Segments are too many to stay open: a page that is not in a cache is read by opening its file, and the synchronous
 * read does so on the calling thread.
 */
import type { CommitSeq, PageNumber, PageSize } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import type { LogReader, Published } from "../CommitLog.ts"
import { hasMagic, setVersions } from "../DatabaseHeaderFormat.ts"
import { DatabaseTruncated } from "../LogErrors.ts"
import { SnapshotRegistry } from "../SnapshotRegistry.ts"
import { SnapshotReader } from "./snapshotReader.ts"
import type { VersionIndex } from "./versionIndex.ts"

export class SegmentReaders {
  readonly registry = new SnapshotRegistry()
  readonly listeners: Array<(versions: Iterable<readonly [PageNumber, CommitSeq]>) => void> = []
  /** Grows when segments go: a version that was looked up before is in the database file now. */
  private generation = 0
  private readonly vfs: Vfs["Service"]
  private readonly databaseFile: VfsFile
  private readonly pageSize: PageSize
  private readonly index: VersionIndex

  constructor(vfs: Vfs["Service"], databaseFile: VfsFile, pageSize: PageSize, index: VersionIndex) {
    this.vfs = vfs
    this.databaseFile = databaseFile
    this.pageSize = pageSize
    this.index = index
  }

  open(published: Published): LogReader {
    return new SnapshotReader(this, this.registry, published)
  }

  /**
   * The oldest segments are in the database file, and no snapshot that is in use is older than their end. One synchronous
   * step: whoever looks a page up afterwards finds it there.
   */
  drop(segments: number): void {
    const gone = this.index.drop(segments)
    this.generation++
    for (const listener of this.listeners) listener(gone)
  }

  versionOf(page: PageNumber, high: CommitSeq): CommitSeq {
    return this.index.find(page, high)?.seq ?? noCommit
  }

  read(
    page: PageNumber,
    high: CommitSeq,
    databasePages: number
  ): Effect.Effect<Uint8Array, VfsError | DatabaseTruncated> {
    return Effect.suspend((): Effect.Effect<Uint8Array, VfsError | DatabaseTruncated> => {
      const bytes = new Uint8Array(this.pageSize)
      // Beyond the end of the database there are zeros, whatever the file still holds there.
      if (page > databasePages) return Effect.succeed(bytes)
      const { generation } = this
      const version = this.index.find(page, high)
      const again = () => this.read(page, high, databasePages)
      if (version === undefined) {
        // A checkpoint writes no page that a snapshot in use sees in the database file.
        return Effect.flatMap(
          this.databaseFile.read(bytes, (page - 1) * this.pageSize),
          (count) => this.checked(bytes, count, page, this.databaseFile.path, (page - 1) * this.pageSize)
        )
      }
      const { offset, segment: { path } } = version
      return Effect.scoped(
        Effect.flatMap(this.vfs.open(path, { access: "read" }), (file) => file.read(bytes, offset))
      ).pipe(
        Effect.flatMap((count) => this.checked(bytes, count, page, path, offset)),
        Effect.exit,
        // The segment went while it was on its way to be read: the page is in the database file now. Its file may be gone,
        // or another's by now, so that what was read says nothing.
        Effect.flatMap((exit) => generation === this.generation ? exit : again())
      )
    })
  }

  /** Synchronous, so no segment goes in between. */
  readSync(page: PageNumber, high: CommitSeq, databasePages: number): Uint8Array {
    const bytes = new Uint8Array(this.pageSize)
    if (page > databasePages) return bytes
    const version = this.index.find(page, high)
    const path = version?.segment.path ?? this.databaseFile.path
    const offset = version?.offset ?? (page - 1) * this.pageSize
    const count = version === undefined
      ? this.databaseFile.readSync(bytes, offset)
      : this.vfs.readSync(path, bytes, offset)
    if (count < bytes.length) throw new DatabaseTruncated({ path, page, offset })
    return withoutMark(bytes, page)
  }

  private checked(
    bytes: Uint8Array,
    count: number,
    page: PageNumber,
    path: string,
    offset: number
  ): Effect.Effect<Uint8Array, DatabaseTruncated> {
    return count < bytes.length
      ? Effect.fail(new DatabaseTruncated({ path, page, offset }))
      : Effect.succeed(withoutMark(bytes, page))
  }
}

/** The version bytes that keep stock SQLite out are the log's, not the application's. */
const withoutMark = (bytes: Uint8Array, page: PageNumber): Uint8Array => {
  if (page === 1 && hasMagic(bytes)) setVersions(bytes, 2)
  return bytes
}

const noCommit = toCommitSeq(0n)

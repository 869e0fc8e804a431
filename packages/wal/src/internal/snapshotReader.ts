/**
 * A reader's hold on a snapshot of a log, whichever log it is.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, PageNumber } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import type * as Effect from "effect/Effect"
import type { LogReader, Published } from "../CommitLog.ts"
import type { DatabaseTruncated } from "../LogErrors.ts"
import type { SnapshotHold, SnapshotRegistry } from "../SnapshotRegistry.ts"

/** Where the versions of pages are. @internal */
export interface SnapshotSource {
  /** The sequence that wrote the page as a snapshot at `high` sees it; 0 for what the database file holds. */
  versionOf(page: PageNumber, high: CommitSeq): CommitSeq
  read(
    page: PageNumber,
    high: CommitSeq,
    databasePages: number
  ): Effect.Effect<Uint8Array, VfsError | DatabaseTruncated>
  /** Throws what {@link SnapshotSource.read} would fail with. */
  readSync(page: PageNumber, high: CommitSeq, databasePages: number): Uint8Array
}

/** A class, because every transaction makes one. @internal */
export class SnapshotReader implements LogReader {
  readonly high: CommitSeq
  readonly databasePages: number
  private readonly source: SnapshotSource
  private readonly readers: SnapshotRegistry
  private readonly hold: SnapshotHold
  private isOpen = true

  constructor(source: SnapshotSource, readers: SnapshotRegistry, { commitSeq, databasePages }: Published) {
    this.source = source
    this.readers = readers
    this.high = commitSeq
    this.databasePages = databasePages
    this.hold = readers.acquire(commitSeq)
  }

  versionOf(page: PageNumber): CommitSeq {
    return this.source.versionOf(page, this.high)
  }

  read(page: PageNumber): Effect.Effect<Uint8Array, VfsError | DatabaseTruncated> {
    return this.source.read(page, this.high, this.databasePages)
  }

  readSync(page: PageNumber): Uint8Array {
    return this.source.readSync(page, this.high, this.databasePages)
  }

  release(): void {
    invariant(this.isOpen, "a reader is released once")
    this.isOpen = false
    this.readers.release(this.hold)
  }
}

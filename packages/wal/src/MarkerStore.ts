/**
 * The commit marker stream as files: what a start finds there, the stream open for appending, and reading it.
 *
 * **Details**
 *
 * 1. A segment appears under its name whole and durable, with its header, or not at all; with its genesis record, where
 *    it has to have one. A header that does not check is therefore damage, never a crash.
 * 2. What counts is the longest prefix of the stream whose records check alone, as successors of each other and in their
 *    slots. Everything before a segment was durable before the segment got its name: only the end of the last one can be
 *    torn.
 * 3. The end of the last segment is torn (RC-14) when it is a part of a record, or when it is whole slots none of which
 *    checks, the first of which looks as a power loss leaves it: zeros up to the end of a sector. Anything else that does
 *    not check is damage (RC-26).
 * 4. Reading changes nothing. {@link openMarkers} cuts off what does not count, and makes durable what does, before
 *    anything is appended.
 * 5. A sequence is never used twice. Where other logs have used some, and where damage has taken some, the stream goes on
 *    in the next segment whose sequences are all above them, with a genesis record. Only a torn end, whose commits were
 *    never acknowledged, gives its sequences back.
 * 6. All records of a batch have one commit time, and two batches never have the same.
 *
 * **Gotchas**
 *
 * A power loss in the middle of a batch may keep a later sector of it and lose an earlier one. A bad record is then
 * followed by good ones, and that is damage by the rule of RC-26, although nothing of it was acknowledged. What batches
 * share of a time (6) tells the two apart as far as that can be: {@link MarkerDamage.couldBeTorn}.
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import type { CommitSeq, ObjectId } from "@tidemark/core/Scalars"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { openMarkerFiles } from "./internal/markerFiles.ts"
import { makeReader } from "./internal/markerReader.ts"
import { scanStream } from "./internal/markerScan.ts"
import type { MarkerUnreadable } from "./MarkerErrors.ts"
import type { Marker } from "./MarkerFormat.ts"
import { markersPerSegment } from "./MarkerFormat.ts"

export { MarkersDamaged, MarkerUnreadable } from "./MarkerErrors.ts"

// -- scanning ---------------------------------------------------------------------------------------------------------

/**
 * A file of the stream.
 *
 * @category models
 * @since 0.1.0
 */
export interface MarkerSegmentFile {
  readonly path: string
  readonly id: bigint
  /** The sequence of slot 0. */
  readonly start: CommitSeq
  /** Size of the file. */
  readonly bytes: number
  /** Records that count, from slot 0 on. Of a segment that was not verified: the complete ones. */
  readonly records: number
}

/**
 * What ends the valid prefix of the stream and is no torn end (RC-26).
 *
 * @category models
 * @since 0.1.0
 */
export interface MarkerDamage {
  readonly path: string
  /** Where in the file the bad record (or header) begins. */
  readonly offset: number
  /** The first thing that is wrong. */
  readonly issue: FormatIssue
  /** Records behind it that check alone and in their slots, in its file and in later ones. */
  readonly recordsBehind: number
  /**
   * Whether a power loss during the last batch could have left it: the bad record looks as if its sectors had not been
   * written, and the good ones behind it have one commit time, as records of one batch do. Then nothing from the bad
   * record on was acknowledged, unless the disk has lost a sector of the last batch afterwards. `false`: it was no power
   * loss, as far as this program has written the stream.
   */
  readonly couldBeTorn: boolean
}

/**
 * What is in the files of a marker stream.
 *
 * @category models
 * @since 0.1.0
 */
export interface MarkerScan {
  /** Ascending. Those behind damage are listed with no records. */
  readonly segments: ReadonlyArray<MarkerSegmentFile>
  /** The last record that counts, a genesis record included; `undefined` when there is none. */
  readonly last: Marker | undefined
  /** Records before this sequence were not verified. 0: all of them were. */
  readonly verifiedFrom: CommitSeq
  /** The highest sequence whose slot is complete, whether or not it counts. */
  readonly highest: CommitSeq | undefined
  /** Bytes behind the last record that counts, in the last segment, that were never acknowledged (RC-14). */
  readonly tornBytes: number
  readonly damage: MarkerDamage | undefined
  /** Names of temporary files in the directory (RC-25). */
  readonly temporaries: ReadonlyArray<string>
  /** Names of files in the directory that are none of the stream's, its lock included. */
  readonly foreign: ReadonlyArray<string>
  /**
   * Visits the records that count, from sequence `from` on (included), genesis records too, in their order: for those
   * above a checkpoint, `mark + 1`. Reads the files again, a piece at a time, and keeps nothing. Whatever has changed in
   * them since the scan fails with {@link MarkerUnreadable}.
   */
  readonly visit: (
    from: CommitSeq,
    visitor: (marker: Marker) => void
  ) => Effect.Effect<void, VfsError | MarkerUnreadable>
}

/**
 * @category models
 * @since 0.1.0
 */
export interface MarkerScanOptions {
  /**
   * Only the records from this sequence on (included) are verified, and the one before it, which the chain hangs on; of
   * older ones the files are listed. When that one does not check, everything is verified. Default: everything is.
   */
  readonly from?: CommitSeq | undefined
}

// -- writing ----------------------------------------------------------------------------------------------------------

/**
 * @category models
 * @since 0.1.0
 */
export interface OpenMarkersOptions {
  readonly database: string
  /**
   * What was found. With damage: the caller has decided to keep the prefix alone. Later files are removed, and the stream
   * goes on behind everything that the files had room for.
   */
  readonly scan: MarkerScan
  /** The highest sequence that any log of the database has used. */
  readonly tip: CommitSeq
}

/**
 * The files of a stream, open for appending by one process.
 *
 * @category models
 * @since 0.1.0
 */
export interface MarkerFiles {
  readonly directory: string
  /** The last record: the one that was found, or made, when the stream was opened, or encoded last. */
  readonly last: () => Marker
  /** The sequence of the next commit. */
  readonly next: () => CommitSeq
  /**
   * Encodes the next marker into `target` at `offset` and answers it. Synchronous; the order of calls is the order of
   * sequences. `view` is over the same bytes. A capsule of zeros is a defect.
   */
  readonly encodeNext: (
    capsule: ObjectId,
    proof: ObjectId | undefined,
    target: Uint8Array,
    view: DataView,
    offset: number
  ) => Marker
  /**
   * Writes markers, whole ones in each buffer, the first of which has the sequence `from`. Where they go beyond the end
   * of a segment, that one is synced and the next one is made first.
   */
  readonly write: (buffers: ReadonlyArray<Uint8Array>, from: CommitSeq) => Effect.Effect<void, VfsError>
  /** {@link MarkerFiles.write} and {@link MarkerFiles.sync}. `background`: see `VfsFile.writeAndSyncData`. */
  readonly writeAndSync: (
    buffers: ReadonlyArray<Uint8Array>,
    from: CommitSeq,
    background?: boolean
  ) => Effect.Effect<void, VfsError>
  /** Makes durable what was written. */
  readonly sync: Effect.Effect<void, VfsError>
  /**
   * Nothing is written or synced any more, not even the rest of a call that is under way, which is interrupted between
   * two of its steps: for a log that was poisoned.
   */
  readonly abandon: () => void
  /** The files, and how many records were written to each. */
  readonly segments: () => ReadonlyArray<MarkerSegmentFile>
}

// -- reading ----------------------------------------------------------------------------------------------------------

/**
 * Reads a stream, also while it grows. Every record that is handed out was checked, alone and in its slot; those of a
 * range and of {@link MarkerReader.verifyChain} also as successors of each other.
 *
 * @category models
 * @since 0.1.0
 */
export interface MarkerReader {
  /** The record of a sequence, genesis records too; `undefined` when the stream has none (yet). */
  readonly read: (seq: CommitSeq) => Effect.Effect<Marker | undefined, VfsError | MarkerUnreadable>
  /** The records from `from` to `to`, both included, that there are, genesis records too, in their order. */
  readonly range: (from: CommitSeq, to: CommitSeq) => Stream.Stream<Marker, VfsError | MarkerUnreadable>
  /**
   * The last commit at or before a time, nanoseconds since 1970; `undefined` when there is none. Looks at a number of
   * records that grows with the logarithm of the stream.
   */
  readonly sequenceAt: (timeUnixNanos: bigint) => Effect.Effect<CommitSeq | undefined, VfsError | MarkerUnreadable>
  /** Checks every record there is, from the first one on; fails at the first that is wrong. Answers how many there are. */
  readonly verifyChain: Effect.Effect<{ readonly markers: number }, VfsError | MarkerUnreadable>
}

/**
 * What a {@link MarkerReader} reads.
 *
 * @category models
 * @since 0.1.0
 */
export interface MarkerSource {
  /** The files, ascending: `MarkerScan.segments`, or `MarkerFiles.segments()` while the stream grows. */
  readonly segments: () => ReadonlyArray<MarkerSegmentFile>
  /** The last sequence that may be read: the last durable one. */
  readonly through: () => CommitSeq
}

// -- functions --------------------------------------------------------------------------------------------------------

/**
 * Looks at the marker stream of a database. Changes nothing. Without a directory there are no segments.
 *
 * @category reading
 * @since 0.1.0
 */
export const scanMarkers = (
  vfs: Vfs["Service"],
  database: string,
  options?: MarkerScanOptions
): Effect.Effect<MarkerScan, VfsError> => scanStream(vfs, database, { ...options, perSegment: markersPerSegment })

/**
 * Opens a stream for appending behind what was found, or begins one. The caller holds a lock that keeps everybody else
 * from writing it.
 *
 * **Details**
 *
 * When it succeeds everything that was found and counts is durable, everything else is cut off, durably, temporary files
 * are gone, and the next commit has a sequence above `tip`. A stream that begins, or that other logs have overtaken, has
 * got a segment with a genesis record.
 *
 * @category constructors
 * @since 0.1.0
 */
export const openMarkers = (
  vfs: Vfs["Service"],
  options: OpenMarkersOptions
): Effect.Effect<MarkerFiles, VfsError, Scope.Scope> =>
  openMarkerFiles(vfs, { ...options, perSegment: markersPerSegment })

/**
 * A reader of the files of a stream, through descriptors of its own.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeMarkerReader = (vfs: Vfs["Service"], source: MarkerSource): MarkerReader =>
  makeReader(vfs, { ...source, perSegment: markersPerSegment })

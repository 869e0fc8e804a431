/**
 * Segments of the parallel WAL as files: writing one, listing, reading, recovering from and removing them.
 *
 * **Details**
 *
 * 1. A segment gets its name only when it is whole: an attempt writes `<segment>.tmp-<attempt>`, syncs it, renames it,
 *    and syncs the directory (PW-15). Whoever finds the name after a power loss finds all of the segment behind it, as
 *    long as the policy syncs.
 * 2. An attempt that failed has left nothing under the name. Its file is never written or synced again, for a sync that
 *    failed may have marked pages clean that are not on the disk: the next attempt makes another file.
 * 3. A segment without a certificate was never acknowledged (RC-07). Nothing here knows of certificates; what a reader
 *    of segments alone takes for committed is right only where every segment is trusted (RC-11).
 * 4. Reading changes nothing, recovering deletes nothing (PW-26). Only {@link removeSegments} and
 *    {@link cleanupSegments} do.
 * 5. The memory of a reader is one segment at a time, and is not allocated before the header of that segment, and its
 *    record count, fit the size of the file.
 *
 * @since 0.1.0
 */
import { FormatIssue } from "@tidemark/core/BinaryFormat"
import type { CommitSeq, PageNumber, TxnToken, WalEpoch } from "@tidemark/core/Scalars"
import { SqliteCode, TidemarkError } from "@tidemark/core/TidemarkError"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { directoryOf, nameOf } from "./AtomicFile.ts"
import type { Segment, SegmentRecord } from "./SegmentFormat.ts"
import {
  certifiedChecksum,
  decode,
  decodeHeader,
  encode,
  epochOfSegmentName,
  recordCountIssue,
  segmentHeaderBytes,
  segmentPath,
  temporarySegmentPath
} from "./SegmentFormat.ts"

// -- errors -----------------------------------------------------------------------------------------------------------

/**
 * A file with the name of a segment is none, or is damaged. Nothing was changed.
 *
 * **Details**
 *
 * Whether anything is lost depends on the certificates: a segment without one was never acknowledged (RC-07), one that
 * has a certificate holds commits that were (RC-08).
 *
 * @category errors
 * @since 0.1.0
 */
export class SegmentUnreadable
  extends TidemarkError("SegmentUnreadable", { isRetryable: false, sqliteCode: SqliteCode.corrupt })<{
    readonly path: string
    /** As the name of the file says. */
    readonly epoch: WalEpoch
    /** The first thing that is wrong. */
    readonly issue: FormatIssue
    /** Size of the file. */
    readonly bytes: number
  }>
{
  override get message() {
    return `${this.path} cannot be read (${this.issue.message}); nothing was changed: if the segment was certified its ` +
      "commits are lost, so restore the file from a copy; look at it with `tidemark inspect --records`"
  }
}

/**
 * Segments above the checkpoint mark were to be removed: their commits are nowhere else (PW-27). Nothing was removed.
 *
 * @category errors
 * @since 0.1.0
 */
export class SegmentsNotCheckpointed
  extends TidemarkError("SegmentsNotCheckpointed", { isRetryable: false, sqliteCode: SqliteCode.misuse })<{
    readonly database: string
    /** The segments above the mark, by epoch. */
    readonly paths: ReadonlyArray<string>
    /** The segment epoch of the checkpoint mark; `undefined` when there is no mark. */
    readonly checkpointed: WalEpoch | undefined
  }>
{
  override get message() {
    const mark = this.checkpointed === undefined ? "no checkpoint mark" : `a checkpoint mark at ${this.checkpointed}`
    return `${this.paths.length} segments of ${this.database} (first ${
      this.paths[0]
    }) may hold commits that are not in the ` +
      `database file (${mark}); nothing was removed: checkpoint first, or force it to lose them`
  }
}

// -- writing ----------------------------------------------------------------------------------------------------------

/**
 * What a commit waits for (PW-23).
 *
 * **Details**
 *
 * - `"full"` and `"normal"`: the segment and its name are on the disk when {@link writeSegment} succeeds, and a power
 *   loss takes neither. The two differ in name only, because an epoch is one file: there is no second one whose sync
 *   `"normal"` could leave out.
 * - `"off"`: both were handed to the operating system. The end of the process takes nothing. A power loss may take the
 *   segment, or leave its name and any part of its bytes; a part does not pass for the whole, because the records and
 *   the certificate carry checksums. Any epoch since the last sync of a checkpoint may be hit, a later one kept.
 *
 * @category models
 * @since 0.1.0
 */
export type SyncPolicy = "full" | "normal" | "off"

/**
 * One attempt to write the segment of an epoch.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentAttempt {
  readonly database: string
  readonly epoch: WalEpoch
  /** Counts the attempts for this epoch, from 1 on: no number is used twice. */
  readonly attempt: number
  readonly policy: SyncPolicy
  /**
   * `true`: the calling thread is left alone while the file is written and synced. Default: the platform decides, which
   * for a short sync may be quicker on this thread.
   */
  readonly background?: boolean | undefined
}

/**
 * Writes the segment of an epoch: the buffers one behind another are the whole file, header included.
 *
 * **Details**
 *
 * When it succeeds the file has its name, and survives what the policy says. When it fails nothing is under the name
 * (also when only the last sync of the directory failed), and the temporary file is removed if that can be done; the
 * same buffers can be written again under the next attempt number (PW-15). It cannot be interrupted in the middle.
 *
 * **Gotchas**
 *
 * The buffers must not change until it is done. A file that has the name already is replaced: epochs are never used
 * again (PW-09), so it can only be what a failed attempt could not remove.
 *
 * @category writing
 * @since 0.1.0
 */
export const writeSegment = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  options: SegmentAttempt & { readonly buffers: ReadonlyArray<Uint8Array> }
): Effect.fn.Return<void, VfsError> {
  const path = segmentPath(options.database, options.epoch)
  const temporary = temporarySegmentPath(options.database, options.epoch, options.attempt)
  yield* writeTemporary(vfs, temporary, options)
  yield* vfs.rename(temporary, path).pipe(removeOnError(vfs, temporary))
  if (options.policy !== "off") yield* vfs.syncDirectory(directoryOf(path)).pipe(removeOnError(vfs, path))
}, Effect.uninterruptible)

/** What went wrong first is what the caller hears of, whether or not the removal works. */
const removeOnError = (vfs: Vfs["Service"], path: string) => <A>(effect: Effect.Effect<A, VfsError>) =>
  Effect.onError(effect, () => Effect.ignore(vfs.remove(path)))

const writeTemporary = Effect.fnUntraced(
  function*(
    vfs: Vfs["Service"],
    path: string,
    options: SegmentAttempt & { readonly buffers: ReadonlyArray<Uint8Array> }
  ): Effect.fn.Return<void, VfsError, Scope.Scope> {
    // A file of this name that is there already belongs to somebody else: it is neither written nor removed.
    const file = yield* vfs.open(path, { access: "readWrite", create: "exclusive" })
    yield* writeAndSync(file, options).pipe(removeOnError(vfs, path))
  },
  Effect.scoped
)

/**
 * The file is new: whatever it gets is needed to read it, so that syncing its data is enough. In the background it is
 * written and synced in two steps, for the one-step way of a platform pays off only for files that live on.
 */
const writeAndSync = (
  file: VfsFile,
  { background, buffers, policy }: SegmentAttempt & { readonly buffers: ReadonlyArray<Uint8Array> }
): Effect.Effect<void, VfsError> => {
  if (policy === "off") return file.write(buffers, 0)
  return background === true
    ? Effect.andThen(file.write(buffers, 0), file.syncData)
    : file.writeAndSyncData(buffers, 0)
}

/**
 * Encodes the records of an epoch and writes them as its segment. Answers the size of the file and the CRC-32C of all of
 * it, which is what a certificate carries.
 *
 * **Details**
 *
 * Records that could not be read again (of another epoch, with an oversize image) are refused before any file is made
 * (PW-21).
 *
 * @category writing
 * @since 0.1.0
 */
export const writeRecords = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  options: SegmentAttempt & { readonly records: ReadonlyArray<SegmentRecord> }
): Effect.fn.Return<{ readonly bytes: number; readonly crc: number }, VfsError | FormatIssue> {
  const bytes = yield* Effect.fromResult(encode(options.epoch, options.records))
  yield* writeSegment(vfs, { ...options, buffers: [bytes] })
  return { bytes: bytes.length, crc: certifiedChecksum([bytes]) }
})

// -- listing and reading ----------------------------------------------------------------------------------------------

/**
 * The file of a segment.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentFile {
  readonly path: string
  readonly epoch: WalEpoch
}

/**
 * The segments of a database by epoch, readable or not; other files of its directory are none (PW-19).
 *
 * @category reading
 * @since 0.1.0
 */
export const listSegments = (
  vfs: Vfs["Service"],
  database: string
): Effect.Effect<ReadonlyArray<SegmentFile>, VfsError> =>
  Effect.map(vfs.list(directoryOf(database)), (names) => {
    const found: Array<SegmentFile> = []
    for (const name of names) {
      const epoch = epochOfSegmentName(nameOf(database), name)
      if (epoch !== undefined) found.push({ path: segmentPath(database, epoch), epoch })
    }
    return found.sort((self, that) => self.epoch < that.epoch ? -1 : 1)
  })

/**
 * A segment that was read.
 *
 * @category models
 * @since 0.1.0
 */
export interface ReadSegment {
  readonly segment: Segment
  /** Size of the file. */
  readonly bytes: number
  /** What a certificate keeps of it: `SegmentFormat.certifiedChecksum`. */
  readonly crc: number
}

/**
 * Reads the segment of an epoch.
 *
 * **Details**
 *
 * Its images are views of one buffer that holds the file from byte 0 on, and which is gone when the last of them is: the
 * `byteOffset` of an image is where it stands in the file.
 *
 * @category reading
 * @since 0.1.0
 */
export const readSegment = Effect.fnUntraced(
  function*(
    vfs: Vfs["Service"],
    path: string,
    epoch: WalEpoch
  ): Effect.fn.Return<ReadSegment, VfsError | SegmentUnreadable, Scope.Scope> {
    const file = yield* vfs.open(path, { access: "read" })
    const fileBytes = yield* file.size
    const head = new Uint8Array(Math.min(segmentHeaderBytes, fileBytes))
    const decodedHeader = decodeHeader(head.subarray(0, yield* file.read(head, 0)), epoch)
    const early = Result.isFailure(decodedHeader)
      ? decodedHeader.failure
      : recordCountIssue(decodedHeader.success, fileBytes)
    const buffer = early === undefined ? allocate(fileBytes) : early
    if (buffer instanceof FormatIssue) {
      return yield* new SegmentUnreadable({ path, epoch, issue: buffer, bytes: fileBytes })
    }
    const bytes = yield* file.read(buffer, 0)
    const found = buffer.subarray(0, bytes)
    const decoded = decode(found, epoch)
    if (Result.isFailure(decoded)) {
      return yield* new SegmentUnreadable({ path, epoch, issue: decoded.failure, bytes })
    }
    return { segment: decoded.success, bytes, crc: certifiedChecksum([found]) }
  },
  Effect.scoped
)

/** Memory for a file whose header has been found to fit its size, unless this machine has not so much. */
const allocate = (bytes: number): Uint8Array | FormatIssue => {
  try {
    return new Uint8Array(bytes)
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause
    return new FormatIssue({
      format: "WAL segment",
      code: "TooLarge",
      field: "length",
      offset: 0,
      found: `${bytes} bytes`,
      expected: "no more than this machine can hold in memory"
    })
  }
}

// -- recovery ---------------------------------------------------------------------------------------------------------

/**
 * A record of an aborted transaction, which no recovery applies.
 *
 * @category models
 * @since 0.1.0
 */
export interface AbortedRecord {
  readonly path: string
  readonly epoch: WalEpoch
  readonly token: TxnToken
  readonly page: PageNumber
  readonly begin: CommitSeq
}

/**
 * What recovery from segments alone found.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentRecovery {
  readonly segmentsRecovered: number
  /** Records that gave a page its image: those with an end sequence and an after image. */
  readonly recordsApplied: number
  /** Bytes of the segments that were recovered. */
  readonly bytesRead: number
  /** Epochs of the segments that were recovered, ascending. */
  readonly epochs: ReadonlyArray<WalEpoch>
  /** Paths of the segment that could not be read and of all later ones (with `stopAtCorrupt`). */
  readonly skipped: ReadonlyArray<string>
  /** Why the first of those was skipped. */
  readonly damage: SegmentUnreadable | undefined
  /** Paths that a checkpoint may remove once the pages are in the database file and synced (PW-26). */
  readonly deletable: ReadonlyArray<string>
  /** The last image of each page, as a copy. */
  readonly pages: ReadonlyMap<PageNumber, Uint8Array>
  readonly aborted: ReadonlyArray<AbortedRecord>
}

/**
 * Applies the segments of a database in the order of their epochs, trusting every one of them (PW-24 ... PW-26).
 *
 * **When to use**
 *
 * Use for logs that have no certificates (RC-11 with `trustSegments`). A log that has them is replayed in the order of
 * its certificates, and a segment without one is not replayed at all.
 *
 * **Details**
 *
 * Fails on the first segment that cannot be read; with `stopAtCorrupt` the segments before it are recovered, and it and
 * all later ones are listed in `skipped`. A file that the system cannot read is a failure in both cases. Memory is one
 * segment and one image for each page.
 *
 * @category recovery
 * @since 0.1.0
 */
export const recoverSegments = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  options?: { readonly stopAtCorrupt?: boolean | undefined }
): Effect.fn.Return<SegmentRecovery, VfsError | SegmentUnreadable> {
  const files = yield* listSegments(vfs, database)
  const epochs: Array<WalEpoch> = []
  const pages = new Map<PageNumber, Uint8Array>()
  const aborted: Array<AbortedRecord> = []
  let recordsApplied = 0
  let bytesRead = 0
  let damage: SegmentUnreadable | undefined
  for (const { epoch, path } of files) {
    const read = yield* Effect.result(readSegment(vfs, path, epoch))
    if (Result.isFailure(read)) {
      if (read.failure._tag !== "SegmentUnreadable" || options?.stopAtCorrupt !== true) return yield* read.failure
      damage = read.failure
      break
    }
    const { bytes, segment } = read.success
    recordsApplied += applyRecords(
      segment.records,
      pages,
      (record) => aborted.push({ path, epoch, token: record.token, page: record.page, begin: record.begin })
    )
    bytesRead += bytes
    epochs.push(epoch)
  }
  return {
    segmentsRecovered: epochs.length,
    recordsApplied,
    bytesRead,
    epochs,
    skipped: files.slice(epochs.length).map(({ path }) => path),
    damage,
    deletable: files.slice(0, epochs.length).map(({ path }) => path),
    pages,
    aborted
  }
})

/** Brings the pages to what they are after the records, which stand in recovery order; answers how many counted. */
const applyRecords = (
  records: ReadonlyArray<SegmentRecord>,
  pages: Map<PageNumber, Uint8Array>,
  onAborted: (record: SegmentRecord) => void
): number => {
  const last = new Map<PageNumber, Uint8Array>()
  let applied = 0
  for (const record of records) {
    if (record.end === undefined) {
      onAborted(record)
      continue
    }
    if (record.after.length === 0) continue
    last.set(record.page, record.after)
    applied++
  }
  // Copies of the last ones only, so that the buffer of the segment can go.
  for (const [page, image] of last) pages.set(page, image.slice())
  return applied
}

/**
 * The highest epoch whose segment can be read, or undefined without any (PW-27).
 *
 * **Gotchas**
 *
 * It is not the epoch to go on from: a segment that cannot be read has used up its epoch as well (section 2.2 of
 * `formats.md`).
 *
 * @category recovery
 * @since 0.1.0
 */
export const maxDurableEpoch = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string
): Effect.fn.Return<WalEpoch | undefined, VfsError> {
  const files = yield* listSegments(vfs, database)
  for (const { epoch, path } of files.toReversed()) {
    const isReadable = yield* readSegment(vfs, path, epoch).pipe(
      Effect.as(true),
      Effect.catchTag("SegmentUnreadable", () => Effect.succeed(false))
    )
    if (isReadable) return epoch
  }
  return undefined
})

// -- removing ---------------------------------------------------------------------------------------------------------

/**
 * Removes segments of a database by their paths, durably; one that is gone already is fine. Answers how many there were.
 *
 * **When to use**
 *
 * Use from a checkpoint for what it has copied, when the database file is synced and the mark says so (PW-26).
 *
 * @category removing
 * @since 0.1.0
 */
export const removeSegments = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  paths: ReadonlyArray<string>
): Effect.fn.Return<number, VfsError> {
  let removed = 0
  for (const path of paths) {
    const isRemoved = yield* vfs.remove(path).pipe(
      Effect.as(true),
      Effect.catchIf((error) => error.code === "ENOENT", () => Effect.succeed(false))
    )
    if (isRemoved) removed++
  }
  if (removed > 0) yield* vfs.syncDirectory(directoryOf(database))
  return removed
})

/**
 * Removes all segments of a database, readable or not, and answers how many there were (PW-27).
 *
 * **Details**
 *
 * `checkpointed` is the segment epoch of the checkpoint mark (section 2.2 of `formats.md`), undefined without one.
 * Unless it is forced, nothing at all is removed when a segment lies above that.
 *
 * @category removing
 * @since 0.1.0
 */
export const cleanupSegments = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  options: { readonly checkpointed: WalEpoch | undefined; readonly force?: boolean | undefined }
): Effect.fn.Return<number, VfsError | SegmentsNotCheckpointed> {
  const { checkpointed, force } = options
  const files = yield* listSegments(vfs, database)
  const above = files.filter(({ epoch }) => checkpointed === undefined || epoch > checkpointed)
  if (above.length > 0 && force !== true) {
    return yield* new SegmentsNotCheckpointed({ database, checkpointed, paths: above.map(({ path }) => path) })
  }
  return yield* removeSegments(vfs, database, files.map(({ path }) => path))
})

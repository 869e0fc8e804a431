/**
 * Checkpoints of a parallel WAL: certified pages go into the database file, then the checkpoint mark, then their segments
 * go away (`formats.md` 2.2).
 *
 * Order of durability: pages and size of the database file, the mark, and only then the removal of segments and the
 * version bytes that let stock SQLite in again. A crash anywhere leaves segments that are at or below the mark (RC-21) or
 * a mark that is behind: a checkpoint that is run again copies the same pages once more, which changes nothing.
 *
 * Why a copy never disturbs a reader: it stops at the end of an interval at or below the oldest snapshot in use, S. A
 * page that it writes has a version at or below S in the log, so every reader (at S or above) finds that page, or a newer
 * version, in the log and does not look at the database file for it. When the segments are dropped from the index, which
 * is one synchronous step, the same readers find the same bytes in the database file.
 *
 * Page 1 goes into the file with the version bytes 3 as long as the log may hold anything newer.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, PageNumber, PageSize, WalEpoch } from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Semaphore from "effect/Semaphore"
import type { CertificateLog } from "../CertificateLog.ts"
import { writeCheckpointMark } from "../CheckpointMarkFormat.ts"
import { hasMagic, setVersions } from "../DatabaseHeaderFormat.ts"
import type { LogEnded } from "../GroupCommit.ts"
import { CheckpointFailed, DatabaseTruncated } from "../LogErrors.ts"
import type { CheckpointMode, CheckpointReport } from "../SqliteWal.ts"
import { adjacentRuns, CopyBuffer, maxGroupBytes } from "./checkpoint.ts"
import { markDatabase } from "./databaseMark.ts"
import type { EpochLog } from "./epochLog.ts"
import type { PageVersion, SegmentInLog } from "./parallelIndex.ts"
import type { ParallelReaders } from "./parallelReaders.ts"

export interface ParallelCheckpointOptions {
  readonly vfs: Vfs["Service"]
  readonly database: string
  readonly databaseFile: VfsFile
  readonly pageSize: PageSize
  readonly log: EpochLog
  readonly readers: ParallelReaders
  readonly certificates: CertificateLog
  /** The certificate log is replaced when it is longer than this. */
  readonly maxCertificateBytes: number
  /** Files without a certificate, which go when a checkpoint is through (RC-07). */
  readonly removable: ReadonlyArray<string>
}

export class ParallelCheckpoint {
  private readonly options: ParallelCheckpointOptions
  // One at a time: only a checkpoint drops segments, so while one copies the index keeps what it had.
  private readonly oneAtATime = Semaphore.makeUnsafe(1)
  private readonly buffer = new CopyBuffer()
  private failure: CheckpointFailed | undefined
  /** Segments whose removal failed; they are at or below the mark, so they do no harm. */
  private leftOver: Array<string>

  constructor(options: ParallelCheckpointOptions) {
    this.options = options
    this.leftOver = Array.from(options.removable)
  }

  run(mode: CheckpointMode, busyTimeout: Duration.Input): Effect.Effect<CheckpointReport, CheckpointFailed | LogEnded> {
    const { log } = this.options
    return Effect.suspend((): Effect.Effect<CheckpointReport, CheckpointFailed | LogEnded> => {
      const ended = log.ended()
      if (ended !== undefined) return Effect.fail(ended)
      return mode === "passive" ? this.passive : this.waiting(mode, busyTimeout)
    }).pipe(
      (checkpoint) => this.oneAtATime.withPermit(checkpoint),
      Effect.withSpan("tidemark.checkpoint", { attributes: { mode } })
    )
  }

  /** One round in the background. */
  readonly automatic: Effect.Effect<void, CheckpointFailed | LogEnded> = Effect.suspend(() => {
    const { certificates, log, maxCertificateBytes } = this.options
    return Effect.andThen(
      this.copy,
      Effect.suspend(() =>
        certificates.bytes() <= maxCertificateBytes
          ? Effect.void
          : this.whileQuiet(Effect.suspend(() =>
            this.canBeEmptied
              ? Effect.andThen(this.copy, this.emptied(log.published.commitSeq))
              : Effect.void
          ))
      )
    )
  }).pipe((round) => this.oneAtATime.withPermit(round))

  /** At the end of a log that is closed and drained: the database stands alone when nobody reads. */
  readonly last: Effect.Effect<void, CheckpointFailed | LogEnded> = Effect.suspend(() =>
    this.canBeEmptied ? Effect.andThen(this.copy, this.standAlone) : Effect.void
  ).pipe((checkpoint) => this.oneAtATime.withPermit(checkpoint))

  /**
   * At the start, when a certified segment is lost and only what stands before it was kept (RC-08): everything above goes
   * out of the record before the first commit, so that it can never be taken for the continuation of it.
   */
  acceptLoss(found: { readonly epoch: WalEpoch; readonly certificateEpoch: bigint }): Effect.Effect<void, VfsError> {
    const { database, log, vfs } = this.options
    const { commitSeq, databasePages } = log.published
    return Effect.gen({ self: this }, function*() {
      const segments = Array.from(log.options.index.segments)
      const last = segments.at(-1)
      if (last !== undefined) yield* this.copySegments(segments, last)
      yield* writeCheckpointMark(vfs, database, {
        kind: "parallel",
        through: commitSeq,
        segmentEpoch: (found.epoch - 1n) as WalEpoch, // the one before the first that will be written
        certificateEpoch: found.certificateEpoch,
        databasePages
      })
      this.options.readers.drop(segments.length)
      yield* this.options.certificates.replace(commitSeq)
      yield* this.remove(segments)
    }).pipe(Effect.catchTag("DatabaseTruncated", Effect.die))
  }

  private get passive() {
    return Effect.suspend(() => {
      const framesBefore = this.options.log.options.index.records
      return Effect.map(this.copy, (framesCopied) => ({
        mode: "passive" as const,
        framesBefore,
        framesCopied,
        blocked: false
      }))
    })
  }

  private waiting(mode: Exclude<CheckpointMode, "passive">, busyTimeout: Duration.Input) {
    const { log, readers } = this.options
    const { index } = log.options
    return Effect.gen({ self: this }, function*() {
      // The bulk is copied while commits go on; only the rest is copied while they wait.
      const early = yield* this.copy
      return yield* this.whileQuiet(Effect.gen({ self: this }, function*() {
        const isFree = yield* readers.registry.awaitAtLeast(log.published.commitSeq).pipe(
          Effect.timeoutOption(busyTimeout),
          Effect.map(Option.isSome)
        )
        const framesBefore = early + index.records
        const framesCopied = early + (yield* this.copy)
        if (isFree && mode === "full") yield* this.standAlone
        if (isFree && mode !== "full") {
          yield* this.standAlone
          yield* this.emptied(log.published.commitSeq)
        }
        return { mode, framesBefore, framesCopied, blocked: !isFree }
      }))
    })
  }

  /** Nobody reads what the log alone has. */
  private get canBeEmptied(): boolean {
    const { log, readers } = this.options
    return readers.registry.isAtLeast(log.published.commitSeq)
  }

  private whileQuiet<A>(use: Effect.Effect<A, CheckpointFailed | LogEnded>) {
    const { database, log } = this.options
    return Effect.catchTag(
      log.quiesce(use),
      "VfsError",
      // What is handed over cannot be written at the moment; it stays, and so does the log.
      (cause) => new CheckpointFailed({ path: database, cause })
    )
  }

  /** A failed write or sync leaves the database file unknown: no later sync of it could be trusted. */
  private orFailForGood<A>(step: Effect.Effect<A, VfsError | DatabaseTruncated>): Effect.Effect<A, CheckpointFailed> {
    return Effect.suspend((): Effect.Effect<A, CheckpointFailed> =>
      this.failure !== undefined ? Effect.fail(this.failure) : Effect.mapError(step, (cause) => {
        this.failure = new CheckpointFailed({ path: this.options.databaseFile.path, cause })
        return this.failure
      })
    )
  }

  /** Copies whole intervals up to the oldest snapshot in use, and answers how many records went. */
  private readonly copy: Effect.Effect<number, CheckpointFailed> = Effect.suspend(() => {
    const { log, readers } = this.options
    const { index } = log.options
    const { oldest } = readers.registry
    const bound = oldest === undefined || oldest > log.published.commitSeq ? log.published.commitSeq : oldest
    const count = index.segments.findIndex(({ high }) => high > bound)
    const segments = index.segments.slice(0, count < 0 ? index.segments.length : count)
    const last = segments.at(-1)
    if (last === undefined) return Effect.succeed(0)
    return this.orFailForGood(Effect.andThen(this.copySegments(segments, last), this.writeMark(last))).pipe(
      Effect.andThen(Effect.sync(() => {
        const records = index.records
        readers.drop(segments.length)
        return records - index.records
      })),
      Effect.tap(() => this.remove(segments))
    )
  })

  private copySegments(segments: ReadonlyArray<SegmentInLog>, last: SegmentInLog) {
    const { databaseFile, log, pageSize } = this.options
    return Effect.gen({ self: this }, function*() {
      for (const [segment, versions] of log.options.index.newestOf(segments, last.high)) {
        yield* this.copySegment(segment, versions, last.databasePages)
      }
      if ((yield* databaseFile.size) !== last.databasePages * pageSize) {
        yield* databaseFile.truncate(last.databasePages * pageSize)
      }
      // Not `syncData`: an attempt that was interrupted may have cut the file off without having synced that.
      yield* databaseFile.syncFull
    })
  }

  /** A segment is read from the first to the last image that is wanted, a few megabytes at a time. */
  private copySegment(
    segment: SegmentInLog,
    versions: ReadonlyMap<PageNumber, PageVersion>,
    databasePages: number
  ): Effect.Effect<void, VfsError | DatabaseTruncated> {
    const { pageSize, vfs } = this.options
    const wanted = Array.from(versions, ([page, { offset }]) => ({ page, offset }))
      .filter(({ page }) => page <= databasePages)
      .sort((a, b) => a.offset - b.offset)
    return Effect.scoped(Effect.gen({ self: this }, function*() {
      const file = yield* vfs.open(segment.path, { access: "read" })
      for (let at = 0; at < wanted.length;) {
        const start = wanted[at]?.offset ?? 0
        let end = at
        while ((wanted[end]?.offset ?? Infinity) + pageSize - start <= Math.max(maxGroupBytes, pageSize)) end++
        const group = wanted.slice(at, end)
        const bytes = this.buffer.take((group.at(-1)?.offset ?? start) + pageSize - start)
        if ((yield* file.read(bytes, start)) < bytes.length) {
          return yield* new DatabaseTruncated({ path: segment.path, page: group[0]?.page ?? page1, offset: start })
        }
        yield* this.writeGroup(group, bytes, start)
        at = end
      }
    }))
  }

  private writeGroup(
    group: ReadonlyArray<{ readonly page: PageNumber; readonly offset: number }>,
    bytes: Uint8Array,
    start: number
  ): Effect.Effect<void, VfsError> {
    const { databaseFile, pageSize } = this.options
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

  private writeMark({ certificateEpoch, databasePages, epoch, high }: SegmentInLog): Effect.Effect<void, VfsError> {
    const { database, vfs } = this.options
    return writeCheckpointMark(vfs, database, {
      kind: "parallel",
      through: high,
      segmentEpoch: epoch,
      certificateEpoch,
      databasePages
    })
  }

  /** What cannot be removed now is tried again after the next copy, and removed by the next start. */
  private remove(segments: ReadonlyArray<SegmentInLog>): Effect.Effect<void> {
    const { vfs } = this.options
    const paths = [...this.leftOver, ...segments.map(({ path }) => path)]
    this.leftOver = []
    return Effect.forEach(paths, (path) =>
      Effect.catch(vfs.remove(path), (error) => {
        if (error.code === "ENOENT") return Effect.void
        this.leftOver.push(path)
        return Effect.logWarning(`a segment that is in the database file could not be removed`, error)
      }), { discard: true })
  }

  /** While quiet and everything is copied: the database file is all there is, and stock SQLite may open it. */
  private readonly standAlone: Effect.Effect<void, CheckpointFailed> = Effect.suspend(() => {
    const { databaseFile, log } = this.options
    invariant(
      log.isIdle && log.options.index.segments.length === 0,
      "only a database with everything in it stands alone"
    )
    if (!log.isMarked) return Effect.void
    return Effect.map(this.orFailForGood(markDatabase(databaseFile, 2)), () => log.unmark())
  })

  /** While quiet and everything is copied: the certificates are of no use any more. */
  private emptied(through: CommitSeq): Effect.Effect<void, CheckpointFailed> {
    const { certificates, database, log } = this.options
    return Effect.mapError(certificates.replace(through), (cause) => {
      if (!certificates.isUsable()) log.poison(Cause.fail(cause))
      return new CheckpointFailed({ path: database, cause })
    })
  }
}

const page1 = 1 as PageNumber // the first page of every database

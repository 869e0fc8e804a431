/**
 * Checkpoints of a log that is made of files with page images: the pages of the oldest files go into the database file,
 * then the checkpoint mark is written, then the files go away (`formats.md` 2.2). The same for the segments of a parallel
 * WAL and for the capsules of a native log, which differ in what the mark says and in what else there is to be emptied.
 *
 * Order of durability: pages and size of the database file, the mark, and only then the removal of files and the version
 * bytes that let stock SQLite in again. A crash anywhere leaves files that are at or below the mark (RC-21) or a mark
 * that is behind: a checkpoint that is run again copies the same pages once more, which changes nothing.
 *
 * Why a copy never disturbs a reader: it stops at the end of an interval at or below the oldest snapshot in use, S. A
 * page that it writes has a version at or below S in the log, so every reader (at S or above) finds that page, or a newer
 * version, in the log and does not look at the database file for it. When the segments are dropped from the index, which
 * is one synchronous step, the same readers find the same bytes in the database file.
 *
 * Page 1 goes into the file with the version bytes 3 as long as the log may hold anything newer.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { PageSize } from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Semaphore from "effect/Semaphore"
import { type CheckpointMark, checkpointMarkPath, writeCheckpointMark } from "../CheckpointMarkFormat.ts"
import type { Published } from "../CommitLog.ts"
import type { LogEnded } from "../GroupCommit.ts"
import { CheckpointFailed, type DatabaseTruncated } from "../LogErrors.ts"
import type { CheckpointMode, CheckpointReport } from "../SqliteWal.ts"
import { CopyBuffer } from "./checkpoint.ts"
import { markDatabase } from "./databaseMark.ts"
import { copySegments, type SegmentCopy } from "./segmentCopy.ts"
import type { SegmentReaders } from "./segmentReaders.ts"
import type { SegmentInLog, VersionIndex } from "./versionIndex.ts"

/** Files that are being removed at the same time: as many as capsules are put, and as are synced. */
const removeConcurrency = 16

/** What a checkpoint needs of the log that it empties. */
export interface CheckpointedLog {
  readonly published: Published
  /** Nothing is handed over that is not durable. */
  readonly isIdle: boolean
  readonly isPoisoned: boolean
  /** The header of the database says that the newest commits are elsewhere. */
  readonly isMarked: boolean
  /** While quiet: the header says again that the database stands alone. */
  unmark(): void
  ended(): LogEnded | undefined
  /** Runs `use` while nothing is handed over that is not durable; hand-overs that come meanwhile wait. */
  quiesce<A, E>(use: Effect.Effect<A, E>): Effect.Effect<A, E | LogEnded | VfsError>
}

export interface SegmentCheckpointOptions<Segment extends SegmentInLog> {
  readonly vfs: Vfs["Service"]
  readonly database: string
  readonly databaseFile: VfsFile
  readonly pageSize: PageSize
  readonly log: CheckpointedLog
  readonly index: VersionIndex<Segment>
  readonly readers: SegmentReaders
  /** Files that count for nothing, which go when a checkpoint is through. */
  readonly removable: ReadonlyArray<string>
}

export abstract class SegmentCheckpoint<Segment extends SegmentInLog> {
  protected readonly segmentCopy: SegmentCopy
  private readonly parts: SegmentCheckpointOptions<Segment>
  // One at a time: only a checkpoint drops segments, so while one copies the index keeps what it had.
  private readonly oneAtATime = Semaphore.makeUnsafe(1)
  private failure: CheckpointFailed | undefined
  /** Files that count for nothing any more and are not removed yet. */
  private readonly leftOver: Set<string>
  /** Completes when the log is closed, for whoever waits for readers. */
  private readonly closing = Deferred.makeUnsafe<void>()

  constructor(options: SegmentCheckpointOptions<Segment>) {
    this.parts = options
    this.leftOver = new Set(options.removable)
    const { databaseFile, index, pageSize, vfs } = options
    this.segmentCopy = { vfs, databaseFile, pageSize, index, buffer: new CopyBuffer() }
  }

  /** What the mark says when everything up to the end of this segment is in the database file. */
  protected abstract markAfter(segment: Segment): CheckpointMark

  /** While quiet and everything is copied: what `restart` and `truncate` do beyond `full`. */
  protected abstract readonly emptied: Effect.Effect<void, CheckpointFailed>

  /** What an automatic round does when it has copied. */
  protected abstract readonly afterRound: Effect.Effect<void, CheckpointFailed | LogEnded>

  run(mode: CheckpointMode, busyTimeout: Duration.Input): Effect.Effect<CheckpointReport, CheckpointFailed | LogEnded> {
    const { log } = this.parts
    return Effect.suspend((): Effect.Effect<CheckpointReport, CheckpointFailed | LogEnded> => {
      const ended = log.ended()
      if (ended !== undefined) return Effect.fail(ended)
      return mode === "passive" ? this.passive : this.waiting(mode, busyTimeout)
    }).pipe(
      (checkpoint) => this.oneAtATime.withPermit(checkpoint),
      Effect.withSpan("tidemark.checkpoint", { attributes: { mode } })
    )
  }

  /** A round in the background is under way: the next one is sure to come. */
  protected isAutomatic = false

  /** One round in the background. */
  readonly automatic: Effect.Effect<void, CheckpointFailed | LogEnded> = Effect.suspend(() => {
    this.isAutomatic = true
    return Effect.andThen(this.copy, this.afterRound)
  }).pipe(
    Effect.ensuring(Effect.sync(() => {
      this.isAutomatic = false
    })),
    // Unless the database file itself failed the next round tries again.
    Effect.catchIf(
      (error) => error !== this.failure && error._tag === "CheckpointFailed",
      (error) => Effect.logWarning("an automatic checkpoint failed and is tried again", error)
    ),
    (round) => this.oneAtATime.withPermit(round)
  )

  /**
   * After the log was closed, and before its files are: what waits for readers ends, what copies finishes. With `isLast`
   * the database stands alone afterwards, unless somebody still reads, or something may be on the disk that was never
   * published.
   */
  close(isLast: boolean): Effect.Effect<void> {
    const last = Effect.suspend(() =>
      isLast && !this.parts.log.isPoisoned && this.canBeEmptied
        ? Effect.andThen(this.copy, this.standAlone)
        : Effect.void
    )
    return Deferred.succeed(this.closing, undefined).pipe(
      Effect.andThen(this.oneAtATime.withPermit(last)),
      Effect.catch((error) => Effect.logWarning("the last checkpoint failed; every commit is safe in the log", error))
    )
  }

  private get passive() {
    return Effect.suspend(() => {
      const framesBefore = this.parts.index.records
      return Effect.map(this.copy, (framesCopied) => ({
        mode: "passive" as const,
        framesBefore,
        framesCopied,
        blocked: false
      }))
    })
  }

  private waiting(mode: Exclude<CheckpointMode, "passive">, busyTimeout: Duration.Input) {
    const { index, log, readers } = this.parts
    return Effect.gen({ self: this }, function*() {
      // The bulk is copied while commits go on; only the rest is copied while they wait.
      const early = yield* this.copy
      return yield* this.whileQuiet(Effect.gen({ self: this }, function*() {
        const isFree = yield* readers.registry.awaitAtLeast(log.published.commitSeq).pipe(
          Effect.timeoutOption(busyTimeout),
          Effect.map(Option.isSome),
          Effect.raceFirst(Effect.andThen(Deferred.await(this.closing), this.orEnded))
        )
        const framesBefore = early + index.records
        const framesCopied = early + (yield* this.copy)
        if (isFree && mode === "full") yield* this.standAlone
        if (isFree && mode !== "full") {
          yield* this.standAlone
          yield* this.emptied
        }
        return { mode, framesBefore, framesCopied, blocked: !isFree }
      }))
    })
  }

  /** For whoever waited while the log was closed. */
  private readonly orEnded: Effect.Effect<never, LogEnded> = Effect.suspend(() => {
    const ended = this.parts.log.ended()
    invariant(ended !== undefined, "only a log that has ended is closed")
    return Effect.fail(ended)
  })

  /** Nobody reads what the log alone has. */
  protected get canBeEmptied(): boolean {
    const { log, readers } = this.parts
    return readers.registry.isAtLeast(log.published.commitSeq)
  }

  protected whileQuiet<A>(
    use: Effect.Effect<A, CheckpointFailed | LogEnded>
  ): Effect.Effect<A, CheckpointFailed | LogEnded> {
    const { database, log } = this.parts
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
        this.failure = new CheckpointFailed({ path: this.parts.databaseFile.path, cause })
        return this.failure
      })
    )
  }

  /** Copies whole segments up to the oldest snapshot in use, and answers how many images went. */
  protected readonly copy: Effect.Effect<number, CheckpointFailed> = Effect.suspend(() => {
    const { index, log, readers } = this.parts
    const { oldest } = readers.registry
    const bound = oldest === undefined || oldest > log.published.commitSeq ? log.published.commitSeq : oldest
    const count = index.segments.findIndex(({ high }) => high > bound)
    const segments = index.segments.slice(0, count < 0 ? index.segments.length : count)
    const last = segments.at(-1)
    if (last === undefined) return Effect.as(this.remove([]), 0)
    return this.orFailForGood(copySegments(this.segmentCopy, segments, last)).pipe(
      Effect.andThen(Effect.suspend(() => this.mark(this.markAfter(last)))),
      Effect.andThen(Effect.sync(() => {
        const records = index.records
        readers.drop(segments.length)
        return records - index.records
      })),
      Effect.tap(() => this.remove(segments))
    )
  })

  /** A mark that cannot be written leaves the one that was there: it can be tried again. */
  protected mark(mark: CheckpointMark): Effect.Effect<void, CheckpointFailed> {
    const { database, vfs } = this.parts
    return Effect.mapError(
      writeCheckpointMark(vfs, database, mark),
      (cause) => new CheckpointFailed({ path: checkpointMarkPath(database), cause })
    )
  }

  /**
   * What cannot be removed now is tried again after the next copy, and removed by the next start. Side by side: a commit of
   * the native log is a file, and one removal at a time, in line behind those of all writers for a thread of the
   * platform, falls behind them. What is committed meanwhile waits for the next copy, so each round had more to do than
   * the one before.
   */
  protected remove(segments: ReadonlyArray<SegmentInLog>): Effect.Effect<void> {
    for (const { path } of segments) this.leftOver.add(path)
    return Effect.forEach(Array.from(this.leftOver), (path) =>
      Effect.matchEffect(this.removeFile(path), {
        onSuccess: () => Effect.sync(() => this.leftOver.delete(path)),
        onFailure: (error) =>
          error.code === "ENOENT"
            ? Effect.sync(() => this.leftOver.delete(path))
            : Effect.logWarning("a file whose pages are in the database file could not be removed", error)
      }), { concurrency: removeConcurrency, discard: true })
  }

  /** Lets go of a file whose pages are in the database file, durably so. */
  protected removeFile(path: string): Effect.Effect<void, VfsError> {
    return this.parts.vfs.remove(path)
  }

  /** While quiet and everything is copied: the database file is all there is, and stock SQLite may open it. */
  private readonly standAlone: Effect.Effect<void, CheckpointFailed> = Effect.suspend(() => {
    const { databaseFile, index, log } = this.parts
    invariant(log.isIdle && index.segments.length === 0, "only a database with everything in it stands alone")
    if (!log.isMarked) return Effect.void
    return this.orFailForGood(Effect.suspend(() => {
      // Before it is tried: a failure leaves either of the two on the disk, and the next commit writes its own.
      log.unmark()
      return markDatabase(databaseFile, 2)
    }))
  }).pipe(Effect.uninterruptible)
}

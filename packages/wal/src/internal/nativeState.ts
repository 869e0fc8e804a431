/**
 * The running state of a native log: what was handed over, what is durable, where every version is.
 *
 * LSNs of the engine count the markers of this opening, 88 bytes each: what the log appends is markers alone.
 *
 * Invariants
 * 1. Markers are encoded in the order of sequences, when their commits are handed over, each naming the one before it.
 * 2. Before the first byte of a batch's markers is written its capsules and their names are durable (CO-10), and before
 *    the first marker behind a checkpoint the header of the database says that its newest commits are elsewhere.
 * 3. The index holds durable commits only; `published` is its tip.
 * 4. After a failed barrier, write or sync no file of the log is touched any more (GC-08).
 * 5. A capsule that a commit names is not removed before that commit is in the database file, whoever asks: a marker may
 *    be on the disk from the hand-over on, also when its commit was never acknowledged.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, ObjectId, PageSize } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { capsulePath, imageOffset } from "../CapsuleFormat.ts"
import type { CapsuleStore } from "../CapsuleStore.ts"
import type { Published } from "../CommitLog.ts"
import type { GroupCommit, HandOverWaiter, LogEnded } from "../GroupCommit.ts"
import * as LogMetrics from "../LogMetrics.ts"
import { markerBytes } from "../MarkerFormat.ts"
import type { MarkerFiles } from "../MarkerStore.ts"
import type { NativeCommit } from "../NativeLog.ts"
import { markDatabase } from "./databaseMark.ts"
import type { CheckpointedLog } from "./segmentCheckpoint.ts"
import type { SegmentInLog, VersionIndex } from "./versionIndex.ts"

export interface NativeStateOptions {
  readonly database: string
  readonly databaseFile: VfsFile
  readonly pageSize: PageSize
  readonly published: Published
  /** The header of the database says already that the newest commits are elsewhere. */
  readonly isMarked: boolean
  readonly index: VersionIndex
  readonly capsules: CapsuleStore["Service"]
  /** `undefined` while the log can only be read (RC-26). */
  readonly markers: MarkerFiles | undefined
  readonly clock: Clock.Clock
  readonly context: Context.Context<never>
}

interface HandedOver {
  readonly commit: NativeCommit
  /** What it is in the index. */
  readonly segment: SegmentInLog
}

export class NativeState implements CheckpointedLog {
  published: Published
  isMarked: boolean
  /** Page images of commits that were published since the log was opened. */
  recordsPublished = 0
  readonly publishedListeners: Array<(published: Published) => void> = []
  /** Called when commits became durable. */
  onPublished: () => void = () => {}
  /** Set right after the engine was made. */
  engine: GroupCommit | undefined
  private readonly options: NativeStateOptions
  /** Commits that were handed over and are not durable yet, oldest first. */
  private pending: Array<HandedOver> = []
  /** Paths of capsules (invariant 5), with the number of commits that name each: one, unless somebody publishes it twice. */
  private readonly named = new Map<string, number>()
  private encoding: NativeCommit | undefined

  constructor(options: NativeStateOptions) {
    this.options = options
    this.published = options.published
    this.isMarked = options.isMarked
    for (const { path } of options.index.segments) this.addName(path)
  }

  // -- what a checkpoint asks -------------------------------------------------------------------------------------------

  get isIdle(): boolean {
    return this.pending.length === 0
  }

  get isPoisoned(): boolean {
    return this.ended()?._tag === "WalPoisoned"
  }

  ended(): LogEnded | undefined {
    return this.running.ended()
  }

  unmark(): void {
    invariant(this.isIdle, "the mark is taken away while the log is quiet")
    this.isMarked = false
  }

  quiesce<A, E>(use: Effect.Effect<A, E>): Effect.Effect<A, E | LogEnded> {
    return this.running.quiesce(use)
  }

  private get running(): GroupCommit {
    const { engine } = this
    invariant(engine !== undefined, "nothing is asked of a log before its engine runs")
    return engine
  }

  // -- writing ----------------------------------------------------------------------------------------------------------

  restore(tip: CommitSeq, walOffset: number): void {
    const next = this.options.markers?.next() ?? toCommitSeq(this.published.commitSeq + 1n)
    invariant(tip + 1n === next, "a restored coordinator continues at the tip of its log")
    invariant(walOffset === 0, "a native log has no offsets")
  }

  append(commit: NativeCommit, waiter: HandOverWaiter): number {
    const engine = this.running
    invariant(waiter.mode === "durable", "a commit is visible when it is durable")
    invariant(commit.seq === this.options.markers?.next(), "commits are handed over in the order of their sequences")
    const { databasePages, pages, seq } = commit
    const path = capsulePath(this.options.database, commit.capsule)
    this.encoding = commit
    this.pending.push({ commit, segment: { path, low: seq, high: seq, databasePages, pages } })
    this.addName(path)
    try {
      engine.enqueueUnsafe(markerBytes, this.encode, waiter)
    } catch (defect) {
      // The next marker names one that will never be written: nothing can follow it.
      engine.poison(Cause.die(defect))
      const ended = engine.ended()
      invariant(ended !== undefined, "a poisoned log has ended")
      waiter.fail(ended)
    } finally {
      this.encoding = undefined
    }
    return 0
  }

  /** Writes the marker of the commit that is being handed over. */
  private readonly encode = (target: Uint8Array, view: DataView, offset: number): void => {
    const { encoding, options: { markers } } = this
    invariant(encoding !== undefined && markers !== undefined, "a marker is written while its commit is handed over")
    encoding.markerId = markers.encodeNext(encoding.capsule, undefined, target, view, offset).id
  }

  /** What has to be durable before `count` markers from sequence `from` on are written (invariant 2). */
  readonly barrier = (from: CommitSeq, count: number): Effect.Effect<void, VfsError> =>
    Effect.suspend(() => {
      const { capsules, clock, context } = this.options
      const batch = this.pending.slice(0, count)
      invariant(
        batch[0]?.segment.high === from && batch.length === count,
        "a batch begins with the oldest commit that is not durable"
      )
      const ids: ReadonlyArray<ObjectId> = batch.map(({ commit }) => commit.capsule)
      const startedNanos = clock.monotonicTimeNanosUnsafe()
      return Effect.andThen(this.mark, capsules.sync(ids)).pipe(Effect.tap(() =>
        Effect.sync(() => {
          const nanos = Number(clock.monotonicTimeNanosUnsafe() - startedNanos)
          LogMetrics.capsuleBarrierSeconds.updateUnsafe(nanos / 1e9, context)
          LogMetrics.capsulesSynced.updateUnsafe(count, context)
        })
      ))
    })

  /** Keeps stock SQLite away (`formats.md` 2.2). */
  private readonly mark: Effect.Effect<void, VfsError> = Effect.suspend(() =>
    this.isMarked ? Effect.void : Effect.map(markDatabase(this.options.databaseFile, 3), () => {
      this.isMarked = true
    })
  )

  /** Moves the commits up to this one into the index. Runs before anybody is woken. */
  publish(durable: CommitSeq): void {
    const { index, pageSize } = this.options
    let count = 0
    for (; count < this.pending.length; count++) {
      const segment = this.pending[count]?.segment
      if (segment === undefined || segment.high > durable) break
      const { high, pages } = segment
      index.addSegment(segment)
      pages.forEach((page, at) => index.addVersion(page, high, segment, imageOffset(pageSize, pages.length, at)))
      this.recordsPublished += pages.length
    }
    const newest = this.pending[count - 1]?.segment
    if (newest === undefined) return
    this.published = { commitSeq: newest.high, databasePages: newest.databasePages }
    this.pending = this.pending.slice(count)
    for (const listener of this.publishedListeners) listener(this.published)
    this.onPublished()
  }

  /** What is in flight is not acknowledged. */
  forget(): void {
    this.pending = []
  }

  // -- capsules -------------------------------------------------------------------------------------------------------

  /** Whether a commit needs this capsule that is not in the database file (invariant 5). */
  isNamed(path: string): boolean {
    return this.named.has(path)
  }

  /** A commit that names this capsule is in the database file. Answers whether none is left that needs it. */
  letGo(path: string): boolean {
    const left = (this.named.get(path) ?? 0) - 1
    if (left > 0) this.named.set(path, left)
    else this.named.delete(path)
    return left <= 0
  }

  private addName(path: string): void {
    this.named.set(path, (this.named.get(path) ?? 0) + 1)
  }
}

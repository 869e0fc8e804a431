/**
 * The epochs of a parallel WAL: what is handed over gathers in lanes, a cycle closes the open epoch, writes it as one
 * segment, certifies it and publishes it.
 *
 * Invariants
 * 1. Assigning the sequence, stamping the epoch and storing in the lane are one synchronous step (PW-08), and so is
 *    sealing. So a batch that was accepted into epoch N is in N's segment, and the sequences of an epoch are an interval.
 * 2. One cycle at a time, and an epoch whose segment could not be written is the only one that is tried until it is
 *    there (PW-15): segments and certificates come in the order of epochs.
 * 3. Nothing is published before its certificate is durable, and nobody is woken before everything that he will look at
 *    is in place: waiters run inline and may hand over again.
 * 4. Poison is set before anybody is told. After it no file is touched, and what was on its way is not published.
 * 5. What somebody throws when he is told takes nobody else's answer; it poisons, and so does a defect in a cycle.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, LaneId, PageNumber, TxnToken, WalEpoch } from "@tidemark/core/Scalars"
import { toCommitSeq, toLsn } from "@tidemark/core/Scalars"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Semaphore from "effect/Semaphore"
import type * as Tracer from "effect/Tracer"
import type { Certificate } from "../CertificateFormat.ts"
import type { Published } from "../CommitLog.ts"
import type { Admission, HandOverWaiter, LogEnded } from "../GroupCommit.ts"
import { LogClosed, WalPoisoned } from "../LogErrors.ts"
import * as LogMetrics from "../LogMetrics.ts"
import { DurabilityTimeout, type LaneFull } from "../ParallelWalErrors.ts"
import { annotate, type TraceFields } from "../ParallelWalTrace.ts"
import { segmentPath } from "../SegmentFormat.ts"
import { AdmissionLine } from "./admissionLine.ts"
import type { BatchInEpoch, EpochEncoder, EpochImage } from "./epochEncoder.ts"
import { EpochWaiters } from "./epochWaiters.ts"
import { flushSpan, traceIdOf } from "./flushTrace.ts"
import type { Lanes } from "./lanes.ts"
import type { LaterLog } from "./laterLog.ts"
import type { SegmentInLog, VersionIndex } from "./versionIndex.ts"

/** A certified segment whose pages are not all in the database file yet. */
export interface CertifiedSegment extends SegmentInLog {
  readonly epoch: WalEpoch
  readonly certificateEpoch: bigint
}

/** The files under the epochs. Called one at a time, uninterruptibly. */
export interface EpochFiles {
  /** Keeps stock SQLite away: before the first certificate (`formats.md` 2.2). A failure is final. */
  readonly markDatabase: Effect.Effect<void, VfsError>
  /** One attempt. A failure leaves nothing behind that counts. */
  readonly writeSegment: (
    epoch: WalEpoch,
    attempt: number,
    buffers: ReadonlyArray<Uint8Array>
  ) => Effect.Effect<void, VfsError>
  /** Syncs that an epoch takes. */
  readonly syncsPerEpoch: number
  /** A failure is final. */
  readonly certify: (certificate: Certificate) => Effect.Effect<void, VfsError>
}

export interface EpochLogOptions {
  readonly database: string
  /** The first epoch. */
  readonly epoch: WalEpoch
  readonly published: Published
  /** Of the last certificate. */
  readonly certificateEpoch: bigint
  /** Of the last certificate that named a segment. */
  readonly segmentEpoch: WalEpoch
  /** The header of the database says already that the newest commits are elsewhere. */
  readonly isMarked: boolean
  /** The highest epoch that recovery found. */
  readonly recoveryEpoch: WalEpoch | undefined
  /** Bytes handed over and not durable, above which writers wait in line. */
  readonly maxQueuedBytes: number
  readonly lanes: Lanes<BatchInEpoch>
  readonly index: VersionIndex<CertifiedSegment>
  readonly encoder: EpochEncoder
  readonly files: EpochFiles
  readonly laterLog: LaterLog
  readonly clock: Clock.Clock
  readonly context: Context.Context<never>
}

/** What is handed over in one step: the pages of a transaction. */
export interface Batch {
  readonly token: TxnToken
  /** Ascending. */
  readonly pages: ReadonlyArray<PageNumber>
  /** Images of a page, valid until the next call. */
  image(page: PageNumber): Uint8Array
  readonly databasePages: number
}

/** An epoch that takes nothing more and is not durable. */
interface SealedEpoch {
  readonly epoch: WalEpoch
  readonly batches: ReadonlyArray<BatchInEpoch>
  readonly bytes: number
  readonly image: EpochImage
  readonly closedAtNanos: bigint
  readonly trace: TraceFields
  /** From the first attempt on. */
  span: Tracer.Span | undefined
  attempt: number
  /** Why the last attempt to write it failed. */
  cause: VfsError | undefined
}

export class EpochLog {
  readonly options: EpochLogOptions
  published: Published
  /** Database size in pages after what was handed over last. */
  databasePages: number
  /** Attempts to write an epoch that failed. */
  failedAttempts = 0
  /** Records that were published since the log was opened. */
  recordsPublished = 0
  /** The header of the database says that the newest commits are elsewhere. */
  isMarked: boolean
  /** The decision of the controller to close the open epoch, if it was one. */
  decisionId: number | undefined
  readonly publishedListeners: Array<(published: Published) => void> = []
  /** Called when commits became durable, and when they could not. */
  onPublished: () => void = () => {}
  /** Called when an epoch is durable, before anybody is woken. */
  onFlushed: (flush: { readonly writers: number; readonly frames: number; readonly flushMicros: number }) => void =
    () => {}
  /** Called when a batch was stored. */
  onStored: () => void = () => {}
  private openEpoch: WalEpoch
  private nextSeq: CommitSeq
  private certificateEpoch: bigint
  private segmentEpoch: WalEpoch
  private batches: Array<BatchInEpoch> = []
  /** Sealed, and not durable yet. */
  private sealed: SealedEpoch | undefined
  private bytesInFlight = 0
  private quiescing = 0
  private state: "open" | "closing" | "closed" = "open"
  private poisoned: WalPoisoned | undefined
  private readonly admissions = new AdmissionLine({
    ended: () => this.ended(),
    hasRoom: (length) => this.hasRoom(length),
    onDefect: (defect, admission) => {
      this.poison(Cause.die(defect))
      this.tell(() => admission.refuse(this.ended() ?? this.closed))
    }
  })
  private readonly epochWaiters = new EpochWaiters()
  private readonly oneCycle = Semaphore.makeUnsafe(1)

  constructor(options: EpochLogOptions) {
    this.options = options
    this.published = options.published
    this.openEpoch = options.epoch
    this.nextSeq = toCommitSeq(options.published.commitSeq + 1n)
    this.certificateEpoch = options.certificateEpoch
    this.segmentEpoch = options.segmentEpoch
    this.isMarked = options.isMarked
    this.databasePages = options.published.databasePages
  }

  /** The epoch that takes what is handed over now. */
  get epoch(): WalEpoch {
    return this.openEpoch
  }

  get next(): CommitSeq {
    return this.nextSeq
  }

  get durableEpoch(): WalEpoch | undefined {
    return this.epochWaiters.durable
  }

  /** Batches that wait in the open epoch. */
  get openBatches(): number {
    return this.batches.length
  }

  /** Batches that are handed over and not durable. */
  get waiters(): number {
    return this.batches.length + (this.sealed?.batches.length ?? 0)
  }

  /** Nothing is handed over that is not durable. */
  get isIdle(): boolean {
    return this.sealed === undefined && this.batches.length === 0
  }

  get isPoisoned(): boolean {
    return this.poisoned !== undefined
  }

  /** There will be no more cycles. */
  get isOver(): boolean {
    return this.poisoned !== undefined || this.state === "closed"
  }

  ended(): LogEnded | undefined {
    if (this.poisoned !== undefined) return this.poisoned
    return this.state === "open" ? undefined : this.closed
  }

  private get closed(): LogClosed {
    return new LogClosed({ log: this.options.database })
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Handing over
  // -------------------------------------------------------------------------------------------------------------------

  /** Asks for room, in arrival order; see `GroupCommit.admit`. `fits`: what else has to be the case. */
  readonly admit = (admission: Admission, fits: () => boolean = always): () => void =>
    this.admissions.ask(admission, fits)

  /** A hand-over above the bound is let in alone. */
  private hasRoom(length: number): boolean {
    return this.quiescing === 0 &&
      (this.bytesInFlight === 0 || this.bytesInFlight + length <= this.options.maxQueuedBytes)
  }

  /** See {@link EpochEncoder.laneFor}. */
  laneFor(lane: LaneId): LaneId {
    return this.options.encoder.laneFor(lane)
  }

  /**
   * Stores a batch in a lane and answers its sequence and epoch, now (invariant 1); or why the lane does not take it.
   * Only from inside `Admission.enter`.
   */
  append(batch: Batch, lane: LaneId, waiter: HandOverWaiter): BatchInEpoch | LaneFull {
    const { clock, encoder, lanes } = this.options
    invariant(this.ended() === undefined, "batches are handed over to an open log only")
    const stored = encoder.store(lanes, lane, batch, {
      seq: this.nextSeq,
      epoch: this.openEpoch,
      stagedAt: clock.currentTimeMillisUnsafe(),
      waiter
    })
    if (stored._tag === "LaneFull") return stored
    this.batches.push(stored)
    this.databasePages = batch.databasePages
    this.bytesInFlight += stored.encodedBytes
    this.nextSeq = toCommitSeq(this.nextSeq + 1n)
    this.tell(this.onStored)
    return stored
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Cycles
  // -------------------------------------------------------------------------------------------------------------------

  /**
   * Closes the open epoch and makes it durable; or tries again to write the one that could not be written. Answers
   * whether the epoch that it worked on is durable: when it is not, the log has ended or the next cycle tries again.
   */
  get cycle(): Effect.Effect<boolean> {
    return Effect.map(this.cycleWhen(always), (isDurable) => isDurable === true)
  }

  /** The same, but closes nothing, and answers `undefined`, when the open epoch may not be closed at that moment. */
  cycleWhen(mayClose: () => boolean): Effect.Effect<boolean | undefined> {
    return Effect.suspend((): Effect.Effect<boolean | undefined> => {
      if (this.isOver) return Effect.succeed(false)
      if (this.sealed === undefined && !mayClose()) return Effect.succeed(undefined)
      const sealed = this.sealed ?? this.seal()
      return sealed === undefined ? Effect.succeed(true) : this.flush(sealed)
    }).pipe(
      Effect.catchCause((cause) =>
        Effect.andThen(Effect.sync(() => this.poison(cause)), Effect.as(Effect.logError("a cycle died", cause), false))
      ),
      Effect.tap(() => this.options.laterLog.write),
      // A closing scope lets the cycle that it finds under way finish.
      Effect.uninterruptible,
      (cycle) => this.oneCycle.withPermit(cycle)
    )
  }

  /** One synchronous step (invariant 1). An epoch without batches is durable at once (PW-12). */
  private seal(): SealedEpoch | undefined {
    const epoch = this.openEpoch
    this.openEpoch = (epoch + 1n) as WalEpoch // one more than an epoch is one: there are 2^64
    const { batches } = this
    const first = batches[0]
    const last = batches.at(-1)
    if (first === undefined || last === undefined) {
      LogMetrics.emptyEpochs.updateUnsafe(1, this.options.context)
      this.epochWaiters.raise(epoch)
      this.epochWaiters.takeDue()()
      return undefined
    }
    const { clock, database, encoder, lanes, recoveryEpoch } = this.options
    lanes.seal(epoch)
    const taken = lanes.takeSealed(epoch)
    const image = encoder.gather(taken)
    const sealed: SealedEpoch = {
      epoch,
      batches,
      bytes: taken.bytes,
      image,
      closedAtNanos: clock.currentTimeNanosUnsafe(),
      trace: {
        traceId: traceIdOf(database, epoch),
        decisionId: this.decisionId,
        mode: encoder.mode,
        epoch,
        interval: { low: first.seq, high: last.seq },
        recoveryEpoch,
        fallback: encoder.fallback.reason
      },
      span: undefined,
      attempt: 1,
      cause: undefined
    }
    this.decisionId = undefined
    this.batches = []
    this.sealed = sealed
    // The lanes are empty: who waited for room in one joins the next epoch.
    this.admissions.proceed()
    return sealed
  }

  private flush(sealed: SealedEpoch): Effect.Effect<boolean> {
    const { image: { compared }, trace } = sealed
    return Effect.gen({ self: this }, function*() {
      sealed.span ??= yield* flushSpan(trace, compared, sealed.closedAtNanos)
      yield* Effect.withParentSpan(Effect.gen({ self: this }, () => this.attempt(sealed)), sealed.span)
      // What was noticed on the way belongs to this flush.
      yield* this.options.laterLog.write
      return this.sealed === undefined && this.poisoned === undefined
    }).pipe(annotate(trace))
  }

  /** Goes on only while the log lives: somebody outside may poison it at any time (invariant 4). */
  private *attempt(sealed: SealedEpoch): Effect.fn.Return<void> {
    const { clock, files } = this.options
    if (!this.isMarked) {
      const marked = yield* Effect.exit(Effect.suspend(() => this.isOver ? Effect.void : files.markDatabase))
      if (Exit.isFailure(marked)) return this.poison(marked.cause)
      this.isMarked = true
    }
    if (this.isOver) return
    const startedNanos = clock.monotonicTimeNanosUnsafe()
    const written = yield* Effect.exit(files.writeSegment(sealed.epoch, sealed.attempt, sealed.image.buffers))
    if (this.isOver) return
    if (Exit.isFailure(written)) {
      const failure = Cause.findErrorOption(written.cause)
      return Option.isSome(failure) ? yield* this.noteFailure(sealed, failure.value) : this.poison(written.cause)
    }
    const certified = yield* Effect.exit(Effect.suspend(() => files.certify(this.certificateOf(sealed))))
    if (Exit.isFailure(certified)) return this.poison(certified.cause)
    if (this.isOver) return
    this.publish(sealed, Number(clock.monotonicTimeNanosUnsafe() - startedNanos) / 1000)
  }

  private noteFailure(sealed: SealedEpoch, cause: VfsError): Effect.Effect<void> {
    const { attempt, epoch } = sealed
    sealed.attempt++
    sealed.cause = cause
    this.failedAttempts++
    LogMetrics.segmentWriteFailures.updateUnsafe(1, this.options.context)
    this.tell(this.onPublished)
    // A disk stays full for longer than an epoch lasts: the first time, then seldom.
    return Number.isInteger(Math.log2(attempt))
      ? Effect.logWarning(`epoch ${epoch} could not be written (attempt ${attempt}) and is tried again`, cause)
      : Effect.void
  }

  private certificateOf({ batches, epoch, image }: SealedEpoch): Certificate {
    const last = batches.at(-1)
    invariant(last !== undefined, "an epoch that is certified has a batch")
    return {
      fallbackActive: image.isFallback,
      aborted: false,
      certificateEpoch: this.certificateEpoch + 1n,
      low: toCommitSeq(this.published.commitSeq + 1n),
      high: last.seq,
      segmentEpoch: epoch,
      databasePages: last.batch.databasePages,
      pageSetSize: image.pageSetSize,
      segmentCrc: image.crc,
      laneRecords: image.laneRecords
    }
  }

  /** Everything in one synchronous step, and only then is anybody woken (invariant 3). */
  private publish(sealed: SealedEpoch, flushMicros: number): void {
    const { clock, context, database, encoder, files, index, lanes } = this.options
    const { batches, epoch, image } = sealed
    const last = batches.at(-1)
    const first = batches[0]
    invariant(first !== undefined && last !== undefined, "an epoch that is published has a batch")
    this.certificateEpoch += 1n
    this.segmentEpoch = epoch
    const segment: CertifiedSegment = {
      epoch,
      certificateEpoch: this.certificateEpoch,
      path: segmentPath(database, epoch),
      low: first.seq,
      high: last.seq,
      databasePages: last.batch.databasePages,
      pages: image.pages
    }
    index.addSegment(segment)
    let record = 0
    for (const { batch, seq } of batches) {
      for (const page of batch.pages) index.addVersion(page, seq, segment, image.offsets[record++] ?? 0)
    }
    this.recordsPublished += image.pages.length
    this.published = { commitSeq: last.seq, databasePages: last.batch.databasePages }
    this.sealed = undefined
    this.bytesInFlight -= sealed.bytes
    this.epochWaiters.raise(epoch)
    const wakeOthers = this.epochWaiters.takeDue()
    lanes.release(epoch)
    encoder.flushed(lanes)
    sealed.span?.end(clock.currentTimeNanosUnsafe(), Exit.void)
    LogMetrics.epochsFlushed.updateUnsafe(1, context)
    LogMetrics.syncs.updateUnsafe(files.syncsPerEpoch, context)
    LogMetrics.epochFlushSeconds.updateUnsafe(flushMicros / 1e6, context)
    LogMetrics.commits.updateUnsafe(batches.length, context)
    this.tell(() => this.onFlushed({ writers: batches.length, frames: image.pages.length, flushMicros }))
    for (const listener of this.publishedListeners) this.tell(() => listener(this.published))
    this.tell(this.onPublished)
    for (const { waiter } of batches) this.tell(() => waiter.succeed())
    wakeOthers()
    this.admissions.proceed()
  }

  /** Tells one of many (invariant 5). */
  private tell(call: () => void): void {
    try {
      call()
    } catch (defect) {
      this.options.laterLog.error("somebody threw when the parallel WAL called back", defect)
      this.poison(Cause.die(defect))
    }
  }

  /** Waits until an epoch is durable, at the most `timeout` (PW-12). */
  readonly awaitDurable = (
    epoch: WalEpoch,
    timeout: Duration.Input
  ): Effect.Effect<void, DurabilityTimeout | LogEnded> => {
    const timeoutMillis = Duration.toMillis(Duration.fromInputUnsafe(timeout))
    // A log that is closing may still make it durable.
    return this.epochWaiters.await(epoch, () => this.isOver ? this.ended() : undefined).pipe(
      Effect.timeoutOption(timeout),
      Effect.flatMap((answer) =>
        Option.isSome(answer)
          ? Effect.void
          : Effect.suspend(() =>
            Effect.fail(new DurabilityTimeout({ epoch, timeoutMillis, cause: this.causeFor(epoch) }))
          )
      )
    )
  }

  /** Why an epoch is not durable yet: the failure of the one that stands in its way. */
  private causeFor(epoch: WalEpoch): VfsError | undefined {
    return this.sealed !== undefined && this.sealed.epoch <= epoch ? this.sealed.cause : undefined
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Quiet, the end
  // -------------------------------------------------------------------------------------------------------------------

  /**
   * Runs `use` while nothing is handed over that is not durable, and no cycle runs; hand-overs that come meanwhile wait
   * in line. Fails with the reason when what is there cannot be written.
   */
  quiesce<A, E, R>(use: Effect.Effect<A, E, R>): Effect.Effect<A, E | LogEnded | VfsError, R> {
    return Effect.acquireUseRelease(
      Effect.sync(() => this.quiescing++),
      () => Effect.andThen(this.drain, this.oneCycle.withPermit(Effect.andThen(this.orEnded, use))),
      () =>
        Effect.sync(() => {
          this.quiescing--
          this.admissions.proceed()
        })
    )
  }

  private readonly orEnded: Effect.Effect<void, LogEnded> = Effect.suspend(() => {
    const ended = this.ended()
    return ended === undefined ? Effect.void : Effect.fail(ended)
  })

  /** Makes durable what is handed over: what is sealed, then what is open. Gives up at the first attempt that fails. */
  private readonly drain: Effect.Effect<void, LogEnded | VfsError> = Effect.gen({ self: this }, function*() {
    while (!this.isIdle) {
      if (yield* this.cycle) continue
      if (this.poisoned !== undefined) return yield* this.poisoned
      const { sealed } = this
      if (sealed?.cause !== undefined) return yield* sealed.cause
    }
  })

  /** While quiet: the header of the database says again that it stands alone. */
  unmark(): void {
    invariant(
      this.isIdle && (this.quiescing > 0 || this.state === "closed"),
      "the mark is taken away while the log is quiet"
    )
    this.isMarked = false
  }

  /** Takes nothing more, and tells everybody who waits, oldest first. */
  readonly poison = (cause: Cause.Cause<unknown>): void => {
    if (this.poisoned !== undefined) return
    // The log has no positions: what is safe is told by the sequence.
    const at = toLsn(Number(this.published.commitSeq < maxSafe ? this.published.commitSeq : maxSafe))
    this.poisoned = new WalPoisoned({ log: this.options.database, lsn: at, cause })
    this.tellAll(this.poisoned)
  }

  private tellAll(ended: LogEnded): void {
    const { clock, lanes } = this.options
    const waiting = [...this.sealed?.batches ?? [], ...this.batches]
    this.sealed?.span?.end(clock.currentTimeNanosUnsafe(), Exit.fail(ended))
    this.sealed = undefined
    this.batches = []
    lanes.abandon()
    for (const { waiter } of waiting) this.tell(() => waiter.fail(ended))
    for (const admission of this.admissions.takeAll()) this.tell(() => admission.refuse(ended))
    this.epochWaiters.fail(ended)
  }

  /**
   * Makes durable what is there. An epoch that cannot be written is tried once more (PW-15); then its interval is aborted
   * by a certificate of its own, so that it is decided, and the log is poisoned.
   */
  readonly settle: Effect.Effect<void> = Effect.suspend(() => this.drain).pipe(
    Effect.catch(() => this.drain),
    Effect.catch((cause) => this.oneCycle.withPermit(this.abort(cause)))
  )

  /** Takes nothing more, settles what is there, and tells everybody who waits. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    if (this.state !== "open") return Effect.void
    this.state = "closing"
    const { closed } = this
    for (const admission of this.admissions.takeAll()) this.tell(() => admission.refuse(closed))
    return this.settle.pipe(
      Effect.andThen(Effect.sync(() => {
        this.state = "closed"
        this.tellAll(closed)
      })),
      Effect.andThen(this.options.laterLog.write)
    )
  })

  private abort(cause: LogEnded | VfsError): Effect.Effect<void> {
    return Effect.suspend(() => {
      // A cycle of somebody else may have come in between.
      if (this.poisoned !== undefined || this.isIdle) return Effect.void
      return Effect.exit(this.options.files.certify({
        fallbackActive: false,
        aborted: true,
        certificateEpoch: this.certificateEpoch + 1n,
        low: toCommitSeq(this.published.commitSeq + 1n),
        high: toCommitSeq(this.nextSeq - 1n),
        segmentEpoch: this.segmentEpoch,
        databasePages: this.published.databasePages,
        pageSetSize: 0,
        segmentCrc: 0,
        laneRecords: []
      })).pipe(
        // When that fails too, the next start decides: it finds no certificate.
        Effect.andThen(Effect.logError("an epoch could not be written before the log was closed", cause)),
        Effect.andThen(Effect.sync(() => this.poison(Cause.fail(cause))))
      )
    })
  }
}

const always = () => true
const maxSafe = BigInt(Number.MAX_SAFE_INTEGER)

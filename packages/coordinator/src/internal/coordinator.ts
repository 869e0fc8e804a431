/**
 * The state of a write coordinator, and what happens to a commit in it: see `CompatCoordinator` for its invariants. What
 * is decided here is decided by numbers of pages alone; where their bytes are is the business of the submissions.
 */
import { invariant, InvariantViolation } from "@tidemark/core/Invariant"
import type { CommitSeq, PageNumber, TxnId, TxnToken } from "@tidemark/core/Scalars"
import { SchemaEpoch, toCommitSeq, toPageNumber, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import type { Snapshot } from "@tidemark/core/Snapshot"
import type { SequencedLog } from "@tidemark/wal/CommitLog"
import type { LogEnded } from "@tidemark/wal/GroupCommit"
import { LogClosed } from "@tidemark/wal/LogErrors"
import { SnapshotRegistry } from "@tidemark/wal/SnapshotRegistry"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Metric from "effect/Metric"
import * as ConflictIndex from "../ConflictIndex.ts"
import type {
  CommitProposal,
  CommitRefusal,
  CommitWaiter,
  Coordination,
  Outcome,
  TransactionHold
} from "../Coordination.ts"
import { maxReadPages } from "../Coordination.ts"
import {
  Busy,
  Conflict,
  LeaseNotHeld,
  ReadSetTooLarge,
  SchemaMismatch,
  SerializationFailure,
  WriteSetTooLarge
} from "../CoordinatorErrors.ts"
import type { LeaseGrant } from "../CoordinatorLease.ts"
import * as CoordinatorMetrics from "../CoordinatorMetrics.ts"
import type { HeaderPublisher, SharedHeader } from "../SharedHeader.ts"
import { offsets } from "../SharedHeaderFormat.ts"
import { type AnswerStore, OutcomeCache } from "./outcomeCache.ts"
import { ResizeHistory } from "./resizeHistory.ts"
import { resuming } from "./resuming.ts"
import { SerializedTurn } from "./serializedTurn.ts"
import type { Submission, SubmissionOwner } from "./submission.ts"
import { Hold } from "./transactionHold.ts"

/** How many commits pass between two looks at what can be forgotten. */
const commitsPerCollection = 256

interface VisibilityWaiter {
  readonly seq: CommitSeq
  readonly resume: () => void
}

/** How long a serialized transaction waits for those who are in the way, by default. */
const defaultBusyTimeout = Duration.seconds(5)

/** By what right a coordinator decides, and where it says what became durable. */
export interface CoordinatorAuthority {
  readonly grant: LeaseGrant
  /** Where snapshots are taken from. */
  readonly header: SharedHeader["Service"]
  /** Of that header. What it has published is what the log has published. */
  readonly publisher: HeaderPublisher
  readonly context: Context.Context<never>
}

/** How often is looked whether a serialized writer of another process has ended: nobody can tell this one. */
const elsewhereMillis = 1

/** What a coordinator is made of. */
export interface CoordinatorParts<Answer> extends CoordinatorAuthority {
  /** It is handed commits by the submissions, which know what kind it takes. */
  readonly log: SequencedLog<never>
  readonly answers: (slots: number) => AnswerStore<Answer>
  /** Pages in a commit at the most. */
  readonly maxPages: number
}

export abstract class Coordinator<
  Request extends CommitProposal,
  Answer extends { readonly commitSeq: CommitSeq },
  Extra
> implements Coordination, SubmissionOwner<Request, Answer, Extra> {
  readonly log: SequencedLog<never>
  private readonly grant: LeaseGrant
  private readonly header: SharedHeader["Service"]
  private readonly publisher: HeaderPublisher
  private readonly context: Context.Context<never>
  private readonly maxPages: number
  private index: ConflictIndex.ConflictIndex
  private readonly resizes = new ResizeHistory()
  private readonly outcomes: OutcomeCache<Answer, CommitRefusal | Extra>
  private readonly transactions = new SnapshotRegistry()
  private readonly turn = new SerializedTurn()
  private lastAssigned: CommitSeq
  /** What a reader of the header is answered: nobody else publishes there. All transactions of one moment share it. */
  private published: Snapshot
  private databasePages: number
  private schemaEpoch: SchemaEpoch = SchemaEpoch.make(0n)
  private readonly txnEpoch: TxnEpoch
  private inFlight = 0
  private sinceCollection = 0
  private isClosed = false
  /** Closed, and nothing of it is on its way: the header is not this coordinator's any more, and may be gone. */
  private hasEnded = false
  private lastId: TxnId | undefined
  private visibilityWaiters: Array<VisibilityWaiter> = []
  private readonly epochListeners: Array<(epoch: SchemaEpoch) => void> = []

  constructor({ answers, context, grant, header, log, maxPages, publisher }: CoordinatorParts<Answer>) {
    this.log = log
    this.grant = grant
    this.header = header
    this.publisher = publisher
    this.context = context
    this.maxPages = maxPages
    this.outcomes = new OutcomeCache(answers)
    const { commitSeq, databasePages } = log.published()
    // Who was coordinator of this log before knew of the commits since the recovery; its transactions are refused.
    const isFollowing = commitSeq > log.recovered.tip
    const { base, pages, tip } = isFollowing ? { base: commitSeq, pages: () => [], tip: commitSeq } : log.recovered
    // What the log remembers of recent commits is known before the first request is looked at (CO-15).
    this.index = ConflictIndex.recovered({ base, tip, pages: pages() })
    if (tip > base) this.resizes.forgetAllBefore(tip, databasePages)
    this.lastAssigned = tip
    this.published = { high: commitSeq, schemaEpoch: this.schemaEpoch }
    this.databasePages = databasePages
    // A transaction id is never used twice under one generation of the lease.
    this.txnEpoch = TxnEpoch.make(Number(grant.generation & 0xffff_ffffn))
    log.onPublished(({ commitSeq }) => {
      this.index.settle(commitSeq)
      this.publish(commitSeq)
    })
  }

  /** Makes what is durable what new snapshots see, here and wherever the header is mapped. */
  private publish(commitSeq: CommitSeq): void {
    const { schemaEpoch } = this
    this.published = { high: commitSeq, schemaEpoch }
    // The log lives on, and another coordinator may.
    if (this.hasEnded) return
    this.publisher.publish({ commitSeq, schemaEpoch, ecsEpoch: 0n })
  }

  /** Of the lease under which it appends. */
  get generation(): bigint {
    return this.grant.generation
  }

  /** How many pages the request writes. */
  protected abstract pageCountOf(request: Request): number
  /** What is answered to who writes nothing. */
  protected abstract answerNothing(request: Request): Answer
  /** What has to be looked at before the request is submitted, `undefined` when nothing has (CO-05). */
  protected abstract verify(request: Request): Effect.Effect<void, Extra> | undefined
  protected abstract submissionOf(
    request: Request,
    changes: number,
    waiter: CommitWaiter<Answer, CommitRefusal | Extra>
  ): Submission<Request, Answer, Extra>

  // ---------------------------------------------------------------------------------------------------------------
  // Beginning
  // ---------------------------------------------------------------------------------------------------------------

  readonly begin = (): TransactionHold => this.hold(this.newToken())

  private newToken(): TxnToken {
    const id = this.hasEnded ? this.idAfterEnd() : this.header.nextTxnId()
    // The publisher has told the header where ids go on, and 2^62 of them are not used up.
    if (typeof id !== "bigint") throw id
    this.lastId = id
    return { id, epoch: this.txnEpoch }
  }

  /** For a transaction that began too late to commit anything: nobody else has this id under this generation. */
  private idAfterEnd(): TxnId {
    return toTxnId((this.lastId ?? 0n) + 1n)
  }

  private hold(token: TxnToken, onEnd?: (token: TxnToken) => void): TransactionHold {
    const reader = this.log.openReader()
    return new Hold(this.transactions, token, this.snapshotAt(reader.high), reader, onEnd)
  }

  /** The snapshot that was published last, unless the log has gone on with another coordinator. */
  private snapshotAt(high: CommitSeq): Snapshot {
    const { published } = this
    return published.high === high ? published : { high, schemaEpoch: this.schemaEpoch }
  }

  readonly beginSerialized: Coordination["beginSerialized"] = (options) =>
    Effect.suspend(() => {
      const token = this.newToken()
      const leave = () => {
        if (!this.hasEnded) this.header.serialized.release(token.id)
        this.turn.leave(token)
      }
      return this.turn.take(token).pipe(
        // From here on no other commit is accepted, so these are the last ones.
        Effect.andThen(Effect.suspend(() => this.awaitVisible(this.lastAssigned))),
        Effect.andThen(Effect.suspend(() => this.acquireHeader(token))),
        Effect.timeoutOrElse({
          duration: options?.busyTimeout ?? defaultBusyTimeout,
          orElse: () => Effect.fail(new Busy({ reason: "other transactions are in the way", retryAfterMillis: 1 }))
        }),
        // Only the wait can be interrupted: nobody loses a turn that was given to him.
        Effect.interruptible,
        Effect.onError(() => Effect.sync(leave)),
        Effect.map(() => this.hold(token, leave))
      )
    }).pipe(Effect.uninterruptible)

  /** Tells everybody who maps the header. A serialized writer of another process has to end first, or to be dead. */
  private acquireHeader(token: TxnToken): Effect.Effect<void> {
    // Too late to commit: there is nobody to be kept out, and nobody would let them in again.
    if (this.isClosed) return Effect.void
    return Effect.uninterruptible(Effect.tap(this.header.serialized.acquire(token.id), () =>
      Effect.sync(() => {
        if (this.hasEnded) this.header.serialized.release(token.id)
      }))).pipe(
        Effect.catch(({ retryAfterMillis }) =>
          Effect.andThen(Effect.sleep(retryAfterMillis), Effect.suspend(() => this.acquireHeader(token)))
        )
      )
  }

  readonly awaitConcurrent: Effect.Effect<void> = Effect.suspend(() =>
    Effect.andThen(
      this.turn.awaitNobody,
      Effect.suspend(() =>
        this.serializedElsewhere() === undefined ? Effect.void : Effect.ignore(this.header.serialized.clearStale).pipe(
          Effect.andThen(Effect.sleep(elsewhereMillis)),
          Effect.andThen(this.awaitConcurrent)
        )
      )
    )
  )

  /** A serialized writer that is none of this coordinator's transactions. One load, unless there is one. */
  private serializedElsewhere(): Busy | undefined {
    if (this.hasEnded) return undefined
    const id = this.header.region().load(offsets.writerTxnId)
    return id === 0n || this.turn.isOf(id)
      ? undefined
      : new Busy({ reason: `transaction ${id} of another process is serialized`, retryAfterMillis: elsewhereMillis })
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Committing
  // ---------------------------------------------------------------------------------------------------------------

  readonly commit = (request: Request): Effect.Effect<Answer, CommitRefusal | Extra> =>
    Effect.callback<Answer, CommitRefusal | Extra>((resume) => this.submitUnsafe(request, resuming(resume)))

  readonly submitUnsafe = (
    request: Request,
    waiter: CommitWaiter<Answer, CommitRefusal | Extra>
  ): Effect.Effect<void> | void => {
    const earlier = this.findEarlier(request)
    if (earlier !== undefined) return waiter.resume(earlier)
    const pageCount = this.pageCountOf(request)
    if (pageCount === 0) {
      const refusal = this.refuseHere(request)
      return waiter.resume(refusal === undefined ? Exit.succeed(this.answerNothing(request)) : Exit.fail(refusal))
    }
    const refusal = this.refuse(request, pageCount)
    if (refusal !== undefined) return waiter.resume(Exit.fail(refusal))
    const { changes } = this.outcomes
    const verified = this.verify(request)
    if (verified === undefined) return this.submit(this.submissionOf(request, changes, waiter))
    const submitted = Effect.callback<Answer, CommitRefusal | Extra>((resumeLater) => {
      const submission = this.submissionOf(request, changes, resuming(resumeLater))
      submission.isStale = true
      return this.submit(submission)
    })
    return waiter.resume(Effect.andThen(verified, submitted))
  }

  /** Why the request would be refused now, for who has to write something before he can submit it. */
  readonly check = (request: CommitProposal, pages: ReadonlyArray<PageNumber>): CommitRefusal | undefined => {
    // Who submits again is answered what became of it.
    if (this.outcomes.find(request.token, Effect.never) !== undefined) return undefined
    const refusal = this.refuse(request, pages.length)
    if (refusal !== undefined) return refusal
    const size = request.databasePages ?? Math.max(this.databasePages, pages.at(-1) ?? 0)
    const conflict = this.validate(request, pages, size)
    if (conflict !== undefined) this.outcomes.abort(request.token)
    return conflict
  }

  /** What an earlier submission of the same transaction came to, or is coming to. */
  private findEarlier(request: Request): Effect.Effect<Answer, CommitRefusal | Extra> | undefined {
    if (!this.outcomes.isKnown(request.token)) return undefined
    return this.outcomes.find(request.token, Effect.suspend(() => this.commit(request)))
  }

  /** Everything that stands against a request without looking at its pages (CO-05, CO-12). */
  private refuse(request: CommitProposal, pages: number): CommitRefusal | undefined {
    const ended = this.log.ended() ?? this.refuseHere(request) ?? this.turn.refuse(request.token) ??
      this.serializedElsewhere()
    if (ended !== undefined) return ended
    const { reads } = request
    if (pages > this.maxPages) return new WriteSetTooLarge({ pages, maxPages: this.maxPages })
    if (reads !== undefined && reads.length > maxReadPages) {
      return new ReadSetTooLarge({ ids: reads.length, maxIds: maxReadPages })
    }
    return this.log.refuse(pages)
  }

  /** What stands against a request that writes nothing, too: a poisoned log does not, it can be read. */
  private refuseHere({ snapshot }: CommitProposal): CommitRefusal | undefined {
    if (this.isClosed) return new LogClosed({ log: this.log.database })
    if (!this.grant.isCurrent()) {
      return new LeaseNotHeld({ name: this.log.database, generation: this.grant.generation })
    }
    return snapshot.schemaEpoch === this.schemaEpoch
      ? undefined
      : new SchemaMismatch({ current: this.schemaEpoch, found: snapshot.schemaEpoch })
  }

  /** Asks the log for room. Answers how to step back, where there still is something to step back from. */
  private submit(submission: Submission<Request, Answer, Extra>): Effect.Effect<void> | undefined {
    const { pages, request } = submission
    invariant(
      request.databasePages === undefined || request.databasePages >= (pages.at(-1) ?? 0),
      "a commit writes no page beyond the end that it gives the database"
    )
    const stepBack = this.log.admit(submission)
    // Once the request was accepted the commit finishes without its fiber.
    if (submission.isDecided) return undefined
    submission.isStale = true
    return Effect.sync(stepBack)
  }

  /**
   * There is room in the log: validates, assigns, records and hands over, in one synchronous step (CO-02). What it throws
   * would end the log: the caller's defect is answered instead.
   */
  enter(submission: Submission<Request, Answer, Extra>): void {
    const { pages, request } = submission
    const { token } = request
    submission.isDecided = true
    if (submission.isStale) {
      // The same transaction may have been submitted again while this one waited.
      const earlier = this.outcomes.changes === submission.changes ? undefined : this.findEarlier(request)
      if (earlier !== undefined) return submission.waiter.resume(earlier)
      if (submission.hasChanged()) return submission.waiter.resume(Exit.die(changedMeanwhile))
    }
    const highest = pages.at(-1)
    invariant(highest !== undefined, "a commit that is handed over writes at least one page")
    const size = request.databasePages ?? Math.max(this.databasePages, highest)
    // The lease, the log, the schema or the turn may have gone while the request waited.
    const refusal = (submission.isStale ? this.refuse(request, pages.length) : undefined) ??
      this.validate(request, pages, size)
    if (refusal !== undefined) {
      this.outcomes.abort(token)
      return submission.waiter.resume(Exit.fail(refusal))
    }
    const seq = toCommitSeq(this.lastAssigned + 1n)
    this.lastAssigned = seq
    this.index.record(pages, seq)
    if (size !== this.databasePages) this.resizes.record(seq, this.databasePages, size)
    this.databasePages = size
    this.inFlight++
    this.outcomes.begin(token)
    submission.seq = seq
    submission.databasePages = size
    submission.append()
  }

  /** The commit is durable and visible. */
  settle(submission: Submission<Request, Answer, Extra>): void {
    const { request, seq } = submission
    this.collect()
    this.inFlight--
    const answer = submission.answer()
    this.outcomes.commit(request.token, answer)
    submission.waiter.committed(answer)
    this.wakeVisible(seq)
  }

  /** The log ended before the commit was durable. */
  giveUp({ request, seq, waiter }: Submission<Request, Answer, Extra>, ended: LogEnded): void {
    // The failed commits are the last ones; the first of them takes back all (CO-05). A log that was poisoned while it
    // published has durable ones among them, which stay.
    if (this.index.last >= seq && seq > this.index.settled) {
      this.index.retract(seq)
      this.resizes.retract(seq)
    }
    this.inFlight--
    const exit = Exit.fail(ended)
    this.outcomes.fail(request.token, exit)
    waiter.resume(exit)
    this.wakeVisible(seq)
  }

  /** First committer wins (CO-01), reads too when the transaction is serializable (CO-13), and changes of size. */
  private validate(
    request: CommitProposal,
    pages: ReadonlyArray<PageNumber>,
    size: number
  ): Conflict | SerializationFailure | undefined {
    const { high } = request.snapshot
    const isShrinking = size < this.databasePages
    const touched = isShrinking && pages[0] !== page1 ? [page1, ...pages] : pages
    const changed = joined(
      this.index.validate(touched, high),
      this.resizes.validate(touched, high, request.databasePages !== undefined)
    )
    const found = isShrinking ? joined(changed, this.index.validateBeyond(size, high)) : changed
    if (found !== undefined) {
      const reason = found.belowFloor ? "floor" : "write set"
      this.count(reason)
      return new Conflict({ conflictingSeq: found.conflictingSeq, pages: found.pages, reason })
    }
    const { conflicts, reads } = request
    if (conflicts?.in === true && conflicts.out && request.abortPolicy !== "custom") {
      this.count("pivot")
      return new SerializationFailure({ conflictingSeq: high, pages: [], reason: "pivot" })
    }
    if (reads === undefined || reads.length === 0) return undefined
    const stale = joined(this.index.validate(reads, high), this.resizes.validate(reads, high, false))
    if (stale === undefined) return undefined
    this.count("read set")
    return new SerializationFailure({ conflictingSeq: stale.conflictingSeq, pages: stale.pages, reason: "read set" })
  }

  private count(reason: string): void {
    CoordinatorMetrics.conflicts.updateUnsafe(1, Context.add(this.context, Metric.CurrentMetricAttributes, { reason }))
  }

  /** Forgets what no transaction in use can conflict with (CO-14). */
  private collect(): void {
    if (++this.sinceCollection < commitsPerCollection) return
    this.sinceCollection = 0
    const published = this.log.published().commitSeq
    const { oldest } = this.transactions
    const here = oldest === undefined || oldest > published ? published : oldest
    // Transactions of other processes have a slot in the header.
    const horizon = this.header.transactions.updateHorizon(here)
    this.index.forget(horizon)
    this.resizes.forget(horizon)
    CoordinatorMetrics.rememberedPages.updateUnsafe(this.index.size, this.context)
  }

  readonly outcome = (token: TxnToken): Effect.Effect<Outcome> => Effect.sync(() => this.outcomes.outcome(token))

  readonly awaitVisible = (seq: CommitSeq): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (this.isDecided(seq)) return Effect.void
      return Effect.callback<void>((resume) => {
        const waiter = { seq, resume: () => resume(Exit.void) }
        this.visibilityWaiters.push(waiter)
        return Effect.sync(() => {
          this.visibilityWaiters = this.visibilityWaiters.filter((other) => other !== waiter)
        })
      })
    })

  private isDecided(seq: CommitSeq): boolean {
    return seq <= this.log.published().commitSeq || seq > this.lastAssigned || this.log.ended() !== undefined
  }

  private wakeVisible(seq: CommitSeq): void {
    if (this.visibilityWaiters.length === 0) return
    const due: Array<VisibilityWaiter> = []
    const others: Array<VisibilityWaiter> = []
    for (const waiter of this.visibilityWaiters) {
      const isDue = waiter.seq <= seq || this.isDecided(waiter.seq)
      if (isDue) due.push(waiter)
      else others.push(waiter)
    }
    this.visibilityWaiters = others
    for (const waiter of due) waiter.resume()
  }

  readonly setSchemaEpoch = (epoch: SchemaEpoch): Effect.Effect<void> =>
    Effect.sync(() => {
      this.schemaEpoch = epoch
      for (const listener of this.epochListeners) listener(epoch)
      this.publish(this.log.published().commitSeq)
    })

  readonly onSchemaEpoch = (listener: (epoch: SchemaEpoch) => void): void => {
    this.epochListeners.push(listener)
    listener(this.schemaEpoch)
  }

  readonly restoreState = (
    { nextSeq, recentCommits, walOffset }: {
      readonly nextSeq: CommitSeq
      readonly recentCommits: Iterable<readonly [PageNumber, CommitSeq]>
      readonly walOffset: number
    }
  ): Effect.Effect<void> =>
    Effect.sync(() => {
      invariant(this.inFlight === 0, "a state is restored before the first commit")
      const tip = toCommitSeq(nextSeq - 1n)
      this.log.restore(tip, walOffset)
      const commits = Array.from(recentCommits)
      const lowest = commits.reduce((low, [, seq]) => seq <= low ? toCommitSeq(seq - 1n) : low, tip)
      this.index = ConflictIndex.recovered({ base: lowest, tip, pages: commits })
      this.resizes.forgetAllBefore(tip, this.databasePages)
      this.lastAssigned = tip
      this.publish(this.log.published().commitSeq)
    })

  /**
   * Takes no more commits and waits until those that were accepted are decided. Transactions that are open can go on
   * reading for as long as the log lets them; what they want to commit is refused.
   */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    this.isClosed = true
    // Not only wait: a log whose files cannot be written would try again for as long as nobody tells it to settle.
    return this.log.settle.pipe(
      Effect.andThen(Effect.suspend(() => this.awaitVisible(this.lastAssigned))),
      // What was committed is decided: the serialized transaction that is still open, if one is, keeps nobody out.
      Effect.andThen(Effect.sync(() => {
        const { holder } = this.turn
        if (holder !== undefined) this.header.serialized.release(holder.id)
        this.hasEnded = true
      }))
    )
  })
}

const page1 = toPageNumber(1)

const changedMeanwhile = new InvariantViolation("a write set stays as it is until its commit is answered")

/** Both of two conflicts as one: all pages, the higher sequence. */
const joined = (
  a: ConflictIndex.IndexConflict | undefined,
  b: ConflictIndex.IndexConflict | undefined
): ConflictIndex.IndexConflict | undefined => {
  if (a === undefined || b === undefined) return a ?? b
  return {
    conflictingSeq: a.conflictingSeq > b.conflictingSeq ? a.conflictingSeq : b.conflictingSeq,
    pages: Array.from(new Set([...a.pages, ...b.pages])).sort((left, right) => left - right),
    belowFloor: a.belowFloor || b.belowFloor
  }
}

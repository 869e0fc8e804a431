/**
 * The state of a write coordinator, and what happens to a commit in it: see `CompatCoordinator` for its invariants.
 *
 * A commit is one object that the log calls back: as the one who waits for room, as what is appended, and as the one
 * who waits for durability. Every transaction makes one of it and one hold, so both are classes, not closures.
 */
import { invariant, InvariantViolation } from "@tidemark/core/Invariant"
import type { CommitSeq, PageNumber, TxnToken } from "@tidemark/core/Scalars"
import { SchemaEpoch, toCommitSeq, toPageNumber, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import type { Snapshot } from "@tidemark/core/Snapshot"
import type { CommitLog, LogCommit, LogReader } from "@tidemark/wal/CommitLog"
import type { Admission, HandOverWaiter, LogEnded } from "@tidemark/wal/GroupCommit"
import { LogClosed } from "@tidemark/wal/LogErrors"
import type { SnapshotHold } from "@tidemark/wal/SnapshotRegistry"
import { SnapshotRegistry } from "@tidemark/wal/SnapshotRegistry"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Metric from "effect/Metric"
import type {
  CommitAnswer,
  CommitError,
  CommitRequest,
  CompatCoordinator,
  Outcome,
  TransactionHold
} from "../CompatCoordinator.ts"
import * as ConflictIndex from "../ConflictIndex.ts"
import {
  Conflict,
  LeaseNotHeld,
  ReadSetTooLarge,
  SchemaMismatch,
  SerializationFailure,
  WriteSetTooLarge
} from "../CoordinatorErrors.ts"
import type { LeaseGrant } from "../CoordinatorLease.ts"
import * as CoordinatorMetrics from "../CoordinatorMetrics.ts"
import { OutcomeCache } from "./outcomeCache.ts"
import { ResizeHistory } from "./resizeHistory.ts"

/**
 * Pages in a commit at the most: what a frame of the wire protocol can name beside its ids (section 9 of `formats.md`).
 *
 * @category constants
 * @since 0.1.0
 */
export const maxCommitPages = 98_301

/**
 * Pages in a read set at the most.
 *
 * @category constants
 * @since 0.1.0
 */
export const maxReadPages = 65_536

/** How many commits pass between two looks at what can be forgotten. */
const commitsPerCollection = 256

interface VisibilityWaiter {
  readonly seq: CommitSeq
  readonly resume: () => void
}

/** @internal */
export class Coordinator {
  readonly log: CommitLog["Service"]
  private readonly grant: LeaseGrant
  private readonly context: Context.Context<never>
  private index: ConflictIndex.ConflictIndex
  private readonly resizes = new ResizeHistory()
  private readonly outcomes = new OutcomeCache()
  private readonly transactions = new SnapshotRegistry()
  private lastAssigned: CommitSeq
  private databasePages: number
  private schemaEpoch: SchemaEpoch = SchemaEpoch.make(0n)
  private nextTxnId = 1n
  private readonly txnEpoch: TxnEpoch
  private inFlight = 0
  private sinceCollection = 0
  private isClosed = false
  private visibilityWaiters: Array<VisibilityWaiter> = []

  constructor(log: CommitLog["Service"], grant: LeaseGrant, context: Context.Context<never>) {
    this.log = log
    this.grant = grant
    this.context = context
    const { databasePages } = log.published()
    const { base, pages, tip } = log.recovered
    // What the log remembers of recent commits is known before the first request is looked at (CO-15).
    this.index = ConflictIndex.recovered({ base, tip, pages: pages() })
    if (tip > base) this.resizes.forgetAllBefore(tip, databasePages)
    this.lastAssigned = tip
    this.databasePages = databasePages
    // A transaction id is never used twice under one generation of the lease.
    this.txnEpoch = TxnEpoch.make(Number(grant.generation & 0xffff_ffffn))
  }

  readonly begin = (): TransactionHold => {
    const reader = this.log.openReader()
    const token: TxnToken = { id: toTxnId(this.nextTxnId++), epoch: this.txnEpoch }
    return new Hold(this.transactions, token, { high: reader.high, schemaEpoch: this.schemaEpoch }, reader)
  }

  readonly commit = (request: CommitRequest): Effect.Effect<CommitAnswer, CommitError> =>
    Effect.callback<CommitAnswer, CommitError>((resume) => {
      const { snapshot, writes } = request
      const earlier = this.findEarlier(request)
      if (earlier !== undefined) return resume(earlier)
      if (writes.size === 0) {
        const refusal = this.refuseHere(request)
        return resume(
          refusal === undefined ? Exit.succeed({ commitSeq: snapshot.high, walOffset: 0 }) : Exit.fail(refusal)
        )
      }
      const refusal = this.refuse(request)
      if (refusal !== undefined) return resume(Exit.fail(refusal))
      const { changes } = this.outcomes
      if (!writes.isSpilled) return this.submit(new Submission(this, request, changes, resume))
      const submitted = Effect.callback<CommitAnswer, CommitError>((resumeLater) => {
        const submission = new Submission(this, request, changes, resumeLater)
        submission.isStale = true
        return this.submit(submission)
      })
      return resume(Effect.andThen(writes.verify, submitted))
    })

  /** What an earlier submission of the same transaction came to, or is coming to. */
  private findEarlier(request: CommitRequest): Effect.Effect<CommitAnswer, CommitError> | undefined {
    return this.outcomes.find(request.token, Effect.suspend(() => this.commit(request)))
  }

  /** Everything that stands against a request without looking at others (CO-05). */
  private refuse(request: CommitRequest): CommitError | undefined {
    const ended = this.log.ended() ?? this.refuseHere(request)
    if (ended !== undefined) return ended
    const { reads, writes } = request
    if (writes.size > maxCommitPages) return new WriteSetTooLarge({ pages: writes.size, maxPages: maxCommitPages })
    if (reads !== undefined && reads.length > maxReadPages) {
      return new ReadSetTooLarge({ ids: reads.length, maxIds: maxReadPages })
    }
    return this.log.refuse(writes.size)
  }

  /** What stands against a request that writes nothing, too: a poisoned log does not, it can be read. */
  private refuseHere({ snapshot }: CommitRequest): CommitError | undefined {
    if (this.isClosed) return new LogClosed({ log: this.log.database })
    if (!this.grant.isCurrent()) {
      return new LeaseNotHeld({ name: this.log.database, generation: this.grant.generation })
    }
    return snapshot.schemaEpoch === this.schemaEpoch
      ? undefined
      : new SchemaMismatch({ current: this.schemaEpoch, found: snapshot.schemaEpoch })
  }

  /** Asks the log for room. Answers how to step back, where there still is something to step back from. */
  private submit(submission: Submission): Effect.Effect<void> | undefined {
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
  enter(submission: Submission): void {
    const { pages, request } = submission
    const { token, writes } = request
    submission.isDecided = true
    if (submission.isStale) {
      // The same transaction may have been submitted again while this one waited.
      const earlier = this.outcomes.changes === submission.changes ? undefined : this.findEarlier(request)
      if (earlier !== undefined) return submission.resume(earlier)
      if (writes.size !== pages.length) return submission.resume(Exit.die(changedMeanwhile))
    }
    const highest = pages.at(-1)
    invariant(highest !== undefined, "a commit that is handed over writes at least one page")
    const size = request.databasePages ?? Math.max(this.databasePages, highest)
    // The lease, the log or the schema may have gone while the request waited.
    const refusal = (submission.isStale ? this.refuse(request) : undefined) ?? this.validate(request, pages, size)
    if (refusal !== undefined) {
      this.outcomes.abort(token)
      return submission.resume(Exit.fail(refusal))
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
    submission.walOffset = this.log.appendUnsafe(submission, submission)
  }

  /** The commit is durable and visible. */
  settle({ request, resume, seq, walOffset }: Submission): void {
    this.index.settle(seq)
    this.collect()
    this.inFlight--
    const answer: CommitAnswer = { commitSeq: seq, walOffset }
    this.outcomes.commit(request.token, answer)
    resume(Exit.succeed(answer))
    this.wakeVisible(seq)
  }

  /** The log ended before the commit was durable. */
  giveUp({ request, resume, seq }: Submission, ended: LogEnded): void {
    // The failed commits are the last ones; the first of them takes back all (CO-05).
    if (this.index.last >= seq) {
      this.index.retract(seq)
      this.resizes.retract(seq)
    }
    this.inFlight--
    const exit = Exit.fail(ended)
    this.outcomes.fail(request.token, exit)
    resume(exit)
    this.wakeVisible(seq)
  }

  /** First committer wins (CO-01), reads too when the transaction is serializable (CO-13), and changes of size. */
  private validate(
    request: CommitRequest,
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
    const { reads } = request
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
    const horizon = oldest === undefined || oldest > published ? published : oldest
    // The log publishes a batch before its commits are answered one by one.
    const settled = horizon > this.index.settled ? this.index.settled : horizon
    this.index.forget(settled)
    this.resizes.forget(settled)
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
    })

  readonly restoreState: CompatCoordinator["Service"]["restoreState"] = ({ nextSeq, recentCommits, walOffset }) =>
    Effect.sync(() => {
      invariant(this.inFlight === 0, "a state is restored before the first commit")
      const tip = toCommitSeq(nextSeq - 1n)
      this.log.restore(tip, walOffset)
      const commits = Array.from(recentCommits)
      const lowest = commits.reduce((low, [, seq]) => seq <= low ? toCommitSeq(seq - 1n) : low, tip)
      this.index = ConflictIndex.recovered({ base: lowest, tip, pages: commits })
      this.resizes.forgetAllBefore(tip, this.databasePages)
      this.lastAssigned = tip
    })

  /** Takes no more commits and waits until those that were accepted are decided. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    this.isClosed = true
    // Not only wait: a log whose files cannot be written would try again for as long as nobody tells it to settle.
    return Effect.andThen(this.log.settle, Effect.suspend(() => this.awaitVisible(this.lastAssigned)))
  })
}

/** A commit on its way through the log. */
class Submission implements Admission, LogCommit, HandOverWaiter {
  readonly mode = "durable"
  readonly request: CommitRequest
  readonly pages: ReadonlyArray<PageNumber>
  /** Bytes in the log. */
  readonly length: number
  readonly resume: (outcome: Effect.Effect<CommitAnswer, CommitError>) => void
  /** Of the outcomes, when this token was not among them. */
  readonly changes: number
  /** What was looked at when it was submitted may have changed since then. */
  isStale = false
  /** It was accepted, refused, or answered by an earlier submission. */
  isDecided = false
  // Assigned when it is accepted.
  seq: CommitSeq = noCommit
  databasePages = 0
  walOffset = 0
  private readonly coordinator: Coordinator

  constructor(coordinator: Coordinator, request: CommitRequest, changes: number, resume: Submission["resume"]) {
    this.coordinator = coordinator
    this.request = request
    this.pages = request.writes.pagesAscending()
    this.length = coordinator.log.commitBytes(this.pages.length)
    this.changes = changes
    this.resume = resume
  }

  get token(): TxnToken {
    return this.request.token
  }

  enter(): void {
    this.coordinator.enter(this)
  }

  refuse(ended: LogEnded): void {
    this.isDecided = true
    this.resume(Exit.fail(ended))
  }

  image(page: PageNumber): Uint8Array {
    return this.request.writes.image(page)
  }

  succeed(): void {
    this.coordinator.settle(this)
  }

  fail(ended: LogEnded): void {
    this.coordinator.giveUp(this, ended)
  }
}

class Hold implements TransactionHold {
  readonly token: TxnToken
  readonly snapshot: Snapshot
  readonly reader: LogReader
  private readonly transactions: SnapshotRegistry
  private readonly hold: SnapshotHold
  private isReading = true
  private isOpen = true

  constructor(transactions: SnapshotRegistry, token: TxnToken, snapshot: Snapshot, reader: LogReader) {
    this.transactions = transactions
    this.token = token
    this.snapshot = snapshot
    this.reader = reader
    this.hold = transactions.acquire(snapshot.high)
  }

  endReading(): void {
    if (!this.isReading) return
    this.isReading = false
    this.reader.release()
  }

  end(): void {
    if (!this.isOpen) return
    this.isOpen = false
    this.endReading()
    this.transactions.release(this.hold)
  }
}

const noCommit = toCommitSeq(0n)
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

/**
 * The write coordinator in compatibility mode: many transactions commit pages side by side, the first committer of a
 * page wins, and what is committed is a standard SQLite WAL.
 *
 * **Details**
 *
 * A commit is validated, given its sequence, recorded in the conflict index and handed to the log in one synchronous
 * step; the log makes it durable together with the others of its batch, publishes it, and only then its committer is
 * answered. So sequences are dense, the order in the log is the order of sequences, and nothing is visible before it is
 * durable.
 *
 * Invariants
 * 1. What can fail for one transaction alone is checked before it gets a sequence (CO-05).
 * 2. Between the validation of a commit and its hand-over to the log there is no await, so no other commit can come
 *    between (CO-02).
 * 3. After the log is poisoned no sequence is assigned, and the index is as if the failed commits had never been.
 * 4. Every append happens under the lease: it is checked in the same synchronous step (CO-07, CO-08).
 *
 * @since 0.1.0
 */
import { invariant, InvariantViolation } from "@tidemark/core/Invariant"
import type { CommitSeq, PageNumber, PageSize, TxnToken } from "@tidemark/core/Scalars"
import { SchemaEpoch, toCommitSeq, toPageNumber, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import type { Snapshot } from "@tidemark/core/Snapshot"
import type { FileLock, FileLockUnavailable } from "@tidemark/platform/FileLock"
import type { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import type { LogReader } from "@tidemark/wal/CommitLog"
import { CommitLog } from "@tidemark/wal/CommitLog"
import type { LogEnded } from "@tidemark/wal/GroupCommit"
import type { DatabaseTruncated, Exhausted } from "@tidemark/wal/LogErrors"
import { LogClosed } from "@tidemark/wal/LogErrors"
import { SnapshotRegistry } from "@tidemark/wal/SnapshotRegistry"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import type * as Scope from "effect/Scope"
import * as ConflictIndex from "./ConflictIndex.ts"
import type { LeaseHeld, SpillCorrupt } from "./CoordinatorErrors.ts"
import {
  Conflict,
  LeaseNotHeld,
  ReadSetTooLarge,
  SchemaMismatch,
  SerializationFailure,
  WriteSetTooLarge
} from "./CoordinatorErrors.ts"
import * as CoordinatorLease from "./CoordinatorLease.ts"
import * as CoordinatorMetrics from "./CoordinatorMetrics.ts"
import { OutcomeCache } from "./internal/outcomeCache.ts"
import { ResizeHistory } from "./internal/resizeHistory.ts"
import type { WriteSet } from "./WriteSet.ts"

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

/**
 * @category models
 * @since 0.1.0
 */
export interface CommitRequest {
  readonly token: TxnToken
  readonly snapshot: Snapshot
  /** The pages to commit. It must not change until the commit is answered. */
  readonly writes: WriteSet
  /** Pages that the transaction read and did not write, when it is serializable (CO-13). */
  readonly reads?: ReadonlyArray<PageNumber> | undefined
  /**
   * Database size after the commit, in pages. Default: the larger of the current size and the highest page written.
   * Whoever chooses a size conflicts with every other change of the size, and if it is smaller than the current one,
   * with every change of page 1 and of a page that is cut off (PG-11). Whoever changes the size writes every page that
   * is added, but for SQLite's lock-byte page, and page 1, whose header says the size; the pager does.
   */
  readonly databasePages?: number | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface CommitAnswer {
  /** The commit's place in the order of commits; the snapshot's own when there was nothing to write. */
  readonly commitSeq: CommitSeq
  /** Where its first frame stands, counted from the first frame of the log, in bytes; 0 when nothing was written. */
  readonly walOffset: number
}

/**
 * What became of a transaction, as far as it is remembered. `"undecided"`: it is on its way, or nothing is known of it.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome =
  | { readonly _tag: "committed"; readonly commitSeq: CommitSeq }
  | { readonly _tag: "aborted" }
  | { readonly _tag: "undecided" }

/**
 * @category errors
 * @since 0.1.0
 */
export type CommitError =
  | Conflict
  | SerializationFailure
  | SchemaMismatch
  | LeaseNotHeld
  | WriteSetTooLarge
  | ReadSetTooLarge
  | SpillCorrupt
  | DatabaseTruncated
  | Exhausted
  | VfsError
  | LogEnded

/**
 * A transaction's hold on its snapshot: an identity, a reader of the log, and a place in the GC horizon.
 *
 * @category models
 * @since 0.1.0
 */
export interface TransactionHold {
  readonly token: TxnToken
  readonly snapshot: Snapshot
  readonly reader: LogReader
  /** Nothing is read at the snapshot any more: checkpoints need not wait for it. The first call counts. */
  readonly endReading: () => void
  /** The transaction is over. The first call counts. */
  readonly end: () => void
}

/**
 * @category services
 * @since 0.1.0
 */
export class CompatCoordinator extends Context.Service<CompatCoordinator, {
  /** Path of the database file. */
  readonly database: string
  readonly pageSize: PageSize
  /** The fencing generation of the lease under which this coordinator appends. */
  readonly generation: bigint

  /** Takes a snapshot of what is visible now, for a new transaction. */
  readonly begin: () => TransactionHold

  /**
   * Commits, and answers when the commit is durable and visible. Interrupting it before the request was accepted
   * changes nothing; after that the commit finishes, and `outcome` tells what became of it
   * (CO-18). The same token again answers what the first submission came to, as long as it is remembered; after a
   * refusal it is looked at anew. Who writes nothing is answered his snapshot, also when the log is poisoned.
   */
  readonly commit: (request: CommitRequest) => Effect.Effect<CommitAnswer, CommitError>

  /** What became of the transaction. At least the newest 16,384 are remembered. */
  readonly outcome: (token: TxnToken) => Effect.Effect<Outcome>

  /**
   * Waits until a commit is visible, or never will be. What a transaction waits for that conflicted with a commit that
   * is still being synced: a snapshot taken before would conflict again.
   */
  readonly awaitVisible: (seq: CommitSeq) => Effect.Effect<void>

  /** Declares another schema: transactions that began under the one before are refused with `SchemaMismatch`. */
  readonly setSchemaEpoch: (epoch: SchemaEpoch) => Effect.Effect<void>

  /**
   * Continues from a given state, before the first commit: the next sequence, the commits that the index shall know of,
   * and the offset at which the next one starts (CO-06).
   */
  readonly restoreState: (state: {
    readonly nextSeq: CommitSeq
    readonly recentCommits: Iterable<readonly [PageNumber, CommitSeq]>
    readonly walOffset: number
  }) => Effect.Effect<void>
}>()("@tidemark/coordinator/CompatCoordinator") {}

/**
 * A coordinator under a lease from the environment.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoDeps: Layer.Layer<
  CompatCoordinator,
  LeaseHeld | FileLockUnavailable | VfsError,
  CommitLog | CoordinatorLease.CoordinatorLease
> = Layer.effect(CompatCoordinator, Effect.suspend(() => make))

/**
 * A coordinator under the lease file of its database.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<
  CompatCoordinator,
  LeaseHeld | FileLockUnavailable | VfsError,
  CommitLog | Vfs | FileLock | ProcessLiveness
> = Layer.unwrap(
  Effect.map(CommitLog, ({ database }) => Layer.provide(layerNoDeps, CoordinatorLease.layerFile({ database })))
)

/** How many commits pass between two looks at what can be forgotten. */
const commitsPerCollection = 256

interface VisibilityWaiter {
  readonly seq: CommitSeq
  readonly resume: () => void
}

class Coordinator {
  private readonly log: CommitLog["Service"]
  private readonly grant: CoordinatorLease.LeaseGrant
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

  constructor(log: CommitLog["Service"], grant: CoordinatorLease.LeaseGrant, context: Context.Context<never>) {
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
    const { high } = reader
    const hold = this.transactions.acquire(high)
    const token: TxnToken = { id: toTxnId(this.nextTxnId++), epoch: this.txnEpoch }
    let isReading = true
    let isOpen = true
    const endReading = () => {
      if (!isReading) return
      isReading = false
      reader.release()
    }
    return {
      token,
      snapshot: { high, schemaEpoch: this.schemaEpoch },
      reader,
      endReading,
      end: () => {
        if (!isOpen) return
        isOpen = false
        endReading()
        this.transactions.release(hold)
      }
    }
  }

  readonly commit = (request: CommitRequest): Effect.Effect<CommitAnswer, CommitError> =>
    Effect.suspend(() => {
      const { snapshot, token, writes } = request
      const earlier = this.outcomes.find(token)
      if (earlier !== undefined) return earlier
      if (writes.size === 0) {
        const refusal = this.refuseHere(request)
        return refusal === undefined
          ? Effect.succeed({ commitSeq: snapshot.high, walOffset: 0 })
          : Effect.fail(refusal)
      }
      const refusal = this.refuse(request)
      if (refusal !== undefined) return Effect.fail(refusal)
      const { changes } = this.outcomes
      return writes.isSpilled
        ? Effect.andThen(writes.verify, this.submit(request, changes))
        : this.submit(request, changes)
    })

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

  /** `changes`: of the outcomes, when this token was not among them. */
  private submit(request: CommitRequest, changes: number): Effect.Effect<CommitAnswer, CommitError> {
    return Effect.callback<CommitAnswer, CommitError>((resume) => {
      const { databasePages, token, writes } = request
      const pages = writes.pagesAscending()
      invariant(
        databasePages === undefined || databasePages >= (pages.at(-1) ?? 0),
        "a commit writes no page beyond the end that it gives the database"
      )
      const stepBack = this.log.admit({
        length: this.log.commitBytes(pages.length),
        refuse: (ended) => resume(Exit.fail(ended)),
        enter: () => {
          // The same transaction may have been submitted again while this one waited.
          const earlier = this.outcomes.changes === changes ? undefined : this.outcomes.find(token)
          if (earlier !== undefined) return resume(earlier)
          // The caller's defect alone: thrown from here it would end the log.
          if (writes.size !== pages.length) return resume(Exit.die(changedMeanwhile))
          this.enter(request, pages, resume)
        }
      })
      // Once the request was accepted there is nothing to step back from, and the commit finishes without its fiber.
      return Effect.sync(stepBack)
    })
  }

  /** Validates, assigns, records and hands over: one synchronous step (CO-02). */
  private enter(
    request: CommitRequest,
    pages: ReadonlyArray<PageNumber>,
    resume: (exit: Exit.Exit<CommitAnswer, CommitError>) => void
  ): void {
    const { token, writes } = request
    const highest = pages.at(-1)
    invariant(highest !== undefined, "a commit that is handed over writes at least one page")
    const size = request.databasePages ?? Math.max(this.databasePages, highest)
    // The lease, the log or the schema may have gone while the request waited for room.
    const refusal = this.refuse(request) ?? this.validate(request, pages, size)
    if (refusal !== undefined) {
      this.outcomes.abort(token)
      return resume(Exit.fail(refusal))
    }
    const seq = toCommitSeq(this.lastAssigned + 1n)
    this.lastAssigned = seq
    this.index.record(pages, seq)
    if (size !== this.databasePages) this.resizes.record(seq, this.databasePages, size)
    this.databasePages = size
    this.inFlight++
    const pending = this.outcomes.begin(token)
    let walOffset = 0
    const settle = (exit: Exit.Exit<CommitAnswer, CommitError>) => {
      this.inFlight--
      pending.settle(exit)
      resume(exit)
      this.wakeVisible(seq)
    }
    walOffset = this.log.appendUnsafe({ seq, pages, image: (page) => writes.image(page), databasePages: size }, {
      succeed: () => {
        this.index.settle(seq)
        this.collect()
        settle(Exit.succeed({ commitSeq: seq, walOffset }))
      },
      fail: (ended) => {
        // The failed commits are the last ones; the first of them takes back all (CO-05).
        if (this.index.last >= seq) {
          this.index.retract(seq)
          this.resizes.retract(seq)
        }
        settle(Exit.fail(ended))
      }
    })
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

  /** Takes no more commits and waits for those that were accepted. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    this.isClosed = true
    return this.awaitVisible(this.lastAssigned)
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

const make: Effect.Effect<
  CompatCoordinator["Service"],
  LeaseHeld | FileLockUnavailable | VfsError,
  CommitLog | CoordinatorLease.CoordinatorLease | Scope.Scope
> = Effect.gen(function*() {
  const log = yield* CommitLog
  const lease = yield* CoordinatorLease.CoordinatorLease
  const grant = yield* lease.acquire
  const coordinator = new Coordinator(log, grant, yield* Effect.context<never>())
  yield* Effect.addFinalizer(() => coordinator.close)
  return CompatCoordinator.of({
    database: log.database,
    pageSize: log.pageSize,
    generation: grant.generation,
    begin: coordinator.begin,
    commit: coordinator.commit,
    outcome: coordinator.outcome,
    awaitVisible: coordinator.awaitVisible,
    setSchemaEpoch: coordinator.setSchemaEpoch,
    restoreState: coordinator.restoreState
  })
})

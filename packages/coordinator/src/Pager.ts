/**
 * Transactions over the pages of a database: what an application uses.
 *
 * **Details**
 *
 * A transaction reads the database as it was when it began, plus its own writes, and commits all of them or nothing.
 * Readers never block writers. Of two transactions that wrote the same page the first committer wins; the other one
 * fails with `Conflict`, which `withTransaction` answers by running it again on a fresh snapshot.
 *
 * Under `"snapshot"` isolation two transactions that each read what the other writes may both commit (write skew). Under
 * `"serializable"` the pages that were read are validated as well, and one of them fails.
 *
 * @since 0.1.0
 */
import type { PageNumber, PageSize, TxnToken } from "@tidemark/core/Scalars"
import type { Snapshot } from "@tidemark/core/Snapshot"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { CapsuleStore } from "@tidemark/wal/CapsuleStore"
import { CommitLog } from "@tidemark/wal/CommitLog"
import type { DatabaseTruncated } from "@tidemark/wal/LogErrors"
import { NativeLog } from "@tidemark/wal/NativeLog"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { CommitAnswer, CommitError } from "./CompatCoordinator.ts"
import { CompatCoordinator } from "./CompatCoordinator.ts"
import type { SerializedOptions, TransactionHold } from "./Coordination.ts"
import type { SpillCorrupt } from "./CoordinatorErrors.ts"
import { Busy } from "./CoordinatorErrors.ts"
import * as CoordinatorMetrics from "./CoordinatorMetrics.ts"
import { nativePageCommits } from "./internal/nativePageCommits.ts"
import { compatPageCommits, type PageCommits } from "./internal/pageCommits.ts"
import type { PagerParts } from "./internal/pagerTransaction.ts"
import { PagerTransaction } from "./internal/pagerTransaction.ts"
import {
  type Contention,
  isConflict,
  isContention,
  type Recover,
  type RunKind,
  TransactionRun
} from "./internal/transactionRun.ts"
import { NativeCoordinator } from "./NativeCoordinator.ts"
import * as PageCache from "./PageCache.ts"
import type { PageOutOfRange, WrongPageSize } from "./PagerErrors.ts"
import * as WriteSet from "./WriteSet.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface PagerOptions {
  /** Bytes of pages that are kept in memory. Default 64 MiB. */
  readonly cacheBytes?: number | undefined
  /** Bytes of a transaction's writes that are kept in memory; above it they go to a spill file. Default 32 MiB. */
  readonly spillThresholdBytes?: number | undefined
}

/**
 * What a transaction may not see: under `"snapshot"` write skew is possible, under `"serializable"` nothing is.
 *
 * @category models
 * @since 0.1.0
 */
export type Isolation = "snapshot" | "serializable"

/**
 * @category models
 * @since 0.1.0
 */
export interface TransactionOptions {
  /** Default `"snapshot"`. */
  readonly isolation?: Isolation | undefined
}

/**
 * @category models
 * @since 0.1.0
 */
export interface SerializedTransactionOptions extends TransactionOptions, SerializedOptions {}

/**
 * @category models
 * @since 0.1.0
 */
export interface WithTransactionOptions<E = never> extends SerializedTransactionOptions {
  /**
   * `"serialized"`: the transaction excludes all others while it is open, so that it never has to be run again for their
   * sake (CO-12). It is `Busy` when its turn does not come within `busyTimeout`. Default `"concurrent"`.
   */
  readonly mode?: "concurrent" | "serialized" | undefined
  /**
   * When to run again after a `Conflict`, a `SerializationFailure`, or a `Busy` that the commit was answered. Default: at
   * once, as often as it takes. A retry never begins before the commit that was in the way is visible, or the serialized
   * transaction that was is over.
   */
  readonly schedule?: Schedule.Schedule<unknown, CommitError | E> | undefined
}

/**
 * @category errors
 * @since 0.1.0
 */
export type ReadError = PageOutOfRange | DatabaseTruncated | SpillCorrupt | VfsError

/**
 * @category errors
 * @since 0.1.0
 */
export type WriteError = PageOutOfRange | WrongPageSize | VfsError

/**
 * A transaction. It is used by whom it was given to, as a value; nothing in it is bound to a fiber. Its functions are
 * methods of it: `(page) => transaction.read(page)`, not `transaction.read` alone. Using it after its commit or rollback
 * is a defect.
 *
 * Page 1 is SQLite's: its first 100 bytes are the header of the database. A transaction that changes the size of the
 * database writes page 1 as well, because the header says the size.
 *
 * @category models
 * @since 0.1.0
 */
export interface Transaction {
  readonly token: TxnToken
  readonly snapshot: Snapshot
  readonly isolation: Isolation
  readonly pageSize: PageSize

  /**
   * Size of the database in pages as this transaction sees it: at its snapshot, with its own growth and cuts. Under
   * `"serializable"` who asks has read the size.
   */
  readonly databasePages: () => number

  /**
   * A page, in memory of the caller's own: exactly `pageSize` bytes, zeros beyond the end of the database.
   */
  readonly read: (page: PageNumber) => Effect.Effect<Uint8Array, ReadError>

  /** The same, now, for callers that cannot await; throws what {@link Transaction.read} would fail with (PG-09). */
  readonly readSync: (page: PageNumber) => Uint8Array

  /**
   * Replaces a page: exactly `pageSize` bytes. Beyond the end the database grows, and the pages in between are zeros.
   *
   * **Gotchas**
   *
   * The page is written, and its bytes are copied, when this is called: before the effect runs, and also when it never
   * does. The effect has a refusal to tell, and moves pages to the spill file when there are too many in memory.
   */
  readonly write: (page: PageNumber, bytes: Uint8Array) => Effect.Effect<void, WriteError>

  /** The next page behind the end of the database, which now ends with it. Never SQLite's lock-byte page. */
  readonly allocate: () => PageNumber

  /**
   * Cuts the database off behind `pages` pages (at least 1). What was written beyond is forgotten. Conflicts with every
   * other change of the size, and with every change of what is cut off (PG-11).
   */
  readonly truncateTo: (pages: number) => Effect.Effect<void, PageOutOfRange>

  /**
   * Takes the writes out of this transaction: page -> bytes (PG-10). Afterwards it has written nothing, and the database
   * has the size again that it had at the snapshot. A cut is not in the map: whoever adopts it repeats `truncateTo`.
   */
  readonly takeWriteSet: Effect.Effect<Map<PageNumber, Uint8Array>, SpillCorrupt | VfsError>

  /**
   * Makes the writes of another transaction writes of this one. The bytes must not change from here on; another
   * transaction may adopt them after this one, when this one met a conflict.
   */
  readonly adoptWriteSet: (
    pages: ReadonlyMap<PageNumber, Uint8Array>
  ) => Effect.Effect<void, WriteError>

  /** Commits. The transaction is over, whatever comes of it. */
  readonly commit: Effect.Effect<CommitAnswer, CommitError>

  /** Forgets all writes. The transaction is over. */
  readonly rollback: Effect.Effect<void>
}

/**
 * @category services
 * @since 0.1.0
 */
export class Pager extends Context.Service<Pager, {
  readonly database: string
  readonly pageSize: PageSize

  /** Begins a transaction. Leaving the scope without a commit rolls it back (PG-01). */
  readonly begin: (options?: TransactionOptions) => Effect.Effect<Transaction, never, Scope.Scope>

  /**
   * Begins a transaction that excludes all others (CO-12): it waits for its turn and for the commits that are on their
   * way, at the most `busyTimeout` (default 5 seconds), and while it is open the commits of others are `Busy`.
   */
  readonly beginSerialized: (
    options?: SerializedTransactionOptions
  ) => Effect.Effect<Transaction, Busy, Scope.Scope>

  /**
   * Runs `use` in a transaction and commits it. After a `Conflict` or a `SerializationFailure`, and when a serialized
   * transaction was in the way, it is run again on a fresh snapshot (PG-02), so it should do nothing but read and write
   * pages. When `use` fails nothing is committed.
   */
  readonly withTransaction: <A, E, R>(
    use: (transaction: Transaction) => Effect.Effect<A, E, R>,
    options?: WithTransactionOptions<E>
  ) => Effect.Effect<A, E | CommitError, R>
}>()("@tidemark/coordinator/Pager") {}

/**
 * A pager with its default options.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Pager, never, CompatCoordinator | CommitLog | Vfs> = Layer.effect(
  Pager,
  Effect.suspend(() => makeCompat({}))
)

/**
 * A pager with options.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerOptions = (
  options: PagerOptions
): Layer.Layer<Pager, never, CompatCoordinator | CommitLog | Vfs> => Layer.effect(Pager, makeCompat(options))

/**
 * A pager over the native log: transactions become capsules, and commits are markers. The same program runs on either; a
 * commit writes at most 262,144 pages here (section 9 of `formats.md`).
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNative: Layer.Layer<Pager, never, NativeCoordinator | NativeLog | CapsuleStore | Vfs> = Layer.effect(
  Pager,
  Effect.suspend(() => makeNative({}))
)

/**
 * {@link layerNative} with options.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNativeOptions = (
  options: PagerOptions
): Layer.Layer<Pager, never, NativeCoordinator | NativeLog | CapsuleStore | Vfs> =>
  Layer.effect(Pager, makeNative(options))

const NotNegative = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))

/**
 * {@link layerOptions} from the configuration: `TIDEMARK_CACHE_BYTES`, `TIDEMARK_SPILL_THRESHOLD_BYTES` (by default
 * derived from the cache: four times its size, within 32 MiB and 512 MiB).
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig: Layer.Layer<Pager, Config.ConfigError, CompatCoordinator | CommitLog | Vfs> = Layer.unwrap(
  Effect.gen(function*() {
    const cacheBytes = yield* Config.schema(NotNegative, "TIDEMARK_CACHE_BYTES").pipe(
      Config.withDefault(PageCache.defaultMaxBytes)
    )
    return layerOptions({
      cacheBytes,
      spillThresholdBytes: yield* Config.schema(NotNegative, "TIDEMARK_SPILL_THRESHOLD_BYTES").pipe(
        Config.withDefault(WriteSet.spillThreshold(cacheBytes))
      )
    })
  })
)

const makeCompat = Effect.fnUntraced(function*(options: PagerOptions) {
  return yield* make(options, compatPageCommits(yield* CompatCoordinator, yield* CommitLog))
})

const makeNative = Effect.fnUntraced(function*(options: PagerOptions) {
  const coordinator = yield* NativeCoordinator
  return yield* make(options, nativePageCommits(coordinator, yield* NativeLog, yield* CapsuleStore))
})

const make = Effect.fnUntraced(function*(options: PagerOptions, coordinator: PageCommits) {
  const vfs = yield* Vfs
  const context = yield* Effect.context<never>()
  const cache = PageCache.make({ maxBytes: options.cacheBytes })
  coordinator.onRestart((versions) => {
    for (const [page, version] of versions) cache.rebase(page, version)
  })
  const { database, pageSize } = coordinator
  const place = { database, pageSize, spillThresholdBytes: options.spillThresholdBytes }
  const parts: PagerParts = { vfs, coordinator, cache, place }
  const isolationOf = (transactionOptions: TransactionOptions | undefined): Isolation =>
    transactionOptions?.isolation ?? "snapshot"
  const transactionOf = (hold: TransactionHold, transactionOptions: TransactionOptions | undefined) =>
    new PagerTransaction(parts, isolationOf(transactionOptions), hold)

  const begin: Pager["Service"]["begin"] = (transactionOptions) =>
    Effect.acquireRelease(
      Effect.sync(() => transactionOf(coordinator.begin(), transactionOptions)),
      (transaction) => transaction.rollback
    )

  const beginSerialized: Pager["Service"]["beginSerialized"] = (transactionOptions) =>
    Effect.acquireRelease(
      Effect.map(coordinator.beginSerialized(transactionOptions), (hold) => transactionOf(hold, transactionOptions)),
      (transaction) => transaction.rollback
    )

  /** Begins, lets `use` work, and commits. */
  const run = <A, E, R>(
    kind: RunKind,
    use: (transaction: Transaction) => Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | CommitError, R> => TransactionRun.of(kind, use)

  const serialized: Pager["Service"]["withTransaction"] = (use, transactionOptions) =>
    Effect.scoped(Effect.flatMap(
      Effect.acquireRelease(
        coordinator.beginSerialized(transactionOptions),
        (hold) => Effect.sync(() => hold.end())
      ),
      (hold) => run({ parts, isolation: isolationOf(transactionOptions), beginHold: () => hold }, use)
    ))

  /** A snapshot that is taken before the other commit is visible would conflict with it again (PG-02). */
  const settle = (error: Contention) =>
    Effect.andThen(
      Effect.logDebug(error.message),
      error instanceof Busy ? coordinator.awaitConcurrent : coordinator.awaitVisible(error.conflictingSeq)
    )

  const again = <A, E, R>(attempt: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.suspend(() => {
      CoordinatorMetrics.retries.updateUnsafe(1, context)
      return attempt
    })

  /** After a failure that makes it worth while, `next`. */
  const orElse = <A, E, R>(
    once: Effect.Effect<A, E, R>,
    next: Effect.Effect<A, E, R>,
    isWorthIt: (error: unknown) => error is Contention
  ): Effect.Effect<A, E, R> =>
    Effect.catch(once, (error) => isWorthIt(error) ? Effect.andThen(settle(error), again(next)) : Effect.fail(error))

  const recover: Recover = (once, next) => orElse(once, next, isContention)
  const beginHold = coordinator.begin
  const recovering: Record<Isolation, RunKind> = {
    snapshot: { parts, isolation: "snapshot", beginHold, recover },
    serializable: { parts, isolation: "serializable", beginHold, recover }
  }

  const onSchedule = <A, E, R>(
    attempt: Effect.Effect<A, E | CommitError, R>,
    isWorthIt: (error: unknown) => error is Contention,
    schedule: Schedule.Schedule<unknown, CommitError | E>
  ): Effect.Effect<A, E | CommitError, R> =>
    Effect.suspend(() => {
      let isFirst = true
      const next = Effect.suspend(() => {
        if (!isFirst) return again(attempt)
        isFirst = false
        return attempt
      })
      const settled = Effect.tapError(next, (error) => isWorthIt(error) ? settle(error) : Effect.void)
      return Effect.retry(settled, { while: isWorthIt, schedule })
    })

  const withTransaction: Pager["Service"]["withTransaction"] = <A, E, R>(
    use: (transaction: Transaction) => Effect.Effect<A, E, R>,
    transactionOptions?: WithTransactionOptions<E>
  ) => {
    const schedule = transactionOptions?.schedule
    if (transactionOptions?.mode === "serialized") {
      // Its `Busy` is the turn that has not come within the time that it was to be waited for.
      const attempt = serialized(use, transactionOptions)
      const atOnce: Effect.Effect<A, E | CommitError, R> = orElse(attempt, Effect.suspend(() => atOnce), isConflict)
      return schedule === undefined ? atOnce : onSchedule(attempt, isConflict, schedule)
    }
    const isolation = isolationOf(transactionOptions)
    return schedule === undefined
      ? run(recovering[isolation], use)
      : onSchedule(run({ parts, isolation, beginHold: coordinator.begin }, use), isContention, schedule)
  }

  return Pager.of({ database, pageSize, begin, beginSerialized, withTransaction })
})

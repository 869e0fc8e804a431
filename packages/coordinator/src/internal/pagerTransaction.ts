/**
 * One transaction of the pager: its view of the pages, its writes, its end.
 *
 * Invariants
 * 1. What is read is the snapshot with the transaction's own writes on top, whatever others commit meanwhile.
 * 2. Bytes that go out are copies: nobody can change a page that others read.
 * 3. After `commit` or `rollback` the hold is released exactly once and the spill file is gone.
 * 4. A transaction that changes the size of the database writes every page that it adds, and page 1, whose header says
 *    the size: a log that is empty says nothing, and SQLite believes the header.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { PageNumber, PageSize, TxnToken } from "@tidemark/core/Scalars"
import { toPageNumber } from "@tidemark/core/Scalars"
import type { Snapshot } from "@tidemark/core/Snapshot"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as DatabaseHeaderFormat from "@tidemark/wal/DatabaseHeaderFormat"
import type { DatabaseTruncated } from "@tidemark/wal/LogErrors"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { CommitAnswer, CommitError } from "../CompatCoordinator.ts"
import type { CommitWaiter, TransactionHold } from "../Coordination.ts"
import { WriteSetTooLarge } from "../CoordinatorErrors.ts"
import type { PageCache } from "../PageCache.ts"
import type { Isolation, ReadError, Transaction, WriteError } from "../Pager.ts"
import { PageOutOfRange, WrongPageSize } from "../PagerErrors.ts"
import * as WriteSet from "../WriteSet.ts"
import type { PageCommits } from "./pageCommits.ts"
import { copyPage } from "./pagePool.ts"
import { resuming } from "./resuming.ts"

/** @internal */
export interface PagerParts {
  readonly vfs: Vfs["Service"]
  readonly coordinator: PageCommits
  readonly cache: PageCache
  readonly place: WriteSet.WriteSetPlace
}

/** SQLite's lock bytes lie at 2^30; the page that holds them is never used. */
const lockByteOffset = 2 ** 30
const lockBytePage = (pageSize: number): number => lockByteOffset / pageSize + 1
const maxPage = 0xfffffffe
const page1 = toPageNumber(1)

/** @internal */
export class PagerTransaction implements Transaction {
  readonly isolation: Isolation
  private readonly parts: PagerParts
  private readonly hold: TransactionHold
  private readonly writes: WriteSet.WriteSet
  private readonly reads: Set<PageNumber> | undefined
  /** Size of the database as this transaction sees it. */
  private pages: number
  /** Pages of the snapshot that this transaction has not cut off. Those above it are zeros to it, or its own writes. */
  private kept: number
  /** What the commit was answered. */
  private answer: CommitAnswer | undefined = undefined
  private isOver = false
  private isReleased = false

  constructor(parts: PagerParts, isolation: Isolation, hold: TransactionHold) {
    this.parts = parts
    this.hold = hold
    this.isolation = isolation
    this.pages = hold.reader.databasePages
    this.kept = hold.reader.databasePages
    this.reads = isolation === "serializable" ? new Set() : undefined
    this.writes = WriteSet.makeIn(parts.vfs, parts.place, hold.token)
  }

  get token(): TxnToken {
    return this.hold.token
  }

  get snapshot(): Snapshot {
    return this.hold.snapshot
  }

  get pageSize(): PageSize {
    return this.parts.place.pageSize
  }

  databasePages(): number {
    this.noteSize()
    return this.pages
  }

  /** Who has seen the size has seen that the page behind the end is not there: that is what another's growth changes. */
  private noteSize(): void {
    this.reads?.add(this.pageBehind(this.hold.reader.databasePages))
  }

  private pageBehind(page: number): PageNumber {
    return toPageNumber(page + 1 === lockBytePage(this.pageSize) ? page + 2 : page + 1)
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Reading
  // ---------------------------------------------------------------------------------------------------------------

  read(page: PageNumber): Effect.Effect<Uint8Array, ReadError> {
    return Effect.suspend((): Effect.Effect<Uint8Array, ReadError> => {
      this.assertOpen()
      const refusal = this.refusePage(page)
      if (refusal !== undefined) return Effect.fail(refusal)
      if (this.writes.has(page)) {
        return this.writes.isSpilled
          ? Effect.map(this.writes.get(page), (own) => copyOf(own, this.pageSize))
          : Effect.succeed(copyOf(this.writes.getSync(page), this.pageSize))
      }
      this.reads?.add(page)
      return this.readSnapshot(page)
    })
  }

  readSync(page: PageNumber): Uint8Array {
    this.assertOpen()
    const refusal = this.refusePage(page)
    if (refusal !== undefined) throw refusal
    if (this.writes.has(page)) return copyOf(this.writes.getSync(page), this.pageSize)
    this.reads?.add(page)
    // The cache may know what lay beyond the end before it was cut off.
    if (page > this.kept) return new Uint8Array(this.pageSize)
    const cached = this.parts.cache.get(page, this.hold.reader.versionOf(page))
    return cached === undefined ? this.keep(page, this.hold.reader.readSync(page)) : new Uint8Array(cached)
  }

  private readSnapshot(page: PageNumber): Effect.Effect<Uint8Array, DatabaseTruncated | VfsError> {
    if (page > this.kept) return Effect.succeed(new Uint8Array(this.pageSize))
    const cached = this.parts.cache.get(page, this.hold.reader.versionOf(page))
    if (cached !== undefined) return Effect.succeed(new Uint8Array(cached))
    return Effect.map(this.hold.reader.read(page), (bytes) => this.keep(page, bytes))
  }

  /** Keeps a copy of a page that was read. The log may have started over meanwhile, so its version is looked up anew. */
  private keep(page: PageNumber, bytes: Uint8Array): Uint8Array {
    // Without the hold the log may start over between the end of the read and this look at its index.
    if (!this.isOver) this.parts.cache.put(page, this.hold.reader.versionOf(page), bytes)
    return bytes
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Writing
  // ---------------------------------------------------------------------------------------------------------------

  write(page: PageNumber, bytes: Uint8Array): Effect.Effect<void, WriteError> {
    this.assertOpen()
    const refusal = this.refusePage(page) ?? this.refuseBytes(page, bytes)
    if (refusal !== undefined) return Exit.fail(refusal)
    if (page > this.pages) this.pages = page
    return this.writes.put(page, bytes)
  }

  allocate(): PageNumber {
    this.assertOpen()
    this.noteSize()
    const next = this.pageBehind(this.pages)
    this.pages = next
    return next
  }

  truncateTo(pages: number): Effect.Effect<void, PageOutOfRange> {
    return Effect.suspend(() => {
      this.assertOpen()
      this.noteSize()
      if (!Number.isInteger(pages) || pages < 1 || pages > this.pages || pages === lockBytePage(this.pageSize)) {
        return Effect.fail(
          new PageOutOfRange({ page: pages, what: "the size that a database is cut to", maxPage: this.pages })
        )
      }
      for (const page of this.writes.pagesAscending()) if (page > pages) this.writes.delete(page)
      if (pages < this.kept) this.kept = pages
      this.pages = pages
      return Effect.void
    })
  }

  get takeWriteSet(): Transaction["takeWriteSet"] {
    return Effect.suspend(() => {
      this.assertOpen()
      return Effect.map(this.writes.take, (taken) => {
        this.pages = this.hold.reader.databasePages
        this.kept = this.pages
        return taken
      })
    })
  }

  adoptWriteSet(pages: ReadonlyMap<PageNumber, Uint8Array>): Effect.Effect<void, WriteError> {
    return Effect.suspend((): Effect.Effect<void, WriteError> => {
      this.assertOpen()
      let highest = this.pages
      for (const [page, bytes] of pages) {
        const refusal = this.refusePage(page) ?? this.refuseBytes(page, bytes)
        if (refusal !== undefined) return Effect.fail(refusal)
        if (page > highest) highest = page
      }
      this.pages = highest
      return this.writes.adopt(pages)
    })
  }

  private refusePage(page: number): PageOutOfRange | undefined {
    if (Number.isInteger(page) && page >= 1 && page <= maxPage && page !== lockBytePage(this.pageSize)) return undefined
    const what = page === lockBytePage(this.pageSize) ? "SQLite's lock-byte page" : "a page number"
    return new PageOutOfRange({ page, what, maxPage })
  }

  private refuseBytes(page: PageNumber, bytes: Uint8Array): WrongPageSize | undefined {
    if (bytes.length === this.pageSize) return undefined
    return new WrongPageSize({ page, bytes: bytes.length, pageSize: this.pageSize })
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Ending
  // ---------------------------------------------------------------------------------------------------------------

  get commit(): Effect.Effect<CommitAnswer, CommitError> {
    return Effect.onExitPrimitive(
      Effect.map(this.submitted, (answer) => {
        this.committed(answer)
        return answer
      }),
      () => this.release()
    )
  }

  get rollback(): Effect.Effect<void> {
    return Effect.suspend(() => {
      // A commit that is on its way lets go by itself.
      return this.isOver ? Effect.void : this.release() ?? Effect.void
    })
  }

  /** {@link PagerTransaction.submit}, for a fiber. */
  get submitted(): Effect.Effect<CommitAnswer, CommitError> {
    return Effect.callback((resume) => this.submit(resuming(resume)))
  }

  /**
   * Hands the writes to the coordinator; what it answers steps back, as long as that is possible. Whoever calls it says
   * when it was `committed`, and releases the transaction afterwards.
   */
  submit(waiter: CommitWaiter<CommitAnswer, CommitError>): Effect.Effect<void> | void {
    this.assertOpen()
    this.isOver = true
    const { databasePages } = this.hold.reader
    if (this.pages === databasePages && this.kept === databasePages) return this.handOver(waiter)
    const handedOver = Effect.callback<CommitAnswer, CommitError>((resume) => this.handOver(resuming(resume)))
    return waiter.resume(Effect.flatMap(this.settleSize, () => handedOver))
  }

  committed(answer: CommitAnswer): void {
    this.answer = answer
  }

  private handOver(waiter: CommitWaiter<CommitAnswer, CommitError>): Effect.Effect<void> | void {
    const { hold, reads, writes } = this
    // The snapshot is not read any more: a checkpoint that waits for readers does not wait for committers.
    hold.endReading()
    return this.parts.coordinator.submit({
      token: hold.token,
      snapshot: hold.snapshot,
      writes,
      reads: reads === undefined ? undefined : Array.from(reads).filter((page) => !writes.has(page)),
      databasePages: this.kept < hold.reader.databasePages ? this.pages : undefined
    }, waiter)
  }

  /**
   * Makes the write set say what the change of size means (invariant 4). Growth writes zeros into every new page that
   * was not written: what a page holds must not depend on what an earlier, longer database left there.
   */
  private get settleSize(): Effect.Effect<void, CommitError> {
    return Effect.gen({ self: this }, function*() {
      const { maxPages } = this.parts.coordinator
      const missing = this.addedPages(maxPages)
      const pages = missing.length + this.writes.size
      if (pages > maxPages) return yield* new WriteSetTooLarge({ pages, maxPages })
      const zeros = new Uint8Array(this.pageSize)
      for (const page of missing) yield* this.writes.put(page, zeros)
      if (this.pages === this.hold.reader.databasePages) return
      const own = yield* this.writes.get(page1)
      const first = own === undefined ? yield* this.readSnapshot(page1) : new Uint8Array(own)
      if (DatabaseHeaderFormat.hasMagic(first)) DatabaseHeaderFormat.setDatabasePages(first, this.pages)
      yield* this.writes.put(page1, first)
    })
  }

  /** The pages that the transaction adds to those that it keeps, and has not written. */
  private addedPages(maxPages: number): ReadonlyArray<PageNumber> {
    const missing: Array<PageNumber> = []
    // One more than can be committed is enough to refuse it.
    for (let page = this.kept + 1; page <= this.pages && missing.length <= maxPages; page++) {
      if (page !== lockBytePage(this.pageSize) && !this.writes.has(toPageNumber(page))) missing.push(toPageNumber(page))
    }
    return missing
  }

  /**
   * Lets go of the snapshot and of the writes, now; what is left to do is to remove the spill file. The first call
   * counts. The pages of a transaction that was committed go to the cache.
   */
  release(): Effect.Effect<void> | undefined {
    if (this.isReleased) return undefined
    this.isReleased = true
    this.isOver = true
    this.hold.end()
    const { answer, writes } = this
    return answer === undefined || writes.isSpilled ? writes.closeUnsafe() : writes.closeUnsafe(this)
  }

  /** A page of the commit, for the cache. */
  receive(page: PageNumber, bytes: Uint8Array, isOwn: boolean): void {
    const { answer, parts: { cache, coordinator } } = this
    invariant(answer !== undefined, "the pages of a commit are received when it was answered")
    const { commitSeq } = answer
    const own = isOwn ? bytes : copyPage(bytes)
    if (coordinator.isSeenByReaders(commitSeq)) cache.supersede(page, commitSeq, own)
    else cache.adopt(page, commitSeq, own)
  }

  private assertOpen(): void {
    invariant(!this.isOver, "a transaction is not used after its commit or rollback")
  }
}

const copyOf = (own: Uint8Array | undefined, pageSize: number): Uint8Array => {
  invariant(own !== undefined && own.length === pageSize, "a page of a write set is one page of bytes")
  return new Uint8Array(own)
}

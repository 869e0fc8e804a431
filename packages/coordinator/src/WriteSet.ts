/**
 * The pages that a transaction has written and not yet committed: in memory up to a threshold, above it in a spill
 * file (CO-11).
 *
 * **Details**
 *
 * Invariants:
 *
 * 1. A page is in memory or in the spill file, never in both; the last write of a page wins.
 * 2. Between two calls memory holds at most the threshold, one page more while a spill runs, and what writers that
 *    ignore the effects of `put` add.
 * 3. Bytes in memory never change: writing a page again makes a new copy. So what was handed out stays as it was, and a
 *    page that is written again while it is being spilled is not torn.
 * 4. The spill file is gone once the write set is cleared, taken out or closed.
 *
 * While nothing is spilled every operation is a synchronous step, and the effects that are returned are finished ones:
 * a small transaction pays for no file, no scope and no hop between fibers.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import type { PageNumber, PageSize, TxnToken } from "@tidemark/core/Scalars"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { SpillCorrupt } from "./CoordinatorErrors.ts"
import { PageImages } from "./internal/pageImages.ts"
import { copyPage, giveBack } from "./internal/pagePool.ts"
import * as SpillFile from "./SpillFile.ts"

/**
 * What a transaction is about to commit: page -> bytes.
 *
 * **Gotchas**
 *
 * Bytes that come out are shared: nobody may write into them, and they are valid until the set is closed.
 *
 * @category models
 * @since 0.1.0
 */
export interface WriteSet {
  readonly token: TxnToken
  readonly pageSize: PageSize
  /** Pages. */
  readonly size: number
  /** Bytes of these pages, wherever they are. */
  readonly bytes: number
  /** Bytes of those that are in memory. */
  readonly memoryBytes: number
  /** Whether some of them are in the spill file. */
  readonly isSpilled: boolean

  /**
   * Writes a page: the bytes, exactly one page of them (a defect otherwise: the size is never guessed), are copied
   * before it returns. The effect moves pages into the spill file when there are too many in memory; a writer that
   * cannot await may run it later, at the price of the memory.
   */
  readonly put: (page: PageNumber, bytes: Uint8Array) => Effect.Effect<void, VfsError>

  /** The page as written last, `undefined` when it was not. */
  readonly get: (page: PageNumber) => Effect.Effect<Uint8Array | undefined, SpillCorrupt | VfsError>

  /** The same, now (PG-09): throws what {@link WriteSet.get} would fail with. */
  readonly getSync: (page: PageNumber) => Uint8Array | undefined

  /**
   * A page of the set, now, valid until the next call: a spilled one comes in a buffer that is used again. Throws like
   * {@link WriteSet.getSync}; a page that is not in the set is a defect.
   */
  readonly image: (page: PageNumber) => Uint8Array

  readonly has: (page: PageNumber) => boolean

  /** Forgets a page; says whether there was one. */
  readonly delete: (page: PageNumber) => boolean

  /** The numbers of all pages, ascending. */
  readonly pagesAscending: () => ReadonlyArray<PageNumber>

  /**
   * Reads every spilled page and checks it against its checksum, a buffer at a time: what has to succeed before the
   * commit is validated.
   */
  readonly verify: Effect.Effect<void, SpillCorrupt | VfsError>

  /** Moves all pages into the spill file, where another process can read them; answers where they lie, by page. */
  readonly spillAll: Effect.Effect<ReadonlyArray<SpillFile.SpillEntry>, VfsError>

  /** Takes everything out and leaves the set empty (PG-10). Spilled pages are read into memory. */
  readonly take: Effect.Effect<Map<PageNumber, Uint8Array>, SpillCorrupt | VfsError>

  /**
   * Writes all of these pages, as {@link WriteSet.put} does but without copying: the map and its bytes belong to the
   * set from here on.
   */
  readonly adopt: (pages: ReadonlyMap<PageNumber, Uint8Array>) => Effect.Effect<void, VfsError>

  /** Forgets everything and removes the spill file. The set can be used again. */
  readonly clear: Effect.Effect<void>

  /** {@link WriteSet.clear}, for good. */
  readonly close: Effect.Effect<void>

  /**
   * {@link WriteSet.close}, as far as it can be done now: answers what is left to do. The receiver is given every page
   * that is in memory.
   */
  readonly closeUnsafe: (receiver?: PageReceiver) => Effect.Effect<void> | undefined
}

/**
 * Who takes over the pages of a set that is closed.
 *
 * @category models
 * @since 0.1.0
 */
export interface PageReceiver {
  /** Bytes that are its `own` are nobody else's any more. */
  receive(page: PageNumber, bytes: Uint8Array, isOwn: boolean): void
}

const mebibyte = 1024 * 1024

/**
 * Bytes of a write set that are kept in memory by default: 32 MiB.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultSpillThresholdBytes = 32 * mebibyte

/**
 * The threshold that goes with a page cache of `cacheBytes`: four times the cache, within 32 MiB and 512 MiB.
 *
 * @category constructors
 * @since 0.1.0
 */
export const spillThreshold = (cacheBytes: number): number =>
  Math.min(512 * mebibyte, Math.max(defaultSpillThresholdBytes, 4 * cacheBytes))

/**
 * How large the pages of a database are, and where they go above `spillThresholdBytes` (default
 * {@link defaultSpillThresholdBytes}).
 *
 * @category models
 * @since 0.1.0
 */
export interface WriteSetPlace {
  /** Path of the database file: the spill file lies beside it (section 8 of `formats.md`). */
  readonly database: string
  readonly pageSize: PageSize
  readonly spillThresholdBytes?: number | undefined
}

/**
 * A place, and whose pages these are.
 *
 * @category models
 * @since 0.1.0
 */
export interface WriteSetOptions extends WriteSetPlace {
  readonly token: TxnToken
}

/** Pages that are checksummed and written in one go: the event loop is held up for less than a millisecond. */
const pagesPerSpill = 256

const absent = Effect.succeed(undefined)

const poolReceiver: PageReceiver = { receive: (_page, bytes) => giveBack(bytes) }

/** What a write set needs once it spills; most never do. */
interface SpillArea {
  /** Whoever changes the file waits for whoever does so already. */
  readonly gate: Semaphore.Semaphore
  readonly entries: Map<PageNumber, SpillFile.SpillEntry>
  file: { readonly spill: SpillFile.SpillFile; readonly scope: Scope.Closeable } | undefined
}

/** A class, because every transaction makes one: what is seldom used is made when it is used. */
class SpillingWriteSet implements WriteSet {
  readonly token: TxnToken
  private readonly vfs: Vfs["Service"]
  private readonly place: WriteSetPlace
  private readonly memory = new PageImages()
  private area: SpillArea | undefined = undefined
  private scratch: Uint8Array | undefined = undefined
  /** What `pagesAscending` answers, until another page comes or goes. */
  private ascending: ReadonlyArray<PageNumber> | undefined = undefined
  private isClosed = false
  /** Whether nobody else has ever had the pages in memory for his own. */
  private ownsMemory = true

  constructor(vfs: Vfs["Service"], place: WriteSetPlace, token: TxnToken) {
    this.vfs = vfs
    this.place = place
    this.token = token
  }

  get pageSize(): PageSize {
    return this.place.pageSize
  }

  private get isTooLarge(): boolean {
    return this.memoryBytes > (this.place.spillThresholdBytes ?? defaultSpillThresholdBytes)
  }

  get size(): number {
    return this.memory.size + (this.area?.entries.size ?? 0)
  }

  get bytes(): number {
    return this.size * this.pageSize
  }

  get memoryBytes(): number {
    return this.memory.size * this.pageSize
  }

  get isSpilled(): boolean {
    return this.area !== undefined && this.area.entries.size > 0
  }

  put(page: PageNumber, bytes: Uint8Array): Effect.Effect<void, VfsError> {
    this.hold(page, copyPage(bytes))
    return this.isTooLarge ? this.spillExcess : Effect.void
  }

  adopt(pages: ReadonlyMap<PageNumber, Uint8Array>): Effect.Effect<void, VfsError> {
    this.ownsMemory = false
    for (const [page, bytes] of pages) this.hold(page, bytes)
    return this.isTooLarge ? this.spillExcess : Effect.void
  }

  get(page: PageNumber): Effect.Effect<Uint8Array | undefined, SpillCorrupt | VfsError> {
    const held = this.memory.get(page)
    if (held !== undefined) return Effect.succeed(held)
    const entry = this.area?.entries.get(page)
    if (entry === undefined) return absent
    return Effect.catchTag(
      this.openedFile().read(entry),
      "SpillCorrupt",
      // When the page was written again during the read, its slot may hold another page by now.
      (error) => this.area?.entries.get(page) === entry ? Effect.fail(error) : Effect.suspend(() => this.get(page))
    )
  }

  getSync(page: PageNumber): Uint8Array | undefined {
    const held = this.memory.get(page)
    if (held !== undefined) return held
    const entry = this.area?.entries.get(page)
    if (entry === undefined) return undefined
    const bytes = new Uint8Array(this.pageSize)
    this.openedFile().readSync(entry, bytes)
    return bytes
  }

  image(page: PageNumber): Uint8Array {
    const held = this.memory.get(page)
    if (held !== undefined) return held
    const entry = this.area?.entries.get(page)
    invariant(entry !== undefined, "the image of a page is asked for while the page is in the write set")
    this.scratch ??= new Uint8Array(this.pageSize)
    this.openedFile().readSync(entry, this.scratch)
    return this.scratch
  }

  has(page: PageNumber): boolean {
    return this.memory.has(page) || this.area?.entries.has(page) === true
  }

  delete(page: PageNumber): boolean {
    this.ascending = undefined
    return this.memory.delete(page) || this.dropSpilled(page)
  }

  pagesAscending(): ReadonlyArray<PageNumber> {
    if (this.ascending !== undefined) return this.ascending
    const pages = this.memory.pages()
    if (this.area === undefined) return this.ascending = pages
    return this.ascending = [...pages, ...this.area.entries.keys()].sort((a, b) => a - b)
  }

  get verify(): Effect.Effect<void, SpillCorrupt | VfsError> {
    return Effect.suspend(() => this.isSpilled ? this.exclusively((area) => readSpilled(area)) : Effect.void)
  }

  get spillAll(): Effect.Effect<ReadonlyArray<SpillFile.SpillEntry>, VfsError> {
    return this.exclusively((area) =>
      Effect.map(
        this.memory.size > 0 ? this.moveToFile(area) : Effect.void,
        () => Array.from(area.entries.values()).sort((a, b) => a.page - b.page)
      )
    )
  }

  get take(): Effect.Effect<Map<PageNumber, Uint8Array>, SpillCorrupt | VfsError> {
    const takeMemory = () => {
      const taken = this.memory.toMap()
      this.ownsMemory = false
      this.forgetMemory()
      return taken
    }
    return Effect.suspend(() => {
      if (this.area === undefined) return Effect.succeed(takeMemory())
      return this.exclusively((area) => {
        const read = new Map<SpillFile.SpillEntry, Uint8Array>()
        return readSpilled(area, (entry, bytes) => read.set(entry, new Uint8Array(bytes))).pipe(
          Effect.flatMap(() => {
            for (const [entry, bytes] of read) {
              if (area.entries.get(entry.page) === entry) this.memory.set(entry.page, bytes)
            }
            const taken = takeMemory()
            return Effect.as(this.reset(area), taken)
          })
        )
      })
    })
  }

  get clear(): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.area !== undefined) return this.exclusively((area) => this.reset(area))
      this.forgetMemory()
      return Effect.void
    }).pipe(Effect.uninterruptible)
  }

  get close(): Effect.Effect<void> {
    return Effect.suspend(() => this.closeUnsafe() ?? Effect.void)
  }

  closeUnsafe(receiver?: PageReceiver): Effect.Effect<void> | undefined {
    // A spill may still be reading what it moves; everybody else is done.
    const isOwn = this.ownsMemory && this.area === undefined
    this.isClosed = true
    if (receiver !== undefined) this.memory.giveTo(receiver, isOwn)
    else if (isOwn) this.memory.giveTo(poolReceiver, isOwn)
    if (this.area !== undefined) return this.clear
    this.forgetMemory()
    return undefined
  }

  private hold(page: PageNumber, own: Uint8Array): void {
    invariant(!this.isClosed, "a write set is not written to after its transaction")
    invariant(own.length === this.pageSize, "a page is written as exactly one page of bytes")
    this.memory.set(page, own)
    this.ascending = undefined
    if (this.area !== undefined) this.dropSpilled(page)
  }

  private forgetMemory(): void {
    this.memory.clear()
    this.ascending = undefined
  }

  private dropSpilled(page: PageNumber): boolean {
    const entry = this.area?.entries.get(page)
    if (this.area === undefined || entry === undefined) return false
    this.area.entries.delete(page)
    this.area.file?.spill.release(entry)
    return true
  }

  private openedFile(): SpillFile.SpillFile {
    invariant(this.area?.file !== undefined, "a page that is spilled lies in an open file")
    return this.area.file.spill
  }

  private exclusively<A, E>(change: (area: SpillArea) => Effect.Effect<A, E>): Effect.Effect<A, E> {
    return Effect.suspend(() => {
      const area = this.area ??= { gate: Semaphore.makeUnsafe(1), entries: new Map(), file: undefined }
      return area.gate.withPermit(Effect.suspend(() => change(area)))
    })
  }

  private get spillExcess(): Effect.Effect<void, VfsError> {
    return this.exclusively((area) => this.isTooLarge ? this.moveToFile(area) : Effect.void)
  }

  /** Moves what is in memory now into the file. What is written or deleted meanwhile stays as it is then. */
  private moveToFile(area: SpillArea): Effect.Effect<void, VfsError> {
    return Effect.gen({ self: this }, function*() {
      invariant(!this.isClosed, "a write set is not spilled after its transaction")
      const spill = yield* this.fileOf(area)
      const pages = Array.from(this.memory.toMap())
      for (let first = 0; first < pages.length; first += pagesPerSpill) {
        const chunk = pages.slice(first, first + pagesPerSpill)
        const entries = yield* spill.write(chunk)
        entries.forEach((entry, position) => {
          if (this.memory.get(entry.page) !== chunk[position]?.[1]) return spill.release(entry)
          this.memory.delete(entry.page)
          area.entries.set(entry.page, entry)
        })
      }
    }).pipe(Effect.uninterruptible)
  }

  private fileOf(area: SpillArea): Effect.Effect<SpillFile.SpillFile, VfsError> {
    if (area.file !== undefined) return Effect.succeed(area.file.spill)
    // What can fail comes before anything that the scope would have to close.
    const scope = Scope.makeUnsafe()
    const { database, pageSize } = this.place
    return SpillFile.create(this.vfs, { database, token: this.token, pageSize }).pipe(
      Scope.provide(scope),
      Effect.tap((spill) =>
        Effect.sync(() => {
          area.file = { spill, scope }
        })
      )
    )
  }

  private reset(area: SpillArea): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.forgetMemory()
      area.entries.clear()
      const { file } = area
      area.file = undefined
      return file === undefined ? Effect.void : Scope.close(file.scope, Exit.void)
    })
  }
}

const readSpilled = (
  area: SpillArea,
  visit?: (entry: SpillFile.SpillEntry, bytes: Uint8Array) => void
): Effect.Effect<void, SpillCorrupt | VfsError> =>
  area.file === undefined ? Effect.void : area.file.spill.readAll(area.entries.values(), visit)

/**
 * Makes an empty write set, now; whoever makes it closes it. {@link make} does that with its scope.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeUnsafe = (vfs: Vfs["Service"], options: WriteSetOptions): WriteSet =>
  makeIn(vfs, options, options.token)

/** @internal {@link makeUnsafe}, for many of one place. */
export const makeIn = (vfs: Vfs["Service"], place: WriteSetPlace, token: TxnToken): WriteSet =>
  new SpillingWriteSet(vfs, place, token)

/**
 * Makes an empty write set that is closed with the scope.
 *
 * **Example** (Writing and reading back)
 *
 * ```ts
 * import * as WriteSet from "@tidemark/coordinator/WriteSet"
 * import { defaultPageSize, toPageNumber, TxnEpoch, TxnId } from "@tidemark/core/Scalars"
 * import * as Effect from "effect/Effect"
 *
 * export const program = Effect.gen(function*() {
 *   const writes = yield* WriteSet.make({
 *     database: "accounts.db",
 *     token: { id: TxnId.make(1n), epoch: TxnEpoch.make(0) },
 *     pageSize: defaultPageSize
 *   })
 *   yield* writes.put(toPageNumber(7), new Uint8Array(defaultPageSize).fill(1))
 *   return writes.pagesAscending() // => [7]
 * })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: WriteSetOptions): Effect.Effect<WriteSet, never, Vfs | Scope.Scope> =>
  Effect.acquireRelease(Effect.map(Vfs, (vfs) => makeUnsafe(vfs, options)), (writes) => writes.close)

/**
 * The running state of a SQLite WAL: what was handed over, what is durable, where every version is.
 *
 * LSNs are offsets into the frame area of the current generation, so that a position of the group commit engine is
 * where the bytes go: file offset = 32 + LSN.
 *
 * Invariants
 * 1. Frames are encoded in the order of sequences, when they are handed over, each continuing the checksum of the one
 *    before it.
 * 2. The index holds durable commits only; `published` is its tip.
 * 3. A generation begins on the disk (sealed wal-base, header, wal-base, each synced) inside the write of its first
 *    batch, before any frame of it. Until the header is there a crash finds the generation before, or half a header;
 *    either way everything is in the database file, and the base says where the sequences stand. The name of the file
 *    is durable since the log was opened.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq, Lsn, PageNumber, PageSize } from "@tidemark/core/Scalars"
import { toCommitSeq } from "@tidemark/core/Scalars"
import * as TailMemory from "@tidemark/platform/TailMemory"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import { directoryOf, replaceFile } from "../AtomicFile.ts"
import type { LogCommit, LogReader, Published } from "../CommitLog.ts"
import type { GroupCommit, GroupCommitSink, HandOverWaiter } from "../GroupCommit.ts"
import { DatabaseTruncated, Exhausted } from "../LogErrors.ts"
import { SnapshotRegistry } from "../SnapshotRegistry.ts"
import type { ChecksumChain, WalHeader } from "../SqliteWalFormat.ts"
import * as Format from "../SqliteWalFormat.ts"
import * as WalBaseFormat from "../WalBaseFormat.ts"
import { WalIndex } from "../WalIndex.ts"
import { SnapshotReader } from "./snapshotReader.ts"

/** @internal */
export interface WalStateOptions {
  readonly vfs: Vfs["Service"]
  readonly database: string
  readonly pageSize: PageSize
  readonly databaseFile: VfsFile
  readonly walFile: VfsFile
  readonly preallocateBytes: number
  readonly maxFrames: number
  /** The generation that goes on, with its checksum behind the last frame; or the one that is to begin. */
  readonly header: WalHeader
  readonly headerIsOnDisk: boolean
  readonly chain: ChecksumChain
  readonly previousSalts: { readonly salt1: number; readonly salt2: number }
  readonly index: WalIndex
  readonly databasePages: number
  readonly walFileBytes: number
}

/** @internal */
export class WalState {
  readonly readers = new SnapshotRegistry()
  readonly restartListeners: Array<(versions: Iterable<readonly [PageNumber, CommitSeq]>) => void> = []
  readonly publishedListeners: Array<(published: Published) => void> = []
  /** Called when commits became durable. */
  onPublished: () => void = () => {}
  header: WalHeader
  headerIsOnDisk: boolean
  previousSalts: { readonly salt1: number; readonly salt2: number }
  index: WalIndex
  published: Published
  /** Grows when the log starts over: a frame that was looked up before is not where it was. */
  generation = 0
  private readonly options: WalStateOptions
  private chain: ChecksumChain
  private nextSeq: CommitSeq
  private handedOverFrames: number
  /** Commits that were handed over and are not durable yet, and where each of them ends. */
  private pending: Array<LogCommit> = []
  private pendingEnds: Array<number> = []
  private encoding: LogCommit | undefined
  private generationOfFrames: { readonly salt1: number; readonly salt2: number; readonly words: Format.ChecksumWords }
  /** The file has blocks up to here, so that writing below it changes no metadata. */
  private preparedEnd: number
  private readonly zeros: Uint8Array
  /** The base on the disk is that of the generation that is to begin. */
  private isAnnounced = false
  /** Set right after the engine was made on top of {@link sink}. */
  engine: GroupCommit | undefined

  constructor(options: WalStateOptions) {
    this.options = options
    this.header = options.header
    this.generationOfFrames = generationOf(options.header)
    this.headerIsOnDisk = options.headerIsOnDisk
    this.previousSalts = options.previousSalts
    this.chain = options.chain
    this.index = options.index
    this.published = { commitSeq: options.index.tip, databasePages: options.databasePages }
    this.nextSeq = toCommitSeq(options.index.tip + 1n)
    this.handedOverFrames = options.index.frames
    this.preparedEnd = options.walFileBytes
    this.zeros = new Uint8Array(options.preallocateBytes)
  }

  get frameBytes(): number {
    return Format.frameBytes(this.options.pageSize)
  }

  /** Refuses a commit whose frames the file's u32 cannot count, or that is above the configured limit (SWAL-06). */
  refuse(frames: number): Exhausted | undefined {
    const { maxFrames } = this.options
    if (this.handedOverFrames + frames <= maxFrames) return undefined
    return new Exhausted({ what: "frames of the log", limit: BigInt(maxFrames) })
  }

  restore(tip: CommitSeq, walOffset: number): void {
    invariant(tip + 1n === this.nextSeq, "a restored coordinator continues at the tip of its log")
    invariant(walOffset === this.handedOverFrames * this.frameBytes, "a restored offset is the end of the valid frames")
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Writing
  // ---------------------------------------------------------------------------------------------------------------

  append(commit: LogCommit, waiter: HandOverWaiter): number {
    const { engine } = this
    invariant(engine !== undefined, "commits are handed over when the engine runs")
    invariant(waiter.mode === "durable", "a commit is visible when it is durable")
    invariant(commit.seq === this.nextSeq, "commits are handed over in the order of their sequences")
    const start = this.handedOverFrames * this.frameBytes
    this.encoding = commit
    try {
      const end = engine.enqueueUnsafe(commit.pages.length * this.frameBytes, this.encode, waiter)
      this.pending.push(commit)
      this.pendingEnds.push(end)
    } catch (cause) {
      // The checksum has moved on over frames that will never be written: nothing can follow them.
      engine.poison(Cause.die(cause))
      const ended = engine.ended()
      invariant(ended !== undefined, "a poisoned log has ended")
      waiter.fail(ended)
      return start
    } finally {
      this.encoding = undefined
    }
    this.nextSeq = toCommitSeq(commit.seq + 1n)
    this.handedOverFrames += commit.pages.length
    return start
  }

  /** Writes the frames of the commit that is being handed over. */
  private readonly encode = (target: Uint8Array, view: DataView, offset: number): void => {
    const { chain, encoding, frameBytes, generationOfFrames } = this
    invariant(encoding !== undefined, "frames are written while their commit is handed over")
    const { databasePages, pages } = encoding
    const last = pages.length - 1
    for (let i = 0; i <= last; i++) {
      const pageNumber = pages[i]
      invariant(pageNumber !== undefined, "a list of pages has no holes")
      const page = encoding.image(pageNumber)
      invariant(page.length === this.options.pageSize, "a frame holds exactly one page")
      const frame = { pageNumber, databasePages: i === last ? databasePages : 0, page }
      Format.writeFrame(target, view, offset + i * frameBytes, frame, generationOfFrames, chain)
    }
  }

  sink(): GroupCommitSink {
    const { walFile } = this.options
    const prepare = (buffers: ReadonlyArray<Uint8Array>, lsn: Lsn) =>
      Effect.suspend(() => this.headerIsOnDisk ? Effect.void : this.beginGeneration).pipe(
        Effect.map(() => this.withBlocksAhead(buffers, lsn))
      )
    return {
      name: walFile.path,
      write: (buffers, lsn) =>
        Effect.flatMap(prepare(buffers, lsn), (all) => walFile.write(all, Format.walHeaderBytes + lsn)),
      writeAndSync: (buffers, lsn, background) =>
        this.headerIsOnDisk && this.hasBlocks(buffers, lsn)
          // Behind the last frame are zeros, or frames of a generation that is over.
          ? walFile.writeAndSyncData(buffers, Format.walHeaderBytes + lsn, { background, tail: true })
          : Effect.flatMap(
            prepare(buffers, lsn),
            (all) => walFile.writeAndSyncData(all, Format.walHeaderBytes + lsn, { background })
          ),
      sync: walFile.syncData,
      memory: {
        blockBytes: TailMemory.blockBytes,
        make: TailMemory.make,
        firstOffset: (lsn) => Format.walHeaderBytes + lsn
      },
      onDurable: (durable) => this.publish(durable),
      onPoisoned: () => {
        this.pending = []
        this.pendingEnds = []
      }
    }
  }

  /** Moves the commits that are durable now into the index. Runs before anybody is woken. */
  private publish(durable: number): void {
    let count = 0
    for (; count < this.pending.length; count++) {
      const commit = this.pending[count]
      if (commit === undefined || (this.pendingEnds[count] ?? Infinity) > durable) break
      this.index.addCommit(commit.pages, commit.databasePages)
    }
    const newest = this.pending[count - 1]
    if (newest === undefined) return
    this.published = { commitSeq: this.index.tip, databasePages: newest.databasePages }
    this.pending = this.pending.slice(count)
    this.pendingEnds = this.pendingEnds.slice(count)
    for (const listener of this.publishedListeners) listener(this.published)
    this.onPublished()
  }

  private hasBlocks(buffers: ReadonlyArray<Uint8Array>, lsn: number): boolean {
    let end = Format.walHeaderBytes + lsn
    for (const buffer of buffers) end += buffer.length
    return end <= this.preparedEnd
  }

  /**
   * Zero-fills the file ahead in the same write, so that the syncs that follow change no metadata of the file. Doing it
   * in the leader's own write keeps zeros and frames from racing for the same bytes.
   */
  private withBlocksAhead(buffers: ReadonlyArray<Uint8Array>, lsn: number): ReadonlyArray<Uint8Array> {
    if (this.hasBlocks(buffers, lsn)) return buffers
    this.preparedEnd = Format.walHeaderBytes + lsn + this.zeros.length
    for (const buffer of buffers) this.preparedEnd += buffer.length
    return this.zeros.length === 0 ? buffers : [...buffers, this.zeros]
  }

  /**
   * Writes the base of the generation that is to begin, sealed: a start that finds no header, whatever the reason, goes
   * on at the base. The reason is a header that was cut off or that has not come yet, as long as the base says so.
   */
  readonly announce: Effect.Effect<void, VfsError> = Effect.suspend(() => {
    invariant(!this.headerIsOnDisk && this.index.frames === 0, "only a generation that has not begun is announced")
    if (this.isAnnounced) return Effect.void
    return Effect.map(this.writeBase(true), () => {
      this.isAnnounced = true
    })
  })

  /**
   * Writes the base and the header of the generation, each synced before what follows it (2.1, SWAL-05). The base is
   * unsealed when the header is there: from then on a missing log is one that somebody has removed.
   */
  private readonly beginGeneration: Effect.Effect<void, VfsError> = Effect.gen({ self: this }, function*() {
    const { walFile } = this.options
    yield* this.announce
    const header = Format.encodeHeader(this.header)
    yield* walFile.writeAndSyncData([header], 0)
    yield* this.writeBase(false)
    this.preparedEnd = Math.max(this.preparedEnd, header.length)
    this.headerIsOnDisk = true
  })

  private writeBase(sealed: boolean): Effect.Effect<void, VfsError> {
    const { database, vfs } = this.options
    return writeWalBase(vfs, database, {
      sealed,
      header: this.header,
      previousSalts: this.previousSalts,
      base: this.index.base
    })
  }

  /**
   * Starts over: the next frame is the first one of a new generation. One synchronous step, for an idle log whose every
   * commit is in the database file, synced, and whose readers all see exactly the tip.
   */
  startOver(salt2: number): void {
    invariant(this.pending.length === 0, "a log starts over while it is idle")
    invariant(this.readers.isAtLeast(this.index.tip), "no reader needs a frame when the log starts over")
    for (const listener of this.restartListeners) listener(this.index.newestVersions())
    if (this.headerIsOnDisk) this.previousSalts = { salt1: this.header.salt1, salt2: this.header.salt2 }
    this.header = {
      checksumWords: "littleEndian",
      pageSize: this.options.pageSize,
      checkpointSeq: (this.header.checkpointSeq + 1) >>> 0,
      salt1: (this.header.salt1 + 1) >>> 0,
      salt2
    }
    this.generationOfFrames = generationOf(this.header)
    this.headerIsOnDisk = false
    this.isAnnounced = false
    this.chain = Format.chainFromHeader(Format.encodeHeader(this.header))
    // The one of the first generation says what was recovered, for as long as somebody may ask.
    this.index = this.generation === 0 ? new WalIndex(this.index.tip) : this.index.next()
    this.handedOverFrames = 0
    this.generation++
  }

  /** Leaves an empty file behind. Only right after {@link announce}. */
  readonly cutOff: Effect.Effect<void, VfsError> = Effect.suspend(() => {
    const { walFile } = this.options
    invariant(this.isAnnounced && !this.headerIsOnDisk, "only a log whose base says so is cut off")
    this.preparedEnd = 0
    return Effect.andThen(walFile.truncate(0), walFile.syncFull)
  })

  // ---------------------------------------------------------------------------------------------------------------
  // Reading
  // ---------------------------------------------------------------------------------------------------------------

  openReader(): LogReader {
    return new SnapshotReader(this, this.readers, this.published)
  }

  /** The sequence that wrote the page as a snapshot at `high` sees it; 0 for what the database file holds. */
  versionOf(page: PageNumber, high: CommitSeq): CommitSeq {
    const frame = this.index.find(page, high)
    return frame < 0 ? noCommit : this.index.seqOf(frame)
  }

  read(
    page: PageNumber,
    high: CommitSeq,
    databasePages: number
  ): Effect.Effect<Uint8Array, VfsError | DatabaseTruncated> {
    return Effect.suspend((): Effect.Effect<Uint8Array, VfsError | DatabaseTruncated> => {
      const bytes = new Uint8Array(this.options.pageSize)
      // Beyond the end of the database there are zeros, whatever the file still holds there.
      if (page > databasePages) return Effect.succeed(bytes)
      const { generation } = this
      const place = this.placeOf(page, high)
      return Effect.flatMap(place.file.read(bytes, place.offset), (count) => {
        // The log started over while the read was under way: the frame may hold another page by now. The page is in
        // the database file, which is where the second attempt finds it.
        if (generation !== this.generation) return this.read(page, high, databasePages)
        return count < bytes.length
          ? Effect.fail(new DatabaseTruncated({ path: place.file.path, page, offset: place.offset }))
          : Effect.succeed(bytes)
      })
    })
  }

  /** Synchronous, so the log cannot start over in between. */
  readSync(page: PageNumber, high: CommitSeq, databasePages: number): Uint8Array {
    const bytes = new Uint8Array(this.options.pageSize)
    if (page > databasePages) return bytes
    const { file, offset } = this.placeOf(page, high)
    if (file.readSync(bytes, offset) < bytes.length) throw new DatabaseTruncated({ path: file.path, page, offset })
    return bytes
  }

  private placeOf(page: PageNumber, high: CommitSeq): { readonly file: VfsFile; readonly offset: number } {
    const { databaseFile, pageSize, walFile } = this.options
    const frame = this.index.find(page, high)
    return frame < 0
      ? { file: databaseFile, offset: (page - 1) * pageSize }
      : { file: walFile, offset: Format.frameOffset(frame, pageSize) + Format.frameHeaderBytes }
  }
}

const noCommit = toCommitSeq(0n)

const generationOf = ({ checksumWords, salt1, salt2 }: WalHeader) => ({ salt1, salt2, words: checksumWords })

/** @internal */
export const writeWalBase = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  values: {
    readonly sealed: boolean
    readonly header: WalHeader
    readonly previousSalts: { readonly salt1: number; readonly salt2: number }
    readonly base: CommitSeq
  }
): Effect.fn.Return<void, VfsError> {
  const directory = WalBaseFormat.sideDirectory(database)
  if ((yield* vfs.identify(directory)) === undefined) {
    yield* vfs.makeDirectory(directory)
    yield* vfs.syncDirectory(directoryOf(database))
  }
  yield* replaceFile(
    vfs,
    WalBaseFormat.walBasePath(database),
    WalBaseFormat.encode({
      sealed: values.sealed,
      salt1: values.header.salt1,
      salt2: values.header.salt2,
      previousSalt1: values.previousSalts.salt1,
      previousSalt2: values.previousSalts.salt2,
      baseCommitSeq: values.base
    })
  )
})

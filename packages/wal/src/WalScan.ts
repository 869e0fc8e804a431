/**
 * The walk over the frames of a `-wal`: which of them are valid, and what lies behind them (sections 2 and 10 of
 * `formats.md`).
 *
 * **Details**
 *
 * 1. The valid part is the longest run of frames from the first one on that chain, cut off after its last commit frame.
 *    It depends on nothing that lies behind it.
 * 2. What lies behind it is *damage* when an acknowledged commit may have been in it: the frames behind the first bad
 *    one chain, up to a commit frame, from the checksum stored in the bad one, or from the one it should have (RC-03).
 *    The second covers a bad frame whose stored checksum is what was hit. A bad frame in the last commit of the log has
 *    nothing behind it that could chain when it is the commit frame itself: that is a tail.
 * 3. Slots of zeros (the writer fills the file ahead of itself) and frames of an older generation (left over from
 *    before a reset) are neither valid nor a tail.
 * 4. Memory is one chunk and eight bytes per frame that chains, whatever lengths the file claims.
 *
 * @since 0.1.0
 */
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import {
  type ChecksumChain,
  extendOverFrame,
  frameBytes,
  frameChecks,
  frameHeaderBytes,
  frameOffset,
  maxFrames,
  readFrameHeader,
  type WalHeader
} from "./SqliteWalFormat.ts"

/**
 * What a scan found.
 *
 * @category models
 * @since 0.1.0
 */
export interface WalScan {
  /** Frames up to and including the last valid commit frame. */
  readonly validFrames: number
  /** Commit frames among them. */
  readonly commits: number
  /** The page of each valid frame. */
  readonly framePages: Uint32Array
  /** Which commit, counted from 1, each valid frame belongs to. */
  readonly frameCommit: Uint32Array
  /** Pages of the database after the last commit; `undefined` without any. */
  readonly databasePages: number | undefined
  /** The checksum that the next frame continues. */
  readonly chain: ChecksumChain
  /** Where the valid part ends, in the file. */
  readonly validBytes: number
  /** Bytes from there to the end of the last slot that this generation has written to; 0 when there is no tail. */
  readonly tornTailBytes: number
  readonly damage: WalDamage | undefined
}

/**
 * A bad frame with commits behind it.
 *
 * @category models
 * @since 0.1.0
 */
export interface WalDamage {
  /** The bad frame, 0-based. */
  readonly frame: number
  /** Where it starts in the file. */
  readonly offset: number
  /** Frames from the end of the valid part to the last commit that was found behind the bad frame. */
  readonly lostFrames: number
  /** Commits that were found there; a further one may end in the bad frame itself. */
  readonly lostCommits: number
  /** Where the last of them ends in the file. */
  readonly lostEnd: number
}

/**
 * Takes the slots of a WAL in the order of the file, any number of them at a time. Purely in memory.
 *
 * @category scanning
 * @since 0.1.0
 */
export class FrameScanner {
  private readonly header: WalHeader
  private readonly chain: ChecksumChain
  /** The chain after the last commit frame: what a next frame continues. */
  private readonly committedChain: ChecksumChain
  private pages = new Uint32Array(256)
  private commitOf = new Uint32Array(256)
  /** Slots taken. */
  private slots = 0
  private chained = 0
  private validFrames = 0
  private commits = 0
  private databasePages: number | undefined
  /** The first slot that does not chain; while it is undefined every slot did. */
  private badFrame: number | undefined
  /** Chains that the frames behind the bad one could continue. Empty once they do not. */
  private candidates: Array<ChecksumChain> = []
  private lostFrames = 0
  private lostCommits = 0
  /** Where the last slot ends that this generation has written to. */
  private writtenEnd = 0

  constructor(header: WalHeader, headerChain: ChecksumChain) {
    this.header = header
    this.chain = { s0: headerChain.s0, s1: headerChain.s1 }
    this.committedChain = { s0: headerChain.s0, s1: headerChain.s1 }
  }

  /**
   * Takes whole slots; only the last of all may be cut off by the end of the file.
   */
  take(bytes: Uint8Array): void {
    const slotBytes = frameBytes(this.header.pageSize)
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    let offset = 0
    for (; offset + slotBytes <= bytes.length; offset += slotBytes) {
      if (this.badFrame === undefined) this.takeChained(view, offset)
      else this.takeBehind(view, offset)
      this.slots++
    }
    if (offset < bytes.length) this.takePartial(bytes.subarray(offset))
  }

  private takeChained(view: DataView, offset: number): void {
    const { chain, header } = this
    if (this.slots >= maxFrames || !frameChecks(view, offset, header.pageSize, header, chain)) {
      this.badFrame = this.slots
      this.candidates = this.candidatesBehind(view, offset)
      return this.noteSlot(view, offset)
    }
    const frame = readFrameHeader(view, offset)
    if (this.chained === this.pages.length) this.grow()
    this.pages[this.chained] = frame.pageNumber
    this.commitOf[this.chained] = this.commits + 1
    this.chained++
    this.writtenEnd = frameOffset(this.chained, header.pageSize)
    if (frame.databasePages !== 0) {
      this.validFrames = this.chained
      this.commits++
      this.databasePages = frame.databasePages
      this.committedChain.s0 = chain.s0
      this.committedChain.s1 = chain.s1
    }
  }

  /** The stored pair of a bad frame, and the pair it should have stored. */
  private candidatesBehind(view: DataView, offset: number): Array<ChecksumChain> {
    const frame = readFrameHeader(view, offset)
    const computed = { s0: this.chain.s0, s1: this.chain.s1 }
    extendOverFrame(computed, view, offset, this.header.pageSize, this.header.checksumWords)
    return [{ s0: frame.checksum1, s1: frame.checksum2 }, computed]
  }

  private takeBehind(view: DataView, offset: number): void {
    if (this.candidates.length > 0) {
      const { header } = this
      const alive = this.candidates.find((chain) => frameChecks(view, offset, header.pageSize, header, chain))
      this.candidates = alive === undefined ? [] : [alive]
      if (alive !== undefined && readFrameHeader(view, offset).databasePages !== 0) {
        this.lostCommits++
        this.lostFrames = this.slots + 1 - this.validFrames
      }
    }
    this.noteSlot(view, offset)
  }

  /** Decides whether a slot that is not valid belongs to the tail. */
  private noteSlot(view: DataView, offset: number): void {
    const { salt1, salt2 } = readFrameHeader(view, offset)
    const ofThisGeneration = salt1 === this.header.salt1 && salt2 === this.header.salt2
    const unsalted = salt1 === 0 && salt2 === 0
    if (ofThisGeneration || (unsalted && !isZero(view, offset, frameBytes(this.header.pageSize)))) {
      this.writtenEnd = frameOffset(this.slots + 1, this.header.pageSize)
    }
  }

  /** Generations of the same page size end on whole slots: a cut one is of this generation, unless it is zero. */
  private takePartial(bytes: Uint8Array): void {
    if (bytes.some((byte) => byte !== 0)) {
      this.writtenEnd = frameOffset(this.slots, this.header.pageSize) + bytes.length
    }
  }

  private grow(): void {
    const pages = new Uint32Array(this.pages.length * 2)
    const commitOf = new Uint32Array(this.pages.length * 2)
    pages.set(this.pages)
    commitOf.set(this.commitOf)
    this.pages = pages
    this.commitOf = commitOf
  }

  /** What was found in the slots so far. */
  result(): WalScan {
    const { pageSize } = this.header
    const validBytes = frameOffset(this.validFrames, pageSize)
    return {
      validFrames: this.validFrames,
      commits: this.commits,
      framePages: this.pages.slice(0, this.validFrames),
      frameCommit: this.commitOf.slice(0, this.validFrames),
      databasePages: this.databasePages,
      chain: this.committedChain,
      validBytes,
      tornTailBytes: Math.max(0, this.writtenEnd - validBytes),
      damage: this.badFrame === undefined || this.lostCommits === 0 ? undefined : {
        frame: this.badFrame,
        offset: frameOffset(this.badFrame, pageSize),
        lostFrames: this.lostFrames,
        lostCommits: this.lostCommits,
        lostEnd: frameOffset(this.validFrames + this.lostFrames, pageSize)
      }
    }
  }
}

/** `length` is a multiple of 8, as the size of every slot is. */
const isZero = (view: DataView, offset: number, length: number): boolean => {
  for (let at = offset; at < offset + length; at += 8) {
    if ((view.getInt32(at) | view.getInt32(at + 4)) !== 0) return false
  }
  return true
}

/** Bytes read at a time: enough that the call costs nothing beside the checksums, little enough to be forgotten. */
const chunkBytes = 4 * 1024 * 1024

/**
 * Reads the slots of a WAL in chunks of at most 4 MiB, whole slots each (the last one as far as the file goes), and
 * hands them to `take` until it answers false. The buffer is used again for each chunk.
 *
 * @category scanning
 * @since 0.1.0
 */
export const forEachChunk = Effect.fnUntraced(function*(
  file: VfsFile,
  fileBytes: number,
  pageSize: number,
  take: (chunk: Uint8Array) => boolean
): Effect.fn.Return<void, VfsError> {
  const slotBytes = frameBytes(pageSize)
  const start = frameOffset(0, pageSize)
  const wholeSlots = Math.max(1, Math.floor(chunkBytes / slotBytes)) * slotBytes
  const buffer = new Uint8Array(Math.max(0, Math.min(wholeSlots, fileBytes - start)))
  for (let position = start; position < fileBytes;) {
    const length = yield* file.read(buffer.subarray(0, Math.min(buffer.length, fileBytes - position)), position)
    if (!take(buffer.subarray(0, length))) return
    // Fewer bytes than asked for: the file has become shorter since its size was taken.
    if (length < buffer.length) return
    position += length
  }
})

/**
 * Scans the frames of an open WAL whose header is valid.
 *
 * @category scanning
 * @since 0.1.0
 */
export const scanWal = Effect.fnUntraced(function*(
  file: VfsFile,
  fileBytes: number,
  header: WalHeader,
  headerChain: ChecksumChain
): Effect.fn.Return<WalScan, VfsError> {
  const scanner = new FrameScanner(header, headerChain)
  yield* forEachChunk(file, fileBytes, header.pageSize, (chunk) => {
    scanner.take(chunk)
    return true
  })
  return scanner.result()
})

/**
 * Whether any slot of an open WAL carries these salts, for a page size that is known from elsewhere (RC-04).
 *
 * @category scanning
 * @since 0.1.0
 */
export const carriesSalts = Effect.fnUntraced(function*(
  file: VfsFile,
  fileBytes: number,
  pageSize: number,
  salts: { readonly salt1: number; readonly salt2: number }
): Effect.fn.Return<boolean, VfsError> {
  const slotBytes = frameBytes(pageSize)
  let found = false
  yield* forEachChunk(file, fileBytes, pageSize, (chunk) => {
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    for (let offset = 0; offset + frameHeaderBytes <= chunk.length && !found; offset += slotBytes) {
      const { salt1, salt2 } = readFrameHeader(view, offset)
      found = salt1 === salts.salt1 && salt2 === salts.salt2
    }
    return !found
  })
  return found
})

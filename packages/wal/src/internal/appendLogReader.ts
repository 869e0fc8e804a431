/**
 * Reading a log while it is written: from its files, through descriptors of its own, up to what is durable.
 *
 * Invariants
 * 1. What is handed out was durable when it was read, and lies in a batch whose checksum was right.
 * 2. A reader holds one block in memory, as large as the batch that it is in, and one descriptor. Nobody waits for it.
 * 3. Where a reader goes on is always the start of a batch. Where it was told to begin may be any frame: the batch that
 *    holds it is looked for, and the position is refused when no frame starts there.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { Lsn } from "@tidemark/core/Scalars"
import { toLsn } from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type { LogRecord, ReadError } from "../AppendLog.ts"
import { LogCorrupt, LsnNotAFrame, LsnTruncated } from "../AppendLogErrors.ts"
import {
  batchStartAt,
  commitFrameBytes,
  frameBytesAt,
  frameHeadBytes,
  isCommitAt,
  isRecordAt,
  lsnAt,
  offsetOf,
  payloadBytesAt
} from "../AppendLogFormat.ts"
import type { AppendLogSegments, Segment } from "./appendLogSegments.ts"
import { BatchWalker } from "./appendLogWalk.ts"

/** Bytes that a stream reads at a time, unless a batch is larger. */
export const streamBlockBytes = 256 * 1024
/** Bytes that the reading of one record begins with. */
export const recordBlockBytes = 4096
/** Bytes that are read at a time to find out where a batch begins. */
const searchBlockBytes = 4096
const searchScanBlockBytes = 1024 * 1024

/** @internal */
export interface ReaderParts {
  readonly vfs: Vfs["Service"]
  readonly directory: string
  readonly logId: Uint8Array
  readonly segments: AppendLogSegments
  readonly durable: () => Lsn
}

interface OpenedFile {
  readonly segment: Segment
  readonly file: VfsFile
  readonly scope: Scope.Closeable
}

/** A stretch of a segment that is durable and whole batches. */
interface Stretch {
  readonly segment: Segment
  readonly end: Lsn
}

/**
 * A reader on its way through the log. Its descriptor is closed with the scope that it was made in.
 *
 * @internal
 */
export class AppendLogReader {
  private readonly parts: ReaderParts
  private readonly scope: Scope.Scope
  private readonly blockBytes: number
  /** Where it goes on: the start of a batch; before the first block, where it was told to begin. */
  private position: Lsn
  /** Records before this position are not asked for. */
  private readonly from: Lsn
  private isPlaced = false
  private opened: OpenedFile | undefined

  constructor(parts: ReaderParts, scope: Scope.Scope, from: Lsn, blockBytes: number) {
    this.parts = parts
    this.scope = scope
    this.blockBytes = blockBytes
    this.from = from
    this.position = from
  }

  /** Everything durable has been read. */
  get isCaughtUp(): boolean {
    return this.position >= this.parts.durable()
  }

  /**
   * Reads on and answers the records that were found; there may be none, as in a batch of nothing but pads. Not to be
   * called when it has caught up.
   */
  readonly next: Effect.Effect<Array<LogRecord>, ReadError> = Effect.gen({ self: this }, function*() {
    invariant(!this.isCaughtUp, "a reader reads what is durable")
    if (!this.isPlaced) {
      this.position = yield* this.place(this.from)
      this.isPlaced = true
      // Behind the last record of a log that was emptied there was nothing but the mark of its batch.
      if (this.isCaughtUp) return []
    }
    const { end, segment } = yield* this.stretchAt(this.position)
    const file = yield* this.fileOf(segment)
    for (let blockBytes = this.blockBytes;; blockBytes *= 2) {
      const length = Math.min(blockBytes, end - this.position)
      const bytes = new Uint8Array(length)
      const at = offsetOf(this.position, segment.startLsn)
      const found = yield* file.read(bytes, at)
      if (found < length) return yield* this.corrupt(segment, at + found, "ends inside of a batch")
      const view = new DataView(bytes.buffer)
      const walker = this.walker(segment, at, at + length)
      walker.take(bytes, view)
      if (walker.validEnd > at) {
        const records = this.recordsIn(bytes, view, walker.validEnd - at)
        if (records === undefined) return yield* new LsnNotAFrame({ log: this.parts.directory, lsn: this.from })
        this.position = lsnAt(walker.validEnd, segment.startLsn)
        return records
      }
      if (length === end - this.position) {
        const { offset, reason } = walker.stop ?? { offset: at, reason: "has no end" }
        return yield* this.corrupt(segment, offset, `has a batch that ${reason}`)
      }
    }
  })

  private walker(segment: Segment, from: number, limit: number): BatchWalker {
    return new BatchWalker({ logId: this.parts.logId, startLsn: segment.startLsn, from, limit })
  }

  /** The records of whole batches from `position` on; `undefined` when `from` is inside of a frame. */
  private recordsIn(bytes: Uint8Array, view: DataView, length: number): Array<LogRecord> | undefined {
    const { from, position } = this
    const records: Array<LogRecord> = []
    let isFrame = from <= position || from >= position + length
    for (let at = 0; at < length;) {
      const frameBytes = frameBytesAt(view, at)
      if (position + at === from) isFrame = true
      if (isRecordAt(view, at) && position + at >= from) {
        const start = at + frameHeadBytes
        records.push({
          start: toLsn(position + at),
          end: toLsn(position + at + frameBytes),
          payload: bytes.subarray(start, start + payloadBytesAt(view, at))
        })
      }
      at += frameBytes
    }
    return isFrame ? records : undefined
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Finding the batch to begin with
  // ---------------------------------------------------------------------------------------------------------------

  /**
   * The start of the batch that holds `from`. The commit frame that follows it names the start; what it says is only
   * believed when that batch turns out to be one. Else the segment is walked through from its beginning.
   */
  private place(from: Lsn): Effect.Effect<Lsn, ReadError> {
    return Effect.gen({ self: this }, function*() {
      const { firstKept } = this.parts.segments
      // Behind the last record of what was truncated there was nothing but the mark at the end of its batch.
      if (from + commitFrameBytes === firstKept) return firstKept
      const { end, segment } = yield* this.stretchAt(from)
      if (from === segment.startLsn) return from
      const file = yield* this.fileOf(segment)
      const named = yield* this.namedStart(file, segment, from, end)
      if (named !== undefined && (yield* this.isBatch(file, segment, named, end))) return named
      return yield* this.startByWalking(file, segment, from)
    })
  }

  /** The batch start in the first commit frame that is found from `from` on, taking it for a frame. */
  private namedStart(
    file: VfsFile,
    segment: Segment,
    from: Lsn,
    end: Lsn
  ): Effect.Effect<Lsn | undefined, VfsError> {
    return Effect.gen(function*() {
      if (from % 8 !== 0) return undefined
      const bytes = new Uint8Array(searchBlockBytes)
      const view = new DataView(bytes.buffer)
      for (let at: number = from; at < end;) {
        const found = Math.min(yield* file.read(bytes, offsetOf(toLsn(at), segment.startLsn)), end - at)
        let next = 0
        while (next + commitFrameBytes <= found) {
          const frameBytes = frameBytesAt(view, next)
          if (frameBytes <= 0) return undefined
          if (isCommitAt(view, next)) {
            const start = batchStartAt(view, next)
            return start >= segment.startLsn && start <= from && start % 8 === 0 ? toLsn(start) : undefined
          }
          next += frameBytes
        }
        if (next === 0) return undefined
        at += next
      }
      return undefined
    })
  }

  /** Whether a batch starts at `start`, which is checked without keeping it. */
  private isBatch(file: VfsFile, segment: Segment, start: Lsn, end: Lsn): Effect.Effect<boolean, VfsError> {
    const from = offsetOf(start, segment.startLsn)
    const walker = this.walker(segment, from, offsetOf(end, segment.startLsn))
    return Effect.map(
      this.walk(file, walker, from, searchBlockBytes, () => walker.validEnd > from),
      () => walker.validEnd > from
    )
  }

  /** The end of the batches that end at or before `from`. */
  private startByWalking(file: VfsFile, segment: Segment, from: Lsn): Effect.Effect<Lsn, VfsError> {
    const start = offsetOf(segment.startLsn, segment.startLsn)
    const limit = offsetOf(toLsn(from - (from % 8)), segment.startLsn)
    const walker = this.walker(segment, start, limit)
    return Effect.map(
      this.walk(file, walker, start, searchScanBlockBytes, () => false),
      () => lsnAt(walker.validEnd, segment.startLsn)
    )
  }

  private walk(
    file: VfsFile,
    walker: BatchWalker,
    from: number,
    blockBytes: number,
    isDone: () => boolean
  ): Effect.Effect<void, VfsError> {
    return Effect.gen(function*() {
      const bytes = new Uint8Array(blockBytes)
      for (let at = from; walker.stop === undefined && !isDone();) {
        const found = yield* file.read(bytes, at)
        const block = bytes.subarray(0, found)
        const next = walker.take(block, new DataView(bytes.buffer, 0, found))
        if (next === at) return
        at = next
      }
    })
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Files
  // ---------------------------------------------------------------------------------------------------------------

  private stretchAt(lsn: Lsn): Effect.Effect<Stretch, LsnTruncated> {
    return Effect.suspend(() => {
      const { directory, durable, segments } = this.parts
      const found = segments.find(lsn)
      if (found === undefined) {
        return Effect.fail(new LsnTruncated({ log: directory, lsn, firstKept: segments.firstKept }))
      }
      return Effect.succeed({ segment: found.segment, end: toLsn(Math.min(found.end ?? Infinity, durable())) })
    })
  }

  /** A descriptor of its own, so that a file that is removed can be read to the end of the call. */
  private fileOf(segment: Segment): Effect.Effect<VfsFile, LsnTruncated | VfsError> {
    return Effect.suspend(() => {
      const { opened } = this
      if (opened?.segment === segment) return Effect.succeed(opened.file)
      this.opened = undefined
      const close = opened === undefined ? Effect.void : Scope.close(opened.scope, Exit.void)
      return Effect.andThen(close, this.openFile(segment))
    })
  }

  private openFile(segment: Segment): Effect.Effect<VfsFile, LsnTruncated | VfsError> {
    return Effect.uninterruptible(Effect.suspend(() => {
      const scope = Scope.forkUnsafe(this.scope)
      return this.parts.vfs.open(segment.path, { access: "read" }).pipe(
        Scope.provide(scope),
        Effect.map((file) => {
          this.opened = { segment, file, scope }
          return file
        }),
        Effect.catchIf((error) => error.code === "ENOENT", (error) =>
          // It was truncated away between the look at the list and this.
          Effect.andThen(this.stretchAt(segment.startLsn), Effect.fail(error))),
        Effect.onError(() => Scope.close(scope, Exit.void))
      )
    }))
  }

  private corrupt(segment: Segment, offset: number, what: string): LogCorrupt {
    return new LogCorrupt({ lsn: this.position, path: segment.path, offset, what })
  }
}

/**
 * The segment files of an open log: which are kept, which one is written, how the next one begins.
 *
 * Invariants
 * 1. Only the leader of the group commit writes, or somebody whom a quiesce has put in its place: one at a time.
 * 2. A segment has its name, durably, before the first frame is written into it; and everything before it is durable
 *    before it has its name (LOG-07). So a log in which any but the last segment is bad was damaged, not cut off.
 * 3. `list` holds the kept segments, ascending, without a gap, never empty. A segment leaves it before its file is
 *    removed, from the front.
 * 4. The file that is written holds zeros behind the last frame, as far as `preparedEnd`; behind that it ends.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { Lsn } from "@tidemark/core/Scalars"
import { toLsn } from "@tidemark/core/Scalars"
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { encodeSegmentHeader, offsetOf, segmentFileName, segmentHeaderBytes } from "../AppendLogFormat.ts"
import * as LogMetrics from "../LogMetrics.ts"
import { SegmentPreparer } from "./appendLogPreparer.ts"
import { ZeroFill, zeros } from "./zeroFill.ts"

/** @internal */
export interface Segment {
  readonly index: bigint
  readonly startLsn: Lsn
  readonly path: string
}

interface OpenSegment {
  readonly segment: Segment
  readonly file: VfsFile
  readonly scope: Scope.Closeable
  /** There are zeros from the last frame up to here; `Infinity` when no more are going to be written. */
  preparedEnd: number
  /** Goes on from there. */
  fill: ZeroFill | undefined
}

/**
 * A segment whose file has everything but its name.
 *
 * @internal
 */
export interface MadeSegment {
  readonly segment: Segment
  readonly temporaryPath: string
  readonly filledEnd: number
  /** It was prepared in time. */
  readonly isComplete: boolean
}

/** @internal */
export interface SegmentsOptions {
  readonly vfs: Vfs["Service"]
  readonly directory: string
  readonly logId: Uint8Array
  readonly segmentBytes: number
  /** Zeros are written so many bytes at a time; 0: none are. */
  readonly preallocateBytes: number
  /** In which files are opened. It closes behind the group commit. */
  readonly scope: Scope.Scope
  /** For metrics. */
  readonly context: Context.Context<never>
  /** A sync of the file that is written has failed, of which nobody else may ever hear. */
  readonly onLostSync: (error: VfsError) => void
  readonly isPoisoned: () => boolean
}

/** A segment is filled as far ahead as it has come, but not further than so many pieces. */
const maxPiecesAhead = 16

const inBackground = { background: true } as const
const inForeground = { background: false } as const

/** @internal */
export class AppendLogSegments {
  readonly list: Array<Segment> = []
  private readonly options: SegmentsOptions
  private readonly preparer: SegmentPreparer
  private current: OpenSegment | undefined
  /** When the file is written up to here, there is something to prepare. */
  private choreFrom = 0
  private isNextStarted = false

  constructor(options: SegmentsOptions) {
    this.options = options
    this.preparer = new SegmentPreparer(options)
  }

  get firstKept(): Lsn {
    const first = this.list[0]
    invariant(first !== undefined, "an open log has a segment")
    return first.startLsn
  }

  /** The segment that is written. */
  get last(): Segment {
    const last = this.list.at(-1)
    invariant(last !== undefined, "an open log has a segment")
    return last
  }

  /** The kept segment that holds `lsn`, and where it ends if it is not the last. */
  find(lsn: number): { readonly segment: Segment; readonly end: Lsn | undefined } | undefined {
    let low = 0
    let high = this.list.length
    while (low < high) {
      const middle = (low + high) >> 1
      const segment = this.list[middle]
      if (segment !== undefined && segment.startLsn <= lsn) low = middle + 1
      else high = middle
    }
    const segment = this.list[low - 1]
    return segment === undefined ? undefined : { segment, end: this.list[low]?.startLsn }
  }

  /** Makes the first segment of a new log. */
  readonly createFirst: Effect.Effect<void, VfsError> = Effect.suspend(() =>
    Effect.flatMap(this.make(0n, toLsn(0)), (made) => this.install(made))
  )

  /** Goes on in the last of the segments that recovery found. */
  resume(segments: ReadonlyArray<Segment>): Effect.Effect<void, VfsError> {
    return Effect.gen({ self: this }, function*() {
      const last = segments.at(-1)
      invariant(last !== undefined, "a log that is not new has a segment")
      const opened = yield* this.openFile(last.path)
      this.list.push(...segments)
      this.continueIn({ segment: last, ...opened, preparedEnd: yield* opened.file.size, fill: undefined })
    })
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Writing: the calls of the sink
  // ---------------------------------------------------------------------------------------------------------------

  write(buffers: ReadonlyArray<Uint8Array>, lsn: Lsn): Effect.Effect<void, VfsError> {
    const current = this.open()
    const offset = offsetOf(lsn, current.segment.startLsn)
    if (this.isReady(current, offset, buffers)) return current.file.write(buffers, offset)
    return Effect.flatMap(this.makeReady(buffers, lsn), ({ at, file }) => this.unlessPoisoned(file.write(buffers, at)))
  }

  writeAndSync(buffers: ReadonlyArray<Uint8Array>, lsn: Lsn, background: boolean): Effect.Effect<void, VfsError> {
    const current = this.open()
    const offset = offsetOf(lsn, current.segment.startLsn)
    const how = background ? inBackground : inForeground
    if (this.isReady(current, offset, buffers)) {
      const written = current.file.writeAndSyncData(buffers, offset, how)
      return current.fill === undefined ? written : Effect.andThen(written, current.fill.answered)
    }
    return Effect.flatMap(
      this.makeReady(buffers, lsn),
      ({ at, file }) => this.unlessPoisoned(Effect.andThen(file.writeAndSyncData(buffers, at, how), this.fillAnswered))
    )
  }

  readonly sync: Effect.Effect<void, VfsError> = Effect.suspend(() =>
    Effect.andThen(this.open().file.syncData, this.fillAnswered)
  )

  private readonly fillAnswered: Effect.Effect<void> = Effect.suspend(() => this.current?.fill?.answered ?? Effect.void)

  /** Whether there is nothing to do but write. */
  private isReady(current: OpenSegment, offset: number, buffers: ReadonlyArray<Uint8Array>): boolean {
    const end = offset + byteLength(buffers)
    return offset < this.options.segmentBytes && end <= current.preparedEnd && end < this.choreFrom
  }

  private makeReady(buffers: ReadonlyArray<Uint8Array>, lsn: Lsn) {
    return Effect.gen({ self: this }, function*() {
      const { segmentBytes } = this.options
      if (offsetOf(lsn, this.open().segment.startLsn) >= segmentBytes) yield* this.rotate(lsn)
      const current = this.open()
      const at = offsetOf(lsn, current.segment.startLsn)
      const end = at + byteLength(buffers)
      if (current.fill !== undefined) current.preparedEnd = current.fill.filledEnd
      if (end > current.preparedEnd) yield* this.fillNow(current, end)
      yield* this.prepareAhead(current, end)
      return { at, file: current.file }
    })
  }

  /**
   * Zeros from the end of a batch on, right before the batch is written: nobody has filled so far ahead. A disk that has
   * no room for zeros may have some for the batch.
   */
  private fillNow(current: OpenSegment, end: number): Effect.Effect<void, VfsError> {
    return Effect.gen({ self: this }, function*() {
      yield* this.haltFill(current)
      if (end <= current.preparedEnd) return
      const { preallocateBytes, segmentBytes } = this.options
      const zeroBytes = Math.max(0, Math.min(preallocateBytes, segmentBytes - end))
      current.preparedEnd = zeroBytes === 0 ? Infinity : end + zeroBytes
      if (zeroBytes === 0) return
      yield* Effect.catchIf(current.file.write(zeros(zeroBytes), end), isFull, () =>
        Effect.sync(() => {
          current.preparedEnd = Infinity
        }))
    })
  }

  /** Starts what has to be there soon: the next segment, more zeros in this one. */
  private prepareAhead(current: OpenSegment, end: number): Effect.Effect<void> {
    return Effect.gen({ self: this }, function*() {
      const { preallocateBytes, segmentBytes } = this.options
      if (end >= segmentBytes / 2 && !this.isNextStarted) {
        this.isNextStarted = true
        yield* this.preparer.start(current.segment.index + 1n)
      }
      const { preparedEnd } = current
      const fillFrom = preparedEnd < segmentBytes ? preparedEnd - preallocateBytes / 2 : Infinity
      if (end >= fillFrom && current.fill?.isRunning !== true) {
        const ahead = Math.min(end + preallocateBytes, maxPiecesAhead * preallocateBytes)
        yield* this.startFill(current, Math.min(segmentBytes, preparedEnd + ahead))
      }
      this.choreFrom = Math.min(
        current.fill?.isRunning === true ? preparedEnd : fillFrom,
        this.isNextStarted ? Infinity : segmentBytes / 2
      )
    })
  }

  private startFill(current: OpenSegment, until: number): Effect.Effect<void> {
    const fill = new ZeroFill({
      open: this.options.vfs.open(current.segment.path, { access: "readWrite" }),
      from: current.preparedEnd,
      until,
      pieceBytes: this.options.preallocateBytes,
      onFailure: (error) =>
        Effect.suspend(() => {
          // A later sync of this file could succeed without what this one was to bring to the disk.
          if (error.operation === "syncData") this.options.onLostSync(error)
          current.fill = undefined
          current.preparedEnd = Infinity
          return Effect.logWarning(`${current.segment.path}: zeros could not be written ahead`, error)
        })
    })
    current.fill = fill
    return fill.startIn(this.options.scope)
  }

  private haltFill(current: OpenSegment): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { fill } = current
      if (fill === undefined) return Effect.void
      return Effect.map(fill.halt, () => {
        // Unless it has failed, and nothing is filled any more.
        if (current.fill === fill) current.preparedEnd = fill.filledEnd
        current.fill = undefined
      })
    })
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Rotating
  // ---------------------------------------------------------------------------------------------------------------

  /** Begins the segment that starts at `lsn`, where the one before it ends. */
  rotate(lsn: Lsn): Effect.Effect<void, VfsError> {
    return Effect.uninterruptible(
      Effect.flatMap(
        Effect.andThen(this.settle, this.unlessPoisoned(this.makeNext(lsn))),
        (made) => this.unlessPoisoned(this.enter(made))
      )
    )
  }

  /**
   * A batch takes several calls when it has to rotate first, and somebody may poison the log between two of them: then
   * the leader gives up, and nothing of the log is touched any more.
   */
  private unlessPoisoned<A>(step: Effect.Effect<A, VfsError>): Effect.Effect<A, VfsError> {
    return Effect.suspend(() => this.options.isPoisoned() ? Effect.interrupt : step)
  }

  /**
   * The first step of a rotation: what was written is durable, what was only written, too. Behind a later segment
   * recovery takes nothing for a torn tail. A failure is one of the log.
   */
  readonly settle: Effect.Effect<void, VfsError> = Effect.suspend(() => {
    const current = this.open()
    return Effect.andThen(this.haltFill(current), current.file.syncData)
  })

  /** The second: the next segment, whole and durable, but for its name. A failure changes nothing about the log. */
  makeNext(lsn: Lsn): Effect.Effect<MadeSegment, VfsError> {
    return Effect.suspend(() => {
      const { index, startLsn } = this.last
      invariant(startLsn < lsn, "a segment that is followed by another one is not empty")
      return this.make(index + 1n, lsn)
    })
  }

  /** The third: it has its name, and is the one that is written. A failure leaves the log nowhere to go. */
  enter(made: MadeSegment): Effect.Effect<void, VfsError> {
    return Effect.gen({ self: this }, function*() {
      const before = this.open()
      yield* this.install(made)
      yield* Scope.close(before.scope, Exit.void)
      LogMetrics.rotations.updateUnsafe(1, this.options.context)
      if (!made.isComplete) LogMetrics.unpreparedRotations.updateUnsafe(1, this.options.context)
    })
  }

  private make(index: bigint, startLsn: Lsn): Effect.Effect<MadeSegment, VfsError> {
    return Effect.gen({ self: this }, function*() {
      const { directory, logId } = this.options
      const { isComplete, segment: prepared } = yield* this.preparer.take(index)
      const createdUnixNanos = yield* Clock.currentTimeNanos
      const header = encodeSegmentHeader({ logId, startLsn, segmentIndex: index, createdUnixNanos })
      yield* Effect.andThen(prepared.file.write([header], 0), prepared.file.syncFull).pipe(
        Effect.ensuring(Scope.close(prepared.scope, Exit.void))
      )
      const segment = { index, startLsn, path: `${directory}/${segmentFileName(startLsn)}` }
      return { segment, temporaryPath: prepared.path, filledEnd: prepared.filledEnd, isComplete }
    })
  }

  private install({ filledEnd, segment, temporaryPath }: MadeSegment): Effect.Effect<void, VfsError> {
    return Effect.gen({ self: this }, function*() {
      const { directory, vfs } = this.options
      yield* vfs.rename(temporaryPath, segment.path)
      yield* vfs.syncDirectory(directory)
      // Under its own name, which errors then tell.
      const opened = yield* this.openFile(segment.path)
      this.list.push(segment)
      this.continueIn({ segment, ...opened, preparedEnd: Math.max(filledEnd, segmentHeaderBytes), fill: undefined })
    })
  }

  private continueIn(current: OpenSegment): void {
    this.current = current
    this.choreFrom = 0
    this.isNextStarted = false
    LogMetrics.segments.updateUnsafe(this.list.length, this.options.context)
  }

  private open(): OpenSegment {
    invariant(this.current !== undefined, "a log is written when it was opened")
    return this.current
  }

  private openFile(path: string) {
    return Effect.suspend(() => {
      const scope = Scope.forkUnsafe(this.options.scope)
      return this.options.vfs.open(path, { access: "readWrite" }).pipe(
        Scope.provide(scope),
        Effect.map((file) => ({ file, scope })),
        Effect.onError(() => Scope.close(scope, Exit.void))
      )
    })
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Letting go
  // ---------------------------------------------------------------------------------------------------------------

  /** Takes the first segment out of the log, if it ends at or before `limit` and is not the one that is written. */
  retireFirst(limit: Lsn): Segment | undefined {
    const [first, second] = this.list
    if (first === undefined || second === undefined || second.startLsn > limit) return undefined
    this.list.shift()
    LogMetrics.segments.updateUnsafe(this.list.length, this.options.context)
    return first
  }

  /** The log is poisoned: nothing in its directory is written any more. */
  stopPreparing(): void {
    this.preparer.stop()
    this.current?.fill?.stop()
  }

  /** Removes what was prepared for nothing. */
  get discardPrepared(): Effect.Effect<void> {
    return this.preparer.discard
  }
}

const isFull = ({ code }: VfsError): boolean => code === "ENOSPC" || code === "EDQUOT"

const byteLength = (buffers: ReadonlyArray<Uint8Array>): number => {
  let bytes = 0
  for (const buffer of buffers) bytes += buffer.length
  return bytes
}

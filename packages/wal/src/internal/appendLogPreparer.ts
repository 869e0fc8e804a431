/**
 * Makes the next segment of a log ahead of time: a file of zeros under a temporary name, so that a rotation has only
 * its header to write, and the syncs that follow change no metadata (LOG-07).
 *
 * Invariants
 * 1. At most one file is being prepared. It is filled from the front, and `filledBytes` of it are zeros on the disk's
 *    side of a sync.
 * 2. A rotation takes the file as far as it has come, but only when no write of zeros is under way on it: that write
 *    could otherwise land on frames.
 * 3. What goes wrong here is nobody's failure. The rotation makes a file of its own, and fails if it cannot.
 */
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { preparedSegmentName } from "../AppendLogFormat.ts"

/** Zeros that are written at a time; a rotation that cannot wait for more waits for these. */
export const zeroChunk = new Uint8Array(1024 * 1024)

/**
 * A file that becomes the next segment.
 *
 * @internal
 */
export interface PreparedSegment {
  readonly path: string
  readonly file: VfsFile
  readonly scope: Scope.Closeable
  /** The file has zeros from its start up to here. */
  filledBytes: number
}

/** @internal */
export class SegmentPreparer {
  private readonly vfs: Vfs["Service"]
  private readonly directory: string
  private readonly segmentBytes: number
  private readonly scope: Scope.Scope
  private prepared: PreparedSegment | undefined
  private fiber: Fiber.Fiber<void> | undefined
  /** A rotation is waiting: the fiber stops behind the write that is under way. */
  private isWanted = false

  constructor(vfs: Vfs["Service"], directory: string, segmentBytes: number, scope: Scope.Scope) {
    this.vfs = vfs
    this.directory = directory
    this.segmentBytes = segmentBytes
    this.scope = scope
  }

  /** Begins to prepare the segment with this index, unless that has begun. */
  start(index: bigint): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.fiber !== undefined) return Effect.void
      this.isWanted = false
      return Effect.map(
        Effect.forkIn(this.prepare(index), this.scope, { startImmediately: true }),
        (fiber) => {
          this.fiber = fiber
        }
      )
    })
  }

  /**
   * The file for the segment with this index: the prepared one, or a new and empty one. `isComplete` says that it was
   * there in time. Whoever takes it closes its scope.
   */
  take(index: bigint): Effect.Effect<{ readonly segment: PreparedSegment; readonly isComplete: boolean }, VfsError> {
    return Effect.gen({ self: this }, function*() {
      this.isWanted = true
      if (this.fiber !== undefined) yield* Fiber.await(this.fiber)
      const segment = this.prepared
      this.fiber = undefined
      this.prepared = undefined
      if (segment !== undefined) return { segment, isComplete: segment.filledBytes >= this.segmentBytes }
      return { segment: yield* this.create(index), isComplete: false }
    })
  }

  /** Nothing more is written. */
  stop(): void {
    this.isWanted = true
  }

  /** Removes what was prepared and not taken. */
  readonly discard: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    this.stop()
    if (this.fiber !== undefined) yield* Fiber.await(this.fiber)
    const { prepared } = this
    this.prepared = undefined
    if (prepared !== undefined) yield* this.remove(prepared)
  })

  private prepare(index: bigint): Effect.Effect<void> {
    return Effect.gen({ self: this }, function*() {
      const segment = yield* this.create(index)
      this.prepared = segment
      while (!this.isWanted && segment.filledBytes < this.segmentBytes) {
        const chunk = zeroChunk.subarray(0, this.segmentBytes - segment.filledBytes)
        yield* segment.file.writeAndSyncData([chunk], segment.filledBytes, { background: true })
        segment.filledBytes += chunk.length
      }
    }).pipe(
      Effect.catch((error) => {
        const { prepared } = this
        this.prepared = undefined
        const removed = prepared === undefined ? Effect.void : this.remove(prepared)
        return Effect.andThen(
          removed,
          Effect.logWarning(`${this.directory}: the next segment could not be prepared ahead`, error)
        )
      })
    )
  }

  private create(index: bigint): Effect.Effect<PreparedSegment, VfsError> {
    return Effect.uninterruptible(Effect.suspend(() => {
      const path = `${this.directory}/${preparedSegmentName(index)}`
      const scope = Scope.forkUnsafe(this.scope)
      return this.vfs.open(path, { access: "readWrite", create: "ifMissing" }).pipe(
        Effect.flatMap((file) =>
          // One of an attempt that failed, whatever it holds.
          Effect.as(file.truncate(0), { path, file, scope, filledBytes: 0 })
        ),
        Scope.provide(scope),
        Effect.onError(() => Scope.close(scope, Exit.void))
      )
    }))
  }

  private remove({ path, scope }: PreparedSegment): Effect.Effect<void> {
    return Effect.andThen(Scope.close(scope, Exit.void), Effect.ignore(this.vfs.remove(path)))
  }
}

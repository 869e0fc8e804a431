/**
 * Makes the next segment of a log ahead of time: a file of zeros under a temporary name, so that a rotation has only
 * its header to write (LOG-07).
 *
 * Invariants
 * 1. At most one file is being prepared.
 * 2. A rotation takes the file as far as it has come, when its filling has halted, or has failed and is removed.
 * 3. What goes wrong here is nobody's failure. The rotation makes a file of its own, and fails if it cannot.
 */
import type { Vfs, VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { preparedSegmentName } from "../AppendLogFormat.ts"
import { ZeroFill } from "./zeroFill.ts"

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
  readonly filledEnd: number
}

/** @internal */
export interface PreparerOptions {
  readonly vfs: Vfs["Service"]
  readonly directory: string
  readonly segmentBytes: number
  /** Zeros are written so many bytes at a time; 0: nothing is prepared. */
  readonly preallocateBytes: number
  readonly scope: Scope.Scope
}

/** @internal */
export class SegmentPreparer {
  private readonly vfs: Vfs["Service"]
  private readonly directory: string
  private readonly segmentBytes: number
  private readonly pieceBytes: number
  private readonly scope: Scope.Scope
  /** Makes the file; done when its filling may have begun. */
  private making: Fiber.Fiber<void> | undefined
  private made: { readonly segment: PreparedSegment; readonly fill: ZeroFill } | undefined
  private isStopped = false

  constructor(options: PreparerOptions) {
    this.vfs = options.vfs
    this.directory = options.directory
    this.segmentBytes = options.segmentBytes
    this.pieceBytes = options.preallocateBytes
    this.scope = options.scope
  }

  /** Begins to prepare the segment with this index, unless that has begun. */
  start(index: bigint): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.pieceBytes === 0 || this.making !== undefined || this.isStopped) return Effect.void
      return Effect.map(Effect.forkIn(this.make(index), this.scope, { startImmediately: true }), (fiber) => {
        this.making = fiber
      })
    })
  }

  /**
   * The file for the segment with this index: the prepared one, or a new and empty one. `isComplete` says that it was
   * there in time. Whoever takes it closes its scope.
   */
  take(index: bigint): Effect.Effect<{ readonly segment: PreparedSegment; readonly isComplete: boolean }, VfsError> {
    return Effect.gen({ self: this }, function*() {
      const made = yield* this.release
      if (made !== undefined) return { segment: made, isComplete: made.filledEnd >= this.segmentBytes }
      return { segment: yield* this.create(index), isComplete: false }
    })
  }

  /** Nothing more is written. */
  stop(): void {
    this.isStopped = true
    this.made?.fill.stop()
  }

  /** Removes what was prepared and not taken. */
  readonly discard: Effect.Effect<void> = Effect.suspend(() => {
    this.stop()
    return Effect.flatMap(this.release, (made) => made === undefined ? Effect.void : this.remove(made))
  })

  /** What was prepared, as far as it has come, and no longer the preparer's. */
  private readonly release = Effect.gen({ self: this }, function*() {
    if (this.making !== undefined) yield* Fiber.await(this.making)
    this.making = undefined
    if (this.made !== undefined) yield* this.made.fill.halt
    const { made } = this
    this.made = undefined
    return made === undefined ? undefined : { ...made.segment, filledEnd: made.fill.filledEnd }
  })

  private make(index: bigint): Effect.Effect<void> {
    return this.create(index).pipe(
      Effect.flatMap((segment) => {
        const fill = new ZeroFill({
          open: Effect.succeed(segment.file),
          from: 0,
          pieceBytes: this.pieceBytes,
          until: this.segmentBytes,
          onFailure: (error) => {
            // It is known for as long as its name is there: a rotation waits for that before it takes the name.
            const forget = Effect.sync(() => {
              this.made = undefined
            })
            return this.remove(segment).pipe(Effect.andThen(forget), Effect.andThen(this.complain(error)))
          }
        })
        this.made = { segment, fill }
        return fill.startIn(this.scope)
      }),
      Effect.catch((error) => this.complain(error))
    )
  }

  private complain(error: VfsError): Effect.Effect<void> {
    return Effect.logWarning(`${this.directory}: the next segment could not be prepared ahead`, error)
  }

  private create(index: bigint): Effect.Effect<PreparedSegment, VfsError> {
    return Effect.uninterruptible(Effect.suspend(() => {
      const path = `${this.directory}/${preparedSegmentName(index)}`
      const scope = Scope.forkUnsafe(this.scope)
      return this.vfs.open(path, { access: "readWrite", create: "ifMissing" }).pipe(
        Effect.flatMap((file) =>
          // One of an attempt that failed, whatever it holds.
          Effect.as(file.truncate(0), { path, file, scope, filledEnd: 0 })
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

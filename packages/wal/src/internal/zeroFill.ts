/**
 * Fills a file with zeros in a fiber of its own, piece by piece, each synced before it counts: so that what is written
 * there later finds its blocks, and its sync changes no metadata.
 *
 * Whoever wants to write into the part that is being filled halts it first: the write of zeros that is under way could
 * otherwise land on what was written. It halts within one piece.
 */
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"

const chunk = new Uint8Array(1024 * 1024)

/**
 * So many zeros, as buffers for a gather write.
 *
 * @internal
 */
export const zeros = (bytes: number): ReadonlyArray<Uint8Array> => {
  const buffers: Array<Uint8Array> = []
  for (let left = bytes; left > 0; left -= chunk.length) buffers.push(chunk.subarray(0, left))
  return buffers
}

/** @internal */
export interface ZeroFillOptions {
  /** The file, with a descriptor of its own: what is unsynced of it decides how others of it are written. */
  readonly open: Effect.Effect<VfsFile, VfsError, Scope.Scope>
  readonly from: number
  readonly until: number
  readonly pieceBytes: number
  /** Told when it ends before `until` because of this; what was filled before stays. */
  readonly onFailure: (error: VfsError) => Effect.Effect<void>
}

/** @internal */
export class ZeroFill {
  private end: number
  private readonly options: ZeroFillOptions
  private isHalted = false
  private fiber: Fiber.Fiber<void> | undefined
  /** Done when the sync that is under way has answered, and a failure was told. */
  private syncing: Deferred.Deferred<void> | undefined

  constructor(options: ZeroFillOptions) {
    this.options = options
    this.end = options.from
  }

  /** There are zeros up to here. */
  get filledEnd(): number {
    return this.end
  }

  get isRunning(): boolean {
    return this.fiber !== undefined && this.fiber.pollUnsafe() === undefined
  }

  /** Begins, once. The fiber ends with the scope. */
  startIn(scope: Scope.Scope): Effect.Effect<void> {
    return Effect.map(Effect.forkIn(this.run, scope, { startImmediately: true }), (fiber) => {
      this.fiber = fiber
    })
  }

  /** No piece is begun any more. */
  stop(): void {
    this.isHalted = true
  }

  /** Stops, and waits for the piece that is under way. */
  readonly halt: Effect.Effect<void> = Effect.suspend(() => {
    this.stop()
    return this.fiber === undefined ? Effect.void : Effect.asVoid(Fiber.await(this.fiber))
  })

  /**
   * Waits for the answer of a sync that is under way. It covers what others have written to the file meanwhile, and when
   * it fails and loses that, their own sync may not tell: they are not acknowledged before this.
   */
  readonly answered: Effect.Effect<void> = Effect.suspend(() =>
    this.syncing === undefined ? Effect.void : Deferred.await(this.syncing)
  )

  private readonly settleSync: Effect.Effect<void> = Effect.suspend(() => {
    const { syncing } = this
    this.syncing = undefined
    return syncing === undefined ? Effect.void : Effect.asVoid(Deferred.succeed(syncing, undefined))
  })

  private readonly run: Effect.Effect<void> = Effect.scoped(Effect.gen({ self: this }, function*() {
    const { open, pieceBytes, until } = this.options
    const file = yield* open
    while (!this.isHalted && this.end < until) {
      const bytes = Math.min(pieceBytes, until - this.end)
      yield* file.write(zeros(bytes), this.end)
      // Not as one call with the write: that would count as a competitor of the log's own, and send those to the pool.
      this.syncing = Deferred.makeUnsafe<void>()
      yield* file.syncData
      yield* this.settleSync
      this.end += bytes
    }
  })).pipe(Effect.catch((error) => this.options.onFailure(error)), Effect.ensuring(this.settleSync))
}

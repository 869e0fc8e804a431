/**
 * Which batches wait in which lane, in the order in which they were staged.
 *
 * Invariants (PW-03 ... PW-05)
 * 1. Ids begin at 1 and grow by one, over all lanes.
 * 2. `backlogFrames` is the sum of the frames of the batches that are queued.
 * 3. Batches leave a queue from its front and in its order, or by name when they are discarded.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { LaneId } from "@tidemark/core/Scalars"

/** What comparing a batch with the conservative path has shown; most batches are never compared. @internal */
export type ShadowVerdict = "not_run" | "clean" | "diverged"

/** @internal */
export interface StagedBatch<Payload> {
  readonly id: number
  readonly lane: LaneId
  readonly frames: number
  /** Milliseconds of the `Clock`. */
  readonly stagedAt: number
  shadow: ShadowVerdict
  readonly payload: Payload
}

/** @internal */
export class LaneStager<Payload> {
  /** Frames of all batches that are queued. */
  backlogFrames = 0
  private nextId = 1
  private readonly queues: Array<Array<StagedBatch<Payload>>>

  constructor(laneCount: number) {
    this.queues = Array.from({ length: laneCount }, () => [])
  }

  stage(lane: LaneId, frames: number, stagedAt: number, payload: Payload): StagedBatch<Payload> {
    const batch: StagedBatch<Payload> = { id: this.nextId, lane, frames, stagedAt, shadow: "not_run", payload }
    this.queueOf(lane).push(batch)
    this.nextId++
    this.backlogFrames += frames
    return batch
  }

  /**
   * Takes the batches with these ids, which have to be the front of the lane's queue, in its order. Otherwise nothing is
   * taken and the answer is `undefined`.
   */
  takeForFlush(lane: LaneId, ids: ReadonlyArray<number>): ReadonlyArray<StagedBatch<Payload>> | undefined {
    const queue = this.queueOf(lane)
    if (!ids.every((id, at) => queue[at]?.id === id)) return undefined
    const taken = queue.splice(0, ids.length)
    this.backlogFrames -= framesOf(taken)
    return taken
  }

  /** Removes stale batches, wherever they stand. Ids that are not queued, or no longer, change nothing. */
  discard(ids: Iterable<number>): void {
    const stale = new Set(ids)
    for (const [lane, queue] of this.queues.entries()) {
      const kept = queue.filter(({ id }) => !stale.has(id))
      if (kept.length === queue.length) continue
      this.backlogFrames -= framesOf(queue) - framesOf(kept)
      this.queues[lane] = kept
    }
  }

  private queueOf(lane: LaneId): Array<StagedBatch<Payload>> {
    const queue = this.queues[lane]
    invariant(queue !== undefined, "a batch is staged in a lane that there is")
    return queue
  }
}

const framesOf = (batches: ReadonlyArray<StagedBatch<unknown>>): number =>
  batches.reduce((sum, { frames }) => sum + frames, 0)

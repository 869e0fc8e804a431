/**
 * Which writer appends to which lane.
 *
 * Invariants (PW-01, PW-02)
 * 1. A writer keeps its lane until it detaches.
 * 2. While a lane is free, nobody shares one; the lowest free lane is taken first.
 * 3. Every id fits a u16, and there are no more lanes than slots.
 */
import { invariant } from "@tidemark/core/Invariant"
import { LaneId } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { ParallelWalMode } from "../ParallelWalControl.ts"

/** The lane count of a certificate is a u16, and so is the id of a lane (section 4 of `formats.md`). */
const maxLanes = 65_535

/**
 * How many lanes there are: `requested`, or as many as this process can run threads, between 1 and the slots. One in
 * conservative mode, whatever is asked for.
 *
 * @internal
 */
export const laneCount = (
  requested: number | undefined,
  slots: number,
  mode: ParallelWalMode,
  parallelism: number = navigator.hardwareConcurrency
): number => mode === "conservative" ? 1 : Math.max(1, Math.min(maxLanes, slots, requested ?? parallelism))

/** @internal */
export class LaneAssignment {
  /** Writers by lane, of lanes that are no longer in use too. */
  private readonly writers: Array<number> = []
  private lanes: number
  /** No lane below it is free; it need not be free itself. */
  private firstFree = 0
  private nextShared = 0

  constructor(lanes: number) {
    this.lanes = checkedLanes(lanes)
  }

  /** A writer's lane for as long as its scope is open. */
  readonly scoped: Effect.Effect<LaneId, never, Scope.Scope> = Effect.acquireRelease(
    Effect.sync(() => this.attach()),
    (lane) => Effect.sync(() => this.detach(lane))
  )

  /** How many lanes are given to writers from now on; those who have one keep it. */
  get laneCount(): number {
    return this.lanes
  }

  set laneCount(lanes: number) {
    this.lanes = checkedLanes(lanes)
  }

  /** The lowest lane that is free; when there is none, one that is shared, in turn. */
  attach(): LaneId {
    while (this.firstFree < this.lanes && this.writersOf(this.firstFree) > 0) this.firstFree++
    const lane = this.firstFree < this.lanes ? this.firstFree : this.nextShared++ % this.lanes
    this.writers[lane] = this.writersOf(lane) + 1
    return LaneId.make(lane)
  }

  detach(lane: LaneId): void {
    const writers = this.writersOf(lane)
    invariant(writers > 0, "a writer detaches from the lane that it was attached to, once")
    this.writers[lane] = writers - 1
    if (lane < this.firstFree) this.firstFree = lane
  }

  private writersOf(lane: number): number {
    return this.writers[lane] ?? 0
  }
}

const checkedLanes = (lanes: number): number => {
  invariant(Number.isInteger(lanes) && lanes >= 1 && lanes <= maxLanes, "there are 1 ... 65,535 lanes")
  return lanes
}

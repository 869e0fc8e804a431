/**
 * One lane's buffer: two halves, of which one takes appends while the other is written.
 *
 * ```text
 * writable --seal(e)--> sealed(e) --startFlush(e)--> flushing(e) --release(e)--> writable
 * ```
 *
 * A half is a count of bytes against the capacity; the bytes themselves go to the memory that all lanes share
 * (`laneMemory.ts`).
 *
 * Invariants (PW-06)
 * 1. One half is writable at any time, so an append never waits for a flush.
 * 2. A half leaves a state only by the transition above, for the epoch it was sealed with; anything else is a defect.
 * 3. `usedBytes <= capacityBytes`; equality fits.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { WalEpoch } from "@tidemark/core/Scalars"
import type { LaneBatch, LaneMemory, Placed } from "./laneMemory.ts"

/** The half that does not take appends. `writable`: it is free, and will when the other is sealed. @internal */
export type OtherHalf =
  | { readonly state: "writable" }
  | { readonly state: "sealed" | "flushing"; readonly epoch: WalEpoch; readonly usedBytes: number }

const free: OtherHalf = { state: "writable" }

/** @internal */
export class LaneBuffer<Batch extends LaneBatch> {
  /** Accounted bytes of the half that takes appends. */
  usedBytes = 0
  other: OtherHalf = free
  readonly capacityBytes: number
  private readonly memory: LaneMemory<Batch>

  constructor(capacityBytes: number, memory: LaneMemory<Batch>) {
    this.capacityBytes = capacityBytes
    this.memory = memory
  }

  get freeBytes(): number {
    return this.capacityBytes - this.usedBytes
  }

  /** Stores the batch as a whole, or nothing of it when it does not fit. */
  tryAppend(batch: Batch): Placed<Batch> | undefined {
    const usedBytes = this.usedBytes + batch.accountedBytes
    if (usedBytes > this.capacityBytes) return undefined
    const placed = this.memory.place(batch)
    this.usedBytes = usedBytes
    return placed
  }

  seal(epoch: WalEpoch): void {
    invariant(this.other.state === "writable", "a lane is sealed when its other half is writable again")
    this.other = { state: "sealed", epoch, usedBytes: this.usedBytes }
    this.usedBytes = 0
  }

  startFlush(epoch: WalEpoch): void {
    const { other } = this
    invariant(other.state === "sealed", "a flush starts with a sealed half")
    invariant(other.epoch === epoch, "a half is flushed in the epoch that it was sealed with")
    this.other = { state: "flushing", epoch, usedBytes: other.usedBytes }
  }

  release(epoch: WalEpoch): void {
    const { other } = this
    invariant(other.state === "flushing", "only a half that is flushed becomes writable again")
    invariant(other.epoch === epoch, "a half is released in the epoch that it was sealed with")
    this.other = free
  }

  /** Empties both halves, whatever they hold: the end of a log that could not be written. */
  abandon(): void {
    this.usedBytes = 0
    this.other = free
  }
}

/**
 * Which snapshots are in use, and the oldest of them.
 *
 * Snapshots are taken of the published sequence, which only grows, so they are registered in growing order: the first
 * key of the map is the oldest, and everything is O(1).
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"

/**
 * @category models
 * @since 0.1.0
 */
export class SnapshotRegistry {
  private readonly counts = new Map<CommitSeq, number>()
  private newest: CommitSeq | undefined
  private waiters: Array<{ readonly isMet: () => boolean; readonly resume: () => void }> = []

  /** The oldest snapshot in use, `undefined` when there is none. */
  get oldest(): CommitSeq | undefined {
    for (const seq of this.counts.keys()) return seq
    return undefined
  }

  acquire(high: CommitSeq): void {
    invariant(this.newest === undefined || high >= this.newest, "snapshots are taken in growing order")
    this.newest = high
    this.counts.set(high, (this.counts.get(high) ?? 0) + 1)
  }

  release(high: CommitSeq): void {
    const count = this.counts.get(high)
    invariant(count !== undefined, "a snapshot is released once")
    if (count > 1) {
      this.counts.set(high, count - 1)
      return
    }
    this.counts.delete(high)
    if (this.waiters.length === 0) return
    const met = this.waiters.filter((waiter) => waiter.isMet())
    this.waiters = this.waiters.filter((waiter) => !met.includes(waiter))
    for (const waiter of met) waiter.resume()
  }

  /** Whether no snapshot below `seq` is in use. */
  isAtLeast(seq: CommitSeq): boolean {
    const { oldest } = this
    return oldest === undefined || oldest >= seq
  }

  /** Waits until no snapshot below `seq` is in use. */
  awaitAtLeast(seq: CommitSeq): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      if (this.isAtLeast(seq)) return resume(Exit.void)
      const waiter = { isMet: () => this.isAtLeast(seq), resume: () => resume(Exit.void) }
      this.waiters.push(waiter)
      return Effect.sync(() => {
        this.waiters = this.waiters.filter((other) => other !== waiter)
      })
    })
  }
}

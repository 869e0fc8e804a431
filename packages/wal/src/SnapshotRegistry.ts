/**
 * Which snapshots are in use, and the oldest of them.
 *
 * Snapshots are taken of the published sequence, which only grows, so holds are registered in growing order and stand
 * in a queue: the oldest one in use is at its front. Every operation is O(1), amortised.
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import type { CommitSeq } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"

/**
 * A hold on a snapshot, for the registry that gave it.
 *
 * @category models
 * @since 0.1.0
 */
export interface SnapshotHold {
  readonly high: CommitSeq
}

/** All holds on one snapshot share an entry. */
interface Entry extends SnapshotHold {
  holds: number
}

/** Entries without holds at the front of the queue are cut off when there are so many of them. */
const maxDeadEntries = 256

/**
 * @category models
 * @since 0.1.0
 */
export class SnapshotRegistry {
  private entries: Array<Entry> = []
  private head = 0
  private waiters: Array<{ readonly isMet: () => boolean; readonly resume: () => void }> = []

  /** The oldest snapshot in use, `undefined` when there is none. */
  get oldest(): CommitSeq | undefined {
    return this.entries[this.head]?.high
  }

  /** Holds a snapshot, which is not older than any held before. */
  acquire(high: CommitSeq): SnapshotHold {
    const last = this.entries.at(-1)
    if (last !== undefined && last.high === high) {
      last.holds++
      return last
    }
    invariant(last === undefined || high > last.high, "snapshots are taken in growing order")
    const entry: Entry = { high, holds: 1 }
    this.entries.push(entry)
    return entry
  }

  /** Ends a hold. Once for each `acquire`. */
  release(hold: SnapshotHold): void {
    // Only `acquire` makes holds, and it makes entries.
    const entry = hold as Entry
    invariant(entry.holds > 0, "a snapshot is released once")
    entry.holds--
    if (entry.holds > 0 || entry !== this.entries[this.head]) return
    while (this.entries[this.head]?.holds === 0) this.head++
    if (this.head === this.entries.length || this.head > maxDeadEntries) {
      this.entries = this.entries.slice(this.head)
      this.head = 0
    }
    if (this.waiters.length > 0) this.wake()
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

  private wake(): void {
    const met = this.waiters.filter((waiter) => waiter.isMet())
    this.waiters = this.waiters.filter((waiter) => !met.includes(waiter))
    for (const waiter of met) waiter.resume()
  }
}

/**
 * Whether it pays to write the next batch while those are woken who waited for the one before (decision 0007).
 *
 * Let n writers wait in a closed loop, each of whom works for w once he is woken, and let a sync of their batch take
 * s + t: a fixed time s, and a time t for its bytes. Woken all together they take s + t + n w for a round. In two
 * groups a round has two syncs, and takes 2 s + t when the disk is the slower part, n w when the processor is. So two
 * groups are faster exactly when n w is more than s: when the work of all takes longer than a sync of nothing.
 *
 * Both times are measured as the log runs. Under a clock that stands still both are 0, and the number of waiters decides
 * alone.
 */

/** Fewer waiters than this are woken together: another sync for them would not pay on any disk. */
const minWaiters = 32

/** Weight of the newest measurement: an outlier is forgotten after some 20 batches. */
const newestWeight = 0.125

/** No disk that syncs takes a byte in less; what is above it counts as fixed. */
const nanosPerByte = 0.5

/** @internal */
export class OverlapRule {
  private syncNanos = 0
  private wakeNanos = 0

  /** A batch of so many bytes took so long to be written and synced. */
  synced(nanos: number, bytes: number): void {
    this.syncNanos += (Math.max(0, nanos - bytes * nanosPerByte) - this.syncNanos) * newestWeight
  }

  /** So many writers were woken, and it took so long until all of them waited again or had gone. */
  woke(nanos: number, writers: number): void {
    this.wakeNanos += (nanos / writers - this.wakeNanos) * newestWeight
  }

  /** `due` writers are to be woken, and so many others wait already. */
  pays(due: number, waiting: number): boolean {
    return due >= minWaiters && this.wakeNanos * (due + waiting) >= this.syncNanos
  }
}

/**
 * Who waits for a watermark, in the order of the positions they wait for.
 *
 * Nearly everybody waits for a position behind all others, so an insertion is an append; taking the satisfied ones
 * moves a head index and cuts the array now and then.
 */

/** @internal */
export interface Waiter<Failure> {
  /** The position that has to be covered. */
  readonly target: number
  /** Called once, synchronously, when it is. May hand over new work. */
  readonly succeed: () => void
  /** Called once instead, when it never will be. */
  readonly fail: (failure: Failure) => void
}

/** @internal */
export class WaiterQueue<Failure> {
  private waiters: Array<Waiter<Failure>> = []
  private head = 0

  get size(): number {
    return this.waiters.length - this.head
  }

  /** The smallest position that is waited for, or `Infinity`. */
  get firstTarget(): number {
    return this.waiters[this.head]?.target ?? Infinity
  }

  /** How many wait for a position up to `limit`. */
  countUpTo(limit: number): number {
    let count = 0
    for (let i = this.head; i < this.waiters.length; i++) {
      const waiter = this.waiters[i]
      if (waiter === undefined || waiter.target > limit) break
      count++
    }
    return count
  }

  add(waiter: Waiter<Failure>): void {
    let at = this.waiters.length
    while (at > this.head) {
      const before = this.waiters[at - 1]
      if (before === undefined || before.target <= waiter.target) break
      at--
    }
    if (at === this.waiters.length) this.waiters.push(waiter)
    else this.waiters.splice(at, 0, waiter)
  }

  remove(waiter: Waiter<Failure>): void {
    const at = this.waiters.indexOf(waiter, this.head)
    if (at >= 0) this.waiters.splice(at, 1)
  }

  /** Takes out everybody whose position is covered by `watermark`, in order. */
  takeUpTo(watermark: number): ReadonlyArray<Waiter<Failure>> {
    const from = this.head
    let to = from
    for (; to < this.waiters.length; to++) {
      const waiter = this.waiters[to]
      if (waiter === undefined || waiter.target > watermark) break
    }
    if (to === this.waiters.length) {
      const due = from === 0 ? this.waiters : this.waiters.slice(from)
      this.waiters = []
      this.head = 0
      return due
    }
    const due = this.waiters.slice(from, to)
    this.head = to
    // The dead prefix is cut off when it is the larger part, which costs each waiter one move at most.
    if (this.head > 64 && this.head * 2 > this.waiters.length) {
      this.waiters = this.waiters.slice(this.head)
      this.head = 0
    }
    return due
  }

  takeAll(): ReadonlyArray<Waiter<Failure>> {
    return this.takeUpTo(Infinity)
  }
}

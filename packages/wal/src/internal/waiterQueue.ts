/**
 * Who waits for a watermark, in the order of the positions they wait for.
 *
 * Nearly everybody waits for a position behind all others, so an insertion is an append; taking the satisfied ones
 * moves a head index and cuts the arrays now and then.
 */

/** @internal */
export interface Waiter<Failure> {
  /** Called once, synchronously, when the position is covered. May hand over new work. */
  succeed(): void
  /** Called once instead, when it never will be. */
  fail(failure: Failure): void
}

/** @internal */
export class WaiterQueue<Failure> {
  private waiters: Array<Waiter<Failure>> = []
  /** The position that each waiter has to see covered. */
  private targets: Array<number> = []
  private head = 0

  get size(): number {
    return this.waiters.length - this.head
  }

  /** The smallest position that is waited for, or `Infinity`. */
  get firstTarget(): number {
    return this.targets[this.head] ?? Infinity
  }

  add(target: number, waiter: Waiter<Failure>): void {
    let at = this.targets.length
    while (at > this.head && (this.targets[at - 1] ?? 0) > target) at--
    if (at === this.targets.length) {
      this.targets.push(target)
      this.waiters.push(waiter)
    } else {
      this.targets.splice(at, 0, target)
      this.waiters.splice(at, 0, waiter)
    }
  }

  remove(waiter: Waiter<Failure>): void {
    const at = this.waiters.indexOf(waiter, this.head)
    if (at < 0) return
    this.targets.splice(at, 1)
    this.waiters.splice(at, 1)
  }

  /** Takes out everybody whose position is covered by `watermark`, in order. */
  takeUpTo(watermark: number): ReadonlyArray<Waiter<Failure>> {
    const from = this.head
    let to = from
    while (to < this.targets.length && (this.targets[to] ?? Infinity) <= watermark) to++
    const due = from === 0 && to === this.waiters.length ? this.waiters : this.waiters.slice(from, to)
    this.head = to
    // The dead prefix is cut off when it is the larger part, which costs each waiter one move at most.
    if (to === this.waiters.length || (to > 64 && to * 2 > this.waiters.length)) {
      this.waiters = this.waiters.slice(to)
      this.targets = this.targets.slice(to)
      this.head = 0
    }
    return due
  }

  takeAll(): ReadonlyArray<Waiter<Failure>> {
    return this.takeUpTo(Infinity)
  }
}

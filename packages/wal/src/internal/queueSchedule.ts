/**
 * Who may be taken next from a queue: the elements that wait, those that wait for their time, and the takers that wait
 * for either. It lives in memory only and follows from the durable state.
 *
 * An element enters when it becomes pending, and leaves when it is chosen. What it was chosen for is durable later; until
 * then nobody else finds it here.
 */
import * as Latch from "effect/Latch"
import { MinHeap } from "./minHeap.ts"
import type { StoredElement } from "./queueState.ts"

/** @internal */
export class QueueSchedule {
  /** Opened by everything that a waiting taker should look at. */
  readonly news = Latch.makeUnsafe(false)
  private readonly ready = new MinHeap<StoredElement>((element) => element.order)
  private readonly delayed = new MinHeap<StoredElement>((element) => element.visibleAt)

  add(element: StoredElement): void {
    this.delayed.push(element)
    this.news.openUnsafe()
  }

  /** Takes out the element that has been ready for longest and has an attempt left. */
  choose(nowMillis: number, maxAttempts: number): StoredElement | undefined {
    for (
      let { first } = this.delayed;
      first !== undefined && first.visibleAt <= nowMillis;
      first = this.delayed.first
    ) {
      this.delayed.pop()
      this.ready.push(first)
    }
    // Takers with different limits are rare: who allows fewer attempts than others leaves the rest to them.
    const skipped: Array<StoredElement> = []
    let chosen = this.ready.pop()
    while (chosen !== undefined && chosen.attempts >= maxAttempts) {
      skipped.push(chosen)
      chosen = this.ready.pop()
    }
    for (const element of skipped) this.ready.push(element)
    return chosen
  }

  /** When the next element that is not ready yet will be, milliseconds since 1970; infinite when there is none. */
  get nextVisibleAt(): number {
    return this.delayed.first?.visibleAt ?? Number.POSITIVE_INFINITY
  }
}

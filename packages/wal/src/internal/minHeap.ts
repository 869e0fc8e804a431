/** A binary heap: the item with the smallest rank first, at logarithmic cost. */

/** @internal */
export class MinHeap<A> {
  private readonly items: Array<A> = []
  private readonly rankOf: (item: A) => number

  constructor(rankOf: (item: A) => number) {
    this.rankOf = rankOf
  }

  get size(): number {
    return this.items.length
  }

  get first(): A | undefined {
    return this.items[0]
  }

  push(item: A): void {
    const { items, rankOf } = this
    const rank = rankOf(item)
    let at = items.length
    items.push(item)
    while (at > 0) {
      const up = (at - 1) >> 1
      const parent = items[up]
      if (parent === undefined || rankOf(parent) <= rank) break
      items[at] = parent
      at = up
    }
    items[at] = item
  }

  pop(): A | undefined {
    const { items } = this
    const first = items[0]
    const last = items.pop()
    if (last !== undefined && items.length > 0) this.sink(last)
    return first
  }

  /** Puts an item at the top and lets it down to its place. */
  private sink(item: A): void {
    const { items, rankOf } = this
    const rank = rankOf(item)
    let at = 0
    for (let child = this.smallerChild(at); child !== undefined; child = this.smallerChild(at)) {
      if (rankOf(child.item) >= rank) break
      items[at] = child.item
      at = child.at
    }
    items[at] = item
  }

  private smallerChild(at: number): { readonly at: number; readonly item: A } | undefined {
    const left = this.items[at * 2 + 1]
    const right = this.items[at * 2 + 2]
    if (left === undefined) return undefined
    return right !== undefined && this.rankOf(right) < this.rankOf(left)
      ? { at: at * 2 + 2, item: right }
      : { at: at * 2 + 1, item: left }
  }
}

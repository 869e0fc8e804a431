/** First in, first out, at constant cost: an array whose dead front is cut off when it is the larger part. */

/** @internal */
export class Fifo<A> {
  private items: Array<A> = []
  private head = 0

  get size(): number {
    return this.items.length - this.head
  }

  get first(): A | undefined {
    return this.items[this.head]
  }

  push(item: A): void {
    this.items.push(item)
  }

  shift(): A | undefined {
    const item = this.items[this.head]
    if (item === undefined) return undefined
    this.head++
    if (this.head > 64 && this.head * 2 > this.items.length) {
      this.items = this.items.slice(this.head)
      this.head = 0
    }
    return item
  }

  /** Takes an item out wherever it stands; answers whether it was there. */
  remove(item: A): boolean {
    const at = this.items.indexOf(item, this.head)
    if (at < 0) return false
    this.items.splice(at, 1)
    return true
  }

  takeAll(): ReadonlyArray<A> {
    const items = this.items.slice(this.head)
    this.items = []
    this.head = 0
    return items
  }
}

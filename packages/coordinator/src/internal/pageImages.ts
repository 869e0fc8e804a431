/**
 * Pages with their bytes, like a `Map`. The first page has a place of its own, because most transactions write few pages
 * and many write one: a map of one entry costs more than all else that such a transaction keeps.
 *
 * Invariant: a page is in the place of its own or in the map, never in both.
 */
import type { PageNumber } from "@tidemark/core/Scalars"
import type { PageReceiver } from "../WriteSet.ts"

export class PageImages {
  private firstPage: PageNumber | undefined = undefined
  private firstBytes: Uint8Array | undefined = undefined
  private others: Map<PageNumber, Uint8Array> | undefined = undefined

  get size(): number {
    const own = this.firstPage === undefined ? 0 : 1
    return this.others === undefined ? own : own + this.others.size
  }

  get(page: PageNumber): Uint8Array | undefined {
    return page === this.firstPage ? this.firstBytes : this.others?.get(page)
  }

  has(page: PageNumber): boolean {
    return page === this.firstPage || this.others?.has(page) === true
  }

  set(page: PageNumber, bytes: Uint8Array): void {
    if (page === this.firstPage) this.firstBytes = bytes
    else if (this.firstPage === undefined && this.others === undefined) {
      this.firstPage = page
      this.firstBytes = bytes
    } else {
      this.others ??= new Map()
      this.others.set(page, bytes)
    }
  }

  delete(page: PageNumber): boolean {
    if (page !== this.firstPage) return this.others?.delete(page) === true
    this.firstPage = undefined
    this.firstBytes = undefined
    return true
  }

  /** Ascending. */
  pages(): Array<PageNumber> {
    const { firstPage, others } = this
    if (others === undefined) return firstPage === undefined ? [] : [firstPage]
    const pages = Array.from(others.keys())
    if (firstPage !== undefined) pages.push(firstPage)
    return pages.sort((a, b) => a - b)
  }

  giveTo(receiver: PageReceiver, isOwn: boolean): void {
    const { firstBytes, firstPage, others } = this
    if (firstPage !== undefined && firstBytes !== undefined) receiver.receive(firstPage, firstBytes, isOwn)
    if (others !== undefined) { for (const [page, bytes] of others) receiver.receive(page, bytes, isOwn) }
  }

  toMap(): Map<PageNumber, Uint8Array> {
    const map = new Map<PageNumber, Uint8Array>()
    const { firstBytes, firstPage, others } = this
    if (firstPage !== undefined && firstBytes !== undefined) map.set(firstPage, firstBytes)
    if (others !== undefined) { for (const [page, bytes] of others) map.set(page, bytes) }
    return map
  }

  clear(): void {
    this.firstPage = undefined
    this.firstBytes = undefined
    this.others = undefined
  }
}

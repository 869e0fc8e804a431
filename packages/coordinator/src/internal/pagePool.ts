/**
 * Memory of pages that were let go, for those that come next: a page that is written lives in its write set, then in
 * the page cache until later versions push it out, and allocating it anew costs more than everything else that is done
 * with it.
 *
 * Whoever gives a page back must be the last one to know it.
 */

/** Bytes that are kept for each page size. */
const maxPooledBytes = 4 * 1024 * 1024

const pools = new Map<number, Array<Uint8Array>>()
/** The pool that was used last: nearly every process has pages of one size. */
let lastSize = 0
let lastPool: Array<Uint8Array> = []

const poolOf = (size: number): Array<Uint8Array> => {
  if (size === lastSize) return lastPool
  const pool = pools.get(size) ?? []
  pools.set(size, pool)
  lastSize = size
  lastPool = pool
  return pool
}

/** @internal A page with the contents of `bytes`. */
export const copyPage = (bytes: Uint8Array): Uint8Array => {
  const pooled = poolOf(bytes.length).pop()
  // Not `slice`, which for a Node `Buffer` answers a view of the same bytes.
  if (pooled === undefined) return new Uint8Array(bytes)
  pooled.set(bytes)
  return pooled
}

/** @internal */
export const giveBack = (page: Uint8Array): void => {
  const pool = poolOf(page.length)
  if (pool.length * page.length < maxPooledBytes) pool.push(page)
}

/**
 * Pages that a database counts but that nothing holds.
 */

/** @internal */
export interface MissingPages {
  readonly count: number
  readonly first: number
}

/** SQLite never writes the page that holds its lock bytes, at 2^30. */
const lockBytesAt = 2 ** 30

/** @internal The pages that are neither in the database file nor in the log, whose pages are `inLog`. */
export const missingPages = (
  pageSize: number | undefined,
  databasePages: number,
  databaseFileBytes: number,
  inLog: Iterable<number>
): MissingPages => {
  const none = { count: 0, first: 0 }
  if (pageSize === undefined) return none
  const wholePages = Math.floor(databaseFileBytes / pageSize)
  if (databasePages <= wholePages) return none
  const there = new Set<number>()
  for (const page of inLog) if (page > wholePages && page <= databasePages) there.add(page)
  const lockPage = lockBytesAt / pageSize + 1
  if (lockPage > wholePages && lockPage <= databasePages) there.add(lockPage)
  const count = databasePages - wholePages - there.size
  if (count === 0) return none
  let first = wholePages + 1
  while (there.has(first)) first++
  return { count, first }
}

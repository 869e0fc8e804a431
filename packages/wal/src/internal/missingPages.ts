/**
 * Pages that a database counts but that nothing holds.
 */
import type { StartUpProblem } from "../StartUp.ts"

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

/** @internal What is not as it should be with the pages of a database file. */
export const problemOfPages = (
  path: string,
  pageSize: number | undefined,
  databasePages: number,
  fileBytes: number,
  missing: MissingPages
): StartUpProblem | undefined => {
  if (pageSize === undefined) return undefined
  if (missing.count > 0) {
    return {
      path,
      offset: (missing.first - 1) * pageSize,
      what: `${missing.count} of ${databasePages} pages, page ${missing.first} first, are in no file`,
      severity: "corrupt"
    }
  }
  if (fileBytes % pageSize === 0) return undefined
  return {
    path,
    offset: fileBytes - fileBytes % pageSize,
    what: "the file ends inside of a page, which the log holds or the database does not need",
    severity: "tail"
  }
}

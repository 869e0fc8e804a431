/**
 * The header of a SQLite database, and whether the file is as long as it says. The b-trees are SQLite's own business:
 * `PRAGMA integrity_check` looks at them.
 *
 * @since 0.1.0
 */
import type { VfsError } from "@tidemark/platform/VfsError"
import * as DatabaseHeaderFormat from "@tidemark/wal/DatabaseHeaderFormat"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { type Inspection, type OpenedFile, type Problem, problemOf } from "./Inspection.ts"

/**
 * Looks at an open file as a database, on its own: what a `-wal` beside it holds is for `verify`.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectSqliteDatabase = Effect.fnUntraced(function*(
  { bytes, file }: OpenedFile
): Effect.fn.Return<Inspection, VfsError> {
  const headerBytes = new Uint8Array(Math.min(DatabaseHeaderFormat.databaseHeaderBytes, bytes))
  yield* file.read(headerBytes, 0)
  const decoded = DatabaseHeaderFormat.decode(headerBytes)
  if (Result.isFailure(decoded)) {
    return {
      kind: "sqlite-database",
      header: null,
      summary: {},
      problems: [problemOf(decoded.failure)],
      records: undefined
    }
  }
  const header = decoded.success
  const databasePages = DatabaseHeaderFormat.databasePagesOf(header, bytes)
  return {
    kind: "sqlite-database",
    header: { ...header },
    summary: {
      newestCommits: newestCommits(header),
      databaseSizeInPages: databasePages,
      wholePagesInFile: Math.floor(bytes / header.pageSize)
    },
    problems: problemsOf(header.pageSize, databasePages, bytes),
    records: undefined
  }
})

const newestCommits = (header: DatabaseHeaderFormat.DatabaseHeader): string =>
  DatabaseHeaderFormat.isTidemarkLog(header)
    ? "in a parallel or native log"
    : DatabaseHeaderFormat.isWal(header)
    ? "in the -wal beside the file, if there is one"
    : "in the file"

const problemsOf = (pageSize: number, databasePages: number, bytes: number): ReadonlyArray<Problem> => {
  if (bytes < databasePages * pageSize) {
    return [{
      offset: bytes,
      what: `the file ends at byte ${bytes}, and ${databasePages} pages of ${pageSize} bytes end at ${
        databasePages * pageSize
      }; a -wal beside it may hold the rest`,
      severity: "corrupt"
    }]
  }
  return bytes % pageSize === 0
    ? []
    : [{ offset: bytes - bytes % pageSize, what: "the file ends inside of a page", severity: "tail" }]
}

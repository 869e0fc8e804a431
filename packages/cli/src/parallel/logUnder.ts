/**
 * Which log the commands open a database with: the one that it is in the middle of.
 *
 * @since 0.1.0
 */
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { readCertificateLog } from "@tidemark/wal/CertificateLog"
import { logKindOf } from "@tidemark/wal/ParallelStartUp"
import { listSegments } from "@tidemark/wal/SegmentStore"
import * as Effect from "effect/Effect"

/**
 * The logs that a database is opened with. A native log is refused by either.
 *
 * @category models
 * @since 0.1.0
 */
export type OpenedLog = "sqlite" | "parallel"

/**
 * The log to open a database with. Where none has commits that are not in the database file it is the SQLite WAL, unless
 * something of a parallel log is left that only that one looks at: segments, or certificates that do not check.
 *
 * @category predicates
 * @since 0.1.0
 */
export const logUnder = Effect.fnUntraced(function*(path: string): Effect.fn.Return<OpenedLog, VfsError, Vfs> {
  const vfs = yield* Vfs
  const kind = yield* logKindOf(vfs, path)
  if (kind !== "none") return kind === "parallel" ? "parallel" : "sqlite"
  const certificates = yield* readCertificateLog(vfs, path)
  if (certificates !== undefined) {
    const { damage, headerIssue, tornBytes } = certificates
    if (damage !== undefined || headerIssue !== undefined || tornBytes > 0) return "parallel"
  }
  const segments = yield* listSegments(vfs, path).pipe(
    Effect.catchIf(({ code }) => code === "ENOENT", () => Effect.succeed([]))
  )
  return segments.length > 0 ? "parallel" : "sqlite"
})

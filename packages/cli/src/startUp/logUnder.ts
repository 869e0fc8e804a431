/**
 * Which log the commands open a database with: the one that it is in the middle of.
 *
 * @since 0.1.0
 */
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { listCapsules } from "@tidemark/wal/CapsuleStore"
import { readCertificateLog } from "@tidemark/wal/CertificateLog"
import { markersDirectory } from "@tidemark/wal/MarkerFormat"
import { examineNative } from "@tidemark/wal/NativeStartUp"
import { logKindOf } from "@tidemark/wal/ParallelStartUp"
import { listSegments } from "@tidemark/wal/SegmentStore"
import * as Effect from "effect/Effect"
import type { DatabaseLog } from "../database.ts"

/**
 * The log to open a database with. Where none has commits that are not in the database file it is the SQLite WAL, unless
 * something of another log is left that only that one looks at: segments, or certificates that do not check; capsules,
 * or a marker stream that ends torn or is the history of the newest commits. A database that says it is in the middle of a
 * log of which only capsules are there is one with a native log that has lost its markers, and no parallel one.
 *
 * @category predicates
 * @since 0.1.0
 */
export const logUnder = Effect.fnUntraced(function*(path: string): Effect.fn.Return<DatabaseLog, VfsError, Vfs> {
  const vfs = yield* Vfs
  const kind = yield* logKindOf(vfs, path)
  if (kind === "parallel" && (yield* hasCapsulesOnly(vfs, path))) return "native"
  if (kind !== "none") return kind
  if (yield* hasLeftParallel(vfs, path)) return "parallel"
  return (yield* hasLeftNative(vfs, path)) ? "native" : "sqlite"
})

const ifThere = <A>(files: Effect.Effect<ReadonlyArray<A>, VfsError>) =>
  Effect.catchIf(files, ({ code }) => code === "ENOENT", () => Effect.succeed<ReadonlyArray<A>>([]))

const hasCapsulesOnly = Effect.fnUntraced(function*(vfs: Vfs["Service"], path: string) {
  if ((yield* listCapsules(vfs, path)).length === 0) return false
  if ((yield* readCertificateLog(vfs, path)) !== undefined) return false
  return (yield* ifThere(listSegments(vfs, path))).length === 0
})

const hasLeftParallel = Effect.fnUntraced(function*(vfs: Vfs["Service"], path: string) {
  const certificates = yield* readCertificateLog(vfs, path)
  if (certificates !== undefined) {
    const { damage, headerIssue, tornBytes } = certificates
    if (damage !== undefined || headerIssue !== undefined || tornBytes > 0) return true
  }
  return (yield* ifThere(listSegments(vfs, path))).length > 0
})

const hasLeftNative = Effect.fnUntraced(function*(vfs: Vfs["Service"], path: string) {
  if ((yield* vfs.identify(markersDirectory(path))) === undefined) return false
  const { markers, orphans, removable, tipSource, tornTailBytes } = yield* examineNative(vfs, path)
  return markers !== undefined &&
    (tipSource === "marker" || tornTailBytes > 0 || orphans.length > 0 || removable.length > 0)
})

/**
 * Recognises a file by its contents and looks at it as what it is.
 *
 * @since 0.1.0
 */
import * as SharedHeaderFormat from "@tidemark/coordinator/SharedHeaderFormat"
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as AppendLogFormat from "@tidemark/wal/AppendLogFormat"
import * as CapsuleFormat from "@tidemark/wal/CapsuleFormat"
import * as CertificateFormat from "@tidemark/wal/CertificateFormat"
import * as CheckpointMarkFormat from "@tidemark/wal/CheckpointMarkFormat"
import * as DatabaseHeaderFormat from "@tidemark/wal/DatabaseHeaderFormat"
import * as LeaseFormat from "@tidemark/wal/LeaseFormat"
import * as MarkerFormat from "@tidemark/wal/MarkerFormat"
import * as SegmentFormat from "@tidemark/wal/SegmentFormat"
import * as SqliteWalFormat from "@tidemark/wal/SqliteWalFormat"
import * as WalBaseFormat from "@tidemark/wal/WalBaseFormat"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { OperationFailed } from "../ExitCode.ts"
import { inspectSegment } from "./appendLogInspection.ts"
import { inspectCapsule } from "./capsuleInspection.ts"
import { inspectCertificateLog } from "./certificateLogInspection.ts"
import type { Inspection, OpenedFile } from "./Inspection.ts"
import { inspectMarkerSegment } from "./markerInspection.ts"
import { inspectParallelSegment } from "./parallelSegmentInspection.ts"
import { inspectSharedHeader } from "./sharedHeaderInspection.ts"
import { inspectCheckpointMark, inspectLease, inspectWalBase } from "./smallFileInspection.ts"
import { inspectSqliteDatabase } from "./sqliteDatabaseInspection.ts"
import { inspectSqliteWal } from "./sqliteWalInspection.ts"

interface Format {
  readonly name: string
  /** Bytes that its decoder wants. */
  readonly bytes: number
  readonly decode: (bytes: Uint8Array) => Result.Result<unknown, FormatIssue>
  readonly inspect: (opened: OpenedFile) => Effect.Effect<Inspection, VfsError | OperationFailed, Vfs>
}

const formats: ReadonlyArray<Format> = [
  {
    name: "SQLite WAL",
    bytes: SqliteWalFormat.walHeaderBytes,
    decode: SqliteWalFormat.decodeHeader,
    inspect: inspectSqliteWal
  },
  {
    name: "SQLite database",
    bytes: DatabaseHeaderFormat.databaseHeaderBytes,
    decode: DatabaseHeaderFormat.decode,
    inspect: inspectSqliteDatabase
  },
  { name: "WAL base", bytes: WalBaseFormat.walBaseBytes, decode: WalBaseFormat.decode, inspect: inspectWalBase },
  {
    name: "checkpoint mark",
    bytes: CheckpointMarkFormat.checkpointMarkBytes,
    decode: CheckpointMarkFormat.decode,
    inspect: inspectCheckpointMark
  },
  {
    name: "parallel segment",
    bytes: SegmentFormat.segmentHeaderBytes,
    decode: SegmentFormat.decodeHeader,
    inspect: inspectParallelSegment
  },
  {
    name: "certificate log",
    bytes: CertificateFormat.certificateLogHeaderBytes,
    decode: CertificateFormat.decodeHeader,
    inspect: inspectCertificateLog
  },
  {
    name: "coordinator lease",
    bytes: LeaseFormat.leaseBytes,
    decode: LeaseFormat.decode,
    inspect: inspectLease
  },
  {
    name: "append log segment",
    bytes: AppendLogFormat.segmentHeaderBytes,
    decode: AppendLogFormat.decodeSegmentHeader,
    inspect: (opened) => Effect.flatMap(Vfs, (vfs) => inspectSegment(opened, vfs))
  },
  {
    name: "marker segment",
    bytes: MarkerFormat.markerSegmentHeaderBytes,
    decode: MarkerFormat.decodeHeader,
    inspect: inspectMarkerSegment
  },
  {
    name: "commit capsule",
    bytes: CapsuleFormat.capsuleHeaderBytes,
    decode: CapsuleFormat.decodeHeader,
    inspect: inspectCapsule
  },
  {
    name: "shared-memory header",
    bytes: SharedHeaderFormat.sharedHeaderBytes,
    // Also while somebody is still filling it, under a magic of its own.
    decode: (bytes) => SharedHeaderFormat.isInitializing(bytes) ? Result.void : SharedHeaderFormat.decode(bytes),
    inspect: inspectSharedHeader
  }
]

/** What the decoders say of bytes that are not of their format. */
const otherFormat: ReadonlySet<string> = new Set(["BadMagic", "ShmBadMagic"])

const longestHeader = Math.max(...formats.map(({ bytes }) => bytes))

/**
 * A decoder looks at the magic before anything but the length, so that with the length put right (what a short file
 * lacks is zero) every answer but a bad magic means that the file is, or was, of this format.
 */
const isOf = (format: Format, start: Uint8Array): boolean =>
  Result.match(format.decode(start.slice(0, format.bytes)), {
    onSuccess: () => true,
    onFailure: ({ code }) => !otherFormat.has(code)
  })

/**
 * Inspects an open file.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectFile = Effect.fnUntraced(function*(
  opened: OpenedFile
): Effect.fn.Return<Inspection, VfsError | OperationFailed, Vfs> {
  const start = new Uint8Array(longestHeader)
  yield* opened.file.read(start, 0)
  const format = formats.find((candidate) => isOf(candidate, start))
  if (format !== undefined) return yield* format.inspect(opened)
  const nothing = { header: null, summary: {}, records: undefined }
  if (opened.bytes === 0) return { ...nothing, kind: "empty", problems: [] }
  return {
    ...nothing,
    kind: "unknown",
    problems: [{
      offset: 0,
      what: `the file begins with none of the magics that are known here (${
        formats.map(({ name }) => name).join(", ")
      })`,
      severity: "corrupt"
    }]
  }
})

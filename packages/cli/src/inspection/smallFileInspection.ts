/**
 * The small files of Tidemark's own that are one header: the WAL base, the checkpoint mark and the coordinator lease
 * (sections 2.1 to 2.3 of `formats.md`).
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as CheckpointMarkFormat from "@tidemark/wal/CheckpointMarkFormat"
import * as LeaseFormat from "@tidemark/wal/LeaseFormat"
import * as WalBaseFormat from "@tidemark/wal/WalBaseFormat"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { isoTime } from "../Style.ts"
import { type Fields, type InspectedKind, type Inspection, type OpenedFile, problemOf } from "./Inspection.ts"

/**
 * Looks at an open file as a WAL base.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectWalBase = (opened: OpenedFile): Effect.Effect<Inspection, VfsError> =>
  inspectWhole(opened, {
    kind: "wal-base",
    bytes: WalBaseFormat.walBaseBytes,
    decode: WalBaseFormat.decode,
    header: ({ baseCommitSeq, previousSalt1, previousSalt2, salt1, salt2, sealed }) => ({
      sealed,
      salt1,
      salt2,
      previousSalt1,
      previousSalt2,
      baseCommitSequence: baseCommitSeq
    }),
    summary: ({ baseCommitSeq, sealed }) => ({
      meaning: sealed
        ? `no WAL is needed; the last commit has the sequence ${baseCommitSeq}`
        : `the first commit of the WAL with these salts has the sequence ${baseCommitSeq + 1n}`
    })
  })

/**
 * Looks at an open file as a checkpoint mark.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectCheckpointMark = (opened: OpenedFile): Effect.Effect<Inspection, VfsError> =>
  inspectWhole(opened, {
    kind: "checkpoint-mark",
    bytes: CheckpointMarkFormat.checkpointMarkBytes,
    decode: CheckpointMarkFormat.decode,
    header: ({ certificateEpoch, databasePages, kind, segmentEpoch, through }) => ({
      kind,
      throughSequence: through,
      throughSegmentEpoch: segmentEpoch,
      throughCertificateEpoch: certificateEpoch,
      databasePages
    }),
    summary: ({ kind, through }) => ({
      meaning: `every commit of the ${kind} log up to sequence ${through} is in the database file`
    })
  })

/**
 * Looks at an open file as a coordinator lease. Who holds it is decided by the kernel lock, not by these bytes.
 *
 * @category inspection
 * @since 0.1.0
 */
export const inspectLease = (opened: OpenedFile): Effect.Effect<Inspection, VfsError> =>
  inspectWhole(opened, {
    kind: "coordinator-lease",
    bytes: LeaseFormat.leaseBytes,
    decode: LeaseFormat.decode,
    header: ({ acquiredUnixMillis, birth, expiresUnixMillis, generation, pid }) => ({
      pid,
      pidBirth: birth,
      generation,
      acquiredUnixMs: BigInt(acquiredUnixMillis),
      expiresUnixMs: BigInt(expiresUnixMillis)
    }),
    summary: ({ acquiredUnixMillis, expiresUnixMillis, pid }) => ({
      holder: pid === 0 ? "nobody" : `process ${pid}`,
      acquired: isoTime(acquiredUnixMillis),
      expires: isoTime(expiresUnixMillis)
    })
  })

const inspectWhole = Effect.fnUntraced(function*<A>(
  { file }: OpenedFile,
  format: {
    readonly kind: InspectedKind
    readonly bytes: number
    readonly decode: (bytes: Uint8Array) => Result.Result<A, FormatIssue>
    readonly header: (value: A) => Fields
    readonly summary: (value: A) => Fields
  }
): Effect.fn.Return<Inspection, VfsError> {
  // One byte more than the format has, so that a longer file is found to be one.
  const buffer = new Uint8Array(format.bytes + 1)
  const length = yield* file.read(buffer, 0)
  const decoded = format.decode(buffer.subarray(0, length))
  const rest = { kind: format.kind, records: undefined }
  return Result.match(decoded, {
    onFailure: (issue) => ({ ...rest, header: null, summary: {}, problems: [problemOf(issue)] }),
    onSuccess: (value) => ({ ...rest, header: format.header(value), summary: format.summary(value), problems: [] })
  })
})

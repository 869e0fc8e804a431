/**
 * The checkpoint mark (section 2.2 of `formats.md`): up to which commit everything is in the database file. 48 bytes,
 * little-endian. Kept by the logs that are not SQLite's own: the parallel one and the native one.
 *
 * **Details**
 *
 * 1. It is written after the database file has been synced, and before the first segment or capsule is deleted: what
 *    it says is never more than what is there.
 * 2. It is replaced as a whole: a start after a crash finds the mark before or the new one ({@link writeCheckpointMark}).
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { toCodec } from "@tidemark/core/BinaryFormat"
import { CommitSeq, toCommitSeq, WalEpoch } from "@tidemark/core/Scalars"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { directoryOf, readSmallFile, replaceFile } from "./AtomicFile.ts"
import type { FixedRecord } from "./internal/fixedRecord.ts"
import { encodeFixed, fixedIssue, openFixed } from "./internal/fixedRecord.ts"
import { sideDirectory } from "./WalBaseFormat.ts"

/**
 * Bytes of the file.
 *
 * @category constants
 * @since 0.1.0
 */
export const checkpointMarkBytes = 48

const record: FixedRecord = {
  format: "checkpoint mark",
  bytes: checkpointMarkBytes,
  // Its text, read as a little-endian u64.
  magic: 0x54504b43_4b4d4454n,
  magicText: "TDMKCKPT",
  version: 1
}

const offsets = {
  kind: 10,
  zero: 12,
  through: 16,
  segmentEpoch: 24,
  certificateEpoch: 32,
  databasePages: 40
} as const

const kindNumbers = { parallel: 1, native: 2 } as const

/**
 * The file that holds the checkpoint mark of a database.
 *
 * @category names
 * @since 0.1.0
 */
export const checkpointMarkPath = (database: string): string => `${sideDirectory(database)}/checkpoint`

/**
 * What the file says.
 *
 * @category models
 * @since 0.1.0
 */
export const CheckpointMark = Schema.Struct({
  /** Which log the checkpoint emptied. */
  kind: Schema.Literals(["parallel", "native"]),
  /** Every commit up to this one, included, is in the database file. */
  through: Schema.toType(CommitSeq),
  /** The newest segment whose records are in the database file: it and older ones may be deleted. */
  segmentEpoch: Schema.toType(WalEpoch),
  /** The certificate epoch of the last certificate before the checkpoint; later ones are higher. */
  certificateEpoch: Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 0n, maximum: 2n ** 64n - 1n })),
  /** Size of the database after that commit, in pages. */
  databasePages: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff }))
})
export type CheckpointMark = typeof CheckpointMark.Type

/**
 * Reads a checkpoint mark.
 *
 * **Details**
 *
 * Codes, in the order of the checks: `TooShort`, `TooLong`, `BadMagic`, `UnsupportedVersion`, `ChecksumMismatch`,
 * `UnknownKind`, `NotZero` (a field that has to be zero).
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): Result.Result<CheckpointMark, FormatIssue> => {
  const opened = openFixed(record, bytes)
  if (Result.isFailure(opened)) return Result.fail(opened.failure)
  const view = opened.success
  const kind = view.getUint16(offsets.kind, true)
  if (kind !== kindNumbers.parallel && kind !== kindNumbers.native) {
    return fixedIssue(record, "UnknownKind", "kind", offsets.kind, `${kind}`, "1 or 2")
  }
  const zero = view.getUint32(offsets.zero, true)
  if (zero !== 0) return fixedIssue(record, "NotZero", "zero field", offsets.zero, `${zero}`, "0")
  return Result.succeed({
    kind: kind === kindNumbers.parallel ? "parallel" : "native",
    through: toCommitSeq(view.getBigUint64(offsets.through, true)),
    segmentEpoch: WalEpoch.make(view.getBigUint64(offsets.segmentEpoch, true)),
    certificateEpoch: view.getBigUint64(offsets.certificateEpoch, true),
    databasePages: view.getUint32(offsets.databasePages, true)
  })
}

/**
 * The 48 bytes of a checkpoint mark, checksum included.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (mark: CheckpointMark): Uint8Array =>
  encodeFixed(record, (view) => {
    view.setUint16(offsets.kind, kindNumbers[mark.kind], true)
    view.setBigUint64(offsets.through, mark.through, true)
    view.setBigUint64(offsets.segmentEpoch, mark.segmentEpoch, true)
    view.setBigUint64(offsets.certificateEpoch, mark.certificateEpoch, true)
    view.setUint32(offsets.databasePages, mark.databasePages, true)
  })

/**
 * The checkpoint mark as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const CheckpointMarkFromBytes: Schema.Codec<CheckpointMark, Uint8Array> = toCodec<CheckpointMark>(
  CheckpointMark,
  { decode, encode }
)

/**
 * Writes the mark of a database durably, making the directory beside it when it is not there yet.
 *
 * **Details**
 *
 * When it succeeds the mark survives a power loss. When it fails, or a crash interrupts it, the mark before is still
 * there, or the new one: both are true, because the database file was synced before.
 *
 * @category writing
 * @since 0.1.0
 */
export const writeCheckpointMark = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  mark: CheckpointMark
): Effect.fn.Return<void, VfsError> {
  yield* vfs.makeDirectory(sideDirectory(database))
  // Also when it was there: who made it may have been killed before its name was durable.
  yield* vfs.syncDirectory(directoryOf(database))
  yield* replaceFile(vfs, checkpointMarkPath(database), encode(mark))
})

/**
 * The mark of a database: what {@link decode} says of the file, or `undefined` when there is none.
 *
 * @category reading
 * @since 0.1.0
 */
export const readCheckpointMark = (
  vfs: Vfs["Service"],
  database: string
): Effect.Effect<Result.Result<CheckpointMark, FormatIssue> | undefined, VfsError> =>
  Effect.map(
    readSmallFile(vfs, checkpointMarkPath(database), checkpointMarkBytes + 1),
    (bytes) => bytes === undefined ? undefined : decode(bytes)
  )

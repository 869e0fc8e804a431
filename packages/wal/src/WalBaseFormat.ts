/**
 * The WAL base (section 2.1 of `formats.md`): where the sequences of the commits in a `-wal` start. 48 bytes,
 * little-endian.
 *
 * **Details**
 *
 * Sequences of commits never go back, and a WAL of SQLite's has no place for them. The base ties one to the salts of a
 * generation, and remembers the salts of the generation before, because it is written before the new header is.
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { toCodec } from "@tidemark/core/BinaryFormat"
import { CommitSeq, toCommitSeq } from "@tidemark/core/Scalars"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { FixedRecord } from "./internal/fixedRecord.ts"
import { encodeFixed, fixedIssue, openFixed } from "./internal/fixedRecord.ts"

/**
 * Bytes of the file.
 *
 * @category constants
 * @since 0.1.0
 */
export const walBaseBytes = 48

const record: FixedRecord = {
  format: "WAL base",
  bytes: walBaseBytes,
  // Its text, read as a little-endian u64.
  magic: 0x45534142_4b4d4454n,
  magicText: "TDMKBASE",
  version: 1
}

const offsets = {
  sealed: 10,
  zero1: 12,
  salt1: 16,
  salt2: 20,
  previousSalt1: 24,
  previousSalt2: 28,
  baseCommitSeq: 32,
  zero2: 40
} as const

/**
 * The directory beside a database in which Tidemark keeps its own small files.
 *
 * @category constructors
 * @since 0.1.0
 */
export const sideDirectory = (databasePath: string): string => `${databasePath}.fsqlite`

/**
 * The file that holds the WAL base of a database.
 *
 * @category constructors
 * @since 0.1.0
 */
export const walBasePath = (databasePath: string): string => `${sideDirectory(databasePath)}/wal-base`

const U32 = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff }))

/**
 * What the file says.
 *
 * @category models
 * @since 0.1.0
 */
export const WalBase = Schema.Struct({
  /** Written when a checkpoint left no WAL behind: no or an empty `-wal` is then as it should be. */
  sealed: Schema.Boolean,
  salt1: U32,
  salt2: U32,
  /** The salts of the generation before, whose commits are all at or below the base. */
  previousSalt1: U32,
  previousSalt2: U32,
  /** The sequence of the last commit before the first one of this generation. */
  baseCommitSeq: Schema.toType(CommitSeq)
})
export type WalBase = typeof WalBase.Type

/**
 * Reads a WAL base.
 *
 * **Details**
 *
 * Codes, in the order of the checks: `TooShort`, `TooLong`, `BadMagic`, `UnsupportedVersion`, `ChecksumMismatch`,
 * `BadFlag` (sealed is neither 0 nor 1), `NotZero` (a field that has to be zero).
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): Result.Result<WalBase, FormatIssue> => {
  const opened = openFixed(record, bytes)
  if (Result.isFailure(opened)) return Result.fail(opened.failure)
  const view = opened.success
  const sealed = view.getUint16(offsets.sealed, true)
  if (sealed > 1) return fixedIssue(record, "BadFlag", "sealed", offsets.sealed, `${sealed}`, "0 or 1")
  for (const offset of [offsets.zero1, offsets.zero2]) {
    const found = view.getUint32(offset, true)
    if (found !== 0) return fixedIssue(record, "NotZero", "zero field", offset, `${found}`, "0")
  }
  return Result.succeed({
    sealed: sealed === 1,
    salt1: view.getUint32(offsets.salt1, true),
    salt2: view.getUint32(offsets.salt2, true),
    previousSalt1: view.getUint32(offsets.previousSalt1, true),
    previousSalt2: view.getUint32(offsets.previousSalt2, true),
    baseCommitSeq: toCommitSeq(view.getBigUint64(offsets.baseCommitSeq, true))
  })
}

/**
 * The 48 bytes of a WAL base, checksum included.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (base: WalBase): Uint8Array =>
  encodeFixed(record, (view) => {
    view.setUint16(offsets.sealed, base.sealed ? 1 : 0, true)
    view.setUint32(offsets.salt1, base.salt1, true)
    view.setUint32(offsets.salt2, base.salt2, true)
    view.setUint32(offsets.previousSalt1, base.previousSalt1, true)
    view.setUint32(offsets.previousSalt2, base.previousSalt2, true)
    view.setBigUint64(offsets.baseCommitSeq, base.baseCommitSeq, true)
  })

/**
 * The WAL base as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const WalBaseFromBytes: Schema.Codec<WalBase, Uint8Array> = toCodec<WalBase>(WalBase, { decode, encode })

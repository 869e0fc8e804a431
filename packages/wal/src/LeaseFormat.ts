/**
 * The coordinator lease (section 2.3 of `formats.md`): who coordinates the commits of a database, and since when.
 * 56 bytes, little-endian.
 *
 * **Details**
 *
 * The kernel lock on this file is the truth about who holds it. What stands in it is for messages, for hints, and for
 * the generation that fences off a holder who has lost it (CO-08).
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import { toCodec } from "@tidemark/core/BinaryFormat"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { FixedRecord } from "./internal/fixedRecord.ts"
import { encodeFixed, fixedIssue, openFixed } from "./internal/fixedRecord.ts"
import { sideDirectory } from "./WalBaseFormat.ts"

/**
 * Bytes of the file.
 *
 * @category constants
 * @since 0.1.0
 */
export const leaseBytes = 56

const record: FixedRecord = {
  format: "coordinator lease",
  bytes: leaseBytes,
  // Its text, read as a little-endian u64.
  magic: 0x5341454c_4b4d4454n,
  magicText: "TDMKLEAS",
  version: 1
}

const offsets = {
  zero1: 10,
  pid: 12,
  birth: 16,
  generation: 24,
  acquiredUnixMillis: 32,
  expiresUnixMillis: 40,
  zero2: 48
} as const

/**
 * The file that holds the lease of a database, and whose kernel lock is the lease.
 *
 * @category constructors
 * @since 0.1.0
 */
export const leasePath = (databasePath: string): string => `${sideDirectory(databasePath)}/lease`

const U32 = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff }))
const U64 = Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 0n, maximum: 2n ** 64n - 1n }))
const UnixMillis = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))

/**
 * What the file says.
 *
 * @category models
 * @since 0.1.0
 */
export const Lease = Schema.Struct({
  /** Process id of the holder; 0 means nobody. */
  pid: U32,
  /** When the holder was born, which tells it apart from a later process of the same pid; 0 when unknown. */
  birth: U64,
  /** Grows with every acquisition. */
  generation: U64,
  acquiredUnixMillis: UnixMillis,
  expiresUnixMillis: UnixMillis
})
export type Lease = typeof Lease.Type

/**
 * Reads a lease.
 *
 * **Details**
 *
 * Codes, in the order of the checks: `TooShort`, `TooLong`, `BadMagic`, `UnsupportedVersion`, `ChecksumMismatch`,
 * `NotZero` (a field that has to be zero), `OutOfRange` (a time above 2^53 - 1).
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): Result.Result<Lease, FormatIssue> => {
  const opened = openFixed(record, bytes)
  if (Result.isFailure(opened)) return Result.fail(opened.failure)
  const view = opened.success
  const zero1 = view.getUint16(offsets.zero1, true)
  if (zero1 !== 0) return fixedIssue(record, "NotZero", "zero field", offsets.zero1, `${zero1}`, "0")
  const zero2 = view.getUint32(offsets.zero2, true)
  if (zero2 !== 0) return fixedIssue(record, "NotZero", "zero field", offsets.zero2, `${zero2}`, "0")
  const acquired = view.getBigUint64(offsets.acquiredUnixMillis, true)
  if (acquired > Number.MAX_SAFE_INTEGER) {
    return fixedIssue(record, "OutOfRange", "acquired", offsets.acquiredUnixMillis, `${acquired}`, "at most 2^53 - 1")
  }
  const expires = view.getBigUint64(offsets.expiresUnixMillis, true)
  if (expires > Number.MAX_SAFE_INTEGER) {
    return fixedIssue(record, "OutOfRange", "expires", offsets.expiresUnixMillis, `${expires}`, "at most 2^53 - 1")
  }
  return Result.succeed({
    pid: view.getUint32(offsets.pid, true),
    birth: view.getBigUint64(offsets.birth, true),
    generation: view.getBigUint64(offsets.generation, true),
    acquiredUnixMillis: Number(acquired),
    expiresUnixMillis: Number(expires)
  })
}

/**
 * The 56 bytes of a lease, checksum included.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (lease: Lease): Uint8Array =>
  encodeFixed(record, (view) => {
    view.setUint32(offsets.pid, lease.pid, true)
    view.setBigUint64(offsets.birth, lease.birth, true)
    view.setBigUint64(offsets.generation, lease.generation, true)
    view.setBigUint64(offsets.acquiredUnixMillis, BigInt(lease.acquiredUnixMillis), true)
    view.setBigUint64(offsets.expiresUnixMillis, BigInt(lease.expiresUnixMillis), true)
  })

/**
 * The lease as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const LeaseFromBytes: Schema.Codec<Lease, Uint8Array> = toCodec<Lease>(Lease, { decode, encode })

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
import { FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import { crc32c } from "@tidemark/platform/Checksum"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { sideDirectory } from "./WalBaseFormat.ts"

/**
 * Bytes of the file.
 *
 * @category constants
 * @since 0.1.0
 */
export const leaseBytes = 56

/** `TDMKLEAS`, read as a little-endian u64. */
const magic = 0x5341454c_4b4d4454n
const formatVersion = 1

const offsets = {
  magic: 0,
  version: 8,
  zero1: 10,
  pid: 12,
  birth: 16,
  generation: 24,
  acquiredUnixMillis: 32,
  expiresUnixMillis: 40,
  zero2: 48,
  checksum: 52
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

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const issue = (code: string, field: string, offset: number, found: string, expected: string) =>
  Result.fail(new FormatIssue({ format: "coordinator lease", code, field, offset, found, expected }))

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
  if (bytes.length !== leaseBytes) {
    return issue(
      bytes.length < leaseBytes ? "TooShort" : "TooLong",
      "length",
      0,
      `${bytes.length} bytes`,
      `${leaseBytes} bytes`
    )
  }
  const view = viewOf(bytes)
  const foundMagic = view.getBigUint64(offsets.magic, true)
  if (foundMagic !== magic) {
    return issue(
      "BadMagic",
      "magic",
      offsets.magic,
      `0x${foundMagic.toString(16)}`,
      `0x${magic.toString(16)} (TDMKLEAS)`
    )
  }
  const version = view.getUint16(offsets.version, true)
  if (version !== formatVersion) {
    return issue("UnsupportedVersion", "version", offsets.version, `${version}`, `${formatVersion}`)
  }
  const stored = view.getUint32(offsets.checksum, true)
  const computed = crc32c(bytes.subarray(0, offsets.checksum))
  if (stored !== computed) {
    return issue("ChecksumMismatch", "CRC-32C", offsets.checksum, stored.toString(16), computed.toString(16))
  }
  const zero1 = view.getUint16(offsets.zero1, true)
  if (zero1 !== 0) return issue("NotZero", "zero field", offsets.zero1, `${zero1}`, "0")
  const zero2 = view.getUint32(offsets.zero2, true)
  if (zero2 !== 0) return issue("NotZero", "zero field", offsets.zero2, `${zero2}`, "0")
  const acquired = view.getBigUint64(offsets.acquiredUnixMillis, true)
  if (acquired > Number.MAX_SAFE_INTEGER) {
    return issue("OutOfRange", "acquired", offsets.acquiredUnixMillis, `${acquired}`, "at most 2^53 - 1")
  }
  const expires = view.getBigUint64(offsets.expiresUnixMillis, true)
  if (expires > Number.MAX_SAFE_INTEGER) {
    return issue("OutOfRange", "expires", offsets.expiresUnixMillis, `${expires}`, "at most 2^53 - 1")
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
export const encode = (lease: Lease): Uint8Array => {
  const bytes = new Uint8Array(leaseBytes)
  const view = viewOf(bytes)
  view.setBigUint64(offsets.magic, magic, true)
  view.setUint16(offsets.version, formatVersion, true)
  view.setUint32(offsets.pid, lease.pid, true)
  view.setBigUint64(offsets.birth, lease.birth, true)
  view.setBigUint64(offsets.generation, lease.generation, true)
  view.setBigUint64(offsets.acquiredUnixMillis, BigInt(lease.acquiredUnixMillis), true)
  view.setBigUint64(offsets.expiresUnixMillis, BigInt(lease.expiresUnixMillis), true)
  view.setUint32(offsets.checksum, crc32c(bytes.subarray(0, offsets.checksum)), true)
  return bytes
}

/**
 * The lease as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const LeaseFromBytes: Schema.Codec<Lease, Uint8Array> = toCodec<Lease>(Lease, { decode, encode })

/**
 * What the small files of fixed size have in common: a magic of eight bytes at the front, a version behind it, and a
 * CRC-32C of everything before it at the end, all little-endian.
 */
import { FormatIssue } from "@tidemark/core/BinaryFormat"
import { crc32c } from "@tidemark/platform/Checksum"
import * as Result from "effect/Result"

/** @internal */
export interface FixedRecord {
  /** The name of the format in issues. */
  readonly format: string
  readonly bytes: number
  readonly magic: bigint
  /** The magic as it reads in a dump. */
  readonly magicText: string
  readonly version: number
}

const hex = (value: number) => `0x${value.toString(16).padStart(8, "0")}`

const magicOffset = 0
const versionOffset = 8

/** @internal */
export const fixedIssue = (
  { format }: FixedRecord,
  code: string,
  field: string,
  offset: number,
  found: string,
  expected: string
) => Result.fail(new FormatIssue({ format, code, field, offset, found, expected }))

/**
 * The view of a record whose frame checks. Codes, in the order of the checks: `TooShort`, `TooLong`, `BadMagic`,
 * `UnsupportedVersion`, `ChecksumMismatch`.
 *
 * @internal
 */
export const openFixed = (record: FixedRecord, bytes: Uint8Array): Result.Result<DataView, FormatIssue> => {
  if (bytes.length !== record.bytes) {
    const code = bytes.length < record.bytes ? "TooShort" : "TooLong"
    return fixedIssue(record, code, "length", 0, `${bytes.length} bytes`, `${record.bytes} bytes`)
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const magic = view.getBigUint64(magicOffset, true)
  if (magic !== record.magic) {
    const expected = `0x${record.magic.toString(16)} (${record.magicText})`
    return fixedIssue(record, "BadMagic", "magic", magicOffset, `0x${magic.toString(16)}`, expected)
  }
  const version = view.getUint16(versionOffset, true)
  if (version !== record.version) {
    return fixedIssue(record, "UnsupportedVersion", "version", versionOffset, `${version}`, `${record.version}`)
  }
  const checksumOffset = record.bytes - 4
  const stored = view.getUint32(checksumOffset, true)
  const computed = crc32c(bytes.subarray(0, checksumOffset))
  if (stored !== computed) {
    return fixedIssue(record, "ChecksumMismatch", "CRC-32C", checksumOffset, hex(stored), hex(computed))
  }
  return Result.succeed(view)
}

/**
 * Makes a record: `fill` writes its fields, everything else is done here.
 *
 * @internal
 */
export const encodeFixed = (record: FixedRecord, fill: (view: DataView, bytes: Uint8Array) => void): Uint8Array => {
  const bytes = new Uint8Array(record.bytes)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(magicOffset, record.magic, true)
  view.setUint16(versionOffset, record.version, true)
  fill(view, bytes)
  const checksumOffset = record.bytes - 4
  view.setUint32(checksumOffset, crc32c(bytes.subarray(0, checksumOffset)), true)
  return bytes
}

/**
 * Segments of the parallel WAL written out from the format's description, field by field and in both versions, without
 * the encoder: also ones that no encoder would write, with checksums that fit.
 */
import { CommitSeq, PageNumber, TxnEpoch, TxnId, WalEpoch } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import fc from "fast-check"
import type { SegmentRecord } from "../../src/SegmentFormat.ts"
import { concat } from "./walFiles.ts"

export type Version = 1 | 2

export const epochOf = (value: bigint) => WalEpoch.make(value)

export const utf8 = (text: string) => new Uint8Array(new TextEncoder().encode(text))

/** A record of epoch 7 as Tidemark writes it, but for what is given. */
export const recordOf = (fields: {
  readonly id?: bigint
  readonly txnEpoch?: number
  readonly epoch?: bigint
  readonly page?: number
  readonly begin?: bigint
  readonly end?: bigint | undefined
  readonly before?: Uint8Array
  readonly after?: Uint8Array
}): SegmentRecord => {
  const begin = fields.begin ?? 10n
  const end = "end" in fields ? fields.end : begin
  return {
    token: { id: TxnId.make(fields.id ?? 1n), epoch: TxnEpoch.make(fields.txnEpoch ?? 0) },
    walEpoch: WalEpoch.make(fields.epoch ?? 7n),
    page: PageNumber.make(fields.page ?? 1),
    begin: CommitSeq.make(begin),
    end: end === undefined ? undefined : CommitSeq.make(end),
    before: fields.before ?? new Uint8Array(0),
    after: fields.after ?? utf8("after")
  }
}

/** What a record says when it says something that it must not. */
export interface Twisted {
  readonly txnId?: bigint
  readonly walEpoch?: bigint
  readonly page?: number
  readonly endFlag?: number
  readonly beforeLength?: number
  readonly afterLength?: number
  /** Bytes behind the after image. */
  readonly extra?: number
  /** What the length prefix says. */
  readonly length?: number
  /** How many of the record's bytes are there, its checksum not counted. */
  readonly cutTo?: number
  readonly checksum?: number
}

const u8 = (value: number) => Uint8Array.of(value)
const u16 = (value: number) => Uint8Array.of(value & 0xff, value >>> 8)
const u32 = (value: number) => concat(u16(value & 0xffff), u16(value >>> 16))
const u64 = (value: bigint) => concat(u32(Number(value & 0xffffffffn)), u32(Number(value >> 32n)))

export const recordBytesOf = (version: Version, record: SegmentRecord, twisted: Twisted = {}): Uint8Array => {
  const body = concat(
    u64(twisted.txnId ?? record.token.id),
    u32(record.token.epoch),
    u64(twisted.walEpoch ?? record.walEpoch),
    u32(twisted.page ?? record.page),
    u64(record.begin),
    u8(twisted.endFlag ?? (record.end === undefined ? 0 : 1)),
    record.end === undefined ? new Uint8Array(0) : u64(record.end),
    u32(twisted.beforeLength ?? record.before.length),
    record.before,
    u32(twisted.afterLength ?? record.after.length),
    record.after,
    new Uint8Array(twisted.extra ?? 0)
  ).subarray(0, twisted.cutTo)
  const whole = version === 1 ? body : concat(body, u32(twisted.checksum ?? crc32c(body)))
  return concat(u32(twisted.length ?? whole.length), whole)
}

export const headerBytesOf = (
  version: number,
  epoch: bigint,
  recordCount: number,
  options: { readonly magic?: number; readonly zero?: number } = {}
): Uint8Array => {
  const fields = concat(
    u32(options.magic ?? 0x5057414c),
    u16(version),
    u16(options.zero ?? 0),
    u64(epoch),
    u32(recordCount)
  )
  return concat(fields, u32(crc32c(fields)))
}

export const segmentBytesOf = (
  version: Version,
  epoch: bigint,
  records: ReadonlyArray<SegmentRecord>,
  recordCount = records.length
): Uint8Array =>
  concat(headerBytesOf(version, epoch, recordCount), ...records.map((record) => recordBytesOf(version, record)))

const u64s = fc.bigInt(0n, 2n ** 64n - 1n)
const images = fc.oneof(
  fc.constant(new Uint8Array(0)),
  fc.uint8Array({ maxLength: 40 }).map((bytes) => new Uint8Array(bytes)),
  // Behind 512 bytes the checksum is computed in another way.
  fc.integer({ min: 400, max: 700 }).map((length) => new Uint8Array(length).map((_, i) => i * 31))
)

/** Records of epoch 7. Few keys, so that some are equal. */
export const anyRecord: fc.Arbitrary<SegmentRecord> = fc.record({
  id: fc.oneof(fc.bigInt(1n, 3n), fc.bigInt(1n, 2n ** 62n - 1n)),
  txnEpoch: fc.nat(0xffffffff),
  page: fc.oneof(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 0xfffffffe })),
  begin: fc.oneof(fc.bigInt(0n, 3n), u64s),
  end: fc.option(u64s, { nil: undefined }),
  before: images,
  after: images
}).map(recordOf)

export const anyRecords = fc.array(anyRecord, { maxLength: 8 })

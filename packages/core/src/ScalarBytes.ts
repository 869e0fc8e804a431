/**
 * The forms of the scalars on disk (`formats.md` section 1) as Schema codecs from `Uint8Array`, in both byte orders.
 *
 * **Details**
 *
 * For tools, tests and messages, where a scalar stands by itself. A format that has a scalar among other fields reads
 * and writes it at its offset with a `DataView`, and checks it with `toLsn` and its like.
 *
 * @since 0.1.0
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import { FormatIssue, toCodec } from "./BinaryFormat.ts"
import * as Scalars from "./Scalars.ts"

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** The codec of a value that takes exactly `length` bytes. */
const fixed = <A>(
  name: string,
  length: number,
  target: Schema.Codec<A, A>,
  read: (view: DataView) => A,
  write: (view: DataView, value: A) => void
): Schema.Codec<A, Uint8Array> =>
  toCodec(target, {
    decode: (bytes) =>
      bytes.length === length ? Result.succeed(read(viewOf(bytes))) : Result.fail(
        new FormatIssue({
          format: name,
          code: "WrongLength",
          field: "length",
          offset: 0,
          found: `${bytes.length} bytes`,
          expected: `${length} bytes`
        })
      ),
    encode: (value) => {
      const bytes = new Uint8Array(length)
      write(viewOf(bytes), value)
      return bytes
    }
  })

const number = Schema.Number
const bigint = Schema.BigInt

const codecs = (littleEndian: boolean) => {
  const u16 = fixed("u16", 2, number, (v) => v.getUint16(0, littleEndian), (v, n) => v.setUint16(0, n, littleEndian))
  const u32 = fixed("u32", 4, number, (v) => v.getUint32(0, littleEndian), (v, n) => v.setUint32(0, n, littleEndian))
  const u64 = fixed(
    "u64",
    8,
    bigint,
    (v) => v.getBigUint64(0, littleEndian),
    (v, n) => v.setBigUint64(0, n, littleEndian)
  )
  const i64 = fixed(
    "i64",
    8,
    bigint,
    (v) => v.getBigInt64(0, littleEndian),
    (v, n) => v.setBigInt64(0, n, littleEndian)
  )
  const token = fixed(
    "transaction token",
    12,
    Schema.Struct({ id: bigint, epoch: number }),
    (v) => ({ id: v.getBigUint64(0, littleEndian), epoch: v.getUint32(8, littleEndian) }),
    (v, { epoch, id }) => {
      v.setBigUint64(0, id, littleEndian)
      v.setUint32(8, epoch, littleEndian)
    }
  )
  return {
    TxnId: u64.pipe(Schema.decodeTo(Scalars.TxnId)),
    TxnEpoch: u32.pipe(Schema.decodeTo(Scalars.TxnEpoch)),
    TxnToken: token.pipe(Schema.decodeTo(Scalars.TxnToken)),
    CommitSeq: u64.pipe(Schema.decodeTo(Scalars.CommitSeq)),
    SchemaEpoch: u64.pipe(Schema.decodeTo(Scalars.SchemaEpoch)),
    TableId: u32.pipe(Schema.decodeTo(Scalars.TableId)),
    RowId: i64.pipe(Schema.decodeTo(Scalars.RowId)),
    PageNumber: u32.pipe(Schema.decodeTo(Scalars.PageNumber)),
    PageSize: u32.pipe(Schema.decodeTo(Scalars.PageSize, SchemaTransformation.passthroughSupertype())),
    // From 2^53 on a number is not exact, but never below 2^53 either, so that the check of the LSN refuses it.
    Lsn: u64.pipe(Schema.decodeTo(Scalars.Lsn, SchemaTransformation.transform({ decode: Number, encode: BigInt }))),
    WalEpoch: u64.pipe(Schema.decodeTo(Scalars.WalEpoch)),
    LaneId: u16.pipe(Schema.decodeTo(Scalars.LaneId))
  }
}

/**
 * The scalars as little-endian bytes, the order of Tidemark's own files. An {@link Scalars.ObjectId} is its own bytes.
 *
 * **Example** (Reading a commit sequence)
 *
 * ```ts
 * import { littleEndian } from "@tidemark/core/ScalarBytes"
 * import { CommitSeq } from "@tidemark/core/Scalars"
 * import * as Schema from "effect/Schema"
 *
 * const bytes = new Uint8Array([7, 0, 0, 0, 0, 0, 0, 0])
 * Schema.decodeSync(littleEndian.CommitSeq)(bytes) // => 7n
 * Schema.encodeSync(littleEndian.CommitSeq)(CommitSeq.make(7n)) // => bytes
 * ```
 *
 * @category codecs
 * @since 0.1.0
 */
export const littleEndian = codecs(true)

/**
 * The scalars as big-endian bytes, the order of SQLite's files.
 *
 * @category codecs
 * @since 0.1.0
 */
export const bigEndian = codecs(false)

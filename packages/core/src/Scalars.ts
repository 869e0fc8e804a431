/**
 * The scalar types of the formats (`formats.md` section 1): branded, with their ranges, as Schema codecs.
 *
 * **Details**
 *
 * Each name is both a type and a schema. `X.make(value)` checks the range and brands; it throws on a value out of
 * range, so it is for values that a correct program computed. For input use `Schema.decodeUnknownEffect(X)`. On hot
 * paths `toLsn`, `toPageNumber` and `toCommitSeq` do the same check in a few nanoseconds. Values that count towards
 * 2^64 are `bigint`; byte positions are `number`, refused above 2^53 - 1. In JSON (`Schema.toCodecJson`) a `bigint` is
 * a decimal string and an {@link ObjectId} is hexadecimal; `ScalarBytes` has the forms on disk.
 *
 * @since 0.1.0
 */
import * as Hex from "effect/encoding/Hex"
import * as Order from "effect/Order"
import * as Schema from "effect/Schema"
import * as SchemaGetter from "effect/SchemaGetter"
import { invariant } from "./Invariant.ts"

const maxU16 = 0xffff
const maxU32 = 0xffffffff
const maxU64 = 2n ** 64n - 1n

const bigintBetween = (minimum: bigint, maximum: bigint) =>
  Schema.BigInt.check(Schema.isBetweenBigInt({ minimum, maximum }))
const intBetween = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

/**
 * Identity of a transaction, 1 ... 2^62 - 1. The two top bits of its u64 are slot tags; 0 means none.
 *
 * @category scalars
 * @since 0.1.0
 */
export const TxnId = bigintBetween(1n, 2n ** 62n - 1n).pipe(Schema.brand("TxnId"))
export type TxnId = typeof TxnId.Type

/**
 * Incarnation of a transaction id, u32, wraps.
 *
 * @category scalars
 * @since 0.1.0
 */
export const TxnEpoch = intBetween(0, maxU32).pipe(Schema.brand("TxnEpoch"))
export type TxnEpoch = typeof TxnEpoch.Type

/**
 * Identity of a transaction across processes, and the idempotency key of its commit.
 *
 * @category scalars
 * @since 0.1.0
 */
export const TxnToken = Schema.Struct({ id: TxnId, epoch: TxnEpoch })
export type TxnToken = typeof TxnToken.Type

/**
 * The key of a {@link TxnToken} in maps: equal tokens have equal keys.
 *
 * @category scalars
 * @since 0.1.0
 */
export const txnTokenKey = (token: TxnToken): string => `${token.id}.${token.epoch}`

/**
 * Position of a commit in the order of commits, u64. 0 means that nothing is committed.
 *
 * @category scalars
 * @since 0.1.0
 */
export const CommitSeq = bigintBetween(0n, maxU64).pipe(Schema.brand("CommitSeq"))
export type CommitSeq = typeof CommitSeq.Type

/**
 * Epoch of the schema, u64. Only equality means something.
 *
 * @category scalars
 * @since 0.1.0
 */
export const SchemaEpoch = bigintBetween(0n, maxU64).pipe(Schema.brand("SchemaEpoch"))
export type SchemaEpoch = typeof SchemaEpoch.Type

/**
 * A table, named by its root page, u32, not 0.
 *
 * @category scalars
 * @since 0.1.0
 */
export const TableId = intBetween(1, maxU32).pipe(Schema.brand("TableId"))
export type TableId = typeof TableId.Type

/**
 * A row id, i64: -2^63 ... 2^63 - 1.
 *
 * @category scalars
 * @since 0.1.0
 */
export const RowId = bigintBetween(-(2n ** 63n), 2n ** 63n - 1n).pipe(Schema.brand("RowId"))
export type RowId = typeof RowId.Type

/**
 * The largest row id, 2^63 - 1: a real one.
 *
 * @category scalars
 * @since 0.1.0
 */
export const maxRowId: RowId = RowId.make(2n ** 63n - 1n)

/**
 * Number of a database page, 1 ... 0xFFFFFFFE.
 *
 * @category scalars
 * @since 0.1.0
 */
export const PageNumber = intBetween(1, 0xfffffffe).pipe(Schema.brand("PageNumber"))
export type PageNumber = typeof PageNumber.Type

/**
 * The eight page sizes: the powers of two from 512 to 65,536 bytes.
 *
 * @category scalars
 * @since 0.1.0
 */
export const pageSizes = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] as const

/**
 * Bytes in a page: one of {@link pageSizes}.
 *
 * @category scalars
 * @since 0.1.0
 */
export const PageSize = Schema.Literals(pageSizes).pipe(Schema.brand("PageSize"))
export type PageSize = typeof PageSize.Type

/**
 * The page size of a new database, 4096 bytes.
 *
 * @category scalars
 * @since 0.1.0
 */
export const defaultPageSize: PageSize = PageSize.make(4096)

/**
 * A byte position in a log, u64 on disk, refused above 2^53 - 1.
 *
 * @category scalars
 * @since 0.1.0
 */
export const Lsn = intBetween(0, Number.MAX_SAFE_INTEGER).pipe(Schema.brand("Lsn"))
export type Lsn = typeof Lsn.Type

/**
 * Epoch of the parallel WAL, u64.
 *
 * @category scalars
 * @since 0.1.0
 */
export const WalEpoch = bigintBetween(0n, maxU64).pipe(Schema.brand("WalEpoch"))
export type WalEpoch = typeof WalEpoch.Type

/**
 * A lane of the parallel WAL, 0 ... 65534.
 *
 * @category scalars
 * @since 0.1.0
 */
export const LaneId = intBetween(0, maxU16 - 1).pipe(Schema.brand("LaneId"))
export type LaneId = typeof LaneId.Type

const objectIdBytes = 16

/**
 * Identity of a capsule, marker or proof, 16 bytes, made by hashing what it names.
 *
 * **Details**
 *
 * Ordered by {@link ObjectIdOrder}. In JSON, in file names and as the key of a map it is written as 32 lower-case
 * hexadecimal digits ({@link objectIdToHex}), because two arrays with equal bytes are two keys.
 *
 * @category scalars
 * @since 0.1.0
 */
export const ObjectId = Schema.instanceOf(globalThis.Uint8Array<ArrayBufferLike>, {
  expected: "Uint8Array",
  toCodecJson: () =>
    Schema.link<Uint8Array>()(Schema.String.check(Schema.isPattern(/^[0-9a-f]{32}$/)), {
      decode: SchemaGetter.decodeHex(),
      encode: SchemaGetter.encodeHex()
    })
}).check(Schema.makeFilter((bytes: Uint8Array) => bytes.length === objectIdBytes, { expected: "16 bytes" })).pipe(
  Schema.brand("ObjectId")
)
export type ObjectId = typeof ObjectId.Type

/**
 * The lexicographic order of object ids, which is also the order of their hexadecimal forms.
 *
 * @category ordering
 * @since 0.1.0
 */
export const ObjectIdOrder: Order.Order<ObjectId> = Order.make((self, that) => {
  for (let i = 0; i < objectIdBytes; i++) {
    const difference = (self[i] ?? 0) - (that[i] ?? 0)
    if (difference !== 0) return difference < 0 ? -1 : 1
  }
  return 0
})

/**
 * The 32 lower-case hexadecimal digits of an object id, as in the name of its capsule file.
 *
 * **Example** (Naming a capsule)
 *
 * ```ts
 * import { objectIdToHex, toObjectId } from "@tidemark/core/Scalars"
 *
 * objectIdToHex(toObjectId(new Uint8Array(16).fill(0xc5))) // => "c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5"
 * ```
 *
 * @category conversions
 * @since 0.1.0
 */
export const objectIdToHex = (id: ObjectId): string => Hex.encode(id)

/**
 * Brands 16 bytes that the program computed, without copying them; another length is a defect.
 *
 * @category constructors
 * @since 0.1.0
 */
export const toObjectId = (bytes: Uint8Array): ObjectId => {
  invariant(bytes.length === objectIdBytes, "an object id has 16 bytes")
  return bytes as ObjectId
}

/**
 * Brands a byte position that the program computed; a value out of range is a defect.
 *
 * @category constructors
 * @since 0.1.0
 */
export const toLsn = (value: number): Lsn => {
  invariant(Number.isSafeInteger(value) && value >= 0, "an LSN is a safe integer, not negative")
  return value as Lsn
}

/**
 * Brands a page number that the program computed; a value out of range is a defect.
 *
 * @category constructors
 * @since 0.1.0
 */
export const toPageNumber = (value: number): PageNumber => {
  invariant(Number.isInteger(value) && value >= 1 && value <= 0xfffffffe, "a page number is 1 ... 0xFFFFFFFE")
  return value as PageNumber
}

/**
 * Brands a commit sequence that the program computed; a value out of range is a defect.
 *
 * @category constructors
 * @since 0.1.0
 */
export const toCommitSeq = (value: bigint): CommitSeq => {
  invariant(value >= 0n && value <= maxU64, "a commit sequence fits into a u64")
  return value as CommitSeq
}

/**
 * Brands a transaction id that the program counted; a value out of range is a defect.
 *
 * @category constructors
 * @since 0.1.0
 */
export const toTxnId = (value: bigint): TxnId => {
  invariant(value >= 1n && value < 2n ** 62n, "a transaction id is 1 ... 2^62 - 1")
  return value as TxnId
}

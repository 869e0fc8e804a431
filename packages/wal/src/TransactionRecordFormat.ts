/**
 * Typed payloads for a log of transactions (section 5 of `formats.md`): one use of the append log, not part of its
 * framing. The first byte is the tag, everything else is little-endian.
 *
 * **Details**
 *
 * A payload says its own length nowhere but in {@link PageWrite}: the frame around it does. So a payload that is not
 * exactly as long as its tag wants is refused (LOG-13), and so is a tag that is not known.
 *
 * @since 0.1.0
 */
import { FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import { Lsn, PageNumber, toLsn, toPageNumber, toTxnId, TxnId } from "@tidemark/core/Scalars"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

const tags = { Begin: 1, Commit: 2, Rollback: 3, PageWrite: 4, Checkpoint: 5 } as const

const offsets = { tag: 0, txnId: 1, lsn: 1, page: 9, length: 13, bytes: 17 } as const
/** Bytes of a payload that holds nothing but a u64 beside its tag. */
const shortBytes = 9

/**
 * A transaction begins.
 *
 * @category models
 * @since 0.1.0
 */
export const Begin = Schema.TaggedStruct("Begin", { txnId: Schema.toType(TxnId) })

/**
 * A transaction is committed: whatever it wrote counts from here on.
 *
 * @category models
 * @since 0.1.0
 */
export const Commit = Schema.TaggedStruct("Commit", { txnId: Schema.toType(TxnId) })

/**
 * A transaction is given up: whatever it wrote never counts.
 *
 * @category models
 * @since 0.1.0
 */
export const Rollback = Schema.TaggedStruct("Rollback", { txnId: Schema.toType(TxnId) })

/**
 * A transaction writes `bytes` to a page.
 *
 * @category models
 * @since 0.1.0
 */
export const PageWrite = Schema.TaggedStruct("PageWrite", {
  txnId: Schema.toType(TxnId),
  page: Schema.toType(PageNumber),
  bytes: Schema.Uint8Array
})

/**
 * Everything before the position `lsn` has been taken over elsewhere and is not needed again.
 *
 * @category models
 * @since 0.1.0
 */
export const Checkpoint = Schema.TaggedStruct("Checkpoint", { lsn: Schema.toType(Lsn) })

/**
 * What a payload of a transaction log says.
 *
 * @category models
 * @since 0.1.0
 */
export const TransactionRecord = Schema.Union([Begin, Commit, Rollback, PageWrite, Checkpoint])
export type TransactionRecord = typeof TransactionRecord.Type

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const issue = (code: string, field: string, offset: number, found: string, expected: string) =>
  Result.fail(new FormatIssue({ format: "transaction record", code, field, offset, found, expected }))

/**
 * Reads a payload. The bytes of a {@link PageWrite} are a view of it, not a copy.
 *
 * **Details**
 *
 * Codes, in the order of the checks: `TooShort` (no bytes at all), `UnknownTag`, `BadLength` (the payload, or what a
 * `PageWrite` says about its bytes), `OutOfRange` (a transaction id of 0 or above 2^62 - 1, a page number of 0 or
 * 0xFFFFFFFF, an LSN above 2^53 - 1).
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): Result.Result<TransactionRecord, FormatIssue> => {
  const tag = bytes[offsets.tag]
  if (tag === undefined) return issue("TooShort", "length", 0, "0 bytes", "at least 1")
  if (tag < tags.Begin || tag > tags.Checkpoint) return issue("UnknownTag", "tag", offsets.tag, `${tag}`, "1 ... 5")
  const view = viewOf(bytes)
  if (tag === tags.PageWrite) return decodePageWrite(bytes, view)
  if (bytes.length !== shortBytes) {
    return issue("BadLength", "length", 0, `${bytes.length} bytes`, `${shortBytes} bytes`)
  }
  if (tag === tags.Checkpoint) {
    const lsn = view.getBigUint64(offsets.lsn, true)
    if (lsn > Number.MAX_SAFE_INTEGER) return issue("OutOfRange", "LSN", offsets.lsn, `${lsn}`, "at most 2^53 - 1")
    return Result.succeed({ _tag: "Checkpoint", lsn: toLsn(Number(lsn)) })
  }
  return Result.map(decodeTxnId(view), (txnId) => {
    if (tag === tags.Begin) return { _tag: "Begin", txnId }
    return tag === tags.Commit ? { _tag: "Commit", txnId } : { _tag: "Rollback", txnId }
  })
}

const decodeTxnId = (view: DataView): Result.Result<TxnId, FormatIssue> => {
  const txnId = view.getBigUint64(offsets.txnId, true)
  return txnId >= 1n && txnId < 2n ** 62n
    ? Result.succeed(toTxnId(txnId))
    : issue("OutOfRange", "transaction id", offsets.txnId, `${txnId}`, "1 ... 2^62 - 1")
}

const decodePageWrite = (bytes: Uint8Array, view: DataView): Result.Result<TransactionRecord, FormatIssue> => {
  if (bytes.length < offsets.bytes) {
    return issue("BadLength", "length", 0, `${bytes.length} bytes`, `at least ${offsets.bytes} bytes`)
  }
  const length = view.getUint32(offsets.length, true)
  const held = bytes.length - offsets.bytes
  if (length !== held) return issue("BadLength", "page length", offsets.length, `${length}`, `${held}`)
  const page = view.getUint32(offsets.page, true)
  return Result.flatMap(decodeTxnId(view), (txnId) =>
    page >= 1 && page <= 0xfffffffe
      ? Result.succeed({ _tag: "PageWrite", txnId, page: toPageNumber(page), bytes: bytes.subarray(offsets.bytes) })
      : issue("OutOfRange", "page number", offsets.page, `${page}`, "1 ... 0xFFFFFFFE"))
}

/**
 * The payload that says a record. The bytes of a {@link PageWrite} are copied.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (record: TransactionRecord): Uint8Array => {
  const bytes = new Uint8Array(record._tag === "PageWrite" ? offsets.bytes + record.bytes.length : shortBytes)
  const view = viewOf(bytes)
  view.setUint8(offsets.tag, tags[record._tag])
  view.setBigUint64(offsets.txnId, record._tag === "Checkpoint" ? BigInt(record.lsn) : record.txnId, true)
  if (record._tag === "PageWrite") {
    view.setUint32(offsets.page, record.page, true)
    view.setUint32(offsets.length, record.bytes.length, true)
    bytes.set(record.bytes, offsets.bytes)
  }
  return bytes
}

/**
 * A typed payload as a codec.
 *
 * **Example** (A transaction in a log)
 *
 * ```ts
 * import { TxnId } from "@tidemark/core/Scalars"
 * import { decode, encode } from "@tidemark/wal/TransactionRecordFormat"
 * import * as Result from "effect/Result"
 *
 * const payload = encode({ _tag: "Begin", txnId: TxnId.make(7n) })
 * payload.length // => 9
 * Result.getOrThrow(decode(payload)) // => { _tag: "Begin", txnId: 7n }
 * ```
 *
 * @category schemas
 * @since 0.1.0
 */
export const TransactionRecordFromBytes: Schema.Codec<TransactionRecord, Uint8Array> = toCodec<TransactionRecord>(
  TransactionRecord,
  { decode, encode }
)

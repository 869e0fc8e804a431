/**
 * The records by which the adapters keep a state in an append log: commands that change it, and snapshots that replace
 * everything before them. Little-endian.
 *
 * **Details**
 *
 * A record is a head of 8 bytes and items. An item is length u32, then a command in the format of its state
 * (`KeyValueFormat`, `PersistedQueueFormat`, `EventJournalFormat`).
 *
 * | offset | size | begin | items | end | commands |
 * |---|---|---|---|---|---|
 * | 0 | 1 | tag 129 | tag 130 | tag 131 | tag 132 |
 * | 1 | 1 | version = 1 | zero | zero | bit 0: first of its batch, bit 1: last |
 * | 2 | 2 | zero | zero | zero | zero |
 * | 4 | 4 | kind of state, 4 letters | number of items | number of items records since begin | number of items |
 * | 8 | | | items | | items |
 *
 * The rules, in the order of the log:
 *
 * 1. A snapshot is begin, any number of items records, end, with commands in between. Its items, applied to an empty
 *    state, give the state as it was at begin; so the commands behind begin come on top of them.
 * 2. A snapshot counts when its end is there. Everything before the begin of such a snapshot may be gone.
 * 3. The items of a batch count together when the last of its records is there. A batch whose last record never came is
 *    followed by a begin or by the first record of another batch.
 * 4. A log begins with the snapshot of an empty state, which tells what kind of state is in it.
 *
 * The tags lie above those of the transaction payloads (section 5 of `formats.md`), so that neither is taken for the
 * other. An item takes the same room in both kinds of record: what fitted into the log once fits into each snapshot.
 *
 * @since 0.1.0
 */
import { FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

/**
 * Bytes in front of the first item.
 *
 * @category constants
 * @since 0.1.0
 */
export const recordHeadBytes = 8

/**
 * Bytes in front of each item.
 *
 * @category constants
 * @since 0.1.0
 */
export const itemHeadBytes = 4

const tags = { begin: 129, items: 130, end: 131, commands: 132 } as const
const formatVersion = 1
const flagFirst = 1
const flagLast = 2

const offsets = { tag: 0, detail: 1, zero: 2, value: 4 } as const

const U32 = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff }))

/**
 * What kind of state a log holds: four letters of ASCII.
 *
 * @category models
 * @since 0.1.0
 */
export const StateKind = Schema.String.check(Schema.isPattern(/^[A-Z]{4}$/))
export type StateKind = typeof StateKind.Type

/**
 * @category models
 * @since 0.1.0
 */
export const StateRecord = Schema.Union([
  Schema.Struct({ type: Schema.Literal("begin"), kind: StateKind }),
  Schema.Struct({ type: Schema.Literal("items"), items: Schema.Array(Schema.Uint8Array) }),
  Schema.Struct({ type: Schema.Literal("end"), itemsRecords: U32 }),
  Schema.Struct({
    type: Schema.Literal("commands"),
    isFirst: Schema.Boolean,
    isLast: Schema.Boolean,
    items: Schema.Array(Schema.Uint8Array)
  })
])
export type StateRecord = typeof StateRecord.Type

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const issue = (code: string, field: string, offset: number, found: string, expected: string) =>
  Result.fail(new FormatIssue({ format: "state record", code, field, offset, found, expected }))

/**
 * Reads a record. The items are views of its bytes.
 *
 * **Details**
 *
 * Codes: `TooShort`, `TooLong`, `UnknownTag`, `UnsupportedVersion`, `NotZero`, `BadFlags`, `BadKind`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): Result.Result<StateRecord, FormatIssue> => {
  if (bytes.length < recordHeadBytes) {
    return issue("TooShort", "head", 0, `${bytes.length} bytes`, `at least ${recordHeadBytes} bytes`)
  }
  const view = viewOf(bytes)
  const tag = view.getUint8(offsets.tag)
  const detail = view.getUint8(offsets.detail)
  const zero = view.getUint16(offsets.zero, true)
  const value = view.getUint32(offsets.value, true)
  if (tag < tags.begin || tag > tags.commands) {
    return issue("UnknownTag", "tag", offsets.tag, `${tag}`, `${tags.begin} ... ${tags.commands}`)
  }
  if (zero !== 0) return issue("NotZero", "zero field", offsets.zero, `${zero}`, "0")
  switch (tag) {
    case tags.begin: {
      if (detail !== formatVersion) {
        return issue("UnsupportedVersion", "version", offsets.detail, `${detail}`, `${formatVersion}`)
      }
      const kind = lettersOf(value)
      if (!/^[A-Z]{4}$/.test(kind)) {
        return issue("BadKind", "kind of state", offsets.value, `0x${value.toString(16)}`, "four letters")
      }
      return withoutItems(bytes, { type: "begin", kind })
    }
    case tags.items: {
      if (detail !== 0) return issue("NotZero", "zero field", offsets.detail, `${detail}`, "0")
      return Result.map(readItems(bytes, view, value), (items): StateRecord => ({ type: "items", items }))
    }
    case tags.end: {
      if (detail !== 0) return issue("NotZero", "zero field", offsets.detail, `${detail}`, "0")
      return withoutItems(bytes, { type: "end", itemsRecords: value })
    }
    default: {
      if (detail > (flagFirst | flagLast)) {
        return issue("BadFlags", "flags", offsets.detail, `${detail}`, "bits 0 and 1 only")
      }
      return Result.map(readItems(bytes, view, value), (items): StateRecord => ({
        type: "commands",
        isFirst: (detail & flagFirst) !== 0,
        isLast: (detail & flagLast) !== 0,
        items
      }))
    }
  }
}

const withoutItems = (bytes: Uint8Array, record: StateRecord): Result.Result<StateRecord, FormatIssue> =>
  bytes.length === recordHeadBytes
    ? Result.succeed(record)
    : issue("TooLong", "length", recordHeadBytes, `${bytes.length} bytes`, `${recordHeadBytes} bytes`)

const readItems = (
  bytes: Uint8Array,
  view: DataView,
  count: number
): Result.Result<ReadonlyArray<Uint8Array>, FormatIssue> => {
  const items: Array<Uint8Array> = []
  let at = recordHeadBytes
  for (let i = 0; i < count; i++) {
    if (at + itemHeadBytes > bytes.length) {
      return issue("TooShort", `length of item ${i}`, at, `${bytes.length - at} bytes`, `${itemHeadBytes} bytes`)
    }
    const length = view.getUint32(at, true)
    at += itemHeadBytes
    if (length > bytes.length - at) {
      return issue("TooShort", `item ${i}`, at, `${bytes.length - at} bytes`, `${length} bytes`)
    }
    items.push(bytes.subarray(at, at + length))
    at += length
  }
  return at === bytes.length
    ? Result.succeed(items)
    : issue("TooLong", "length", at, `${bytes.length} bytes`, `${at} bytes`)
}

/**
 * The bytes of a record.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (record: StateRecord): Uint8Array => {
  switch (record.type) {
    case "begin":
      return encodeHead(tags.begin, formatVersion, numberOf(record.kind))
    case "items":
      return encodeItems(tags.items, 0, record.items)
    case "end":
      return encodeHead(tags.end, 0, record.itemsRecords)
    case "commands":
      return encodeItems(tags.commands, (record.isFirst ? flagFirst : 0) | (record.isLast ? flagLast : 0), record.items)
  }
}

// Records are small and many, so their few numbers are written byte by byte: a view costs more than it saves.
const writeU32 = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value
  bytes[at + 1] = value >>> 8
  bytes[at + 2] = value >>> 16
  bytes[at + 3] = value >>> 24
}

const encodeHead = (tag: number, detail: number, value: number, itemsBytes = 0): Uint8Array => {
  const bytes = new Uint8Array(recordHeadBytes + itemsBytes)
  bytes[offsets.tag] = tag
  bytes[offsets.detail] = detail
  writeU32(bytes, offsets.value, value)
  return bytes
}

const encodeItems = (tag: number, detail: number, items: ReadonlyArray<Uint8Array>): Uint8Array => {
  let itemsBytes = 0
  for (const item of items) itemsBytes += itemHeadBytes + item.length
  const bytes = encodeHead(tag, detail, items.length, itemsBytes)
  let at = recordHeadBytes
  for (const item of items) {
    writeU32(bytes, at, item.length)
    bytes.set(item, at + itemHeadBytes)
    at += itemHeadBytes + item.length
  }
  return bytes
}

const lettersOf = (value: number): string =>
  String.fromCharCode(value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24)

const numberOf = (letters: string): number =>
  (letters.charCodeAt(0) | letters.charCodeAt(1) << 8 | letters.charCodeAt(2) << 16 | letters.charCodeAt(3) << 24) >>> 0

/**
 * A record as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const StateRecordFromBytes: Schema.Codec<StateRecord, Uint8Array> = toCodec<StateRecord>(StateRecord, {
  decode,
  encode
})

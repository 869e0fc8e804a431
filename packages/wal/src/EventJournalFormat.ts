/**
 * The commands of an event journal in a log (`LogEventJournal`), as items of `StateRecordFormat`. Little-endian.
 *
 * **Details**
 *
 * | tag u8 | command | fields |
 * |---|---|---|
 * | 1 | add an entry | id 16 bytes, source (length u8, remote id; length 0 = written here), event text, primary key text, payload (length u32, bytes) |
 * | 2 | the next sequence of a remote is at least this | next u64, remote id (length u8, bytes) |
 * | 3 | sequences that a remote acknowledged | first u64, count u32, sequences u64 each, remote id (length u8, bytes) |
 * | 4 | a remote has everything up to this insertion | insertion u64, remote id (length u8, bytes) |
 * | 5 | remove everything | |
 * | 6 | insertions so far that are not in this log | count u64 |
 *
 * Entries are numbered by the order of their insertion, from 1 on; tag 5 does not reset the number. A text is encoding
 * u8 (1 = UTF-8, 2 = UTF-16 for strings that are not well-formed), length in bytes u32, bytes. A u64 above 2^53 - 1 is
 * refused.
 *
 * @since 0.1.0
 */
import { type FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { FieldReader, FieldWriter } from "./internal/fields.ts"

const tags = { entry: 1, next: 2, acks: 3, uploaded: 4, destroy: 5, base: 6 } as const

/**
 * Bytes of an entry's id.
 *
 * @category constants
 * @since 0.1.0
 */
export const entryIdBytes = 16

/**
 * The longest id of a remote, bytes.
 *
 * @category constants
 * @since 0.1.0
 */
export const maxRemoteIdBytes = 255

const acksHeadBytes = 1 + 8 + 4
const sequenceBytes = 8

const U53 = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))
// The bytes are always in memory of their own, never in shared memory, which is what the ids of the journal ask for.
const Bytes = Schema.Uint8Array as Schema.instanceOf<Uint8Array<ArrayBuffer>>

/**
 * @category models
 * @since 0.1.0
 */
export const JournalCommand = Schema.Union([
  Schema.Struct({
    type: Schema.Literal("entry"),
    id: Bytes,
    /** The remote that it came from; nothing when it was written here. */
    source: Schema.UndefinedOr(Bytes),
    event: Schema.String,
    primaryKey: Schema.String,
    payload: Schema.Uint8Array
  }),
  Schema.Struct({ type: Schema.Literal("next"), remoteId: Bytes, next: U53 }),
  Schema.Struct({
    type: Schema.Literal("acks"),
    remoteId: Bytes,
    firstSequence: U53,
    sequences: Schema.Array(U53)
  }),
  Schema.Struct({ type: Schema.Literal("uploaded"), remoteId: Bytes, insertion: U53 }),
  Schema.Struct({ type: Schema.Literal("destroy") }),
  Schema.Struct({ type: Schema.Literal("base"), insertions: U53 })
])
export type JournalCommand = typeof JournalCommand.Type

/**
 * Reads a command. Nothing of the bytes is kept.
 *
 * **Details**
 *
 * Codes: `TooShort`, `TooLong`, `UnknownTag`, `OutOfRange`, `BadLength` (an empty id of a remote), `UnknownEncoding`,
 * `BadText`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): Result.Result<JournalCommand, FormatIssue> => {
  const reader = new FieldReader("journal command", bytes)
  const command = read(reader, bytes.length)
  reader.end()
  return reader.issue === undefined ? Result.succeed(command) : Result.fail(reader.issue)
}

const read = (reader: FieldReader, length: number): JournalCommand => {
  const tag = reader.u8("tag")
  switch (tag) {
    case tags.entry: {
      const id = reader.fixed(entryIdBytes, "id")
      const source = readShort(reader, "source")
      const event = reader.text("event")
      const primaryKey = reader.text("primary key")
      return {
        type: "entry",
        id,
        source: source.length === 0 ? undefined : source,
        event,
        primaryKey,
        payload: reader.run("payload")
      }
    }
    case tags.next: {
      const next = reader.u53("next sequence")
      return { type: "next", next, remoteId: readRemoteId(reader, length) }
    }
    case tags.acks: {
      const firstSequence = reader.u53("first sequence")
      const sequences = readSequences(reader, length)
      return { type: "acks", firstSequence, sequences, remoteId: readRemoteId(reader, length) }
    }
    case tags.uploaded: {
      const insertion = reader.u53("insertion")
      return { type: "uploaded", insertion, remoteId: readRemoteId(reader, length) }
    }
    case tags.destroy:
      return { type: "destroy" }
    case tags.base:
      return { type: "base", insertions: reader.u53("insertions") }
    default:
      reader.refuse("UnknownTag", "tag", 0, `${tag}`, `${tags.entry} ... ${tags.base}`)
      return { type: "destroy" }
  }
}

const readShort = (reader: FieldReader, field: string) => reader.fixed(reader.u8(`length of ${field}`), field)

const readRemoteId = (reader: FieldReader, length: number) => {
  const remoteId = readShort(reader, "remote id")
  if (remoteId.length === 0) {
    reader.refuse("BadLength", "remote id", length, "0 bytes", `1 ... ${maxRemoteIdBytes} bytes`)
  }
  return remoteId
}

const readSequences = (reader: FieldReader, length: number): ReadonlyArray<number> => {
  const count = reader.u32("number of sequences")
  const left = length - acksHeadBytes
  if (count * sequenceBytes > left) {
    reader.refuse("TooShort", "sequences", acksHeadBytes, `${left} bytes`, `${count * sequenceBytes} bytes`)
    return []
  }
  const sequences: Array<number> = []
  for (let i = 0; i < count; i++) sequences.push(reader.u53("sequence"))
  return sequences
}

const writer = new FieldWriter()

/**
 * The bytes of a command.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (command: JournalCommand): Uint8Array => {
  switch (command.type) {
    case "entry": {
      const source = command.source ?? noSource
      return writer.start(tags.entry)
        .fixed(command.id)
        .u8(source.length)
        .fixed(source)
        .text(command.event)
        .text(command.primaryKey)
        .run(command.payload)
        .finish()
    }
    case "next":
      return withRemoteId(writer.start(tags.next).u53(command.next), command.remoteId)
    case "acks": {
      writer.start(tags.acks).u53(command.firstSequence).u32(command.sequences.length)
      for (const sequence of command.sequences) writer.u53(sequence)
      return withRemoteId(writer, command.remoteId)
    }
    case "uploaded":
      return withRemoteId(writer.start(tags.uploaded).u53(command.insertion), command.remoteId)
    case "destroy":
      return writer.start(tags.destroy).finish()
    case "base":
      return writer.start(tags.base).u53(command.insertions).finish()
  }
}

const noSource = new Uint8Array(0)

const withRemoteId = (started: FieldWriter, remoteId: Uint8Array) =>
  started.u8(remoteId.length).fixed(remoteId).finish()

/**
 * A command as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const JournalCommandFromBytes: Schema.Codec<JournalCommand, Uint8Array> = toCodec<JournalCommand>(
  JournalCommand,
  { decode, encode }
)

/**
 * The commands of a key-value store in a log (`LogKeyValueStore`), as items of `StateRecordFormat`. Little-endian.
 *
 * **Details**
 *
 * | tag u8 | command | fields |
 * |---|---|---|
 * | 1 | set a text | key text, value text |
 * | 2 | set bytes | key text, value: length u32, bytes |
 * | 3 | remove | key text |
 * | 4 | clear | |
 * | 5 | clear the keys that start with a prefix | prefix text |
 *
 * A text is encoding u8 (1 = UTF-8, 2 = UTF-16 for strings that are not well-formed), length in bytes u32, bytes. Every
 * command says what is afterwards, whatever was before: applied once more it changes nothing. A snapshot consists of
 * commands that set.
 *
 * @since 0.1.0
 */
import { type FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { FieldReader, FieldWriter } from "./internal/fields.ts"

const tags = { setText: 1, setBytes: 2, remove: 3, clear: 4, clearPrefix: 5 } as const

/**
 * @category models
 * @since 0.1.0
 */
export const KeyValueCommand = Schema.Union([
  Schema.Struct({
    type: Schema.Literal("set"),
    key: Schema.String,
    value: Schema.Union([Schema.String, Schema.Uint8Array])
  }),
  Schema.Struct({ type: Schema.Literal("remove"), key: Schema.String }),
  Schema.Struct({ type: Schema.Literal("clear") }),
  Schema.Struct({ type: Schema.Literal("clearPrefix"), prefix: Schema.String })
])
export type KeyValueCommand = typeof KeyValueCommand.Type

/**
 * Reads a command. Nothing of the bytes is kept.
 *
 * **Details**
 *
 * Codes: `TooShort`, `TooLong`, `UnknownTag`, `UnknownEncoding`, `BadText`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): Result.Result<KeyValueCommand, FormatIssue> => {
  const reader = new FieldReader("key-value command", bytes)
  const command = read(reader)
  reader.end()
  return reader.issue === undefined ? Result.succeed(command) : Result.fail(reader.issue)
}

const read = (reader: FieldReader): KeyValueCommand => {
  const tag = reader.u8("tag")
  switch (tag) {
    case tags.setText:
      return { type: "set", key: reader.text("key"), value: reader.text("value") }
    case tags.setBytes:
      return { type: "set", key: reader.text("key"), value: reader.run("value") }
    case tags.remove:
      return { type: "remove", key: reader.text("key") }
    case tags.clear:
      return { type: "clear" }
    case tags.clearPrefix:
      return { type: "clearPrefix", prefix: reader.text("prefix") }
    default:
      reader.refuse("UnknownTag", "tag", 0, `${tag}`, `${tags.setText} ... ${tags.clearPrefix}`)
      return { type: "clear" }
  }
}

const writer = new FieldWriter()

/**
 * The bytes of a command.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (command: KeyValueCommand): Uint8Array => {
  switch (command.type) {
    case "set":
      return typeof command.value === "string"
        ? writer.start(tags.setText).text(command.key).text(command.value).finish()
        : writer.start(tags.setBytes).text(command.key).run(command.value).finish()
    case "remove":
      return writer.start(tags.remove).text(command.key).finish()
    case "clear":
      return writer.start(tags.clear).finish()
    case "clearPrefix":
      return writer.start(tags.clearPrefix).text(command.prefix).finish()
  }
}

/**
 * A command as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const KeyValueCommandFromBytes: Schema.Codec<KeyValueCommand, Uint8Array> = toCodec<KeyValueCommand>(
  KeyValueCommand,
  { decode, encode }
)

/**
 * The commands of the queues in a log (`LogPersistedQueue`), as items of `StateRecordFormat`. Little-endian.
 *
 * **Details**
 *
 * | tag u8 | command | fields |
 * |---|---|---|
 * | 1 | put an element into a queue, as an offer or out of a snapshot | below |
 * | 2 | claim it for a handler: one more attempt | attempts allowed f64, queue text, id text |
 * | 3 | complete it | at f64, queue text, id text |
 * | 4 | mark it as failed | at f64, queue text, id text |
 * | 5 | let it wait for its next attempt | visible at f64, queue text, id text |
 * | 6 | release it, the attempt does not count | queue text, id text |
 * | 7 | forget what was completed and what failed up to a time | completed f64, failed f64 |
 *
 * Put: state u8 (0 pending, 1 processing, 2 completed, 3 failed), flags u8 (bit 0: the id is the caller's own, bit 1:
 * there is a payload), attempts u32, attempts allowed f64, visible at f64, changed at f64, queue text, id text, payload
 * text if there is one (JSON).
 *
 * Times are milliseconds since 1970; minus infinity as a limit of tag 7 forgets nothing. Attempts allowed may be
 * infinite. A text is encoding u8 (1 = UTF-8, 2 = UTF-16 for strings that are not well-formed), length in bytes u32,
 * bytes.
 *
 * @since 0.1.0
 */
import { type FormatIssue, toCodec } from "@tidemark/core/BinaryFormat"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { FieldReader, FieldWriter } from "./internal/fields.ts"

const tags = { put: 1, claim: 2, complete: 3, fail: 4, retry: 5, release: 6, cleanup: 7 } as const

const states = ["pending", "processing", "completed", "failed"] as const

const flagCustomId = 1
const flagPayload = 2

const U32 = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffffffff }))

/**
 * An element of a queue, and what has become of it so far.
 *
 * @category models
 * @since 0.1.0
 */
export const QueueElement = Schema.Struct({
  queue: Schema.String,
  id: Schema.String,
  /** Whether the id is the caller's own: then it is remembered when the element is done. */
  isCustomId: Schema.Boolean,
  state: Schema.Literals(states),
  /** Claims that count. */
  attempts: U32,
  /** The limit of the claim that is under way. */
  maxAttempts: Schema.Number,
  /** When it may be claimed, milliseconds since 1970. */
  visibleAt: Schema.Number,
  /** When it was offered, completed or failed, milliseconds since 1970. */
  changedAt: Schema.Number,
  /** JSON; nothing for an element that is done. */
  payload: Schema.UndefinedOr(Schema.String)
})
export type QueueElement = typeof QueueElement.Type

const target = { queue: Schema.String, id: Schema.String }

/**
 * @category models
 * @since 0.1.0
 */
export const QueueCommand = Schema.Union([
  Schema.Struct({ type: Schema.Literal("put"), element: QueueElement }),
  Schema.Struct({ type: Schema.Literal("claim"), ...target, maxAttempts: Schema.Number }),
  Schema.Struct({ type: Schema.Literal("complete"), ...target, at: Schema.Number }),
  Schema.Struct({ type: Schema.Literal("fail"), ...target, at: Schema.Number }),
  Schema.Struct({ type: Schema.Literal("retry"), ...target, visibleAt: Schema.Number }),
  Schema.Struct({ type: Schema.Literal("release"), ...target }),
  Schema.Struct({ type: Schema.Literal("cleanup"), completedUpTo: Schema.Number, failedUpTo: Schema.Number })
])
export type QueueCommand = typeof QueueCommand.Type

/**
 * Reads a command. Nothing of the bytes is kept.
 *
 * **Details**
 *
 * Codes: `TooShort`, `TooLong`, `UnknownTag`, `UnknownState`, `BadFlags`, `OutOfRange` (a time that is not a number),
 * `UnknownEncoding`, `BadText`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): Result.Result<QueueCommand, FormatIssue> => {
  const reader = new FieldReader("queue command", bytes)
  const command = read(reader)
  reader.end()
  return reader.issue === undefined ? Result.succeed(command) : Result.fail(reader.issue)
}

const read = (reader: FieldReader): QueueCommand => {
  const tag = reader.u8("tag")
  switch (tag) {
    case tags.put:
      return { type: "put", element: readElement(reader) }
    case tags.claim: {
      const maxAttempts = reader.f64("attempts allowed")
      return { type: "claim", maxAttempts, ...readTarget(reader) }
    }
    case tags.complete: {
      const at = reader.f64("time")
      return { type: "complete", at, ...readTarget(reader) }
    }
    case tags.fail: {
      const at = reader.f64("time")
      return { type: "fail", at, ...readTarget(reader) }
    }
    case tags.retry: {
      const visibleAt = reader.f64("visible at")
      return { type: "retry", visibleAt, ...readTarget(reader) }
    }
    case tags.release:
      return { type: "release", ...readTarget(reader) }
    case tags.cleanup: {
      const completedUpTo = reader.f64("limit of the completed")
      return { type: "cleanup", completedUpTo, failedUpTo: reader.f64("limit of the failed") }
    }
    default:
      reader.refuse("UnknownTag", "tag", 0, `${tag}`, `${tags.put} ... ${tags.cleanup}`)
      return { type: "cleanup", completedUpTo: 0, failedUpTo: 0 }
  }
}

const readTarget = (reader: FieldReader) => {
  const queue = reader.text("queue")
  return { queue, id: reader.text("id") }
}

const readElement = (reader: FieldReader): QueueElement => {
  const stateNumber = reader.u8("state")
  const state = states[stateNumber]
  if (state === undefined) reader.refuse("UnknownState", "state", 1, `${stateNumber}`, `0 ... ${states.length - 1}`)
  const flags = reader.u8("flags")
  if (flags > (flagCustomId | flagPayload)) reader.refuse("BadFlags", "flags", 2, `${flags}`, "bits 0 and 1 only")
  const attempts = reader.u32("attempts")
  const maxAttempts = reader.f64("attempts allowed")
  const visibleAt = reader.f64("visible at")
  const changedAt = reader.f64("changed at")
  return {
    ...readTarget(reader),
    isCustomId: (flags & flagCustomId) !== 0,
    state: state ?? "pending",
    attempts,
    maxAttempts,
    visibleAt,
    changedAt,
    payload: (flags & flagPayload) === 0 ? undefined : reader.text("payload")
  }
}

const writer = new FieldWriter()

/**
 * The bytes of a command.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (command: QueueCommand): Uint8Array => {
  switch (command.type) {
    case "put":
      return encodeElement(command.element)
    case "claim":
      return writer.start(tags.claim).f64(command.maxAttempts).text(command.queue).text(command.id).finish()
    case "complete":
      return writer.start(tags.complete).f64(command.at).text(command.queue).text(command.id).finish()
    case "fail":
      return writer.start(tags.fail).f64(command.at).text(command.queue).text(command.id).finish()
    case "retry":
      return writer.start(tags.retry).f64(command.visibleAt).text(command.queue).text(command.id).finish()
    case "release":
      return writer.start(tags.release).text(command.queue).text(command.id).finish()
    case "cleanup":
      return writer.start(tags.cleanup).f64(command.completedUpTo).f64(command.failedUpTo).finish()
  }
}

const encodeElement = (element: QueueElement): Uint8Array => {
  const { payload } = element
  const flags = (element.isCustomId ? flagCustomId : 0) | (payload === undefined ? 0 : flagPayload)
  writer.start(tags.put)
    .u8(states.indexOf(element.state))
    .u8(flags)
    .u32(element.attempts)
    .f64(element.maxAttempts)
    .f64(element.visibleAt)
    .f64(element.changedAt)
    .text(element.queue)
    .text(element.id)
  if (payload !== undefined) writer.text(payload)
  return writer.finish()
}

/**
 * A command as a codec.
 *
 * @category schemas
 * @since 0.1.0
 */
export const QueueCommandFromBytes: Schema.Codec<QueueCommand, Uint8Array> = toCodec<QueueCommand>(QueueCommand, {
  decode,
  encode
})

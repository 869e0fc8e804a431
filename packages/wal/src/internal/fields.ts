/**
 * The fields that the records of the adapters are made of: numbers, texts, runs of bytes, little-endian, one behind the
 * other. Written and read by the `*Format.ts` modules, which alone know the order.
 *
 * A text is a JavaScript string, and comes back as exactly that string: UTF-8, or UTF-16 where it is not well-formed
 * (half of a surrogate pair has no UTF-8). Text: encoding u8 (1 = UTF-8, 2 = UTF-16), length in bytes u32, bytes.
 */
import { FormatIssue } from "@tidemark/core/BinaryFormat"

const Encoding = { utf8: 1, utf16: 2 } as const

const encoder = new TextEncoder()
/** A byte order mark is a character of the text like any other. */
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

/** A scratch buffer above this is given back when the record is done. */
const maxKeptScratchBytes = 1024 * 1024

/** @internal */
export class FieldWriter {
  private bytes = new Uint8Array(4096)
  private view = new DataView(this.bytes.buffer)
  private length = 0

  /** Begins a record with its tag. Whatever was not finished is dropped. */
  start(tag: number): this {
    this.length = 0
    return this.u8(tag)
  }

  u8(value: number): this {
    const at = this.take(1)
    this.view.setUint8(at, value)
    return this
  }

  u32(value: number): this {
    const at = this.take(4)
    this.view.setUint32(at, value, true)
    return this
  }

  /** An integer from 0 to 2^53 - 1, as a u64. */
  u53(value: number): this {
    const at = this.take(8)
    this.view.setBigUint64(at, BigInt(value), true)
    return this
  }

  f64(value: number): this {
    const at = this.take(8)
    this.view.setFloat64(at, value, true)
    return this
  }

  /** Bytes whose number the reader knows. */
  fixed(value: Uint8Array): this {
    const at = this.take(value.length)
    this.bytes.set(value, at)
    return this
  }

  /** Length u32, bytes. */
  run(value: Uint8Array): this {
    return this.u32(value.length).fixed(value)
  }

  text(value: string): this {
    if (!value.isWellFormed()) return this.utf16(value)
    this.u8(Encoding.utf8)
    const lengthAt = this.take(4)
    // A UTF-16 unit becomes three bytes of UTF-8 at the most.
    this.reserve(value.length * 3)
    const { written } = encoder.encodeInto(value, this.bytes.subarray(this.length))
    this.length += written
    this.view.setUint32(lengthAt, written, true)
    return this
  }

  private utf16(value: string): this {
    this.u8(Encoding.utf16).u32(value.length * 2)
    const at = this.take(value.length * 2)
    for (let i = 0; i < value.length; i++) this.view.setUint16(at + i * 2, value.charCodeAt(i), true)
    return this
  }

  /** The bytes so far, as an array of their own; the writer is empty again. */
  finish(): Uint8Array {
    const finished = this.bytes.slice(0, this.length)
    this.length = 0
    if (this.bytes.length > maxKeptScratchBytes) this.grow(4096)
    return finished
  }

  private take(count: number): number {
    this.reserve(count)
    const at = this.length
    this.length += count
    return at
  }

  private reserve(count: number): void {
    const needed = this.length + count
    if (needed > this.bytes.length) this.grow(Math.max(needed, this.bytes.length * 2))
  }

  private grow(capacity: number): void {
    const bytes = new Uint8Array(capacity)
    bytes.set(this.bytes.subarray(0, this.length))
    this.bytes = bytes
    this.view = new DataView(bytes.buffer)
  }
}

/**
 * Reads what a {@link FieldWriter} wrote. The first field that is wrong is kept as `issue`; from there on every field
 * reads as nothing, so that a decoder looks at `issue` once, at the end.
 *
 * @internal
 */
export class FieldReader {
  issue: FormatIssue | undefined
  private readonly format: string
  private readonly bytes: Uint8Array
  private readonly view: DataView
  private at = 0

  constructor(format: string, bytes: Uint8Array) {
    this.format = format
    this.bytes = bytes
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  u8(field: string): number {
    const at = this.take(1, field)
    return at === undefined ? 0 : this.view.getUint8(at)
  }

  u32(field: string): number {
    const at = this.take(4, field)
    return at === undefined ? 0 : this.view.getUint32(at, true)
  }

  u53(field: string): number {
    const at = this.take(8, field)
    if (at === undefined) return 0
    const value = this.view.getBigUint64(at, true)
    if (value > Number.MAX_SAFE_INTEGER) {
      this.refuse("OutOfRange", field, at, `${value}`, "at most 2^53 - 1")
      return 0
    }
    return Number(value)
  }

  f64(field: string): number {
    const at = this.take(8, field)
    if (at === undefined) return 0
    const value = this.view.getFloat64(at, true)
    if (Number.isNaN(value)) this.refuse("OutOfRange", field, at, "not a number", "a number")
    return value
  }

  /** A copy: what is read is kept, what it is read from is not. */
  fixed(count: number, field: string): Uint8Array<ArrayBuffer> {
    const at = this.take(count, field)
    return at === undefined ? new Uint8Array(0) : this.bytes.slice(at, at + count)
  }

  run(field: string): Uint8Array<ArrayBuffer> {
    return this.fixed(this.u32(`length of ${field}`), field)
  }

  text(field: string): string {
    const encodingAt = this.at
    const encoding = this.u8(`encoding of ${field}`)
    const length = this.u32(`length of ${field}`)
    const at = this.take(length, field)
    if (at === undefined) return ""
    if (encoding === Encoding.utf8) return this.utf8(at, length, field)
    if (encoding === Encoding.utf16) return this.utf16(at, length, field)
    this.refuse("UnknownEncoding", `encoding of ${field}`, encodingAt, `${encoding}`, "1 or 2")
    return ""
  }

  private utf8(at: number, length: number, field: string): string {
    try {
      return decoder.decode(this.bytes.subarray(at, at + length))
    } catch {
      this.refuse("BadText", field, at, "bytes that are not UTF-8", "UTF-8")
      return ""
    }
  }

  private utf16(at: number, length: number, field: string): string {
    if (length % 2 !== 0) {
      this.refuse("BadText", field, at, `${length} bytes`, "an even number of bytes")
      return ""
    }
    // Text that is not well-formed is rare and short: a piece at a time is quick enough.
    const pieces: Array<string> = []
    for (let i = 0; i < length; i += 2) pieces.push(String.fromCharCode(this.view.getUint16(at + i, true)))
    return pieces.join("")
  }

  /** Whether anything is left to read. */
  get hasMore(): boolean {
    return this.issue === undefined && this.at < this.bytes.length
  }

  /** Refuses bytes behind the last field. */
  end(): void {
    if (this.hasMore) {
      this.refuse("TooLong", "length", this.at, `${this.bytes.length} bytes`, `${this.at} bytes`)
    }
  }

  /** Refuses the field that was read last, at the byte where it starts, unless something was wrong before. */
  refuse(code: string, field: string, offset: number, found: string, expected: string): void {
    this.issue ??= new FormatIssue({ format: this.format, code, field, offset, found, expected })
  }

  private take(count: number, field: string): number | undefined {
    if (this.issue !== undefined) return undefined
    const at = this.at
    const left = this.bytes.length - at
    if (count > left) {
      this.refuse("TooShort", field, at, `${left} bytes`, `${count} bytes`)
      return undefined
    }
    this.at = at + count
    return at
  }
}

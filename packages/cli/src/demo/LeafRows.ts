/**
 * Rows on a leaf page of a SQLite table, as far as it takes to overwrite a column of fixed width in place (public SQLite
 * file format, sections "B-tree Pages" and "Record Format").
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"

/** On every page but the first the b-tree header stands at byte 0. */
const offsets = { type: 0, cells: 3, cellPointers: 8 } as const
const leafOfTable = 0x0d
/** Serial type of a 48-bit integer. */
const int48 = 5
/** Serial types of texts are 13 + 2 x length. */
const firstText = 13

/**
 * Where the value of a column stands on its page.
 *
 * @category models
 * @since 0.1.0
 */
export interface Cell {
  readonly serialType: number
  readonly offset: number
}

/** A variable-length integer of the format, of the lengths that occur here, and where it ends. */
const readVarint = (page: Uint8Array, start: number): readonly [value: number, end: number] => {
  let value = 0
  for (let at = start; at < start + 8; at++) {
    const byte = page[at] ?? 0
    value = value * 128 + (byte & 0x7f)
    if (byte < 0x80) return [value, at + 1]
  }
  invariant(false, "a row of the demo needs no varint of nine bytes")
}

/** Bytes of a value by its serial type. */
const valueBytes = (serialType: number): number => {
  if (serialType >= 12) return Math.floor((serialType - 12) / 2)
  return [0, 1, 2, 3, 4, 6, 8, 8, 0, 0][serialType] ?? 0
}

/**
 * The values of column `column` in all rows of a page, in the order of the row ids.
 *
 * @category reading
 * @since 0.1.0
 */
export const cellsOf = (page: Uint8Array, column: number): ReadonlyArray<Cell> => {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength)
  invariant(view.getUint8(offsets.type) === leafOfTable, "rows are read from a leaf page of a table")
  return Array.from({ length: view.getUint16(offsets.cells) }, (_, index) => {
    const [, afterLength] = readVarint(page, view.getUint16(offsets.cellPointers + 2 * index))
    const [, record] = readVarint(page, afterLength)
    const [headerBytes, firstType] = readVarint(page, record)
    let at = firstType
    let offset = record + headerBytes
    for (let passed = 0;; passed++) {
      const [serialType, next] = readVarint(page, at)
      if (passed === column) return { serialType, offset }
      offset += valueBytes(serialType)
      at = next
    }
  })
}

const decoder = new TextDecoder()
const encoder = new TextEncoder()

/**
 * The text in a cell.
 *
 * @category reading
 * @since 0.1.0
 */
export const readText = (page: Uint8Array, { offset, serialType }: Cell): string => {
  invariant(serialType >= firstText && serialType % 2 === 1, "the column holds a text")
  return decoder.decode(page.subarray(offset, offset + valueBytes(serialType)))
}

/**
 * Overwrites the text in a cell with one of equal length.
 *
 * @category writing
 * @since 0.1.0
 */
export const writeText = (page: Uint8Array, { offset, serialType }: Cell, text: string): void => {
  const bytes = encoder.encode(text)
  invariant(
    serialType >= firstText && bytes.length === valueBytes(serialType),
    "a text is replaced by one of its length"
  )
  page.set(bytes, offset)
}

/**
 * Adds to the 48-bit integer in a cell.
 *
 * @category writing
 * @since 0.1.0
 */
export const addTo = (page: Uint8Array, { offset, serialType }: Cell, amount: number): void => {
  invariant(serialType === int48, "the column holds an integer of 48 bits")
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength)
  const sum = view.getInt16(offset) * 2 ** 32 + view.getUint32(offset + 2) + amount
  invariant(sum >= 2 ** 31 && sum < 2 ** 47, "the sum needs 48 bits, no more and no less")
  view.setInt16(offset, Math.floor(sum / 2 ** 32))
  view.setUint32(offset + 2, sum % 2 ** 32)
}

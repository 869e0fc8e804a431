/**
 * What the program prints for people: aligned tables, numbers with units, colours where they are wanted.
 *
 * @since 0.1.0
 */
import * as DateTime from "effect/DateTime"

/**
 * How emphasis is written: with the colours of a terminal, or not at all.
 *
 * @category models
 * @since 0.1.0
 */
export interface Style {
  readonly strong: (text: string) => string
  readonly faint: (text: string) => string
  readonly good: (text: string) => string
  readonly bad: (text: string) => string
}

const identity = (text: string) => text
const escape = (code: number) => (text: string) => `\u001b[${code}m${text}\u001b[0m`

/**
 * No emphasis.
 *
 * @category constructors
 * @since 0.1.0
 */
export const plain: Style = { strong: identity, faint: identity, good: identity, bad: identity }

const colours: Style = { strong: escape(1), faint: escape(2), good: escape(32), bad: escape(31) }

/**
 * Colours for a terminal that shows them, unless `NO_COLOR` is set to anything.
 *
 * @category constructors
 * @since 0.1.0
 */
export const styleOf = (
  stream: { readonly isTTY?: boolean | undefined },
  environment: Readonly<Record<string, string | undefined>>
): Style => {
  const isRefused = (environment["NO_COLOR"] ?? "") !== "" || environment["TERM"] === "dumb"
  return stream.isTTY === true && !isRefused ? colours : plain
}

/**
 * A count, with its thousands set apart: `12,345`.
 *
 * @category formatting
 * @since 0.1.0
 */
export const count = (value: number | bigint): string => value.toString().replace(/\B(?=(\d{3})+(?!\d))/g, ",")

/**
 * A count with its unit, in the plural where it has to be: `1 frame`, `2 frames`.
 *
 * @category formatting
 * @since 0.1.0
 */
export const counted = (value: number | bigint, unit: string): string =>
  `${count(value)} ${unit}${BigInt(value) === 1n ? "" : "s"}`

const byteUnits = ["KiB", "MiB", "GiB", "TiB"] as const

/**
 * A size in bytes, with a second figure that is easier to read from 1 KiB on: `12,345 bytes (12.1 KiB)`.
 *
 * @category formatting
 * @since 0.1.0
 */
export const byteSize = (bytes: number): string => {
  let value = bytes
  let unit: string | undefined
  for (const next of byteUnits) {
    if (value < 1024) break
    value /= 1024
    unit = next
  }
  return unit === undefined ? counted(bytes, "byte") : `${counted(bytes, "byte")} (${value.toFixed(1)} ${unit})`
}

/**
 * A time as people and programs read it, in UTC; `null` for one beyond what a date can say.
 *
 * @category formatting
 * @since 0.1.0
 */
export const isoTime = (unixMillis: number): string | null =>
  unixMillis > maxDateMillis ? null : DateTime.formatIso(DateTime.makeUnsafe(unixMillis))
const maxDateMillis = 8.64e15

/**
 * Lines of two columns, the names padded to the longest one, indented by two spaces.
 *
 * @category formatting
 * @since 0.1.0
 */
export const pairs = (rows: ReadonlyArray<readonly [name: string, value: string]>, style: Style): string => {
  const width = Math.max(0, ...rows.map(([name]) => name.length))
  return rows.map(([name, value]) => `  ${style.faint(name.padEnd(width))}  ${value}\n`).join("")
}

/**
 * A table with a head, each column as wide as its widest cell; columns that hold only numbers are aligned to the right.
 *
 * @category formatting
 * @since 0.1.0
 */
export const table = (
  head: ReadonlyArray<string>,
  rows: ReadonlyArray<ReadonlyArray<string>>,
  style: Style
): string => tableInParts(head, style)(rows)

/**
 * A table that is too long to be held in memory: what is answered is called for one part of the rows after another. The
 * first part decides how wide the columns are, a wider cell behind it pushes its own line out of place.
 *
 * @category formatting
 * @since 0.1.0
 */
export const tableInParts = (
  head: ReadonlyArray<string>,
  style: Style
): (rows: ReadonlyArray<ReadonlyArray<string>>) => string => {
  let columns: ReadonlyArray<Column> | undefined
  return (rows) => {
    const isFirst = columns === undefined
    const widths = columns ??= columnsOf(head, rows)
    return [...isFirst ? [style.faint(lineOf(head, widths))] : [], ...rows.map((row) => lineOf(row, widths))]
      .map((line) => `  ${line}\n`).join("")
  }
}

interface Column {
  readonly width: number
  readonly isNumeric: boolean
}

const columnsOf = (
  head: ReadonlyArray<string>,
  rows: ReadonlyArray<ReadonlyArray<string>>
): ReadonlyArray<Column> =>
  head.map((name, column) => {
    const cells = rows.map((row) => row[column] ?? "")
    return {
      width: cells.reduce((width, cell) => Math.max(width, cell.length), name.length),
      isNumeric: cells.every((cell) => /^[\d,.x-]*$/.test(cell))
    }
  })

const lineOf = (cells: ReadonlyArray<string>, columns: ReadonlyArray<Column>): string =>
  columns.map(({ isNumeric, width }, column) => {
    const cell = cells[column] ?? ""
    return isNumeric ? cell.padStart(width) : cell.padEnd(width)
  }).join("  ").trimEnd()

/** Aligned tables for people. */

/** Rows of cells under their headings; the first column to the left, the others, which are figures, to the right. */
export const table = (headings: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => (row[column] ?? "").length))
  )
  const line = (cells: ReadonlyArray<string>) =>
    widths.map((width, column) => {
      const cell = cells[column] ?? ""
      return column === 0 ? cell.padEnd(width) : cell.padStart(width)
    }).join("  ").trimEnd()
  return [line(headings), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n")
}

/** Three digits that count, with separators between thousands. */
export const figure = (value: number): string => {
  if (!Number.isFinite(value)) return "-"
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString("en-US")
  return value.toPrecision(3)
}

/** A median with the smallest and the largest in brackets. */
export const spreadCell = ({ max, median, min }: {
  readonly median: number
  readonly min: number
  readonly max: number
}): string => `${figure(median)} (${figure(min)}..${figure(max)})`

/**
 * A plot with two logarithmic axes, as SVG, for a page of any colour: it brings its paper along, white or dark as the
 * reader prefers. Each line is named where it ends.
 */
import type { Spread } from "./statistics.ts"

export interface PlotLine {
  readonly name: string
  /** One spread for each x: the line goes through the medians, a whisker from the smallest to the largest. */
  readonly values: ReadonlyArray<Spread>
  /** A line to compare with, not a contestant. */
  readonly isReference?: boolean
}

export interface Plot {
  readonly title: string
  readonly xLabel: string
  readonly yLabel: string
  readonly xs: ReadonlyArray<number>
  readonly lines: ReadonlyArray<PlotLine>
}

const width = 880
const height = 520
const area = { left: 78, top: 48, right: 620, bottom: 456 }
const labelHeight = 18

/** On white and on dark paper; each has a contrast of 4 to 1 or better there. */
const colours = [
  ["#0b62c4", "#58a6ff"],
  ["#57606a", "#9da7b1"],
  ["#4d6b00", "#a5c261"],
  ["#bc4c00", "#f0883e"],
  ["#8a6100", "#d29922"],
  ["#1a7f37", "#3fb950"],
  ["#0e6b70", "#39c5cf"],
  ["#7a45d6", "#bc8cff"],
  ["#b5317f", "#ff7bce"]
] as const

const rules = (paper: string, ink: string, grid: string, strokes: ReadonlyArray<string>) =>
  [
    `.paper { fill: ${paper} }`,
    `.ink { fill: ${ink} }`,
    `.axis, .reference { stroke: ${ink} }`,
    `.grid { stroke: ${grid} }`,
    ...strokes.map((stroke, i) => `.line${i} { stroke: ${stroke} } .dot${i} { fill: ${stroke} }`)
  ].join(" ")

const style = `<style>
text { font: 13px system-ui, sans-serif }
polyline, line { fill: none } .curve { stroke-width: 2 } .first { stroke-width: 3.5 }
.whisker { stroke-width: 1.2 } .leader { stroke-width: 0.8; opacity: 0.6 } .reference { stroke-dasharray: 7 4 }
${rules("#ffffff", "#1f2328", "#e3e7eb", colours.map(([onWhite]) => onWhite))}
@media (prefers-color-scheme: dark) { ${rules("#0d1117", "#e6edf3", "#262c34", colours.map(([, onDark]) => onDark))} }
</style>`

const escape = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")

const round = (value: number) => String(Math.round(value * 10) / 10)

/** 1, 2 and 5 times the powers of ten from the last one up to `least` until the first one from `most` on. */
const steps = (least: number, most: number): ReadonlyArray<number> => {
  const all: Array<number> = []
  for (let power = Math.floor(Math.log10(least)); power <= Math.ceil(Math.log10(most)); power++) {
    all.push(10 ** power, 2 * 10 ** power, 5 * 10 ** power)
  }
  const first = all.findLastIndex((step) => step <= least)
  const last = all.findIndex((step) => step >= most)
  return all.slice(Math.max(0, first), last < 0 ? undefined : last + 1)
}

const logScale = (from: number, to: number, start: number, end: number) => (value: number) =>
  from === to ? (start + end) / 2 : start + (Math.log(value / from) / Math.log(to / from)) * (end - start)

/** Moves labels, which come from top to bottom, apart, and back up where they leave the picture. */
const moveApart = (wanted: ReadonlyArray<number>): ReadonlyArray<number> => {
  const places: Array<number> = []
  for (const y of wanted) places.push(Math.max(y, (places.at(-1) ?? -Infinity) + labelHeight))
  for (let i = places.length - 1, most = area.bottom; i >= 0; i--, most -= labelHeight) {
    places[i] = Math.min(places[i] ?? most, most)
  }
  return places
}

export const renderPlot = ({ lines, title, xLabel, xs, yLabel }: Plot): string => {
  const spreads = lines.flatMap(({ values }) => values)
  const ys = steps(Math.min(...spreads.map(({ min }) => min)), Math.max(...spreads.map(({ max }) => max)))
  const x = logScale(xs[0] ?? 1, xs.at(-1) ?? 1, area.left + 18, area.right - 18)
  const y = logScale(ys[0] ?? 1, ys.at(-1) ?? 10, area.bottom, area.top)
  const text = (at: { readonly x: number; readonly y: number }, content: string, attributes = "") =>
    `<text class="ink" x="${round(at.x)}" y="${round(at.y)}"${attributes}>${escape(content)}</text>`
  const segment = (kind: string, x1: number, y1: number, x2: number, y2: number) =>
    `<line class="${kind}" x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}"/>`

  const horizontal = ys.flatMap((value) => [
    segment("grid", area.left, y(value), area.right, y(value)),
    text({ x: area.left - 8, y: y(value) + 4 }, value.toLocaleString("en-US"), ` text-anchor="end"`)
  ])
  const vertical = xs.flatMap((value) => [
    segment("grid", x(value), area.top, x(value), area.bottom),
    text({ x: x(value), y: area.bottom + 20 }, value.toLocaleString("en-US"), ` text-anchor="middle"`)
  ])

  let coloured = 0
  const drawn = lines.map((line) => {
    const colour = line.isReference === true ? undefined : coloured++ % colours.length
    return {
      ...line,
      stroke: colour === undefined ? "reference" : `line${colour}`,
      fill: colour === undefined ? "ink" : `dot${colour}`,
      weight: colour === 0 ? "first" : "curve",
      points: line.values.map(({ max, median, min }, i) => ({
        x: x(xs[i] ?? 1),
        y: y(median),
        low: y(min),
        high: y(max)
      }))
    }
  })
  const curves = drawn.flatMap(({ fill, points, stroke, weight }) => [
    `<polyline class="${weight} ${stroke}" points="${points.map((at) => `${round(at.x)},${round(at.y)}`).join(" ")}"/>`,
    ...points.flatMap((at) => [
      segment(`whisker ${stroke}`, at.x, at.low, at.x, at.high),
      `<circle class="${fill}" cx="${round(at.x)}" cy="${round(at.y)}" r="3.2"/>`
    ])
  ])

  const ends = drawn.flatMap((line) => {
    const end = line.points.at(-1)
    return end === undefined ? [] : [{ line, end }]
  }).sort((one, other) => one.end.y - other.end.y)
  const places = moveApart(ends.map(({ end }) => end.y))
  const names = ends.flatMap(({ end, line }, i) => {
    const place = places[i] ?? end.y
    return [
      segment(`leader ${line.stroke}`, end.x + 5, end.y, area.right + 10, place),
      segment(`${line.weight} ${line.stroke}`, area.right + 10, place, area.right + 30, place),
      text({ x: area.right + 36, y: place + 4 }, line.name)
    ]
  })

  const middle = { x: (area.left + area.right) / 2, y: (area.top + area.bottom) / 2 }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" role="img">`,
    `<title>${escape(title)}</title>`,
    style,
    `<rect class="paper" width="${width}" height="${height}" rx="6"/>`,
    text({ x: area.left, y: 26 }, title, ` style="font-size: 15px; font-weight: 600"`),
    ...horizontal,
    ...vertical,
    segment("axis", area.left, area.bottom, area.right, area.bottom),
    segment("axis", area.left, area.top, area.left, area.bottom),
    text({ x: middle.x, y: area.bottom + 46 }, xLabel, ` text-anchor="middle"`),
    text({ x: 18, y: middle.y }, yLabel, ` text-anchor="middle" transform="rotate(-90 18 ${round(middle.y)})"`),
    ...curves,
    ...names,
    "</svg>",
    ""
  ].join("\n")
}

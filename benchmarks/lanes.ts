/**
 * How many records a second one thread appends to the lanes of a parallel WAL, encoding included (target: 1,000,000 with
 * images of 100 bytes).
 *
 *     node benchmarks/lanes.ts [--lanes 4] [--records 10000] [--image-bytes 100] [--rounds 9] [--seconds 0.3] [--json]
 *
 * Batches of one record go to the lanes in turn; an epoch is sealed, taken, and released while the next one gathers, and
 * nothing is written to a disk. Beside it, in alternating rounds, two floors: the same records encoded into one
 * preallocated array, and the same bytes copied into one. Lanes are internal to their package, so the contestants are in a
 * program of its tests; this one runs it, and prints what it has measured.
 */
import { execFileSync } from "node:child_process"
import * as NodePath from "node:path"
import { number, parseArguments, wholeNumber } from "./support/options.ts"
import { spreadOf } from "./support/statistics.ts"
import { figure, spreadCell, table } from "./support/table.ts"

const usage = `options:
  --lanes 4           lanes, which the records go to in turn
  --records 10000     records of an epoch: 10 ms at the target
  --image-bytes 100   length of the image in a record
  --rounds 9          alternating rounds, after one that is not counted
  --seconds 0.3       length of a measured slice
  --json              one JSON document instead of a table`

const { values } = parseArguments(usage, {
  options: {
    lanes: { type: "string", default: "4" },
    records: { type: "string", default: "10000" },
    "image-bytes": { type: "string", default: "100" },
    rounds: { type: "string", default: "9" },
    seconds: { type: "string", default: "0.3" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false }
  }
})
if (values.help) {
  console.log(usage)
  process.exit(0)
}

const program = NodePath.join(import.meta.dirname, "../packages/wal/test/programs/laneAppends.ts")
const rounds = wholeNumber("rounds", values.rounds, 1)
const settings = [
  rounds,
  number("seconds", values.seconds, 0.01),
  wholeNumber("lanes", values.lanes, 1),
  wholeNumber("records", values.records, 1),
  wholeNumber("image-bytes", values["image-bytes"], 0)
]

interface Slice {
  readonly recordsPerSecond: number
  /** Of all threads, the collector's too: what a busy neighbour disturbs least. */
  readonly cpuNanosPerRecord: number
}

interface Measured {
  readonly encodedBytes: number
  readonly rounds: ReadonlyArray<{ readonly copy: Slice; readonly encode: Slice; readonly lanes: Slice }>
}

const output = execFileSync(process.execPath, [program, ...settings.map(String)], { encoding: "utf8" })
// The other half of this benchmark printed it.
const measured = JSON.parse(output) as Measured

const contestants = [
  ["lanes", "lanes, encoding included"],
  ["encode", "encoding into one array"],
  ["copy", "copying into one array (floor)"]
] as const

const results = contestants.map(([key, name]) => ({
  name,
  recordsPerSecond: spreadOf(measured.rounds.map((round) => round[key].recordsPerSecond)),
  cpuNanosPerRecord: spreadOf(measured.rounds.map((round) => round[key].cpuNanosPerRecord)),
  // The clock of the processor and the neighbours change from round to round: the ratio does not.
  ofEncode: spreadOf(measured.rounds.map((round) => round[key].recordsPerSecond / round.encode.recordsPerSecond)),
  ofCopy: spreadOf(measured.rounds.map((round) => round[key].recordsPerSecond / round.copy.recordsPerSecond))
}))

if (values.json) {
  console.log(JSON.stringify({ rounds, encodedBytes: measured.encodedBytes, results }))
} else {
  console.log(
    `one record a batch, ${values["image-bytes"]} bytes of image, ${measured.encodedBytes} bytes encoded; ` +
      `${values.lanes} lanes, ${values.records} records an epoch; median (lowest..highest) of ${rounds} rounds\n`
  )
  console.log(table(
    ["contestant", "records/s", "MB/s", "CPU ns a record", "of encoding", "of copying"],
    results.map(({ cpuNanosPerRecord, name, ofCopy, ofEncode, recordsPerSecond }) => [
      name,
      spreadCell(recordsPerSecond),
      figure(recordsPerSecond.median * measured.encodedBytes / 1e6),
      spreadCell(cpuNanosPerRecord),
      spreadCell(ofEncode),
      spreadCell(ofCopy)
    ])
  ))
}

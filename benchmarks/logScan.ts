/**
 * How fast recovery looks at an append log whose files are in the page cache (quality.md: at least 1 GB/s).
 *
 *     node benchmarks/logScan.ts [--megabytes 256] [--rounds 7] [--only NAME,NAME] [--directory DIR] [--json]
 *
 * For each layout a log is built, and looked at in rounds. Beside it, in the same rounds, two floors: reading the same
 * bytes through the same calls, and reading them and taking one CRC-32C of each block. What the scan needs above the
 * second is the walk from head to head, and the calls for checksums of single batches.
 */
import { toLsn } from "@tidemark/core/Scalars"
import { crc32c } from "@tidemark/platform/Checksum"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import * as AppendLogFormat from "@tidemark/wal/AppendLogFormat"
import { scanDirectory } from "@tidemark/wal/AppendLogScan"
import * as Effect from "effect/Effect"
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import { parseArguments, refuse, temporaryDirectory, wholeNumber } from "./support/options.ts"
import { spreadOf } from "./support/statistics.ts"
import { figure, table } from "./support/table.ts"

const usage = `options:
  --megabytes 256    size of the log, in segments of 64 MiB
  --rounds 7         alternating rounds, after one that is not counted
  --only NAME,NAME   only these layouts (part of a name is enough)
  --directory DIR    where the log goes; default: tmp of the repository
  --json             one JSON document instead of a table`

const { values } = parseArguments(usage, {
  options: {
    megabytes: { type: "string", default: "256" },
    rounds: { type: "string", default: "7" },
    only: { type: "string" },
    directory: { type: "string" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false }
  }
})
if (values.help) {
  console.log(usage)
  process.exit(0)
}

const segmentBytes = 64 * 1024 * 1024
const logBytes = wholeNumber("megabytes", values.megabytes, 1) * 1024 * 1024
const rounds = wholeNumber("rounds", values.rounds, 1)
const root = temporaryDirectory(values.directory)

interface Layout {
  readonly name: string
  readonly recordBytes: number
  readonly recordsPerBatch: number
}

const layouts: ReadonlyArray<Layout> = [
  { name: "100 B, 1 a batch", recordBytes: 100, recordsPerBatch: 1 },
  { name: "100 B, 8 a batch", recordBytes: 100, recordsPerBatch: 8 },
  { name: "100 B, 64 a batch", recordBytes: 100, recordsPerBatch: 64 },
  { name: "100 B, 1024 a batch", recordBytes: 100, recordsPerBatch: 1024 },
  { name: "4 KiB, 1 a batch", recordBytes: 4096, recordsPerBatch: 1 },
  { name: "4 KiB, 64 a batch", recordBytes: 4096, recordsPerBatch: 64 }
].filter(({ name }) => values.only === undefined || values.only.split(",").some((part) => name.includes(part)))
if (layouts.length === 0) refuse(`--only names none of the layouts: "${values.only}"`)

const logId = new Uint8Array(16).fill(7)

/** Writes one segment of whole batches and answers where it ends. */
const writeSegment = (directory: string, layout: Layout, startLsn: number, index: number, bytesLeft: number) => {
  const frameBytes = AppendLogFormat.recordFrameBytes(layout.recordBytes)
  const batchBytes = layout.recordsPerBatch * frameBytes + AppendLogFormat.commitFrameBytes
  const batches = Math.ceil(Math.min(segmentBytes, bytesLeft) / batchBytes)
  const bytes = new Uint8Array(AppendLogFormat.segmentHeaderBytes + batches * batchBytes)
  const view = new DataView(bytes.buffer)
  const header = { logId, startLsn: toLsn(startLsn), segmentIndex: BigInt(index), createdUnixNanos: 0n }
  bytes.set(AppendLogFormat.encodeSegmentHeader(header))
  const payload = new Uint8Array(layout.recordBytes)
  let at: number = AppendLogFormat.segmentHeaderBytes
  for (let batch = 0; batch < batches; batch++) {
    const start = at
    for (let record = 0; record < layout.recordsPerBatch; record++) {
      payload.fill(batch + record * 31)
      AppendLogFormat.writeRecordFrame(bytes, view, at, payload)
      at += frameBytes
    }
    const lsn = AppendLogFormat.lsnAt(start, header.startLsn)
    const checksum = AppendLogFormat.batchChecksum(logId, lsn, [bytes.subarray(start, at)], at - start)
    AppendLogFormat.writeCommitFrame(view, at, lsn, true, checksum)
    at += AppendLogFormat.commitFrameBytes
  }
  NodeFs.writeFileSync(NodePath.join(directory, AppendLogFormat.segmentFileName(header.startLsn)), bytes)
  return {
    endLsn: AppendLogFormat.lsnAt(at, header.startLsn),
    bytes: bytes.length,
    records: batches * layout.recordsPerBatch
  }
}

const buildLog = (layout: Layout) => {
  const directory = NodeFs.mkdtempSync(NodePath.join(root, "log-"))
  let [endLsn, bytes, records] = [0, 0, 0]
  for (let index = 0; endLsn < logBytes; index++) {
    const segment = writeSegment(directory, layout, endLsn, index, logBytes - endLsn)
    endLsn = segment.endLsn
    bytes += segment.bytes
    records += segment.records
  }
  return { directory, bytes, records }
}

const blockBytes = 1024 * 1024

/** Reads every byte, in the blocks of the scan. */
const readAll = Effect.fnUntraced(function*(directory: string, use: (block: Uint8Array) => void) {
  const vfs = yield* Vfs
  const buffer = new Uint8Array(blockBytes)
  for (const name of yield* vfs.list(directory)) {
    yield* Effect.scoped(Effect.gen(function*() {
      const file = yield* vfs.open(`${directory}/${name}`, { access: "read" })
      const bytes = yield* file.size
      for (let position = 0; position < bytes;) {
        const length = yield* file.read(buffer, position)
        use(buffer.subarray(0, length))
        position += length
      }
    }))
  }
})

const measureLayout = Effect.fnUntraced(function*(layout: Layout) {
  const vfs = yield* Vfs
  const { bytes, directory, records } = buildLog(layout)
  const scan = Effect.map(scanDirectory(vfs, directory), (report) => {
    if (report.records !== records) throw new Error(`${report.records} of ${records} records were found`)
  })
  const contestants = {
    read: readAll(directory, () => {}),
    checksum: readAll(directory, (block) => crc32c(block)),
    scan
  }
  const gigabytesPerSecond = { read: new Array<number>(), checksum: new Array<number>(), scan: new Array<number>() }
  for (let round = -1; round < rounds; round++) {
    for (const name of ["read", "checksum", "scan"] as const) {
      const started = process.hrtime.bigint()
      yield* contestants[name]
      const nanos = Number(process.hrtime.bigint() - started)
      if (round >= 0) gigabytesPerSecond[name].push(bytes / nanos)
    }
  }
  NodeFs.rmSync(directory, { recursive: true })
  const { checksum, read, scan: scanned } = gigabytesPerSecond
  return {
    layout: layout.name,
    bytes,
    records,
    read: spreadOf(read),
    checksum: spreadOf(checksum),
    scan: spreadOf(scanned),
    // The disk's cache, the clock of the processor and the neighbours change from round to round: the ratio does not.
    ofChecksum: spreadOf(scanned.map((value, round) => value / (checksum[round] ?? Number.NaN)))
  }
})

const results = await Effect.runPromise(
  Effect.forEach(layouts, measureLayout).pipe(Effect.provide(NodeVfs.layer))
)

if (values.json) {
  console.log(JSON.stringify({ unit: "GB/s", rounds, results }))
} else {
  const cell = ({ max, median, min }: { readonly median: number; readonly min: number; readonly max: number }) =>
    `${figure(median)} (${figure(min)} - ${figure(max)})`
  console.log(`GB/s, median (lowest - highest) of ${rounds} rounds\n`)
  console.log(table(
    ["layout", "MB", "records", "read only", "read + one CRC", "scan", "scan / read + CRC"],
    results.map((row) => [
      row.layout,
      figure(row.bytes / 1e6),
      figure(row.records),
      cell(row.read),
      cell(row.checksum),
      cell(row.scan),
      cell(row.ofChecksum)
    ])
  ))
}

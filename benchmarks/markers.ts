/**
 * How fast a commit marker stream is verified, opened and read, with files of the system in its page cache.
 *
 *     node benchmarks/markers.ts [--markers N] [--rounds N] [--directory DIRECTORY] [--json]
 *
 * The stream is written by the functions that a log uses, then scanned whole, scanned from its last thousand markers on,
 * walked over without the hashes, and searched by time. Medians of the rounds, which alternate.
 */
import { toCommitSeq, toObjectId } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { markerBytes } from "@tidemark/wal/MarkerFormat"
import { makeMarkerReader, openMarkers, scanMarkers } from "@tidemark/wal/MarkerStore"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import * as NodePath from "node:path"
import { parseArgs } from "node:util"

const { values } = parseArgs({
  options: {
    markers: { type: "string", default: "1000000" },
    rounds: { type: "string", default: "5" },
    directory: { type: "string", default: NodePath.join(import.meta.dirname, "..", "tmp") },
    json: { type: "boolean", default: false }
  }
})
const count = Number(values.markers)
const batch = 1000

mkdirSync(values.directory, { recursive: true })
const directory = mkdtempSync(NodePath.join(values.directory, "markers-"))
const database = NodePath.join(directory, "app.db")

const millis = Effect.fnUntraced(function*<A, E, R>(effect: Effect.Effect<A, E, R>) {
  const clock = yield* Clock.Clock
  const started = clock.monotonicTimeNanosUnsafe()
  yield* effect
  return Number(clock.monotonicTimeNanosUnsafe() - started) / 1e6
})

const median = (numbers: ReadonlyArray<number>): number => numbers.toSorted((a, b) => a - b)[numbers.length >> 1] ?? 0

const fill = (vfs: Vfs["Service"]) =>
  Effect.scoped(Effect.gen(function*() {
    const scan = yield* scanMarkers(vfs, database)
    const files = yield* openMarkers(vfs, { database, scan, tip: toCommitSeq(0n) })
    const bytes = new Uint8Array(batch * markerBytes)
    const view = new DataView(bytes.buffer)
    const capsule = toObjectId(new Uint8Array(16).fill(0xca))
    let encoding = 0
    for (let written = 0; written < count; written += batch) {
      const from = files.next()
      const started = performance.now()
      for (let i = 0; i < batch; i++) files.encodeNext(capsule, undefined, bytes, view, i * markerBytes)
      encoding += performance.now() - started
      yield* files.write([bytes], from)
    }
    yield* files.sync
    return (encoding * 1e6) / count
  }))

const program = Effect.gen(function*() {
  const vfs = yield* Vfs
  const encodeNanos = yield* fill(vfs)
  const { last, segments } = yield* scanMarkers(vfs, database)
  const through = last?.seq ?? toCommitSeq(0n)
  const reader = makeMarkerReader(vfs, { segments: () => segments, through: () => through })
  const bytes = segments.reduce((sum, segment) => sum + segment.bytes, 0)
  const contestants = new Map<string, Effect.Effect<unknown, unknown>>([
    ["scan everything", scanMarkers(vfs, database)],
    ["scan from the last 1,000 on", scanMarkers(vfs, database, { from: toCommitSeq(through - 999n) })],
    [
      "open from the last 1,000 on",
      Effect.scoped(Effect.flatMap(
        scanMarkers(vfs, database, { from: toCommitSeq(through - 999n) }),
        (scan) => openMarkers(vfs, { database, scan, tip: through })
      ))
    ],
    ["verifyChain", reader.verifyChain],
    ["read one", reader.read(toCommitSeq(through / 2n))],
    ["sequenceAt", reader.sequenceAt(last?.timeUnixNanos ?? 0n)]
  ])
  const times = new Map<string, Array<number>>()
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const [name, contestant] of contestants) {
      const taken = times.get(name) ?? []
      taken.push(yield* millis(contestant))
      times.set(name, taken)
    }
  }
  const rows = Array.from(times, ([name, taken]) => ({ name, millis: median(taken), most: Math.max(...taken) }))
  return { markers: Number(through), bytes, encodeNanos, rows }
})

try {
  const result = await Effect.runPromise(Effect.provide(program, NodeVfs.layer))
  if (values.json) console.log(JSON.stringify(result))
  else {
    console.log(
      `${result.markers} markers, ${(result.bytes / 1e6).toFixed(1)} MB; encoding one takes ${
        result.encodeNanos.toFixed(0)
      } ns`
    )
    console.table(result.rows.map(({ millis, most, name }) => ({
      what: name,
      "median, ms": Number(millis.toFixed(3)),
      "most, ms": Number(most.toFixed(3)),
      "MB/s over the whole stream": Math.round(result.bytes / 1e3 / millis)
    })))
  }
} finally {
  rmSync(directory, { recursive: true, force: true })
}

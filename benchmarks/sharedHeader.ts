/**
 * What a snapshot and a publication cost on the shared-memory header, mapped from a file and in memory, beside the same
 * words in a plain array that nobody shares.
 *
 *     node benchmarks/sharedHeader.ts [--rounds 9] [--json]
 *
 * One thread, nobody else at the header. Medians of alternating rounds; targets: a snapshot below 1 microsecond, a
 * publication below 2.
 */
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import { PageSize, type SchemaEpoch, toCommitSeq } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { SharedMemory } from "@tidemark/platform/SharedMemory"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as NodeFs from "node:fs"
import { tmpdir } from "node:os"
import * as NodePath from "node:path"
import { parseArgs } from "node:util"
import { spreadOf } from "./support/statistics.ts"
import { figure, table } from "./support/table.ts"

const { values } = parseArgs({
  options: { rounds: { type: "string", default: "9" }, json: { type: "boolean", default: false } }
})

const pageSize = PageSize.make(4096)
const calls = 200_000
const zero = { commitSeq: toCommitSeq(0n), schemaEpoch: 0n as SchemaEpoch, ecsEpoch: 0n }

/** States that are there before the clock starts, because making them is the committer's work. None is published twice. */
let lastCommit = 0n
const nextStates = (): ReadonlyArray<SharedHeader.HeaderSnapshot> =>
  Array.from({ length: calls }, () => ({ ...zero, commitSeq: toCommitSeq(++lastCommit) }))

/** The same steps on words of this thread alone. */
const makePlain = () => {
  const words = new BigUint64Array(8)
  return {
    publish: (state: SharedHeader.HeaderSnapshot) => {
      const sequence = words[0] ?? 0n
      words[0] = sequence + 1n
      words[1] = state.schemaEpoch
      words[2] = state.commitSeq
      words[3] = state.ecsEpoch
      words[4] = state.commitSeq + 1n
      words[0] = sequence + 2n
    },
    snapshot: () => {
      const before = words[0] ?? 0n
      const snapshot = { commitSeq: words[2], schemaEpoch: words[1], ecsEpoch: words[3] }
      return words[0] === before ? snapshot : undefined
    }
  }
}

/** Keeps the optimiser from leaving out what nobody looks at. */
let sink: unknown

const open = (layer: Layer.Layer<SharedHeader.SharedHeader, SharedHeader.OpenSharedHeaderError>) =>
  Effect.gen(function*() {
    const header = Context.get(yield* Layer.build(layer), SharedHeader.SharedHeader)
    const publisher = yield* header.becomePublisher({ ...zero, nextTxnId: 1n })
    return { header, publisher }
  })

const nanosSince = (started: number): number => (performance.now() - started) * 1e6 / calls

const measureReads = (read: () => unknown): number => {
  const started = performance.now()
  for (let index = 0; index < calls; index++) sink = read()
  return nanosSince(started)
}

const measurePublications = (publish: (state: SharedHeader.HeaderSnapshot) => void): number => {
  const states = nextStates()
  const started = performance.now()
  for (const state of states) publish(state)
  return nanosSince(started)
}

const program = Effect.gen(function*() {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => NodeFs.mkdtempSync(NodePath.join(tmpdir(), "tidemark-shared-header-"))),
    (path) => Effect.sync(() => NodeFs.rmSync(path, { recursive: true }))
  )
  const database = NodePath.join(directory, "bench.db")
  const platform = Layer.mergeAll(NodeVfs.layer, SharedMemory.layerFile)
  const mapped = yield* open(SharedHeader.layer({ database, pageSize }).pipe(Layer.provide(platform)))
  const memory = yield* open(SharedHeader.layerMemory({ pageSize }))
  const plain = makePlain()

  const fiberSnapshots = Effect.gen(function*() {
    const started = performance.now()
    for (let index = 0; index < calls; index++) sink = yield* mapped.header.snapshot
    return nanosSince(started)
  })

  const synchronous = new Map<string, () => number>([
    ["snapshot, mapped file", () => measureReads(mapped.header.snapshotUnsafe)],
    ["snapshot, memory", () => measureReads(memory.header.snapshotUnsafe)],
    ["snapshot, plain array", () => measureReads(plain.snapshot)],
    ["publish, mapped file", () => measurePublications(mapped.publisher.publish)],
    ["publish, memory", () => measurePublications(memory.publisher.publish)],
    ["publish, plain array", () => measurePublications(plain.publish)]
  ])

  const nanos = new Map<string, Array<number>>()
  const keep = (name: string, found: number, round: number) => {
    // The first two rounds are for the compiler.
    if (round >= 2) nanos.set(name, [...nanos.get(name) ?? [], found])
  }
  const rounds = Number(values.rounds)
  for (let round = 0; round < rounds + 2; round++) {
    for (const [name, run] of round % 2 === 0 ? synchronous : [...synchronous].toReversed()) keep(name, run(), round)
    keep("snapshot as an effect, mapped file", yield* fiberSnapshots, round)
  }
  return [...nanos].map(([name, found]) => ({ name, nanos: spreadOf(found) }))
})

const rows = await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(Logger.layer([]))))
if (sink === undefined) throw new Error("a snapshot was not answered")
if (values.json) {
  console.log(JSON.stringify({ calls, rounds: Number(values.rounds), rows }))
} else {
  console.log(table(
    ["ns per call", "median", "min", "max"],
    rows.map(({ name, nanos }) => [name, figure(nanos.median), figure(nanos.min), figure(nanos.max)])
  ))
}

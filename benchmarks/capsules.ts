/**
 * What a commit capsule costs: encoding it, putting it into the store, and the first barrier of a batch.
 *
 *     node benchmarks/capsules.ts [--directory D] [--rounds N] [--json]
 *
 * The floor is the synchronous overwrite of 4 KiB in a zero-filled file, followed by `fdatasync`. All variants run in
 * alternating rounds of one process; a ratio is the median of the rounds' ratios.
 */
import { defaultPageSize, toCommitSeq, toPageNumber, toTxnId, TxnEpoch } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { type CapsuleContent, decode, encode } from "@tidemark/wal/CapsuleFormat"
import { type CapsuleStore, makeCapsuleStore } from "@tidemark/wal/CapsuleStore"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import { parseArgs } from "node:util"

const { values } = parseArgs({
  options: {
    directory: { type: "string", default: NodePath.join(import.meta.dirname, "..", "tmp") },
    rounds: { type: "string", default: "9" },
    json: { type: "boolean", default: false }
  }
})
const rounds = Number(values.rounds)
NodeFs.mkdirSync(values.directory, { recursive: true })
const directory = NodeFs.mkdtempSync(NodePath.join(values.directory, "capsules-"))

const median = (numbers: ReadonlyArray<number>) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1] ?? Number.NaN

let transactions = 0n
const nextContent = (pages: number): CapsuleContent => ({
  token: { id: toTxnId(++transactions), epoch: TxnEpoch.make(1) },
  beginSeq: toCommitSeq(7n),
  databasePages: 1000,
  pageSize: defaultPageSize,
  pages: Array.from({ length: pages }, (_, index) => toPageNumber(index * 3 + 1))
})
const image = Uint8Array.from({ length: defaultPageSize }, (_, index) => index * 31)
const encodeNext = (pages: number) => encode(nextContent(pages), () => image)

/** Processor time of this thread, which other work on the machine changes little. */
const threadMicros = () => {
  const { system, user } = process.threadCpuUsage()
  return user + system
}

const encoding = () =>
  [1, 16, 256].map((pages) => {
    const content = nextContent(pages)
    const { bytes } = encodeNext(pages)
    const calls = Math.ceil(40_000 / (pages + 3))
    const encodeMicros: Array<number> = []
    const decodeMicros: Array<number> = []
    for (let round = 0; round < rounds; round++) {
      const started = threadMicros()
      for (let call = 0; call < calls; call++) encode(content, () => image)
      const between = threadMicros()
      for (let call = 0; call < calls; call++) decode(bytes)
      encodeMicros.push((between - started) / calls)
      decodeMicros.push((threadMicros() - between) / calls)
    }
    const rounded = (micros: ReadonlyArray<number>) => Number(median(micros).toFixed(1))
    return { pages, encodeThreadMicros: rounded(encodeMicros), decodeThreadMicros: rounded(decodeMicros) }
  })

interface Variant {
  readonly name: string
  readonly store: CapsuleStore["Service"]
}

const scope = Effect.runSync(Scope.make())
const vfs = Effect.runSync(Effect.map(Layer.buildWithScope(NodeVfs.layerVfs, scope), Context.get(Vfs)))

const variantOf = (
  name: string,
  options: { readonly syncConcurrency: number; readonly maxKeptFiles?: number }
): Variant => ({
  name,
  store: Effect.runSync(
    Scope.provide(makeCapsuleStore(vfs, { database: NodePath.join(directory, name), ...options }), scope)
  )
})

/** One batch, each capsule from a fiber of its own. Answers how long the puts took, and the barrier. */
const batch = ({ store }: Variant, count: number, pages: number) =>
  Effect.gen(function*() {
    const capsules = Array.from({ length: count }, () => encodeNext(pages))
    const ids = capsules.map(({ id }) => id)
    const started = performance.now()
    yield* Effect.forEach(capsules, store.put, { concurrency: "unbounded", discard: true })
    const put = performance.now()
    yield* store.sync(ids)
    const synced = performance.now()
    yield* Effect.forEach(ids, store.remove, { concurrency: 4, discard: true })
    return { putMicros: (put - started) * 1000, syncMicros: (synced - put) * 1000 }
  })

const floorFile = NodePath.join(directory, "floor")
NodeFs.writeFileSync(floorFile, new Uint8Array(4096), { flush: true })
const floorDescriptor = NodeFs.openSync(floorFile, "r+")
const floorMicros = () => {
  const durations: Array<number> = []
  for (let call = 0; call < 40; call++) {
    const started = performance.now()
    NodeFs.writeSync(floorDescriptor, image, 0, image.length, 0)
    NodeFs.fdatasyncSync(floorDescriptor)
    durations.push((performance.now() - started) * 1000)
  }
  return median(durations)
}

const barriers = async () => {
  const variants = [
    ...[1, 4, 8, 16, 32].map((syncConcurrency) => variantOf(`concurrency ${syncConcurrency}`, { syncConcurrency })),
    variantOf("concurrency 16, files opened again", { syncConcurrency: 16, maxKeptFiles: 0 })
  ]
  // The first batch of each makes the directories.
  for (const variant of variants) await Effect.runPromise(batch(variant, 4, 1))
  const rows = []
  for (const [count, pages] of [[1, 1], [8, 1], [64, 1], [8, 16]] as const) {
    const micros = new Map(variants.map(({ name }) => [name, { put: Array<number>(), sync: Array<number>() }]))
    const floors: Array<number> = []
    const repeats = Math.ceil(24 / count)
    for (let round = 0; round < rounds; round++) {
      floors.push(floorMicros())
      for (const variant of round % 2 === 0 ? variants : variants.toReversed()) {
        const taken = []
        for (let repeat = 0; repeat < repeats; repeat++) {
          taken.push(await Effect.runPromise(batch(variant, count, pages)))
        }
        micros.get(variant.name)?.put.push(median(taken.map(({ putMicros }) => putMicros)))
        micros.get(variant.name)?.sync.push(median(taken.map(({ syncMicros }) => syncMicros)))
      }
    }
    const base = micros.get("concurrency 16")?.sync ?? []
    for (const [name, { put, sync }] of micros) {
      rows.push({
        capsules: count,
        pages,
        name,
        putMicros: Math.round(median(put)),
        syncMicros: Math.round(median(sync)),
        floorMicros: Math.round(median(floors)),
        ratioTo16: Number(median(sync.map((value, round) => value / (base[round] ?? Number.NaN))).toFixed(2))
      })
    }
  }
  return rows
}

try {
  const report = { encoding: encoding(), barriers: await barriers() }
  if (values.json) console.log(JSON.stringify(report))
  else for (const table of Object.values(report)) console.table(table)
} finally {
  NodeFs.closeSync(floorDescriptor)
  NodeFs.rmSync(directory, { recursive: true, force: true })
}

/**
 * What a small durable write costs, by the way it takes (decision 0004).
 *
 *     node benchmarks/writeAndSync.ts [--directory D] [--rounds N] [--table NAME] [--json]
 *
 * The floor is the synchronous overwrite of 4 KiB in a zero-filled file, followed by `fdatasync`. All variants of a table
 * run in alternating rounds of one process, and every figure is compared with another one of its own round, because a
 * machine drifts more between two runs than these variants differ.
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs, type VfsFile } from "@tidemark/platform/Vfs"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as NodeFs from "node:fs"
import * as NodeOs from "node:os"
import * as NodePath from "node:path"
import { parseArgs } from "node:util"
import { Worker } from "node:worker_threads"

const { values } = parseArgs({
  options: {
    directory: { type: "string", default: NodeOs.tmpdir() },
    table: { type: "string" },
    rounds: { type: "string", default: "9" },
    json: { type: "boolean", default: false }
  }
})
const rounds = Number(values.rounds)
const directory = NodeFs.mkdtempSync(NodePath.join(values.directory, "tidemark-sync-"))

const fileBytes = 4 * 1024 * 1024
let files = 0
const preallocated = (): string => {
  const path = NodePath.join(directory, `file-${files++}`)
  NodeFs.writeFileSync(path, new Uint8Array(fileBytes), { flush: true })
  return path
}

const quantile = (numbers: ReadonlyArray<number>, q: number): number =>
  numbers.toSorted((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor(numbers.length * q))] ?? Number.NaN
const median = (numbers: ReadonlyArray<number>) => quantile(numbers, 0.5)

interface Variant {
  readonly name: string
  /** One durable write at `position`. */
  readonly run: (buffer: Uint8Array, position: number) => void | Promise<void>
}

interface Row {
  readonly name: string
  readonly medianMicros: number
  readonly p99Micros: number
  readonly ratioToFloor: number
}

/** Alternating rounds; the ratio is the median of the rounds' ratios of medians. */
const compare = async (variants: ReadonlyArray<Variant>, bytes: number, floorBytes: number): Promise<Array<Row>> => {
  const callsPerRound = 150
  const micros = new Map(variants.map(({ name }) => [name, Array<Array<number>>()]))
  for (let round = 0; round < rounds; round++) {
    for (const { name, run } of round % 2 === 0 ? variants : variants.toReversed()) {
      // In shared memory, so that the worker thread can see it.
      const buffer = new Uint8Array(new SharedArrayBuffer(name === "floor" ? floorBytes : bytes)).fill(round + 1)
      const durations: Array<number> = []
      for (let call = 0; call < callsPerRound; call++) {
        const started = performance.now()
        await run(buffer, (call * bytes) % (fileBytes - bytes))
        durations.push((performance.now() - started) * 1000)
      }
      micros.get(name)?.push(durations)
    }
  }
  const medians = (name: string) => (micros.get(name) ?? []).map(median)
  const floor = medians("floor")
  return variants.map(({ name }) => ({
    name,
    medianMicros: median(medians(name)),
    p99Micros: quantile((micros.get(name) ?? []).flat(), 0.99),
    ratioToFloor: median(medians(name).map((value, round) => value / (floor[round] ?? Number.NaN)))
  }))
}

const callbackPromise = (start: (done: (cause: NodeJS.ErrnoException | null) => void) => void) =>
  new Promise<void>((resolve, reject) => start((cause) => cause === null ? resolve() : reject(cause)))

/** A thread that does nothing but write and sync what it is told through shared memory. */
const flushThread = (path: string) => {
  const words = new Int32Array(new SharedArrayBuffer(16))
  const source = `
    const { workerData: { bytes, path, words } } = require("node:worker_threads")
    const fs = require("node:fs")
    const fd = fs.openSync(path, "r+")
    for (let seen = 0;;) {
      Atomics.wait(words, 0, seen)
      seen = Atomics.load(words, 0)
      fs.writevSync(fd, [bytes.subarray(0, words[1])], words[2])
      fs.fdatasyncSync(fd)
      Atomics.store(words, 3, 1)
      Atomics.notify(words, 3)
    }`
  const bytes = new Uint8Array(new SharedArrayBuffer(65536))
  const worker = new Worker(source, { eval: true, workerData: { bytes, path, words } })
  const run = async (buffer: Uint8Array, position: number) => {
    bytes.set(buffer)
    Atomics.store(words, 1, buffer.length)
    Atomics.store(words, 2, position)
    Atomics.store(words, 3, 0)
    Atomics.add(words, 0, 1)
    Atomics.notify(words, 0)
    await Atomics.waitAsync(words, 3, 0).value
  }
  return { run, stop: () => worker.terminate() }
}

const scope = Effect.runSync(Scope.make())
const vfsWith = (options: NodeVfs.NodeVfsOptions) =>
  Effect.runSync(Effect.map(Layer.buildWithScope(NodeVfs.layerVfsOptions(options), scope), Context.get(Vfs)))
const pooledVfs = vfsWith({ inlineSyncMaxMicros: 0 })
const adaptiveVfs = vfsWith({})
const openWith = (vfs: Vfs["Service"]) =>
  Effect.runPromise(Scope.provide(vfs.open(preallocated(), { access: "readWrite" }), scope))

const oneWriter = async (bytes: number) => {
  const plain = NodeFs.openSync(preallocated(), "r+")
  const synchronous = NodeFs.openSync(preallocated(), NodeFs.constants.O_RDWR | NodeFs.constants.O_DSYNC)
  const thread = flushThread(preallocated())
  const pooled = await openWith(pooledVfs)
  const adaptive = await openWith(adaptiveVfs)
  const rows = await compare(
    [
      {
        name: "floor",
        run: (buffer, position) => {
          NodeFs.writeSync(plain, buffer, 0, buffer.length, position)
          NodeFs.fdatasyncSync(plain)
        }
      },
      {
        name: "(a) pool: write, then fdatasync",
        run: async (buffer, position) => {
          await callbackPromise((done) => NodeFs.writev(plain, [buffer], position, done))
          await callbackPromise((done) => NodeFs.fdatasync(plain, done))
        }
      },
      {
        name: "(b) pool: one write with O_DSYNC",
        run: (buffer, position) => callbackPromise((done) => NodeFs.writev(synchronous, [buffer], position, done))
      },
      {
        name: "(c) this thread: write, then fdatasync",
        run: (buffer, position) => {
          NodeFs.writevSync(plain, [buffer], position)
          NodeFs.fdatasyncSync(plain)
        }
      },
      {
        name: "(d) this thread: one write with O_DSYNC",
        run: (buffer, position) => {
          NodeFs.writevSync(synchronous, [buffer], position)
        }
      },
      { name: "(e) a thread of its own, Atomics", run: thread.run },
      {
        name: "NodeVfs, inlineSyncMaxMicros = 0",
        run: (buffer, position) => Effect.runPromise(pooled.writeAndSyncData([buffer], position))
      },
      {
        name: "NodeVfs, default",
        run: (buffer, position) => Effect.runPromise(adaptive.writeAndSyncData([buffer], position))
      }
    ],
    bytes,
    4096
  )
  NodeFs.closeSync(plain)
  NodeFs.closeSync(synchronous)
  await thread.stop()
  return rows
}

/** A group commit of 30 lines: writers in a closed loop, each waiting for its own page, one leader. */
const groupCommit = (file: VfsFile, writers: number, millis: number) =>
  Effect.gen(function*() {
    const pageBytes = 4120
    const page = new Uint8Array(pageBytes).fill(7)
    let waiting: Array<() => void> = []
    let wake: (() => void) | undefined
    let commits = 0
    let batches = 0
    const stopAt = performance.now() + millis
    const commit = Effect.callback<void>((resume) => {
      waiting.push(() => resume(Effect.void))
      wake?.()
      wake = undefined
    })
    const writer = Effect.whileLoop({
      while: () => performance.now() < stopAt,
      body: () => commit,
      step: () => {
        commits++
      }
    })
    const leader = Effect.gen(function*() {
      while (true) {
        if (waiting.length === 0) {
          yield* Effect.callback<void>((resume) => {
            wake = () => resume(Effect.void)
          })
          // Everybody who is runnable gets into this batch.
          yield* Effect.yieldNow
        }
        const batch = waiting
        waiting = []
        yield* file.writeAndSyncData(batch.map(() => page), (batches % 3) * 1_100_000)
        batches++
        for (const done of batch) done()
      }
    })
    yield* Effect.raceFirst(
      leader,
      Effect.all(Array.from({ length: writers }, () => writer), { concurrency: "unbounded", discard: true })
    )
    return { commitsPerSecond: commits / (millis / 1000), commitsPerSync: commits / batches }
  })

const manyWriters = async () => {
  const ways = {
    pool: await openWith(pooledVfs),
    default: await openWith(adaptiveVfs),
    unlimited: await openWith(vfsWith({ inlineSyncMaxMicros: 100_000, inlineSyncMaxBytes: fileBytes }))
  }
  const names = ["pool", "default", "unlimited"] as const
  const rows = []
  for (const writers of [1, 8, 64, 256]) {
    const perSecond = { pool: Array<number>(), default: Array<number>(), unlimited: Array<number>() }
    let perSync = 0
    for (let round = 0; round < rounds; round++) {
      for (const name of round % 2 === 0 ? names : names.toReversed()) {
        const result = await Effect.runPromise(groupCommit(ways[name], writers, 50))
        perSecond[name].push(result.commitsPerSecond)
        if (name === "default") perSync = result.commitsPerSync
      }
    }
    const ratioToPool = (name: keyof typeof ways) =>
      median(perSecond[name].map((value, round) => value / (perSecond.pool[round] ?? Number.NaN)))
    rows.push({
      writers,
      poolPerSecond: Math.round(median(perSecond.pool)),
      defaultPerSecond: Math.round(median(perSecond.default)),
      defaultCommitsPerSync: perSync,
      ratioDefault: ratioToPool("default"),
      ratioUnlimited: ratioToPool("unlimited")
    })
  }
  return rows
}

/** Four files at once, as the lanes of a parallel log. */
const fourFiles = async () => {
  const open = (vfs: Vfs["Service"]) => Promise.all([openWith(vfs), openWith(vfs), openWith(vfs), openWith(vfs)])
  const pooled = await open(pooledVfs)
  const adaptive = await open(adaptiveVfs)
  const run = (lanes: ReadonlyArray<VfsFile>) => (buffer: Uint8Array, position: number) =>
    Effect.runPromise(
      Effect.forEach(lanes, (lane) => lane.writeAndSyncData([buffer], position), {
        concurrency: "unbounded",
        discard: true
      })
    )
  const floorDescriptor = NodeFs.openSync(preallocated(), "r+")
  const rows = await compare(
    [
      {
        name: "floor",
        run: (buffer, position) => {
          NodeFs.writeSync(floorDescriptor, buffer, 0, buffer.length, position)
          NodeFs.fdatasyncSync(floorDescriptor)
        }
      },
      { name: "4 files, inlineSyncMaxMicros = 0", run: run(pooled) },
      { name: "4 files, default", run: run(adaptive) }
    ],
    4096,
    4096
  )
  NodeFs.closeSync(floorDescriptor)
  return rows
}

try {
  const tables = {
    oneWriter4096: () => oneWriter(4096),
    oneWriter4120: () => oneWriter(4120),
    fourFiles,
    manyWriters
  }
  const report = new Map<string, ReadonlyArray<object>>()
  for (const [name, measure] of Object.entries(tables)) {
    if (values.table === undefined || values.table === name) report.set(name, await measure())
  }
  if (values.json) console.log(JSON.stringify({ rounds, ...Object.fromEntries(report) }))
  for (const [name, rows] of values.json ? [] : report) {
    console.log(name)
    console.table(rows.map((row) =>
      Object.fromEntries(
        Object.entries(row).map(([key, value]) => [key, typeof value === "number" ? Number(value.toFixed(2)) : value])
      )
    ))
  }
} finally {
  await Effect.runPromise(Scope.close(scope, Exit.void))
  NodeFs.rmSync(directory, { recursive: true })
}

/**
 * What one operation on a word of shared memory costs, and how long it takes to wake another thread.
 *
 *     node benchmarks/sharedMemory.ts [--rounds 9] [--operations 2000000] [--wakes 2000] [--directory DIR] [--json]
 *
 * The operations walk through 1,024 words, uncontended, in alternating rounds, and are given in processor time of the
 * thread, which busy neighbours disturb least: on a region of a mapped file and on one in memory, with `Atomics` on a bare
 * `BigUint64Array` over the same kind of buffer, and with plain (not atomic) access to a `BigUint64Array` of its own, which
 * shows what of it is the bigint. Then this thread and another wake each other in turn: the other one waits as this one does
 * (`region.wait`), or stands still in `Atomics.wait`, or both use `postMessage`. Last, the calls that go to the file system:
 * making a file, opening one, asking for its identity, and for a lock on it.
 */
import { FileLock } from "@tidemark/platform/FileLock"
import { regionOf, type SharedMedium, SharedMemory, type SharedRegion } from "@tidemark/platform/SharedMemory"
import { Effect, Layer } from "effect"
import { once } from "node:events"
import { isMainThread, type MessagePort, parentPort, Worker, workerData } from "node:worker_threads"
import { parseArguments, temporaryDirectory, wholeNumber } from "./support/options.ts"
import { median, quantile, spreadOf } from "./support/statistics.ts"
import { figure, spreadCell, table } from "./support/table.ts"

/** A power of two: the words that the operations walk through. */
const words = 1024
const mask = words - 1

// One function for each loop, so that each sees one kind of object, as in a program that has one. What they answer keeps
// the work from being left out.
type Loop = (count: number) => bigint

const regionLoops = (region: SharedRegion): Readonly<Record<string, Loop>> => ({
  load: (count) => {
    let seen = 0n
    for (let index = 0; index < count; index++) seen = region.load((index & mask) << 3)
    return seen
  },
  store: (count) => {
    for (let index = 0; index < count; index++) region.store((index & mask) << 3, BigInt(index))
    return region.load(0)
  },
  compareExchange: (count) => {
    let seen = 0n
    for (let index = 0; index < count; index++) seen = region.compareExchange((index & mask) << 3, 1n, 2n)
    return seen
  },
  add: (count) => {
    let seen = 0n
    for (let index = 0; index < count; index++) seen = region.add((index & mask) << 3, 1n)
    return seen
  }
})

const atomicLoops = (array: BigUint64Array): Readonly<Record<string, Loop>> => ({
  load: (count) => {
    let seen = 0n
    for (let index = 0; index < count; index++) seen = Atomics.load(array, index & mask)
    return seen
  },
  store: (count) => {
    for (let index = 0; index < count; index++) Atomics.store(array, index & mask, BigInt(index))
    return Atomics.load(array, 0)
  },
  compareExchange: (count) => {
    let seen = 0n
    for (let index = 0; index < count; index++) seen = Atomics.compareExchange(array, index & mask, 1n, 2n)
    return seen
  },
  add: (count) => {
    let seen = 0n
    for (let index = 0; index < count; index++) seen = Atomics.add(array, index & mask, 1n)
    return seen
  }
})

const plainLoops = (array: BigUint64Array): Readonly<Record<string, Loop>> => ({
  load: (count) => {
    let seen = 0n
    for (let index = 0; index < count; index++) seen = array[index & mask] ?? 0n
    return seen
  },
  store: (count) => {
    for (let index = 0; index < count; index++) array[index & mask] = BigInt(index)
    return array[0] ?? 0n
  },
  compareExchange: (count) => {
    let seen = 0n
    for (let index = 0; index < count; index++) {
      seen = array[index & mask] ?? 0n
      if (seen === 1n) array[index & mask] = 2n
    }
    return seen
  },
  add: (count) => {
    let seen = 0n
    for (let index = 0; index < count; index++) {
      seen = array[index & mask] ?? 0n
      array[index & mask] = seen + 1n
    }
    return seen
  }
})

const operations = ["load", "store", "compareExchange", "add"] as const

// --- waking ---

/** Where this thread waits, where the other one does, and in which word it says that it is there. */
const here = 0
const there = 128
const ready = 256

type Way = "region.wait" | "Atomics.wait" | "postMessage"
const ways: ReadonlyArray<Way> = ["region.wait", "Atomics.wait", "postMessage"]

interface Partner {
  readonly way: Way
  readonly buffer: SharedArrayBuffer
  readonly origin: { readonly medium: SharedMedium; readonly identity: string }
  readonly wakes: number
}

/** Waits until the word is at least `turn`: a notification says that something changed, not what. */
const reach = (region: SharedRegion, offset: number, turn: number) =>
  Effect.gen(function*() {
    while (true) {
      const seen = Number(region.load(offset))
      if (seen >= turn) return
      yield* region.wait(offset, seen, "10 seconds")
    }
  })

const signal = (region: SharedRegion, offset: number, turn: number) => {
  region.store(offset, BigInt(turn))
  region.notify(offset)
}

const answer = async ({ buffer, origin, wakes, way }: Partner, port: MessagePort) => {
  const region = regionOf("wakes", buffer, origin)
  if (way === "postMessage") {
    port.on("message", (turn: number) => port.postMessage(turn))
    signal(region, ready, 1)
    return
  }
  signal(region, ready, 1)
  const halves = new Int32Array(buffer)
  if (way === "Atomics.wait") {
    for (let turn = 1; turn <= wakes; turn++) {
      while (true) {
        const seen = Number(region.load(there))
        if (seen >= turn) break
        Atomics.wait(halves, there / 4, seen)
      }
      signal(region, here, turn)
    }
  } else {
    await Effect.runPromise(Effect.gen(function*() {
      for (let turn = 1; turn <= wakes; turn++) {
        yield* reach(region, there, turn)
        signal(region, here, turn)
      }
    }))
  }
}

/** Microseconds there and back, one for each turn. */
const wakeTimes = async (region: SharedRegion, way: Way, wakes: number): Promise<ReadonlyArray<number>> => {
  for (const offset of [here, there, ready]) region.store(offset, 0n)
  const { buffer, identity, medium } = region
  const partner: Partner = { way, buffer, origin: { medium, identity }, wakes }
  const worker = new Worker(new URL(import.meta.url), { workerData: partner })
  try {
    await Effect.runPromise(reach(region, ready, 1))
    const times: Array<number> = []
    if (way === "postMessage") {
      for (let turn = 1; turn <= wakes; turn++) {
        const start = performance.now()
        const answered = once(worker, "message")
        worker.postMessage(turn)
        await answered
        times.push((performance.now() - start) * 1000)
      }
    } else {
      await Effect.runPromise(Effect.gen(function*() {
        for (let turn = 1; turn <= wakes; turn++) {
          const start = performance.now()
          signal(region, there, turn)
          yield* reach(region, here, turn)
          times.push((performance.now() - start) * 1000)
        }
      }))
    }
    // The first tenth is warm-up.
    return times.slice(Math.floor(wakes / 10))
  } finally {
    await worker.terminate()
  }
}

// --- calls ---

const callsOfARun = 40
const callNames = ["create", "open", "identify", "FileLock.isHeld"] as const

/** Microseconds of each call of one round. */
const callTimes = Effect.fnUntraced(function*(path: string) {
  const memory = yield* SharedMemory
  const locks = yield* FileLock
  const calls = [
    memory.create(path, { bytes: 1, content: new Uint8Array(0) }),
    memory.open(path),
    memory.identify(path),
    locks.isHeld(path, { range: { start: 64, length: 1 }, mode: "exclusive" })
  ]
  return yield* Effect.forEach(calls, (call) =>
    Effect.scoped(Effect.gen(function*() {
      const start = performance.now()
      yield* call
      return (performance.now() - start) * 1000
    })))
})

// --- the program ---

const usage = `options:
  --rounds 9             alternating rounds, after one that is not counted
  --operations 2000000   operations of a measured slice
  --wakes 2000           turns of two threads that wake each other, in each round
  --directory DIR        where the mapped file lies; default: tmp of the repository
  --json                 one JSON document instead of tables`

const main = async () => {
  const { values } = parseArguments(usage, {
    options: {
      rounds: { type: "string", default: "9" },
      operations: { type: "string", default: "2000000" },
      wakes: { type: "string", default: "2000" },
      directory: { type: "string" },
      json: { type: "boolean", default: false },
      help: { type: "boolean", default: false }
    }
  })
  if (values.help) return console.log(usage)
  const rounds = wholeNumber("rounds", values.rounds, 1)
  const count = wholeNumber("operations", values.operations, 1)
  const wakes = wholeNumber("wakes", values.wakes, 10)
  const path = `${temporaryDirectory(values.directory)}/shm`

  const create = SharedMemory.use((memory) => memory.create(path, { bytes: words * 8, content: new Uint8Array(0) }))
  await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
    const mapped = yield* Effect.provide(create, SharedMemory.layerFile, { local: true })
    const inMemory = yield* Effect.provide(create, SharedMemory.layerMemory(), { local: true })
    const contestants = [
      { name: "region of a mapped file", loops: regionLoops(mapped) },
      { name: "region in memory", loops: regionLoops(inMemory) },
      { name: "Atomics, SharedArrayBuffer", loops: atomicLoops(new BigUint64Array(new SharedArrayBuffer(words * 8))) },
      { name: "plain array, not atomic", loops: plainLoops(new BigUint64Array(words)) }
    ]

    const nanos = new Map<string, Array<number>>()
    const measure = (round: number) => {
      for (const operation of operations) {
        for (const { loops, name } of round % 2 === 0 ? contestants : contestants.toReversed()) {
          const loop = loops[operation]
          if (loop === undefined) throw new Error(`${name} has no ${operation}`)
          const before = process.threadCpuUsage()
          loop(count)
          const { system, user } = process.threadCpuUsage(before)
          const each = (system + user) * 1e3 / count
          const key = `${name}/${operation}`
          if (round > 0) nanos.set(key, [...nanos.get(key) ?? [], each])
        }
      }
    }
    for (let round = 0; round <= rounds; round++) yield* Effect.sync(() => measure(round))

    const micros = new Map<Way, Array<ReadonlyArray<number>>>(ways.map((way) => [way, []]))
    for (let round = 0; round < rounds; round++) {
      for (const way of round % 2 === 0 ? ways : ways.toReversed()) {
        micros.get(way)?.push(yield* Effect.promise(() => wakeTimes(mapped, way, wakes)))
      }
    }

    const calls = yield* Effect.forEach(Array.from({ length: callsOfARun + 1 }), () => callTimes(`${path}-calls`)).pipe(
      // The first one loads the native functions and tries the device.
      Effect.map((times) => times.slice(1)),
      Effect.provide(Layer.merge(SharedMemory.layerFile, FileLock.layer))
    )

    const results = contestants.map(({ name }) => ({
      name,
      nanos: Object.fromEntries(operations.map((operation) => {
        const own = nanos.get(`${name}/${operation}`) ?? []
        const atomics = nanos.get(`Atomics, SharedArrayBuffer/${operation}`) ?? []
        const ratios = own.map((value, round) => value / (atomics[round] ?? Number.NaN))
        return [operation, { ...spreadOf(own), ofAtomics: median(ratios) }]
      }))
    }))
    const waking = ways.map((way) => ({
      way,
      p50Micros: spreadOf((micros.get(way) ?? []).map((times) => quantile(times, 0.5))),
      p99Micros: spreadOf((micros.get(way) ?? []).map((times) => quantile(times, 0.99)))
    }))
    const calling = callNames.map((name, index) => ({
      name,
      micros: spreadOf(calls.map((times) => times[index] ?? Number.NaN))
    }))
    if (values.json) return console.log(JSON.stringify({ rounds, operations: count, wakes, results, waking, calling }))
    console.log(
      `nanoseconds of processor time an operation, median (lowest..highest) of ${rounds} rounds of ${count}\n`
    )
    console.log(table(
      ["words", ...operations],
      results.map(({ name, nanos }) =>
        [name].concat(operations.map((operation) => {
          const cell = nanos[operation]
          return cell === undefined ? "-" : `${spreadCell(cell)} x${figure(cell.ofAtomics)}`
        }))
      )
    ))
    console.log(`\nxN: of Atomics on a bare array, in the same round\n`)
    console.log(`microseconds to another thread and back, median (lowest..highest) of ${rounds} rounds of ${wakes}\n`)
    console.log(table(
      ["the other thread is in", "p50", "p99"],
      waking.map(({ p50Micros, p99Micros, way }) => [way, spreadCell(p50Micros), spreadCell(p99Micros)])
    ))
    console.log(`\nmicroseconds a call, median (lowest..highest) of ${callsOfARun}\n`)
    console.log(table(["call", "us"], calling.map(({ micros, name }) => [name, spreadCell(micros)])))
  })))
}

if (isMainThread) await main()
// What a worker is handed is untyped; this program hands it a partner.
else if (parentPort !== null) await answer(workerData as Partner, parentPort)

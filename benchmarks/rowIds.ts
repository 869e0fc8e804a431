/**
 * How many row ids a second one fiber takes, by the way it takes them (target: 5,000,000 from the local range).
 *
 *     node benchmarks/rowIds.ts [--rounds 9] [--seconds 0.3] [--only NAME,NAME] [--json]
 *
 * All ways run in alternating rounds of one process; beside them a plain bigint counter, which is what is left when ranges,
 * schema epochs and everything else are taken away. The allocator is in this process: across a socket a refill costs a
 * round trip, everything else the same.
 */
import * as RowIdAllocator from "@tidemark/coordinator/RowIdAllocator"
import * as RowIdCache from "@tidemark/coordinator/RowIdCache"
import { RowId, SchemaEpoch, TableId } from "@tidemark/core/Scalars"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as References from "effect/References"
import { number, parseArguments, refuse, wholeNumber } from "./support/options.ts"
import { spreadOf } from "./support/statistics.ts"
import { spreadCell, table } from "./support/table.ts"

const usage = `options:
  --rounds 9         alternating rounds, after one that is not counted
  --seconds 0.3      length of a measured slice
  --only NAME,NAME   only these ways beside the counter (part of a name is enough)
  --json             one JSON document instead of a table`

const { values } = parseArguments(usage, {
  options: {
    rounds: { type: "string", default: "9" },
    seconds: { type: "string", default: "0.3" },
    only: { type: "string" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false }
  }
})
if (values.help) {
  console.log(usage)
  process.exit(0)
}
const rounds = wholeNumber("rounds", values.rounds, 1)
const seconds = number("seconds", values.seconds, 0.01)

const schemaEpoch = SchemaEpoch.make(0n)
const runtime = ManagedRuntime.make(
  RowIdAllocator.layer.pipe(Layer.merge(Layer.succeed(References.MinimumLogLevel, "Warn")))
)

interface Way {
  readonly name: string
  /** Ids of one call of `take`. */
  readonly idsAtOnce: number
  /** Takes ids until `goesOn` says no, which it is asked before each of so many; answers the last one. */
  readonly take: (goesOn: () => boolean) => Promise<bigint>
}

/** The clock is looked at once in so many ids. */
const idsAtOnce = 4096

let tables = 0
/** A table of its own for each way, which begins at 1: its last id says how many there were. */
const makeTable = async (): Promise<{ readonly schemaEpoch: SchemaEpoch; readonly table: TableId }> => {
  const request = { schemaEpoch, table: TableId.make(++tables) }
  await runtime.runPromise(
    Effect.flatMap(
      RowIdAllocator.RowIdAllocator,
      (allocator) => allocator.initialize({ ...request, mode: "normal", maxCommitted: RowId.make(0n) })
    )
  )
  return request
}

let counter = 0n
const counting: Way = {
  name: "plain bigint counter",
  idsAtOnce,
  take: (goesOn) => {
    while (goesOn()) for (let id = 0; id < idsAtOnce; id++) counter = counter + 1n
    return Promise.resolve(counter)
  }
}

/** As a loop of inserts does that waits only when it has to. */
const unsafely = async (rangeSize: number): Promise<Way> => {
  const { table } = await makeTable()
  return {
    name: `nextUnsafe, ranges of ${rangeSize}`,
    idsAtOnce,
    take: (goesOn) =>
      runtime.runPromise(Effect.scoped(Effect.gen(function*() {
        const rowIds = (yield* RowIdCache.make({ rangeSize })).table(table)
        let last = 0n
        while (goesOn()) {
          for (let taken = 0; taken < idsAtOnce; taken++) {
            last = rowIds.nextUnsafe(schemaEpoch) ?? (yield* rowIds.next(schemaEpoch))
          }
        }
        return last
      })))
  }
}

/** One Effect for each id. */
const asEffects = async (rangeSize: number): Promise<Way> => {
  const { table } = await makeTable()
  return {
    name: `next, ranges of ${rangeSize}`,
    idsAtOnce,
    take: (goesOn) =>
      runtime.runPromise(Effect.scoped(Effect.gen(function*() {
        const rowIds = (yield* RowIdCache.make({ rangeSize })).table(table)
        const next = rowIds.next(schemaEpoch)
        let last = 0n
        let taken = 0
        yield* Effect.whileLoop({
          while: () => taken % idsAtOnce !== 0 || goesOn(),
          body: () => next,
          step: (id) => {
            taken++
            last = id
          }
        })
        return last
      })))
  }
}

/** Without a cache. */
const reserving = async (count: number): Promise<Way> => {
  const request = await makeTable()
  return {
    name: `reserve of ${count}`,
    idsAtOnce: idsAtOnce * count,
    take: (goesOn) =>
      runtime.runPromise(Effect.gen(function*() {
        const allocator = yield* RowIdAllocator.RowIdAllocator
        let last = 0n
        let taken = 0
        yield* Effect.whileLoop({
          while: () => taken % idsAtOnce !== 0 || goesOn(),
          body: () => allocator.reserve({ ...request, count }),
          step: ({ first }) => {
            taken++
            last = first + BigInt(count) - 1n
          }
        })
        return last
      }))
  }
}

const rangeSizes = [64, 1024, 65_536]
const wanted = values.only?.split(",")
const all = [
  ...await Promise.all(rangeSizes.map(unsafely)),
  ...await Promise.all(rangeSizes.map(asEffects)),
  await unsafely(1),
  await reserving(1),
  await reserving(64)
]
const ways = [counting, ...all.filter(({ name }) => wanted === undefined || wanted.some((part) => name.includes(part)))]
if (ways.length === 1) refuse(`no way has a name with ${values.only} in it`)

const measured = new Map(ways.map(({ name }) => [name, Array<number>()]))
const lastIds = new Map<string, bigint>()
for (let round = 0; round <= rounds; round++) {
  for (const { idsAtOnce, name, take } of round % 2 === 0 ? ways : ways.toReversed()) {
    const started = performance.now()
    let now = started
    let turns = 0
    const last = await take(() => {
      now = performance.now()
      const goesOn = now - started < seconds * 1000
      if (goesOn) turns++
      return goesOn
    })
    const ids = turns * idsAtOnce
    // Nobody else takes ids of this table, and what is left of a range is lost with the cache of the slice.
    if (last < (lastIds.get(name) ?? 0n) + BigInt(ids)) throw new Error(`${name} has handed out an id twice`)
    lastIds.set(name, last)
    // The first round is for the compiler.
    if (round > 0) measured.get(name)?.push(ids / ((now - started) / 1000))
  }
}
await runtime.dispose()

const floors = measured.get(counting.name) ?? []
const results = ways.map(({ name }) => {
  const rates = measured.get(name) ?? []
  return {
    name,
    idsPerSecond: spreadOf(rates),
    nanosPerId: spreadOf(rates.map((rate) => 1e9 / rate)),
    ofCounter: spreadOf(rates.map((rate, round) => rate / (floors[round] ?? Number.NaN)))
  }
})

if (values.json) {
  console.log(JSON.stringify({ rounds, seconds, results }))
} else {
  console.log(`median (lowest..highest) of ${rounds} rounds of ${seconds} s\n`)
  console.log(table(
    ["way", "ids/s", "ns an id", "of the counter"],
    results.map(({ idsPerSecond, name, nanosPerId, ofCounter }) => [
      name,
      spreadCell(idsPerSecond),
      spreadCell(nanosPerId),
      spreadCell(ofCounter)
    ])
  ))
  console.log("\n`nextUnsafe, ranges of 1` refills for every id: what it takes is the cost of a refill.")
}

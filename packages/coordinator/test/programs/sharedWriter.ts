/**
 * Commits until it is killed, and publishes what it committed in the header that other processes map.
 *
 *     node sharedWriter.ts LOG DATABASE
 *
 * Each of its writers has a page with a counter, and each commit adds one to one counter: however far it came, the sum of
 * all counters is the number of commits. Says "open" with the last commit that it found and the first transaction id
 * that it was given, then a line for each commit that it was answered: sequence and transaction id.
 */
import { Effect } from "effect"
import { writeSync } from "node:fs"
import { grow, published } from "../support/database.ts"
import { LogUnderTest } from "../support/logs.ts"
import { count, kindOf, machineOf, writerPages } from "../support/sharedCounters.ts"
import { openShared } from "../support/sharedWorlds.ts"

const [kind = "", path = ""] = process.argv.slice(2)

const say = (line: string) => {
  writeSync(1, `${line}\n`)
}

// Nobody closes this process: it lives until it is killed.
setInterval(() => {}, 60_000)

await Effect.runPromise(
  Effect.scoped(Effect.gen(function*() {
    const database = yield* openShared(machineOf(path))
    yield* grow(database, Math.max(...writerPages))
    const { token } = yield* Effect.scoped(database.pager.begin())
    say(`open ${published(database)} ${token.id}`)
    const write = (page: number) =>
      Effect.forever(Effect.gen(function*() {
        let id = 0n
        yield* database.pager.withTransaction((tx) => {
          id = tx.token.id
          return count(tx, page)
        })
        say(`${published(database)} ${id}`)
        yield* Effect.yieldNow
      }))
    yield* Effect.forEach(writerPages, write, { concurrency: "unbounded", discard: true })
  })).pipe(Effect.provideService(LogUnderTest, kindOf(kind)))
)

/**
 * Reads the header of the database given as an argument until it has seen the commit given as the second one, and has
 * read so many times as the third one says. Says when it begins, passes on each further hundredth commit, and ends with
 * what it has counted.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { machine, openHeader } from "../support/headerFiles.ts"
import { makeCounter } from "../support/headerReads.ts"

const [database = "", lastCommit = "0", reads = "0"] = process.argv.slice(2)

await Effect.runPromise(
  Effect.scoped(Effect.gen(function*() {
    const header = yield* openHeader(database)
    const counter = makeCounter(header.region(), yield* Clock.Clock)
    process.stdout.write("reading\n")
    let hundreds = 0n
    while (true) {
      const commit = counter.read(2000)
      if (commit / 100n > hundreds) {
        hundreds = commit / 100n
        process.stdout.write(`${hundreds}\n`)
      }
      if (commit >= BigInt(lastCommit) && counter.counts().reads >= Number(reads)) break
      yield* Effect.yieldNow
    }
    process.stdout.write(`${JSON.stringify(counter.counts())}\n`)
  })).pipe(Effect.provide(machine))
)

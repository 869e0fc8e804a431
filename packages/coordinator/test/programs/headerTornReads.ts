/**
 * Hunts for a snapshot that was never published: one process publishes as fast as it can, another one and a thread of
 * this one read.
 *
 *     node headerTornReads.ts SECONDS
 *
 * Prints one line of JSON. `mixedWithoutLock` is the control: how often the same words, read without looking at the
 * sequence, were a mixture. The exit code is 1 when a snapshot was one, or went backwards.
 */
import { Clock, Effect } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { databaseAt, machine, openHeader, startProgram } from "../support/headerFiles.ts"
import { makeCounter, type ReadCounts } from "../support/headerReads.ts"
import { startReadingThread } from "../support/readingThread.ts"

const [seconds = "10"] = process.argv.slice(2)

const program = Effect.gen(function*() {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-header-reads-"))),
    (path) => Effect.sync(() => rmSync(path, { recursive: true }))
  )
  const publisher = yield* startProgram("headerPublisher.ts", ["running", directory, "1", "0"])
  yield* publisher.line
  const header = yield* openHeader(databaseAt(directory, 0))
  const thread = yield* startReadingThread([header.region().buffer])
  const counter = makeCounter(header.region(), yield* Clock.Clock)
  const end = performance.now() + Number(seconds) * 1000
  while (performance.now() < end) {
    counter.read(2000)
    yield* Effect.yieldNow
  }
  const [ofThread] = yield* thread.stop
  yield* publisher.kill
  return { ofProcess: counter.counts(), ofThread }
})

const counts = await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(machine)))
console.log(JSON.stringify(counts))
const isFine = (found: ReadCounts | undefined) => found !== undefined && found.mixed === 0 && found.backwards === 0
process.exit(isFine(counts.ofProcess) && isFine(counts.ofThread) ? 0 : 1)

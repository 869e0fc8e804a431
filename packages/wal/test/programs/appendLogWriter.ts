/**
 * Appends to a log over real files until it is killed: hand-overs of one to five records from many fibers, numbered from
 * the second argument on, with rotations and truncations in between. Each line on the standard output says what had
 * happened before it was written:
 *
 *     open END                    the log is open
 *     ack NUMBER COUNT START      the records from NUMBER on are durable
 *     truncating LSN              what is before LSN may go
 *
 * `node appendLogWriter.ts DIRECTORY FIRST-NUMBER SEED SEGMENT-BYTES`
 */
import { toLsn } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as Effect from "effect/Effect"
import { writeSync } from "node:fs"
import { AppendLog } from "../../src/AppendLog.ts"
import { killPayload } from "../support/appendLogKill.ts"
import { makeRandom } from "../support/seededScheduler.ts"

const [directory = "", firstNumber = "0", seed = "1", segmentBytes = "100000"] = process.argv.slice(2)
const random = makeRandom(Number(seed))
const below = (count: number) => Math.floor(random() * count)
const say = (...words: ReadonlyArray<string | number>) => writeSync(1, `${words.join(" ")}\n`)

const program = Effect.gen(function*() {
  const log = yield* AppendLog.open({ directory, segmentBytes: Number(segmentBytes), preallocateBytes: 20_000 })
  say("open", log.watermarks().reserved)
  let number = Number(firstNumber)
  const handOver = Effect.suspend(() => {
    const count = 1 + below(5)
    const first = number
    number += count
    const payloads = Array.from({ length: count }, (_, at) => killPayload(first + at, count, below(400)))
    const until = below(6) === 0 ? "written" : "durable"
    return Effect.map(log.appendAll(payloads, { until }), ([at]) => {
      if (until === "durable") say("ack", first, count, at?.start ?? 0)
    })
  })
  const truncate = Effect.suspend(() => {
    const { durable, firstKept } = log.watermarks()
    const lsn = below(4) === 0 ? durable : toLsn(firstKept + Math.floor((durable - firstKept) * random()))
    say("truncating", lsn)
    return Effect.asVoid(log.truncateBefore(lsn))
  })
  const step = Effect.suspend((): Effect.Effect<void, unknown> => {
    const choice = below(200)
    return choice === 0 ? truncate : choice === 1 ? log.rotate : handOver
  })
  yield* Effect.all(Array.from({ length: 12 }, () => Effect.forever(step)), { concurrency: "unbounded" })
})

await Effect.runPromise(Effect.provide(Effect.scoped(program), NodeVfs.layer))

/**
 * Kills a process that appends to a log many times, each at another moment, opens the log after each kill, and counts
 * what was acknowledged, found and lost. It ends with an error when anything acknowledged is missing, or anything is
 * there twice, in part, or altered.
 *
 * `node packages/wal/test/programs/appendLogKillLoop.ts [KILLS] [SEED] [DIRECTORY]`
 */
import * as Effect from "effect/Effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { KilledLog } from "../support/appendLogKill.ts"
import { makeRandom } from "../support/seededScheduler.ts"

const [kills = "100", seed = "1", parent = tmpdir()] = process.argv.slice(2)
const random = makeRandom(Number(seed))
const directory = mkdtempSync(join(parent, "tidemark-kill-"))
const killed = new KilledLog(join(directory, "log"))

const program = Effect.forEach(
  Array.from({ length: Number(kills) }, (_, kill) => kill),
  (kill) =>
    Effect.scoped(killed.run({
      seed: Number(seed) * 1000 + kill,
      segmentBytes: [5000, 60_000, 1_000_000][kill % 3] ?? 60_000,
      // Up to the first second of its life, the time before it has opened the log included.
      wait: Effect.sleep(Math.floor(50 + random() * 950))
    })),
  { discard: true }
)

await Effect.runPromise(program)
console.log(JSON.stringify(killed.totals))
rmSync(directory, { recursive: true })

/**
 * Runs the demo many times, each with another workload and another moment of the kill, and counts what went wrong.
 *
 * `node packages/cli/test/killLoop.ts [RUNS] [FIRST-SEED] [TRANSACTIONS]`
 *
 * A run that finds something, or fails, is printed with the command that repeats its workload and the share of
 * acknowledgements after which the kill comes; what the process was doing at that moment is not in anybody's hand.
 */
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"

const main = fileURLToPath(new URL("../src/main.ts", import.meta.url))
const [runs = 50, firstSeed = 1, transactions = 1500] = process.argv.slice(2).map(Number)

const total = { runs: 0, acknowledged: 0, foundUnacknowledged: 0, lost: 0, duplicated: 0, failed: 0 }

const numberIn = (document: unknown, key: string): number => {
  const value: unknown = typeof document === "object" && document !== null ? Reflect.get(document, key) : undefined
  if (typeof value !== "number") throw new Error(`the document has no number "${key}"`)
  return value
}

for (let seed = firstSeed; seed < firstSeed + runs; seed++) {
  const args = ["demo", "--transactions", `${transactions}`, "--kill", "random", "--seed", `${seed}`, "--json"]
  const { status, stderr, stdout } = spawnSync(process.execPath, [main, ...args], { encoding: "utf8" })
  total.runs++
  if (status === 0 || status === 1) {
    const document: unknown = JSON.parse(stdout)
    total.acknowledged += numberIn(document, "acknowledged")
    total.foundUnacknowledged += numberIn(document, "foundUnacknowledged")
    total.lost += numberIn(document, "lost")
    total.duplicated += numberIn(document, "duplicated")
  }
  if (status !== 0) {
    total.failed++
    console.log(`exit code ${status}: tidemark ${args.join(" ")}\n${stdout}${stderr}`)
  }
}

console.log(JSON.stringify(total))
process.exitCode = total.failed === 0 ? 0 : 1

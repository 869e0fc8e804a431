/**
 * Runs the demo many times, each with another workload and another moment of the kill, and counts what went wrong.
 *
 * `node packages/cli/test/killLoop.ts [RUNS] [FIRST-SEED] [TRANSACTIONS] [LOG]`
 *
 * `startUpCases` counts what the process after the kill found: in how many runs each row of the start-up table applied.
 *
 * A run that finds something, or fails, is printed with the command that repeats its workload, and the share of
 * acknowledgements and the delay after which the kill comes; what the process was doing at that moment is not in
 * anybody's hand.
 */
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"

const main = fileURLToPath(new URL("../src/main.ts", import.meta.url))
const [, , ...numbers] = process.argv.slice(0, 5)
const [runs = 50, firstSeed = 1, transactions = 1500] = numbers.map(Number)
const log = process.argv[5] ?? "sqlite"

const total = { log, runs: 0, acknowledged: 0, foundUnacknowledged: 0, lost: 0, duplicated: 0, failed: 0 }
const startUpCases: Record<string, number> = {}

const valueIn = (document: unknown, key: string): unknown =>
  typeof document === "object" && document !== null ? Reflect.get(document, key) : undefined

const numberIn = (document: unknown, key: string): number => {
  const value = valueIn(document, key)
  if (typeof value !== "number") throw new Error(`the document has no number "${key}"`)
  return value
}

const countCases = (document: unknown) => {
  const cases = valueIn(document, "startUpCases")
  if (!Array.isArray(cases)) throw new Error("the document has no startUpCases")
  for (const row of cases.map(String)) startUpCases[row] = (startUpCases[row] ?? 0) + 1
}

for (let seed = firstSeed; seed < firstSeed + runs; seed++) {
  const workload = ["--log", log, "--transactions", `${transactions}`, "--seed", `${seed}`]
  const args = ["demo", ...workload, "--kill", "random", "--json"]
  const { status, stderr, stdout } = spawnSync(process.execPath, [main, ...args], { encoding: "utf8" })
  total.runs++
  if (status === 0 || status === 1) {
    const document: unknown = JSON.parse(stdout)
    total.acknowledged += numberIn(document, "acknowledged")
    total.foundUnacknowledged += numberIn(document, "foundUnacknowledged")
    total.lost += numberIn(document, "lost")
    total.duplicated += numberIn(document, "duplicated")
    countCases(document)
  }
  if (status !== 0) {
    total.failed++
    console.log(`exit code ${status}: tidemark ${args.join(" ")}\n${stdout}${stderr}`)
  }
}

console.log(JSON.stringify({ ...total, startUpCases }))
process.exitCode = total.failed === 0 ? 0 : 1

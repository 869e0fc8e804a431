/**
 * What `pnpm test` runs: types, lint, boundaries, format, then the tests. It stops at the first step that fails, and
 * its last line is the count of the tests, `123 passed, 0 failed` (`, 4 skipped` when there are any).
 *
 * With arguments only Vitest runs, and gets them: `pnpm test -- --project wal`.
 */
import { spawn } from "node:child_process"
import { delimiter, join } from "node:path"
import { type Counts, formatCounts, isCounts } from "./CountReporter.ts"

const root = join(import.meta.dirname, "..")

interface Outcome {
  readonly ok: boolean
  readonly counts: Counts | undefined
}

/** Runs a program from `node_modules/.bin` with its output going straight to ours and no standard input. */
const run = (command: string, args: ReadonlyArray<string>): Promise<Outcome> =>
  new Promise((resolve) => {
    let counts: Counts | undefined
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, PATH: `${join(root, "node_modules", ".bin")}${delimiter}${process.env["PATH"] ?? ""}` },
      stdio: ["ignore", "inherit", "inherit", "ipc"]
    })
    const forward = (signal: NodeJS.Signals) => child.kill(signal)
    process.on("SIGINT", forward).on("SIGTERM", forward)
    const settle = (ok: boolean) => {
      process.off("SIGINT", forward).off("SIGTERM", forward)
      resolve({ ok, counts })
    }
    child.on("message", (message) => {
      if (isCounts(message)) counts = message
    })
    child.on("error", (error) => {
      console.error(`${command} did not start: ${error.message}`)
      settle(false)
    })
    child.on("close", (code) => settle(code === 0))
  })

const steps: ReadonlyArray<readonly [name: string, command: string, ...args: ReadonlyArray<string>]> = [
  ["types", "tsc", "-b"],
  ["lint", "oxlint"],
  ["boundaries", "node", "scripts/checkBoundaries.ts"],
  ["format", "dprint", "check"]
]

const runSteps = async (): Promise<boolean> => {
  for (const [name, command, ...args] of steps) {
    const start = performance.now()
    // One step at a time: each of them uses all cores, and the first failure is the one to read.
    const { ok } = await run(command, args)
    if (!ok) {
      const again = ["npx pnpm@12 exec", command, ...args].join(" ")
      console.error(`\n${name} failed, so the tests were not run. This step alone: ${again}`)
      return false
    }
    console.log(`${name.padEnd(10)} ok  ${((performance.now() - start) / 1000).toFixed(1)} s`)
  }
  return true
}

const runTests = async (args: ReadonlyArray<string>): Promise<boolean> => {
  const { counts, ok } = await run("vitest", [
    "run",
    "--config",
    "vitest.workspace.ts",
    "--reporter=default",
    "--reporter=./scripts/CountReporter.ts",
    ...args
  ])
  if (counts === undefined) console.error("Vitest ended without a result, which counts as one failure.")
  const final = counts ?? { passed: 0, failed: 1, skipped: 0 }
  console.log(formatCounts(final))
  return ok && final.failed === 0
}

// pnpm hands the `--` of `pnpm test -- --project wal` on.
const args = process.argv.slice(process.argv[2] === "--" ? 3 : 2)
const ok = (args.length > 0 || await runSteps()) && await runTests(args)
process.exitCode = ok ? 0 : 1

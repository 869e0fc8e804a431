import { assert, describe, it } from "@effect/vitest"
import { spawn } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { type Counts, formatCounts, isCounts } from "../CountReporter.ts"

const root = join(import.meta.dirname, "../..")

/** Runs Vitest on test files of the given contents, and returns its exit code and the counts that it sent. */
const runVitest = async (contents: ReadonlyArray<string>) => {
  mkdirSync(join(root, "tmp"), { recursive: true })
  const directory = mkdtempSync(join(root, "tmp", "counts-"))
  try {
    contents.forEach((content, index) =>
      writeFileSync(
        join(directory, `${index}.test.ts`),
        `import { afterAll, beforeAll, describe, it } from "vitest"\n${content}\n`
      )
    )
    return await new Promise<{ code: number | null; counts: Counts | undefined }>((resolve, reject) => {
      let counts: Counts | undefined
      const vitest = spawn(process.execPath, [
        join(root, "node_modules", "vitest", "vitest.mjs"),
        "run",
        "--root",
        directory,
        "--maxWorkers=1",
        `--reporter=${join(root, "scripts", "CountReporter.ts")}`
      ], { stdio: ["ignore", "ignore", "ignore", "ipc"] })
      vitest.on("message", (message) => {
        if (isCounts(message)) counts = message
      })
      vitest.on("error", reject)
      vitest.on("close", (code) => resolve({ code, counts }))
    })
  } finally {
    rmSync(directory, { recursive: true })
  }
}

const fail = "() => { throw new Error(\"on purpose\") }"

describe("CountReporter", () => {
  it("counts tests, and everything else that goes wrong as failed", async () => {
    const { code, counts } = await runVitest([
      "it(\"passes\", () => {})\nit(\"passes too\", () => {})",
      `it("fails", ${fail})\nit.skip("is skipped", () => {})\nit.todo("is to be written")`,
      "import \"./not-there.ts\"",
      `describe("a suite", () => { beforeAll(${fail}); it("is not reached", () => {}) })`,
      `describe("a suite", () => { afterAll(${fail}); it("passes", () => {}) })`,
      "it(\"passes\", () => { void Promise.reject(new Error(\"nobody listens\")) })"
    ])
    // Failed are: a test, a file, a hook before and one after, a rejection. Skipped is also what its hook prevented.
    assert.deepStrictEqual(counts, { passed: 4, failed: 5, skipped: 3 })
    assert.strictEqual(code, 1)
  })

  it("reports a run in which all is well", async () => {
    const { code, counts } = await runVitest(["it(\"passes\", () => {})"])
    assert.deepStrictEqual(counts, { passed: 1, failed: 0, skipped: 0 })
    assert.strictEqual(code, 0)
  })
})

describe("formatCounts", () => {
  it("mentions skipped tests when there are any", () => {
    assert.strictEqual(formatCounts({ passed: 123, failed: 0, skipped: 0 }), "123 passed, 0 failed")
    assert.strictEqual(formatCounts({ passed: 1, failed: 2, skipped: 4 }), "1 passed, 2 failed, 4 skipped")
  })
})

/**
 * A Vitest reporter that counts what happened and sends the counts to the process that started Vitest.
 *
 * What the counts mean:
 * 1. A test is passed, failed or skipped (`todo` counts as skipped).
 * 2. A file that cannot be collected, a suite whose hooks fail, and an error that nobody caught count as one failed
 *    each, in addition to their tests: nothing that went wrong leaves `failed` at 0.
 */
import type { Reporter, TestModule, TestSuite } from "vitest/node"

export interface Counts {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

export const isCounts = (message: unknown): message is Counts =>
  typeof message === "object" && message !== null && "passed" in message && "failed" in message && "skipped" in message

export const formatCounts = (counts: Counts): string =>
  `${counts.passed} passed, ${counts.failed} failed${counts.skipped === 0 ? "" : `, ${counts.skipped} skipped`}`

const ownErrors = (group: TestModule | TestSuite): number => (group.errors().length === 0 ? 0 : 1)

export const countRun = (modules: ReadonlyArray<TestModule>, unhandledErrors: number): Counts => {
  let passed = 0
  let failed = unhandledErrors
  let skipped = 0
  for (const module of modules) {
    failed += ownErrors(module)
    for (const suite of module.children.allSuites()) failed += ownErrors(suite)
    for (const test of module.children.allTests()) {
      const { state } = test.result()
      if (state === "passed") passed++
      else if (state === "skipped") skipped++
      // A test that is still pending when the run is over was lost with its worker or cut off.
      else failed++
    }
  }
  return { passed, failed, skipped }
}

export default class CountReporter implements Reporter {
  onTestRunEnd(modules: ReadonlyArray<TestModule>, unhandledErrors: ReadonlyArray<unknown>): void {
    process.send?.(countRun(modules, unhandledErrors.length))
  }
}

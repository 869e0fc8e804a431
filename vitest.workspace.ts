import { globSync } from "node:fs"
import { basename } from "node:path"
import { defineConfig } from "vitest/config"

/**
 * Vitest 5 has projects instead of workspaces; this file is its configuration
 * (`vitest --config vitest.workspace.ts`) and has one project per package.
 */
export default defineConfig({
  test: {
    // Two files at a time, also where there are more cores: the tests sync to disk and start processes of their own.
    maxWorkers: 2,
    projects: [...globSync("packages/*", { cwd: import.meta.dirname }).sort(), "examples", "scripts"].map((root) => ({
      extends: true as const,
      root,
      test: {
        name: basename(root),
        include: ["test/**/*.test.ts"],
        testTimeout: 120_000,
        hookTimeout: 60_000
      }
    }))
  }
})

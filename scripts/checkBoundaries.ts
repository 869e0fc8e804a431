/** Prints every import that breaks the rules of `boundaries.ts`, and fails when there is one. */
import { join } from "node:path"
import { checkBoundaries } from "./boundaries.ts"

const violations = checkBoundaries(join(import.meta.dirname, ".."))
for (const { file, line, sentence } of violations) console.error(`${file}:${line}: ${sentence}`)
if (violations.length > 0) process.exitCode = 1

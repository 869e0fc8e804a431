/**
 * The examples of the documentation as programs.
 *
 * 1. An example is a fenced block marked `ts` or `ts no-run` in a README, in a document, or in the JSDoc of a source, which imports
 *    something of `@tidemark/`. Other blocks are fragments and stay what they are.
 * 2. The program has the lines of the example at the same line numbers, so that what a tool says about line 3 of the
 *    program is about line 3 of the example.
 * 3. `expr // => value` asserts that both are deeply equal; so do `const name = expr // => value` and
 *    `return expr // => value`. Other lines that carry `// =>` are refused, so that no promise of a document goes
 *    unchecked.
 */
import { globSync, readFileSync } from "node:fs"
import { join } from "node:path"

export interface Example {
  /** Where it is written: a path from the root of the repository, and the line of its first line of code. */
  readonly file: string
  readonly line: number
  readonly code: string
  /** `false` for `ts no-run`: such a block is only type checked. */
  readonly isRun: boolean
}

const fence = /^```(\S*)[ \t]*(.*?)\s*$/
const tidemarkImport = /\bfrom "@tidemark\/|\bimport "@tidemark\/|\bimport\("@tidemark\//

/** The examples in `text`; in sources (`.ts`) those of its doc comments, whose lines begin with an asterisk. */
export const findExamples = (file: string, text: string): Array<Example> => {
  const examples: Array<Example> = []
  let block: { readonly line: number; readonly isTypeScript: boolean; readonly isRun: boolean } | undefined
  let code: Array<string> = []
  text.split("\n").forEach((line, index) => {
    const content = file.endsWith(".ts") ? /^\s*\* ?(.*)$/.exec(line)?.[1] : line
    if (content === undefined) return
    const match = fence.exec(content)
    if (match === null) code.push(content)
    else if (block === undefined) {
      block = { line: index + 2, isTypeScript: match[1] === "ts", isRun: match[2] !== "no-run" }
      code = []
    } else {
      const { isRun, isTypeScript, line } = block
      const whole = code.join("\n")
      block = undefined
      if (isTypeScript && tidemarkImport.test(whole)) examples.push({ file, line, code: whole, isRun })
    }
  })
  return examples
}

/** All examples of the repository at `root`. */
export const readExamples = (root: string): Array<Example> =>
  globSync(["README.md", "docs/**/*.md", "packages/*/README.md", "packages/*/src/**/*.ts"], { cwd: root }).sort()
    .flatMap((file) => findExamples(file, readFileSync(join(root, file), "utf8")))

const promise = /^(\s*(?:const \w+(?::[^=]+)? = |return )?)(.+?);?\s*\/\/ => (.+?)\s*$/

const assertLine = (line: string): string => {
  const match = promise.exec(line)
  if (match === null) {
    return line.includes("// =>") ? `throw new Error("this line promises a value, but has no expression")` : line
  }
  const [, before = "", expression = "", value = ""] = match
  return `${before}assertExample((${expression}), (${value}))`
}

/** The program of an example; `assertModule` is the specifier of the module that exports `assertExample`. */
export const toProgram = (code: string, assertModule: string): string =>
  `import { assertExample } from ${JSON.stringify(assertModule)}; void assertExample; ${
    code.split("\n").map(assertLine).join("\n")
  }\nexport {}\n`

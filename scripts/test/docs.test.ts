/**
 * Every example of the documentation type checks under the compiler settings of the packages, and runs.
 *
 * All of them are written into one directory below the ignored `tmp/`, where `@tidemark/*` resolves as it does for a
 * user of the package that the example belongs to; one run of the compiler checks them together.
 */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { dirname, join, relative } from "node:path"
import { pathToFileURL } from "node:url"
import { findExamples, readExamples, toProgram } from "../docExamples.ts"

const root = join(import.meta.dirname, "../..")
const examples = readExamples(root)

mkdirSync(join(root, "tmp"), { recursive: true })
const directory = mkdtempSync(join(root, "tmp", "docs-"))
const assertModule = join(import.meta.dirname, "../assertExample.ts")

/** `packages/wal/README.md` -> `packages/wal`, and `.` for the README of the repository. */
const packageOf = (file: string) => /^packages\/[^/]+/.exec(file)?.[0] ?? "."

const programs = examples.map((example, index) => {
  const path = join(directory, packageOf(example.file), `${String(index).padStart(3, "0")}.ts`)
  return { ...example, path, title: `${example.file}:${example.line}` }
})

/** What the compiler says about each program, with the lines of the document. */
const diagnostics = new Map<string, Array<string>>()

const writePrograms = () => {
  for (const { code, path } of programs) {
    const home = dirname(path)
    if (!existsSync(home)) {
      mkdirSync(home, { recursive: true })
      // The dependencies of the package come first, then those of the root.
      const modules = join(root, relative(directory, home), "node_modules")
      if (home !== directory && existsSync(modules)) symlinkSync(modules, join(home, "node_modules"))
    }
    writeFileSync(path, toProgram(code, relative(home, assertModule)))
  }
}

const typeCheck = () =>
  new Promise<string>((resolve) => {
    writeFileSync(
      join(directory, "tsconfig.json"),
      JSON.stringify({
        extends: join(root, "tsconfig.base.json"),
        include: ["**/*.ts"],
        compilerOptions: {
          rootDir: root,
          noEmit: true,
          composite: false,
          incremental: false,
          tsBuildInfoFile: null,
          declarationMap: false,
          // An example declares things to show them.
          noUnusedLocals: false,
          noUnusedParameters: false
        }
      })
    )
    const tsc = join(root, "node_modules", "typescript", "bin", "tsc")
    execFile(process.execPath, [tsc, "-p", directory, "--pretty", "false"], { cwd: directory }, (_, stdout, stderr) =>
      resolve(stdout + stderr))
  })

const readDiagnostics = (output: string) => {
  for (const line of output.split("\n")) {
    const match = /^(.+?)\((\d+),\d+\): (error .*)$/.exec(line)
    const program = programs.find(({ path }) => path === join(directory, match?.[1] ?? ""))
    if (match === null || program === undefined) continue
    const inDocument = `${program.file}:${program.line + Number(match[2]) - 1}: ${match[3]}`
    diagnostics.set(program.path, [...diagnostics.get(program.path) ?? [], inDocument])
  }
}

describe("the examples of the documentation", () => {
  let output = ""
  beforeAll(async () => {
    writePrograms()
    output = await typeCheck()
    readDiagnostics(output)
  })
  afterAll(() => rmSync(directory, { recursive: true }))

  it("are found", () => {
    assert.isAbove(examples.length, 0)
  })

  it("were read by the compiler", () => {
    // Errors in the packages themselves are for the type check of the repository; anything else is a broken set-up.
    const strange = output.split("\n").filter((line) =>
      /error TS\d+/.test(line) && !/^\S.*\(\d+,\d+\): error/.test(line)
    )
    assert.deepStrictEqual(strange, [])
  })

  for (const { isRun, path, title } of programs) {
    it(`${title} ${isRun ? "type checks and runs" : "type checks"}`, { timeout: 20_000 }, async () => {
      assert.deepStrictEqual(diagnostics.get(path) ?? [], [])
      if (isRun) await import(pathToFileURL(path).href)
    })
  }
})

describe("findExamples", () => {
  it("takes the blocks that import a package of ours, from Markdown and from doc comments", () => {
    const block = "```ts\nimport { a } from \"@tidemark/core/A\"\n\na // => 1\n```"
    const code = "import { a } from \"@tidemark/core/A\"\n\na // => 1"
    const markdown = `# x\n\n${block}\n\`\`\`ts\nconst fragment = 1\n\`\`\`\n${block.replace("ts", "ts no-run")}\n${
      block.replace("ts", "sh")
    }\n`
    assert.deepStrictEqual(findExamples("README.md", markdown), [
      { file: "README.md", line: 4, code, isRun: true },
      { file: "README.md", line: 12, code, isRun: false }
    ])
    const source = ["const a = 1", "/**", ...block.split("\n").map((line) => ` * ${line}`), " */"].join("\n")
    assert.deepStrictEqual(findExamples("a.ts", source), [{ file: "a.ts", line: 4, code, isRun: true }])
  })
})

describe("toProgram", () => {
  /** Runs the program of `code`, and says how it failed, if it did. */
  const failureOf = async (code: string): Promise<string | undefined> => {
    const program = toProgram(code, pathToFileURL(assertModule).href)
    try {
      await import(`data:text/javascript,${encodeURIComponent(program)}`)
      return undefined
    } catch (error) {
      return String(error)
    }
  }

  it("keeps the lines where they are", () => {
    const lines = toProgram("const a = 1\n\nif (a) {\n  a // => 1\n}", "m").split("\n")
    assert.include(lines[0], "const a = 1")
    assert.strictEqual(lines[3], "  assertExample((a), (1))")
  })

  it("passes when the values are as promised", async () => {
    const code = [
      "const one = 1 // => 1",
      "const twice = (a) => {",
      "  return a + a // => 2",
      "}",
      "twice(one) // => 2",
      "({ one, list: [2n] }) // => { one: 1, list: [2n] }",
      "await Promise.resolve(new Uint8Array([1])) // => new Uint8Array([1])"
    ]
    assert.isUndefined(await failureOf(code.join("\n")))
  })

  it("fails when a value is another one", async () => {
    for (
      const line of [
        "1 + 1 // => 3",
        "const a = { b: 1n } // => { b: 2n }",
        "(() => {\n  return 1 // => 2\n})()",
        "[1] // => [1, 2]",
        "1; // => \"1\""
      ]
    ) {
      assert.match(await failureOf(line) ?? "", /AssertionError/, line)
    }
  })

  it("refuses a promise without an expression", async () => {
    assert.match(await failureOf("const a = [\n  1\n]\n// => [1]") ?? "", /promises a value/)
  })
})

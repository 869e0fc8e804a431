import { assert, describe, it } from "@effect/vitest"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { checkBoundaries } from "../boundaries.ts"

const manifests = {
  "package.json": { name: "root", devDependencies: { vitest: "*", "@tidemark/core": "*" } },
  "packages/core/package.json": {
    name: "@tidemark/core",
    devDependencies: { effect: "*" },
    peerDependencies: { effect: "*" }
  },
  "packages/platform/package.json": {
    name: "@tidemark/platform",
    dependencies: { "@tidemark/core": "*", "@scope/native": "*" },
    devDependencies: { "only-for-tests": "*" },
    optionalDependencies: { koffi: "*" },
    peerDependencies: { effect: "*" }
  },
  "packages/wal/package.json": {
    name: "@tidemark/wal",
    dependencies: { "@tidemark/core": "*", "@tidemark/platform": "*" },
    peerDependencies: { effect: "*" }
  },
  "examples/package.json": { name: "@tidemark/examples", dependencies: { "@tidemark/wal": "*", effect: "*" } }
}

/** What the check says about a repository of these files, as `file:line: sentence`. */
const violationsOf = (files: Record<string, string>): Array<string> => {
  const root = mkdtempSync(join(tmpdir(), "tidemark-boundaries-"))
  try {
    for (const [file, content] of [...Object.entries(manifests), ...Object.entries(files)]) {
      mkdirSync(join(root, dirname(file)), { recursive: true })
      writeFileSync(join(root, file), typeof content === "string" ? content : JSON.stringify(content))
    }
    return checkBoundaries(root).map(({ file, line, sentence }) => `${file}:${line}: ${sentence}`)
  } finally {
    rmSync(root, { recursive: true })
  }
}

const source = (line: string) => ({ "packages/platform/src/Vfs.ts": `\n${line}\n` })
const at = "packages/platform/src/Vfs.ts:2: "

describe("checkBoundaries", () => {
  it("accepts what is allowed", () => {
    assert.deepStrictEqual(
      violationsOf({
        "vitest.workspace.ts": "import { defineConfig } from \"vitest/config\"",
        "packages/core/src/Lsn.ts": "import * as Schema from \"effect/Schema\"\n// import \"node:fs\"",
        "packages/platform/src/Vfs.ts": [
          "import { Lsn } from \"@tidemark/core/Lsn\"",
          "import native from \"@scope/native\"",
          "import * as fs from \"node:fs\"",
          "import * as TestClock from \"effect/testing/TestClock\"",
          "import { helper } from \"./internal/helper.ts\"",
          "const koffi = await import(\"koffi\")"
        ].join("\n"),
        "packages/platform/src/internal/helper.ts": "import { Vfs } from \"../Vfs.ts\"",
        "packages/platform/dist/Vfs.js": "import \"../../wal/src/Log.ts\"",
        "packages/platform/node_modules/x/index.js": "import \"not-declared\"",
        "packages/platform/test/Vfs.test.ts": [
          "import { it } from \"vitest\"",
          "import { Effect } from \"effect\"",
          "import { x } from \"only-for-tests\"",
          "import * as Vfs from \"@tidemark/platform/Vfs\"",
          "import { helper } from \"../src/internal/helper.ts\"",
          "const computed = await import(name)"
        ].join("\n"),
        "examples/log.ts": "import * as Log from \"@tidemark/wal\"",
        "scripts/test.ts": "import \"./other.ts\"\nimport \"vitest/node\""
      }),
      []
    )
  })

  it("catches an import that goes up the layers", () => {
    const sentence = "goes up: imports go cli -> coordinator -> wal -> platform -> core, never back"
    assert.deepStrictEqual(violationsOf(source("import { Log } from \"@tidemark/wal/Log\"")), [
      `${at}"@tidemark/wal/Log" ${sentence}`
    ])
    assert.deepStrictEqual(violationsOf({ "packages/platform/test/a.test.ts": "import \"@tidemark/cli/main\"" }), [
      `packages/platform/test/a.test.ts:1: "@tidemark/cli/main" ${sentence}`
    ])
  })

  it("catches a reach into the internals of another package", () => {
    assert.deepStrictEqual(violationsOf(source("export * from \"@tidemark/core/internal/bytes\"")), [
      `${at}"@tidemark/core/internal/bytes" is internal to @tidemark/core`
    ])
    assert.deepStrictEqual(violationsOf({ "examples/a.ts": "import \"@tidemark/wal/internal/x\"" }), [
      "examples/a.ts:1: \"@tidemark/wal/internal/x\" is internal to @tidemark/wal"
    ])
  })

  it("catches a relative import that leaves its package", () => {
    assert.deepStrictEqual(violationsOf(source("import \"../../core/src/Lsn.ts\"")), [
      `${at}"../../core/src/Lsn.ts" leaves packages/platform`
    ])
    assert.deepStrictEqual(violationsOf({ "scripts/a.ts": "await import(\"../packages/core/src/Lsn.ts\")" }), [
      "scripts/a.ts:1: \"../packages/core/src/Lsn.ts\" leaves scripts"
    ])
  })

  it("catches a dependency that is not declared", () => {
    assert.deepStrictEqual(violationsOf(source("import { x } from \"@other/thing/x\"")), [
      `${at}"@other/thing" is not a dependency of @tidemark/platform`
    ])
    assert.deepStrictEqual(violationsOf(source("import x from \"only-for-tests\"")), [
      `${at}"only-for-tests" is not a dependency of @tidemark/platform`
    ])
    assert.deepStrictEqual(violationsOf({ "examples/a.ts": "import \"koffi\"" }), [
      "examples/a.ts:1: \"koffi\" is not a dependency of @tidemark/examples"
    ])
  })

  it("catches imports of whole packages", () => {
    const effect = "is imported whole: import the module that is needed, as in \"effect/Effect\""
    assert.deepStrictEqual(violationsOf(source("import { Effect } from \"effect\"")), [`${at}"effect" ${effect}`])
    assert.deepStrictEqual(violationsOf(source("import { TestClock } from \"effect/testing\"")), [
      `${at}"effect/testing" ${effect}`
    ])
    assert.deepStrictEqual(violationsOf(source("import { Lsn } from \"@tidemark/core\"")), [
      `${at}"@tidemark/core" is imported whole: import the module that is needed`
    ])
    assert.deepStrictEqual(violationsOf(source("import { Vfs } from \"@tidemark/platform/Vfs\"")), [
      `${at}"@tidemark/platform/Vfs" is this package: import the file`
    ])
  })

  it("catches relative imports without .ts", () => {
    for (const specifier of ["./VfsError", "./VfsError.js", "."]) {
      assert.deepStrictEqual(violationsOf(source(`import "${specifier}"`)), [`${at}"${specifier}" does not end in .ts`])
    }
  })

  it("catches computed imports in sources", () => {
    assert.deepStrictEqual(violationsOf(source("const x = await import(name)")), [
      `${at}a computed import cannot be checked: name the module in a string`
    ])
  })

  it("catches Node in core, and Node without its prefix", () => {
    assert.deepStrictEqual(violationsOf({ "packages/core/src/a.ts": "import \"node:fs\"" }), [
      "packages/core/src/a.ts:1: \"node:fs\" is I/O, and core does none"
    ])
    assert.deepStrictEqual(violationsOf(source("import \"fs/promises\"")), [
      `${at}"fs/promises" is written "node:fs/promises"`
    ])
  })
})

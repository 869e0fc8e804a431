import { assert, describe, it } from "@effect/vitest"
import { findImports } from "../imports.ts"

const specifiersOf = (source: string) => findImports(source).map(({ specifier }) => specifier)

describe("findImports", () => {
  it("finds every form of import", () => {
    assert.deepStrictEqual(
      specifiersOf([
        "import \"side-effect\"",
        "import a from 'default'",
        "import * as b from \"namespace\"",
        "import type { C } from \"types\"",
        "import d, { type E, f as g } from \"mixed\"",
        "import {",
        "  h",
        "}",
        "from",
        "\"lines\"",
        "import data from \"./data.json\" with { type: \"json\" }",
        "export * from \"star\"",
        "export * as ns from \"star-as\"",
        "export { default as i } from \"named\"",
        "export type { J } from \"export-types\"",
        "const k = await import(\"dynamic\")",
        "const l = await import(`template`)",
        "const m: import(\"import-type\").M = require('required')",
        "const n = require.resolve(\"resolved\")"
      ].join("\n")),
      [
        "side-effect",
        "default",
        "namespace",
        "types",
        "mixed",
        "lines",
        "./data.json",
        "star",
        "star-as",
        "named",
        "export-types",
        "dynamic",
        "template",
        "import-type",
        "required",
        "resolved"
      ]
    )
  })

  it("reports a computed import as one without specifier", () => {
    assert.deepStrictEqual(findImports("\nvoid import(`./${name}.ts`)\nvoid import(\"a\" + b)"), [
      { specifier: undefined, line: 2 },
      { specifier: undefined, line: 3 }
    ])
  })

  it("is not fooled by comments, strings, templates and regular expressions", () => {
    const source = [
      "#!/usr/bin/env import(\"shebang\")",
      "// import \"line\"",
      "/* import \"block\"",
      " * import(\"block\") */",
      "const a = \"import 'string'\" + 'it\\'s import(\"string\")'",
      "const b = `import \"template\" ${`${import(\"real-1\")} import(\"inner\")`} export * from \"template\"`",
      "const c = /import(\"regexp\")[/\"]/.test(`'`) || [/\"/, /'/, /`/]",
      "const d = (a) / 2 / b[0] / 3; const e = `'`",
      "const f = { import: \"key\", export: \"key\", require: \"key\" }, from = \"word\"",
      "f.import(\"method\"), f.require(\"method\"), import.meta.resolve(\"meta\")",
      "export const g = from, h = \"x\"",
      "import(\"real-2\")"
    ].join("\n")
    assert.deepStrictEqual(findImports(source), [{ specifier: "real-1", line: 6 }, { specifier: "real-2", line: 12 }])
  })

  it("tells regular expressions from divisions", () => {
    for (const before of ["", "if (a) ", "while (f(a)) ", "if (a) { }\n", "return ", "a = ", "[", "(", "`${"]) {
      assert.deepStrictEqual(specifiersOf(`${before}/\`/\nimport("real")`), ["real"], before)
      assert.deepStrictEqual(specifiersOf(`${before}/import("no")/`), [], before)
    }
    for (const before of ["a ", "1 ", "f(a) ", "a[0] ", "({ }) ", "{ } ", "'a' ", "`a` ", "`${a}` "]) {
      assert.deepStrictEqual(specifiersOf(`${before}/ import("real") / 2`), ["real"], before)
    }
  })

  it("reads escapes, and gives the line of the specifier", () => {
    assert.deepStrictEqual(findImports("/*\n*/ import { a,\n b } from \"\\x61\\u{62}\\u0063\\/d\""), [
      { specifier: "abc/d", line: 3 }
    ])
  })

  it("ends on sources that are cut off", () => {
    for (
      const source of ["import", "import {", "\"", "'a\\", "`a", "`${", "/*", "//", "import(", "/", "export * from"]
    ) {
      assert.deepStrictEqual(findImports(source).filter(({ specifier }) => specifier !== undefined), [], source)
    }
  })
})

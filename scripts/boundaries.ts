/**
 * The rules about who may import what in this repository.
 *
 * 1. Imports go one way: `core <- platform <- wal <- coordinator <- cli`.
 * 2. No package reaches into the `internal/` of another.
 * 3. A relative import stays in its package and ends in `.ts`.
 * 4. Only declared dependencies are imported: in `src` those that a user of the package has too, elsewhere also
 *    development dependencies, and in tests those of the root.
 * 5. In `src`, Effect and our packages are imported by module (`effect/Effect`, `@tidemark/core/Scalars`), never whole,
 *    and every specifier can be read.
 * 6. `core` does no I/O: it imports nothing of Node.
 */
import { existsSync, globSync, readFileSync } from "node:fs"
import { isBuiltin } from "node:module"
import { dirname, join, relative, sep } from "node:path"
import { findImports, type Import } from "./imports.ts"

/** The packages in the order of their layers: each may import those before it. */
export const layers: ReadonlyArray<string> = ["core", "platform", "wal", "coordinator", "cli"]

const scope = "@tidemark/"

/** A directory that owns its files and names its dependencies. */
interface Unit {
  readonly directory: string
  readonly name: string
  /** What users of the package have. */
  readonly runtime: ReadonlySet<string>
  /** What is there in this repository, too. */
  readonly all: ReadonlySet<string>
}

export interface Violation {
  readonly file: string
  readonly line: number
  readonly sentence: string
}

type Manifest = Readonly<Record<string, unknown>>

const keysOf = (manifest: Manifest, field: string): Array<string> => {
  const value = manifest[field]
  return typeof value === "object" && value !== null ? Object.keys(value) : []
}

const readUnit = (root: string, directory: string): Unit => {
  // JSON.parse is typed `any`; a manifest is an object, and each field is checked when it is read.
  const manifest = JSON.parse(readFileSync(join(root, directory, "package.json"), "utf8")) as Manifest
  const runtime = ["dependencies", "peerDependencies", "optionalDependencies"].flatMap((field) =>
    keysOf(manifest, field)
  )
  return {
    directory,
    name: typeof manifest["name"] === "string" ? manifest["name"] : directory,
    runtime: new Set(runtime),
    all: new Set([...runtime, ...keysOf(manifest, "devDependencies")])
  }
}

/** `@scope/name/sub/path` -> `@scope/name` and `sub/path`. */
const splitSpecifier = (specifier: string): readonly [name: string, subpath: string] => {
  const parts = specifier.split("/")
  const length = specifier.startsWith("@") ? 2 : 1
  return [parts.slice(0, length).join("/"), parts.slice(length).join("/")]
}

const checkRelative = (unit: Unit, file: string, specifier: string): string | undefined => {
  const target = relative(unit.directory, join(dirname(file), specifier))
  if (target === ".." || target.startsWith(`..${sep}`)) {
    return `"${specifier}" leaves ${unit.directory || "the repository"}`
  }
  if (!specifier.endsWith(".ts")) return `"${specifier}" does not end in .ts`
  return undefined
}

const checkSibling = (unit: Unit, inSource: boolean, specifier: string): string | undefined => {
  const [name, subpath] = splitSpecifier(specifier)
  if (name !== unit.name && subpath.split("/").includes("internal")) return `"${specifier}" is internal to ${name}`
  const target = layers.indexOf(name.slice(scope.length))
  const own = layers.indexOf(unit.name.slice(scope.length))
  if (target >= 0 && own >= 0 && target > own) {
    return `"${specifier}" goes up: imports go ${layers.slice().reverse().join(" -> ")}, never back`
  }
  if (inSource && name === unit.name) return `"${specifier}" is this package: import the file`
  if (inSource && subpath === "") return `"${specifier}" is imported whole: import the module that is needed`
  return undefined
}

const checkImport = (
  unit: Unit,
  root: Unit,
  file: string,
  specifier: Import["specifier"]
): string | undefined => {
  const inPackage = layers.includes(unit.name.slice(scope.length))
  const inSource = inPackage && file.startsWith(join(unit.directory, "src") + sep)
  if (specifier === undefined) {
    return inSource ? "a computed import cannot be checked: name the module in a string" : undefined
  }
  if (specifier.startsWith(".")) return checkRelative(unit, file, specifier)
  if (isBuiltin(specifier)) {
    if (!specifier.startsWith("node:")) return `"${specifier}" is written "node:${specifier}"`
    return inSource && unit.name === `${scope}core` ? `"${specifier}" is I/O, and core does none` : undefined
  }
  const [name, subpath] = splitSpecifier(specifier)
  if (name.startsWith(scope)) {
    const sentence = checkSibling(unit, inSource, specifier)
    if (sentence !== undefined) return sentence
  }
  const isDeclared = name === unit.name ||
    (inSource ? unit.runtime.has(name) : unit.all.has(name) || root.all.has(name))
  if (!isDeclared) return `"${name}" is not a dependency of ${unit.name}`
  // Modules are in PascalCase; `effect` itself and its areas (`effect/testing`) are barrels.
  if (inSource && name === "effect" && !/(?:^|\/)[A-Z]\w*$/.test(subpath)) {
    return `"${specifier}" is imported whole: import the module that is needed, as in "effect/Effect"`
  }
  return undefined
}

/** What breaks the rules above in the sources, tests, examples, benchmarks and scripts below `rootDirectory`. */
export const checkBoundaries = (rootDirectory: string): Array<Violation> => {
  const root = readUnit(rootDirectory, "")
  const units = globSync(["packages/*/package.json", "examples/package.json", "benchmarks/package.json"], {
    cwd: rootDirectory
  }).map((manifest) => readUnit(rootDirectory, dirname(manifest)))
  // Scripts are part of the root's package, but a directory that stands by itself.
  if (existsSync(join(rootDirectory, "scripts"))) units.push({ ...root, directory: "scripts" })

  const violations: Array<Violation> = []
  const check = (unit: Unit, file: string) => {
    for (const { line, specifier } of findImports(readFileSync(join(rootDirectory, file), "utf8"))) {
      const sentence = checkImport(unit, root, file, specifier)
      if (sentence !== undefined) violations.push({ file, line, sentence })
    }
  }
  for (const file of globSync("*.ts", { cwd: rootDirectory }).sort()) check(root, file)
  for (const unit of units) {
    const files = globSync("**/*.{ts,mts,mjs,js}", {
      cwd: join(rootDirectory, unit.directory),
      exclude: (path) => /(?:^|\/)(?:node_modules|dist|\.tsbuildinfo)(?:\/|$)/.test(path.replaceAll(sep, "/"))
    })
    for (const file of files.sort()) check(unit, join(unit.directory, file))
  }
  return violations
}

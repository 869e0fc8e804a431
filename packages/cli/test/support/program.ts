/**
 * Runs the real program as a child process, on real files.
 */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

export const mainPath = fileURLToPath(new URL("../../src/main.ts", import.meta.url))

/** Half of the time of a short run is spent on reading the sources. */
const compileCache = fileURLToPath(new URL("../../../../node_modules/.cache/tidemark-cli-tests", import.meta.url))

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs any command to its end. */
export const runCommand = (
  command: string,
  args: ReadonlyArray<string>,
  options: {
    readonly env?: Record<string, string>
    readonly uid?: number
    readonly onOutput?: (process: { kill(): void }) => void
    /** What the command can read on standard input. Default: nothing. */
    readonly input?: string
  } = {}
): Effect.Effect<Ended> =>
  Effect.promise(() =>
    new Promise<Ended>((resolve, reject) => {
      const child = spawn(command, args, {
        env: { ...process.env, NODE_COMPILE_CACHE: compileCache, ...options.env },
        stdio: ["pipe", "pipe", "pipe"],
        ...(options.uid === undefined ? {} : { uid: options.uid })
      })
      let stdout = ""
      let stderr = ""
      const notify = () => options.onOutput?.({ kill: () => child.kill("SIGINT") })
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        stdout += text
        notify()
      })
      child.stderr.setEncoding("utf8").on("data", (text: string) => {
        stderr += text
        notify()
      })
      // A command that ends without having read all of it is no failure.
      child.stdin.on("error", () => {})
      child.stdin.end(options.input ?? "")
      child.on("error", reject)
      child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }))
    })
  )

/** Runs `tidemark` with arguments. */
export const tidemark = (...args: ReadonlyArray<string>): Effect.Effect<Ended> =>
  Effect.tap(runCommand(process.execPath, [mainPath, ...args]), (ended) => Effect.sync(() => assertNoStack(ended)))

/** No line looks like the frame of a stack trace, whatever happened. */
export const assertNoStack = ({ stderr, stdout }: Ended) => {
  for (const line of `${stdout}\n${stderr}`.split("\n")) {
    assert.notMatch(line, /^\s+at .+[:(]\S*\d+:\d+\)?$/)
  }
}

export type Document = Readonly<Record<string, unknown>>

const asDocument = (value: unknown): Document => {
  assert(typeof value === "object" && value !== null && !Array.isArray(value), "an object")
  return { ...value }
}

/** The one document on standard output. */
export const documentOf = ({ stdout }: Ended): Document => {
  const value: unknown = JSON.parse(stdout)
  return asDocument(value)
}

export const objectIn = (document: Document, key: string): Document => asDocument(document[key])

export const objectsIn = (document: Document, key: string): ReadonlyArray<Document> => {
  const values: unknown = document[key]
  assert(Array.isArray(values), `${key} is an array`)
  return values.map(asDocument)
}

/** What an operation that failed looks like: code 3, one sentence, an error document with `--json`. */
export const assertFailed = (ended: Ended, tag: string, sentence: RegExp) => {
  assert.strictEqual(ended.code, 3, ended.stderr)
  assertOneSentence(ended, sentence)
  if (ended.stdout !== "") {
    assert.deepInclude(objectIn(documentOf(ended), "error"), { tag })
  }
}

/** What wrong usage looks like: code 2, one sentence, nothing on standard output. */
export const assertWrongUsage = (ended: Ended, sentence: RegExp) => {
  assert.strictEqual(ended.code, 2, ended.stderr)
  assert.strictEqual(ended.stdout, "")
  assertOneSentence(ended, sentence)
}

const assertOneSentence = ({ stderr }: Ended, sentence: RegExp) => {
  const lines = stderr.trimEnd().split("\n").filter((line) => !/ {2}\(\d+ s\)$/.test(line))
  assert.strictEqual(lines.length, 1, stderr)
  assert.match(stderr, /^tidemark: /)
  assert.match(stderr, sentence)
}

/** A directory that is gone at the end of the test. */
export const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-cli-test-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

const hashOf = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex")

/** Everything that could have changed in a directory: names, contents, times of change. */
export const contentsOf = (directory: string): Record<string, string> => {
  const contents: Record<string, string> = {}
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    const { mtimeNs, size } = statSync(path, { bigint: true })
    contents[path] = `${size} ${mtimeNs} ${entry.isFile() ? hashOf(path) : "directory"}`
  }
  return contents
}

/** Runs the program and checks that it has changed nothing in a directory. */
export const unchanged = (directory: string, ...args: ReadonlyArray<string>): Effect.Effect<Ended> =>
  Effect.gen(function*() {
    const before = contentsOf(directory)
    const ended = yield* tidemark(...args)
    assert.deepStrictEqual(contentsOf(directory), before)
    return ended
  })

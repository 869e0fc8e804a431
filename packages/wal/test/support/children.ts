/** Programs of the tests as processes of their own: real locks, real kills. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

export interface Child {
  readonly pid: number
  readonly lines: ReadonlyArray<string>
  /** Waits until the output, line by line, satisfies the condition; dies when the process ends before. */
  readonly until: (isMet: (lines: ReadonlyArray<string>) => boolean) => Effect.Effect<void>
  readonly kill: Effect.Effect<void>
  readonly exit: Effect.Effect<number | null>
}

/** Starts a program of `test/programs`. It is killed when the scope closes. */
export const startProgram = (
  name: string,
  args: ReadonlyArray<string>
): Effect.Effect<Child, never, Scope.Scope> =>
  Effect.gen(function*() {
    const program = join(import.meta.dirname, "..", "programs", name)
    const child = spawn(process.execPath, [program, ...args], { stdio: ["ignore", "pipe", "inherit"] })
    const exited = once(child, "exit").then(([code]) => typeof code === "number" ? code : null)
    yield* Effect.addFinalizer(() =>
      Effect.promise(() => {
        child.kill("SIGKILL")
        return exited
      })
    )
    const lines: Array<string> = []
    const watchers = new Set<() => void>()
    let partial = ""
    let hasEnded = false
    const notify = () => {
      for (const watcher of watchers) watcher()
    }
    child.stdout.on("data", (data: Buffer) => {
      const parts = (partial + data.toString()).split("\n")
      partial = parts.pop() ?? ""
      lines.push(...parts)
      notify()
    })
    child.stdout.on("close", () => {
      hasEnded = true
      notify()
    })
    return {
      pid: child.pid ?? 0,
      lines,
      until: (isMet) =>
        Effect.callback((resume) => {
          const look = () => {
            if (isMet(lines)) resume(Effect.void)
            else if (hasEnded) resume(Effect.die(new Error(`${name} ended after: ${lines.join(", ")}`)))
            else return
            watchers.delete(look)
          }
          watchers.add(look)
          look()
        }),
      kill: Effect.promise(() => {
        child.kill("SIGKILL")
        return exited
      }),
      exit: Effect.promise(() => exited)
    }
  })

/** A directory that is removed with the scope. */
export const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "tidemark-wal-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

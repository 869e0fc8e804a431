/** Headers in mapped files, several per process, and programs of the tests as processes of their own. */
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { SharedMemory } from "@tidemark/platform/SharedMemory"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { pageSize } from "./headerStates.ts"

/** This machine, without its log. */
export const machine = Layer.mergeAll(NodeVfs.layer, SharedMemory.layerFile, Logger.layer([]))

/** The header of a database, mapped until the scope closes. */
export const openHeader = (database: string) =>
  Effect.map(
    Layer.build(SharedHeader.layer({ database, pageSize })),
    (context) => Context.get(context, SharedHeader.SharedHeader)
  )

/** The database with that number in a directory. */
export const databaseAt = (directory: string, index: number) => join(directory, `db-${index}`)

export interface Program {
  readonly pid: number
  /** The next line of its output; dies when it ended before. */
  readonly line: Effect.Effect<string>
  /** Gives it a line. */
  readonly tell: (line: string) => void
  readonly kill: Effect.Effect<void>
  /** Its exit code, once it has ended. */
  readonly exit: Effect.Effect<number | null>
}

/** Starts a program of `test/programs`. It is killed when the scope closes. */
export const startProgram = Effect.fnUntraced(function*(
  name: string,
  args: ReadonlyArray<string>,
  /** For the engine. */
  flags: ReadonlyArray<string> = []
) {
  const path = join(import.meta.dirname, "..", "programs", name)
  const child = spawn(process.execPath, [...flags, path, ...args], { stdio: ["pipe", "pipe", "inherit"] })
  const exited = once(child, "exit").then(([code]) => typeof code === "number" ? code : null)
  const kill = Effect.promise(async () => {
    child.kill("SIGKILL")
    await exited
  })
  yield* Effect.addFinalizer(() => kill)
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]()
  const program: Program = {
    pid: child.pid ?? 0,
    line: Effect.promise(async () => {
      const next = await lines.next()
      if (next.done === true) throw new Error(`${name} ended before its next line`)
      return next.value
    }),
    tell: (line) => {
      child.stdin.write(`${line}\n`)
    },
    kill,
    exit: Effect.promise(() => exited)
  }
  return program
})

/**
 * A directory for the files of one run, which is gone at the end of it, also of one that is interrupted.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as NodeFs from "node:fs/promises"
import { tmpdir } from "node:os"
import { OperationFailed } from "./ExitCode.ts"
import { reasonOf } from "./Report.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface WorkDirectory {
  readonly path: string
  /** The files lie in memory, where a sync costs nothing. */
  readonly isInMemory: boolean
  /** Removes everything but a database and its own directory, and keeps the rest when the scope closes. */
  readonly keepOnly: (database: string) => Effect.Effect<void, OperationFailed>
}

const call = <A>(path: string, what: string, promise: () => Promise<A>): Effect.Effect<A, OperationFailed> =>
  Effect.tryPromise({
    try: promise,
    catch: (cause) => new OperationFailed({ path, sentence: `cannot ${what} ${path}: ${reasonOf(cause)}` })
  })

/** One level, not its parents: Node's recursive way never ends where a file system refuses with ENOENT (seen in /proc). */
const makeIfMissing = (path: string): Effect.Effect<boolean, OperationFailed> =>
  call(path, "make the directory", async () => {
    const stats = await NodeFs.stat(path).catch(() => undefined)
    if (stats?.isDirectory() === true) return false
    await NodeFs.mkdir(path)
    return true
  })

/**
 * Makes the directory `tidemark-<command>-*` in `parent`, or in the one for temporary files when that is `undefined`.
 * With its scope it goes, and so does what had to be made for it.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeWorkDirectory = Effect.fnUntraced(function*(
  parent: string | undefined,
  command: string
): Effect.fn.Return<WorkDirectory, OperationFailed, Scope.Scope> {
  const within = parent ?? tmpdir()
  let isKept = false
  const remove = (path: string) =>
    Effect.catch(
      call(path, "remove", () => NodeFs.rm(path, { recursive: true, force: true })),
      (error) => Effect.logWarning(error.message)
    )
  const removeUnlessKept = (path: string) => Effect.suspend(() => isKept ? Effect.void : remove(path))
  yield* Effect.acquireRelease(
    makeIfMissing(within),
    (isMade) => isMade ? removeUnlessKept(within) : Effect.void
  )
  const path = yield* Effect.acquireRelease(
    call(within, "make a directory in", () => NodeFs.mkdtemp(`${within}/tidemark-${command}-`)),
    removeUnlessKept
  )
  const { type } = yield* call(path, "look at the file system of", () => NodeFs.statfs(path))
  return {
    path,
    isInMemory: memoryFileSystems.has(type),
    keepOnly: Effect.fnUntraced(function*(database: string) {
      const names = yield* call(path, "list", () => NodeFs.readdir(path))
      for (const name of names) if (!name.startsWith(database)) yield* remove(`${path}/${name}`)
      isKept = true
    })
  }
})

/** The magic numbers of tmpfs and ramfs on Linux. */
const memoryFileSystems: ReadonlySet<number> = new Set([0x01021994, 0x858458f6])
